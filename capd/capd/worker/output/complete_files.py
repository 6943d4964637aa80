"""The complete files of a ring, or of a flight recorder, and what may be written beside them.

The oldest files go just before a limit would be passed (``retention``), so that there is never more than asked for.
Only files that this capture made are ever deleted, or those of its user that the ring's index knows from when it ran
before.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import NamedTuple

from capd.worker.output.held import HeldFiles, is_held
from capd.worker.output.report import Report
from capd.worker.output.retention import OVERHEAD_BLOCKS, Limits, Usage, limits_of, reason_to_delete, room
from capd.worker.output.ring_index import RingIndex
from capd.worker.output.savefile import KeptFile, WriteError, files_left, is_own
from capd.worker.packets.whole import whole_of
from capd_protocol.batches.recognition import MAGIC_BYTES
from capd_protocol.formats.codecs import DamagedFrame, Decompressor
from capd_protocol.formats.compression import compression_of
from capd_protocol.formats.ring_index import FileWasClosed, number_of
from capd_protocol.messages import Conditions, DeletionReason, FileClosed, FileDeleted

#: How often free space is looked at while nothing is written. Chosen: others may fill a disk within seconds.
_LOOK_S = 1.0
#: How often ages are, at least: the wall clock may be set.
_LOOK_AT_AGES_S = 60.0
#: How long it may take until a deleted file's room is free. Chosen: several times what file systems take that free it
#: behind our back, and the kernel's ring holds what comes meanwhile.
_FREED_S = 0.05
#: And of the last one, without whose room the capture ends. Chosen: as long as a ring of packets lasts, mostly.
_LAST_FREED_S = 1.0
_FREED_POLL_S = 0.002
#: Where room is needed, readers may keep so many deleted files, at the cost of as many further ones; but only one for
#: each eight that the ring still has. Chosen: the one that a slow reader is at, and another reader's.
_LEFT_TO_READERS = 2
_FILES_FOR_ONE_LEFT = 8
#: A longer file whose writer was killed is left as it is. Chosen: meanwhile the capture begins, and what comes must fit
#: into its packet rings; so much takes a second, or three of small packets.
_LONGEST_WALK_BYTES = 1024**3
#: So it is read. Chosen: larger parts do not stay in the processor's cache.
_PART_BYTES = 1024 * 1024
_NS = 1_000_000_000


class OpenFile(NamedTuple):
    """The file that is being written, or that there is none.

    Attributes:
        files: 1 or 0.
        size_bytes: what is in it.
        reserved_bytes: what is still to be written to it, its end among that.
    """

    files: int
    size_bytes: int
    reserved_bytes: int


class Contents(NamedTuple):
    """What is in a file that is closed.

    Attributes:
        packets: how many.
        first_ns: when the earliest of them came; None: there is none.
        last_ns: when the latest did.
        drops: meanwhile, by interface.
    """

    packets: int
    first_ns: int | None
    last_ns: int | None
    drops: dict[str, int]


class _Complete(NamedTuple):
    """A file that is closed."""

    file: KeptFile
    #: When its last packet came, or when it was closed, if it has none.
    ended_ns: int


class _TooLong(Exception):
    """A file takes too long to look through."""


class CompleteFiles:
    """Those of one capture, oldest first, and the limits that they and the open one are held to."""

    def __init__(
        self,
        *,
        directory_fd: int,
        file_name: str,
        ring: Conditions | None,
        max_disk_bytes: int | None,
        open_file: Callable[[], OpenFile],
        report: Report,
        index: RingIndex | None = None,
        continues: bool = False,
        reuses: bool = False,
        keeps_all: bool = False,
    ) -> None:
        """Take in those of earlier runs.

        Args:
            directory_fd: where the files are.
            file_name: what they are named after.
            ring: what to keep; None for a single file.
            max_disk_bytes: what all files of the destination may take, with those that earlier captures left.
            open_file: returns what is being written.
            report: takes what is deleted.
            index: of the ring, if it has one.
            continues: whether the files that the index knows are of this ring: the oldest are deleted first,
                numbers go on.
            reuses: whether a new file may be written over the oldest one, where nobody has that open.
            keeps_all: nothing is deleted: what is beyond a limit is not written.
        """
        self._directory_fd = directory_fd
        self._open_file = open_file
        self._report = report
        self._index = index
        self._limits = limits_of(ring, max_disk_bytes)
        self._keeps_all = keeps_all
        self._held = HeldFiles() if self._limits.free_bytes is not None else None
        self._files: deque[_Complete] = deque()
        self.size_bytes = 0
        #: Whether a new file may overwrite the oldest one: not, where it would count as more bytes than are in it.
        self._reuses = reuses and self._limits == Limits(files=self._limits.files, age_ns=self._limits.age_ns)
        #: Makes room for the next one, which is opened now, and may be written over it.
        self.spare: KeptFile | None = None
        self._left_bytes = 0
        #: Of the file that was opened last, in an earlier run.
        self.last_number = 0
        if index is not None:
            found = self._indexed(index)
            if continues:
                self._files.extend(found)
                self.size_bytes = sum(each.file.size_bytes for each in found)
            else:
                self._left_bytes = sum(each.file.size_bytes for each in found)
            self.last_number = (number_of(file_name, index.last.name) or 0) if index.last is not None else 0
        elif ring is not None and max_disk_bytes is not None:
            self._left_bytes = sum(each.st_size for each in files_left(directory_fd, file_name).values())
        self.is_limited = self._limits != Limits()
        #: May be written before the next look at the limits; None: as much as there is.
        self.room_bytes: int | None = 0 if self.is_limited else None
        #: When ``keep_limits`` is to be called, by the monotonic clock.
        self.next_look_s = inf

    def _indexed(self, index: RingIndex) -> list[_Complete]:
        """Return the files of earlier runs that are still there, and note which are not; complete the others."""
        found: list[_Complete] = []
        for file in index.files:
            try:
                status = os.stat(file.name, dir_fd=self._directory_fd, follow_symlinks=False)
            except OSError:
                status = None
            if status is None or not (is_own(status) and file.is_file(status.st_ino, status.st_dev, index.device)):
                index.deleted(file.name, None, file.closed.size_bytes if file.closed is not None else 0)
                continue
            kept = KeptFile(self._directory_fd, file.name, status.st_size, status)
            closed = file.closed
            if closed is None:
                closed = _completed(kept, status)
                with contextlib.suppress(WriteError):  # no room for it: the next one will find it as this one did
                    index.closed(closed)
            ended_ns = closed.closed_ns if closed.last_timestamp_ns is None else closed.last_timestamp_ns
            found.append(_Complete(kept, ended_ns))
        return found

    def add(self, file: KeptFile, contents: Contents, closed_ns: int) -> None:
        """Take in a file that was closed, announce it, and note it in the index.

        Args:
            file: this one.
            contents: what is in it.
            closed_ns: when that was.

        Raises:
            WriteError: it is not in the index.
        """
        self._files.append(_Complete(file, closed_ns if contents.last_ns is None else contents.last_ns))
        self.size_bytes += file.size_bytes
        self._set_next_look()
        self._report.file_closed(
            FileClosed(
                name=file.name,
                packets=contents.packets,
                size_bytes=file.size_bytes,
                first_timestamp_ns=contents.first_ns,
                last_timestamp_ns=contents.last_ns,
                drops=sum(contents.drops.values()),
            )
        )
        if self._index is not None:
            self._index.closed(
                FileWasClosed(
                    name=file.name,
                    closed_ns=closed_ns,
                    size_bytes=file.size_bytes,
                    packets=contents.packets,
                    first_timestamp_ns=contents.first_ns,
                    last_timestamp_ns=contents.last_ns,
                    drops=contents.drops,
                )
            )

    def look_again(self) -> None:
        """Look at the limits before anything more is written."""
        self.room_bytes = 0 if self.is_limited else None

    def make_room(self, *, more_bytes: int = 0, more_files: int = 0) -> DeletionReason | None:
        """Delete the oldest files until so much more may be written; return which limit stands in the way, if one does.

        Raises:
            DestinationError: one cannot be deleted.
        """
        while True:
            usage = self._usage()
            oldest_age_ns = time.time_ns() - self._files[0].ended_ns if self._files else None
            reason = reason_to_delete(
                usage, self._limits, oldest_age_ns=oldest_age_ns, more_bytes=more_bytes, more_files=more_files
            )
            if reason == DeletionReason.FREE_SPACE and (freed_bytes := self._free_held()):
                self._wait_until_freed(usage, freed_bytes)
                continue
            if reason is None or oldest_age_ns is None or self._keeps_all:
                break
            freed_bytes = self._delete_oldest(reason)
            if reason == DeletionReason.FREE_SPACE and freed_bytes:
                self._wait_until_freed(usage, freed_bytes)
        self.room_bytes = room(usage, self._limits)
        self._set_next_look()
        return reason

    def keep_limits(self) -> None:
        """Delete what is too old by now, or stands where free space should be; to be called at ``next_look_s``.

        Raises:
            DestinationError: a file cannot be deleted.
        """
        self.make_room()

    def _usage(self) -> Usage:
        open_file = self._open_file()
        index_bytes = self._index.size_bytes if self._index is not None else 0
        free_bytes = None
        if self._limits.free_bytes is not None:
            there = os.fstatvfs(self._directory_fd)
            # Not the index as it is, which is on the disk already.
            blocks = there.f_bavail - OVERHEAD_BLOCKS
            free_bytes = blocks * there.f_frsize - open_file.reserved_bytes - index_bytes
        return Usage(
            files=len(self._files) + open_file.files,
            bytes=self.size_bytes + open_file.size_bytes + open_file.reserved_bytes + index_bytes,
            left_bytes=self._left_bytes,
            free_bytes=free_bytes,
        )

    @property
    def policy_bytes_left(self) -> int:
        """What policy leaves for further files."""
        return max((self._limits.policy_bytes or 0) - self._left_bytes - self.size_bytes, 0)

    def _free_held(self) -> int:
        """Free a deleted file's room that a reader has kept; return how many bytes it has, 0 where there is none."""
        left = min(_LEFT_TO_READERS, len(self._files) // _FILES_FOR_ONE_LEFT)
        return self._held.free(but=left) if self._held is not None else 0

    def _wait_until_freed(self, before: Usage, freed_bytes: int) -> None:
        """Give file systems the time to free so much, before more has to go for it."""
        deadline_s = time.monotonic() + (_FREED_S if self._files else _LAST_FREED_S)
        while time.monotonic() < deadline_s:
            now = self._usage()
            if now.free_bytes is None or before.free_bytes is None:
                return
            if now.free_bytes - before.free_bytes >= freed_bytes // 2:
                return
            time.sleep(_FREED_POLL_S)

    def _set_next_look(self) -> None:
        now_s = time.monotonic()
        self.next_look_s = now_s + _LOOK_S if self._limits.free_bytes is not None else inf
        if self._limits.age_ns is not None and self._files:
            left_s = (self._files[0].ended_ns + self._limits.age_ns - time.time_ns()) / _NS
            self.next_look_s = min(self.next_look_s, now_s + min(left_s, _LOOK_AT_AGES_S))

    def _delete_oldest(self, reason: DeletionReason) -> int:
        """Delete the oldest file; return how many bytes become free with it, 0 where others keep its room."""
        file = self._files.popleft().file
        self.size_bytes -= file.size_bytes
        is_freed = True
        if self._reuses and reason == DeletionReason.FILES:
            if self.spare is not None:  # a ring that goes on may have several too many
                self.spare.remove()
            self.spare = file
        elif self._held is not None:
            is_freed = self._held.delete(file)
        else:
            file.remove()
        if self._index is not None:
            self._index.deleted(file.name, reason, file.size_bytes)
        self._report.file_deleted(FileDeleted(name=file.name, reason=reason, size_bytes=file.size_bytes))
        return file.size_bytes if is_freed else 0

    def close(self) -> None:
        """Let go of deleted files whose room readers keep."""
        if self._held is not None:
            self._held.close()


def complete_newest(directory_fd: int, file_name: str) -> None:
    """Complete the newest file of a ring without an index, whose writer was killed: as one that an index knows."""
    found = files_left(directory_fd, file_name)
    if found:
        name, status = max(found.items(), key=lambda each: each[1].st_mtime_ns)
        _completed(KeptFile(directory_fd, name, status.st_size, status), status)


def _completed(file: KeptFile, status: os.stat_result) -> FileWasClosed:
    """Complete a file whose writer was killed: cut off what is not whole of it, and return what is in it.

    Where somebody has it open, it stays as long as it is: what readers have mapped is not taken from them.
    """
    whole = None
    descriptor = file.open_for_writing()
    if descriptor is not None:
        try:
            with contextlib.suppress(OSError, _TooLong):  # it cannot be read, or its file system takes no cut
                compression = compression_of(os.pread(descriptor, MAGIC_BYTES, 0))
                parts = _parts(descriptor, status.st_size)
                whole = whole_of(parts if compression is None else _decompressed(parts, compression))
                # A compressed file is left as it is: what is not whole of it stands in the middle of a frame.
                if whole is not None and compression is None and status.st_nlink == 1 and not _is_read(descriptor):
                    os.ftruncate(descriptor, whole.size_bytes)
                    file.size_bytes = whole.size_bytes
        finally:
            os.close(descriptor)
    return FileWasClosed(
        name=file.name,
        closed_ns=status.st_mtime_ns,
        size_bytes=file.size_bytes,
        packets=None if whole is None else whole.packets,
        first_timestamp_ns=None if whole is None else whole.first_ns,
        last_timestamp_ns=None if whole is None else whole.last_ns,
        drops={},  # nobody knows them
    )


def _parts(descriptor: int, size_bytes: int) -> Iterator[bytes]:
    """Give the bytes of a file, in parts; none of one that would take too long."""
    if size_bytes > _LONGEST_WALK_BYTES:
        return
    for at in range(0, size_bytes, _PART_BYTES):
        yield os.pread(descriptor, _PART_BYTES, at)


def _decompressed(parts: Iterable[bytes], compression: str) -> Iterator[bytes]:
    """Give what compressed bytes are, as far as that can be had.

    Raises:
        _TooLong: they are more than is looked through.
    """
    decompressor = Decompressor(compression)
    left_bytes = _LONGEST_WALK_BYTES
    with contextlib.suppress(DamagedFrame):
        for part in parts:
            decompressor.feed(part)
            while data := decompressor.read(_PART_BYTES):
                left_bytes -= len(data)
                if left_bytes < 0:
                    raise _TooLong
                yield data


def _is_read(descriptor: int) -> bool:
    """Whether somebody else has a file open; not, where nobody can tell."""
    try:
        return is_held(descriptor)
    except OSError:
        return False
