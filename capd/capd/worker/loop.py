"""The capture itself: from ring blocks to file and announcement, until a reason to end.

One thread, one wait. A ring is read whenever the kernel has closed a block of it, and what was read is written at
once; every ``update_interval_s`` what is in the file is announced.
"""

import contextlib
import select
import signal
import time
from collections import deque

import msgspec
import numpy as np

from capd.filters.compiler import CaptureFailed
from capd.launch import Answer, Attach, Detach, Disarm, Flush, Launch, LetGo, Rotate, Snapshot, Stop
from capd.linux.packet_ring import retire_ms
from capd.worker.arrivals import Arrivals
from capd.worker.control import ControlSocket, DaemonGone, RingCame
from capd.worker.output.report import Report
from capd.worker.output.sink import Change, Ending, Sink, SinkFailed
from capd.worker.packets.merge import JITTER_NS, RELAXED_JITTER_NS, Slice, WatermarkMerge
from capd.worker.packets.pace import Pace
from capd.worker.sources.af_packet import SourceMaker
from capd.worker.sources.source import (
    CapturedInterface,
    PacketSource,
    counters_of,
    one_interface_only,
    standing,
    statistics_blocks,
)
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.messages import EndReason, Failure, FailureCode

#: The kernel ends a worker whose loop has stood still for so long: stuck in libpcap, say. Chosen: longer
#: than a slow disk keeps one write waiting.
WATCHDOG_S = 60
#: What happens to files and interfaces is reported with the counts, and at least so often where these come more rarely.
_TELL_S = 0.1
#: How often the loop of an idle worker turns.
_IDLE_S = 20.0
#: How long the daemon may take to have nothing more received. Chosen: many times the kernel's grace period, which it
#: waits for, for as many interfaces as there can be.
_DISARM_S = 5.0
#: How long the last packets may take when a capture ends. Chosen: many times their retire time.
_DRAIN_S = 2.0

#: How often an interface that went down is looked at: the kernel does not report when it is deleted after that.
_LOOK_S = 0.5

#: How often it is looked whether what was to be flushed is in the file: nobody wakes a worker for it.
_FLUSH_LOOK_S = 0.005

#: Ends by a limit: what is still in the rings then is excess, and not written.
_LIMITS = (EndReason.PACKETS, EndReason.FILESIZE, EndReason.FILES, EndReason.DISK_LIMIT)


