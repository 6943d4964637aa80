"""A client that sends packets: it is given the socket to its process, and told how that ended."""

import trio

from capd import limits
from capd.clients.connection import Connection
from capd.clients.services import Services
from capd.clients.states import Conversation, failure_of
from capd.errors import RequestRefused
from capd.policy.peer import Peer
from capd.sending.sender import Sender
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.messages import StartSending, encode


class SendingClient:
    """One client, from its request to the end."""

    def __init__(self, services: Services, peer: Peer, connection: Connection, conversation: Conversation) -> None:
        """Say nothing yet.

        Args:
            services: who decides, and has it on record.
            peer: the client.
            connection: to it.
            conversation: with it, which is about sending now.
        """
        self._services = services
        self._peer = peer
        self._connection = connection
        self._conversation = conversation
        self._violation: RemoteProtocolError | None = None

    async def run(self, request: StartSending) -> RequestRefused | None:
        """Have the client send until it leaves, or is kept from it; return why it could not begin, if it could not.

        Raises:
            RequestRefused: it may not.
            RemoteProtocolError: it has broken the protocol.
            OSError: the kernel does not answer.
        """
        services = self._services
        services.captures.policy.rules_or_refuse(self._peer)
        link = await services.senders.find(request.interface)
        with (
            services.senders.granted(self._peer, link) as sender,
            services.audit.on_record(self._peer, request, sender.grant_record, sender.end_record),
        ):
            refused = await self._run(sender)
            if refused is None and self._violation is None:
                with trio.move_on_after(limits.LAST_EVENTS_TIMEOUT_S):
                    await self._connection.send(encode(sender.end))
        if self._violation is not None:
            raise self._violation
        return refused

    async def _run(self, sender: Sender) -> RequestRefused | None:
        refused: RequestRefused | None = None

        async def begin(descriptor: int) -> None:
            try:
                with trio.move_on_after(limits.REQUEST_TIMEOUT_S):
                    await self._connection.send(encode(sender.beginning), [descriptor])
            except RemoteProtocolError as error:
                self._break_off(sender, error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_until_left, sender)
            refused = await sender.run(begin)
            nursery.cancel_scope.cancel()
        return refused

    async def _wait_until_left(self, sender: Sender) -> None:
        try:
            if (message := await self._connection.receive()) is not None:
                self._conversation.hear(message)
        except RemoteProtocolError as error:
            self._break_off(sender, error)
        else:
            sender.stop()

    def _break_off(self, sender: Sender, violation: RemoteProtocolError) -> None:
        self._violation = violation
        sender.stop(failure_of(violation))
