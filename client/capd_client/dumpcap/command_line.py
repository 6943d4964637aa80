"""dumpcap's command line, taken apart: of Wireshark 4.0, and of later versions. Pure.

Options of an interface that stand before the first ``-i`` are the defaults of those that follow; behind one they are
its own. Words of errors are dumpcap's.
"""

import enum
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NoReturn

from capd_client.completion import tree_of
from capd_protocol.arguments import RANGES
from capd_protocol.formats.compression import COMPRESS_TYPES
from capd_protocol.formats.linktypes import by_name

if TYPE_CHECKING:
    import click

PROGRAM = "capd-dumpcap"
_MAX_INT, _MAX_UNSIGNED = 2**31 - 1, 2**32 - 1
_SHORT = {
    **dict.fromkeys("dDghILMnpPqQStv", False),
    **dict.fromkeys("abBcCfFikNsywZ", True),
}
_LONG = {
    "interface": "i",
    "source": "i",
    "autostop": "a",
    "ring-buffer": "b",
    "buffer-size": "B",
    "list-interfaces": "D",
    "list-sources": "D",
    "help": "h",
    "monitor-mode": "I",
    "list-data-link-types": "L",
    "no-promiscuous-mode": "p",
    "snapshot-length": "s",
    "version": "v",
    "linktype": "y",
}
#: Which have no letter, and whether something stands behind them.
_WORDS = {
    "ifname": True,
    "ifdescr": True,
    "time-stamp-type": True,
    "list-time-stamp-types": False,
    "capture-comment": True,
    "temp-dir": True,
    "compress-type": True,
    "update-interval": True,
    "application-flavor": True,
    "no-optimize": False,
    "log-level": True,
    "log-fatal": True,
    "log-domains": True,
    "log-debug": True,
    "log-noisy": True,
    "log-file": True,
}
#: What later versions than 4.0 have, and 4.0 refuses.
_LATER = frozenset(("F", "Q", "update-interval", "application-flavor", "no-optimize"))
#: Behind which a file stands.
_PATHS = frozenset(("-w", "--temp-dir", "--log-file"))
_TIMESTAMP_TYPES = ("host", "host_lowprec", "host_hiprec", "adapter", "adapter_unsynced", "host_hiprec_unsynced")
_NUMBER = re.compile(r"\s*([+-]?)([0-9]+)")
_DECIMAL = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Action(enum.Enum):
    """What is done instead of capturing, once."""

    LIST_INTERFACES = "-D"
    LIST_LINK_TYPES = "-L"
    LIST_TIMESTAMP_TYPES = "--list-time-stamp-types"
    STATISTICS = "-S"
    PRINT_FILTER = "-d"
    SET_CHANNEL = "-k"
    VERSION = "-v"
    HELP = "-h"


class WrongUsage(Exception):
    """The command line is none. The text is dumpcap's.

    Attributes:
        shows_usage: how to use the program is shown as well.
        is_for_parents: a parent gets a message; it does not of what getopt(3) finds.
        status: of the program.
    """

    def __init__(
        self, text: str, *, shows_usage: bool = False, is_for_parents: bool | None = None, status: int = 1
    ) -> None:
        super().__init__(text)
        self.shows_usage = shows_usage
        self.is_for_parents = not shows_usage if is_for_parents is None else is_for_parents
        self.status = status


@dataclass(frozen=True, kw_only=True)
class InterfaceOptions:
    """One ``-i`` and what belongs to it; None, or empty: not said.

    Attributes:
        name: as it was typed: a name, a number, a path, ``-``.
        file_name: what files call it (``--ifname``).
        description: what files say of it (``--ifdescr``).
        capture_filter: ``-f``.
        snaplen_bytes: ``-s``; None: all of it.
        promiscuous: unless ``-p``.
        monitor_mode: ``-I``.
        buffer_size_mib: ``-B``.
        link_type: ``-y``.
        timestamp_type: ``--time-stamp-type``.
        optimizes: unless ``--no-optimize``.
    """

    name: str = ""
    file_name: str | None = None
    description: str | None = None
    capture_filter: str = ""
    snaplen_bytes: int | None = None
    promiscuous: bool = True
    monitor_mode: bool = False
    buffer_size_mib: int | None = None
    link_type: str | None = None
    timestamp_type: str | None = None
    optimizes: bool = True


