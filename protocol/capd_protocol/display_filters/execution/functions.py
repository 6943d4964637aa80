"""The functions of display filters. Pure: values in, values out."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from capd_protocol.display_filters.execution.values import Numbers, Octets, Piece, joined, octets_of, spread
from capd_protocol.display_filters.literals import WIDTHS
from capd_protocol.fields.types import FieldType, Shown

#: An argument: its type, and its values.
Argument = tuple[FieldType, list[Piece]]
Function = Callable[[Sequence[Argument], int], list[Piece]]
#: In bytes, of values that are numbers here.
_SIZES: Final = {**WIDTHS, FieldType.IPV4: 4}


def _len(arguments: Sequence[Argument], count: int) -> list[Piece]:
    (type_, pieces), *_ = arguments
    return [
        Piece(
            rows,
            values.reported.astype(np.uint32)
            if isinstance(values, Octets)
            else np.full(len(values), _SIZES.get(type_, 0), np.uint32),
        )
        for rows, values in pieces
    ]


def _count(arguments: Sequence[Argument], count: int) -> list[Piece]:
    (_, pieces), *_ = arguments
    counts = np.zeros(count, np.int64)
    for piece in pieces:
        rows = spread(piece, count).rows
        assert rows is not None
        counts += np.bincount(rows, minlength=count)
    rows = np.flatnonzero(counts)
    return [Piece(rows, counts[rows].astype(np.uint32))] if len(rows) else []


def _string(arguments: Sequence[Argument], count: int) -> list[Piece]:
    (type_, pieces), *_ = arguments
    return [
        Piece(rows, octets_of([text.encode() for text in _texts(type_, values)], is_text=True))
        for rows, values in pieces
    ]


def _texts(type_: FieldType, values: Numbers | Octets) -> list[str]:
    if isinstance(values, Octets):
        width = 16 if type_ is FieldType.IPV6 else 6
        return Shown(type_).texts(values.table(width).reshape(-1).view(f"V{width}"))
    return Shown(type_).texts(values)


def _cased(change: Callable[[bytes], bytes]) -> Function:
    def function(arguments: Sequence[Argument], count: int) -> list[Piece]:
        (_, pieces), *_ = arguments
        return [
            Piece(rows, octets_of([change(each) for each in values.each()], is_text=True))
            for rows, values in pieces
            if isinstance(values, Octets)
        ]

    return function


def _extreme(numbers_of: Callable[..., Numbers], choose: Callable[[bytes, bytes], bytes]) -> Function:
    """Return a function that has one value of each packet: the largest or smallest of all arguments."""

    def function(arguments: Sequence[Argument], count: int) -> list[Piece]:
        pieces = [piece for _, some in arguments for piece in some]
        if not pieces:
            return []
        rows, values = joined(pieces, count)
        if rows is None:
            return [Piece(None, values)]
        if isinstance(values, Octets):
            best: dict[int, bytes] = {}
            for row, value in zip(rows.tolist(), values.each(), strict=True):
                best[row] = choose(best[row], value) if row in best else value
            return [Piece(np.array(list(best), np.int64), octets_of(list(best.values()), is_text=values.is_text))]
        present = np.unique(rows)
        order = np.argsort(rows, kind="stable")
        begins = np.searchsorted(rows[order], present)
        chosen: Numbers = numbers_of(values[order], begins) if len(present) else values
        return [Piece(present, chosen)]

    return function


def _abs(arguments: Sequence[Argument], count: int) -> list[Piece]:
    (_, pieces), *_ = arguments
    found: list[Piece] = []
    for rows, values in pieces:
        assert not isinstance(values, Octets)
        found.append(Piece(rows, np.abs(values).astype(np.uint32) if values.dtype.kind == "i" else np.abs(values)))
    return found


#: By names.
FUNCTIONS: Final[dict[str, Function]] = {
    "len": _len,
    "count": _count,
    "string": _string,
    "upper": _cased(bytes.upper),
    "lower": _cased(bytes.lower),
    "max": _extreme(np.maximum.reduceat, max),
    "min": _extreme(np.minimum.reduceat, min),
    "abs": _abs,
}
