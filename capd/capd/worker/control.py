"""The worker's end of the control socket: orders and descriptors in."""

import contextlib
import select
import socket
import time
from collections import deque
from math import inf
from typing import NamedTuple

from capd.errors import no_room
from capd.launch import Attach, Control, Detach, Disarmed, Flush, Launch, RingMade, Rotate, Snapshot, Stop, decode
from capd.linux.descriptors import DescriptorsDropped, receive
from capd.worker.sources.af_packet import PacketSockets
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import Frame, FrameDecoder
from capd_protocol.messages import Failure, Message

_RECEIVE_BYTES = 65536
_MAX_DESCRIPTORS = 64


class RingCame(NamedTuple):
    """What has become of a ring that was asked for."""

    number: int
    sockets: PacketSockets | Failure


Order = Stop | Attach | Detach | Rotate | Flush | Snapshot | RingCame


class DaemonGone(Exception):
    """The daemon has closed its side: what it had to say is not to come any more."""


class ControlSocket:
    """Reads from the daemon."""

    def __init__(self, control: socket.socket) -> None:
        self.socket = control
        self._decoder = FrameDecoder()
        #: Of each message that brought some; none where the kernel dropped them.
        self._descriptors: deque[list[int] | DescriptorsDropped] = deque()
        #: What came between the frames that a capture begins with.
        self._orders: list[Order] = []
        self.is_over = False

    def read_launch(self) -> Launch:
        """Wait for what to do.

        Raises:
            DaemonGone: it has changed its mind.
            RemoteProtocolError: it speaks another language.
        """
        launch = decode(self._next_frame())
        if not isinstance(launch, Launch):
            raise RemoteProtocolError(f"a {type(launch).__name__} before the launch")
        return launch

    def read_ring(self) -> PacketSockets | Failure:
        """Wait for the next of the rings that were asked for to begin with; or why it is none.

        Raises:
            DaemonGone: it has changed its mind.
        """
        while True:
            order = self._order_of(decode(self._next_frame()))
            if isinstance(order, RingCame):
                return order.sockets
            self._orders.append(order)

    def wait_disarmed(self, timeout_s: float) -> None:
        """Wait until nothing more is received; orders that come meanwhile come too late.

        Raises:
            DaemonGone: there is nobody to see to that, or it is not done in time.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            message = decode(self._next_frame(deadline_s))
            if isinstance(message, Disarmed):
                return
            order = self._order_of(message)
            if isinstance(order, RingCame) and not isinstance(order.sockets, Failure):
                order.sockets.close()

    def _next_frame(self, deadline_s: float = inf) -> Frame:
        while (frame := self._decoder.next_frame()) is None:
            timeout_s = None if deadline_s == inf else max(deadline_s - time.monotonic(), 0)
            # The sender of reports has made it non-blocking.
            if self.is_over or not select.select([self.socket], [], [], timeout_s)[0]:
                raise DaemonGone
            self._receive(0)
        return frame

    def take_sockets(self) -> list[socket.socket]:
        """Return the sockets that came with the next message that brought any; they are the caller's now.

        Raises:
            DescriptorsDropped: this process may have no more.
        """
        descriptors = self._descriptors.popleft()
        if isinstance(descriptors, DescriptorsDropped):
            raise descriptors
        return [socket.socket(fileno=each) for each in descriptors]

    def _receive(self, flags: int) -> None:
        # One call takes the descriptors of one message at most (unix(7)).
        try:
            data, descriptors = receive(self.socket, _RECEIVE_BYTES, _MAX_DESCRIPTORS, flags)
            if descriptors:
                self._descriptors.append(descriptors)
        except ConnectionResetError:
            data = b""
        except DescriptorsDropped as error:
            data = error.data
            self._descriptors.append(error)
        self.is_over = not data
        self._decoder.feed(data)

    def read(self) -> list[Order]:
        """Return the orders that have come since; with ``is_over`` no more will come.

        Raises:
            RemoteProtocolError: it speaks another language.
        """
        with contextlib.suppress(BlockingIOError):  # something may have come with what was read before
            self._receive(socket.MSG_DONTWAIT)
        orders, self._orders = self._orders, []
        while (frame := self._decoder.next_frame()) is not None:
            orders.append(self._order_of(decode(frame)))
        return orders

    def _order_of(self, message: Control | Message) -> Order:
        if isinstance(message, RingMade):
            return RingCame(message.number, self._take_sockets(message))
        if not isinstance(message, Stop | Attach | Detach | Rotate | Flush | Snapshot):
            raise RemoteProtocolError(f"a {type(message).__name__}, which is not for the daemon to say now")
        return message

    def _take_sockets(self, made: RingMade) -> PacketSockets | Failure:
        if made.failure is not None:
            return made.failure
        if made.memory is None:
            raise RemoteProtocolError("a ring that is none")
        # The descriptors came with the frame's first byte, so they are here.
        try:
            ring, *trigger = self.take_sockets()
        except DescriptorsDropped as error:
            return no_room(error).failure
        return PacketSockets(ring, made.memory, *trigger)

    def is_gone(self) -> bool:
        """Whether the daemon has closed its side."""
        try:
            return not self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Close descriptors that nobody took."""
        while self._descriptors:
            with contextlib.suppress(DescriptorsDropped):
                for each in self.take_sockets():
                    each.close()
