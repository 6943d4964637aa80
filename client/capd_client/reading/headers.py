"""Packet headers: what a packet handler learns of a packet beside its bytes."""

import enum
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import repeat
from typing import NamedTuple, cast

from capd_client.reading.model import contents_of
from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.formats.packet_flags import FLAGS_MASK, Direction, PacketKind, packet_flags
from capd_protocol.times import datetime_of, time_text


class PacketType(enum.IntEnum):
    """Where a packet went, as the kernel saw it; the numbers are those of ``socket.PACKET_HOST`` and so on.

    Attributes:
        INCOMING: to this machine.
        BROADCAST: to all on the network.
        MULTICAST: to a group.
        OTHER_HOST: to another machine.
        OUTGOING: sent by this machine, to whomever.
    """

    # linux/if_packet.h
    INCOMING = 0
    BROADCAST = 1
    MULTICAST = 2
    OTHER_HOST = 3
    OUTGOING = 4


class PacketHeader(NamedTuple):
    """What is known of a packet beside its bytes; may be kept.

    Attributes:
        caplen: how many bytes were captured.
        len: how long the packet was, in bytes.
        timestamp_ns: when it came, since 1970-01-01 00:00 UTC.
        ifname: the interface it came through, or the name of the stream; None where a file does not say.
        linktype: what its bytes begin with: a ``LINKTYPE_`` number, such as 1 for Ethernet.
        pkttype: whether it came in or went out, and for whom; None where the capture does not say (``packet_flags``).
    """

    caplen: int
    len: int
    timestamp_ns: int
    ifname: str | None
    linktype: int
    pkttype: PacketType | None

    @property
    def timestamp(self) -> datetime:
        """``timestamp_ns`` as a datetime in UTC, which keeps only microseconds."""
        return datetime_of(self.timestamp_ns)

    def __repr__(self) -> str:
        """Return when, where and how long it is, and its type where that is known."""
        kind = "" if self.pkttype is None else f", {self.pkttype.name}"
        sizes = f"{self.caplen} of {self.len} bytes"
        return f"<PacketHeader {time_text(self.timestamp_ns)} {self.ifname or 'unnamed'}, {sizes}{kind}>"


#: By what a file says of a packet (``epb_flags``): its direction, and to whom it was sent.
_TYPES = {
    packet_flags(Direction.IN, PacketKind.UNICAST): PacketType.INCOMING,
    packet_flags(Direction.IN, PacketKind.BROADCAST): PacketType.BROADCAST,
    packet_flags(Direction.IN, PacketKind.MULTICAST): PacketType.MULTICAST,
    packet_flags(Direction.IN, PacketKind.OTHERS): PacketType.OTHER_HOST,
    **{packet_flags(Direction.OUT, kind): PacketType.OUTGOING for kind in PacketKind},
}


def _packet_types(batch: Batch) -> Iterable[PacketType | None]:
    """Return each packet's type, where the file says it."""
    if batch.flags is None:
        return repeat(None, len(batch.offsets))
    return map(_TYPES.get, (batch.flags & FLAGS_MASK).tolist())


def headed_packets(batch: Batch, interfaces: Sequence[FileInterface]) -> Iterator[tuple[PacketHeader, memoryview]]:
    """Return a batch's packets one by one, each with its header.

    Args:
        batch: the packets.
        interfaces: what their interface ids mean.
    """
    ids = batch.interface_ids.tolist()
    rows = zip(
        batch.captured_sizes.tolist(),
        batch.original_sizes.tolist(),
        batch.timestamps_ns.tolist(),
        map([each.name for each in interfaces].__getitem__, ids),
        map([each.linktype for each in interfaces].__getitem__, ids),
        _packet_types(batch),
        strict=True,
    )
    # Without the header's own constructor, which takes as long as everything else.
    made = map(partial(tuple.__new__, PacketHeader), rows)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType, reportUnknownArgumentType]
    return zip(cast("Iterator[PacketHeader]", made), contents_of(batch), strict=True)
