"""What a capture cannot be asked for, and the errors: a table for those who refuse it.

What is wrong whatever the machine, the client refuses before it asks anybody; the daemon refuses it too, since its
clients may be anybody's. What depends on the machine, or on the user, only the daemon can refuse.
"""

import dataclasses
import math
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capd_client import (
    BadFilterError,
    CaptureError,
    CaptureInterface,
    DestinationError,
    InterfaceError,
    InvalidArgument,
    NotPermitted,
    UnsupportedError,
)
from capd_client.request.options import CaptureArguments
from capd_protocol.arguments import BY_NAME, MAX_FILTER_BYTES, MAX_INTERFACES, RANGES
from capd_protocol.messages import FailureCode
from tests.support.attack import User

#: Up; down; and up, on its own.
UP, DOWN, OTHER = "rxbad", "rxdown", "rxother"
MIB = 1024 * 1024
HUGE = 10**400
#: Group 1 is called "daemon" everywhere.
MEMBER, STRANGER = User(12345, 12345, (1,)), User(12346, 12346)


@dataclass
class Bad:
    """Arguments and what is expected of them.

    Attributes:
        kind: exactly this exception.
        words: parts of its text.
        argument: the argument that it names, in its attributes.
        interface: the interface that it names there.
        attributes: further ones of it or of its failure.
        user: the client's, if it is not root.
    """

    arguments: Mapping[str, Any]
    kind: type[CaptureError]
    words: tuple[str, ...]
    argument: str | None = None
    interface: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    user: User | None = None


def _invalid(argument: str, *words: str, **arguments: Any) -> Bad:
    return Bad(arguments, InvalidArgument, (argument, *words), argument)


def _bad_name(name: str, *words: str) -> Bad:
    return Bad({"interfaces": name}, InvalidArgument, words or ("no interface name",), "interfaces")


def _no_interface(name: str) -> Bad:
    words = ("no interface", name)
    return Bad(
        {"interfaces": name},
        InterfaceError,
        words,
        "interfaces",
        name,
        attributes={"code": FailureCode.NO_SUCH_INTERFACE},
    )


def _bad_filter(text: str, position: int | None, *words: str) -> Bad:
    return Bad(
        {"capture_filter": text},
        BadFilterError,
        ("capture filter", *words),
        "capture_filter",
        UP,
        attributes={"interface_index": 0, "position": position},
    )


def _no_destination(savefile: object, *words: str, **more: Any) -> Bad:
    return Bad({"savefile": savefile, **more}, DestinationError, words)


class _BytesPath:
    def __fspath__(self) -> bytes:
        return b"x.pcapng"


