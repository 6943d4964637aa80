"""Events: what the daemon sends of a capture, or of interfaces, that dumpcap has no word for."""

import enum
from datetime import datetime

from capd_protocol.messages.base import JsonMessage
from capd_protocol.messages.failures import Failure
from capd_protocol.messages.interfaces import InterfaceChange, InterfaceCounts, Link
from capd_protocol.times import datetime_of


class InterfaceCounters(JsonMessage, frozen=True):
    """What became of the packets of one interface.

    Always, once the capture has ended:
    ``received_total == written_total + kernel_drops_total + writer_drops_total + excess_total``.

    Attributes:
        interface: its name.
        received_total: passed the filter, lost or not (the kernel's ``tp_packets``).
        written_total: in the files.
        kernel_drops_total: no room in the ring: the worker or the disk was too slow.
        writer_drops_total: captured, but the file could not be written.
        excess_total: captured after a limit had ended the capture (autostop): on purpose in no file.
    """

    interface: str
    received_total: int = 0
    written_total: int = 0
    kernel_drops_total: int = 0
    writer_drops_total: int = 0
    excess_total: int = 0

    @property
    def drops_total(self) -> int:
        """What is missing in the files, and should be there."""
        return self.kernel_drops_total + self.writer_drops_total


class Counters(JsonMessage, frozen=True, tag="counters"):
    """Where the capture stands: before its first file, and at each tick in which something changed."""

    #: In the current file, headers included.
    file_size_bytes: int
    interfaces: tuple[InterfaceCounters, ...]
    #: What all files that are kept take.
    disk_bytes: int = 0
    #: No interface is there now, and the capture goes on until one comes.
    is_waiting: bool = False


class FileClosed(JsonMessage, frozen=True, tag="file_closed"):
    """A file is complete: statistics at its end, nothing will be added.

    Attributes:
        name: its path; in the protocol, its name.
        packets: how many it has.
        size_bytes: of the whole file.
        first_timestamp_ns: of its packets, the earliest, since 1970-01-01 00:00 UTC; None in a file without packets.
        last_timestamp_ns: of its packets, the latest; None in a file without packets.
        drops: packets dropped while it was the current file, of all interfaces.
    """

    name: str
    packets: int
    size_bytes: int
    first_timestamp_ns: int | None
    last_timestamp_ns: int | None
    drops: int

    @property
    def first_timestamp(self) -> datetime | None:
        """``first_timestamp_ns`` as a datetime in UTC, which keeps only microseconds."""
        return datetime_of(self.first_timestamp_ns)

    @property
    def last_timestamp(self) -> datetime | None:
        """``last_timestamp_ns`` as a datetime in UTC, which keeps only microseconds."""
        return datetime_of(self.last_timestamp_ns)


class DeletionReason(enum.StrEnum):
    """Which limit of a ring was the reason to delete its oldest file."""

    FILES = "files"  #: as many as it may have
    TOTAL = "total"  #: as many bytes as it may have
    AGE = "age"
    FREE_SPACE = "free_space"  #: others may have taken it
    POLICY = "policy"  #: as many bytes as the user may have


class FileDeleted(JsonMessage, frozen=True, tag="file_deleted"):
    """The oldest file of a ring was deleted, as its limits demand.

    Attributes:
        name: its path; in the protocol, its name.
        reason: which limit demanded it.
        size_bytes: how much room that made.
    """

    name: str
    reason: DeletionReason
    size_bytes: int


class InterfaceLost(JsonMessage, frozen=True, tag="interface_lost"):
    """An interface is gone, or a stream has ended; the capture goes on with the others, if there are any.

    Attributes:
        interface: its name.
        text: what has become of it, in words.
    """

    interface: str
    text: str = ""


class InterfaceAttached(JsonMessage, frozen=True, tag="interface_attached"):
    """An interface has come, or come back: its packets are in the capture from now on.

    Attributes:
        interface: its name.
    """

    interface: str


