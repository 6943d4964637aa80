"""``capctl capture``: a capture as a person types it."""

import argparse
import json
import signal
import sys
import threading
import time
from typing import Any, cast

import msgspec

from capd_client.blocking.session import CaptureSession
from capd_client.cli.text import count, printable, shorten, si, width_of
from capd_client.conversation.events import Event
from capd_client.errors import CaptureEnded, CaptureError, NoEvents
from capd_client.request.options import CaptureArguments, checked_capture
from capd_protocol.messages import DeletionReason, EndReason, FileClosed, Recording, Triggered, TriggerReason

_REDRAW_S = 0.2
#: The capture ended, and nobody here wanted it to.
EXIT_STOPPED = 1
#: For that status.
_ENDED_BY_OTHERS = (EndReason.DAEMON_STOPPING, EndReason.REVOKED)

_AUTOSTOP = {
    "duration": ("autostop_duration", float),
    "filesize": ("autostop_filesize", int),
    "files": ("autostop_files", int),
    "packets": ("max_packet_count", int),
}
_RING = {
    "duration": ("ringbuffer_duration", float),
    "filesize": ("ringbuffer_filesize", int),
    "files": ("ringbuffer_files", int),
    "packets": ("ringbuffer_packets", int),
    "interval": ("ringbuffer_interval", float),
    "total": ("ringbuffer_total_filesize", int),
    "age": ("ringbuffer_age", float),
    "free": ("ringbuffer_free_space", int),
}


_RECORD = {
    "duration": ("recorder_duration", float),
    "memory": ("recorder_memory", int),
    "after": ("recorder_after", float),
}


class _Trigger(argparse.Action):
    """``--trigger filter:TEXT``, ``rate:N`` or ``link-down``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        key, colon, value = str(values).partition(":")
        if key == "filter" and value:
            namespace.conditions["recorder_trigger_filter"] = value
        elif key == "rate" and value.isascii() and value.isdecimal():
            namespace.conditions["recorder_trigger_rate"] = int(value)
        elif key == "link-down" and not colon:
            namespace.conditions["recorder_trigger_link_down"] = True
        else:
            parser.error(f"{option_string} {values}: say filter:TEXT, rate:NUMBER or link-down")


class _Condition(argparse.Action):
    """``-a duration:10``: a key of a table, a colon, a number."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        table: dict[str, tuple[str, type]] = self.const
        key, colon, value = str(values).partition(":")
        if key not in table or not colon:
            parser.error(f"{option_string} {values}: say KEY:NUMBER, with KEY one of {', '.join(table)}")
        name, kind = table[key]
        try:
            namespace.conditions[name] = kind(value)
        except ValueError:
            parser.error(f"{option_string} {values}: {value!r} is not a {'whole ' if kind is int else ''}number")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``capctl capture``: dumpcap's letters where it has them."""
    parser.set_defaults(conditions={}, run=run)
    add = parser.add_argument
    add(
        "-i",
        "--interface",
        action="append",
        required=True,
        metavar="NAME",
        help="capture on this: a name, a pattern such as 'veth*', or any; may be repeated",
    )
    add("-f", "--filter", metavar="TEXT", help="only packets that match, see pcap-filter(7)")
    add("-s", "--snaplen", type=int, metavar="BYTES", help="keep at most so much of each packet")
    add("-p", "--no-promiscuous", action="store_true", help="leave the interface's promiscuous mode alone")
    add("-I", "--monitor-mode", action="store_true", help="all that a wireless interface hears")
    add("-k", "--wifi-channel", metavar="MHZ[,TYPE]", help="tune a wireless interface")
    add("-y", "--link-layer-type", metavar="TYPE", help="such as EN10MB")
    add("-B", "--kernel-buffer-size", type=int, metavar="MIB", help="ring of each interface")
    add("-c", "--count", type=int, metavar="N", help="end after so many packets")
    add("-w", "--savefile", metavar="PATH", help="file, or pattern of a ring's files (default: a temporary file)")
    add("-g", "--group-access", action="store_true", help="files may be read by their group")
    add("-P", "--pcap", action="store_true", help="write pcap instead of pcapng")
    add(
        "-a",
        "--autostop",
        action=_Condition,
        const=_AUTOSTOP,
        metavar="KEY:N",
        help="end after: duration:SECONDS, filesize:KB, files:N, packets:N; may be repeated",
    )
    add(
        "-b",
        "--ring-buffer",
        action=_Condition,
        const=_RING,
        metavar="KEY:N",
        help="next file after: duration:SECONDS, filesize:KB, packets:N, or at each interval:SECONDS of the clock; "
        "keep files:N, total:KB, age:SECONDS, and free:KB on the disk; may be repeated",
    )
    add(
        "--record",
        action=_Condition,
        const=_RECORD,
        metavar="KEY:N",
        help="keep the last packets in memory, and write them when asked to: duration:SECONDS, memory:MIB, and "
        "after:SECONDS; may be repeated. SIGUSR1 asks, as 'capctl snapshot' does",
    )
    add(
        "--trigger",
        action=_Trigger,
        metavar="KEY[:VALUE]",
        help="also write them at: filter:TEXT (a packet that matches), rate:N (packets within a second), link-down; "
        "may be repeated",
    )
    add("--wait", action="store_true", help="interfaces may come later, and come back")
    add("--update-interval", type=float, metavar="SECONDS", help="how soon packets are in the file (0.1)")
    add("--name", metavar="NAME", help="what to call the capture, as 'capctl list' shows it")
    add("--detach", action="store_true", help="leave when it runs; the capture stays")
    add("--json", action="store_true", help="print events as lines of JSON")


