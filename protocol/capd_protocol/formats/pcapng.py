"""pcapng blocks and pcap headers: values to bytes, and bytes to values.

Layouts: draft-ietf-opsawg-pcapng (blocks, options), pcap(5) savefile format. What is written is in this
machine's byte order, as the formats allow; both orders are read.
"""

import struct
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

SECTION_HEADER_BLOCK = 0x0A0D0D0A
INTERFACE_DESCRIPTION_BLOCK = 1
INTERFACE_STATISTICS_BLOCK = 5
NAME_RESOLUTION_BLOCK = 4
ENHANCED_PACKET_BLOCK = 6
DECRYPTION_SECRETS_BLOCK = 10
#: What an enterprise has made up: one that may be copied, and one that programs which change a file shall leave out.
CUSTOM_BLOCK = 0x00000BAD
CUSTOM_BLOCK_NOT_COPIED = 0x40000BAD

BYTE_ORDER_MAGIC = 0x1A2B3C4D
#: pcap with nanoseconds in its second timestamp field.
PCAP_NANOSECOND_MAGIC = 0xA1B23C4D
PCAP_MAGIC = 0xA1B2C3D4
PCAP_HEADER_SIZE_BYTES = 24
#: ts_sec, ts_nsec, captured length, original length.
PCAP_RECORD_HEADER_SIZE_BYTES = 16
#: From a block's first byte to its packet's first byte: type, length, interface, timestamp high and low,
#: captured length, original length.
PACKET_BLOCK_HEADER_SIZE_BYTES = 28
#: The total length again, behind the padded packet.
PACKET_BLOCK_TRAILER_SIZE_BYTES = 4

_NATIVE = "<" if sys.byteorder == "little" else ">"

OPT_END = 0
OPT_COMMENT = 1
SHB_HARDWARE = 2
SHB_OS = 3
SHB_USERAPPL = 4
IF_NAME = 2
IF_DESCRIPTION = 3
IF_IPV4ADDR = 4
IF_IPV6ADDR = 5
IF_MACADDR = 6
IF_SPEED = 8
IF_TSRESOL = 9
IF_FILTER = 11
IF_OS = 12
IF_TSOFFSET = 14
IF_HARDWARE = 15
EPB_FLAGS = 2
ISB_STARTTIME = 2
ISB_ENDTIME = 3
ISB_IFRECV = 4
ISB_IFDROP = 5
ISB_FILTERACCEPT = 6
ISB_OSDROP = 7
ISB_USRDELIV = 8

#: if_tsresol for timestamps in units of 10^-9 s.
NANOSECONDS = 9

Option = tuple[int, bytes]

MAX_OPTION_BYTES = 0xFFFF


def _padded(value: bytes) -> bytes:
    return value + bytes(-len(value) % 4)


def _text(code: int, text: str | None) -> Iterator[Option]:
    """An option that stands only where there is something to say; cut where it cannot be as long."""
    if text:
        yield code, text.encode("utf-8", "surrogateescape")[:MAX_OPTION_BYTES]


def options_bytes(options: Iterable[Option]) -> bytes:
    """Options as they stand in a block, with their end; nothing for none."""
    parts = [struct.pack("=HH", code, len(value)) + _padded(value) for code, value in options]
    if parts:
        parts.append(struct.pack("=HH", OPT_END, 0))
    return b"".join(parts)


def block(block_type: int, body: bytes) -> bytes:
    """A block of any type, around what stands between its lengths: a multiple of 4 bytes."""
    length = len(body) + 12
    return struct.pack("=II", block_type, length) + body + struct.pack("=I", length)


def section_header(
    *, hardware: str = "", operating_system: str = "", application: str = "", comments: Iterable[str] = ()
) -> bytes:
    """A section header block, version 1.0, of a section whose length is not stated."""
    return section_with(
        [
            *(option for each in comments for option in _text(OPT_COMMENT, each)),
            *_text(SHB_HARDWARE, hardware),
            *_text(SHB_OS, operating_system),
            *_text(SHB_USERAPPL, application),
        ]
    )


def section_with(options: Iterable[Option]) -> bytes:
    """A section header block with these options."""
    return block(SECTION_HEADER_BLOCK, struct.pack("=IHHq", BYTE_ORDER_MAGIC, 1, 0, -1) + options_bytes(options))


