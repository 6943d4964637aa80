"""One capture: its worker, its counters, who hears of it.

It lives in the task that calls ``Capture.run``; when that returns, its worker is gone. Its messages go to its
subscribers' outboxes, and nothing of it is kept but the counters.
"""

import contextlib
import itertools
import logging
import socket
import time
from collections.abc import AsyncGenerator, Callable, Hashable, Mapping, Sequence

import msgspec
import trio

from capd import limits
from capd.captures.outbox import Outbox
from capd.captures.selection import Wishes, cooked_any
from capd.captures.tally import Counts, Gauges
from capd.errors import RequestRefused, no_room, revoked
from capd.filters import bounds
from capd.launch import (
    Answer,
    DirectoryComes,
    Flush,
    Launch,
    LaunchInterface,
    NumberedOrder,
    Rotate,
    Snapshot,
)
from capd.linux.packet_socket import ALL_INTERFACES
from capd.network import wireless
from capd.network.devices import Interfaces
from capd.network.monitor import Monitor
from capd.pacing.rate_limited_log import Restrained
from capd.pacing.turns import Turn, Turns
from capd.policy import quota
from capd.policy.peer import Peer
from capd.policy.revocation import Running
from capd.policy.rules import UNBOUND, Grant, Rule, Terms
from capd.supervisor.armed_rings import ArmedRings
from capd.supervisor.closer import Closer
from capd.supervisor.file_server import FileServer
from capd.supervisor.handover import Handover
from capd.supervisor.packet_rings import RingMaker, Rings
from capd.supervisor.policy_filters import PolicyFilters
from capd.supervisor.spawner import Spawner
from capd.supervisor.worker import Worker
from capd_protocol.arguments import find_snapshot_faults, is_cooked_any
from capd_protocol.messages import (
    Attached,
    CaptureSummary,
    Conditions,
    Counters,
    Ended,
    EndReason,
    ErrorMessage,
    Failed,
    Failure,
    FailureCode,
    FileClosed,
    FileDeleted,
    FileOpened,
    InterfaceCounters,
    InterfaceRequest,
    InterfaceSkipped,
    Message,
    PacketCount,
    Recording,
    SnapshotFailed,
    StartCapture,
    Triggered,
)
from capd_protocol.messages.interfaces import Link

_log = logging.getLogger(__name__)


class Subscriber:
    """Somebody who hears of a capture: an outbox, and an event for the task that empties it."""

    def __init__(self) -> None:
        self.outbox = Outbox(limits.MAX_PENDING_EVENTS)
        self._news = trio.Event()
        #: What ``answer`` was given is not on its way yet.
        self.has_unsent_answer = False
        #: The capture's last event has come.
        self.ended = trio.Event()

    def put(self, message: Message) -> None:
        """Add a message."""
        self.outbox.put(message)
        if isinstance(message, Ended):
            self.ended.set()
        self._news.set()

    def answer(self, message: Message) -> None:
        """Add what the client has asked for; it may ask no more before this is on its way, so there is only one."""
        self.has_unsent_answer = True
        self.put(message)

    async def next_batch(self) -> bytes | None:
        """Return bytes to send as soon as there are any; None after the capture's last event."""
        while not (batch := self.outbox.take()):
            if self.ended.is_set():
                return None
            self._news = trio.Event()
            await self._news.wait()
        self.has_unsent_answer = False
        return batch


class _Order:
    """What a worker was told to do and has not answered yet."""

    def __init__(self) -> None:
        self.is_decided = trio.Event()
        self.answer: Answer | None = None
        #: The current one, when the answer came.
        self.file_name = ""


