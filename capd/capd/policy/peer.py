"""Peer credentials: the user, groups and process at the other end of a Unix socket, as the kernel has them."""

import ctypes
import errno
import socket
import struct
from dataclasses import dataclass
from functools import cached_property

from capd.linux import libc

_SO_PEERGROUPS = 59
#: (uid_t) -1, which no user has (chown(2)): where the kernel does not name one, or nobody asks.
NOBODY = 2**32 - 1
#: For whom subordinate ids of root count, which container managers have: one person, who is not root.
SUBORDINATES_OF_ROOT = -1
#: For whom it counts what comes from the containers' socket: one person, since a container has as many ids as it likes.
CONTAINERS = -2


@dataclass(frozen=True)
class Peer:
    """The credentials that the peer had when it connected. ``process_id`` is for logs only: it may be reused.

    The kernel does not know accounts: what stands behind the user, ``capd.policy.people`` adds.
    """

    process_id: int
    user_id: int
    group_id: int
    groups: tuple[int, ...]
    #: Of whom the user is a subordinate id; None: of nobody.
    behind_id: int | None = None
    #: Whether this machine knows the user, or the person behind it.
    has_account: bool = True
    #: Whether it came by the containers' socket: its ids are nobody's of this machine, whatever their numbers.
    is_contained: bool = False
    #: Of its groups those that its account has no more: no rule names it for these.
    lost_groups: tuple[int, ...] = ()

    @cached_property
    def named_groups(self) -> frozenset[int]:
        """For which groups rules name it: made once, as one may have 65,536, and each rule and each capture asks."""
        return frozenset((self.group_id, *self.groups)).difference(self.lost_groups)

    @property
    def person_id(self) -> int:
        """For whom it counts, wherever a limit is a person's."""
        if self.is_contained:
            return CONTAINERS
        return self.user_id if self.behind_id is None else self.behind_id

    @property
    def is_in_accounts(self) -> bool:
        """Whether this machine's accounts say which groups it has."""
        return self.has_account and not self.is_contained

    def __str__(self) -> str:
        return f"user {self.user_id}{' of a container' if self.is_contained else ''}"


def person(person_id: int) -> str:
    """Return how people call whoever has a ``person_id``."""
    return {SUBORDINATES_OF_ROOT: "subordinate ids of root", CONTAINERS: "containers"}.get(
        person_id, f"user {person_id}"
    )


def peer_of(connection: socket.socket, *, is_contained: bool = False) -> Peer:
    """Return the peer of a connected Unix socket.

    Args:
        connection: the socket.
        is_contained: it came by the containers' socket.

    Raises:
        OSError: the kernel does not answer.
    """
    process_id, user_id, group_id = struct.unpack(
        "=iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    )
    return Peer(process_id, user_id, group_id, _groups(connection), is_contained=is_contained)


def group_count(connection: socket.socket) -> int:
    """Return how many groups the peer has, without reading them.

    Raises:
        OSError: the kernel does not answer.
    """
    size = ctypes.c_uint32(0)
    try:
        _get_groups(connection, None, size)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
    return size.value // 4


def _groups(connection: socket.socket) -> tuple[int, ...]:
    buffer = (ctypes.c_uint32 * group_count(connection))()  # it is what it had when it connected: nothing changes it
    size = ctypes.c_uint32(ctypes.sizeof(buffer))
    _get_groups(connection, buffer, size)
    return tuple(buffer)


def _get_groups(connection: socket.socket, buffer: ctypes.Array[ctypes.c_uint32] | None, size: ctypes.c_uint32) -> None:
    # Through libc: Python's getsockopt takes at most 1024 bytes, which are 256 groups.
    descriptor, level = connection.fileno(), socket.SOL_SOCKET
    libc.call("getsockopt", descriptor, level, _SO_PEERGROUPS, buffer, ctypes.byref(size))
