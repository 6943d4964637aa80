"""What frames mean: dumpcap's own messages, and requests, replies and events that it has no word for.

Dumpcap's messages travel byte for byte as dumpcap sends them. All others are JSON objects in frames whose
indicators dumpcap does not use, so that a program made for dumpcap skips them.

Counters say what they are: ``_total`` since the capture began, ``_delta`` since the last such message.
Timestamps are integer nanoseconds since the epoch; durations are seconds.
"""

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import Frame, encode_frame
from capd_protocol.interfaces import (
    InterfaceChange,
    InterfaceCounts,
    InterfaceInfo,
    Link,
    LinkLayer,
    TimestampType,
)

#: Raised when one side could misunderstand the other. Both sides must agree on it.
PROTOCOL_VERSION = 2

#: The most that is ever put on record of one packet; libpcap's and dumpcap's MAXIMUM_SNAPLEN.
MAX_SNAPLEN_BYTES = 262_144
#: Kernel ring for each interface. Chosen: at 600,000 packets a second of mixed sizes it lasts 100 ms, longer
#: than a busy machine keeps the worker waiting.
DEFAULT_KERNEL_BUFFER_SIZE_BYTES = 32 * 1024 * 1024
#: The same for each interface that a pattern matches. Chosen: two hundred interfaces are common where containers run.
PATTERN_KERNEL_BUFFER_SIZE_BYTES = 4 * 1024 * 1024
#: What a recorder keeps. Chosen: half a second of a full gigabit, or minutes of what most interfaces carry.
DEFAULT_RECORDER_BYTES = 64 * 1024 * 1024
#: Of why a capture is revoked. Chosen: a sentence, which may name an interface and a rule.
MAX_WHY_CHARACTERS = 200


class Indicator(enum.IntEnum):
    """The first byte of each frame."""

    FILE = ord("F")  #: dumpcap: a file was opened, its header is on disk
    PACKET_COUNT = ord("P")  #: dumpcap: packets written since the last such message
    DROPS = ord("D")  #: dumpcap: packets lost on one interface, in total, at the end
    ERROR = ord("E")  #: dumpcap: two texts, each a frame of its own inside
    BAD_FILTER = ord("B")  #: dumpcap: which interface, and libpcap's words
    SUCCESS = ord("S")  #: dumpcap: a request that is no capture was carried out
    HELLO = ord("h")  #: ours: the first frame of each side
    REQUEST = ord("r")  #: ours: client to daemon, daemon to worker
    REPLY = ord("a")  #: ours: one answer to each request
    EVENT = ord("e")  #: ours: what dumpcap has no word for


