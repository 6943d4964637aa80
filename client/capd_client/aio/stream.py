"""Live streams of packets, for trio and asyncio."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, Unpack, cast, overload

from capd_client.aio.session import CaptureSession
from capd_client.dissection.options import DissectionArguments
from capd_client.errors import CaptureEnded, CaptureError, NoEvents
from capd_client.reading import DEFAULT_BEHIND_BYTES
from capd_client.reading.gap import Gap, Overflow

if TYPE_CHECKING:
    from capd_client.aio.dissection import Dissection
    from capd_client.display_filters.expressions import FieldExpression
    from capd_client.display_filters.filter import AnyDisplayFilter
    from capd_client.dissection.dissecting import Restarted
    from capd_client.dissection.frames import FieldFrame, WholeFrame
    from capd_client.reading.columns.model import Columns
    from capd_client.reading.live import LiveColumns, LiveFiles
    from capd_protocol.batches.model import Batch, FileInterface
    from capd_protocol.fields.columns import Occurrence

#: What a stream gives.
Item_co = TypeVar("Item_co", bound="Batch | memoryview | Gap", covariant=True)
#: What is waited for, before or behind the display filter.
_Given = TypeVar("_Given")


@overload
def stream(
    session: CaptureSession,
    *,
    overflow: Overflow = "drop_oldest",
    max_behind_bytes: int = DEFAULT_BEHIND_BYTES,
    as_bytes: Literal[False] = False,
    display_filter: "AnyDisplayFilter | None" = None,
) -> "Stream[Batch | Gap]": ...
@overload
def stream(
    session: CaptureSession,
    *,
    overflow: Overflow = "drop_oldest",
    max_behind_bytes: int = DEFAULT_BEHIND_BYTES,
    as_bytes: Literal[True],
    display_filter: None = None,
) -> "Stream[memoryview | Gap]": ...
@overload
def stream(
    session: CaptureSession,
    *,
    overflow: Overflow = "drop_oldest",
    max_behind_bytes: int = DEFAULT_BEHIND_BYTES,
    as_bytes: bool,
    display_filter: "AnyDisplayFilter | None" = None,
) -> "Stream[Batch | memoryview | Gap]": ...
def stream(
    session: CaptureSession,
    *,
    overflow: Overflow = "drop_oldest",
    max_behind_bytes: int = DEFAULT_BEHIND_BYTES,
    as_bytes: bool = False,
    display_filter: "AnyDisplayFilter | None" = None,
) -> "Stream[Batch | memoryview | Gap]":
    """Give the packets of a capture that runs as they come: ``capd_client.stream``, for ``async for``.

    Example:
        async with CaptureSession(interfaces="eth0", savefile="live.pcapng") as capture, stream(capture) as packets:
            async for item in packets:
                print(item)

    Args:
        session: entered; the stream takes its events.
        overflow: as for ``capd_client.stream``.
        max_behind_bytes: as for ``capd_client.stream``.
        as_bytes: as for ``capd_client.stream``.
        display_filter: as for ``capd_client.stream``.

    Returns:
        An asynchronous iterator of ``Batch`` (with ``as_bytes``, of ``memoryview``) and of ``Gap``.
    """
    from capd_client.reading.live import LiveFiles  # noqa: PLC0415  # numpy

    files = LiveFiles(session.open_file, max_behind_bytes=max_behind_bytes, overflow=overflow, as_bytes=as_bytes)
    return Stream(session, files, display_filter)


class _ColumnStream:
    """The columns of what a stream gives; an asynchronous iterator."""

    def __init__(
        self, next_item: "Callable[[], Awaitable[Batch | memoryview | Gap]]", columns_of: "LiveColumns"
    ) -> None:
        self._next_item = next_item
        self._columns_of = columns_of

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> "Columns | Gap":
        while True:
            found = self._columns_of(await self._next_item())
            if found is not None:
                return found


class Stream(Generic[Item_co]):
    """A live stream; see ``stream``. An asynchronous iterator, and a context manager that closes its files.

    ``Stream[Batch | Gap]``, or with ``as_bytes=True`` ``Stream[memoryview | Gap]``.
    """

    def __init__(
        self, session: CaptureSession, files: "LiveFiles", display_filter: "AnyDisplayFilter | None" = None
    ) -> None:
        from capd_client.reading.live import LiveSelection  # noqa: PLC0415  # numpy
        from capd_client.reading.selection import Selection, compiled  # noqa: PLC0415  # likewise

        self._session = session
        self._files = files
        self._display_filter = compiled(display_filter)
        self._selected = LiveSelection(Selection(None, self._display_filter), files)
        self._error: CaptureError | None = None
        self._is_over = False

    def __repr__(self) -> str:
        """Return whose packets it gives, and how far behind it is."""
        return f"<Stream of {self._session!r}, {self.behind_bytes:,} bytes behind>"

    async def __aenter__(self) -> Self:
        """Return the stream; leaving the block closes its files."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._files.close()

    def __aiter__(self) -> Self:
        """Iterate until the capture has ended.

        Raises:
            StreamOverrun: the reader is too far behind, with ``overflow="disconnect"``.
            ReadError: a file is damaged, or was cut.
            CaptureError: the capture failed, or the daemon went away; all that was written was given.
        """
        return self

    def columns(
        self,
        *names: str,
        occurrence: "Occurrence" = "first",
        capture_filter: str | None = None,
        display_filter: "AnyDisplayFilter | None" = None,
    ) -> "AsyncIterator[Columns | Gap]":
        """Iterate over fields of packets as typed arrays, batch by batch as they come, and over each ``Gap``.

        Args:
            names: of fields; see ``capd_client.Reader.columns``, which also has what is raised for them.
            occurrence: where a packet has several values of a field: the first one, or all.
            capture_filter: only packets that match; in libpcap's language.
            display_filter: only packets that pass; in Wireshark's, see ``capd_client.DisplayFilter``.

        Raises:
            InvalidArgument: the stream is one of bytes.
        """
        from capd_client.reading.columns.model import ColumnMaker  # noqa: PLC0415  # numpy
        from capd_client.reading.live import LiveColumns  # noqa: PLC0415  # likewise
        from capd_client.reading.selection import Selection  # noqa: PLC0415  # likewise

        selection = Selection(capture_filter, self._display_filter, display_filter)
        return _ColumnStream(self._next_item, LiveColumns(ColumnMaker(names, occurrence, selection), self._files))

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
        """Have Wireshark's ``tshark`` dissect the packets as they come, as ``capd_client.Stream.dissect`` does.

        Example:
            async with stream(capture) as packets, packets.dissect("ip.src", "dns.qry.name") as frames:
                async for item in frames:
                    print(item)

        Args:
            names: of fields; see ``capd_client.Reader.dissect``, which also has the other arguments and what is raised.
            restart_packets: begin with a new engine after so many packets; a ``Restarted`` stands there.
            arguments: see ``DissectionArguments``.

        Raises:
            InvalidArgument: the stream is one of bytes, or an argument is not possible.
        """
        from capd_client.aio.dissection import dissect_stream  # noqa: PLC0415  # few need it

        return dissect_stream(self, self._files, names, restart_packets, arguments)

    @property
    def interfaces(self) -> "Sequence[FileInterface]":
        """What the interface ids of the last batch mean."""
        return self._files.interfaces

    @property
    def behind_bytes(self) -> int:
        """How many bytes were announced and not given."""
        return self._files.behind_bytes

    async def __anext__(self) -> Item_co:
        """Return what comes next. After cancellation nothing is lost."""
        return await self._next_of(self.next_now)

    async def next_now(self) -> Item_co | None:
        """Return what has come already; None: nothing has. After cancellation nothing is lost.

        Raises:
            CaptureEnded: the capture has ended, and all was given; or it failed, which was raised before.
            CaptureError: as iteration.
        """
        while (item := await self._next_now()) is not None:
            if (selected := self._selected(item)) is not None:
                # What ``files`` gives is what ``stream`` has made them for: its overloads state which.
                return cast("Item_co", selected)
        return None

    async def _next_item(self) -> "Batch | memoryview | Gap":
        """Return what comes next, before the display filter."""
        return await self._next_of(self._next_now)

    async def _next_of(self, next_now: "Callable[[], Awaitable[_Given | None]]") -> "_Given":
        while True:
            try:
                item = await next_now()
            except CaptureEnded:
                raise StopAsyncIteration from None
            if item is not None:
                return item
            await self.wait()

    async def _next_now(self) -> "Batch | memoryview | Gap | None":
        if not self._is_over:
            await self._take(block=False)
            item = self._files.next_item()
            if item is None and self._error is not None:
                self._is_over = True
                item = self._files.last_gap(self._session.packetcount - self._session.packetcount_before)
            if item is not None or not self._is_over:
                return item
        error, self._error = self._error, None
        raise CaptureEnded("the stream has ended") if error is None else error

    async def wait(self) -> None:
        """Wait until ``next_now`` may have more. After cancellation nothing is lost."""
        await self._take(block=True)

    async def _take(self, *, block: bool) -> None:
        while self._error is None:
            try:
                self._files.take(await self._session.next_event(block=block))
            except NoEvents:
                return
            except CaptureError as ended:
                self._error = ended
            if block:
                return
