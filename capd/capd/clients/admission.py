"""Admission of clients and rates of their requests: one user's many or hasty clients cost other users nothing.

Root, and the owner of a private daemon, are always let in, and never wait here.
"""

import collections
import contextlib
import enum
import socket
from collections.abc import AsyncGenerator, Generator, Hashable
from types import MappingProxyType

import trio

from capd import limits
from capd.captures.registry import Captures
from capd.errors import RequestRefused
from capd.pacing.rates import Bucket, Buckets
from capd.policy.audit import Audit
from capd.policy.peer import Peer, group_count, peer_of
from capd.policy.people import People
from capd.supervisor.closer import Closer
from capd_protocol.messages import (
    AttachCapture,
    FailureCode,
    FlushCapture,
    Request,
    RevokeCaptures,
    RotateCapture,
    SnapshotCapture,
    StartCapture,
    StartSending,
    StopCapture,
)


class Kind(enum.Enum):
    """What somebody does, each at its rate."""

    CONNECTION = enum.auto()
    QUESTION = enum.auto()
    START = enum.auto()
    ORDER = enum.auto()
    REFUSAL = enum.auto()


#: Of one user.
_RATES = MappingProxyType(
    {
        Kind.CONNECTION: limits.CONNECTIONS,
        Kind.QUESTION: limits.QUESTIONS,
        Kind.START: limits.STARTS,
        Kind.ORDER: limits.ORDERS,
        Kind.REFUSAL: limits.REFUSALS,
    }
)
#: Of one user who may not capture, and of all these together. All else that they ask for is refused.
_RATES_OF_STRANGER = MappingProxyType(
    {
        Kind.CONNECTION: limits.CONNECTIONS_OF_STRANGER,
        Kind.QUESTION: limits.QUESTIONS_OF_STRANGER,
        Kind.REFUSAL: limits.REFUSALS_OF_STRANGER,
    }
)
_RATES_OF_STRANGERS = MappingProxyType(
    {
        Kind.CONNECTION: limits.CONNECTIONS_OF_STRANGERS,
        Kind.QUESTION: limits.QUESTIONS_OF_STRANGERS,
        Kind.REFUSAL: limits.REFUSALS_OF_STRANGERS,
    }
)
#: All of them together; others are counted by person.
_STRANGERS = "strangers"


def kind_of(request: Request) -> Kind:
    """Return at which rate a request may come."""
    match request:
        case StartCapture() | StartSending():
            return Kind.START
        case StopCapture() | RotateCapture() | FlushCapture() | SnapshotCapture() | AttachCapture() | RevokeCaptures():
            return Kind.ORDER
        case _:
            return Kind.QUESTION


