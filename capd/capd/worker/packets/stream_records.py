"""File records made of packets that came in a stream, as pcap or pcapng. Pure.

Enhanced packet blocks in this machine's byte order become records where they lie: only interface and time are written
into them, and their options stay. All others are copied, header, packet and padding joined by one call.
"""

import struct
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np

from capd.worker.packets.arrays import I64, U8, U32, U64
from capd.worker.packets.packet_offsets import HIGH_HALF_FIRST
from capd.worker.packets.records import Records
from capd_protocol.batches.model import Batch
from capd_protocol.formats import pcapng

_NS_PER_S = 1_000_000_000
_HEADER_WORDS = pcapng.PACKET_BLOCK_HEADER_SIZE_BYTES // 4
_AROUND_PACKET_BYTES = pcapng.PACKET_BLOCK_HEADER_SIZE_BYTES + pcapng.PACKET_BLOCK_TRAILER_SIZE_BYTES
#: Between two packets: padding, the trailer of one block, the header of the next.
_BETWEEN_WORDS = 2 + _HEADER_WORDS
#: Of the time in a pcap record, which has 32 bits for its seconds.
_MAX_PCAP_NS = 2**32 * _NS_PER_S - 1


class UnwritableTimeError(Exception):
    """A packet is of a time that the file's format cannot say."""


class Chosen(NamedTuple):
    """Some packets of a stream, as they are to be written.

    Attributes:
        batch: they, and nothing else.
        interface_ids: for each, the number of its interface in the capture's files.
        are_native_blocks: all of them are enhanced packet blocks in this machine's byte order, in memory that may be
            written to.
    """

    batch: Batch
    interface_ids: I64
    are_native_blocks: bool


def make_records(chosen: Chosen, *, file_format: Literal["pcapng", "pcap"], snaplen_bytes: int) -> Records:
    """Return records of at least one packet, in the order in which the packets came.

    Args:
        chosen: the packets.
        file_format: of the records.
        snaplen_bytes: how much of each packet is kept.

    Raises:
        UnwritableTimeError: one is of before 1970, or in pcap of after 2106.
    """
    batch = chosen.batch
    _check_times(batch.timestamps_ns, file_format)
    is_whole = int(batch.captured_sizes.max()) <= snaplen_bytes
    if file_format == "pcapng" and chosen.are_native_blocks and is_whole:
        return _in_place(batch, chosen.interface_ids)
    captured = np.minimum(batch.captured_sizes, np.uint32(snaplen_bytes))
    made, sizes = (_pcap if file_format == "pcap" else _pcapng)(batch, captured, chosen.interface_ids)
    vectors = np.empty((len(sizes), 2), np.uint64)
    vectors[:, 0] = np.cumsum(sizes) - sizes + _address(np.frombuffer(made, np.uint8))
    vectors[:, 1] = sizes
    return Records(vectors, batch.timestamps_ns.view(np.uint64), chosen.interface_ids, [made])


def _check_times(timestamps_ns: I64, file_format: str) -> None:
    earliest_ns, latest_ns = int(timestamps_ns.min()), int(timestamps_ns.max())
    if earliest_ns < 0:
        raise UnwritableTimeError("a packet of before 1970")
    if file_format == "pcap" and latest_ns > _MAX_PCAP_NS:
        raise UnwritableTimeError("a packet of after 2106, which pcap cannot say")


def _address(data: U8) -> np.uint64:
    return np.uint64(data.ctypes.data)


def _in_place(batch: Batch, interface_ids: I64) -> Records:
    """Write into the blocks what is another here than in the stream."""
    words: U32 = batch.data[: len(batch.data) // 4 * 4].view(np.uint32)
    blocks = batch.offsets - pcapng.PACKET_BLOCK_HEADER_SIZE_BYTES
    at = blocks >> 2
    words[at + 2] = interface_ids
    halves = batch.timestamps_ns.view(np.uint32).reshape(-1, 2)[:, HIGH_HALF_FIRST]
    words[at + 3], words[at + 4] = halves[:, 0], halves[:, 1]
    vectors = np.empty((len(at), 2), np.uint64)
    vectors[:, 0] = blocks.view(np.uint64) + _address(batch.data)
    vectors[:, 1] = words[at + 1]
    return Records(vectors, batch.timestamps_ns.view(np.uint64), interface_ids, [])


def _pcapng(batch: Batch, captured: U32, interface_ids: I64) -> tuple[bytes, U64]:
    in_last_word = -captured & np.uint32(3)
    sizes = captured + in_last_word + np.uint32(_AROUND_PACKET_BYTES)
    # A row for each packet: what comes behind it, up to the next one. Before the first one there is such a row, too.
    between = np.zeros((len(sizes) + 1, _BETWEEN_WORDS), np.uint32)
    between[1:, 1] = sizes
    header = between[:-1, 2:]
    header[:, 0], header[:, 1], header[:, 2] = pcapng.ENHANCED_PACKET_BLOCK, sizes, interface_ids
    header[:, 3:5] = batch.timestamps_ns.view(np.uint32).reshape(-1, 2)[:, HIGH_HALF_FIRST]
    header[:, 5], header[:, 6] = captured, batch.original_sizes
    begins = np.arange(len(between)) * (_BETWEEN_WORDS * 4) + 4
    ends = begins + (_BETWEEN_WORDS * 4 - 4)
    begins[0] += 4
    begins[1:] -= in_last_word
    ends[-1] = begins[-1] + int(in_last_word[-1]) + 4
    pieces = map(between.view(np.uint8).reshape(-1).data.__getitem__, map(slice, begins.tolist(), ends.tolist()))
    first = next(pieces)
    return b"".join(chain((first,), chain.from_iterable(zip(_packets(batch, captured), pieces, strict=True)))), (
        sizes.astype(np.uint64)
    )


def _pcap(batch: Batch, captured: U32, _: I64) -> tuple[bytes, U64]:
    headers = np.empty((len(captured), pcapng.PCAP_RECORD_HEADER_SIZE_BYTES // 4), np.uint32)
    headers[:, 0], headers[:, 1] = np.divmod(batch.timestamps_ns, _NS_PER_S)
    headers[:, 2], headers[:, 3] = captured, batch.original_sizes
    pieces = struct.iter_unpack(f"{pcapng.PCAP_RECORD_HEADER_SIZE_BYTES}s", headers.tobytes())
    joined = chain.from_iterable(
        (header, packet) for (header,), packet in zip(pieces, _packets(batch, captured), strict=True)
    )
    return b"".join(joined), captured.astype(np.uint64) + np.uint64(pcapng.PCAP_RECORD_HEADER_SIZE_BYTES)


def _packets(batch: Batch, captured: U32) -> "map[memoryview]":
    ends = batch.offsets + captured
    return map(batch.data.data.__getitem__, map(slice, batch.offsets.tolist(), ends.tolist()))
