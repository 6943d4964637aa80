"""Network namespaces to capture in: what they are called, and how this program opens them.

A private daemon enters them with this user's rights: whoever may make a packet socket there may capture there. Where an
administrator has a daemon run in one, its rules say who may.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

from capd_client.errors import ChildError, InvalidArgument, error_for
from capd_protocol.arguments import ArgumentType
from capd_protocol.messages import Failure, FailureCode
from capd_protocol.text import quoted

#: ip-netns(8).
_NAMED = Path("/run/netns")
#: Of capd-netns@.socket.
_SOCKETS = Path("/run/capd-netns")
#: linux/nsfs.h: the user namespace that a namespace belongs to, and of which type it is.
_NS_GET_USERNS, _NS_GET_NSTYPE = 0xB701, 0xB703
#: linux/sched.h.
_CLONE_NEWNET = 0x40000000
#: As many bytes as a stream's name may have, for the same places.
_MAX_NAME_BYTES = 255

#: A namespace: its name of ``ip netns``, the number of a process in it, or a path.
Netns = str | int | os.PathLike[str]


class OpenNamespace(NamedTuple):
    """A network namespace that can be entered.

    Attributes:
        name: as it was given.
        network_fd: its descriptor.
        owner_fd: of the user namespace that it belongs to; None: it is this process's, or out of its reach.
    """

    name: str
    network_fd: int
    owner_fd: int | None

    @property
    def descriptors(self) -> list[int]:
        """What whoever enters it needs."""
        return [self.network_fd, *(() if self.owner_fd is None else (self.owner_fd,))]


def _name_of(netns: Netns) -> str:
    return os.fspath(netns) if isinstance(netns, os.PathLike) else str(netns)


def _path_of(netns: Netns) -> Path:
    if isinstance(netns, bool) or not isinstance(netns, str | int | os.PathLike):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgument(f"netns is {netns!r:.80}; it must be {ArgumentType.NETNS.value}", argument="netns")
    name = _name_of(netns)
    if not name or "\0" in name or len(os.fsencode(name)) > _MAX_NAME_BYTES or not name.isprintable():
        raise InvalidArgument(f"{quoted(name)} is no network namespace: name one", argument="netns")
    if "/" in name:
        return Path(name)
    is_number = isinstance(netns, int) or (name.isascii() and name.isdecimal() and not (_NAMED / name).exists())
    return Path("/proc", name, "ns/net") if is_number else _NAMED / name


def socket_of(netns: Netns) -> str | None:
    """Return where a daemon listens that an administrator has run in a namespace, if one does; it has a name then.

    Raises:
        InvalidArgument: it is no name, no number and no path.
    """
    path = _path_of(netns)
    socket_path = _SOCKETS / path.name / "capd.sock"
    return str(socket_path) if path.parent == _NAMED and socket_path.exists() else None


@contextlib.contextmanager
def opened(netns: Netns) -> Generator[OpenNamespace, None, None]:
    """Have a network namespace open as long as the block lasts.

    Args:
        netns: its name of ``ip netns``, the number of a process in it, or a path.

    Raises:
        InvalidArgument: it is none of these, or no network namespace.
        InterfaceError: it is not there.
        NotPermitted: this user may not open it.
    """
    path = _path_of(netns)
    name = _name_of(netns)
    with contextlib.ExitStack() as owned:
        try:
            network_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise _not_opened(name, path, error) from error
        owned.callback(os.close, network_fd)
        try:
            is_network = fcntl.ioctl(network_fd, _NS_GET_NSTYPE) == _CLONE_NEWNET
        except OSError:
            is_network = False
        if not is_network:
            raise InvalidArgument(f"{quoted(str(path))} is no network namespace", argument="netns")
        owner_fd = _owner_of(network_fd)
        if owner_fd is not None:
            owned.callback(os.close, owner_fd)
        yield OpenNamespace(name, network_fd, owner_fd)


def _not_opened(name: str, path: Path, error: OSError) -> ChildError:
    if error.errno == errno.ENOENT and path.parent == _NAMED:
        text = f"there is no network namespace {quoted(name)}: 'ip netns' shows which there are"
    elif error.errno in (errno.ENOENT, errno.ESRCH) and path.is_relative_to("/proc"):
        text = f"there is no process {quoted(name)} to find a network namespace by"
    else:
        text = f"the network namespace {quoted(name)} cannot be opened: {error.strerror}"
    is_refused = error.errno in (errno.EACCES, errno.EPERM)
    code = FailureCode.NOT_PERMITTED if is_refused else FailureCode.NO_SUCH_INTERFACE
    return error_for(Failure(code=code, text=text, argument="netns"))


def _owner_of(network_fd: int) -> int | None:
    try:
        owner_fd = fcntl.ioctl(network_fd, _NS_GET_USERNS)
    except OSError:  # it is not within this process's own: nothing can be done there
        return None
    with Path("/proc/self/ns/user").open("rb") as own:
        if os.path.sameopenfile(owner_fd, own.fileno()):
            os.close(owner_fd)
            return None
    return owner_fd