INTERFACES: dict[str, Bad] = {
    "unknown": _no_interface("nosuch0"),
    "deleted": _no_interface("rxgone"),
    "as long as can be": _no_interface("a" * 15),
    "not ASCII": _no_interface("träger"),
    "an option": _no_interface("-n"),
    "a format": _no_interface("%s%n"),
    "down": Bad(
        {"interfaces": DOWN},
        InterfaceError,
        (DOWN, "down", "ip link set"),
        "interfaces",
        DOWN,
        attributes={"code": FailureCode.INTERFACE_DOWN},
    ),
    "empty": _bad_name("", "interfaces"),
    "too long": _bad_name("a" * 16, "a" * 16, "15 bytes"),
    "too long in bytes": _bad_name("ä" * 8, "15 bytes"),
    "too long a pattern": _bad_name("*" * 65, "64 bytes"),
    "a pattern with a colon": _bad_name("rx:*"),
    "far too long": _bad_name("a" * 100_000),
    "a dot": _bad_name("."),
    "two dots": _bad_name(".."),
    "a colon": _bad_name("lo:1"),
    "a space": _bad_name("l o"),
    "a newline": _bad_name("lo\n"),
    "a NUL": _bad_name("lo\0"),
    "an escape": _bad_name("\x1b[2Jlo"),
    "right to left": _bad_name("a\u202eb"),
    "a byte that is no UTF-8": _bad_name("lo\udcff"),
    "half a surrogate pair": _bad_name("lo\ud800"),
    "nothing among names": Bad({"interfaces": [UP, ""]}, InvalidArgument, ("interfaces",), "interfaces"),
    "a number": Bad({"interfaces": 5}, InvalidArgument, ("interfaces", "5"), "interfaces"),
    "a number among names": Bad({"interfaces": [UP, 5]}, InvalidArgument, ("interfaces", "5"), "interfaces"),
    "bytes": Bad({"interfaces": [UP.encode()]}, InvalidArgument, ("interfaces",), "interfaces"),
    "a name that is a number": Bad(
        {"interfaces": CaptureInterface(name=5)},  # type: ignore[arg-type]
        InvalidArgument,
        ("interfaces", "5"),
        "interfaces",
    ),
    "twice": Bad({"interfaces": [UP, UP]}, InvalidArgument, (UP, "twice"), "interfaces"),
    "twice, differently": Bad(
        {"interfaces": [UP, CaptureInterface(name=UP, snaplen=64)]}, InvalidArgument, (UP, "twice"), "interfaces"
    ),
    "too many": Bad(
        {"interfaces": [f"if{number}" for number in range(MAX_INTERFACES + 1)]},
        InvalidArgument,
        (str(MAX_INTERFACES + 1), str(MAX_INTERFACES)),
        "interfaces",
    ),
    "the second unknown": Bad(
        {"interfaces": [UP, "nosuch0"]}, InterfaceError, ("no interface", "nosuch0"), "interfaces", "nosuch0"
    ),
}

#: libpcap makes 12,000 instructions of it; the kernel takes 4096.
_TOO_MANY_INSTRUCTIONS = "+".join(f"ip[{at % 99}]" for at in range(2300)) + "=1"

FILTERS: dict[str, Bad] = {
    "a word too many": _bad_filter("udp and and tcp", 8, "(at character 9)", "syntax error"),
    "a word missing": _bad_filter("udp port", 8, "(at character 9)"),
    "an open bracket": _bad_filter("(udp or tcp", 11),
    "a closed bracket": _bad_filter("udp or tcp)", 10),
    "no such port": _bad_filter("tcp port 99999", 9, "99999"),
    "no such protocol": _bad_filter("ip proto nosuchprotocol", 9, "nosuchprotocol"),
    "a host name": _bad_filter("udp and host www.example.com", 13, "www.example.com", "address"),
    "a bare name": _bad_filter("localhost", 0, "localhost", "address"),
    "for another link": _bad_filter("type mgt", 5, "802.11"),
    "too long for the kernel": _bad_filter(_TOO_MANY_INSTRUCTIONS, None, "4096"),
    "too long": Bad(
        {"capture_filter": "u" * (MAX_FILTER_BYTES + 1)},
        InvalidArgument,
        ("filter", str(MAX_FILTER_BYTES)),
        "capture_filter",
    ),
    "not ASCII": Bad({"capture_filter": "host ä"}, InvalidArgument, ("filter", "ASCII"), "capture_filter"),
    "a NUL": Bad({"capture_filter": "udp\0"}, InvalidArgument, ("filter", "NUL"), "capture_filter"),
    "half a surrogate pair": Bad({"capture_filter": "\ud800"}, InvalidArgument, ("filter", "ASCII"), "capture_filter"),
    "wrong on the second interface": Bad(
        {
            "interfaces": [CaptureInterface(name=UP, capture_filter="udp"), CaptureInterface(name=OTHER)],
            "capture_filter": "udp nonsense",
        },
        BadFilterError,
        ("capture filter",),
        "capture_filter",
        OTHER,
        attributes={"interface_index": 1, "position": 4},
    ),
}

