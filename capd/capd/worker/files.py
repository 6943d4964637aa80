"""The files of one capture, one after another: each complete in itself.

A file begins with the section and all interfaces and ends with statistics of each interface. Of a ring, the
oldest file goes just before the next one comes, so that there are never more than asked for. Only files that this
capture made are ever deleted, or those that a capture of the configuration made when it ran before.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable

from capd.worker.order import Slice
from capd.worker.records import U64
from capd.worker.report import Report
from capd.worker.rotation import Fill, fitting, is_ring_file, number_of, ring_file_name
from capd.worker.savefile import DestinationError, KeptFile, SaveFile, WriteError, earlier_files
from capd_protocol.messages import Conditions, Destination, FileClosed


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
        continues: bool = False,
    ) -> None:
        """Nothing is opened yet.

        Args:
            directory_fd: where the files are.
            destination: what they are called.
            ring: when to switch; None for a single file.
            header: returns what a file begins with.
            statistics: returns what a file ends with, counted when it is called.
            report: is told of files and packets.
            max_disk_bytes: what all files of the destination may take, with those that earlier captures left.
            continues: whether those are of this ring: the oldest are deleted first, numbers go on.
        """
        self._directory_fd = directory_fd
        self._destination = destination
        self._ring = ring
        self._header = header
        self._statistics = statistics
        self._report = report
        self._kept: deque[KeptFile] = deque()
        self._number = 0
        self._max_disk_bytes = max_disk_bytes
        #: Of the complete files that are kept.
        self._complete_bytes = 0
        self._left_before_bytes = 0
        if ring is not None and (continues or max_disk_bytes is not None):
            earlier = earlier_files(directory_fd, lambda name: is_ring_file(destination.file_name, name))
            if continues:
                self._kept.extend(earlier)
                self._complete_bytes = sum(file.size_bytes for file in earlier)
                self._number = number_of(destination.file_name, earlier[-1].name) if earlier else 0
            else:
                self._left_before_bytes = sum(file.size_bytes for file in earlier)
        self._file: SaveFile | None = None
        self._packets = 0
        self._first_ns: int | None = None
        self._last_ns: int | None = None
        self._drops_before = 0
        self.opened_total = 0
        self.opened_s = 0.0

    @property
    def fill(self) -> Fill:
        """How full the current file is."""
        return Fill(self._file.size_bytes if self._file else 0, self._packets)

    # Bytes on disk ------------------------------------------------------------------------------------------------

    @property
    def disk_bytes(self) -> int:
        """What the files of this ring, or the one file, take now."""
        return self._complete_bytes + (self._file.size_bytes if self._file else 0)

    def _delete_oldest(self) -> None:
        file = self._kept.popleft()
        self._complete_bytes -= file.size_bytes
        file.remove()

    @property
    def _room_bytes(self) -> int | None:
        """What may still be written; None: as much as there is. The statistics at the end have their room already."""
        if self._max_disk_bytes is None:
            return None
        used_bytes = self._left_before_bytes + self.disk_bytes
        return self._max_disk_bytes - used_bytes - (len(self._statistics()) if self._file else 0)

    def make_room(self, size_bytes: int) -> bool:
        """Delete the oldest complete files of the ring until so many bytes may be written; say whether they may.

        Raises:
            DestinationError: one cannot be deleted.
        """
        while (room_bytes := self._room_bytes) is not None and room_bytes < size_bytes:
            if self._ring is None or not self._kept or self._kept[0] is self._file:
                return False
            self._delete_oldest()
        return True

    def make_room_for_file(self) -> bool:
        """Do so for a file without packets.

        Raises:
            DestinationError: likewise.
        """
        return self.make_room(len(self._header()) + len(self._statistics()))

    def fitting(self, sizes_bytes: U64) -> int:
        """Return how many of these packets may still be written."""
        room_bytes = self._room_bytes
        return len(sizes_bytes) if room_bytes is None else fitting(room_bytes, sizes_bytes)

    # Files --------------------------------------------------------------------------------------------------------

    def open_next(self) -> None:
        """Open the first or the next file and announce it.

        Raises:
            DestinationError: it cannot be created, or the oldest one not be deleted.
            WriteError: its header cannot be written; it is deleted again.
        """
        name = self._destination.file_name
        if self._ring is not None:
            self._number += 1
            name = ring_file_name(name, self._number, time.localtime())
            while self._ring.files is not None and len(self._kept) >= self._ring.files:
                self._delete_oldest()
        file = SaveFile(
            self._directory_fd,
            name,
            group_access=self._destination.group_access,
            exclusive=self._destination.exclusive,
        )
        try:
            file.write(self._header())
        except WriteError:
            file.close()
            file.remove()
            raise
        self._file = file
        self._kept.append(file)
        self._packets, self._first_ns, self._last_ns = 0, None, None
        self.opened_total += 1
        self.opened_s = time.monotonic()
        self._report.file_opened(file)

    def add_block(self, block: bytes) -> None:
        """Append a block that is no packet to the current file.

        Raises:
            WriteError: it is not in it.
        """
        if self._file is not None:
            self._file.write(block)

    def write(self, records: Slice) -> None:
        """Append records, at least one, to the current file.

        Raises:
            WriteError: not all of them are in it.
        """
        if self._file is None:
            raise AssertionError("no file is open")
        written = len(records.timestamps_ns)
        try:
            self._file.write_records(records.vectors)
        except WriteError as error:
            written = error.records_written
            raise
        finally:
            self._note(records, written)

    def _note(self, records: Slice, written: int) -> None:
        if not written:
            return
        # A single ring's packets are in the kernel's order, which may differ from that of their timestamps.
        earliest, latest = int(records.timestamps_ns[:written].min()), int(records.timestamps_ns[:written].max())
        self._first_ns = earliest if self._first_ns is None else min(self._first_ns, earliest)
        self._last_ns = latest if self._last_ns is None else max(self._last_ns, latest)
        self._packets += written
        self._report.count(written)

    def close(self, drops_total: int) -> None:
        """End the current file with its statistics, close it, and announce that it is complete.

        Args:
            drops_total: dropped since the capture began, of all interfaces.

        Raises:
            WriteError: the statistics are not in the file; it is closed, and whole without them.
        """
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            file.write(self._statistics())
        finally:
            file.close()
            self._complete_bytes += file.size_bytes
            self._report.file_closed(
                FileClosed(
                    name=file.name,
                    packets=self._packets,
                    size_bytes=file.size_bytes,
                    first_timestamp_ns=self._first_ns,
                    last_timestamp_ns=self._last_ns,
                    drops=drops_total - self._drops_before,
                )
            )
            self._drops_before = drops_total
            self._packets = 0

    def abandon(self) -> None:
        """Close and delete what was made: the capture never began."""
        if self._file is not None:
            self._file.close()
            with contextlib.suppress(DestinationError):
                self._file.remove()
            self._file = None
