"""The sink of a capture into files: when the next one is due, and what ends the capture."""

import contextlib
import select
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from math import inf

from capd.filters.compiler import CaptureFailed
from capd.launch import Answer, Launch, Rotate, Snapshot
from capd.worker.output.compression.compressor import Compressor
from capd.worker.output.files import CaptureFiles
from capd.worker.output.recycling import Openers
from capd.worker.output.report import Report
from capd.worker.output.rotation import is_full, room_for
from capd.worker.output.savefile import DestinationError, WriteError, failure_of
from capd.worker.output.sink import Change, Ending, SinkFailed
from capd.worker.packets.merge import Slice
from capd.worker.sources.source import CapturedInterface, PacketSource
from capd_protocol.messages import Conditions, DeletionReason, EndReason, Failure, FailureCode

#: How output fails: with the system's own error where nothing else is made of it, as of a look at a broken disk.
_FAILURES = (DestinationError, WriteError, OSError)


class FileSink:
    """A single file, or a ring (``sink.Sink``)."""

    def __init__(
        self,
        files: CaptureFiles,
        launch: Launch,
        report: Report,
        openers: Openers,
        compressor: Compressor | None = None,
        *,
        drops: Callable[[], Mapping[str, int]],
    ) -> None:
        """Go on with files of which the first is open.

        Args:
            files: these.
            launch: when to switch, and when to end.
            report: answers orders.
            openers: reports that somebody waits to open the current file.
            compressor: compresses the files, if they are to be.
            drops: returns what was dropped since the capture began, by interface.
        """
        self._files = files
        self._report = report
        self._openers = openers
        self._compressor = compressor
        self._drops = drops
        self._autostop = launch.autostop
        self._is_ring = launch.ring is not None
        #: Of one file.
        self._conditions = launch.ring or Conditions(filesize_kb=launch.autostop.filesize_kb)
        self._written_total = 0
        self._interval_s = launch.update_interval_s

    @property
    def deadline_s(self) -> float:
        """When a file's time is up, or an old one's, or that of records that wait to be compressed."""
        left_s = self._files.time_left_s()
        return min(
            self._files.next_look_s,
            inf if left_s is None else time.monotonic() + left_s,
            self._files.waits_since_s + self._interval_s,
        )

    @property
    def size_bytes(self) -> int:
        """Size of the current file."""
        return self._files.file_bytes

    @property
    def disk_bytes(self) -> int:
        """What all files take."""
        return self._files.disk_bytes

    def begin(
        self,
        epoll: select.epoll,
        urgent: select.epoll,
        sources: Sequence[PacketSource],
        has_written_until: Callable[[int], bool],
        note_written: Callable[[Slice], None],
    ) -> None:
        """Take part in the loop: listen to those who wait to open the current file."""
        self._files.note_saved = note_written
        for each in (epoll, urgent):
            each.register(self._openers.socket, select.EPOLLIN)
        if self._compressor is not None:
            epoll.register(self._compressor.told_fd, select.EPOLLIN)

    def write(self, records: Slice) -> Ending | None:
        """Write records, switching files exactly where a condition is met."""
        at, count = 0, len(records.timestamps_ns)
        while at < count:
            sizes = records.vectors[at:, 1]
            try:
                obstacle = self._files.make_room(int(sizes[0]))
                if obstacle is not None:
                    ending = self._give_up_current(obstacle, int(sizes[0]))
                    if ending is not None:
                        return ending
                    continue
                room = min(room_for(self._files.fill, self._conditions, sizes), self._files.fitting(sizes))
                if self._autostop.packets is not None:
                    room = min(room, self._autostop.packets - self._written_total)
                part = records.part(at, at + room)
                self._files.write(part)
            except _FAILURES as error:
                return _ending(error)
            at += len(part.timestamps_ns)
            self._written_total += len(part.timestamps_ns)
            ending = self._look_at_limits()
            if ending is not None:
                return ending
        return None

    def _give_up_current(self, obstacle: DeletionReason, size_bytes: int) -> Ending | None:
        """Where others have taken the room, go on in a new file, so that the current one can go; or end."""
        can_go_on = obstacle == DeletionReason.FREE_SPACE and not self._is_last
        if can_go_on and self._files.could_go_on_without_current(size_bytes):
            return self._switch()
        return Ending(EndReason.DISK_LIMIT)

    def _look_at_limits(self) -> Ending | None:
        if self._autostop.packets is not None and self._written_total >= self._autostop.packets:
            return Ending(EndReason.PACKETS)
        reason = is_full(self._files.fill, self._conditions)
        if reason is None:
            return None
        return self._switch() if self._is_ring else Ending(reason)

    def _switch(self) -> Ending | None:
        """Close the current file and open the next, or end where that would be one too many."""
        if self._is_last:
            return Ending(EndReason.FILES)
        try:
            obstacle = self._files.switch(self._drops())
        except _FAILURES as error:
            return _ending(error)
        return None if obstacle is None else Ending(EndReason.DISK_LIMIT)

    @property
    def _is_last(self) -> bool:
        return self._autostop.files is not None and self._files.opened_total >= self._autostop.files

    def describe(self, interface: CapturedInterface, statistics_bytes: int) -> None:
        """Append its block to the current file.

        Raises:
            CaptureFailed: there is no room for it.
            SinkFailed: it is not in it.
        """
        with _failing():
            if self._files.make_room(len(interface.description) + statistics_bytes) is not None:
                text = f"the limits of bytes on disk leave no room to describe {interface.name} in the file"
                raise CaptureFailed(Failure(code=FailureCode.RESOURCES, text=text, interface=interface.name))
            self._files.add_block(interface.description)

    def on_time(self, now_s: float) -> Ending | None:
        """Switch where a file's time is up; delete what is too old, or stands where space should be free."""
        if now_s >= self._files.waits_since_s + self._interval_s:
            self._files.flush()
        ending = self._switch() if self._files.time_left_s() == 0 else None
        if ending is None and now_s >= self._files.next_look_s:
            try:
                self._files.keep_limits()
            except _FAILURES as error:
                return _ending(error)
        return ending

    def on_event(self, descriptor: int, event: int) -> bool:
        """Note what is in the file; let those have it who wait to open it.

        Raises:
            SinkFailed: the file cannot be written any more.
        """
        if self._compressor is not None and descriptor == self._compressor.told_fd:
            self._compressor.clear()
            with _failing():
                self._files.check()
            return True
        if descriptor != self._openers.socket.fileno():
            return False
        self._openers.clear()
        with _failing():
            self._files.give_way()
        return True

    def order(self, order: Rotate | Snapshot) -> Ending | None:
        """Switch to the next file of a ring."""
        if isinstance(order, Snapshot):
            text = "the capture is no recorder: its packets are in its files"
        elif not self._is_ring:
            text = "the capture has a single file, and no next one: only a ring is rotated"
        elif self._is_last:
            text = f"this is the last of the {self._autostop.files} files of the capture: stop it instead"
        else:
            ending = self._switch()
            if ending is None:
                self._report.answer(Answer(number=order.number))
            return ending
        self._report.answer(Answer(number=order.number, failure=Failure(code=FailureCode.INVALID, text=text)))
        return None

    def source_changed(self, source: PacketSource, change: Change) -> None:
        """Nothing: files take what comes."""

    def save(self, *, wait: bool) -> bool:
        """Have written what waits.

        Raises:
            SinkFailed: the file takes nothing more.
        """
        with _failing():
            if wait:
                self._files.settle()
            else:
                self._files.flush()
        return self._files.are_saved

    def close(self, drops_total: Mapping[str, int]) -> Ending | None:
        """End the current file with its statistics."""
        try:
            self._files.close(drops_total)
        except _FAILURES as error:
            return _ending(error)
        return None


@contextlib.contextmanager
def _failing() -> Generator[None, None, None]:
    """Have what fails in the block end the capture.

    Raises:
        SinkFailed: something has failed.
    """
    try:
        yield
    except _FAILURES as error:
        raise SinkFailed(_ending(error)) from error


def _ending(error: DestinationError | WriteError | OSError) -> Ending:
    if isinstance(error, DestinationError):
        text = f"the next file cannot be opened: {error}"
        return Ending(EndReason.FAILED, failure_of(error, Failure(code=FailureCode.DESTINATION, text=text)))
    failed = WriteError(error) if isinstance(error, OSError) else error
    text = f"the capture file cannot be written any further: {failed}; what counts as written is in it: {failed.advice}"
    return Ending(EndReason.FAILED, Failure(code=FailureCode.DISK, text=text))
