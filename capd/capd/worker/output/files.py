"""The files of one capture, one after another: each complete in itself.

A file begins with the section and all interfaces and ends with statistics of each interface.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from math import inf

from capd.worker.output.complete_files import CompleteFiles, Contents, OpenFile
from capd.worker.output.recycling import reuse
from capd.worker.output.report import Report
from capd.worker.output.ring_index import RingIndex, RingLock
from capd.worker.output.rotation import Fill, fitting, time_left
from capd.worker.output.savefile import (
    DestinationError,
    SaveFile,
    WriteError,
    create_file,
    create_ring_file,
    create_unnamed_file,
    name_of,
)
from capd.worker.packets.arrays import U64
from capd.worker.packets.merge import Slice
from capd_protocol.formats.ring_index import number_of
from capd_protocol.messages import Conditions, DeletionReason, Destination


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
        lock: RingLock | None = None,
        continues: bool = False,
        reuses: bool = False,
        compress: Callable[[SaveFile], SaveFile] | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            directory_fd: where the files are.
            destination: what they are called.
            ring: when to switch, what to keep; None for a single file.
            header: returns what a file begins with.
            statistics: returns what a file ends with, counted when it is called.
            report: reports files and packets to the daemon.
            max_disk_bytes: what all files of the destination may take, with those that earlier captures left.
            index: of the ring, if it has one; its lock is held until the process ends.
            lock: of a ring that has no index; its file is deleted with the end.
            continues: whether the files that the index knows are of this ring: the oldest are deleted first,
                numbers go on.
            reuses: whether a new file may be written over the oldest one, where nobody has that open.
            compress: makes a file one that is written compressed; None: files are written as they are.
        """
        self._directory_fd = directory_fd
        self._destination = destination
        self._ring = ring
        self._header = header
        self._statistics = statistics
        self._report = report
        self._index = index
        self._lock = lock
        self._compress = compress
        #: Is called with records that are in their file, before that is ended.
        self.note_saved: Callable[[Slice], None] = lambda _: None
        #: Records that were appended and may not be in the file yet, each with where they end.
        self._unsaved: deque[tuple[int, Slice]] = deque()
        self._statistics_bytes = 0
        self._file: SaveFile | None = None
        self._complete = CompleteFiles(
            directory_fd=directory_fd,
            file_name=destination.file_name,
            ring=ring,
            max_disk_bytes=max_disk_bytes,
            open_file=self._open_file,
            report=report,
            index=index,
            continues=continues,
            reuses=reuses,
        )
        self._number = self._complete.last_number
        self._packets = 0
        #: Of them, those that are in the file.
        self._saved_packets = 0
        self._first_ns: int | None = None
        self._last_ns: int | None = None
        self._drops_before: dict[str, int] = {}
        self.opened_total = 0
        self._opened_s = 0.0
        self._opened_at_s = 0.0

    def _number_of(self, name: str) -> int:
        return number_of(self._destination.file_name, name) or 0

    @property
    def fill(self) -> Fill:
        """How full the current file is."""
        return Fill(self._file.size_bytes if self._file else 0, self._packets)

    @property
    def file_bytes(self) -> int:
        """The size of the current file."""
        return self._file.file_bytes if self._file is not None else 0

    @property
    def disk_bytes(self) -> int:
        """What the files of this ring, or the one file, take now."""
        return self._complete.size_bytes + (self._file.disk_bytes if self._file is not None else 0)

    def time_left_s(self) -> float | None:
        """Return in how many seconds the current file's time is up; 0 if it is, None if it never will be."""
        if self._ring is None:
            return None
        open_for_s = time.monotonic() - self._opened_s
        return time_left(self._ring, open_for_s=open_for_s, opened_at_s=self._opened_at_s, now_s=time.time())

    # Limits -------------------------------------------------------------------------------------------------------

    def make_room(self, size_bytes: int) -> DeletionReason | None:
        """Delete the oldest complete files of the ring until so many bytes may be written.

        Returns:
            Which limit stands in the way, if one does.

        Raises:
            DestinationError: one cannot be deleted.
            WriteError: what waits to be written cannot be.
        """
        room_bytes = self._complete.room_bytes
        if room_bytes is None or size_bytes <= room_bytes:
            return None
        # What is compressed takes less than it seemed to.
        self.settle()
        return self._complete.make_room(more_bytes=size_bytes)

    def could_go_on_without_current(self, size_bytes: int) -> bool:
        """Whether so many bytes could be written to a new file if the current one, which is not empty, were deleted.

        Asked when no complete one is left.
        """
        if self._file is None or not self._packets:
            return False
        more_bytes = len(self._header()) + size_bytes - self._file.disk_bytes
        return self._complete.make_room(more_bytes=more_bytes) is None

    def make_room_for_file(self) -> DeletionReason | None:
        """Make room for a further file without packets; return which limit stands in the way, if one does.

        Raises:
            DestinationError: an old file cannot be deleted.
        """
        if not self._complete.is_limited:
            return None
        return self._complete.make_room(more_bytes=len(self._header()) + self._end_bytes(), more_files=1)

    @property
    def next_look_s(self) -> float:
        """When ``keep_limits`` is to be called, by the monotonic clock."""
        return self._complete.next_look_s

    def keep_limits(self) -> None:
        """Delete what is too old by now, or stands where free space should be; to be called at ``next_look_s``.

        Raises:
            DestinationError: a file cannot be deleted.
        """
        self._complete.keep_limits()

    def fitting(self, sizes_bytes: U64) -> int:
        """Return how many of these packets may be written before ``make_room`` is asked again."""
        room_bytes = self._complete.room_bytes
        return len(sizes_bytes) if room_bytes is None else fitting(room_bytes, sizes_bytes)

    def _open_file(self) -> OpenFile:
        if self._file is None:
            return OpenFile(0, 0, 0)
        return OpenFile(1, self._file.disk_bytes, self._end_bytes())

    def _end_bytes(self) -> int:
        """Return the size of what a file ends with: the same until there is one more interface."""
        if not self._statistics_bytes:
            self._statistics_bytes = len(self._statistics())
        return self._statistics_bytes + (self._file.end_bytes if self._file is not None else 0)

    # Files --------------------------------------------------------------------------------------------------------

    def open_next(self) -> None:
        """Open the first or the next file and announce it; ``make_room_for_file`` comes before.

        Raises:
            DestinationError: it cannot be created.
            WriteError: its header, or the index, cannot be written. It is deleted again, if it can be; one that was
                there before the capture is left, empty.
        """
        header = self._header()
        file = self._open(header)
        try:
            # Before there is anything in it: what is not in the index is not of the ring.
            if self._index is not None:
                self._index.opened(file.name, file.inode)
            file.write(header[file.size_bytes :])
            file.settle()
        except WriteError:
            # What failed first is reported.
            with contextlib.suppress(WriteError):
                file.close()
            with contextlib.suppress(DestinationError):
                if file.is_new:
                    file.remove()
            if self._index is not None:
                self._index.deleted(file.name, None, 0)
            raise
        self._file = file
        self._packets, self._saved_packets, self._first_ns, self._last_ns = 0, 0, None, None
        self._complete.look_again()
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

    def _open(self, header: bytes) -> SaveFile:
        file = self._open_plain(header)
        return file if self._compress is None else self._compress(file)

    def _open_plain(self, header: bytes) -> SaveFile:
        name, group_access = self._destination.file_name, self._destination.group_access
        if self._ring is None:
            return create_file(
                self._directory_fd, name, group_access=group_access, exclusive=self._destination.exclusive
            )
        number, opened = self._number + 1, time.localtime()
        if self._destination.unnamed:
            self._number = number
            return create_unnamed_file(self._directory_fd, self._destination, number, opened)
        spare, self._complete.spare = self._complete.spare, None
        file = None
        if spare is not None:
            file = reuse(spare, name_of(self._destination, number, opened), header=header, group_access=group_access)
            if file is None:
                spare.remove()
        # What others have put under a ring's names stays as it is.
        file = file or create_ring_file(self._directory_fd, self._destination, number, opened)
        self._number = self._number_of(file.name)
        return file

    def give_way(self) -> None:
        """Let those have the current file who wait to open it.

        Raises:
            WriteError: it cannot be written any more.
        """
        if self._file is not None:
            self._file.give_way()

    def add_block(self, block: bytes) -> None:
        """Append a block that is no packet, such as that of a further interface, to the current file.

        Raises:
            WriteError: it is not in it.
        """
        if self._file is not None:
            self._file.write(block)
            self._complete.look_again()
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
            self._file.write_records(records.vectors, records.timestamps_ns)
        except WriteError as error:
            written = error.records_written
            raise
        finally:
            if self._complete.room_bytes is not None:
                self._complete.room_bytes -= self._file.size_bytes - size_bytes
            if written:
                self._packets += written
                self._unsaved.append((self._file.size_bytes, records.part(0, written)))
            self.look_at_saved()

    def look_at_saved(self) -> None:
        """Note the records that are in the file by now."""
        saved_bytes = self._file.saved_bytes if self._file is not None else 0
        while self._unsaved and self._unsaved[0][0] <= saved_bytes:
            self._note(self._unsaved.popleft()[1])

    def _note(self, records: Slice) -> None:
        # Of a stream that is captured alone they are in the order in which they came.
        earliest, latest = int(records.timestamps_ns.min()), int(records.timestamps_ns.max())
        self._first_ns = earliest if self._first_ns is None else min(self._first_ns, earliest)
        self._last_ns = latest if self._last_ns is None else max(self._last_ns, latest)
        self._saved_packets += len(records.timestamps_ns)
        self._report.count(len(records.timestamps_ns))
        self.note_saved(records)

    @property
    def waits_since_s(self) -> float:
        """Since when records wait to be written, by the monotonic clock; infinite where none do."""
        return self._file.waits_since_s if self._file is not None else inf

    def check(self) -> None:
        """Note the records that are in the file by now, and raise what has kept others from it.

        Raises:
            WriteError: something has.
        """
        self.look_at_saved()
        if self._file is not None:
            self._file.check()

    @property
    def are_saved(self) -> bool:
        """Whether all that was appended is in the file."""
        return not self._unsaved

    def flush(self) -> None:
        """Have written what waits."""
        if self._file is not None:
            self._file.flush()

    def settle(self) -> None:
        """Return when all that was appended is in the file, and noted.

        Raises:
            WriteError: it is not.
        """
        if self._file is None:
            return
        try:
            self._file.settle()
        finally:
            self.look_at_saved()

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
            self._complete.close()
            if self._lock is not None:
                self._lock.remove()

    def _close_file(self, drops_total: Mapping[str, int]) -> None:
        """End the current file with its statistics, close it, and announce that it is complete."""
        if self._file is None:
            return
        with contextlib.suppress(WriteError):  # writing the end raises it again
            self.settle()
        self._unsaved.clear()
        file, self._file = self._file, None
        drops = {name: total - self._drops_before.get(name, 0) for name, total in drops_total.items()}
        self._drops_before = dict(drops_total)
        closed_ns = time.time_ns()
        try:
            try:
                file.write(self._statistics())
            finally:
                file.close()
        finally:
            contents, self._packets = Contents(self._saved_packets, self._first_ns, self._last_ns, drops), 0
            self._complete.add(file, contents, closed_ns)

    def abandon(self) -> None:
        """Note that the first file could not be opened: the capture never began."""
        if self._index is not None:
            self._index.abandon()
        if self._lock is not None:
            self._lock.remove()
