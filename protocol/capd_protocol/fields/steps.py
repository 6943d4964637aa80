"""Steps of what carries addresses and tags: link layers, VLAN, MPLS, ARP, GRE; which layer follows which.

Each says what Wireshark 4.0 makes of it, by the same conditions. Pure.
"""

from typing import Final

import numpy as np

from capd_protocol.fields.layers import Layer, Step, Table, Walk
from capd_protocol.fields.upper import UPPER_STEPS

#: Kinds of layers by ethertype.
ETHERTYPES: Final = Table(
    {
        0x0800: "ip.typed",
        0x86DD: "ip.v6",
        0x0806: "arp",
        0x8100: "vlan",
        0x9100: "vlan",
        0x88A8: "ieee8021ad",
        0x8847: "mpls",
        0x8848: "mpls",
        0x6558: "eth",
    },
    65536,
)
#: Of what GRE carries.
_GRE_TYPES = Table(
    {
        0x0800: "ip.any",
        0x86DD: "ip.v6",
        0x8847: "mpls",
        0x8848: "mpls",
        0x6558: "eth",
        0x0806: "arp",
    },
    65536,
)
#: The kind of layer that packets of a link type begin with, by ``LINKTYPE_`` number.
LINKTYPES: Final = {
    0: "null",
    1: "eth",
    12: "raw",
    14: "raw",
    101: "raw",
    108: "loop",
    113: "sll",
    228: "ip.any",
    229: "ip.v6",
    276: "sll2",
}
#: Up to here a type is a length.
_MOST_8023_BYTES = 1500
_LEAST_ETHERTYPE = 1536


def _ethertype(walk: Walk, layer: Layer, offset: int, names: tuple[str, str, str]) -> None:
    """Go on behind an ethertype or a length; keep parts of these names where it is the one, the other, or neither.

    Args:
        walk: what is walked.
        layer: which ends with the ethertype.
        offset: of the ethertype.
        names: of parts.
    """
    types = layer.u16(offset)
    behind = layer.behind(offset + 2)
    is_type = types >= _LEAST_ETHERTYPE
    if is_type.all():
        walk.keep(names[0], layer)
        walk.choose(ETHERTYPES, types, behind)
        return
    places = np.flatnonzero(is_type)
    walk.keep(names[0], layer.only(places))
    walk.choose(ETHERTYPES, types[places], behind.only(places))
    is_length = (types <= _MOST_8023_BYTES) & (types > 0)
    places = np.flatnonzero(is_length)
    walk.keep(names[1], layer.only(places))
    inner = behind.only(places).cut(types[places].astype(np.int64))
    walk.keep(names[2], layer.only(np.flatnonzero(~is_type & (types > _MOST_8023_BYTES))))
    # 802.2, unless it is IPX without it.
    inner = inner.having(2)
    if len(inner.rows):
        walk.go("llc", inner.where(inner.u16(0) != 0xFFFF))


def _eth(walk: Walk, layer: Layer) -> None:
    layer = layer.having(14)
    if not len(layer.rows):
        return
    layer.keep_block(14)
    first = layer.u8(0)
    if (first & 0xF2 == 0).any() and not layer.in_error:
        # ISL of Cisco: another header, which begins with such an address.
        rest = layer.u32(1)
        is_isl = ((first == 0x01) | (first == 0x0C)) & (rest == 0x000C0000) & (layer.u16(12) <= _MOST_8023_BYTES)
        if is_isl.any():
            layer = layer.where(~is_isl)
            layer.keep_block(14)
    walk.keep("eth", layer)
    _ethertype(walk, layer, 12, ("eth.type", "eth.len", "eth.invalid"))


def _vlan(walk: Walk, layer: Layer) -> None:
    layer = layer.having(2)
    walk.keep("vlan", layer)
    layer = layer.having(4)
    if len(layer.rows):
        layer.keep_block(4)
        types = layer.u16(2)
        # What is no length is a type here, also what is none of Ethernet's.
        is_type = types > _MOST_8023_BYTES
        _ethertype(walk, layer.where(is_type), 2, ("vlan.type", "", "vlan.type"))
        _ethertype(walk, layer.where(~is_type), 2, ("", "vlan.len", ""))


def _ieee8021ad(walk: Walk, layer: Layer) -> None:
    walk.keep("ieee8021ad.tag", layer.having(2))
    layer = layer.having(4)
    if len(layer.rows):
        layer.keep_block(4)
        types = layer.u16(2)
        is_first = types == 0x88A8
        if is_first.any():
            # Two tags are looked at together: a service's and a customer's.
            _service_tags(walk, layer.where(is_first).having(6))
            layer, types = layer.where(~is_first), types[~is_first]
        walk.keep("ieee8021ad", layer)
        walk.keep("ieee8021ad.only", layer)
        walk.choose(ETHERTYPES, types, layer.behind(4))


