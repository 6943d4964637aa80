"""pcapng blocks. Pure: bytes of the file in, batches out."""

import struct
import sys
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capd_protocol.batches.model import Batch, FileInterface, FileStatistics
from capd_protocol.batches.packet_options import LEAST_OPTION_BYTES, OptionColumn
from capd_protocol.batches.record_offsets import I64, U8, U32, Damage, check_block, follow_blocks
from capd_protocol.formats import options, pcapng
from capd_protocol.formats.metadata import BlockLog, OtherBlock, Section
from capd_protocol.formats.options import FirstOptions, Options
from capd_protocol.formats.pcapng import (
    BYTE_ORDER_MAGIC,
    ENHANCED_PACKET_BLOCK,
    INTERFACE_DESCRIPTION_BLOCK,
    PACKET_BLOCK_HEADER_SIZE_BYTES,
    PACKET_BLOCK_TRAILER_SIZE_BYTES,
    SECTION_HEADER_BLOCK,
)

#: Obsolete, but for its interface and drops as the enhanced one.
_PACKET_BLOCK = 2
_SIMPLE_PACKET_BLOCK = 3
#: Type, length, original length.
_SIMPLE_HEADER_SIZE_BYTES = 12
#: Of an interface description: type, length, link type, and this.
_SNAPLEN_WORD = 3
#: Type, length, and of a section header the byte-order magic, without which its length means nothing.
_MIN_BLOCK_BYTES = 12
_LEAST_WITH_OPTIONS_BYTES = PACKET_BLOCK_HEADER_SIZE_BYTES + LEAST_OPTION_BYTES + PACKET_BLOCK_TRAILER_SIZE_BYTES
U64 = npt.NDArray[np.uint64]
_MAX_NS = 2**63 - 1
#: Which half of 64 bits in memory is the upper one.
_HIGH = 1 if sys.byteorder == "little" else 0


class _Clock(NamedTuple):
    """How timestamps of an interface are meant."""

    units_per_s: int
    offset_s: int


