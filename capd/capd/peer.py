"""Who is asking: the kernel's word on the process at the other end of a Unix socket."""

import os
import pwd
import socket
import struct
from dataclasses import dataclass

_SO_PEERGROUPS = 59
#: Python takes at most 1024 bytes from getsockopt: 256 groups.
_MAX_GROUPS = 256


@dataclass(frozen=True)
class Peer:
    """The credentials that the peer had when it connected. ``process_id`` is for logs only: it may be reused."""

    process_id: int
    user_id: int
    group_id: int
    groups: tuple[int, ...]


def peer_of(connection: socket.socket) -> Peer:
    """Return the peer of a connected Unix socket.

    Raises:
        OSError: the kernel does not tell.
    """
    process_id, user_id, group_id = struct.unpack(
        "=iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    )
    return Peer(process_id, user_id, group_id, _groups(connection, user_id, group_id))


def _groups(connection: socket.socket, user_id: int, group_id: int) -> tuple[int, ...]:
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError:
        # More groups than fit: the ones that the user has by the user database.
        return tuple(os.getgrouplist(pwd.getpwuid(user_id).pw_name, group_id))
    return struct.unpack(f"={len(packed) // 4}I", packed)