#: Numbers beyond those in RANGES.
_MORE_NUMBERS: dict[str, tuple[int, ...]] = {"max_buffered_bytes": (0, -1, 2 * 1024 * MIB, HUGE)}
_WITH = {
    "ringbuffer_files": {"ringbuffer_packets": 1},
    "ringbuffer_total_filesize": {"ringbuffer_packets": 1},
    "ringbuffer_age": {"ringbuffer_packets": 1},
    "ringbuffer_free_space": {"ringbuffer_packets": 1},
    "autostop_files": {"ringbuffer_packets": 1},
    "recorder_after": {"recorder_memory": 4},
    "recorder_trigger_rate": {"recorder_memory": 4},
    "recorder_cool_down": {"recorder_memory": 4},
}


def _numbers() -> dict[str, Bad]:
    found: dict[str, Bad] = {}
    for name, (least, greatest, _) in RANGES.items():
        if name not in CaptureArguments.__annotations__:
            continue
        values: list[float] = [0, -1, least - 1, greatest + 1, HUGE, -HUGE]
        if name.endswith(("duration", "interval", "age")):
            values += [math.nan, math.inf, -math.inf, 5e-324]
        for value in dict.fromkeys(values):
            if least <= value <= greatest or (value == 0 and BY_NAME[name].unset_by_zero):
                continue
            shown = "-" * (value < 0) + "HUGE" if abs(value) == HUGE else str(value)
            words = (name,) if abs(value) == HUGE else (name, shown)
            found[f"{name}={shown}"] = Bad({name: value, **_WITH.get(name, {})}, InvalidArgument, words, name)
    for name, more in _MORE_NUMBERS.items():
        for value in more:
            shown = "HUGE" if value == HUGE else str(value)
            found[f"{name}={shown}"] = Bad({name: value}, InvalidArgument, (), None)
    for name, one in {
        "snaplen": CaptureInterface(name=UP, snaplen=-1),
        "kernel_buffer_size": CaptureInterface(name=UP, kernel_buffer_size=0),
    }.items():
        value = getattr(one, name)
        found[f"{name}={value}, of one interface"] = Bad({"interfaces": one}, InvalidArgument, (name, str(value)), name)
    return found


CONTRADICTIONS: dict[str, Bad] = {
    "a ring that never switches": _invalid("ringbuffer_files", "switch", ringbuffer_files=5),
    "a ring without a name": Bad(
        {"ringbuffer_packets": 5, "savefile": None}, InvalidArgument, ("ring", "savefile"), "savefile"
    ),
    "a ring of less than two files": _invalid(
        "ringbuffer_total_filesize", "first file", ringbuffer_filesize=5, ringbuffer_total_filesize=5
    ),
    "files without a ring": _invalid("autostop_files", "ring", autostop_files=5),
    "one file's size in a ring": _invalid("autostop_filesize", "ring", autostop_filesize=5, ringbuffer_packets=5),
    "two formats": _invalid("use_libpcap", "use_pcapng", use_libpcap=True, use_pcapng=True),
    "no format": _invalid("use_libpcap", "use_pcapng", use_libpcap=False, use_pcapng=False),
    "pcap of two interfaces": Bad(
        {"use_libpcap": True, "interfaces": [UP, OTHER]}, InvalidArgument, ("pcap", "interface"), "use_libpcap"
    ),
    "pcap of all": Bad(
        {"use_libpcap": True, "interfaces": "any"}, InvalidArgument, ("pcap", "interface"), "use_libpcap"
    ),
    "pcap of what is not there yet": Bad(
        {"use_libpcap": True, "interfaces": "nosuch0", "wait_for_interfaces": True},
        InvalidArgument,
        ("pcap", "wait_for_interfaces"),
        "wait_for_interfaces",
    ),
    "two sizes of the ring": _invalid("max_buffered_bytes", "same", max_buffered_bytes=MIB, kernel_buffer_size=1),
    "what has no effect": _invalid("max_buffered_packets", "bytes", max_buffered_packets=5),
    "what has no effect, 0": _invalid("max_buffered_packets", "bytes", max_buffered_packets=0),
    "threads": _invalid("separate_threads", "one process", separate_threads=True),
    "an argument that there is not": _invalid("interface", interface=UP),
}

