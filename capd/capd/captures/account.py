"""The account of a capture, from its worker's messages: files, counters, failure, end. Pure."""

import logging

from capd.captures.tally import Counts, Gauges
from capd.errors import RequestRefused, revoked
from capd.policy.peer import Peer
from capd.policy.rules import Terms
from capd_protocol.messages import (
    Attached,
    CaptureSummary,
    Counters,
    Ended,
    EndReason,
    ErrorMessage,
    Failed,
    Failure,
    FailureCode,
    FileClosed,
    FileDeleted,
    FileOpened,
    InterfaceCounters,
    Message,
    PacketCount,
    Recording,
    SnapshotFailed,
    StartCapture,
    Triggered,
    TriggersIgnored,
)


class Account:
    """The account of one capture, from its beginning."""

    def __init__(self, capture_id: int, owner: Peer, request: StartCapture, terms: Terms, started_ns: int) -> None:
        """Nothing has come of it yet.

        Args:
            capture_id: its number.
            owner: whose it is.
            request: what was asked for, within the terms.
            terms: what holds for all of it.
            started_ns: when it began.
        """
        self.capture_id = capture_id
        self.request = request
        self.started_ns = started_ns
        self._owner = owner
        self._terms = terms
        # From the capture that it belongs to:
        self.has_begun = self.has_worker = self.is_running = False
        #: Why it was stopped; None while it was not.
        self.stopped_for: EndReason | None = None
        # From the worker:
        #: Where the files go, for people; None: not known.
        self.directory: str | None = None
        #: Why it ended; None while it runs, and where its process died.
        self.end_reason: EndReason | None = None
        self.failure: Failure | None = None
        #: Of the file opened last; at first, how its files are called.
        self.file_name = request.destination.file_name
        self._files_total = 0
        self._is_file_open = False
        #: Of a recorder that runs.
        self._recording: Recording | None = None
        self._file_size_bytes = self._disk_bytes = 0
        self._closed_bytes_total = 0
        #: As far as they were announced.
        self._packets_total = 0
        self._interfaces: tuple[InterfaceCounters, ...] = tuple(
            InterfaceCounters(interface=interface.name) for interface in request.interfaces
        )
        self._is_waiting = False
        self._has_died = False

    def add(self, message: Message) -> None:
        """Take note of a message of the worker."""
        match message:
            case FileOpened(name):
                self._files_total += 1
                self._is_file_open = True
                self.file_name = name
            case FileClosed(size_bytes=size_bytes):
                self._closed_bytes_total += size_bytes
                self._file_size_bytes = 0
                self._is_file_open = False
            case Recording():
                self._recording = message
            case PacketCount(packets_delta):
                self._packets_total += packets_delta
            case Counters():
                self._file_size_bytes, self._disk_bytes = message.file_size_bytes, message.disk_bytes
                self._interfaces, self._is_waiting = message.interfaces, message.is_waiting
            case Failed(failure=failure):
                self.failure = failure
            case Ended(reason=reason, interfaces=interfaces):
                self._interfaces = interfaces
                if reason == EndReason.STOPPED and self.stopped_for is not None:  # a worker does not know why
                    reason = self.stopped_for
                self.end_reason = reason
            case _:
                pass

    # From the capture that it belongs to --------------------------------------------------------------------------

    def stop(self, reason: EndReason) -> bool:
        """Note that it was stopped; only the first reason counts. Return whether this was the first."""
        if self.stopped_for is not None:
            return False
        self.stopped_for = reason
        return True

    def close(self) -> None:
        """Note that its worker is gone, and sends no more messages."""
        self._has_died = self.end_reason is None and self.failure is None

    # Where it stands ----------------------------------------------------------------------------------------------

    @property
    def is_started(self) -> bool:
        """Whether its first file has its header, or packets are recorded in memory."""
        return self._files_total > 0 or self._recording is not None

    @property
    def current_file(self) -> str:
        """The name of the file that is being written; empty while there is none."""
        return self.file_name if self._is_file_open else ""

    @property
    def interface_names(self) -> tuple[str, ...]:
        """The interfaces that it has been on."""
        return tuple(each.interface for each in self._interfaces)

    def check_runs(self) -> None:
        """Check that it runs now.

        Raises:
            RequestRefused: it does not.
        """
        if self.has_worker and self.is_running and self.is_started:
            return
        if self.end_reason is not None:
            raise RequestRefused(FailureCode.NO_SUCH_CAPTURE, f"the capture {self.capture_id} has ended")
        text = f"the capture {self.capture_id} does not run yet, or waits to run again: try again later"
        raise RequestRefused(FailureCode.RESOURCES, text)

    def why_not_started(self, status: int | None) -> RequestRefused:
        """Return why it could not be started.

        Args:
            status: with which its process has ended; None: it is not known.
        """
        if self.stopped_for == EndReason.REVOKED:
            return revoked()
        failure = self.failure or Failure(
            code=FailureCode.WORKER_DIED,
            text=f"the capture process ended before it began (status {status}): see the daemon's log",
        )
        refusal = RequestRefused(failure.code, failure.text)
        refusal.failure = failure
        return refusal

    # For subscribers ----------------------------------------------------------------------------------------------

    def summary(self, *, tells_directory: bool = False) -> CaptureSummary:
        """Return the capture's line in the list; it says where its files go, if that is known."""
        return CaptureSummary(
            capture_id=self.capture_id,
            user_id=self._owner.user_id,
            name=self.request.name,
            interfaces=tuple(interface.name for interface in self.request.interfaces),
            file_name=self.file_name,
            directory=self.directory if tells_directory else None,
            is_waiting=self._is_waiting,
            is_recorder=self.request.recorder is not None,
            started_ns=self.started_ns,
            files_total=self._files_total,
            packets_total=self._written_packets,
            drops_total=self._drops,
            is_contained=self._owner.is_contained,
        )

    def attached(self) -> Attached:
        """Return where it stands, for a subscriber that gets all events from now on."""
        return Attached(
            capture=self.summary(),
            file_format=self.request.file_format,
            is_ring=self.request.ring is not None,
            packets_total=self._packets_total,
            closed_bytes_total=self._closed_bytes_total,
        )

    def past_events(self) -> list[Message]:
        """Return which events such a subscriber must get first, as if they came only now."""
        events: list[Message] = []
        if self._recording is not None:
            events.append(self._recording)
        if self.is_started:
            if self._is_file_open or self._recording is None:
                events.append(FileOpened(self.file_name))
            size_bytes, interfaces = self._file_size_bytes, self._interfaces
            events.append(Counters(file_size_bytes=size_bytes, interfaces=interfaces, is_waiting=self._is_waiting))
        return events

    def last_events(self) -> list[Message]:
        """Return which events come when the worker is gone: the end, and before it, where it died, that it did."""
        events: list[Message] = []
        if self.end_reason is None and self.failure is None:
            text = "the capture process died: what its last events reported is readable; see the daemon's log"
            events += [Failed(failure=Failure(code=FailureCode.WORKER_DIED, text=text)), ErrorMessage(text)]
        return [*events, Ended(reason=self.end_reason or EndReason.FAILED, interfaces=self._interfaces)]

    # For metrics --------------------------------------------------------------------------------------------------

    @property
    def counts(self) -> Counts:
        """What it has come to so far, as it is added up."""
        return Counts(
            attempts=int(self.has_begun),
            workers=int(self.has_worker),
            deaths=int(self._has_died),
            files=self._files_total,
            written_bytes=self._closed_bytes_total + self._file_size_bytes,
            received_packets=sum(each.received_total for each in self._interfaces),
            written_packets=self._written_packets,
            kernel_drops=sum(each.kernel_drops_total for each in self._interfaces),
            writer_drops=sum(each.writer_drops_total for each in self._interfaces),
            excess_packets=sum(each.excess_total for each in self._interfaces),
        )

    def gauges(self, waiting_events: int) -> Gauges:
        """Return how it stands now, as metrics show it, with so many events that are not read yet."""
        counts = self.counts
        done_packets = counts.written_packets + counts.kernel_drops + counts.writer_drops + counts.excess_packets
        return Gauges(
            captures=int(self.is_started),
            disk_bytes=self._disk_bytes,
            waiting_packets=max(counts.received_packets - done_packets, 0),
            waiting_events=waiting_events,
        )

    @property
    def _written_packets(self) -> int:
        return sum(each.written_total for each in self._interfaces)

    @property
    def _drops(self) -> int:
        return sum(each.drops_total for each in self._interfaces)

    # For the record -----------------------------------------------------------------------------------------------

    def grant_record(self) -> dict[str, object]:
        """Return what goes on record of what was granted."""
        filters = [rule.filter for rule in self._terms.rules if rule.filter]
        return {
            "name": self.request.name,
            "capture": self.capture_id,
            "rule": ", ".join(rule.name for rule in self._terms.rules),
            "policy_filter": "; ".join(filters),
        }

    def end_record(self) -> dict[str, object]:
        """Return what goes on record of its end."""
        return {
            **self.grant_record(),
            "end": self.end_reason or EndReason.FAILED,
            "code": self.failure.code if self.failure else None,
            "reason": self.failure.text if self.failure else None,
            "files": self._files_total,
            "packets": self._written_packets,
            "drops": self._drops,
        }


def log_line(message: Message) -> tuple[int, str, tuple[object, ...]] | None:
    """Return what the daemon's log says of an event: level, text and values; None: nothing."""
    match message:
        case FileDeleted(name=name, reason=reason, size_bytes=size_bytes):
            return logging.INFO, "deleted %a (%s, %d bytes)", (name, reason, size_bytes)
        case Triggered(reason=reason, interface=interface):
            return logging.INFO, "a snapshot is triggered (%s, %s)", (reason, interface or "all")
        case TriggersIgnored(triggers=triggers):
            return logging.INFO, "%d triggers in the cool-down of a snapshot", (triggers,)
        case SnapshotFailed(failure=failure):
            return logging.ERROR, "a snapshot failed: %s", (failure.text,)
        case _:
            return None
