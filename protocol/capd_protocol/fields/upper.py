"""Steps of what lies in IP: IPv4 and IPv6 with their extension headers, ICMP, TCP and UDP.

Each says what Wireshark 4.0 makes of it, by the same conditions. Pure.
"""

from typing import Final

import numpy as np

from capd_protocol.fields.layers import Layer, Step, Table, Walk
from capd_protocol.fields.options import ip_options, tcp_options, whole_options, whole_route

#: Kinds of layers by protocol number, in both versions.
_PROTOCOLS = {
    1: "icmp",
    4: "ip.any",
    6: "tcp",
    17: "udp",
    41: "ip.v6",
    47: "gre",
    51: "ah",
    58: "icmpv6",
    97: "etherip",
    136: "udplite",
    137: "mpls",
    143: "eth",
}
#: Extension headers are IPv6's only.
_EXTENSIONS = {0: "hopopts", 43: "routing", 44: "fraghdr", 60: "dstopts"}
#: Stands for all parts of options, of which some are wanted.
TCP_OPTIONS: Final = "tcp.options"
_VERSIONS = Table({4: "ip.v4", 6: "ip.v6"}, 16)
_IN_IPV4 = Table(_PROTOCOLS, 256)
_IN_IPV6 = Table(_PROTOCOLS | _EXTENSIONS, 256)


def _ip_any(walk: Walk, layer: Layer) -> None:
    """Look at the version, where IP of any is announced."""
    layer = layer.having(1)
    if len(layer.rows):
        walk.choose(_VERSIONS, layer.u8(0) >> 4, layer)


def _ip_typed(walk: Walk, layer: Layer) -> None:
    """Look at the version, where an ethertype announces IPv4: another one is shown as such, besides what it is."""
    layer = layer.having(1)
    if len(layer.rows):
        version = layer.u8(0) >> 4
        walk.keep("ip.other", layer.where(version != 4))
        walk.choose(_VERSIONS, version, layer)


def _ip(walk: Walk, layer: Layer) -> None:
    layer = layer.having(1)
    if not len(layer.rows):
        return
    layer.keep_block(20)
    header_bytes = (layer.u8(0) & 0xF).astype(np.int64) * 4
    walk.keep("ip", layer)
    is_good = header_bytes >= 20
    if not is_good.all():
        layer, header_bytes = layer.where(is_good), header_bytes[is_good]
        layer.keep_block(20)
    walk.keep("ip.header", layer)
    walk.note_version(layer, is_ipv6=False)
    is_there = layer.size >= 4
    if not is_there.all():
        layer, header_bytes = layer.where(is_there), header_bytes[is_there]
    if not len(layer.rows):
        return
    length = layer.u16(2).astype(np.int64)
    # 0: a network card will cut it into packets, and knows their lengths only then.
    length = np.where(length == 0, layer.reported, length)
    walk.keep("ip.length", layer, length=length)
    is_good = length >= header_bytes
    if not is_good.all():
        layer, header_bytes, length = layer.where(is_good), header_bytes[is_good], length[is_good]
        layer.keep_block(20)
    layer = layer.cut(length)
    layer.keep_block(20)
    walk.keep("ip.rest", layer)
    if not len(layer.rows):
        return
    if layer.least < 20:
        layer = layer.having(20)
        header_bytes = (layer.u8(0) & 0xF).astype(np.int64) * 4
        layer.keep_block(20)
        if not len(layer.rows):
            return
    has_options = header_bytes > 20
    if has_options.any():
        walk.keep("ip.dst", layer.where(~has_options))
        is_sound = ~has_options
        is_sound[has_options] = ip_options(walk, layer.where(has_options), header_bytes[has_options] - 20)
        layer, header_bytes = layer.where(is_sound), header_bytes[is_sound]
        if not len(layer.rows):
            return
    else:
        walk.keep("ip.dst", layer)
    fragment = layer.u16(6) & 0x3FFF
    walk.note_fragments(layer, fragment != 0)
    is_first = (fragment & 0x1FFF == 0) & (layer.size >= header_bytes)
    layer, header_bytes = layer.where(is_first), header_bytes[is_first]
    if len(layer.rows):
        walk.choose(_IN_IPV4, layer.u8(9), layer.behind(header_bytes))


