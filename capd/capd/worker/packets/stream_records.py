"""File records made of packets that came in a stream, as pcap or pcapng. Pure.

Enhanced packet blocks in this machine's byte order become records where they lie: only interface and time are written
into them, and their options stay. All others are copied.
"""

from typing import Literal, NamedTuple

import numpy as np

from capd.worker.packets.arrays import I64, U8, U32
from capd.worker.packets.records import Records
from capd_protocol.batches.model import Batch
from capd_protocol.batches.records import HIGH_HALF_FIRST, Packets, copied_records
from capd_protocol.formats import pcapng

_NS_PER_S = 1_000_000_000
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
    packets = Packets(
        batch.data,
        batch.offsets,
        np.minimum(batch.captured_sizes, np.uint32(snaplen_bytes)),
        batch.original_sizes,
        batch.timestamps_ns.view(np.uint64),
        chosen.interface_ids,
    )
    made = copied_records(packets, file_format)
    return Records(made.vectors, packets.timestamps_ns, chosen.interface_ids, [made.data])


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
