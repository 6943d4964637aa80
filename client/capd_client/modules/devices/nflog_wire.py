"""Messages of netfilter's log over netlink: requests to listen, and packets of a datagram. Pure.

From linux/netlink.h, linux/netfilter/nfnetlink.h and linux/netfilter/nfnetlink_log.h.
"""

import enum
import struct
from collections.abc import Iterator
from typing import NamedTuple

from capd_protocol.formats.packet_flags import Direction

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_GENERIC = struct.Struct("!BBH")
_BE16, _BE32, _TIME = struct.Struct("!H"), struct.Struct("!I"), struct.Struct("!QQ")
_HEADER_BYTES, _GENERIC_BYTES, _ATTRIBUTE_BYTES = 16, 4, 4
#: NFNL_SUBSYS_ULOG.
_PACKET, _CONFIG, _ERROR = 0x400, 0x401, 2
_REQUEST_AND_ACK = 0x5
#: The other bits say that there are attributes within, or what byte order it has.
_TYPE_MASK = 0x3FFF

# Attributes of a packet:
_TIMESTAMP, _INPUT_DEVICE, _OUTPUT_DEVICE, _SEQUENCE = 3, 4, 5, 12

#: So much of each packet: all.
_COPY_PACKET, _WHOLE = 2, 0xFFFF
#: What the kernel gathers before it passes it on. Chosen: as much as it allows.
_GATHERED_BYTES = 128 * 1024
#: Its unit of time is a hundredth of a second.
_TICKS_PER_S = 100
#: Gathered at most. Chosen: as many as make the cost of a datagram small.
_GATHERED_PACKETS = 64
_WITH_SEQUENCE = 1
_BIND = 1


class Setting(enum.IntEnum):
    """What is set of a group (``NFULA_CFG_…``)."""

    COMMAND = 1
    MODE = 2
    BUFFER_BYTES = 3
    TIMEOUT = 4
    THRESHOLD = 5
    FLAGS = 6


class LogPacket(NamedTuple):
    """A packet of a datagram.

    Attributes:
        group: to which it was logged.
        timestamp_ns: when the kernel received it; None: the kernel has not noted it, as of packets that go out.
        data: as LINKTYPE_NFLOG has it.
        sequence: its number in the group, modulo 2^32; None: unknown.
        direction: unknown where it passes through.
    """

    group: int
    timestamp_ns: int | None
    data: bytes
    sequence: int | None
    direction: Direction


def listening(group: int, timeout_s: float, *, immediate: bool) -> list[bytes]:
    """Return the requests after which a group's packets come, to be sent one after another. The first one may fail."""
    ticks = max(1, round(timeout_s * _TICKS_PER_S))
    settings = [
        (Setting.COMMAND, bytes((_BIND,))),
        (Setting.MODE, struct.pack("!IBx", _WHOLE, _COPY_PACKET)),
        (Setting.BUFFER_BYTES, _BE32.pack(_GATHERED_BYTES)),
        (Setting.TIMEOUT, _BE32.pack(ticks)),
        (Setting.THRESHOLD, _BE32.pack(1 if immediate else _GATHERED_PACKETS)),
        (Setting.FLAGS, _BE16.pack(_WITH_SEQUENCE)),
    ]
    return [_request(group, setting, value) for setting, value in settings]


def _request(group: int, setting: Setting, value: bytes) -> bytes:
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE_BYTES + len(value), setting) + value
    body = _GENERIC.pack(0, 0, group) + attribute + bytes(-len(attribute) % 4)
    return _HEADER.pack(_HEADER_BYTES + len(body), _CONFIG, _REQUEST_AND_ACK, 0, 0) + body


def error_of(data: bytes) -> int | None:
    """Return the error number that a datagram answers a request with, 0 for none; None: it is no answer."""
    if len(data) < _HEADER_BYTES + 4 or _HEADER.unpack_from(data)[1] != _ERROR:
        return None
    return -int(struct.unpack_from("=i", data, _HEADER_BYTES)[0])


def packets_of(data: bytes) -> Iterator[LogPacket]:
    """Give the packets of a datagram. It is the kernel's, and so well formed."""
    at = 0
    while at + _HEADER_BYTES <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER_BYTES:
            break
        if kind == _PACKET:
            yield _packet(data[at + _HEADER_BYTES : at + length])
        at += length + -length % 4


def _packet(data: bytes) -> LogPacket:
    timestamp_ns = sequence = None
    direction = Direction.UNKNOWN
    at, end = _GENERIC_BYTES, len(data)
    while at < end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        kind &= _TYPE_MASK
        if kind == _TIMESTAMP:
            seconds, microseconds = _TIME.unpack_from(data, at + _ATTRIBUTE_BYTES)
            timestamp_ns = seconds * 1_000_000_000 + microseconds * 1000
        elif kind == _SEQUENCE:
            (sequence,) = _BE32.unpack_from(data, at + _ATTRIBUTE_BYTES)
        elif kind == _INPUT_DEVICE:
            direction = Direction.IN
        elif kind == _OUTPUT_DEVICE:  # which stands behind the other
            direction = Direction.UNKNOWN if direction == Direction.IN else Direction.OUT
        at += max(_ATTRIBUTE_BYTES, length + -length % 4)
    (group,) = _BE16.unpack_from(data, 2)
    return LogPacket(group, timestamp_ns, data, sequence, direction)
