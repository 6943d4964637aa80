"""Live streams: packets of a running capture through its files; the page cache is the memory that both sides share.

The queue is bounded by how far behind its reader may be. Nothing here affects the capture: packets that a reader misses
were in a file that is gone, or are left out on purpose, and are reported.
"""

import abc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, NamedTuple, Self, TypeVar, Unpack, cast, overload

from capd_client.conversation.events import CaptureEvent
from capd_client.dissection.options import DissectionArguments
from capd_client.errors import CaptureEnded, CaptureError, InvalidArgument, NoEvents, StreamOverrun
from capd_client.reading.event_source import EventSource
from capd_client.reading.files.file import File, FileGone, Piece
from capd_client.reading.files.opening import open_passed
from capd_client.reading.gap import Gap, Overflow
from capd_client.reading.model import Interfaces
from capd_client.reading.selection import Selection, compiled
from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.batches.progress import Progress
from capd_protocol.messages import FileClosed, FileOpened, Lagged

if TYPE_CHECKING:
    from capd_client.display_filters.expressions import FieldExpression
    from capd_client.display_filters.filter import AnyDisplayFilter
    from capd_client.dissection.blocking import Dissection
    from capd_client.dissection.dissecting import Restarted
    from capd_client.dissection.frames import FieldFrame, WholeFrame
    from capd_client.reading.columns.model import ColumnMaker, Columns
    from capd_protocol.fields.columns import Occurrence

#: What a stream gives.
Item_co = TypeVar("Item_co", bound=Batch | memoryview | Gap, covariant=True)

#: Files that are held open while they wait to be read; a ring cannot take these away. Chosen: far below the usual 1024
#: descriptors, and with the default bound enough for files of 1 MB.
_MAX_OPEN = 64


class _Part:
    """One file of the capture."""

    def __init__(self, path: str, file: File | None) -> None:
        self.path = path
        self.file = file
        #: Packets given, or left out.
        self.read = 0
        #: Something of it was given.
        self.is_begun = False
        #: None: it is not complete.
        self.packets: int | None = None
        #: It could not be had, and its packets were counted as missing already.
        self.is_given_up = False

    @property
    def missing(self) -> int:
        return 0 if self.is_given_up else max(0, (self.packets or 0) - self.read)


class FilePart(NamedTuple):
    """Whole records of a file that follow one another.

    Attributes:
        data: their bytes.
        packets: how many of the records are packets.
        begins_file: they are the first ones of their file, its header among them.
        interfaces: how many the file has described by their end.
    """

    data: memoryview
    packets: int
    begins_file: bool
    interfaces: int


