"""A client's socket: messages and descriptors in, bytes out."""

import array
import contextlib
import os
import socket

import trio

from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import MAX_REQUEST_SIZE_BYTES, FrameDecoder
from capd_protocol.messages import Message, decode

_RECEIVE_BYTES = 65536
#: One request carries one descriptor; room for more only so that a surplus is noticed.
_MAX_DESCRIPTORS = 8


class Connection:
    """One client. Owns its socket and the descriptors that came with messages and were not taken."""

    def __init__(self, connection: trio.socket.SocketType) -> None:
        self.socket = connection
        self._decoder = FrameDecoder(MAX_REQUEST_SIZE_BYTES)
        self._descriptors: list[int] = []

    async def receive(self) -> Message | None:
        """Return the next message, or None when the client has closed its side.

        Raises:
            RemoteProtocolError: it is no message, or too many descriptors came.
        """
        while (frame := self._decoder.next_frame()) is None:
            try:
                data, ancillary, flags, _ = await self.socket.recvmsg(
                    _RECEIVE_BYTES, socket.CMSG_SPACE(_MAX_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
                )
            except ConnectionResetError:
                return None
            for level, kind, payload in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    received = array.array("i", payload[: len(payload) - len(payload) % 4])
                    self._descriptors.extend(received)
            if flags & socket.MSG_CTRUNC or len(self._descriptors) > 1:
                raise RemoteProtocolError("more than one descriptor came")
            if not data:
                self._decoder.check_end()
                return None
            self._decoder.feed(data)
        return decode(frame)

    def take_descriptor(self) -> int:
        """Return the descriptor that came with a request; the caller owns it.

        Raises:
            RemoteProtocolError: none came.
        """
        if not self._descriptors:
            raise RemoteProtocolError("the request came without the descriptor of a directory")
        return self._descriptors.pop()

    async def send(self, data: bytes) -> bool:
        """Send bytes; return whether the client is still there. After cancellation a part may have been sent."""
        view = memoryview(data)
        try:
            while view:
                view = view[await self.socket.send(view) :]
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def close(self) -> None:
        """Close everything."""
        while self._descriptors:
            os.close(self._descriptors.pop())
        with contextlib.suppress(OSError):
            self.socket.close()
