"""Arguments of a capture: a table that options, ranges and keys are made from, and which exclude each other.

Client and daemon ask the same function: the client so that its user learns at once, the daemon because it trusts
no client. Arguments are called by the names that ``CaptureSession`` gives them. The keys of the configuration and the
options of ``capctl capture`` are made from the same table; tests hold the documentation to it.
"""

import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from capd_protocol.formats.compression import COMPRESS_TYPES
from capd_protocol.formats.linktypes import by_name
from capd_protocol.messages import (
    DEFAULT_RECORDER_BYTES,
    MAX_SNAPLEN_BYTES,
    Conditions,
    InterfaceRequest,
    Recorder,
    StartCapture,
)
from capd_protocol.targets import DEFAULT, CookedAny, Pattern, Stream, Target, target_of, targets_of

MAX_INTERFACES = 64
#: IFNAMSIZ, less its NUL (linux/if.h).
MAX_INTERFACE_NAME_BYTES = 15
#: Chosen: ``[a-z]`` and the like for each byte of a name would be longer, and nobody writes that.
MAX_PATTERN_BYTES = 64
#: Of a stream: what was typed to open it, or the beginning of that. Chosen: most paths, and a line of a table.
MAX_STREAM_NAME_BYTES = 255
#: NAME_MAX (linux/limits.h); a ring adds ``_00001_20260131235959`` to the name.
MAX_FILE_NAME_BYTES = 255
RING_SUFFIX_BYTES = 21
#: Chosen: libpcap's own time to compile grows with it, and 4096 instructions are the kernel's limit anyway.
MAX_FILTER_BYTES = 16 * 1024
#: Of a capture: no number, no path, no option. Captures of the configuration have directories of these names.
_CAPTURE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
#: Of packets, as tcpdump calls them.
DIRECTIONS = ("in", "out", "inout")
#: dumpcap's RINGBUFFER_MAX_NUM_FILES.
MAX_RING_FILES = 100_000

#: Of all comments of a capture together. Chosen: some pages, which each file of a ring has.
MAX_COMMENTS_BYTES = 16 * 1024
#: What files call an interface, or say of it. Chosen: a sentence or two.
MAX_LABEL_BYTES = 512

_MAX_QUOTED_CHARACTERS = 40

_MIB = 1024 * 1024


class Range(NamedTuple):
    """The least and the greatest value that is possible, and what it counts."""

    least: float
    greatest: float
    unit: str


class ArgumentType(enum.Enum):
    """What an argument is, in words for who gave something else."""

    TEXT = "a text"
    WHOLE_NUMBER = "a whole number"
    SECONDS = "a number of seconds"
    YES_OR_NO = "True or False"
    PATH = "a path"
    NAMES = "names of interfaces"
    TEXTS = "a text, or several"
    NETNS = "a name of 'ip netns', the number of a process, or a path"


class Option(NamedTuple):
    """How an argument is given on the command line: by an option of its own, or by a key of one, ``-a files:10``.

    Attributes:
        letter: dumpcap's, if it has one.
        flag: the same as a word. One that begins with ``--no-`` says False.
        metavar: what stands for the value; empty where none is given.
        key: what stands before the value, with a colon between them.
    """

    letter: str
    flag: str
    metavar: str = ""
    key: str = ""

    @property
    def shown(self) -> str:
        """The shorter way to type it."""
        return f"{self.letter or self.flag} {self.key}".rstrip()


class ArgumentSpec(NamedTuple):
    """An argument of a capture.

    Attributes:
        name: as ``CaptureSession`` has it.
        type: of the value.
        place: the field of the request that it fills, ``part.field``, or one of the request itself. Empty: what it
            comes to there is not its own value.
        help: in a few words.
        range: of a number, with its unit.
        default: what holds where it is not given, if that is a value. Else see the documentation.
        unset_by_zero: 0 is the same as nothing, as in wirepy and in tcpdump.
        is_configured: it is a key of a capture in the configuration, under the same name.
        options: of ``capctl capture``.
    """

    name: str
    type: ArgumentType
    place: str
    help: str
    range: Range | None = None
    default: str | float | tuple[str, ...] | None = None
    unset_by_zero: bool = False
    is_configured: bool = False
    options: tuple[Option, ...] = ()

    @property
    def part(self) -> str:
        """The part of the request that it belongs to."""
        return self.place.partition(".")[0] if "." in self.place else ""

    @property
    def field(self) -> str:
        """The field there."""
        return self.place.rpartition(".")[2]


