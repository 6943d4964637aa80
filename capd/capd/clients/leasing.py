"""A client with a lease: it is given a descriptor that leads to a process of its own, and hears how that ended."""

from contextlib import AbstractContextManager

import trio

from capd import limits
from capd.clients.connection import Connection
from capd.clients.services import Services
from capd.clients.states import Conversation, failure_of
from capd.errors import RequestRefused
from capd.leases.leases import Lease
from capd.policy.peer import Peer
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.messages import Message, Request, encode


class LeasingClient:
    """One client, from its request to the end."""

    def __init__(self, services: Services, peer: Peer, connection: Connection, conversation: Conversation) -> None:
        """Say nothing yet.

        Args:
            services: who decides, and has it on record.
            peer: the client.
            connection: to it.
            conversation: with it, which is about the lease now.
        """
        self._services = services
        self._peer = peer
        self._connection = connection
        self._conversation = conversation
        self._violation: RemoteProtocolError | None = None

    async def run(self, request: Request, granted: AbstractContextManager[Lease]) -> RequestRefused | None:
        """Let the client have it until it leaves, or is kept from it; return why it could not begin, if it could not.

        Args:
            request: what was asked for.
            granted: the lease; raises RequestRefused where it is not granted.

        Raises:
            RequestRefused: it may not.
            RemoteProtocolError: it has broken the protocol.
        """
        services = self._services
        with (
            granted as lease,
            services.audit.on_record(self._peer, request, lease.grant_record, lease.end_record),
        ):
            refused = await self._run(lease)
            if refused is None and self._violation is None:
                with trio.move_on_after(limits.LAST_EVENTS_TIMEOUT_S):
                    await self._connection.send(encode(lease.end))
        if self._violation is not None:
            raise self._violation
        return refused

    async def _run(self, lease: Lease) -> RequestRefused | None:
        refused: RequestRefused | None = None

        async def begin(beginning: Message, descriptor: int) -> None:
            try:
                with trio.move_on_after(limits.REQUEST_TIMEOUT_S):
                    await self._connection.send(encode(beginning), [descriptor])
            except RemoteProtocolError as error:
                self._break_off(lease, error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_until_left, lease)
            refused = await lease.run(begin)
            nursery.cancel_scope.cancel()
        return refused

    async def _wait_until_left(self, lease: Lease) -> None:
        try:
            if (message := await self._connection.receive()) is not None:
                self._conversation.hear(message)
        except RemoteProtocolError as error:
            self._break_off(lease, error)
        else:
            lease.stop()

    def _break_off(self, lease: Lease, violation: RemoteProtocolError) -> None:
        self._violation = violation
        lease.stop(failure_of(violation))
