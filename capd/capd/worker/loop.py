"""The capture itself: from ring blocks to file and announcement, until a reason to end.

One thread, one wait. A ring is read whenever the kernel has closed a block of it, and what was read is written at
once; every ``update_interval_s`` what is in the file is announced.
"""

import contextlib
import select
import signal
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from capd.filters.compiler import CaptureFailed
from capd.launch import Answer, Arm, Attach, Detach, Disarm, Flush, Launch, LetGo, Rotate, Snapshot, Stop
from capd.linux.packet_ring import retire_ms
from capd.worker.control import ControlSocket, DaemonGone, RingCame
from capd.worker.output.recycling import Openers
from capd.worker.output.report import Report
from capd.worker.output.rotation import is_full, room_for
from capd.worker.output.savefile import DestinationError, WriteError
from capd.worker.output.sink import Output
from capd.worker.packets.blocks import Blocks
from capd.worker.packets.merge import JITTER_NS, RELAXED_JITTER_NS, Slice, TimeOrder, Waiting
from capd.worker.packets.pace import Pace
from capd.worker.recorder.recorder import RecorderOutput
from capd.worker.sources.af_packet import PacketSockets, Plan, Source, SourceMaker
from capd.worker.sources.ring_reader import Ring
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.formats import pcapng
from capd_protocol.messages import (
    Conditions,
    EndReason,
    Failure,
    FailureCode,
)

#: The kernel ends a worker that has not come round its loop for so long: stuck in libpcap, say. Chosen: longer
#: than a slow disk keeps one write waiting.
WATCHDOG_S = 60
#: What happens to files and interfaces is told with the counts, and at least so often where these come more rarely.
_TELL_S = 0.1
#: How often an idle worker comes round.
_IDLE_S = 20.0
#: How long the daemon may take to have nothing more received. Chosen: many times the kernel's grace period, which it
#: waits for, for as many interfaces as there can be.
_DISARM_S = 5.0
#: How long the last packets may take when a capture ends. Chosen: many times their retire time.
_DRAIN_S = 2.0

#: How often an interface that went down is looked at: the kernel does not tell when it is deleted after that.
_LOOK_S = 0.5

#: How often it is looked whether what was to be flushed is in the file: nobody wakes a worker for it.
_FLUSH_LOOK_S = 0.005

#: Ends by a limit: what is still in the rings then is excess, and not written.
_LIMITS = (EndReason.PACKETS, EndReason.FILESIZE, EndReason.FILES, EndReason.DISK_LIMIT)


