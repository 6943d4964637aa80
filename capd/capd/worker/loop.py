"""The capture itself: from ring blocks to file and announcement, until a reason to end.

One thread, one wait. A ring is read whenever the kernel has closed a block of it, and what was read is written at
once; every ``update_interval_s`` what is in the file is announced.
"""

import errno
import select
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from capd.worker.files import CaptureFiles
from capd.worker.order import JITTER_NS, Slice, TimeOrder, Waiting
from capd.worker.records import RecordMaker
from capd.worker.report import Report
from capd.worker.ring import Ring
from capd.worker.rotation import is_full, room_for
from capd.worker.savefile import DestinationError, WriteError
from capd_protocol import pcapng
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import FrameDecoder
from capd_protocol.messages import (
    Conditions,
    EndReason,
    Failure,
    FailureCode,
    InterfaceCounters,
    StopCapture,
    decode,
)

#: The kernel ends a worker that has not come round its loop for so long: stuck in libpcap, say. Chosen: longer
#: than a slow disk keeps one write waiting.
WATCHDOG_S = 60
#: How often an idle worker comes round.
_IDLE_S = 20.0
#: How long the last blocks may take when a capture ends: their retire time, many times over.
_DRAIN_S = 2.0

_NO_CONDITIONS = Conditions()
#: Ends by a limit: what is still in the rings then is excess, and not written.
_LIMITS = (EndReason.PACKETS, EndReason.FILESIZE, EndReason.FILES)


def retire_ms(update_interval_s: float) -> int:
    """How long the kernel may keep a block: a tenth of the interval, so that waiting for it twice is short."""
    return max(1, round(update_interval_s * 100))


@dataclass(slots=True)
class Source:
    """One interface of the capture."""

    name: str
    ring: Ring
    maker: RecordMaker
    taken_total: int = 0
    written_total: int = 0
    is_lost: bool = False
    #: Nothing more can come from its ring.
    is_drained: bool = False

    def counters(self, *, unwritten: str | None = None) -> InterfaceCounters:
        """Where its packets are; ``unwritten`` names the counter of those that are in no file at the end."""
        received, drops = self.ring.statistics()
        rest = {unwritten: received - drops - self.written_total} if unwritten else {}
        return InterfaceCounters(
            interface=self.name,
            received_total=received,
            written_total=self.written_total,
            kernel_drops_total=drops,
            **rest,
        )


