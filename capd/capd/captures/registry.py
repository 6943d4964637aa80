"""The registry of captures: who may have one, see it, end it."""

import contextlib
import dataclasses
import math
import os
import secrets
import time
from collections.abc import Generator, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import trio

from capd import limits
from capd.captures.capture import Capture
from capd.captures.subscribers import Subscriber
from capd.captures.tally import Tally
from capd.config.reader import ConfiguredCapture
from capd.errors import RequestRefused
from capd.pacing.turns import FREE, Turns
from capd.policy import quota
from capd.policy.peer import Peer
from capd.policy.rules import UNBOUND, Policy, Terms
from capd.supervisor.closer import Closer
from capd.supervisor.packet_rings import PacketRingMaker
from capd.supervisor.policy_filters import PolicyFilters
from capd.supervisor.spawner import Spawner
from capd_protocol.arguments import find_faults, is_capture_name
from capd_protocol.messages import (
    CaptureList,
    EndReason,
    FailureCode,
    StartCapture,
)
from capd_protocol.targets import targets_of

#: Captures have numbers of five digits, which are easily typed.
_FIRST_ID, _IDS = 10_000, 90_000
#: Of what a client called a capture. Chosen: a sentence that can be read.
_MAX_SHOWN_CHARACTERS = 64
#: Captures in one frame: with as many interfaces as possible, of the longest names, and with all that a worker may say
#: of its directory, they stay below its limit.
_AT_ONCE = 10


#: Those of root, and of the configuration, wait for nobody.
_UNBOUND_STARTS = Turns(math.inf, math.inf)


def _is_same_user(one: Peer, other: Peer) -> bool:
    return (one.user_id, one.is_contained) == (other.user_id, other.is_contained)


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class Resumed(NamedTuple):
    """What a capture goes on with that was interrupted."""

    capture_id: int
    #: When it began.
    started_ns: int


