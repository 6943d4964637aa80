"""What a pcapng file that is written says beside its packets: sections, interfaces, statistics and other blocks.

A section of it stands for one section of each source at the same time: where one of them goes on to its next section,
another one begins.
"""

import struct
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from capd_client.errors import InvalidArgument
from capd_client.reading.model import Described
from capd_protocol.batches.model import FileInterface, FileStatistics
from capd_protocol.batches.record_offsets import I64, U32
from capd_protocol.formats import pcapng
from capd_protocol.formats.options import NOT_COPIED, Option, Options, comment_options, joined

_NS_PER_S = 10**9
#: What is written of a source that says nothing of its sections.
_OWN = Options((Option(pcapng.SHB_USERAPPL, b"capd"),))
#: Blocks that packets are understood with.
_REPEATED = (pcapng.NAME_RESOLUTION_BLOCK, pcapng.DECRYPTION_SECRETS_BLOCK)
_STATISTICS_TIMES = (pcapng.ISB_STARTTIME, pcapng.ISB_ENDTIME)


class Source:
    """A file that packets come from, and how much of what it says was written.

    Attributes:
        interfaces: of its packets.
        origin: the file, where it is known.
        section: the place of the section that is written, of its own.
        ids: the numbers of its interfaces in the section that is written.
    """

    def __init__(
        self, interfaces: Sequence[FileInterface], origin: Described | None, section: int = 0, known_blocks: int = 0
    ) -> None:
        """Have nothing written yet.

        Args:
            interfaces: as the attribute.
            origin: as the attribute.
            section: in which it begins.
            known_blocks: of its other blocks, so many are in another file already: of these, only names and secrets are
                written again.
        """
        self.interfaces = interfaces
        self.origin = origin
        self.section = 0
        self.ids: dict[int, int] = {}
        self._first = self._next = 0
        self._blocks = 0
        self._known_blocks = known_blocks
        self._sections = np.empty(0, np.int64)
        self.enter(section)

    @property
    def options(self) -> Options | None:
        """What the section says of itself; None where there is none, as in pcap."""
        sections = self.origin.sections if self.origin is not None else []
        return sections[self.section].options if self.section < len(sections) else None

    @property
    def last_section(self) -> int:
        """The last section that is known."""
        return max(0, len(self.origin.sections) - 1) if self.origin is not None else 0

    def sections_of(self, ids: U32) -> I64:
        """Return which section each of some interfaces is of.

        Raises:
            InvalidArgument: there is no such interface.
        """
        if len(ids) and int(ids.max()) >= len(self.interfaces):
            known = len(self.interfaces)
            text = f"a packet is of interface {int(ids.max())}, and only {known} are given"
            raise InvalidArgument(text, argument="interfaces")
        if not self.last_section or self.origin is None:
            return np.zeros(len(ids), np.int64)
        described = self.origin.interfaces
        if len(self._sections) < len(described):
            more = (each.section for each in described[len(self._sections) :])
            self._sections = np.append(self._sections, np.fromiter(more, np.int64))
        return self._sections[ids]

    def enter(self, section: int) -> None:
        """Go on to another section."""
        if section < self.section:
            self._first = 0
        self.section = section
        while self._first < self._known() and self._section_of(self._first) < section:
            self._first += 1
        self.begin()

    def begin(self) -> None:
        """Begin what is written of it anew."""
        self._next = self._first
        self.ids.clear()

    def undescribed(self) -> Iterator[int]:
        """Give the interfaces of the section that were not described yet."""
        while self._next < self._known() and self._section_of(self._next) == self.section:
            yield self._next
            self._next += 1

    def blocks(self) -> Iterator[bytes]:
        """Give the other blocks up to this section that were not written yet."""
        if self.origin is None:
            return
        log = self.origin.blocks
        self._blocks = max(self._blocks, log.forgotten)
        for block in log.since(self._blocks):
            if block.section > self.section:
                return
            self._blocks += 1
            is_known = self._blocks <= self._known_blocks and block.block_type not in _REPEATED
            body = None if is_known else block.native_body()
            if body is not None:
                yield pcapng.block(block.block_type, body)

    def _known(self) -> int:
        return len(self.interfaces)

    def _section_of(self, own_id: int) -> int:
        described = self.origin.interfaces if self.origin is not None else ()
        return described[own_id].section if own_id < len(described) else self.section