@dataclass(kw_only=True)
class CommandLine:
    """What was asked for; None, or empty: not said.

    Attributes:
        actions: instead of a capture.
        interfaces: one for each ``-i``.
        default: options before the first one.
        parent_fd: where messages for a parent go (``-Z``); None: there is none.
        is_later: it is that of a version later than 4.0.
        machine_readable: ``-M``.
        channel: of ``-k``.
    """

    actions: list[Action] = field(default_factory=list[Action])
    interfaces: list[InterfaceOptions] = field(default_factory=list[InterfaceOptions])
    default: InterfaceOptions = field(default_factory=InterfaceOptions)
    parent_fd: int | None = None
    is_later: bool = False
    machine_readable: bool = False
    channel: str | None = None

    savefile: str | None = None
    file_format: str = "pcapng"
    group_access: bool = False
    comments: list[str] = field(default_factory=list[str])
    temporary_directory: str | None = None
    compression: str = "none"

    packets: int | None = None
    stop_duration_s: float | None = None
    stop_files: int | None = None
    #: Of ``-a`` and ``-b`` alike.
    filesize_kb: int | None = None

    has_many_files: bool = False
    ring_duration_s: float | None = None
    ring_interval_s: int | None = None
    ring_packets: int | None = None
    ring_files: int | None = None
    print_name: str | None = None
    name_time_number: int | None = None

    quiet: bool = False
    #: No complaint is shown that is no error (``-Q``).
    errors_only: bool = False
    update_interval_ms: int | None = None

    @property
    def is_machine_readable(self) -> bool:
        """Whether listings are for a program."""
        return self.machine_readable or self.parent_fd is not None


def parent_of(words: Sequence[str]) -> int | None:
    """Return the descriptor of a parent, which is looked for before anything else, wherever it stands; None: none.

    In 4.0, whatever stands behind ``-Z`` means standard error; later, ``none`` does, and a number is a descriptor.
    """
    for word, following in zip(words, (*words[1:], ""), strict=False):
        if word.startswith("-Z"):
            value = word[2:] or following
            return int(value) if value.isascii() and value.isdecimal() and int(value) > 0 else 2
    return None


def completion_tree() -> "click.Command":
    """Return all that may be typed, for shells."""
    letters = {f"-{letter}": has_value for letter, has_value in _SHORT.items()}
    same = {f"--{name}": _SHORT[letter] for name, letter in _LONG.items()}
    others = {f"--{name}": has_value for name, has_value in _WORDS.items()}
    return tree_of(PROGRAM, {**letters, **same, **others}, _PATHS)


def parse(words: Sequence[str]) -> CommandLine:
    """Take a command line apart.

    Raises:
        WrongUsage: it is none.
    """
    line = CommandLine(parent_fd=parent_of(words))
    line.is_later = line.parent_fd not in (None, 2)
    rest: list[str] = []
    for name, value in _split(words, rest):
        line.is_later |= name in _LATER
        _TAKEN_BY[name](line, value)
    if len(rest) > 1:  # dumpcap says nothing of the first one
        raise WrongUsage(f"Invalid argument: {rest[1]}", shows_usage=True, is_for_parents=True)
    _check(line)
    return line


def _split(words: Sequence[str], rest: list[str]) -> Iterator[tuple[str, str]]:
    """Yield options with their values, one after another, as getopt_long(3) does; all other words are added to rest."""
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            rest += left
            return
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            yield _long(name, value if equals else None, left)
        elif word.startswith("-") and len(word) > 1:
            yield from _letters(word[1:], left)
        else:
            rest.append(word)


def _long(name: str, value: str | None, left: list[str]) -> tuple[str, str]:
    known = {**{each: _SHORT[letter] for each, letter in _LONG.items()}, **_WORDS}
    found = [name] if name in known else [each for each in known if each.startswith(name) and name]
    if len({_LONG.get(each, each) for each in found}) != 1:
        raise WrongUsage(f"unrecognized option: {name}", shows_usage=True)
    whole = found[0]
    if known[whole] and value is None:
        if not left:
            raise WrongUsage(f"option requires an argument: {whole}", shows_usage=True)
        value = left.pop(0)
    elif not known[whole] and value is not None:
        raise WrongUsage(f"option doesn't take an argument: {whole}", shows_usage=True)
    return _LONG.get(whole, whole), value or ""


def _letters(letters: str, left: list[str]) -> Iterator[tuple[str, str]]:
    for at, letter in enumerate(letters):
        if letter not in _SHORT:
            raise WrongUsage(f"unrecognized option: {letter}", shows_usage=True)
        if _SHORT[letter]:
            value = letters[at + 1 :]
            if not value:
                if not left:
                    raise WrongUsage(f"option requires an argument: {letter}", shows_usage=True)
                value = left.pop(0)
            yield letter, value
            return
        yield letter, ""


# Values ---------------------------------------------------------------------------------------------------------------


def _whole(text: str, what: str, greatest: int = _MAX_INT) -> int:
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise WrongUsage(f'The specified {what} "{text}" isn\'t a decimal number')
    number = int(found[1] + found[2])
    if number < 0:
        raise WrongUsage(f'The specified {what} "{text}" is a negative number')
    if number > greatest:
        raise WrongUsage(f'The specified {what} "{text}" is too large (greater than {greatest})')
    return number


