"""The lifecycle of one capture: its worker, from the grant to the end.

It lives in the task that calls ``Capture.run``; when that returns, its worker is gone. Its messages go to its
account and to its subscribers' outboxes; nothing else of it is kept.
"""

import contextlib
import logging
import math
import socket
import time
from collections.abc import AsyncGenerator, Callable, Generator, Hashable, Mapping, Sequence

import trio

from capd import limits
from capd.captures.account import Account, log_line
from capd.captures.attaching import Attaching
from capd.captures.grants import Grants, Present
from capd.captures.launching import launch_of
from capd.captures.orders import Orders
from capd.captures.selection import Selection
from capd.captures.subscribers import Subscriber, Subscribers
from capd.captures.tally import Gauges
from capd.errors import RequestRefused, no_room, revoked
from capd.filters import bounds
from capd.launch import Answer, DirectoryTaken, NumberedOrder, Told
from capd.network.monitor import Monitor
from capd.pacing.rate_limited_log import Restrained
from capd.pacing.turns import Turn, Turns
from capd.policy import quota
from capd.policy.audit import Audit
from capd.policy.peer import Peer
from capd.policy.revocation import Running
from capd.policy.rules import UNBOUND, Grant, Terms
from capd.supervisor.armed_rings import ArmedRings
from capd.supervisor.closer import Closer
from capd.supervisor.file_server import FileServer
from capd.supervisor.handover import Handover
from capd.supervisor.packet_rings import PacketRingMaker, PacketRings
from capd.supervisor.policy_filters import PolicyFilters
from capd.supervisor.spawner import Spawner
from capd.supervisor.worker import Worker
from capd_protocol.messages import Attached, Ended, EndReason, FailureCode, Message, StartCapture
from capd_protocol.messages.interfaces import Link
from capd_protocol.targets import Target

_log = logging.getLogger(__name__)


