"""Metrics for Prometheus: on or off, and where, as the configuration says.

Metrics help to look after the daemon, and no more: where they cannot be served, that is logged, and captures go on. The
libraries that serve them are imported when metrics are switched on.
"""

import contextlib
import importlib.util
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from capd.captures.registry import Captures
from capd.config.reader import MetricsAddress, MetricsSocket
from capd.errors import StartError
from capd.policy.peer import NOBODY
from capd.service.listener import bind, remove_own
from capd.supervisor.closer import Closer
from capd.supervisor.guarded import GuardedSocket

_log = logging.getLogger(__name__)

#: Short: those that wait are served soon, or have been waiting for too long.
_BACKLOG = 16
#: The socket's mode is 0660 with a group, else 0600.
_UMASK_WITH_GROUP, _UMASK = 0o117, 0o177
_MODULES = ("prometheus_client", "h11")

Place = MetricsSocket | MetricsAddress


class Metrics:
    """Serves metrics at one place, or nowhere."""

    def __init__(self, captures: Captures, clients: Callable[[], int], sent: Callable[[], int], closer: Closer) -> None:
        """Nothing is served yet.

        Args:
            captures: whose counts are shown.
            clients: how many are connected.
            sent: how many packets they have sent.
            closer: closes connections that may hold descriptors.
        """
        self._captures = captures
        self._clients = clients
        self._sent = sent
        self._closer = closer
        self._place: Place | None = None
        self._stop: Callable[[], None] = lambda: None

    def switch(self, place: Place | None, nursery: trio.Nursery) -> None:
        """Serve at this place, or nowhere, from now on. Where it cannot be, that is logged, and tried again next time.

        Args:
            place: where; where they are served already, nothing happens.
            nursery: runs until the daemon ends.
        """
        if place == self._place:
            return
        self._stop()
        self._stop, self._place = (lambda: None), None
        if place is None:
            _log.info("metrics are served no longer")
            return
        try:
            serve = self._server_of_pages()
            listener, close = _listen(place, self._closer)
        except (StartError, OSError, ImportError) as error:
            _log.error("metrics cannot be served at %s: %s; captures go on without", place, _reason(error))
            return
        scope = trio.CancelScope()

        def stop() -> None:
            scope.cancel()
            close()

        self._place, self._stop = place, stop
        nursery.start_soon(self._run, partial(serve, listener), scope, close)
        _log.info("metrics are served at %s", place)

    def _server_of_pages(self) -> Callable[[trio.socket.SocketType], Awaitable[None]]:
        """Return what serves metrics on a socket.

        Raises:
            ImportError: a library is missing.
        """
        _check_modules()
        from capd.metrics.http import serve  # noqa: PLC0415  # h11
        from capd.metrics.page import Page  # noqa: PLC0415  # prometheus_client

        page = Page(self._captures, self._clients, self._sent)
        return partial(serve, page=page.text, closer=self._closer)

    async def _run(
        self, serve: Callable[[], Awaitable[None]], scope: trio.CancelScope, close: Callable[[], None]
    ) -> None:
        try:
            with scope:
                await serve()
        except Exception:
            # The socket is of no use any more, or there is a bug. The captures shall not end with it.
            _log.exception("metrics are served no longer, until the configuration is read again; captures go on")
            self._place = None
        finally:
            close()


def _reason(error: Exception) -> str:
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)


def _check_modules() -> None:
    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"Python finds no {' and no '.join(missing)}: install capd with its extra 'metrics'")


def _listen(place: Place, closer: Closer) -> tuple[trio.socket.SocketType, Callable[[], None]]:
    """Return a listening socket, and what closes it and removes its path.

    Raises:
        StartError: something else is there.
        OSError: it cannot be there.
    """
    bound = _bind_address(place) if isinstance(place, MetricsAddress) else _bind_socket(place)
    bound.listen(_BACKLOG)
    listener = trio.socket.from_stdlib_socket(bound)
    # What is done once is not done again: the next socket there may have the same inode number.
    closing = contextlib.ExitStack()
    if isinstance(place, MetricsSocket):
        closing.callback(remove_own, place.path, place.path.lstat().st_ino)
    closing.callback(GuardedSocket(listener, closer).close, NOBODY)
    return listener, closing.close


def _bind_address(place: MetricsAddress) -> socket.socket:
    listener = socket.socket(_family(place), socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(place.host), place.port))
    except OSError:
        listener.close()
        raise
    return listener


def _bind_socket(place: MetricsSocket) -> socket.socket:
    with contextlib.suppress(FileExistsError):
        place.path.parent.mkdir(mode=0o755)
        place.path.parent.chmod(0o755)  # whatever the umask: the socket's mode decides who may connect
    if place.group_id is None:
        return bind(place.path, _UMASK)
    former = os.getegid()
    # What is made belongs to the effective group; giving it away afterwards would take a further privilege.
    os.setegid(place.group_id)
    try:
        return bind(place.path, _UMASK_WITH_GROUP)
    finally:
        os.setegid(former)


def _family(place: MetricsAddress) -> socket.AddressFamily:
    return socket.AF_INET if place.host.version == 4 else socket.AF_INET6


def complaint(place: Place) -> str | None:
    """Return why metrics could not be served here, as far as can be seen from outside; None if nothing is in the way.

    What is there already is not looked at: it may be the running daemon's.
    """
    try:
        _check_modules()
        if isinstance(place, MetricsAddress):
            with socket.socket(_family(place), socket.SOCK_STREAM) as probe:
                probe.bind((str(place.host), 0))
            return None
    except (ImportError, OSError) as error:
        return _reason(error)
    directory = place.path.parent if os.path.lexists(place.path.parent) else place.path.parent.parent
    if not directory.is_dir():
        return f"there is no directory {directory}"
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"this user may not write to {directory}"
    if os.path.lexists(place.path) and not place.path.is_socket():
        return f"{place.path} exists and is not a socket"
    return None
