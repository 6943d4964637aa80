"""Values of packets while a display filter is worked out: numbers, or bytes, each with the packet that has it.

Pure: arrays in, arrays out.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]
#: Of fields unsigned of 32 bits, what was calculated signed of 64, times numpy's.
Numbers = npt.NDArray[Any]


class Octets(NamedTuple):
    """Strings of bytes, or text, that lie in a buffer.

    Attributes:
        data: the buffer.
        begins: where each begins.
        sizes: how many bytes of each are there.
        reported: how many bytes each has, of which not all may have been captured.
        is_text: whether they are ordered as text is, and not by their sizes first.
    """

    data: U8
    begins: I64
    sizes: I64
    reported: I64
    is_text: bool = False

    def only(self, places: npt.NDArray[Any]) -> "Octets":
        """Return some of them."""
        return Octets(self.data, self.begins[places], self.sizes[places], self.reported[places], self.is_text)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.begins)

    def each(self) -> Iterator[bytes]:
        """Give each by itself."""
        whole: memoryview = self.data.data
        for begin, end in zip(self.begins.tolist(), (self.begins + self.sizes).tolist(), strict=True):
            yield bytes(whole[begin:end])

    def table(self, size_bytes: int) -> npt.NDArray[np.uint8]:
        """Return the first bytes of each, a row for each; they must have as many."""
        if not len(self) or not size_bytes:
            return np.zeros((len(self), size_bytes), np.uint8)
        dtype = np.dtype(f"V{size_bytes}")
        every = np.ndarray((len(self.data) - size_bytes + 1,), dtype, self.data.data, 0, (self.data.strides[0],))
        rows: U8 = every[self.begins].view(np.uint8).reshape(-1, size_bytes)
        return rows


def octets_of(strings: Sequence[bytes], *, is_text: bool = False) -> Octets:
    """Return strings as they lie one behind another in a buffer of their own."""
    sizes = np.fromiter(map(len, strings), np.int64, len(strings))
    ends = np.cumsum(sizes)
    return Octets(np.frombuffer(b"".join(strings), np.uint8), ends - sizes, sizes, sizes, is_text)


class Piece(NamedTuple):
    """Some values.

    Attributes:
        rows: the packet of each; None: they are of every packet.
        values: numbers or bytes.
    """

    rows: I64 | None
    values: Numbers | Octets


def only(values: Numbers | Octets, places: npt.NDArray[Any]) -> Numbers | Octets:
    """Return some of the values."""
    return values.only(places) if isinstance(values, Octets) else values[places]


def joined(pieces: Sequence[Piece], count: int) -> Piece:
    """Return pieces as one.

    Args:
        pieces: of one type of values.
        count: of all packets: of values that are of every packet, each gets them.
    """
    if len(pieces) == 1:
        return pieces[0]
    parts = [spread(each, count) for each in pieces]
    rows = np.concatenate([each.rows for each in parts if each.rows is not None] or [np.empty(0, np.int64)])
    every = [each.values for each in parts]
    numbers = [each for each in every if not isinstance(each, Octets)]
    if numbers or not every:
        return Piece(rows, np.concatenate(numbers) if numbers else np.empty(0, np.uint32))
    strings = [each for each in every if isinstance(each, Octets)]
    if all(each.data is strings[0].data for each in strings):
        data, begins = strings[0].data, [each.begins for each in strings]
    else:
        starts = np.cumsum([0, *(len(each.data) for each in strings)]).tolist()
        data = np.concatenate([each.data for each in strings])
        begins = [each.begins + start for each, start in zip(strings, starts[:-1], strict=True)]
    octets = Octets(
        data,
        np.concatenate(begins),
        np.concatenate([each.sizes for each in strings]),
        np.concatenate([each.reported for each in strings]),
        strings[0].is_text,
    )
    return Piece(rows, octets)


def spread(piece: Piece, count: int) -> Piece:
    """Return values with the packet of each."""
    if piece.rows is not None:
        return piece
    values = len(piece.values)
    rows = np.repeat(np.arange(count), values)
    return Piece(rows, only(piece.values, np.tile(np.arange(values), count)))


def paired(left: Piece, right: Piece, count: int) -> tuple[I64 | None, I64]:
    """Return places of each value of a packet on the left beside each on the right.

    Args:
        left: values.
        right: others.
        count: of all packets.

    Returns:
        The rows, None where both are of every packet; and two rows: places in the left and in the right values.
    """
    if right.rows is None or left.rows is None:
        # Constants are single values.
        lefts = np.arange(len(left.values))
        rights = np.arange(len(right.values))
        if right.rows is None:
            return left.rows, np.stack([lefts, np.zeros_like(lefts)])
        return right.rows, np.stack([np.zeros_like(rights), rights])
    order = np.argsort(right.rows, kind="stable")
    counts = np.bincount(right.rows, minlength=count)
    starts = np.cumsum(counts) - counts
    repeats = counts[left.rows]
    lefts = np.repeat(np.arange(len(left.rows)), repeats)
    behind = np.arange(len(lefts)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    rights = order[np.repeat(starts[left.rows], repeats) + behind]
    return left.rows[lefts], np.stack([lefts, rights])


_COMPARED: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


def compared(how: str, left: Numbers | Octets, right: Numbers | Octets, *, needs_all: bool = False) -> Flags:
    """Compare values with as many others, or with one: numbers, text, or bytes, of which the longer are larger.

    Args:
        how: the operator.
        left: values.
        right: others.
        needs_all: whether all of a packet's values must compare so: all are unequal where none is equal.
    """
    if how == "!=" and needs_all:
        unequal: Flags = ~compared("==", left, right)
        return unequal
    if not isinstance(left, Octets) or not isinstance(right, Octets):
        assert not isinstance(left, Octets)
        assert not isinstance(right, Octets)
        return _numbers_compared(_COMPARED[how], left, right)
    if how == "contains":
        needles = list(right.each())
        if len(needles) == 1:
            return found_in(left, needles[0])
        pairs = zip(left.each(), needles, strict=True)
        return np.fromiter((bool(whole) and needle in whole for whole, needle in pairs), np.bool_, len(left))
    if how in ("==", "!=") and len(right) == 1:
        size = int(right.sizes[0])
        are_equal: Flags = left.sizes == size
        places = np.flatnonzero(are_equal)
        sized = left if len(places) == len(left) else left.only(places)
        # Compared in as large parts as there are.
        part = f"u{next(each for each in (8, 4, 2, 1) if size % each == 0)}" if size else "u1"
        are_equal[places] = (sized.table(size).view(part) == right.table(size).view(part)).all(axis=1)
        if how == "!=":
            np.logical_not(are_equal, out=are_equal)
        return are_equal
    lefts = left.each() if left.is_text else ((len(each), each) for each in left.each())
    rights = list(right.each() if left.is_text else ((len(each), each) for each in right.each()))
    others = rights * len(left) if len(rights) == 1 else rights
    return np.fromiter(map(_COMPARED[how], lefts, others), np.bool_, len(left))


def _numbers_compared(compare: Callable[[Any, Any], Any], left: Numbers, right: Numbers) -> Flags:
    """Compare numbers. Those without a sign compare with none that have one, whatever they are asked."""
    if left.dtype.kind == "u" and right.dtype.kind == "i":
        return np.zeros(np.broadcast_shapes(left.shape, right.shape), np.bool_)
    found: Flags = compare(left, right)
    return found


def found_in(values: Octets, needle: bytes) -> Flags:
    """Return which strings have these bytes in them; none has no bytes."""
    if not needle:
        return np.zeros(len(values), np.bool_)
    if not len(values):
        return np.zeros(0, np.bool_)
    ends = values.begins + values.sizes
    first = int(values.begins.min())
    find = values.data[first : int(ends.max())].tobytes().find
    spans = zip((values.begins - first).tolist(), (ends - first).tolist(), strict=True)
    return np.fromiter((find(needle, begin, end) >= 0 for begin, end in spans), np.bool_, len(values))


def passing(piece_rows: I64 | None, are_so: Flags, count: int, *, needs_all: bool) -> Flags:
    """Return which packets pass, of whose values some, or all, are as they should be.

    Args:
        piece_rows: the packet of each value; None: they are of every packet.
        are_so: which values are.
        count: of all packets.
        needs_all: whether all of a packet's values must be, and there must be one.
    """
    if piece_rows is None:
        holds = bool(len(are_so)) and bool(are_so.all() if needs_all else are_so.any())
        return np.full(count, holds)
    flags = np.zeros(count, np.bool_)
    if needs_all:
        flags[piece_rows] = True
        flags[piece_rows[~are_so]] = False
    else:
        flags[piece_rows[are_so]] = True
    return flags
