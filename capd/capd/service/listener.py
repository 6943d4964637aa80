"""The socket that clients connect to: bound here, or passed by a service manager."""

import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Generator, Sequence
from pathlib import Path

import trio

from capd.errors import StartError
from capd.linux.descriptors import refuse_rights
from capd.service import systemd
from capd.service.systemd import Inherited

_log = logging.getLogger(__name__)

DEFAULT_SOCKET = Path("/run/capd/capd.sock")
#: Everybody may connect: what a client may do depends on the user that the kernel names.
_SOCKET_UMASK = 0o111
_BACKLOG = 128
#: accept(2) fails for these because of somebody else, and works again later.
_OVERLOAD = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
#: Or for these, of one connection, which has gone already; the next one is another matter.
_GONE = (
    *(errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENOPROTOOPT, errno.EOPNOTSUPP),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENONET),
)
_OVERLOAD_PAUSE_S = 0.1


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on any more."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise StartError(f"{path} exists and is not a socket: choose another place")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # it has as many waiting as it may
    raise StartError(f"another capd listens on {path}")


def bind(path: Path, umask: int) -> socket.socket:
    """Bind a socket; it has its final mode from the first moment.

    Raises:
        StartError: something else is there.
        OSError: it cannot be there; without an error number where the path is too long.
    """
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    refuse_rights(listener)
    # Nothing else that this process makes meanwhile is affected: a worker sets its own.
    before = os.umask(umask)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def remove_own(path: Path, inode: int) -> None:
    """Remove the path of a socket that is closed, if it is still that socket's."""
    with contextlib.suppress(OSError):
        if path.lstat().st_ino == inode:  # a service manager may have put its own in our place
            path.unlink()


class Reserve:
    """A descriptor that is given up for a connection where no other is left, so that the client can be refused."""

    def __init__(self) -> None:
        """Have none yet."""
        self._descriptor: int | None = None
        #: Whether the connection that was accepted last has it.
        self.is_lent = False

    def take(self) -> None:
        """Have one, if one is left, and it is not lent."""
        if self._descriptor is None and not self.is_lent:
            with contextlib.suppress(OSError):
                self._descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def lend(self) -> bool:
        """Give it up; say whether there was one."""
        self.is_lent = self._descriptor is not None
        self.close()
        return self.is_lent

    def close(self) -> None:
        """Close it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


async def accepted(listener: trio.socket.SocketType, reserve: Reserve | None = None) -> trio.socket.SocketType:
    """Return the next connection, as soon as there is one and room for it.

    Args:
        listener: where it comes.
        reserve: makes room for one more, which is to be refused: ``is_lent`` says so.
    """
    if reserve is not None:
        reserve.is_lent = False
    while True:
        # Before accept(2): where no descriptor is left, that fails before it looks.
        await trio.lowlevel.wait_readable(listener)
        if reserve is not None:
            reserve.take()
        try:
            connection, _ = await listener.accept()
        except OSError as error:
            if error.errno in _OVERLOAD:
                if reserve is not None and reserve.lend():
                    continue
                _log.error("cannot accept a client: %s", error)
                await trio.sleep(_OVERLOAD_PAUSE_S)
            elif error.errno not in _GONE:
                raise
        else:
            return connection


def _listen(path: Path) -> socket.socket:
    try:
        if path == DEFAULT_SOCKET:
            path.parent.mkdir(mode=0o755, exist_ok=True)
        listener = bind(path, _SOCKET_UMASK)
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
    with _of_manager(inherited) if inherited is not None else _own(path) as listener:
        yield listener


@contextlib.contextmanager
def listening_for_containers(
    path: Path | None, clients: Path, passed: Sequence[Inherited] = ()
) -> Generator[socket.socket | None, None, None]:
    """Listen for clients in containers while the block lasts, if that is wanted.

    Args:
        path: where, unless a service manager does; None: nowhere.
        clients: where the others connect.
        passed: what that has passed.

    Raises:
        StartError: the socket cannot be there.
        ServiceManagerError: what a service manager has passed is no such socket.
    """
    inherited = systemd.containers_listener_among(passed)
    if inherited is not None:
        with _of_manager(inherited) as listener:
            yield listener
    elif path is None:
        yield None
    elif path.parent.resolve() == clients.parent.resolve():
        text = "a container that is given its directory would have the other socket too: choose another directory"
        raise StartError(f"cannot listen on {path}: {text}")
    else:
        with _own(path) as listener:
            yield listener


@contextlib.contextmanager
def _of_manager(inherited: socket.socket) -> Generator[socket.socket, None, None]:
    refuse_rights(inherited)
    try:
        yield inherited
    finally:
        inherited.detach()  # it stays when we go


@contextlib.contextmanager
def _own(path: Path) -> Generator[socket.socket, None, None]:
    listener = _listen(path)
    inode = path.lstat().st_ino
    try:
        yield listener
    finally:
        # Left to the end of this process: connections that nobody has accepted may hold descriptors of clients', and
        # nothing of theirs lingers for a process that ends.
        listener.shutdown(socket.SHUT_RDWR)
        listener.detach()
        remove_own(path, inode)
