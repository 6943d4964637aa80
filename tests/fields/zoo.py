"""Packets of many kinds, for comparisons: made by scapy, in files that are written here."""

import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from scapy.contrib.mpls import MPLS
from scapy.layers import inet, inet6, l2
from scapy.packet import Raw

#: Parts of packets, as scapy has them.
Layer = Any

#: What is replaced in copies of a packet, so that fields have many values.
_SOURCE, _DESTINATION = bytes((192, 0, 2, 1)), bytes((198, 51, 100, 7))
_SEQUENCE, _ACKNOWLEDGED = 0x11223344, 0x55667788
_SOURCE6, _DESTINATION6 = "2001:db8:1:2:3:4:5:6", "2001:db8:a:b:c:d:e:f"


class Link(NamedTuple):
    """How packets of a file begin.

    Attributes:
        linktype: of the file.
        head: what each begins with; None: with an IP header at once.
    """

    linktype: int
    head: Layer | None


def _ether(**fields: object) -> Layer:
    return l2.Ether(**{"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02", **fields})


def _dot3() -> Layer:
    return l2.Dot3(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def _mpls(*labels: int) -> Layer:
    stack: Layer = None
    for place, label in enumerate(labels):
        layer = MPLS(label=label, s=place == len(labels) - 1, cos=place % 8, ttl=64 - place)
        stack = layer if stack is None else stack / layer
    return stack


#: By names; "v4" and "v6" carry that version only.
LINKS: dict[str, Link] = {
    "ethernet": Link(1, _ether()),
    "vlan": Link(1, _ether() / l2.Dot1Q(vlan=7, prio=3, dei=1)),
    "qinq": Link(1, _ether() / l2.Dot1AD(vlan=100, prio=1) / l2.Dot1Q(vlan=200)),
    "qinq-old": Link(1, _ether(type=0x9100) / l2.Dot1Q(vlan=100) / l2.Dot1Q(vlan=200)),
    "tags-2ad": Link(1, _ether() / l2.Dot1AD(vlan=100) / l2.Dot1AD(vlan=300, prio=7)),
    "tags-4": Link(1, _ether() / l2.Dot1Q(vlan=1) / l2.Dot1Q(vlan=2) / l2.Dot1Q(vlan=3) / l2.Dot1Q(vlan=4094)),
    "mpls": Link(1, _ether() / _mpls(1000)),
    "mpls-3": Link(1, _ether() / l2.Dot1Q(vlan=9) / _mpls(16, 500000, 1048575)),
    "snap": Link(1, _dot3() / l2.LLC() / l2.SNAP()),
    "null": Link(0, "null"),
    "loop": Link(108, "loop"),
    "raw": Link(101, None),
    "raw-v4": Link(228, None),
    "raw-v6": Link(229, None),
    "cooked": Link(113, "sll"),
    "cooked-2": Link(276, "sll2"),
}


def ip4(**fields: object) -> Layer:
    """Return an IPv4 header."""
    return inet.IP(**{"src": "192.0.2.1", "dst": "198.51.100.7", "id": 0x4321, **fields})


def ip6(**fields: object) -> Layer:
    """Return an IPv6 header."""
    return inet6.IPv6(**{"src": _SOURCE6, "dst": _DESTINATION6, "fl": 0x12345, "tc": 0xB9, **fields})


def _ah(next_header: int) -> Layer:
    return Raw(struct.pack(">BBHII", next_header, 4, 0, 5, 6) + bytes(12))


#: What carries what is above: by names, and whether it begins with IPv6.
NETWORKS: dict[str, tuple[bool, Layer]] = {
    "ipv4": (False, ip4()),
    "ipv4-tos": (False, ip4(tos=0xB8, ttl=3, flags="DF")),
    "ipv4-options": (False, ip4(options=[inet.IPOption_RR(), inet.IPOption_NOP()])),
    "ipv4-route": (False, ip4(options=[inet.IPOption_LSRR(routers=["10.0.0.9", "10.0.0.8"])])),
    "ipv4-fragments": (False, ip4(flags="MF")),
    "ipv4-ipv4": (False, ip4() / ip4(src="10.0.0.1")),
    "ipv4-ipv6": (False, ip4() / ip6()),
    "ipv4-gre": (False, ip4() / l2.GRE(chksum_present=1, key_present=1, key=5) / ip4(src="10.0.0.1")),
    "ipv4-gre-eth": (False, ip4() / l2.GRE(proto=0x6558, seqnum_present=1) / _ether() / ip6()),
    "ipv4-ah": (False, ip4(proto=51) / _ah(4) / ip4()),
    "ipv6": (True, ip6()),
    "ipv6-options": (True, ip6() / inet6.IPv6ExtHdrHopByHop(options=[inet6.RouterAlert()])),
    "ipv6-extensions": (
        True,
        ip6()
        / inet6.IPv6ExtHdrHopByHop()
        / inet6.IPv6ExtHdrRouting(addresses=["2001:db8::9", "2001:db8::8"])
        / inet6.IPv6ExtHdrDestOpt()
        / inet6.IPv6ExtHdrFragment(id=77),
    ),
    "ipv6-fragments": (True, ip6() / inet6.IPv6ExtHdrFragment(m=1, id=99)),
    "ipv6-ipv4": (True, ip6() / ip4()),
    "ipv6-gre": (True, ip6() / l2.GRE(key_present=1, key=77) / ip6()),
    "ipv6-segments": (True, ip6() / inet6.IPv6ExtHdrSegmentRouting(addresses=["2001:db8::9"])),
}


def _tcp(**fields: object) -> Layer:
    return inet.TCP(**{"sport": 40000, "dport": 50001, "seq": _SEQUENCE, "ack": _ACKNOWLEDGED, "flags": "A", **fields})


def _udp(**fields: object) -> Layer:
    return inet.UDP(**{"sport": 40001, "dport": 50002, **fields})


def uppers(rng: random.Random) -> Iterator[Layer]:
    """Give what lies in IP, of many kinds."""

    def payload(most_bytes: int = 200) -> Layer:
        return Raw(rng.randbytes(rng.randrange(most_bytes)))

    stamp = ("Timestamp", (rng.getrandbits(32), rng.getrandbits(32)))
    yield _tcp(flags="S", options=[("MSS", 1460), ("SAckOK", b""), stamp, ("NOP", None), ("WScale", 7)])
    yield _tcp(flags="SA", options=[("MSS", 536), ("NOP", None), ("WScale", 14), ("EOL", None)])
    yield _tcp(options=[("NOP", None), ("NOP", None), stamp]) / payload()
    yield _tcp(options=[("NOP", None), ("NOP", None), ("SAck", (1, 2, 3, 4)), stamp])
    yield _tcp(options=[(5, b"\0\0\0\1\0\0\0\2\0\0\0\3"), (19, bytes(16))])
    yield _tcp(options=[(254, b"\xf9\x89abcd"), (34, bytes(8)), (99, b"??")]) / payload()
    yield _tcp(flags=rng.randrange(512), reserved=rng.randrange(8), urgptr=5, window=rng.getrandbits(16)) / payload()
    yield _tcp(flags="FA")
    yield _tcp(flags="R")
    yield _tcp(dataofs=rng.randrange(5)) / payload()
    yield _tcp(dataofs=15) / Raw(rng.randbytes(rng.randrange(60)))
    for _ in range(3):
        yield _tcp(dataofs=7) / Raw(bytes(rng.choices((0, 1, 2, 3, 4, 5, 8, 10, 255), k=rng.randrange(30))))
        yield _tcp() / payload(1400)
        yield _udp() / payload(1400)
    yield _udp() / payload()
    yield _udp(len=rng.randrange(2000)) / payload()
    yield _udp(len=rng.randrange(9)) / payload()
    yield _udp(chksum=0)
    for number in (0, 8, 13, 14, 15, 16, 17, 18, 30, 10):
        yield inet.ICMP(type=number, id=rng.getrandbits(16), seq=rng.getrandbits(16)) / payload()
    for number in (3, 4, 5, 11, 12):
        inner = ip4() / rng.choice((_tcp() / payload(), _udp() / payload(), inet.ICMP(type=8)))
        yield inet.ICMP(type=number, code=rng.randrange(16), gw="10.1.1.1") / inet.IP(
            bytes(inner)[: 20 + rng.randrange(60)]
        )
    yield inet.ICMP(type=3, code=4, nexthopmtu=1400) / ip4() / _tcp()
    inner6 = ip6() / rng.choice((_tcp() / payload(), _udp() / payload()))
    yield inet6.ICMPv6DestUnreach(code=rng.randrange(8)) / inner6
    yield inet6.ICMPv6PacketTooBig(mtu=rng.getrandbits(32)) / inner6
    yield inet6.ICMPv6TimeExceeded() / inner6
    yield inet6.ICMPv6ParamProblem(ptr=5) / inner6
    yield inet6.ICMPv6EchoRequest(id=rng.getrandbits(16), seq=rng.getrandbits(16)) / payload()
    yield inet6.ICMPv6EchoReply(id=rng.getrandbits(16), seq=rng.getrandbits(16)) / payload()
    yield inet6.ICMPv6ND_RS()
    yield inet6.ICMPv6ND_RA(M=1, O=0, routerlifetime=5, reachabletime=6, retranstimer=7) / inet6.ICMPv6NDOptMTU()
    yield inet6.ICMPv6ND_NS(tgt="fe80::5") / inet6.ICMPv6NDOptSrcLLAddr()
    yield inet6.ICMPv6ND_NA(tgt="fe80::5", R=1, S=0, O=1)
    yield inet6.ICMPv6ND_Redirect(tgt="fe80::1", dst="fe80::9")


def strangers(rng: random.Random) -> Iterator[bytes]:
    """Give Ethernet frames that carry something else than IP, or whose headers lie."""
    upper = _udp() / Raw(rng.randbytes(40))
    payload = Raw(rng.randbytes(60))
    frames: list[Layer] = [
        _ether() / l2.ARP(op=rng.randrange(1, 10), psrc="10.0.0.1", pdst="10.0.0.2"),
        _ether() / l2.ARP(hwtype=6),
        _ether() / l2.ARP(ptype=0x86DD),
        _ether() / l2.Dot1Q(vlan=3) / l2.ARP(op=2),
        _ether() / ip4() / l2.GRE(proto=0x0806) / l2.ARP(),
        _ether() / ip4(len=0) / upper,
        _ether() / ip4(len=rng.randrange(60)) / upper,
        _ether() / ip4(len=rng.randrange(65536)) / upper,
        _ether() / ip4(ihl=rng.randrange(16)) / upper,
        _ether() / ip4(version=rng.randrange(16)) / upper,
        _ether() / ip4(frag=rng.randrange(100), flags=rng.randrange(8)) / upper,
        _ether() / ip4(proto=rng.choice((2, 33, 50, 55, 59, 89, 99, 103, 108, 112, 132, 135, 139, 140, 253))) / payload,
        _ether() / ip6(plen=rng.randrange(60)) / upper,
        _ether() / ip6(plen=rng.randrange(65536)) / upper,
        _ether() / ip6(version=rng.randrange(16)) / upper,
        _ether() / ip6(nh=rng.choice((2, 50, 59, 89, 99, 103, 108, 132, 135, 139, 140, 253))) / payload,
        _ether() / ip6() / inet6.IPv6ExtHdrFragment(m=1, offset=rng.randrange(9), id=99) / upper,
        _ether() / ip4(proto=97) / Raw(b"\x30\0") / _ether() / ip4() / upper,
        _ether() / ip4(proto=137) / _mpls(100) / ip4() / upper,
        _ether() / ip6(nh=143) / _ether() / ip4() / upper,
        _ether() / ip6(nh=136) / upper,
        _ether() / _mpls(0) / ip4() / upper,
        _ether() / _mpls(30, 2) / ip6() / upper,
        _ether(type=0x8848) / _mpls(3) / ip4() / upper,
        _ether(type=rng.choice((0x0842, 0x1234, 0x88CC, 0x8863, 0x9000, 0xFFFF))) / payload,
        _ether(type=rng.randrange(1501, 1536)) / payload,
        _ether() / l2.Dot1Q(vlan=3, type=rng.randrange(1501, 1536)) / payload,
        _dot3() / l2.LLC(dsap=6, ssap=6, ctrl=3) / ip4() / upper,
        _dot3() / l2.LLC(dsap=0x42, ssap=0x42, ctrl=3) / l2.STP(),
        _dot3() / l2.LLC() / l2.SNAP(OUI=0x00000C, code=0x2000) / payload,
        _dot3() / Raw(b"\xff\xff") / payload,
        _ether() / l2.Dot1Q(vlan=3, type=48) / l2.LLC() / l2.SNAP() / ip4() / upper,
        l2.Dot3(src="02:00:00:00:00:01", dst="02:00:00:00:00:02", len=30) / l2.LLC() / l2.SNAP() / ip4() / upper,
    ]
    yield from map(bytes, frames)


def _above(network: Layer, upper: Layer) -> Layer:
    packet = network / upper
    if upper.name.startswith("ICMPv6"):
        # Which scapy numbers only in IPv6.
        inmost = packet
        while inmost.payload is not None and not inmost.payload.name.startswith("ICMPv6"):
            inmost = inmost.payload
        if isinstance(inmost, inet.IP):
            inmost.proto = 58
    return packet


def linked(link: Link, network: Layer, is_ipv6: bool, upper: Layer, rng: random.Random) -> bytes:
    """Return a packet behind the header that a file's packets begin with."""
    packet = _above(network, upper)
    ethertype = 0x86DD if is_ipv6 else 0x0800
    match link.head:
        case "null":
            family = rng.choice((24, 28, 30)) if is_ipv6 else 2
            return struct.pack(rng.choice("<>") + "I", family) + bytes(packet)
        case "loop":
            return struct.pack(">I", 24 if is_ipv6 else 2) + bytes(packet)
        case "sll":
            head = struct.pack(">HHH8sH", rng.randrange(5), rng.choice((1, 512, 772)), 6, rng.randbytes(8), ethertype)
            return head + bytes(packet)
        case "sll2":
            kind, number = rng.choice((1, 512, 772)), rng.randrange(1, 99)
            head = struct.pack(">HHIHBB8s", ethertype, 0, number, kind, rng.randrange(5), 6, rng.randbytes(8))
            return head + bytes(packet)
        case None:
            return bytes(packet)
        case head:
            return bytes(head / packet)


def copies(packet: bytes, count: int, rng: random.Random) -> Iterator[bytes]:
    """Give copies of a packet that differ in addresses and numbers."""
    sequence = struct.pack(">I", _SEQUENCE)
    for _ in range(count):
        copy = packet
        for marker in (_SOURCE, _DESTINATION, sequence, b"\x43\x21", b"\xdb\x80\x00", bytes((0, 3, 0, 4, 0, 5))):
            copy = copy.replace(marker, rng.randbytes(len(marker)))
        yield copy


class Record(NamedTuple):
    """A packet of a file.

    Attributes:
        data: what was captured.
        size_bytes: how long it was.
    """

    data: bytes
    size_bytes: int


def recorded(packet: bytes, rng: random.Random) -> Record:
    """Return a packet as it may be in a file: whole mostly, or cut; a short one with a trailer."""
    if rng.random() < 0.15:
        return Record(packet[: rng.randrange(len(packet) + 1)], len(packet))
    if len(packet) < 60 and rng.random() < 0.7:
        packet += bytes(60 - len(packet)) + rng.randbytes(rng.choice((0, 4)))
    return Record(packet, len(packet))


def write(path: Path, linktype: int, records: list[Record], rng: random.Random) -> None:
    """Write a pcap file, in one of its forms."""
    order, is_nano = rng.choice("<>"), rng.random() < 0.5
    magic = 0xA1B23C4D if is_nano else 0xA1B2C3D4
    at_ns = rng.randrange(1_600_000_000, 1_700_000_000) * 10**9
    with path.open("wb") as file:
        file.write(struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, linktype))
        for data, size_bytes in records:
            at_ns += rng.choice((0, 1000, 123_000, 10**9, -5000))
            seconds, rest = divmod(at_ns, 10**9)
            parts = rest if is_nano else rest // 1000
            file.write(struct.pack(order + "IIII", seconds, parts, len(data), size_bytes) + data)


def files() -> Iterator[tuple[str, Link, Layer, bool]]:
    """Give the files of a whole comparison: names, and what to make their packets of."""
    for link_name, link in LINKS.items():
        for network_name, (is_ipv6, network) in NETWORKS.items():
            if link.linktype not in (228, 229) or is_ipv6 == (link.linktype == 229):
                yield f"{link_name}-{network_name}", link, network, is_ipv6
