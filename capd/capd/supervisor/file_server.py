"""The process that passes a capture's files to those who are attached to it: there is one as long as somebody is."""

import contextlib
import os

import msgspec
import trio

from capd import limits
from capd.errors import RequestRefused, no_room
from capd.launch import NO_FILE, ServeLaunch
from capd.linux.descriptors import rights
from capd.policy.peer import Peer
from capd.supervisor.closer import Closer
from capd.supervisor.guarded import GuardedSocket
from capd.supervisor.handover import Envelope
from capd.supervisor.spawner import Spawner, WorkerProcess
from capd.supervisor.worker import end
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.messages import FailureCode


class FileServer:
    """That of one capture."""

    def __init__(self, owner: Peer, file_name: str, envelope: Envelope, spawner: Spawner, closer: Closer) -> None:
        """Have none yet.

        Args:
            owner: whose the capture is.
            file_name: what its files are called.
            envelope: in which their directory lies; stays the caller's.
            spawner: gives the process.
            closer: closes what it may have put something in.
        """
        self._owner = owner
        self._launch = ServeLaunch(
            user_id=owner.user_id, group_id=owner.group_id, groups=owner.groups, file_name=file_name
        )
        self._envelope = envelope
        self._spawner = spawner
        self._closer = closer
        self._process: WorkerProcess | None = None
        self._control: GuardedSocket | None = None
        self._asking = trio.Lock()
        self._readers = 0
        self._is_over = False

    async def serve(self, descriptor: int, current: str) -> None:
        """Have files passed on a socket, which stays the caller's.

        Args:
            descriptor: the socket's.
            current: name of the file that comes unasked; empty: there is none.

        Raises:
            RequestRefused: it cannot be had, or not in time.
        """
        async with self._asking:
            with trio.move_on_after(limits.ORDER_TIMEOUT_S):
                try:
                    is_served = await self._ask(descriptor, os.fsencode(current) if current else NO_FILE)
                except (OSError, RemoteProtocolError) as error:
                    await self._end()
                    raise no_room(error if isinstance(error, OSError) else OSError(0, str(error))) from error
                if not is_served:
                    text = "the capture's files cannot be passed to any more readers: open them by their paths"
                    raise RequestRefused(FailureCode.RESOURCES, text)
                self._readers += 1
                return
            await self._end()
        text = f"the files of the capture were not passed within {limits.ORDER_TIMEOUT_S:g} s: try again"
        raise RequestRefused(FailureCode.TIMEOUT, text)

    async def _ask(self, descriptor: int, current: bytes) -> bool:
        control = self._control
        if control is None:
            if self._is_over:
                raise ConnectionError(0, "the capture has ended")
            self._process, connection = await self._spawner.spawn_server()
            self._control = control = GuardedSocket(connection, self._closer)
            await _pass(control, msgspec.json.encode(self._launch), self._envelope.fileno())
        await _pass(control, current, descriptor)
        answer = await control.receive(1)
        if not answer:
            raise ConnectionError(0, "the process that passes files has ended")
        return answer == b"y"

    async def _end(self) -> None:
        """End the process; the next reader has another one."""
        process, control = self._process, self._control
        self._process = self._control = None
        if control is not None:
            control.close(self._owner.person_id)
        if process is not None:
            with trio.CancelScope(shield=True):
                await end(process, self._owner.user_id)

    async def leave(self) -> None:
        """Take note that one who was served has left; with the last one the process ends."""
        with trio.CancelScope(shield=True):
            async with self._asking:
                self._readers -= 1
                if not self._readers:
                    await self._end()

    async def close(self) -> None:
        """End the process; there is no further one."""
        self._is_over = True
        await self._end()


async def _pass(control: GuardedSocket, data: bytes, descriptor: int) -> None:
    """Send a message with a descriptor: whole, as such sockets do."""
    with contextlib.suppress(BrokenPipeError):  # that shows when the answer is waited for
        await control.socket.sendmsg([data], rights([descriptor]))
