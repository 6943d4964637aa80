"""The command line of an extcap program, and all that can be set with it: one table. Pure.

Wireshark asks what can be set for an interface, shows that, and passes what was set to the capture. Its later versions
ask with options that earlier ones do not know, so those that are unknown here are passed over.
"""

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from capd_client.completion import tree_of
from capd_client.extcap.offers import Kind, Limits
from capd_client.extcap.sentences import sentence
from capd_protocol.arguments import BY_NAME, DIRECTIONS, RANGES

if TYPE_CHECKING:
    import click

    from capd_client.request.options import CaptureArguments

PROGRAM = "capd-extcap"
_OF_INTERFACES = frozenset((Kind.INTERFACE, Kind.HOST))


class Action(enum.Enum):
    """What is to be done."""

    LIST_INTERFACES = "--extcap-interfaces"
    LIST_LINK_TYPES = "--extcap-dlts"
    CONFIGURE = "--extcap-config"
    CAPTURE = "--capture"
    #: Wireshark asks for this when it has killed the program. Nothing of a capture outlasts its process.
    CLEAN_UP = "--extcap-cleanup-postkill"
    VERSION = "--version"
    HELP = "--help"


_ACTIONS = {**{each.value: each for each in Action}, "-v": Action.VERSION, "-h": Action.HELP}


class Setting(NamedTuple):
    """What can be set.

    Attributes:
        call: its option.
        type: of Wireshark's kinds of settings.
        display: what people read beside it.
        tooltip: more of that.
        kinds: of what is offered, what has it.
        values: which it can have, each with what people read; none: any of its type.
        default: what it is at first; None: nothing.
        range_of: the argument of a capture, or of a snapshot, whose range it has.
        placeholder: what stands where nothing is set.
        is_loaded: its values are asked for when its user wants to see them.
        of_generic_host: where the host is not known, it must be said.
    """

    call: str
    type: str
    display: str
    tooltip: str
    kinds: frozenset[Kind]
    values: tuple[tuple[str, str], ...] = ()
    default: str | None = None
    range_of: str | None = None
    placeholder: str | None = None
    is_loaded: bool = False
    of_generic_host: bool = False

    @property
    def has_value(self) -> bool:
        """Whether something stands behind its option."""
        return self.type != "boolflag"


HOST, REMOTE_INTERFACE = "--host", "--remote-interface"
SNAPLEN, NOT_PROMISCUOUS, DIRECTION, NETNS = "--snaplen", "--no-promiscuous", "--direction", "--netns"
BEGIN, AFTER, GO_ON = "--begin", "--after", "--go-on"
FROM_NOW, FROM_FILE = "now", "file"

SETTINGS = (
    Setting(
        HOST,
        "string",
        "Host",
        "Where capd captures: the user there must be let in without a password, and have capctl",
        frozenset((Kind.HOST,)),
        placeholder="ssh://user@host",
        of_generic_host=True,
    ),
    Setting(
        REMOTE_INTERFACE,
        "selector",
        "Interface there",
        "The host is asked which there are when you load them",
        frozenset((Kind.HOST,)),
        values=(("", "the first one that is up"), ("any", "all of them")),
        default="",
        is_loaded=True,
    ),
    Setting(
        SNAPLEN,
        "unsigned",
        "Bytes of each packet",
        "Of longer packets the beginning is captured",
        _OF_INTERFACES,
        range_of="snaplen",
    ),
    Setting(
        NOT_PROMISCUOUS,
        "boolflag",
        "Only packets for this host",
        "Leave the promiscuous mode of the interface alone",
        _OF_INTERFACES,
        default="false",
    ),
    Setting(
        DIRECTION,
        "selector",
        "Direction",
        "Only packets that come in, or go out",
        _OF_INTERFACES,
        values=tuple(zip(DIRECTIONS, ("in", "out", "both"), strict=True)),
        default=str(BY_NAME["direction"].default),
    ),
    Setting(
        NETNS,
        "string",
        "Network namespace",
        "Capture on the interface of this name there: a name of 'ip netns', the number of a process, or a path",
        _OF_INTERFACES,
        placeholder="the daemon's own",
    ),
    Setting(
        BEGIN,
        "selector",
        "Begin",
        "With which packets of the running capture",
        frozenset((Kind.CAPTURE,)),
        values=((FROM_NOW, "with those that come from now on"), (FROM_FILE, "with those of its current file")),
        default=FROM_NOW,
    ),
    Setting(
        AFTER,
        "double",
        "Seconds to wait",
        "The snapshot also has what comes within this time",
        frozenset((Kind.RECORDER,)),
        range_of="after",
        placeholder="as the recorder has it",
    ),
    Setting(
        GO_ON,
        "boolflag",
        "Go on",
        "Wait for further snapshots, and show these as well",
        frozenset((Kind.RECORDER,)),
        default="false",
    ),
)

#: What has a value, of Wireshark's own options, and what the field of ``Words`` is called that has it.
_WITH_VALUES = {
    "--extcap-interface": "interface",
    "--extcap-capture-filter": "capture_filter",
    "--extcap-reload-option": "reload",
    "--fifo": "fifo",
    "--extcap-control-in": "control_in",
    "--extcap-control-out": "control_out",
}
OPTIONS: Mapping[str, bool] = {
    **dict.fromkeys(_ACTIONS, False),
    **dict.fromkeys(_WITH_VALUES, True),
    **{each.call: each.has_value for each in SETTINGS},
}


