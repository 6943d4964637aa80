"""``capctl capture``: a capture as a person types it."""

import argparse
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec

from capd_client.blocking.session import CaptureSession
from capd_client.cli.live import (
    LiveOutput,
    Messages,
    Sink,
    live_arguments,
    own_connection,
    served_arguments,
    serving,
    writing_to,
)
from capd_client.cli.output import complain, draw, note, note_json, show, show_json
from capd_client.cli.signals import end_by, until_told
from capd_client.cli.text import count, shorten, si, width_of
from capd_client.conversation.events import CaptureEvent
from capd_client.errors import CaptureEnded, CaptureError, InvalidArgument, NoEvents
from capd_client.output.destinations import LiveDestination, live_destination_of
from capd_client.output.server import LiveServer, serving_address
from capd_client.request.options import CaptureArguments, checked_capture
from capd_protocol.arguments import ARGUMENTS, BY_NAME, KEYED_OPTIONS, ArgumentSpec, ArgumentType, Option
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
#: The capture ended, and nobody here wanted it to.
EXIT_STOPPED = 1
#: For that status.
_ENDED_BY_OTHERS = (EndReason.DAEMON_STOPPING, EndReason.REVOKED)

#: What a value is made by, and what it then is not.
_MADE_BY: dict[ArgumentType, Callable[[str], object]] = {
    ArgumentType.WHOLE_NUMBER: int,
    ArgumentType.SECONDS: float,
}
_NOT = {ArgumentType.WHOLE_NUMBER: "not a whole number", ArgumentType.SECONDS: "not a number"}


class _Keyed(argparse.Action):
    """``-a duration:10`` or ``--trigger link-down``: a key, and what it takes behind a colon."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        keys: dict[str, tuple[ArgumentSpec, Option]] = self.const
        key, colon, value = str(values).partition(":")
        spec, option = keys.get(key, (None, None))
        if spec is None or option is None or bool(colon) != bool(option.metavar):
            possible = ", ".join(_form(each) for _, each in keys.values())
            parser.error(f"{option_string} {values}: say one of {possible}")
        if spec.type is ArgumentType.TEXT and not value:
            parser.error(f"{option_string} {values}: there is no {option.metavar}")
        try:
            namespace.conditions[spec.name] = _MADE_BY.get(spec.type, str)(value) if option.metavar else True
        except ValueError:
            parser.error(f"{option_string} {values}: {value!r} is {_NOT[spec.type]}")


def _form(option: Option) -> str:
    return f"{option.key}:{option.metavar}" if option.metavar else option.key


def key_forms(action: argparse.Action) -> list[str]:
    """Return what the value of an option may begin with, if it has keys."""
    keys: dict[str, tuple[ArgumentSpec, Option]] = action.const if isinstance(action, _Keyed) else {}
    return [f"{each.key}:" if each.metavar else each.key for _, each in keys.values()]


def _keys_of(flag: str) -> dict[str, tuple[ArgumentSpec, Option]]:
    return {each.key: (spec, each) for spec in ARGUMENTS for each in spec.options if each.flag == flag}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``capctl capture``: dumpcap's letters where it has them."""
    parser.set_defaults(conditions={}, run=run)
    added: set[str] = set()
    for spec in ARGUMENTS:
        for option in spec.options:
            if option.flag not in added:
                added.add(option.flag)
                _add(parser, spec, option)
    parser.add_argument(
        "--serve",
        metavar="ADDRESS",
        help="give packets to all programs that connect to [IP-ADDRESS:]PORT (by default of this machine alone), or to "
        "unix:PATH",
    )
    parser.add_argument(
        "--with-ssh",
        action="store_true",
        help="where packets go to a program as they come, also capture the ssh connection that this is started through",
    )
    parser.add_argument("--json", action="store_true", help="print events as lines of JSON")


