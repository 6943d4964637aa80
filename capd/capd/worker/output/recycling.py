"""In-place recycling of a ring's oldest file (page-cache reuse), under a lease.

A reader that has opened a file must never see it change, and one that opens a file must find packets up to its end. So

- a file is only written over if nobody else has it open, mapped or linked: with a link it is left alone, and otherwise
  the kernel grants no lease (fcntl(2), F_SETLEASE);
- what is left of its old bytes is always one block, of a type that readers skip, or several, if it is long;
- a reader that opens the file meanwhile waits, for the lease, until the worker has cut off what is left.
"""

import contextlib
import fcntl
import os
import signal
import socket
import stat
import struct

from capd.linux import libc
from capd.worker.output.savefile import KeptFile, SaveFile, WriteError, file_mode
from capd.worker.packets.arrays import U64

_RENAME_NOREPLACE = 1  # linux/fs.h
#: A block type for local use (draft-ietf-opsawg-pcapng, section 10.1): readers skip it.
_LEFT_BLOCK = 0x80000001
_LEFT_HEADER = struct.Struct("=II")
_LEFT_TRAILER = struct.Struct("=I")
_SMALLEST_LEFT_BYTES = _LEFT_HEADER.size + _LEFT_TRAILER.size
#: Readers take no larger blocks than 16 MiB (libpcap, Wireshark): what is left is divided at multiples of half of it.
_DIVISION_BYTES = 8 * 1024 * 1024


def reuse(old: KeptFile, name: str, *, group_access: bool) -> SaveFile | None:
    """Return a complete pcapng file of ours as an empty one of another name, to be written over; None: it cannot be.

    Then it is as it was, under its old name.
    """
    descriptor = old.open_for_writing()
    if descriptor is None:
        return None
    try:
        status = os.fstat(descriptor)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        if not _is_reusable(status, file_mode(group_access=group_access)) or not _rename(old, name):
            os.close(descriptor)
            return None
    except OSError:  # somebody else has it open, or its file system has no leases
        os.close(descriptor)
        return None
    return ReusedFile(old.directory_fd, name, descriptor, status)


def _is_reusable(status: os.stat_result, mode: int) -> bool:
    is_ours = status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == mode
    return is_ours and status.st_nlink == 1 and status.st_size % 4 == 0


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

    def __init__(self, directory_fd: int, name: str, descriptor: int, status: os.stat_result) -> None:
        super().__init__(directory_fd, name, descriptor, status)
        end = status.st_size
        #: Where what is left is divided, and where it ends. Empty: nothing is left.
        self._divisions = [
            at for at in range(_DIVISION_BYTES, end, _DIVISION_BYTES) if end - at >= _SMALLEST_LEFT_BYTES
        ]
        self._divisions.append(end)
        for start, stop in zip(self._divisions, self._divisions[1:], strict=False):
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
        super().write(data)
        self._cover()

    def write_records(self, vectors: U64) -> None:
        """Append records from where they lie in memory.

        Raises:
            WriteError: not all of them are in the file; it ends after the last whole one.
        """
        super().write_records(vectors)
        self._cover()

    def _cover(self) -> None:
        """Make blocks of what is left."""
        while self._divisions and self._divisions[0] - self.size_bytes < _SMALLEST_LEFT_BYTES:
            del self._divisions[0]
            if not self._divisions:
                self.cut_back_to(self.size_bytes)
        if self._divisions:
            try:
                self._write_left(self.size_bytes, self._divisions[0])
            except OSError as error:
                self._leave_whole()
                raise WriteError(error) from error

    def _write_left(self, start: int, stop: int) -> None:
        os.pwrite(self._fd, _LEFT_HEADER.pack(_LEFT_BLOCK, stop - start), start)
        os.pwrite(self._fd, _LEFT_TRAILER.pack(stop - start), stop - _LEFT_TRAILER.size)

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
