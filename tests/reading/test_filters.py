"""A filter on packets of a file chooses what tcpdump chooses from it, whatever the link type."""

import struct
import subprocess
from itertools import product
from pathlib import Path

import pytest

from capd_client import BadFilterError, files
from capd_client.reading.extraction import Extraction
from capd_client.ring.files import Span
from capd_protocol.formats import linktypes
from tests.reading.test_reading import pcap

FILTERS = ("tcp", "ip6", "udp port 53", "vlan", "vlan and tcp", "not ip", "greater 80")
MICROSECOND_MAGIC = 0xA1B2C3D4

_PORTS = struct.pack("!HH", 40000, 53)
TCP = _PORTS + bytes.fromhex("00000001000000005002ffff00000000")
UDP = _PORTS + struct.pack("!HH", 12, 0) + b"abcd"


def _ip4(protocol: int, segment: bytes) -> bytes:
    return (
        struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(segment), 1, 0, 64, protocol, 0, b"\x7f\0\0\1", b"\x7f\0\0\1")
        + segment
    )


def _ip6(protocol: int, segment: bytes) -> bytes:
    return struct.pack("!IHBB16s16s", 0x60000000, len(segment), protocol, 64, bytes(16), bytes(16)) + segment


#: Behind what says so, by ethertype.
NETWORK = ((0x0800, _ip4(6, TCP)), (0x0800, _ip4(17, UDP)), (0x86DD, _ip6(6, TCP)), (0x86DD, _ip6(17, UDP)))
#: Numbers for IPv6 of Linux, NetBSD, FreeBSD, Darwin, and that of PPP; 2 is IPv4 for all.
_FAMILIES = {0x0800: (2, 0x21), 0x86DD: (10, 24, 28, 30, 0x57)}
_MACS = bytes(12)
_LLC_SNAP = bytes.fromhex("aaaa03000000")


def _links(ethertype: int, packet: bytes) -> list[bytes]:
    """Return a packet behind the headers of many kinds of links: those of the others are noise to each."""
    kind = struct.pack("!H", ethertype)
    tag, provider_tag = bytes.fromhex("81000007"), bytes.fromhex("88a80009")
    headers = [
        b"",
        _MACS + kind,
        _MACS + tag + kind,
        _MACS + provider_tag + tag + kind,
        _MACS + bytes.fromhex("0030") + _LLC_SNAP + kind,
        # Cooked, of both versions, with a tag and without.
        bytes(14) + kind,
        bytes(14) + tag + kind,
        kind + bytes(18),
        tag[:2] + bytes(18) + tag[2:] + kind,
        # LLC behind token ring, FDDI, 802.11, and that behind radiotap.
        *(bytes(size) + _LLC_SNAP + kind for size in (8, 14, 13)),
        bytes.fromhex("0800") + bytes(22) + _LLC_SNAP + kind,
        bytes.fromhex("0000080000000000") + bytes.fromhex("0800") + bytes(22) + _LLC_SNAP + kind,
        # Cisco's HDLC, MPLS, ARCNET.
        bytes.fromhex("0f00") + kind,
        bytes.fromhex("00001140"),
        *(bytes(size) + kind for size in (4, 5, 6, 8, 16, 24)),
    ]
    for family in _FAMILIES[ethertype]:
        headers += [struct.pack(order + "I", family) for order in "<>"]
        headers += [struct.pack("!H", family), b"\xff\x03" + struct.pack("!H", family)]
        headers += [struct.pack(order + "I", family) + bytes(8) for order in "<>"]
        headers += [bytes((61, family)) + bytes(46)]
    return [header + packet for header in headers]


PACKETS = [linked for ethertype, packet in NETWORK for linked in _links(ethertype, packet)]


def by_tcpdump(path: Path, text: str) -> list[int] | None:
    done = subprocess.run(
        ["tcpdump", "-Z", "root", "-r", path, "-w", "-", text], capture_output=True, check=False, timeout=30
    )
    if done.returncode:
        return None
    found, at = [], 24
    order = "<" if done.stdout[:1] == b"\xd4" else ">"
    while at < len(done.stdout):
        _, number, size, _ = struct.unpack_from(order + "4I", done.stdout, at)
        found.append(number)
        at += 16 + size
    return found


def by_extraction(path: Path, text: str) -> list[int] | None:
    try:
        return [each.timestamp_ns // 1000 for each in Extraction(files(path), Span(), text)]
    except BadFilterError:
        return None


@pytest.mark.parametrize("text", FILTERS)
def test_every_link_type(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a"
    found: dict[str, list[int] | None] = {}
    differing: list[str] = []
    for known, order in product(linktypes.KNOWN, "<>"):
        data = pcap(order, MICROSECOND_MAGIC, [(0, number, packet) for number, packet in enumerate(PACKETS)])
        linktype = linktypes.dlt_to_linktype(known.dlt)
        path.write_bytes(data[:20] + struct.pack(order + "I", linktype) + data[24:])
        name = f"{known.name} {order}"
        found[name] = by_extraction(path, text)
        if found[name] != by_tcpdump(path, text):
            differing.append(name)
    assert differing == []
    # It is no comparison of nothings.
    assert sum(bool(each) and len(each) < len(PACKETS) for each in found.values() if each is not None) > 3


def test_ipv6_on_the_loopback_of_every_system(tmp_path: Path) -> None:
    # 30, 24 and 28 are BSD's and Darwin's; 10 is Linux's, which writes no such files.
    packets = [struct.pack("<I", family) + _ip6(6, TCP) for family in (30, 24, 28, 10)]
    data = pcap("<", MICROSECOND_MAGIC, [(0, number, packet) for number, packet in enumerate(packets)])
    path = tmp_path / "a"
    path.write_bytes(data[:20] + struct.pack("<I", 0) + data[24:])
    assert by_extraction(path, "tcp") == by_tcpdump(path, "tcp") == [0, 1, 2]
