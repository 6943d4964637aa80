"""The directory for a capture's files and its streams, as they come to the worker: on a socket.

They come from the client, or the directory from an earlier worker.

Whatever else a client sends there is closed here, by a process that is the user's own.
"""

import contextlib
import fcntl
import os
import select
import socket
import time

from capd.filters.compiler import CaptureFailed
from capd.launch import DirectoryComes
from capd.linux.descriptors import DescriptorsDropped, receive
from capd.worker.control import ControlSocket, DaemonGone
from capd_protocol.messages import Failure, FailureCode

#: SCM_MAX_FD (net/scm.h): all that one message can bring.
_MAX_DESCRIPTORS = 253
#: Chosen: a client has nothing else to do when it is asked.
_PATIENCE_S = 10.0
#: Of a path that is reported. Chosen: what can be shown, and many times what directories are called.
_MAX_PATH_BYTES = 1024
_ONLY_NAMES_A_DIRECTORY = os.O_PATH | os.O_DIRECTORY


def take_directory(
    channel: socket.socket, comes: DirectoryComes, control: ControlSocket, streams: int = 0
) -> tuple[int, list[int]]:
    """Wait for the directory and the streams, and return their descriptors.

    That of the directory only names it (O_PATH | O_DIRECTORY): looking at it waits for nobody. Nothing more is taken
    from the client then.

    Args:
        channel: on which they come; stays the caller's.
        comes: how.
        control: shows whether they are still wanted.
        streams: how many come along.

    Raises:
        CaptureFailed: they do not come, or it is no directory.
        DescriptorsDropped: this process may have no more.
        DaemonGone: the capture is not wanted any more.
    """
    if comes == DirectoryComes.KEPT:
        return take_kept(channel), []
    _wait(channel, control)
    try:
        directory_fd, *others = _checked(_receive(channel), 1 + streams)
        return directory_fd, others
    finally:
        _take_no_more(channel)


def take_kept(envelope: socket.socket) -> int:
    """Return the descriptor of a directory that was kept; it stays for others.

    Raises:
        CaptureFailed: there is none.
    """
    return _checked(_receive(envelope, socket.MSG_PEEK), 1)[0]


def path_of(directory_fd: int) -> str | None:
    """Return what the kernel calls a directory, to be shown; None where it is too long, or there is no /proc.

    It is not looked up: nothing waits for the file system, and no right to enter it is needed.
    """
    try:
        path = os.fsencode(os.readlink(f"/proc/self/fd/{directory_fd}"))  # noqa: PTH115  # it need not be one here
    except OSError:
        return None
    return path.decode(errors="backslashreplace") if len(path) <= _MAX_PATH_BYTES else None


def keep_directory(directory_fd: int, envelope: socket.socket) -> None:
    """Leave the directory in a socket, for later workers of the capture."""
    with envelope:
        socket.send_fds(envelope, [b"d"], [directory_fd])


def _wait(channel: socket.socket, control: ControlSocket) -> None:
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(control.socket, select.POLLRDHUP)
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        ready = dict(poll.poll(max(deadline_s - time.monotonic(), 0) * 1000))
        if control.socket.fileno() in ready:
            raise DaemonGone
        if ready:
            return
        if time.monotonic() >= deadline_s:
            text = f"the client has passed no directory for the files within {_PATIENCE_S:g} s"
            raise CaptureFailed(Failure(code=FailureCode.PROTOCOL, text=text))


def _receive(channel: socket.socket, flags: int = 0) -> list[int]:
    """Return the descriptors of the next message; none where there is no further one."""
    _, descriptors = receive(channel, 1, _MAX_DESCRIPTORS, flags | socket.MSG_DONTWAIT)
    return descriptors


def _checked(descriptors: list[int], wanted: int) -> list[int]:
    """Return so many descriptors, if it is so many, and the first names a directory; else all are closed."""
    if len(descriptors) != wanted:
        text = f"{len(descriptors)} descriptors came, and not {wanted}: of the directory for the files, and of streams"
        failure = Failure(code=FailureCode.PROTOCOL, text=text)
    elif fcntl.fcntl(descriptors[0], fcntl.F_GETFL) & _ONLY_NAMES_A_DIRECTORY != _ONLY_NAMES_A_DIRECTORY:
        text = "the descriptor that came names no directory: open one with O_PATH and O_DIRECTORY"
        failure = Failure(code=FailureCode.DESTINATION, text=text, argument="savefile")
    else:
        return descriptors
    for descriptor in descriptors:
        os.close(descriptor)
    raise CaptureFailed(failure)


def _take_no_more(channel: socket.socket) -> None:
    """Have the client send nothing more, and close what it has sent: its own end of the connection, say."""
    channel.shutdown(socket.SHUT_RD)
    with contextlib.suppress(BlockingIOError, ConnectionResetError):
        while True:
            try:
                descriptors = _receive(channel)
            except DescriptorsDropped:  # closed, as the others are
                continue
            if not descriptors:
                return
            for descriptor in descriptors:
                os.close(descriptor)
