"""The captures that run now: their owners, their counters, who hears of them.

A capture lives in the task that calls ``Capture.run``; when that returns, its worker is gone. Its messages go to
its subscribers' outboxes, and nothing of it is kept but the counters.
"""

import contextlib
import itertools
import logging
import time
from collections.abc import Generator, Sequence

import msgspec
import trio

from capd import limits, wireless
from capd.errors import RequestRefused
from capd.ethtool import driver_of, speed_of
from capd.inquiries import default_dlt
from capd.links import find_link, list_links
from capd.monitor import Monitor
from capd.outbox import Outbox
from capd.peer import Peer
from capd.policy import Policy
from capd.supervisor import Worker
from capd.wishes import Wishes, cooked_any
from capd.worker.launch import Launch, LaunchInterface
from capd_protocol.interfaces import Link
from capd_protocol.limits import find_faults, is_cooked_any
from capd_protocol.messages import (
    CaptureSummary,
    Counters,
    Ended,
    EndReason,
    ErrorMessage,
    Failed,
    Failure,
    FailureCode,
    FileOpened,
    InterfaceCounters,
    InterfaceRequest,
    InterfaceSkipped,
    Message,
    StartCapture,
)

_log = logging.getLogger(__name__)


class Subscriber:
    """Somebody who hears of a capture: an outbox, and an event for the task that empties it."""

    def __init__(self) -> None:
        self.outbox = Outbox(limits.MAX_PENDING_EVENTS)
        self._news = trio.Event()
        self._is_ended = False

    def put(self, message: Message) -> None:
        """Add a message."""
        self.outbox.put(message)
        self._is_ended = self._is_ended or isinstance(message, Ended)
        self._news.set()

    async def next_batch(self) -> bytes | None:
        """Return bytes to send as soon as there are any; None after the capture's last event."""
        while not (batch := self.outbox.take()):
            if self._is_ended:
                return None
            self._news = trio.Event()
            await self._news.wait()
        return batch


