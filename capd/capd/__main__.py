"""The command ``capd``: options, the socket, privileges, then the server until a signal."""

import argparse
import contextlib
import errno
import grp
import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import trio

from capd import installation, limits, privileges, systemd
from capd.captures import Captures
from capd.monitor import Monitor
from capd.policy import Policy
from capd.privileges import Capability
from capd.server import Server
from capd.version import SOFTWARE

_log = logging.getLogger("capd")

DEFAULT_SOCKET = Path("/run/capd/capd.sock")
DEFAULT_GROUP = "capd"
#: Everybody may connect: who may capture is decided by who the kernel says is asking.
_SOCKET_UMASK = 0o111
_BACKLOG = 128


class StartError(Exception):
    """The daemon cannot start; the text says what to do."""


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="capd",
        description="Captures packets for programs that have no privilege to. Clients talk to its Unix socket.",
        epilog=f"Other commands, each with a --help of its own: {', '.join(f'capd {name}' for name in _COMMANDS)}.",
    )
    parser.add_argument(
        "--socket",
        type=Path,
        default=DEFAULT_SOCKET,
        metavar="PATH",
        help="where to listen, unless a service manager does (default: %(default)s)",
    )
    parser.add_argument(
        "--group", default=DEFAULT_GROUP, metavar="NAME", help="members may capture, beside root (default: %(default)s)"
    )
    parser.add_argument(
        "--monitor-mode", action="store_true", help="keep CAP_NET_ADMIN, for monitor mode and Wi-Fi channels"
    )
    parser.add_argument("--verbose", action="store_true", help="log every request")
    parser.add_argument("--version", action="version", version=SOFTWARE)
    # One connected client on this descriptor, and no other: how the client library starts a daemon of its own.
    parser.add_argument("--private-fd", type=int, metavar="FD", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _kept(monitor_mode: bool) -> set[Capability]:
    kept = {Capability.NET_RAW, Capability.SETUID, Capability.SETGID}
    return kept | {Capability.NET_ADMIN} if monitor_mode else kept


def _policy(group: str, user_id: int | None) -> Policy:
    try:
        return Policy(grp.getgrnam(group).gr_gid, group, user_id)
    except KeyError:
        return Policy(None, group, user_id)


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
    """Bind the socket; it has its final mode from the first moment.

    Raises:
        StartError: it cannot be there.
    """
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
def _listening(path: Path) -> Generator[socket.socket, None, None]:
    inherited = systemd.inherited_listener()
    if inherited is not None:
        # The socket stays when we go: it is the service manager's.
        with inherited:
            yield inherited
        return
    listener = _listen(path)
    try:
        yield listener
    finally:
        listener.close()
        with contextlib.suppress(OSError):
            path.unlink()


async def _stop_on_signal(captures: Captures, scope: trio.CancelScope, task_status: trio.TaskStatus[None]) -> None:
    """End all captures well, then the server; at the second signal, or when it takes too long, at once."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            _log.info("%s: stopping", signal.Signals(number).name)
            systemd.notify("STOPPING=1")
            captures.stop_all()
            with trio.move_on_after(limits.STOP_TIMEOUT_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_when_ended, captures, nursery.cancel_scope)
                    async for _second in signals:
                        nursery.cancel_scope.cancel()
            scope.cancel()


async def _cancel_when_ended(captures: Captures, scope: trio.CancelScope) -> None:
    await captures.wait_all_ended()
    scope.cancel()


async def _reload_on_signal(task_status: trio.TaskStatus[None]) -> None:
    """Read configuration again at SIGHUP. There is none yet: nothing changes, and no capture ends."""
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            with systemd.reloading():
                _log.info("SIGHUP: reloaded")


async def _serve(listener: socket.socket, captures: Captures) -> None:
    watchdog_s = systemd.watchdog_interval_s(os.environ, os.getpid())
    monitor = Monitor()
    server = Server(captures, monitor)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(monitor.run)
        await nursery.start(_stop_on_signal, captures, nursery.cancel_scope)
        await nursery.start(_reload_on_signal)
        nursery.start_soon(server.serve, trio.socket.from_stdlib_socket(listener))
        nursery.start_soon(systemd.keep_status, server.status)
        if watchdog_s is not None:
            nursery.start_soon(systemd.feed_watchdog, watchdog_s)
        systemd.notify("READY=1")
        _log.info("listening on %s", listener.getsockname())


async def _serve_private(connection: socket.socket, captures: Captures) -> None:
    monitor = Monitor()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(monitor.run)
        await nursery.start(_stop_on_signal, captures, nursery.cancel_scope)
        await Server(captures, monitor).serve_client(trio.socket.from_stdlib_socket(connection))
        nursery.cancel_scope.cancel()


def _run_daemon(argv: list[str]) -> int:
    arguments = _arguments(argv)
    level = logging.INFO if arguments.verbose else logging.WARNING
    logging.basicConfig(level=level, format="capd: %(message)s", stream=sys.stderr)
    try:
        if arguments.private_fd is not None:
            connection = socket.socket(fileno=arguments.private_fd)
            privileges.restrict_daemon(_kept(arguments.monitor_mode))
            captures = Captures(_policy(arguments.group, os.getuid()))
            trio.run(_serve_private, connection, captures)
            return 0
        with _listening(arguments.socket) as listener:
            privileges.restrict_daemon(_kept(arguments.monitor_mode))
            captures = Captures(_policy(arguments.group, None))
            trio.run(_serve, listener, captures)
    except (StartError, systemd.ServiceManagerError, privileges.PrivilegeError) as error:
        print(f"capd: {error}", file=sys.stderr)  # noqa: T201  # before there is a log
        return 1
    return 0


#: What ``capd NAME`` does instead of serving; each gets the words that follow.
_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "install-service": installation.install,
    "uninstall-service": installation.uninstall,
}


def main(argv: list[str] | None = None) -> int:
    """Run the daemon, or a command.

    Exit status 0: it was told to stop, or is done; 1: it could not start, or was refused; 2: wrong options.
    """
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in _COMMANDS:
        return _COMMANDS[words[0]](words[1:])
    return _run_daemon(words)


if __name__ == "__main__":
    sys.exit(main())
