"""Replies: one answer of the daemon to each request."""

from datetime import datetime
from typing import Literal

from capd_protocol.messages.base import JsonMessage
from capd_protocol.messages.failures import Failure
from capd_protocol.messages.interfaces import InterfaceInfo, LinkLayer, TimestampType
from capd_protocol.times import datetime_of


class DirectoryWanted(JsonMessage, frozen=True, tag="directory_wanted"):
    """The capture begins, and wants the directory for its files.

    Comes with one descriptor: a socket (SOCK_SEQPACKET) that leads to the capture's process, past the daemon, which
    takes no descriptor from a client. The client sends one message there, of at least one byte, with a descriptor that
    names the directory (O_PATH | O_DIRECTORY). With ``pass_files`` each file comes on it before it is announced: its
    name, and with it a descriptor that is open for reading.
    """


class Started(JsonMessage, frozen=True, tag="started"):
    """The rings are armed and the first file has its header."""

    capture_id: int
    #: As they were asked for; the default interface by its name.
    interfaces: tuple[str, ...] = ()


class Stopping(JsonMessage, frozen=True, tag="stopping"):
    """The capture was asked to end; connections that follow it carry its last events.

    On a connection that has no part in the capture it comes when the capture has ended.
    """


class Rotated(JsonMessage, frozen=True, tag="rotated"):
    """The next file has its header."""

    file_name: str


class Flushed(JsonMessage, frozen=True, tag="flushed"):
    """What was asked for is in the file; a connection that follows the capture has its events by now."""


class SnapshotTaken(JsonMessage, frozen=True, tag="snapshot_taken"):
    """The snapshot is a complete file."""

    file_name: str


class Refused(JsonMessage, frozen=True, tag="refused"):
    """Nothing was done, and nothing of it remains.

    Attributes:
        failure: why.
    """

    failure: Failure


class CaptureSummary(JsonMessage, frozen=True):
    """One line of the list of captures.

    Attributes:
        capture_id: the daemon's number for it.
        user_id: of its owner.
        interfaces: names and patterns, as they were asked for.
        file_name: what its files are named after, without a directory.
        started_ns: when it began, since 1970-01-01 00:00 UTC.
        files_total: files opened so far.
        packets_total: packets in the files so far.
        drops_total: packets lost so far.
        name: what its owner calls it; None where it has no name.
        is_contained: whether ``user_id`` is that of a container's user, which says nothing about this machine's.
        directory: where its files go, to be shown: as it was called when the capture began, in the mount namespace of
            whoever began it; None where that is not known, or too long.
        is_waiting: whether no interface is there now, and it goes on until one comes.
        is_recorder: whether it keeps its packets in memory until it is asked for a snapshot.
    """

    capture_id: int
    user_id: int
    interfaces: tuple[str, ...]
    file_name: str
    started_ns: int
    files_total: int
    packets_total: int
    drops_total: int
    name: str | None = None
    is_contained: bool = False
    directory: str | None = None
    is_waiting: bool = False
    is_recorder: bool = False

    @property
    def started(self) -> datetime:
        """``started_ns`` as a datetime in UTC, which keeps only microseconds."""
        return datetime_of(self.started_ns)


class Attached(JsonMessage, frozen=True, tag="attached"):
    """This connection follows the capture from now on; its current file and counters come first.

    To ``AttachCapture`` it comes with one descriptor: a socket (SOCK_SEQPACKET) that leads to the capture's process.
    The current file comes there, if there is one: its name, and with it a descriptor that is open for reading. A name
    that the client sends, of the capture's files or of its ring's index, is answered in the same way; without a
    descriptor, where there is no such file.
    """

    capture: CaptureSummary
    file_format: Literal["pcapng", "pcap"]
    is_ring: bool
    #: Announced before; further ones come as events.
    packets_total: int
    #: Of the files before the current one, those that the ring has deleted too.
    closed_bytes_total: int


class CaptureList(JsonMessage, frozen=True, tag="captures"):
    """The captures that the peer may see, oldest first, or a part of them."""

    captures: tuple[CaptureSummary, ...]
    #: No further part follows.
    is_last: bool


class RevokedCapture(JsonMessage, frozen=True):
    """A capture that is revoked, or is kept since nobody knows now whether it should be.

    Attributes:
        capture_id: the daemon's number for it.
        user_id: of its owner.
        why: some words for people.
        name: what its owner calls it; None where it has no name.
        is_contained: as in the list.
    """

    capture_id: int
    user_id: int
    why: str
    name: str | None = None
    is_contained: bool = False


class RevokedSender(JsonMessage, frozen=True):
    """A client that sent packets, and is kept from it, or is not since nobody knows now whether it should be.

    Attributes:
        user_id: its user.
        interface: on which it sent.
        why: some words for people.
        is_contained: as in the list.
    """

    user_id: int
    interface: str
    why: str
    is_contained: bool = False


