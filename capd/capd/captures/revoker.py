"""Revocation of captures that run: of one person, or those that today's policy would not grant as they run."""

import math
from collections.abc import Generator, Sequence
from functools import partial
from typing import NamedTuple

import trio

from capd.captures.capture import Capture
from capd.captures.registry import Captures
from capd.errors import RequestRefused
from capd.network.monitor import Monitor
from capd.policy.peer import Peer
from capd.policy.people import People
from capd.policy.revocation import as_of_today, objection, persons_of
from capd_protocol.arguments import find_revocation_faults
from capd_protocol.messages import (
    MAX_WHY_CHARACTERS,
    EndReason,
    FailureCode,
    RevokeCaptures,
    Revoked,
    RevokedCapture,
)

#: Captures in one frame, which stays far below its limit.
_AT_ONCE = 200


class Decided(NamedTuple):
    """A capture, and why it ends, or is kept though nobody knows whether it should be."""

    capture: Capture
    why: str

    @property
    def line(self) -> RevokedCapture:
        """Its line in the answer."""
        return RevokedCapture(
            capture_id=self.capture.capture_id,
            user_id=self.capture.owner.user_id,
            name=self.capture.name,
            why=self.why[:MAX_WHY_CHARACTERS],
            is_contained=self.capture.owner.is_contained,
        )


class Decision(NamedTuple):
    """What becomes of captures; those that are not in it run on."""

    ended: Sequence[Decided] = ()
    kept: Sequence[Decided] = ()

    def record(self) -> dict[str, object]:
        """Return what goes on record of it."""
        return {
            "ended": ",".join(str(each.capture.capture_id) for each in self.ended),
            "kept": ",".join(str(each.capture.capture_id) for each in self.kept),
        }

    def answers(self) -> Generator[Revoked, None, None]:
        """Give the answer, in parts that fit into a frame."""
        ended, kept = (tuple(each.line for each in decided) for decided in self)
        parts = max(math.ceil(max(len(ended), len(kept)) / _AT_ONCE), 1)
        for part in range(parts):
            these = slice(part * _AT_ONCE, (part + 1) * _AT_ONCE)
            yield Revoked(ended=ended[these], kept=kept[these], is_last=part == parts - 1)


class Revoker:
    """Decides, and ends captures."""

    def __init__(self, captures: Captures, people: People, monitor: Monitor) -> None:
        """Decide nothing yet.

        Args:
            captures: those that run, and today's policy.
            people: knows which groups users have now.
            monitor: knows what interfaces are called now.
        """
        self._captures = captures
        self._people = people
        self._monitor = monitor

    async def revoke(self, peer: Peer, request: RevokeCaptures) -> Decision:
        """Decide which captures end. Unless it is a trial, they receive nothing more when this returns.

        Raises:
            RequestRefused: the peer may not, or the request is wrong, or the daemon is stopping.
            OSError: the kernel does not list the interfaces.
        """
        if not self._captures.policy.is_unbound(peer):
            text = "only root and the owner of a private daemon revoke captures: 'capctl stop' ends those of yours"
            raise RequestRefused(FailureCode.NOT_PERMITTED, text)
        for fault in find_revocation_faults(request.user_id):
            raise RequestRefused(FailureCode.INVALID, fault.text, argument=fault.argument)
        if request.user_id is not None:
            decision = self._of_user(request.user_id)
        else:
            decision = await self._by_rules(dry_run=request.dry_run)
        self._captures.check_not_stopping()
        if not request.dry_run:
            # All are stopped before the first one is waited for.
            for each in decision.ended:
                each.capture.stop(EndReason.REVOKED)
            async with trio.open_nursery() as nursery:
                for each in decision.ended:
                    nursery.start_soon(each.capture.disarm)
        return decision

    def _of_user(self, user_id: int) -> Decision:
        running = self._captures.revocable()
        persons = persons_of(user_id, (each.owner for each in running))
        why = f"all captures of user {user_id} are to end"
        return Decision([Decided(each, why) for each in running if each.owner.person_id in persons])

    async def _by_rules(self, *, dry_run: bool) -> Decision:
        bound = [each.owner for each in self._captures.revocable() if not self._is_unbound(each)]
        groups = await self._people.groups_of(each for each in bound if each.is_in_accounts)
        asked = {each.person_id for each in bound}
        # From here to the decision nothing waits: it is about what is there now, also what has begun meanwhile.
        links = await self._monitor.interfaces.links()
        policy = self._captures.policy
        ended: list[Decided] = []
        kept: list[Decided] = []
        for capture in self._captures.revocable():
            owner = capture.owner
            if self._is_unbound(capture) or owner.person_id not in asked:
                continue  # of a person who had none before: it was granted just now
            if owner.is_in_accounts:
                if owner.person_id not in groups:
                    kept.append(Decided(capture, "which groups the user has now is not known: try again"))
                    continue
                owner = as_of_today(owner, groups[owner.person_id])
            why = objection(policy, owner, capture.running(links))
            if why is not None:
                ended.append(Decided(capture, why))
            elif not dry_run:
                capture.regrant(owner, partial(policy.grant, owner))
        return Decision(ended, kept)

    def _is_unbound(self, capture: Capture) -> bool:
        return self._captures.policy.is_unbound(capture.owner)
