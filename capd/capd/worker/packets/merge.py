"""K-way merge of packet rings by timestamp, with a watermark for late packets.

Each ring gives its blocks in time order, but the rings are not in step: one shows a block as soon as it is full,
another only when the kernel's timer closes it. So a record waits until no earlier one can come: until its ring's
later blocks, and the others', have been seen, or the time has passed in which the kernel must have closed them.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from capd.worker.packets.arrays import I64, U64
from capd.worker.packets.records import Records

#: How far a timestamp may lie behind one that entered its ring before it: packets are stamped before they
#: queue for the ring, and the processor that carries one may be busy with another thing in between.
JITTER_NS = 2_000_000
#: The same where nobody is in a hurry: on two busy processors 2 ms were not always enough.
RELAXED_JITTER_NS = 10_000_000
#: A timestamp so far in the future shows that the clock was set back. Chosen: far beyond what two readings of one
#: clock can differ by.
_SET_BACK_NS = 1_000_000_000


@dataclass(slots=True)
class Waiting:
    """A block's records, as far as they are not written, and what gives the block back."""

    records: Records
    release: Callable[[], None]
    done: int = 0
    #: Where nothing else comes, they are written in the order in which they came.
    keeps_order: bool = False


@dataclass(slots=True)
class Slice:
    """Records in time order, and the number of the interface that they came by: of all of them, or of each."""

    vectors: U64
    timestamps_ns: U64
    interface_ids: int | I64

    def part(self, start: int, end: int) -> "Slice":
        """Return some of them."""
        ids = self.interface_ids if isinstance(self.interface_ids, int) else self.interface_ids[start:end]
        return Slice(self.vectors[start:end], self.timestamps_ns[start:end], ids)


class WatermarkMerge:
    """What has come from the rings and is not written yet. Its bound is the rings' own memory."""

    def __init__(self, hold_ns: int, jitter_ns: int = JITTER_NS) -> None:
        """Begin without rings.

        Args:
            hold_ns: a packet older than this is in a block that the kernel has closed.
            jitter_ns: how far a timestamp may lie behind one that entered its ring before it.
        """
        self._hold_ns = hold_ns
        self._jitter_ns = jitter_ns
        self._waiting: list[deque[Waiting]] = []
        self._seen_ns: list[int] = []

    def add_ring(self) -> None:
        """Take in one ring more; rings are numbered from 0."""
        self._waiting.append(deque())
        self._seen_ns.append(0)

    def add(self, ring: int, waiting: Waiting) -> None:
        """Take a block's records."""
        records = waiting.records
        is_alone = waiting.keeps_order and len(self._waiting) == 1
        if not is_alone and (records.timestamps_ns[1:] < records.timestamps_ns[:-1]).any():
            order = np.argsort(records.timestamps_ns, kind="stable")
            records.vectors, records.timestamps_ns = records.vectors.take(order, 0), records.timestamps_ns[order]
            if not isinstance(records.interface_ids, int):
                records.interface_ids = records.interface_ids[order]
        self._waiting[ring].append(waiting)
        self._seen_ns[ring] = int(waiting.records.timestamps_ns[-1])

    def is_waiting(self, ring: int | None = None) -> bool:
        """Whether anything is held back, of any ring or of one."""
        return any(self._waiting) if ring is None else bool(self._waiting[ring])

    def wait_s(self, now_ns: int) -> float:
        """In how many seconds the oldest record that waits can be taken at the latest."""
        oldest_ns = min(int(blocks[0].records.timestamps_ns[blocks[0].done]) for blocks in self._waiting if blocks)
        return (
            min(max(oldest_ns + self._hold_ns + self._jitter_ns - now_ns, 500_000), self._hold_ns + self._jitter_ns)
            / 1e9
        )

    def take(
        self, caught_up_ns: Sequence[int], ended: Sequence[bool], now_ns: int | None = None
    ) -> tuple[Slice, list[Waiting]] | None:
        """Return what may be written now, and the blocks to release afterwards, or None. Of a single ring: one block.

        Args:
            caught_up_ns: for each ring, a time at which all its closed blocks had been added, by the clock that
                stamps packets. Not the present: after a stall, many closed blocks wait in the rings.
            ended: for each ring, whether no more can come from it.
            now_ns: the present, by the same clock; None: the latest of these times.
        """
        if len(self._waiting) == 1:
            return self._take_of_one_ring()
        now_ns = max(caught_up_ns, default=0) if now_ns is None else now_ns
        horizons = [
            max(seen_ns if seen_ns <= now_ns + _SET_BACK_NS else 0, known_ns - self._hold_ns)
            for seen_ns, known_ns, end in zip(self._seen_ns, caught_up_ns, ended, strict=True)
            if not end
        ]
        horizon_ns = min(horizons) - self._jitter_ns if horizons else 2**63
        horizon = np.uint64(max(horizon_ns, 0))
        # The clock that stamps packets has been set back: what is from its future waits for nothing.
        future_ns = now_ns + _SET_BACK_NS if horizons else 2**63
        parts: list[Slice] = []
        finished: list[Waiting] = []
        for blocks in self._waiting:
            for waiting in blocks:
                timestamps_ns = waiting.records.timestamps_ns
                latest_ns = int(timestamps_ns[-1])
                if latest_ns <= horizon_ns or latest_ns > future_ns:
                    ready = len(timestamps_ns)
                else:
                    ready = int(timestamps_ns.searchsorted(horizon, "right"))
                if ready > waiting.done:
                    parts.append(_all_of(waiting).part(waiting.done, ready))
                    waiting.done = ready
                if horizon_ns + self._jitter_ns < latest_ns <= future_ns:
                    break  # nothing in later blocks is ready either
            while blocks and blocks[0].done == len(blocks[0].records.timestamps_ns):
                finished.append(blocks.popleft())
        if not parts:
            return None
        if len(parts) == 1:
            return parts[0], finished
        timestamps_ns = np.concatenate([part.timestamps_ns for part in parts])
        order = np.argsort(timestamps_ns, kind="stable")
        # Rows are taken in a tenth of the time that indexing needs.
        vectors = np.concatenate([part.vectors for part in parts]).take(order, 0)
        ids = np.concatenate([np.broadcast_to(part.interface_ids, len(part.timestamps_ns)) for part in parts])
        return Slice(vectors, timestamps_ns[order], ids[order]), finished

    def _take_of_one_ring(self) -> tuple[Slice, list[Waiting]] | None:
        """Without another ring there is nothing to wait for."""
        (blocks,) = self._waiting
        if not blocks:
            return None
        waiting = blocks.popleft()
        rest = _all_of(waiting)
        return rest.part(waiting.done, len(rest.timestamps_ns)) if waiting.done else rest, [waiting]


def _all_of(waiting: Waiting) -> Slice:
    records = waiting.records
    return Slice(records.vectors, records.timestamps_ns, records.interface_ids)
