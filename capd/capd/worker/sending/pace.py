"""When frames may go: at their time, and no faster than a rule allows. Pure: times come in, times go out."""

import numpy as np
import numpy.typing as npt

#: How much of what a process was too late for it may make up for at once. Chosen: a busy machine keeps it waiting for
#: less, so that what is sent in a second is what the rule allows; and nobody saves up for a burst.
MAX_CATCH_UP_NS = 50_000_000


class Pace:
    """The times of one client's frames, one behind the other; absolute ones, so that no error adds up."""

    def __init__(self, max_pps: int | None) -> None:
        """Nothing is sent yet; None: there is no rate to hold to."""
        self._gap_ns = None if max_pps is None else 1e9 / max_pps
        #: When the rate lets the next one go.
        self._next_ns = -float("inf")

    def releases(self, count: int, due_ns: npt.NDArray[np.int64] | None, now_ns: int) -> npt.NDArray[np.int64] | None:
        """Return when each of the next frames may go; None: now.

        Args:
            count: so many frames.
            due_ns: when they are to go; None: as soon as possible.
            now_ns: the time.
        """
        if self._gap_ns is None:
            return None if due_ns is None else _in_order(due_ns)
        due = np.full(count, now_ns, np.int64) if due_ns is None else due_ns
        # Each goes at its time, and no sooner than a gap behind the one before. Counted from now, floats are exact to
        # the nanosecond.
        steps = np.arange(count) * self._gap_ns
        earliest = max(self._next_ns, now_ns - MAX_CATCH_UP_NS) - now_ns
        spaced = np.maximum.accumulate(np.maximum(due - now_ns, earliest) - steps) + steps
        if count:
            self._next_ns = now_ns + float(spaced[-1]) + self._gap_ns
        releases: npt.NDArray[np.int64] = now_ns + np.ceil(spaced).astype(np.int64)
        return releases


def _in_order(times_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return times of which none is before the one in front of it: frames stay in their order."""
    ordered: npt.NDArray[np.int64] = np.maximum.accumulate(times_ns)
    return ordered