def interface_description(
    *,
    linktype: int,
    snaplen_bytes: int,
    name: str = "",
    description: str = "",
    capture_filter: str = "",
    operating_system: str = "",
    hardware: str = "",
    mac_address: bytes | None = None,
    speed_bits_per_s: int | None = None,
    offset_s: int = 0,
) -> bytes:
    """An interface description block; timestamps of its packets and statistics are nanoseconds since ``offset_s``."""
    options = [*_text(IF_NAME, name), *_text(IF_DESCRIPTION, description)]
    if mac_address is not None and len(mac_address) == 6:
        options.append((IF_MACADDR, mac_address))
    if speed_bits_per_s is not None:
        options.append((IF_SPEED, struct.pack("=Q", speed_bits_per_s)))
    options.append((IF_TSRESOL, bytes((NANOSECONDS,))))
    if capture_filter:
        # Its first byte says that a libpcap expression follows.
        options.append((IF_FILTER, b"\0" + capture_filter.encode("utf-8", "surrogateescape")[: MAX_OPTION_BYTES - 1]))
    options += _text(IF_OS, operating_system)
    if offset_s:
        options.append((IF_TSOFFSET, struct.pack("=q", offset_s)))
    options += _text(IF_HARDWARE, hardware)
    return interface_with(linktype, snaplen_bytes, options)


def interface_with(linktype: int, snaplen_bytes: int, options: Iterable[Option]) -> bytes:
    """An interface description block with these options."""
    return block(INTERFACE_DESCRIPTION_BLOCK, struct.pack("=HHI", linktype, 0, snaplen_bytes) + options_bytes(options))


def timestamp_bytes(timestamp_ns: int) -> bytes:
    """A time as it stands in blocks and options: its upper half, and its lower one."""
    return struct.pack("=II", timestamp_ns >> 32, timestamp_ns & 0xFFFFFFFF)


def enhanced_packet(
    interface_id: int, timestamp_ns: int, data: bytes, original_size_bytes: int, *, flags: int = 0
) -> bytes:
    """One packet. The capture path makes the same layout in place, for all packets of a ring block at once."""
    body = struct.pack("=I", interface_id) + timestamp_bytes(timestamp_ns)
    body += struct.pack("=II", len(data), original_size_bytes) + _padded(data)
    options = options_bytes([(EPB_FLAGS, struct.pack("=I", flags))]) if flags else b""
    return block(ENHANCED_PACKET_BLOCK, body + options)


def interface_statistics(
    interface_id: int,
    *,
    timestamp_ns: int,
    start_ns: int,
    end_ns: int,
    received: int,
    dropped: int,
    delivered: int,
) -> bytes:
    """Statistics of one interface from the beginning of its capture, all times in nanoseconds.

    Args:
        interface_id: position of its description in the section.
        timestamp_ns: when the counts were taken.
        start_ns: when the capture began.
        end_ns: when the capture ended, or the counts were taken.
        received: packets that passed the filter, dropped ones among them.
        dropped: of these, the ones that the operating system lost.
        delivered: packets that were written.
    """
    # Readers add isb_osdrop to isb_ifdrop, which is the one that dumpcap writes and Wireshark shows.
    counts = ((ISB_IFRECV, received), (ISB_IFDROP, dropped), (ISB_USRDELIV, delivered))
    options = [
        (ISB_STARTTIME, timestamp_bytes(start_ns)),
        (ISB_ENDTIME, timestamp_bytes(end_ns)),
        *((code, struct.pack("=Q", count)) for code, count in counts),
    ]
    return statistics_with(interface_id, timestamp_ns, options)


def statistics_with(interface_id: int, timestamp_ns: int, options: Iterable[Option]) -> bytes:
    """An interface statistics block with these options."""
    body = struct.pack("=I", interface_id) + timestamp_bytes(timestamp_ns) + options_bytes(options)
    return block(INTERFACE_STATISTICS_BLOCK, body)


def pcap_header(
    *, linktype: int, snaplen_bytes: int, is_swapped: bool = False, units_per_s: int = 10**NANOSECONDS
) -> bytes:
    """The header of a pcap file, in this machine's byte order or the other one.

    Args:
        linktype: ``LINKTYPE_`` number.
        snaplen_bytes: no packet is longer in the file.
        is_swapped: in the other byte order.
        units_per_s: the resolution of timestamps, 10**9 or 10**6.
    """
    order = "<" if (sys.byteorder == "little") != is_swapped else ">"
    magic = PCAP_NANOSECOND_MAGIC if units_per_s == 10**NANOSECONDS else PCAP_MAGIC
    return struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snaplen_bytes, linktype)


def pcap_of_packet(packet: bytes, *, linktype: int) -> bytes:
    """A pcap file of one packet, of no known time.

    Args:
        packet: all of it.
        linktype: ``LINKTYPE_`` number.
    """
    sizes = struct.pack("=IIII", 0, 0, len(packet), len(packet))
    return pcap_header(linktype=linktype, snaplen_bytes=len(packet)) + sizes + packet


# Reading --------------------------------------------------------------------------------------------------------


class MalformedFileError(ValueError):
    """The bytes are not what the format says; the text names the place."""


class SectionHeader(NamedTuple):
    """A section begins; interface numbers begin again at 0."""

    byte_order: str
    options: tuple[Option, ...]


class InterfaceDescription(NamedTuple):
    """An interface of the section, numbered in order of appearance."""

    linktype: int
    snaplen_bytes: int
    options: tuple[Option, ...]


