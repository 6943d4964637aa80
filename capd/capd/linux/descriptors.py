"""Descriptors on Unix sockets (SCM_RIGHTS, unix(7)): sent, received, and refused.

The daemon receives none, and closes none that others have sent (``supervisor.guarded``).
"""

import array
import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

#: Linux 6.16 (asm-generic/socket.h); Python has no name for it.
_SO_PASSRIGHTS = 83


class DescriptorsDropped(OSError):
    """The kernel has dropped descriptors that came along: this process may have no more (RLIMIT_NOFILE).

    ``data`` has the bytes with which they came.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(errno.EMFILE, os.strerror(errno.EMFILE))
        self.data = data


class _Socket(Protocol):
    """Python's sockets, and trio's, which the worker does not load."""

    @property
    def family(self) -> int: ...

    def getsockopt(self, level: int, optname: int, /) -> int: ...

    def setsockopt(self, level: int, optname: int, value: int, /) -> None: ...


def refuse_rights(unix_socket: _Socket) -> None:
    """Have the kernel refuse descriptors that are sent to this socket, and to connections that it accepts from now on.

    Before Linux 6.16 it cannot, and nothing happens.
    """
    with contextlib.suppress(OSError):
        unix_socket.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)


def may_hold_rights(connection: _Socket) -> bool:
    """Whether descriptors may lie unread in a socket. One that was refused them later says no, although they may."""
    if connection.family != socket.AF_UNIX:
        return False
    try:
        return bool(connection.getsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS))
    except OSError:
        return True


def rights(descriptors: Sequence[int]) -> list[tuple[int, int, "array.array[int]"]]:
    """Return the ancillary data for ``sendmsg`` that passes descriptors along; none for none."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []


def receive(unix_socket: socket.socket, size_bytes: int, most: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """Return the next bytes, and the descriptors that came along, which are the caller's; none stays open in an exec.

    Args:
        unix_socket: where they come.
        size_bytes: so many bytes at most.
        most: so many descriptors at most.
        flags: for recv(2).

    Raises:
        DescriptorsDropped: more came, or more than this process may have; none of them is open.
        OSError: as recvmsg(2).
    """
    # socket.recv_fds() does not pass its flags on before Python 3.12.
    space = socket.CMSG_SPACE(4 * most)
    data, ancillary, came, _ = unix_socket.recvmsg(size_bytes, space, flags | socket.MSG_CMSG_CLOEXEC)
    descriptors = _received(ancillary)
    if not came & socket.MSG_CTRUNC:
        return data, descriptors
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # it is closed all the same (close(2))
            os.close(descriptor)
    raise DescriptorsDropped(data)


def _received(ancillary: Iterable[tuple[int, int, Any]]) -> list[int]:
    found = array.array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(payload[: len(payload) - len(payload) % found.itemsize])
    return found.tolist()
