"""The leases of one kind: how many there are, who loses one when policy changes, and how all end."""

import abc
import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import trio

from capd.errors import RequestRefused
from capd.policy.peer import Peer
from capd.policy.people import People
from capd.policy.revocation import as_of_today, persons_of
from capd.policy.rules import Policy
from capd_protocol.messages import MAX_WHY_CHARACTERS, Failure, FailureCode, Message, RevokeCaptures

_STOPPING = "capd is stopping: try again when it runs again"


class Lease(Protocol):
    """What one client has: granted, and running or ended."""

    @property
    def owner(self) -> Peer:
        """Whose it is."""
        ...

    @property
    def end(self) -> Message:
        """What the client is sent when it has ended."""
        ...

    def grant_record(self) -> dict[str, object]:
        """Return what goes on record of the grant."""
        ...

    def end_record(self) -> dict[str, object]:
        """Return what goes on record of the end."""
        ...

    async def run(self, on_ready: "OnReady") -> RequestRefused | None:
        """Have it until somebody or something ends it; return why it did not begin, if it did not.

        Args:
            on_ready: is given what the client is sent when it has it, and a descriptor to go along; raises nothing.
        """
        ...

    def stop(self, failure: Failure | None = None) -> None:
        """Have it end; None: since the client has left."""
        ...

    async def revoke(self, failure: Failure) -> None:
        """Have it end; when this returns, the client has nothing more of it."""
        ...


class OnReady(Protocol):
    """See ``Lease.run``."""

    async def __call__(self, beginning: Message, descriptor: int, /) -> None:
        """Take what the client is to have."""
        ...


L = TypeVar("L", bound=Lease)


class Decided(NamedTuple, Generic[L]):
    """A lease, and why it is taken from its owner, or is not though nobody knows whether it should be."""

    lease: L
    why: str


class Decision(NamedTuple, Generic[L]):
    """What becomes of leases; those that are not in it go on."""

    ended: Sequence[Decided[L]] = ()
    kept: Sequence[Decided[L]] = ()


class Bounds(NamedTuple):
    """How many there may be, and what they are called.

    Attributes:
        of_user: of one user, root too.
        of_all: of all users but root.
        what: what programs do that have one, in words.
    """

    of_user: int
    of_all: int
    what: str


class Leases(abc.ABC, Generic[L]):
    """All of one kind."""

    def __init__(self, policy: Callable[[], Policy], people: People, bounds: Bounds) -> None:
        """Have none yet.

        Args:
            policy: returns today's.
            people: knows which groups users have now.
            bounds: how many there may be.
        """
        self._policy = policy
        self._people = people
        self._bounds = bounds
        self._running: list[L] = []
        self._is_stopping = False
        self._all_ended = trio.Event()

    def _of(self, peer: Peer) -> list[L]:
        return [each for each in self._running if each.owner.person_id == peer.person_id]

    def _check_room(self, peer: Peer) -> None:
        """Check that one more may be.

        Raises:
            RequestRefused: it may not.
        """
        if self._is_stopping:
            raise RequestRefused(FailureCode.STOPPING, _STOPPING)
        own = len(self._of(peer))
        if own >= self._bounds.of_user:
            text = f"{own} programs of this user {self._bounds.what} already: end some"
            raise RequestRefused(FailureCode.RESOURCES, text)
        bound = len(self._bound())
        if not self._policy().is_unbound(peer) and bound >= self._bounds.of_all:
            raise RequestRefused(
                FailureCode.RESOURCES, f"{bound} programs {self._bounds.what} already: try again later"
            )

    @contextlib.contextmanager
    def _listed(self, lease: L) -> Generator[L, None, None]:
        """Have it in the list as long as the block lasts."""
        self._running.append(lease)
        try:
            yield lease
        finally:
            self._running.remove(lease)
            self._note_if_all_ended()

    def _bound(self) -> list[L]:
        policy = self._policy()
        return [each for each in self._running if not policy.is_unbound(each.owner)]

    # Ends ---------------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    async def _objector(self, leases: Sequence[L]) -> Callable[[L, Peer], str | None]:
        """Return what says why policy would not grant a lease to its owner as of today; None: it would.

        Raises:
            OSError: what has to be known for that is not.
        """

    async def revoke(self, request: RevokeCaptures) -> Decision[L]:
        """Decide who loses a lease, as of captures. Unless it is a trial, they have nothing more of it.

        Args:
            request: of whom, and whether it is a trial.

        Raises:
            OSError: what policy is to decide upon is not known.
        """
        decision = await self._by_rules() if request.user_id is None else self._of_user(request.user_id)
        if not request.dry_run:
            text = "an administrator has revoked this: 'capctl whoami' shows what is allowed now"
            failure = Failure(code=FailureCode.NOT_PERMITTED, text=text)
            async with trio.open_nursery() as nursery:
                for each in decision.ended:
                    nursery.start_soon(each.lease.revoke, failure)
        return decision

    def _of_user(self, user_id: int) -> Decision[L]:
        persons = persons_of(user_id, (each.owner for each in self._running))
        why = f"all that user {user_id} has is to end"
        return Decision([Decided(each, why) for each in self._running if each.owner.person_id in persons])

    async def _by_rules(self) -> Decision[L]:
        bound = self._bound()
        groups = await self._people.groups_of(each.owner for each in bound if each.owner.is_in_accounts)
        objection = await self._objector(bound)
        ended: list[Decided[L]] = []
        kept: list[Decided[L]] = []
        for each in bound:
            owner = each.owner
            if owner.is_in_accounts:
                if owner.person_id not in groups:
                    kept.append(Decided(each, "which groups the user has now is not known: try again"))
                    continue
                owner = as_of_today(owner, groups[owner.person_id])
            why = objection(each, owner)
            if why is not None:
                ended.append(Decided(each, why[:MAX_WHY_CHARACTERS]))
        return Decision(ended, kept)

    def stop_all(self) -> None:
        """Have all end, and grant no more: the daemon is stopping."""
        self._is_stopping = True
        for each in self._running:
            each.stop(Failure(code=FailureCode.STOPPING, text=_STOPPING))
        self._note_if_all_ended()

    def _note_if_all_ended(self) -> None:
        if self._is_stopping and not self._running:
            self._all_ended.set()

    async def wait_all_ended(self) -> None:
        """Wait until, after ``stop_all``, the last one has ended."""
        await self._all_ended.wait()
