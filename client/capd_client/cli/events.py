"""The events of a capture as they are shown: lines for people, or JSON for programs."""

import sys
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from capd_client.blocking.session import CaptureSession
from capd_client.cli.notices import Notice
from capd_client.cli.output import StandardOutput, complain, draw
from capd_client.cli.text import count, shorten, si, width_of
from capd_client.conversation.events import CaptureEvent
from capd_client.errors import CaptureEnded, NoEvents
from capd_protocol.messages import (
    BadFilter,
    DeletionReason,
    Ended,
    EndReason,
    ErrorMessage,
    FileClosed,
    FileDeleted,
    FileOpened,
    InterfaceAttached,
    InterfaceLost,
    InterfaceSkipped,
    Lagged,
    PacketCount,
    Recording,
    Refused,
    SnapshotFailed,
    Triggered,
    TriggerReason,
    TriggersIgnored,
)
from capd_protocol.text import counted, escaped

_REDRAW_S = 0.2
#: Not shown: raised, typed, by the wait after the last event.
RAISED_LATER = (Refused, ErrorMessage, BadFilter)
#: Nobody here wanted the capture to end.
_ENDED_BY_OTHERS = (EndReason.DAEMON_STOPPING, EndReason.REVOKED)
#: It ended so, or not all could be printed.
_EXIT_STOPPED = _EXIT_UNPRINTED = 1


