"""Conditions of display filters, worked out for many packets at once. Pure: arrays in, flags out."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from capd_protocol.display_filters.execution.arithmetic import calculated, opposite
from capd_protocol.display_filters.execution.constants import as_values, between, compared_with
from capd_protocol.display_filters.execution.fetching import Fetcher
from capd_protocol.display_filters.execution.functions import FUNCTIONS
from capd_protocol.display_filters.execution.slicing import sliced
from capd_protocol.display_filters.execution.values import (
    I64,
    Flags,
    Numbers,
    Octets,
    Piece,
    compared,
    joined,
    only,
    paired,
    passing,
)
from capd_protocol.display_filters.plan import (
    AllOf,
    AnyOf,
    Calculated,
    Compared,
    Condition,
    Constant,
    Contained,
    Exists,
    FieldValue,
    FunctionValue,
    Matched,
    Opposite,
    SliceValue,
    Value,
)

#: Finds a regular expression in a string of bytes.
Search = Callable[[bytes], bool]


class Evaluation:
    """A filter, of some packets."""

    def __init__(self, fetcher: Fetcher, count: int, searches: Mapping[bytes, Search]) -> None:
        """Nothing is worked out yet.

        Args:
            fetcher: has the values of the packets' fields.
            count: how many packets there are.
            searches: for each regular expression of the filter, what finds it.
        """
        self._fetcher = fetcher
        self._count = count
        self._searches = searches

    def of(self, condition: Condition) -> Flags:
        """Return which packets a condition holds for."""
        if isinstance(condition, AnyOf | AllOf):
            flags = self.of(condition.parts[0])
            for part in condition.parts[1:]:
                flags = flags | self.of(part) if isinstance(condition, AnyOf) else flags & self.of(part)
            return flags
        if isinstance(condition, Opposite):
            return ~self.of(condition.of)
        if isinstance(condition, Exists):
            return self._exists(condition)
        if isinstance(condition, Compared):
            return self._compared(condition)
        if isinstance(condition, Matched):
            return self._matched(condition)
        return self._contained(condition)

    def _over(self, parts: Sequence[tuple[I64 | None, Flags]], *, needs_all: bool) -> Flags:
        """Return which packets pass, by flags of values in pieces."""
        if len(parts) == 1:
            return passing(*parts[0], self._count, needs_all=needs_all)
        if not needs_all:
            flags = np.zeros(self._count, np.bool_)
            for rows, are_so in parts:
                flags |= passing(rows, are_so, self._count, needs_all=False)
            return flags
        has_any, has_bad = np.zeros(self._count, np.bool_), np.zeros(self._count, np.bool_)
        for rows, are_so in parts:
            has_any |= passing(rows, np.ones_like(are_so), self._count, needs_all=False)
            has_bad |= passing(rows, ~are_so, self._count, needs_all=False)
        return has_any & ~has_bad

    def _exists(self, condition: Exists) -> Flags:
        parts: list[tuple[I64 | None, Flags]] = []
        are_so: Flags
        for rows, values in self._pieces(condition.value):
            if not condition.not_zero:
                # A slice of what is too short has no bytes.
                is_slice = isinstance(condition.value, SliceValue)
                are_so = values.sizes > 0 if is_slice and isinstance(values, Octets) else np.ones(len(values), np.bool_)
            elif isinstance(values, Octets):
                are_so = np.fromiter(map(any, values.each()), np.bool_, len(values))
            else:
                are_so = values != 0
            parts.append((rows, are_so))
        return self._over(parts, needs_all=False)

    def _matched(self, condition: Matched) -> Flags:
        search = self._searches[condition.pattern]
        parts: list[tuple[I64 | None, Flags]] = []
        for piece in self._pieces(condition.left, whole=True):
            octets = _octets(piece)
            parts.append((piece.rows, np.fromiter(map(search, octets.each()), np.bool_, len(octets))))
        return self._over(parts, needs_all=condition.needs_all)

    def _compared(self, condition: Compared) -> Flags:
        operator, right, needs_all = condition.operator, condition.right, condition.needs_all
        whole = operator == "contains"
        if isinstance(right, Constant):
            test = compared_with(right, operator, needs_all=needs_all)
            pieces = self._pieces(condition.left, whole=whole)
            return self._over([(rows, test(values)) for rows, values in pieces], needs_all=needs_all)
        parts = [
            (rows, compared(operator, left, other, needs_all=needs_all))
            for rows, left, other in self._paired(condition.left, right, whole=whole)
        ]
        return self._over(parts, needs_all=needs_all)

    def _contained(self, condition: Contained) -> Flags:
        written = [each for each in condition.values if isinstance(each, Constant)]
        tests = [compared_with(each, "==") for each in written]
        tests += [between(low, high) for low, high in condition.ranges]
        pieces = self._pieces(condition.left)
        if condition.needs_all:
            # All values are the same element, or in the same range.
            flags = np.zeros(self._count, np.bool_)
            for test in tests:
                flags |= self._over([(rows, test(values)) for rows, values in pieces], needs_all=True)
        else:
            parts: list[tuple[I64 | None, Flags]] = []
            for rows, values in pieces:
                are_so = np.zeros(len(values), np.bool_)
                for test in tests:
                    are_so |= test(values)
                parts.append((rows, are_so))
            flags = self._over(parts, needs_all=False)
        for other in condition.values:
            if not isinstance(other, Constant):
                flags |= self._compared(Compared("==", condition.needs_all, condition.left, other))
        return flags

    def _paired(
        self, left: Value, right: Value, *, whole: bool = False
    ) -> Iterator[tuple[I64 | None, Numbers | Octets, Numbers | Octets]]:
        """Give values of both sides beside each other, and the packets of the pairs."""
        for one in self._joined(left, whole=whole):
            for other in self._joined(right, whole=whole):
                rows, places = paired(one, other, self._count)
                yield rows, only(one.values, places[0]), only(other.values, places[1])

    def _joined(self, value: Value, *, whole: bool) -> list[Piece]:
        """Return values in one piece, or in two where only some are numbers with a sign."""
        kinds: dict[str, list[Piece]] = {}
        for piece in self._pieces(value, whole=whole):
            kind = "" if isinstance(piece.values, Octets) else piece.values.dtype.kind
            kinds.setdefault(kind, []).append(piece)
        return [joined(pieces, self._count) for pieces in kinds.values()]

    def _pieces(self, value: Value, *, whole: bool = False) -> list[Piece]:
        """Return the values of what is asked for.

        Args:
            value: what.
            whole: of protocols, not only their headers, but all that is in them.
        """
        if isinstance(value, FieldValue):
            return self._fetcher.pieces(value, whole=whole)
        if isinstance(value, Constant):
            return [Piece(None, as_values(value))]
        if isinstance(value, SliceValue):
            return [sliced(Piece(each.rows, _octets(each)), value.ranges) for each in self._pieces(value.of)]
        if isinstance(value, FunctionValue):
            arguments = [(each.type, self._pieces(each)) for each in value.arguments]
            return FUNCTIONS[value.function](arguments, self._count)
        return self._calculated(value)

    def _calculated(self, value: Calculated) -> list[Piece]:
        if value.left is None:
            return list(map(opposite, self._pieces(value.right)))
        return [piece for pair in self._paired(value.left, value.right) for piece in calculated(value.operator, *pair)]


def _octets(piece: Piece) -> Octets:
    """Return values as bytes; IPv4 addresses are numbers."""
    values = piece.values
    if isinstance(values, Octets):
        return values
    sizes = np.full(len(values), 4)
    data = values.astype(">u4").view(np.uint8)
    return Octets(data, np.arange(len(values)) * 4, sizes, sizes)
