"""Files, growing files, pipes and running captures, as packets and batches."""

import itertools
import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, Unpack, overload

from capd_client.dissection.options import DissectionArguments
from capd_client.errors import CaptureEnded, CaptureError, ReadError, UnsupportedError
from capd_client.obstacles import IS_DIRECTORY, obstacle
from capd_client.reading.attributes import Attributes
from capd_client.reading.event_source import EventSource
from capd_client.reading.files.ahead import Ahead
from capd_client.reading.files.file import File
from capd_client.reading.files.opening import file_of, open_passed
from capd_client.reading.model import Interfaces, Packet, packets_of
from capd_client.reading.numbers import PacketIndex, again
from capd_client.reading.selection import Selection, compiled
from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.batches.progress import Progress
from capd_protocol.messages import FileOpened, Lagged, PacketCount

if TYPE_CHECKING:
    from capd_client.display_filters.expressions import FieldExpression
    from capd_client.display_filters.filter import AnyDisplayFilter
    from capd_client.dissection.blocking import Dissection
    from capd_client.dissection.dissecting import Restarted
    from capd_client.dissection.frames import FieldFrame, WholeFrame
    from capd_client.reading.columns.model import ColumnMaker, ColumnReader, Columns
    from capd_protocol.fields.columns import Occurrence

Source = str | os.PathLike[str] | int | IO[bytes]

#: How often a file that is followed is looked at. inotify would report sooner, but not for every file system.
_POLL_S = 0.05