class Capture:
    """A running capture."""

    def __init__(
        self,
        *,
        sources: Sequence[Source],
        files: CaptureFiles,
        report: Report,
        control: socket.socket,
        decoder: FrameDecoder,
        ring: Conditions | None,
        autostop: Conditions,
        update_interval_s: float,
    ) -> None:
        """The rings are armed, the first file is open. ``decoder`` holds what came behind the launch frame."""
        self._sources = sources
        self._files = files
        self._report = report
        self._control = control
        self._decoder = decoder
        self._ring = ring
        self._autostop = autostop
        self._file_conditions = ring or Conditions(filesize_kb=autostop.filesize_kb)
        self._interval_s = update_interval_s
        # The kernel's timer looks at a block at most every retire time, and closes it the second time.
        hold_ns = 2 * retire_ms(update_interval_s) * 1_000_000 + JITTER_NS
        self._order = TimeOrder(len(sources), hold_ns)
        self._hold_s = (hold_ns + JITTER_NS) / 1e9
        self._started_s = time.monotonic()
        self._ticked_s = 0.0
        self._written_total = 0
        self._is_dirty = False
        self._end: EndReason | None = None
        self._is_full = False
        self._failure: Failure | None = None
        self._ready = set(range(len(sources)))
        self._epoll = select.epoll()
        self._numbers: dict[int, int] = {}

    # The loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Capture until there is a reason to end, then end well."""
        self._epoll.register(self._control, select.EPOLLIN)
        for number, source in enumerate(self._sources):
            # Edge-triggered: a block that is held back to keep the order would make the socket look ready
            # again and again.
            self._epoll.register(source.ring.socket, select.EPOLLIN | select.EPOLLET)
            self._numbers[source.ring.socket.fileno()] = number
        while self._end is None:
            signal.alarm(WATCHDOG_S)
            self._wait()
            self._take_blocks()
            self._write_in_order()
            self._look_at_time()
        self._finish()

    def _wait(self) -> None:
        for fd, event in self._epoll.poll(0 if self._ready else self._timeout_s()):
            if fd == self._control.fileno():
                self._read_control()
                continue
            number = self._numbers[fd]
            self._ready.add(number)
            if event & (select.EPOLLERR | select.EPOLLHUP):
                self._look_at_interface(number)

    def _timeout_s(self) -> float:
        now_s = time.monotonic()
        deadlines_s = [now_s + _IDLE_S]
        if self._is_dirty or self._report.is_unsent:
            deadlines_s.append(self._ticked_s + self._interval_s)
        if self._order.is_waiting():
            deadlines_s.append(now_s + self._hold_s)
        if self._file_conditions.duration_s is not None:
            deadlines_s.append(self._files.opened_s + self._file_conditions.duration_s)
        if self._autostop.duration_s is not None:
            deadlines_s.append(self._started_s + self._autostop.duration_s)
        if any(source.is_lost and not source.is_drained for source in self._sources):
            deadlines_s.append(now_s + self._hold_s)
        return max(min(deadlines_s) - now_s, 0)

    def _read_control(self) -> None:
        try:
            data = self._control.recv(65536)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        self._decoder.feed(data)
        try:
            frame = self._decoder.next_frame()
            asked_to_stop = frame is not None and isinstance(decode(frame), StopCapture)
        except RemoteProtocolError:
            asked_to_stop = True  # the daemon speaks another protocol: there is nobody to work for
        if asked_to_stop or not data:
            self._end = EndReason.STOPPED

    def _look_at_interface(self, number: int) -> None:
        source = self._sources[number]
        source.ring.clear_error()
        if not source.is_lost and not source.ring.is_attached():
            source.is_lost = True
            self._report.interface_lost(source.name)

    # Blocks -------------------------------------------------------------------------------------------------------

    def _take_blocks(self) -> None:
        """Take one block of each ring that may have one."""
        for number in tuple(self._ready):
            source = self._sources[number]
            block = source.ring.take()
            if block is None:
                self._ready.discard(number)
                continue
            source.taken_total += len(block.frames)
            waiting = Waiting(source.maker.make(block), partial(source.ring.release, block))
            self._order.add(number, waiting)
        for source in self._sources:
            if source.is_lost and not source.is_drained:
                self._look_for_last_block(source)

    def _look_for_last_block(self, source: Source) -> None:
        received, drops = source.ring.statistics()
        if source.taken_total < received - drops:
            self._ready.add(self._sources.index(source))
            return
        source.is_drained = True
        if all(other.is_drained for other in self._sources):
            names = ", ".join(other.name for other in self._sources)
            self._fail(FailureCode.INTERFACE_LOST, f"{names} is no longer there: the capture has ended", source.name)

    def _write_in_order(self) -> None:
        taken = self._order.take(time.time_ns(), [source.is_drained for source in self._sources])
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
            room = min(room_for(self._files.fill, self._file_conditions, sizes), count - at)
            if self._autostop.packets is not None:
                room = min(room, self._autostop.packets - self._written_total)
            self._write_some(
                Slice(
                    records.vectors[at : at + room],
                    records.timestamps_ns[at : at + room],
                    records.ring[at : at + room],
                )
            )
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
        if len(self._sources) == 1:
            self._sources[0].written_total += written
            return
        for source, packets in zip(
            self._sources, np.bincount(records.ring[:written], minlength=len(self._sources)), strict=True
        ):
            source.written_total += int(packets)

    def _look_at_limits(self) -> None:
        if self._failure is not None:
            return
        if self._autostop.packets is not None and self._written_total >= self._autostop.packets:
            self._end_at_limit(EndReason.PACKETS)
        elif reason := is_full(self._files.fill, self._file_conditions):
            if self._ring is None:
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
            self._files.close(self._drops_total())
            self._files.open_next()
        except WriteError as error:
            self._fail_disk(error)
        except DestinationError as error:
            self._fail(FailureCode.DESTINATION, f"the next file cannot be opened: {error}")
            self._is_full = True

    def _drops_total(self) -> int:
        return sum(source.ring.statistics().drops_total for source in self._sources)

    def _fail_disk(self, error: WriteError) -> None:
        advice = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "see the system's log"
        text = f"the capture file cannot be written any further: {error}; what is in it is whole: {advice}"
        self._fail(FailureCode.DISK, text)
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
        duration_s = self._file_conditions.duration_s
        if duration_s is not None and now_s >= self._files.opened_s + duration_s:
            self._switch()
        if (self._is_dirty or self._report.is_unsent) and now_s >= self._ticked_s + self._interval_s:
            self._tick()
            self._ticked_s = now_s

    def _tick(self) -> None:
        """Announce what is in the file, if the daemon has read what was announced before."""
        self._report.flush()
        if self._is_dirty and self._report.takes_counts:
            counters = tuple(source.counters() for source in self._sources)
            self._report.announce(self._files.fill.size_bytes, counters)
            self._is_dirty = False

    # The end ------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Receive nothing more, write what has been received, close the file, tell the totals."""
        for source in self._sources:
            source.ring.disarm()
        self._drain()
        bucket = "excess_total" if self._end in _LIMITS else "writer_drops_total"
        counters = tuple(source.counters(unwritten=bucket) for source in self._sources)
        try:
            self._files.close(sum(each.drops_total for each in counters))
        except WriteError as error:
            self._fail_disk(error)
        for source in self._sources:
            source.ring.close()
        if self._failure is not None:
            self._report.failed(self._failure)
        self._report.ended(self._end or EndReason.STOPPED, counters)
        self._report.flush_all()

    def _drain(self) -> None:
        """Take the last blocks: the kernel closes them within their retire time."""
        deadline_s = time.monotonic() + _DRAIN_S
        self._ready = set(range(len(self._sources)))
        while time.monotonic() < deadline_s:
            for source in self._sources:
                received, drops = source.ring.statistics()
                source.is_drained = source.taken_total >= received - drops
            self._take_blocks()
            self._write_in_order()
            if all(source.is_drained for source in self._sources) and not self._order.is_waiting():
                return
            self._ready = set(range(len(self._sources)))
            time.sleep(0.001)


def statistics_blocks(sources: Sequence[Source], start_ns: int) -> bytes:
    """What a pcapng file ends with: where the counters of every interface stand now."""
    now_ns = time.time_ns()
    blocks: list[bytes] = []
    for interface_id, source in enumerate(sources):
        received, drops = source.ring.statistics()
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
