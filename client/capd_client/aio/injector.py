"""``Injector`` for asynchronous programs."""

import contextlib
import os
import socket
import time
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Self

import anyio
import anyio.lowlevel
import anyio.to_thread

from capd_client.aio.connection import ConnectedBlock
from capd_client.conversation.sending import (
    AHEAD_NS,
    END_TIMEOUT_S,
    PROGRESS_S,
    InjectorBase,
    Outgoing,
    Outgoings,
    Packet,
    Progress,
    SendReport,
)
from capd_client.errors import BrokenPipe, CaptureError
from capd_client.transport.connect import SocketPath, Transport, connect_to_send
from capd_protocol.sending import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from capd_client.reading.reader import Reader


class Injector(InjectorBase, ConnectedBlock):
    """Sends packets on one interface; see ``capd_client.Injector``. Several tasks may send, one call after another.

    Example:
        async with Injector("eth0") as injector:
            await injector.send(frame)
            report = await injector.replay("dns.pcapng", speed=2)
            print(report.sent, "packets sent")
    """

    def __init__(self, interface: str, *, socket_path: SocketPath = None) -> None:
        """Prepare to send; nothing is asked for yet.

        Args:
            interface: its name.
            socket_path: where the daemon listens; None: as for ``CaptureSession``.
        """
        super().__init__(interface)
        self._socket_path = socket_path
        self._transport: Transport
        self._channel: socket.socket
        #: Around a call.
        self._sending = anyio.Lock()

    async def __aenter__(self) -> Self:
        """Begin to send on the interface.

        Raises:
            NotPermitted: no rule allows it; the text says whom to ask.
            InterfaceError: there is no such interface, or it is down.
            UnsupportedError: it takes no Ethernet frames.
            ResourceError: this user sends too often at once.
            DaemonUnavailable: there is no daemon.
            BrokenPipe: it went away.
        """
        await self._enter(self._connect, self._take, lambda: self._terms)
        if self._transport.channel is None:
            await self.terminate()
            raise BrokenPipe("capd has passed no socket to send on")
        self._channel = self._transport.channel
        self._channel.setblocking(False)
        return self

    def _connect(self) -> Transport:
        self._transport = connect_to_send(self._stream.opening(), self._socket_path)
        return self._transport

    async def send(self, packet: Packet) -> None:
        """Send a packet.

        Args:
            packet: an Ethernet frame, without its checksum.

        Raises:
            PacketSizeError: it is shorter than an Ethernet header, or longer than the interface takes.
            SourceAddressError: its source address is not the interface's, and the rule allows no other one.
            InterfaceError: the interface is down, or has gone; nothing more can be sent.
            NotPermitted: the right was revoked; nothing more can be sent.
            BrokenPipe: the daemon went away, or the injector is closed.
        """
        async with self._sending:
            await self._send_all(self._outgoings_of((packet,), None), None)
            if self._report.refused:
                raise self._refusal(packet)

    async def send_many(
        self, packets: Iterable[Packet], *, rate: float | None = None, progress: Progress | None = None
    ) -> SendReport:
        """Send packets, in their order; those that may not be sent are left out, and are in the report.

        After cancellation some may have been sent, and ``stop`` has the rest not be sent.

        Args:
            packets: an iterable, which is taken from as packets are sent.
            rate: as for the blocking class.
            progress: as for the blocking class.

        Returns:
            What has become of them.

        Raises:
            RateExceeded: the rule allows fewer a second.
            InvalidArgument: the rate is not above 0.
            InterfaceError: as ``send``; ``report`` has what was sent before.
            NotPermitted: as ``send``.
            BrokenPipe: as ``send``.
        """
        async with self._sending:
            return await self._send_all(self._outgoings_of(packets, rate), progress)

    async def replay(
        self,
        source: "str | os.PathLike[str] | int | IO[bytes] | Reader",
        *,
        speed: float = 1.0,
        rate: float | None = None,
        count: int | None = None,
        loop: int = 1,
        progress: Progress | None = None,
    ) -> SendReport:
        """Send the packets of a capture file, in their order, each at its time; the file is read in threads.

        Args:
            source: as for the blocking class, and so the next ones.
            speed: see there.
            rate: see there.
            count: see there.
            loop: see there.
            progress: see there.

        Returns:
            What has become of them.

        Raises:
            ReadError: the file cannot be read, or no further; what came before was sent.
            RateExceeded: the rule allows fewer than ``rate``.
            InvalidArgument: it has packets that are no Ethernet frames; or an argument is impossible.
            InterfaceError: as ``send``; ``report`` has what was sent before.
            NotPermitted: as ``send``.
            BrokenPipe: as ``send``.
        """
        from capd_client.reading.replaying import begun  # noqa: PLC0415  # numpy

        checked_rate = None if rate is None else self._checked_rate(rate)
        outgoings = begun(source, speed=speed, rate=checked_rate, count=count, loop=loop)
        async with self._sending:
            return await self._send_all(outgoings, progress, in_thread=True)

    async def _send_all(
        self, outgoings: Outgoings, progress: Progress | None, *, in_thread: bool = False
    ) -> SendReport:
        self._entered()
        if not self._is_settled:
            await self._settle()
        self._begin(outgoings, progress)
        try:
            await self._pass_on(outgoings, in_thread=in_thread)
        except Exception:
            await self._settle()  # what came before is sent
            raise
        await self._settle()
        return self._report

    async def _pass_on(self, outgoings: Outgoings, *, in_thread: bool) -> None:
        self._is_settled = False
        begun_ns = time.monotonic_ns()
        next_s = time.monotonic() + PROGRESS_S
        messages = iter(outgoings)

        def take() -> Outgoing | None:
            return next(messages, None)

        while (outgoing := await anyio.to_thread.run_sync(take) if in_thread else take()) is not None:
            if outgoing.due_ns is not None:
                await self._wait_until(begun_ns + outgoing.due_ns - AHEAD_NS)
            await self._put(outgoing.message)
            await anyio.lowlevel.checkpoint()  # others run, also where there is always room
            if self._progress is not None and time.monotonic() >= next_s:
                next_s = time.monotonic() + PROGRESS_S
                await self._follow()

    async def _settle(self) -> None:
        """Wait until what was passed on is sent."""
        number, wanted = self._wanted(is_last=True)
        await self._put(wanted)
        while await self._next_report(None) != number:
            pass
        self._is_settled = True

    async def _wait_until(self, time_ns: int) -> None:
        while (left_s := (time_ns - time.monotonic_ns()) / 1e9) > 0:
            if self._progress is not None:
                left_s = min(left_s, PROGRESS_S)
                await self._follow()
            await self._next_report(left_s)

    async def _follow(self) -> None:
        """Take a report that has come, and ask for the next one."""
        if self._is_asking:
            await self._next_report(0.001)
        if not self._is_asking:
            await self._put(self._wanted(is_last=False)[1])

    async def _put(self, message: bytes) -> None:
        while True:
            try:
                self._channel.send(message)
            except BlockingIOError:
                await anyio.wait_writable(self._channel)
            except OSError as error:  # it is closed, here or there
                raise await self._broken() from error
            else:
                return

    async def _next_report(self, timeout_s: float | None) -> int | None:
        """Take the next report, and return its number; None where none comes in time.

        Raises:
            CaptureError: none comes any more.
        """
        data: bytes | None = None
        with anyio.move_on_after(timeout_s):
            data = await self._received()
        if data is None:
            return None
        number = self._take_report(data) if data else None
        if number is None:
            raise await self._broken()
        return number

    async def _received(self) -> bytes:
        """Return what the process that sends says next; empty bytes at its end."""
        while True:
            try:
                return self._channel.recv(MAX_MESSAGE_BYTES)
            except BlockingIOError:
                await anyio.wait_readable(self._channel)
            except ConnectionResetError:
                # It has left something unread, which the kernel says once, and before what it has said last.
                continue
            except OSError:  # it is closed here
                return b""

    async def _broken(self) -> CaptureError:
        """Take the last report, and how it ended; return what is to be raised."""
        with anyio.move_on_after(END_TIMEOUT_S, shield=True):
            while not self._transport.is_closed and (data := await self._received()):
                self._take_report(data)
            if not self._transport.is_closed:
                with contextlib.suppress(BrokenPipe):
                    await self._entered().wait_for(lambda: self._end)
        return self._ended()

    async def stop(self) -> SendReport:
        """Send nothing more of what was passed on, also where a call was cancelled, and close.

        Returns:
            What has become of the packets of the last call.
        """
        if not self._entered().is_closed:
            with contextlib.suppress(OSError):  # the process has ended
                self._channel.shutdown(socket.SHUT_WR)
            await self._broken()
            await self.terminate()
        return self._report

    async def terminate(self) -> None:
        """End sending. Safe to call again. What a call that was cancelled has passed on is not sent any more."""
        await super().terminate()
