"""A client that follows a capture: it is sent events, and sends orders, at the same time."""

import socket
from collections.abc import Awaitable, Callable
from typing import cast

import trio

from capd import limits
from capd.captures.capture import Capture
from capd.captures.subscribers import Subscriber
from capd.clients.connection import Connection
from capd.clients.services import Services
from capd.clients.states import Conversation, OrderRequest, State, Step, complaint
from capd.errors import RequestRefused
from capd.policy.peer import Peer
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.messages import (
    EndReason,
    FlushCapture,
    Flushed,
    Message,
    Refused,
    RotateCapture,
    Rotated,
    SnapshotCapture,
    SnapshotTaken,
    StopCapture,
    Stopping,
    encode,
)


async def _at_once() -> None:
    """Wait for nothing: the capture runs."""


class Following:
    """One client, and the capture that it follows."""

    def __init__(
        self,
        services: Services,
        peer: Peer,
        connection: Connection,
        conversation: Conversation,
        *,
        capture: Capture,
        subscriber: Subscriber,
        on_left: Callable[[RemoteProtocolError | None], None] | None = None,
    ) -> None:
        """Send nothing yet.

        Args:
            services: who decides on orders, and has them on record.
            peer: the client.
            connection: to it.
            conversation: with it, which is about a capture now.
            capture: which.
            subscriber: of the capture, for this client.
            on_left: called when the client has left, or has broken the protocol as it says; events go on until the
                capture's end. None: that is the end.
        """
        self._captures = services.captures
        self._admission = services.admission
        self._audit = services.audit
        self._peer = peer
        self._connection = connection
        self._conversation = conversation
        self._capture = capture
        self._subscriber = subscriber
        self._on_left = on_left

    async def run(
        self,
        first: Message,
        files: socket.socket | None = None,
        *,
        settled: Callable[[], Awaitable[RequestRefused | None]] = _at_once,
    ) -> RequestRefused | None:
        """Send events until the capture's end, and carry out orders; return why there are none, if it does not run.

        Args:
            first: what the client is sent when it runs.
            files: a socket for the files, which goes along with that, and stays the caller's.
            settled: waits until it runs, or returns why it does not.

        Raises:
            RemoteProtocolError: the client has broken the protocol, and that is the end.
        """
        violation: RemoteProtocolError | None = None

        async def listen() -> None:
            nonlocal violation
            violation = await self._obey(nursery)
            if self._on_left is None:
                nursery.cancel_scope.cancel()
            else:
                self._on_left(violation)

        refused: RequestRefused | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            refused = await settled()
            if refused is None:
                violation = await self._tell(first, files) or violation
            nursery.cancel_scope.cancel()
        if violation is not None and self._on_left is None:
            raise violation
        return refused

    # Orders -------------------------------------------------------------------------------------------------------

    async def _obey(self, nursery: trio.Nursery) -> RemoteProtocolError | None:
        """Take orders until the client leaves; return how it has broken the protocol, if it has."""
        own = (None, self._capture.capture_id, self._capture.name)
        try:
            while (message := await self._connection.receive()) is not None:
                self._conversation.check(message)
                order = cast(OrderRequest, message)
                if order.capture not in own:
                    raise complaint(State.FOLLOWING, order)
                await self._admission.pace(self._peer, order)
                may_control = self._captures.may_control(self._peer, self._capture)
                self._conversation.hear(order, is_forbidden=not may_control)
                if not isinstance(order, StopCapture) or not may_control:
                    nursery.start_soon(self._order, order)
                elif self._capture.stop(EndReason.STOPPED):
                    self._subscriber.put(Stopping())
        except RemoteProtocolError as error:
            return error
        return None

    async def _order(self, order: OrderRequest) -> None:
        """Carry out what takes a while, and answer among the events."""
        reply: Message
        try:
            await self._admission.wait_recordable(self._peer)
            self._captures.find(self._peer, self._capture.capture_id, to_control=True)
            reply = await carry_out(order, self._capture)
            self._audit.granted(self._peer, order, capture=self._capture.capture_id)
        except RequestRefused as refused:
            self._audit.refused(self._peer, order, refused.failure)
            self._admission.note_refused(self._peer)
            reply = Refused(failure=refused.failure)
        self._subscriber.put(reply)
        self._conversation.take(Step.ORDER_ANSWERED)

    # Events -------------------------------------------------------------------------------------------------------

    async def _tell(self, first: Message, files: socket.socket | None) -> RemoteProtocolError | None:
        """Send events until the capture's end; for the last ones a client has only so much time.

        Returns:
            How the client has broken the protocol: its kernel takes no descriptor.
        """
        violation: RemoteProtocolError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_after_end, nursery.cancel_scope)
            try:
                is_there = await self._connection.send(encode(first), [] if files is None else [files.fileno()])
            except RemoteProtocolError as error:  # which leaves no nursery as it is
                is_there, violation = False, error
            while is_there and (batch := await self._subscriber.next_batch()) is not None:
                self._conversation.take(Step.EVENTS_SENT)
                is_there = await self._connection.send(batch)
            if not is_there and self._on_left is not None:
                self._on_left(None)
                await self._subscriber.ended.wait()
            nursery.cancel_scope.cancel()
        return violation

    async def _cancel_after_end(self, scope: trio.CancelScope) -> None:
        await self._subscriber.ended.wait()
        await trio.sleep(limits.LAST_EVENTS_TIMEOUT_S)
        scope.cancel()


async def carry_out(order: OrderRequest, capture: Capture) -> Message:
    """Return the reply when it is done.

    Raises:
        RequestRefused: it cannot be.
    """
    match order:
        case StopCapture():
            await capture.end(EndReason.STOPPED)
            return Stopping()
        case RotateCapture():
            return Rotated(file_name=await capture.orders.rotate())
        case FlushCapture():
            await capture.orders.flush()
            return Flushed()
        case SnapshotCapture(after_s=after_s):
            return SnapshotTaken(file_name=await capture.orders.snapshot(after_s))
