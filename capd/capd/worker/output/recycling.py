"""In-place recycling of a ring's oldest file (page-cache reuse), under a lease.

A reader that has opened a file must never see it change, and one that opens a file must find packets up to its end, and
none of the file that it was. So

- a file is only written over if nobody else has it open, mapped or linked: with a link it is left alone, and otherwise
  the kernel grants no lease (fcntl(2), F_SETLEASE);
- what is left of its old bytes is always one block, of a type that readers skip, or several, if it is long;
- a reader that opens the file meanwhile waits, for the lease, until the worker has cut off what is left.

A worker may be killed at any moment, within a write as well, between two pages. So records are written into the block
that is left, behind whose header nobody looks, and their first header comes last, in its place.
"""

import contextlib
import ctypes
import fcntl
import itertools
import mmap
import os
import signal
import socket
import stat
import struct

import numpy as np

from capd.linux import libc
from capd.worker.output.savefile import KeptFile, SaveFile, WriteError, file_mode
from capd.worker.packets.arrays import U64

_RENAME_NOREPLACE = 1  # linux/fs.h
#: A block type for local use (draft-ietf-opsawg-pcapng, section 10.1): readers skip it.
_LEFT_BLOCK = 0x80000001
#: Of any block: type and total length; total length again.
_HEADER = struct.Struct("=II")
_TRAILER = struct.Struct("=I")
_SMALLEST_LEFT_BYTES = _HEADER.size + _TRAILER.size
#: Readers take no larger blocks than 16 MiB (libpcap, Wireshark): what is left is divided at multiples of half of it.
_DIVISION_BYTES = 8 * 1024 * 1024
#: To address and size of a record: what leaves out its header.
_BEHIND_HEADER = np.array((_HEADER.size, -_HEADER.size), np.int64).view(np.uint64)


def reuse(old: KeptFile, name: str, *, header: bytes, group_access: bool) -> SaveFile | None:
    """Return a complete pcapng file of ours under another name, to be written over.

    Nothing is in it but its section header.

    Args:
        old: the file.
        name: its new one.
        header: what the new file begins with. It is written behind the section header, which must be the same.
        group_access: who may read the file.

    Returns:
        The file; None: it cannot be written over. Then it has its old name, and may be as empty.
    """
    descriptor = old.open_for_writing()
    if descriptor is None:
        return None
    section = header[: _HEADER.unpack_from(header)[1]]
    try:
        status = os.fstat(descriptor)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as every file that is written
        if (
            _is_reusable(status, file_mode(group_access=group_access))
            and _begins_with(descriptor, section)
            # Else it would be empty, and could not be renamed.
            and os.access(".", os.W_OK | os.X_OK, dir_fd=old.directory_fd)
        ):
            file = ReusedFile(old.directory_fd, name, descriptor, status, len(section))
            if _rename(old, name):
                return file
    except OSError:  # somebody else has it open, or its file system has no leases
        pass
    os.close(descriptor)
    return None


def _is_reusable(status: os.stat_result, mode: int) -> bool:
    is_ours = status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == mode
    return is_ours and status.st_nlink == 1 and status.st_size % 4 == 0


def _begins_with(descriptor: int, section: bytes) -> bool:
    """Whether a file has this section header, and room for a block behind it."""
    there = os.pread(descriptor, len(section) + _SMALLEST_LEFT_BYTES, 0)
    return there.startswith(section) and len(there) == len(section) + _SMALLEST_LEFT_BYTES


def _rename(old: KeptFile, name: str) -> bool:
    """Rename a file, unless there is one of the new name."""
    before, after = os.fsencode(old.name), os.fsencode(name)
    # glibc has it from 2.28 on. With an older one, or on a file system that cannot, no file is written over.
    with contextlib.suppress(OSError, AttributeError):
        libc.call("renameat2", old.directory_fd, before, old.directory_fd, after, _RENAME_NOREPLACE)
        return True
    return False