WRONG_TYPES: dict[str, Bad] = {
    f"{name}={value!r}": _invalid(name, repr(value), **{name: value})
    for name, value in {
        "capture_filter": 5,
        "snaplen": "sixty",
        "promiscuous": "no",
        "monitor_mode": "1",
        "kernel_buffer_size": 1.5,
        "link_layer_type": 1,
        "wifi_channel": 2412,
        "max_packet_count": True,
        "autostop_duration": "5 s",
        "autostop_filesize": 1.5,
        "autostop_files": [1],
        "savefile": 5,
        "group_access": "0640",
        "ringbuffer_duration": False,
        "ringbuffer_filesize": "1k",
        "ringbuffer_packets": 1.1,
        "ringbuffer_files": {},
        "ringbuffer_interval": "1s",
        "ringbuffer_total_filesize": 0.1,
        "ringbuffer_age": True,
        "ringbuffer_free_space": "-1",
        "use_pcapng": "yes",
        "use_libpcap": "1",
        "max_buffered_packets": "five",
        "max_buffered_bytes": 5.5,
        "separate_threads": "1",
        "wait_for_interfaces": "yes",
        "update_interval": "fast",
    }.items()
}

RADIO: dict[str, Bad] = {
    "a type that nobody knows": Bad(
        {"link_layer_type": "NOSUCH"}, InvalidArgument, ("NOSUCH", "EN10MB"), "link_layer_type"
    ),
    "a type that it has not": Bad(
        {"link_layer_type": "IEEE802_11_RADIO"},
        UnsupportedError,
        (UP, "IEEE802_11_RADIO", "EN10MB"),
        "link_layer_type",
        UP,
    ),
    "monitor mode": Bad({"monitor_mode": True}, UnsupportedError, (UP, "not a wireless", "monitor mode"), None, UP),
    "a channel": Bad({"wifi_channel": "2412"}, UnsupportedError, (UP, "not a wireless", "channel"), None, UP),
    "monitor mode of the second": Bad(
        {"interfaces": [UP, CaptureInterface(name=OTHER, monitor_mode=True)]},
        UnsupportedError,
        (OTHER, "not a wireless"),
        None,
        OTHER,
    ),
    **{
        f"channel {channel!r}": _invalid("wifi_channel", wifi_channel=channel)
        for channel in ("", "x", "0", "-2412", "99999", "2412 MHz", "2412,HT80", "²412", "2412,HT40+,", "1e3")
    },
}

PERMISSIONS: dict[str, Bad] = {
    "no member": Bad({}, NotPermitted, (str(STRANGER.user_id), "group daemon"), user=STRANGER),
    "no member, and more": Bad(
        {"interfaces": "nosuch0", "capture_filter": "nonsense"}, NotPermitted, ("group daemon",), user=STRANGER
    ),
}

