"""The pcapng blocks that a module's packets become. Pure."""

import struct
from collections.abc import Sequence

from capd_client.modules.contract import Packet, Statistics
from capd_protocol.formats.pcapng import (
    ENHANCED_PACKET_BLOCK,
    PACKET_BLOCK_HEADER_SIZE_BYTES,
    PACKET_BLOCK_TRAILER_SIZE_BYTES,
    enhanced_packet,
    interface_description,
    interface_statistics,
    section_header,
)

#: Of a block that has no options.
_AROUND_BYTES = PACKET_BLOCK_HEADER_SIZE_BYTES + PACKET_BLOCK_TRAILER_SIZE_BYTES
_HEADER = struct.Struct("=IIIIIII")
#: Padding and the length again, by how much padding there is.
_TRAILERS = tuple(struct.Struct(f"={padding}xI").pack for padding in range(4))
_WORD = 0xFFFFFFFF


def beginning(linktype: int, snaplen_bytes: int) -> bytes:
    """Return what a stream of one interface begins with. It has no name: capd calls it by that of the stream."""
    return section_header() + interface_description(linktype=linktype, snaplen_bytes=snaplen_bytes)


def packet_blocks(packets: Sequence[Packet], snaplen_bytes: int) -> bytes:
    """Return packets as blocks. Done for each of them, and so without a call where none is needed."""
    parts: list[bytes] = []
    for timestamp_ns, data, original_size_bytes, flags in packets:
        kept = data if len(data) <= snaplen_bytes else data[:snaplen_bytes]
        if flags:
            parts.append(enhanced_packet(0, timestamp_ns, kept, original_size_bytes, flags=flags))
            continue
        size = len(kept)
        padding = -size % 4
        length = size + padding + _AROUND_BYTES
        high, low = timestamp_ns >> 32, timestamp_ns & _WORD
        header = _HEADER.pack(ENHANCED_PACKET_BLOCK, length, 0, high, low, size, original_size_bytes)
        parts += (header, kept, _TRAILERS[padding](length))
    return b"".join(parts)


def statistics_block(counts: Statistics, began_ns: int, now_ns: int) -> bytes:
    """Return the counts since the beginning."""
    return interface_statistics(
        0,
        timestamp_ns=now_ns,
        start_ns=began_ns,
        end_ns=now_ns,
        received=counts.received,
        dropped=counts.dropped,
        delivered=counts.received - counts.dropped,
    )