class Capture:
    """A capture that was granted."""

    def __init__(self, capture_id: int, owner: Peer, request: StartCapture) -> None:
        self.capture_id = capture_id
        self.owner = owner
        self._request = request
        self._started_ns = time.time_ns()
        self._file_name = request.destination.file_name
        self._files_total = 0
        self._interfaces: tuple[InterfaceCounters, ...] = tuple(
            InterfaceCounters(interface=interface.name) for interface in request.interfaces
        )
        self._subscribers: list[Subscriber] = []
        self._worker: Worker | None = None
        self._started = trio.Event()
        self._failure: Failure | None = None
        self._end_reason: EndReason | None = None
        self._stop_reason = EndReason.STOPPED
        self._was_stopped = trio.Event()

    def subscribe(self) -> Subscriber:
        """Return a subscriber that hears of all that comes from now on."""
        subscriber = Subscriber()
        self._subscribers.append(subscriber)
        return subscriber

    @property
    def is_started(self) -> bool:
        """Whether its first file has its header."""
        return self._files_total > 0

    def summary(self) -> CaptureSummary:
        """Return the capture's line in the list."""
        return CaptureSummary(
            capture_id=self.capture_id,
            user_id=self.owner.user_id,
            interfaces=tuple(interface.name for interface in self._request.interfaces),
            file_name=self._file_name,
            started_ns=self._started_ns,
            files_total=self._files_total,
            packets_total=sum(each.written_total for each in self._interfaces),
            drops_total=sum(each.drops_total for each in self._interfaces),
        )

    async def run(self, directory_fd: int, monitor: Monitor, task_status: trio.TaskStatus[None]) -> None:
        """Capture until the end. ``started()`` when the first file has its header.

        Raises:
            RequestRefused: it could not be started; nothing of it remains.
        """
        status: int | None = None
        try:
            async with contextlib.AsyncExitStack() as stack:
                wishes = Wishes(self._request)
                interfaces = await self._look_up(stack, wishes)
                self._worker = Worker(self._launch(interfaces, wishes, directory_fd))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch_start, self._worker, task_status)
                    nursery.start_soon(self._watch_stop, self._worker)
                    if wishes.may_grow:
                        nursery.start_soon(self._watch_interfaces, wishes, self._worker, monitor)
                    try:
                        status = await self._worker.run(self._on_message)
                    except OSError as error:
                        self._failure = _no_room(error).failure
                    self._started.set()
                    nursery.cancel_scope.cancel()
            if not self.is_started:
                raise self._refusal(status)
        except OSError as error:
            raise _no_room(error) from error
        finally:
            self._say_end()
        if self._end_reason is None:
            _log.error("capture %d: its worker died with status %s", self.capture_id, status)

    async def _look_up(self, stack: contextlib.AsyncExitStack, wishes: Wishes) -> list[LaunchInterface]:
        """Find the interfaces to begin with."""
        interfaces: list[LaunchInterface] = [
            cooked_any(request) for request in self._request.interfaces if is_cooked_any(request)
        ]
        for request in wishes.named:
            link = await find_link(request.name)
            if link is None and not self._request.wait_for_interfaces:
                text = f"there is no interface {request.name}: 'capctl interfaces' shows which there are"
                raise RequestRefused(FailureCode.NO_SUCH_INTERFACE, text, interface=request.name, argument="interfaces")
            if link is None:
                continue
            if not link.is_up and not self._request.wait_for_interfaces:
                text = f"the interface {request.name} is down: 'ip link set {request.name} up'"
                raise RequestRefused(FailureCode.INTERFACE_DOWN, text, interface=request.name, argument="interfaces")
            device = await stack.enter_async_context(wireless.prepared(link, request))
            wishes.attached.add(link.index)
            interfaces.append(await _describe(link, request, device))
        if wishes.patterns:
            for link, request in wishes.missing((await list_links()).values()):
                wishes.attached.add(link.index)
                described = await _describe(link, request, link)
                interfaces.append(msgspec.structs.replace(described, is_optional=True))
        return interfaces

    async def _watch_interfaces(self, wishes: Wishes, worker: Worker, monitor: Monitor) -> None:
        """Attach interfaces that come, or come back, while the capture runs."""
        await self._started.wait()
        watch = await monitor.watch()
        try:
            while True:
                links, removed = await watch.next_links()
                wishes.attached -= removed  # a new one may have its index already
                wishes.forget_all_but(link.index for link in links)
                for link, request in wishes.missing(links):
                    wishes.attached.add(link.index)
                    await self._attach(link, request, worker)
        finally:
            monitor.leave(watch)

    async def _attach(self, link: Link, request: InterfaceRequest, worker: Worker) -> None:
        try:
            await worker.attach(await _describe(link, request, link))
        except (RequestRefused, OSError) as error:
            message = InterfaceSkipped(interface=link.name, text=str(error))
            for subscriber in self._subscribers:
                subscriber.put(message)

    def _launch(self, interfaces: Sequence[LaunchInterface], wishes: Wishes, directory_fd: int) -> Launch:
        return Launch(
            user_id=self.owner.user_id,
            group_id=self.owner.group_id,
            groups=self.owner.groups,
            interfaces=tuple(interfaces),
            directory_fd=directory_fd,
            destination=self._request.destination,
            file_format=self._request.file_format,
            ring=self._request.ring,
            autostop=self._request.autostop,
            update_interval_s=self._request.update_interval_s,
            waits=bool(wishes.patterns) or self._request.wait_for_interfaces,
        )

    async def _watch_start(self, worker: Worker, task_status: trio.TaskStatus[None]) -> None:
        with trio.move_on_after(limits.START_TIMEOUT_S) as timeout:
            await self._started.wait()
        if timeout.cancelled_caught:
            _log.error("capture %d: its worker did not start in time", self.capture_id)
            await worker.kill()
        elif self.is_started:
            task_status.started()

    async def _watch_stop(self, worker: Worker) -> None:
        await self._was_stopped.wait()
        await worker.stop()
        await trio.sleep(limits.END_TIMEOUT_S)
        await worker.kill()

    def stop(self, reason: EndReason) -> bool:
        """Have the capture end well; it is told to once, for the first reason. Return whether this was it."""
        if self._was_stopped.is_set():
            return False
        self._stop_reason = reason
        self._was_stopped.set()
        return True

    def _on_message(self, message: Message) -> None:
        match message:
            case FileOpened(name):
                self._files_total += 1
                self._file_name = name
            case Counters(interfaces=interfaces):
                self._interfaces = interfaces
            case Failed(failure=failure):
                self._failure = failure
            case Ended(reason=reason, interfaces=interfaces):
                self._interfaces = interfaces
                if reason == EndReason.STOPPED and self._was_stopped.is_set():
                    reason = self._stop_reason
                self._end_reason = reason
                return  # told to subscribers when the process is gone too
            case _:
                pass
        for subscriber in self._subscribers:
            subscriber.put(message)
        self._started.set()

    def _refusal(self, status: int | None) -> RequestRefused:
        failure = self._failure or Failure(
            code=FailureCode.WORKER_DIED,
            text=f"the capture process ended before it began (status {status}): see the daemon's log",
        )
        refusal = RequestRefused(failure.code, failure.text)
        refusal.failure = failure
        return refusal

    def _say_end(self) -> None:
        reason = self._end_reason
        last: list[Message] = []
        if reason is None:
            reason = EndReason.FAILED
            text = "the capture process died: what its last events told of is readable; see the daemon's log"
            if self._failure is None:
                last += [Failed(failure=Failure(code=FailureCode.WORKER_DIED, text=text)), ErrorMessage(text)]
        last.append(Ended(reason=reason, interfaces=self._interfaces))
        for subscriber in self._subscribers:
            for message in last:
                subscriber.put(message)


