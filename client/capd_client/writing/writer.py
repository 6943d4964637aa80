"""Capture files written from batches of packets: sections, interfaces, packets and statistics."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Self, cast

import numpy as np
import numpy.typing as npt

from capd_client.errors import InvalidArgument, UnsupportedError
from capd_client.reading.model import Packet
from capd_client.request.options import HasWrite
from capd_client.writing import FileFormat
from capd_client.writing.target import OpenTarget, PathTarget, Target
from capd_protocol.arguments import is_comment
from capd_protocol.batches.model import Batch, FileInterface
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
#: One by one, so many packets are written together. Chosen: more are no faster.
_PACKETS_AT_ONCE = 4096
_ETHERNET = 1
_MOST_BYTES = 262_144


class Part(NamedTuple):
    """Packets of one source.

    Attributes:
        source: its number; each source has interfaces of its own.
        batch: the packets.
        interfaces: what their interface ids mean.
    """

    source: int
    batch: Batch
    interfaces: Sequence[FileInterface]


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
    ) -> None:
        """Begin a file.

        Args:
            target: a path, where the file is when it is whole; or a binary file, which is written to as packets come.
            file_format: ``pcapng``, ``pcap`` (microseconds) or ``nsecpcap``, as Wireshark calls them.
            compress_type: ``gzip``, ``zstd`` or ``none``; None: as the end of the path says, ``.gz`` or ``.zst``.
            comments: what a pcapng file says of itself at its beginning.
            overwrite: replace a file that is there.
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
        if isinstance(target, str | os.PathLike):
            path = os.fspath(target)
            self._target = PathTarget(path, wanted_compression(compress_type, path), overwrite=overwrite)
        else:
            self._target = OpenTarget(target, wanted_compression(compress_type, ""))
        #: Numbers in the file, by source and number there.
        self._ids: dict[tuple[int, int], int] = {}
        #: Of those in this section, in their order: what they are, also later.
        self._sources: list[tuple[Sequence[FileInterface], int]] = []
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

    def close(self) -> None:
        """End the file.

        Raises:
            DestinationError: it cannot be written.
        """
        if self._begin_s is None:
            self._begin(0, None)
        self._end_section()
        self._target.end()

    def abandon(self) -> None:
        """Write no more. Where the file was not ended, what was there before is as it was."""
        self._target.abandon()

    # Packets ----------------------------------------------------------------------------------------------------------

    def write_packets(self, packets: Iterable[Packet], interfaces: Sequence[FileInterface]) -> None:
        """Write packets one after another.

        Args:
            packets: these.
            interfaces: what their interface ids mean; it may grow as they come.

        Raises:
            DestinationError: they cannot be written.
            UnsupportedError: the format cannot say them.
        """
        remaining = iter(packets)
        while some := list(itertools.islice(remaining, _PACKETS_AT_ONCE)):
            self.write([Part(0, _batch_of(some), interfaces)])

    def write(self, parts: Sequence[Part], order: I64 | None = None) -> None:
        """Write the packets of one or more batches.

        Args:
            parts: the batches.
            order: places of the packets of all of them together, in the order in which they are written; None: as they
                are.

        Raises:
            DestinationError: they cannot be written.
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
        self._prepare(parts[0], earliest_ns, latest_ns)
        made = [each for part in parts for each in self._records(part)]
        vectors, sizes = np.concatenate([each.vectors for each in made]), np.concatenate([each.sizes for each in made])
        if order is not None:
            vectors, sizes = vectors[order], sizes[order]
        # The index of a compressed file is a little less exact than it could be.
        times_ns = max(0, earliest_ns), max(0, latest_ns)
        self._target.add_gathered(vectors, sizes, times_ns)
        self.packets += len(sizes)

    def _write_apart(self, parts: Sequence[Part], order: I64 | None) -> None:
        """Write packets one by one: no section can say the times of all of them."""
        places = [(part, np.array([place])) for part in parts for place in range(len(part.batch.timestamps_ns))]
        for number in range(len(places)) if order is None else order.tolist():
            part, place = places[number]
            self.write([part._replace(batch=part.batch.chosen(place))])

    def _prepare(self, part: Part, earliest_ns: int, latest_ns: int) -> None:
        """Begin the file, or another section where times are before those that this one can say."""
        if self._format != "pcapng":
            if earliest_ns < 0 or latest_ns >= _PCAP_END_NS:
                raise UnsupportedError("pcap cannot say times before 1970 and after 2106: write pcapng")
            if self._begin_s is None:
                self._begin(0, part.interfaces[int(part.batch.interface_ids[0])])
            return
        wanted_s = min(0, earliest_ns // _NS_PER_S)
        if self._begin_s is None:
            self._begin(wanted_s, None)
        elif wanted_s < self._begin_s or latest_ns - self._begin_s * _NS_PER_S >= _TIMESTAMPS:
            self._end_section()
            self._begin(wanted_s, None)

    def _begin(self, begin_s: int, interface: FileInterface | None) -> None:
        self._begin_s = begin_s
        if self._format == "pcapng":
            self._target.add(pcapng.section_header(application="capd", comments=self._comments))
            return
        self._linktype = _ETHERNET if interface is None else interface.linktype
        self._target.add(
            pcapng.pcap_header(
                linktype=self._linktype,
                snaplen_bytes=_MOST_BYTES if interface is None else interface.snaplen_bytes or _MOST_BYTES,
                units_per_s=self._units_per_s,
            )
        )

    def _records(self, part: Part) -> Iterator[Gathered]:
        batch = part.batch
        ids = self._ids_of(part)
        begin_ns = (self._begin_s or 0) * _NS_PER_S
        # Without a sign: what is before 1970 counts from the section's offset.
        times = batch.timestamps_ns.view(np.uint64) - np.uint64(begin_ns % _TIMESTAMPS)
        flags = batch.flags if self._format == "pcapng" else None
        for start, end in _runs(flags, len(ids)):
            packets = Packets(
                batch.data,
                batch.offsets[start:end],
                batch.captured_sizes[start:end],
                batch.original_sizes[start:end],
                times[start:end],
                ids[start:end],
                flags[start:end] if flags is not None and flags[start] else None,
            )
            yield gathered_records(
                packets, "pcapng" if self._format == "pcapng" else "pcap", units_per_s=self._units_per_s
            )

    def _ids_of(self, part: Part) -> I64:
        """Return the numbers that the packets' interfaces have in the file, which describes them where it has not."""
        own_ids = np.unique(part.batch.interface_ids)
        numbers = np.zeros(int(own_ids[-1]) + 1, np.int64)
        for own_id in cast("list[int]", own_ids.tolist()):
            key = part.source, own_id
            if key not in self._ids:
                self._describe(key, part.interfaces)
            numbers[own_id] = self._ids[key]
        return numbers[part.batch.interface_ids]

    def _describe(self, key: tuple[int, int], interfaces: Sequence[FileInterface]) -> None:
        interface = interfaces[key[1]]
        if self._format != "pcapng":
            if interface.linktype != self._linktype:
                text = "a pcap file has packets of one link-layer type, and these are of several: write pcapng"
                raise UnsupportedError(text)
            self._ids[key] = 0
            return
        self._ids[key] = len(self._sources)
        self._sources.append((interfaces, key[1]))
        self._target.add(
            pcapng.interface_description(
                linktype=interface.linktype,
                snaplen_bytes=interface.snaplen_bytes,
                name=interface.name or "",
                capture_filter=interface.capture_filter or "",
                offset_s=self._begin_s or 0,
            )
        )

    def _end_section(self) -> None:
        """Write what is known by now of the interfaces: of a source that was read to its end, its statistics."""
        begin_ns = (self._begin_s or 0) * _NS_PER_S
        for number, (interfaces, own_id) in enumerate(self._sources):
            found = interfaces[own_id].statistics
            if not self._keeps_statistics or found is None or found.received is None:
                continue
            start_ns, end_ns = found.start_ns or begin_ns, found.end_ns or begin_ns
            if min(start_ns, end_ns) < begin_ns:
                continue
            self._target.add(
                pcapng.interface_statistics(
                    number,
                    timestamp_ns=end_ns - begin_ns,
                    start_ns=start_ns - begin_ns,
                    end_ns=end_ns - begin_ns,
                    received=found.received,
                    dropped=found.drops or 0,
                    delivered=found.received - (found.drops or 0) if found.delivered is None else found.delivered,
                )
            )
        self._ids.clear()
        self._sources.clear()


def _runs(flags: npt.NDArray[np.uint32] | None, count: int) -> Iterator[tuple[int, int]]:
    """Give ranges of packets which all have flags, or none of which has any."""
    if flags is None:
        yield 0, count
        return
    has = flags != 0
    edges = (np.flatnonzero(has[1:] != has[:-1]) + 1).tolist()
    yield from itertools.pairwise((0, *edges, count))


def _batch_of(packets: Sequence[Packet]) -> Batch:
    """Return packets together."""
    sizes = np.fromiter((len(each.data) for each in packets), np.int64, len(packets))
    flags = np.fromiter((each.flags for each in packets), np.uint32, len(packets))
    return Batch(
        np.fromiter((each.timestamp_ns for each in packets), np.int64, len(packets)),
        np.fromiter((each.interface_id for each in packets), np.uint32, len(packets)),
        sizes.astype(np.uint32),
        np.fromiter((each.original_size_bytes for each in packets), np.uint32, len(packets)),
        np.cumsum(sizes) - sizes,
        np.frombuffer(b"".join(each.data for each in packets), np.uint8),
        flags if flags.any() else None,
    )