def _service_tags(walk: Walk, layer: Layer) -> None:
    walk.keep("ieee8021ad", layer)
    walk.keep("ieee8021ad.service", layer)
    customer = layer.behind(4)
    walk.keep("ieee8021ad", customer)
    walk.keep("ieee8021ad.customer", customer)
    layer = layer.having(8)
    if len(layer.rows):
        walk.choose(ETHERTYPES, layer.u16(6), layer.behind(8))


#: Numbers of organisations behind which an ethertype stands: RFC 1042, bridge tunnels, AppleTalk.
_ETHERTYPE_OUIS = (0x000000, 0x0000F8, 0x080007)


def _llc(walk: Walk, layer: Layer) -> None:
    walk.keep("llc", layer)
    layer = layer.having(3)
    if not len(layer.rows):
        return
    addresses, control = layer.u16(0), layer.u8(2)
    is_plain = control == 0x03
    ip = layer.where(is_plain & (addresses >> 8 == 0x06))
    walk.go("ip.any", ip.behind(3))
    snap = layer.where(is_plain & (addresses == 0xAAAA)).having(8)
    if len(snap.rows):
        oui = snap.u32(3) >> 8
        snap = snap.where(np.isin(oui, _ETHERTYPE_OUIS))
        if len(snap.rows):
            walk.choose(ETHERTYPES, snap.u16(6), snap.behind(8))


#: Labels of messages to routers.
_MPLS_ALERTS = (13, 14)
_NIBBLES = Table({4: "ip.any", 6: "ip.v6"}, 16)


def _mpls(walk: Walk, layer: Layer) -> None:
    layer = layer.having(4)
    walk.keep("mpls", layer)
    if not len(layer.rows):
        return
    label = layer.u32(0)
    is_bottom = label & 0x100 != 0
    walk.go("mpls", layer.where(~is_bottom).behind(4))
    last, label = layer.where(is_bottom).behind(4), label[is_bottom] >> 12
    is_carrying = ~np.isin(label, _MPLS_ALERTS) & (last.size >= 1)
    last, label = last.where(is_carrying), label[is_carrying]
    if len(last.rows):
        version = last.u8(0) >> 4
        # A label may say what follows; the first half of a byte must say the same, and says it behind others.
        is_said = ((label != 0) | (version == 4)) & ((label != 2) | (version == 6))
        walk.choose(_NIBBLES, version[is_said], last.where(is_said))


#: How many of the addresses Wireshark says in one line, by operation, and shows none of before they are all there.
_ARP_ADDRESSES = np.array([0, 4, 4, 3, 4, 3, 4, 0, 3, 2, 0, *[2] * 13, 0], np.int64)
#: Has a status in place of the last address.
_DRARP_ERROR = 7


