"""Packet flags: from the kernel's packet type to pcapng's ``epb_flags``. Pure."""

import numpy as np

from capd.worker.packets.arrays import U8, U32
from capd_protocol.formats.packet_flags import Direction, PacketKind, packet_flags

#: By PACKET_HOST, _BROADCAST, _MULTICAST, _OTHERHOST and _OUTGOING (linux/if_packet.h).
_FLAGS = np.zeros(256, np.uint32)
_FLAGS[:5] = (
    packet_flags(Direction.IN, PacketKind.UNICAST),
    packet_flags(Direction.IN, PacketKind.BROADCAST),
    packet_flags(Direction.IN, PacketKind.MULTICAST),
    packet_flags(Direction.IN, PacketKind.OTHERS),
    packet_flags(Direction.OUT, PacketKind.UNKNOWN),
)


def flags_of(packet_types: U8) -> U32:
    """Return the flags of packets of these types; of other types (PACKET_LOOPBACK and beyond) nothing is known."""
    return _FLAGS[packet_types]
