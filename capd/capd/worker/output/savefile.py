"""One capture file: opened in the client's directory, written by gathering from the ring, closed whole.

A file on disk always ends at the end of a record once a call has returned: a write that the system cuts short
is cut back, as long as the file system takes anything at all. Every write names its position in the file, as a
worker may write in no other way (``confinement``).

Others may write in the directory too. What they put there under a name of ours is neither written nor deleted: a file
is known by device, inode and owner, and one that is there before us is taken only if it is a regular file of our user.
While a file is written it is locked, so that no other capture empties it.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import time
from math import inf
from pathlib import Path

import numpy as np

from capd.errors import is_out_of_descriptors, no_room
from capd.linux import libc
from capd.worker.packets.arrays import U64
from capd_protocol.formats.ring_index import number_of, ring_file_name
from capd_protocol.messages import Destination, Failure
from capd_protocol.text import quoted

#: The kernel's limit of vectors in one call (UIO_MAXIOV, linux/uio.h).
_VECTORS_AT_ONCE = 1024
#: struct iovec: address and size.
_VECTOR_BYTES = 16

# Called without the way round an exception: part of what is written may be on disk.
_pwritev = libc.library.pwritev
_pwritev.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)
_pwritev.restype = ctypes.c_ssize_t
_pwrite = libc.library.pwrite
_pwrite.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64)
_pwrite.restype = ctypes.c_ssize_t

#: A worker whose daemon was killed ends its capture by itself; the next one may be there before it has. Chosen: twice
#: the time that it may take for its last packets.
_LOCK_S = 5.0
_LOCK_POLL_S = 0.02
#: Tried for a file of a ring, where others have taken them. Chosen: rings of one name that begin within a second.
_MOST_NAMES = 100
#: Whether hard links to a file are made only by its owner, and by users who may read and write it (proc_sys_fs(5)): the
#: kernel's default is no, that of distributions yes.
_PROTECTED_HARDLINKS = Path("/proc/sys/fs/protected_hardlinks")


class DestinationError(Exception):
    """The file cannot be created there; the text says why."""


class WriteError(Exception):
    """The system took no more bytes. In the file are ``records_written`` of those in this call.

    It ends with them, unless the file system takes not even that: one that became read-only, say.
    """

    def __init__(self, error: OSError, records_written: int = 0) -> None:
        super().__init__(error.strerror or str(error))
        self.errno = error.errno
        self.records_written = records_written

    @property
    def advice(self) -> str:
        """What a person can do about it."""
        return "make room there" if self.errno in (errno.ENOSPC, errno.EDQUOT) else "see the system's log"


def failure_of(error: Exception, otherwise: Failure) -> Failure:
    """Return why a file is not to be had: that no descriptor is left is no fault of its place."""
    cause = error.__cause__ or error
    return no_room(cause).failure if isinstance(cause, OSError) and is_out_of_descriptors(cause) else otherwise


def is_own(status: os.stat_result) -> bool:
    """Whether it is a regular file of our user."""
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def lock(descriptor: int) -> bool:
    """Take the lock of a file (flock(2)), which ends with the descriptor; say whether it could be had.

    It is waited for where a worker is about to end.

    Raises:
        OSError: the file system has no locks.
    """
    deadline_s = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_LOCK_POLL_S)
        else:
            return True


def is_named(directory_fd: int, name: str, descriptor: int) -> bool:
    """Whether a file of ours has a name: no other one does."""
    try:
        named = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(descriptor))


class KeptFile:
    """A file of ours in a directory, open or not."""

    def __init__(self, directory_fd: int, name: str, size_bytes: int, status: os.stat_result) -> None:
        """Note a file by what it is: its name may be another one's by the time that it is deleted.

        Args:
            directory_fd: where it is.
            name: what it is called there.
            size_bytes: of its own; the system's may be out of date.
            status: which file is meant.
        """
        self.name = name
        self.size_bytes: int = size_bytes
        self.directory_fd = directory_fd
        self._identity = _identity_of(status)
        #: Its number on its device.
        self.inode = status.st_ino

    def open_for_reading(self) -> int | None:
        """Return a further descriptor of the file, for reading; None if its name is another file's by now."""
        return self._open(os.O_RDONLY)

    def open_for_writing(self) -> int | None:
        """Return a further descriptor of the file, for reading too; None if its name is another file's by now."""
        return self._open(os.O_RDWR)

    def _open(self, flags: int) -> int | None:
        try:
            descriptor = self._open_again(flags | os.O_CLOEXEC)
        except OSError:
            return None
        if _identity_of(os.fstat(descriptor)) == self._identity:
            return descriptor
        os.close(descriptor)
        return None

    def _open_again(self, flags: int) -> int:
        # O_NONBLOCK: by now a FIFO may have the name.
        return os.open(self.name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self.directory_fd)

    def remove(self) -> None:
        """Delete the file, if what bears its name is still the file that was meant.

        Raises:
            DestinationError: it cannot be deleted.
        """
        try:
            status = os.stat(self.name, dir_fd=self.directory_fd, follow_symlinks=False)
            if _identity_of(status) == self._identity:
                os.unlink(self.name, dir_fd=self.directory_fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise DestinationError(f"{quoted(self.name)} cannot be deleted: {error.strerror}") from error


def _identity_of(status: os.stat_result) -> tuple[int, ...]:
    """Return what another file that comes to have the name does not share.

    An inode's number is used again when its file is gone: so the owner and the kind of file count as well.
    """
    return status.st_dev, status.st_ino, status.st_uid, stat.S_IFMT(status.st_mode)


class SaveFile(KeptFile):
    """An open capture file. ``size_bytes`` and what is on disk agree after every call."""

    def __init__(
        self, directory_fd: int, name: str, descriptor: int, status: os.stat_result, *, is_new: bool = True
    ) -> None:
        """Take over a descriptor, at the file's beginning.

        Args:
            directory_fd: where it is.
            name: what it is called there.
            descriptor: open for writing.
            status: which file it is.
            is_new: it was made for this; not: it was there before.
        """
        super().__init__(directory_fd, name, 0, status)
        self._fd = descriptor
        self.is_new = is_new

    @property
    def open_fd(self) -> int:
        """The open file."""
        return self._fd

    @property
    def file_bytes(self) -> int:
        """The size that it has as a file."""
        return self.size_bytes

    @property
    def disk_bytes(self) -> int:
        """What it takes now."""
        return self.size_bytes

    @property
    def saved_bytes(self) -> int:
        """How much of what was appended is in the file."""
        return self.size_bytes

    @property
    def end_bytes(self) -> int:
        """What closing it appends."""
        return 0

    @property
    def waits_since_s(self) -> float:
        """Since when what was appended waits to be written, by the monotonic clock; infinite where nothing does."""
        return inf

    def flush(self) -> None:
        """Have written what waits."""

    def settle(self) -> None:
        """Return when all that was appended is in the file."""

    def check(self) -> None:
        """Raise what has kept something that was appended from the file."""

    def give_way(self) -> None:
        """Let those have the file who wait to open it."""

    def write(self, data: bytes) -> None:
        """Append a header or a block.

        Raises:
            WriteError: it is not in the file, nor a part of it.
        """
        try:
            write_at(self._fd, data, self.size_bytes)
        except OSError as error:
            self._leave_whole()
            raise WriteError(error) from error
        self.size_bytes += len(data)

    def write_records(self, vectors: U64, timestamps_ns: U64 | None = None) -> None:
        """Append records from where they lie in memory.

        Args:
            vectors: rows of address and size in bytes.
            timestamps_ns: of each, for files that have an index of them.

        Raises:
            WriteError: not all of them are in the file; it ends after the last whole one.
        """
        if _lie_side_by_side(vectors):
            address = int(vectors[0, 0])
            size_bytes = int(vectors[-1].sum()) - address
            written = _pwrite(self._fd, address, size_bytes, self.size_bytes)
            if written != size_bytes:
                self._write_rest(vectors, 0, written)
            self.size_bytes += size_bytes
            return
        vectors = np.ascontiguousarray(vectors)
        starts = range(0, len(vectors), _VECTORS_AT_ONCE)
        expected: list[int] = np.add.reduceat(vectors[:, 1], starts).tolist() if len(vectors) else []
        address = vectors.ctypes.data
        for start, size_bytes in zip(starts, expected, strict=True):
            count = min(_VECTORS_AT_ONCE, len(vectors) - start)
            written = _pwritev(self._fd, address + start * _VECTOR_BYTES, count, self.size_bytes)
            if written != size_bytes:
                self._write_rest(vectors[start : start + count], start, written)
            self.size_bytes += size_bytes

    def append_from(self, descriptor: int, start: int, size_bytes: int) -> int:
        """Append bytes of another file, which are read at once; return how many it were, at least one.

        Raises:
            WriteError: none is in the file.
        """
        try:
            data = os.pread(descriptor, size_bytes, start)
            appended = os.pwrite(self._fd, data, self.size_bytes)
        except OSError as error:
            raise WriteError(error) from error
        if not appended:
            raise WriteError(OSError(errno.EIO, os.strerror(errno.EIO)))
        self.size_bytes += appended
        return appended

    def cut_back_to(self, size_bytes: int) -> None:
        """Leave so many bytes of what there is.

        Raises:
            WriteError: more of it is there.
        """
        self.size_bytes = size_bytes
        try:
            self._cut_back()
        except OSError as error:
            raise WriteError(error) from error

    def _write_rest(self, vectors: U64, before: int, written: int) -> None:
        """Go on where the system stopped: after a signal it takes the rest, on a full disk it says so."""
        ends = np.cumsum(vectors[:, 1].astype(np.int64))
        done = max(written, 0)
        error = ctypes.get_errno() if written < 0 else 0
        while done < ends[-1]:
            if error and error != errno.EINTR:
                whole = int(np.searchsorted(ends, done, "right"))
                self.size_bytes += int(ends[whole - 1]) if whole else 0
                self._leave_whole()
                raise WriteError(OSError(error, os.strerror(error)), before + whole)
            first = int(np.searchsorted(ends, done, "right"))
            rest = vectors[first:].copy()
            inside = done - (int(ends[first - 1]) if first else 0)
            rest[0, 0] += np.uint64(inside)
            rest[0, 1] -= np.uint64(inside)
            taken = _pwritev(self._fd, rest.ctypes.data, min(len(rest), _VECTORS_AT_ONCE), self.size_bytes + done)
            error = ctypes.get_errno() if taken < 0 else 0
            done += max(taken, 0)

    def _leave_whole(self) -> None:
        """Cut back after a write that has failed. That write's error is reported, also where the cut fails."""
        with contextlib.suppress(OSError):
            self._cut_back()

    def _cut_back(self) -> None:
        os.ftruncate(self._fd, self.size_bytes)

    def close(self) -> None:
        """Close the file.

        Raises:
            WriteError: the system reports only now that it could not write (as network file systems do).
        """
        try:
            os.close(self._fd)
        except OSError as error:
            raise WriteError(error) from error


def write_at(descriptor: int, data: bytes, position: int) -> None:
    """Write all of this to a file, at a position.

    Raises:
        OSError: only a part of it is there, or nothing.
    """
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], position + written)


