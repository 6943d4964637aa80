"""Packets chosen by their numbers and times."""

from collections.abc import Iterable, Iterator

import numpy as np

from capd_client.errors import InvalidArgument
from capd_protocol.batches.model import Batch


def numbered(
    batches: Iterable[Batch], ranges: Iterable[tuple[int, int | None]], *, leaves_out: bool = False
) -> Iterator[Batch]:
    """Give packets by their numbers, in the order in which they come.

    Example:
        numbered(packets.batches(), [(1, 10), (25, 25), (100, None)])

    Args:
        batches: of all packets; the first has the number 1.
        ranges: the first and the last number of each; None: there is no last.
        leaves_out: give the other ones.

    Raises:
        InvalidArgument: a range ends before it begins, or begins before 1.
    """
    wanted = [(first, 2**63 - 1 if last is None else last) for first, last in ranges]
    for first, last in wanted:
        if first < 1 or last < first:
            raise InvalidArgument(f"packets {first} to {last} are no range: numbers are from 1", argument="ranges")
    return _numbered(batches, wanted, leaves_out)


def _numbered(batches: Iterable[Batch], wanted: list[tuple[int, int]], leaves_out: bool) -> Iterator[Batch]:
    before, end = 0, max((last for _, last in wanted), default=0)
    for batch in batches:
        if before >= end and not leaves_out:
            return  # no later one is wanted
        numbers = np.arange(before + 1, before + 1 + len(batch.offsets))
        before += len(numbers)
        mask = np.zeros(len(numbers), np.bool_)
        for first, last in wanted:
            mask |= (numbers >= first) & (numbers <= last)
        yield from some(batch, ~mask if leaves_out else mask)


def in_span(batches: Iterable[Batch], start_ns: int | None, end_ns: int | None) -> Iterator[Batch]:
    """Give the packets of a span.

    Args:
        batches: of all packets.
        start_ns: those from then on, in nanoseconds since 1970-01-01 00:00 UTC; None: from the beginning.
        end_ns: those before then; None: to the end.
    """
    for batch in batches:
        yield from some(batch, batch.within(start_ns, end_ns))


def some(batch: Batch, mask: "np.typing.NDArray[np.bool_]") -> Iterator[Batch]:
    """Give the packets of a mask, if there are any."""
    if mask.all():
        yield batch
    elif mask.any():
        yield batch.chosen(mask)