#: Those that have keys, and what all their keys have in common.
_AUTOSTOP = Option("-a", "--autostop")
_RING = Option("-b", "--ring-buffer")
_RECORD = Option("", "--record")
_TRIGGER = Option("", "--trigger")
KEYED_OPTIONS = {
    _AUTOSTOP.flag: "end the capture",
    _RING.flag: "write a ring of files",
    _RECORD.flag: "keep packets in memory until asked for them, by SIGUSR1 or 'capctl snapshot'",
    _TRIGGER.flag: "write what is kept so as well, by itself",
}


def _keyed(option: Option, key: str, metavar: str = "") -> tuple[Option]:
    return (option._replace(key=key, metavar=metavar),)


#: Ten years.
_LONGEST_S = 315_360_000
#: dumpcap's: 2 TB.
_LARGEST_KB = 2_000_000_000
_MOST = 2**63 - 1

_TEXT, _WHOLE, _SECONDS = ArgumentType.TEXT, ArgumentType.WHOLE_NUMBER, ArgumentType.SECONDS
_YES_OR_NO = ArgumentType.YES_OR_NO

#: Every argument of a capture, in the order of the documentation.
ARGUMENTS = (
    # What is captured, and how.
    ArgumentSpec(
        "interfaces",
        ArgumentType.NAMES,
        "",
        "capture on this: a name, a pattern such as 'veth*', or any; may be repeated (the first interface that is up)",
        options=(Option("-i", "--interface", "NAME"),),
    ),
    ArgumentSpec(
        "capture_filter",
        _TEXT,
        "interface.capture_filter",
        "only packets that match, see pcap-filter(7)",
        default="",
        is_configured=True,
        options=(Option("-f", "--filter", "TEXT"),),
    ),
    ArgumentSpec(
        "snaplen",
        _WHOLE,
        "interface.snaplen_bytes",
        "keep at most so much of each packet; 0: all of it",
        Range(1, MAX_SNAPLEN_BYTES, "bytes"),
        default=MAX_SNAPLEN_BYTES,
        unset_by_zero=True,
        is_configured=True,
        options=(Option("-s", "--snaplen", "BYTES"),),
    ),
    ArgumentSpec(
        "promiscuous",
        _YES_OR_NO,
        "interface.promiscuous",
        "leave the interface's promiscuous mode alone",
        default=True,
        is_configured=True,
        options=(Option("-p", "--no-promiscuous"),),
    ),
    ArgumentSpec(
        "monitor_mode",
        _YES_OR_NO,
        "interface.monitor_mode",
        "all that a wireless interface hears",
        default=False,
        options=(Option("-I", "--monitor-mode"),),
    ),
    ArgumentSpec(
        "direction",
        _TEXT,
        "interface.direction",
        "only what comes in, or goes out: in, out or inout",
        default="inout",
        is_configured=True,
        options=(Option("-Q", "--direction", "DIRECTION"),),
    ),
    ArgumentSpec(
        "kernel_buffer_size",
        _WHOLE,
        "interface.kernel_buffer_size_bytes",
        "ring of each interface",
        Range(1, 1024, "MiB"),
        is_configured=True,
        options=(Option("-B", "--kernel-buffer-size", "MIB"),),
    ),
    ArgumentSpec(
        "link_layer_type",
        _TEXT,
        "interface.link_layer_type",
        "such as EN10MB",
        is_configured=True,
        options=(Option("-y", "--link-layer-type", "TYPE"),),
    ),
    ArgumentSpec(
        "wifi_channel",
        _TEXT,
        "interface.wifi_channel",
        "tune a wireless interface",
        options=(Option("-k", "--wifi-channel", "MHZ[,TYPE]"),),
    ),
    # When it ends.
    ArgumentSpec(
        "max_packet_count",
        _WHOLE,
        "autostop.packets",
        "end after so many packets",
        Range(1, _MOST, "packets"),
        options=(Option("-c", "--count", "N"), *_keyed(_AUTOSTOP, "packets", "N")),
    ),
    ArgumentSpec(
        "autostop_duration",
        _SECONDS,
        "autostop.duration_s",
        "after this time",
        Range(0.001, _LONGEST_S, "seconds"),
        options=_keyed(_AUTOSTOP, "duration", "SECONDS"),
    ),
    ArgumentSpec(
        "autostop_filesize",
        _WHOLE,
        "autostop.filesize_kb",
        "when its only file has this size",
        Range(1, _LARGEST_KB, "kB"),
        options=_keyed(_AUTOSTOP, "filesize", "KB"),
    ),
    ArgumentSpec(
        "autostop_files",
        _WHOLE,
        "autostop.files",
        "after so many files of a ring",
        Range(1, 2**31 - 1, "files"),
        options=_keyed(_AUTOSTOP, "files", "N"),
    ),
    # Where it goes.
    ArgumentSpec(
        "savefile",
        ArgumentType.PATH,
        "",
        "file, or pattern of a ring's files (default: a temporary file)",
        options=(Option("-w", "--savefile", "PATH"),),
    ),
    ArgumentSpec(
        "group_access",
        _YES_OR_NO,
        "destination.group_access",
        "files may be read by their group",
        default=False,
        options=(Option("-g", "--group-access"),),
    ),
    ArgumentSpec(
        "ringbuffer_time_first",
        _YES_OR_NO,
        "destination.time_first",
        "in the names of a ring's files, the time stands before the number",
        default=False,
        options=(Option("", "--time-first"),),
    ),
    ArgumentSpec(
        "in_memory",
        _YES_OR_NO,
        "destination.unnamed",
        "keep the packets in memory only, for a program that reads them as they come",
        default=False,
    ),
    ArgumentSpec(
        "packet_flags",
        _YES_OR_NO,
        "packet_flags",
        "write with each packet whether it came in or went out, and to whom it was sent",
        default=False,
        is_configured=True,
        options=(Option("", "--packet-flags"),),
    ),
    ArgumentSpec(
        "comments",
        ArgumentType.TEXTS,
        "comments",
        "write this at the beginning of files, as a comment; may be repeated",
        default=(),
        is_configured=True,
        options=(Option("", "--comment", "TEXT"),),
    ),
    ArgumentSpec(
        "compress_type",
        _TEXT,
        "compress_type",
        "compress files: gzip, zstd or none",
        is_configured=True,
        options=(Option("", "--compress-type", "TYPE"),),
    ),
    # A ring: when it switches to the next file, and what it keeps.
    ArgumentSpec(
        "ringbuffer_duration",
        _SECONDS,
        "ring.duration_s",
        "next file after this time",
        Range(0.001, _LONGEST_S, "seconds"),
        is_configured=True,
        options=_keyed(_RING, "duration", "SECONDS"),
    ),
    ArgumentSpec(
        "ringbuffer_filesize",
        _WHOLE,
        "ring.filesize_kb",
        "next file when one has this size",
        Range(1, _LARGEST_KB, "kB"),
        is_configured=True,
        options=_keyed(_RING, "filesize", "KB"),
    ),
    ArgumentSpec(
        "ringbuffer_packets",
        _WHOLE,
        "ring.packets",
        "next file after so many packets",
        Range(1, _MOST, "packets"),
        is_configured=True,
        options=_keyed(_RING, "packets", "N"),
    ),
    ArgumentSpec(
        "ringbuffer_interval",
        _SECONDS,
        "ring.interval_s",
        "next file at each multiple of the clock",
        Range(1, _LONGEST_S, "seconds"),
        is_configured=True,
        options=_keyed(_RING, "interval", "SECONDS"),
    ),
    ArgumentSpec(
        "ringbuffer_files",
        _WHOLE,
        "ring.files",
        "keep so many files",
        Range(1, MAX_RING_FILES, "files"),
        is_configured=True,
        options=_keyed(_RING, "files", "N"),
    ),
    ArgumentSpec(
        "ringbuffer_total_filesize",
        _WHOLE,
        "ring.total_kb",
        "keep so much in all of them",
        Range(1, 1000 * _LARGEST_KB, "kB"),
        is_configured=True,
        options=_keyed(_RING, "total", "KB"),
    ),
    ArgumentSpec(
        "ringbuffer_age",
        _SECONDS,
        "ring.age_s",
        "keep what is no older",
        Range(0.001, _LONGEST_S, "seconds"),
        is_configured=True,
        options=_keyed(_RING, "age", "SECONDS"),
    ),
    ArgumentSpec(
        "ringbuffer_free_space",
        _WHOLE,
        "ring.free_kb",
        "leave so much free on the disk",
        Range(1, 1000 * _LARGEST_KB, "kB"),
        is_configured=True,
        options=_keyed(_RING, "free", "KB"),
    ),
    # A recorder.
    ArgumentSpec(
        "recorder_duration",
        _SECONDS,
        "recorder.duration_s",
        "the last so many seconds",
        Range(0.1, 86_400, "seconds"),
        is_configured=True,
        options=_keyed(_RECORD, "duration", "SECONDS"),
    ),
    # Eight packets of the greatest size and a little more, to begin with.
    ArgumentSpec(
        "recorder_memory",
        _WHOLE,
        "recorder.memory_bytes",
        "what so much memory holds",
        Range(4, 65_536, "MiB"),
        default=DEFAULT_RECORDER_BYTES // _MIB,
        is_configured=True,
        options=_keyed(_RECORD, "memory", "MIB"),
    ),
    ArgumentSpec(
        "recorder_after",
        _SECONDS,
        "recorder.after_s",
        "and what comes within this time",
        Range(0, 3600, "seconds"),
        default=0.0,
        is_configured=True,
        options=_keyed(_RECORD, "after", "SECONDS"),
    ),
    ArgumentSpec(
        "recorder_trigger_filter",
        _TEXT,
        "recorder.trigger_filter",
        "at a packet that matches",
        default="",
        is_configured=True,
        options=_keyed(_TRIGGER, "filter", "TEXT"),
    ),
    ArgumentSpec(
        "recorder_trigger_rate",
        _WHOLE,
        "recorder.trigger_pps",
        "at so many packets within a second",
        Range(1, 2**31 - 1, "packets a second"),
        is_configured=True,
        options=_keyed(_TRIGGER, "rate", "N"),
    ),
    ArgumentSpec(
        "recorder_trigger_link_down",
        _YES_OR_NO,
        "recorder.trigger_link_down",
        "when an interface goes down",
        default=False,
        is_configured=True,
        options=_keyed(_TRIGGER, "link-down"),
    ),
    ArgumentSpec(
        "recorder_cool_down",
        _SECONDS,
        "recorder.cool_down_s",
        "no further snapshot for so long after one",
        Range(0.1, _LONGEST_S, "seconds"),
        is_configured=True,
        options=_keyed(_TRIGGER, "cool-down", "SECONDS"),
    ),
    # wirepy's two words for the format, and what is its alone.
    ArgumentSpec("use_pcapng", _YES_OR_NO, "", "write pcapng"),
    ArgumentSpec("use_libpcap", _YES_OR_NO, "", "write pcap instead of pcapng", options=(Option("-P", "--pcap"),)),
    ArgumentSpec("max_buffered_packets", _WHOLE, "", "has no effect, and is refused"),
    ArgumentSpec("max_buffered_bytes", _WHOLE, "", "the same as kernel_buffer_size, in bytes"),
    ArgumentSpec("separate_threads", _YES_OR_NO, "", "has no effect, and is refused"),
    # How it is with its clients.
    ArgumentSpec(
        "update_interval",
        _SECONDS,
        "update_interval_s",
        "how soon packets are in the file (0.1)",
        Range(0.005, 60, "seconds"),
        default=0.1,
        is_configured=True,
        options=(Option("", "--update-interval", "SECONDS"),),
    ),
    ArgumentSpec(
        "wait_for_interfaces",
        _YES_OR_NO,
        "wait_for_interfaces",
        "interfaces may come later, and come back",
        default=False,
        options=(Option("", "--wait"),),
    ),
    ArgumentSpec("pass_files", _YES_OR_NO, "pass_files", "have the files passed to the program", default=False),
    ArgumentSpec(
        "netns",
        ArgumentType.NETNS,
        "",
        "in another network namespace: its name, a process in it, or a path",
        options=(Option("", "--netns", "NETNS"),),
    ),
    ArgumentSpec(
        "name",
        _TEXT,
        "name",
        "what to call the capture, as 'capctl list' shows it",
        options=(Option("", "--name", "NAME"),),
    ),
    ArgumentSpec(
        "detach",
        _YES_OR_NO,
        "detached",
        "leave when it runs; the capture stays",
        default=False,
        options=(Option("", "--detach"),),
    ),
)
BY_NAME = {each.name: each for each in ARGUMENTS}
#: Those that fill a field of the request, by the part that it is in: looked through for each interface of each request.
_BY_PART = {
    part: tuple(each for each in ARGUMENTS if each.place and each.part == part)
    for part in {each.part for each in ARGUMENTS}
}