class Captures:
    """All captures of the daemon."""

    def __init__(self, policy: Policy, spawner: Spawner, closer: Closer, ring_maker: PacketRingMaker) -> None:
        self._spawner = spawner
        self._closer = closer
        self._ring_maker = ring_maker
        self._policy_filters = PolicyFilters()
        #: For requests from now on; captures that run keep what they were granted, until it is revoked.
        self.policy = policy
        #: What has come of captures that have ended, and of requests.
        self.tally = Tally()
        self._running: dict[int, Capture] = {}
        #: Memory of what the configuration has run, now or later, by name.
        self._reserved: dict[str, int] = {}
        self._starts = Turns(limits.MAX_STARTS, limits.MAX_STARTS_PER_USER)
        self._followers = 0
        self._stopping = False
        self._all_ended = trio.Event()

    @contextlib.contextmanager
    def granted(
        self, peer: Peer, request: StartCapture, resumed: Resumed | None = None
    ) -> Generator[Capture, None, None]:
        """Have a capture that a client asks for in the list for as long as the block lasts.

        Args:
            peer: the client.
            request: what it asks for.
            resumed: it goes on where an earlier one was interrupted.

        Raises:
            RequestRefused: the request is wrong, or not permitted, or one too many.
        """
        self.policy.rules_or_refuse(peer)
        faults = find_faults(request)
        if faults:
            text = "; ".join(fault.text for fault in faults)
            raise RequestRefused(FailureCode.INVALID, text, argument=faults[0].argument)
        if peer.is_contained and request.detached:
            text = "a capture from a container ends with its client, and cannot be detached"
            raise RequestRefused(FailureCode.NOT_PERMITTED, text, argument="detach")
        targets = targets_of(request.interfaces)
        terms = self.policy.terms(peer, targets)
        own = [each for each in self._of_users() if each.owner.person_id == peer.person_id]
        own_terms = [each.terms for each in own]
        quota.check_number(terms, own_terms)
        quota.check_recorder(request, _memory_bytes())
        is_unbound = self.policy.is_unbound(peer)
        if not is_unbound:
            if self._closer.unclosed(peer.person_id) >= limits.MAX_UNCLOSED_PER_USER:
                text = "what earlier captures of this user have left cannot be closed yet: try again later"
                raise RequestRefused(FailureCode.RESOURCES, text)
            self._check_totals(request, quota.memory_of(request, targets), own)
        request = quota.within_duration(terms, request)
        if resumed is not None:
            quota.check_time_left(request, (time.time_ns() - resumed.started_ns) / 1e9)
        terms = quota.reserve(terms, request, own_terms)
        capture_id = self._new_id() if resumed is None or resumed.capture_id in self._running else resumed.capture_id
        capture = Capture(
            capture_id,
            peer,
            request,
            targets=targets,
            terms=terms,
            grant=partial(self.policy.grant, peer),
            spawner=self._spawner,
            closer=self._closer,
            ring_maker=self._ring_maker,
            policy_filters=self._policy_filters,
            starts=_UNBOUND_STARTS if is_unbound else self._starts,
            whose=FREE if is_unbound else peer.person_id,
            continues=resumed is not None,
            first_started_ns=resumed.started_ns if resumed is not None else None,
        )
        with self._entered(capture):
            yield capture

    def _of_users(self) -> list[Capture]:
        return [each for each in self._running.values() if not each.is_configured]

    def _check_totals(self, request: StartCapture, needed: quota.Memory, own: Sequence[Capture]) -> None:
        """Check whether there is room for a capture beside those of everybody.

        Raises:
            RequestRefused: there is not.
        """
        users = self._of_users()
        bound = [each.request for each in users if not self.policy.is_unbound(each.owner)]
        quota.check_numbers_of_all(request, [each.request for each in own], bound)
        own_bytes, users_bytes = (sum(each.memory.total_bytes for each in captures) for captures in (own, users))
        # One that was taken out of the configuration may run on.
        configured = {
            each.metrics_name: each.memory.total_bytes for each in self._running.values() if each.is_configured
        }
        all_bytes = users_bytes + sum((self._reserved | configured).values())
        quota.check_memory(needed, own_bytes, all_bytes, _memory_bytes())

    def reserve(self, configured: Iterable[ConfiguredCapture]) -> None:
        """Keep memory for the captures of the configuration, and for no others of it than these."""
        self._reserved = {each.name: quota.memory_of(each.request, each.targets).total_bytes for each in configured}

    @contextlib.contextmanager
    def configured(self, owner: Peer, configured: ConfiguredCapture) -> Generator[Capture, None, None]:
        """Have a capture of the configuration in the list for as long as the block lasts.

        Raises:
            RequestRefused: the daemon is stopping.
        """
        rule = dataclasses.replace(UNBOUND, name="configuration", max_disk_bytes=configured.max_disk_bytes)
        terms = Terms((rule,), None, rule.max_disk_bytes)
        capture = Capture(
            self._new_id(),
            owner,
            configured.request,
            targets=configured.targets,
            terms=terms,
            spawner=self._spawner,
            closer=self._closer,
            ring_maker=self._ring_maker,
            policy_filters=self._policy_filters,
            starts=_UNBOUND_STARTS,
            whose=FREE,
            grant=partial(Policy((rule,)).grant, owner),
            reader_group_id=configured.group_id,
            continues=True,
        )
        capture.metrics_name = configured.name
        with self._entered(capture):
            yield capture

    @contextlib.contextmanager
    def _entered(self, capture: Capture) -> Generator[None, None, None]:
        self.check_not_stopping()
        if capture.name is not None and self._named(capture.name, capture.owner):
            text = f"a capture {capture.name} of this user runs already: choose another name, or attach to that one"
            raise RequestRefused(FailureCode.NAME_TAKEN, text, argument="name")
        self._running[capture.capture_id] = capture
        try:
            yield
        finally:
            del self._running[capture.capture_id]
            capture.is_over.set()
            account = capture.account
            self.tally.add_ended(capture.metrics_name, account.counts, account.end_reason or EndReason.FAILED)
            self._note_if_all_ended()

    def check_not_stopping(self) -> None:
        """Check that the daemon is not stopping.

        Raises:
            RequestRefused: it is.
        """
        if self._stopping:
            raise RequestRefused(FailureCode.STOPPING, "capd is stopping: try again when it runs again")

    def _new_id(self) -> int:
        """Return a number that shows nothing of how many captures others have."""
        while (capture_id := _FIRST_ID + secrets.randbelow(_IDS)) in self._running:
            pass
        return capture_id

    @property
    def running(self) -> tuple[Capture, ...]:
        """All that are granted and have not ended."""
        return tuple(self._running.values())

    def revocable(self) -> list[Capture]:
        """Return the captures of users that were not stopped yet, oldest first."""
        return [each for each in self._of_users() if each.account.stopped_for is None]

    def running_and_users(self) -> tuple[int, int]:
        """Return how many captures there are, and of how many users."""
        return len(self._running), len({capture.owner.person_id for capture in self._running.values()})

    def visible_to(self, peer: Peer) -> list[Capture]:
        """Return the captures that the peer may list, oldest first.

        One of the configuration is shown to those who may read its files.
        """
        return [
            capture
            for capture in self._running.values()
            if self.may_control(peer, capture) or self._may_read(peer, capture)
        ]

    @staticmethod
    def _may_read(peer: Peer, capture: Capture) -> bool:
        return not peer.is_contained and capture.reader_group_id in peer.named_groups

    def may_control(self, peer: Peer, capture: Capture) -> bool:
        """Whether the peer may end a capture, and order what changes it."""
        # By its own connection: in a container nothing else distinguishes users.
        return capture.owner is peer or self.policy.may_see(peer, capture.owner)

    def _named(self, name: str, owner: Peer) -> Capture | None:
        """Return the capture of this name and owner; in containers, any number may have a name."""
        if owner.is_contained:
            return None
        of_owner = (each for each in self._running.values() if _is_same_user(each.owner, owner))
        return next((each for each in of_owner if each.name == name), None)

    def find(self, peer: Peer, number_or_name: int | str, *, to_control: bool) -> Capture:
        """Return the capture that a peer means: by name, first of all one of its own.

        Args:
            peer: the client.
            number_or_name: of the capture.
            to_control: seeing it is not enough.

        Raises:
            RequestRefused: the peer can see no such capture, or several, or can only see it.
        """
        visible = self.visible_to(peer)
        if isinstance(number_or_name, int):
            seen = [each for each in visible if each.capture_id == number_or_name]
        else:
            named = [each for each in visible if each.name == number_or_name]
            seen = [each for each in named if _is_same_user(each.owner, peer)] or named
        found = [each for each in seen if not to_control or self.may_control(peer, each)]
        if len(found) == 1:
            return found[0]
        if seen and not found:  # a user who may see others' captures may read their files
            text = f"the capture {number_or_name} is one of the configuration: only root may do that, you may read it"
            raise RequestRefused(FailureCode.NOT_PERMITTED, text, argument="capture")
        if found:
            text = f"several users have a capture {number_or_name}: use its number, as the list shows it"
            raise RequestRefused(FailureCode.INVALID, text, argument="capture")
        is_sane = isinstance(number_or_name, int) or is_capture_name(number_or_name)
        shown = str(number_or_name if is_sane else repr(number_or_name))[:_MAX_SHOWN_CHARACTERS]
        whose = "" if self.policy.is_unbound(peer) else " of yours"
        raise RequestRefused(FailureCode.NO_SUCH_CAPTURE, f"there is no capture {shown}{whose}")

    def lists_for(self, peer: Peer) -> Generator[CaptureList, None, None]:
        """Give the list of captures that the peer may see, in parts that fit into a frame."""
        # The way to a container's files may lead through the machine's directories, which are none of its business.
        tells_directory = not peer.is_contained
        shown = [capture.account.summary(tells_directory=tells_directory) for capture in self.visible_to(peer)]
        for at in range(0, max(len(shown), 1), _AT_ONCE):
            yield CaptureList(captures=tuple(shown[at : at + _AT_ONCE]), is_last=at + _AT_ONCE >= len(shown))

    @contextlib.contextmanager
    def followed(self, capture: Capture, subscriber: Subscriber) -> Generator[None, None, None]:
        """Have a client follow a capture as long as the block lasts; also to its end, when the daemon stops."""
        self._followers += 1
        try:
            yield
        finally:
            capture.leave(subscriber)
            self._followers -= 1
            self._note_if_all_ended()

    def stop_all(self) -> None:
        """Have every capture end, and grant no more: the daemon is stopping."""
        self._stopping = True
        for capture in self._running.values():
            capture.stop(EndReason.DAEMON_STOPPING)
        self._note_if_all_ended()

    def _note_if_all_ended(self) -> None:
        if self._stopping and not self._running and not self._followers:
            self._all_ended.set()

    async def wait_all_ended(self) -> None:
        """Wait until, after ``stop_all``, the last capture has ended and its subscribers have been sent its end."""
        await self._all_ended.wait()