class Admission:
    """Lets clients in."""

    def __init__(self, people: People, captures: Captures, closer: Closer, audit: Audit) -> None:
        """Have let in nobody.

        Args:
            people: finds the persons behind users.
            captures: knows policy, and counts clients.
            closer: knows what is left of earlier connections.
            audit: which requests wait for.
        """
        self._people = people
        self._captures = captures
        self._closer = closer
        self._audit = audit
        #: Connections, by who is behind them: of those who may capture, and of the others.
        self._clients: collections.Counter[int] = collections.Counter()
        self._strangers: collections.Counter[int] = collections.Counter()
        #: Of those whom no rule binds.
        self._unbound: collections.Counter[int] = collections.Counter()
        self._waiting: collections.Counter[str] = collections.Counter()
        self._readings = Bucket(limits.READINGS_OF_MANY_GROUPS)
        self._buckets = Buckets()

    @property
    def clients(self) -> int:
        """How many clients are connected."""
        return self._clients.total() + self._strangers.total() + self._unbound.total()

    # Connections --------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def admitted(self, peer: Peer) -> AsyncGenerator[Peer, None]:
        """Have a client that connects counted while the block lasts; give the peer with the person behind it.

        Raises:
            RequestRefused: there are as many as there may be, or who it is is not known in time.
        """
        if not self._is_unbound(peer):
            with self._one_that_waits("to be identified", limits.MAX_UNIDENTIFIED):
                peer = await self._people.identified(peer)
        with self._counted(peer):
            await self._wait_out(peer, Kind.CONNECTION)
            yield peer

    async def introduced(self, connection: socket.socket, *, is_contained: bool) -> Peer:
        """Return the peer that has connected; one with very many groups, which are slow to read, waits for a turn.

        Raises:
            RequestRefused: too many wait for that.
            OSError: the kernel does not answer.
        """
        if group_count(connection) > limits.FEW_GROUPS:
            with self._one_that_waits("to have its groups read", limits.MAX_OF_MANY_GROUPS):
                await trio.sleep(self._readings.take(trio.current_time()))
        return peer_of(connection, is_contained=is_contained)

    @contextlib.contextmanager
    def _one_that_waits(self, what_for: str, most: int) -> Generator[None, None, None]:
        if self._waiting[what_for] >= most:
            raise too_many_clients()
        self._waiting[what_for] += 1
        try:
            yield
        finally:
            self._waiting[what_for] -= 1

    @contextlib.contextmanager
    def _counted(self, peer: Peer) -> Generator[None, None, None]:
        if self._is_unbound(peer):
            counted, of_one, of_all = self._unbound, limits.MAX_CLIENTS_PER_USER, limits.MAX_CLIENTS_PER_USER
        elif self._is_stranger(peer):
            counted, of_one, of_all = self._strangers, limits.MAX_CLIENTS_PER_STRANGER, limits.MAX_STRANGERS
        else:
            counted, of_one, of_all = self._clients, limits.MAX_CLIENTS_PER_USER, limits.MAX_CLIENTS
        if counted[peer.person_id] >= of_one or counted.total() >= of_all:
            raise too_many_clients()
        if counted is not self._unbound and self._closer.unclosed(peer.person_id) >= limits.MAX_UNCLOSED_PER_USER:
            raise too_many_clients()
        self._captures.tally.clients += 1
        counted[peer.person_id] += 1
        try:
            yield
        finally:
            counted[peer.person_id] -= 1
            if not counted[peer.person_id]:
                del counted[peer.person_id]

    def _is_unbound(self, peer: Peer) -> bool:
        return self._captures.policy.is_unbound(peer)

    def _is_stranger(self, peer: Peer) -> bool:
        """Whether no rule names the peer."""
        return not self._captures.policy.rules_of(peer)

    # Requests -----------------------------------------------------------------------------------------------------

    async def pace(self, peer: Peer, request: Request) -> None:
        """Wait until it is time for a request."""
        await self._wait_out(peer, kind_of(request))

    async def wait_recordable(self, peer: Peer) -> None:
        """Wait until what comes of a request can be put on record.

        Raises:
            RequestRefused: it cannot be, for too long.
        """
        if not self._is_unbound(peer):
            await self._audit.wait_room()

    def note_refused(self, peer: Peer) -> None:
        """Take note of a refusal, for which the next requests wait."""
        now_s = trio.current_time()
        for bucket in self._buckets_of(peer, Kind.REFUSAL, now_s):
            bucket.take(now_s)

    def turn_of(self, peer: Peer) -> Hashable:
        """Return whose turn it must be for what takes a while."""
        return _STRANGERS if self._is_stranger(peer) else peer.person_id

    async def _wait_out(self, peer: Peer, kind: Kind) -> None:
        now_s = trio.current_time()
        waits_s = [bucket.take(now_s) for bucket in self._buckets_of(peer, kind, now_s)]
        if kind != Kind.CONNECTION:
            waits_s += [bucket.wait_s(now_s) for bucket in self._buckets_of(peer, Kind.REFUSAL, now_s)]
        if (wait_s := max(waits_s, default=0.0)) > 0:
            await trio.sleep(wait_s)

    def _buckets_of(self, peer: Peer, kind: Kind, now_s: float) -> list[Bucket]:
        if self._is_unbound(peer):
            return []
        if not self._is_stranger(peer):
            return [self._buckets.of((kind, peer.person_id), _RATES[kind], now_s)]
        if kind not in _RATES_OF_STRANGER:
            return []
        return [
            self._buckets.of((kind, _STRANGERS, peer.person_id), _RATES_OF_STRANGER[kind], now_s),
            self._buckets.of((kind, _STRANGERS), _RATES_OF_STRANGERS[kind], now_s),
        ]


def too_many_clients() -> RequestRefused:
    """Return the refusal of a client that is one too many."""
    return RequestRefused(FailureCode.RESOURCES, "capd has as many clients as it may have: try again later")