def add_attach_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``capctl attach``."""
    parser.set_defaults(run=attach)
    parser.add_argument(
        "capture", type=number_or_name, metavar="CAPTURE", help="name or number, as 'capctl list' shows"
    )
    parser.add_argument("--json", action="store_true", help="print events as lines of JSON")


def number_or_name(text: str) -> int | str:
    """Return what names a capture on the command line; names begin with a letter.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    try:
        return checked_capture(int(text) if text.isascii() and text.isdecimal() else text)
    except ValueError as error:  # InvalidArgument too; int() takes only so many digits
        raise argparse.ArgumentTypeError(str(error)) from error


def run(options: argparse.Namespace) -> int:
    """Capture until the end, a limit, or Ctrl-C."""
    arguments: CaptureArguments = {
        "interfaces": options.interface,
        "capture_filter": options.filter,
        "snaplen": options.snaplen,
        "promiscuous": False if options.no_promiscuous else None,
        "monitor_mode": options.monitor_mode,
        "wifi_channel": options.wifi_channel,
        "link_layer_type": options.link_layer_type,
        "kernel_buffer_size": options.kernel_buffer_size,
        "max_packet_count": options.count,
        "savefile": options.savefile,
        "group_access": options.group_access,
        "use_libpcap": options.pcap or None,
        "update_interval": options.update_interval,
        "wait_for_interfaces": options.wait,
        "name": options.name,
        "detach": options.detach,
        **cast(CaptureArguments, options.conditions),
    }
    if options.count is not None and "max_packet_count" in options.conditions:
        arguments["max_packet_count"] = min(options.count, options.conditions["max_packet_count"])
    with CaptureSession(socket_path=options.socket, **arguments) as capture:
        if options.detach:
            return _leave_running(capture, options.json)
        _stop_on_signals(capture)
        if any(name in arguments for name in ("recorder_duration", "recorder_memory")):
            _snapshot_on_signal(capture)
        output: _Json | _Text = _Json(capture) if options.json else _Text(capture)
        try:
            _follow(capture, output)
        except KeyboardInterrupt:  # the second Ctrl-C: no more patience
            capture.abandon()
            output.close()
            print("capctl: not waited for: capd completes the files by itself", file=sys.stderr)
            raise
        finally:
            output.close()
        return EXIT_STOPPED if capture.end_reason in _ENDED_BY_OTHERS else 0


def _leave_running(capture: CaptureSession, as_json: bool) -> int:
    """Wait until the capture runs, and tell how to find it again."""
    capture.wait_started()
    event = capture.wait_for_event()
    if as_json:
        _Json(capture).show(event)
        return 0
    kind, message = event
    print(_recording_line(message) if kind == capture.SP_RECORDING else f"File: {printable(message)}")
    print(f"The capture {capture.name} goes on as number {capture.capture_id}: 'capctl stop {capture.name}' ends it.")
    return 0


def attach(options: argparse.Namespace) -> int:
    """Show the events of a capture that runs, until its end or Ctrl-C."""
    with CaptureSession.attach(options.capture, socket_path=options.socket) as capture:
        output: _Json | _Text = _Json(capture) if options.json else _Text(capture)
        try:
            _follow(capture, output)
        finally:
            output.close()
        return EXIT_STOPPED if capture.end_reason in _ENDED_BY_OTHERS else 0


