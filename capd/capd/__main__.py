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
from collections.abc import Generator
from pathlib import Path

import trio

from capd import config, limits, privileges, systemd
from capd.audit import Audit
from capd.captures import Captures
from capd.configured import Configured
from capd.monitor import Monitor
from capd.policy import Policy, default_policy
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


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="capd",
        description="Captures packets for programs that have no privilege to. Clients talk to its Unix socket.",
    )
    parser.add_argument(
        "--socket", type=Path, default=DEFAULT_SOCKET, metavar="PATH", help="where to listen (default: %(default)s)"
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        help=f"who may do what (default: {config.DEFAULT_PATH}, if it is there); read again on SIGHUP",
    )
    parser.add_argument(
        "--group",
        default=DEFAULT_GROUP,
        metavar="NAME",
        help="without a configuration, members may capture, beside root (default: %(default)s)",
    )
    parser.add_argument(
        "--monitor-mode", action="store_true", help="keep CAP_NET_ADMIN, for monitor mode and Wi-Fi channels"
    )
    parser.add_argument(
        "--state-directory",
        type=Path,
        default=Path(os.environ.get("STATE_DIRECTORY", "/var/lib/capd")),
        metavar="PATH",
        help="where the files of captures of the configuration go (default: %(default)s)",
    )
    parser.add_argument("--verbose", action="store_true", help="log every request")
    parser.add_argument("--version", action="version", version=SOFTWARE)
    # One connected client on this descriptor, and no other: how the client library starts a daemon of its own.
    parser.add_argument("--private-fd", type=int, metavar="FD", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _kept(monitor_mode: bool) -> set[Capability]:
    kept = {Capability.NET_RAW, Capability.SETUID, Capability.SETGID}
    return kept | {Capability.NET_ADMIN} if monitor_mode else kept


def _default_policy(group: str, owner_id: int | None = None) -> Policy:
    try:
        return default_policy(grp.getgrnam(group).gr_gid, group, owner_id)
    except KeyError:
        return default_policy(None, group, owner_id)


def _configuration(arguments: argparse.Namespace) -> config.Config:
    """Return what the configuration says; without one, what goes without saying.

    Raises:
        ConfigError: it cannot be used.
    """
    path = arguments.config or config.DEFAULT_PATH
    if arguments.config is None and not path.exists():
        return config.Config(_default_policy(arguments.group))
    loaded = config.load(path)
    for warning in loaded.warnings:
        _log.warning("%s", warning)
    return loaded


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
    listener = _listen(path)
    try:
        yield listener
    finally:
        listener.close()
        with contextlib.suppress(OSError):
            path.unlink()


async def _obey_signals(daemon: "_Daemon", nursery: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
    """Reload at SIGHUP. At the others end all captures well, then the server; at the next, or in the end, at once."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                daemon.reload(nursery)
                continue
            _log.info("%s: stopping", signal.Signals(number).name)
            systemd.notify("STOPPING=1")
            daemon.captures.stop_all()
            with trio.move_on_after(limits.STOP_TIMEOUT_S):
                async with trio.open_nursery() as ending:
                    ending.start_soon(_cancel_when_ended, daemon.captures, ending.cancel_scope)
                    async for second in signals:
                        if second != signal.SIGHUP:
                            ending.cancel_scope.cancel()
            nursery.cancel_scope.cancel()


async def _cancel_when_ended(captures: Captures, scope: trio.CancelScope) -> None:
    await captures.wait_all_ended()
    scope.cancel()


class _Daemon:
    """What the daemon consists of while it runs."""

    def __init__(self, arguments: argparse.Namespace, configuration: config.Config) -> None:
        self._arguments = arguments
        self._configuration = configuration
        self._audit = Audit()
        self._monitor = Monitor()
        self.captures = Captures(configuration.policy)
        self._configured = Configured(self.captures, self._monitor, self._audit, arguments.state_directory)
        self._server = Server(self.captures, self._monitor, self._audit)

    async def serve(self, listener: socket.socket) -> None:
        """Serve everybody until told to stop."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._monitor.run)
            await nursery.start(_obey_signals, self, nursery)
            self._configured.start(self._configuration.captures, nursery)
            nursery.start_soon(self._server.serve, trio.socket.from_stdlib_socket(listener))
            systemd.notify("READY=1")
            _log.info("listening on %s", self._arguments.socket)

    async def serve_one(self, connection: socket.socket) -> None:
        """Serve one client until it leaves."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._monitor.run)
            await nursery.start(_obey_signals, self, nursery)
            await self._server.serve_client(trio.socket.from_stdlib_socket(connection))
            nursery.cancel_scope.cancel()

    def reload(self, nursery: trio.Nursery) -> None:
        """Take over a changed configuration for what is asked from now on; one with faults is told of, no more."""
        if self._arguments.private_fd is not None:
            return
        try:
            configuration = _configuration(self._arguments)
        except config.ConfigError as error:
            for fault in error.faults:
                _log.error("%s", fault)
            _log.error("the configuration of before stays in force")
            return
        self.captures.policy = configuration.policy
        self._configured.start(configuration.captures, nursery)
        _log.info("the configuration was read again")


def main(argv: list[str] | None = None) -> int:
    """Run the daemon. Exit status 0: it was told to stop; 1: it could not start; 2: wrong options."""
    arguments = _arguments(argv)
    level = logging.INFO if arguments.verbose else logging.WARNING
    logging.basicConfig(level=level, format="capd: %(message)s", stream=sys.stderr)
    try:
        if arguments.private_fd is not None:
            connection = socket.socket(fileno=arguments.private_fd)
            privileges.restrict_daemon(_kept(arguments.monitor_mode))
            own = config.Config(_default_policy(arguments.group, os.getuid()))
            trio.run(_Daemon(arguments, own).serve_one, connection)
            return 0
        with _listening(arguments.socket) as listener:
            privileges.restrict_daemon(_kept(arguments.monitor_mode))
            trio.run(_Daemon(arguments, _configuration(arguments)).serve, listener)
    except (StartError, privileges.PrivilegeError, config.ConfigError) as error:
        print(f"capd: {error}", file=sys.stderr)  # noqa: T201  # before there is a log
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
