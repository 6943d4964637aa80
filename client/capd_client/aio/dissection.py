"""Dissections, for trio and asyncio."""

import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar, Unpack, cast, overload

import anyio
import anyio.lowlevel
import anyio.to_thread

from capd_client.aio.threads import made_in_thread
from capd_client.dissection.blocking import Over, StandstillWatch
from capd_client.dissection.blocking import Supply as BlockingSupply
from capd_client.dissection.dissecting import Dissecting, Restarted
from capd_client.dissection.frames import FieldFrame, WholeFrame
from capd_client.dissection.options import DissectionArguments
from capd_client.errors import CaptureEnded, CaptureError, InvalidArgument
from capd_client.reading.dissected import begun_live, begun_reader
from capd_client.reading.reader import FileReader

if TYPE_CHECKING:
    from capd_client.aio.stream import Stream
    from capd_client.display_filters.expressions import FieldExpression
    from capd_client.reading.live import LiveFiles
    from capd_protocol.batches.model import FileInterface

#: What a dissection gives.
Item_co = TypeVar("Item_co", covariant=True)


class Supply(Protocol):
    """What packets come from."""

    @property
    def interfaces(self) -> "Sequence[FileInterface]":
        """What the interface ids of the last batch mean."""
        ...

    async def next_now(self) -> object:
        """Return the batch or marker that is next; None: there is none now.

        Raises:
            Over: there will be no more.
            CaptureError: likewise, and that is why.
        """
        ...

    @property
    def rest_bytes(self) -> int:
        """How much stands behind what was read."""
        ...

    async def wait(self) -> None:
        """Wait until there may be more."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class _FileSupply:
    """A file, read in threads: it may have to be decompressed."""

    def __init__(self, supply: BlockingSupply) -> None:
        self._supply = supply

    @property
    def interfaces(self) -> "Sequence[FileInterface]":
        return self._supply.interfaces

    async def next_now(self) -> object:
        return await anyio.to_thread.run_sync(self._supply.next_now)

    @property
    def rest_bytes(self) -> int:
        return self._supply.rest_bytes

    async def wait(self) -> None:
        await anyio.lowlevel.checkpoint()

    def close(self) -> None:
        self._supply.close()


class _StreamSupply:
    """A live stream."""

    def __init__(self, stream: "Stream[Any]") -> None:
        self._stream = stream

    @property
    def interfaces(self) -> "Sequence[FileInterface]":
        return self._stream.interfaces

    async def next_now(self) -> object:
        try:
            return await self._stream.next_now()
        except CaptureEnded:
            raise Over from None

    @property
    def rest_bytes(self) -> int:
        return 0

    async def wait(self) -> None:
        await self._stream.wait()

    def close(self) -> None:
        """Leave the stream as it is: it is its owner's."""


class Dissection(Generic[Item_co]):
    """Frames of what is dissected, in the order of its packets; an asynchronous iterator and context manager.

    It ends by itself behind the last frame, and where it raises something but cancellation: nothing is lost by that.
    """

    def __init__(self, begin: Callable[[], tuple[Dissecting, Supply | None]]) -> None:
        """Take what begins it, in a thread: it may ask Wireshark what there is."""
        self._begin = begin
        self._begun: Dissecting | None = None
        self._supply: Supply | None = None
        self._error: CaptureError | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        """Return whether it goes on."""
        return f"<Dissection{', ended' if self._is_closed else ''}>"

    @property
    def is_cut(self) -> bool:
        """Whether the last record of a file is not whole; known at its end."""
        is_cut = self._begun is not None and self._begun.is_cut
        return is_cut or (self._supply is not None and self._supply.rest_bytes > 0)

    async def __aenter__(self) -> Self:
        """Check what is asked, and return it; leaving the block ends the engine.

        Raises:
            UnknownField: there is no such field; near ones are offered.
            InvalidArgument: an argument is not possible.
            UnsupportedError: there is no tshark; the package is named.
        """
        await self._dissecting()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        """Return it: there is one pass."""
        return self

    async def __anext__(self) -> Item_co:
        """Return the next frame, or what is between frames; what is raised is as of ``capd_client.Dissection``."""
        dissecting = await self._dissecting()
        try:
            item = dissecting.next_item() if dissecting.has_ready else await self._waited_for(dissecting)
        except CaptureError:
            await self.aclose()
            raise
        if item is None:
            await self.aclose()
            error, self._error = self._error, None
            if error is not None:
                raise error
            raise StopAsyncIteration
        # What it gives is what ``dissect`` has made it for: its overloads state which.
        return cast("Item_co", item)

    async def _dissecting(self) -> Dissecting:
        if self._begun is not None:
            return self._begun
        dissecting, self._supply = await made_in_thread(self._begin, _close)
        self._begun = dissecting
        return dissecting

    async def _waited_for(self, dissecting: Dissecting) -> object:
        await anyio.lowlevel.checkpoint()
        watch = StandstillWatch(dissecting)
        item = dissecting.next_item()
        while item is None and not dissecting.is_over:
            if not (dissecting.wants_input and await self._supplied(dissecting)):
                await self._wait(dissecting, watch)
            item = dissecting.next_item()
        return item

    async def _supplied(self, dissecting: Dissecting) -> bool:
        """Pass on what comes next, or that nothing does; return whether there was something."""
        assert self._supply is not None
        try:
            return dissecting.accept(await self._supply.next_now(), self._supply.interfaces)
        except Over:
            dissecting.finish()
        except CaptureError as error:  # what came before has frames
            self._error = error
            dissecting.finish()
        return True

    async def _wait(self, dissecting: Dissecting, watch: StandstillWatch) -> None:
        left_s = watch.left_s()
        if dissecting.is_over:
            return
        waits: list[Callable[[], Awaitable[None]]] = [lambda: anyio.wait_readable(dissecting.fileno())]
        if self._supply is not None and dissecting.wants_input:
            waits.append(self._supply.wait)
        with anyio.move_on_after(left_s):
            await _first_of(waits)

    async def aclose(self) -> None:
        """End the engine; frames that were given stay valid. Not to be interrupted: it takes some milliseconds."""
        self._is_closed = True
        if self._supply is not None:
            self._supply.close()
        if self._begun is not None and not self._begun.is_closed:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._begun.close)