def _stop_on_signals(capture: CaptureSession) -> None:
    def stop(number: int, _frame: object) -> None:
        # The second one is not handled: it ends the program, and with it the capture.
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        capture.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def _snapshot_on_signal(capture: CaptureSession) -> None:
    """Have a snapshot taken at SIGUSR1, while events are shown as they come."""
    is_taking = threading.Lock()

    def take() -> None:
        try:
            capture.snapshot()  # its file is told of by events
        except CaptureError as error:
            print(f"capctl: no snapshot: {printable(str(error))}", file=sys.stderr)
        finally:
            is_taking.release()

    def begin(_number: int, _frame: object) -> None:
        if is_taking.acquire(blocking=False):
            threading.Thread(target=take, daemon=True).start()
        else:
            print("capctl: no snapshot: one is being written already", file=sys.stderr)

    signal.signal(signal.SIGUSR1, begin)


def _follow(capture: CaptureSession, output: "_Json | _Text") -> None:
    while True:
        try:
            event = capture.wait_for_event(timeout=_REDRAW_S)
        except NoEvents:
            output.tick()
            continue
        except CaptureEnded:
            return
        if event[0] in (capture.SP_ERROR_MSG, capture.SP_BAD_FILTER):
            continue  # raised, typed, by the wait after the last event
        output.show(event)


class _Json:
    """Events as lines of JSON."""

    def __init__(self, capture: CaptureSession) -> None:
        self._capture = capture
        #: Before any event was taken: what a capture had that was attached to.
        self._packets_total = capture.packetcount_before
        self._is_started = False

    def show(self, event: Event) -> None:
        kind, message = event
        if kind in (CaptureSession.SP_FILE, CaptureSession.SP_RECORDING) and not self._is_started:
            self._print("started", capture_id=self._capture.capture_id)
            self._is_started = True
        match kind:
            case CaptureSession.SP_FILE:
                self._print("file", path=message)
            case CaptureSession.SP_PACKET_COUNT:
                # The session's own count is ahead of the events that wait to be shown.
                self._packets_total += message
                self._print("packets", packets_delta=message, packets_total=self._packets_total)
            case CaptureSession.SP_FILE_CLOSED:
                fields = msgspec.structs.asdict(message)
                self._print("file_closed", path=fields.pop("name"), **fields)
            case CaptureSession.SP_FILE_DELETED:
                self._print("file_deleted", path=message.name, reason=message.reason, size_bytes=message.size_bytes)
            case CaptureSession.SP_INTERFACE_LOST:
                self._print("interface_lost", interface=message)
            case CaptureSession.SP_INTERFACE_ATTACHED:
                self._print("interface_attached", interface=message)
            case CaptureSession.SP_INTERFACE_SKIPPED:
                interface, _, text = message.partition(": ")
                self._print("interface_skipped", interface=interface, text=text)
            case CaptureSession.SP_RECORDING:
                self._print("recording", **msgspec.structs.asdict(message))
            case CaptureSession.SP_TRIGGERED:
                self._print("triggered", **msgspec.structs.asdict(message))
            case CaptureSession.SP_SNAPSHOT_FAILED:
                self._print("snapshot_failed", text=message)
            case CaptureSession.SP_LAGGED:
                self._print("lagged", events=message)
            case CaptureSession.SP_ENDED:
                interfaces = [msgspec.structs.asdict(each) for each in self._capture.interface_counters]
                self._print("ended", reason=message, interfaces=interfaces)
            case _:
                pass  # drops: told with the end, for each interface

    def _print(self, event: str, **fields: object) -> None:
        print(json.dumps({"event": event, **fields}), flush=True)

    def tick(self) -> None:
        """Nothing came."""

    def close(self) -> None:
        """Nothing is left to print."""


#: What messages call an argument, to what it is called here.
OPTIONS = {
    "interfaces": "-i",
    "capture_filter": "-f",
    "snaplen": "-s",
    "promiscuous": "-p",
    "monitor_mode": "-I",
    "wifi_channel": "-k",
    "link_layer_type": "-y",
    "kernel_buffer_size": "-B",
    "max_packet_count": "-c",
    "savefile": "-w",
    "use_libpcap": "-P",
    **{name: f"-a {key}" for key, (name, _) in _AUTOSTOP.items() if key != "packets"},
    **{name: f"-b {key}" for key, (name, _) in _RING.items()},
    **{name: f"--record {key}" for key, (name, _) in _RECORD.items()},
    "recorder_trigger_filter": "--trigger filter",
    "recorder_trigger_rate": "--trigger rate",
    "recorder_trigger_link_down": "--trigger link-down",
    "after": "--after",
    "wait_for_interfaces": "--wait",
    "update_interval": "--update-interval",
    "name": "--name",
    "detach": "--detach",
}

