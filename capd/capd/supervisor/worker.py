"""The supervisor of one worker process: its start, its messages, its end.

A worker ends by itself when it is ordered to, and when its control socket closes, which also happens when this
daemon is killed. One that does neither in time is killed. When ``run`` returns, the process is gone.
"""

import contextlib
import logging
from collections.abc import Callable, Sequence

import trio

from capd import limits
from capd.launch import (
    Answer,
    Arm,
    Attach,
    Control,
    Detach,
    DirectoryTaken,
    Disarm,
    Disarmed,
    Launch,
    LaunchInterface,
    LetGo,
    NumberedOrder,
    RingRequest,
    Stop,
    Told,
    ToWorker,
    decode,
    encode,
)
from capd.pacing.threads import no_thread_as_oserror
from capd.policy.peer import person
from capd.service.processes import command, environment
from capd.supervisor.armed_rings import ArmedRings
from capd.supervisor.closer import Closer
from capd.supervisor.guarded import GuardedSocket
from capd.supervisor.handover import Handover
from capd.supervisor.spawner import Spawner, WorkerProcess
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import FrameDecoder
from capd_protocol.messages import (
    BadFilter,
    Counters,
    Drops,
    Ended,
    ErrorMessage,
    Failed,
    FileClosed,
    FileDeleted,
    FileOpened,
    InterfaceAttached,
    InterfaceLost,
    InterfaceSkipped,
    Message,
    PacketCount,
    Recording,
    SnapshotFailed,
    Triggered,
    TriggersIgnored,
)

_log = logging.getLogger(__name__)

_RECEIVE_BYTES = 65536
#: Reports of a worker; for a client that does not read, these are counted, replaced or dropped.
_NEWS = (
    *(PacketCount, Counters, FileOpened, FileClosed, FileDeleted, InterfaceAttached, InterfaceLost, InterfaceSkipped),
    *(Recording, Triggered, SnapshotFailed, TriggersIgnored),
)
#: These never are, so there may be only so much of them. Chosen: a failure, sent twice, as long as it can be, and what
#: was dropped on tens of thousands of interfaces.
_LAST_WORDS = (Failed, BadFilter, ErrorMessage, Drops, Ended)
_MAX_LAST_WORDS_BYTES = 8 * 1024 * 1024
#: Of one of the others, counters apart, of which only the newest waits. Chosen: many times the longest name of a file.
_MAX_NEWS_BYTES = 16 * 1024
#: What one takes here beside its bytes, roughly.
_MESSAGE_BYTES = 256
#: Of rings, that are not done yet. Chosen: a worker lets go of all that it may have several times over.
_MAX_RING_REQUESTS = 1000


