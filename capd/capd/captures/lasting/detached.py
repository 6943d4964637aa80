"""Detached captures: they belong to the daemon, and stay when the client that has asked for them leaves.

One with a ring is run again when it has failed, and after a restart of the service (``kept``). A single file cannot be
continued, so such a capture ends with its first run.
"""

import contextlib
import logging
from collections.abc import Generator, Sequence
from functools import partial

import trio

from capd import limits
from capd.captures.capture import Capture
from capd.captures.lasting import fd_store
from capd.captures.lasting.fd_store import Kept, Record
from capd.captures.lasting.restarts import keep_running, run_to_end
from capd.captures.registry import Captures, Resumed
from capd.errors import RequestRefused
from capd.network.monitor import Monitor
from capd.policy.audit import Audit
from capd.policy.peer import Peer
from capd.supervisor.closer import Closer
from capd.supervisor.handover import Envelope, FromClient, FromEnvelope, Handover
from capd_protocol.messages import FailureCode, StartCapture

_log = logging.getLogger(__name__)


class Stay:
    """A capture that stays, over all attempts to run it."""

    def __init__(
        self, owner: Peer, request: StartCapture, directory: FromClient | Envelope, resumed: Resumed | None = None
    ) -> None:
        """Take over how a client hands over the directory, or what was kept of it.

        Args:
            owner: whose it is.
            request: as it was asked for.
            directory: where its files go.
            resumed: what it goes on with.
        """
        self.owner = owner
        self.request = request
        self.directory = directory
        self.resumed = resumed
        self.is_listed = False
        #: What a service manager keeps of it.
        self.record: Record | None = None
        self.scope = trio.CancelScope()
        #: Whether it can run is known.
        self.settled = trio.Event()
        self.refused: RequestRefused | None = None

    @property
    def handover(self) -> Handover:
        """How its next worker gets the directory."""
        return FromEnvelope(self.directory) if isinstance(self.directory, Envelope) else self.directory

    def keep_directory(self) -> Envelope:
        """Return the directory, as further workers get it: the first one has put it there."""
        if isinstance(self.directory, FromClient):
            envelope = self.directory.take_envelope()
            self.directory.close()
            self.directory = envelope
        return self.directory

    def close(self, closer: Closer) -> None:
        """Close what it has taken over."""
        if isinstance(self.directory, Envelope):
            self.directory.close(closer, self.owner.person_id)
        else:
            self.directory.close()


class Begun:
    """For the client that has asked for a capture: it gets events from the beginning."""

    def __init__(self, stay: Stay, capture: Capture) -> None:
        self._stay = stay
        self.capture = capture
        self.attached, self.subscriber = capture.attach()

    async def wait_settled(self) -> RequestRefused | None:
        """Wait until the capture runs, or return why it does not."""
        await self._stay.settled.wait()
        return self._stay.refused

    def give_up(self) -> None:
        """End a capture that does not run yet: nothing of it remains."""
        if not self._stay.settled.is_set():
            self._stay.scope.cancel()


