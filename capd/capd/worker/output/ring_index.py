"""The index of a ring on the disk: locked, read, appended to, and rewritten when most of it is about what is gone.

``capd_protocol.formats.ring_index`` has the format. It is in the directory of the files and belongs to the same user. A
line is written whole or not at all; it is not synchronized to the disk, as packets are not.

What it says is followed when files are deleted, so it is believed only where nobody else can have written it. The lock
is on a file of its own, which others cannot even open: flock(2) is content with a descriptor for reading, and a
reader of the index shall not keep its ring from going on. That file stays, empty, as long as the index does. A ring
without an index has the same lock: the names of its files are its own, which others would take as soon as it has
deleted one.
"""

import contextlib
import os
import stat
import time

from capd.worker.output.savefile import DestinationError, WriteError, is_named, is_own, lock, write_at
from capd_protocol.formats.ring_index import (
    MAX_INDEX_BYTES,
    FileWasClosed,
    FileWasDeleted,
    FileWasOpened,
    IndexedFile,
    Line,
    compacted,
    encode_line,
    index_name,
    lock_name,
    read_index,
)
from capd_protocol.messages import DeletionReason
from capd_protocol.text import quoted

#: Below it is not worth a rewrite. Chosen: some dozens of files.
_LEAST_COMPACTED_BYTES = 16 * 1024
#: Set aside for the lines of one change of files, with drops of many interfaces.
_NEXT_LINES_BYTES = 4096
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class RingLock:
    """The lock of one ring, held until it is released, or the process ends."""

    def __init__(self, directory_fd: int, file_name: str) -> None:
        """Take the lock; it is waited for where a worker is about to end.

        Raises:
            DestinationError: another capture has it, or it cannot be taken.
        """
        self._directory_fd = directory_fd
        self._name = lock_name(file_name)
        #: Its file was there before. That of a ring without an index stays only where a writer was killed.
        self.was_left = False
        self._fd = self._locked()

    def _locked(self) -> int:
        while True:
            self.was_left = _exists(self._directory_fd, self._name)
            fd, status = _open_own(self._directory_fd, self._name, 0o600)
            try:
                if status.st_mode & 0o077:
                    with contextlib.suppress(PermissionError):  # a file system without modes
                        os.fchmod(fd, 0o600)
                if not lock(fd):
                    text = f"another capture writes this ring ({quoted(self._name)} is locked): name another file"
                    raise DestinationError(text)
                if is_named(self._directory_fd, self._name, fd):  # not one that has been replaced meanwhile
                    return fd
            except OSError as error:
                os.close(fd)
                raise DestinationError(f"{quoted(self._name)} cannot be locked: {error.strerror}") from error
            except DestinationError:
                os.close(fd)
                raise
            os.close(fd)

    def remove(self) -> None:
        """Delete its file, before it is released: nothing of the ring needs it any more."""
        _remove_same(self._directory_fd, self._name, self._fd)

    def release(self) -> None:
        """Let others have it."""
        os.close(self._fd)