class LiveFiles:
    """What is known of a capture's files, and what of them is to be given next. Events come in, packets go out."""

    def __init__(
        self,
        open_file: Callable[[str], BinaryIO],
        *,
        max_behind_bytes: int,
        overflow: Overflow,
        as_bytes: bool,
    ) -> None:
        self._open_file = open_file
        self._max_behind_bytes = max_behind_bytes
        self._overflow = overflow
        self._as_bytes = as_bytes
        self._parts: deque[_Part] = deque()
        self._pieces: Iterator[Piece] = iter(())
        self._waiting: deque[Batch | memoryview] = deque()
        self._accounted_packets = 0
        self._has_lagged = False
        #: Of what was given last.
        self._given_packets, self._given_begins_file = 0, False
        self.interfaces: Sequence[FileInterface] = ()

    @property
    def gives_bytes(self) -> bool:
        """Whether it gives bytes instead of batches."""
        return self._as_bytes

    def take(self, event: CaptureEvent) -> None:
        """Learn of an event."""
        match event:
            case FileOpened(name=path):
                is_one_too_many = sum(part.file is not None for part in self._parts) >= _MAX_OPEN
                self._parts.append(_Part(path, None if is_one_too_many else self._opened(path)))
            case FileClosed(name=path, packets=packets):
                for part in self._parts:
                    if part.path == path:
                        part.packets = packets
            case Lagged():
                self._has_lagged = True
            case _:
                pass

    def _opened(self, path: str) -> File | None:
        try:
            return open_passed(self._open_file, path)
        except OSError:
            return None

    @property
    def behind_bytes(self) -> int:
        """How much is in files that are open, and was not given."""
        return sum(part.file.rest_bytes() for part in self._parts if part.file is not None)

    def next_item(self) -> Batch | memoryview | Gap | None:
        """Return what comes next; None where nothing is there now.

        Raises:
            StreamOverrun: the reader is too far behind, and asked for this error.
            ReadError: a file is damaged.
        """
        if self._waiting:
            return self._waiting.popleft()
        while self._parts:
            if self._overflow != "wait" and self.behind_bytes > self._max_behind_bytes:
                if self._overflow == "disconnect":
                    raise StreamOverrun(self.behind_bytes, self._max_behind_bytes)
                left_out = self._leave_out()
                if left_out:
                    self._accounted_packets += left_out
                    return Gap(left_out, "too_slow")
            part = self._parts[0]
            piece = self._next_piece(part)
            if piece is not None:
                item = self._give(part, piece)
                if item is not None:
                    return item
                continue
            if part.packets is None and len(self._parts) == 1:
                return None
            missing = self._end_first()
            if missing:
                self._accounted_packets += missing
                return Gap(missing, "deleted")
        return None

    @property
    def is_blind(self) -> bool:
        """Whether the current file cannot be had: its packets are missed, until the next one is opened.

        So it is where its reader was away for longer than files are kept for it.
        """
        return self._parts[-1].file is None if self._parts else self._has_lagged

    def next_part(self) -> FilePart | Gap | None:
        """Return what comes next as bytes, with what is in them; see ``next_item``."""
        item = self.next_item()
        if not isinstance(item, memoryview):
            return item if isinstance(item, Gap) else None
        return FilePart(item, self._given_packets, self._given_begins_file, len(self.interfaces))

    def _next_piece(self, part: _Part) -> Piece | None:
        if part.file is None and not part.is_given_up:
            part.file = self._opened(part.path)
        if part.file is None:
            return None
        try:
            piece = next(self._pieces, None)
            if piece is None:
                self._pieces = part.file.pieces()
                piece = next(self._pieces, None)
        except FileGone:
            return None
        return piece

    def _give(self, part: _Part, piece: Piece) -> Batch | memoryview | None:
        packets = sum(len(batch.offsets) for batch in piece.batches)
        self._given_packets, self._given_begins_file = packets, not part.is_begun
        part.is_begun = True
        part.read += packets
        self._accounted_packets += packets
        self.interfaces = Interfaces(part.file) if part.file is not None else ()
        if self._as_bytes:
            return piece.data
        self._waiting.extend(piece.batches)
        return self._waiting.popleft() if self._waiting else None

    def _end_first(self) -> int:
        """Be done with the first file; return how many of its packets were not given."""
        part = self._parts.popleft()
        self._pieces = iter(())
        if part.file is not None:
            part.file.close()
        return part.missing

    def _leave_out(self) -> int:
        """Leave out what is oldest until half the bound is left; return how many packets that was."""
        left_out = 0
        while self.behind_bytes > self._max_behind_bytes // 2:
            part = self._parts[0]
            if part.packets is not None and (part.read == 0 or not self._as_bytes):
                left_out += self._end_first()
                continue
            # Of a file that is still written, and of bytes, which need a file's beginning, none are left out unread.
            if self._as_bytes or (piece := self._next_piece(part)) is None:
                break
            packets = sum(len(batch.offsets) for batch in piece.batches)
            part.read += packets
            left_out += packets
        return left_out

    def count_anew(self) -> None:
        """Forget the packets that were given: they came before those that are counted."""
        self._accounted_packets = 0

    def last_gap(self, packets_total: int) -> Gap | None:
        """Return what is missing when the capture has ended and all was given.

        Args:
            packets_total: in all its files since the stream began.
        """
        missing = packets_total - self._accounted_packets
        if not self._has_lagged or missing <= 0:
            return None
        self._accounted_packets = packets_total
        for part in self._parts:
            part.is_given_up = part.file is None  # what is in it by now is among the missing ones
        return Gap(missing, "too_slow")

    def close(self) -> None:
        """Close all files; what was given stays valid."""
        while self._parts:
            self._end_first()


