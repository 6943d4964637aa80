"""Fast path for blocks whose packets all have one size: records by copying, side by side.

A flood, or the acknowledgements of a download, has so many small packets of one size that the cost of each matters.
numpy copies them as one column; headers and padding are the same for all, and so are there already. The kernel would
take longer to gather them from where they lie; and the ring is only read, while memory that was written to must come
back to the processor that receives.
"""

from typing import Literal, NamedTuple

import numpy as np

from capd.worker.packets.arrays import U8, U32, U64
from capd.worker.packets.blocks import Block
from capd.worker.packets.packet_offsets import (
    CAPTURED,
    LOW_HALF,
    MAC_AND_NET,
    ORIGINAL,
    VLAN_TCI,
    FrameFinder,
    read_times,
    tagged,
)
from capd_protocol.batches.records import HIGH_HALF_FIRST
from capd_protocol.formats import pcapng

#: Larger packets stay where they are. Measured: at 576 bytes copying saves a tenth, at 1500 it costs a tenth.
_LARGEST_BYTES = 768
#: Fewer packets are not worth it: what is done once takes as long as some hundred of them.
_FEWEST = 256
#: The pairs of words of a frame's header, from ORIGINAL on, that are the same in packets that are alike.
_PAIRS = (ORIGINAL // 2, MAC_AND_NET // 2, VLAN_TCI // 2)
_NS_PER_S = np.uint64(1_000_000_000)


class Kind(NamedTuple):
    """What packets have in common."""

    captured_bytes: int
    original_bytes: int
    #: From a frame's beginning to the packet's.
    offset_bytes: int
    #: All that the kernel says of each.
    pairs: tuple[int, ...]


class Buffer:
    """Records of packets of one kind, one behind the other, all but times and packets filled in."""

    def __init__(self, kind: Kind, count: int, file_format: Literal["pcapng", "pcap"], interface_id: int) -> None:
        """Lay out so many records."""
        self.kind = kind
        fields = _pcap_fields(kind) if file_format == "pcap" else _pcapng_fields(kind, interface_id)
        layout = np.dtype([(name, form) for name, form, _ in fields])
        whole = np.dtype(f"V{layout.itemsize}")
        self.records = np.empty(count, layout)
        self.records.view(whole)[:] = np.array([tuple(value for _, _, value in fields)], layout).view(whole)
        begin, size_bytes = self.records.ctypes.data, layout.itemsize
        #: A row (address, size in bytes) for each.
        self.vectors = np.empty((count, 2), np.uint64)
        self.vectors[:, 0] = np.arange(begin, begin + count * size_bytes, size_bytes)
        self.vectors[:, 1] = size_bytes

    def set_times(self, part: slice, timestamps_ns: U64) -> None:
        """Fill in when packets came."""
        records = self.records
        if "seconds" in (records.dtype.names or ()):
            records["seconds"][part], records["nanoseconds"][part] = np.divmod(timestamps_ns, _NS_PER_S)
        else:
            halves = timestamps_ns.view(np.uint32).reshape(-1, 2)[:, HIGH_HALF_FIRST]
            records["high"][part], records["low"][part] = halves[:, 0], halves[:, 1]


def _pcapng_fields(kind: Kind, interface_id: int) -> list[tuple[str, str, int | bytes]]:
    """Return name, form and value of the fields of an enhanced packet block."""
    padding_bytes = -kind.captured_bytes % 4
    around_bytes = pcapng.PACKET_BLOCK_HEADER_SIZE_BYTES + pcapng.PACKET_BLOCK_TRAILER_SIZE_BYTES
    size_bytes = kind.captured_bytes + padding_bytes + around_bytes
    return [
        ("type", "u4", pcapng.ENHANCED_PACKET_BLOCK),
        ("size", "u4", size_bytes),
        ("interface_id", "u4", interface_id),
        ("high", "u4", 0),
        ("low", "u4", 0),
        ("captured", "u4", kind.captured_bytes),
        ("original", "u4", kind.original_bytes),
        ("packet", f"V{kind.captured_bytes}", b""),
        ("padding", f"V{padding_bytes}", b""),
        ("size_again", "u4", size_bytes),
    ]


def _pcap_fields(kind: Kind) -> list[tuple[str, str, int | bytes]]:
    return [
        ("seconds", "u4", 0),
        ("nanoseconds", "u4", 0),
        ("captured", "u4", kind.captured_bytes),
        ("original", "u4", kind.original_bytes),
        ("packet", f"V{kind.captured_bytes}", b""),
    ]


class RunCopier:
    """Copies the packets of one ring."""

    def __init__(
        self,
        *,
        memory: U8,
        finder: FrameFinder,
        file_format: Literal["pcapng", "pcap"],
        interface_id: int,
        snaplen_bytes: int,
    ) -> None:
        """Nothing is read yet. ``memory`` is the ring's; the other arguments are those of ``RecordMaker``."""
        self._memory = memory
        self._finder = finder
        self._file_format: Literal["pcapng", "pcap"] = file_format
        self._interface_id = interface_id
        self._snaplen_bytes = snaplen_bytes
        self._spare: Buffer | None = None

    def copy(self, blocks: tuple[Block, ...]) -> tuple[Buffer, U64] | None:
        """Return records of all packets of these blocks, and their timestamps; None if they are not alike.

        The buffer may be longer. It is the caller's until it is given back.
        """
        count = sum(block.packets for block in blocks)
        # Asked first: large packets of one size are a usual case, and their headers need not be read for this.
        if count < _FEWEST or self._kept_bytes(self._finder.first_captured_bytes(blocks[0])) > _LARGEST_BYTES:
            return None
        steps = [step for block in blocks if (step := self._finder.distance(block)) is not None]
        if len(steps) < len(blocks):
            return None
        buffer: Buffer | None = None
        timestamps_ns = np.empty(count, np.uint64)
        at = 0
        for block, step in zip(blocks, steps, strict=True):
            headers = self._finder.headers(block, step)
            kind = self._kind_of(headers) if headers is not None else None
            if headers is None or kind is None or (buffer is not None and kind != buffer.kind):
                return None
            if buffer is None:
                buffer = self._buffer(kind, count)
            part = slice(at, at + block.packets)
            read_times(headers, timestamps_ns[part])
            buffer.set_times(part, timestamps_ns[part])
            first_byte = block.first * 4 + kind.offset_bytes
            form = np.dtype(f"V{kind.captured_bytes}")
            packets = np.ndarray((block.packets,), form, self._memory.data, first_byte, (step * 4,))
            buffer.records["packet"][part] = packets
            at += block.packets
        return (buffer, timestamps_ns) if buffer is not None else None

    def give_back(self, buffer: Buffer) -> None:
        """Take back records that are written, to write others over them."""
        self._spare = buffer

    def _kept_bytes(self, captured_bytes: int) -> int:
        return min(captured_bytes, self._snaplen_bytes)

    def _kind_of(self, headers: U32) -> Kind | None:
        """Return what kind of packets they are, if all are of one that is worth copying."""
        first: list[int] = headers[0].tolist()
        captured_bytes = self._kept_bytes(first[CAPTURED])
        if not 0 < captured_bytes <= _LARGEST_BYTES or len(tagged(headers[:1])):
            return None
        pairs = headers.view(np.uint64)
        values: list[int] = pairs[0, _PAIRS].tolist()
        is_one = (headers[:, CAPTURED] == first[CAPTURED]).all() and all(
            (pairs[:, pair] == value).all() for pair, value in zip(_PAIRS, pairs[0, _PAIRS], strict=True)
        )
        offset_bytes = first[MAC_AND_NET] >> LOW_HALF & 0xFFFF
        return Kind(captured_bytes, first[ORIGINAL], offset_bytes, tuple(values)) if is_one else None

    def _buffer(self, kind: Kind, count: int) -> Buffer:
        buffer, self._spare = self._spare, None
        if buffer is None or buffer.kind != kind or len(buffer.records) < count:
            # Somewhat longer, as the next ones may be a few more.
            buffer = Buffer(kind, count + count // 8, self._file_format, self._interface_id)
        return buffer
