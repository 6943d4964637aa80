"""File records made of packets: headers, packets, options and padding, joined or as parts to be gathered. Pure."""

import struct
import sys
from collections.abc import Iterable
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from capd_protocol.batches.packet_options import OptionColumn
from capd_protocol.batches.record_offsets import I64, U8, U32
from capd_protocol.formats import pcapng

U64 = npt.NDArray[np.uint64]

#: Of the halves of a 64-bit timestamp, the high one comes first.
HIGH_HALF_FIRST = slice(None, None, -1 if sys.byteorder == "little" else 1)
_NS_PER_S = 1_000_000_000
_HEADER_WORDS = pcapng.PACKET_BLOCK_HEADER_SIZE_BYTES // 4
_AROUND_PACKET_BYTES = pcapng.PACKET_BLOCK_HEADER_SIZE_BYTES + pcapng.PACKET_BLOCK_TRAILER_SIZE_BYTES
#: The option with a packet's flags, without its value; and the end of options.
_FLAGS_OPTION = int(np.frombuffer(struct.pack("=HH", pcapng.EPB_FLAGS, 4), np.uint32)[0])
_FLAGS_WORDS = 3


class Copied(NamedTuple):
    """Records, one behind the other.

    Attributes:
        data: all of them.
        vectors: address and size in bytes of each, as struct iovec.
    """

    data: bytes
    vectors: U64


class Packets(NamedTuple):
    """Packets in memory; arrays with an element for each.

    Attributes:
        data: the memory.
        offsets: where in it each begins.
        captured_sizes: how much of each is kept.
        original_sizes: how long it was.
        timestamps_ns: when it came.
        interface_ids: the numbers of their interfaces in a pcapng file, or of all of them.
        flags: as the option ``epb_flags`` has them; None: not written. Only of records that are copied.
        options: in this machine's byte order, whole ones; None: not written. Only of records that are gathered.
    """

    data: U8
    offsets: I64
    captured_sizes: U32
    original_sizes: U32
    timestamps_ns: U64
    interface_ids: int | I64
    flags: U32 | None = None
    options: OptionColumn | None = None


class Gathered(NamedTuple):
    """Records in parts: what stands before each packet, the packet where it lies, and what stands behind it.

    Attributes:
        vectors: address and size in bytes of each part, as struct iovec; for each record a row of parts.
        sizes: of the records.
        held: what has the parts that are not the packets.
    """

    vectors: U64
    sizes: U64
    held: tuple[U32 | U8, ...]


