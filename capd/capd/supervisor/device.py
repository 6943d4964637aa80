"""A capture module's process with capabilities of the daemon's, from outside: started, listened to, ended."""

import os
from collections.abc import Awaitable, Callable

import msgspec

from capd import limits
from capd.errors import no_room
from capd.launch import DeviceLaunch
from capd.policy.peer import Peer
from capd.service.processes import command
from capd.supervisor.closer import Closer
from capd.supervisor.leased import LeasedProcess
from capd.supervisor.spawner import Spawner
from capd_protocol.devices import CAPTURE_GRANTED, DEVICE_READY
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.messages import Failure, InterfaceRequest

#: It is named, and not imported: what is of the client runs in a process of its own.
_MODULES = "capd_client.modules"


class DeviceProcess:
    """One, from ``run`` to its return."""

    def __init__(self, owner: Peer, request: InterfaceRequest) -> None:
        """Nothing runs yet.

        Args:
            owner: for whom.
            request: what to capture from, and how.
        """
        asked = msgspec.json.encode(request).decode()
        self._launch = DeviceLaunch(
            user_id=owner.user_id,
            group_id=owner.group_id,
            groups=owner.groups,
            command=tuple(command(_MODULES, CAPTURE_GRANTED, asked, as_other_user=True)),
        )
        self._process = LeasedProcess(owner.user_id, owner.person_id, limits.DEVICE_END_TIMEOUT_S)
        self._read_fd: int | None = None
        self._write_fd: int | None = None
        #: Why it has ended by itself, as it says; None: it has not said.
        self.failure: Failure | None = None
        #: With what it has ended, as subprocess has it; 0: it had nothing more to do. None: it runs, or never did.
        self.status: int | None = None

    async def run(self, spawner: Spawner, closer: Closer, on_ready: Callable[[int], Awaitable[None]]) -> None:
        """Have it capture until it ends; then it has gone. Who reads its packets notices only after ``close``.

        Args:
            spawner: gives the process.
            closer: closes what others may have put something in.
            on_ready: is given the descriptor of the pipe to read, when the device is active; raises nothing.

        Raises:
            OSError: the process cannot be made.
            RequestRefused: the system has no room for it.
        """

        async def hear(data: bytes) -> None:
            if data != DEVICE_READY:
                self.failure = _decoded(data)
            elif self._read_fd is not None:
                await on_ready(self._read_fd)
                # The client alone reads now, so that the process notices when it does not any more.
                self._close_reading()

        try:
            self._read_fd, self._write_fd = os.pipe()
        except OSError as error:
            raise no_room(error) from error
        try:
            spawned = await spawner.spawn_device()
            launch = msgspec.json.encode(self._launch)
            await self._process.run(spawned, closer, launch, [self._write_fd], hear)
            self.status = self._process.status
        finally:
            self._process.note_over()
            self._close_reading()

    def _close_reading(self) -> None:
        if self._read_fd is not None:
            os.close(self._read_fd)
            self._read_fd = None

    def close(self) -> None:
        """Have the packets end: whoever reads them is to know by now why they do."""
        if self._write_fd is not None:
            os.close(self._write_fd)
            self._write_fd = None

    async def end(self) -> None:
        """Have it end, and wait until it has. Where it does not in time, it is killed."""
        await self._process.end()


def _decoded(data: bytes) -> Failure:
    try:
        return msgspec.json.decode(data, type=Failure)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError("bytes of a capture module's process that are no failure") from error