class Capture:
    """A running capture."""

    def __init__(
        self,
        *,
        launch: Launch,
        sources: list[Source],
        maker: SourceMaker,
        files: Output,
        report: Report,
        control: ControlSocket,
        openers: Openers,
    ) -> None:
        """The rings are armed, the first file is open. Interfaces that come later are added to ``sources``."""
        self._launch = launch
        self._sources = sources
        self._maker = maker
        self._files = files
        self._recorder = files if isinstance(files, RecorderOutput) else None
        self._report = report
        self._control = control
        self._autostop = launch.autostop
        self._file_conditions = launch.ring or Conditions(filesize_kb=launch.autostop.filesize_kb)
        self._interval_s = launch.update_interval_s
        # The kernel's timer looks at a block at most every retire time, and closes it the second time.
        hold_ns = 2 * retire_ms(self._interval_s) * 1_000_000
        jitter_ns = max(JITTER_NS, min(RELAXED_JITTER_NS, round(self._interval_s * 1e8)))
        self._order = TimeOrder(hold_ns, jitter_ns)
        self._caught_up_ns: list[int] = []
        self._hold_s = (hold_ns + jitter_ns) / 1e9
        self._started_s = time.monotonic()
        self._ticked_s = 0.0
        self._tell_s = min(self._interval_s, _TELL_S)
        self._told_s = 0.0
        self._looked_s = 0.0
        self._written_total = 0
        self._is_dirty = False
        self._end: EndReason | None = None
        self._is_full = False
        self._failure: Failure | None = None
        self._coming: deque[Attach] = deque()
        #: Interfaces whose rings were asked for, by the rings' numbers.
        self._awaited: dict[int, Plan] = {}
        #: With the times at which they came.
        self._orders: deque[tuple[Rotate | Flush, int]] = deque()
        self._ready: set[int] = set()
        self._epoll = select.epoll()
        #: What does not wait while the rings rest.
        self._urgent = select.epoll()
        self._pace = Pace(self._interval_s)
        self._openers = openers
        self._numbers: dict[int, int] = {}

    # The loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Capture until there is a reason to end, then end well."""
        for each in (self._control.socket, self._openers.socket):
            self._epoll.register(each, select.EPOLLIN)
            self._urgent.register(each, select.EPOLLIN)
        if self._recorder is not None:
            self._recorder.begin(self._epoll, self._sources, self._has_written_until)
        for number in range(len(self._sources)):
            self._add_ring()
            self._listen_to(number)
        self._report.flush()
        self._read_control()  # what came together with the launch
        while self._end is None:
            signal.alarm(WATCHDOG_S)
            self._rest()
            self._wait()
            self._take_blocks()
            self._write_in_order()
            self._let_go()
            if self._coming:
                self._take_in()
            if self._orders:
                self._carry_out()
            self._look_at_time()
        self._finish()

    def _add_ring(self) -> None:
        self._order.add_ring()
        self._caught_up_ns.append(0)

    def _listen_to(self, number: int) -> None:
        ring = self._sources[number].ring
        if ring is not None:
            # Edge-triggered: a block that is held back to keep the order would make the socket look ready
            # again and again.
            self._epoll.register(ring.socket, select.EPOLLIN | select.EPOLLET)
            self._numbers[ring.socket.fileno()] = number
            self._ready.add(number)
            self._pace.has_ring(ring.size_bytes)
            if self._recorder is not None:
                self._recorder.listen_to(self._sources[number])

    def _rest(self) -> None:
        """Let packets gather, where the rings are empty and nobody waits for what is in the file."""
        if not self._ready and not self._orders and (rest_s := self._pace.rest_s()):
            self._urgent.poll(min(rest_s, self._timeout_s()))

    def _wait(self) -> None:
        for fd, event in self._epoll.poll(0 if self._ready else self._timeout_s()):
            if fd == self._control.socket.fileno():
                self._read_control()
                continue
            if fd == self._openers.socket.fileno():
                self._openers.clear()
                self._files.give_way()
                continue
            if self._recorder is not None and self._recorder.on_event(fd, event):
                continue
            number = self._numbers[fd]
            self._ready.add(number)
            if event & (select.EPOLLERR | select.EPOLLHUP):
                self._look_at_interface(number)

    def _timeout_s(self) -> float:
        now_s = time.monotonic()
        deadlines_s = [now_s + _IDLE_S]
        if self._is_dirty:
            deadlines_s.append(self._ticked_s + self._interval_s)
        if self._report.is_unsent:
            deadlines_s.append(self._told_s + self._tell_s)
        if self._order.is_waiting():
            deadlines_s.append(now_s + self._order.wait_s(time.time_ns()))
        if (left_s := self._files.time_left_s()) is not None:
            deadlines_s.append(now_s + left_s)
        deadlines_s.append(self._files.next_look_s)
        if self._autostop.duration_s is not None:
            deadlines_s.append(self._started_s + self._autostop.duration_s)
        if any(source.was_down and source.ring is not None for source in self._sources):
            deadlines_s.append(self._looked_s + _LOOK_S)
        if self._orders:
            deadlines_s.append(now_s + _FLUSH_LOOK_S)
        if self._coming or any(source.is_lost for source in self._sources):
            deadlines_s.append(now_s + self._hold_s)
        return max(min(deadlines_s) - now_s, 0)

    def _read_control(self) -> None:
        try:
            orders = self._control.read()
        except RemoteProtocolError:
            self._end = EndReason.STOPPED  # the daemon speaks another protocol: there is nobody to work for
            return
        for order in orders:
            if isinstance(order, Stop):
                self._end = EndReason.STOPPED
            elif isinstance(order, Detach):
                self._lose(order.index)
            elif isinstance(order, Snapshot):
                self._snapshot(order)
            elif isinstance(order, Rotate | Flush):
                self._orders.append((order, time.time_ns()))
            elif isinstance(order, Attach):
                self._coming.append(order)
            else:
                self._take_ring(order)
        if self._control.is_over:
            self._end = EndReason.STOPPED

    def _look_at_interface(self, number: int) -> None:
        source = self._sources[number]
        if source.ring is None:
            return
        source.ring.clear_error()
        if not source.was_down and self._recorder is not None:
            self._recorder.went_down(source)
        source.was_down = True
        if not source.is_lost and not source.ring.is_attached():
            source.is_lost = True
            self._report.interface_lost(source.name)

    def _lose(self, index: int) -> None:
        """Give up an interface, from which the daemon has nothing more received."""
        for attach in [each for each in self._coming if each.interface.index == index]:
            self._coming.remove(attach)
        for number in [number for number, plan in self._awaited.items() if plan.interface.index == index]:
            del self._awaited[number]
        for source in self._sources:
            if source.ring is not None and source.launch.index == index and not source.is_lost:
                source.is_lost = True
                self._report.interface_lost(source.name)

    # Interfaces that come and go -----------------------------------------------------------------------------------

    def _let_go(self) -> None:
        """Give up the rings of interfaces that are gone, when their last packets are in the file."""
        for number, source in enumerate(self._sources):
            if source.is_lost and source.is_drained and not self._order.is_waiting(number):
                self._forget_ring(number)
        if not self._launch.waits and all(source.ring is None for source in self._sources):
            names = ", ".join(source.name for source in self._sources)
            text = f"{names} is no longer there: the capture has ended"
            self._fail(FailureCode.INTERFACE_LOST, text, self._sources[0].name)

    def _forget_ring(self, number: int) -> None:
        source = self._sources[number]
        if self._recorder is not None:
            self._recorder.forget(source)
        if source.ring is not None:
            self._epoll.unregister(source.ring.socket)
            del self._numbers[source.ring.socket.fileno()]
        self._ready.discard(number)
        source.detach()
        self._report.ask(LetGo(number=source.ring_number))
        source.is_lost = source.was_down = False

    def _take_in(self) -> None:
        """Attach the interfaces that have come; one that is still being let go waits until it is."""
        for _ in range(len(self._coming)):
            attach = self._coming.popleft()
            name = attach.interface.request.name
            known = self._known(name)
            if known is not None and self._sources[known].ring is not None:
                self._look_at_interface(known)
                if self._sources[known].is_lost:
                    self._coming.append(attach)
                else:
                    text = "the capture has an interface already that had this name when it was attached"
                    self._report.interface_skipped(name, text)
                continue
            try:
                plan = self._maker.plan(attach.interface, attach.number)
            except CaptureFailed as error:
                self._report.interface_skipped(name, error.failure.text)
            else:
                self._awaited[attach.number] = plan
                self._report.ask(Arm(rings=(plan.filter,)))

    def _known(self, name: str) -> int | None:
        return next((number for number, source in enumerate(self._sources) if source.name == name), None)

    def _take_ring(self, came: RingCame) -> None:
        """Attach an interface whose ring has come, or say why it has none."""
        plan = self._awaited.pop(came.number, None)
        if plan is None:  # it was taken away meanwhile
            if not isinstance(came.sockets, Failure):
                came.sockets.close()
                self._report.ask(LetGo(number=came.number))
        elif isinstance(came.sockets, Failure):
            self._report.interface_skipped(plan.interface.request.name, came.sockets.text)
        else:
            self._attach(plan, came.sockets)

    def _attach(self, plan: Plan, sockets: PacketSockets) -> None:
        known = self._known(plan.interface.request.name)
        number = len(self._sources) if known is None else known
        try:
            source = self._maker.make(plan, sockets, number)
            self._join(source, number, is_new=known is None)
        except CaptureFailed as error:
            self._report.ask(LetGo(number=plan.filter.number))
            self._report.interface_skipped(plan.interface.request.name, error.failure.text)
        except WriteError as error:
            self._fail_disk(error)
        except DestinationError as error:
            self._fail_destination(error)
        else:
            self._report.interface_attached(source.name)

    def _join(self, source: Source, number: int, *, is_new: bool) -> None:
        """Let a new source, or the new ring of a known one, take part."""
        if is_new:
            if not self._files.make_room(len(source.description) + len(statistics_blocks([source], 0))):
                source.detach()
                text = f"the limits of bytes on disk leave no room to describe {source.name} in the file"
                raise CaptureFailed(Failure(code=FailureCode.RESOURCES, text=text, interface=source.name))
            self._files.add_block(source.description)
            self._sources.append(source)
            self._add_ring()
        elif source.link_layer_type != self._sources[number].link_layer_type:
            text = f"{source.name} came back with another link-layer type, {source.link_layer_type}"
            source.detach()
            raise CaptureFailed(Failure(code=FailureCode.UNSUPPORTED, text=text, interface=source.name))
        else:
            self._sources[number].take_over(source)
        self._listen_to(number)

    # Blocks -------------------------------------------------------------------------------------------------------

    def _take_blocks(self) -> None:
        """Take some blocks of each ring that has any."""
        looked_ns = time.time_ns()
        share = 0.0
        for number, source in enumerate(self._sources):
            blocks, ring = source.take(), source.ring
            if blocks is not None and ring is not None:
                share = max(share, blocks.total / ring.blocks)
                self._add(number, ring, blocks)
            # Looked at here rather than found out the next time round: that costs as much as all else for a block.
            if ring is not None and (ring.is_ready() or (source.is_lost and blocks is not None)):
                self._ready.add(number)
                continue
            self._ready.discard(number)
            open_since_ns = ring.open_since_ns() if ring is not None else None
            self._caught_up_ns[number] = looked_ns if open_since_ns is None else min(looked_ns, open_since_ns)
        self._pace.took(share)

    def _add(self, number: int, ring: Ring, blocks: Blocks) -> None:
        if not blocks.packets:
            ring.release(blocks)
            return
        source = self._sources[number]
        source.taken_total += blocks.packets
        maker = source.maker
        records = maker.make(blocks)

        def release() -> None:
            ring.release(blocks)
            maker.done_with(records)

        self._order.add(number, Waiting(records, release))

    def _write_in_order(self) -> None:
        # From a ring whose interface is gone no more comes once all that it has counted was taken.
        ended = [source.ring is None or (source.is_lost and source.is_drained) for source in self._sources]
        taken = self._order.take(self._caught_up_ns, ended, time.time_ns())
        if taken is None:
            return
        records, finished = taken
        self._write(records)
        for waiting in finished:
            waiting.release()
        self._is_dirty = True

    # Writing ------------------------------------------------------------------------------------------------------

    def _write(self, records: Slice) -> None:
        """Write records, switching files and ending the capture exactly where a condition is met."""
        at, count = 0, len(records.timestamps_ns)
        while at < count and not self._is_full:
            sizes = records.vectors[at:, 1]
            try:
                has_room = self._files.make_room(int(sizes[0]))
            except DestinationError as error:
                self._fail_destination(error)
                return
            except WriteError as error:
                self._fail_disk(error)
                return
            if not has_room:
                self._end_at_limit(EndReason.DISK_LIMIT)
                return
            room = min(room_for(self._files.fill, self._file_conditions, sizes), self._files.fitting(sizes))
            if self._autostop.packets is not None:
                room = min(room, self._autostop.packets - self._written_total)
            self._write_some(records.part(at, at + room))
            at += room
            self._look_at_limits()

    def _write_some(self, records: Slice) -> None:
        written = len(records.timestamps_ns)
        try:
            self._files.write(records)
        except WriteError as error:
            written = error.records_written
            self._fail_disk(error)
        self._written_total += written
        if isinstance(records.ring, int):
            self._sources[records.ring].written_total += written
            return
        for number, packets in enumerate(np.bincount(records.ring[:written])):
            self._sources[number].written_total += int(packets)

    def _look_at_limits(self) -> None:
        if self._failure is not None:
            return
        if self._autostop.packets is not None and self._written_total >= self._autostop.packets:
            self._end_at_limit(EndReason.PACKETS)
        elif reason := is_full(self._files.fill, self._file_conditions):
            if self._launch.ring is None:
                self._end_at_limit(reason)
            else:
                self._switch()

    def _end_at_limit(self, reason: EndReason) -> None:
        self._end = reason
        self._is_full = True

    def _switch(self) -> None:
        """Close the current file and open the next, or end where that would be one too many."""
        if self._autostop.files is not None and self._files.opened_total >= self._autostop.files:
            self._end_at_limit(EndReason.FILES)
            return
        try:
            if self._files.switch(self._drops_total()) is not None:
                self._end_at_limit(EndReason.DISK_LIMIT)
        except WriteError as error:
            self._fail_disk(error)
        except DestinationError as error:
            self._fail_destination(error)

    def _keep_limits(self) -> None:
        try:
            self._files.keep_limits()
        except DestinationError as error:
            self._fail_destination(error)

    # Orders -------------------------------------------------------------------------------------------------------

    def _carry_out(self) -> None:
        """Carry out what was ordered and can be done by now, in order. What is left at the end has no answer."""
        while self._orders and self._end is None:
            order, asked_ns = self._orders[0]
            asked_ns = min(asked_ns, time.time_ns())  # the clock may have been set back
            self._orders[0] = order, asked_ns
            failure: Failure | None = None
            if isinstance(order, Rotate):
                failure = self._rotate()
            elif self._has_written_until(asked_ns):
                self._announce()
            else:
                return
            if self._end is None:
                self._report.answer(Answer(number=order.number, failure=failure))
                self._orders.popleft()

    def _snapshot(self, order: Snapshot) -> None:
        if self._recorder is not None:
            self._recorder.order(order)
            return
        failure = Failure(code=FailureCode.INVALID, text="the capture is no recorder: its packets are in its files")
        self._report.answer(Answer(number=order.number, failure=failure))

    def _rotate(self) -> Failure | None:
        if self._launch.ring is None:
            text = "the capture has a single file, and no next one: only a ring is rotated"
        elif self._autostop.files is not None and self._files.opened_total >= self._autostop.files:
            text = f"this is the last of the {self._autostop.files} files of the capture: stop it instead"
        else:
            self._switch()
            return None
        return Failure(code=FailureCode.INVALID, text=text)

    def _has_written_until(self, time_ns: int) -> bool:
        """Whether every packet that the kernel had at a time is in the file: as late as the order lets packets go."""
        rings = [number for number, source in enumerate(self._sources) if source.ring is not None]
        until_ns = time_ns + round(self._hold_s * 1e9)
        return all(self._caught_up_ns[number] >= until_ns for number in rings)

    def _drops_total(self) -> dict[str, int]:
        return {source.name: source.statistics().drops_total for source in self._sources}

    def _fail_disk(self, error: WriteError) -> None:
        if self._recorder is not None:
            text = f"there is no memory for more packets: {error}: ask for a smaller recorder"
            self._fail(FailureCode.RESOURCES, text)
            self._is_full = True
            return
        text = f"the capture file cannot be written any further: {error}; what is in it is whole: {error.advice}"
        self._fail(FailureCode.DISK, text)
        self._is_full = True

    def _fail_destination(self, error: DestinationError) -> None:
        self._fail(FailureCode.DESTINATION, f"the next file cannot be opened: {error}")
        self._is_full = True

    def _fail(self, code: FailureCode, text: str, interface: str | None = None) -> None:
        if self._failure is None:
            self._failure = Failure(code=code, text=text, interface=interface)
        self._end = EndReason.FAILED

    # Time ---------------------------------------------------------------------------------------------------------

    def _look_at_time(self) -> None:
        now_s = time.monotonic()
        if self._end is not None:
            return
        if self._autostop.duration_s is not None and now_s >= self._started_s + self._autostop.duration_s:
            self._end = EndReason.DURATION
            return
        if self._files.time_left_s() == 0:
            self._switch()
        if now_s >= self._files.next_look_s:
            self._keep_limits()
        if now_s >= self._looked_s + _LOOK_S:
            self._looked_s = now_s
            for number, source in enumerate(self._sources):
                if source.was_down:
                    self._look_at_interface(number)
        is_tick = self._is_dirty and now_s >= self._ticked_s + self._interval_s
        if is_tick:
            self._tick()
            self._ticked_s = now_s
        if is_tick or (self._report.is_unsent and now_s >= self._told_s + self._tell_s):
            self._report.flush()
            self._told_s = now_s

    def _tick(self) -> None:
        """Announce what is in the file, if the daemon has read what was announced before."""
        if self._report.takes_counts:
            self._announce()

    def _announce(self) -> None:
        counters = tuple(source.counters() for source in self._sources)
        self._report.announce(self._files.fill.size_bytes, self._files.disk_bytes, counters)
        self._is_dirty = False

    # The end ------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Receive nothing more, write what has been received, close the file, tell the totals."""
        self._disarm()
        self._drain()
        bucket = "excess_total" if self._end in _LIMITS else "writer_drops_total"
        counters = tuple(source.counters(unwritten=bucket) for source in self._sources)
        try:
            self._files.close({each.interface: each.drops_total for each in counters})
        except WriteError as error:
            self._fail_disk(error)
        for source in self._sources:
            source.detach()
        if self._failure is not None:
            self._report.failed(self._failure)
        self._report.ended(self._end or EndReason.STOPPED, counters)
        self._report.flush_all()

    def _disarm(self) -> None:
        """Have the daemon see to it that nothing more comes; when this returns, the kernel's counts are final.

        Where the daemon is gone, what comes from now on is in no file, and counts as dropped.
        """
        if any(source.ring is not None for source in self._sources):
            self._report.ask(Disarm())
            with contextlib.suppress(DaemonGone):
                self._control.wait_disarmed(_DISARM_S)

    def _drain(self) -> None:
        """Take the last blocks, those too that the kernel has not closed yet."""
        deadline_s = time.monotonic() + _DRAIN_S
        for source in self._sources:
            source.is_lost = True  # nothing more will come
        while True:
            self._ready = set(range(len(self._sources)))
            while self._ready:
                self._take_blocks()
                self._write_in_order()
            is_done = all(source.is_drained for source in self._sources) and not self._order.is_waiting()
            if is_done or time.monotonic() > deadline_s:
                return
            # Of an interface that has gone meanwhile, a packet may still be under way.
            time.sleep(0.001)


def statistics_blocks(sources: Sequence[Source], start_ns: int) -> bytes:
    """What a pcapng file ends with: where the counters of every interface stand now."""
    now_ns = time.time_ns()
    blocks: list[bytes] = []
    for interface_id, source in enumerate(sources):
        received, drops = source.statistics()
        blocks.append(
            pcapng.interface_statistics(
                interface_id,
                timestamp_ns=now_ns,
                start_ns=start_ns,
                end_ns=now_ns,
                received=received,
                dropped=drops,
                delivered=source.written_total,
            )
        )
    return b"".join(blocks)