#: What is made of a batch.
Made = TypeVar("Made")


class _LiveBatches(abc.ABC, Generic[Made]):
    """Makes something of each batch that a stream gives, in its order, and counts what came before."""

    def __init__(self, files: LiveFiles) -> None:
        """Begin with the first item."""
        self._files = files
        self._progress = Progress()

    def _after(self, item: "Batch | Gap") -> "Made | Gap | None":
        """Return what is made of a batch, if anything is; a gap as it is."""
        if isinstance(item, Gap):
            self._progress.packets += item.packets
            return item
        made = self._made(item, self._files.interfaces, self._progress)
        self._progress.note(item)
        return made

    @abc.abstractmethod
    def _made(self, batch: Batch, interfaces: Sequence[FileInterface], progress: Progress) -> "Made | None":
        """Return what is made of a batch; None: nothing."""


class LiveSelection(_LiveBatches[Batch]):
    """Chooses packets of what a stream gives, in its order."""

    def __init__(self, selection: Selection, files: LiveFiles) -> None:
        """Begin with the first item.

        Raises:
            InvalidArgument: the stream gives bytes, and packets are to be chosen.
        """
        if files.gives_bytes and not selection.is_all:
            raise InvalidArgument(
                "of a stream of bytes no packets are chosen: leave out as_bytes", argument="display_filter"
            )
        super().__init__(files)
        self._selection = selection

    def __call__(self, item: "Batch | memoryview | Gap") -> "Batch | memoryview | Gap | None":
        """Return an item, of a batch the packets that pass, if any do."""
        return item if isinstance(item, memoryview) else self._after(item)

    def _made(self, batch: Batch, interfaces: Sequence[FileInterface], progress: Progress) -> Batch | None:
        found = self._selection.of(batch, interfaces, progress)
        return found if len(found.offsets) else None


class LiveColumns(_LiveBatches["Columns"]):
    """Makes columns of what a stream gives, in its order."""

    def __init__(self, maker: "ColumnMaker", files: LiveFiles) -> None:
        """Begin with the first item.

        Raises:
            InvalidArgument: the stream gives bytes.
        """
        if files.gives_bytes:
            raise InvalidArgument("a stream of bytes has no columns: leave out as_bytes", argument="as_bytes")
        super().__init__(files)
        self._maker = maker

    def __call__(self, item: "Batch | memoryview | Gap") -> "Columns | Gap | None":
        """Return an item's columns, if any of its packets match; a gap as it is."""
        return None if isinstance(item, memoryview) else self._after(item)

    def _made(self, batch: Batch, interfaces: Sequence[FileInterface], progress: Progress) -> "Columns | None":
        columns = self._maker.of(batch, interfaces, progress)
        return columns if len(columns) else None


