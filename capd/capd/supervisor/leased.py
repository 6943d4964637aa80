"""A process that is forked for one client, and has what the client may not: launched, listened to, ended."""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

import trio

from capd import limits
from capd.linux.descriptors import rights
from capd.policy.peer import person
from capd.supervisor.closer import Closer
from capd.supervisor.guarded import GuardedSocket
from capd.supervisor.spawner import WorkerProcess
from capd.supervisor.worker import end
from capd_protocol.errors import RemoteProtocolError

_log = logging.getLogger(__name__)

_RECEIVE_BYTES = 65536
#: To the process: end.
_END = b"e"

Spawned = tuple[WorkerProcess, trio.socket.SocketType]


class LeasedProcess:
    """One, from ``run`` to its return."""

    def __init__(self, user_id: int, person_id: int, patience_s: float = limits.END_TIMEOUT_S) -> None:
        """Nothing runs yet.

        Args:
            user_id: whose ids it has.
            person_id: for whom it is (Peer.person_id).
            patience_s: how long it may take to end, once when it is asked to, and once when its socket is closed.
        """
        self._patience_s = patience_s
        self._user_id = user_id
        self._person_id = person_id
        self._control: GuardedSocket | None = None
        self._following = trio.CancelScope()
        self._is_over = trio.Event()
        #: With what it has ended, as subprocess has it; None: it runs, or never did, or cannot be killed.
        self.status: int | None = None

    async def run(
        self,
        spawned: Spawned,
        closer: Closer,
        launch: bytes,
        descriptors: Sequence[int],
        hear: Callable[[bytes], Awaitable[None]],
        *,
        on_launched: Callable[[], None] = lambda: None,
    ) -> None:
        """Launch it, and listen to it until it ends; then it has gone.

        Args:
            spawned: the process, which is taken over.
            closer: closes what others may have put something in.
            launch: what it is sent first.
            descriptors: what comes with that; they stay the caller's.
            hear: is given each message; raises RemoteProtocolError where it is none.
            on_launched: is called when the process has the descriptors, or has gone.

        Raises:
            OSError: the connection to it is broken.
        """
        process, connection = spawned
        self._control = control = GuardedSocket(connection, closer)
        try:
            with contextlib.suppress(BrokenPipeError):  # that shows when it is listened to
                await control.socket.sendmsg([launch], rights(descriptors))
            on_launched()
            with self._following:
                await self._listen(control, hear)
        finally:
            with trio.CancelScope(shield=True):
                control.close(self._person_id)
                await end(process, self._user_id, self._patience_s)
                self.status = process.returncode

    async def _listen(self, control: GuardedSocket, hear: Callable[[bytes], Awaitable[None]]) -> None:
        try:
            while data := await control.receive(_RECEIVE_BYTES):
                await hear(data)
        except trio.ClosedResourceError:
            return
        except RemoteProtocolError as error:
            # It runs with a user's rights: whatever it says, it can only end what it is for.
            _log.error("process of %s breaks the protocol: %s", person(self._person_id), error)

    def note_over(self) -> None:
        """Have nobody wait for its end any more: it has gone, or never came."""
        self._is_over.set()

    async def end(self) -> None:
        """Have it end, and wait until it has. Where it does not in time, it is killed."""
        if self._control is not None:
            with contextlib.suppress(OSError, trio.ClosedResourceError):
                await self._control.send(_END)
        with trio.move_on_after(self._patience_s):
            await self._is_over.wait()
            return
        self._following.cancel()
        await self._is_over.wait()
