"""Several capture files in the order of their packets' times, as mergecap merges them."""

from collections.abc import Iterator, Sequence

import numpy as np

from capd_client.reading.reader import Reader
from capd_client.writing.parts import Part, origin_of
from capd_protocol.batches.model import Batch
from capd_protocol.batches.record_offsets import I64


class _Source:
    """A file, and its next packets."""

    def __init__(self, number: int, reader: Reader) -> None:
        self.number = number
        self._reader = reader
        self._batches = reader.batches()
        self._latest_ns = -(2**63)
        self.batch: Batch | None = None
        #: When each packet can be written at the earliest: none is before one that stands before it in its file.
        self.due_ns: I64 = np.empty(0, np.int64)
        self.advance()

    def advance(self) -> None:
        """Go on to the next packets; there are none where ``batch`` is None."""
        self.batch = next((each for each in self._batches if len(each.timestamps_ns)), None)
        if self.batch is not None:
            self.due_ns = np.maximum(np.maximum.accumulate(self.batch.timestamps_ns), self._latest_ns)
            self._latest_ns = int(self.due_ns[-1])

    def take(self, count: int) -> Part | None:
        """Return the next so many packets, if there are any."""
        if self.batch is None or not count:
            return None
        interfaces = self._reader.interfaces
        part = Part(self.number, self.batch.chosen(slice(count)), interfaces, origin_of(interfaces))
        if count == len(self.due_ns):
            self.advance()
        else:
            self.batch, self.due_ns = self.batch.chosen(slice(count, None)), self.due_ns[count:]
        return part


def merged(readers: Sequence[Reader]) -> Iterator[tuple[list[Part], I64]]:
    """Give packets of several files, and their order among those that are given together.

    The next packet is always the earliest of those that are next in their files; of equal ones that of the last
    file.
    A file in which times go back keeps its own order, as with mergecap.
    """
    # The last one first: so it is with equal times.
    sources = [_Source(number, reader) for number, reader in enumerate(readers)][::-1]
    while waiting := [each for each in sources if each.batch is not None]:
        # All that is due before one of them has given its last packet that is known.
        first = min(waiting, key=lambda each: (int(each.due_ns[-1]), -each.number))
        limit_ns = int(first.due_ns[-1])
        parts: list[Part] = []
        due: list[I64] = []
        for source in waiting:
            count = int(np.searchsorted(source.due_ns, limit_ns, "right" if source.number >= first.number else "left"))
            due.append(source.due_ns[:count])
            part = source.take(count)
            if part is not None:
                parts.append(part)
        yield parts, np.argsort(np.concatenate(due), kind="stable")
