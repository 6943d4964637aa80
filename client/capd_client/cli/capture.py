"""``capctl capture``: a capture as a person types it."""

import argparse
import re
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from capd_client.blocking.questions import list_interfaces
from capd_client.blocking.session import CaptureSession
from capd_client.cli.events import Json, Messages, Text, follow, recording_line, status_of, waiting_line
from capd_client.cli.interfaces import show_interfaces, show_linktypes
from capd_client.cli.output import StandardOutput, complain, note_json
from capd_client.cli.packets.lines import FOR_PEOPLE, is_for_people
from capd_client.cli.packets.lines import add_arguments as packet_options
from capd_client.cli.signals import end_by, until_told
from capd_client.cli.typed import decimal, whole_number
from capd_client.errors import CaptureError, InvalidArgument
from capd_client.output.destinations import DescriptorDestination, goes_nowhere, live_destination_of
from capd_client.output.live_output import NEVER_LIVE, OF_FILES
from capd_client.request.options import CaptureArguments, checked_capture
from capd_client.request.streams import with_extcap
from capd_protocol.arguments import ARGUMENTS, BY_NAME, KEYED_OPTIONS, ArgumentSpec, ArgumentType, Option
from capd_protocol.messages import FileOpened, Recording

#: What a value is made by.
_MADE_BY: dict[ArgumentType, Callable[[str], object]] = {
    ArgumentType.WHOLE_NUMBER: whole_number,
    ArgumentType.SECONDS: decimal,
}


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
        try:
            if spec is None or option is None or bool(colon) != bool(option.metavar):
                possible = ", ".join(_form(each) for _, each in keys.values())
                raise argparse.ArgumentTypeError(f"say one of {possible}")
            if spec.type is ArgumentType.TEXT and not value:
                raise argparse.ArgumentTypeError(f"there is no {option.metavar}")
            namespace.conditions[spec.name] = _MADE_BY.get(spec.type, str)(value) if option.metavar else True
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(None, f"{option_string} {values}: {error}") from error


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
    parser.set_defaults(conditions={}, extcap=False, modules=False, run=run)
    added: set[str] = set()
    for spec in ARGUMENTS:
        for option in spec.options:
            if option.flag not in added:
                added.add(option.flag)
                _add(parser, spec, option)
    parser.add_argument(
        "words", nargs="*", metavar="FILTER", help="the filter, behind all options, as tcpdump has it; or -f"
    )
    parser.add_argument(
        "-D",
        "--list-interfaces",
        action="store_true",
        help="list what can be captured on, as 'capctl interfaces' does, and do nothing else",
    )
    parser.add_argument(
        "-L",
        "--list-linktypes",
        action="store_true",
        help="list the interface's link-layer types, as 'capctl linktypes' does, and do nothing else",
    )
    parser.add_argument("--print", action="store_true", help="show packets, which are also written to a file or served")
    packet_options(parser.add_argument)
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
        is_list = spec.type in (ArgumentType.NAMES, ArgumentType.TEXTS)
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
    """Capture until the end, a limit, or Ctrl-C; or list what can be captured on."""
    if options.list_interfaces:
        return show_interfaces(options)
    if options.interfaces:
        options.interfaces = _named(options.interfaces, options.socket, options.netns)
    if options.list_linktypes:
        return _show_linktypes(options)
    given = {spec.name: getattr(options, spec.name, None) for spec in ARGUMENTS}
    arguments = cast(CaptureArguments, {**given, **options.conditions})
    if options.max_packet_count is not None and "max_packet_count" in options.conditions:  # -c, and -a packets
        arguments["max_packet_count"] = min(options.max_packet_count, options.conditions["max_packet_count"])
    if options.words:
        arguments["capture_filter"] = _one_filter(options.capture_filter, options.words)
    destination = live_destination_of(options.savefile)
    is_shown = options.print or _is_for_a_person(options, arguments)
    goes_to_programs = destination is not None or options.serve is not None
    is_in_file = options.savefile is not None and destination is None and not goes_nowhere(options.savefile)
    if is_shown or isinstance(destination, DescriptorDestination):
        options.print_object = note_json
    if options.with_ssh and not goes_to_programs and not (is_shown and options.savefile is None):
        raise InvalidArgument("only what goes to a program as it comes leaves it out", argument="with_ssh")
    if is_for_people(options) and not is_shown:
        others = "leave them out" if goes_to_programs else "leave out -w"
        raise InvalidArgument(f"{FOR_PEOPLE} say how packets are shown: {others}, or give --print")
    if goes_to_programs or is_shown or (options.savefile is not None and not is_in_file):
        from capd_client.cli import live  # noqa: PLC0415  # numpy takes a while, which others need not

        arguments = _live_arguments(arguments, options, is_in_file=is_in_file)
        return live.run(options, arguments, destination, is_shown=is_shown)
    capture = CaptureSession(socket_path=options.socket, **arguments)
    if not options.detach:
        end_by(capture.stop, signal.SIGINT)  # also while it starts
    output = StandardOutput("the capture")
    with capture:
        if not options.interfaces and not options.json:
            output.show(f"Interface: {', '.join(capture.interfaces)}", flush=True)
        if options.detach:
            return _leave_running(capture, output, options.json)
        if any(arguments.get(each.name) is not None for each in ARGUMENTS if each.part == "recorder"):
            _snapshot_on_signal(capture)
        messages = _messages(capture, output, options.json)
        try:
            follow(capture, messages)
        except KeyboardInterrupt:  # the second Ctrl-C: no more patience
            capture.abandon()
            messages.close()
            complain("not waited for: capd completes the files by itself")
            raise
        finally:
            messages.close()
        return status_of(capture, output)


