"""``CaptureSession`` for asynchronous programs, on trio and on asyncio (through anyio).

The same arguments, events, handlers and attributes as the blocking ``capd_client.CaptureSession``.
"""

import os
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager, suppress
from typing import Unpack

import anyio
import anyio.lowlevel
import anyio.to_thread

from capd_client.conversation import Conversation, Event
from capd_client.errors import CaptureEnded, NoEvents
from capd_client.options import CaptureArguments, make_request
from capd_client.session import END_TIMEOUT_S, SessionBase, connect_for
from capd_client.transport import Transport

__all__ = ["CaptureSession"]


class CaptureSession(SessionBase):
    """A packet capture, driven by events.

    Entering the block asks for the capture and waits until it runs: its rings are armed and its first file has its
    header. Leaving it, also by cancellation, ends the capture and waits until its files are complete.

    One task at a time may wait for events.

    Example:
        async with CaptureSession(interfaces=["eth0"], savefile="dns.pcapng") as capture:
            async for event_type, message in capture:
                if event_type == capture.SP_PACKET_COUNT:
                    print(f"{message} new packets, {capture.packetcount} in all")
    """

    def __init__(
        self, *, socket_path: str | os.PathLike[str] | None = None, **arguments: Unpack[CaptureArguments]
    ) -> None:
        """Prepare a capture; nothing is started yet.

        Args:
            socket_path: as for the blocking session.
            **arguments: see ``capd_client.options.CaptureArguments``.

        Raises:
            InvalidArgument: an argument is impossible.
        """
        super().__init__()
        self._socket_path = socket_path
        self._request, self._place = make_request(arguments)
        self._conversation = Conversation(self._request, self._place)
        self._transport: Transport | None = None

    async def __aenter__(self) -> "CaptureSession":
        """Start the capture.

        Raises:
            DestinationError: the directory of ``savefile`` cannot be entered.
            DaemonUnavailable: there is no daemon.
            ChildError: the capture was refused; the subclass and ``failure`` tell why.
            BrokenPipe: the daemon went away.
        """
        self._transport = await anyio.to_thread.run_sync(self._ask)
        try:
            while not self._conversation.is_decided:
                await self._receive()
            error = self._conversation.start_error()
            if error is not None:
                raise error
        except BaseException:
            await self.terminate()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.terminate()

    def _ask(self) -> Transport:
        # In a thread, and not to be interrupted: a private daemon's start, a socket's accept queue.
        directory_fd = self._place.open()
        try:
            transport = connect_for(self._request, self._socket_path)
            transport.send(self._conversation.opening(), directory_fd)
        finally:
            os.close(directory_fd)
        transport.socket.setblocking(False)
        return transport

    def _entered(self) -> Transport:
        if self._transport is None:
            raise RuntimeError("the session is not entered: use 'async with'")
        return self._transport

    async def _receive(self) -> None:
        transport = self._entered()
        await anyio.wait_readable(transport.socket)
        self._conversation.receive(transport.receive_nowait())

    # ``timeout`` is wirepy's argument.
    async def wait_for_event(self, block: bool = True, timeout: float | None = None) -> Event:  # noqa: ASYNC109
        """Return the next event: a pair of its type, one of ``SP_…``, and its message.

        After cancellation no event is lost.

        Args:
            block: wait for one; False: only one that is there already.
            timeout: wait at most so many seconds.

        Raises:
            NoEvents: none came in the time given.
            CaptureEnded: the capture has ended, and all its events have been returned.
            ChildError: likewise, and it has failed.
            BrokenPipe: the daemon went away.
        """
        if not block:
            await anyio.lowlevel.checkpoint()
            return self._event_now()
        with _no_events_after(timeout):
            while (event := self._conversation.next_event()) is None:
                await self._receive()
        return event

    def _event_now(self) -> Event:
        while (event := self._conversation.next_event()) is None:
            try:
                self._conversation.receive(self._entered().receive_nowait())
            except BlockingIOError as error:
                raise NoEvents("no event has come yet") from error
        return event

    # ``timeout`` is wirepy's argument.
    async def wait_for_unhandled_event(self, block: bool = True, timeout: float | None = None) -> Event:  # noqa: ASYNC109
        """Return the next event that has no handler, and give those before it to theirs.

        Args:
            block: wait for one; False: only one that is there already.
            timeout: wait at most so many seconds, all events together.

        Raises:
            Exception: what a handler raises; else as ``wait_for_event``.
        """
        with _no_events_after(timeout):
            while True:
                event = await self.wait_for_event(block)
                if not self._handle(event):
                    break
        return event

    def __aiter__(self) -> AsyncIterator[Event]:
        """Iterate over the events without handlers until the capture ends; if it fails, its error is raised."""
        return self

    async def __anext__(self) -> Event:
        """Return the next event without a handler."""
        try:
            return await self.wait_for_unhandled_event()
        except CaptureEnded:
            raise StopAsyncIteration from None

    async def stop(self) -> None:
        """Have the capture end. Its last events still come, then iteration ends."""
        transport = self._transport
        if transport is not None and not self._conversation.is_over:
            view = memoryview(self._conversation.stopping())
            with suppress(BrokenPipeError, ConnectionResetError):
                while view:
                    await anyio.wait_writable(transport.socket)
                    view = view[transport.socket.send(view) :]

    async def wait(self) -> None:
        """Wait until the capture has ended by itself; its events can be had afterwards."""
        while not self._conversation.is_over:
            await self._receive()

    async def terminate(self) -> None:
        """End the capture, wait until its files are complete, and close the connection. Safe to call again."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        with anyio.CancelScope(shield=True):
            transport.leave()
            with anyio.move_on_after(END_TIMEOUT_S):
                while not self._conversation.is_over:
                    await anyio.wait_readable(transport.socket)
                    self._conversation.receive(transport.receive_nowait())
            self._conversation.receive(b"")
            await anyio.to_thread.run_sync(transport.close)


@contextmanager
def _no_events_after(timeout_s: float | None) -> Generator[None, None, None]:
    try:
        with anyio.fail_after(timeout_s):
            yield
    except TimeoutError as error:
        raise NoEvents("no event came in time") from error