class Sections:
    """Writes what is said of sections, interfaces and so on, each before the packets that it is about.

    Attributes:
        sources: by number.
    """

    def __init__(self, add: Callable[[bytes], None], comments: Sequence[str], *, keeps_statistics: bool) -> None:
        """Write nothing yet.

        Args:
            add: writes some blocks.
            comments: what the first section says beside what it says already.
            keeps_statistics: end sections with the statistics of their interfaces.
        """
        self._add = add
        self._comments = comments
        self._keeps_statistics = keeps_statistics
        self._has_begun = False
        self._begin_ns = 0
        self.sources: dict[int, Source] = {}

    def add_source(
        self,
        number: int,
        interfaces: Sequence[FileInterface],
        origin: Described | None,
        section: int = 0,
        known_blocks: int = 0,
    ) -> Source:
        """Return a source by its number; where another file goes on in its place, a section ends.

        Args:
            number: as ``Part.source``.
            interfaces: as for ``Source``, and so the next ones.
            origin: see there.
            section: see there; of a new source.
            known_blocks: see there; of a new source.
        """
        source = self.sources.get(number)
        if source is None or source.origin is not origin:
            if source is not None:
                self.end()
            source = self.sources[number] = Source(interfaces, origin, section, known_blocks)
        source.interfaces = interfaces
        return source

    def enter(self, source: Source, section: int) -> None:
        """Have a source be in a section of its own. Where it is the only one, its empty sections are kept, too."""
        while source.section != section:
            if self._has_begun or len(self.sources) == 1:
                self.describe(source)
            self.end()
            source.enter(source.section + 1 if section > source.section and len(self.sources) == 1 else section)

    def begin_at(self, begin_s: int) -> None:
        """Have times count from a moment, in seconds since 1970."""
        if begin_s * _NS_PER_S != self._begin_ns:
            self.end()
            self._begin_ns = begin_s * _NS_PER_S

    def describe(self, source: Source) -> None:
        """Write what is known of a source and was not written: its section, interfaces and other blocks."""
        if not self._has_begun:
            self._begin()
        for own_id in source.undescribed():
            source.ids[own_id] = sum(len(each.ids) for each in self.sources.values())
            interface = source.interfaces[own_id]
            options = interface_options(interface, self._begin_ns // _NS_PER_S)
            self._add(pcapng.interface_with(interface.linktype, interface.snaplen_bytes, options))
        for block in source.blocks():
            self._add(block)

    def finish(self, *, is_last: bool = True) -> None:
        """Write what is left: all was read, or as much as is wanted.

        Args:
            is_last: sections that come later belong to this file, too, though they have no packets.
        """
        for source in list(self.sources.values()):
            if is_last:
                self.enter(source, source.last_section)
            self.describe(source)
        if not self._has_begun:
            self._begin()
        self.end()

    def _begin(self) -> None:
        said = [options for source in self.sources.values() if (options := source.options) is not None]
        options = joined(said) if said else _OWN
        self._add(pcapng.section_with((*options.without(NOT_COPIED), *comment_options(self._comments))))
        self._comments = ()
        self._has_begun = True

    def end(self) -> None:
        """End the section, if one has begun: of a source that was read to its end, with its statistics."""
        if not self._has_begun:
            return
        self._has_begun = False
        for source in self.sources.values():
            for own_id, number in source.ids.items() if self._keeps_statistics else ():
                found = source.interfaces[own_id].statistics
                if found is not None:
                    self._add(self._statistics(number, found))
            source.begin()

    def _statistics(self, number: int, found: FileStatistics) -> bytes:
        begin_ns = self._begin_ns
        options = [*found.options.without((*_STATISTICS_TIMES, *NOT_COPIED))]
        if not found.options:
            counts = (
                (pcapng.ISB_IFRECV, found.received),
                (pcapng.ISB_IFDROP, found.drops),
                (pcapng.ISB_USRDELIV, found.delivered),
            )
            options = [Option(code, struct.pack("=Q", count)) for code, count in counts if count is not None]
        for code, time_ns in zip(_STATISTICS_TIMES, (found.start_ns, found.end_ns), strict=True):
            if time_ns is not None and time_ns >= begin_ns:
                options.append(Option(code, pcapng.timestamp_bytes(time_ns - begin_ns)))
        times_ns = (found.timestamp_ns, found.end_ns, begin_ns)
        counted_ns = next(each for each in times_ns if each is not None)
        return pcapng.statistics_with(number, max(0, counted_ns - begin_ns), options)


def interface_options(interface: FileInterface, begin_s: int) -> Options:
    """Return what is written of an interface: all that was read, with what has another value by now.

    Args:
        interface: its name and capture filter count, whatever its options say.
        begin_s: what the times of its packets count from, in nanoseconds: seconds since 1970.
    """
    left_out = {pcapng.IF_TSRESOL, pcapng.IF_TSOFFSET, *NOT_COPIED}
    texts = (
        (pcapng.IF_NAME, interface.name, interface.options.text(pcapng.IF_NAME), b""),
        (pcapng.IF_FILTER, interface.capture_filter, interface.options.text(pcapng.IF_FILTER, b"\0"), b"\0"),
    )
    own = [Option(pcapng.IF_TSRESOL, bytes((pcapng.NANOSECONDS,)))]
    if begin_s:
        own.append(Option(pcapng.IF_TSOFFSET, struct.pack("=q", begin_s)))
    begin: list[Option] = []
    for code, wanted, said, prefix in texts:
        if wanted != said:
            left_out.add(code)
            value = prefix + (wanted or "").encode("utf-8", "surrogateescape")
            begin += [Option(code, value[: pcapng.MAX_OPTION_BYTES])] if wanted else []
    return Options((*begin, *interface.options.without(left_out), *own))
