"""pcapng blocks. Pure: bytes of the file in, batches out."""

import struct
import sys
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capd_client.reading.model import Batch, FileInterface, FileStatistics
from capd_client.reading.record_offsets import I64, U8, U32, Damage, check_block, follow_blocks
from capd_protocol.formats import pcapng
from capd_protocol.formats.pcapng import (
    BYTE_ORDER_MAGIC,
    ENHANCED_PACKET_BLOCK,
    INTERFACE_DESCRIPTION_BLOCK,
    PACKET_BLOCK_HEADER_SIZE_BYTES,
    SECTION_HEADER_BLOCK,
)

#: Obsolete, but for its interface and drops as the enhanced one.
_PACKET_BLOCK = 2
_SIMPLE_PACKET_BLOCK = 3
#: Type, length, original length.
_SIMPLE_HEADER_SIZE_BYTES = 12
U64 = npt.NDArray[np.uint64]
_MAX_NS = 2**63 - 1
#: Which half of 64 bits in memory is the upper one.
_HIGH = 1 if sys.byteorder == "little" else 0


class _Clock(NamedTuple):
    """How timestamps of an interface are meant."""

    units_per_s: int
    offset_s: int

    def to_ns(self, units: U64) -> I64:
        """Convert, exactly (rounded down), and to the nearest time that 64 bits can say."""
        factor, rest = divmod(10**9, self.units_per_s)
        if not rest and not self.offset_s and int(units.max(initial=0)) <= _MAX_NS // factor:
            return (units * np.uint64(factor)).view(np.int64)
        exact = (each * 10**9 // self.units_per_s + self.offset_s * 10**9 for each in units.tolist())
        return np.array([max(-_MAX_NS, min(each, _MAX_NS)) for each in exact], np.int64)


class PcapngParser:
    """Knows what the file has said so far: byte order and interfaces."""

    def __init__(self) -> None:
        self.interfaces: list[FileInterface] = []
        self._clocks: list[_Clock] = []
        #: Where the interfaces of this section begin.
        self._section_begin = 0
        self._is_swapped = False

    def parse(self, data: U8, begin: int) -> tuple[list[Batch], int]:
        """Read the blocks that are whole.

        Args:
            data: a part of the file.
            begin: offset in it, in bytes, of a block. A multiple of 4.

        Returns:
            The packets, and the offset behind what was read: there may be more to read behind it, or damage.

        Raises:
            Damage: the block at ``begin`` is broken.
        """
        words = data[begin : len(data) // 4 * 4].view(np.uint32)
        if len(words) < 3:
            return [], begin
        if words[0] == SECTION_HEADER_BLOCK:
            self._is_swapped = _is_swapped(int(words[2]))
        if self._is_swapped:
            words = words.byteswap()
        positions, headers = follow_blocks(words)
        if not len(positions):
            check_block(words)
            return [], begin
        types = headers[:, 0]
        end = int(positions[-1]) * 4 + int(headers[-1, 1])
        changes = np.flatnonzero((types == SECTION_HEADER_BLOCK) | (types == INTERFACE_DESCRIPTION_BLOCK))
        borders = [0, *changes[changes > 0].tolist(), len(positions)]
        batches: list[Batch] = []
        for first, last in pairwise(borders):
            batch, stop = self._parse_stretch(data, begin, positions[first:last], headers[first:last])
            if len(batch.offsets):
                batches.append(batch)
            if stop is not None:
                end = stop
                break
        return batches, begin + end

    def _parse_stretch(self, data: U8, begin: int, positions: I64, headers: U32) -> tuple[Batch, int | None]:
        """Read blocks of which only the first may change how the others are read; also tell where one is broken."""
        stop: int | None = None
        types = headers[:, 0]
        is_packet = (types == ENHANCED_PACKET_BLOCK) | (types == _SIMPLE_PACKET_BLOCK) | (types == _PACKET_BLOCK)
        if not is_packet.all():
            stop = self._parse_others(data[begin:], positions[~is_packet], headers[~is_packet])
            if stop is not None:
                is_packet &= positions < stop // 4
            positions, headers = positions[is_packet], headers[is_packet]
        headers, header_sizes, is_right = self._as_enhanced(headers)
        if not is_right.all():
            wrong = int(np.argmin(is_right))
            stop = int(positions[wrong]) * 4
            if stop == 0:
                raise Damage(0, self._complaint(headers[wrong]))
            positions, headers, header_sizes = positions[:wrong], headers[:wrong], header_sizes[:wrong]
        ids = headers[:, 2] + np.uint32(self._section_begin)
        units = np.empty(len(headers), np.uint64)
        halves = units.view(np.uint32).reshape(-1, 2)
        halves[:, _HIGH], halves[:, 1 - _HIGH] = headers[:, 3], headers[:, 4]
        offsets = positions * 4
        offsets += header_sizes
        offsets += begin
        batch = Batch(self._to_ns(units, ids), ids, headers[:, 5].copy(), headers[:, 6].copy(), offsets, data)
        return batch, stop

    def _as_enhanced(self, headers: U32) -> tuple[U32, I64, npt.NDArray[np.bool_]]:
        """Return the headers of packets as those of enhanced blocks, their true sizes, and which of them can be."""
        interfaces = len(self.interfaces) - self._section_begin
        types, lengths = headers[:, 0], headers[:, 1]
        if (types == ENHANCED_PACKET_BLOCK).all() and lengths.min(initial=32) >= 32:
            # The usual case, for which the rest would take as long again.
            header_sizes = np.broadcast_to(np.int64(PACKET_BLOCK_HEADER_SIZE_BYTES), len(headers))
            return headers, header_sizes, (headers[:, 5] <= lengths - np.uint32(32)) & (headers[:, 2] < interfaces)
        is_simple = types == _SIMPLE_PACKET_BLOCK
        header_sizes = np.where(is_simple, _SIMPLE_HEADER_SIZE_BYTES, PACKET_BLOCK_HEADER_SIZE_BYTES)
        room = lengths.astype(np.int64) - header_sizes - 4
        fields = headers.copy()
        old = types == _PACKET_BLOCK
        is_little = (sys.byteorder == "little") != self._is_swapped
        fields[old, 2] = fields[old, 2] & 0xFFFF if is_little else fields[old, 2] >> 16
        if is_simple.any() and interfaces:
            snaplen = self.interfaces[self._section_begin].snaplen_bytes or 0xFFFFFFFF
            fields[is_simple, 6] = headers[is_simple, 2]
            fields[is_simple, 5] = np.minimum(fields[is_simple, 6], snaplen)
        fields[is_simple, 2:5] = 0
        return fields, header_sizes, (room >= 0) & (fields[:, 5] <= room) & (fields[:, 2] < interfaces)

    def _complaint(self, fields: U32) -> str:
        if fields[2] >= len(self.interfaces) - self._section_begin:
            return f"a packet of interface {fields[2]}, which is not described"
        return f"a packet of {fields[5]} bytes, which is longer than its block"

    def _to_ns(self, units: U64, ids: U32) -> I64:
        clocks = self._clocks[self._section_begin :]
        if clocks and clocks.count(clocks[0]) == len(clocks):
            return clocks[0].to_ns(units)
        result = np.empty(len(units), np.int64)
        for each in range(self._section_begin, len(self._clocks)):
            mine = ids == each
            result[mine] = self._clocks[each].to_ns(units[mine])
        return result

    def _parse_others(self, data: U8, positions: I64, headers: U32) -> int | None:
        """Read blocks that are no packets; return the offset of one that is broken."""
        for position, block_type, length in zip(
            positions.tolist(), headers[:, 0].tolist(), headers[:, 1].tolist(), strict=True
        ):
            at = int(position) * 4
            try:
                self._parse_other(block_type, data[at + 8 : at + length - 4].data)
            except (pcapng.MalformedFileError, struct.error) as error:
                if at == 0:
                    raise Damage(0, str(error)) from error
                return at
        return None

    def _parse_other(self, block_type: int, body: memoryview) -> None:
        order = ">" if (sys.byteorder == "little") == self._is_swapped else "<"
        match block_type:
            case pcapng.SECTION_HEADER_BLOCK:
                pcapng.read_body(block_type, body, order)  # for its complaints
                self._section_begin = len(self.interfaces)
            case pcapng.INTERFACE_DESCRIPTION_BLOCK:
                block = pcapng.read_body(block_type, body, order)
                assert isinstance(block, pcapng.InterfaceDescription)
                self._describe(block, order)
            case pcapng.INTERFACE_STATISTICS_BLOCK:
                block = pcapng.read_body(block_type, body, order)
                assert isinstance(block, pcapng.InterfaceStatistics)
                self._count(block, order)
            case _:
                pass

    def _describe(self, block: pcapng.InterfaceDescription, order: str) -> None:
        options = dict(block.options)
        resolution = options.get(pcapng.IF_TSRESOL, b"\x06")[0]
        units_per_s = int(2 ** (resolution & 0x7F)) if resolution & 0x80 else int(10**resolution)
        offset_s = options.get(pcapng.IF_TSOFFSET)
        self._clocks.append(_Clock(units_per_s, struct.unpack(order + "q", offset_s)[0] if offset_s else 0))
        name, text = options.get(pcapng.IF_NAME), options.get(pcapng.IF_FILTER, b"")
        self.interfaces.append(
            FileInterface(
                name.decode("utf-8", "surrogateescape") if name else None,
                block.linktype,
                block.snaplen_bytes,
                units_per_s,
                # 0 says that libpcap's language follows; of the others, none is text.
                text[1:].decode("utf-8", "replace") if text[:1] == b"\0" else None,
            )
        )

    def _count(self, block: pcapng.InterfaceStatistics, order: str) -> None:
        place = self._section_begin + block.interface_id
        if place >= len(self.interfaces):
            raise pcapng.MalformedFileError(f"statistics of interface {block.interface_id}, which is not described")
        options = dict(block.options)

        def number(code: int) -> int | None:
            return struct.unpack(order + "Q", options[code])[0] if code in options else None

        def time_ns(code: int) -> int | None:
            if code not in options:
                return None
            high, low = struct.unpack(order + "II", options[code])
            return int(self._clocks[place].to_ns(np.array([high << 32 | low], np.uint64))[0])

        drops = [each for each in (number(pcapng.ISB_IFDROP), number(pcapng.ISB_OSDROP)) if each is not None]
        statistics = FileStatistics(
            number(pcapng.ISB_IFRECV),
            # Writers that know only one number say it twice.
            max(drops, default=None),
            number(pcapng.ISB_USRDELIV),
            time_ns(pcapng.ISB_STARTTIME),
            time_ns(pcapng.ISB_ENDTIME),
        )
        self.interfaces[place] = self.interfaces[place]._replace(statistics=statistics)


def _is_swapped(magic: int) -> bool:
    if magic == BYTE_ORDER_MAGIC:
        return False
    if magic == int.from_bytes(BYTE_ORDER_MAGIC.to_bytes(4, "little"), "big"):
        return True
    raise Damage(8, "no byte-order magic in the section header")
