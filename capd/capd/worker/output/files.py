"""The files of one capture, one after another: each complete in itself.

A file begins with the section and all interfaces and ends with statistics of each interface. Of a ring, the oldest
files go just before a limit would be passed (``retention``), so that there is never more than asked for. Only files
that this capture made are ever deleted, or those of its user that the ring's index knows from when it ran before.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from math import inf
from typing import NamedTuple

from capd.worker.output.held import HeldFiles
from capd.worker.output.recycling import reuse
from capd.worker.output.report import Report
from capd.worker.output.retention import OVERHEAD_BLOCKS, Limits, Usage, limits_of, reason_to_delete, room
from capd.worker.output.ring_index import RingIndex
from capd.worker.output.rotation import Fill, fitting, time_left
from capd.worker.output.savefile import (
    KeptFile,
    SaveFile,
    WriteError,
    bytes_left,
    create_file,
    create_ring_file,
    is_own,
)
from capd.worker.packets.arrays import U64
from capd.worker.packets.merge import Slice
from capd_protocol.formats.ring_index import FileWasClosed, number_of, ring_file_name
from capd_protocol.messages import Conditions, DeletionReason, Destination, FileClosed, FileDeleted

#: How often free space is looked at while nothing is written. Chosen: others may fill a disk within seconds.
_LOOK_S = 1.0
#: How often ages are, at least: the wall clock may be set.
_LOOK_AT_AGES_S = 60.0
#: How long it may take until a deleted file's room is free. Chosen: several times what file systems take that free it
#: behind our back, and the kernel's ring holds what comes meanwhile.
_FREED_S = 0.05
_FREED_POLL_S = 0.002
#: Where room is needed, readers may keep so many deleted files, at the cost of as many further ones; but only one for
#: each eight that the ring still has. Chosen: the one that a slow reader is at, and another reader's.
_LEFT_TO_READERS = 2
_FILES_FOR_ONE_LEFT = 8
_NS = 1_000_000_000


class _Complete(NamedTuple):
    """A file of the ring that is closed."""

    file: KeptFile
    #: When its last packet came, or when it was closed, if it has none.
    ended_ns: int


class CaptureFiles:
    """The current file and those before it. ``open_next`` comes first; nothing is open after ``close``."""

    def __init__(
        self,
        *,
        directory_fd: int,
        destination: Destination,
        ring: Conditions | None,
        header: Callable[[], bytes],
        statistics: Callable[[], bytes],
        report: Report,
        max_disk_bytes: int | None = None,
        index: RingIndex | None = None,
        continues: bool = False,
        reuses: bool = False,
    ) -> None:
        """Nothing is opened yet.

        Args:
            directory_fd: where the files are.
            destination: what they are called.
            ring: when to switch, what to keep; None for a single file.
            header: returns what a file begins with.
            statistics: returns what a file ends with, counted when it is called.
            report: is told of files and packets.
            max_disk_bytes: what all files of the destination may take, with those that earlier captures left.
            index: of the ring, if it has one; its lock is held until the process ends.
            continues: whether the files that the index knows are of this ring: the oldest are deleted first,
                numbers go on.
            reuses: whether a new file may be written over the oldest one, where nobody has that open.
        """
        self._directory_fd = directory_fd
        self._destination = destination
        self._ring = ring
        self._header = header
        self._statistics = statistics
        self._report = report
        self._index = index
        self._limits = limits_of(ring, max_disk_bytes)
        self._held = HeldFiles() if self._limits.free_bytes is not None else None
        self._complete: deque[_Complete] = deque()
        self._complete_bytes = 0
        #: Whether a new file may overwrite the oldest one: not, where it would count as more bytes than are in it.
        self._reuses = reuses and self._limits == Limits(files=self._limits.files, age_ns=self._limits.age_ns)
        self._spare: KeptFile | None = None
        self._left_bytes = 0
        self._number = 0
        if index is not None:
            found = self._indexed(index)
            if continues:
                self._complete.extend(found)
                self._complete_bytes = sum(each.file.size_bytes for each in found)
            else:
                self._left_bytes = sum(each.file.size_bytes for each in found)
            self._number = self._number_of(index.last.name) if index.last is not None else 0
        elif ring is not None and max_disk_bytes is not None:
            self._left_bytes = bytes_left(directory_fd, destination.file_name)
        self._statistics_bytes = 0
        self._file: SaveFile | None = None
        self._packets = 0
        self._first_ns: int | None = None
        self._last_ns: int | None = None
        self._drops_before: dict[str, int] = {}
        self._is_limited = self._limits != Limits()
        #: May be written before the next look at the limits; None: as much as there is.
        self._room_bytes: int | None = 0 if self._is_limited else None
        #: When ``keep_limits`` is to be called, by the monotonic clock.
        self.next_look_s = inf
        self.opened_total = 0
        self._opened_s = 0.0
        self._opened_at_s = 0.0

    def _indexed(self, index: RingIndex) -> list[_Complete]:
        """Return the files of earlier runs that are still there, and note which are not, or were never closed."""
        found: list[_Complete] = []
        for file in index.files:
            try:
                status = os.stat(file.name, dir_fd=self._directory_fd, follow_symlinks=False)
            except OSError:
                status = None
            if status is None or not (is_own(status) and file.is_file(status.st_ino, status.st_dev, index.device)):
                index.deleted(file.name, None, file.closed.size_bytes if file.closed is not None else 0)
                continue
            closed = file.closed
            if closed is None:
                closed = FileWasClosed(
                    name=file.name,
                    closed_ns=status.st_mtime_ns,
                    size_bytes=status.st_size,
                    packets=None,
                    first_timestamp_ns=None,
                    last_timestamp_ns=None,
                    drops={},
                )
                with contextlib.suppress(WriteError):  # no room for it: the next one will find it as this one did
                    index.closed(closed)
            kept = KeptFile(self._directory_fd, file.name, status.st_size, status)
            ended_ns = closed.closed_ns if closed.last_timestamp_ns is None else closed.last_timestamp_ns
            found.append(_Complete(kept, ended_ns))
        return found

    def _number_of(self, name: str) -> int:
        return number_of(self._destination.file_name, name) or 0

    @property
    def fill(self) -> Fill:
        """How full the current file is."""
        return Fill(self._file.size_bytes if self._file else 0, self._packets)

    @property
    def disk_bytes(self) -> int:
        """What the files of this ring, or the one file, take now."""
        return self._complete_bytes + (self._file.disk_bytes if self._file is not None else 0)

    def time_left_s(self) -> float | None:
        """Return in how many seconds the current file's time is up; 0 if it is, None if it never will be."""
        if self._ring is None:
            return None
        open_for_s = time.monotonic() - self._opened_s
        return time_left(self._ring, open_for_s=open_for_s, opened_at_s=self._opened_at_s, now_s=time.time())

    # Limits -------------------------------------------------------------------------------------------------------

    def make_room(self, size_bytes: int) -> bool:
        """Delete the oldest complete files of the ring until so many bytes may be written; say whether they may.

        Raises:
            DestinationError: one cannot be deleted.
        """
        if self._room_bytes is None or size_bytes <= self._room_bytes:
            return True
        return self._look(more_bytes=size_bytes) is None

    def make_room_for_file(self) -> DeletionReason | None:
        """Make room for a further file without packets; return which limit stands in the way, if one does.

        Raises:
            DestinationError: an old file cannot be deleted.
        """
        if not self._is_limited:
            return None
        return self._look(more_bytes=len(self._header()) + self._end_bytes(), more_files=1)

    def keep_limits(self) -> None:
        """Delete what is too old by now, or stands where free space should be; to be called at ``next_look_s``.

        Raises:
            DestinationError: a file cannot be deleted.
        """
        self._look()

    def fitting(self, sizes_bytes: U64) -> int:
        """Return how many of these packets may be written before ``make_room`` is asked again."""
        room_bytes = self._room_bytes
        return len(sizes_bytes) if room_bytes is None else fitting(room_bytes, sizes_bytes)

    def _look(self, *, more_bytes: int = 0, more_files: int = 0) -> DeletionReason | None:
        """Hold to the limits; return which of them stands in the way of so much more, if one does."""
        while True:
            usage = self._usage()
            oldest_age_ns = time.time_ns() - self._complete[0].ended_ns if self._complete else None
            reason = reason_to_delete(
                usage, self._limits, oldest_age_ns=oldest_age_ns, more_bytes=more_bytes, more_files=more_files
            )
            if reason == DeletionReason.FREE_SPACE and self._free_held():
                continue
            if reason is None or oldest_age_ns is None:
                break
            is_freed = self._delete_oldest(reason)
            if reason == DeletionReason.FREE_SPACE and is_freed:
                self._wait_until_freed(usage)
        self._room_bytes = room(usage, self._limits)
        self._set_next_look()
        return reason

    def _usage(self) -> Usage:
        set_aside_bytes = self._end_bytes() if self._file is not None else 0
        index_bytes = self._index.size_bytes if self._index is not None else 0
        free_bytes = None
        if self._limits.free_bytes is not None:
            there = os.fstatvfs(self._directory_fd)
            # Not the index as it is, which is on the disk already.
            blocks = there.f_bavail - OVERHEAD_BLOCKS
            free_bytes = blocks * there.f_frsize - set_aside_bytes - index_bytes
        open_bytes = self._file.size_bytes if self._file is not None else 0
        return Usage(
            files=len(self._complete) + (self._file is not None),
            bytes=self._complete_bytes + open_bytes + set_aside_bytes + index_bytes,
            left_bytes=self._left_bytes,
            free_bytes=free_bytes,
        )

    def _end_bytes(self) -> int:
        """Return the size of what a file ends with: the same until there is one more interface."""
        if not self._statistics_bytes:
            self._statistics_bytes = len(self._statistics())
        return self._statistics_bytes

    def _free_held(self) -> bool:
        """Free a deleted file's room that a reader has kept; say whether there was any."""
        left = min(_LEFT_TO_READERS, len(self._complete) // _FILES_FOR_ONE_LEFT)
        return self._held is not None and self._held.free(but=left)

    def _wait_until_freed(self, before: Usage) -> None:
        """Give file systems the time to free what was deleted, before more has to go for it."""
        deadline_s = time.monotonic() + _FREED_S
        while time.monotonic() < deadline_s:
            now = self._usage()
            if now.free_bytes is None or before.free_bytes is None:
                return
            if now.free_bytes - before.free_bytes >= (before.bytes - now.bytes) // 2:
                return
            time.sleep(_FREED_POLL_S)

    def _set_next_look(self) -> None:
        now_s = time.monotonic()
        self.next_look_s = now_s + _LOOK_S if self._limits.free_bytes is not None else inf
        if self._limits.age_ns is not None and self._complete:
            left_s = (self._complete[0].ended_ns + self._limits.age_ns - time.time_ns()) / _NS
            self.next_look_s = min(self.next_look_s, now_s + min(left_s, _LOOK_AT_AGES_S))

    def _delete_oldest(self, reason: DeletionReason) -> bool:
        """Delete the oldest complete file; say whether no reader keeps its room."""
        file = self._complete.popleft().file
        self._complete_bytes -= file.size_bytes
        is_freed = True
        if self._reuses and reason == DeletionReason.FILES:
            if self._spare is not None:  # a ring that goes on may have several too many
                self._spare.remove()
            self._spare = file  # makes room for the next one, which is opened now
        elif self._held is not None:
            is_freed = self._held.delete(file)
        else:
            file.remove()
        if self._index is not None:
            self._index.deleted(file.name, reason, file.size_bytes)
        self._report.file_deleted(FileDeleted(name=file.name, reason=reason, size_bytes=file.size_bytes))
        return is_freed

    # Files --------------------------------------------------------------------------------------------------------

    def open_next(self) -> None:
        """Open the first or the next file and announce it; ``make_room_for_file`` comes before.

        Raises:
            DestinationError: it cannot be created.
            WriteError: its header, or the index, cannot be written. It is deleted again; one that was there before the
                capture is left, empty.
        """
        file = self._open()
        try:
            # Before there is anything in it: what is not in the index is not of the ring.
            if self._index is not None:
                self._index.opened(file.name, file.inode)
            file.write(self._header())
        except WriteError:
            file.close()
            if file.is_new:
                file.remove()
            if self._index is not None:
                self._index.deleted(file.name, None, 0)
            raise
        self._file = file
        self._packets, self._first_ns, self._last_ns = 0, None, None
        self._look_again()
        self.opened_total += 1
        self._opened_s, self._opened_at_s = time.monotonic(), time.time()
        self._report.file_opened(file)

    def switch(self, drops_total: Mapping[str, int]) -> DeletionReason | None:
        """Close the current file and open the next; return which limit stands in the way, if one does.

        Raises:
            DestinationError: it cannot be created, or an old one cannot be deleted.
            WriteError: the end of the one or the beginning of the other cannot be written.
        """
        self._close_file(drops_total)
        obstacle = self.make_room_for_file()
        if obstacle is None:
            self.open_next()
        return obstacle

    def _open(self) -> SaveFile:
        name, group_access = self._destination.file_name, self._destination.group_access
        if self._ring is None:
            return create_file(
                self._directory_fd, name, group_access=group_access, exclusive=self._destination.exclusive
            )
        number, opened = self._number + 1, time.localtime()
        spare, self._spare = self._spare, None
        file = None
        if spare is not None:
            file = reuse(spare, ring_file_name(name, number, opened), group_access=group_access)
            if file is None:
                spare.remove()
        # What others have put under a ring's names stays as it is.
        file = file or create_ring_file(self._directory_fd, name, number, opened, group_access=group_access)
        self._number = self._number_of(file.name)
        return file

    def give_way(self) -> None:
        """Let those have the current file who wait to open it."""
        if self._file is not None:
            self._file.give_way()

    def _look_again(self) -> None:
        """Look at the limits before anything more is written."""
        self._room_bytes = 0 if self._is_limited else None

    def add_block(self, block: bytes) -> None:
        """Append a block that is no packet, such as that of a further interface, to the current file.

        Raises:
            WriteError: it is not in it.
        """
        if self._file is not None:
            self._file.write(block)
            self._look_again()
        self._statistics_bytes = 0

    def write(self, records: Slice) -> None:
        """Append records, at least one, to the current file.

        Raises:
            WriteError: not all of them are in it.
        """
        if self._file is None:
            raise AssertionError("no file is open")
        written, size_bytes = len(records.timestamps_ns), self._file.size_bytes
        try:
            self._file.write_records(records.vectors)
        except WriteError as error:
            written = error.records_written
            raise
        finally:
            if self._room_bytes is not None:
                self._room_bytes -= self._file.size_bytes - size_bytes
            self._note(records, written)

    def _note(self, records: Slice, written: int) -> None:
        if not written:
            return
        earliest, latest = int(records.timestamps_ns[0]), int(records.timestamps_ns[written - 1])
        self._first_ns = earliest if self._first_ns is None else min(self._first_ns, earliest)
        self._last_ns = latest if self._last_ns is None else max(self._last_ns, latest)
        self._packets += written
        self._report.count(written)

    def close(self, drops_total: Mapping[str, int]) -> None:
        """End the current file, if one is open, and write no more.

        Args:
            drops_total: dropped since the capture began, by interface.

        Raises:
            WriteError: the statistics are not in the file, or it is not in the index; it is closed, and whole without
                them.
        """
        try:
            self._close_file(drops_total)
        finally:
            if self._held is not None:
                self._held.close()

    def _close_file(self, drops_total: Mapping[str, int]) -> None:
        """End the current file with its statistics, close it, and announce that it is complete."""
        if self._file is None:
            return
        file, self._file = self._file, None
        drops = {name: total - self._drops_before.get(name, 0) for name, total in drops_total.items()}
        self._drops_before = dict(drops_total)
        closed_ns = time.time_ns()
        try:
            file.write(self._statistics())
        finally:
            file.close()
            self._complete.append(_Complete(file, closed_ns if self._last_ns is None else self._last_ns))
            self._complete_bytes += file.size_bytes
            self._set_next_look()
            self._report.file_closed(
                FileClosed(
                    name=file.name,
                    packets=self._packets,
                    size_bytes=file.size_bytes,
                    first_timestamp_ns=self._first_ns,
                    last_timestamp_ns=self._last_ns,
                    drops=sum(drops.values()),
                )
            )
            if self._index is not None:
                self._index.closed(
                    FileWasClosed(
                        name=file.name,
                        closed_ns=closed_ns,
                        size_bytes=file.size_bytes,
                        packets=self._packets,
                        first_timestamp_ns=self._first_ns,
                        last_timestamp_ns=self._last_ns,
                        drops=drops,
                    )
                )
            self._packets = 0

    def abandon(self) -> None:
        """Note that the first file could not be opened: the capture never began."""
        if self._index is not None:
            self._index.abandon()
