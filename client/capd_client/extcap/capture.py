"""A capture of this host for Wireshark: of an interface, of a capture that runs already, or a recorder's snapshot."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping

from capd_client.blocking.questions import rotate_capture, snapshot_capture
from capd_client.blocking.session import CaptureSession
from capd_client.conversation.events import CaptureEvent
from capd_client.errors import CaptureEnded, CaptureError, DestinationError, NoEvents, NoSuchCapture
from capd_client.extcap.configuration import AFTER, BEGIN, FROM_NOW, GO_ON, Words, arguments_of
from capd_client.extcap.controls import Control
from capd_client.extcap.offers import Kind, Offer, capture_meant
from capd_client.extcap.watching import Signals, Toolbar, Watch
from capd_client.output.destinations import DescriptorDestination
from capd_client.output.live_output import MAX_BEHIND_BYTES
from capd_client.output.live_writer import LiveWriter
from capd_protocol.messages import EndReason, FileClosed, FileOpened
from capd_protocol.text import counted

#: How long Wireshark may take nothing at the end. Chosen: it is to stop at once, and has read what came before.
_PATIENCE_S = 1.0
#: How long the end of a capture may take that was asked to end. Chosen: many times what it needs.
_END_S = 5.0
#: What ends a capture that nobody here has ended.
_ENDED_BY_OTHERS = {
    EndReason.DAEMON_STOPPING: "the capture has ended: capd was stopped",
    EndReason.REVOKED: "the capture was ended by an administrator",
}
#: What the filter of a capture that runs is, and who can choose among its packets.
OWN_FILTER = "a capture that runs has a filter of its own: leave this one empty, and choose with a display filter"


def run(offer: Offer, words: Words, fifo: int, toolbar: Toolbar, signals: Signals) -> str | None:
    """Capture until somebody ends it; return what is to be said at its end, if anything.

    Args:
        offer: what is captured.
        words: how.
        fifo: where packets go; it has a reader.
        toolbar: Wireshark's.
        signals: what ends it.

    Raises:
        Told: a signal has come before it has begun.
        CaptureError: it was refused, or has failed.
    """
    with signals.interrupting():
        session = _begun(offer, words)
    capture = _Capture(session, offer.kind, words.settings, fifo, toolbar=toolbar, signals=signals)
    try:
        capture.follow()
    finally:
        capture.finish()
    return capture.said()


def _begun(offer: Offer, words: Words) -> CaptureSession:
    if offer.kind is Kind.INTERFACE:
        session = CaptureSession(**arguments_of(offer.name, words.capture_filter, words.settings))
        try:
            session.wait_started()
        except BaseException:
            session.abandon()
            raise
        return session
    if words.capture_filter:
        raise DestinationError(OWN_FILTER)
    meant = capture_meant(offer)
    if meant is None:
        raise NoSuchCapture(f"there can be no capture {offer.name!r}")
    return CaptureSession.attach(meant)


class _Capture:
    """A capture that runs, its packets, and what is asked of it."""

    def __init__(
        self,
        session: CaptureSession,
        kind: Kind,
        settings: Mapping[str, str],
        fifo: int,
        *,
        toolbar: Toolbar,
        signals: Signals,
    ) -> None:
        self._session = session
        self._kind = kind
        self._settings = settings
        self._destination = DescriptorDestination(fifo)
        self._toolbar = toolbar
        self._signals = signals
        self._writer: LiveWriter | None = None
        #: Before this session, in a capture that it is attached to.
        self._drops_before = session.dropcount if self._kind is not Kind.INTERFACE else 0
        self._watch = Watch(signals, fifo, toolbar, self._press)
        self._watch.add(session.fileno())
        #: One thing is asked for at a time.
        self._asking = threading.Lock()
        #: Names of snapshots, by what was asked for; those that have been written.
        self._wanted: str | None = None
        self._written: set[str] = set()
        self._failure: CaptureError | None = None
        self._ended_by: EndReason | None = None
        can = {Kind.CAPTURE: (Control.ROTATE,), Kind.RECORDER: (Control.SNAPSHOT,)}
        toolbar.allow(*can.get(self._kind, ()))

    # The end of it is one of these: it ends by itself, or somebody ends it, or a snapshot is there that was wanted.

    def follow(self) -> None:
        """Pass packets on, to the end.

        Raises:
            CaptureError: it has failed, or what was asked for has.
        """
        if self._kind is Kind.RECORDER:
            self._ask(self._snapshot, self._take_snapshot)
        deadline_s: float | None = None
        while self._take_events() and not self._has_its_snapshot():
            if self._failure is not None:
                raise self._failure
            if self._watch.is_over and deadline_s is None:
                if self._kind is not Kind.INTERFACE:
                    return  # which goes on without us
                self._session.stop()
                deadline_s = time.monotonic() + _END_S
            left_s = None if deadline_s is None else deadline_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                return
            self._watch.wait(left_s, self._toolbar.show_counts(self._packets, self._drops))

    def _take_events(self) -> bool:
        """Take what has come; return whether the capture goes on."""
        while True:
            try:
                event = self._session.next_event(block=False)
            except NoEvents:
                return True
            except CaptureEnded:
                self._ended_by = self._session.end_reason
                return False
            self._take(event)

    def _take(self, event: CaptureEvent) -> None:
        if self._writer is None:
            begins_now = self._kind is Kind.CAPTURE and self._settings.get(BEGIN, FROM_NOW) == FROM_NOW
            current = event if begins_now and isinstance(event, FileOpened) else None
            self._writer = LiveWriter(
                self._session.open_file, self._destination, max_behind_bytes=MAX_BEHIND_BYTES, begins_with=current
            )
            if current is not None:
                return
        self._writer.take(event)
        if isinstance(event, FileClosed):
            self._written.add(os.path.basename(event.name))  # noqa: PTH119

    @property
    def _packets(self) -> int:
        return self._session.packetcount - self._session.packetcount_before

    @property
    def _drops(self) -> int:
        return max(0, self._session.dropcount - self._drops_before)

    def finish(self) -> None:
        """Have what has come be read, and leave.

        Raises:
            CaptureError: what was captured cannot be read.
        """
        self._toolbar.show_counts(self._packets, self._drops, is_last=True)
        if self._writer is not None:
            with contextlib.suppress(OSError):  # whoever reads has left
                self._writer.finish(self._packets, _PATIENCE_S)
        self._session.abandon()

    def said(self) -> str | None:
        """Return what is to be said at the end: why it has ended, what was lost."""
        missed = self._writer.missed_packets if self._writer is not None and not self._watch.is_over else 0
        why = _ENDED_BY_OTHERS.get(self._ended_by) if self._ended_by is not None else None
        sentences = [why] if why else []
        if self._drops:
            sentences.append(f"{counted(self._drops, 'packet')} dropped, {self._packets:,} captured")
        if missed:
            sentences.append(f"{counted(missed, 'packet')} not passed on: Wireshark reads too slowly")
        return "; ".join(sentences) or None

    # Buttons ----------------------------------------------------------------------------------------------------------

    def _press(self, control: int) -> None:
        match control:
            case Control.SNAPSHOT if self._kind is Kind.RECORDER:
                self._ask(self._snapshot, self._tell)
            case Control.ROTATE if self._kind is Kind.CAPTURE:
                self._ask(self._rotate, self._tell)
            case _:
                pass

    def _ask(self, ask: Callable[[], str], take: Callable[[str | CaptureError], None]) -> None:
        """Ask for something in a thread; it takes as long as it does."""
        if not self._asking.acquire(blocking=False):
            self._toolbar.warn("capd: what was asked for before is not done yet")
            return

        def work() -> None:
            try:
                outcome: str | CaptureError = ask()
            except CaptureError as error:
                outcome = error
            finally:
                self._asking.release()
            take(outcome)
            self._signals.wake()

        threading.Thread(target=work, daemon=True).start()

    def _snapshot(self) -> str:
        after = self._settings.get(AFTER)
        return snapshot_capture(self._session.capture_id or 0, after=float(after) if after else None)

    def _rotate(self) -> str:
        return rotate_capture(self._session.capture_id or 0)

    def _tell(self, outcome: str | CaptureError) -> None:
        if isinstance(outcome, CaptureError):
            self._toolbar.warn(f"capd: {outcome}")
        else:
            self._toolbar.tell(f"capd: {outcome}")

    def _take_snapshot(self, outcome: str | CaptureError) -> None:
        """Take the first snapshot: without it there is nothing to show."""
        if isinstance(outcome, CaptureError):
            self._failure = outcome
        else:
            self._wanted = outcome
            self._tell(outcome)

    def _has_its_snapshot(self) -> bool:
        return self._wanted in self._written and GO_ON not in self._settings
