"""The command ``capd``: the daemon's options, or one of its other commands."""

import argparse
import contextlib
import errno
import logging
import os
import resource
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from capd import limits
from capd.admin import check_config, installation
from capd.captures.lasting import fd_store
from capd.config import reader
from capd.daemon import Daemon
from capd.errors import StartError
from capd.linux import namespaces, privileges
from capd.linux.privileges import Capability
from capd.policy.people import find_group
from capd.policy.rules import Owner, default_policy
from capd.printable import show
from capd.service import log, systemd
from capd.service.listener import DEFAULT_SOCKET, listening, listening_for_containers
from capd.service.systemd import ServiceManagerError
from capd.version import SOFTWARE
from capd_protocol.messages import PROTOCOL_VERSION, Failure, FailureCode, Hello, Refused, encode

_log = logging.getLogger("capd")

DEFAULT_GROUP = "capd"


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
        "--container-socket",
        type=Path,
        metavar="PATH",
        help="where to listen for clients in containers, whose root is nobody special (default: nowhere)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        help=f"who may do what (default: {reader.DEFAULT_PATH}, if it is there); read again on SIGHUP",
    )
    parser.add_argument(
        "--group",
        metavar="NAME",
        help=f"without a configuration, members may capture, beside root (default: {DEFAULT_GROUP})",
    )
    parser.add_argument(
        "--monitor-mode", action="store_true", help="keep CAP_NET_ADMIN, for monitor mode and Wi-Fi channels"
    )
    parser.add_argument(
        "--modules",
        action="store_true",
        help="keep CAP_NET_ADMIN, for devices of capture modules that rules allow, such as nflog",
    )
    parser.add_argument(
        "--netns",
        default="",
        metavar="NAME",
        help="what the network namespace that it was started in is called: files say so of their interfaces",
    )
    parser.add_argument(
        "--state-directory",
        type=Path,
        default=Path(os.environ.get("STATE_DIRECTORY", "/var/lib/capd")),
        metavar="PATH",
        help="where the files of captures of the configuration go (default: %(default)s)",
    )
    parser.add_argument(
        "--strict-workers",
        action="store_true",
        help="end a capture whose process makes a system call that it may not, and log which (for developers)",
    )
    parser.add_argument("--verbose", action="store_true", help="log every request, as on a terminal")
    parser.add_argument("--version", action="version", version=SOFTWARE)
    # One connected client on this descriptor, and no other: how the client library starts a daemon of its own.
    parser.add_argument("--private-fd", type=int, metavar="FD", help=argparse.SUPPRESS)
    # For a network namespace that it enters before, one or two descriptors.
    parser.add_argument("--netns-fds", type=int, nargs="+", default=[], help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _kept(arguments: argparse.Namespace) -> set[Capability]:
    kept = {Capability.NET_RAW, Capability.SETUID, Capability.SETGID}
    return kept | {Capability.NET_ADMIN} if arguments.monitor_mode or arguments.modules else kept


def _default(group: str, owner: Owner | None = None) -> reader.Config:
    """Return what holds without a configuration."""
    group_id = find_group(group)
    return reader.Config(default_policy(group_id, group, owner), awaited_group=group if group_id is None else "")


def _configuration(arguments: argparse.Namespace) -> reader.Config:
    """Return what the configuration says; without one, what goes without saying.

    Raises:
        ConfigError: it cannot be used.
    """
    path = arguments.config or reader.DEFAULT_PATH
    if arguments.config is None and reader.is_absent(path):
        group = arguments.group or DEFAULT_GROUP
        default = _default(group)
        if default.awaited_group:
            _log.warning("there is no %s, and no group %s yet: until there is one, only root may capture", path, group)
        else:
            _log.info("there is no %s: the members of the group %s may capture everything", path, group)
        return default
    if arguments.group is not None:
        raise reader.ConfigError([f"--group has no effect beside {path}: write a rule for the group there"])
    loaded = reader.load(path, check_config.complain_about_filter)
    # From now on it must be there: that it is gone by mistake shall not let anybody do more.
    arguments.config = path
    for warning in loaded.warnings:
        _log.warning("%s", warning)
    return loaded


def _begin_log(arguments: argparse.Namespace) -> None:
    if arguments.private_fd is not None:
        os.environ.pop("JOURNAL_STREAM", None)  # of the program that has started us
    # The journal keeps what is not looked at, and puts the name before each line itself.
    is_service = "JOURNAL_STREAM" in os.environ
    is_watched = arguments.private_fd is None and sys.stderr.isatty()
    level = logging.INFO if arguments.verbose or is_service or is_watched else logging.WARNING
    log.begin(level, "" if is_service else "capd: ")


def _allow_descriptors() -> None:
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(least, min(limits.DESCRIPTORS, most)), most))