class _Json(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


# Dumpcap's messages ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FileOpened:
    """A new file exists and its header can be read from it."""

    name: str


@dataclass(frozen=True)
class PacketCount:
    """So many packets more can be read from the current file."""

    packets_delta: int


@dataclass(frozen=True)
class Drops:
    """At the end of a capture: what was lost on one interface since it began."""

    drops_total: int
    interface: str


@dataclass(frozen=True)
class ErrorMessage:
    """What went wrong, and advice, which may be empty."""

    primary: str
    secondary: str = ""


@dataclass(frozen=True)
class BadFilter:
    """libpcap's words about the filter of the interface with this index."""

    interface_index: int
    text: str


@dataclass(frozen=True)
class Success:
    """Done."""


@dataclass(frozen=True)
class Unknown:
    """A frame with an indicator of which we know nothing: to be skipped."""

    indicator: int
    payload: bytes


# Greeting -------------------------------------------------------------------------------------------------------


class Hello(_Json, frozen=True):
    """First frame of each side."""

    protocol_version: int
    #: For logs and people: ``capd 0.1.0``.
    software: str


# Requests -------------------------------------------------------------------------------------------------------


class InterfaceRequest(_Json, frozen=True):
    """What to capture on one interface, or on all whose names match.

    ``name`` may be a pattern with ``*``, ``?`` and ``[…]``, or ``any``, which matches all, unless a cooked
    link-layer type is asked for: then ``any`` is libpcap's device of that name.
    """

    name: str
    capture_filter: str = ""
    #: The greatest possible stands for as much as policy allows.
    snaplen_bytes: int = MAX_SNAPLEN_BYTES
    #: None: where policy allows it.
    promiscuous: bool | None = None
    monitor_mode: bool = False
    #: ``"2412"`` or ``"2437,HT40+"``: MHz and, after a comma, the channel type.
    wifi_channel: str | None = None
    #: Name as libpcap knows it (``EN10MB``); None is the interface's own default.
    link_layer_type: str | None = None
    #: None: a default, which is smaller where there may be many interfaces.
    kernel_buffer_size_bytes: int | None = None


class Destination(_Json, frozen=True):
    """A file in the directory whose descriptor came along with the request."""

    file_name: str
    #: Readable by the file's group (0640 instead of 0600).
    group_access: bool = False
    #: The file must not exist yet.
    exclusive: bool = False


class Conditions(_Json, frozen=True):
    """When to switch to the next file, or to stop; None: never for that reason."""

    duration_s: float | None = None
    #: kB of 1000 bytes, as dumpcap counts; met by the packet that reaches it.
    filesize_kb: int | None = None
    packets: int | None = None
    #: As a ring: how many files to keep. As an end: how many files to write.
    files: int | None = None
    #: Of a ring only, as those below: at the wall clock's multiples of it (since 1970-01-01 00:00 UTC).
    interval_s: float | None = None
    #: How much all files of the ring may have.
    total_kb: int | None = None
    #: How old a complete file may become: since its last packet, or since it was closed if it has none.
    age_s: float | None = None
    #: What stays free on the file system.
    free_kb: int | None = None

    @property
    def switches(self) -> bool:
        """Whether any of these ever closes a file."""
        return any(each is not None for each in (self.duration_s, self.interval_s, self.filesize_kb, self.packets))


class Recorder(_Json, frozen=True):
    """What to keep in memory, and when to write it out; beside that, it is written when somebody asks.

    What is written is a snapshot: a file of its own, complete like any other.
    """

    #: The last so many seconds, as far as the memory reaches; None: as far as it does.
    duration_s: float | None = None
    memory_bytes: int = DEFAULT_RECORDER_BYTES
    #: A snapshot goes on for so long after what has triggered it.
    after_s: float = 0.0
    #: A packet that matches it triggers a snapshot, whatever the capture filter says.
    trigger_filter: str = ""
    #: So many packets within a second do, of all interfaces.
    trigger_pps: int | None = None
    #: An interface does that goes down, loses its link, or goes away.
    trigger_link_down: bool = False


class StartCapture(_Json, frozen=True, tag="start"):
    """Capture, until stopped or until the connection closes.

    Where it is granted, ``DirectoryWanted`` comes, then ``Started``, or ``Attached`` to one that is detached.
    """

    interfaces: tuple[InterfaceRequest, ...]
    destination: Destination
    file_format: Literal["pcapng", "pcap"] = "pcapng"
    ring: Conditions | None = None
    #: Write no file but snapshots.
    recorder: Recorder | None = None
    autostop: Conditions = Conditions()
    #: A packet is in its file and announced within about this time.
    update_interval_s: float = 0.1
    #: Interfaces need not be there yet, and the capture goes on when the last one is gone.
    wait_for_interfaces: bool = False
    #: Pass each file to who asks, open for reading: it can be read then also when its ring has deleted it.
    pass_files: bool = False
    #: By which its owner may mean it, beside its number.
    name: str | None = None
    #: It stays when the connection closes, until it is stopped or reaches a limit.
    detached: bool = False


class StopCapture(_Json, frozen=True, tag="stop"):
    """End a capture well. Without number or name: the one that this connection started or is attached to."""

    capture: int | str | None = None


class AttachCapture(_Json, frozen=True, tag="attach"):
    """Hear of a capture that runs, until it ends or the connection closes, which ends nothing else."""

    capture: int | str


class RotateCapture(_Json, frozen=True, tag="rotate"):
    """Have a ring go on in its next file. Without number or name: as ``StopCapture``."""

    capture: int | str | None = None


class FlushCapture(_Json, frozen=True, tag="flush"):
    """Have every packet that the kernel has now be in the file. Without number or name: as ``StopCapture``."""

    capture: int | str | None = None


class SnapshotCapture(_Json, frozen=True, tag="snapshot"):
    """Have a recorder write what it has. Without number or name: as ``StopCapture``."""

    capture: int | str | None = None
    #: And what comes within so many seconds; None: as the recorder was told.
    after_s: float | None = None


class RevokeCaptures(_Json, frozen=True, tag="revoke"):
    """End captures that today's rules would not grant as they run. Only for whom no rule binds.

    Captures of the configuration are left alone.
    """

    #: All of this user, and of who stands behind it, whatever the rules say; None: what the rules say, of all users.
    user_id: int | None = None
    #: Only tell which would end.
    dry_run: bool = False


class ListCaptures(_Json, frozen=True, tag="list"):
    """Ask which of the peer's captures run now; root is told of everybody's."""


class WhoAmI(_Json, frozen=True, tag="whoami"):
    """Ask what policy lets the peer do."""


class ListInterfaces(_Json, frozen=True, tag="list_interfaces"):
    """Ask for all devices that libpcap can capture on."""


class GetCapabilities(_Json, frozen=True, tag="get_capabilities"):
    """Ask what one interface can do, as libpcap knows only after opening it."""

    interface: str
    #: As it would be in monitor mode.
    monitor_mode: bool = False


class GetDriverCounters(_Json, frozen=True, tag="get_driver_counters"):
    """Ask for the counters that an interface's driver keeps itself."""

    interface: str


class WatchInterfaces(_Json, frozen=True, tag="watch_interfaces"):
    """Ask to be told what happens to interfaces, until the connection closes."""


class WatchStatistics(_Json, frozen=True, tag="watch_statistics"):
    """Ask for the counters of all interfaces at each tick, until the connection closes."""

    interval_s: float = 1.0


Request = (
    StartCapture
    | StopCapture
    | AttachCapture
    | RotateCapture
    | FlushCapture
    | SnapshotCapture
    | RevokeCaptures
    | ListCaptures
    | WhoAmI
    | ListInterfaces
    | GetCapabilities
    | GetDriverCounters
    | WatchInterfaces
    | WatchStatistics
)


# Failures -------------------------------------------------------------------------------------------------------


class FailureCode(enum.StrEnum):
    """Named by what the one who asked can do about it."""

    INVALID = "invalid"  #: ask for something else
    BAD_FILTER = "bad_filter"  #: correct the filter
    NOT_PERMITTED = "not_permitted"  #: ask an administrator
    NO_SUCH_INTERFACE = "no_such_interface"  #: name another, or wait for it
    INTERFACE_DOWN = "interface_down"  #: bring it up
    INTERFACE_LOST = "interface_lost"  #: it went away while capturing
    UNSUPPORTED = "unsupported"  #: this interface or kernel cannot do it
    DESTINATION = "destination"  #: name another file or directory
    DISK = "disk"  #: make room; what was written is whole
    RESOURCES = "resources"  #: ask for less, or later
    NO_SUCH_CAPTURE = "no_such_capture"  #: look at the list
    NAME_TAKEN = "name_taken"  #: choose another name, or attach to the capture that has it
    TIMEOUT = "timeout"  #: the capture did not answer: ask again
    PROTOCOL = "protocol"  #: the request was not understood: a bug, or two versions
    WORKER_DIED = "worker_died"  #: see the daemon's log; files up to the last event are readable
    STOPPING = "stopping"  #: the daemon is on its way down: connect again later


class Failure(_Json, frozen=True):
    """Why something was not done: one sentence for people, the rest for programs."""

    code: FailureCode
    text: str
    #: The argument, interface or file name that it is about.
    argument: str | None = None
    interface: str | None = None
    #: Of the interface among those asked for; with BAD_FILTER.
    interface_index: int | None = None
    #: Characters before the place where the filter goes wrong, where that could be found; with BAD_FILTER.
    position: int | None = None


# Replies --------------------------------------------------------------------------------------------------------


class DirectoryWanted(_Json, frozen=True, tag="directory_wanted"):
    """The capture begins, and wants the directory for its files.

    Comes with one descriptor: a socket (SOCK_SEQPACKET) that leads to the capture's process, past the daemon, which
    takes no descriptor from a client. The client sends one message there, of at least one byte, with a descriptor that
    names the directory (O_PATH | O_DIRECTORY). With ``pass_files`` each file comes on it before it is announced: its
    name, and with it a descriptor that is open for reading.
    """


class Started(_Json, frozen=True, tag="started"):
    """The rings are armed and the first file has its header."""

    capture_id: int


class Stopping(_Json, frozen=True, tag="stopping"):
    """The capture was told to end; connections that hear of it carry its last events."""


class Rotated(_Json, frozen=True, tag="rotated"):
    """The next file has its header."""

    file_name: str


class Flushed(_Json, frozen=True, tag="flushed"):
    """What was asked for is in the file, and where this connection hears of the capture, it has been told."""


class SnapshotTaken(_Json, frozen=True, tag="snapshot_taken"):
    """The snapshot is a complete file."""

    file_name: str


class Refused(_Json, frozen=True, tag="refused"):
    """Nothing was done, and nothing of it remains."""

    failure: Failure


class CaptureSummary(_Json, frozen=True):
    """One line of the list of captures."""

    capture_id: int
    user_id: int
    interfaces: tuple[str, ...]
    file_name: str
    started_ns: int
    files_total: int
    packets_total: int
    drops_total: int
    name: str | None = None
    #: Whether ``user_id`` is that of a container's user, which says nothing about this machine's.
    is_contained: bool = False


class Attached(_Json, frozen=True, tag="attached"):
    """This connection hears of the capture from now on; of its current file and counters first.

    To ``AttachCapture`` it comes with one descriptor: a socket (SOCK_SEQPACKET) that leads to the capture's process.
    The current file comes there, if there is one: its name, and with it a descriptor that is open for reading. A name
    that the client sends, of the capture's files or of its ring's index, is answered likewise; without a descriptor,
    where there is no such file.
    """

    capture: CaptureSummary
    file_format: Literal["pcapng", "pcap"]
    is_ring: bool
    #: Announced before; further ones come as events.
    packets_total: int
    #: Of the files before the current one, those that the ring has deleted too.
    closed_bytes_total: int


class CaptureList(_Json, frozen=True, tag="captures"):
    """The captures that the peer may see, oldest first, or a part of them."""

    captures: tuple[CaptureSummary, ...]
    #: No further part follows.
    is_last: bool


class RevokedCapture(_Json, frozen=True):
    """A capture that is revoked, or is kept since nobody can tell now whether it should be."""

    capture_id: int
    user_id: int
    #: Some words for people, of at most MAX_WHY_CHARACTERS.
    why: str
    name: str | None = None
    #: As in the list.
    is_contained: bool = False


class Revoked(_Json, frozen=True, tag="revoked"):
    """What has been revoked, or with ``dry_run`` would be, oldest first; or a part of it.

    What was revoked receives nothing more; its last events, and the end of its files, are on their way.
    """

    ended: tuple[RevokedCapture, ...]
    #: The groups of their users are not known now: ask again, or name the users.
    kept: tuple[RevokedCapture, ...]
    #: No further part follows.
    is_last: bool


class Permission(_Json, frozen=True):
    """What one rule of the policy lets the peer do; None: as much as there is."""

    rule: str
    #: Patterns of names.
    interfaces: tuple[str, ...]
    #: Only packets that match it are captured.
    filter: str
    max_snaplen_bytes: int
    promiscuous: bool
    monitor_mode: bool
    #: At once.
    max_captures: int | None
    #: In files at once.
    max_disk_bytes: int | None
    max_duration_s: float | None


class Permissions(_Json, frozen=True, tag="permissions"):
    """Who the peer is to the kernel, and what it may do: on each interface, what the first fitting rule allows."""

    user_id: int
    group_ids: tuple[int, ...]
    permissions: tuple[Permission, ...]
    #: Whom to ask for more, as the end of a sentence.
    advice: str
    #: Whether it came by the containers' socket, so that the ids are nobody's of the daemon's machine.
    is_contained: bool = False


class InterfaceList(_Json, frozen=True, tag="interfaces"):
    """The devices, or a part of them, in libpcap's order."""

    interfaces: tuple[InterfaceInfo, ...]
    #: No further part follows.
    is_last: bool


class Capabilities(_Json, frozen=True, tag="capabilities"):
    """What one interface can do."""

    can_rfmon: bool
    #: Its default first.
    link_layers: tuple[LinkLayer, ...]
    timestamp_types: tuple[TimestampType, ...]


class DriverCounters(_Json, frozen=True, tag="driver_counters"):
    """An interface's own counters by its driver's names; empty where it keeps none."""

    counters: dict[str, int]


class Watching(_Json, frozen=True, tag="watching"):
    """What was asked for comes as events from now on."""


Reply = (
    DirectoryWanted
    | Started
    | Stopping
    | Rotated
    | Flushed
    | SnapshotTaken
    | Attached
    | Refused
    | CaptureList
    | Revoked
    | Permissions
    | InterfaceList
    | Capabilities
    | DriverCounters
    | Watching
)


# Events ---------------------------------------------------------------------------------------------------------


class InterfaceCounters(_Json, frozen=True):
    """What became of the packets of one interface.

    Always, once the capture has ended:
    ``received_total == written_total + kernel_drops_total + writer_drops_total + excess_total``.
    """

    interface: str
    #: Passed the filter, lost or not (the kernel's ``tp_packets``).
    received_total: int = 0
    written_total: int = 0
    #: No room in the ring: the worker or the disk was too slow.
    kernel_drops_total: int = 0
    #: Captured, but the file could not be written.
    writer_drops_total: int = 0
    #: Captured after a limit had ended the capture (autostop): on purpose in no file.
    excess_total: int = 0

    @property
    def drops_total(self) -> int:
        """What is missing in the files, and should be there."""
        return self.kernel_drops_total + self.writer_drops_total


class Counters(_Json, frozen=True, tag="counters"):
    """Where the capture stands: at each tick in which something changed."""

    #: In the current file, headers included.
    file_size_bytes: int
    interfaces: tuple[InterfaceCounters, ...]
    #: What all files that are kept take.
    disk_bytes: int = 0


class FileClosed(_Json, frozen=True, tag="file_closed"):
    """A file is complete: statistics at its end, nothing will be added."""

    name: str
    packets: int
    size_bytes: int
    #: None in a file without packets.
    first_timestamp_ns: int | None
    last_timestamp_ns: int | None
    #: Dropped while it was the current file, all interfaces.
    drops: int


class DeletionReason(enum.StrEnum):
    """Which limit of a ring was the reason to delete its oldest file."""

    FILES = "files"  #: as many as it may have
    TOTAL = "total"  #: as many bytes as it may have
    AGE = "age"
    FREE_SPACE = "free_space"  #: others may have taken it
    POLICY = "policy"  #: as many bytes as the user may have


class FileDeleted(_Json, frozen=True, tag="file_deleted"):
    """The oldest file of a ring was deleted, as its limits demand."""

    name: str
    reason: DeletionReason
    size_bytes: int


class InterfaceLost(_Json, frozen=True, tag="interface_lost"):
    """An interface is gone; the capture goes on with the others, if there are any."""

    interface: str


class InterfaceAttached(_Json, frozen=True, tag="interface_attached"):
    """An interface has come, or come back: its packets are in the capture from now on."""

    interface: str


class InterfaceSkipped(_Json, frozen=True, tag="interface_skipped"):
    """An interface that belongs to the capture cannot be in it; the text tells why."""

    interface: str
    text: str


class Recording(_Json, frozen=True, tag="recording"):
    """A recorder runs: its rings are armed. It has no file until it writes a snapshot."""

    memory_bytes: int
    duration_s: float | None


class TriggerReason(enum.StrEnum):
    """What has made a recorder write a snapshot of its own accord."""

    FILTER = "filter"  #: a packet that matches
    RATE = "rate"  #: so many packets within a second
    LINK_DOWN = "link_down"  #: an interface went down or away, or has lost its link


class Triggered(_Json, frozen=True, tag="triggered"):
    """A recorder begins with a snapshot of its own accord. Its file is told of as any other."""

    reason: TriggerReason
    #: None where it is about all of them.
    interface: str | None = None


class SnapshotFailed(_Json, frozen=True, tag="snapshot_failed"):
    """What was triggered was not written, or not all of it; the recorder goes on."""

    failure: Failure


class Lagged(_Json, frozen=True, tag="lagged"):
    """This client read too slowly: so many events were not kept for it. Counts were merged, none is missing."""

    events: int


class Failed(_Json, frozen=True, tag="failed"):
    """The capture ends because of this. Stands before dumpcap's ERROR or BAD_FILTER that says the same as text."""

    failure: Failure


class EndReason(enum.StrEnum):
    """Why a capture ended."""

    STOPPED = "stopped"
    CLIENT_LEFT = "client_left"
    DAEMON_STOPPING = "daemon_stopping"
    #: By an administrator: policy does not grant it any more, or all of this user's captures were to end.
    REVOKED = "revoked"
    DURATION = "duration"
    FILESIZE = "filesize"
    FILES = "files"
    PACKETS = "packets"
    #: A limit of bytes on disk, of the ring or of policy, is reached, and there is no complete file to delete.
    DISK_LIMIT = "disk_limit"
    FAILED = "failed"


class Ended(_Json, frozen=True, tag="ended"):
    """The last event of a capture."""

    reason: EndReason
    interfaces: tuple[InterfaceCounters, ...]


class InterfaceSnapshot(_Json, frozen=True, tag="interface_snapshot"):
    """All network interfaces, or a part of them: at the beginning, and when a watcher was too slow for changes."""

    links: tuple[Link, ...]
    is_first: bool
    is_last: bool


class InterfaceEvent(_Json, frozen=True, tag="interface_event"):
    """Something happened to an interface; ``link`` is how it is now, or how it was last."""

    change: InterfaceChange
    link: Link
    #: With ``renamed``.
    former_name: str | None = None


class Statistics(_Json, frozen=True, tag="statistics"):
    """A tick, or a part of it: the counts that have changed since the last one, as totals since the beginning."""

    counts: tuple[InterfaceCounts, ...]
    #: Names of interfaces that are no longer there.
    gone: tuple[str, ...]
    #: No further part follows.
    is_last: bool


Event = (
    Counters
    | FileClosed
    | FileDeleted
    | InterfaceLost
    | InterfaceAttached
    | InterfaceSkipped
    | Recording
    | Triggered
    | SnapshotFailed
    | Lagged
    | Failed
    | Ended
    | InterfaceSnapshot
    | InterfaceEvent
    | Statistics
)

Message = (
    FileOpened | PacketCount | Drops | ErrorMessage | BadFilter | Success | Hello | Request | Reply | Event | Unknown
)


# The codec ------------------------------------------------------------------------------------------------------

#: Of why a message is none: some reasons quote it.
_MAX_REASON_CHARACTERS = 200

_DECIMAL = re.compile(r"[0-9]{1,20}")


def _text(payload: bytes) -> str:
    # dumpcap's texts are C strings; a message without a value has no NUL either. File names may be any bytes.
    return payload.removesuffix(b"\0").decode("utf-8", "surrogateescape")


def _c_string(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape") + b"\0"


def _number(text: str) -> int:
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"{text!r} is not a number")
    return int(text)


def _decode_drops(payload: bytes) -> Drops:
    total, _, interface = _text(payload).partition(":")
    return Drops(_number(total), interface)


def _decode_bad_filter(payload: bytes) -> BadFilter:
    index, _, text = _text(payload).partition(":")
    return BadFilter(_number(index), text)


def _decode_error(payload: bytes) -> ErrorMessage:
    texts: list[str] = []
    rest = payload
    for _ in range(2):
        end = 4 + int.from_bytes(rest[1:4], "big")
        if rest[:1] != b"E" or len(rest) < end:
            raise ValueError("the two texts of an error are not whole")
        texts.append(_text(rest[4:end]))
        rest = rest[end:]
    if rest:
        raise ValueError("bytes after the two texts of an error")
    return ErrorMessage(*texts)


def _encode_error(message: ErrorMessage) -> bytes:
    return b"".join(encode_frame(Indicator.ERROR, _c_string(text)) for text in (message.primary, message.secondary))


def _decode_success(payload: bytes) -> Success:
    if payload:
        raise ValueError("a success message carries nothing")
    return Success()


def _json_decoder(type_: Any) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(type_).decode


_DECODERS: dict[int, Callable[[bytes], Message]] = {
    Indicator.FILE: lambda payload: FileOpened(_text(payload)),
    Indicator.PACKET_COUNT: lambda payload: PacketCount(_number(_text(payload))),
    Indicator.DROPS: _decode_drops,
    Indicator.ERROR: _decode_error,
    Indicator.BAD_FILTER: _decode_bad_filter,
    Indicator.SUCCESS: _decode_success,
    Indicator.HELLO: _json_decoder(Hello),
    Indicator.REQUEST: _json_decoder(Request),
    Indicator.REPLY: _json_decoder(Reply),
    Indicator.EVENT: _json_decoder(Event),
}

_JSON_INDICATORS: dict[type, Indicator] = {
    Hello: Indicator.HELLO,
    **dict.fromkeys(Request.__args__, Indicator.REQUEST),
    **dict.fromkeys(Reply.__args__, Indicator.REPLY),
    **dict.fromkeys(Event.__args__, Indicator.EVENT),
}


def encode(message: Message) -> bytes:
    """Return the bytes of the frame that carries this message.

    Raises:
        LocalProtocolError: it is longer than a frame may be.
    """
    match message:
        case FileOpened(name):
            return encode_frame(Indicator.FILE, _c_string(name))
        case PacketCount(packets_delta):
            return encode_frame(Indicator.PACKET_COUNT, _c_string(str(packets_delta)))
        case Drops(drops_total, interface):
            return encode_frame(Indicator.DROPS, _c_string(f"{drops_total}:{interface}"))
        case ErrorMessage():
            return encode_frame(Indicator.ERROR, _encode_error(message))
        case BadFilter(index, text):
            return encode_frame(Indicator.BAD_FILTER, _c_string(f"{index}:{text}"))
        case Success():
            return encode_frame(Indicator.SUCCESS, b"")
        case Unknown(indicator, payload):
            return encode_frame(indicator, payload)
        case _:
            return encode_frame(_JSON_INDICATORS[type(message)], msgspec.json.encode(message))


def decode(frame: Frame) -> Message:
    """Return what a frame means; a frame with an unknown indicator survives as ``Unknown``.

    Raises:
        RemoteProtocolError: the payload is not what its indicator promises.
    """
    decoder = _DECODERS.get(frame.indicator)
    if decoder is None:
        return Unknown(frame.indicator, frame.payload)
    try:
        return decoder(frame.payload)
    # msgspec's own and UnicodeError are ValueErrors too; JSON nested too deep is a RecursionError.
    except (ValueError, RecursionError) as error:
        # It may quote what was sent, and goes into logs: no line ends, no escape sequences.
        reason = str(error)[:_MAX_REASON_CHARACTERS].encode("unicode_escape").decode("ascii")
        raise RemoteProtocolError(f"message {chr(frame.indicator)!r}: {reason}") from error
