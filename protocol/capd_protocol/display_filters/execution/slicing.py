"""Slices of bytes, as display filters have them. Pure."""

from collections.abc import Sequence

import numpy as np

from capd_protocol.display_filters.execution.values import I64, Octets, Piece
from capd_protocol.display_filters.syntax import Range


def extent(part: Range, lengths: I64) -> tuple[I64, I64]:
    """Return where a range begins in things of some lengths, and how far it goes.

    Args:
        part: the range; negative numbers of it count from the end.
        lengths: of each.
    """
    begin = _from_beginning(part.begin, lengths)
    if part.size is not None:
        return begin, np.full(len(lengths), part.size)
    return begin, (lengths if part.end is None else _from_beginning(part.end, lengths) + 1) - begin


def _from_beginning(number: int, lengths: I64) -> I64:
    return np.full(len(lengths), number) if number >= 0 else lengths + number


def _bounds(values: Octets, part: Range) -> tuple[I64, I64]:
    """Return where a range begins in each string, and how many bytes it has: none where it was not all captured."""
    begin, size = extent(part, values.reported)
    is_there = (begin >= 0) & (size > 0) & (begin + size <= values.sizes)
    return np.where(is_there, begin, 0), np.where(is_there, size, 0)


def sliced(piece: Piece, ranges: Sequence[Range]) -> Piece:
    """Return the bytes of ranges of each value, one behind another, up to the first one that is not there."""
    values = piece.values
    assert isinstance(values, Octets)
    bounds = [_bounds(values, each) for each in ranges]
    begins = [values.begins + begin for begin, _ in bounds]
    # Behind a range that is not there, none counts.
    are_there = np.logical_and.accumulate([size > 0 for _, size in bounds])
    sizes = [np.where(there, size, 0) for there, (_, size) in zip(are_there, bounds, strict=True)]
    if len(ranges) == 1:
        return Piece(piece.rows, Octets(values.data, begins[0], sizes[0], sizes[0]))
    # They are copied together.
    whole: I64 = np.asarray(np.sum(sizes, axis=0, dtype=np.int64))
    ends = np.cumsum(whole)
    data = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    at = ends - whole
    for begin, size in zip(begins, sizes, strict=True):
        behind = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size)
        data[np.repeat(at, size) + behind] = values.data[np.repeat(begin, size) + behind]
        at = at + size
    return Piece(piece.rows, Octets(data, ends - whole, whole, whole))
