"""Devices of capture modules that the daemon opens, for a user who lacks a right and has a rule."""

from functools import partial

from capd_client.conversation.message_stream import MessageStream
from capd_client.errors import BrokenPipe, DaemonUnavailable, NotPermitted
from capd_client.request.namespaces import Netns
from capd_client.request.streams import StreamToOpen
from capd_client.sources.opened import OpenedStream, Outcome
from capd_client.transport.connect import Passed, SocketPath, Transport, connect
from capd_protocol.messages import DeviceEnded, DeviceOpened, OpenDevice


class DaemonDevice:
    """A device that the daemon has opened (``opened.Feeder``)."""

    def __init__(self, transport: Transport, messages: MessageStream) -> None:
        """Take over the connection that it belongs to."""
        self._transport = transport
        self._messages = messages
        self._outcome: Outcome | None = None
        self._is_over = False

    def outcome(self) -> Outcome | None:
        """Return why it was taken away, or has failed."""
        while not self._is_over and (data := self._transport.receive(0)) is not None:
            try:
                for message in self._messages.receive(data):
                    if isinstance(message, DeviceEnded):
                        failure = message.failure
                        self._end(None if failure is None else Outcome(failure.text, is_failure=True))
            except BrokenPipe as error:
                self._end(Outcome(str(error), is_failure=True))
        return self._outcome

    def _end(self, outcome: Outcome | None) -> None:
        if not self._is_over:
            self._is_over, self._outcome = True, outcome

    def end(self) -> None:
        """Have it end: the daemon does that when the connection closes."""
        self._is_over = True
        self._transport.close(wait=False)

    def wait(self) -> None:
        """Wait for nothing: it is the daemon's."""


def opener(socket_path: SocketPath, netns: Netns | None) -> "partial[OpenedStream]":
    """Return what opens a device through the daemon of a capture, for ``offer_of``; see ``open_with_daemon``."""
    return partial(open_with_daemon, socket_path, netns)


def open_with_daemon(
    socket_path: SocketPath, netns: Netns | None, stream: StreamToOpen, refused: NotPermitted
) -> OpenedStream:
    """Have the daemon open a device that this program may not.

    Args:
        socket_path: where the daemon listens; None: the default.
        netns: the network namespace of the capture; then no daemon opens anything.
        stream: the device.
        refused: why this program may not, which is raised where no daemon is there either.

    Raises:
        NotPermitted: no rule allows it either.
        ChildError: the daemon cannot open it.
        BrokenPipe: the daemon went away.
    """
    if stream.for_daemon is None or netns is not None:
        raise refused
    messages = MessageStream(OpenDevice(interface=stream.for_daemon()))
    try:
        transport = connect(socket_path)
    except DaemonUnavailable:
        raise refused from None
    transport.expects = Passed.PIPE
    try:
        transport.send(messages.opening())
        return _opened(transport, messages)
    except NotPermitted as error:
        transport.close()
        raise NotPermitted(f"{refused}; and {error}", error.failure) from error
    except BaseException:
        transport.close()
        raise


def _opened(transport: Transport, messages: MessageStream) -> OpenedStream:
    while True:
        for message in messages.receive(transport.receive(None) or b""):
            if not isinstance(message, DeviceOpened):
                raise BrokenPipe(f"capd answered with a {type(message).__name__}")
            pipe_fd, transport.pipe_fd = transport.pipe_fd, None
            if pipe_fd is None:
                raise BrokenPipe("capd has passed no pipe with the packets")
            return OpenedStream(pipe_fd, DaemonDevice(transport, messages))
