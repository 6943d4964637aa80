"""A client's connection: messages in, messages and descriptors out."""

from collections.abc import Sequence

import trio

from capd import limits
from capd.supervisor.closer import Closer
from capd.supervisor.guarded import GuardedSocket
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import MAX_REQUEST_SIZE_BYTES, FrameDecoder
from capd_protocol.messages import Message, decode

_RECEIVE_BYTES = 65536


class Connection:
    """One client. Owns its socket."""

    def __init__(self, connection: trio.socket.SocketType, closer: Closer) -> None:
        """Take over a socket that was just accepted; what a client puts into it is closed by ``closer``."""
        self._socket = GuardedSocket(connection, closer)
        self._decoder = FrameDecoder(MAX_REQUEST_SIZE_BYTES)

    async def receive(self) -> Message | None:
        """Return the next message, or None when the client has closed its side.

        Raises:
            RemoteProtocolError: it is no message, or a descriptor came along.
        """
        while (frame := self._decoder.next_frame()) is None:
            data = await self._socket.receive(_RECEIVE_BYTES)
            if not data:
                self._decoder.check_end()
                return None
            self._decoder.feed(data)
        return decode(frame)

    async def send(self, data: bytes, descriptors: Sequence[int] = ()) -> bool:
        """Send bytes, descriptors with the first of them; return whether the client is still there.

        After cancellation a part may have been sent. Descriptors stay the caller's.

        Raises:
            RemoteProtocolError: the client has its kernel refuse descriptors.
        """
        try:
            await self._socket.send(data, descriptors)
        except (BrokenPipeError, ConnectionResetError, trio.ClosedResourceError):
            return False
        except PermissionError as error:
            raise RemoteProtocolError("the client takes no descriptors") from error
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

    def close(self, person_id: int) -> None:
        """Close it.

        Args:
            person_id: whose it is (Peer.person_id).
        """
        self._socket.close(person_id)