class Capture:
    """A capture that was granted."""

    def __init__(
        self,
        capture_id: int,
        owner: Peer,
        request: StartCapture,
        *,
        terms: Terms,
        grant: Callable[[InterfaceRequest], Grant],
        spawner: Spawner,
        closer: Closer,
        ring_maker: RingMaker,
        policy_filters: PolicyFilters,
        starts: Turns,
        whose: Hashable,
        reader_group_id: int | None = None,
        continues: bool = False,
        first_started_ns: int | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            capture_id: unlike any other's that runs.
            owner: as whom to capture.
            request: what, within the terms.
            terms: what holds for all of it.
            grant: asked about each interface, those that come later too; what it refuses is left out.
            spawner: gives it a worker.
            closer: closes what the worker may have put something in.
            ring_maker: gives it rings.
            policy_filters: compiles the rules'.
            starts: where it waits for its turn to start.
            whose: turn that is, and that of each of its rings.
            reader_group_id: of one of the configuration: whose members may see it and read its files, but not end it.
            continues: files of earlier runs belong to its ring.
            first_started_ns: when the first of these runs began; its duration counts from there.
        """
        self.capture_id = capture_id
        self.owner = owner
        self.terms = terms
        self.name = request.name
        self.reader_group_id = reader_group_id
        self._grant = grant
        self._spawner = spawner
        self._closer = closer
        self._ring_maker = ring_maker
        self._policy_filters = policy_filters
        self._starts = starts
        self._whose = whose
        self.request = request
        #: What its rings and its recorder may take.
        self.memory_bytes = quota.memory_bytes_of(request)
        self._continues = continues
        self._first_started_ns = first_started_ns
        self.started_ns = first_started_ns or time.time_ns()
        self._file_name = request.destination.file_name
        self._files_total = 0
        self._is_file_open = False
        #: Of a recorder that runs.
        self._recording: Recording | None = None
        self._file_size_bytes = self._disk_bytes = 0
        self._closed_bytes_total = 0
        #: As far as they were announced.
        self._packets_total = 0
        self._is_running = False
        self._interfaces: tuple[InterfaceCounters, ...] = tuple(
            InterfaceCounters(interface=interface.name) for interface in request.interfaces
        )
        self._subscribers: list[Subscriber] = []
        self._worker: Worker | None = None
        self._file_server: FileServer | None = None
        #: What was asked for and under which rule it was granted, on each interface, by index.
        self._granted: dict[int, tuple[InterfaceRequest, Rule]] = {}
        self._started = trio.Event()
        self._failure: Failure | None = None
        self._end_reason: EndReason | None = None
        self._stop_reason = EndReason.STOPPED
        self._was_stopped = trio.Event()
        self._is_begun = self._has_died = False
        #: Under which name metrics tell of it; with none, it is told of in a sum.
        self.metrics_name = ""
        #: Lines of the log that its traffic brings about.
        self._news = Restrained(_log, limits.CAPTURE_NEWS, f"capture {capture_id}")
        self._orders: dict[int, _Order] = {}
        self._order_numbers = itertools.count(1)

    # Who hears of it ----------------------------------------------------------------------------------------------

    def subscribe(self) -> Subscriber:
        """Return a subscriber that hears of all that comes from now on."""
        subscriber = Subscriber()
        self._subscribers.append(subscriber)
        return subscriber

    def attach(self) -> tuple[Attached, Subscriber]:
        """Return where it stands, and a subscriber that hears of the current file, and of all that comes."""
        attached = Attached(
            capture=self.summary(),
            file_format=self.request.file_format,
            is_ring=self.request.ring is not None,
            packets_total=self._packets_total,
            closed_bytes_total=self._closed_bytes_total,
        )
        subscriber = self.subscribe()
        if self._recording is not None:
            subscriber.put(self._recording)
        if self.is_started:
            if self._is_file_open or self._recording is None:
                subscriber.put(FileOpened(self._file_name))
            subscriber.put(Counters(file_size_bytes=self._file_size_bytes, interfaces=self._interfaces))
        return attached, subscriber

    def leave(self, subscriber: Subscriber) -> None:
        """Tell this subscriber nothing more."""
        self._subscribers.remove(subscriber)

    def check_runs(self) -> None:
        """Check that it runs now.

        Raises:
            RequestRefused: it does not.
        """
        if self._worker is None or not self._is_running or not self.is_started:
            raise self._not_running()

    def _not_running(self) -> RequestRefused:
        if self._end_reason is not None:
            return RequestRefused(FailureCode.NO_SUCH_CAPTURE, f"the capture {self.capture_id} has ended")
        text = f"the capture {self.capture_id} does not run yet, or waits to run again: try again later"
        return RequestRefused(FailureCode.RESOURCES, text)

    @property
    def is_configured(self) -> bool:
        """Whether it is one of the configuration, and no user's."""
        return self.reader_group_id is not None

    @property
    def end_reason(self) -> EndReason | None:
        """Why it ended; None while it runs, and where its process died."""
        return self._end_reason

    @property
    def is_started(self) -> bool:
        """Whether its first file has its header, or packets are recorded in memory."""
        return self._files_total > 0 or self._recording is not None

    @property
    def stopped_for(self) -> EndReason | None:
        """Why it was told to end; None while it was not."""
        return self._stop_reason if self._was_stopped.is_set() else None

    async def wait_stopped(self, timeout_s: float) -> None:
        """Wait until it is told to end, but no longer than this."""
        with trio.move_on_after(timeout_s):
            await self._was_stopped.wait()

    def summary(self) -> CaptureSummary:
        """Return the capture's line in the list."""
        return CaptureSummary(
            capture_id=self.capture_id,
            user_id=self.owner.user_id,
            name=self.name,
            interfaces=tuple(interface.name for interface in self.request.interfaces),
            file_name=self._file_name,
            started_ns=self.started_ns,
            files_total=self._files_total,
            packets_total=sum(each.written_total for each in self._interfaces),
            drops_total=sum(each.drops_total for each in self._interfaces),
            is_contained=self.owner.is_contained,
        )

    @property
    def counts(self) -> Counts:
        """What it has come to so far, as it is added up in metrics."""
        return Counts(
            attempts=int(self._is_begun),
            workers=int(self._worker is not None),
            deaths=int(self._has_died),
            files=self._files_total,
            written_bytes=self._closed_bytes_total + self._file_size_bytes,
            received_packets=sum(each.received_total for each in self._interfaces),
            written_packets=sum(each.written_total for each in self._interfaces),
            kernel_drops=sum(each.kernel_drops_total for each in self._interfaces),
            writer_drops=sum(each.writer_drops_total for each in self._interfaces),
            excess_packets=sum(each.excess_total for each in self._interfaces),
        )

    @property
    def gauges(self) -> Gauges:
        """How it stands now, likewise."""
        counts = self.counts
        done_packets = counts.written_packets + counts.kernel_drops + counts.writer_drops + counts.excess_packets
        return Gauges(
            captures=int(self.is_started),
            disk_bytes=self._disk_bytes,
            waiting_packets=max(counts.received_packets - done_packets, 0),
            waiting_events=sum(subscriber.outbox.pending for subscriber in self._subscribers),
        )

    @property
    def interface_names(self) -> tuple[str, ...]:
        """The interfaces that it has been on."""
        return tuple(each.interface for each in self._interfaces)

    def grant_record(self) -> dict[str, object]:
        """Return what goes on record of what was granted."""
        filters = [rule.filter for rule in self.terms.rules if rule.filter]
        return {
            "name": self.name,
            "capture": self.capture_id,
            "rule": ", ".join(rule.name for rule in self.terms.rules),
            "policy_filter": "; ".join(filters),
        }

    def end_record(self) -> dict[str, object]:
        """Return what goes on record of its end."""
        return {
            **self.grant_record(),
            "end": self._end_reason or EndReason.FAILED,
            "code": self._failure.code if self._failure else None,
            "reason": self._failure.text if self._failure else None,
            "files": self._files_total,
            "packets": sum(each.written_total for each in self._interfaces),
            "drops": sum(each.drops_total for each in self._interfaces),
        }

    async def run(self, handover: Handover, monitor: Monitor, task_status: trio.TaskStatus[None]) -> None:
        """Capture until the end. ``started()`` when the first file has its header.

        Args:
            handover: of the directory where the files go; stays the caller's.
            monitor: tells of interfaces that come and go.
            task_status: trio's.

        Raises:
            RequestRefused: it could not be started; nothing of it remains.
        """
        status: int | None = None
        self._is_running = self._is_begun = True
        try:
            async with contextlib.AsyncExitStack() as stack:
                turn = stack.enter_context(await self._starts.take(self._whose, quota.starts_of(self.request)))
                wishes = Wishes(self.request)
                interfaces = await self._look_up(stack, wishes, monitor.interfaces)
                self._file_server = FileServer(
                    self.owner, self.request.destination.file_name, handover.envelope, self._spawner, self._closer
                )
                stack.push_async_callback(self._file_server.close)
                launch = self._launch(interfaces, wishes, handover.comes)
                rings = Rings(launch, self._ring_maker, self._whose)
                armed = ArmedRings(launch, rings, self._policy_filters)
                stack.push_async_callback(armed.close)
                if self.stopped_for == EndReason.REVOKED:
                    raise revoked()
                self._worker = Worker(launch, handover, armed, self.owner.person_id)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(rings.run)
                    nursery.start_soon(self._watch_start, self._worker, turn, task_status)
                    nursery.start_soon(self._watch_stop, self._worker)
                    if wishes.may_grow or UNBOUND not in self.terms.rules:
                        nursery.start_soon(self._watch_interfaces, wishes, self._worker, monitor)
                    try:
                        status = await self._worker.run(self._spawner, self._closer, self._on_message)
                    except OSError as error:
                        self._failure = no_room(error).failure
                    self._is_running = False
                    if status == -bounds.TIME_IS_UP and not self.is_started:
                        self._failure = bounds.too_much()
                    self._started.set()
                    nursery.cancel_scope.cancel()
            self._has_died = self._end_reason is None and self._failure is None
            if not self.is_started:
                raise self._refusal(status)
        except OSError as error:
            raise no_room(error) from error
        finally:
            self._is_running = False
            self._say_end()
        if self._end_reason is None:
            _log.error("capture %d: its worker died with status %s", self.capture_id, status)

    async def _look_up(
        self, stack: contextlib.AsyncExitStack, wishes: Wishes, known: Interfaces
    ) -> list[LaunchInterface]:
        """Find the interfaces to begin with."""
        interfaces: list[LaunchInterface] = []
        for request in filter(is_cooked_any, self.request.interfaces):
            granted = self._grant(request)
            self._granted[ALL_INTERFACES] = request, granted.rule
            interfaces.append(cooked_any(granted))
        for request in wishes.named:
            await trio.lowlevel.checkpoint()  # others need not wait for all of them
            link = await known.find(request.name)
            if link is None and request.name in await known.device_names():
                text = f"{request.name} is no network interface, and capd captures on nothing else"
                raise RequestRefused(FailureCode.UNSUPPORTED, text, interface=request.name, argument="interfaces")
            if link is None and not self.request.wait_for_interfaces:
                text = f"there is no interface {request.name}: 'capctl interfaces' shows which there are"
                raise RequestRefused(FailureCode.NO_SUCH_INTERFACE, text, interface=request.name, argument="interfaces")
            if link is None:
                continue
            if not link.is_up and not self.request.wait_for_interfaces:
                text = f"the interface {request.name} is down: 'ip link set {request.name} up'"
                raise RequestRefused(FailureCode.INTERFACE_DOWN, text, interface=request.name, argument="interfaces")
            granted = self._grant(request)
            if link.name != request.name:
                self._check_alternative_name(link, granted)
            self._granted[link.index] = request, granted.rule  # at once: it may be revoked
            device = await stack.enter_async_context(wireless.prepared(link, granted.request))
            wishes.attached.add(link.index)
            interfaces.append(await _describe(link, granted, device, known))
        if wishes.patterns:
            for link, request in wishes.missing((await known.links()).values()):
                await trio.lowlevel.checkpoint()
                wishes.attached.add(link.index)
                try:
                    granted = self._grant(request)
                    self._granted[link.index] = request, granted.rule
                    described = await _describe(link, granted, link, known)
                except RequestRefused as refused:
                    self._granted.pop(link.index, None)
                    self._skip(link, refused)
                else:
                    interfaces.append(msgspec.structs.replace(described, is_optional=True))
        return interfaces

    def _check_alternative_name(self, link: Link, granted: Grant) -> None:
        """Check whether an interface that was asked for by another of its names is granted by its own, and likewise.

        Raises:
            RequestRefused: it is not.
        """
        name = granted.request.name
        if self._grant(msgspec.structs.replace(granted.request, name=link.name)).rule != granted.rule:
            text = f"{name} is another name of {link.name}, on which another rule holds: ask for {link.name}"
            raise RequestRefused(FailureCode.NOT_PERMITTED, text, interface=name, argument="interfaces")

    def _skip(self, link: Link, error: Exception) -> None:
        message = InterfaceSkipped(interface=link.name, text=str(error))
        for subscriber in self._subscribers:
            subscriber.put(message)

    async def _watch_interfaces(self, wishes: Wishes, worker: Worker, monitor: Monitor) -> None:
        """Attach interfaces that come, or come back, while the capture runs; detach those whose rule changes."""
        await self._started.wait()
        watch = await monitor.watch()
        try:
            while True:
                links, removed = await watch.next_links()
                wishes.attached -= removed  # a new one may have its index already
                for index in removed:
                    self._granted.pop(index, None)
                wishes.forget_all_but(link.index for link in links)
                for link in links:
                    if self._is_beyond_grant(link):
                        del self._granted[link.index]
                        wishes.attached.discard(link.index)
                        await worker.detach(link.index)
                for link, request in wishes.missing(links) if wishes.may_grow else ():
                    wishes.attached.add(link.index)
                    await self._attach(link, request, worker, monitor.interfaces)
        finally:
            monitor.leave(watch)

    def _is_beyond_grant(self, link: Link) -> bool:
        """Whether an interface that is attached has a name by now on which another rule holds, or none."""
        request, rule = self._granted.get(link.index, (None, None))
        if request is None or request.name == link.name:
            return False
        try:
            return self._grant(msgspec.structs.replace(request, name=link.name)).rule != rule
        except RequestRefused:
            return True

    async def _attach(self, link: Link, request: InterfaceRequest, worker: Worker, known: Interfaces) -> None:
        try:
            granted = self._grant(request)
            self._granted[link.index] = request, granted.rule
            await worker.attach(await _describe(link, granted, link, known))
        except (RequestRefused, OSError) as error:
            self._skip(link, error)

    def _launch(self, interfaces: Sequence[LaunchInterface], wishes: Wishes, directory_comes: DirectoryComes) -> Launch:
        waits = bool(wishes.patterns) or self.request.wait_for_interfaces
        return Launch(
            user_id=self.owner.user_id,
            group_id=self.owner.group_id,
            groups=self.owner.groups,
            interfaces=tuple(interfaces),
            directory_comes=directory_comes,
            passes_files=self.request.pass_files and directory_comes != DirectoryComes.KEPT,
            needs_live_handles=self._needs_live_handles(),
            later_filters=self._filters() if waits else (),
            max_disk_bytes=self.terms.max_disk_bytes,
            name=self.name,
            continues=self._continues,
            destination=self.request.destination,
            file_format=self.request.file_format,
            ring=self.request.ring,
            recorder=self.request.recorder,
            autostop=self._left_of_autostop(),
            update_interval_s=self.request.update_interval_s,
            waits=waits,
        )

    def _left_of_autostop(self) -> Conditions:
        autostop = self.request.autostop
        if self._first_started_ns is None or autostop.duration_s is None:
            return autostop
        left_s = autostop.duration_s - (time.time_ns() - self._first_started_ns) / 1e9
        return msgspec.structs.replace(autostop, duration_s=max(left_s, 0.001))

    def _filters(self) -> tuple[str, ...]:
        """Return all filters that its interfaces may come under."""
        texts = [request.capture_filter for request in self.request.interfaces]
        if self.request.recorder is not None:
            texts.append(self.request.recorder.trigger_filter)
        return tuple(dict.fromkeys(text for text in (*texts, *(rule.filter for rule in self.terms.rules)) if text))

    def _needs_live_handles(self) -> bool:
        """Whether a filter mentions what only a live handle compiles well, or a link-layer type is asked for."""
        is_type_wanted = any(request.link_layer_type for request in self.request.interfaces)
        return is_type_wanted or any("vlan" in text for text in self._filters())

    async def _watch_start(self, worker: Worker, turn: Turn, task_status: trio.TaskStatus[None]) -> None:
        with trio.move_on_after(limits.START_TIMEOUT_S) as timeout:
            await self._started.wait()
        turn.leave()
        if timeout.cancelled_caught:
            _log.error("capture %d: its worker did not start in time", self.capture_id)
            await worker.kill()
        elif self.is_started:
            task_status.started()

    async def _watch_stop(self, worker: Worker) -> None:
        await self._was_stopped.wait()
        with trio.move_on_after(limits.END_TIMEOUT_S):
            await worker.stop()  # one that does not read may have no room for the order
            await trio.sleep_forever()
        await worker.kill()

    def stop(self, reason: EndReason) -> bool:
        """Have the capture end well; it is told to once, for the first reason. Return whether this was it."""
        if self._was_stopped.is_set():
            return False
        self._stop_reason = reason
        self._was_stopped.set()
        return True

    # What it was granted -----------------------------------------------------------------------------------------

    def running(self, links: Mapping[int, Link]) -> Running:
        """Return what it has by now.

        Args:
            links: all interfaces, by index; with the names that they have now.
        """
        attached: list[Grant] = []
        for index, (request, rule) in self._granted.items():
            if index == ALL_INTERFACES:
                attached.append(Grant(rule, request))
            elif index in links:
                attached.append(Grant(rule, msgspec.structs.replace(request, name=links[index].name)))
        return Running(
            interfaces=self.request.interfaces,
            attached=attached,
            max_duration_s=self.request.autostop.duration_s,
            max_disk_bytes=self.terms.max_disk_bytes,
        )

    def regrant(self, owner: Peer, grant: Callable[[InterfaceRequest], Grant]) -> None:
        """Have another policy decide on interfaces that come from now on; those that it has it keeps.

        Args:
            owner: the same user, with what it has lost since.
            grant: as for the constructor.
        """
        self.owner = owner
        self._grant = grant

    async def disarm(self) -> None:
        """Have nothing more received, whatever its process does. For one that was told to end."""
        if self._worker is not None and self._is_running:
            await self._worker.disarm()

    # Orders -------------------------------------------------------------------------------------------------------

    async def rotate(self) -> str:
        """Have the ring go on in its next file; return the file's name when it has its header.

        Raises:
            RequestRefused: there is no next file, or it was not opened, or not in time.
        """
        if self.request.recorder is not None:
            text = f"the capture {self.capture_id} is a recorder, which has no file to switch: take a snapshot"
            raise RequestRefused(FailureCode.INVALID, text, argument="capture")
        if self.request.ring is None:
            text = f"the capture {self.capture_id} has a single file, and no next one: only a ring is rotated"
            raise RequestRefused(FailureCode.INVALID, text, argument="capture")
        return (await self._have_done(lambda number: Rotate(number=number))).file_name

    async def flush(self) -> None:
        """Have every packet that the kernel has now written and announced.

        Raises:
            RequestRefused: they were not, or not in time.
        """
        await self._have_done(lambda number: Flush(number=number))

    async def snapshot(self, after_s: float | None) -> str:
        """Have the recorder write what it has, and what comes within so many seconds; return the complete file's name.

        Raises:
            RequestRefused: it has none, or the time is impossible, or a snapshot is being written already, or this one
                was not completed, or not in time.
        """
        recorder = self.request.recorder
        if recorder is None:
            text = f"the capture {self.capture_id} is no recorder: its packets are in its files"
            raise RequestRefused(FailureCode.INVALID, text, argument="capture")
        for fault in find_snapshot_faults(after_s):
            raise RequestRefused(FailureCode.INVALID, fault.text, argument=fault.argument)
        window_s = recorder.after_s if after_s is None else after_s
        order = await self._have_done(
            lambda number: Snapshot(number=number, after_s=window_s), window_s + limits.SNAPSHOT_TIMEOUT_S
        )
        return order.file_name

    @contextlib.asynccontextmanager
    async def files_served(self, channel: socket.socket) -> AsyncGenerator[None, None]:
        """Have the current file passed, and files that are asked for, on a socket while the block lasts.

        Args:
            channel: the socket, which is closed here when it was passed on.

        Raises:
            RequestRefused: the capture does not run, or its files cannot be had in time.
        """
        with channel:
            self.check_runs()
            server = self._file_server
            if server is None:
                raise AssertionError("it runs")
            await server.serve(channel.fileno(), self._file_name if self._is_file_open else "")
        try:
            self.check_runs()  # it may have ended meanwhile
            yield
        finally:
            await server.leave()

    async def _have_done(
        self,
        make: Callable[[int], NumberedOrder],
        timeout_s: float = limits.ORDER_TIMEOUT_S,
    ) -> _Order:
        self.check_runs()
        if self._worker is None:
            raise AssertionError("it runs")
        number, order = next(self._order_numbers), _Order()
        self._orders[number] = order
        try:
            with trio.move_on_after(timeout_s) as timeout:
                await self._worker.order(make(number))
                await order.is_decided.wait()
        finally:
            del self._orders[number]
        if timeout.cancelled_caught:
            text = f"the capture {self.capture_id} has not answered within {timeout_s:g} s: ask again"
            raise RequestRefused(FailureCode.TIMEOUT, text)
        if order.answer is None:
            raise RequestRefused(FailureCode.NO_SUCH_CAPTURE, f"the capture {self.capture_id} has ended meanwhile")
        if order.answer.failure is not None:
            failure = order.answer.failure
            raise RequestRefused(failure.code, failure.text, argument=failure.argument)
        return order

    def _on_answer(self, answer: Answer) -> None:
        order = self._orders.get(answer.number)
        if order is not None:  # who asked may have lost patience
            order.answer, order.file_name = answer, answer.file_name or self._file_name
            order.is_decided.set()

    # Messages -----------------------------------------------------------------------------------------------------

    def _on_message(self, message: Message | Answer) -> None:
        match message:
            case Answer():
                self._on_answer(message)
                return
            case FileOpened(name):
                self._files_total += 1
                self._is_file_open = True
                self._file_name = name
            case FileDeleted(name=name, reason=reason, size_bytes=size_bytes):
                self._tell_news(logging.INFO, "deleted %a (%s, %d bytes)", name, reason, size_bytes)
            case FileClosed(size_bytes=size_bytes):
                self._closed_bytes_total += size_bytes
                self._file_size_bytes = 0
                self._is_file_open = False
            case Recording():
                self._recording = message
            case Triggered(reason=reason, interface=interface):
                self._tell_news(logging.INFO, "a snapshot is triggered (%s, %s)", reason, interface or "all")
            case SnapshotFailed(failure=failure):
                self._tell_news(logging.ERROR, "a snapshot failed: %s", failure.text)
            case PacketCount(packets_delta):
                self._packets_total += packets_delta
            case Counters(file_size_bytes=size_bytes, disk_bytes=disk_bytes, interfaces=interfaces):
                self._file_size_bytes, self._disk_bytes = size_bytes, disk_bytes
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
        if self.is_started or self._failure is not None:  # a ring that goes on may first have to delete
            self._started.set()

    def _tell_news(self, level: int, text: str, *values: object) -> None:
        self._news.say(level, f"capture {self.capture_id}: {text}", *values)

    def _refusal(self, status: int | None) -> RequestRefused:
        if self.stopped_for == EndReason.REVOKED:
            return revoked()
        failure = self._failure or Failure(
            code=FailureCode.WORKER_DIED,
            text=f"the capture process ended before it began (status {status}): see the daemon's log",
        )
        refusal = RequestRefused(failure.code, failure.text)
        refusal.failure = failure
        return refusal

    def _say_end(self) -> None:
        self._news.tell_left_out()
        reason = self._end_reason
        last: list[Message] = []
        if reason is None:
            reason = EndReason.FAILED
            text = "the capture process died: what its last events told of is readable; see the daemon's log"
            if self._failure is None:
                last += [Failed(failure=Failure(code=FailureCode.WORKER_DIED, text=text)), ErrorMessage(text)]
        last.append(Ended(reason=reason, interfaces=self._interfaces))
        for order in self._orders.values():
            order.is_decided.set()
        for subscriber in self._subscribers:
            for message in last:
                subscriber.put(message)


async def _describe(link: Link, granted: Grant, device: Link, known: Interfaces) -> LaunchInterface:
    """Say to a worker what it must know of an interface.

    Args:
        link: the interface.
        granted: what to capture there, and under which rule.
        device: what to open: the interface, or its monitor interface.
        known: what is known of interfaces.
    """
    hardware = await known.hardware(link)
    return LaunchInterface(
        request=granted.request,
        policy_filter=granted.rule.filter,
        policy_snaplen_bytes=granted.rule.max_snaplen_bytes,
        device=device.name,
        index=device.index,
        hardware_type=device.hardware_type,
        default_dlt=await known.default_dlt(device),
        loopback=device.loopback,
        is_up=device.is_up,
        mac_address=_mac_bytes(link),
        speed_bits_per_s=None if link.loopback else hardware.speed_bits_per_s,
        driver=hardware.driver or "",
        alias=link.alias,
    )


def _mac_bytes(link: Link) -> bytes | None:
    return bytes.fromhex(link.mac_address.replace(":", "")) if link.mac_address and not link.loopback else None