class Worker:
    """A worker, from ``run`` to its return."""

    def __init__(self, launch: Launch, handover: Handover, rings: ArmedRings, person_id: int) -> None:
        """Nothing is started yet.

        Args:
            launch: what to do.
            handover: of the directory; stays the caller's.
            rings: of its interfaces; they stay the caller's.
            person_id: whose capture it is (Peer.person_id).
        """
        self._launch = launch
        self._person_id = person_id
        self._handover = handover
        self._rings = rings
        self._failure: OSError | None = None
        self._control: GuardedSocket | None = None
        self._process: WorkerProcess | None = None
        self._is_given_up = False
        self._is_launched = trio.Event()
        self._ring_requests = self._last_words_bytes = 0
        self._sending = trio.Lock()

    async def run(self, spawner: Spawner, closer: Closer, on_message: Callable[[Message | Told], None]) -> int | None:
        """Start the process, give its messages as they come, and return its exit status; None if it cannot be killed.

        After cancellation the process has ended: well, if it could within ``limits.END_TIMEOUT_S``.

        Raises:
            OSError: it could not be started.
        """
        process, connection = await spawner.spawn_worker()
        control = GuardedSocket(connection, closer)
        self._process, self._control = process, control
        try:
            if self._is_given_up:  # whoever was to wait for its start does no longer
                return None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._begin, control, nursery.cancel_scope)
                await self._receive(control, on_message, nursery)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._end(process, control)
        if self._failure is not None:
            raise self._failure
        return process.returncode

    async def _begin(self, control: GuardedSocket, scope: trio.CancelScope) -> None:
        # It may end without reading. Its last message, if any, or its exit status shows why.
        with contextlib.suppress(trio.BrokenResourceError):
            try:
                await self._send(control, self._launch, self._handover.descriptors)
                await self._handover.sent()
            except OSError as error:
                self._failure = error
                scope.cancel()
        self._is_launched.set()

    async def _serve(self, request: RingRequest, control: GuardedSocket, scope: trio.CancelScope) -> None:
        """Do what a worker asks for of its rings."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            match request:
                case Arm():
                    try:
                        outcomes = await self._rings.arm(request)
                    except RemoteProtocolError as error:
                        self._complain(error)
                        scope.cancel()
                        return
                    for outcome in outcomes:
                        await self._send(control, outcome.made, outcome.descriptors)
                    await self._rings.drop_rest()
                case LetGo(number=number):
                    await self._rings.let_go(number)
                case Disarm():
                    await self._rings.disarm_all()
                    await self._send(control, Disarmed(), ())
        self._ring_requests -= 1

    async def attach(self, interface: LaunchInterface) -> None:
        """Give the worker an interface more; it asks for the ring when it wants it."""
        number = self._rings.add(interface)
        await self._tell(Attach(number=number, interface=interface))

    async def detach(self, index: int) -> None:
        """Take an interface away from the worker: whether it listens or not, it gets nothing more from there."""
        await self._rings.disarm(index)
        await self._tell(Detach(index=index))

    async def disarm(self) -> None:
        """Have the worker get nothing more, whether it listens or not."""
        await self._rings.revoke()

    async def order(self, order: NumberedOrder) -> None:
        """Have the worker do what it answers with an ``Answer``."""
        await self._tell(order)

    async def stop(self) -> None:
        """Tell the worker to end the capture well. Its last messages come as the others did."""
        await self._is_launched.wait()
        await self._tell(Stop())

    async def _tell(self, message: ToWorker) -> None:
        # Where the socket is closed it has ended already.
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._send(self._running_control(), message, ())

    def _running_control(self) -> GuardedSocket:
        if self._control is None:
            raise trio.ClosedResourceError("there is no worker yet")
        return self._control

    async def _send(self, control: GuardedSocket, message: ToWorker, descriptors: Sequence[int]) -> None:
        """Send a message, and descriptors with its first byte.

        Raises:
            trio.BrokenResourceError: the worker has gone.
            trio.ClosedResourceError: we have closed the socket meanwhile.
        """
        async with self._sending:
            try:
                await control.send(encode(message), descriptors)
            except (BrokenPipeError, ConnectionResetError) as error:
                raise trio.BrokenResourceError from error

    async def _receive(
        self, control: GuardedSocket, on_message: Callable[[Message | Told], None], nursery: trio.Nursery
    ) -> None:
        decoder = FrameDecoder()
        try:
            while data := await control.receive(_RECEIVE_BYTES):
                decoder.feed(data)
                while (frame := decoder.next_frame()) is not None:
                    message = decode(frame)
                    if isinstance(message, RingRequest):
                        self._ring_requests += 1
                        if self._ring_requests > _MAX_RING_REQUESTS:
                            raise RemoteProtocolError(f"more than {_MAX_RING_REQUESTS} requests for rings at once")
                        nursery.start_soon(self._serve, message, control, nursery.cancel_scope)
                    else:
                        on_message(self._checked(message, len(frame.payload)))
        except RemoteProtocolError as error:
            self._complain(error)

    def _checked(self, message: Control | Message, size_bytes: int) -> Message | Told:
        """Return what a worker says, if it may: it waits for clients, here.

        Raises:
            RemoteProtocolError: it may not send this, or has sent too much.
        """
        if isinstance(message, _LAST_WORDS):
            self._last_words_bytes += size_bytes + _MESSAGE_BYTES
            if self._last_words_bytes > _MAX_LAST_WORDS_BYTES:
                raise RemoteProtocolError("too much about its failure or its end")
        elif not isinstance(message, (Answer, DirectoryTaken, *_NEWS)):
            raise RemoteProtocolError(f"a {type(message).__name__}, which is not for a worker to say")
        elif size_bytes > _MAX_NEWS_BYTES and not isinstance(message, Counters):
            raise RemoteProtocolError(f"a {type(message).__name__} of {size_bytes} bytes")
        elif isinstance(message, FileOpened) and not _is_utf8(message.name):
            raise RemoteProtocolError("a file's name that is no UTF-8, as that of every capture is")
        return message

    def _complain(self, error: RemoteProtocolError) -> None:
        # It runs with a user's rights: whatever it says, it can only end its own capture.
        _log.error("worker of %s breaks the protocol: %s", person(self._person_id), error)

    async def _end(self, process: WorkerProcess, control: GuardedSocket) -> None:
        control.close(self._person_id)
        await end(process, self._launch.user_id)

    async def kill(self) -> None:
        """Kill the worker, which did not end in time. Its last order may not have been carried out."""
        self._is_given_up = True
        if self._process is not None:
            await _kill(self._process, self._launch.user_id)


def _is_utf8(text: str) -> bool:
    """Whether what came as dumpcap's text can be sent as JSON, too."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


async def end(process: WorkerProcess, user_id: int, patience_s: float = limits.END_TIMEOUT_S) -> None:
    """Wait for the end of a process that has become a user's, and whose socket was closed; kill it if it does not."""
    with trio.move_on_after(patience_s):
        await process.wait()
    if process.returncode is None:
        await _kill(process, user_id)
        with trio.move_on_after(limits.END_TIMEOUT_S):
            await process.wait()
    if process.returncode is None:
        _log.critical("worker %d cannot be killed: it waits for a disk or a driver", process.pid)


async def _kill(process: WorkerProcess, user_id: int) -> None:
    if process.returncode is not None:
        return
    _log.error("worker %d did not end in time and is killed", process.pid)
    try:
        process.kill()
    except PermissionError:
        # It has another user's id and we have no CAP_KILL.
        arguments = process.pid, user_id
        with no_thread_as_oserror():
            await trio.run_process(command("capd.supervisor.kill", *arguments), env=environment(), check=False)