class ReusedFile(SaveFile):
    """A file that is written over another one."""

    def __init__(
        self, directory_fd: int, name: str, descriptor: int, status: os.stat_result, section_bytes: int
    ) -> None:
        """Take over a descriptor, and make blocks of all that is behind the section header.

        Args:
            directory_fd: where the file is.
            name: what it is called there.
            descriptor: open for writing.
            status: which file it is.
            section_bytes: size of its section header.

        Raises:
            OSError: they cannot be written.
        """
        super().__init__(directory_fd, name, descriptor, status)
        self.size_bytes = section_bytes
        end = status.st_size
        #: Where what is left is divided, and where it ends. Empty: nothing is left.
        self._divisions = [
            at for at in range(_DIVISION_BYTES, end, _DIVISION_BYTES) if end - at >= _SMALLEST_LEFT_BYTES
        ]
        self._divisions.append(end)
        for start, stop in itertools.pairwise([section_bytes, *self._divisions]):
            self._write_left(start, stop)

    @property
    def disk_bytes(self) -> int:
        """What it takes now, with what is left of the other one."""
        return self._divisions[-1] if self._divisions else self.size_bytes

    def write(self, data: bytes) -> None:
        """Append a header or a block.

        Raises:
            WriteError: it is not in the file, nor a part of it.
        """
        if not self._cover(len(data)):
            super().write(data)
            return
        start = self._begin_behind_header()
        try:
            super().write(data[_HEADER.size :])
        except WriteError:
            self._take_back(start)
            raise
        self._show(data[: _HEADER.size], start, 0)

    def write_records(self, vectors: U64, timestamps_ns: U64 | None = None) -> None:
        """Append records from where they lie in memory.

        Args:
            vectors: rows of address and size in bytes; the first one is another one while this goes on.
            timestamps_ns: of each; not needed.

        Raises:
            WriteError: not all of them are in the file; it ends after the last whole one.
        """
        if self._divisions and len(vectors) > 1 and _is_on_two_pages(self.size_bytes):
            self._write_one_first(vectors)
            return
        if not self._cover(int(vectors[:, 1].sum())):
            super().write_records(vectors)
            return
        first = vectors[0]
        header = ctypes.string_at(int(first[0]), _HEADER.size)
        start = self._begin_behind_header()
        first += _BEHIND_HEADER
        try:
            super().write_records(vectors)
        except WriteError as error:
            if error.records_written:
                self._write_header(header, start)
            else:
                self._take_back(start)
            raise
        finally:
            first -= _BEHIND_HEADER
        self._show(header, start, len(vectors))

    def _write_one_first(self, vectors: U64) -> None:
        """Write a record alone, whose header cannot be written at once; then the others."""
        self.write_records(vectors[:1])
        try:
            self.write_records(vectors[1:])
        except WriteError as error:
            error.records_written += 1
            raise

    def _cover(self, more_bytes: int) -> bool:
        """Begin the block of what will be left behind so many bytes; say whether anything is left now.

        Raises:
            WriteError: what is left can neither be covered nor cut off.
        """
        if not self._divisions:
            return False
        end = self.size_bytes + more_bytes
        try:
            if self._divisions[0] - end < _SMALLEST_LEFT_BYTES:
                self._divisions = [at for at in self._divisions if at - end >= _SMALLEST_LEFT_BYTES]
                if not self._divisions:
                    return True
                self._write_left(self.size_bytes, self._divisions[0])  # whole, whatever is written into it
            os.pwrite(self._fd, _HEADER.pack(_LEFT_BLOCK, self._divisions[0] - end), end)
        except OSError:
            self.give_way()
            return False
        return True

    def _begin_behind_header(self) -> int:
        """Leave the place of a header as it is; return where it is."""
        start = self.size_bytes
        self.size_bytes += _HEADER.size
        return start

    def _take_back(self, start: int) -> None:
        """End before the place of a header."""
        self.size_bytes = start
        self._leave_whole()

    def _write_header(self, header: bytes, start: int) -> None:
        """Write the header that was held back: what was written behind it can be read from now on.

        Raises:
            WriteError: it cannot be; the file ends before.
        """
        try:
            if _is_on_two_pages(start):
                # With this length, what is left is as long as the record, and ends with the same.
                os.pwrite(self._fd, header[4:], start + 4)
                header = header[:4]
            os.pwrite(self._fd, header, start)
        except OSError as error:
            self._take_back(start)
            raise WriteError(error) from error

    def _show(self, header: bytes, start: int, records: int) -> None:
        """Write the header that was held back, and end the block of what is left, or cut that off.

        Raises:
            WriteError: one of that cannot be done.
        """
        self._write_header(header, start)
        if self._divisions:
            try:
                self._write_left_end(self.size_bytes, self._divisions[0])
            except OSError:
                pass
            else:
                return
        try:
            self._cut_back()
        except OSError as error:
            raise WriteError(error, records) from error

    def _write_left(self, start: int, stop: int) -> None:
        os.pwrite(self._fd, _HEADER.pack(_LEFT_BLOCK, stop - start), start)
        self._write_left_end(start, stop)

    def _write_left_end(self, start: int, stop: int) -> None:
        os.pwrite(self._fd, _TRAILER.pack(stop - start), stop - _TRAILER.size)

    def _cut_back(self) -> None:
        """Cut off everything behind what was written, and let those have the file who wait for it."""
        try:
            super()._cut_back()
        finally:  # where that fails, the file is written no more
            self._divisions.clear()
            with contextlib.suppress(BlockingIOError):  # given back already
                fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    def give_way(self) -> None:
        """Let those have the file who wait to open it: from now on it is like any other.

        Raises:
            WriteError: what is left cannot be cut off.
        """
        if self._divisions:
            self.cut_back_to(self.size_bytes)

    def close(self) -> None:
        """Cut off what is left, and close the file.

        Raises:
            WriteError: what is left cannot be cut off, or the system reports only now that it could not write.
        """
        try:
            self.give_way()
        finally:
            super().close()


def _is_on_two_pages(start: int) -> bool:
    """Whether a header is on two pages, and might come to be only half there."""
    return start % mmap.PAGESIZE > mmap.PAGESIZE - _HEADER.size


def _do_nothing(_number: int, _frame: object) -> None:
    pass


class Openers:
    """Says when somebody waits to open a file of ours: readable then."""

    def __init__(self) -> None:
        """From now on. The kernel's signal wakes whoever waits for the socket; in the main thread only."""
        self.socket, signalled = socket.socketpair()
        for end in (self.socket, signalled):
            end.setblocking(False)
        #: What a signal is noted on, open until the process ends.
        self.signalled_fd = signalled.detach()
        signal.set_wakeup_fd(self.signalled_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGIO, _do_nothing)  # what is ignored is not written to the socket

    def clear(self) -> None:
        """Take note: not readable any more."""
        try:
            while self.socket.recv(4096):
                pass
        except BlockingIOError:
            return
