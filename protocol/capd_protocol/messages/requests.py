"""Requests: client to daemon, daemon to worker."""

from typing import Literal

from capd_protocol.messages.base import JsonMessage

#: The most that is ever put on record of one packet; libpcap's and dumpcap's MAXIMUM_SNAPLEN.
MAX_SNAPLEN_BYTES = 262_144
#: Kernel ring for each interface. Chosen: at 600,000 packets a second of mixed sizes it lasts 100 ms, longer
#: than a busy machine keeps the worker waiting.
DEFAULT_KERNEL_BUFFER_SIZE_BYTES = 32 * 1024 * 1024
#: The same for each interface that a pattern matches. Chosen: two hundred interfaces are common where containers run.
PATTERN_KERNEL_BUFFER_SIZE_BYTES = 4 * 1024 * 1024
#: What the worker takes for each stream: what has come and is not written yet. Chosen: some reads of the largest pipe
#: that an ordinary user may have (1 MiB), and one record as long as it may be.
STREAM_BUFFER_BYTES = 24 * 1024 * 1024
#: What a recorder keeps. Chosen: half a second of a full gigabit, or minutes of what most interfaces carry.
DEFAULT_RECORDER_BYTES = 64 * 1024 * 1024
#: After a snapshot that was triggered, where only the memory bounds what a recorder keeps. Chosen: a snapshot a minute.
DEFAULT_COOL_DOWN_S = 60.0
#: Of why a capture is revoked. Chosen: a sentence, which may name an interface and a rule.
MAX_WHY_CHARACTERS = 200


class InterfaceRequest(JsonMessage, frozen=True):
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
    #: Only what comes in, or goes out.
    direction: Literal["in", "out", "inout"] = "inout"
    #: What files call it; empty: its name.
    label: str = ""
    #: What files say of it; empty: what an administrator has called it.
    description: str = ""
    #: It is no interface of the system: its packets come on a descriptor, as pcap or pcapng, which the client passes
    #: along with the directory. The name says only what it is called.
    is_stream: bool = False
    #: The descriptor of a stream is a socket on which others come, one after another: each is a stream of its own, and
    #: is waited for when the one before has ended.
    comes_again: bool = False


class Destination(JsonMessage, frozen=True):
    """A file in the directory whose descriptor came along with the request."""

    file_name: str
    #: Readable by the file's group (0640 instead of 0600).
    group_access: bool = False
    #: The file must not exist yet.
    exclusive: bool = False
    #: The files are in that directory without names (O_TMPFILE of open(2)): who is passed one can read it, and its room
    #: is free when nobody has it open any more.
    unnamed: bool = False
    #: In the names of a ring's files the time stands before the number.
    time_first: bool = False


class Conditions(JsonMessage, frozen=True):
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


class Recorder(JsonMessage, frozen=True):
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
    #: After a snapshot that was triggered, nothing triggers another one for so long; None: as long as ``duration_s``,
    #: or DEFAULT_COOL_DOWN_S.
    cool_down_s: float | None = None
    #: Which snapshots to keep: files, total_kb, age_s and free_kb of it. None: all.
    kept: Conditions | None = None

    @property
    def effective_cool_down_s(self) -> float:
        """What holds, also where it is not given."""
        if self.cool_down_s is not None:
            return self.cool_down_s
        return DEFAULT_COOL_DOWN_S if self.duration_s is None else self.duration_s


class StartCapture(JsonMessage, frozen=True, tag="start"):
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
    #: With each packet stands in the file whether it came in or went out, and to whom it was sent.
    packet_flags: bool = False
    #: What files say of themselves, at their beginning.
    comments: tuple[str, ...] = ()
    #: How files are compressed: ``COMPRESS_TYPES``; None: as the end of their name says.
    compress_type: str | None = None
    #: A packet is in its file and announced within about this time.
    update_interval_s: float = 0.1
    #: Interfaces need not be there yet, and the capture goes on when the last one is gone.
    wait_for_interfaces: bool = False
    #: Pass each file to the client, open for reading: it can be read then also when its ring has deleted it.
    pass_files: bool = False
    #: By which its owner may mean it, beside its number.
    name: str | None = None
    #: It stays when the connection closes, until it is stopped or reaches a limit.
    detached: bool = False


class StopCapture(JsonMessage, frozen=True, tag="stop"):
    """End a capture well. Without number or name: the one that this connection started or is attached to."""

    capture: int | str | None = None


class AttachCapture(JsonMessage, frozen=True, tag="attach"):
    """Hear of a capture that runs, until it ends or the connection closes, which ends nothing else."""

    capture: int | str


class RotateCapture(JsonMessage, frozen=True, tag="rotate"):
    """Have a ring go on in its next file. Without number or name: as ``StopCapture``."""

    capture: int | str | None = None


class FlushCapture(JsonMessage, frozen=True, tag="flush"):
    """Have every packet that the kernel has now be in the file. Without number or name: as ``StopCapture``."""

    capture: int | str | None = None


class SnapshotCapture(JsonMessage, frozen=True, tag="snapshot"):
    """Have a recorder write what it has. Without number or name: as ``StopCapture``."""

    capture: int | str | None = None
    #: And what comes within so many seconds; None: as the recorder is configured.
    after_s: float | None = None


class RevokeCaptures(JsonMessage, frozen=True, tag="revoke"):
    """End captures that today's rules would not grant as they run. Only for whom no rule binds.

    Captures of the configuration are left alone.
    """

    #: All of this user, and of the person behind it, whatever the rules say; None: what the rules say, of all users.
    user_id: int | None = None
    #: Only show which would end.
    dry_run: bool = False


class ListCaptures(JsonMessage, frozen=True, tag="list"):
    """Ask which of the peer's captures run now; root sees everybody's."""


class WhoAmI(JsonMessage, frozen=True, tag="whoami"):
    """Ask what policy lets the peer do."""


class ListInterfaces(JsonMessage, frozen=True, tag="list_interfaces"):
    """Ask for all devices that libpcap can capture on."""


class GetCapabilities(JsonMessage, frozen=True, tag="get_capabilities"):
    """Ask what one interface can do, as libpcap knows only after opening it."""

    interface: str
    #: As it would be in monitor mode.
    monitor_mode: bool = False


class GetDriverCounters(JsonMessage, frozen=True, tag="get_driver_counters"):
    """Ask for the counters that an interface's driver keeps itself."""

    interface: str


class StartSending(JsonMessage, frozen=True, tag="send"):
    """Send frames on one interface, until the connection closes.

    Where it is granted, ``Sending`` comes, and at the end ``SendingEnded``.
    """

    interface: str


class OpenDevice(JsonMessage, frozen=True, tag="open_device"):
    """Have a device of a capture module opened with the daemon's privileges, until the connection closes.

    Where it is granted, ``DeviceOpened`` comes, and at the end ``DeviceEnded``.

    Attributes:
        interface: the device, and how to capture from it; ``is_stream``.
    """

    interface: InterfaceRequest


class WatchInterfaces(JsonMessage, frozen=True, tag="watch_interfaces"):
    """Ask for reports of what happens to interfaces, until the connection closes."""


class WatchStatistics(JsonMessage, frozen=True, tag="watch_statistics"):
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
    | StartSending
    | OpenDevice
    | WatchInterfaces
    | WatchStatistics
)
