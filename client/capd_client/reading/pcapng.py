"""What the blocks of a pcapng file say. Pure: bytes of the file in, batches out."""

import struct
import sys
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capd_client.reading.chain import I64, U8, U32, Damage, check_block, follow_blocks, headers
from capd_client.reading.model import Batch, FileInterface, FileStatistics
from capd_protocol import pcapng
from capd_protocol.pcapng import (
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
        positions = follow_blocks(words)
        if not len(positions):
            check_block(words)
            return [], begin
        types = words[positions]
        stretches = np.flatnonzero((types == SECTION_HEADER_BLOCK) | (types == INTERFACE_DESCRIPTION_BLOCK))
        borders = [0, *stretches[stretches > 0].tolist(), len(positions)]
        batches: list[Batch] = []
        for first, last in pairwise(borders):
            stretch = positions[first:last]
            batch, end = self._parse_stretch(data, begin, words, stretch, types[first:last])
            if len(batch.offsets):
                batches.append(batch)
            if end is not None:
                return batches, begin + end
        return batches, begin + _end_of(words, int(positions[-1]))

    def _parse_stretch(self, data: U8, begin: int, words: U32, positions: I64, types: U32) -> tuple[Batch, int | None]:
        """Read blocks of which only the first may change how the others are read; also tell where one is broken."""
        end: int | None = None
        is_enhanced = (types == ENHANCED_PACKET_BLOCK) | (types == _PACKET_BLOCK)
        is_packet = is_enhanced | (types == _SIMPLE_PACKET_BLOCK)
        for index in np.flatnonzero(~is_packet).tolist():
            at = int(positions[index])
            body = data[begin + at * 4 + 8 : begin + _end_of(words, at) - 4]
            try:
                self._parse_other(int(types[index]), body.data)
            except (pcapng.MalformedFileError, struct.error) as error:
                if at == 0:
                    raise Damage(0, str(error)) from error
                end = at * 4
                break
        cut = int(np.searchsorted(positions, end // 4)) if end is not None else len(positions)
        positions, types, is_packet = positions[:cut], types[:cut], is_packet[:cut]
        if not is_packet.all():
            positions, types = positions[is_packet], types[is_packet]
        fields, is_right = self._fields(words, positions, types)
        if not is_right.all():
            wrong = int(np.argmin(is_right))
            if positions[wrong] == 0:
                raise Damage(0, self._complaint(fields[wrong]))
            end = int(positions[wrong]) * 4
            positions, types, fields = positions[:wrong], types[:wrong], fields[:wrong]
        header_sizes = np.where(
            types == _SIMPLE_PACKET_BLOCK, _SIMPLE_HEADER_SIZE_BYTES, PACKET_BLOCK_HEADER_SIZE_BYTES
        )
        ids = fields[:, 2] + np.uint32(self._section_begin)
        units = fields[:, 3].astype(np.uint64) << np.uint64(32) | fields[:, 4]
        offsets = positions * 4 + header_sizes + begin
        batch = Batch(self._to_ns(units, ids), ids, fields[:, 5].copy(), fields[:, 6].copy(), offsets, data)
        return batch, end

    def _fields(self, words: U32, positions: I64, types: U32) -> tuple[U32, npt.NDArray[np.bool_]]:
        """Return the headers of packets as those of enhanced blocks, and which of them can be."""
        interfaces = len(self.interfaces) - self._section_begin
        if (types == ENHANCED_PACKET_BLOCK).all() and (not len(types) or words[positions + 1].min() >= 32):
            # The usual case, for which the rest would take as long again.
            fields = headers(words, positions, PACKET_BLOCK_HEADER_SIZE_BYTES)
            return fields, (fields[:, 5] <= fields[:, 1] - np.uint32(32)) & (fields[:, 2] < interfaces)
        is_simple = types == _SIMPLE_PACKET_BLOCK
        header_sizes = np.where(is_simple, _SIMPLE_HEADER_SIZE_BYTES, PACKET_BLOCK_HEADER_SIZE_BYTES)
        room = words[positions + 1].astype(np.int64) - header_sizes - 4
        is_right = room >= 0
        fields = np.zeros((len(positions), 7), np.uint32)
        enhanced = is_right & ~is_simple
        fields[enhanced] = headers(words, positions[enhanced], PACKET_BLOCK_HEADER_SIZE_BYTES)
        old = types == _PACKET_BLOCK
        if old.any():
            is_little = (sys.byteorder == "little") != self._is_swapped
            fields[old, 2] = fields[old, 2] & 0xFFFF if is_little else fields[old, 2] >> 16
        if is_simple.any() and interfaces:
            snaplen = self.interfaces[self._section_begin].snaplen_bytes or 0xFFFFFFFF
            simple = is_simple & is_right
            fields[simple, 6] = words[positions[simple] + 2]
            fields[simple, 5] = np.minimum(fields[simple, 6], snaplen)
        return fields, is_right & (fields[:, 5] <= room) & (fields[:, 2] < interfaces)

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


def _end_of(words: U32, position: int) -> int:
    """Return the offset, in bytes, behind a block."""
    return position * 4 + int(words[position + 1])