#: Paths are below the test's directory, where there are: a file, a directory "d", and what its name says.
DESTINATIONS: dict[str, Bad] = {
    "a directory": _no_destination("d", "is a directory"),
    "no such directory": _no_destination("nosuch/x.pcapng", "nosuch", "No such file"),
    "a file as directory": _no_destination("file/x.pcapng", "file", "Not a directory"),
    "a symbolic link": _no_destination("link", "link", "symbolic link"),
    "a socket": _no_destination("socket", "socket", "not a regular file"),
    "not writable": dataclasses.replace(_no_destination("d/x.pcapng", "x.pcapng", "Permission denied"), user=MEMBER),
    "not to be entered": dataclasses.replace(
        _no_destination("private/x.pcapng", "x.pcapng", "Permission denied"), user=MEMBER
    ),
    "a directory, of a name with a newline": _no_destination("new\nline", "new"),
    "a directory's name": Bad({"savefile": "d/"}, InvalidArgument, ("d/", "directory"), "savefile"),
    "no name": Bad({"savefile": ""}, InvalidArgument, ("savefile",), "savefile"),
    "a dot": Bad({"savefile": "."}, InvalidArgument, ("'.'",), "savefile"),
    "two dots": Bad({"savefile": "d/.."}, InvalidArgument, ("'..'",), "savefile"),
    "a NUL": Bad({"savefile": "a\0b"}, InvalidArgument, (r"'a\x00b'",), "savefile"),
    "a NUL in the directory": _no_destination("a\0b/x", "a", "null"),
    "too long": Bad({"savefile": "x" * 256}, InvalidArgument, ("256", "255"), "savefile"),
    "too long for a ring": Bad(
        {"savefile": "x" * 240, "ringbuffer_packets": 5}, InvalidArgument, ("240", "234"), "savefile"
    ),
    "no UTF-8": Bad({"savefile": os.fsdecode(b"a\xff")}, InvalidArgument, ("UTF-8",), "savefile"),
    "bytes": Bad({"savefile": b"x.pcapng"}, InvalidArgument, ("savefile", "a path"), "savefile"),
    "a path of bytes": Bad({"savefile": _BytesPath()}, InvalidArgument, ("savefile", "a path"), "savefile"),
}

TABLE = {
    f"{chapter}: {name}": bad
    for chapter, cases in {
        "interface": INTERFACES,
        "filter": FILTERS,
        "number": _numbers(),
        "contradiction": CONTRADICTIONS,
        "type": WRONG_TYPES,
        "link": RADIO,
        "permission": PERMISSIONS,
        "destination": DESTINATIONS,
    }.items()
    for name, bad in cases.items()
}

#: The directory cannot be entered, which the client finds out: it passes the directory, not a name.
_NOT_ENTERED = {
    f"destination: {name}" for name in ("no such directory", "a file as directory", "a NUL in the directory")
}
#: Refused before anybody is asked.
BY_CLIENT = {name: bad for name, bad in TABLE.items() if bad.kind is InvalidArgument or name in _NOT_ENTERED}
#: What only the daemon can tell.
BY_DAEMON = {name: bad for name, bad in TABLE.items() if name not in BY_CLIENT}


def prepare(directory: Path) -> None:
    """Make what the destinations of the table name."""
    (directory / "d").mkdir(mode=0o755)
    (directory / "private").mkdir(mode=0o700)
    (directory / "new\nline").mkdir()
    (directory / "file").write_bytes(b"precious")
    (directory / "link").symlink_to("file")
    with socket.socket(socket.AF_UNIX) as unused:
        unused.bind(str(directory / "socket"))


def arguments_of(bad: Bad, directory: Path) -> dict[str, Any]:
    """Return all arguments of a session, with its file in a directory."""
    arguments: dict[str, Any] = {"interfaces": UP, "savefile": "x.pcapng", **bad.arguments}
    if isinstance(arguments["savefile"], str) and arguments["savefile"]:
        arguments["savefile"] = os.path.join(directory, arguments["savefile"])  # noqa: PTH118  # keeps a slash
    return arguments


def check_told(bad: Bad, error: CaptureError, attributes: Mapping[str, Any]) -> None:
    """Check that an exception says what is wrong.

    Args:
        bad: what was asked for.
        error: what was raised.
        attributes: its own and its failure's.
    """
    text = str(error)
    assert type(error) is bad.kind, text
    for words in bad.words:
        assert words in text
    assert text
    assert text.isprintable(), repr(text)
    assert len(text) < 1000
    if bad.argument is not None:
        assert attributes["argument"] == bad.argument
    if bad.interface is not None:
        assert attributes["interface"] == bad.interface
    for attribute, value in bad.attributes.items():
        assert attributes[attribute] == value, attribute
