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


class Link(JsonMessage, frozen=True):
    """A network interface, as the kernel describes it. What is not known is None."""

    index: int
    name: str
    loopback: bool
    is_up: bool
    #: As ``ip link`` shows it, in lower case: up, down, lowerlayerdown, unknown …
    state: str
    mtu: int
    #: ``ARPHRD_…`` (linux/if_arp.h).
    hardware_type: int
    mac_address: str | None = None
    #: Of a virtual interface: veth, bridge, vlan, tun …
    kind: str | None = None
    #: The interface that it is bound to: its index, which is in that namespace if one is named.
    bound_to_index: int | None = None
    #: How the kernel numbers the other network namespace that ``bound_to_index`` is in; None: it is in this one.
    bound_to_namespace: int | None = None
    #: Index of the bridge or bond that it belongs to.
    master_index: int | None = None
    #: What an administrator called it.
    alias: str = ""
    #: Without prefix lengths, in the kernel's order.
    addresses: tuple[str, ...] = ()


class InterfaceInfo(JsonMessage, frozen=True):
    """A device that libpcap can capture on."""

    name: str
    #: Position in libpcap's order, from 1.
    number: int
    #: libpcap's words, mostly for what is no network interface.
    description: str = ""
    interface_type: int = InterfaceType.WIRED
    loopback: bool = False
    addresses: tuple[str, ...] = ()
    #: None for what is no network interface; then nothing of what follows is known either.
    link: Link | None = None
    speed_bits_per_s: int | None = None
    driver: str | None = None
    #: Where on its bus the device is, as ethtool says.
    bus: str | None = None
    #: The daemon's, as in ``readlink /proc/PID/ns/net``.
    network_namespace: str | None = None
    #: Whether policy lets the one who asked capture there.
    may_capture: bool = False


class LinkLayer(JsonMessage, frozen=True):
    """A link-layer type that an interface can be captured with."""

    dlt: int
    name: str
    description: str


class TimestampType(JsonMessage, frozen=True):
    """A source of timestamps that libpcap offers for an interface."""

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
    """What the kernel has counted on one interface (struct rtnl_link_stats64), since a beginning."""

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
