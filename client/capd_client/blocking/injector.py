"""``Injector``: packets sent on an interface, for programs that block."""

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Self

from capd_client.conversation.sending import (
    AHEAD_NS,
    END_TIMEOUT_S,
    PROGRESS_S,
    InjectorBase,
    Outgoings,
    Packet,
    Progress,
    SendReport,
)
from capd_client.errors import BrokenPipe
from capd_client.transport.connect import SocketPath, connect_to_send
from capd_protocol.sending import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from capd_client.reading.reader import Reader


class Injector(InjectorBase):
    """Sends packets on one interface, as far as a rule allows this user; no other privilege is needed.

    A packet is an Ethernet frame without its checksum. Calls return when the interface has taken the last one.

    Example:
        with Injector("eth0") as injector:
            injector.send(frame)
            report = injector.replay("dns.pcapng", speed=2)
            print(report.sent, "packets sent")
    """

    def __init__(self, interface: str, *, socket_path: SocketPath = None) -> None:
        """Begin to send on an interface.

        Args:
            interface: its name.
            socket_path: where the daemon listens; None: as for ``CaptureSession``.

        Raises:
            NotPermitted: no rule allows it; the text says whom to ask.
            InterfaceError: there is no such interface, or it is down.
            UnsupportedError: it takes no Ethernet frames.
            ResourceError: this user sends too often at once.
            DaemonUnavailable: there is no daemon.
            BrokenPipe: it went away.
        """
        super().__init__(interface)
        self._transport = connect_to_send(self._stream.opening(), socket_path)
        try:
            while self._terms is None:
                self._take(self._transport.receive(None) or b"")
            if self._transport.channel is None:
                raise BrokenPipe("capd has passed no socket to send on")
            self._channel: socket.socket = self._transport.channel
        except BaseException:
            self._transport.close()
            raise

    def __enter__(self) -> Self:
        """Return the injector; leaving the block closes it."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.terminate()

    def send(self, packet: Packet) -> None:
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
        self.send_many((packet,))
        if self._report.refused:
            raise self._refusal(packet)

    def send_many(
        self, packets: Iterable[Packet], *, rate: float | None = None, progress: Progress | None = None
    ) -> SendReport:
        """Send packets, in their order; those that may not be sent are left out, and are in the report.

        Args:
            packets: an iterable, which is taken from as packets are sent.
            rate: so many a second; each has its time on the monotonic clock, so that no delay adds up. None: as fast
                as the interface takes them, and as the rule allows.
            progress: is called with a report from time to time, and in the end.

        Returns:
            What has become of them.

        Raises:
            RateExceeded: the rule allows fewer a second.
            InvalidArgument: the rate is not above 0.
            InterfaceError: as ``send``; ``report`` has what was sent before.
            NotPermitted: as ``send``.
            BrokenPipe: as ``send``.
        """
        return self._send_all(self._outgoings_of(packets, rate), progress)

    def replay(
        self,
        source: "str | os.PathLike[str] | int | IO[bytes] | Reader",
        *,
        speed: float = 1.0,
        rate: float | None = None,
        count: int | None = None,
        loop: int = 1,
        progress: Progress | None = None,
    ) -> SendReport:
        """Send the packets of a capture file, in their order, each at its time.

        Times are absolute ones on the monotonic clock, counted from the first packet, so that no delay adds up. Packets
        of which the file has only a part are left out, and are in the report.

        Args:
            source: what ``capd_client.read`` takes, or has returned.
            speed: so many times as fast as they were captured; ``math.inf``: as fast as the interface takes them. A
                rule that allows fewer packets a second holds, and they are late.
            rate: so many packets a second instead.
            count: so many at most.
            loop: so often, of a path; each time as long after the last packet as packets are apart.
            progress: as for ``send_many``.

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
        return self._send_all(outgoings, progress)

    def _send_all(self, outgoings: Outgoings, progress: Progress | None) -> SendReport:
        if not self._is_settled:
            self._settle()
        self._begin(outgoings, progress)
        try:
            self._pass_on(outgoings)
        except Exception:
            self._settle()  # what came before is sent
            raise
        self._settle()
        return self._report

    def _pass_on(self, outgoings: Outgoings) -> None:
        self._is_settled = False
        begun_ns = time.monotonic_ns()
        next_s = time.monotonic() + PROGRESS_S
        for message, due_ns in outgoings:
            if due_ns is not None:
                self._wait_until(begun_ns + due_ns - AHEAD_NS)
            self._put(message)
            if self._progress is not None and time.monotonic() >= next_s:
                next_s = time.monotonic() + PROGRESS_S
                self._follow()

    def _settle(self) -> None:
        """Wait until what was passed on is sent."""
        number, wanted = self._wanted(is_last=True)
        self._put(wanted)
        while self._next_report(None) != number:
            pass
        self._is_settled = True

    def _wait_until(self, time_ns: int) -> None:
        while (left_s := (time_ns - time.monotonic_ns()) / 1e9) > 0:
            if self._progress is not None:
                left_s = min(left_s, PROGRESS_S)
                self._follow()
            self._next_report(left_s)

    def _follow(self) -> None:
        """Take a report that has come, and ask for the next one."""
        if self._is_asking:
            self._next_report(0)
        if not self._is_asking:
            self._put(self._wanted(is_last=False)[1])

    def _put(self, message: bytes) -> None:
        try:
            self._channel.send(message)
        except OSError as error:  # it is closed, here or there
            self._take_rest()
            raise self._ended() from error

    def _take_rest(self) -> None:
        """Take the last report, and how it ended."""
        deadline_s = time.monotonic() + END_TIMEOUT_S
        while not self._transport.is_closed and (data := self._received(deadline_s - time.monotonic())):
            self._take_report(data)
        while not self._transport.is_closed and self._end is None:
            data = self._transport.receive(max(0, deadline_s - time.monotonic()))
            if not data:
                return
            self._take(data)

    def _received(self, timeout_s: float | None) -> bytes | None:
        """Return what the process that sends says next; empty bytes at its end, None where nothing comes in time."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        if not poll.poll(None if timeout_s is None else max(0, timeout_s) * 1000):
            return None
        try:
            return self._channel.recv(MAX_MESSAGE_BYTES)
        except ConnectionResetError:
            # It has left something unread, which the kernel says once, and before what it has said last.
            return self._channel.recv(MAX_MESSAGE_BYTES)

    def _next_report(self, timeout_s: float | None) -> int | None:
        """Take the next report, and return its number; None where none comes in time.

        Raises:
            CaptureError: none comes any more.
        """
        data = self._received(timeout_s)
        if data is None:
            return None
        number = self._take_report(data) if data else None
        if number is None:
            self._take_rest()
            raise self._ended()
        return number

    def stop(self) -> SendReport:
        """Send nothing more of what was passed on, also where a call was interrupted, by Ctrl-C say, and close.

        Returns:
            What has become of the packets of the last call.
        """
        if not self._transport.is_closed:
            with contextlib.suppress(OSError):  # the process has ended
                self._channel.shutdown(socket.SHUT_WR)
            self._take_rest()
            self.terminate()
        return self._report

    def terminate(self) -> None:
        """End sending. Safe to call again. What a call that was interrupted has passed on is not sent any more."""
        self._transport.close()