class CaptureLoop:
    """A running capture."""

    def __init__(
        self,
        *,
        launch: Launch,
        sources: list[PacketSource],
        interfaces: list[CapturedInterface],
        maker: SourceMaker,
        sink: Sink,
        report: Report,
        control: ControlSocket,
    ) -> None:
        """Begin with sources that are armed, and a sink.

        Args:
            launch: what is captured, and until when.
            sources: those to begin with; interfaces that come later are added.
            interfaces: what files declare, by number: the sink's header has those that are there, others are added.
            maker: makes sources of what comes later.
            sink: takes the packets.
            report: is told.
            control: orders.
        """
        self._launch = launch
        self._sources = sources
        self._interfaces = interfaces
        self._sink = sink
        self._report = report
        self._control = control
        self._duration_s = launch.autostop.duration_s
        self._interval_s = launch.update_interval_s
        # The kernel's timer looks at a block at most every retire time, and closes it the second time.
        hold_ns = 2 * retire_ms(self._interval_s) * 1_000_000
        jitter_ns = max(JITTER_NS, min(RELAXED_JITTER_NS, round(self._interval_s * 1e8)))
        self._merge = WatermarkMerge(hold_ns, jitter_ns)
        self._caught_up_ns: list[int] = []
        self._hold_s = (hold_ns + jitter_ns) / 1e9
        self._started_s = time.monotonic()
        self._ticked_s = 0.0
        self._tell_s = min(self._interval_s, _TELL_S)
        self._reported_s = 0.0
        self._looked_s = 0.0
        self._is_dirty = False
        self._end: EndReason | None = None
        #: The sink takes no more.
        self._is_full = False
        self._failure: Failure | None = None
        self._arrivals = Arrivals(
            sources,
            interfaces,
            maker,
            report,
            declare=self._declare,
            look=self._look_at_interface,
            joined=self._take_part,
        )
        #: With the times at which they came.
        self._orders: deque[tuple[Rotate | Flush, int]] = deque()
        self._ready: set[int] = set()
        self._epoll = select.epoll()
        #: What does not wait while the rings rest.
        self._urgent = select.epoll()
        self._pace = Pace(self._interval_s)
        self._numbers: dict[int, int] = {}
        #: Names of lost sources that the daemon knows of.
        self._told_lost: set[str] = set()

    # The loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Capture until there is a reason to end, then end well."""
        for each in (self._epoll, self._urgent):
            each.register(self._control.socket, select.EPOLLIN)
        self._sink.begin(self._epoll, self._urgent, self._sources, self._has_written_until, self._note_written)
        for number in range(len(self._sources)):
            self._take_part(number)
        self._report.flush()
        self._read_control()  # what came together with the launch
        while self._end is None:
            signal.alarm(WATCHDOG_S)
            self._rest()
            self._wait()
            self._take_blocks()
            self._write_in_order()
            self._let_go()
            if self._arrivals.are_waiting:
                self._arrivals.ask_for_rings()
            if self._orders:
                self._carry_out()
            self._look_at_time()
        self._finish()

    def _take_part(self, number: int) -> None:
        """Let a source that was just armed take part."""
        if number == len(self._caught_up_ns):
            self._merge.add_ring()
            self._caught_up_ns.append(0)
        source = self._sources[number]
        source.begin(self._declare, self)
        descriptor = source.fileno()
        if descriptor >= 0:
            # Edge-triggered: a block that is held back to keep the order would make the socket look ready
            # again and again.
            self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLET)
            self._numbers[descriptor] = number
        self._ready.add(number)
        self._pace.has_ring(source.size_bytes)
        self._sink.source_changed(source, Change.ARMED)
        self._is_dirty = True

    def _declare(self, interface: CapturedInterface) -> int:
        """Have a further interface declared in the files, and return its number.

        Raises:
            CaptureFailed: there is no room for it.
            SinkFailed: no more packets are taken.
        """
        if self._launch.file_format == "pcap":
            raise CaptureFailed(one_interface_only(interface))
        self._sink.describe(interface, len(statistics_blocks([interface], 0)))
        self._interfaces.append(interface)
        return len(self._interfaces) - 1

    def interface_lost(self, name: str, text: str) -> None:
        """Report that a source is gone for now (``source.Listener``)."""
        self._report.interface_lost(name, text)
        self._is_dirty = True

    def interface_attached(self, name: str) -> None:
        """Report that it has come again."""
        self._report.interface_attached(name)
        self._is_dirty = True

    def _rest(self) -> None:
        """Let packets gather, where the rings are empty and nobody waits for what is in the file."""
        if not self._ready and not self._orders and (rest_s := self._pace.rest_s()):
            self._urgent.poll(min(rest_s, self._timeout_s()))

    def _wait(self) -> None:
        for fd, event in self._epoll.poll(0 if self._ready else self._timeout_s()):
            number = self._numbers.get(fd)
            if number is not None:
                self._ready.add(number)
                if event & (select.EPOLLERR | select.EPOLLHUP):
                    self._look_at_interface(number)
            elif fd == self._control.socket.fileno():
                self._read_control()
            else:
                try:
                    self._sink.on_event(fd, event)
                except SinkFailed as error:
                    self._end_with(error.ending)

    def _timeout_s(self) -> float:
        now_s = time.monotonic()
        deadlines_s = [now_s + _IDLE_S, self._sink.deadline_s]
        if self._is_dirty:
            deadlines_s.append(self._ticked_s + self._interval_s)
        if self._report.is_unsent:
            deadlines_s.append(self._reported_s + self._tell_s)
        if self._merge.is_waiting():
            deadlines_s.append(now_s + self._merge.wait_s(time.time_ns()))
        if self._duration_s is not None:
            deadlines_s.append(self._started_s + self._duration_s)
        if any(source.was_down and source.is_armed for source in self._sources):
            deadlines_s.append(self._looked_s + _LOOK_S)
        if self._orders:
            deadlines_s.append(now_s + _FLUSH_LOOK_S)
        if self._arrivals.are_waiting or any(source.is_lost for source in self._sources):
            deadlines_s.append(now_s + self._hold_s)
        return max(min(deadlines_s) - now_s, 0)

    def _read_control(self) -> None:
        try:
            orders = self._control.read()
        except RemoteProtocolError:
            self._end = EndReason.STOPPED  # the daemon speaks another protocol: there is nobody to work for
            return
        for order in orders:
            match order:
                case Stop():
                    self._end = EndReason.STOPPED
                case Rotate() | Flush():
                    self._orders.append((order, time.time_ns()))
                case Snapshot():
                    self._end_with(self._sink.order(order))
                case Attach():
                    self._arrivals.add(order)
                case Detach(index=index):
                    self._arrivals.take_away(index)
                    self._lose(index)
                case RingCame():
                    try:
                        self._arrivals.take_ring(order)
                    except SinkFailed as error:
                        self._end_with(error.ending)
        if self._control.is_over:
            self._end = EndReason.STOPPED

    # Interfaces that go -------------------------------------------------------------------------------------------

    def _look_at_interface(self, number: int) -> None:
        source = self._sources[number]
        if not source.is_armed:
            return
        was_down, is_gone = source.was_down, source.look()
        if source.was_down and not was_down:
            self._sink.source_changed(source, Change.DOWN)
        if is_gone:
            self._tell_lost(source)

    def _lose(self, interface_index: int) -> None:
        """Give up an interface, from which the daemon has nothing more received."""
        for source in self._sources:
            if source.is_armed and source.interface_index == interface_index and not source.is_lost:
                source.is_lost = True
                self._tell_lost(source)

    def _tell_lost(self, source: PacketSource) -> None:
        loss = source.loss
        self.interface_lost(source.name, loss.text if loss is not None else "it has come to its end")
        self._told_lost.add(source.name)

    def _let_go(self) -> None:
        """Give up the sources of interfaces that are gone, when their last packets are in the file."""
        gone = [
            number
            for number, source in enumerate(self._sources)
            if source.is_lost and source.is_drained and not self._merge.is_waiting(number)
        ]
        for number in gone:
            self._forget(number)
        if not any(source.is_armed for source in self._sources) and not self._waits:
            self._end_without_sources()
            return
        for number in gone:
            if self._sources[number].name not in self._told_lost:
                self._tell_lost(self._sources[number])
            self._told_lost.discard(self._sources[number].name)

    @property
    def _waits(self) -> bool:
        """Whether the capture goes on without any source."""
        return self._launch.waits and (not self._sources or any(source.may_return for source in self._sources))

    def _end_without_sources(self) -> None:
        """End well where each source has come to its end; else say what has become of them."""
        losses = [loss for source in self._sources if (loss := source.loss) is not None]
        if not losses:
            self._end = EndReason.SOURCE_ENDED
            return
        text = ", ".join(dict.fromkeys(loss.text for loss in losses))
        if losses[0].code == FailureCode.INTERFACE_LOST:
            text += ": the capture has ended"
        self._fail(msgspec.structs.replace(losses[0], text=text))

    def _forget(self, number: int) -> None:
        source = self._sources[number]
        self._sink.source_changed(source, Change.GONE)
        descriptor = source.fileno()
        if self._numbers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)
        self._ready.discard(number)
        source.disarm()
        if source.ring_number is not None:
            self._report.ask(LetGo(number=source.ring_number))

    # Packets ------------------------------------------------------------------------------------------------------

    def _take_blocks(self) -> None:
        """Take some blocks of each source that has any."""
        looked_ns = time.time_ns()
        share = 0.0
        for number, source in enumerate(self._sources):
            try:
                taken = source.take()
            except SinkFailed as error:
                self._end_with(error.ending)
                return
            if taken is not None:
                share = max(share, taken.share)
                if taken.waiting is not None:
                    self._merge.add(number, taken.waiting)
            # Looked at here rather than found out the next time round: that costs as much as all else for a block.
            if source.is_ready() or (source.is_lost and taken is not None):
                self._ready.add(number)
                continue
            self._ready.discard(number)
            self._caught_up_ns[number] = source.caught_up_ns(looked_ns)
        self._pace.took(share)

    def _write_in_order(self) -> None:
        # From a source whose interface is gone no more comes once all that it has counted was taken.
        ended = [not source.is_armed or (source.is_lost and source.is_drained) for source in self._sources]
        taken = self._merge.take(self._caught_up_ns, ended, time.time_ns())
        if taken is None:
            return
        records, finished = taken
        if not self._is_full:
            self._end_with(self._sink.write(records))
        for waiting in finished:
            waiting.release()
        self._is_dirty = True

    def _note_written(self, records: Slice) -> None:
        self._is_dirty = True
        if isinstance(records.interface_ids, int):
            self._interfaces[records.interface_ids].written_total += len(records.timestamps_ns)
            return
        for number, packets in enumerate(np.bincount(records.interface_ids)):
            self._interfaces[number].written_total += int(packets)

    def _end_with(self, ending: Ending | None) -> None:
        """End where the sink takes no more."""
        if ending is None:
            return
        self._is_full = True
        if ending.failure is not None:
            self._fail(ending.failure)
        else:
            self._end = ending.reason

    def _fail(self, failure: Failure) -> None:
        """End because of what has failed; the first thing counts."""
        if self._failure is None:
            self._failure = failure
        self._end = EndReason.FAILED

    # Orders -------------------------------------------------------------------------------------------------------

    def _carry_out(self) -> None:
        """Carry out what was ordered and can be done by now, in order. What is left at the end has no answer."""
        while self._orders and self._end is None:
            order, asked_ns = self._orders[0]
            asked_ns = min(asked_ns, time.time_ns())  # the clock may have been set back
            self._orders[0] = order, asked_ns
            if isinstance(order, Rotate):
                self._end_with(self._sink.order(order))
            elif self._has_written_until(asked_ns) and self._is_saved(wait=False):
                self._announce()
                self._report.answer(Answer(number=order.number))
            else:
                return
            self._orders.popleft()

    def _is_saved(self, *, wait: bool) -> bool:
        """Have what was written put where it goes; whether it is there. Not, where the sink takes no more."""
        try:
            return self._sink.save(wait=wait)
        except SinkFailed as error:
            self._end_with(error.ending)
            return False

    def _has_written_until(self, time_ns: int) -> bool:
        """Whether every packet that the kernel had at a time is in the file: as late as the order lets packets go."""
        until_ns = time_ns + round(self._hold_s * 1e9)
        return all(
            caught_up_ns >= until_ns
            for source, caught_up_ns in zip(self._sources, self._caught_up_ns, strict=True)
            if source.is_armed
        )

    # Time ---------------------------------------------------------------------------------------------------------

    def _look_at_time(self) -> None:
        now_s = time.monotonic()
        if self._end is not None:
            return
        if self._duration_s is not None and now_s >= self._started_s + self._duration_s:
            self._end = EndReason.DURATION
            return
        self._end_with(self._sink.on_time(now_s))
        if now_s >= self._looked_s + _LOOK_S:
            self._looked_s = now_s
            for number, source in enumerate(self._sources):
                if source.was_down:
                    self._look_at_interface(number)
        is_tick = self._is_dirty and now_s >= self._ticked_s + self._interval_s
        if is_tick:
            self._tick()
            self._ticked_s = now_s
        if is_tick or (self._report.is_unsent and now_s >= self._reported_s + self._tell_s):
            self._report.flush()
            self._reported_s = now_s

    def _tick(self) -> None:
        """Announce what is in the file, if the daemon has read what was announced before."""
        if self._report.takes_counts:
            self._announce()

    def _announce(self) -> None:
        size_bytes, disk_bytes = self._sink.size_bytes, self._sink.disk_bytes
        self._report.announce(
            standing(
                self._interfaces,
                is_waiting=self._launch.waits and not any(each.is_armed and not each.is_lost for each in self._sources),
                file_size_bytes=size_bytes,
                disk_bytes=disk_bytes,
            )
        )
        self._is_dirty = False

    # The end ------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Receive nothing more, write what has been received, close the file, report the totals."""
        self._disarm()
        self._drain()
        self._is_saved(wait=True)
        bucket = "excess_total" if self._end in _LIMITS else "writer_drops_total"
        counters = tuple(counters_of(each, unwritten=bucket) for each in self._interfaces)
        self._end_with(self._sink.close({each.interface: each.drops_total for each in counters}))
        for source in self._sources:
            source.disarm()
        if self._failure is not None:
            self._report.failed(self._failure)
        self._report.ended(self._end or EndReason.STOPPED, counters)
        self._report.flush_all()

    def _disarm(self) -> None:
        """Have the daemon see to it that nothing more comes; when this returns, the kernel's counts are final.

        Where the daemon is gone, what comes from now on is in no file, and counts as dropped.
        """
        if any(source.is_armed for source in self._sources):
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
            is_done = all(source.is_drained for source in self._sources) and not self._merge.is_waiting()
            if is_done or time.monotonic() > deadline_s:
                return
            # Of an interface that has gone meanwhile, a packet may still be under way.
            time.sleep(0.001)