#: Behind which a file stands.
_PATHS = frozenset(("--fifo", "--extcap-control-in", "--extcap-control-out"))


def completion_tree() -> "click.Command":
    """Return all that may be typed, for shells."""
    return tree_of(PROGRAM, OPTIONS, _PATHS)


@dataclass(kw_only=True)
class Words:
    """What was asked for; None: it was not said.

    Attributes:
        action: what is to be done; the first one that was named.
        interface: on which line of the list.
        capture_filter: the filter of the capture, or one to look at.
        reload: the setting whose values are wanted.
        fifo: where packets go.
        control_in: where the toolbar's messages come from.
        control_out: where messages to the toolbar go.
        settings: what was set, by options; empty for one that takes no value.
    """

    action: Action | None = None
    interface: str | None = None
    capture_filter: str | None = None
    reload: str | None = None
    fifo: str | None = None
    control_in: str | None = None
    control_out: str | None = None
    settings: dict[str, str] = field(default_factory=dict[str, str])


def parse(words: Sequence[str]) -> Words:
    """Take a command line apart."""
    found, left = Words(), list(reversed(words))
    while left:
        option, equals, value = left.pop().partition("=")
        if option not in OPTIONS:
            continue
        if OPTIONS[option] and not equals:
            if not left:
                break
            value = left.pop()
        if option in _ACTIONS:
            found.action = found.action or _ACTIONS[option]
        elif option in _WITH_VALUES:
            setattr(found, _WITH_VALUES[option], value)
        else:
            found.settings[option] = value
    return found


def settings_of(kind: Kind, *, is_generic: bool, limits: Limits) -> Iterator[Setting]:
    """Give what can be set, under the rules.

    Args:
        kind: of what is offered.
        is_generic: it is a host that a setting names.
        limits: of the rules.
    """
    for each in SETTINGS:
        is_forbidden = each.call == NOT_PROMISCUOUS and not limits.promiscuous  # then there is nothing to choose
        if kind in each.kinds and (is_generic or not each.of_generic_host) and not is_forbidden:
            yield each


def configuration_sentences(
    kind: Kind, *, is_generic: bool, limits: Limits, reload: str | None, loaded: Sequence[tuple[str, str]] = ()
) -> Iterator[str]:
    """Give what is said of all settings; or, of one whose values are wanted, these.

    Args:
        kind: of what is offered.
        is_generic: it is a host that a setting names.
        limits: of the rules.
        reload: the name of that one, with or without hyphens.
        loaded: what it can have beyond what it always can.
    """
    for number, each in enumerate(settings_of(kind, is_generic=is_generic, limits=limits)):
        if reload is None:
            yield _argument(number, each, limits)
        elif each.call.lstrip("-") != reload.lstrip("-"):
            continue
        for value, display in (*each.values, *loaded):
            yield sentence("value", arg=number, value=value, display=display, default=value == each.default)


def _argument(number: int, setting: Setting, limits: Limits) -> str:
    least_most, default = None, setting.default
    if setting.range_of is not None:
        least, most, _ = RANGES[setting.range_of]
        if setting.call == SNAPLEN:
            most = limits.snaplen_bytes
            default = str(most)
        least_most = f"{least},{most}"
    return sentence(
        "arg",
        number=number,
        call=setting.call,
        display=setting.display,
        tooltip=setting.tooltip,
        type=setting.type,
        range=least_most,
        default=default if not setting.values else None,
        placeholder=setting.placeholder,
        required=setting.of_generic_host or None,
        reload=setting.is_loaded or None,
    )


def arguments_of(interface: str | None, capture_filter: str | None, settings: Mapping[str, str]) -> "CaptureArguments":
    """Return the arguments of a capture whose packets are followed as they come.

    Args:
        interface: its name; None: the first one that is up.
        capture_filter: its filter.
        settings: what was set, by options.
    """
    arguments: dict[str, Any] = {
        "interfaces": interface or None,
        "capture_filter": capture_filter or None,
        "snaplen": settings.get(SNAPLEN) or None,
        # What is a wish there, is not more here: where policy forbids it, it is not.
        "promiscuous": False if NOT_PROMISCUOUS in settings else None,
        "direction": settings.get(DIRECTION) or None,
        "netns": settings.get(NETNS) or None,
        "in_memory": True,
    }
    return cast("CaptureArguments", {name: value for name, value in arguments.items() if value is not None})


def words_of(settings: Mapping[str, str], interface: str | None, capture_filter: str | None) -> list[str]:
    """Return the same capture as words of ``capctl``, which writes its packets to standard output.

    Args:
        settings: what was set, by options.
        interface: its name; None: the first one that is up.
        capture_filter: its filter.
    """
    words = ["capctl", "capture", "--json", "-w", "-"]
    for option, value in (
        ("-i", interface),
        ("-f", capture_filter),
        ("-s", settings.get(SNAPLEN)),
        ("-Q", settings.get(DIRECTION)),
        ("--netns", settings.get(NETNS)),
    ):
        words += [f"{option}{'=' if option.startswith('--') else ''}{value}"] if value else []
    return [*words, "-p"] if NOT_PROMISCUOUS in settings else words