def _ipv6(walk: Walk, layer: Layer) -> None:
    layer.keep_block(40)
    walk.keep("ipv6", layer)
    layer = layer.having(1)
    if not len(layer.rows):
        return
    is_good = layer.u8(0) >> 4 == 6
    if not is_good.all():
        layer = layer.where(is_good)
    layer.keep_block(40)
    walk.keep("ipv6.rest", layer)
    walk.note_version(layer, is_ipv6=True)
    layer = layer.having(40)
    if not len(layer.rows):
        return
    layer.keep_block(40)
    length = layer.u16(4).astype(np.int64)
    # 0: a jumbogram, or what a network card will cut; Wireshark takes neither for granted.
    has_length = length > 0
    layer, length = layer.where(has_length), length[has_length]
    if len(layer.rows):
        walk.choose(_IN_IPV6, layer.u8(6), layer.cut(length + 40).behind(40))


def _extension(kind: str, has_options: bool) -> Step:
    """Return the step of a header of IPv6 that begins with the next one's kind, and its own length."""

    def step(walk: Walk, layer: Layer) -> None:
        if has_options:
            layer = layer.having(2)
        walk.keep(kind, layer)
        layer = layer.having(2)
        if len(layer.rows):
            header_bytes = (layer.u8(1).astype(np.int64) + 1) * 8
            is_there = layer.size >= header_bytes
            layer, header_bytes = layer.where(is_there), header_bytes[is_there]
            is_good = (whole_options if has_options else whole_route)(layer, header_bytes)
            layer, header_bytes = layer.where(is_good), header_bytes[is_good]
            if len(layer.rows):
                walk.choose(_IN_IPV6, layer.u8(0), layer.behind(header_bytes))

    return step


def _fraghdr(walk: Walk, layer: Layer) -> None:
    layer = layer.having(8)
    if len(layer.rows):
        walk.keep("fraghdr", layer)
        walk.note_fragments(layer, layer.u16(2) & 0xFFF9 != 0)
        layer = layer.where(layer.u16(2) & 0xFFF8 == 0)
        if len(layer.rows):
            walk.choose(_IN_IPV6, layer.u8(0), layer.behind(8))


def _ah(walk: Walk, layer: Layer) -> None:
    walk.keep("ah", layer.having(2))
    layer = layer.having(12)
    if len(layer.rows):
        header_bytes = (layer.u8(1).astype(np.int64) + 2) * 4
        is_there = (layer.size >= header_bytes) & (header_bytes >= 12)
        layer, header_bytes = layer.where(is_there), header_bytes[is_there]
        if len(layer.rows):
            walk.choose(_IN_IPV4, layer.u8(0), layer.behind(header_bytes))


def _etherip(walk: Walk, layer: Layer) -> None:
    layer = layer.having(2)
    walk.keep("etherip", layer)
    if len(layer.rows):
        walk.go("eth", layer.where(layer.u8(0) >> 4 == 3).behind(2))


#: Parts of ICMP messages by their type; and the errors, which carry the packet they are about.
_ICMP_PARTS: dict[str, tuple[int, ...]] = {
    "icmp.ident": (0, 8, 13, 14, 15, 16, 17, 18, 42, 43),
    "icmp.seq": (0, 8, 13, 14, 15, 16, 17, 18),
    "icmp.stamps": (13, 14),
    "icmp.redirect": (5,),
    "icmp.pointer": (12,),
    "icmp.mask": (17, 18),
    "icmp.router": (9,),
}
_ICMP_ERRORS = {"icmp": (3, 4, 11, 12), "icmp.redirect": (5,)}


def _icmp(walk: Walk, layer: Layer) -> None:
    layer = layer.having(6)
    if not len(layer.rows):
        return
    walk.keep("icmp", layer)
    types = layer.u8(0)
    for kind, numbers in _ICMP_PARTS.items():
        if walk.wants(kind):
            walk.keep(kind, layer.where(np.isin(types, numbers)))
    if walk.wants("icmp.mtu"):
        walk.keep("icmp.mtu", layer.where(layer.u16(0) == 0x0304))
    for kind, numbers in _ICMP_ERRORS.items():
        inner = layer.where(np.isin(types, numbers)).having(8).behind(8)
        inner.in_error = kind
        walk.go("ip.any", inner)


