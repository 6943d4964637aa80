"""The socket that clients connect to: bound here, or passed by a service manager."""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Generator, Sequence
from pathlib import Path

from capd import systemd
from capd.errors import StartError
from capd.systemd import Inherited

DEFAULT_SOCKET = Path("/run/capd/capd.sock")
#: Everybody may connect: who may capture is decided by who the kernel says is asking.
_SOCKET_UMASK = 0o111
_BACKLOG = 128


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on any more."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise StartError(f"{path} exists and is not a socket: choose another place with --socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise StartError(f"another capd listens on {path}")


def _listen(path: Path) -> socket.socket:
    """Bind the socket; it has its final mode from the first moment."""
    try:
        if path == DEFAULT_SOCKET:
            path.parent.mkdir(mode=0o755, exist_ok=True)
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        before = os.umask(_SOCKET_UMASK)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
    except OSError as error:
        text = "the path is too long for a socket" if error.errno is None else os.strerror(error.errno)
        if error.errno in (errno.EACCES, errno.EPERM):
            text += ": start it as root, or choose another place with --socket"
        raise StartError(f"cannot listen on {path}: {text}") from error
    listener.listen(_BACKLOG)
    return listener


@contextlib.contextmanager
def listening(path: Path, passed: Sequence[Inherited] = ()) -> Generator[socket.socket, None, None]:
    """Listen while the block lasts.

    Args:
        path: where, unless a service manager does.
        passed: what that has passed.

    Raises:
        StartError: the socket cannot be there.
        ServiceManagerError: what a service manager has passed is no such socket.
    """
    inherited = systemd.listener_among(passed)
    if inherited is not None:
        # The socket stays when we go: it is the service manager's.
        with inherited:
            yield inherited
        return
    listener = _listen(path)
    ours = path.lstat().st_ino
    try:
        yield listener
    finally:
        listener.close()
        with contextlib.suppress(OSError):
            if path.lstat().st_ino == ours:  # a service manager may have put its own in our place
                path.unlink()