def _messages(capture: CaptureSession, output: StandardOutput, as_json: bool) -> Messages:
    return Json(capture, output.show_json) if as_json else Text(capture, output.show)


def _named(interfaces: Sequence[str], socket_path: str | None, netns: str | None) -> list[str]:
    """Return names of interfaces, of which some are given by their numbers, or without a prefix.

    Raises:
        InvalidArgument: there is none of that number.
    """
    if not any(each.isascii() and each.isdecimal() for each in interfaces):
        return with_extcap(interfaces)
    listed = list_interfaces(socket_path=socket_path, netns=netns)
    names, by_number = {each.name for each in listed}, {str(each.number): each.name for each in listed}
    found = [each if each in names else by_number.get(each.lstrip("0"), each) for each in interfaces]
    for given, name in zip(interfaces, found, strict=True):
        if given.isascii() and given.isdecimal() and name not in names:
            text = f"there is no interface {given}: 'capctl interfaces' shows their numbers"
            raise InvalidArgument(text, argument="interfaces")
    return with_extcap(found)


def _show_linktypes(options: argparse.Namespace) -> int:
    """Show the link-layer types of the interfaces that are named.

    Raises:
        InvalidArgument: none is.
    """
    if not options.interfaces:
        raise InvalidArgument("-L shows the link-layer types of an interface: name it with -i", argument="interfaces")
    options.monitor_mode = bool(options.monitor_mode)
    for each in options.interfaces:
        options.interface = each
        show_linktypes(options)
    return 0


def _is_for_a_person(options: argparse.Namespace, arguments: CaptureArguments) -> bool:
    """Whether packets are shown since nothing says that they are written."""
    given: Mapping[str, object] = cast(Mapping[str, object], arguments)
    return options.savefile is None and options.serve is None and not any(given.get(name) for name in OF_FILES)


def _live_arguments(arguments: CaptureArguments, options: argparse.Namespace, *, is_in_file: bool) -> CaptureArguments:
    """Return the arguments of a capture whose packets are followed as they come.

    Args:
        arguments: as they were given.
        options: what was typed.
        is_in_file: they are in a file, or ring, as well.

    Raises:
        InvalidArgument: one of them is about files, and there are none; or the capture is a recorder, or detached.
    """
    given: Mapping[str, object] = cast(Mapping[str, object], arguments)
    for name in sorted(NEVER_LIVE if is_in_file else OF_FILES):
        if given.get(name):
            if is_in_file:
                other = "--print" if options.serve is None else "--serve"
                text = f"{name} cannot go together with {other}: leave out one of the two"
            else:
                text = f"{name} is about files on a disk, and no file is written: leave it out"
                if name not in NEVER_LIVE:
                    text += ", or add -w FILE" if options.savefile is None else ", or name a file with -w"
            raise InvalidArgument(text, argument=name)
    if is_in_file:
        return cast(CaptureArguments, {**given, "pass_files": True})
    return cast(CaptureArguments, {**given, "savefile": None, "in_memory": True})


def _one_filter(option: str | None, words: Sequence[str]) -> str:
    """Return the filter that stands behind the options, as tcpdump has it.

    Raises:
        InvalidArgument: there is one in an option, too.
    """
    if option:
        raise InvalidArgument("there are two filters: leave out -f, or the words behind the options", argument="filter")
    return " ".join(words)


def _leave_running(capture: CaptureSession, output: StandardOutput, as_json: bool) -> int:
    """Tell how to find a capture again that runs."""
    event = capture.next_event()
    if as_json:
        Json(capture, output.show_json).show(event)
        return status_of(capture, output)
    if isinstance(event, Recording):
        output.show(recording_line(event))
    elif isinstance(event, FileOpened):
        output.show(f"File: {event.name}")
    if capture.is_waiting:
        complain(waiting_line(capture))
    name = capture.name
    output.show(f"The capture {name} goes on as number {capture.capture_id}: 'capctl stop {name}' ends it.", flush=True)
    return status_of(capture, output)


@until_told
def attach(options: argparse.Namespace) -> int:
    """Show the events of a capture that runs, until its end or Ctrl-C."""
    with CaptureSession.attach(options.capture, socket_path=options.socket) as capture:
        output = StandardOutput(None)
        messages = _messages(capture, output, options.json)
        try:
            follow(capture, messages)
        finally:
            messages.close()
        return status_of(capture, output)


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


#: What is also a word, and means the argument only where a sentence begins with it.
_WORDS = ("interfaces", "promiscuous", "direction", "savefile", "name", "detach")
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


def option_meant(argument: str, words: Sequence[str]) -> str | None:
    """Return the option that a message about an argument is about: of one with keys alone, if another key was typed."""
    found = option_for(argument, words)
    for option in BY_NAME[argument].options if argument in BY_NAME else ():
        if option.key and _typed(option, words) is None:
            return _typed(option._replace(key=""), words) or found
    return found


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
