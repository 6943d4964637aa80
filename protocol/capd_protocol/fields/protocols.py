"""Protocols, as display filters name them: which layers are theirs, and which bytes they have there. Pure."""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from capd_protocol.fields.layers import I64, Layer


class Header(NamedTuple):
    """The layers of a protocol.

    Attributes:
        kind: of layers, or of parts of layers; see ``Walk``.
        size: how many bytes it says it has, in each; None: all that follows, too.
        limit: how many bytes of it there are at most; None: as many as it says.
    """

    kind: str
    size: Callable[[Layer], I64] | None = None
    limit: Callable[[Layer], I64] | None = None


def _fixed(size_bytes: int) -> Callable[[Layer], I64]:
    return lambda layer: np.full(len(layer.rows), size_bytes, np.int64)


def _said(offset: int, mask: int, times: int, plus: int = 0) -> Callable[[Layer], I64]:
    """Return how to find sizes that stand in the header itself; where they were not captured, what was is all."""
    shift = (mask & -mask).bit_length() - 1

    def size(layer: Layer) -> I64:
        sizes = layer.reported.copy()
        there = layer.having(offset + 1)
        where = slice(None) if there is layer else np.flatnonzero(layer.size > offset)
        sizes[where] = ((there.u8(offset) & mask) >> shift).astype(np.int64) * times + plus
        return sizes

    return size


def _arp(layer: Layer) -> I64:
    """Return how long ARP's messages are by the sizes of their addresses; behind them is padding."""
    sizes = layer.size.copy()
    where = np.flatnonzero(layer.size >= _ARP_HEADER_BYTES)
    there = layer.only(where)
    said = (there.u8(4).astype(np.int64) + there.u8(5)) * 2 + _ARP_HEADER_BYTES
    sizes[where] = np.minimum(there.size, said)
    return sizes


def _tcp(layer: Layer) -> I64:
    """Return how many bytes there are; Wireshark looks no further into what was redirected than messages have to be."""
    return np.minimum(layer.size, _REDIRECTED_BYTES) if layer.in_error == "icmp.redirect" else layer.size


_ARP_HEADER_BYTES = 8
_REDIRECTED_BYTES = 8
#: By names, the layers of each.
PROTOCOLS: Final[dict[str, tuple[Header, ...]]] = {
    "eth": (Header("eth", _fixed(14)),),
    "vlan": (Header("vlan", _fixed(4)),),
    "ieee8021ad": (Header("ieee8021ad.tag", _fixed(4)),),
    "mpls": (Header("mpls", _fixed(4)),),
    "llc": (Header("llc"),),
    "null": (Header("null", _fixed(4)),),
    "sll": (Header("sll", _fixed(16)), Header("sll2", _fixed(20))),
    "arp": (Header("arp", None, _arp),),
    "ip": (Header("ip", _said(0, 0x0F, 4)), Header("ip.other", _said(0, 0x0F, 4))),
    "ipv6": (Header("ipv6", _fixed(40)),),
    "ipv6.hopopts": (Header("hopopts", _said(1, 0xFF, 8, 8)),),
    "ipv6.routing": (Header("routing"),),
    "ipv6.dstopts": (Header("dstopts", _said(1, 0xFF, 8, 8)),),
    "ipv6.fraghdr": (Header("fraghdr", _fixed(8)),),
    "ah": (Header("ah"),),
    "gre": (Header("gre"),),
    "etherip": (Header("etherip", _fixed(2)),),
    "icmp": (Header("icmp"),),
    "icmpv6": (Header("icmpv6"),),
    "udp": (Header("udp.plain", _fixed(8)),),
    "udplite": (Header("udplite", _fixed(8)),),
    "tcp": (Header("tcp", _tcp),),
}
#: The packet itself is a protocol, too: all that was captured.
FRAME: Final = "frame"