def _positive(text: str, what: str, greatest: int = _MAX_INT) -> int:
    number = _whole(text, what, greatest)
    if not number:
        raise WrongUsage(f"The specified {what} is zero")
    return number


def _seconds(text: str, what: str) -> float:
    if _DECIMAL.fullmatch(text) is None:
        raise WrongUsage(f'The specified {what} "{text}" isn\'t a floating point number')
    number = float(text)
    if number < 0:
        raise WrongUsage(f'The specified {what} "{text}" is a negative number')
    return number


# Options --------------------------------------------------------------------------------------------------------------


def _of_interface(**changes: object) -> Callable[[CommandLine, str], None]:
    """Return what sets options of the last interface, or the defaults. A callable makes the value of what was typed."""

    def take(line: CommandLine, value: str) -> None:
        made = {name: change(value) if callable(change) else change for name, change in changes.items()}
        if line.interfaces:
            line.interfaces[-1] = replace(line.interfaces[-1], **made)  # type: ignore[arg-type]
        else:
            line.default = replace(line.default, **made)  # type: ignore[arg-type]

    return take


def _of_all(**changes: object) -> Callable[[CommandLine, str], None]:
    """Return what sets options of the whole capture."""

    def take(line: CommandLine, value: str) -> None:
        for name, change in changes.items():
            setattr(line, name, change(value) if callable(change) else change)

    return take


def _action(action: Action) -> Callable[[CommandLine, str], None]:
    def take(line: CommandLine, _value: str) -> None:
        if action not in line.actions:
            line.actions.append(action)

    return take


def _nothing(_line: CommandLine, _value: str) -> None:
    return


def _interface(line: CommandLine, value: str) -> None:
    line.interfaces.append(replace(line.default, name=value))


def _behind_an_interface(option: str, name: str) -> Callable[[CommandLine, str], None]:
    def take(line: CommandLine, value: str) -> None:
        if not line.interfaces:
            raise WrongUsage(f"{option} must be specified after a -i option")
        line.interfaces[-1] = replace(line.interfaces[-1], **{name: value})  # type: ignore[arg-type]

    return take


def _snaplen(text: str) -> int | None:
    return _whole(text, "snapshot length") or None


def _link_type(text: str) -> str:
    found = by_name(text.upper()) or by_name(text)
    if found is None:
        raise WrongUsage(f'The specified data link type "{text}" isn\'t valid')
    return found.name


def _timestamp_type(text: str) -> str:
    if text not in _TIMESTAMP_TYPES:
        raise WrongUsage(f"Invalid argument to option: --time-stamp-type={text}")
    return text


def _file_size(text: str, what: str) -> int:
    # More is as much as the most (ui/capture_opts.c).
    return min(_positive(text, what, _MAX_UNSIGNED), int(RANGES["autostop_filesize"].greatest))


def _autostop(line: CommandLine, text: str) -> None:
    key, _, value = text.partition(":")
    if not value:
        raise WrongUsage(f'Invalid or unknown -a flag "{text}"')
    match key:
        case "duration":
            line.stop_duration_s = _seconds(value, "autostop duration")
        case "filesize":
            line.filesize_kb = _file_size(value, "autostop filesize")
        case "files":
            line.has_many_files = True
            line.stop_files = _positive(value, "autostop files")
        case "packets" | "events":
            line.packets = _positive(value, "packet write count")
        case _:
            raise WrongUsage(f'Invalid or unknown -a flag "{key}"')


def _ring_buffer(line: CommandLine, text: str) -> None:
    line.has_many_files = True
    key, _, value = text.partition(":")
    if not value:
        raise WrongUsage(f'Invalid or unknown -b arg "{text}"')
    match key:
        case "duration":
            line.ring_duration_s = _seconds(value, "ring buffer duration")
        case "filesize":
            line.filesize_kb = _file_size(value, "ring buffer filesize")
        case "files":
            line.ring_files = _positive(value, "number of ring buffer files")
        case "packets" | "events":
            line.ring_packets = _positive(value, "ring buffer packet count")
        case "interval":
            line.ring_interval_s = _positive(value, "ring buffer interval")
        case "printname":
            line.print_name = value
        case "nametimenum":
            line.name_time_number = _positive(value, "file name format")
        case _:
            raise WrongUsage(f'Invalid or unknown -b arg "{key}"')


def _file_type(text: str) -> str:
    if text not in ("pcap", "pcapng"):
        raise WrongUsage(
            f'"{text}" isn\'t a valid capture file type\n'
            "dumpcap: The available capture file types for the -F flag are:\n"
            "    pcap - Wireshark/tcpdump/... - pcap\n"
            "    pcapng - Wireshark/... - pcapng"
        )
    return text


