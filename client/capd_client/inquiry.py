"""Requests that are no capture: asked on a connection of their own, answered, or followed as long as one likes."""

import os
import time
from collections.abc import Iterator
from importlib.metadata import version

from capd_client.errors import BrokenPipe, CaptureError, error_for
from capd_client.transport import Transport, connect
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import FrameDecoder
from capd_protocol.messages import (
    PROTOCOL_VERSION,
    CaptureList,
    CaptureSummary,
    Hello,
    ListCaptures,
    Message,
    Permissions,
    Refused,
    Request,
    StopCapture,
    Stopping,
    WhoAmI,
    decode,
    encode,
)

SocketPath = str | os.PathLike[str] | None

_REPLY_TIMEOUT_S = 30.0


class MessageStream:
    """What one connection says, without any input or output of its own."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._decoder = FrameDecoder()

    def opening(self) -> bytes:
        """Return the bytes to send."""
        hello = Hello(protocol_version=PROTOCOL_VERSION, software=f"capd_client {version('capd')}")
        return encode(hello) + encode(self._request)

    def receive(self, data: bytes) -> Iterator[Message]:
        """Take bytes from the daemon and yield its messages, but for the greeting.

        Raises:
            ChildError: it refuses; the subclass and ``failure`` tell why.
            BrokenPipe: it has gone, or cannot be understood.
        """
        if not data:
            raise BrokenPipe("capd has gone away")
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


def open_stream(request: Request, socket_path: SocketPath, *, may_start: bool) -> tuple[MessageStream, Transport]:
    """Connect and ask.

    Args:
        request: what to ask for.
        socket_path: where the daemon listens.
        may_start: a private daemon serves as well.

    Raises:
        DaemonUnavailable: there is none.
    """
    stream = MessageStream(request)
    opening = stream.opening()
    transport = connect(socket_path, may_start=may_start, needs_privilege=False)
    transport.send(opening)
    return stream, transport


def ask(request: Request, socket_path: SocketPath, *, may_start: bool = False) -> Iterator[Message]:
    """Ask, and yield the messages of the answer; whoever asks knows which one is the last.

    Raises:
        ChildError: the daemon refuses.
        BrokenPipe: it does not answer.
        DaemonUnavailable: there is none.
    """
    stream, transport = open_stream(request, socket_path, may_start=may_start)
    deadline_s = time.monotonic() + _REPLY_TIMEOUT_S
    try:
        while True:
            data = transport.receive(max(0, deadline_s - time.monotonic()))
            if data is None:
                raise BrokenPipe(f"capd did not answer within {_REPLY_TIMEOUT_S:g} s")
            yield from stream.receive(data)
    finally:
        transport.close()


def list_captures(*, socket_path: SocketPath = None) -> tuple[CaptureSummary, ...]:
    """Return the captures of this user that run now, oldest first; for root, everybody's.

    Raises:
        DaemonUnavailable: there is no daemon.
        BrokenPipe: it does not answer.
    """
    found: list[CaptureSummary] = []
    for reply in ask(ListCaptures(), socket_path):
        if not isinstance(reply, CaptureList):
            raise BrokenPipe(f"capd answered with a {type(reply).__name__}")
        found += reply.captures
        if reply.is_last:
            break
    return tuple(found)


def who_am_i(*, socket_path: SocketPath = None) -> Permissions:
    """Return who this process is to the daemon, and what policy lets it do.

    Raises:
        DaemonUnavailable: there is no daemon.
        BrokenPipe: it does not answer.
    """
    reply = next(ask(WhoAmI(), socket_path))
    if not isinstance(reply, Permissions):
        raise BrokenPipe(f"capd answered with a {type(reply).__name__}")
    return reply


def stop_capture(capture_id: int, *, socket_path: SocketPath = None) -> None:
    """Have a capture end; its own session gets the last events.

    Raises:
        CaptureError: this user has no such capture, or there is no daemon.
    """
    reply = next(ask(StopCapture(capture_id=capture_id), socket_path))
    if not isinstance(reply, Stopping):
        raise CaptureError(f"capd answered with a {type(reply).__name__}")