def _is_in_namespace(arguments: argparse.Namespace, connection: socket.socket) -> bool:
    """Enter a network namespace; where that may not be, tell the client."""
    try:
        namespaces.enter(*arguments.netns_fds)
    except OSError as error:
        text = f"the network namespace {arguments.netns!r} may not be entered"
        text += ": that takes CAP_SYS_ADMIN over it" if error.errno == errno.EPERM else f": {error.strerror}"
        refusal = Refused(failure=Failure(code=FailureCode.NOT_PERMITTED, text=text, argument="netns"))
        with connection, contextlib.suppress(OSError):  # the client has gone
            connection.sendall(encode(Hello(protocol_version=PROTOCOL_VERSION, software=SOFTWARE)) + encode(refusal))
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass  # or what it has sent would break off what it is sent
        return False
    return True


def _run_daemon(argv: list[str]) -> int:
    arguments = _arguments(argv)
    _begin_log(arguments)
    _allow_descriptors()
    try:
        if arguments.private_fd is not None:
            connection = socket.socket(fileno=arguments.private_fd)
            if arguments.netns_fds and not _is_in_namespace(arguments, connection):
                return 1
            privileges.restrict_daemon(_kept(arguments))
            # Without CAP_NET_RAW it answers questions, and captures for nobody.
            owner = Owner(os.getuid(), may_capture=privileges.has_capability(Capability.NET_RAW))
            own = _default(arguments.group or DEFAULT_GROUP, owner)
            daemon = Daemon(
                lambda: own, arguments.state_directory, netns=arguments.netns, strict_workers=arguments.strict_workers
            )
            trio.run(daemon.serve_one, connection)
        else:
            passed = fd_store.separate(systemd.take_inherited(os.environ, os.getpid()))
            with (
                listening(arguments.socket, passed.others) as listener,
                listening_for_containers(arguments.container_socket, arguments.socket, passed.others) as of_containers,
            ):
                privileges.restrict_daemon(_kept(arguments))
                load = partial(_configuration, arguments)
                daemon = Daemon(
                    load,
                    arguments.state_directory,
                    netns=arguments.netns,
                    strict_workers=arguments.strict_workers,
                )
                trio.run(daemon.serve, listener, of_containers, passed.kept, passed.useless)
    except (StartError, ServiceManagerError, privileges.PrivilegeError, reader.ConfigError) as error:
        faults = error.faults if isinstance(error, reader.ConfigError) else (str(error),)
        show(f"capd: {faults[0]}", *faults[1:], is_error=True)  # not as a record: it is refused
        return 1
    # The interpreter's own end takes 25 ms, for which clients of a private daemon would wait; nothing is left to do.
    os._exit(0)


#: What ``capd NAME`` does instead of serving; each gets the words that follow.
_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "check-config": check_config.main,
    "install-service": installation.install,
    "uninstall-service": installation.uninstall,
}


def main(argv: list[str] | None = None) -> int:
    """Run the daemon, or a command.

    Exit status 0: it was asked to stop, or is done; 1: it could not start, or was refused; 2: wrong options.
    """
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in _COMMANDS:
        return _COMMANDS[words[0]](words[1:])
    return _run_daemon(words)


if __name__ == "__main__":
    sys.exit(main())
