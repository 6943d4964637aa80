"""Flight recorder: a pre-trigger buffer in memory, written as snapshots.

A snapshot is written when it is asked for, or something happens (``triggers``). It has what the memory holds of its
window, and what comes until its end: what is there is given to its thread at once, what comes as soon as a segment is
full. Parts that are not copied yet stay where they are; the memory may take twice as much for it, and then the snapshot
is given up.

A snapshot that was triggered is followed by a cool-down, in which nothing triggers another one. Snapshots are kept as
the files of a ring are (``complete_files``).
"""

import contextlib
import os
import select
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from capd.filters.compiler import CaptureFailed
from capd.launch import Answer, Launch, Rotate
from capd.launch import Snapshot as SnapshotOrder
from capd.worker.output.complete_files import CompleteFiles, Contents, OpenFile
from capd.worker.output.report import Report
from capd.worker.output.ring_index import RingIndex, RingLock
from capd.worker.output.savefile import DestinationError, SaveFile, WriteError, create_ring_file, name_of
from capd.worker.output.sink import Change, Ending
from capd.worker.packets.merge import Slice
from capd.worker.recorder.memory import Memory, Part
from capd.worker.recorder.snapshot import SnapshotThread, SnapshotWriter
from capd.worker.recorder.triggers import Trigger, Triggers
from capd.worker.sources.source import CapturedInterface, PacketSource
from capd_protocol.formats.ring_index import number_of
from capd_protocol.messages import (
    Conditions,
    DeletionReason,
    EndReason,
    Failure,
    FailureCode,
    Recorder,
    Recording,
    SnapshotFailed,
    Triggered,
    TriggersIgnored,
)
from capd_protocol.text import quoted

#: Kept beyond the time that was asked for: the client means the time before its request, and the order is under way for
#: some milliseconds. Chosen: what that takes on a busy machine.
_UNDER_WAY_S = 0.1
#: After a snapshot that was asked for nothing triggers the next one for so long.
_QUIET_S = 1.0
#: How often it is looked whether the end of a window has been written: nobody wakes a worker for it.
_LOOK_S = 0.005
#: How long the end of the capture waits for a snapshot to be written; then it is given up. Chosen: the daemon kills a
#: worker after 10 s, of which the last packets may take 2.
_END_S = 5.0
_GIVE_UP_S = 2.0
#: While it is being written, so many times its memory.
_MOST_MEMORY = 2


@dataclass
class _Snapshot:
    """One that is being written."""

    name: str
    #: Who has asked for it; None: nobody did.
    order: SnapshotOrder | None
    writer: SnapshotWriter
    #: When it is looked whether the window is over, by the monotonic clock; at first, when it ends.
    look_s: float
    #: By interface.
    drops_before: Mapping[str, int]
    #: Of the current segment, what was passed on: bytes and packets.
    sent: tuple[int, int]
    #: Of all that was passed on.
    size_bytes: int
    file: SaveFile | None = None
    first_ns: int | None = None
    last_ns: int | None = None
    packets: int = 0
    #: When it was found that the window is over, by the clock that stamps packets.
    over_ns: int | None = None
    #: No more is passed on.
    is_ending: bool = False
    #: Why it does not have all that it should.
    failure: Failure | None = None


