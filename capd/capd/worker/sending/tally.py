"""What has become of frames, for reports: counts, and by how much they were late. Pure."""

import math

import numpy as np
import numpy.typing as npt

from capd_protocol.sending import Lateness, Reason, Refusal, Report

#: A latency is counted in one of so many parts of its power of two, which are 1 to 2 % wide.
_PARTS = 64
_POWERS = 64


class _Latenesses:
    """How often each lateness has come, in a table that does not grow."""

    def __init__(self) -> None:
        self._counts = np.zeros(_PARTS * _POWERS, np.int64)
        self._max_ns = 0

    def add(self, late_ns: npt.NDArray[np.int64]) -> None:
        late_ns = _at_least_one(late_ns)
        parts: tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]] = np.frexp(late_ns.astype(np.float64))
        fractions, powers = parts  # fractions from 0.5 to 1
        places = powers * _PARTS + ((fractions - 0.5) * 2 * _PARTS).astype(np.int64)
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._max_ns = max(self._max_ns, int(late_ns.max()))

    def summary(self) -> Lateness | None:
        sums = np.cumsum(self._counts)
        if not sums[-1]:
            return None
        return Lateness(median_ns=self._at(sums, 0.5), p99_ns=self._at(sums, 0.99), max_ns=self._max_ns)

    def _at(self, sums: npt.NDArray[np.int64], share: float) -> int:
        """Return what so large a share is not above: the upper end of its part."""
        below: npt.NDArray[np.bool_] = sums < share * int(sums[-1])
        power, part = divmod(int(below.sum()), _PARTS)
        return min(int(math.ldexp(0.5 + (part + 1) / (2 * _PARTS), power)), self._max_ns)


def _at_least_one(late_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    # What was sent in the nanosecond in which it was due has no power of two.
    raised: npt.NDArray[np.int64] = np.maximum(late_ns, 1)
    return raised


class Tally:
    """What has been sent and refused since the last report, and since the beginning."""

    def __init__(self) -> None:
        self.sent_total = 0
        self.refused_total = 0
        self._begin()

    def _begin(self) -> None:
        self._seen = self._sent = self._sent_bytes = 0
        self._refusals: dict[Reason, Refusal] = {}
        self._late = _Latenesses()
        self._first_ns: int | None = None
        self._last_ns = 0

    def see(self, count: int) -> None:
        """Take note of a batch whose frames were sent or refused; those of the next one are counted from there."""
        self._seen += count

    def refuse(self, reason: Reason, count: int, first: int) -> None:
        """Take note of frames that are not sent.

        Args:
            reason: why.
            count: how many.
            first: place of the first one in its batch.
        """
        self.refused_total += count
        known = self._refusals.get(reason)
        frames, index = (count, self._seen + first) if known is None else (known.frames + count, known.first_index)
        self._refusals[reason] = Refusal(reason=reason, frames=frames, first_index=index)

    def send(self, count: int, size_bytes: int, begin_ns: int, end_ns: int) -> None:
        """Take note of frames that were sent between two times."""
        self.sent_total += count
        self._sent += count
        self._sent_bytes += size_bytes
        if self._first_ns is None:
            self._first_ns = begin_ns
        self._last_ns = end_ns

    def be_late(self, late_ns: npt.NDArray[np.int64]) -> None:
        """Take note of by how much frames that were sent were late."""
        self._late.add(late_ns)

    def report(self, number: int | None, *, is_last: bool) -> Report:
        """Return a report; if it is the last one about these frames, begin anew."""
        report = Report(
            number=number,
            sent=self._sent,
            sent_bytes=self._sent_bytes,
            refusals=tuple(sorted(self._refusals.values(), key=lambda each: each.first_index)),
            lateness=self._late.summary(),
            duration_ns=0 if self._first_ns is None else self._last_ns - self._first_ns,
        )
        if is_last:
            self._begin()
        return report