#: Each number that a client may send, those of other requests too.
RANGES = {
    **{each.name: each.range for each in ARGUMENTS if each.range is not None},
    "after": Range(0, 3600, "seconds"),
    "interval": Range(0.05, 3600, "seconds"),
    # uid_t, but for (uid_t) -1, which no user has (chown(2)).
    "user": Range(0, 2**32 - 2, "as the number of a user"),
}


def fields_of(part: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that arguments fill in a part of the request; None fills none.

    Args:
        part: ``interface``, ``destination``, ``ring``, ``recorder``, ``autostop``, or empty for the request itself.
        values: by the names of arguments.
    """
    return {
        spec.field: values[spec.name] * _MIB if _counts_mib(spec) else values[spec.name]
        for spec in _BY_PART[part]
        if values.get(spec.name) is not None
    }


def _counts_mib(spec: ArgumentSpec) -> bool:
    """Whether the message has bytes where its argument has MiB."""
    return spec.range is not None and spec.range.unit == "MiB"


class Fault(NamedTuple):
    """One thing that is wrong with a request."""

    argument: str
    text: str


def _out_of_range(argument: str, value: float | None) -> Iterator[Fault]:
    if value is None:
        return
    least, greatest, unit = RANGES[argument]
    if not least <= value <= greatest:  # also refuses NaN
        yield Fault(argument, f"{argument} is {_shown(value)}; possible are {least} to {greatest} {unit}")


def _range_faults(part: str, message: Conditions | InterfaceRequest | Recorder | StartCapture) -> Iterator[Fault]:
    """Find the numbers of a part of the request that are out of their ranges."""
    for spec in _BY_PART[part]:
        if spec.range is not None:
            value = getattr(message, spec.field)
            yield from _out_of_range(spec.name, _mib(value) if _counts_mib(spec) and value is not None else value)


def _shown(value: float) -> str:
    """Show a number that was sent: JSON's whole numbers have no bound, what Python writes has."""
    try:
        # As it was typed: 3, where seconds and MiB have fractions, too.
        text = str(int(value)) if abs(value) < _MOST and value == int(value) else str(value)
    except ValueError:
        return "a far larger number"
    return text if len(text) <= _MAX_QUOTED_CHARACTERS else text[:_MAX_QUOTED_CHARACTERS] + "…"


def _quoted(text: str) -> str:
    """Show what was sent: the beginning of it, if it is long."""
    return repr(text) if len(text) <= _MAX_QUOTED_CHARACTERS else repr(text[:_MAX_QUOTED_CHARACTERS]) + "…"


def _name_faults(target: Target) -> Iterator[Fault]:
    name = target.request.name
    if isinstance(target, Stream):
        if not (name.isprintable() and 1 <= len(name.encode("utf-8", "surrogatepass")) <= MAX_STREAM_NAME_BYTES):
            text = f"one has 1 to {MAX_STREAM_NAME_BYTES} bytes, and is printable"
            yield Fault("interfaces", f"{_quoted(name)} is no name of a stream: {text}")
        return
    limit = MAX_PATTERN_BYTES if isinstance(target, Pattern) else MAX_INTERFACE_NAME_BYTES
    # The kernel's own rule (net/core/dev.c, dev_valid_name), and printable, since names go into logs and files.
    size_bytes = len(name.encode("utf-8", "surrogatepass"))
    if not name or size_bytes > limit:
        yield Fault("interfaces", f"{_quoted(name)} is no interface name: one has 1 to {limit} bytes")
    elif name in (".", "..") or not name.isprintable() or any(c in "/: " for c in name):
        yield Fault(
            "interfaces",
            f"{_quoted(name)} is no interface name: one has no slash, colon, space or unprintable character",
        )


def _wifi_faults(interface: InterfaceRequest) -> Iterator[Fault]:
    if interface.wifi_channel is None:
        return
    frequency, _, channel_type = interface.wifi_channel.partition(",")
    if not (frequency.isascii() and frequency.isdecimal() and 2000 <= int(frequency[:6]) <= 8000):
        yield Fault(
            "wifi_channel", f"wifi_channel {_quoted(interface.wifi_channel)} does not begin with a frequency in MHz"
        )
    elif channel_type not in ("", "NOHT", "HT20", "HT40-", "HT40+"):
        yield Fault("wifi_channel", f"wifi_channel type {_quoted(channel_type)} is not one of NOHT, HT20, HT40-, HT40+")


def _mib(size_bytes: int) -> float:
    # Whole numbers that can be divided have a bound too.
    return max(-(2**64), min(size_bytes, 2**64)) / _MIB


def _filter_faults(argument: str, what: str, text: str) -> Iterator[Fault]:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_FILTER_BYTES:
        yield Fault(argument, f"{what} is longer than {MAX_FILTER_BYTES} bytes")
    elif "\0" in text or not text.isascii():
        yield Fault(argument, f"{what} has a character that is not ASCII, or a NUL")


def _option_faults(interface: InterfaceRequest) -> Iterator[Fault]:
    yield from _range_faults("interface", interface)
    yield from _wifi_faults(interface)
    yield from _filter_faults("capture_filter", "the capture filter", interface.capture_filter)
    if interface.direction not in DIRECTIONS:
        yield Fault("direction", f"direction {_quoted(interface.direction)} is not one of {', '.join(DIRECTIONS)}")
    if interface.link_layer_type is not None and by_name(interface.link_layer_type) is None:
        yield Fault(
            "link_layer_type",
            f"{_quoted(interface.link_layer_type)} is no link-layer type that libpcap knows, such as EN10MB",
        )


#: What has a meaning for interfaces alone: arguments, and the fields that they fill.
_OF_INTERFACES = tuple(
    (spec.name, spec.field) for spec in _BY_PART["interface"] if spec.field not in ("capture_filter", "snaplen_bytes")
)


def _stream_faults(request: StartCapture, targets: Sequence[Target]) -> Iterator[Fault]:
    """Find what cannot go together with streams."""
    streams = [each.request for each in targets if isinstance(each, Stream)]
    if not streams:
        return
    unset = InterfaceRequest(name="")
    for argument, field in _OF_INTERFACES:
        if any(getattr(each, field) != getattr(unset, field) for each in streams):
            yield Fault(argument, f"{argument} is about network interfaces, and {_quoted(streams[0].name)} is a stream")
    if request.detached:
        yield Fault("detach", "a stream ends with the program that has opened it: it cannot be in a detached capture")
    if request.wait_for_interfaces != all(each.comes_again for each in streams):
        text = "streams come again where, and only where, interfaces are waited for"
        yield Fault("wait_for_interfaces", text)
    if request.recorder is not None and request.recorder.trigger_filter:
        text = "packets of a stream trigger no snapshot: leave out recorder_trigger_filter"
        yield Fault("recorder_trigger_filter", text)


def _file_name_faults(name: str, ring: bool) -> Iterator[Fault]:
    limit = MAX_FILE_NAME_BYTES - (RING_SUFFIX_BYTES if ring else 0)
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        yield Fault("savefile", f"the file name {_quoted(name)} is not UTF-8")
        return
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        yield Fault("savefile", f"{_quoted(name)} is not the name of a file")
    elif size_bytes > limit:
        yield Fault("savefile", f"the file name has {size_bytes} bytes; at most {limit} are possible")


#: What says when a ring goes on in its next file.
SWITCHING = "ringbuffer_duration, ringbuffer_interval, ringbuffer_filesize or ringbuffer_packets"


def is_capture_name(name: str) -> bool:
    """Whether a capture may be called so."""
    return _CAPTURE_NAME.fullmatch(name) is not None


def _stay_faults(request: StartCapture) -> Iterator[Fault]:
    if request.name is not None and not is_capture_name(request.name):
        text = "up to 64 letters, digits, dots, - and _, and begins with a letter"
        yield Fault("name", f"{_quoted(request.name)} is no name for a capture: one has {text}")
    if request.detached and request.name is None:
        yield Fault("name", "a detached capture needs a name, to find it again")
    if request.detached and request.destination.exclusive:
        yield Fault("savefile", "a detached capture needs a savefile: a temporary one would be nobody's")


def _compression_faults(request: StartCapture) -> Iterator[Fault]:
    if request.compress_type is None:
        return
    if request.compress_type not in COMPRESS_TYPES:
        possible = f"{', '.join(COMPRESS_TYPES[:-1])} or {COMPRESS_TYPES[-1]}"
        yield Fault("compress_type", f"no files are compressed by {_quoted(request.compress_type)}: say {possible}")
    elif request.compress_type != "none" and request.destination.unnamed:
        text = "packets that are kept in memory only are not compressed: leave out compress_type"
        yield Fault("compress_type", text)
    elif request.compress_type != "none" and request.recorder is not None:
        text = "the files of a recorder's snapshots are not compressed: leave out compress_type"
        yield Fault("compress_type", text)


def is_comment(text: str) -> bool:
    """Whether a file can say a text of itself."""
    return bool(text) and _is_text(text)


def _text_faults(request: StartCapture) -> Iterator[Fault]:
    """Find what files cannot say."""
    if request.file_format == "pcap" and request.comments:
        yield Fault("comments", "comments need pcapng: a pcap file has no place for them")
    if sum(len(each.encode("utf-8", "surrogatepass")) for each in request.comments) > MAX_COMMENTS_BYTES:
        yield Fault("comments", f"comments have more than {MAX_COMMENTS_BYTES:,} bytes: write less")
    if not all(map(is_comment, request.comments)):
        yield Fault("comments", "a comment has at least one character, no NUL, and is UTF-8")
    for each in request.interfaces:
        for argument, text in (("label", each.label), ("description", each.description)):
            if len(text.encode("utf-8", "surrogatepass")) > MAX_LABEL_BYTES or not _is_text(text):
                possible = f"at most {MAX_LABEL_BYTES} bytes of UTF-8, without NUL"
                yield Fault("interfaces", f"the {argument} of {_quoted(each.name)} is not possible: {possible}")


def _is_text(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _memory_faults(request: StartCapture) -> Iterator[Fault]:
    if not request.destination.unnamed:
        return
    for argument, is_given, reason in (
        ("detach", request.detached, "a detached capture needs files that others find"),
        ("recorder_memory", request.recorder is not None, "a recorder's snapshots are files"),
        ("group_access", request.destination.group_access, "there is no file for the group to read"),
    ):
        if is_given:
            yield Fault(argument, f"with in_memory, {reason}: leave out one of the two")
    if not request.pass_files:
        yield Fault("pass_files", "with in_memory, pass_files cannot be False: the packets could not be read")
    if request.ring is None:
        yield Fault("in_memory", f"with in_memory, the packets need a bound: give {SWITCHING}, and ringbuffer_files")


def _ring_faults(ring: Conditions, autostop: Conditions) -> Iterator[Fault]:
    yield from _range_faults("ring", ring)
    if not ring.switches:
        yield Fault("ringbuffer_files", f"a ring needs to know when to switch: give {SWITCHING}")
    if ring.total_kb is not None and ring.filesize_kb is not None and ring.total_kb <= ring.filesize_kb:
        yield Fault(
            "ringbuffer_total_filesize",
            f"ringbuffer_total_filesize is {_shown(ring.total_kb)} kB, no more than one file "
            f"(ringbuffer_filesize {_shown(ring.filesize_kb)}): the capture would end with its first file",
        )
    if autostop.filesize_kb is not None:
        yield Fault(
            "autostop_filesize",
            "autostop_filesize ends a single file; a ring ends with autostop_files, autostop_duration "
            "or max_packet_count",
        )


#: What cannot go together with a recorder, and why.
_NOT_RECORDED = (
    ("autostop_filesize", "filesize_kb", "files"),
    ("autostop_files", "files", "files"),
    ("max_packet_count", "packets", "packets"),
)


def _recorder_faults(recorder: Recorder, request: StartCapture, targets: Sequence[Target]) -> Iterator[Fault]:
    yield from _range_faults("recorder", recorder)
    yield from _filter_faults("recorder_trigger_filter", "the trigger filter", recorder.trigger_filter)
    if request.ring is not None:
        text = "a recorder keeps its packets in memory, a ring in files: ask for one of them"
        yield Fault("recorder_memory", text)
    if recorder.kept is not None:
        yield from _range_faults("ring", recorder.kept)
        if recorder.kept.switches:
            text = f"a recorder writes a file for each snapshot, and switches no files: leave out {SWITCHING}"
            yield Fault("recorder_memory", text)
    if request.file_format == "pcap":
        yield Fault("use_libpcap", "a recorder writes pcapng only: leave out use_libpcap")
    for argument, name, what in _NOT_RECORDED:
        if getattr(request.autostop, name) is not None:
            text = f"{argument} counts {what} as they are written, and a recorder writes none until it is asked to"
            yield Fault(argument, f"{text}: end it with autostop_duration, or stop it")
    if recorder.trigger_link_down and any(isinstance(each, CookedAny) for each in targets):
        text = "the cooked device any has no link that could go down: capture 'any' without a link_layer_type"
        yield Fault("recorder_trigger_link_down", text)


def find_interface_faults(interface: InterfaceRequest) -> list[Fault]:
    """Return what is wrong with what is asked for on one interface."""
    return [*_name_faults(target_of(interface)), *_option_faults(interface)]


def find_interval_faults(interval_s: float) -> list[Fault]:
    """Return what is wrong with the interval of statistics."""
    return list(_out_of_range("interval", interval_s))


def find_snapshot_faults(after_s: float | None) -> list[Fault]:
    """Return what is wrong with what a snapshot is asked to have."""
    return list(_out_of_range("after", after_s))


def find_revocation_faults(user_id: int | None) -> list[Fault]:
    """Return what is wrong with whose captures are to end."""
    return list(_out_of_range("user", user_id))


def find_faults(request: StartCapture) -> list[Fault]:
    """Return everything that is wrong with a request, whatever the machine; empty when it can be tried."""
    return list(_faults(request))


def _faults(request: StartCapture) -> Iterator[Fault]:
    interfaces, ring, autostop = request.interfaces, request.ring, request.autostop
    if not 1 <= len(interfaces) <= MAX_INTERFACES:
        yield Fault("interfaces", f"{len(interfaces)} interfaces; possible are 1 to {MAX_INTERFACES}")
    seen: set[str] = set()
    targets = targets_of(interfaces[:MAX_INTERFACES])
    for target in targets:
        name = target.request.name
        if name != DEFAULT or len(targets) > 1:
            yield from _name_faults(target)
        yield from _option_faults(target.request)
        if name in seen:
            yield Fault("interfaces", f"the interface {_quoted(name)} is named twice")
        seen.add(name)
    recorder = request.recorder
    if request.destination.time_first and ring is None and recorder is None:
        text = f"ringbuffer_time_first is about the names of a ring's files: give {SWITCHING} too"
        yield Fault("ringbuffer_time_first", text)
    yield from _file_name_faults(request.destination.file_name, ring is not None or recorder is not None)
    yield from _stay_faults(request)
    yield from _memory_faults(request)
    yield from _stream_faults(request, targets)
    yield from _range_faults("", request)
    yield from _range_faults("autostop", autostop)
    if recorder is not None:
        yield from _recorder_faults(recorder, request, targets)
    if ring is not None:
        yield from _ring_faults(ring, autostop)
    elif autostop.files is not None and recorder is None:
        yield Fault(
            "autostop_files",
            f"autostop_files counts the files of a ring: give {SWITCHING} too",
        )
    if (autostop.interval_s, autostop.total_kb, autostop.age_s, autostop.free_kb) != (None, None, None, None):
        text = "interval, total, age and free space are conditions of a ring, and end no capture"
        yield Fault("autostop", text)
    if request.file_format == "pcap" and request.packet_flags:
        yield Fault("packet_flags", "packet_flags needs pcapng: a pcap file has no place for them")
    yield from _text_faults(request)
    yield from _compression_faults(request)
    if request.file_format == "pcap" and request.wait_for_interfaces:
        text = "wait_for_interfaces needs pcapng: a pcap file begins with the link-layer type of an interface"
        yield Fault("wait_for_interfaces", text)
    if request.file_format == "pcap" and (len(interfaces) > 1 or any(isinstance(each, Pattern) for each in targets)):
        yield Fault(
            "use_libpcap",
            "a pcap file cannot say which interface a packet came from: capture several interfaces as pcapng",
        )
