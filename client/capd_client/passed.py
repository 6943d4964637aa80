"""The files of a capture, as its worker passes them: open for reading, wherever they lie."""

import contextlib
import errno
import os
import socket
import stat
import sys
from collections import OrderedDict

#: Files that are kept open, the latest ones; beyond, they must be opened by name. Chosen: what a program may be
#: behind with, far below the usual 1024 descriptors.
_MAX_FILES = 32
#: Of these, files that their ring has deleted: each takes its place on the disk until it is closed here.
_MAX_DELETED = 2
#: NAME_MAX (linux/limits.h).
_MAX_NAME_BYTES = 255


def receive(connection: socket.socket, size_bytes: int) -> tuple[bytes, int | None]:
    """Return bytes, and the descriptor that came with them, if one did: ours, and not of programs that we start.

    ``socket.recv_fds`` passes no flags on before Python 3.12.
    """
    data, ancillary, _, _ = connection.recvmsg(size_bytes, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            return data, int.from_bytes(payload[:4], sys.byteorder)
    return data, None


class CaptureFiles:
    """Where the files of a capture can be had."""

    def open(self, name: str) -> int | None:
        """Return a new descriptor of a file, at its beginning; None: it must be opened by its path.

        Raises:
            OSError: it cannot be had at all.
        """
        raise NotImplementedError

    def take(self) -> None:
        """Take what has come."""

    def close(self) -> None:
        """Close everything; descriptors that were returned stay open."""
        raise NotImplementedError


def files_from(descriptor: int) -> CaptureFiles:
    """Return what a descriptor that came from the daemon gives; it is taken over."""
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        return Directory(descriptor)
    return FileReceiver(socket.socket(fileno=descriptor))


class Directory(CaptureFiles):
    """The directory of the files, as the daemon passes it: they are opened with this program's own rights."""

    def __init__(self, descriptor: int) -> None:
        """Take over a descriptor that names the directory."""
        self._descriptor = descriptor
        self._path: str | None = None

    @property
    def path(self) -> str:
        """Where it is here; empty if no path leads there."""
        if self._path is None:
            path = os.readlink(f"/proc/self/fd/{self._descriptor}")  # noqa: PTH115
            try:
                is_there = os.path.samestat(os.stat(path), os.fstat(self._descriptor))  # noqa: PTH116
            except OSError:
                is_there = False
            self._path = path if is_there else ""
        return self._path

    def open(self, name: str) -> int | None:
        """Return a new descriptor of a file.

        The directory is its owner's, who may not be this user: what bears the name must be a regular file, and links
        are not followed.

        Raises:
            OSError: it cannot be opened.
        """
        return open_regular(os.path.basename(name), self._descriptor)  # noqa: PTH119

    def duplicate(self) -> int:
        """Return a further descriptor of it, which is the caller's."""
        return os.dup(self._descriptor)

    def close(self) -> None:
        """Close the directory."""
        os.close(self._descriptor)


def open_regular(name: str, directory_fd: int) -> int:
    """Open a regular file for reading, and nothing else: no link is followed, no FIFO is waited for.

    One that its capture is just writing over an older one is given when it has been made ready, in a moment: the kernel
    keeps who opens it waiting, at most for ``/proc/sys/fs/lease-break-time``.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(found)


class FileReceiver(CaptureFiles):
    """Owns the socket, and the descriptors that came on it."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        connection.setblocking(False)
        self._files: OrderedDict[str, int] = OrderedDict()

    def open(self, name: str) -> int | None:
        """Return a new descriptor of a file, at its beginning; None if it was not passed, or too long ago."""
        self.take()
        descriptor = self._files.get(name)
        # Not dup(2): the copy would share its position with this one.
        return None if descriptor is None else os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)

    def take(self) -> None:
        """Take what has come: only so many files may wait; and let go of what was deleted meanwhile."""
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while True:
                name, descriptor = receive(self._socket, _MAX_NAME_BYTES)
                if descriptor is None:
                    return  # the worker has ended
                former = self._files.pop(os.fsdecode(name), None)
                if former is not None:
                    os.close(former)
                self._files[os.fsdecode(name)] = descriptor
                self._let_go()
        self._let_go()

    def _let_go(self) -> None:
        if len(self._files) > _MAX_FILES:
            os.close(self._files.popitem(last=False)[1])
        deleted = [name for name, descriptor in self._files.items() if not os.fstat(descriptor).st_nlink]
        for name in deleted[:-_MAX_DELETED]:
            os.close(self._files.pop(name))

    def close(self) -> None:
        """Close everything; descriptors that were returned stay open."""
        self._socket.close()
        while self._files:
            os.close(self._files.popitem()[1])
