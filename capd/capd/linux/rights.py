"""Descriptors that others send on Unix sockets (SCM_RIGHTS): whether the kernel refuses them.

This process takes none, and closes none (``guarded``).
"""

import contextlib
import socket

import trio

#: Linux 6.16 (asm-generic/socket.h); Python has no name for it.
_SO_PASSRIGHTS = 83


def refuse_rights(unix_socket: socket.socket | trio.socket.SocketType) -> None:
    """Have the kernel refuse descriptors that are sent to this socket, and to connections that it accepts from now on.

    Before Linux 6.16 it cannot, and nothing happens.
    """
    with contextlib.suppress(OSError):
        unix_socket.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)


def may_hold_rights(connection: socket.socket | trio.socket.SocketType) -> bool:
    """Whether descriptors may lie unread in a socket. One that was refused them later says no, although they may."""
    if connection.family != socket.AF_UNIX:
        return False
    try:
        return bool(connection.getsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS))
    except OSError:
        return True