def _add(parser: argparse.ArgumentParser, spec: ArgumentSpec, option: Option) -> None:
    names = [each for each in (option.letter, option.flag) if each]
    if option.key:
        keys = _keys_of(option.flag)
        summary = ", ".join(f"{_form(each)} ({about.help})" for about, each in keys.values())
        parser.add_argument(
            *names,
            action=_Keyed,
            const=keys,
            metavar="KEY:VALUE",
            help=f"{KEYED_OPTIONS[option.flag]}: {summary}; may be repeated",
        )
    elif not option.metavar:
        says_no = option.flag.startswith("--no-")
        parser.add_argument(*names, dest=spec.name, action="store_const", const=not says_no, help=spec.help)
    else:
        is_list = spec.type is ArgumentType.NAMES
        parser.add_argument(
            *names,
            dest=spec.name,
            action="append" if is_list else "store",
            type=_MADE_BY.get(spec.type, str),
            metavar=option.metavar,
            help=spec.help,
        )


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
    given = {spec.name: getattr(options, spec.name, None) for spec in ARGUMENTS}
    arguments = cast(CaptureArguments, {**given, **options.conditions})
    if options.max_packet_count is not None and "max_packet_count" in options.conditions:  # -c, and -a packets
        arguments["max_packet_count"] = min(options.max_packet_count, options.conditions["max_packet_count"])
    destination = live_destination_of(options.savefile)
    if options.serve is not None:
        if destination is not None:
            raise InvalidArgument("packets go to a program or are served: leave out -w, or --serve", argument="serve")
        return _serve(options, arguments)
    if destination is not None:
        return _write_live(options, arguments, destination)
    if options.with_ssh:
        raise InvalidArgument("only what goes to a program as it comes leaves it out", argument="with_ssh")
    capture = CaptureSession(socket_path=options.socket, **arguments)
    if not options.detach:
        end_by(capture.stop, signal.SIGINT)  # also while it starts
    with capture:
        if not options.interfaces and not options.json:
            show(f"Interface: {', '.join(capture.interfaces)}", flush=True)
        if options.detach:
            return _leave_running(capture, options.json)
        if any(arguments.get(each.name) is not None for each in ARGUMENTS if each.part == "recorder"):
            _snapshot_on_signal(capture)
        output: _Json | _Text = _Json(capture) if options.json else _Text(capture)
        try:
            _follow(capture, output)
        except KeyboardInterrupt:  # the second Ctrl-C: no more patience
            capture.abandon()
            output.close()
            complain("not waited for: capd completes the files by itself")
            raise
        finally:
            output.close()
        return EXIT_STOPPED if capture.end_reason in _ENDED_BY_OTHERS else 0


def _write_live(options: argparse.Namespace, arguments: CaptureArguments, destination: LiveDestination) -> int:
    """Capture for a program that reads the packets as they come, until it has enough of them."""
    arguments = live_arguments(arguments, _connection_to_leave_out(options))
    destination.wait_for_reader()
    try:
        return _run_live(options, arguments, lambda capture: writing_to(capture, destination))
    finally:
        destination.close()


def _serve(options: argparse.Namespace, arguments: CaptureArguments) -> int:
    """Capture for all programs that come to read, and into a file where one is named."""
    address = serving_address(options.serve)
    arguments = served_arguments(arguments, _connection_to_leave_out(options))
    server = LiveServer(address, note)

    def begin(capture: CaptureSession) -> LiveServer:
        serving(capture, server)
        note(f"Serving at {address}: {address.readers}.")
        return server

    try:
        return _run_live(options, arguments, begin)
    finally:
        server.close()


def _connection_to_leave_out(options: argparse.Namespace) -> str | None:
    connection = None if options.with_ssh else own_connection(os.environ)
    if connection is not None:
        note(f"The ssh connection from {connection.split()[0]} is left out; --with-ssh captures it too.")
    return connection


def _run_live(
    options: argparse.Namespace, arguments: CaptureArguments, sink_of: Callable[[CaptureSession], Sink]
) -> int:
    capture = CaptureSession(socket_path=options.socket, **arguments)
    end_by(capture.stop, signal.SIGINT)
    in_memory = bool(arguments.get("in_memory"))
    with capture:
        if not options.interfaces and not options.json:
            note(f"Interface: {', '.join(capture.interfaces)}")
        messages = _Json(capture, note_json) if options.json else _Text(capture, note, shows_files=not in_memory)
        output = LiveOutput(capture, sink_of(capture), messages)
        try:
            _follow(capture, output)
            output.finish()
        finally:
            output.close()
        return EXIT_STOPPED if capture.end_reason in _ENDED_BY_OTHERS else 0


def _leave_running(capture: CaptureSession, as_json: bool) -> int:
    """Tell how to find a capture again that runs."""
    event = capture.next_event()
    if as_json:
        _Json(capture).show(event)
        return 0
    if isinstance(event, Recording):
        show(_recording_line(event))
    elif isinstance(event, FileOpened):
        show(f"File: {event.name}")
    show(f"The capture {capture.name} goes on as number {capture.capture_id}: 'capctl stop {capture.name}' ends it.")
    return 0


@until_told
def attach(options: argparse.Namespace) -> int:
    """Show the events of a capture that runs, until its end or Ctrl-C."""
    with CaptureSession.attach(options.capture, socket_path=options.socket) as capture:
        output: _Json | _Text = _Json(capture) if options.json else _Text(capture)
        try:
            _follow(capture, output)
        finally:
            output.close()
        return EXIT_STOPPED if capture.end_reason in _ENDED_BY_OTHERS else 0


def _snapshot_on_signal(capture: CaptureSession) -> None:
    """Have a snapshot taken at SIGUSR1, while events are shown as they come."""
    is_taking = threading.Lock()

    def take() -> None:
        try:
            capture.snapshot()  # events report its file
        except CaptureError as error:
            complain(f"no snapshot: {error}")
        finally:
            is_taking.release()

    def begin(_number: int, _frame: object) -> None:
        if is_taking.acquire(blocking=False):
            threading.Thread(target=take, daemon=True).start()
        else:
            complain("no snapshot: one is being written already")

    signal.signal(signal.SIGUSR1, begin)