_ENDINGS = {
    EndReason.STOPPED: "stopped",
    EndReason.CLIENT_LEFT: "its program has left",
    EndReason.DAEMON_STOPPING: "capd was stopped",
    EndReason.REVOKED: "revoked by an administrator",
    EndReason.DURATION: "time is up",
    EndReason.FILESIZE: "the file is full",
    EndReason.FILES: "the last file is full",
    EndReason.PACKETS: "as many as were asked for",
    EndReason.DISK_LIMIT: "no room within the limits of bytes on disk",
}

_DELETIONS = {
    DeletionReason.FILES: "number of files",
    DeletionReason.TOTAL: "bytes in all",
    DeletionReason.AGE: "age",
    DeletionReason.FREE_SPACE: "free space",
    DeletionReason.POLICY: "bytes that policy allows",
}


class _Text:
    """Files as lines on standard output; on a terminal, the state of the capture in a line below."""

    def __init__(self, capture: CaptureSession) -> None:
        self._capture = capture
        self._is_live = sys.stderr.isatty()
        self._is_drawn = False
        self._file = ""
        self._drawn_s = time.monotonic()
        self._drawn_packets = 0
        self._rate = 0.0

    def show(self, event: Event) -> None:
        kind, message = event
        match kind:
            case CaptureSession.SP_FILE:
                self._file = message
                self._line(f"File: {printable(message)}")
            case CaptureSession.SP_FILE_CLOSED:
                self._line(_closed_line(message))
            case CaptureSession.SP_FILE_DELETED:
                self._line(f"  deleted: {printable(message.name)} ({_DELETIONS[message.reason]})")
            case CaptureSession.SP_INTERFACE_LOST:
                self._line(f"The interface {message} is gone.")
            case CaptureSession.SP_INTERFACE_ATTACHED:
                self._line(f"The interface {message} is attached.")
            case CaptureSession.SP_INTERFACE_SKIPPED:
                self._line(f"Not captured: {message}")
            case CaptureSession.SP_RECORDING:
                self._file = "(recording)"
                self._line(_recording_line(message))
            case CaptureSession.SP_TRIGGERED:
                self._line(_triggered_line(message))
            case CaptureSession.SP_SNAPSHOT_FAILED:
                self._line(f"No snapshot: {message}")
            case CaptureSession.SP_ENDED:
                self._line(_summary(self._capture, message))
            case _:
                pass
        self._draw()

    def tick(self) -> None:
        """Nothing came: the rate falls."""
        self._draw()

    def _line(self, text: str) -> None:
        self._erase()
        print(text, flush=True)

    def _erase(self) -> None:
        if self._is_drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._is_drawn = False

    def _draw(self) -> None:
        now_s = time.monotonic()
        if not self._is_live or not self._file or self._capture.end_reason is not None:
            return  # before the first file and after the end there is no capture to tell of
        elapsed_s = now_s - self._drawn_s
        if elapsed_s >= _REDRAW_S:
            packets = self._capture.packetcount
            self._rate = (packets - self._drawn_packets) / elapsed_s
            self._drawn_s, self._drawn_packets = now_s, packets
        elif self._is_drawn:
            return
        state = (
            f"{count(self._capture.packetcount)} packets  {si(self._capture.size_bytes_total, 'B')}  "
            f"{count(self._capture.dropcount)} dropped  {si(self._rate, '/s')}  "
        )
        # The line is on standard error, which may be a terminal where standard output is none; and the terminal
        # itself writes ^C behind it.
        width = max((width_of(sys.stderr) or 0) - 3, 0)
        name = printable(self._file.rpartition("/")[2])
        line = state + shorten(name, max(width - len(state), 0))
        print(f"\r\x1b[K{line[:width]}", end="", file=sys.stderr, flush=True)
        self._is_drawn = True

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._erase()


_TRIGGERS = {
    TriggerReason.FILTER: "a packet that matches",
    TriggerReason.RATE: "as many packets within a second as were named",
    TriggerReason.LINK_DOWN: "down, or gone",
}


def _recording_line(recording: Recording) -> str:
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
    return f"  complete: {count(closed.packets)} packets, {si(closed.size_bytes, 'B')}{span}{drops}"


def _summary(capture: CaptureSession, reason: EndReason) -> str:
    lines = [f"{count(capture.packetcount)} packets captured ({_ENDINGS.get(reason, reason)})"]
    for each in capture.interface_counters:
        percent = 100 * each.drops_total / each.received_total if each.received_total else 0.0
        lines.append(
            f"  {each.interface}: {count(each.written_total)} written, {count(each.drops_total)} dropped "
            f"({percent:.1f} %) of {count(each.received_total)}"
            + (f", {count(each.excess_total)} came after the end" if each.excess_total else "")
        )
    return "\n".join(lines)