class Reader(Attributes):
    """Packets of a file or a capture, in the order of the file; a context manager, and an iterator of ``Packet``.

    There is one pass: an iteration goes on where the last one ended, and ``batches`` behind it.

    Files are mapped, a few megabytes at a time, and a part is kept as long as a packet or batch of it is. If somebody
    cuts the file meanwhile, what is noticed is a ``ReadError``; each part is checked before it is looked at. What
    cannot be noticed: bytes that are cut off a part that is mapped. A program that reads them then (also as the
    ``data`` of a packet that is kept) gets SIGBUS. Bytes that are overwritten change in packets that are kept. A file
    that is replaced by renaming, or deleted, harms nothing: the old one is read. Only a ring with
    ``ringbuffer_free_space`` also cuts files that it deletes, where several are kept open: what is read of them then is
    a ``ReadError`` that says so.
    """

    def __init__(self, display_filter: "AnyDisplayFilter | None" = None) -> None:
        super().__init__()
        self._progress = Progress()
        self._display_filter = compiled(display_filter)
        self._all = Ahead(self._followed(self._read()))
        self._batches = self._selected(Selection(None, self._display_filter))
        self._packets = itertools.chain.from_iterable(packets_of(batch, self._names) for batch in self._batches)

    def __repr__(self) -> str:
        """Return what is read, and how far."""
        if self._file is None:
            return "<Reader of no file yet>"
        state = "" if self._file.is_open else ", closed"
        return f"<Reader of {self._file.name!r}, at byte {self.at_bytes:,}{state}>"

    def __enter__(self) -> Self:
        """Return the reader; leaving the block closes it."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Packet]:
        """Iterate over packets.

        Raises:
            ReadError: the file is damaged there; all packets before were given.
        """
        return self._packets

    def batches(
        self, capture_filter: str | None = None, display_filter: "AnyDisplayFilter | None" = None
    ) -> Iterator[Batch]:
        """Iterate over packets as arrays, some thousands at once.

        Args:
            capture_filter: only those that match; in libpcap's language, see pcap-filter(7). It is compiled for each
                link-layer type that comes.
            display_filter: only those that pass; in Wireshark's language, see ``DisplayFilter``.

        Raises:
            DisplayFilterError: the display filter is none.
            BadFilterError: the filter does not compile for the packets' link-layer type, or asks for what files do not
                have, such as the direction of packets.
            UnsupportedError: there is no libpcap, which filters need.
            ReadError: the file is damaged there; all packets before were given.
        """
        if capture_filter is None and display_filter is None:
            return self._batches
        return self._selected(Selection(capture_filter, self._display_filter, display_filter))

    def matching(
        self, capture_filter: str | None = None, *, display_filter: "AnyDisplayFilter | None" = None
    ) -> Iterator[Packet]:
        """Iterate over the packets that match a filter, one by one.

        Args:
            capture_filter: as for ``batches``, which also has what is raised.
            display_filter: likewise.
        """
        batches = self.batches(capture_filter, display_filter)
        return itertools.chain.from_iterable(packets_of(batch, self._names) for batch in batches)

    def columns(
        self,
        *names: str,
        occurrence: "Occurrence" = "first",
        capture_filter: str | None = None,
        display_filter: "AnyDisplayFilter | None" = None,
    ) -> "ColumnReader":
        """Iterate over fields of packets as typed arrays, batch by batch.

        Fields have the names, types and values of Wireshark 4.0; those that there are, and where values are absent, are
        in ``docs/columns.md``. What comes is also a stream for Arrow's programs: polars, DuckDB, pyarrow and pandas.

        Example:
            with read("dns.pcapng") as packets:
                for columns in packets.columns("frame.time_epoch", "ip.src", "udp.length"):
                    lengths = columns["udp.length"]
                    print(len(columns), lengths.values[lengths.valid].sum())

        Args:
            names: of fields.
            occurrence: where a packet has several values of a field, as it has in tunnels: ``"first"`` or ``"all"``.
            capture_filter: only packets that match; as for ``batches``.
            display_filter: only packets that pass; likewise.

        Raises:
            UnknownField: there are no columns of a field.
            InvalidArgument: no field is named, or one twice.
            BadFilterError, DisplayFilterError, UnsupportedError, ReadError: as ``batches``.
        """
        from capd_client.reading.columns.model import ColumnMaker, ColumnReader  # noqa: PLC0415  # few need them

        maker = ColumnMaker(names, occurrence, Selection(capture_filter, self._display_filter, display_filter))
        return ColumnReader(maker, self._columns(maker))

    @overload
    def dissect(
        self,
        *,
        capture_filter: str | None = None,
        restart_packets: None = None,
        **arguments: Unpack[DissectionArguments],
    ) -> "Dissection[WholeFrame]": ...
    @overload
    def dissect(
        self, *, capture_filter: str | None = None, restart_packets: int, **arguments: Unpack[DissectionArguments]
    ) -> "Dissection[WholeFrame | Restarted]": ...
    @overload
    def dissect(
        self,
        name: "str | FieldExpression",
        /,
        *names: "str | FieldExpression",
        capture_filter: str | None = None,
        restart_packets: None = None,
        **arguments: Unpack[DissectionArguments],
    ) -> "Dissection[FieldFrame]": ...
    @overload
    def dissect(
        self,
        name: "str | FieldExpression",
        /,
        *names: "str | FieldExpression",
        capture_filter: str | None = None,
        restart_packets: int,
        **arguments: Unpack[DissectionArguments],
    ) -> "Dissection[FieldFrame | Restarted]": ...
    def dissect(
        self,
        *names: "str | FieldExpression",
        capture_filter: str | None = None,
        restart_packets: int | None = None,
        **arguments: Unpack[DissectionArguments],
    ) -> "Dissection[Any]":
        """Have Wireshark's ``tshark`` dissect the packets, and iterate over frames.

        It runs as a child, without the user's own configuration, and as the user nobody where root reads. It starts
        with the first frame that is asked for, and ends with the iteration or the block. A plain file, of which nothing
        was given, it reads by itself; otherwise it is given what is read.

        Example:
            with read("dns.pcapng") as packets, packets.dissect("ip.src", "dns.qry.name") as frames:
                for frame in frames:
                    print(frame["ip.src"], frame["dns.qry.name"])

        Args:
            names: of fields, such as ``ip.src``, or ``fields.ip.src``: frames have these, which is quick. None: frames
                have all that Wireshark knows of them, with the protocol tree.
            capture_filter: only packets that match; in libpcap's language. The engine sees no others.
            restart_packets: begin with a new engine after so many packets, which bounds its memory. It knows nothing of
                the packets before; a ``Restarted`` stands where it begins.
            arguments: see ``DissectionArguments``.

        Returns:
            An iterator of frames, and a context manager that ends the engine; what is raised while reading is in
            ``Dissection``.

        Raises:
            UnknownField: there is no such field; near ones are offered.
            InvalidArgument: an argument is not possible.
            UnsupportedError: there is no tshark; the package is named.
        """
        from capd_client.dissection.blocking import Dissection  # noqa: PLC0415  # few need it
        from capd_client.reading.dissected import begun_reader  # noqa: PLC0415  # likewise

        return Dissection(*begun_reader(self, names, capture_filter, restart_packets, arguments))

    def _columns(self, maker: "ColumnMaker") -> "Iterator[Columns]":
        for batch in self._all:
            columns = maker.of(batch, self.interfaces, self._progress)
            if len(columns):
                yield columns

    def _followed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            yield batch
            self._progress.note(batch)

    def _selected(self, selection: Selection) -> Iterator[Batch]:
        for batch in self._all:
            found = selection.of(batch, self.interfaces, self._progress)
            if len(found.offsets):
                yield found

    def packet(self, number: int) -> Packet:
        """Return a packet by its number, from 1, wherever an iteration is.

        The file is looked through as far as it is needed, once; some 30 bytes in memory remain for each packet. Of a
        compressed file, a packet before the last one that was asked for takes long: it is decompressed again.

        Args:
            number: the packet's.

        Raises:
            InvalidArgument: there is none with this number; or the file has no path, and was closed.
            UnsupportedError: it is a pipe, or of a format that another program converts.
            ReadError: the file is damaged before it.
        """
        return self._packet(number)

    def _packet(self, number: int) -> Packet:
        raise UnsupportedError("packets of a running capture have no numbers to ask for: read one of its files")

    @property
    def interfaces(self) -> Sequence[FileInterface]:
        """The interfaces so far, of all sections; of a session the current file's. Grows as the file is read."""
        return Interfaces(self._file) if self._file is not None else ()

    @property
    def rest_bytes(self) -> int:
        """How many bytes stand behind what was read: more than 0 at the end where the last record is not whole.

        After ``close`` as it was then.
        """
        return self._file.rest_bytes() if self._file is not None else 0

    @property
    def at_bytes(self) -> int:
        """How many bytes were read, of the current file."""
        return self._file.at if self._file is not None else 0

    def close(self) -> None:
        """Close the file; packets and batches that were given stay valid. At the end it is closed already.

        An iteration ends then, a packet's behind the rest of its batch.
        """
        if self._file is not None:
            self._file.close()

    @property
    def _names(self) -> Sequence[str | None]:
        return self._file.names if self._file is not None else ()

    def _read(self) -> Iterator[Batch]:
        raise NotImplementedError