class InterfaceSkipped(JsonMessage, frozen=True, tag="interface_skipped"):
    """An interface that belongs to the capture cannot be in it; the text gives the reason.

    Attributes:
        interface: its name.
        text: why, as a sentence.
    """

    interface: str
    text: str


class Recording(JsonMessage, frozen=True, tag="recording"):
    """A recorder runs: its rings are armed. It has no file until it writes a snapshot.

    Attributes:
        memory_bytes: how much it may keep.
        duration_s: how long it keeps a packet; None: as long as there is room.
    """

    memory_bytes: int
    duration_s: float | None


class TriggerReason(enum.StrEnum):
    """What has made a recorder write a snapshot of its own accord."""

    FILTER = "filter"  #: a packet that matches
    RATE = "rate"  #: so many packets within a second
    LINK_DOWN = "link_down"  #: an interface went down or away, or has lost its link


class Triggered(JsonMessage, frozen=True, tag="triggered"):
    """A recorder begins with a snapshot of its own accord. Its file is announced as any other.

    Attributes:
        reason: what has triggered it.
        interface: where; None where it is about all of them.
    """

    reason: TriggerReason
    interface: str | None = None


class TriggersIgnored(JsonMessage, frozen=True, tag="triggers_ignored"):
    """While a triggered snapshot was written, and in the cool-down after it, triggers came that began no other.

    Attributes:
        triggers: packets that match the filter, seconds with too many packets, links that went down.
    """

    triggers: int


class SnapshotFailed(JsonMessage, frozen=True, tag="snapshot_failed"):
    """What was triggered was not written, or not all of it; the recorder goes on.

    Attributes:
        failure: why.
    """

    failure: Failure


class Lagged(JsonMessage, frozen=True, tag="lagged"):
    """This client read too slowly: so many events were not kept for it. Counts were merged, none is missing.

    Attributes:
        events: how many.
    """

    events: int


class Failed(JsonMessage, frozen=True, tag="failed"):
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
    #: Every stream that it was on has come to its end.
    SOURCE_ENDED = "source_ended"
    FAILED = "failed"


class Ended(JsonMessage, frozen=True, tag="ended"):
    """The last event of a capture.

    Attributes:
        reason: why it ended.
        interfaces: where each interface's packets are, in the order of the session's interfaces.
    """

    reason: EndReason
    interfaces: tuple[InterfaceCounters, ...]


class InterfaceSnapshot(JsonMessage, frozen=True, tag="interface_snapshot"):
    """All network interfaces, or a part of them: at the beginning, and when a watcher was too slow for changes."""

    links: tuple[Link, ...]
    is_first: bool
    is_last: bool


class InterfaceEvent(JsonMessage, frozen=True, tag="interface_event"):
    """Something happened to an interface; ``link`` is how it is now, or how it was last."""

    change: InterfaceChange
    link: Link
    #: With ``renamed``.
    former_name: str | None = None


class Statistics(JsonMessage, frozen=True, tag="statistics"):
    """A tick, or a part of it: the counts that have changed since the last one, as totals since the beginning."""

    counts: tuple[InterfaceCounts, ...]
    #: Names of interfaces that are no longer there.
    gone: tuple[str, ...]
    #: No further part follows.
    is_last: bool


class SendingEnded(JsonMessage, frozen=True, tag="sending_ended"):
    """Nothing more is sent."""

    #: Since the beginning. Of a process that died, as far as it has reported.
    sent_total: int
    refused_total: int
    #: Why; None: the client has ended it.
    failure: Failure | None = None


class DeviceEnded(JsonMessage, frozen=True, tag="device_ended"):
    """No more packets come from the device, once those that are in the pipe have been read."""

    #: Why; None: nobody reads them any more.
    failure: Failure | None = None


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
    | TriggersIgnored
    | Lagged
    | Failed
    | Ended
    | InterfaceSnapshot
    | InterfaceEvent
    | Statistics
    | SendingEnded
    | DeviceEnded
)