_ICMPV6_PARTS: dict[str, tuple[int, ...]] = {
    "icmpv6.echo": (128, 129),
    "icmpv6.mtu": (2,),
    "icmpv6.pointer": (4,),
    "icmpv6.ra": (134,),
    "icmpv6.ns": (135,),
    "icmpv6.na": (136,),
    "icmpv6.rd": (137,),
}
_ICMPV6_ERRORS = (1, 2, 3, 4)


def _icmpv6(walk: Walk, layer: Layer) -> None:
    walk.keep("icmpv6", layer)
    layer = layer.having(4)
    if not len(layer.rows):
        return
    types = layer.u8(0)
    for kind, numbers in _ICMPV6_PARTS.items():
        if walk.wants(kind):
            walk.keep(kind, layer.where(np.isin(types, numbers)))
    inner = layer.where(np.isin(types, _ICMPV6_ERRORS)).having(8).behind(8).having(1)
    if len(inner.rows):
        inner = inner.where(inner.u8(0) >> 4 == 6)
        inner.in_error = "icmpv6"
        walk.go("ip.v6", inner)


def _tcp(walk: Walk, layer: Layer) -> None:
    layer = layer.having(4)
    layer.keep_block(20)
    walk.keep("tcp", layer)
    if layer.least < 16:
        layer = layer.having(16)
    if not len(layer.rows):
        return
    header_bytes = (layer.u8(12) >> 4).astype(np.int64) * 4
    # Wireshark shows no more than the ports of what was redirected, and of other errors' packets no raw number.
    if layer.in_error == "icmp.redirect":
        return
    if layer.in_error != "icmp":
        walk.keep("tcp.seq", layer)
    walk.keep("tcp.offset", layer, header_bytes=header_bytes)
    if not layer.in_error and walk.wants("tcp.length"):
        length = layer.reported - header_bytes
        is_good = (length >= 0) & ~walk.is_fragment(layer)
        walk.keep("tcp.length", layer.where(is_good), length=length[is_good])
    is_good = header_bytes >= 20
    if not is_good.all():
        layer, header_bytes = layer.where(is_good), header_bytes[is_good]
        layer.keep_block(20)
    walk.keep("tcp.rest", layer)
    if walk.wants(TCP_OPTIONS):
        has_options = header_bytes > 20
        tcp_options(walk, layer.where(has_options), header_bytes[has_options] - 20)


def _udplite(walk: Walk, layer: Layer) -> None:
    layer = layer.having(4)
    walk.keep("udp", layer)
    walk.keep("udplite", layer)
    # In place of its length it has how much of it the checksum covers: all, or the header at least.
    layer = layer.having(6)
    if len(layer.rows):
        walk.keep("udp.lite", layer, length=layer.reported)
        covered = layer.u16(4)
        walk.keep("udp.checksum", layer.where((covered == 0) | ((covered >= 8) & (covered <= layer.reported))))


def _udp(walk: Walk, layer: Layer) -> None:
    layer = layer.having(4)
    layer.keep_block(8)
    walk.keep("udp", layer)
    walk.keep("udp.plain", layer)
    if not walk.wants("udp.checksum"):
        return
    layer = layer.having(6)
    if len(layer.rows):
        length = layer.u16(4)
        # 0 says in IPv6 that the length is that of a jumbogram.
        walk.keep("udp.checksum", layer.where((length >= 8) | ((length == 0) & walk.is_in_ipv6(layer))))


UPPER_STEPS: Final[dict[str, Step]] = {
    "ip.any": _ip_any,
    "ip.typed": _ip_typed,
    "ip.v4": _ip,
    "ip.v6": _ipv6,
    "hopopts": _extension("hopopts", has_options=True),
    "routing": _extension("routing", has_options=False),
    "fraghdr": _fraghdr,
    "dstopts": _extension("dstopts", has_options=True),
    "ah": _ah,
    "etherip": _etherip,
    "icmp": _icmp,
    "icmpv6": _icmpv6,
    "tcp": _tcp,
    "udp": _udp,
    "udplite": _udplite,
}