class FileReader(Reader):
    """See ``capd_client.read``."""

    def __init__(
        self,
        source: Source,
        follow: bool,
        span_ns: tuple[int | None, int | None] = (None, None),
        display_filter: "AnyDisplayFilter | None" = None,
    ) -> None:
        """Open a file.

        Args:
            source: which one.
            follow: whether to wait for what is added.
            span_ns: parts of the file may be left out that have no packet from the first time on and before the second.
            display_filter: only packets that pass are given.
        """
        super().__init__(display_filter)
        self._follow = follow
        self._index: PacketIndex | None = None
        self._path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
        name = str(getattr(source, "name", f"descriptor {source}")) if self._path is None else self._path
        try:
            if isinstance(source, str | os.PathLike):
                descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
            else:
                descriptor = os.dup(source if isinstance(source, int) else source.fileno())
        except (
            OSError,
            ValueError,
        ) as error:  # the latter: a NUL in the path; a file that is closed, or only in memory
            text = obstacle(name, error) if isinstance(error, OSError) else f"the file cannot be opened: {error}"
            raise ReadError(name, 0, text) from error
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ReadError(name, 0, IS_DIRECTORY)
        try:
            self._file = file_of(descriptor, name)
        except OSError as error:  # such as a descriptor that is only for writing
            os.close(descriptor)
            raise ReadError(name, 0, f"it cannot be read: {error.strerror}") from error
        if span_ns != (None, None):
            self._file.leave_out_but(*span_ns)

    def _packet(self, number: int) -> Packet:
        if self._index is None:
            name = self._path or (self._file.name if self._file is not None else "")
            try:
                self._index = PacketIndex(file_of(again(self._file, self._path), name))
            except OSError as error:
                raise ReadError(name, 0, obstacle(name, error)) from error
        return self._index.packet(number)

    def close(self) -> None:
        """Close the file."""
        super().close()
        if self._index is not None:
            self._index.close()
            self._index = None

    def _begun(self) -> File | None:
        if not self._follow:  # there may be no packet for long
            self._all.look()
        return self._file

    def whole_file(self) -> File | None:
        """Return the file, unless it is followed, or only packets that pass a filter are read."""
        return None if self._follow or self._display_filter is not None else self._file

    def _read(self) -> Iterator[Batch]:
        file = self._file
        while file is not None and file.is_open:
            if self._follow and file.can_grow and not file.at:
                # It may have begun only now.
                file = self._file = file_of(file.descriptor, file.name)
            is_there = self._is_there(file)
            yield from file.batches()
            if not self._follow or not file.can_grow:
                super().close()  # whoever only iterates shall have no descriptors left
                return
            if not is_there:
                file.fail(file.at, "the file was deleted or replaced while it was followed")
            time.sleep(_POLL_S)

    def _is_there(self, file: File) -> bool:
        try:
            return self._path is None or os.path.samestat(Path(self._path).stat(), os.fstat(file.descriptor))
        except OSError:
            return False


class SessionReader(Reader):
    """See ``capd_client.read``."""

    def __init__(self, session: EventSource, display_filter: "AnyDisplayFilter | None" = None) -> None:
        super().__init__(display_filter)
        self._session = session

    def _read(self) -> Iterator[Batch]:
        while True:
            try:
                event = self._session.next_event()
            except CaptureError as error:
                yield from self._available()
                if isinstance(error, CaptureEnded):
                    return
                raise
            match event:
                case FileOpened(name=path):
                    # The file before is complete.
                    yield from self._available()
                    self.close()
                    self._file = self._open(path)
                    # There is something in it already, if the session has attached to a capture.
                    yield from self._available()
                case PacketCount():
                    yield from self._available()
                case Lagged(events=missed):
                    raise ReadError(self._file.name if self._file else "", 0, f"too slow: missed {missed} events")
                case _:
                    pass  # errors are raised, typed, behind the last event

    def _available(self) -> Iterator[Batch]:
        return self._file.batches() if self._file is not None else iter(())

    def _open(self, path: str) -> File:
        try:
            return open_passed(self._session.open_file, path)
        except OSError as error:
            raise ReadError(path, 0, f"the file cannot be opened: {error.strerror}") from error
