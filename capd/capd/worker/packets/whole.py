"""What is whole of a capture file whose writer was killed: where its last record ends, and which packets are before.

Only what this program writes is known: another kind of block ends the file, and so does what is left of the file that
it was written over (``output.recycling``).
"""

import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from capd.worker.packets.arrays import I64, U32, U64
from capd_protocol.formats.pcapng import (
    BYTE_ORDER_MAGIC,
    ENHANCED_PACKET_BLOCK,
    INTERFACE_DESCRIPTION_BLOCK,
    INTERFACE_STATISTICS_BLOCK,
    PCAP_HEADER_SIZE_BYTES,
    PCAP_NANOSECOND_MAGIC,
    PCAP_RECORD_HEADER_SIZE_BYTES,
    SECTION_HEADER_BLOCK,
)

#: No record is longer: readers take no larger ones (libpcap, Wireshark).
_LONGEST_BYTES = 16 * 1024 * 1024
#: Behind the section header.
_BLOCKS = (INTERFACE_DESCRIPTION_BLOCK, ENHANCED_PACKET_BLOCK, INTERFACE_STATISTICS_BLOCK)
#: Type, length, length again.
_SMALLEST_BLOCK_BYTES = 12
#: A packet's block without the packet.
_PACKET_OVERHEAD_BYTES = 32
#: Of pcap: seconds, nanoseconds, captured length, original length.
_RECORD_HEADER = struct.Struct("=IIII")
_NS = 1_000_000_000


class Whole(NamedTuple):
    """What is whole of a file.

    Attributes:
        size_bytes: up to the end of its last whole record.
        packets: how many are before that.
        first_ns: when the earliest of them came; None: there is none.
        last_ns: when the latest did.
    """

    size_bytes: int
    packets: int
    first_ns: int | None
    last_ns: int | None


class _Found(NamedTuple):
    """What is whole of some bytes of a file."""

    end: int
    times_ns: U64
    #: Nothing behind it is, whatever comes.
    is_over: bool


def whole_of(parts: Iterable[bytes]) -> Whole | None:
    """Find out what is whole of a file, pcapng or pcap with nanoseconds, in this machine's byte order.

    Args:
        parts: its bytes, in order. No more are taken than are needed.

    Returns:
        What is whole; None: it does not begin as a file of ours.
    """
    size_bytes, packets, rest = 0, 0, b""
    times_ns: list[int] = []
    find: Callable[[bytes], _Found] | None = None
    for part in parts:
        rest += part
        if find is None:
            begin_bytes, find = _begin(rest)
            if find is None:
                return None
            size_bytes, rest = begin_bytes, rest[begin_bytes:]
        found = find(rest)
        size_bytes += found.end
        packets += len(found.times_ns)
        if len(found.times_ns):
            times_ns += int(found.times_ns.min()), int(found.times_ns.max())
        rest = rest[found.end :]
        if found.is_over:
            break
    if find is None:
        return None
    return Whole(size_bytes, packets, min(times_ns, default=None), max(times_ns, default=None))


def _begin(data: bytes) -> tuple[int, Callable[[bytes], _Found] | None]:
    """Return the size of the header that a file begins with, and what finds the records behind it."""
    words = np.frombuffer(data[:PCAP_HEADER_SIZE_BYTES], np.uint32, min(len(data), PCAP_HEADER_SIZE_BYTES) // 4)
    if len(words) < PCAP_HEADER_SIZE_BYTES // 4:
        return 0, None
    if words[0] == PCAP_NANOSECOND_MAGIC:
        return PCAP_HEADER_SIZE_BYTES, _records
    size_bytes = int(words[1])
    if words[0] != SECTION_HEADER_BLOCK or words[2] != BYTE_ORDER_MAGIC or size_bytes > len(data) or size_bytes % 4:
        return 0, None
    return size_bytes, _blocks


def _blocks(data: bytes) -> _Found:
    """Find blocks of pcapng."""
    words = np.frombuffer(data, np.uint32, len(data) // 4)
    memory, limit, at, is_over = words.data, len(words), 0, False
    begins: list[int] = []
    while at + 2 <= limit:
        length = memory[at + 1]
        after = at + (length >> 2)
        if length & 3 or not _SMALLEST_BLOCK_BYTES <= length <= _LONGEST_BYTES or memory[at] not in _BLOCKS:
            is_over = True
            break
        if after > limit:
            break
        if memory[after - 1] != length:
            is_over = True
            break
        begins.append(at)
        at = after
    blocks = np.array(begins, np.int64)
    packets = blocks[words[blocks] == ENHANCED_PACKET_BLOCK]
    longer = np.flatnonzero(~_holds_packet(words, packets))
    if len(longer):
        at, is_over = int(packets[longer[0]]), True
        packets = packets[: longer[0]]
    times_ns = words[packets + 3].astype(np.uint64) << np.uint64(32) | words[packets + 4]
    return _Found(at * 4, times_ns, is_over)


def _holds_packet(words: U32, packets: I64) -> np.ndarray:
    """Whether a packet is as long as its block says, of each."""
    captured_bytes = words.take(packets + 5, mode="clip").astype(np.int64)
    return captured_bytes + _PACKET_OVERHEAD_BYTES <= words[packets + 1]


def _records(data: bytes) -> _Found:
    """Find records of pcap."""
    times_ns: list[int] = []
    at, is_over, unpack_from = 0, False, _RECORD_HEADER.unpack_from
    while at + PCAP_RECORD_HEADER_SIZE_BYTES <= len(data):
        seconds, nanoseconds, captured_bytes, original_bytes = unpack_from(data, at)
        if nanoseconds >= _NS or captured_bytes > min(original_bytes, _LONGEST_BYTES):
            is_over = True
            break
        after = at + PCAP_RECORD_HEADER_SIZE_BYTES + captured_bytes
        if after > len(data):
            break
        times_ns.append(seconds * _NS + nanoseconds)
        at = after
    return _Found(at, np.array(times_ns, np.uint64), is_over)
