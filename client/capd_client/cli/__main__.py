"""``capctl``: what people type.

Exit status: 0 done; 1 refused or failed; 2 wrong options or arguments; 3 there is no daemon; 130 ended by Ctrl-C.
"""

import argparse
import os
import pwd
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from capd_client.blocking.questions import (
    flush_capture,
    list_captures,
    revoke_captures,
    rotate_capture,
    snapshot_capture,
    stop_capture,
    who_am_i,
)
from capd_client.cli import capture, dissecting, interfaces, read
from capd_client.cli.columns import command as columns
from capd_client.cli.files import cut, merge, ring
from capd_client.cli.output import complain, forget_output, show, show_json, show_script
from capd_client.cli.sending import command as sending
from capd_client.cli.text import count, shorten, si, table, width_of
from capd_client.cli.typed import Parser, decimal, refuse_others
from capd_client.completion import complete
from capd_client.errors import (
    BrokenPipe,
    CaptureError,
    ChildError,
    DaemonUnavailable,
    DestinationError,
    InvalidArgument,
)
from capd_protocol.messages import (
    MAX_SNAPLEN_BYTES,
    CaptureSummary,
    FailureCode,
    Permission,
    RevokedCapture,
    RevokedDevice,
    RevokedSender,
    SendPermission,
)
from capd_protocol.text import counted
from capd_protocol.version import VERSION

if TYPE_CHECKING:
    import click

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_DAEMON = 3
#: As a shell has it.
_INTERRUPTED = 128 + signal.SIGINT
_EXIT_TEXT = (
    "Exit status: 0 done; 1 refused or failed; 2 wrong options or arguments; 3 there is no daemon; 130 ended by Ctrl-C."
)

#: What shells complete.
_PROGRAMS = ("capctl", "capd-dumpcap", "capd-extcap")
#: On a terminal, for the names of captures and of users where the reason shall be read. Chosen: it has half of 80.
_WHO_COLUMNS = 16

#: Of what the daemon did not say; its own codes are ``FailureCode``.
_CODES = (
    (InvalidArgument, FailureCode.INVALID),
    (DestinationError, FailureCode.DESTINATION),
    (DaemonUnavailable, "no_daemon"),
    (BrokenPipe, "daemon_gone"),
)


#: What messages call an argument that is none of a capture, to what it is called here.
_OPTIONS = {
    **ring.OPTIONS,
    **cut.OPTIONS,
    "after": ("--after",),
    "user": ("--user",),
    "interval": ("--interval",),
    "count": ("-c", "--count"),
    "with_ssh": ("--with-ssh",),
    "serve": ("--serve",),
    "print": ("--print",),
    "follow": ("--follow",),
    "interface": ("-i", "--interface"),
    "rate": ("--rate",),
    "speed": ("--speed", "--topspeed"),
    "loop": ("--loop",),
}


def _list(options: argparse.Namespace) -> int:
    captures = list_captures(socket_path=options.socket)
    if options.json:
        for each in captures:
            show_json(msgspec.structs.asdict(each))
        return 0
    if not captures:
        show("No capture runs.")
        return 0
    # A column that few need takes no room from the others.
    names = ("NAME",) if any(each.name for each in captures) else ()
    rows = [
        (
            str(each.capture_id),
            *(each.name or "" for _ in names),
            _owner(each),
            datetime.fromtimestamp(each.started_ns / 1e9).astimezone().strftime("%H:%M:%S"),
            count(each.packets_total),
            count(each.drops_total),
            ",".join(each.interfaces) + (" (waiting)" if each.is_waiting else ""),
            _path_in(each, each.file_name),
        )
        for each in captures
    ]
    header = ("ID", *names, "USER", "SINCE", "PACKETS", "DROPPED", "INTERFACES", "FILE")
    right = frozenset(map(header.index, ("ID", "PACKETS", "DROPPED")))
    flexible = frozenset(map(header.index, (*names, "INTERFACES", "FILE")))
    show(*table(header, rows, right, width_of(sys.stdout), flexible))
    return 0