class EnhancedPacket(NamedTuple):
    """A packet; its timestamp counts units of its interface's if_tsresol."""

    interface_id: int
    timestamp: int
    original_size_bytes: int
    data: memoryview
    options: tuple[Option, ...]


class InterfaceStatistics(NamedTuple):
    """Counts of one interface, as options."""

    interface_id: int
    timestamp: int
    options: tuple[Option, ...]


class OtherBlock(NamedTuple):
    """A block of a type that is not read here."""

    block_type: int
    body: memoryview


Block = SectionHeader | InterfaceDescription | EnhancedPacket | InterfaceStatistics | OtherBlock


def read_options(body: memoryview, order: str) -> tuple[Option, ...]:
    """Return a block's options, as far as their end.

    Args:
        body: what is behind the block's fixed part, but for its length at the end.
        order: "<" or ">".

    Raises:
        MalformedFileError: one is longer than the block.
    """
    options: list[Option] = []
    at = 0
    while at + 4 <= len(body):
        code, length = struct.unpack_from(order + "HH", body, at)
        if code == OPT_END:
            break
        if at + 4 + length > len(body):
            raise MalformedFileError("an option is longer than its block")
        options.append((code, bytes(body[at + 4 : at + 4 + length])))
        at += 4 + length + -length % 4
    return tuple(options)


#: Of a section that can be read, (1, 2) being only another name for (1, 0).
_VERSIONS = ((1, 0), (1, 2))


def read_body(block_type: int, body: memoryview, order: str) -> Block:
    """Read what is between a block's two lengths.

    Args:
        block_type: as its first word says.
        body: packet data stay views of it.
        order: "<" or ">".

    Raises:
        MalformedFileError: it breaks the format.
    """
    try:
        return _read_body(block_type, body, order)
    except struct.error as error:
        raise _too_short(block_type, body) from error


def unpacked(block_type: int, layout: str, body: memoryview, order: str) -> tuple[int, ...]:
    """Return the numbers that a block begins with behind its length, laid out as ``struct`` says.

    Raises:
        MalformedFileError: it is too short.
    """
    try:
        return struct.unpack_from(order + layout, body)
    except struct.error as error:
        raise _too_short(block_type, body) from error


def _too_short(block_type: int, body: memoryview) -> MalformedFileError:
    text = f"a block of type {block_type:#x} with {len(body)} bytes between its lengths, too few for its type"
    return MalformedFileError(text)


def _read_body(block_type: int, body: memoryview, order: str) -> Block:
    match block_type:
        case 0x0A0D0D0A:
            _, *version, _ = struct.unpack_from(order + "IHHq", body)
            if tuple(version) not in _VERSIONS:
                raise MalformedFileError("a section of format version {}.{}; only 1.0 is known".format(*version))
            return SectionHeader(order, read_options(body[16:], order))
        case 1:
            linktype, _, snaplen = struct.unpack_from(order + "HHI", body)
            return InterfaceDescription(linktype, snaplen, read_options(body[8:], order))
        case 6:
            interface_id, high, low, captured, original = struct.unpack_from(order + "IIIII", body)
            if 20 + captured > len(body):
                raise MalformedFileError("a packet is longer than its block")
            options = read_options(body[20 + captured + -captured % 4 :], order)
            return EnhancedPacket(interface_id, high << 32 | low, original, body[20 : 20 + captured], options)
        case 5:
            interface_id, high, low = struct.unpack_from(order + "III", body)
            return InterfaceStatistics(interface_id, high << 32 | low, read_options(body[12:], order))
        case _:
            return OtherBlock(block_type, body)


def read_blocks(data: bytes | memoryview) -> Iterator[Block]:
    """Read the blocks of a pcapng file from its bytes; packet data stay views of them.

    Raises:
        MalformedFileError: at the first block that is not whole or breaks the format; the ones before it were
            given.
    """
    view = memoryview(data)
    at, order = 0, _NATIVE
    while at < len(view):
        if at + 12 > len(view):
            raise MalformedFileError(f"the file ends inside a block, at byte {at}")
        (block_type,) = struct.unpack_from(order + "I", view, at)
        if block_type == SECTION_HEADER_BLOCK:
            order = "<" if view[at + 8] == 0x4D else ">"
            if struct.unpack_from(order + "I", view, at + 8)[0] != BYTE_ORDER_MAGIC:
                raise MalformedFileError(f"no byte-order magic in the section header at byte {at}")
        (length,) = struct.unpack_from(order + "I", view, at + 4)
        if length < 12 or length % 4 or at + length > len(view):
            raise MalformedFileError(f"the block at byte {at} claims {length} bytes")
        if struct.unpack_from(order + "I", view, at + length - 4)[0] != length:
            raise MalformedFileError(f"the block at byte {at} ends with another length")
        try:
            yield read_body(block_type, view[at + 8 : at + length - 4], order)
        except MalformedFileError as error:
            raise MalformedFileError(f"at byte {at}: {error}") from error
        at += length
