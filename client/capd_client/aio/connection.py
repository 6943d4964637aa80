"""A connection that several tasks may wait for: one of them waits in the socket, the others for that one."""

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from capd_client.aio.threads import made_in_thread
from capd_client.errors import NoEvents
from capd_client.transport.connect import Transport
from capd_client.transport.passed import CaptureFiles

_Found = TypeVar("_Found")


class Connection:
    """Owns a transport, and gives what it receives to one function.

    Nothing is lost by cancellation: between receiving bytes and taking them, nothing is awaited.
    """

    def __init__(self, transport: Transport, take: Callable[[bytes], None]) -> None:
        self._transport = transport
        self._take = take
        self._receiving = anyio.Lock()
        #: Around what is asked among events, and its answer.
        self.asking = anyio.Lock()
        #: How often something was received.
        self._rounds = 0
        #: Around the task that waits in the socket.
        self._waiting = anyio.CancelScope()

    @property
    def files(self) -> CaptureFiles | None:
        """Where the capture's files can be had, while the connection lasts."""
        return None if self._transport.is_closed else self._transport.files

    @classmethod
    async def open(cls, connect: Callable[[], Transport], take: Callable[[bytes], None]) -> "Connection":
        """Connect in a thread, and not to be interrupted: a private daemon's start, a socket's accept queue.

        Args:
            connect: what may take long.
            take: is given bytes as they come, empty ones when there will be no more; what it raises is raised where
                they are waited for.

        Raises:
            Exception: what ``connect`` raises.
        """
        transport = await made_in_thread(connect, Transport.close)
        transport.socket.setblocking(False)
        return cls(transport, take)

    async def receive(self) -> None:
        """Receive more; several tasks may, and each returns when there is something new."""
        rounds = self._rounds
        async with self._receiving:
            while self._rounds == rounds:
                if not self._transport.is_closed:
                    with anyio.CancelScope() as self._waiting:
                        await anyio.wait_readable(self._transport.socket)
                if self._rounds == rounds:
                    self.receive_nowait()

    def receive_nowait(self) -> bool:
        """Receive what has come already; return whether anything had."""
        try:
            data = self._transport.receive_nowait()
        except BlockingIOError:
            return False
        self._rounds += 1
        # Whoever waits in the socket would wait for what comes after this.
        self._waiting.cancel()
        self._take(data)
        return True

    async def wait_for(self, find: Callable[[], _Found | None], timeout_s: float | None = None) -> _Found:
        """Return what is found as soon as enough was received for it to be there.

        Args:
            find: returns it, or None.
            timeout_s: wait at most so long; with zero, only for what has come already.

        Raises:
            NoEvents: it was not there in time.
            Exception: what ``find`` raises, and what taking the bytes does.
        """
        await anyio.lowlevel.checkpoint()
        is_patient = timeout_s is None or timeout_s > 0
        with anyio.move_on_after(timeout_s if is_patient else None):
            while (found := find()) is None:
                if is_patient:
                    await self.receive()
                elif not self.receive_nowait():
                    raise NoEvents("nothing has come yet")
            return found
        raise NoEvents("nothing came in time")

    async def send(self, data: bytes) -> None:
        """Send bytes. A daemon that has gone shows when receiving."""
        view = memoryview(data)
        with suppress(BrokenPipeError, ConnectionResetError):
            while view:
                await anyio.wait_writable(self._transport.socket)
                view = view[self._transport.socket.send(view) :]

    def leave(self) -> None:
        """Say that nothing more will be asked; what the daemon still has to say comes."""
        self._transport.leave()

    @property
    def is_closed(self) -> bool:
        """Whether ``aclose`` was called."""
        return self._transport.is_closed

    async def aclose(self) -> None:
        """Close the connection, and wait for a daemon of our own to end. Safe to call again."""
        try:
            with anyio.CancelScope(shield=True):
                with suppress(OSError):
                    self._transport.socket.shutdown(socket.SHUT_RDWR)
                async with self._receiving:
                    pass  # whoever waited in the socket was woken, and has left it
        finally:
            self._transport.socket.close()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._transport.close)


class ConnectedBlock:
    """An ``async with`` block that has a connection from its beginning to its end, and is entered once."""

    _connection: Connection | None = None

    async def __aexit__(self, *exc_info: object) -> None:
        await self.terminate()

    async def _enter(
        self, connect: Callable[[], Transport], take: Callable[[bytes], None], find: Callable[[], object | None]
    ) -> None:
        """Connect, and wait for what there is at the beginning; where it does not come, nothing stays open.

        Args:
            connect: as for ``Connection.open``.
            take: as for ``Connection.open``.
            find: returns something when all of that is there, else None.

        Raises:
            Exception: what ``connect`` and ``take`` raise.
        """
        if self._connection is not None:
            raise RuntimeError("it has been entered already: make another one")
        self._connection = await Connection.open(connect, take)
        try:
            await self._connection.wait_for(find)
        except BaseException:
            await self.terminate()
            raise

    def _entered(self) -> Connection:
        if self._connection is None:
            raise RuntimeError("it is not entered: use 'async with'")
        return self._connection

    async def terminate(self) -> None:
        """End it. Safe to call again."""
        if self._connection is not None:
            await self._connection.aclose()
