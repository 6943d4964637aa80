"""Listens, lets clients in, and serves each in a task of its own."""

import contextlib
import errno
import os
from functools import partial
from typing import Any, cast

import trio

from capd import limits
from capd.captures.lasting.detached import Detached
from capd.captures.registry import Captures
from capd.captures.revoker import Revoker
from capd.clients.admission import Admission
from capd.clients.client import Client
from capd.clients.connection import Connection
from capd.clients.services import Services
from capd.clients.states import failure_of
from capd.errors import RequestRefused, no_room
from capd.leases.devices import Devices
from capd.leases.senders import Senders
from capd.network.monitor import Monitor
from capd.policy.audit import Audit
from capd.policy.peer import NOBODY, Peer
from capd.policy.people import People
from capd.service.listener import Reserve, accepted
from capd.supervisor.closer import Closer
from capd_protocol.errors import LocalProtocolError, RemoteProtocolError
from capd_protocol.messages import Failure, Refused, encode


class Server:
    """The daemon's side of all connections."""

    def __init__(
        self,
        captures: Captures,
        detached: Detached,
        monitor: Monitor,
        audit: Audit,
        closer: Closer,
        *,
        senders: Senders,
        devices: Devices,
        people: People | None = None,
    ) -> None:
        people = people or People()
        self._captures = captures
        self._audit = audit
        self._closer = closer
        self._admission = Admission(people, captures, closer, audit)
        self._services = Services(
            captures=captures,
            detached=detached,
            monitor=monitor,
            audit=audit,
            closer=closer,
            admission=self._admission,
            revoker=Revoker(captures, people, monitor),
            senders=senders,
            devices=devices,
        )

    def status(self) -> str:
        """Return what goes on, in a line for whoever looks after the service."""
        captures, users = self._captures.running_and_users()
        clients = self._admission.clients
        return f"{_number_of(captures, 'capture')} of {_number_of(users, 'user')}, {_number_of(clients, 'client')}"

    @property
    def clients(self) -> int:
        """How many clients are connected."""
        return self._admission.clients

    async def serve(self, listener: trio.socket.SocketType, *, is_contained: bool = False) -> None:
        """Serve clients until cancelled; then all their captures have ended.

        Args:
            listener: where they connect.
            is_contained: it is the containers' socket.
        """
        with contextlib.closing(Reserve()) as reserve:
            async with trio.open_nursery() as nursery:
                while True:
                    connected = await accepted(listener, reserve)
                    if reserve.is_lent:
                        nursery.start_soon(self._turn_away, connected)
                    else:
                        nursery.start_soon(partial(self.serve_client, connected, is_contained=is_contained))

    async def _turn_away(self, connected: trio.socket.SocketType) -> None:
        """Refuse a client that has the last descriptor there is."""
        connection = Connection(connected, self._closer)
        try:
            await self._refuse(connection, no_room(OSError(errno.EMFILE, os.strerror(errno.EMFILE))).failure)
        finally:
            connection.close(NOBODY)

    async def serve_client(self, connected: trio.socket.SocketType, *, is_contained: bool = False) -> None:
        """Serve one client until it has gone, or has broken the protocol."""
        connection = Connection(connected, self._closer)
        peer: Peer | None = None
        try:
            peer = await self._admission.introduced(cast(Any, connected), is_contained=is_contained)
            async with self._admission.admitted(peer) as peer:
                await Client(self._services, peer, connection).run()
        except RequestRefused as refused:
            await self._refuse(connection, refused.failure)
        except RemoteProtocolError as error:
            self._audit.misbehaved(peer, "breaks the protocol: %s", error)
            await self._refuse(connection, failure_of(error))
        except Exception:
            # A bug, here or in what is used here. It ends this client; the others' captures shall not end with it.
            self._audit.misbehaved(peer, "the task of this client failed; please report this", failed=True)
        finally:
            connection.close(NOBODY if peer is None else peer.person_id)

    async def _refuse(self, connection: Connection, failure: Failure) -> None:
        """Send the last message of a conversation."""
        self._captures.tally.add_refused(failure.code)
        # What is raised here would end the daemon.
        with trio.move_on_after(limits.LAST_EVENTS_TIMEOUT_S), contextlib.suppress(LocalProtocolError):
            await connection.send(encode(Refused(failure=failure)))


def _number_of(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