class Stream(Generic[Item_co]):
    """A live stream, blocking; see ``capd_client.stream``. An iterator, and a context manager that closes its files.

    ``Stream[Batch | Gap]``, or with ``as_bytes=True`` ``Stream[memoryview | Gap]``.
    """

    def __init__(
        self, session: EventSource, files: LiveFiles, display_filter: "AnyDisplayFilter | None" = None
    ) -> None:
        self._session = session
        self._files = files
        self._display_filter = compiled(display_filter)
        self._selected = LiveSelection(Selection(None, self._display_filter), files)
        self._error: CaptureError | None = None
        #: Those that are missing at the end were given as a gap.
        self._is_counted = False
        self._all = self._read(self._next_now)
        self._items = self._read(self.next_now)

    def __repr__(self) -> str:
        """Return whose packets it gives, and how far behind it is."""
        return f"<Stream of {self._session!r}, {self.behind_bytes:,} bytes behind>"

    def __enter__(self) -> Self:
        """Return the stream; leaving the block closes its files."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._files.close()

    def __iter__(self) -> Iterator[Item_co]:
        """Iterate until the capture has ended.

        Raises:
            StreamOverrun: the reader is too far behind, with ``overflow="disconnect"``.
            ReadError: a file is damaged, or was cut.
            CaptureError: the capture failed, or the daemon went away; all that was written was given.
        """
        return self._items

    def columns(
        self,
        *names: str,
        occurrence: "Occurrence" = "first",
        capture_filter: str | None = None,
        display_filter: "AnyDisplayFilter | None" = None,
    ) -> "Iterator[Columns | Gap]":
        """Iterate over fields of packets as typed arrays, batch by batch as they come, and over each ``Gap``.

        Args:
            names: of fields; see ``Reader.columns``, which also has what is raised for them.
            occurrence: where a packet has several values of a field: the first one, or all.
            capture_filter: only packets that match; in libpcap's language.
            display_filter: only packets that pass; in Wireshark's, see ``DisplayFilter``.

        Raises:
            InvalidArgument: the stream is one of bytes.
        """
        from capd_client.reading.columns.model import ColumnMaker  # noqa: PLC0415  # few need them

        maker = ColumnMaker(names, occurrence, Selection(capture_filter, self._display_filter, display_filter))
        return filter(None, map(LiveColumns(maker, self._files), self._all))

    @overload
    def dissect(
        self, *, restart_packets: int | None = None, **arguments: Unpack[DissectionArguments]
    ) -> "Dissection[WholeFrame | Gap | Restarted]": ...
    @overload
    def dissect(
        self,
        name: "str | FieldExpression",
        /,
        *names: "str | FieldExpression",
        restart_packets: int | None = None,
        **arguments: Unpack[DissectionArguments],
    ) -> "Dissection[FieldFrame | Gap | Restarted]": ...
    def dissect(
        self,
        *names: "str | FieldExpression",
        restart_packets: int | None = None,
        **arguments: Unpack[DissectionArguments],
    ) -> "Dissection[Any]":
        """Have Wireshark's ``tshark`` dissect the packets as they come, and iterate over frames.

        Each ``Gap`` stands behind the frames of all packets before it, and before those of the packets behind. With a
        display filter it is given with the next frame that matches, or at the end.

        Args:
            names: of fields; see ``Reader.dissect``, which also has the other arguments and what is raised.
            restart_packets: begin with a new engine after so many packets; a ``Restarted`` stands there.
            arguments: see ``DissectionArguments``.

        Raises:
            InvalidArgument: the stream is one of bytes.
        """
        from capd_client.dissection.blocking import Dissection  # noqa: PLC0415  # few need it
        from capd_client.reading.dissected import begun_stream  # noqa: PLC0415  # likewise

        return Dissection(*begun_stream(self, self._files, names, restart_packets, arguments))

    @property
    def interfaces(self) -> Sequence[FileInterface]:
        """What the interface ids of the last batch mean."""
        return self._files.interfaces

    @property
    def behind_bytes(self) -> int:
        """How much was announced and not given."""
        return self._files.behind_bytes

    def next_now(self) -> Item_co | None:
        """Return what has come already; None: nothing has.

        Raises:
            CaptureEnded: the capture has ended, and all was given.
            CaptureError: as iteration.
        """
        while (item := self._next_now()) is not None:
            if (selected := self._selected(item)) is not None:
                # What ``files`` gives is what ``stream`` has made them for: its overloads state which.
                return cast("Item_co", selected)
        return None

    def fileno(self) -> int:
        """Return the descriptor of the session's connection: readable when ``next_now`` may have more."""
        return self._session.fileno()

    def _next_now(self) -> Batch | memoryview | Gap | None:
        """Return likewise what comes before the display filter."""
        # What has come meanwhile first: it says how far behind we are, and a file may be gone soon.
        while self._error is None and self._take(block=False):
            pass
        item = self._files.next_item()
        if item is None and self._error is not None:
            if not self._is_counted:
                self._is_counted = True
                item = self._files.last_gap(self._session.packetcount - self._session.packetcount_before)
            if item is None:
                raise self._error
        return item

    def _take(self, *, block: bool) -> bool:
        """Learn of an event, if there is one, or of the end."""
        try:
            self._files.take(self._session.next_event(block=block))
        except NoEvents:
            return False
        except CaptureError as ended:
            self._error = ended
        return True

    def _read(self, next_now: "Callable[[], Any]") -> "Iterator[Any]":
        while True:
            try:
                item = next_now()
            except CaptureEnded:
                return
            if item is not None:
                yield item
            elif self._error is None:
                self._take(block=True)
