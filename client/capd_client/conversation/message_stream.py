"""The messages that answer a request, one after another."""

from collections.abc import Iterator

from capd_client.conversation.greeting import greeting
from capd_client.errors import BrokenPipe, DaemonGone, error_for
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import FrameDecoder
from capd_protocol.messages import Hello, Message, Refused, Request, decode, encode


class MessageStream:
    """What one connection says, without any input or output of its own."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._decoder = FrameDecoder()

    def opening(self) -> bytes:
        """Return the bytes to send."""
        return greeting() + encode(self._request)

    def receive(self, data: bytes) -> Iterator[Message]:
        """Take bytes from the daemon and yield its messages, but for the greeting.

        Raises:
            ChildError: it refuses; the subclass and ``failure`` give the reason.
            BrokenPipe: it has gone, or cannot be understood.
        """
        if not data:
            raise DaemonGone("capd has gone away")
        self._decoder.feed(data)
        try:
            while (frame := self._decoder.next_frame()) is not None:
                message = decode(frame)
                if isinstance(message, Refused):
                    raise error_for(message.failure)
                if not isinstance(message, Hello):
                    yield message
        except RemoteProtocolError as error:
            raise BrokenPipe(f"capd cannot be understood: {error}") from error