def _lie_side_by_side(vectors: U64) -> bool:
    """Whether each of two or more records begins where the one before it ends."""
    if len(vectors) < 2 or vectors[0, 0] + vectors[0, 1] != vectors[1, 0]:
        return False
    return bool((vectors[1:, 0] - vectors[:-1, 0] == vectors[:-1, 1]).all())


def create_file(directory_fd: int, name: str, *, group_access: bool, exclusive: bool) -> SaveFile:
    """Create a file, or empty the regular file of that name, if it is our user's and no other capture writes it.

    Raises:
        DestinationError: it cannot be created, or what is there is not to be emptied.
    """
    while True:
        try:
            descriptor, is_new = _create_or_open(directory_fd, name, group_access=group_access, exclusive=exclusive)
        except OSError as error:
            raise DestinationError(_explain(name, error)) from error
        try:
            status = os.fstat(descriptor)
            obstacle = None if is_new else _obstacle(status)
            if obstacle is None and not _is_lockable(descriptor):
                obstacle = "is written by another capture: name another"
            if obstacle is not None:
                raise DestinationError(f"{quoted(name)} {obstacle}")
            if is_new:
                return SaveFile(directory_fd, name, descriptor, status)
            if is_named(directory_fd, name, descriptor):
                os.ftruncate(descriptor, 0)
                return SaveFile(directory_fd, name, descriptor, status, is_new=False)
        except OSError as error:
            os.close(descriptor)
            raise DestinationError(_explain(name, error)) from error
        except DestinationError:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever wrote it has deleted it


