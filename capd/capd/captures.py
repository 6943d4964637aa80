"""The captures that run now: who may have one, see it, end it."""

import contextlib
import dataclasses
import os
import secrets
from collections.abc import Generator
from functools import partial

import trio

from capd import quota
from capd.capture import Capture
from capd.config import ConfiguredCapture
from capd.errors import RequestRefused
from capd.peer import Peer
from capd.policy import UNBOUND, Policy, Terms
from capd.spawner import Spawner
from capd_protocol.limits import find_faults
from capd_protocol.messages import (
    CaptureList,
    EndReason,
    FailureCode,
    StartCapture,
)

#: Captures have numbers of five digits, which are easily typed.
_FIRST_ID, _IDS = 10_000, 90_000
#: Captures in one frame: with as many interfaces as possible, of the longest names, they stay below its limit.
_AT_ONCE = 40


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class Captures:
    """All captures of the daemon."""

    def __init__(self, policy: Policy, spawner: Spawner) -> None:
        self._spawner = spawner
        #: For requests from now on; captures that run keep what they were granted.
        self.policy = policy
        self._running: dict[int, Capture] = {}
        self._stopping = False
        self._all_ended = trio.Event()

    @contextlib.contextmanager
    def granted(self, peer: Peer, request: StartCapture) -> Generator[Capture, None, None]:
        """Have a capture that a client asks for in the list for as long as the block lasts.

        Raises:
            RequestRefused: the request is wrong, or not permitted, or one too many.
        """
        self.policy.rules_or_refuse(peer)
        faults = find_faults(request)
        if faults:
            text = "; ".join(fault.text for fault in faults)
            raise RequestRefused(FailureCode.INVALID, text, argument=faults[0].argument)
        terms = self.policy.terms(peer, request.interfaces)
        running = [capture for capture in self._running.values() if capture.owner.user_id == peer.user_id]
        own = [capture.terms for capture in running]
        quota.check_number(terms, own)
        if not self.policy.is_unbound(peer):
            quota.check_memory(request, [capture.request for capture in running], _memory_bytes())
        request = quota.within_duration(terms, request)
        terms = quota.reserve(terms, request, own)
        with self._entered(peer, request, terms, self.policy) as capture:
            yield capture

    @contextlib.contextmanager
    def configured(self, owner: Peer, configured: ConfiguredCapture) -> Generator[Capture, None, None]:
        """Have a capture of the configuration in the list for as long as the block lasts.

        Raises:
            RequestRefused: the daemon is stopping.
        """
        rule = dataclasses.replace(UNBOUND, name="configuration", max_disk_bytes=configured.max_disk_bytes)
        terms = Terms((rule,), None, rule.max_disk_bytes)
        with self._entered(owner, configured.request, terms, Policy((rule,)), configured.name) as capture:
            yield capture

    @contextlib.contextmanager
    def _entered(
        self, owner: Peer, request: StartCapture, terms: Terms, policy: Policy, name: str | None = None
    ) -> Generator[Capture, None, None]:
        if self._stopping:
            raise RequestRefused(FailureCode.STOPPING, "capd is stopping: try again when it runs again")
        grant = partial(policy.grant, owner, is_real=True)
        capture = Capture(self._new_id(), owner, request, terms=terms, grant=grant, spawner=self._spawner, name=name)
        self._running[capture.capture_id] = capture
        try:
            yield capture
        finally:
            del self._running[capture.capture_id]
            self._note_if_all_ended()

    def _new_id(self) -> int:
        """Return a number that tells nothing about how many captures others have."""
        while (capture_id := _FIRST_ID + secrets.randbelow(_IDS)) in self._running:
            pass
        return capture_id

    def running_and_users(self) -> tuple[int, int]:
        """Return how many captures there are, and of how many users."""
        return len(self._running), len({capture.owner.user_id for capture in self._running.values()})

    def visible_to(self, peer: Peer) -> list[Capture]:
        """Return the captures that the peer may list, oldest first.

        One of the configuration is shown to those who may read its files.
        """
        groups = (peer.group_id, *peer.groups)
        return [
            capture
            for capture in self._running.values()
            if self.policy.may_see(peer, capture.owner.user_id)
            or (capture.name is not None and capture.owner.group_id in groups)
        ]

    def lists_for(self, peer: Peer) -> Generator[CaptureList, None, None]:
        """Give the list of captures that the peer may see, in parts that fit into a frame."""
        shown = [capture.summary() for capture in self.visible_to(peer)]
        for at in range(0, max(len(shown), 1), _AT_ONCE):
            yield CaptureList(captures=tuple(shown[at : at + _AT_ONCE]), is_last=at + _AT_ONCE >= len(shown))

    def stop(self, peer: Peer, capture_id: int) -> None:
        """Have a capture end.

        Raises:
            RequestRefused: the peer can see no such capture.
        """
        capture = self._running.get(capture_id)
        if capture is not None and self.policy.may_see(peer, capture.owner.user_id):
            capture.stop(EndReason.STOPPED)
            return
        whose = "" if self.policy.is_unbound(peer) else " of yours"
        raise RequestRefused(FailureCode.NO_SUCH_CAPTURE, f"there is no capture {capture_id}{whose}")

    def stop_all(self) -> None:
        """Have every capture end, and grant no more: the daemon is stopping."""
        self._stopping = True
        for capture in self._running.values():
            capture.stop(EndReason.DAEMON_STOPPING)
        self._note_if_all_ended()

    def _note_if_all_ended(self) -> None:
        if self._stopping and not self._running:
            self._all_ended.set()

    async def wait_all_ended(self) -> None:
        """Wait until, after ``stop_all``, the last capture has ended and its events are sent."""
        await self._all_ended.wait()