class Capture:
    """A capture that was granted."""

    def __init__(
        self,
        capture_id: int,
        owner: Peer,
        request: StartCapture,
        *,
        targets: Sequence[Target],
        terms: Terms,
        grant: Callable[[Present], Grant],
        spawner: Spawner,
        closer: Closer,
        ring_maker: PacketRingMaker,
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
            targets: what its interface requests are for.
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
        self.request = request
        self._targets = targets
        self.name = request.name
        self.reader_group_id = reader_group_id
        #: What its rings and its recorder may take.
        self.memory = quota.memory_of(request, targets)
        #: Its name in metrics; without one, it is part of a sum.
        self.metrics_name = ""
        self._spawner = spawner
        self._closer = closer
        self._ring_maker = ring_maker
        self._policy_filters = policy_filters
        self._starts = starts
        self._whose = whose
        self._continues = continues
        self._first_started_ns = first_started_ns
        #: What has come of it so far.
        self.account = Account(capture_id, owner, request, terms, first_started_ns or time.time_ns())
        self.grants = Grants(grant)
        self._subscribers = Subscribers()
        selection = Selection(targets, waits_for_names=request.wait_for_interfaces)
        self._attaching = Attaching(selection, self.grants, self._subscribers.put)
        #: What may be asked of it while it runs.
        self.orders = Orders(self.account, self._send_order)
        self._worker: Worker | None = None
        self._file_server: FileServer | None = None
        #: It runs, or has failed to.
        self._is_settled = trio.Event()
        self._was_stopped = trio.Event()
        #: It is in no list any more, and nothing is left of it.
        self.is_over = trio.Event()
        #: Lines of the log that its traffic brings about.
        self._news = Restrained(_log, limits.CAPTURE_NEWS, f"capture {capture_id}")

    @property
    def is_configured(self) -> bool:
        """Whether it is one of the configuration, and no user's."""
        return self.reader_group_id is not None

    # Subscribers --------------------------------------------------------------------------------------------------

    def subscribe(self) -> Subscriber:
        """Return a subscriber that gets all events from now on."""
        return self._subscribers.add()

    def attach(self) -> tuple[Attached, Subscriber]:
        """Return where it stands, and a subscriber that gets the current file, and all events from now on."""
        return self.account.attached(), self._subscribers.add(self.account.past_events())

    def leave(self, subscriber: Subscriber) -> None:
        """Tell this subscriber nothing more."""
        self._subscribers.leave(subscriber)

    @property
    def gauges(self) -> Gauges:
        """How it stands now, as it is added up in metrics."""
        return self.account.gauges(self._subscribers.pending)

    # From the grant to the end ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def on_record(self, audit: Audit) -> Generator[None, None, None]:
        """Have it on record that it was granted, and when the block is left, how it ended."""
        with audit.on_record(self.owner, self.request, self.account.grant_record, self.account.end_record):
            yield

    async def run(self, handover: Handover, monitor: Monitor, task_status: trio.TaskStatus[None]) -> None:
        """Capture until the end. ``started()`` when the first file has its header.

        Args:
            handover: of the directory where the files go; stays the caller's.
            monitor: reports interfaces that come and go.
            task_status: trio's.

        Raises:
            RequestRefused: it could not be started; nothing of it remains.
        """
        account = self.account
        status: int | None = None
        account.is_running = account.has_begun = True
        try:
            async with contextlib.AsyncExitStack() as stack:
                turn = stack.enter_context(await self._starts.take(self._whose, quota.starts_of(self._targets)))
                rings, worker = await self._prepare(stack, handover, monitor)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(rings.run)
                    nursery.start_soon(self._watch_start, worker, turn, task_status)
                    nursery.start_soon(self._watch_stop, worker)
                    if self._attaching.may_grow or UNBOUND not in self.terms.rules:
                        nursery.start_soon(self._watch_interfaces, worker, monitor)
                    try:
                        status = await worker.run(self._spawner, self._closer, self._on_message)
                    except OSError as error:
                        account.failure = no_room(error).failure
                    account.is_running = False
                    if status == -bounds.TIME_IS_UP and not account.is_started:
                        account.failure = bounds.too_much()
                    self._is_settled.set()
                    nursery.cancel_scope.cancel()
            account.close()
            if not account.is_started:
                raise account.why_not_started(status)
        except OSError as error:
            raise no_room(error) from error
        finally:
            account.is_running = False
            self._say_end()
        if account.end_reason is None:
            _log.error("capture %d: its worker died with status %s", self.capture_id, status)

    async def _prepare(
        self, stack: contextlib.AsyncExitStack, handover: Handover, monitor: Monitor
    ) -> tuple[PacketRings, Worker]:
        """Return the worker, and the rings that are to be made for it meanwhile.

        Args:
            stack: gets what is to be undone when the worker is gone.
            handover: as for ``run``.
            monitor: as for ``run``.

        Raises:
            RequestRefused: it cannot be started as it was asked for, or was revoked.
            OSError: the system has no room for it, or does not report interfaces.
        """
        interfaces = await self._attaching.look_up(stack, monitor.interfaces)
        self._file_server = FileServer(
            self.owner, self.request.destination.file_name, handover.envelope, self._spawner, self._closer
        )
        stack.push_async_callback(self._file_server.close)
        began_ns = self._first_started_ns
        launch = launch_of(
            self.request,
            self.owner,
            self.terms,
            interfaces,
            waits=self._attaching.waits,
            directory_comes=handover.comes,
            continues=self._continues,
            elapsed_s=None if began_ns is None else (time.time_ns() - began_ns) / 1e9,
        )
        rings = PacketRings(launch, self._ring_maker, self._whose)
        armed = ArmedRings(launch, rings, self._policy_filters)
        stack.push_async_callback(armed.close)
        if self.account.stopped_for == EndReason.REVOKED:
            raise revoked()
        self._worker = Worker(launch, handover, armed, self.owner.person_id)
        self.account.has_worker = True
        return rings, self._worker

    async def _watch_start(self, worker: Worker, turn: Turn, task_status: trio.TaskStatus[None]) -> None:
        # A pcap file begins with the link type of its packets: it waits until a stream has said that.
        waits_for_stream = self.request.file_format == "pcap" and any(
            each.is_stream for each in self.request.interfaces
        )
        with trio.move_on_after(math.inf if waits_for_stream else limits.START_TIMEOUT_S) as timeout:
            await self._is_settled.wait()
        turn.leave()
        if timeout.cancelled_caught:
            _log.error("capture %d: its worker did not start in time", self.capture_id)
            await worker.kill()
        elif self.account.is_started:
            task_status.started()

    async def _watch_stop(self, worker: Worker) -> None:
        await self._was_stopped.wait()
        with trio.move_on_after(limits.END_TIMEOUT_S):
            await worker.stop()  # one that does not read may have no room for the order
            await trio.sleep_forever()
        await worker.kill()

    async def _watch_interfaces(self, worker: Worker, monitor: Monitor) -> None:
        await self._is_settled.wait()
        await self._attaching.watch(worker, monitor)

    def _on_message(self, message: Message | Told) -> None:
        if isinstance(message, Answer):
            self.orders.take_answer(message)
            return
        if isinstance(message, DirectoryTaken):
            self.account.directory = message.path
            return
        self.account.add(message)
        if isinstance(message, Ended):
            return  # sent to subscribers when the process is gone too
        if (line := log_line(message)) is not None:
            level, text, values = line
            self._news.say(level, f"capture {self.capture_id}: {text}", *values)
        self._subscribers.put(message)
        if self.account.is_started or self.account.failure is not None:  # a ring that goes on may first have to delete
            self._is_settled.set()

    def _say_end(self) -> None:
        self._news.tell_left_out()
        self.orders.end()
        for event in self.account.last_events():
            self._subscribers.put(event)

    # While it runs ------------------------------------------------------------------------------------------------

    def stop(self, reason: EndReason) -> bool:
        """Have the capture end well; only the first reason counts. Return whether this was the first."""
        is_first = self.account.stop(reason)
        self._was_stopped.set()
        return is_first

    async def wait_stopped(self, timeout_s: float) -> None:
        """Wait until it is stopped, but no longer than this."""
        with trio.move_on_after(timeout_s):
            await self._was_stopped.wait()

    async def end(self, reason: EndReason) -> None:
        """Have the capture end well, and wait until it has.

        Raises:
            RequestRefused: it has not in time; it is killed then.
        """
        self.stop(reason)
        with trio.move_on_after(limits.STOP_TIMEOUT_S):
            await self.is_over.wait()
            return
        text = f"the capture {self.capture_id} was asked to end, and has not within {limits.STOP_TIMEOUT_S:g} s"
        raise RequestRefused(FailureCode.TIMEOUT, f"{text}: 'capctl list' shows when it is gone")

    async def disarm(self) -> None:
        """Have nothing more received, whatever its process does. For one that was stopped."""
        if self._worker is not None and self.account.is_running:
            await self._worker.disarm()

    async def _send_order(self, order: NumberedOrder) -> None:
        if self._worker is None:
            raise AssertionError("it runs")
        await self._worker.order(order)

    @contextlib.asynccontextmanager
    async def files_served(self, channel: socket.socket) -> AsyncGenerator[None, None]:
        """Have the current file passed, and files that are asked for, on a socket while the block lasts.

        Args:
            channel: the socket, which is closed here when it was passed on.

        Raises:
            RequestRefused: the capture does not run, or its files cannot be had in time.
        """
        with channel:
            self.account.check_runs()
            server = self._file_server
            if server is None:
                raise AssertionError("it runs")
            await server.serve(channel.fileno(), self.account.current_file)
        try:
            self.account.check_runs()  # it may have ended meanwhile
            yield
        finally:
            await server.leave()

    def running(self, links: Mapping[int, Link]) -> Running:
        """Return what it has by now.

        Args:
            links: all interfaces, by index; with the names that they have now.
        """
        return Running(
            targets=self._targets,
            attached=self.grants.in_force(links),
            max_duration_s=self.request.autostop.duration_s,
            max_disk_bytes=self.terms.max_disk_bytes,
        )

    def regrant(self, owner: Peer, grant: Callable[[Present], Grant]) -> None:
        """Have another policy decide on interfaces that come from now on; those that it has it keeps.

        Args:
            owner: the same user, with what it has lost since.
            grant: as for the constructor.
        """
        self.owner = owner
        self.grants.decide_by(grant)