class RevokedDevice(JsonMessage, frozen=True):
    """A device that was open for a client, and is taken from it, or is not since nobody knows now whether it should be.

    Attributes:
        user_id: of the client.
        device: its name.
        why: some words for people.
        is_contained: as in the list.
    """

    user_id: int
    device: str
    why: str
    is_contained: bool = False


class Revoked(JsonMessage, frozen=True, tag="revoked"):
    """What has been revoked, or with ``dry_run`` would be, oldest first; or a part of it.

    What was revoked receives nothing more; its last events, and the end of its files, are on their way.
    """

    ended: tuple[RevokedCapture, ...]
    #: The groups of their users are not known now: ask again, or name the users.
    kept: tuple[RevokedCapture, ...]
    #: No further part follows.
    is_last: bool
    #: The same of clients that send: oldest first, all in the last part.
    senders_ended: tuple[RevokedSender, ...] = ()
    senders_kept: tuple[RevokedSender, ...] = ()
    #: And of devices of capture modules.
    devices_ended: tuple[RevokedDevice, ...] = ()
    devices_kept: tuple[RevokedDevice, ...] = ()


class SendPermission(JsonMessage, frozen=True):
    """What one rule of the policy lets the peer send.

    Attributes:
        interfaces: patterns of names; the loopback interface is matched by its own name alone.
        max_pps: packets a second; None: as many as the interface takes.
        source_macs: source addresses that frames may have beside the interface's own; ``*`` among them: any.
    """

    interfaces: tuple[str, ...]
    max_pps: int | None
    source_macs: tuple[str, ...]


class Permission(JsonMessage, frozen=True):
    """What one rule of the policy lets the peer do; None: as much as there is.

    Attributes:
        rule: its name in the configuration.
        interfaces: patterns of names.
        filter: only packets that match it are captured; empty: all.
        max_snaplen_bytes: no packet is kept longer.
        promiscuous: whether packets for others may be captured.
        monitor_mode: whether all that a radio hears may be captured.
        max_captures: at once.
        max_disk_bytes: in files at once.
        max_duration_s: of a capture.
        send: what may be sent; None: nothing.
        devices: patterns of names of capture modules' devices that the daemon opens.
    """

    rule: str
    interfaces: tuple[str, ...]
    filter: str
    max_snaplen_bytes: int
    promiscuous: bool
    monitor_mode: bool
    max_captures: int | None
    max_disk_bytes: int | None
    max_duration_s: float | None
    send: SendPermission | None = None
    devices: tuple[str, ...] = ()


class Permissions(JsonMessage, frozen=True, tag="permissions"):
    """Who the peer is to the kernel, and what it may do: on each interface, what the first fitting rule allows.

    Attributes:
        user_id: to the kernel.
        group_ids: to the kernel.
        permissions: what each rule allows, in their order.
        advice: whom to ask for more, as the end of a sentence.
        is_contained: whether it came by the containers' socket, so that the ids are nobody's of the daemon's machine.
    """

    user_id: int
    group_ids: tuple[int, ...]
    permissions: tuple[Permission, ...]
    advice: str
    is_contained: bool = False

    @property
    def devices(self) -> tuple[str, ...]:
        """Patterns of names of the devices that the daemon opens for the peer, by any rule."""
        return tuple(dict.fromkeys(each for permission in self.permissions for each in permission.devices))


class InterfaceList(JsonMessage, frozen=True, tag="interfaces"):
    """The devices, or a part of them, in libpcap's order."""

    interfaces: tuple[InterfaceInfo, ...]
    #: No further part follows.
    is_last: bool


class Capabilities(JsonMessage, frozen=True, tag="capabilities"):
    """What one interface can do.

    Attributes:
        can_rfmon: whether it has a monitor mode.
        link_layers: its link-layer types, the default first.
        timestamp_types: its sources of timestamps.
    """

    can_rfmon: bool
    link_layers: tuple[LinkLayer, ...]
    timestamp_types: tuple[TimestampType, ...]


class DriverCounters(JsonMessage, frozen=True, tag="driver_counters"):
    """An interface's own counters by its driver's names; empty where it keeps none."""

    counters: dict[str, int]


class Sending(JsonMessage, frozen=True, tag="sending"):
    """Frames can be sent.

    Comes with one descriptor: a socket (SOCK_SEQPACKET) that leads to the process that sends, past the daemon. What
    goes over it is in ``capd_protocol.sending``.
    """

    #: The interface's own name.
    interface: str
    #: Under which rule.
    rule: str
    #: The longest frame that it takes, less a VLAN tag of 4 bytes.
    max_frame_bytes: int
    #: As the rule has it.
    max_pps: int | None
    #: The interface's own, if it has one, and what the rule allows beside it; ``*`` among them: any.
    source_macs: tuple[str, ...]


class DeviceOpened(JsonMessage, frozen=True, tag="device_opened"):
    """The device is captured from.

    Comes with one descriptor: a pipe, on which its packets come as pcapng.
    """

    #: Under which rule.
    rule: str


class Watching(JsonMessage, frozen=True, tag="watching"):
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
    | Sending
    | DeviceOpened
    | Watching
)