class Messages(Protocol):
    """What shows the events of a capture."""

    def show(self, event: CaptureEvent) -> None:
        """Show one."""
        ...

    def notice(self, notice: Notice) -> None:
        """Show what is beside them."""
        ...

    def tick(self) -> None:
        """Nothing came for a while."""
        ...

    def wait(self) -> None:
        """No interface is there now."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


def follow(capture: CaptureSession, output: Messages) -> None:
    """Show all events of a capture, to its end, and whether it waits for an interface."""
    was_waiting = has_begun = False
    while True:
        try:
            event = capture.next_event(timeout=_REDRAW_S)
        except NoEvents:
            output.tick()
        except CaptureEnded:
            return
        else:
            if isinstance(event, RAISED_LATER):
                continue
            output.show(event)
            has_begun |= isinstance(event, FileOpened | Recording)
        if capture.is_waiting and has_begun and not was_waiting:
            output.wait()
        was_waiting = capture.is_waiting and has_begun


def status_of(capture: CaptureSession, output: StandardOutput) -> int:
    """Return the exit status for a capture that has ended."""
    if capture.end_reason in _ENDED_BY_OTHERS:
        return _EXIT_STOPPED
    return _EXIT_UNPRINTED if output.is_lost else 0


class Json:
    """Events as lines of JSON."""

    def __init__(self, capture: CaptureSession, print_object: Callable[..., None], *, shows_files: bool = True) -> None:
        self._capture = capture
        self._shows_files = shows_files
        self._print_object = print_object
        #: Before any event was taken: what a capture had that was attached to.
        self._packets_total = capture.packetcount_before
        self._is_started = False

    def show(self, event: CaptureEvent) -> None:
        """Show one."""
        if not self._is_started:
            self._print("started", capture_id=self._capture.capture_id, interfaces=self._capture.interfaces)
            self._is_started = True
        match event:
            case FileOpened() | FileClosed() | FileDeleted() if not self._shows_files:
                pass
            case FileOpened(name=path):
                self._print("file", path=path)
            case PacketCount(packets_delta=packets):
                # The session's own count is ahead of the events that wait to be shown.
                self._packets_total += packets
                self._print("packets", packets_delta=packets, packets_total=self._packets_total)
            case FileClosed():
                fields = msgspec.structs.asdict(event)
                self._print("file_closed", path=fields.pop("name"), **fields)
            case FileDeleted(name=path, reason=reason, size_bytes=size_bytes):
                self._print("file_deleted", path=path, reason=reason, size_bytes=size_bytes)
            case InterfaceLost(interface=interface, text=text):
                self._print("interface_lost", interface=interface, text=text)
            case InterfaceAttached(interface=interface):
                self._print("interface_attached", interface=interface)
            case InterfaceSkipped(interface=interface, text=text):
                self._print("interface_skipped", interface=interface, text=text)
            case Recording():
                self._print("recording", **msgspec.structs.asdict(event))
            case Triggered():
                self._print("triggered", **msgspec.structs.asdict(event))
            case SnapshotFailed(failure=failure):
                self._print("snapshot_failed", text=failure.text)
            case TriggersIgnored(triggers=triggers):
                self._print("triggers_ignored", triggers=triggers)
            case Lagged(events=events):
                self._print("lagged", events=events)
            case Ended(reason=reason):
                interfaces = [msgspec.structs.asdict(each) for each in self._capture.interface_counters]
                self._print("ended", reason=reason, interfaces=interfaces)
            case _:
                pass  # drops: shown with the end, for each interface

    def notice(self, notice: Notice) -> None:
        """Show what is beside them."""
        self._print(notice.event, **notice.fields)

    def wait(self) -> None:
        """No interface is there now."""
        self._print("waiting", interfaces=self._capture.interfaces)

    def _print(self, event: str, **fields: object) -> None:
        self._print_object({"event": event, **fields}, flush=True)

    def tick(self) -> None:
        """Nothing came."""

    def close(self) -> None:
        """Nothing is left to print."""


_ENDINGS = {
    EndReason.STOPPED: "stopped",
    EndReason.CLIENT_LEFT: "its program has left",
    EndReason.DAEMON_STOPPING: "capd was stopped",
    EndReason.REVOKED: "revoked by an administrator",
    EndReason.DURATION: "time is up",
    EndReason.FILESIZE: "the file is full",
    EndReason.FILES: "the last file is full",
    EndReason.PACKETS: "as many as were asked for",
    EndReason.SOURCE_ENDED: "the stream has ended",
    EndReason.DISK_LIMIT: "no room within the limits of bytes on disk",
}

_DELETIONS = {
    DeletionReason.FILES: "number of files",
    DeletionReason.TOTAL: "bytes in all",
    DeletionReason.AGE: "age",
    DeletionReason.FREE_SPACE: "free space",
    DeletionReason.POLICY: "bytes that policy allows",
}


class Text:
    """Files as lines on standard output; on a terminal, the state of the capture in a line below."""

    def __init__(
        self,
        capture: CaptureSession,
        print_lines: Callable[..., None],
        *,
        shows_files: bool = True,
        is_live: bool = True,
    ) -> None:
        self._capture = capture
        self._shows_files = shows_files
        self._print_lines = print_lines
        self._is_live = is_live and sys.stderr.isatty()
        self._is_drawn = False
        self._file = ""
        self._drawn_s = time.monotonic()
        self._drawn_packets = 0
        self._rate = 0.0

    def show(self, event: CaptureEvent) -> None:
        """Show one."""
        match event:
            case FileOpened() | FileClosed() | FileDeleted() if not self._shows_files:
                self._file = "(live)"
            case FileOpened(name=path):
                self._file = path
                self._line(f"File: {path}")
            case FileClosed():
                self._line(_closed_line(event))
            case FileDeleted(name=path, reason=reason):
                self._line(f"  deleted: {path} ({_DELETIONS[reason]})")
            case InterfaceLost(interface=interface, text=text):
                self._line(f"Gone: {text}" if text else f"The interface {interface} is gone.")
            case InterfaceAttached(interface=interface):
                self._line(f"The interface {interface} is attached.")
            case InterfaceSkipped(interface=interface, text=text):
                self._line(f"Not captured: {interface}: {text}")
            case Recording():
                self._file = "(recording)"
                self._line(recording_line(event))
            case Triggered():
                self._line(_triggered_line(event))
            case SnapshotFailed(failure=failure):
                self._line(f"No snapshot: {failure.text}")
            case TriggersIgnored(triggers=triggers):
                self._line(f"Triggered again {count(triggers)} times meanwhile, without a further snapshot.")
            case Ended(reason=reason):
                self._line(*_summary(self._capture, reason, "written" if self._shows_files else "captured"))
            case _:
                pass
        self._draw()

    def notice(self, notice: Notice) -> None:
        """Show what is beside them."""
        if notice.text:
            self._line(notice.text)
            self._draw()

    def tick(self) -> None:
        """Nothing came: the rate falls."""
        self._draw()

    def wait(self) -> None:
        """No interface is there now: say so, beside what stands on standard output."""
        self._erase()
        complain(waiting_line(self._capture))
        self._draw()

    def _line(self, *lines: str) -> None:
        self._erase()
        self._print_lines(*lines, flush=True)

    def _erase(self) -> None:
        if self._is_drawn:
            draw("")
            self._is_drawn = False

    def _draw(self) -> None:
        now_s = time.monotonic()
        if not self._is_live or not self._file or self._capture.end_reason is not None:
            return  # before the first file and after the end there is no capture to show
        elapsed_s = now_s - self._drawn_s
        if elapsed_s >= _REDRAW_S:
            packets = self._capture.packetcount
            self._rate = (packets - self._drawn_packets) / elapsed_s
            self._drawn_s, self._drawn_packets = now_s, packets
        elif self._is_drawn:
            return
        state = (
            f"{counted(self._capture.packetcount, 'packet')}  {si(self._capture.size_bytes_total, 'B')}  "
            f"{count(self._capture.dropcount)} dropped  {si(self._rate, '/s')}  "
        )
        # The line is on standard error, which may be a terminal where standard output is none; and the terminal
        # itself writes ^C behind it.
        width = max((width_of(sys.stderr) or 0) - 3, 0)
        name = escaped(self._file.rpartition("/")[2])
        line = state + shorten(name, max(width - len(state), 0))
        draw(line[:width])
        self._is_drawn = True

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._erase()


def waiting_line(capture: CaptureSession) -> str:
    """Return what a capture waits for, as a line."""
    return f"waiting for an interface that matches {' or '.join(capture.interfaces)}"


_TRIGGERS = {
    TriggerReason.FILTER: "a packet that matches",
    TriggerReason.RATE: "as many packets within a second as were named",
    TriggerReason.LINK_DOWN: "down, or gone",
}


def recording_line(recording: Recording) -> str:
    """Return what a recorder has begun to keep, as a line."""
    memory = f"{count(recording.memory_bytes // (1024 * 1024))} MiB of memory"
    if recording.duration_s is None:
        return f"Recording: what {memory} hold"
    return f"Recording: the last {recording.duration_s:g} s, in up to {memory}"


def _triggered_line(triggered: Triggered) -> str:
    place = f"{triggered.interface}: " if triggered.interface is not None else ""
    return f"Triggered: {place}{_TRIGGERS.get(triggered.reason, triggered.reason)}"


def _closed_line(closed: FileClosed) -> str:
    span = ""
    if closed.first_timestamp_ns is not None and closed.last_timestamp_ns is not None:
        span = f", {(closed.last_timestamp_ns - closed.first_timestamp_ns) / 1e9:.3f} s"
    drops = f", {count(closed.drops)} dropped" if closed.drops else ""
    return f"  complete: {counted(closed.packets, 'packet')}, {si(closed.size_bytes, 'B')}{span}{drops}"


def _summary(capture: CaptureSession, reason: EndReason, what: str) -> list[str]:
    lines = [f"{counted(capture.packetcount, 'packet')} captured ({_ENDINGS.get(reason, reason)})"]
    for each in capture.interface_counters:
        percent = 100 * each.drops_total / each.received_total if each.received_total else 0.0
        lines.append(
            f"  {each.interface}: {count(each.written_total)} {what}, {count(each.drops_total)} dropped "
            f"({percent:.1f} %) of {count(each.received_total)}"
            + (f", {count(each.excess_total)} came after the end" if each.excess_total else "")
        )
    return lines