def _arp(walk: Walk, layer: Layer) -> None:
    layer = layer.having(2)
    walk.keep("arp", layer)
    layer = layer.having(8)
    if not len(layer.rows):
        return
    hardware_bytes, protocol_bytes = layer.u8(4).astype(np.int64), layer.u8(5).astype(np.int64)
    operation = layer.u16(6)
    addresses = _ARP_ADDRESSES.take(operation, mode="clip")
    is_known = layer.size >= 8 + hardware_bytes * ((addresses + 1) // 2) + protocol_bytes * (addresses // 2)
    is_known &= layer.reported >= 8 + (hardware_bytes + protocol_bytes) * 2
    is_ether = is_known & np.isin(layer.u16(0), (1, 6)) & (hardware_bytes == 6)
    is_ipv4 = is_known & (layer.u16(2) == 0x0800) & (protocol_bytes == 4)
    # Addresses stand behind one another, each as long as the header says.
    at = 8 + hardware_bytes
    for kind, is_kind, begin in (
        ("arp.src.hw", is_ether, np.full(len(at), 8)),
        ("arp.src.proto", is_ipv4, at),
        ("arp.dst.hw", is_ether, at + protocol_bytes),
        ("arp.dst.proto", is_ipv4 & (operation != _DRARP_ERROR), at + protocol_bytes + hardware_bytes),
    ):
        if walk.wants(kind):
            places = np.flatnonzero(is_kind)
            walk.keep(kind, layer.only(places).behind(begin[places]))


def _gre(walk: Walk, layer: Layer) -> None:
    layer = layer.having(4)
    if not len(layer.rows):
        return
    walk.keep("gre", layer)
    flags, protocol = layer.u16(0), layer.u16(2)
    # A variant of PPP, WCCP's and 3GPP2's have headers of their own, and sources that route are obsolete.
    is_plain = (flags & 0x4000 == 0) & ~np.isin(protocol, (0x880B, 0x8881, 0x88D2, 0x883E))
    layer, flags, protocol = layer.where(is_plain), flags[is_plain], protocol[is_plain]
    at = np.full(len(flags), 4, np.int64)
    for bit, kind in ((0x8000, "gre.checksum"), (0x2000, "gre.key"), (0x1000, "gre.sequence")):
        has_part = flags & bit != 0
        if has_part.any():
            if walk.wants(kind):
                places = np.flatnonzero(has_part)
                walk.keep(kind, layer.only(places).behind(at[places]))
            at += has_part * 4
    # What was not captured of the header ends the packet there.
    is_there = layer.size >= at
    layer, protocol, at = layer.where(is_there), protocol[is_there], at[is_there]
    walk.choose(_GRE_TYPES, protocol, layer.behind(at))


#: The address and the control field of PPP.
_PPP = 0xFF03


def _raw(walk: Walk, layer: Layer) -> None:
    # Where PPP could begin is looked at before.
    layer = layer.having(8)
    if len(layer.rows):
        is_ppp = (layer.u16(0) == _PPP) | (layer.u16(1) == _PPP) | (layer.u16(6) == _PPP)
        layer = layer.where(~is_ppp)
        if len(layer.rows):
            walk.choose(_NIBBLES, layer.u8(0) >> 4, layer)


#: Protocol families: of every system for IPv4; of BSD, FreeBSD and macOS for IPv6. (Wireshark does not know Linux's.)
_FAMILIES = Table({2: "ip.any", 24: "ip.v6", 28: "ip.v6", 30: "ip.v6"}, 256)


def _null(walk: Walk, layer: Layer) -> None:
    layer = layer.having(4)
    if not len(layer.rows):
        return
    family = layer.u32(0)
    # In the byte order of the machine that captured: whichever makes a small number.
    family = np.where(family & 0xFFFF0000 != 0, family.byteswap(), family)
    is_known = family <= _MOST_8023_BYTES
    walk.keep("null", layer.where(is_known), family=family[is_known])
    is_known = family < 256
    walk.choose(_FAMILIES, family[is_known], layer.where(is_known).behind(4))


def _sll(walk: Walk, layer: Layer) -> None:
    layer = layer.having(2)
    layer.keep_block(16)
    walk.keep("sll", layer)
    begun = layer.having(6)
    if walk.wants("sll.eth") and len(begun.rows):
        walk.keep("sll.eth", begun.where(begun.u16(4) == 6))
    layer = layer.having(16)
    if len(layer.rows):
        layer.keep_block(16)
        _cooked(walk, layer, 14, 16)


def _sll2(walk: Walk, layer: Layer) -> None:
    layer = layer.having(12)
    if not len(layer.rows):
        return
    layer.keep_block(20)
    walk.keep("sll2", layer)
    walk.keep("sll2.eth", layer.where(layer.u8(11) == 6))
    if len(layer.rows):
        _cooked(walk, layer, 0, 20)


#: Interfaces whose packets say something else than an ethertype: netlink, GRE, 802.11 in several forms.
_OTHER_HARDWARE = (824, 778, 801, 802, 803)


def _cooked(walk: Walk, layer: Layer, protocol_at: int, size_bytes: int) -> None:
    hardware = layer.u16(8 if size_bytes == 20 else 2)
    protocol = layer.u16(protocol_at)
    is_type = (protocol > _LEAST_ETHERTYPE) & ~np.isin(hardware, _OTHER_HARDWARE)
    plain = layer.where(is_type)
    walk.keep("sll.etype" if size_bytes == 16 else "sll2.etype", plain)
    is_whole = plain.size >= size_bytes
    plain = plain.where(is_whole)
    walk.choose(ETHERTYPES, protocol[is_type][is_whole], plain.behind(size_bytes))
    llc = layer.where(~is_type & (protocol == 4)).behind(size_bytes)
    walk.go("llc", llc)


#: In the order in which they are best taken: what leads to others comes first.
STEPS: Final[dict[str, Step]] = {
    "eth": _eth,
    "sll": _sll,
    "sll2": _sll2,
    "null": _null,
    "loop": _null,
    "raw": _raw,
    "ieee8021ad": _ieee8021ad,
    "vlan": _vlan,
    "llc": _llc,
    "mpls": _mpls,
    "arp": _arp,
    "gre": _gre,
    **UPPER_STEPS,
}
