"""A process that sends, from outside: given its packet socket, followed, ended.

The daemon makes the packet socket, binds it to one interface, and keeps it as well. The process can give no address
with what it sends (``capd.worker.confinement.lists``), so it sends there only; and when the daemon binds the socket to
nothing, nothing more goes out, whatever the process does, and also where its user has stopped it.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import trio

from capd import limits
from capd.errors import no_room
from capd.launch import SenderReport, SendLaunch
from capd.linux.descriptors import refuse_rights
from capd.linux.packet_socket import ALL_INTERFACES, bind, open_packet_socket
from capd.pacing.threads import in_thread
from capd.supervisor.closer import Closer
from capd.supervisor.leased import LeasedProcess
from capd.supervisor.packet_rings import close_sockets
from capd.supervisor.spawner import Spawner
from capd_protocol.errors import RemoteProtocolError

#: With this protocol a packet socket receives nothing.
_NO_PROTOCOL = 0
#: What the kernel holds of a client's frames before it waits. Chosen: four messages of the longest.
_CHANNEL_BYTES = 4 * 96 * 1024
#: struct timeval. So long a frame may wait for the interface's queue; then the process looks whether it shall end.
_SEND_TIMEOUT = struct.pack("@ll", 0, 200_000)

_making = trio.CapacityLimiter(limits.MAX_RINGS_BEING_MADE)


class SenderProcess:
    """One, from ``run`` to its return."""

    def __init__(self, launch: SendLaunch, interface_index: int, person_id: int) -> None:
        """Nothing runs yet.

        Args:
            launch: what it may send.
            interface_index: on which interface.
            person_id: for whom (Peer.person_id).
        """
        self._launch = launch
        self._index = interface_index
        self._person_id = person_id
        self._packets: socket.socket | None = None
        self._process = LeasedProcess(launch.user_id, person_id)
        self._is_taken_back = False
        #: What it has reported last.
        self.report = SenderReport()

    async def run(self, spawner: Spawner, closer: Closer, on_ready: Callable[[int], Awaitable[None]]) -> None:
        """Have it send until it ends; then it has gone. ``report.is_last`` where it ended in order.

        Args:
            spawner: gives the process.
            closer: closes what others may have put something in.
            on_ready: is given the descriptor of the client's socket to it, when it can send; raises nothing.

        Raises:
            OSError: the kernel does not make the socket or the process; or the interface is not there any more.
            RequestRefused: the system has no room for it.
        """
        try:
            self._packets = await in_thread(
                partial(_bound_socket, self._launch.interface, self._index), limiter=_making
            )
            if self._is_taken_back:
                return
            of_process, of_client = _channel()
            try:
                await self._run(spawner, closer, on_ready, of_process, of_client)
            finally:
                of_process.close()
                # Where it was not passed on, the process may have put something there that is no client's.
                closer.close(of_client.detach(), self._person_id)
        finally:
            self._process.note_over()
            if self._packets is not None:
                await close_sockets([self._packets])

    async def _run(
        self,
        spawner: Spawner,
        closer: Closer,
        on_ready: Callable[[int], Awaitable[None]],
        of_process: socket.socket,
        of_client: socket.socket,
    ) -> None:
        is_ready = False

        async def hear(data: bytes) -> None:
            nonlocal is_ready
            self.report = _decoded(data)
            if not is_ready and not self.report.is_last:
                is_ready = True
                await on_ready(of_client.fileno())

        spawned = await spawner.spawn_sender()
        descriptors = [] if self._packets is None else [self._packets.fileno(), of_process.fileno()]
        launch = msgspec.json.encode(self._launch)
        await self._process.run(spawned, closer, launch, descriptors, hear, on_launched=of_process.close)

    async def take_back(self) -> None:
        """Have nothing more go out: when this returns, nothing does."""
        self._is_taken_back = True
        if self._packets is not None and self._packets.fileno() >= 0:
            # An interface that is gone takes nothing either.
            with contextlib.suppress(OSError), trio.CancelScope(shield=True):
                same = self._packets.dup()
                await in_thread(partial(_unbind, same), limiter=_making)

    async def end(self) -> None:
        """Have it end. Where it does not in time, it is killed."""
        await self.take_back()
        await self._process.end()


def _decoded(data: bytes) -> SenderReport:
    try:
        return msgspec.json.decode(data, type=SenderReport)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError("bytes of a process that sends that are no report") from error


def _bound_socket(interface: str, index: int) -> socket.socket:
    """Return a packet socket that sends on an interface, and receives nothing.

    Raises:
        OSError: the interface is not there any more, or not under its name.
    """
    packets = open_packet_socket(cooked=False)
    try:
        packets.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIMEOUT)
        bind(packets.fileno(), _NO_PROTOCOL, index)
        # It was granted by its name, and may have got another one since, or another interface its index.
        if os.fsencode(socket.if_indextoname(index)) != interface.encode():
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    except BaseException:
        packets.close()
        raise
    return packets


def _unbind(packets: socket.socket) -> None:
    with packets, contextlib.suppress(OSError):
        bind(packets.fileno(), _NO_PROTOCOL, ALL_INTERFACES)


def _channel() -> tuple[socket.socket, socket.socket]:
    """Return the process's and the client's end of a socket pair, over which no descriptors go.

    Raises:
        RequestRefused: the system has no room for it.
    """
    try:
        of_process, of_client = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise no_room(error) from error
    of_client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CHANNEL_BYTES)
    refuse_rights(of_process)
    refuse_rights(of_client)
    return of_process, of_client
