"""Values about interfaces: links, capabilities, counters."""

import enum

import msgspec

from capd_protocol.messages.base import JsonMessage


class InterfaceType(enum.IntEnum):
    """Kinds of interfaces by dumpcap's numbers (Wireshark, ``capture/capture_ifinfo.h``, as of wirepy)."""

    WIRED = 0
    AIRPCAP = 1
    PIPE = 2
    STDIN = 3
    BLUETOOTH = 4
    WIRELESS = 5
    DIALUP = 6
    USB = 7
    VIRTUAL = 8
    #: An extcap program's. Later versions of Wireshark have 8 for these, which is wirepy's number for something else.
    EXTCAP = 9
    #: A capture module's: a number of our own.
    MODULE = 10


class Link(JsonMessage, frozen=True):
    """A network interface, as the kernel describes it. What is not known is None.

    Attributes:
        index: the kernel's number for it.
        name: what ``CaptureSession`` takes.
        loopback: whether it is the loopback interface.
        is_up: whether an administrator has brought it up.
        state: as ``ip link`` shows it, in lower case: up, down, lowerlayerdown, unknown …
        mtu: bytes of the largest packet, without the link-layer header.
        hardware_type: ``ARPHRD_…`` (linux/if_arp.h).
        mac_address: as text, with colons.
        kind: of a virtual interface: veth, bridge, vlan, tun …
        bound_to_index: of the interface that it is bound to; in ``bound_to_namespace``, if that is known.
        bound_to_namespace: how the kernel numbers the other network namespace that ``bound_to_index`` is in; None: it
            is in this one.
        master_index: of the bridge or bond that it belongs to.
        alias: what an administrator called it; may be empty.
        addresses: without prefix lengths, in the kernel's order.
    """

    index: int
    name: str
    loopback: bool
    is_up: bool
    state: str
    mtu: int
    hardware_type: int
    mac_address: str | None = None
    kind: str | None = None
    bound_to_index: int | None = None
    bound_to_namespace: int | None = None
    master_index: int | None = None
    alias: str = ""
    addresses: tuple[str, ...] = ()


class MissingRight(enum.StrEnum):
    """What somebody would need to capture on an interface, and has not."""

    #: Of policy, that names the user and the interface.
    RULE = "rule"
    #: Of the process, where it has a private daemon, which can do no more than it.
    CAP_NET_RAW = "CAP_NET_RAW"
    #: Of the process, in its network namespace.
    CAP_NET_ADMIN = "CAP_NET_ADMIN"
    #: To be root.
    ROOT = "root"


class InterfaceInfo(JsonMessage, frozen=True):
    """A device that libpcap can capture on.

    Attributes:
        name: what ``CaptureSession`` takes.
        number: position in libpcap's order, from 1; 0 where it is not libpcap's.
        description: libpcap's words, mostly for what is no network interface.
        interface_type: one of ``InterfaceType``.
        loopback: whether it is the loopback interface.
        addresses: IPv4 and IPv6 addresses, as text.
        link: None for what is no network interface; then nothing of what follows is known either.
        speed_bits_per_s: None where it is not known.
        driver: its driver's name.
        bus: where on its bus the device is, as ethtool says.
        network_namespace: the daemon's, as in ``readlink /proc/PID/ns/net``.
        may_capture: whether the one who asked can capture there.
        needs: which right that one lacks for it; None: none, or this is nothing that capd ever captures on.
    """

    name: str
    number: int
    description: str = ""
    interface_type: int = InterfaceType.WIRED
    loopback: bool = False
    addresses: tuple[str, ...] = ()
    link: Link | None = None
    speed_bits_per_s: int | None = None
    driver: str | None = None
    bus: str | None = None
    network_namespace: str | None = None
    may_capture: bool = False
    needs: MissingRight | None = None


class LinkLayer(JsonMessage, frozen=True):
    """A link-layer type that an interface can be captured with.

    Attributes:
        dlt: its ``DLT_`` number on Linux.
        name: such as ``EN10MB``.
        description: a few words for people.
    """

    dlt: int
    name: str
    description: str


class TimestampType(JsonMessage, frozen=True):
    """A source of timestamps that libpcap offers for an interface.

    Attributes:
        name: such as ``host`` or ``adapter``.
        description: a few words for people.
    """

    name: str
    description: str


class InterfaceChange(enum.StrEnum):
    """What happened to an interface."""

    ADDED = "added"
    REMOVED = "removed"
    RENAMED = "renamed"
    UP = "up"
    DOWN = "down"
    CHANGED = "changed"


class InterfaceCounts(msgspec.Struct, frozen=True, array_like=True, kw_only=True, repr_omit_defaults=True):
    """What the kernel has counted on one interface (struct rtnl_link_stats64), since a beginning.

    Attributes:
        name: of the interface.
        rx_packets: received.
        tx_packets: sent.
        rx_bytes: received.
        tx_bytes: sent.
        rx_errors: bad packets that were received.
        tx_errors: packets that could not be sent.
        rx_dropped: received, and dropped by the kernel.
        tx_dropped: dropped by the kernel before they were sent.
        multicast: of those received, multicast.
        rx_missed_errors: dropped by the device for lack of room.
        rx_fifo_errors: lost for an overrun of the device.
        tx_fifo_errors: not sent for an underrun of the device.
    """

    name: str
    rx_packets: int = 0
    tx_packets: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_errors: int = 0
    tx_errors: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0
    multicast: int = 0
    rx_missed_errors: int = 0
    rx_fifo_errors: int = 0
    tx_fifo_errors: int = 0
