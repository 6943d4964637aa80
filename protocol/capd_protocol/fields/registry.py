"""All fields there are: their names and types, as Wireshark has them, and where in a packet each stands.

A new field is a new line. Pure.
"""

import difflib
from collections.abc import Iterable
from typing import Final, NamedTuple

from capd_protocol.fields.types import Base, FieldType


class UnknownFieldError(ValueError):
    """No field of this name can be had.

    Attributes:
        name: what was asked for.
        near: names of fields that there are, and that resemble it.
    """

    def __init__(self, name: str, near: tuple[str, ...]) -> None:
        super().__init__(name)
        self.name = name
        self.near = near


class At(NamedTuple):
    """A place in each layer of a kind.

    Attributes:
        kind: of layers, or of parts of layers; see ``Walk``.
        offset: in the layer, in bytes.
        width: in bytes; 0: that of the field's type.
        mask: which bits; 0: all of them.
        times: what the number is counted in.
        number: instead of what stands there, a number that was worked out, of this name.
        needs: bytes of the layer that must have been captured; 0: those up to the end of the place.
    """

    kind: str
    offset: int = 0
    width: int = 0
    mask: int = 0
    times: int = 1
    number: str = ""
    needs: int = 0


class Field:
    """A field.

    Attributes:
        name: Wireshark's.
        type: Wireshark's, too.
    """

    name: str
    type: FieldType

    def __init__(
        self, name: str, type_: FieldType, places: tuple[At, ...], base: Base = Base.DECIMAL, frame: str = ""
    ) -> None:
        """Describe a field.

        Args:
            name: of the field.
            type_: of its values.
            places: where it stands; of several, the first occurrence is that in the first of them.
            base: how numbers of it are shown.
            frame: what of a packet's record it is, rather than of its bytes.
        """
        self.name = name
        self.type = type_
        self.places = places
        self.base = base
        self.frame = frame

    def __repr__(self) -> str:
        """Return its name and type."""
        return f"<Field {self.name}, {self.type.wireshark_name}>"

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers or flags, and mean them: addresses do not."""
        return self.type.dtype.kind in "ui?b" and self.type is not FieldType.IPV4


_U8, _U16, _U24, _U32 = FieldType.UINT8, FieldType.UINT16, FieldType.UINT24, FieldType.UINT32
_BOOL, _IPV4, _IPV6, _ETHER = FieldType.BOOLEAN, FieldType.IPV4, FieldType.IPV6, FieldType.ETHER
_HEX = Base.HEXADECIMAL
#: In bytes, of what stands in packets.
WIDTHS: Final = {_U8: 1, _U16: 2, _U24: 3, _U32: 4, _BOOL: 1, _IPV4: 4, _IPV6: 16, _ETHER: 6}


def _frame(name: str, type_: FieldType, what: str, base: Base = Base.DECIMAL) -> Field:
    return Field(name, type_, (), base, what)


def _one(name: str, type_: FieldType, kind: str, *place: int) -> Field:
    """Return a field with one place: an offset, a mask and a width."""
    offset, mask, width = (*place, 0, 0, 0)[:3]
    return Field(name, type_, (At(kind, offset, width, mask),))


def _hex(name: str, type_: FieldType, kind: str, *place: int) -> Field:
    """Return the same, of a number that is shown in hexadecimal."""
    return Field(name, type_, _one(name, type_, kind, *place).places, _HEX)


def _many(name: str, type_: FieldType, *places: At, base: Base = Base.DECIMAL) -> Field:
    return Field(name, type_, places, base)


_FRAME = (
    _frame("frame.number", _U32, "number"),
    _frame("frame.time", FieldType.ABSOLUTE_TIME, "time"),
    _frame("frame.time_epoch", FieldType.ABSOLUTE_TIME, "time", Base.EPOCH),
    _frame("frame.time_delta", FieldType.RELATIVE_TIME, "delta"),
    _frame("frame.time_relative", FieldType.RELATIVE_TIME, "relative"),
    _frame("frame.len", _U32, "original_size"),
    _frame("frame.cap_len", _U32, "captured_size"),
    _frame("frame.interface_id", _U32, "interface_id"),
    _frame("frame.interface_name", FieldType.STRING, "interface_name"),
)

_ETHERNET = (
    _one("eth.dst", _ETHER, "eth"),
    _one("eth.src", _ETHER, "eth", 6),
    _many("eth.addr", _ETHER, At("eth"), At("eth", 6)),
    _one("eth.dst.lg", _BOOL, "eth", 0, 0x02),
    _one("eth.dst.ig", _BOOL, "eth", 0, 0x01),
    _one("eth.src.lg", _BOOL, "eth", 6, 0x02),
    _one("eth.src.ig", _BOOL, "eth", 6, 0x01),
    _many("eth.lg", _BOOL, At("eth", 0, 1, 0x02), At("eth", 6, 1, 0x02)),
    _many("eth.ig", _BOOL, At("eth", 0, 1, 0x01), At("eth", 6, 1, 0x01)),
    _one("eth.dst.oui", _U24, "eth"),
    _one("eth.src.oui", _U24, "eth", 6),
    _many("eth.addr.oui", _U24, At("eth"), At("eth", 6)),
    _hex("eth.type", _U16, "eth.type", 12),
    _one("eth.len", _U16, "eth.len", 12),
    _hex("eth.invalid_lentype", _U16, "eth.invalid", 12),
    _one("vlan.priority", _U16, "vlan", 0, 0xE000),
    _one("vlan.dei", _BOOL, "vlan", 0, 0x1000, 2),
    _one("vlan.id", _U16, "vlan", 0, 0x0FFF),
    _hex("vlan.etype", _U16, "vlan.type", 2),
    _one("vlan.len", _U16, "vlan.len", 2),
    _one("ieee8021ad.priority", _U16, "ieee8021ad", 0, 0xE000),
    _one("ieee8021ad.dei", _U16, "ieee8021ad", 0, 0x1000),
    _one("ieee8021ad.id", _U16, "ieee8021ad.only", 0, 0x0FFF),
    _one("ieee8021ad.svid", _U16, "ieee8021ad.service", 0, 0x0FFF),
    _one("ieee8021ad.cvid", _U16, "ieee8021ad.customer", 0, 0x0FFF),
    _one("mpls.label", _U32, "mpls", 0, 0xFFFFF000),
    _one("mpls.exp", _U32, "mpls", 0, 0x00000E00),
    _one("mpls.bottom", _U32, "mpls", 0, 0x00000100),
    _one("mpls.ttl", _U32, "mpls", 0, 0x000000FF),
)

_OTHER_LINKS = (
    _many("null.family", _U32, At("null", 0, 4, number="family")),
    _many("sll.pkttype", _U16, At("sll", 0, needs=4), At("sll2", 10, 1)),
    _many("sll.hatype", _U16, At("sll", 2), At("sll2", 8)),
    _many("sll.halen", _U16, At("sll", 4), At("sll2", 11, 1)),
    _many("sll.src.eth", _ETHER, At("sll.eth", 6), At("sll2.eth", 12)),
    _many("sll.etype", _U16, At("sll.etype", 14), At("sll2.etype", 0), base=_HEX),
    _one("sll.ifindex", _U32, "sll2", 4),
)

_ARP = (
    _one("arp.hw.type", _U16, "arp"),
    _hex("arp.proto.type", _U16, "arp", 2),
    _one("arp.hw.size", _U8, "arp", 4),
    _one("arp.proto.size", _U8, "arp", 5),
    _one("arp.opcode", _U16, "arp", 6),
    _one("arp.src.hw_mac", _ETHER, "arp.src.hw"),
    _one("arp.src.proto_ipv4", _IPV4, "arp.src.proto"),
    _one("arp.dst.hw_mac", _ETHER, "arp.dst.hw"),
    _one("arp.dst.proto_ipv4", _IPV4, "arp.dst.proto"),
)

_IP = (
    _many("ip.version", _U8, At("ip.other", 0, 1, 0xF0), At("ip", 0, 1, 0xF0), At("ipv6", 0, 1, 0xF0)),
    _many("ip.hdr_len", _U8, At("ip", 0, 1, 0x0F, 4)),
    _hex("ip.dsfield", _U8, "ip.header", 1),
    _one("ip.dsfield.dscp", _U8, "ip.header", 1, 0xFC),
    _one("ip.dsfield.ecn", _U8, "ip.header", 1, 0x03),
    _many("ip.len", _U16, At("ip.length", 2, 2, number="length")),
    _hex("ip.id", _U16, "ip.rest", 4),
    _hex("ip.flags", _U8, "ip.rest", 6, 0xE000, 2),
    _one("ip.flags.rb", _BOOL, "ip.rest", 6, 0x8000, 2),
    _one("ip.flags.df", _BOOL, "ip.rest", 6, 0x4000, 2),
    _one("ip.flags.mf", _BOOL, "ip.rest", 6, 0x2000, 2),
    _one("ip.frag_offset", _U16, "ip.rest", 6, 0x1FFF),
    _one("ip.ttl", _U8, "ip.rest", 8),
    _one("ip.proto", _U8, "ip.rest", 9),
    _hex("ip.checksum", _U16, "ip.rest", 10),
    _one("ip.src", _IPV4, "ip.rest", 12),
    _one("ip.dst", _IPV4, "ip.dst", 16),
    _many("ip.addr", _IPV4, At("ip.rest", 12), At("ip.dst", 16)),
)

_IPV6_FIELDS = (
    _one("ipv6.version", _U8, "ipv6", 0, 0xF0),
    _hex("ipv6.tclass", _U32, "ipv6.rest", 0, 0x0FF00000),
    _one("ipv6.tclass.dscp", _U32, "ipv6.rest", 0, 0x0FC00000),
    _one("ipv6.tclass.ecn", _U32, "ipv6.rest", 0, 0x00300000),
    _hex("ipv6.flow", _U24, "ipv6.rest", 1, 0x0FFFFF),
    _many("ipv6.plen", _U16, At("ipv6.rest", 4, needs=7)),
    _one("ipv6.nxt", _U8, "ipv6.rest", 6),
    _one("ipv6.hlim", _U8, "ipv6.rest", 7),
    _one("ipv6.src", _IPV6, "ipv6.rest", 8),
    _one("ipv6.dst", _IPV6, "ipv6.rest", 24),
    _many("ipv6.addr", _IPV6, At("ipv6.rest", 8), At("ipv6.rest", 24)),
    _one("ipv6.hopopts.nxt", _U8, "hopopts"),
    _one("ipv6.hopopts.len", _U8, "hopopts", 1),
    _one("ipv6.dstopts.nxt", _U8, "dstopts"),
    _one("ipv6.dstopts.len", _U8, "dstopts", 1),
    _one("ipv6.routing.nxt", _U8, "routing"),
    _one("ipv6.routing.len", _U8, "routing", 1),
    _one("ipv6.routing.type", _U8, "routing", 2),
    _one("ipv6.routing.segleft", _U8, "routing", 3),
    _one("ipv6.fraghdr.nxt", _U8, "fraghdr"),
    _hex("ipv6.fraghdr.reserved_octet", _U8, "fraghdr", 1),
    _one("ipv6.fraghdr.offset", _U16, "fraghdr", 2, 0xFFF8),
    _one("ipv6.fraghdr.reserved_bits", _U16, "fraghdr", 2, 0x0006),
    _one("ipv6.fraghdr.more", _BOOL, "fraghdr", 2, 0x0001, 2),
    _hex("ipv6.fraghdr.ident", _U32, "fraghdr", 4),
    _one("ah.next_header", _U8, "ah"),
    _one("ah.length", _U8, "ah", 1),
    _hex("ah.spi", _U32, "ah", 4),
    _one("ah.sequence", _U32, "ah", 8),
)

_TUNNELS = (
    _hex("gre.flags_and_version", _U16, "gre"),
    _one("gre.flags.checksum", _BOOL, "gre", 0, 0x8000, 2),
    _one("gre.flags.routing", _BOOL, "gre", 0, 0x4000, 2),
    _one("gre.flags.key", _BOOL, "gre", 0, 0x2000, 2),
    _one("gre.flags.sequence_number", _BOOL, "gre", 0, 0x1000, 2),
    _one("gre.flags.strict_source_route", _BOOL, "gre", 0, 0x0800, 2),
    _one("gre.flags.recursion_control", _U16, "gre", 0, 0x0700),
    _one("gre.flags.version", _U16, "gre", 0, 0x0007),
    _hex("gre.proto", _U16, "gre", 2),
    _hex("gre.checksum", _U16, "gre.checksum"),
    _one("gre.offset", _U16, "gre.checksum", 2),
    _hex("gre.key", _U32, "gre.key"),
    _one("gre.sequence_number", _U32, "gre.sequence"),
)

_ICMP = (
    _one("icmp.type", _U8, "icmp"),
    _one("icmp.code", _U8, "icmp", 1),
    _hex("icmp.checksum", _U16, "icmp", 2),
    _one("icmp.ident", _U16, "icmp.ident", 4),
    _one("icmp.seq", _U16, "icmp.seq", 6),
    _one("icmp.mtu", _U16, "icmp.mtu", 6),
    _one("icmp.redir_gw", _IPV4, "icmp.redirect", 4),
    _one("icmp.originate_timestamp", _U32, "icmp.stamps", 8),
    _one("icmp.receive_timestamp", _U32, "icmp.stamps", 12),
    _one("icmp.transmit_timestamp", _U32, "icmp.stamps", 16),
    _one("icmpv6.type", _U8, "icmpv6"),
    _one("icmpv6.code", _U8, "icmpv6", 1),
    _hex("icmpv6.checksum", _U16, "icmpv6", 2),
    _hex("icmpv6.echo.identifier", _U16, "icmpv6.echo", 4),
    _one("icmpv6.echo.sequence_number", _U16, "icmpv6.echo", 6),
    _one("icmpv6.mtu", _U32, "icmpv6.mtu", 4),
    _one("icmpv6.pointer", _U32, "icmpv6.pointer", 4),
    _one("icmpv6.nd.ra.cur_hop_limit", _U8, "icmpv6.ra", 4),
    _hex("icmpv6.nd.ra.flag", _U8, "icmpv6.ra", 5),
    _one("icmpv6.nd.ra.flag.m", _BOOL, "icmpv6.ra", 5, 0x80),
    _one("icmpv6.nd.ra.flag.o", _BOOL, "icmpv6.ra", 5, 0x40),
    _one("icmpv6.nd.ra.router_lifetime", _U16, "icmpv6.ra", 6),
    _one("icmpv6.nd.ra.reachable_time", _U32, "icmpv6.ra", 8),
    _one("icmpv6.nd.ra.retrans_timer", _U32, "icmpv6.ra", 12),
    _one("icmpv6.nd.ns.target_address", _IPV6, "icmpv6.ns", 8),
    _hex("icmpv6.nd.na.flag", _U32, "icmpv6.na", 4),
    _one("icmpv6.nd.na.flag.r", _BOOL, "icmpv6.na", 4, 0x80000000, 4),
    _one("icmpv6.nd.na.flag.s", _BOOL, "icmpv6.na", 4, 0x40000000, 4),
    _one("icmpv6.nd.na.flag.o", _BOOL, "icmpv6.na", 4, 0x20000000, 4),
    _one("icmpv6.nd.na.target_address", _IPV6, "icmpv6.na", 8),
    _one("icmpv6.nd.rd.target_address", _IPV6, "icmpv6.rd", 8),
    _one("icmpv6.rd.na.destination_address", _IPV6, "icmpv6.rd", 24),
)

_UDP = (
    _one("udp.srcport", _U16, "udp"),
    _one("udp.dstport", _U16, "udp", 2),
    _many("udp.port", _U16, At("udp"), At("udp", 2)),
    _many("udp.length", _U16, At("udp.plain", 4), At("udp.lite", 4, number="length")),
    _hex("udp.checksum", _U16, "udp.checksum", 6),
)

_TCP = (
    _one("tcp.srcport", _U16, "tcp"),
    _one("tcp.dstport", _U16, "tcp", 2),
    _many("tcp.port", _U16, At("tcp"), At("tcp", 2)),
    _one("tcp.seq_raw", _U32, "tcp.seq", 4),
    _one("tcp.ack_raw", _U32, "tcp.rest", 8),
    _many("tcp.hdr_len", _U8, At("tcp.offset", 12, 1, number="header_bytes")),
    _many("tcp.len", _U32, At("tcp.length", 12, 1, number="length")),
    _hex("tcp.flags", _U16, "tcp.rest", 12, 0x0FFF),
    _one("tcp.flags.res", _BOOL, "tcp.rest", 12, 0x0E),
    _one("tcp.flags.ae", _BOOL, "tcp.rest", 12, 0x01),
    _one("tcp.flags.cwr", _BOOL, "tcp.rest", 13, 0x80),
    _one("tcp.flags.ece", _BOOL, "tcp.rest", 13, 0x40),
    _one("tcp.flags.urg", _BOOL, "tcp.rest", 13, 0x20),
    _one("tcp.flags.ack", _BOOL, "tcp.rest", 13, 0x10),
    _one("tcp.flags.push", _BOOL, "tcp.rest", 13, 0x08),
    _one("tcp.flags.reset", _BOOL, "tcp.rest", 13, 0x04),
    _one("tcp.flags.syn", _BOOL, "tcp.rest", 13, 0x02),
    _one("tcp.flags.fin", _BOOL, "tcp.rest", 13, 0x01),
    _one("tcp.window_size_value", _U16, "tcp.rest", 14),
    _hex("tcp.checksum", _U16, "tcp.rest", 16),
    _one("tcp.urgent_pointer", _U16, "tcp.rest", 18),
    _one("tcp.option_kind", _U8, "tcp.options.kind"),
    _one("tcp.option_len", _U8, "tcp.options.length", 1),
    _one("tcp.options.mss_val", _U16, "tcp.options.mss", 2),
    _one("tcp.options.wscale.shift", _U8, "tcp.options.wscale", 2),
    _one("tcp.options.timestamp.tsval", _U32, "tcp.options.timestamp", 2),
    _one("tcp.options.timestamp.tsecr", _U32, "tcp.options.timestamp", 6),
    _many("tcp.options.sack.count", _U8, At("tcp.options.sack", 1, 1, number="blocks")),
    _one("tcp.options.sack_le", _U32, "tcp.options.sack.block", 0),
    _one("tcp.options.sack_re", _U32, "tcp.options.sack.block", 4),
)

#: All fields, by their names.
FIELDS: Final[dict[str, Field]] = {
    field.name: field
    for part in (_FRAME, _ETHERNET, _OTHER_LINKS, _ARP, _IP, _IPV6_FIELDS, _TUNNELS, _ICMP, _UDP, _TCP)
    for field in part
}

#: What people ask for first, and what there is instead: these would need whole conversations, or names of hosts.
_INSTEAD: Final = {
    "tcp.seq": ("tcp.seq_raw",),
    "tcp.ack": ("tcp.ack_raw",),
    "tcp.window_size": ("tcp.window_size_value",),
    "frame.time_delta_displayed": ("frame.time_delta",),
    "ip.src_host": ("ip.src",),
    "ip.dst_host": ("ip.dst",),
    "ip.host": ("ip.addr",),
    "ipv6.src_host": ("ipv6.src",),
    "ipv6.dst_host": ("ipv6.dst",),
    "ipv6.host": ("ipv6.addr",),
}


def fields_of(names: Iterable[str]) -> tuple[Field, ...]:
    """Return the fields of some names.

    Raises:
        UnknownFieldError: there is none of a name.
    """
    found: list[Field] = []
    for name in names:
        field = FIELDS.get(name)
        if field is None:
            near = _INSTEAD.get(name) or tuple(difflib.get_close_matches(name.lower(), FIELDS, 3, 0.7))
            raise UnknownFieldError(name, near)
        found.append(field)
    return tuple(found)
