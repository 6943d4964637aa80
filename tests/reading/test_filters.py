"""A filter on packets of a file chooses what tcpdump chooses from it, whatever the link type, in batches and singly."""

import ctypes
import ctypes.util
import functools
import struct
import subprocess
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest

from capd_client import BadFilterError, files, read
from capd_client.editing.extraction import Extraction
from capd_client.ring.files import Span
from capd_protocol.formats import linktypes, pcapng
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
    """Return the microseconds of the packets that tcpdump takes; None if it refuses."""
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


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


class _Header(ctypes.Structure):
    """struct pcap_pkthdr."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("seconds", "microseconds")) + tuple(
        (name, ctypes.c_uint32) for name in ("captured", "original")
    )


@functools.cache
def _libpcap() -> ctypes.CDLL:
    library = ctypes.CDLL(ctypes.util.find_library("pcap"))
    handle, text, program = ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(_Program)
    library.pcap_open_offline.restype = handle
    library.pcap_open_offline.argtypes = text, text
    library.pcap_compile.argtypes = handle, program, text, ctypes.c_int, ctypes.c_uint32
    library.pcap_setfilter.argtypes = handle, program
    library.pcap_freecode.argtypes = (program,)
    library.pcap_next.restype = ctypes.c_void_p
    library.pcap_next.argtypes = handle, ctypes.POINTER(_Header)
    library.pcap_close.argtypes = (handle,)
    return library


def by_libpcap(path: Path, text: str) -> list[int] | None:
    """Return the same, asking libpcap what tcpdump asks it: without a process, thousands of files take a second."""
    library, program, header = _libpcap(), _Program(), _Header()
    handle = library.pcap_open_offline(bytes(path), ctypes.create_string_buffer(256))
    assert handle, path
    try:
        if library.pcap_compile(handle, ctypes.byref(program), text.encode(), 1, 0xFFFFFFFF):
            return None
        assert library.pcap_setfilter(handle, ctypes.byref(program)) == 0
        library.pcap_freecode(ctypes.byref(program))
        found: list[int] = []
        while library.pcap_next(handle, ctypes.byref(header)):
            found.append(header.microseconds)
        return found
    finally:
        library.pcap_close(handle)


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
        if found[name] != by_libpcap(path, text):
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
    assert by_extraction(path, "tcp") == by_tcpdump(path, "tcp") == by_libpcap(path, "tcp") == [0, 1, 2]


# In a file of several kinds of interfaces ---------------------------------------------------------------------------

_EN10MB, _RAW, _SLL, _SLL2, _NULL = 1, 101, 113, 276, 0
_KINDS = (_EN10MB, _RAW, _SLL, _SLL2, _NULL)


def _swapped_section(linktype: int, packets: list[tuple[int, bytes]]) -> bytes:
    """Return a section of the other byte order with one interface, and its packets with their times."""
    blocks = [(0x0A0D0D0A, struct.pack(">IHHq", 0x1A2B3C4D, 1, 0, -1)), (1, struct.pack(">HHI", linktype, 0, 0))]
    blocks += [
        (6, struct.pack(">5I", 0, 0, time_us, len(data), len(data)) + data + bytes(-len(data) % 4))
        for time_us, data in packets
    ]
    lengths = [struct.pack(">I", len(body) + 12) for _, body in blocks]
    return b"".join(
        struct.pack(">I", kind) + length + body + length for (kind, body), length in zip(blocks, lengths, strict=True)
    )


def _by_tcpdump_of_one(
    path: Path, text: str, linktype: int, order: str = "<", packets: Sequence[bytes] = PACKETS
) -> list[int] | None:
    data = pcap(order, MICROSECOND_MAGIC, [(0, number, packet) for number, packet in enumerate(packets)])
    path.write_bytes(data[:20] + struct.pack(order + "I", linktype) + data[24:])
    return by_tcpdump(path, text)


@pytest.mark.parametrize("text", ["tcp", "ip6", "udp port 53", "not ip", "greater 80", "link[0] = 0"])
def test_each_packet_is_looked_at_as_what_its_interface_has(tmp_path: Path, text: str) -> None:
    # Each packet once for each kind of interface, in turn; then once more in a section of the other byte order.
    path = tmp_path / "a"
    blocks = [pcapng.section_header()]
    blocks += [pcapng.interface_description(linktype=each, snaplen_bytes=0) for each in _KINDS]
    for number, packet in enumerate(PACKETS):
        blocks += [pcapng.enhanced_packet(kind, number * 1000, packet, len(packet)) for kind in range(len(_KINDS))]
    path.write_bytes(b"".join(blocks) + _swapped_section(_NULL, list(enumerate(PACKETS))))
    expected: dict[int, list[int]] = {}
    for number, (linktype, order) in enumerate([*((each, "<") for each in _KINDS), (_NULL, ">")]):
        expected[number] = _by_tcpdump_of_one(tmp_path / "one", text, linktype, order) or []
    assert sum(0 < len(each) < len(PACKETS) for each in expected.values()) > 3
    for found in _in_all_ways(path, text):
        assert found == expected


def _in_all_ways(path: Path, text: str) -> list[dict[int, list[int]]]:
    """Return the numbers of the packets that match, of each interface, read singly, in batches, and extracted."""
    with read(path) as reader:
        singly = [(each.interface_id, each.timestamp_ns) for each in reader.matching(text)]
    in_batches: list[tuple[int, int]] = []
    with read(path) as reader:
        for batch in reader.batches(text):
            assert len(batch.offsets), "no batch is empty"
            in_batches += zip(batch.interface_ids.tolist(), batch.timestamps_ns.tolist(), strict=True)
    extraction = Extraction(files(path), Span(), text)
    extracted = [(each.interface_id, each.timestamp_ns) for each in extraction]
    return [
        {number: [time_ns // 1000 for place, time_ns in found if place == number] for number in range(len(_KINDS) + 1)}
        for found in (singly, in_batches, extracted)
    ]


def test_what_matches_has_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    data = pcap("<", MICROSECOND_MAGIC, [(0, number, packet) for number, packet in enumerate(PACKETS)])
    path.write_bytes(data)
    with read(path) as reader:
        found = [
            (time_ns // 1000, batch.data[at : at + size].tobytes())
            for batch in reader.batches("udp")
            for time_ns, at, size in zip(
                batch.timestamps_ns.tolist(), batch.offsets.tolist(), batch.captured_sizes.tolist(), strict=True
            )
        ]
    numbers = by_tcpdump(path, "udp")
    assert numbers
    assert found == [(number, PACKETS[number]) for number in numbers]


@pytest.mark.parametrize(
    "text",
    [
        "greater 50",
        "less 70",
        "tcp",
        "ip protochain 6 and greater 50",
        "link[36] != 99",
        "ip protochain 6 and link[36] != 99",
    ],
)
def test_packets_that_were_cut(tmp_path: Path, text: str) -> None:
    # Each to half, and to as much as IPv4 needs: lengths are of the whole packets, and no byte is beyond the cut.
    path = tmp_path / "a"
    sizes = [(number, size) for number, data in enumerate(PACKETS) for size in (len(data) // 2, min(len(data), 38))]
    rows = [
        struct.pack("<4I", 0, place, size, len(PACKETS[number])) + PACKETS[number][:size]
        for place, (number, size) in enumerate(sizes)
    ]
    path.write_bytes(pcap("<", MICROSECOND_MAGIC, []) + b"".join(rows))
    found = by_tcpdump(path, text)
    assert found
    assert len(found) < len(rows)
    for by_us in _in_all_ways(path, text):
        assert by_us[0] == found
    with read(path) as reader:
        originals = [size for batch in reader.batches(text) for size in batch.original_sizes.tolist()]
    assert originals == [len(PACKETS[sizes[place][0]]) for place in found]


# Filters that only libpcap can run, and those that nobody can -------------------------------------------------------


@pytest.mark.parametrize("text", ["ip protochain 17", "ip6 protochain 6 or arp"])
def test_a_filter_with_a_loop(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a"
    found = _by_tcpdump_of_one(path, text, _EN10MB)
    assert found
    for by_us in _in_all_ways(path, text):
        assert by_us[0] == found


@pytest.mark.parametrize(
    ("text", "linktype", "words"),
    [
        ("inbound", _EN10MB, "files do not say the direction of packets"),
        ("udp and outbound", _RAW, "files do not say the direction of packets"),
        ("ip protochain 17 and not inbound", _EN10MB, "files do not say the direction of packets"),
        ("ifindex 3", _EN10MB, "files do not say the interface index of packets"),
        ("ifindex 3 or tcp", _SLL, "files do not say the interface index of packets"),
        ("ether[0xfffff02c:4] = 1", _EN10MB, "files do not say VLAN tags that a kernel has set aside"),
    ],
)
def test_what_files_do_not_have_is_refused(tmp_path: Path, text: str, linktype: int, words: str) -> None:
    path = tmp_path / "a"
    _by_tcpdump_of_one(path, text, linktype)
    with pytest.raises(BadFilterError) as raised, read(path) as reader:
        list(reader.matching(text))
    assert str(raised.value) == f"capture filter: {words}"
    with pytest.raises(BadFilterError):
        list(Extraction(files(path), Span(), text))


@pytest.mark.parametrize(
    ("text", "linktype", "expected"), [("inbound", _SLL, [0]), ("outbound", _SLL2, [3]), ("ifindex 7", _SLL2, [2, 3])]
)
def test_what_cooked_headers_say_is_looked_at(tmp_path: Path, text: str, linktype: int, expected: list[int]) -> None:
    path = tmp_path / "a"
    packets = [struct.pack("!H", kind) + bytes(14) for kind in (0, 4)]
    packets += [struct.pack("!HHIHB", 0x0800, 0, 7, 1, kind) + bytes(9) for kind in (0, 4)]
    if linktype == _SLL:
        packets = packets[:2]
    assert _by_tcpdump_of_one(path, text, linktype, packets=packets) == expected
    for found in _in_all_ways(path, text):
        assert found[0] == expected


def test_no_packets_are_no_batch(tmp_path: Path) -> None:
    path = tmp_path / "a"
    data = pcap("<", MICROSECOND_MAGIC, [(0, number, packet) for number, packet in enumerate(PACKETS)])
    for contents in (data[:24], data):
        path.write_bytes(contents)
        with read(path) as reader:
            assert list(reader.batches("len > 100000")) == []
        # Nor where the span has none of them: then the filter is not even compiled for them.
        assert list(Extraction(files(path), Span(10**18), "wlan type mgt")) == []


def test_a_filter_that_is_wrong_for_one_kind_is_right_for_another(tmp_path: Path) -> None:
    path = tmp_path / "a"
    blocks = [pcapng.section_header()]
    blocks += [pcapng.interface_description(linktype=each, snaplen_bytes=0) for each in (_EN10MB, _RAW)]
    blocks += [pcapng.enhanced_packet(0, number, packet, len(packet)) for number, packet in enumerate(PACKETS)]
    path.write_bytes(b"".join(blocks))
    with read(path) as reader:
        assert list(reader.matching("vlan"))
    path.write_bytes(b"".join(blocks) + pcapng.enhanced_packet(1, 0, PACKETS[0], len(PACKETS[0])))
    with pytest.raises(BadFilterError), read(path) as reader:
        list(reader.matching("vlan"))
