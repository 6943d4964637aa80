"""Flags of a packet in pcapng (``epb_flags``): whether it came in or went out, and to whom it was sent.

Section 4.3.1 of the format: bits 0 and 1 are the direction, 2 to 4 the kind of reception.
"""

import enum

_DIRECTION_MASK = 0x3
_KIND_SHIFT, _KIND_MASK = 2, 0x7
#: All of both; the other bits say what is no matter of direction.
FLAGS_MASK = _DIRECTION_MASK | _KIND_MASK << _KIND_SHIFT


class Direction(enum.IntEnum):
    """Whether a packet came in or went out."""

    UNKNOWN = 0
    IN = 1
    OUT = 2


class PacketKind(enum.IntEnum):
    """To whom a packet was sent, as far as the kernel says."""

    UNKNOWN = 0
    #: To this host.
    UNICAST = 1
    MULTICAST = 2
    BROADCAST = 3
    #: To another host, and seen in promiscuous mode.
    OTHERS = 4


def packet_flags(direction: Direction, kind: PacketKind) -> int:
    """Return the value of ``epb_flags``."""
    return direction | kind << _KIND_SHIFT


def direction_of(flags: int) -> Direction:
    """Return which way a packet went."""
    value = flags & _DIRECTION_MASK
    return Direction(value) if value in Direction._value2member_map_ else Direction.UNKNOWN


def kind_of(flags: int) -> PacketKind:
    """Return to whom a packet was sent."""
    value = flags >> _KIND_SHIFT & _KIND_MASK
    return PacketKind(value) if value in PacketKind._value2member_map_ else PacketKind.UNKNOWN