def _compression(text: str) -> str:
    if text not in COMPRESS_TYPES:
        raise WrongUsage("parameter of --compress-type can be 'none' or 'gzip'")
    return text


def _buffer_size(text: str) -> int:
    return _positive(text, "buffer size")


def _packet_count(text: str) -> int:
    return _positive(text, "packet count")


def _update_interval(text: str) -> int:
    return _positive(text, "update interval")


def _ignored(_value: object) -> None:
    """Take a value that was checked, and changes nothing."""


def _channel(line: CommandLine, value: str) -> None:
    if line.channel is not None:
        raise WrongUsage("Only one -k flag may be specified")
    line.channel = value
    _action(Action.SET_CHANNEL)(line, value)


def _comment(line: CommandLine, value: str) -> None:
    line.comments.append(value)


#: What each option does to a command line.
_TAKEN_BY: dict[str, Callable[[CommandLine, str], None]] = {
    "i": _interface,
    "ifname": _behind_an_interface("--ifname", "file_name"),
    "ifdescr": _behind_an_interface("--ifdescr", "description"),
    "f": _of_interface(capture_filter=str),
    "s": _of_interface(snaplen_bytes=_snaplen),
    "p": _of_interface(promiscuous=False),
    "I": _of_interface(monitor_mode=True),
    "B": _of_interface(buffer_size_mib=_buffer_size),
    "y": _of_interface(link_type=_link_type),
    "time-stamp-type": _of_interface(timestamp_type=_timestamp_type),
    "no-optimize": _of_interface(optimizes=False),
    "a": _autostop,
    "b": _ring_buffer,
    "c": _of_all(packets=_packet_count),
    "w": _of_all(savefile=str),
    "g": _of_all(group_access=True),
    "n": _of_all(file_format="pcapng"),
    "P": _of_all(file_format="pcap"),
    "F": _of_all(file_format=_file_type),
    "capture-comment": _comment,
    "temp-dir": _of_all(temporary_directory=str),
    "compress-type": _of_all(compression=_compression),
    "update-interval": _of_all(update_interval_ms=_update_interval),
    "q": _of_all(quiet=True),
    "Q": _of_all(quiet=True, errors_only=True),
    "M": _of_all(machine_readable=True),
    "D": _action(Action.LIST_INTERFACES),
    "L": _action(Action.LIST_LINK_TYPES),
    "list-time-stamp-types": _action(Action.LIST_TIMESTAMP_TYPES),
    "S": _action(Action.STATISTICS),
    "d": _action(Action.PRINT_FILTER),
    "k": _channel,
    "v": _action(Action.VERSION),
    "h": _action(Action.HELP),
    # Packets go from the kernel to the file: nothing of this program's buffers any, in whatever thread.
    "t": _nothing,
    "N": lambda _, value: _ignored(_positive(value, "packet_limit")),
    "C": lambda _, value: _ignored(_positive(value, "byte_limit")),
    "application-flavor": _nothing,
    # A parent was looked for before.
    "Z": _nothing,
    **dict.fromkeys(("log-level", "log-fatal", "log-domains", "log-debug", "log-noisy", "log-file"), _nothing),
}


# What cannot go together ----------------------------------------------------------------------------------------------

_CAPABILITIES = {Action.LIST_LINK_TYPES, Action.LIST_TIMESTAMP_TYPES}
_TOGETHER = {*_CAPABILITIES, Action.LIST_INTERFACES, Action.STATISTICS}


def _refuse(text: str) -> NoReturn:
    raise WrongUsage(text)


def _check_supported(line: CommandLine) -> None:
    """Refuse what dumpcap does and capd does not: nothing is taken and ignored."""
    for each in (line.default, *line.interfaces):
        if each.timestamp_type not in (None, "host"):
            _refuse(f"--time-stamp-type {each.timestamp_type} is not supported by capd: the time is the host's")


def _check(line: CommandLine) -> None:
    if Action.HELP in line.actions or Action.VERSION in line.actions:
        return
    actions = set(line.actions)
    allowed = _TOGETHER if line.is_later else _CAPABILITIES
    if len(actions) > 1 and not actions <= allowed:
        _refuse("Only one of -D, -L, -d, -k or -S may be supplied.")
    if actions:
        if line.has_many_files:
            _refuse("Ring buffer requested, but a capture isn't being done.")
        return
    _check_supported(line)
    if line.comments and (line.has_many_files or line.file_format != "pcapng"):
        _refuse("Capture comments can only be set if we capture into a single pcapng file.")
    if line.has_many_files and line.ring_duration_s is not None and line.ring_interval_s is not None:
        _refuse("Ring buffer file duration and interval can't be used at the same time.")