def _create_or_open(directory_fd: int, name: str, *, group_access: bool, exclusive: bool) -> tuple[int, bool]:
    """Return the descriptor of a file, and whether it is new.

    Raises:
        OSError: there can be none.
    """
    # O_NONBLOCK: a FIFO of that name must not block us; on a regular file it does nothing. It is emptied only after a
    # look at what was opened.
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        # What we make ourselves is ours, whatever the file system says of its owner (NFS, root_squash).
        mode = file_mode(group_access=group_access)
        return os.open(name, flags | os.O_CREAT | os.O_EXCL, mode, dir_fd=directory_fd), True
    except FileExistsError:
        if exclusive:
            raise
    return os.open(name, flags, dir_fd=directory_fd), False


def _is_lockable(descriptor: int) -> bool:
    """Lock a file as long as it is written; say whether no other capture writes it."""
    try:
        return lock(descriptor)
    except OSError:  # a file system without locks: nobody can tell
        return True


def _obstacle(status: os.stat_result) -> str | None:
    """Say why a file that was there before is not to be emptied and written; None: it may be."""
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file: name another"
    if not is_own(status):
        return "is another user's, who could read what is captured: remove it, or name another"
    # Somebody else may have given this name to a file that is meant to be kept.
    if status.st_nlink > 1 and not _links_are_owners():
        return "has another name too, a hard link: remove it, or name another"
    return None