class RingIndex:
    """The index of one ring, which nobody else writes meanwhile."""

    def __init__(self, directory_fd: int, file_name: str, *, group_access: bool) -> None:
        """Open the index, or begin one.

        Raises:
            DestinationError: it cannot be opened, or is not to be believed, or another capture writes this ring.
            WriteError: its torn last line cannot be cut off.
        """
        self._directory_fd = directory_fd
        self._name = index_name(file_name)
        self._mode = 0o640 if group_access else 0o600
        self._lock = RingLock(directory_fd, file_name)
        self._fd = -1
        try:
            self._fd, status = _open_own(directory_fd, self._name, self._mode)
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                text = "may be written by others: take that right away (chmod go-w) if all in it is true, or remove it"
                raise DestinationError(f"{quoted(self._name)} {text}")
            contents = read_index(_read(self._fd, self._name), file_name)
            os.ftruncate(self._fd, contents.size_bytes)
        except OSError as error:
            self.close()
            raise WriteError(error) from error
        except DestinationError:
            self.close()
            raise
        self.device = status.st_dev
        self.last = contents.last
        self._is_new = not contents.size_bytes
        self._files = {file.name: file for file in contents.files}
        self._size_bytes = contents.size_bytes
        self._live_bytes = sum(map(_line_bytes, contents.files))

    @property
    def files(self) -> tuple[IndexedFile, ...]:
        """The files that the ring has, oldest first."""
        return tuple(self._files.values())

    @property
    def size_bytes(self) -> int:
        """What the index takes, and may come to take with the next change of files."""
        return self._size_bytes + self._live_bytes + _NEXT_LINES_BYTES

    def opened(self, name: str, inode: int) -> None:
        """Note a new file.

        Raises:
            WriteError: it is not noted.
        """
        line = FileWasOpened(name=name, device=self.device, inode=inode, opened_ns=time.time_ns())
        self._append(line)
        self._drop(name)
        self._files[name] = IndexedFile(line)
        self._live_bytes += _line_bytes(self._files[name])
        self.last = line

    def closed(self, line: FileWasClosed) -> None:
        """Note that a file is complete.

        Raises:
            WriteError: it is not noted.
        """
        self._append(line)
        file = IndexedFile(self._files[line.name].opened, line)
        self._live_bytes += _line_bytes(file) - _line_bytes(self._files[line.name])
        self._files[line.name] = file

    def deleted(self, name: str, reason: DeletionReason | None, size_bytes: int) -> None:
        """Note that a file is gone, and rewrite the index if it is worth it.

        Where there is no room for the line, as on a disk where room is just being made, it is missing: that the file is
        not there says the same.

        Args:
            name: of the file.
            reason: why the ring has deleted it; None if it did not.
            size_bytes: of the file.
        """
        self._drop(name)
        with contextlib.suppress(WriteError):
            self._append(FileWasDeleted(name=name, deleted_ns=time.time_ns(), reason=reason, size_bytes=size_bytes))
        if self._size_bytes > max(2 * self._live_bytes, _LEAST_COMPACTED_BYTES):
            self._compact()

    def _drop(self, name: str) -> None:
        file = self._files.pop(name, None)
        if file is not None:
            self._live_bytes -= _line_bytes(file)

    def _append(self, line: Line) -> None:
        data = encode_line(line)
        try:
            write_at(self._fd, data, self._size_bytes)
        except OSError as error:
            with contextlib.suppress(OSError):  # a torn last line does not count
                os.ftruncate(self._fd, self._size_bytes)
            raise WriteError(error) from error
        self._size_bytes += len(data)

    def _compact(self) -> None:
        """Write a new index beside the old one, and put it in its place: there is always a whole one.

        If that fails, the old one stays, which says the same.
        """
        data = compacted(self._files.values(), self.last)
        name = f"{self._name}.new"
        fd = -1
        try:
            with contextlib.suppress(FileNotFoundError):
                named = os.stat(self._name, dir_fd=self._directory_fd, follow_symlinks=False)
                if not os.path.samestat(named, os.fstat(self._fd)):
                    return  # somebody has put something else there
            self._remove_own(name)  # of one that was killed meanwhile
            fd = os.open(name, _FLAGS | os.O_EXCL, self._mode, dir_fd=self._directory_fd)
            write_at(fd, data, 0)
            os.rename(name, self._name, src_dir_fd=self._directory_fd, dst_dir_fd=self._directory_fd)
        except OSError:
            if fd >= 0:
                os.close(fd)
                with contextlib.suppress(OSError):
                    self._remove_own(name)
            return
        os.close(self._fd)
        self._fd, self._size_bytes = fd, len(data)

    def _remove_own(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            if is_own(os.stat(name, dir_fd=self._directory_fd, follow_symlinks=False)):
                os.unlink(name, dir_fd=self._directory_fd)

    def abandon(self) -> None:
        """Note that the capture never began: an index that was made for it goes."""
        if not self._is_new:
            return
        _remove_same(self._directory_fd, self._name, self._fd)
        self._lock.remove()

    def close(self) -> None:
        """Let others write it."""
        if self._fd >= 0:
            os.close(self._fd)
        self._lock.release()


def _open_own(directory_fd: int, name: str, mode: int) -> tuple[int, os.stat_result]:
    """Open a file beside those of the ring, or make it; nobody else has made it, or a further name for it."""
    try:
        fd = os.open(name, _FLAGS, mode, dir_fd=directory_fd)
    except OSError as error:
        raise DestinationError(f"{quoted(name)} cannot be opened: {error.strerror}") from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        obstacle = "is not a regular file: remove it"
    elif not is_own(status):
        obstacle = "is another user's: remove it, or name another file for the ring"
    elif status.st_nlink > 1:
        obstacle = "has another name too, a hard link: remove it, or name another file for the ring"
    else:
        return fd, status
    os.close(fd)
    raise DestinationError(f"{quoted(name)} {obstacle}")


def _exists(directory_fd: int, name: str) -> bool:
    """Whether something has a name."""
    try:
        os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except OSError:
        return False
    return True


def _remove_same(directory_fd: int, name: str, fd: int) -> None:
    """Delete a file of ours, if it still has its name, and can be deleted."""
    with contextlib.suppress(OSError):
        if is_named(directory_fd, name, fd):
            os.unlink(name, dir_fd=directory_fd)


def _line_bytes(file: IndexedFile) -> int:
    return len(compacted((file,), None))


def _read(fd: int, name: str) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        data = file.read(MAX_INDEX_BYTES + 1)
    if len(data) > MAX_INDEX_BYTES:
        raise DestinationError(f"{quoted(name)} is longer than {MAX_INDEX_BYTES} bytes: remove it")
    return data
