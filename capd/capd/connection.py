"""A client's socket: messages and descriptors in, bytes out."""

import array
import fcntl
import math
import os
import socket

import trio

from capd import limits
from capd.errors import RequestRefused
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import MAX_REQUEST_SIZE_BYTES, FrameDecoder
from capd_protocol.messages import FailureCode, Message, decode

_RECEIVE_BYTES = 65536
#: SCM_MAX_FD (net/scm.h). One request carries one descriptor; a surplus that found no room would be closed by the
#: kernel, in our time.
_MAX_DESCRIPTORS = 253
_ONLY_NAMES_A_DIRECTORY = os.O_PATH | os.O_DIRECTORY


#: How long to wait for a descriptor to be closed before its thread is left alone with it. As many threads as there
#: are such descriptors: clients are bounded.
_CLOSING_S = 0.1
_closing = trio.CapacityLimiter(math.inf)


class Connection:
    """One client. Owns its socket and the descriptors that came with messages and were not taken."""

    def __init__(self, connection: trio.socket.SocketType) -> None:
        self.socket = connection
        self._decoder = FrameDecoder(MAX_REQUEST_SIZE_BYTES)
        self._descriptors: list[int] = []
        self._expected = 1

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
            if flags & socket.MSG_CTRUNC or len(self._descriptors) > self._expected:
                # Kept, it could be the client's own end of this connection, which would never end then.
                raise RemoteProtocolError("a descriptor came that nothing was asked with")
            if not data:
                self._decoder.check_end()
                return None
            self._decoder.feed(data)
        return decode(frame)

    def expect_descriptor(self) -> None:
        """Let one descriptor come with the next request."""
        self._expected = 1

    def expect_no_descriptor(self) -> None:
        """Let none come with what follows, nor have come.

        Raises:
            RemoteProtocolError: one has.
        """
        self._expected = 0
        if self._descriptors:
            raise RemoteProtocolError("a descriptor came that nothing was asked with")

    async def take_descriptor(self) -> int:
        """Return the directory's descriptor that came with a request; the caller owns it.

        It only names the directory (O_PATH | O_DIRECTORY): looking at it and closing it wait for nobody, and it
        keeps nothing open that is not a directory, such as the client's own end of this connection.

        Raises:
            RemoteProtocolError: none came.
            RequestRefused: it is of another kind.
        """
        if not self._descriptors:
            raise RemoteProtocolError("the request came without the descriptor of a directory")
        descriptor = self._descriptors.pop()
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & _ONLY_NAMES_A_DIRECTORY != _ONLY_NAMES_A_DIRECTORY:
            await _close(descriptor)
            text = "the descriptor that came along names no directory: open one with O_PATH and O_DIRECTORY"
            raise RequestRefused(FailureCode.DESTINATION, text, argument="savefile")
        self._expected = 0
        return descriptor

    async def send(self, data: bytes, descriptor: int | None = None) -> bool:
        """Send bytes, a descriptor with the first of them; return whether the client is still there.

        After cancellation a part may have been sent. The descriptor stays the caller's.
        """
        view = memoryview(data)
        try:
            if descriptor is not None:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
                view = view[await self.socket.sendmsg([view], [rights]) :]
            while view:
                view = view[await self.socket.send(view) :]
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    async def send_in_time(self, data: bytes) -> None:
        """Send an answer to a client, which must take it.

        Raises:
            RemoteProtocolError: it does not.
        """
        with trio.move_on_after(limits.REQUEST_TIMEOUT_S):
            await self.send(data)
            return
        raise RemoteProtocolError("the client does not take its answers")

    async def aclose(self) -> None:
        """Close everything."""
        self.socket.close()
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            await _close(descriptor)


async def _close(descriptor: int) -> None:
    # Whatever a client opened may take as long to close as it likes (SO_LINGER, say): that is a thread's.
    with trio.CancelScope(shield=True), trio.move_on_after(_CLOSING_S):
        await trio.to_thread.run_sync(os.close, descriptor, abandon_on_cancel=True, limiter=_closing)