def gathered_records(
    packets: Packets, file_format: Literal["pcapng", "pcap"], *, units_per_s: int = _NS_PER_S
) -> Gathered:
    """Return the records of at least one packet, in the same order.

    Args:
        packets: these; their memory stays where it is.
        file_format: of the records.
        units_per_s: the resolution of timestamps in pcap: 10**9 or 10**6. In pcapng they are nanoseconds.
    """
    captured = packets.captured_sizes.astype(np.uint64)
    heads = _pcap_headers(packets, _NS_PER_S // units_per_s) if file_format == "pcap" else _pcapng_headers(packets)
    options = packets.options
    parts = 2 if file_format == "pcap" else 3 if options is None else 5
    vectors = np.empty((len(captured), parts, 2), np.uint64)
    vectors[:, 0, 0], vectors[:, 0, 1] = _addresses(heads), heads.shape[1] * 4
    vectors[:, 1, 0] = packets.offsets.astype(np.uint64) + np.uint64(packets.data.ctypes.data)
    vectors[:, 1, 1] = captured
    if file_format == "pcap":
        return Gathered(vectors, captured + np.uint64(heads.shape[1] * 4), (heads,))
    # Padding, and the length again.
    ends = np.zeros((len(captured), 2), np.uint32)
    ends[:, 1] = heads[:, 1]
    padding = -captured & np.uint64(3)
    vectors[:, 2, 0] = _addresses(ends) + np.uint64(4) - padding
    vectors[:, 2, 1] = padding + np.uint64(4)
    if options is None:
        return Gathered(vectors, heads[:, 1].astype(np.uint64), (heads, ends))
    vectors[:, 2, 1] = padding
    vectors[:, 3, 0] = options.offsets.astype(np.uint64) + np.uint64(options.data.ctypes.data)
    vectors[:, 3, 1] = options.sizes
    vectors[:, 4, 0], vectors[:, 4, 1] = _addresses(ends) + np.uint64(4), 4
    return Gathered(vectors, heads[:, 1].astype(np.uint64), (heads, ends, options.data))


def _addresses(rows: U32) -> U64:
    return np.arange(len(rows), dtype=np.uint64) * np.uint64(rows.strides[0]) + np.uint64(rows.ctypes.data)


def _option_words(packets: Packets) -> int:
    return 0 if packets.flags is None else _FLAGS_WORDS


def _pcapng_headers(packets: Packets) -> U32:
    captured = packets.captured_sizes
    sizes = captured + (-captured & np.uint32(3)) + np.uint32(_AROUND_PACKET_BYTES)
    if packets.options is not None:
        sizes = sizes + packets.options.sizes
    heads = np.empty((len(captured), _HEADER_WORDS), np.uint32)
    _fill_pcapng_headers(heads, packets, sizes)
    return heads


def _fill_pcapng_headers(heads: U32, packets: Packets, sizes: U32) -> None:
    heads[:, 0], heads[:, 1], heads[:, 2] = pcapng.ENHANCED_PACKET_BLOCK, sizes, packets.interface_ids
    heads[:, 3:5] = packets.timestamps_ns.view(np.uint32).reshape(-1, 2)[:, HIGH_HALF_FIRST]
    heads[:, 5], heads[:, 6] = packets.captured_sizes, packets.original_sizes


def _pcap_headers(packets: Packets, unit_ns: int) -> U32:
    heads = np.empty((len(packets.captured_sizes), pcapng.PCAP_RECORD_HEADER_SIZE_BYTES // 4), np.uint32)
    heads[:, 0], nanoseconds = np.divmod(packets.timestamps_ns, np.uint64(_NS_PER_S))
    heads[:, 1] = nanoseconds // np.uint64(unit_ns)
    heads[:, 2], heads[:, 3] = packets.captured_sizes, packets.original_sizes
    return heads


def copied_records(packets: Packets, file_format: Literal["pcapng", "pcap"]) -> Copied:
    """Return the records of at least one packet, in the same order, with nanoseconds."""
    data, sizes = _pcap(packets) if file_format == "pcap" else _pcapng(packets)
    vectors = np.empty((len(sizes), 2), np.uint64)
    vectors[:, 0] = np.cumsum(sizes) - sizes + np.uint64(np.frombuffer(data, np.uint8).ctypes.data)
    vectors[:, 1] = sizes
    return Copied(data, vectors)


def _pcapng(packets: Packets) -> tuple[bytes, U64]:
    captured = packets.captured_sizes
    in_last_word = -captured & np.uint32(3)
    option_words = _option_words(packets)
    sizes = captured + in_last_word + np.uint32(_AROUND_PACKET_BYTES + 4 * option_words)
    # A row for each packet: what comes behind it, up to the next one: padding, options, the trailer, and the header of
    # the next. Before the first one there is such a row, too.
    between = np.zeros((len(sizes) + 1, 1 + option_words + 1 + _HEADER_WORDS), np.uint32)
    trailer = 1 + option_words
    if packets.flags is not None:
        between[1:, 1], between[1:, 2] = _FLAGS_OPTION, packets.flags
    between[1:, trailer] = sizes
    header = between[:-1, trailer + 1 :]
    _fill_pcapng_headers(header, packets, sizes)
    row_bytes = between.shape[1] * 4
    begins = np.arange(len(between)) * row_bytes + 4
    ends = begins + (row_bytes - 4)
    begins[0] += 4 * trailer
    begins[1:] -= in_last_word
    ends[-1] -= 4 * _HEADER_WORDS
    parts = map(between.view(np.uint8).reshape(-1).data.__getitem__, map(slice, begins.tolist(), ends.tolist()))
    first = next(parts)
    data = b"".join(chain((first,), chain.from_iterable(zip(_bytes_of(packets), parts, strict=True))))
    return data, sizes.astype(np.uint64)


def _pcap(packets: Packets) -> tuple[bytes, U64]:
    captured, size_bytes = packets.captured_sizes, pcapng.PCAP_RECORD_HEADER_SIZE_BYTES
    parts = (header for (header,) in struct.iter_unpack(f"{size_bytes}s", _pcap_headers(packets, 1).tobytes()))
    data = b"".join(chain.from_iterable(zip(parts, _bytes_of(packets), strict=True)))
    return data, captured.astype(np.uint64) + np.uint64(size_bytes)


def _bytes_of(packets: Packets) -> Iterable[memoryview]:
    ends = packets.offsets + packets.captured_sizes
    return map(packets.data.data.__getitem__, map(slice, packets.offsets.tolist(), ends.tolist()))
