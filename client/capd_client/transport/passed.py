"""The files of a capture: as its process passes them, open for reading, wherever they lie; or in their directory."""

import contextlib
import errno
import os
import select
import socket
import stat
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence

#: Files that are kept open, the latest ones; beyond, they must be opened by name. Chosen: what a program may be
#: behind with, far below the usual 1024 descriptors.
_MAX_FILES = 32
#: Of these, files that their ring has deleted: each takes its place on the disk until it is closed here.
_MAX_DELETED = 2
#: How long a capture may take to pass a file. Chosen: as long as for anything else that it is asked to do.
_ANSWER_S = 10.0
#: NAME_MAX (linux/limits.h).
_MAX_NAME_BYTES = 255


class DescriptorDropped(OSError):
    """The kernel has dropped the descriptor that came along: this process may have no more (RLIMIT_NOFILE)."""

    def __init__(self) -> None:
        super().__init__(errno.EMFILE, os.strerror(errno.EMFILE))


def receive(connection: socket.socket, size_bytes: int) -> tuple[bytes, int | None]:
    """Return bytes, and the descriptor that came with them, if one did: ours, and not of programs that we start.

    ``socket.recv_fds`` passes no flags on before Python 3.12.

    Raises:
        DescriptorDropped: one did, and is lost; with it the bytes.
        OSError: as recvmsg(2).
    """
    data, ancillary, flags, _ = connection.recvmsg(size_bytes, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    if flags & socket.MSG_CTRUNC:
        raise DescriptorDropped
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            return data, int.from_bytes(payload[:4], sys.byteorder)
    return data, None


class CaptureFiles:
    """Where the files of a capture can be had."""

    @property
    def directory(self) -> "Directory | None":
        """Their directory, where this program can enter it by itself."""
        return None

    def open(self, name: str) -> int | None:
        """Return a new descriptor of a file, at its beginning; None: it must be opened by its path.

        Raises:
            OSError: it cannot be had at all.
        """
        raise NotImplementedError

    def path_of(self, name: str) -> str:
        """Return a file's path; its bare name where no path leads there from here."""
        directory = self.directory
        return os.path.join(directory.path, name) if directory is not None else name  # noqa: PTH118

    def take(self) -> None:
        """Take what has come."""

    def close(self) -> None:
        """Close everything; descriptors that were returned stay open."""
        raise NotImplementedError


class Directory(CaptureFiles):
    """The directory of the files: they are opened with this program's own rights."""

    def __init__(self, descriptor: int, path: str | None = None) -> None:
        """Take over a descriptor that names the directory, and its path, if it is known."""
        self._descriptor = descriptor
        self._path = path

    @property
    def directory(self) -> "Directory":
        """Itself."""
        return self

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

    def fileno(self) -> int:
        """Return its descriptor, which stays its own."""
        return self._descriptor

    def duplicate(self) -> int:
        """Return a further descriptor of it, which is the caller's."""
        return os.dup(self._descriptor)

    def close(self) -> None:
        """Close the directory."""
        os.close(self._descriptor)


def open_regular(name: str, directory_fd: int) -> int:
    """Open a regular file for reading, and nothing else: no link is followed, no FIFO is waited for.

    One that its capture is just writing over an older one is given when it has been made ready, in a moment: the kernel
    keeps its opener waiting, at most for ``/proc/sys/fs/lease-break-time``.

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
    """Files that are passed as they are opened. Owns the socket, and the descriptors that came on it."""

    def __init__(self, channel: socket.socket, directory: Directory | None, *, are_unnamed: bool = False) -> None:
        """Take over the socket on which they come, and their directory, if it is to be had as well.

        Args:
            channel: the socket.
            directory: where they are.
            are_unnamed: no name leads to them, and that tells nothing of what is deleted.
        """
        self._socket = channel
        self._directory = directory
        self._are_unnamed = are_unnamed
        channel.setblocking(False)
        self._files: OrderedDict[str, int] = OrderedDict()

    @property
    def directory(self) -> Directory | None:
        """Their directory, where it was kept."""
        return self._directory

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
                try:
                    name, descriptor = receive(self._socket, _MAX_NAME_BYTES)
                except DescriptorDropped:  # as if it had been passed too long ago
                    continue
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
        if self._are_unnamed:
            return
        deleted = [name for name, descriptor in self._files.items() if not os.fstat(descriptor).st_nlink]
        for name in deleted[:-_MAX_DELETED]:
            os.close(self._files.pop(name))

    def close(self) -> None:
        """Close everything; descriptors that were returned stay open."""
        self._socket.close()
        while self._files:
            os.close(self._files.popitem()[1])
        if self._directory is not None:
            self._directory.close()


class FilesOnRequest(CaptureFiles):
    """Files of a capture that somebody else may have started: its process passes them when they are asked for by name.

    The current file comes unasked. It shows where the files are: this program opens them there by itself, if it can.
    """

    def __init__(self, channel: socket.socket) -> None:
        """Take over the socket on which they are asked for."""
        self._socket = channel
        self._directory: Directory | None = None
        self._asking = threading.Lock()
        channel.setblocking(False)

    @property
    def directory(self) -> Directory | None:
        """Their directory, if a path leads there from here."""
        return self._directory

    def take(self) -> None:
        """Take the file that comes unasked."""
        with self._asking:
            self._receive("")

    def path_of(self, name: str) -> str:
        """Return a file's path; its bare name where no path leads there from here."""
        if self._directory is None:
            with contextlib.suppress(OSError):
                os.close(self._ask(name))
        return super().path_of(name)

    def open(self, name: str) -> int:
        """Return a new descriptor of a file, at its beginning.

        Raises:
            OSError: there is no such file, or the capture has ended, or does not answer.
        """
        if self._directory is not None:
            return open_regular(name, self._directory.fileno())
        return self._ask(name)

    def _ask(self, name: str) -> int:
        with self._asking:
            self._socket.send(os.fsencode(name))
            deadline_s = time.monotonic() + _ANSWER_S
            while (left_s := deadline_s - time.monotonic()) > 0 and select.select([self._socket], [], [], left_s)[0]:
                descriptor = self._receive(name)
                if descriptor is not None:
                    return descriptor
        raise TimeoutError(errno.ETIMEDOUT, "the capture does not pass the file", name)

    def _receive(self, wanted: str) -> int | None:
        """Take what has come, and return the file that was wanted, if it is among that.

        Raises:
            OSError: there is no such file, or nothing more will come, or no descriptor is left.
        """
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    data, descriptor = receive(self._socket, _MAX_NAME_BYTES)
                except DescriptorDropped:
                    if wanted:
                        raise
                    continue
                name = os.fsdecode(data)
                if descriptor is not None and self._directory is None:
                    self._directory = _directory_of(descriptor, name)
                if wanted and name in (wanted, ""):
                    if descriptor is not None:
                        return descriptor
                    raise FileNotFoundError(errno.ENOENT, "the capture has no such file, or has ended", wanted)
                if descriptor is None:
                    return None
                os.close(descriptor)
        return None

    def close(self) -> None:
        """Close everything; descriptors that were returned stay open."""
        self._socket.close()
        if self._directory is not None:
            self._directory.close()


def _directory_of(descriptor: int, name: str) -> Directory | None:
    """Return the directory in which a file is; None where no path leads there from here."""
    with contextlib.suppress(OSError):
        path, found = os.path.split(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115
        directory_fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
            if found == name and os.path.samestat(status, os.fstat(descriptor)):
                return Directory(directory_fd, path)
        os.close(directory_fd)
    return None


def pass_descriptors(channel: socket.socket, descriptors: Sequence[int]) -> None:
    """Send directory and streams to the capture's process. One that has gone needs none: the daemon reports it."""
    with contextlib.suppress(OSError):
        socket.send_fds(channel, [b"d"], descriptors)