class Detached:
    """All detached captures."""

    def __init__(self, captures: Captures, monitor: Monitor, audit: Audit, closer: Closer) -> None:
        """Have none, and take none before ``open``."""
        self._captures = captures
        self._closer = closer
        self._monitor = monitor
        self._audit = audit
        self._nursery: trio.Nursery | None = None
        self._stays: set[Stay] = set()

    def open(self, nursery: trio.Nursery) -> None:
        """Have detached captures run in a nursery, which outlasts all clients."""
        self._nursery = nursery

    async def start(self, owner: Peer, request: StartCapture, handover: FromClient) -> Begun:
        """Begin with a capture. The answer, which comes later, shows whether it runs.

        Args:
            owner: whose it is.
            request: for what.
            handover: of the directory where its files go; is taken over, also where this raises.

        Raises:
            RequestRefused: it is not granted.
        """
        stay = Stay(owner, request, handover)
        try:
            nursery = self._nursery_or_refuse()
        except RequestRefused:
            stay.close(self._closer)
            raise
        return Begun(stay, await nursery.start(self._keep, stay))

    def _nursery_or_refuse(self) -> trio.Nursery:
        if self._nursery is None:
            text = "a private daemon ends with its client: a detached capture needs one that stays, such as a service"
            raise RequestRefused(FailureCode.UNSUPPORTED, text, argument="detach")
        if len(self._stays) >= limits.MAX_DETACHED:
            text = f"{len(self._stays)} detached captures run already, as many as there may be: stop one first"
            raise RequestRefused(FailureCode.RESOURCES, text)
        return self._nursery

    async def _keep(self, stay: Stay, task_status: trio.TaskStatus[Capture]) -> None:
        """Run a capture until it ends for good, or the daemon does. ``started()`` as soon as it is in the list.

        Raises:
            RequestRefused: it is not granted.
        """
        self._stays.add(stay)
        is_over = False
        listed = partial(self._listed, stay, task_status)
        try:
            with stay.scope:
                if stay.request.ring is None:
                    with listed() as capture:
                        await self._run(stay, capture)
                else:
                    insists = stay.resumed is not None
                    run = partial(self._run, stay)
                    is_over = await keep_running(stay.request.name or "", listed, run, insists=insists)
        except RequestRefused as refused:
            is_over = refused.failure.code != FailureCode.STOPPING
            stay.refused = refused
            if not stay.is_listed:
                raise
            if stay.settled.is_set() and is_over:
                self._note_refusal(stay, refused)
        except Exception:
            # A bug, here or in what is used here. It ends this capture; the others shall not end with it.
            if not stay.is_listed:
                raise
            _log.exception("the task of a detached capture failed; please report this")
        finally:
            if is_over and stay.record is not None:
                fd_store.forget(stay.record)
            stay.settled.set()
            self._stays.remove(stay)
            stay.close(self._closer)

    def _note_refusal(self, stay: Stay, refused: RequestRefused) -> None:
        """Note that a capture, which has run, may not go on."""
        _log.error("the detached capture %s of %s ends: %s", stay.request.name, stay.owner, refused)
        self._audit.refused(stay.owner, stay.request, refused.failure)

    async def restore(self, captures: Sequence[Kept]) -> None:
        """Go on with captures that an earlier daemon had, as far as policy allows them now; envelopes are taken over.

        When this returns they are in the list; whether they can run shows later.
        """
        if self._nursery is None:
            raise AssertionError("open comes first")
        for record, envelope in captures:
            resumed = Resumed(record.capture_id, record.started_ns)
            stay = Stay(record.owner, record.request, envelope, resumed)
            stay.record = record
            try:
                capture: Capture = await self._nursery.start(self._keep, stay)
            except RequestRefused as refused:
                self._note_refusal(stay, refused)
                continue
            rules = tuple(rule.name for rule in capture.terms.rules)
            changed = (
                "" if rules == record.rules else f", under {', '.join(rules)} instead of {', '.join(record.rules)}"
            )
            _log.info("the detached capture %s of %s goes on%s", capture.name, record.owner, changed)

    @contextlib.contextmanager
    def _listed(self, stay: Stay, task_status: trio.TaskStatus[Capture]) -> Generator[Capture, None, None]:
        with self._captures.granted(stay.owner, stay.request, stay.resumed) as capture:
            # Another attempt goes on with what this one leaves.
            stay.resumed = Resumed(capture.capture_id, capture.account.started_ns)
            if not stay.is_listed:
                stay.is_listed = True
                task_status.started(capture)
            try:
                yield capture
            finally:
                stay.owner = capture.owner  # with the groups that it has lost

    async def _run(self, stay: Stay, capture: Capture) -> None:
        settle = partial(self._settle, stay, capture)
        await run_to_end(capture, stay.handover, self._monitor, self._audit, settle)

    def _settle(self, stay: Stay, capture: Capture) -> None:
        """Note that a capture runs: from now on it is to survive."""
        envelope = stay.keep_directory()
        if stay.record is None and stay.request.ring is not None:
            stay.record = Record(
                capture_id=capture.capture_id,
                started_ns=capture.account.started_ns,
                owner=stay.owner,
                request=stay.request,
                rules=tuple(rule.name for rule in capture.terms.rules),
            )
            try:
                fd_store.keep(stay.record, envelope)
            except OSError as error:
                _log.warning("the capture %s will not go on after a restart: %s", capture.name, error.strerror)
        stay.settled.set()
