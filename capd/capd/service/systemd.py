"""systemd's protocols: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3)."""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Generator, Mapping, MutableMapping, Sequence
from typing import NamedTuple

import trio

from capd.linux.descriptors import rights

_log = logging.getLogger(__name__)

#: FileDescriptorName= of the socket for clients in containers.
CONTAINERS = "containers"
#: The other one's: that of its unit; or none, from a manager that gives none (sd_listen_fds_with_names(3)).
_CLIENTS = ("capd.socket", "unknown", "")
#: SD_LISTEN_FDS_START (sd-daemon.h).
_FIRST_FD = 3
#: How late the status text may be. Chosen: clients that come and go by the thousand are one message a second.
_STATUS_INTERVAL_S = 1.0


class ServiceManagerError(Exception):
    """What the service manager has passed cannot be used; the text says what to do."""


# What it is sent ---------------------------------------------------------------------------------------------------


def notify(state: str) -> None:
    """Tell the service manager, if there is one, such as ``READY=1``. One that is gone is not waited for."""
    try:
        _send(state)
    except OSError as error:
        _log.warning("the service manager at %s cannot be sent %s: %s", os.environ["NOTIFY_SOCKET"], state, error)


def has_manager() -> bool:
    """Whether a service manager listens."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def _send(state: str, descriptors: Sequence[int] = ()) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as notifier:
        # A leading @ means the abstract namespace.
        notifier.sendmsg([state.encode()], rights(descriptors), 0, "\0" + address[1:] if address[0] == "@" else address)


@contextlib.contextmanager
def reloading() -> Generator[None, None, None]:
    """Have the service manager know that configuration is read again while the block lasts."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        yield
    finally:
        notify("READY=1")


async def keep_status(text: Callable[[], str]) -> None:
    """Show a text as the service's status, and its changes, until cancelled."""
    shown = None
    while True:
        if (now := text()) != shown:
            with contextlib.suppress(OSError):  # a manager that is too busy now gets it the next time
                _send(f"STATUS={now}")
                shown = now
        await trio.sleep(_STATUS_INTERVAL_S)


# The watchdog ------------------------------------------------------------------------------------------------------


def watchdog_interval_s(environment: Mapping[str, str], process_id: int) -> float | None:
    """Return how often this process has to say that it works; None where nobody watches it.

    Half the time after which it is taken to hang, as sd_watchdog_enabled(3) recommends.

    Raises:
        ServiceManagerError: the time is 0, or not a number.
    """
    if environment.get("WATCHDOG_PID") not in (None, str(process_id)):
        return None
    if "WATCHDOG_USEC" not in environment:
        return None
    timeout_us = _number(environment, "WATCHDOG_USEC")
    if timeout_us == 0:
        raise ServiceManagerError("WATCHDOG_USEC is 0: give the watchdog a time, or leave it out")
    return timeout_us / 2e6


async def feed_watchdog(interval_s: float) -> None:
    """Report that the event loop runs, until cancelled."""
    while True:
        notify("WATCHDOG=1")
        await trio.sleep(interval_s)


# Descriptors that it keeps -----------------------------------------------------------------------------------------


def store(name: str, descriptors: Sequence[int]) -> None:
    """Have descriptors kept for the next process of this service.

    Raises:
        OSError: the manager does not take them.
    """
    # FDPOLL: the manager drops what is hung up, as a socket is whose other end is closed.
    _send(f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}", descriptors)


def remove_stored(name: str) -> None:
    """Have all descriptors of this name kept no longer."""
    notify(f"FDSTOREREMOVE=1\nFDNAME={name}")


# Descriptors that it has passed -------------------------------------------------------------------------------------


class Inherited(NamedTuple):
    """A descriptor that the service manager has passed, and the name that the manager gave to it."""

    descriptor: int
    name: str


def take_inherited(environment: MutableMapping[str, str], process_id: int) -> list[Inherited]:
    """Return what is passed to this process, and remove the variables, which are not meant for its children.

    Raises:
        ServiceManagerError: LISTEN_FDS is not a number.
    """
    passed = {name: environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    if passed["LISTEN_PID"] != str(process_id):
        return []
    names = passed["LISTEN_FDNAMES"].split(":")
    return [Inherited(_FIRST_FD + i, names[i] if i < len(names) else "") for i in range(_number(passed, "LISTEN_FDS"))]


def listener_among(inherited: Sequence[Inherited]) -> socket.socket | None:
    """Return the socket that the service manager listens on for us; None where it passes none.

    Raises:
        ServiceManagerError: it passes something else, or more than one.
    """
    others = [each for each in inherited if each.name != CONTAINERS]
    for each in others:
        if each.name not in _CLIENTS:  # who connects there is not stated
            raise ServiceManagerError(
                f"a socket was passed as {each.name!r}: say FileDescriptorName=capd.socket, or "
                f"FileDescriptorName={CONTAINERS} where it is for clients in containers"
            )
    return _only_one(others)


def containers_listener_among(inherited: Sequence[Inherited]) -> socket.socket | None:
    """Return the socket that it listens on for clients in containers, by its name; None where it passes none.

    Raises:
        ServiceManagerError: it passes something else, or more than one.
    """
    return _only_one([each for each in inherited if each.name == CONTAINERS])


def _only_one(inherited: Sequence[Inherited]) -> socket.socket | None:
    if not inherited:
        return None
    if len(inherited) > 1:
        names = ", ".join(each.name for each in inherited)
        raise ServiceManagerError(f"one socket is served, not {len(inherited)} ({names}): leave one ListenStream=")
    return listener_of(inherited[0])


def listener_of(inherited: Inherited) -> socket.socket:
    """Return a descriptor as the socket that clients connect to; the programs that we start do not get it.

    Raises:
        ServiceManagerError: it is no listening Unix stream socket.
    """
    try:
        listener = socket.socket(fileno=inherited.descriptor)
        is_listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ServiceManagerError(f"what was passed as {inherited.name!r} is no socket: {error.strerror}") from error
    if (listener.family, listener.type, is_listening) != (socket.AF_UNIX, socket.SOCK_STREAM, 1):
        listener.close()
        raise ServiceManagerError(
            f"what was passed as {inherited.name!r} is no Unix stream socket that listens: "
            "say ListenStream= with a path, and Accept=no"
        )
    listener.set_inheritable(False)
    return listener


def _number(variables: Mapping[str, str], name: str) -> int:
    text = variables[name]
    if not (text.isascii() and text.isdecimal()):
        raise ServiceManagerError(f"{name} is {text!r}, which is no number: start capd by systemd, or without it")
    return int(text)