def _on_each(options: argparse.Namespace) -> int:
    """Do something with each capture that is named; what cannot be done with one keeps none of the others."""
    status = 0
    for each in options.capture:
        try:
            options.action(each, options)
        except ChildError as error:
            _tell(error, options)
            status = EXIT_FAILED
    return status


_AnyRevoked = RevokedCapture | RevokedSender | RevokedDevice


def _revoke(options: argparse.Namespace) -> int:
    """Revoke; where it is not known of a capture, sender or device whether it should end, that is a failure."""
    revoked = revoke_captures(options.user, options.dry_run, socket_path=options.socket)
    ended: list[_AnyRevoked] = [*revoked.ended, *revoked.senders_ended, *revoked.devices_ended]
    kept: list[_AnyRevoked] = [*revoked.kept, *revoked.senders_kept, *revoked.devices_kept]
    if options.json:
        for outcome, these in (("would_end" if options.dry_run else "ended", ended), ("kept", kept)):
            for each in these:
                show_json({"outcome": outcome, **msgspec.structs.asdict(each)})
    else:
        if ended:
            show(*_revoked_table(ended))
        verb = "would end" if options.dry_run else "ended"
        show(f"{counted(len(revoked.ended), 'capture')} {verb}." if revoked.ended else f"No capture {verb}.")
        for others, what in ((revoked.senders_ended, "sender"), (revoked.devices_ended, "device")):
            if others:
                show(f"{counted(len(others), what)} {verb}.")
    if kept:
        names = ", ".join(f"{_number_of(each)} ({_owner(each)})" for each in kept)
        text = f"kept, since it is not known which groups their users have now: {names}: try again, or use --user"
        complain(text)
    return EXIT_FAILED if kept else 0


def _number_of(revoked: _AnyRevoked) -> str:
    """Return what distinguishes a capture: its number; of what has none, its interface or device."""
    match revoked:
        case RevokedCapture():
            return str(revoked.capture_id)
        case RevokedSender():
            return f"sends on {revoked.interface}"
        case RevokedDevice():
            return f"has {revoked.device}"


def _revoked_table(revoked: Sequence[_AnyRevoked]) -> list[str]:
    width = width_of(sys.stdout)
    fits = partial(shorten, width=_WHO_COLUMNS) if width is not None else str
    rows = [
        (
            _number_of(each),
            fits((each.name or "") if isinstance(each, RevokedCapture) else ""),
            fits(_owner(each)),
            each.why,
        )
        for each in revoked
    ]
    return table(("CAPTURE", "NAME", "USER", "WHY"), rows, frozenset({0}), width, frozenset({3}))


def _stop(capture: int | str, options: argparse.Namespace) -> None:
    stop_capture(capture, socket_path=options.socket)


def _flush(capture: int | str, options: argparse.Namespace) -> None:
    flush_capture(capture, socket_path=options.socket)


def _rotate(capture: int | str, options: argparse.Namespace) -> None:
    _show_file(capture, options, partial(rotate_capture, capture, socket_path=options.socket))


def _snapshot(options: argparse.Namespace) -> int:
    snapshot = partial(snapshot_capture, options.capture, after=options.after, socket_path=options.socket)
    _show_file(options.capture, options, snapshot)
    return 0


def _show_file(capture: int | str, options: argparse.Namespace, make: Callable[[], str]) -> None:
    """Show the path of a file that a capture makes, as the list of captures has its files."""
    # Of several captures of that name, this user's own is meant.
    known = sorted(list_captures(socket_path=options.socket), key=lambda each: each.user_id != os.getuid())
    found = next((each for each in known if capture in (each.capture_id, each.name)), None)
    path = _path_in(found, make()) if found else make()
    if options.json:
        show_json({"capture_id": found.capture_id if found else capture, "path": path}, flush=True)
    else:
        show(path, flush=True)


def _path_in(capture: CaptureSummary, file_name: str) -> str:
    return os.path.join(capture.directory or "", file_name)  # noqa: PTH118  # it need not be one here