def _links_are_owners() -> bool:
    """Whether nobody makes hard links to a file who could not write it."""
    try:
        return _PROTECTED_HARDLINKS.read_text().strip() not in ("", "0")
    except OSError:
        return False


class UnnamedFile(SaveFile):
    """A file that no name leads to: its room is free when nobody has it open any more."""

    def _open_again(self, flags: int) -> int:
        # Of the thread that writes it: the one that passes files has descriptors of its own.
        return os.open(f"/proc/self/task/{os.getpid()}/fd/{self._fd}", flags)

    def remove(self) -> None:
        """Do nothing: it is gone when it is closed everywhere."""


def create_unnamed_file(
    directory_fd: int, destination: Destination, number: int, opened: time.struct_time
) -> UnnamedFile:
    """Create a file of a ring that has no name in the directory, only for those who are passed it.

    Raises:
        DestinationError: it cannot be created.
    """
    # With O_EXCL, nobody can give it a name later, either.
    flags = os.O_TMPFILE | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    try:
        descriptor = os.open(".", flags, file_mode(group_access=False), dir_fd=directory_fd)
    except OSError as error:
        raise DestinationError(f"no file without a name can be made in memory: {error.strerror}") from error
    return UnnamedFile(directory_fd, name_of(destination, number, opened), descriptor, os.fstat(descriptor))


def create_ring_file(directory_fd: int, destination: Destination, number: int, opened: time.struct_time) -> SaveFile:
    """Create a file of a ring, under this number or the next one whose name nothing has.

    Raises:
        DestinationError: it cannot be created.
    """
    for each in range(number, number + _MOST_NAMES):
        name = name_of(destination, each, opened)
        try:
            return create_file(directory_fd, name, group_access=destination.group_access, exclusive=True)
        except DestinationError as error:
            if not isinstance(error.__cause__, FileExistsError):
                raise
    name = name_of(destination, number, opened)
    raise DestinationError(f"{quoted(name)} and {_MOST_NAMES - 1} others after it exist already: name another file")


def name_of(destination: Destination, number: int, opened: time.struct_time) -> str:
    """Return what a file of a ring is called."""
    return ring_file_name(destination.file_name, number, opened, time_first=destination.time_first)


def file_mode(*, group_access: bool) -> int:
    """Return who may read the files."""
    return 0o640 if group_access else 0o600


def files_left(directory_fd: int, file_name: str) -> dict[str, os.stat_result]:
    """Return the ring files of our user's earlier captures to that destination, by name.

    Empty where the directory cannot be read.
    """
    found: dict[str, os.stat_result] = {}
    try:
        readable_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory_fd)
    except OSError:
        return found
    try:
        with os.scandir(readable_fd) as entries:
            for entry in entries:
                if number_of(file_name, entry.name) is not None:
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if is_own(status):
                            found[entry.name] = status
    finally:
        os.close(readable_fd)
    return found


def _explain(file_name: str, error: OSError) -> str:
    name = quoted(file_name)
    match error.errno:
        case errno.EISDIR:
            return f"{name} is a directory: name a file in it"
        case errno.ELOOP:
            return f"{name} is a symbolic link: name the file that it points to"
        case errno.EEXIST:
            return f"{name} exists already"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"{name} cannot be written there: {os.strerror(error.errno)}"
        case errno.ENXIO:
            return f"{name} is not a regular file: name another"
        case _:
            return f"{name} cannot be created: {error.strerror}"