class PcapngParser:
    """Knows what was in the file so far: byte order, interfaces, and what else it says."""

    #: As Wireshark calls it.
    file_type = "pcapng"

    def __init__(self) -> None:
        self.interfaces: list[FileInterface] = []
        self.sections: list[Section] = []
        self.blocks = BlockLog()
        #: What packets have of the interfaces.
        self.names: list[str | None] = []
        self._clocks: list[_Clock] = []
        self._different_clocks: set[_Clock] = set()
        #: Where the interfaces of this section begin.
        self._section_begin = 0
        self._is_swapped = False
        #: Whether the packets that were read last are all in enhanced packet blocks, in this machine's byte order.
        self.are_native_blocks = False

    def record_bytes(self, data: U8, begin: int) -> int:
        """Return how long the block at an offset is, as far as can be known: it is not whole with less.

        Raises:
            Damage: no block begins there.
        """
        start = data[begin : begin + _MIN_BLOCK_BYTES]
        if len(start) < _MIN_BLOCK_BYTES:
            return _MIN_BLOCK_BYTES
        words = start.view(np.uint32)
        is_swapped = _is_swapped(int(words[2])) if words[0] == SECTION_HEADER_BLOCK else self._is_swapped
        if is_swapped:
            words = words.byteswap()
        check_block(words)
        return int(words[1])

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
        is_packet = (types == ENHANCED_PACKET_BLOCK) | (types == _SIMPLE_PACKET_BLOCK) | (types == _PACKET_BLOCK)
        which = slice(None) if is_packet.all() else np.flatnonzero(is_packet)
        numbers = np.arange(len(types))[which]
        # Counted before any of them is read: what is wrong ends the reading of all that is behind it.
        scopes = self._scopes(types)
        fields, header_sizes, is_right = self._as_enhanced(headers, which, scopes)
        stop = len(types)
        if not is_right.all():
            wrong = int(np.argmin(is_right))
            stop = int(numbers[wrong])
            if stop == 0:
                raise Damage(0, _complaint(fields[wrong], int(scopes.ends[0] - scopes.section_begins[0])))
        others = np.flatnonzero(~is_packet[:stop])
        stop = self._read_others(data[begin:], positions, headers, others, stop)
        count = int(np.searchsorted(numbers, stop))
        fields, header_sizes = fields[:count], header_sizes[:count]
        end = int(positions[-1]) * 4 + int(headers[-1, 1]) if stop == len(types) else int(positions[stop]) * 4
        if not count:
            return [], begin + end
        ids = fields[:, 2] + scopes.section_begins[which][:count]
        units = np.empty(count, np.uint64)
        halves = units.view(np.uint32).reshape(-1, 2)
        halves[:, _HIGH], halves[:, 1 - _HIGH] = fields[:, 3], fields[:, 4]
        offsets = positions[which][:count] * 4
        offsets += header_sizes
        offsets += begin
        captured = fields[:, 5].copy()
        found = self._options(data, offsets, captured, headers[which][:count])
        flags = None if found is None else self._flags(found)
        batch = Batch(self._to_ns(units, ids), ids, captured, fields[:, 6].copy(), offsets, data, flags, found)
        return [batch], begin + end

    def _options(self, data: U8, offsets: I64, captured: U32, headers: U32) -> OptionColumn | None:
        """Return where options of packets are; None where none has any.

        Args:
            data: where the packets are.
            offsets: of their first bytes, which are a multiple of 4 if they have options.
            captured: their sizes.
            headers: the first words of their blocks.
        """
        if not len(captured) or int((headers[:, 1] - captured).max()) < _LEAST_WITH_OPTIONS_BYTES:
            return None  # the usual case: no block has room for any
        padded = captured.astype(np.int64) + 3 & ~3
        around_bytes = PACKET_BLOCK_HEADER_SIZE_BYTES + PACKET_BLOCK_TRAILER_SIZE_BYTES
        room = headers[:, 1].astype(np.int64) - around_bytes - padded
        # Simple ones have a shorter header, and no options.
        has_options = (room >= LEAST_OPTION_BYTES) & (headers[:, 0] != _SIMPLE_PACKET_BLOCK)
        if not has_options.any():
            return None
        return OptionColumn(data, offsets + padded, np.where(has_options, room, 0).astype(np.uint32), self._is_swapped)

    def _flags(self, options: OptionColumn) -> U32 | None:
        """Return what options say of packets' flags; None where none has any."""
        places = np.flatnonzero(options.sizes)
        order = ">" if (sys.byteorder == "little") == self._is_swapped else "<"
        wanted = int.from_bytes(struct.pack(order + "HH", pcapng.EPB_FLAGS, 4), sys.byteorder)
        words: U32 = options.data[: len(options.data) // 4 * 4].view(np.uint32)
        at = options.offsets[places] >> 2
        flags = np.zeros(len(options.sizes), np.uint32)
        is_first = words[at] == wanted
        found = words[at[is_first] + 1]
        flags[places[is_first]] = found.byteswap() if self._is_swapped else found
        for place in places[~is_first].tolist():  # behind other options
            stored = options.at(place)
            # The packet is whole without them, where they are damaged.
            flags[place] = (stored.read().number(pcapng.EPB_FLAGS, "I") or 0) if stored is not None else 0
        return flags if flags.any() else None

    def _scopes(self, types: U32) -> "_Scopes":
        """Return which interfaces each of some blocks can be about."""
        is_section, is_description = types == SECTION_HEADER_BLOCK, types == INTERFACE_DESCRIPTION_BLOCK
        if not is_section.any() and not is_description.any():
            here = np.array([self._section_begin, len(self.interfaces)], np.uint32)
            return _Scopes(*(np.broadcast_to(each, len(types)) for each in here))
        ends = np.uint32(len(self.interfaces)) + np.cumsum(is_description, dtype=np.uint32)
        begins = np.maximum.accumulate(np.where(is_section, ends, np.uint32(self._section_begin)))
        return _Scopes(begins, ends)

    def _as_enhanced(
        self, headers: U32, which: slice | I64, scopes: "_Scopes"
    ) -> tuple[U32, I64, npt.NDArray[np.bool_]]:
        """Return the headers of packets as those of enhanced blocks, their true sizes, and which of them can be."""
        fields = headers[which]
        types, lengths = fields[:, 0], fields[:, 1]
        interfaces = scopes.ends[which] - scopes.section_begins[which]
        are_enhanced = (types == ENHANCED_PACKET_BLOCK).all() and lengths.min(initial=32) >= 32
        self.are_native_blocks = bool(are_enhanced) and not self._is_swapped
        if are_enhanced:
            # The usual case, for which the rest would take as long again.
            header_sizes = np.broadcast_to(np.int64(PACKET_BLOCK_HEADER_SIZE_BYTES), len(fields))
            return fields, header_sizes, (fields[:, 5] <= lengths - np.uint32(32)) & (fields[:, 2] < interfaces)
        is_simple = types == _SIMPLE_PACKET_BLOCK
        header_sizes = np.where(is_simple, _SIMPLE_HEADER_SIZE_BYTES, PACKET_BLOCK_HEADER_SIZE_BYTES)
        room = lengths.astype(np.int64) - header_sizes - 4
        fields = fields.copy()
        old = types == _PACKET_BLOCK
        is_little = (sys.byteorder == "little") != self._is_swapped
        fields[old, 2] = fields[old, 2] & 0xFFFF if is_little else fields[old, 2] >> 16
        if is_simple.any():
            fields[is_simple, 6] = fields[is_simple, 2]
            fields[is_simple, 5] = np.minimum(fields[is_simple, 6], self._snaplens(headers, which, scopes)[is_simple])
            fields[is_simple, 2:5] = 0
        return fields, header_sizes, (room >= 0) & (fields[:, 5] <= room) & (fields[:, 2] < interfaces)

    def _snaplens(self, headers: U32, which: slice | I64, scopes: "_Scopes") -> U32:
        """Return how much is kept of the simple packets of each section: what its first interface keeps."""
        described = headers[np.flatnonzero(headers[:, 0] == INTERFACE_DESCRIPTION_BLOCK), _SNAPLEN_WORD]
        sections, places = distinct(scopes.section_begins[which])
        known = len(self.interfaces)
        snaplens: list[int] = []
        firsts: list[int] = sections.tolist()
        for first in firsts:
            if first < known:
                snaplens.append(self.interfaces[first].snaplen_bytes)
            else:
                snaplens.append(int(described[first - known]) if first - known < len(described) else 0)
        return np.array([each or 0xFFFFFFFF for each in snaplens], np.uint32)[places]

    def _to_ns(self, units: U64, ids: U32) -> I64:
        if len(self._different_clocks) == 1:
            (clock,) = self._different_clocks
            return _to_ns(units, clock.units_per_s, np.int64(clock.offset_s))
        # By resolution, of which there are at most 256, however many interfaces there are.
        used, places = distinct(ids)
        of_used: list[int] = used.tolist()
        clocks = [self._clocks[each] for each in of_used]
        resolutions = list({each.units_per_s for each in clocks})
        kinds = np.array([resolutions.index(each.units_per_s) for each in clocks], np.uint16)[places]
        offsets_s = np.array([each.offset_s for each in clocks], np.int64)[places]
        result = np.empty(len(units), np.int64)
        for kind, units_per_s in enumerate(resolutions):
            mine = kinds == kind
            result[mine] = _to_ns(units[mine], units_per_s, offsets_s[mine])
        return result

    def _read_others(self, data: U8, positions: I64, headers: U32, others: I64, stop: int) -> int:
        """Read blocks that are no packets, in their order; return the number of one that ends what can be read."""
        memory = data.data
        order = ">" if (sys.byteorder == "little") == self._is_swapped else "<"
        rows = zip(others.tolist(), positions[others].tolist(), headers[others, :3].tolist(), strict=True)
        for number, position, (block_type, length, magic) in rows:
            if block_type == SECTION_HEADER_BLOCK and magic != BYTE_ORDER_MAGIC:
                return int(number)  # of another byte order, or damaged
            at = position * 4
            try:
                self._read_other(block_type, memory[at + 8 : at + length - 4], order)
            except pcapng.MalformedFileError as error:
                if number == 0:
                    raise Damage(0, str(error)) from error
                return int(number)
        return stop

    def _read_other(self, block_type: int, body: memoryview, order: str) -> None:
        match block_type:
            case pcapng.SECTION_HEADER_BLOCK:
                header = pcapng.read_body(block_type, body, order)
                assert isinstance(header, pcapng.SectionHeader)
                self._section_begin = len(self.interfaces)
                self.sections.append(Section(Options.of(header.options, order, options.SECTION), self._is_swapped))
            case pcapng.INTERFACE_DESCRIPTION_BLOCK:
                linktype, _, snaplen_bytes = pcapng.unpacked(block_type, "HHI", body, order)
                self._describe(linktype, snaplen_bytes, pcapng.read_options(body[8:], order), order)
            case pcapng.INTERFACE_STATISTICS_BLOCK:
                interface_id, *halves = pcapng.unpacked(block_type, "III", body, order)
                self._count(interface_id, (halves[0], halves[1]), pcapng.read_options(body[12:], order), order)
            case _:
                self.blocks.add(OtherBlock(len(self.sections) - 1, block_type, bytes(body), self._is_swapped))

    def _describe(self, linktype: int, snaplen_bytes: int, found: tuple[pcapng.Option, ...], order: str) -> None:
        firsts = FirstOptions(found, order)
        resolution = firsts.number(pcapng.IF_TSRESOL, "B")
        clock = _Clock(
            10**6 if resolution is None else (2 if resolution & 0x80 else 10) ** (resolution & 0x7F),
            firsts.number(pcapng.IF_TSOFFSET, "q") or 0,
        )
        self._clocks.append(clock)
        self._different_clocks.add(clock)
        name = firsts.text(pcapng.IF_NAME)
        self.names.append(name)
        self.interfaces.append(
            FileInterface(
                name,
                linktype,
                snaplen_bytes,
                clock.units_per_s,
                # 0 says that libpcap's language follows; of the others, none is text.
                firsts.text(pcapng.IF_FILTER, b"\0"),
                is_swapped=self._is_swapped,
                options=Options.of(found, order, options.INTERFACE),
                section=len(self.sections) - 1,
            )
        )

    def _count(
        self, interface_id: int, timestamp: tuple[int, int], found: tuple[pcapng.Option, ...], order: str
    ) -> None:
        place = self._section_begin + interface_id
        if place >= len(self.interfaces):
            return  # as Wireshark and libpcap do: the packets are whole without them
        firsts = FirstOptions(found, order)
        drops = [firsts.number(code, "Q") for code in (pcapng.ISB_IFDROP, pcapng.ISB_OSDROP)]
        known_drops = [each for each in drops if each is not None]
        statistics = FileStatistics(
            firsts.number(pcapng.ISB_IFRECV, "Q"),
            sum(known_drops) if known_drops else None,
            firsts.number(pcapng.ISB_USRDELIV, "Q"),
            self._time_ns(firsts.numbers(pcapng.ISB_STARTTIME, "II"), place),
            self._time_ns(firsts.numbers(pcapng.ISB_ENDTIME, "II"), place),
            Options.of(found, order, options.STATISTICS),
            self._time_ns(timestamp, place),
        )
        self.interfaces[place] = self.interfaces[place]._replace(statistics=statistics)

    def _time_ns(self, halves: tuple[int, ...] | None, place: int) -> int | None:
        if halves is None:
            return None
        clock = self._clocks[place]
        units = np.array([halves[0] << 32 | halves[1]], np.uint64)
        return int(_to_ns(units, clock.units_per_s, np.int64(clock.offset_s))[0])


class _Scopes(NamedTuple):
    """Which interfaces there are where each block stands: places in the file's list, from the section's first on."""

    section_begins: U32
    ends: U32


def distinct(numbers: U32) -> tuple[I64, I64]:
    """Return the different ones of some numbers that are near each other, in order; and for each, which of them it is.

    As numpy's ``unique`` does, which sorts, and imports half of numpy when it is called first: too late for a process
    that may open no files any more.
    """
    if not len(numbers):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    least = numbers.min()
    near = numbers - least
    is_there = np.bincount(near) > 0
    return np.flatnonzero(is_there) + np.int64(least), (np.cumsum(is_there) - 1)[near]


def _to_ns(units: U64, units_per_s: int, offsets_s: np.int64 | I64) -> I64:
    """Convert, exactly (rounded down), and to the nearest time that 64 bits can say."""
    factor, rest = divmod(10**9, units_per_s)
    if not rest and not offsets_s.any() and int(units.max(initial=0)) <= _MAX_NS // factor:
        return (units * np.uint64(factor)).view(np.int64)
    pairs = zip(units.tolist(), np.broadcast_to(offsets_s, len(units)).tolist(), strict=True)
    exact = (each * 10**9 // units_per_s + offset_s * 10**9 for each, offset_s in pairs)
    return np.array([max(-_MAX_NS, min(each, _MAX_NS)) for each in exact], np.int64)


def _complaint(fields: U32, interfaces: int) -> str:
    if fields[2] >= interfaces:
        return f"a packet of interface {fields[2]}, which is not described"
    return f"a packet of {fields[5]} bytes, which is longer than its block"


def _is_swapped(magic: int) -> bool:
    if magic == BYTE_ORDER_MAGIC:
        return False
    if magic == int.from_bytes(BYTE_ORDER_MAGIC.to_bytes(4, "little"), "big"):
        return True
    raise Damage(8, "no byte-order magic in the section header")
