"""Guarded sockets: bytes are received here, descriptors that others send are neither received nor closed.

Closing a descriptor may take as long as its opener likes: a socket that lingers, a file system that is taken down with
it, a server of FUSE. And closing a socket closes the descriptors that lie unread in it. So a message that has a
descriptor with it is not received; and where descriptors may lie unread, another process closes the socket
(``closer``).
"""

import contextlib
import socket
from collections.abc import Sequence

import trio

from capd.linux.descriptors import may_hold_rights, refuse_rights, rights
from capd.supervisor.closer import Closer
from capd_protocol.errors import RemoteProtocolError


class GuardedSocket:
    """A connected socket that somebody else sends to: bytes are received, descriptors are not. Owns the socket."""

    def __init__(self, connection: trio.socket.SocketType, closer: Closer) -> None:
        """Take over a socket, new as it is: what may lie in it already is found out here."""
        self.socket = connection
        self._closer = closer
        self._may_hold_rights = may_hold_rights(connection)
        refuse_rights(connection)

    async def receive(self, size_bytes: int) -> bytes:
        """Return bytes as they come; empty ones when the other side has closed, whether or not it had read all.

        Raises:
            RemoteProtocolError: a descriptor came along. It stays where it is, and nothing more can be received.
            OSError: the connection is broken.
        """
        try:
            return await self._receive(size_bytes)
        except ConnectionResetError:
            # It has left something unread. The kernel says so once, and where messages are kept apart, before it gives
            # what the other side has said last.
            return await self._receive(size_bytes)

    async def _receive(self, size_bytes: int) -> bytes:
        if not self._may_hold_rights:
            return await self.socket.recv(size_bytes)
        seen, _, flags, _ = await self.socket.recvmsg(size_bytes, 0, socket.MSG_PEEK)
        if flags & socket.MSG_CTRUNC:
            raise RemoteProtocolError("a descriptor came along, and capd takes none here")
        return await self.socket.recv(len(seen)) if seen else b""

    async def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send bytes, and descriptors with the first of them, which stay the caller's.

        Raises:
            OSError: the other side has closed, or the connection is broken.
            trio.ClosedResourceError: it was closed here meanwhile.
        """
        if self.socket.fileno() < 0:
            raise trio.ClosedResourceError("the socket is closed")
        view = memoryview(data)
        if descriptors:
            view = view[await self.socket.sendmsg([view], rights(descriptors)) :]
        while view:
            view = view[await self.socket.send(view) :]

    def close(self, person_id: int) -> None:
        """Close it; where descriptors may lie in it, elsewhere.

        Args:
            person_id: whose these are (Peer.person_id).
        """
        if self.socket.fileno() < 0:
            return
        if not self._may_hold_rights:
            self.socket.close()
            return
        trio.lowlevel.notify_closing(self.socket)
        # The other end notices now, however long others keep the process that closes.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._closer.close(self.socket.detach(), person_id)