def _close(begun: tuple[Dissecting, Supply | None]) -> None:
    dissecting, supply = begun
    dissecting.close()
    if supply is not None:
        supply.close()


async def _first_of(waits: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Wait until one of these is over, and end the others."""
    if len(waits) == 1:
        await waits[0]()
        return
    async with anyio.create_task_group() as tasks:

        async def wait(for_: Callable[[], Awaitable[None]]) -> None:
            await for_()
            tasks.cancel_scope.cancel()

        for each in waits:
            tasks.start_soon(wait, each)


def dissect_stream(
    stream: "Stream[Any]",
    files: "LiveFiles",
    names: tuple[object, ...],
    restart_packets: int | None,
    arguments: DissectionArguments,
) -> Dissection[Any]:
    """Return the dissection of a live stream; see ``Stream.dissect``."""
    return Dissection(lambda: (begun_live(files, names, restart_packets, arguments), _StreamSupply(stream)))


@overload
def dissect(
    path: str | os.PathLike[str],
    *,
    capture_filter: str | None = None,
    restart_packets: None = None,
    **arguments: Unpack[DissectionArguments],
) -> Dissection[WholeFrame]: ...
@overload
def dissect(
    path: str | os.PathLike[str],
    *,
    capture_filter: str | None = None,
    restart_packets: int,
    **arguments: Unpack[DissectionArguments],
) -> Dissection[WholeFrame | Restarted]: ...
@overload
def dissect(
    path: str | os.PathLike[str],
    name: "str | FieldExpression",
    /,
    *names: "str | FieldExpression",
    capture_filter: str | None = None,
    restart_packets: None = None,
    **arguments: Unpack[DissectionArguments],
) -> Dissection[FieldFrame]: ...
@overload
def dissect(
    path: str | os.PathLike[str],
    name: "str | FieldExpression",
    /,
    *names: "str | FieldExpression",
    capture_filter: str | None = None,
    restart_packets: int,
    **arguments: Unpack[DissectionArguments],
) -> Dissection[FieldFrame | Restarted]: ...
def dissect(
    path: str | os.PathLike[str],
    *names: "str | FieldExpression",
    capture_filter: str | None = None,
    restart_packets: int | None = None,
    **arguments: Unpack[DissectionArguments],
) -> Dissection[Any]:
    """Have Wireshark's ``tshark`` dissect the packets of a file: ``capd_client.Reader.dissect``, for ``async for``.

    Example:
        async with dissect("dns.pcapng", "ip.src", "dns.qry.name") as frames:
            async for frame in frames:
                print(frame["ip.src"], frame["dns.qry.name"])

    Args:
        path: of a file, no pipe.
        names: of fields; see ``capd_client.Reader.dissect``, which also has the other arguments and what is raised.
        capture_filter: only packets that match; in libpcap's language.
        restart_packets: begin with a new engine after so many packets; a ``Restarted`` stands there.
        arguments: see ``DissectionArguments``.
    """

    def begin() -> tuple[Dissecting, Supply | None]:
        if not stat.S_ISREG(_mode(path)):
            raise InvalidArgument("it is no file: what comes through a pipe is read by programs that block")
        reader = FileReader(path, follow=False)
        try:
            dissecting, supply = begun_reader(reader, names, capture_filter, restart_packets, arguments)
        except BaseException:
            reader.close()
            raise
        return dissecting, None if supply is None else _FileSupply(supply)

    return Dissection(begin)


def _mode(path: str | os.PathLike[str]) -> int:
    try:
        return Path(path).stat().st_mode
    except (OSError, ValueError):  # which reading it says better
        return stat.S_IFREG
