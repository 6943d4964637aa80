"""What display filters calculate: with numbers of 32 bits and times, as Wireshark 4.0 does. Pure.

Numbers of packets have no sign. What comes below 0 has one, and so has all that is calculated with it.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from capd_protocol.display_filters.execution.values import I64, Numbers, Octets, Piece, octets_of

_LEAST, _MOST = -(2**31), 2**32 - 1
_ARITHMETIC: Final[dict[str, Callable[[Numbers, Numbers], Numbers]]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    # Towards 0, as C does.
    "/": lambda left, right: np.trunc(left / right),
    "%": np.fmod,
    "&": np.bitwise_and,
}


def calculated(how: str, rows: I64 | None, left: Numbers | Octets, right: Numbers | Octets) -> list[Piece]:
    """Calculate; what leaves the range of 32 bits, and what is divided by 0, has no value.

    Args:
        how: the operator.
        rows: the packets of the values; None: they are of every packet.
        left: values.
        right: as many others, or one.
    """
    if isinstance(left, Octets) or isinstance(right, Octets):
        assert isinstance(left, Octets)
        assert isinstance(right, Octets)
        both = zip(left.each(), right.each(), strict=True)
        masked = [bytes(a & b for a, b in zip(one, other, strict=False)) for one, other in both]
        return [Piece(rows, octets_of(masked))]
    if right.dtype.kind == "m":
        return [Piece(rows, _ARITHMETIC[how](left, right))]
    is_signed = left.dtype.kind == "i" or right.dtype.kind == "i"
    one, other = left.astype(np.int64), np.broadcast_to(right.astype(np.int64), left.shape)
    if how in ("/", "%"):
        are_there = other != 0
        one, other = one[are_there], other[are_there]
        rows = rows if rows is None else rows[are_there]
    values = _ARITHMETIC[how](one, other).astype(np.int64)
    are_there = (values >= _LEAST) & (values <= _MOST)
    if is_signed:
        return [_some(rows, values, are_there)]
    is_below = values < 0
    parts = [_some(rows, values.astype(np.uint32), are_there & ~is_below)]
    return [*parts, _some(rows, values, are_there & is_below)] if is_below.any() else parts


def opposite(piece: Piece) -> Piece:
    """Return values with the opposite sign; those that have none then, are too large for it."""
    rows, values = piece
    assert not isinstance(values, Octets)
    if values.dtype.kind == "m":
        return Piece(rows, -values)
    negative = -values.astype(np.int64)
    return _some(rows, negative, negative >= _LEAST)


def _some(rows: I64 | None, values: Numbers, are_there: Numbers) -> Piece:
    return Piece(rows if rows is None else rows[are_there], values[are_there])