def _no_room(error: OSError) -> RequestRefused:
    """Return what to say when the system gives the daemon no descriptor, no process, no memory."""
    return RequestRefused(FailureCode.RESOURCES, f"capd cannot start a capture now: {error.strerror}: try again later")


async def _describe(link: Link, request: InterfaceRequest, device: Link) -> LaunchInterface:
    """Say to a worker what it must know of an interface.

    Args:
        link: the interface.
        request: what to capture there.
        device: what to open: the interface, or its monitor interface.
    """
    return LaunchInterface(
        request=request,
        device=device.name,
        index=device.index,
        hardware_type=device.hardware_type,
        default_dlt=await default_dlt(device),
        loopback=device.loopback,
        is_up=device.is_up,
        mac_address=_mac_bytes(link),
        speed_bits_per_s=None if link.loopback else speed_of(link.name),
        driver=driver_of(link.name)[0] or "",
        alias=link.alias,
    )


def _mac_bytes(link: Link) -> bytes | None:
    return bytes.fromhex(link.mac_address.replace(":", "")) if link.mac_address and not link.loopback else None


class Captures:
    """All captures of the daemon."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._ids = itertools.count(1)
        self._running: dict[int, Capture] = {}
        self._stopping = False
        self._all_ended = trio.Event()

    def may_capture(self, peer: Peer) -> bool:
        """Whether policy lets the peer capture."""
        return self._policy.refusal_to_capture(peer) is None

    @contextlib.contextmanager
    def granted(self, peer: Peer, request: StartCapture) -> Generator[Capture, None, None]:
        """Enter a capture into the list for as long as the block lasts.

        Raises:
            RequestRefused: the request is wrong, or not permitted, or one too many.
        """
        refusal = self._policy.refusal_to_capture(peer)
        if refusal is not None:
            raise RequestRefused(FailureCode.NOT_PERMITTED, refusal)
        faults = find_faults(request)
        if faults:
            text = "; ".join(fault.text for fault in faults)
            raise RequestRefused(FailureCode.INVALID, text, argument=faults[0].argument)
        if self._stopping:
            raise RequestRefused(FailureCode.STOPPING, "capd is stopping: try again when it runs again")
        own = sum(capture.owner.user_id == peer.user_id for capture in self._running.values())
        if own >= limits.MAX_CAPTURES_PER_USER:
            text = f"{own} captures of this user run already, as many as one may have: stop one first"
            raise RequestRefused(FailureCode.RESOURCES, text)
        capture = Capture(next(self._ids), peer, request)
        self._running[capture.capture_id] = capture
        try:
            yield capture
        finally:
            del self._running[capture.capture_id]
            self._note_if_all_ended()

    def running_and_users(self) -> tuple[int, int]:
        """Return how many captures there are, and of how many users."""
        return len(self._running), len({capture.owner.user_id for capture in self._running.values()})

    def visible_to(self, peer: Peer) -> list[Capture]:
        """Return the captures that the peer may list and stop, oldest first."""
        return [c for c in self._running.values() if self._policy.may_see(peer, c.owner.user_id)]

    def stop(self, peer: Peer, capture_id: int) -> None:
        """Have a capture end.

        Raises:
            RequestRefused: the peer can see no such capture.
        """
        for capture in self.visible_to(peer):
            if capture.capture_id == capture_id:
                capture.stop(EndReason.STOPPED)
                return
        raise RequestRefused(FailureCode.NO_SUCH_CAPTURE, f"there is no capture {capture_id} of yours")

    def stop_all(self) -> None:
        """Have every capture end, and grant no more: the daemon is stopping."""
        self._stopping = True
        for capture in self._running.values():
            capture.stop(EndReason.DAEMON_STOPPING)
        self._note_if_all_ended()

    def _note_if_all_ended(self) -> None:
        if self._stopping and not self._running:
            self._all_ended.set()

    async def wait_all_ended(self) -> None:
        """Wait until, after ``stop_all``, the last capture has ended and its events are sent."""
        await self._all_ended.wait()
