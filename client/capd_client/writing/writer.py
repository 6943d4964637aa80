"""Capture files written from batches of packets."""

import os
from collections.abc import Iterable, Sequence
from typing import Self, cast

import numpy as np

from capd_client.errors import InvalidArgument, UnsupportedError
from capd_client.reading.model import Described, Packet
from capd_client.request.options import HasWrite
from capd_client.writing import FileFormat
from capd_client.writing.parts import Part, batches_of, runs_of
from capd_client.writing.sections import Sections
from capd_client.writing.target import AppendedTarget, OpenTarget, PathTarget, Target
from capd_protocol.arguments import is_comment
from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.batches.packet_options import OptionColumn, no_options, options_of_flags
from capd_protocol.batches.pcapng_parser import distinct
from capd_protocol.batches.record_offsets import I64
from capd_protocol.batches.records import Gathered, Packets, gathered_records
from capd_protocol.formats import pcapng
from capd_protocol.formats.compression import COMPRESS_TYPES, wanted_compression

_UNITS_PER_S: dict[FileFormat, int] = {"pcapng": 10**9, "pcap": 10**6, "nsecpcap": 10**9}

_NS_PER_S = 10**9
#: What 64 bits can say of a time in nanoseconds.
_TIMESTAMPS = 2**64
#: The seconds of a pcap record have 32 bits.
_PCAP_END_NS = 2**32 * _NS_PER_S
_ETHERNET = 1
_MOST_BYTES = 262_144


