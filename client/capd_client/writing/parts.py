"""Packets on their way into a file: batches with what their interface ids mean, and in which order they come."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, cast

import numpy as np

from capd_client.errors import InvalidArgument
from capd_client.reading.model import Described, Interfaces, Packet, batch_of
from capd_client.reading.reader import Reader
from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.batches.record_offsets import I64


class Part(NamedTuple):
    """Packets of one source.

    Attributes:
        source: its number; each source has interfaces of its own.
        batch: the packets.
        interfaces: what their interface ids mean.
        origin: the file that they come from, for what else it says; None: it is not known.
    """

    source: int
    batch: Batch
    interfaces: Sequence[FileInterface]
    origin: Described | None = None


def origin_of(interfaces: Sequence[FileInterface]) -> Described | None:
    """Return the file that a reader's interfaces are of; None where they are somebody's own."""
    return interfaces.file if isinstance(interfaces, Interfaces) else None


def meant(
    packets: Reader | Iterable[Packet] | Iterable[Batch], given: Sequence[FileInterface] | None
) -> tuple[Sequence[FileInterface], Sequence[FileInterface]]:
    """Return what interface ids of packets mean now, and the same as the file says that they come from.

    Args:
        packets: what is written.
        given: what they shall mean; None: what the packets' own interfaces are.

    Raises:
        InvalidArgument: nobody says it.
    """
    own = packets.interfaces if isinstance(packets, Reader) else given
    if own is None:
        own = getattr(packets, "interfaces", None)
    if own is None:
        raise InvalidArgument("packets need the interfaces that their ids mean", argument="interfaces")
    return own if given is None else given, own


#: Parts, the section that each is of, and places of the packets of all of them together, in the order in which they are
#: written; None: as they are.
Run = tuple[list[Part], list[int], I64 | None]


def runs_of(parts: list[Part], sections: list[I64], order: I64 | None) -> Iterator[Run]:
    """Give packets in their order, together as long as none goes on to another section of its source.

    Args:
        parts: the batches.
        sections: of each, which section each packet is of.
        order: as in ``Run``.
    """
    if all((each == each[0]).all() for each in sections):
        yield parts, [int(each[0]) for each in sections], order
        return
    numbers = np.repeat(np.arange(len(parts)), [len(each) for each in sections])
    every = np.concatenate(sections)
    places = np.concatenate([np.arange(len(each)) for each in sections])
    if order is not None:
        numbers, every, places = numbers[order], every[order], places[order]
    cuts = {0, len(every)}
    for number in range(len(parts)):
        rows = np.flatnonzero(numbers == number)
        cuts.update(rows[1:][every[rows[1:]] != every[rows[:-1]]].tolist())
    edges = sorted(cuts)
    for begin, end in itertools.pairwise(edges):
        here = numbers[begin:end]
        used: list[int] = np.unique(here).tolist()
        chosen = [places[begin:end][here == number] for number in used]
        some = [
            parts[number]._replace(batch=parts[number].batch.chosen(each))
            for number, each in zip(used, chosen, strict=True)
        ]
        firsts = [int(every[begin + int(np.argmax(here == number))]) for number in used]
        # What stands where, once the parts stand one behind the other.
        yield some, firsts, np.argsort(np.argsort(here, kind="stable"), kind="stable")


#: One by one, so many packets are written together. Chosen: more are no faster.
PACKETS_AT_ONCE = 4096


def batches_of(packets: Reader | Iterable[Packet] | Iterable[Batch]) -> Iterator[Batch]:
    """Give batches as they are, those of a reader too, and many packets together."""
    if isinstance(packets, Reader):
        yield from packets.batches()
        return
    for are_batches, some in itertools.groupby(packets, lambda each: isinstance(each, Batch)):
        if are_batches:
            yield from cast("Iterable[Batch]", some)
            continue
        while together := list(itertools.islice(cast("Iterator[Packet]", some), PACKETS_AT_ONCE)):
            yield batch_of(together)