def _whoami(options: argparse.Namespace) -> int:
    me = who_am_i(socket_path=options.socket)
    status = 0 if me.permissions else EXIT_FAILED
    if options.json:
        fields = msgspec.to_builtins(me)
        del fields["type"]
        show_json(fields)
        return status
    name = f"user {me.user_id} of a container" if me.is_contained else _user_name(me.user_id)
    if not me.permissions:
        show(f"{name} may not capture here: {me.advice}.")
        return status
    show(f"{name} may capture")
    for each in me.permissions:
        show(*_permission_lines(each))
    if len(me.permissions) > 1:
        show("On each interface the first of these that allows what is asked for holds.")
    return 0


def _user_name(user_id: int) -> str:
    account = _account(user_id)
    return f"user {user_id}" if account == str(user_id) else f"{account} (user {user_id})"


def _owner(capture: CaptureSummary | _AnyRevoked) -> str:
    return f"container:{capture.user_id}" if capture.is_contained else _account(capture.user_id)


def _account(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return str(user_id)


def _permission_lines(each: Permission) -> list[str]:
    bounds = [
        (
            each.max_snaplen_bytes < MAX_SNAPLEN_BYTES,
            f"the first {counted(each.max_snaplen_bytes, 'byte')} of a packet",
        ),
        (not each.promiscuous, "not in promiscuous mode"),
        (each.monitor_mode, "in monitor mode too"),
        (each.max_captures is not None, f"up to {each.max_captures} at once"),
        (each.max_disk_bytes is not None, f"up to {si(each.max_disk_bytes or 0, 'B')} on disk"),
        (each.max_duration_s is not None, f"for up to {each.max_duration_s or 0:g} s"),
    ]
    lines = [f"  on {', '.join(each.interfaces)} (rule {each.rule})"]
    lines += [f"    only packets that match '{each.filter}'"] if each.filter else []
    lines += [f"    {text}" for holds, text in bounds if holds]
    if each.send is not None:
        lines.append(f"    and send on {', '.join(each.send.interfaces)}{_send_bounds(each.send)}")
    if each.devices:
        lines.append(f"    and have capd open the devices {', '.join(each.devices)}")
    return lines


def _send_bounds(send: SendPermission) -> str:
    rate = f", up to {counted(send.max_pps, 'packet')} a second" if send.max_pps is not None else ""
    if "*" in send.source_macs:
        return f"{rate}, from any source address"
    return rate + (f", also from {', '.join(send.source_macs)}" if send.source_macs else "")


#: What is done with captures that are named.
_ACTIONS: tuple[tuple[str, Callable[[int | str, argparse.Namespace], None], str, str], ...] = (
    ("stop", _stop, "end captures", "End captures; their files are complete."),
    ("rotate", _rotate, "have rings go on in their next files", "Have rings go on in their next files."),
    (
        "flush",
        _flush,
        "have what was captured be in the files",
        "Return when every packet that the kernel has now is in the files.",
    ),
)


def _completion(options: argparse.Namespace) -> int:
    from capd_client.cli import completion  # noqa: PLC0415  # click takes a while, which others need not

    show_script(completion.script(options.shell, options.program, _parser()))
    return 0


def _completion_tree(parser: Parser) -> "click.Group":
    from capd_client.cli.completion import tree_of  # noqa: PLC0415  # only where a shell asks

    return tree_of(parser)


def _install_extcap(options: argparse.Namespace) -> int:
    from capd_client.extcap import installing  # noqa: PLC0415  # few need it

    show(*(installing.remove if options.remove else installing.install)(for_all=options.system))
    return 0


def _help(_options: argparse.Namespace) -> int:
    """Nothing to do: the parser of the command that is named shows its own."""
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="capctl",
        description="Capture packets through the capd daemon.",
        epilog=_EXIT_TEXT,
    )
    parser.add_argument("--version", action="version", version=f"capctl {VERSION}")
    parser.add_argument(
        "--socket", metavar="PATH", help="where the daemon listens (default: $CAPD_SOCKET or /run/capd/capd.sock)"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    capture.add_arguments(
        commands.add_parser("capture", help="capture packets into files", description="Capture packets into files.")
    )
    read.add_arguments(
        commands.add_parser("read", help="show the packets of files", description="Show the packets of files.")
    )
    columns.add_arguments(
        commands.add_parser(
            "columns",
            help="show fields of packets as columns",
            description="Show fields of a file's packets, by Wireshark's names, as columns, or write them.",
        )
    )
    dissecting.add_dissect_arguments(
        commands.add_parser(
            "dissect",
            help="show what Wireshark knows of packets",
            description="Show what Wireshark's tshark knows of a file's packets: their protocol trees, or some fields.",
        )
    )
    dissecting.add_decode_arguments(
        commands.add_parser(
            "decode",
            help="show what Wireshark knows of a packet in hexadecimal",
            description="Show what Wireshark's tshark knows of one packet, whose bytes are typed in hexadecimal.",
        )
    )
    ring.add_files_arguments(
        commands.add_parser("files", help="show the files of a ring", description="Show the files of a ring.")
    )
    ring.add_extract_arguments(
        commands.add_parser(
            "extract",
            help="show or write the packets of a span out of a ring",
            description="Show or write the packets of a span out of a ring, in time order.",
        )
    )
    merge.add_merge_arguments(
        commands.add_parser(
            "merge",
            help="merge capture files into one, in the order of time",
            description="Merge capture files into one, in the order of their packets' times.",
        )
    )
    cut.add_cut_arguments(
        commands.add_parser(
            "cut",
            help="write some of a file's packets, or change them",
            description="Write packets of a file into another: some, shortened, shifted, sorted, in several files.",
        )
    )
    listing = commands.add_parser("list", help="show the captures that run", description="Show the captures that run.")
    listing.add_argument("--json", action="store_true", help="print a line of JSON for each")
    listing.set_defaults(run=_list)
    capture.add_attach_arguments(
        commands.add_parser(
            "attach",
            help="show what happens to a capture that runs",
            description="Show what happens to a capture that runs, until it ends or Ctrl-C, which leaves it alone.",
        )
    )
    for name, action, help_text, description in _ACTIONS:
        acting = commands.add_parser(name, help=help_text, description=description)
        acting.add_argument(
            "capture",
            nargs="+",
            type=capture.number_or_name,
            metavar="CAPTURE",
            help="name or number, as 'capctl list' shows",
        )
        acting.set_defaults(run=_on_each, action=action)
        if action is _rotate:
            acting.add_argument("--json", action="store_true", help="print a line of JSON for each")
    snapshot = commands.add_parser(
        "snapshot",
        help="have a recorder write what it has",
        description="Have a recorder write what it has; print the path of the file when it is complete.",
    )
    snapshot.add_argument(
        "capture", type=capture.number_or_name, metavar="CAPTURE", help="name or number, as 'capctl list' shows"
    )
    snapshot.add_argument(
        "--after", type=decimal, metavar="SECONDS", help="and what comes within this time (default: the recorder's own)"
    )
    snapshot.add_argument("--json", action="store_true", help="print an object of JSON")
    snapshot.set_defaults(run=_snapshot)
    revoke = commands.add_parser(
        "revoke",
        help="end captures that are not granted any more",
        description="For root: end the captures that today's rules would not grant as they run, or all of a user.",
    )
    revoke.add_argument("--user", metavar="USER", help="name or number: end all captures of this user")
    revoke.add_argument("--dry-run", action="store_true", help="only show what would end")
    revoke.add_argument("--json", action="store_true", help="print a line of JSON for each")
    revoke.set_defaults(run=_revoke)
    whoami = commands.add_parser(
        "whoami", help="show what you may capture", description="Show what policy lets you capture, rule by rule."
    )
    whoami.add_argument("--json", action="store_true", help="print an object of JSON")
    whoami.set_defaults(run=_whoami)
    sending.add_arguments(
        commands.add_parser(
            "send",
            help="send the packets of a file",
            description="Send the packets of a file on an interface, each at its time, as far as a rule allows it.",
        )
    )
    interfaces.add_parsers(commands)
    installing = commands.add_parser(
        "install-extcap",
        help="put capd into Wireshark's list of interfaces",
        description="Put capd-extcap where Wireshark looks for such programs: its list of interfaces has capd's then.",
    )
    installing.add_argument("--system", action="store_true", help="for all users of this machine (for root)")
    installing.add_argument("--remove", action="store_true", help="take it away again")
    installing.set_defaults(run=_install_extcap)
    completing = commands.add_parser(
        "completion",
        help="print what a shell completes with",
        description="Print what a shell reads, to complete what is typed behind a program.",
    )
    completing.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")
    completing.add_argument(
        "program",
        nargs="?",
        choices=_PROGRAMS,
        default=_PROGRAMS[0],
        metavar="PROGRAM",
        help="behind which: capctl, capd-dumpcap or capd-extcap (default: capctl)",
    )
    completing.set_defaults(run=_completion)
    helping = commands.add_parser("help", help="show this help", description="Show this help, or that of a command.")
    helping.add_argument("command", nargs="*", metavar="COMMAND", help="show its options")
    helping.set_defaults(run=_help)
    for command in commands.choices.values():
        # Behind the command too, where it does not undo what stands before.
        command.add_argument("--socket", metavar="PATH", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.commands = commands.choices
    refuse_others(commands.choices)
    return parser


def _tell(error: CaptureError, options: argparse.Namespace, words: Sequence[str] = ()) -> None:
    """Tell what went wrong, with options as they were typed; ``words`` are what was."""
    failure = error.failure if isinstance(error, ChildError) else None
    text = capture.in_options(str(error), words)
    argument = error.argument if isinstance(error, InvalidArgument) else None
    names = _OPTIONS.get(argument or "", ())
    typed = next((name for name in names if any(word.startswith(name) for word in words)), next(iter(names), None))
    option = typed or (argument and capture.option_meant(argument, words))
    if option and text.startswith(f"{argument} "):
        text = f"{option}{text.removeprefix(argument or '')}"
    if getattr(options, "json", False):
        code = failure.code if failure else next((code for kind, code in _CODES if isinstance(error, kind)), None)
        print_object = getattr(options, "print_object", show_json)
        print_object({"event": "error", "code": code, "text": text}, flush=True)
    known = f" (option {option})" if option and option not in text else ""
    complain(f"{text}{known}")


def _open_standard_streams() -> None:
    """Open those that are closed, in order, each with its own number, which another descriptor would get otherwise."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115  # until the program ends


def main(argv: list[str] | None = None) -> int:
    """Run one command; see the module's docstring for the exit status."""
    _open_standard_streams()
    # File names may have bytes that the terminal's encoding has not.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        try:
            words = sys.argv[1:] if argv is None else argv
            parser = _parser()
            completed = complete("capctl", partial(_completion_tree, parser))
            if completed is not None:
                return completed
            if not words:
                parser.print_help(sys.stderr)
                return EXIT_USAGE
            return _run(parser, words)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except OSError as error:
        # The client's own are CaptureErrors: this is our output, and a capture has ended with its session.
        forget_output()
        if not isinstance(error, BrokenPipeError):  # then whoever read it has had enough
            complain(f"the output cannot be written: {error.strerror}")
        return EXIT_FAILED


def _run(parser: Parser, words: Sequence[str]) -> int:
    options = argparse.Namespace(json="--json" in words)
    try:
        options = parser.parse_args(words)
        if options.run is _help:
            parser.parse_args([*options.command, "--help"])
        return int(options.run(options))
    except InvalidArgument as error:
        _tell(error, options, words)
        return EXIT_USAGE
    except DaemonUnavailable as error:
        _tell(error, options, words)
        return EXIT_NO_DAEMON
    except CaptureError as error:
        _tell(error, options, words)
        return EXIT_FAILED


def run() -> int:
    """Run the command that was typed, in a process of its own: Ctrl-C ends it quietly, however early or late it is."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # until here, where there was nothing to clear up
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return main()
    except KeyboardInterrupt:  # before it is caught there, or behind
        return _INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(run())