class Writer:
    """Writes one capture file. A context manager: leaving it with an error leaves what was there before as it was."""

    def __init__(
        self,
        target: str | os.PathLike[str] | HasWrite,
        *,
        file_format: FileFormat = "pcapng",
        compress_type: str | None = None,
        comments: Iterable[str] = (),
        overwrite: bool = True,
        keeps_statistics: bool = False,
        append: bool = False,
    ) -> None:
        """Begin a file.

        Args:
            target: a path, where the file is when it is whole; or a binary file, which is written to as packets come.
            file_format: ``pcapng``, ``pcap`` (microseconds) or ``nsecpcap``, as Wireshark calls them.
            compress_type: ``gzip``, ``zstd`` or ``none``; None: as the end of the path says, ``.gz`` or ``.zst``.
            comments: what a pcapng file says of itself at its beginning, beside what is kept of others.
            overwrite: replace a file that is there.
            append: go on behind what is in the file; there it is pcapng, and not compressed.
            keeps_statistics: end with those of the interfaces, since all of their packets are written.

        Raises:
            InvalidArgument: one of these is not possible.
            DestinationError: the file cannot be made, or is there already.
        """
        if file_format not in _UNITS_PER_S:
            possible = ", ".join(_UNITS_PER_S)
            raise InvalidArgument(f"file_format {file_format!r} is none of {possible}", argument="file_format")
        if compress_type is not None and compress_type not in COMPRESS_TYPES:
            possible = ", ".join(COMPRESS_TYPES)
            raise InvalidArgument(f"compress_type {compress_type!r} is none of {possible}", argument="compress_type")
        self._comments = (comments,) if isinstance(comments, str) else tuple(comments)
        if self._comments and file_format != "pcapng":
            raise InvalidArgument("comments need pcapng: pcap has no place for them", argument="comments")
        if not all(is_comment(each) for each in self._comments):
            text = "a comment has at least one character, no NUL, and is UTF-8"
            raise InvalidArgument(text, argument="comments")
        self._format: FileFormat = file_format
        self._units_per_s = _UNITS_PER_S[file_format]
        self._keeps_statistics = keeps_statistics
        self._target: Target
        if append:
            if not isinstance(target, str | os.PathLike) or file_format != "pcapng":
                raise InvalidArgument("only pcapng files that have a path can go on", argument="append")
            self._target = AppendedTarget(target)
        elif isinstance(target, str | os.PathLike):
            path = os.fspath(target)
            self._target = PathTarget(path, wanted_compression(compress_type, path), overwrite=overwrite)
        else:
            self._target = OpenTarget(target, wanted_compression(compress_type, ""))
        #: How much was written, before it is compressed.
        self.size_bytes = 0
        self._sections = Sections(self._add, self._comments, keeps_statistics=keeps_statistics)
        self._linktype: int | None = None
        self._begin_s: int | None = None
        self.packets = 0

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.abandon()

    def _add(self, data: bytes) -> None:
        self.size_bytes += len(data)
        self._target.add(data)

    def close(self, *, is_last: bool = True) -> None:
        """End the file.

        Args:
            is_last: sections that come later belong to it, too, though they have no packets.

        Raises:
            DestinationError: it cannot be written.
        """
        if self._format == "pcapng":
            self._sections.finish(is_last=is_last)
        elif self._linktype is None:
            first = next((each.interfaces[0] for each in self._sections.sources.values() if each.interfaces), None)
            self._begin_pcap(first)
        self._target.end()

    def abandon(self) -> None:
        """Write no more. Where the file was not ended, what was there before is as it was."""
        self._target.abandon()

    # Packets ----------------------------------------------------------------------------------------------------------

    def add_source(
        self,
        number: int,
        interfaces: Sequence[FileInterface],
        origin: Described | None,
        section: int = 0,
        known_blocks: int = 0,
    ) -> None:
        """Have what a file says be kept, also where it has no packets.

        Args:
            number: as ``Part.source``.
            interfaces: what interface ids of its packets mean.
            origin: the file.
            section: of this file's, where it begins.
            known_blocks: so many of its other blocks are in another file already.
        """
        self._sections.add_source(number, interfaces, origin, section, known_blocks)

    def write_packets(
        self, packets: Iterable[Packet], interfaces: Sequence[FileInterface], origin: Described | None = None
    ) -> None:
        """Write packets one after another.

        Args:
            packets: these.
            interfaces: what their interface ids mean; it may grow as they come.
            origin: the file that they come from, for what else it says.

        Raises:
            DestinationError: they cannot be written.
            InvalidArgument: a packet is of an interface that there is not.
            UnsupportedError: the format cannot say them.
        """
        for batch in batches_of(packets):
            self.write([Part(0, batch, interfaces, origin)])

    def write(self, parts: Sequence[Part], order: I64 | None = None) -> None:
        """Write the packets of one or more batches.

        Args:
            parts: the batches.
            order: places of the packets of all of them together, in the order in which they are written; None: as they
                are.

        Raises:
            DestinationError: they cannot be written.
            InvalidArgument: a packet is of an interface that there is not.
            UnsupportedError: the format cannot say them.
        """
        parts = [each for each in parts if len(each.batch.timestamps_ns)]
        if not parts:
            return
        earliest_ns = min(int(each.batch.timestamps_ns.min()) for each in parts)
        latest_ns = max(int(each.batch.timestamps_ns.max()) for each in parts)
        if latest_ns - min(0, earliest_ns // _NS_PER_S) * _NS_PER_S >= _TIMESTAMPS:
            self._write_apart(parts, order)
            return
        sources = [self._sections.add_source(each.source, each.interfaces, each.origin) for each in parts]
        sections = [source.sections_of(part.batch.interface_ids) for source, part in zip(sources, parts, strict=True)]
        if self._format == "pcapng":
            self._count_from(earliest_ns, latest_ns)
            for some, entered, places in runs_of(parts, sections, order):
                self._write_run(some, entered, places)
        else:
            self._check_pcap(parts, earliest_ns, latest_ns)
            self._write_records(self._records(parts), parts, order)

    def _write_run(self, parts: Sequence[Part], sections: Sequence[int], order: I64 | None) -> None:
        sources = self._sections.sources
        for part, section in zip(parts, sections, strict=True):
            self._sections.enter(sources[part.source], section)
        for part in parts:
            self._sections.describe(sources[part.source])
        self._write_records(self._records(parts), parts, order)

    def _write_records(self, made: Sequence[Gathered], parts: Sequence[Part], order: I64 | None) -> None:
        vectors, sizes = np.concatenate([each.vectors for each in made]), np.concatenate([each.sizes for each in made])
        if order is not None:
            vectors, sizes = vectors[order], sizes[order]
        times = [each.batch.timestamps_ns for each in parts]
        times_ns = min(int(each.min()) for each in times), max(int(each.max()) for each in times)
        # The index of a compressed file is a little less exact than it could be.
        self._target.add_gathered(vectors, sizes, (max(0, times_ns[0]), max(0, times_ns[1])))
        self.packets += len(sizes)
        self.size_bytes += int(sizes.sum())

    def _write_apart(self, parts: Sequence[Part], order: I64 | None) -> None:
        """Write packets one by one: no section can say the times of all of them."""
        places = [(part, np.array([place])) for part in parts for place in range(len(part.batch.timestamps_ns))]
        for number in range(len(places)) if order is None else order.tolist():
            part, place = places[number]
            self.write([part._replace(batch=part.batch.chosen(place))])

    def _count_from(self, earliest_ns: int, latest_ns: int) -> None:
        """Begin another section where times are before those that this one can say."""
        wanted_s = min(0, earliest_ns // _NS_PER_S)
        begin_s = self._begin_s
        if begin_s is None or wanted_s < begin_s or latest_ns - begin_s * _NS_PER_S >= _TIMESTAMPS:
            self._begin_s = wanted_s
            self._sections.begin_at(wanted_s)

    def _check_pcap(self, parts: Sequence[Part], earliest_ns: int, latest_ns: int) -> None:
        """Begin a pcap file, if it was not yet; refuse what it cannot say."""
        if earliest_ns < 0 or latest_ns >= _PCAP_END_NS:
            raise UnsupportedError("pcap cannot say times before 1970 and after 2106: write pcapng")
        for part in parts:
            for own_id in cast("list[int]", np.unique(part.batch.interface_ids).tolist()):
                interface = part.interfaces[own_id]
                if self._linktype is None:
                    self._begin_pcap(interface)
                if interface.linktype != self._linktype:
                    text = "a pcap file has packets of one link-layer type, and these are of several: write pcapng"
                    raise UnsupportedError(text)

    def _begin_pcap(self, interface: FileInterface | None) -> None:
        self._linktype = _ETHERNET if interface is None else interface.linktype
        self._add(
            pcapng.pcap_header(
                linktype=self._linktype,
                snaplen_bytes=_MOST_BYTES if interface is None else interface.snaplen_bytes or _MOST_BYTES,
                units_per_s=self._units_per_s,
            )
        )

    def _records(self, parts: Sequence[Part]) -> list[Gathered]:
        """Return the records of packets; all have options among their parts, or none has."""
        is_pcapng = self._format == "pcapng"
        columns = [_options_of(each.batch) if is_pcapng else None for each in parts]
        if any(columns):
            columns = [
                no_options(len(p.batch.offsets)) if c is None else c for p, c in zip(parts, columns, strict=True)
            ]
        made: list[Gathered] = []
        for part, options in zip(parts, columns, strict=True):
            batch = part.batch
            begin_ns = (self._begin_s or 0) * _NS_PER_S
            packets = Packets(
                batch.data,
                batch.offsets,
                batch.captured_sizes,
                batch.original_sizes,
                # Without a sign: what is before 1970 counts from the section's offset.
                batch.timestamps_ns.view(np.uint64) - np.uint64(begin_ns % _TIMESTAMPS),
                self._ids_of(part) if is_pcapng else 0,
                options=options,
            )
            made.append(gathered_records(packets, "pcapng" if is_pcapng else "pcap", units_per_s=self._units_per_s))
        return made

    def _ids_of(self, part: Part) -> I64:
        """Return the numbers that the packets' interfaces have in the file."""
        ids = self._sections.sources[part.source].ids
        own_ids: list[int] = distinct(part.batch.interface_ids)[0].tolist()
        numbers = np.zeros(own_ids[-1] + 1, np.int64)
        numbers[own_ids] = [ids[each] for each in own_ids]
        return numbers[part.batch.interface_ids]


def _options_of(batch: Batch) -> OptionColumn | None:
    if batch.options is not None:
        return batch.options.fit_to_write()
    return None if batch.flags is None else options_of_flags(batch.flags)
