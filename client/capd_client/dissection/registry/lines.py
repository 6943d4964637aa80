"""Lines that are sorted by what stands before their first tab, in memory that need not be read as a whole. Pure."""

from collections.abc import Iterator
from typing import Final, Protocol


class Memory(Protocol):
    """Bytes, or a file that is mapped."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def __getitem__(self, place: slice, /) -> bytes:
        """Return some."""
        ...

    def find(self, sub: bytes, start: int = ..., end: int = ..., /) -> int:
        """Return where something is first."""
        ...

    def rfind(self, sub: bytes, start: int = ..., end: int = ..., /) -> int:
        """Return where something is last."""
        ...


_TAB: Final = b"\t"


class SortedLines:
    """Lines that are found by bisection: each look-up reads some twenty of them."""

    def __init__(self, memory: Memory, start: int = 0, end: int | None = None) -> None:
        """Take lines, each with its end.

        Args:
            memory: where they are.
            start: where the first begins.
            end: where the last has ended.
        """
        self._memory = memory
        self._start = start
        self._end = len(memory) if end is None else end

    def find(self, key: bytes) -> list[bytes] | None:
        """Return the cells of the line of a key, which is the first of them; None: there is none."""
        at = self._place(key)
        cells = self._line(at).split(_TAB) if at < self._end else [b""]
        return cells if cells[0] == key else None

    def beginning_with(self, beginning: bytes) -> Iterator[bytes]:
        """Iterate over the keys that begin so."""
        at = self._place(beginning)
        while at < self._end:
            line = self._line(at)
            key = line.partition(_TAB)[0]
            if not key.startswith(beginning):
                return
            yield key
            at += len(line) + 1

    def _line(self, at: int) -> bytes:
        end = self._memory.find(b"\n", at, self._end)
        return self._memory[at : end if end >= 0 else self._end]

    def _place(self, key: bytes) -> int:
        """Return where the first line begins whose key is not less."""
        low, high = self._start, self._end
        while low < high:
            middle = (low + high) // 2
            begin = max(low, self._memory.rfind(b"\n", low, middle) + 1)
            line = self._line(begin)
            if line.partition(_TAB)[0] < key:
                low = begin + len(line) + 1
            else:
                high = begin
        return low


def sorted_lines(lines: dict[bytes, bytes]) -> bytes:
    """Return lines for ``SortedLines``: keys, and what stands behind their tabs."""
    return b"".join(key + _TAB + lines[key] + b"\n" for key in sorted(lines))