def _follow(capture: CaptureSession, output: Messages) -> None:
    while True:
        try:
            event = capture.next_event(timeout=_REDRAW_S)
        except NoEvents:
            output.tick()
            continue
        except CaptureEnded:
            return
        if isinstance(event, Refused | ErrorMessage | BadFilter):
            continue  # raised, typed, by the wait after the last event
        output.show(event)


class _Json:
    """Events as lines of JSON."""

    def __init__(self, capture: CaptureSession, print_object: Callable[..., None] = show_json) -> None:
        self._capture = capture
        self._print_object = print_object
        #: Before any event was taken: what a capture had that was attached to.
        self._packets_total = capture.packetcount_before
        self._is_started = False

    def show(self, event: CaptureEvent) -> None:
        if isinstance(event, FileOpened | Recording) and not self._is_started:
            self._print("started", capture_id=self._capture.capture_id, interfaces=self._capture.interfaces)
            self._is_started = True
        match event:
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
            case InterfaceLost(interface=interface):
                self._print("interface_lost", interface=interface)
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

    def _print(self, event: str, **fields: object) -> None:
        self._print_object({"event": event, **fields}, flush=True)

    def tick(self) -> None:
        """Nothing came."""

    def close(self) -> None:
        """Nothing is left to print."""


#: What is also a word, and means the argument only where a sentence begins with it.
_WORDS = ("interfaces", "promiscuous", "savefile", "name", "detach")
_MENTIONS = re.compile(
    r"(?P<quoted>(?<!\w)'[^']*')|"
    rf"(?:^|(?<=; ))(?P<word>{'|'.join(_WORDS)})(?= (?:is|has|cannot|names|')\b|: | ')|"
    rf"\b(?P<name>{'|'.join(spec.name for spec in ARGUMENTS if spec.options and spec.name not in _WORDS)})\b"
)


def option_for(argument: str, words: Sequence[str]) -> str | None:
    """Return what an argument is called on the command line: as it was typed, if it was; None: nothing there.

    Args:
        argument: as messages call it.
        words: what was typed.
    """
    options = BY_NAME[argument].options if argument in BY_NAME else ()
    typed = (found for option in options if (found := _typed(option, words)) is not None)
    return next(typed, options[0].shown if options else None)


def _typed(option: Option, words: Sequence[str]) -> str | None:
    for name in filter(None, (option.flag, option.letter)):
        for word, following in zip(words, (*words[1:], ""), strict=False):
            value = word.removeprefix(name).removeprefix("=") or following
            if word.startswith(name) and (not option.key or value.partition(":")[0] == option.key):
                return f"{name} {option.key}".rstrip()
    return None


def in_options(text: str, words: Sequence[str]) -> str:
    """Return a message about arguments with the options that they are here."""

    def called(mention: re.Match[str]) -> str:
        argument = mention["word"] or mention["name"]
        return mention[0] if argument is None else option_for(argument, words) or argument

    return _MENTIONS.sub(called, text)


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

    def __init__(
        self, capture: CaptureSession, print_lines: Callable[..., None] = show, *, shows_files: bool = True
    ) -> None:
        self._capture = capture
        self._shows_files = shows_files
        self._print_lines = print_lines
        self._is_live = sys.stderr.isatty()
        self._is_drawn = False
        self._file = ""
        self._drawn_s = time.monotonic()
        self._drawn_packets = 0
        self._rate = 0.0

    def show(self, event: CaptureEvent) -> None:
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
            case InterfaceLost(interface=interface):
                self._line(f"The interface {interface} is gone.")
            case InterfaceAttached(interface=interface):
                self._line(f"The interface {interface} is attached.")
            case InterfaceSkipped(interface=interface, text=text):
                self._line(f"Not captured: {interface}: {text}")
            case Recording():
                self._file = "(recording)"
                self._line(_recording_line(event))
            case Triggered():
                self._line(_triggered_line(event))
            case SnapshotFailed(failure=failure):
                self._line(f"No snapshot: {failure.text}")
            case TriggersIgnored(triggers=triggers):
                self._line(f"Triggered again {count(triggers)} times meanwhile, without a further snapshot.")
            case Ended(reason=reason):
                self._line(*_summary(self._capture, reason))
            case _:
                pass
        self._draw()

    def tick(self) -> None:
        """Nothing came: the rate falls."""
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
    return f"  complete: {counted(closed.packets, 'packet')}, {si(closed.size_bytes, 'B')}{span}{drops}"


def _summary(capture: CaptureSession, reason: EndReason) -> list[str]:
    lines = [f"{counted(capture.packetcount, 'packet')} captured ({_ENDINGS.get(reason, reason)})"]
    for each in capture.interface_counters:
        percent = 100 * each.drops_total / each.received_total if each.received_total else 0.0
        lines.append(
            f"  {each.interface}: {count(each.written_total)} written, {count(each.drops_total)} dropped "
            f"({percent:.1f} %) of {count(each.received_total)}"
            + (f", {count(each.excess_total)} came after the end" if each.excess_total else "")
        )
    return lines