class FlightRecorder:
    """The memory, and the snapshot that is being written, if one is (``sink.Sink``)."""

    def __init__(
        self,
        launch: Launch,
        wish: Recorder,
        directory_fd: int,
        report: Report,
        thread: SnapshotThread,
        *,
        header: Callable[[], bytes],
        statistics: Callable[[], bytes],
        drops: Callable[[], Mapping[str, int]],
        index: RingIndex | None,
        lock: RingLock | None,
    ) -> None:
        """Begin to record, and report that it runs; no file is opened yet.

        Args:
            launch: what was asked for.
            wish: what of it is about the recorder.
            directory_fd: where snapshots go.
            report: reports them, and their packets, to the daemon.
            thread: what a snapshot's has to know.
            header: returns what a file begins with.
            statistics: returns what a file ends with, counted when it is called.
            drops: returns what was dropped since the beginning, by interface.
            index: of the snapshots, if they have one.
            lock: of those that have no index; its file is deleted with the end.

        Raises:
            CaptureFailed: snapshots could not be written there.
        """
        if not os.access(".", os.W_OK | os.X_OK, dir_fd=directory_fd, effective_ids=True):
            text = f"{quoted(launch.destination.file_name)} cannot be written there: name another directory"
            raise CaptureFailed(Failure(code=FailureCode.DESTINATION, text=text, argument="savefile"))
        self._wish = wish
        self._directory_fd = directory_fd
        self._destination = launch.destination
        self._report = report
        self._header = header
        self._statistics = statistics
        self._drops = drops
        self._index = index
        self._lock = lock
        self._kept_s = inf if wish.duration_s is None else wish.duration_s + _UNDER_WAY_S
        self._memory = Memory(wish.memory_bytes, self._kept_s)
        self._thread = thread
        self._snapshot: _Snapshot | None = None
        self._max_disk_bytes = launch.max_disk_bytes
        self._complete = CompleteFiles(
            directory_fd=directory_fd,
            file_name=launch.destination.file_name,
            ring=wish.kept or Conditions(),
            max_disk_bytes=launch.max_disk_bytes,
            open_file=self._open_file,
            report=report,
            index=index,
            continues=launch.continues,
            keeps_all=wish.kept is None,
        )
        self._triggers: Triggers | None = None
        self._has_written_until: Callable[[int], bool] = lambda _: True
        self._note_written: Callable[[Slice], None] = lambda _: None
        #: When triggers are looked at again.
        self._listen_s = inf
        self._number = self._complete.last_number
        self.opened_total = 0
        report.recording(Recording(memory_bytes=wish.memory_bytes, duration_s=wish.duration_s))

    # The loop -----------------------------------------------------------------------------------------------------

    def begin(
        self,
        epoll: select.epoll,
        urgent: select.epoll,
        sources: Sequence[PacketSource],
        has_written_until: Callable[[int], bool],
        note_written: Callable[[Slice], None],
    ) -> None:
        """Take part in the loop: look at triggers."""
        epoll.register(self._thread.told_fd, select.EPOLLIN)
        self._has_written_until, self._note_written = has_written_until, note_written
        self._triggers = Triggers(self._wish, sources, epoll)
        self._triggers.listen(time.monotonic())

    def save(self, *, wait: bool) -> bool:
        """Do nothing: what was taken is in the memory."""
        del wait
        return True

    def source_changed(self, source: PacketSource, change: Change) -> None:
        """Look at the triggers of an interface, or no more; one that goes down may be a trigger."""
        if self._triggers is None:
            return
        match change:
            case Change.ARMED:
                self._triggers.add(source)
            case Change.GONE:
                self._triggers.remove(source)
            case Change.DOWN:
                self._on_trigger(self._triggers.went_down(source))

    def on_event(self, descriptor: int, event: int) -> bool:
        """Take an event of the snapshot's thread, or of a trigger."""
        if descriptor == self._thread.told_fd:
            os.eventfd_read(self._thread.told_fd)
            self._take_news()
            return True
        if self._triggers is None or not self._triggers.has(descriptor):
            return False
        self._on_trigger(self._triggers.on_event(descriptor, event))
        return True

    @property
    def deadline_s(self) -> float:
        """When triggers, the end of a snapshot's window, or what may be kept, are looked at."""
        deadline_s = min(self._listen_s, self._complete.next_look_s)
        if self._triggers is not None:
            deadline_s = min(deadline_s, self._triggers.next_look_s)
        snapshot = self._snapshot
        if snapshot is not None and not snapshot.is_ending:
            deadline_s = min(deadline_s, snapshot.look_s)
        return deadline_s

    def on_time(self, now_s: float) -> Ending | None:
        """Look at triggers, end the snapshot whose window is over, and delete what is not to be kept."""
        if now_s < self.deadline_s:
            return None
        self._end_if_over()
        now_s = time.monotonic()
        if self._triggers is not None:
            if now_s >= self._listen_s:
                self._listen_s = inf
                self._listen(self._triggers, now_s)
            self._on_trigger(self._triggers.look(now_s))
        if now_s >= self._complete.next_look_s:
            try:
                self._complete.keep_limits()
            except (DestinationError, OSError) as error:
                return Ending(EndReason.FAILED, _failure(error))
        return None

    def _listen(self, triggers: Triggers, now_s: float) -> None:
        ignored = triggers.listen(now_s)
        if ignored:
            self._report.recording(TriggersIgnored(triggers=ignored))

    # Packets ------------------------------------------------------------------------------------------------------

    @property
    def size_bytes(self) -> int:
        """Size of the snapshot that is being written."""
        return self._snapshot.writer.size_bytes if self._snapshot is not None else 0

    @property
    def disk_bytes(self) -> int:
        """What all snapshots take now."""
        return self._complete.size_bytes + self.size_bytes

    def _open_file(self) -> OpenFile:
        snapshot = self._snapshot
        if snapshot is None:
            return OpenFile(0, 0, 0)
        written_bytes = snapshot.writer.size_bytes
        rest_bytes = max(snapshot.size_bytes - written_bytes, 0)
        return OpenFile(1, written_bytes, rest_bytes + len(self._statistics()))

    def write(self, records: Slice) -> Ending | None:
        """Take records into memory; the oldest ones there go for them."""
        at, count = 0, len(records.timestamps_ns)
        while at < count:
            sizes = records.vectors[at:, 1]
            try:
                self._make_room(int(sizes[0]))
                part = records.part(at, at + self._memory.fitting(sizes))
                self._memory.write(part, time.monotonic())
            except WriteError as error:
                self._note_written(records.part(at, at + error.records_written))
                text = f"there is no memory for more packets: {error}: ask for a smaller recorder"
                return Ending(EndReason.FAILED, Failure(code=FailureCode.RESOURCES, text=text))
            self._note_written(part)
            if self._snapshot is not None and self._snapshot.first_ns is None:
                self._snapshot.first_ns = int(records.timestamps_ns[at])
            at += len(part.timestamps_ns)
        return None

    def _make_room(self, size_bytes: int) -> None:
        """Make room for so many bytes: the oldest packets go.

        Raises:
            WriteError: there is no memory.
        """
        now_s = time.monotonic()
        if not self._memory.has_room(size_bytes, now_s):
            self._pass_on()
            self._memory.begin_segment(now_s, self._drops())
            if self._snapshot is not None:
                self._snapshot.sent = 0, 0
            if self._snapshot is not None and self._memory.total_bytes > _MOST_MEMORY * self._wish.memory_bytes:
                text = (
                    "the disk takes less than the interfaces bring: what is in the snapshot is whole, and its end is "
                    "missing: record less, or write to a faster disk"
                )
                self._give_up(FailureCode.RESOURCES, text)

    def describe(self, interface: CapturedInterface, statistics_bytes: int) -> None:
        """Describe an interface that comes during a snapshot; earlier ones are in the header of the next one."""
        snapshot = self._snapshot
        if snapshot is None or snapshot.is_ending:
            return
        self._pass_on()
        if self._may_take(snapshot, len(interface.description)):
            snapshot.writer.append(interface.description)

    # Snapshots ----------------------------------------------------------------------------------------------------

    def order(self, order: Rotate | SnapshotOrder) -> Ending | None:
        """Begin with a snapshot that was asked for; it is answered when it is complete, or cannot be."""
        failure: Failure | None
        if isinstance(order, Rotate):
            text = "the capture is a recorder, which has no file to switch: take a snapshot"
            failure = Failure(code=FailureCode.INVALID, text=text)
        elif self._snapshot is not None:
            text = f"a snapshot is being written already ({quoted(self._snapshot.name)}): ask again when it is complete"
            failure = Failure(code=FailureCode.RESOURCES, text=text)
        else:
            failure = self._begin_snapshot(order.after_s, order)
        if failure is not None:
            self._report.answer(Answer(number=order.number, failure=failure))
        return None

    def _on_trigger(self, trigger: Trigger | None) -> None:
        if trigger is None or self._snapshot is not None:
            return
        self._report.recording(Triggered(reason=trigger.reason, interface=trigger.interface))
        failure = self._begin_snapshot(self._wish.after_s, None)
        if failure is not None:
            self._report.recording(SnapshotFailed(failure=failure))
            self._be_quiet(self._wish.effective_cool_down_s)

    def _be_quiet(self, quiet_s: float) -> None:
        if self._triggers is not None:
            now_s = time.monotonic()
            self._triggers.ignore(now_s)
            self._listen_s = now_s + quiet_s

    def _begin_snapshot(self, after_s: float, order: SnapshotOrder | None) -> Failure | None:
        """Open a file and pass on what it begins with; return why not, if it cannot be."""
        now_s = time.monotonic()
        start_s = now_s - self._kept_s
        parts = list(self._memory.since(start_s))
        header = self._header()
        size_bytes = len(header) + sum(part.end - part.start for part in parts)
        failure = self._make_room_for(size_bytes, more_files=1)
        if failure is not None:
            return failure
        number, opened = self._number + 1, time.localtime()
        name = name_of(self._destination, number, opened)
        try:
            writer = SnapshotWriter(lambda: self._create(number, opened), header, self._thread)
        except RuntimeError:
            text = "this user has as many processes and threads as it may have: end some, and ask again"
            return Failure(code=FailureCode.RESOURCES, text=text)
        self.opened_total += 1
        drops_before = parts[0].segment.drops_before if parts else self._drops()
        current = self._memory.current
        snapshot = _Snapshot(
            name=name,
            order=order,
            writer=writer,
            look_s=now_s + after_s,
            drops_before=drops_before,
            sent=(current.size_bytes, current.packets) if current is not None else (0, 0),
            size_bytes=size_bytes,
            first_ns=parts[0].first_ns if parts else None,
        )
        self._snapshot = snapshot
        for part in parts:
            self._append(snapshot, part)
        if self._triggers is not None:
            self._triggers.ignore(now_s)
        self._listen_s = inf
        return None

    def _create(self, number: int, opened: time.struct_time) -> SaveFile:
        return create_ring_file(self._directory_fd, self._destination, number, opened)

    def _make_room_for(self, size_bytes: int, *, more_files: int = 0) -> Failure | None:
        """Delete what must go for so much more of a snapshot; return why it may not be written, if it may not."""
        if not self._complete.is_limited:
            return None
        more_bytes = size_bytes + (len(self._statistics()) if more_files else 0)
        try:
            obstacle = self._complete.make_room(more_bytes=more_bytes, more_files=more_files)
        except (DestinationError, OSError) as error:
            return _failure(error)
        return None if obstacle is None else self._no_room(obstacle, size_bytes)

    def _no_room(self, obstacle: DeletionReason, size_bytes: int) -> Failure:
        kept = self._wish.kept or Conditions()
        if obstacle == DeletionReason.FREE_SPACE:
            text = f"less than the {kept.free_kb or 0:,} kB that shall stay free would be free: make room there"
            return Failure(code=FailureCode.DISK, text=text)
        if obstacle == DeletionReason.TOTAL:
            text = f"the {kept.total_kb or 0:,} kB for all snapshots are too few for this one: let it keep less"
            return Failure(code=FailureCode.RESOURCES, text=text)
        text = (
            f"policy allows {self._max_disk_bytes:,} bytes on disk, of which earlier snapshots leave "
            f"{self._complete.policy_bytes_left:,}, and this one takes {size_bytes:,}: delete some and start the "
            "recorder anew, or let it keep less"
        )
        return Failure(code=FailureCode.RESOURCES, text=text)

    def _append(self, snapshot: _Snapshot, part: Part) -> None:
        self._memory.pin(part)
        snapshot.writer.append(part)

    def _may_take(self, snapshot: _Snapshot, size_bytes: int) -> bool:
        """Count so many bytes more to a snapshot; one that would become too large is given up."""
        failure = self._make_room_for(size_bytes)
        if failure is None:
            snapshot.size_bytes += size_bytes
            return True
        self._give_up(failure.code, f"{failure.text}; what is in it is whole")
        return False

    def _pass_on(self) -> None:
        """Pass on what has come to the current segment since."""
        snapshot = self._snapshot
        if snapshot is None or snapshot.is_ending:
            return
        part = self._memory.rest(*snapshot.sent)
        if part is not None and self._may_take(snapshot, part.end - part.start):
            snapshot.sent = part.end, part.packets_before + part.packets
            self._append(snapshot, part)

    def _end_if_over(self) -> None:
        """End the snapshot once all packets of its window have been written to memory."""
        snapshot, now_s = self._snapshot, time.monotonic()
        if snapshot is None or snapshot.is_ending or now_s < snapshot.look_s:
            return
        snapshot.look_s = now_s + _LOOK_S
        now_ns = time.time_ns()
        # The clock may have been set back.
        snapshot.over_ns = now_ns if snapshot.over_ns is None else min(snapshot.over_ns, now_ns)
        if self._has_written_until(snapshot.over_ns):
            self._end(snapshot)

    def _end(self, snapshot: _Snapshot) -> None:
        self._pass_on()
        if not snapshot.is_ending:
            snapshot.is_ending = True
            snapshot.writer.end(self._statistics())

    def _give_up(self, code: FailureCode, text: str) -> None:
        """End a snapshot where it is, and say why."""
        snapshot = self._snapshot
        if snapshot is None or snapshot.failure is not None:
            return
        snapshot.failure = Failure(code=code, text=text)
        snapshot.is_ending = True
        snapshot.writer.give_up(self._statistics())
        for part in snapshot.writer.take_waiting():
            self._memory.unpin(part)

    def _take_news(self) -> None:
        """Take note of what the thread has done since."""
        snapshot = self._snapshot
        if snapshot is None:
            return
        writer = snapshot.writer
        is_over = writer.is_over  # before all else: nothing comes after it
        self._note_opened(snapshot)
        for part in writer.take_copied():
            self._memory.unpin(part)
            self._count(snapshot, part.packets, part.last_ns)
        if writer.error is not None:
            self._give_up(*_explain(writer.error))
        if is_over:
            self._conclude(snapshot)

    def _note_opened(self, snapshot: _Snapshot) -> None:
        opened = snapshot.writer.take_opened()
        if opened is not None:
            snapshot.file = opened
            snapshot.name = opened.name
            self._number = number_of(self._destination.file_name, opened.name) or 0
            if self._index is not None:
                with contextlib.suppress(WriteError):  # no room for it: the snapshot itself says so
                    self._index.opened(opened.name, opened.inode)
            self._report.file_opened(opened)

    def _count(self, snapshot: _Snapshot, packets: int, last_ns: int) -> None:
        if packets:
            snapshot.packets += packets
            snapshot.last_ns = last_ns if snapshot.last_ns is None else max(snapshot.last_ns, last_ns)
            self._report.count(packets)

    def _conclude(self, snapshot: _Snapshot) -> None:
        """Tell of a snapshot that is closed, and of what is missing in it."""
        writer = snapshot.writer
        for part in writer.take_waiting():
            self._memory.unpin(part)
        if writer.cut is not None:
            self._memory.unpin(writer.cut)
            self._count(snapshot, writer.cut_packets, writer.cut_last_ns)
        if not writer.is_whole and snapshot.failure is None:
            text = "the snapshot could not be ended: what was reported of it is readable: see the daemon's log"
            snapshot.failure = Failure(code=FailureCode.DISK, text=text)
        if snapshot.file is not None:
            self._complete_snapshot(snapshot, snapshot.file)
        if snapshot.order is not None:
            self._report.answer(Answer(number=snapshot.order.number, failure=snapshot.failure, file_name=snapshot.name))
        elif snapshot.failure is not None:
            self._report.recording(SnapshotFailed(failure=snapshot.failure))
        self._snapshot = None
        self._be_quiet(self._wish.effective_cool_down_s if snapshot.order is None else _QUIET_S)

    def _complete_snapshot(self, snapshot: _Snapshot, file: SaveFile) -> None:
        """Announce a file that is closed, and keep it as long as it may be."""
        before = snapshot.drops_before
        drops = {name: total - before.get(name, 0) for name, total in self._drops().items()}
        first_ns = snapshot.first_ns if snapshot.packets else None
        with contextlib.suppress(WriteError):  # no room in the index: the snapshot itself is whole
            self._complete.add(file, Contents(snapshot.packets, first_ns, snapshot.last_ns, drops), time.time_ns())

    def close(self, drops_total: Mapping[str, int]) -> Ending | None:
        """End the snapshot that is being written with what there is, and wait until it is complete."""
        snapshot = self._snapshot
        if snapshot is not None:
            self._end(snapshot)
            if not snapshot.writer.join(_END_S):
                text = "the disk was too slow to complete the snapshot before the capture's end"
                self._give_up(FailureCode.DISK, text)
                snapshot.writer.join(_GIVE_UP_S)
            self._take_news()
        if self._lock is not None:
            self._lock.remove()
        return None


def _failure(error: DestinationError | OSError) -> Failure:
    """Say why no room is made."""
    if isinstance(error, DestinationError):
        return Failure(code=FailureCode.DESTINATION, text=str(error))
    return Failure(code=FailureCode.DISK, text=f"the disk of the snapshots cannot be looked at: {error.strerror}")


def _explain(error: DestinationError | WriteError) -> tuple[FailureCode, str]:
    """Say why a snapshot is not what it should be."""
    if isinstance(error, DestinationError):
        return FailureCode.DESTINATION, f"the snapshot cannot be opened: {error}"
    text = f"the snapshot cannot be written any further: {error}; what counts as written is in it: {error.advice}"
    return FailureCode.DISK, text
