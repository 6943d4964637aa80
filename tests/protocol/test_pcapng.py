"""Blocks and headers are written as the formats say, read back in both byte orders, and taken by other people's tools.

What is not whole or breaks the format is a MalformedFileError, after all that came before it.
"""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capd_protocol.formats import pcapng
from capd_protocol.formats.pcapng import (
    Block,
    EnhancedPacket,
    InterfaceDescription,
    InterfaceStatistics,
    MalformedFileError,
    Option,
    OtherBlock,
    SectionHeader,
    enhanced_packet,
    interface_description,
    interface_statistics,
    pcap_header,
    read_blocks,
    section_header,
)

REPEATABLE = settings(derandomize=True, deadline=None, max_examples=100)
NATIVE = "<" if sys.byteorder == "little" else ">"
ORDERS = pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])

TIME_NS = 1_700_000_000_123_456_789
TIME = "1797 9CFE 3D85 CD15"
TIME_HIGH, TIME_LOW = 0x17979CFE, 0x3D85CD15


def bytes_of(text: str, order: str) -> bytes:
    """Return bytes written down as big-endian numbers; what begins with = is no number, and the same in both orders."""
    parts = []
    for word in text.split():
        if word.startswith("="):
            parts.append(bytes.fromhex(word[1:]))
        else:
            parts.append(bytes.fromhex(word)[:: 1 if order == ">" else -1])
    return b"".join(parts)


def options_of(texts: dict[int, str], order: str) -> tuple[Option, ...]:
    return tuple((code, bytes_of(text, order)) for code, text in texts.items())


class Row(NamedTuple):
    """A block: its bytes, what is read from them, and how they are written, if they are."""

    text: str
    value: Callable[[str], Block]
    write: Callable[[], bytes] | None


SECTION = "0A0D0D0A 0000001C 1A2B3C4D 0001 0000 FFFFFFFFFFFFFFFF 0000001C"

BLOCKS = {
    "section": Row(SECTION, lambda order: SectionHeader(order, ()), section_header),
    "section, all": Row(
        "0A0D0D0A 00000044 1A2B3C4D 0001 0000 FFFFFFFFFFFFFFFF"
        " 0001 0002 =68690000 0002 0002 =70630000 0003 0005 =4C696E7578000000 0004 0004 =63617064 0000 0000 00000044",
        lambda order: SectionHeader(order, ((1, b"hi"), (2, b"pc"), (3, b"Linux"), (4, b"capd"))),
        lambda: section_header(hardware="pc", operating_system="Linux", application="capd", comments=["hi"]),
    ),
    "interface": Row(
        "00000001 00000020 0001 0000 00040000 0009 0001 =09000000 0000 0000 00000020",
        lambda order: InterfaceDescription(1, 262_144, ((9, b"\x09"),)),
        lambda: interface_description(linktype=1, snaplen_bytes=262_144),
    ),
    "interface, all": Row(
        "00000001 00000064 0114 0000 00000060"
        " 0002 0004 =65746830 0003 0002 =75700000 0006 0006 =0200000000FF0000 0008 0008 00000002540BE400"
        " 0009 0001 =09000000 000B 0004 =00746370 000C 0005 =4C696E7578000000 000F 0003 =6E696300 0000 0000 00000064",
        lambda order: InterfaceDescription(
            276,
            96,
            (
                (2, b"eth0"),
                (3, b"up"),
                (6, b"\x02\0\0\0\0\xff"),
                (8, bytes_of("00000002540BE400", order)),
                (9, b"\x09"),
                (11, b"\0tcp"),
                (12, b"Linux"),
                (15, b"nic"),
            ),
        ),
        lambda: interface_description(
            linktype=276,
            snaplen_bytes=96,
            name="eth0",
            description="up",
            capture_filter="tcp",
            operating_system="Linux",
            hardware="nic",
            mac_address=b"\x02\0\0\0\0\xff",
            speed_bits_per_s=10_000_000_000,
        ),
    ),
    "interface, no options": Row(
        "00000001 00000014 FFFF 0000 00000000 00000014", lambda order: InterfaceDescription(65_535, 0, ()), None
    ),
    "packet": Row(
        "00000006 00000028 00000001 17979CFE 3D85CD15 00000005 000005DC =0102030405000000 00000028",
        lambda order: EnhancedPacket(1, TIME_NS, 1500, memoryview(b"\1\2\3\4\5"), ()),
        lambda: enhanced_packet(1, TIME_NS, b"\1\2\3\4\5", 1500),
    ),
    "packet of four bytes": Row(
        "00000006 00000024 00000000 17979CFE 3D85CD15 00000004 00000004 =01020304 00000024",
        lambda order: EnhancedPacket(0, TIME_NS, 4, memoryview(b"\1\2\3\4"), ()),
        lambda: enhanced_packet(0, TIME_NS, b"\1\2\3\4", 4),
    ),
    "packet of no bytes": Row(
        "00000006 00000020 FFFFFFFF FFFFFFFF FFFFFFFF 00000000 FFFFFFFF 00000020",
        lambda order: EnhancedPacket(2**32 - 1, 2**64 - 1, 2**32 - 1, memoryview(b""), ()),
        lambda: enhanced_packet(2**32 - 1, 2**64 - 1, b"", 2**32 - 1),
    ),
    "packet, options": Row(
        "00000006 00000038 00000000 17979CFE 3D85CD15 00000001 00000001 =AA000000"
        " 0001 0003 =6F686F00 0002 0004 00000001 0000 0000 00000038",
        lambda order: EnhancedPacket(
            0, TIME_NS, 1, memoryview(b"\xaa"), ((1, b"oho"), (2, bytes_of("00000001", order)))
        ),
        None,
    ),
    "packet, options without their end": Row(
        "00000006 0000002C 00000000 17979CFE 3D85CD15 00000001 00000001 =AA000000 0001 0003 =6F686F00 0000002C",
        lambda order: EnhancedPacket(0, TIME_NS, 1, memoryview(b"\xaa"), ((1, b"oho"),)),
        None,
    ),
    "statistics": Row(
        "00000005 00000058 00000002 17979CFE 3D85CD15"
        " 0002 0008 00000001 00000002 0003 0008 00000003 00000004"
        " 0004 0008 000000010000000A 0005 0008 0000000000000003"
        " 0008 0008 0000000100000007 0000 0000 00000058",
        lambda order: InterfaceStatistics(
            2,
            TIME_NS,
            options_of(
                {
                    2: "00000001 00000002",
                    3: "00000003 00000004",
                    4: "000000010000000A",
                    5: "0000000000000003",
                    8: "0000000100000007",
                },
                order,
            ),
        ),
        lambda: interface_statistics(
            2,
            timestamp_ns=TIME_NS,
            start_ns=(1 << 32) + 2,
            end_ns=(3 << 32) + 4,
            received=(1 << 32) + 10,
            dropped=3,
            delivered=(1 << 32) + 7,
        ),
    ),
    "statistics, no options": Row(
        "00000005 00000018 00000000 17979CFE 3D85CD15 00000018",
        lambda order: InterfaceStatistics(0, TIME_NS, ()),
        None,
    ),
    "another block": Row(
        "00000BAD 00000014 =1122334455667788 00000014",
        lambda order: OtherBlock(0xBAD, memoryview(bytes.fromhex("1122334455667788"))),
        None,
    ),
    "another block, empty": Row(
        "8000000A 0000000C 0000000C", lambda order: OtherBlock(0x8000000A, memoryview(b"")), None
    ),
}
WRITTEN = {name: row for name, row in BLOCKS.items() if row.write is not None}

each_block = pytest.mark.parametrize("row", BLOCKS.values(), ids=BLOCKS)


def read_until_fault(data: bytes) -> tuple[list[Block], str]:
    """Return what can be read, and why it goes no further: empty at the end of the file."""
    found = []
    try:
        for block in read_blocks(data):
            found.append(block)  # noqa: PERF402 - those before a fault are wanted too
    except MalformedFileError as error:
        return found, str(error)
    return found, ""


# Writing and reading --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", WRITTEN.values(), ids=WRITTEN)
def test_values_to_bytes(row: Row) -> None:
    assert row.write
    assert row.write() == bytes_of(row.text, NATIVE)


@ORDERS
@each_block
def test_bytes_to_values(row: Row, order: str) -> None:
    data = bytes_of(SECTION, order) + bytes_of(row.text, order)
    assert list(read_blocks(data)) == [SectionHeader(order, ()), row.value(order)]


@ORDERS
def test_blocks_follow_one_another(order: str) -> None:
    data = b"".join(bytes_of(row.text, order) for row in BLOCKS.values())
    assert list(read_blocks(data)) == [row.value(order) for row in BLOCKS.values()]


def test_each_section_has_its_own_byte_order() -> None:
    names = ["section", "interface", "packet", "section", "interface", "packet", "statistics"]
    orders = [">", ">", ">", "<", "<", "<", "<"]
    data = b"".join(bytes_of(BLOCKS[name].text, order) for name, order in zip(names, orders, strict=True))
    assert list(read_blocks(data)) == [BLOCKS[name].value(order) for name, order in zip(names, orders, strict=True)]


def test_no_bytes_are_no_blocks() -> None:
    assert list(read_blocks(b"")) == []


def test_packets_are_views_of_the_file() -> None:
    data = bytearray(section_header() + enhanced_packet(0, 0, b"abc", 3))
    packet = list(read_blocks(memoryview(data)))[1]
    assert isinstance(packet, EnhancedPacket)
    assert packet.data.obj is data
    assert bytes(packet.data) == b"abc"


@ORDERS
@each_block
def test_a_block_cut_anywhere_is_malformed(row: Row, order: str) -> None:
    section, block = bytes_of(SECTION, order), bytes_of(row.text, order)
    for size_bytes in range(1, len(block)):
        found, fault = read_until_fault(section + block[:size_bytes])
        assert found == [SectionHeader(order, ())], size_bytes
        assert f"at byte {len(section)}" in fault
    for size_bytes in range(1, len(section)):
        assert read_until_fault(section[:size_bytes])[1]


# Options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", range(1, 10))
def test_options_are_padded_to_whole_words(size_bytes: int) -> None:
    data = interface_description(linktype=1, snaplen_bytes=0, name="x" * size_bytes)
    assert len(data) == 12 + 8 + 4 + (size_bytes + 3) // 4 * 4 + 8 + 4
    assert b"x" * size_bytes + bytes(-size_bytes % 4) in data
    assert list(read_blocks(data)) == [InterfaceDescription(1, 0, ((2, b"x" * size_bytes), (9, b"\x09")))]


def test_an_option_is_cut_where_it_can_be_no_longer() -> None:
    data = interface_description(linktype=1, snaplen_bytes=0, name="x" * 70_000, capture_filter="y" * 70_000)
    (interface,) = read_blocks(data)
    assert interface == InterfaceDescription(1, 0, ((2, b"x" * 65_535), (9, b"\x09"), (11, b"\0" + b"y" * 65_534)))


@pytest.mark.parametrize("address", [None, b"", b"\1\2\3\4\5", bytes(20)])
def test_only_a_mac_address_is_written_as_one(address: bytes | None) -> None:
    (interface,) = read_blocks(interface_description(linktype=1, snaplen_bytes=0, mac_address=address))
    assert interface == InterfaceDescription(1, 0, ((9, b"\x09"),))


def test_a_name_that_is_not_utf_8_stays_what_it_is() -> None:
    (interface,) = read_blocks(interface_description(linktype=1, snaplen_bytes=0, name=os.fsdecode(b"eth\xff")))
    assert interface == InterfaceDescription(1, 0, ((2, b"eth\xff"), (9, b"\x09")))


def test_nothing_behind_the_end_of_options_is_read() -> None:
    data = bytes_of("00000001 00000024 0001 0000 00000000 0000 0000 0002 0004 =65746830 00000000 00000024", NATIVE)
    assert list(read_blocks(data)) == [InterfaceDescription(1, 0, ())]


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)


@settings(REPEATABLE)
@given(
    linktype=st.integers(0, 65_535),
    snaplen_bytes=st.integers(0, 2**32 - 1),
    name=texts,
    capture_filter=texts,
    speed=st.integers(0, 2**64 - 1),
)
def test_interfaces_survive(linktype: int, snaplen_bytes: int, name: str, capture_filter: str, speed: int) -> None:
    data = interface_description(
        linktype=linktype,
        snaplen_bytes=snaplen_bytes,
        name=name,
        capture_filter=capture_filter,
        speed_bits_per_s=speed,
    )
    options = (
        (2, name.encode()),
        (8, struct.pack("=Q", speed)),
        (9, b"\x09"),
        (11, b"\0" + capture_filter.encode()),
    )
    assert list(read_blocks(data)) == [InterfaceDescription(linktype, snaplen_bytes, options)]


@settings(REPEATABLE)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=50), st.integers(0, 2**32 - 1))
def test_packets_survive(interface_id: int, timestamp_ns: int, data: bytes, original: int) -> None:
    block = enhanced_packet(interface_id, timestamp_ns, data, original)
    assert (
        list(read_blocks(block + block))
        == [EnhancedPacket(interface_id, timestamp_ns, original, memoryview(data), ())] * 2
    )


# Faults ---------------------------------------------------------------------------------------------------------

MALFORMED = {
    "length 0": "00000006 00000000 00000000 00000000 00000000",
    "length below the least": "00000BAD 00000008 00000008",
    "length not of whole words": "00000BAD 0000000D =00 0000000D =000000",
    "length beyond the file": "00000BAD 00000010 00000010",
    "vast length": "00000BAD FFFFFFFC 00000010",
    "another length at the end": "00000BAD 0000000C 00000010",
    "section: no magic": "0A0D0D0A 0000001C 1A2B3C4E 0001 0000 FFFFFFFFFFFFFFFF 0000001C",
    "section: half a magic": "0A0D0D0A 0000001C 1A2B3C00 0001 0000 FFFFFFFFFFFFFFFF 0000001C",
    "section: too short": "0A0D0D0A 00000018 1A2B3C4D 0001 0000 FFFFFFFF 00000018",
    "section: only its magic": "0A0D0D0A 00000010 1A2B3C4D 00000010",
    "section: empty": "0A0D0D0A 0000000C 0000000C",
    "section: another major version": "0A0D0D0A 0000001C 1A2B3C4D 0002 0000 FFFFFFFFFFFFFFFF 0000001C",
    "section: another minor version": "0A0D0D0A 0000001C 1A2B3C4D 0001 0001 FFFFFFFFFFFFFFFF 0000001C",
    "interface: too short": "00000001 00000010 0001 0000 00000010",
    "interface: empty": "00000001 0000000C 0000000C",
    "interface: long option": "00000001 0000001C 0001 0000 00000000 0002 0005 =65746830 0000001C",
    "packet: too short": "00000006 0000001C 00000000 00000000 00000000 00000000 0000001C",
    "packet: long data": "00000006 00000024 00000000 00000000 00000000 00000005 00000005 =01020304 00000024",
    "packet: vast data": "00000006 00000024 00000000 00000000 00000000 FFFFFFFF FFFFFFFF =01020304 00000024",
    "packet: long option": "00000006 00000024 00000000 00000000 00000000 00000000 00000000 0001 FFFF 00000024",
    "statistics: too short": "00000005 00000014 00000000 00000000 00000014",
    "statistics: long option": "00000005 0000001C 00000000 00000000 00000000 0004 0008 0000001C",
}


@ORDERS
@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_what_breaks_the_format_is_malformed(text: str, order: str) -> None:
    before = bytes_of(SECTION, order) + bytes_of(BLOCKS["packet"].text, order)
    found, fault = read_until_fault(before + bytes_of(text, order) + before)
    assert found == [SectionHeader(order, ()), BLOCKS["packet"].value(order)]
    assert fault


NOT_PCAPNG = {
    "text": b"Frame 1: 60 bytes on wire\n" * 4,
    "pcap": pcap_header(linktype=1, snaplen_bytes=96),
    "zeros": bytes(64),
}


@pytest.mark.parametrize("data", NOT_PCAPNG.values(), ids=NOT_PCAPNG)
def test_what_is_no_pcapng_file_is_malformed(data: bytes) -> None:
    found, fault = read_until_fault(data)
    assert found == []
    assert fault


WHOLE = b"".join(bytes_of(row.text, NATIVE) for row in BLOCKS.values())


@settings(REPEATABLE, max_examples=400)
@given(st.data())
def test_a_damaged_file_is_read_or_malformed(data: st.DataObject) -> None:
    damaged = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    for block in read_until_fault(bytes(damaged))[0]:
        assert isinstance(block, Block)


@settings(REPEATABLE, max_examples=200)
@given(st.binary(max_size=100))
def test_any_bytes_are_read_or_malformed(data: bytes) -> None:
    read_until_fault(data)
    read_until_fault(section_header() + data)


# Other people's tools -------------------------------------------------------------------------------------------

UDP = bytes.fromhex("0200000000020200000000010800") + bytes.fromhex(
    "4500001c00010000401166cdc6120001c6120002c350c35100080000"
)
START_NS, END_NS = TIME_NS - 5_000_000_001, TIME_NS + 1_000_000_001
WRITTEN_FILE = b"".join(
    [
        section_header(
            hardware="Test CPU", operating_system="Linux 6.1", application="capd 0.1.0", comments=["für später"]
        ),
        interface_description(
            linktype=1,
            snaplen_bytes=262_144,
            name="eth0",
            description="the first",
            capture_filter="tcp port 80",
            operating_system="Linux 6.1",
            hardware="card",
            mac_address=bytes.fromhex("020000000001"),
            speed_bits_per_s=10_000_000_000,
        ),
        interface_description(linktype=113, snaplen_bytes=96, name="any"),
        enhanced_packet(0, TIME_NS, UDP, 1500),
        enhanced_packet(0, TIME_NS + 1, UDP[:14], 42),
        enhanced_packet(1, TIME_NS + 2, b"", 61),
        enhanced_packet(0, END_NS, UDP + b"\0", 43),
        interface_statistics(
            0, timestamp_ns=END_NS, start_ns=START_NS, end_ns=END_NS, received=2**40 + 6, dropped=3, delivered=2**40 + 3
        ),
        interface_statistics(
            1, timestamp_ns=END_NS, start_ns=START_NS, end_ns=END_NS, received=1, dropped=0, delivered=1
        ),
    ]
)


def run(*command: str | Path) -> str:
    environment = {**os.environ, "TZ": "UTC", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30, check=True)
    return done.stdout


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "written.pcapng"
    path.write_bytes(WRITTEN_FILE)
    return path


def test_capinfos_agrees(written: Path) -> None:
    lines = [line.strip() for line in run("capinfos", "-M", written).splitlines()]
    whole, first, second = "\n".join(lines).split("Interface #")
    for line in (
        "File type:           pcapng",
        "File timestamp precision:  nanoseconds (9)",
        "Number of packets:   4",
        "First packet time:   2023-11-14 22:13:20.123456789",
        "Last packet time:    2023-11-14 22:13:21.123456790",
        "Capture hardware:    Test CPU",
        "Capture oper-sys:    Linux 6.1",
        "Capture application: capd 0.1.0",
        "Capture comment:     für später",
        "Number of interfaces in file: 2",
    ):
        assert line in whole.splitlines()
    for line in (
        "Name = eth0",
        "Description = the first",
        "Encapsulation = Ethernet (1 - ether)",
        "Hardware = card",
        "Speed = 10000000000",
        "Capture length = 262144",
        "Time precision = nanoseconds (9)",
        "Filter string = tcp port 80",
        "Operating system = Linux 6.1",
        "Number of stat entries = 1",
        "Number of packets = 3",
    ):
        assert line in first.splitlines()
    for line in ("Name = any", "Capture length = 96", "Number of stat entries = 1", "Number of packets = 1"):
        assert line in second.splitlines()
    assert not any(word in second for word in ("Speed", "Filter", "Hardware", "Description", "Operating"))


def test_tshark_reads_the_packets(written: Path) -> None:
    layers = [packet["_source"]["layers"] for packet in json.loads(run("tshark", "-n", "-r", written, "-T", "json"))]
    frames = [layer["frame"] for layer in layers]
    assert [frame["frame.interface_id_tree"]["frame.interface_name"] for frame in frames] == [
        "eth0",
        "eth0",
        "any",
        "eth0",
    ]
    assert [(frame["frame.cap_len"], frame["frame.len"]) for frame in frames] == [
        ("42", "1500"),
        ("14", "42"),
        ("0", "61"),
        ("43", "43"),
    ]
    # Newer ones write the time as a date.
    times = run("tshark", "-n", "-r", written, "-t", "e", "-T", "fields", "-e", "_ws.col.Time").split()
    assert times == ["1700000000.123456789", "1700000000.123456790", "1700000000.123456791", "1700000001.123456790"]
    assert layers[0]["udp"]["udp.dstport"] == "50001"


# Wireshark dissects capture files themselves: every field and option, as its developers read the format.
DISSECTED = {
    "pcapng.block.length": "92 120 40 76 48 32 76 88 88",
    "pcapng.section_header.version.major": "1",
    "pcapng.section_header.version.minor": "0",
    "pcapng.section_header.section_length": "-1",
    "pcapng.options.option.code": "1 2 3 4 0 2 3 6 8 9 11 12 15 0 2 9 0 2 3 4 5 8 0 2 3 4 5 8 0",
    "pcapng.options.option.data.mac": "02:00:00:00:00:01",
    "pcapng.options.option.data.interface.speed": "10000000000",
    "pcapng.options.option.data.interface.timestamp_resolution.value": "9 9",
    "pcapng.options.option.data.interface.filter.type": "0",
    "pcapng.options.option.data.interface.received": f"{2**40 + 6} 1",
    "pcapng.options.option.data.interface.dropped": "3 0",
    "pcapng.options.option.data.interface.dropped_by_os": "",
    "pcapng.options.option.data.interface.delivered_to_user": f"{2**40 + 3} 1",
    "pcapng.interface_description.link_type": "1 113",
    "pcapng.interface_description.snap_length": "262144 96",
    "pcapng.interface_id": "0 0 1 0 0 1",
}


def dissect(file: Path, *arguments: str) -> str:
    return run("tshark", "-n", "-r", file, "-X", "read_format:MIME Files Format", *arguments)


def test_wireshark_dissects_every_block(written: Path) -> None:
    fields = [argument for name in DISSECTED for argument in ("-e", name)]
    shown = dissect(written, "-T", "fields", "-E", "aggregator=/s", "-E", "separator=|", *fields)
    assert dict(zip(DISSECTED, shown.strip().split("|"), strict=True)) == DISSECTED


def find_all(value: Any, key: str) -> Iterator[Any]:
    if isinstance(value, list):
        for each in value:
            yield from find_all(each, key)
    elif isinstance(value, dict):
        for name, each in value.items():
            if name == key:
                yield each
            yield from find_all(each, key)


def test_wireshark_finds_the_times_of_the_statistics(written: Path) -> None:
    dissected = json.loads(dissect(written, "-T", "jsonraw", "--no-duplicate-keys"))
    for name, time_ns in (("start_time", START_NS), ("end_time", END_NS)):
        found = [raw[0] for raw in find_all(dissected, f"pcapng.options.option.data.{name}_raw")]
        assert [bytes.fromhex(text) for text in found] == [struct.pack("=II", *divmod(time_ns, 2**32))] * 2


@ORDERS
def test_wireshark_has_no_complaint_of_what_this_test_calls_right(tmp_path: Path, order: str) -> None:
    names = ["section, all", "interface, all", "interface", "packet", "packet, options"]
    file = tmp_path / "handmade.pcapng"
    file.write_bytes(b"".join(bytes_of(BLOCKS[name].text, order) for name in names))
    codes = dissect(file, "-T", "fields", "-e", "pcapng.options.option.code", "-e", "_ws.expert.message")
    assert codes.strip() == "1,2,3,4,0,2,3,6,8,9,11,12,15,0,9,0,1,2,0"
    assert run("tshark", "-n", "-r", file, "-T", "fields", "-e", "frame.len").split() == ["1500", "1"]


def test_dpkt_reads_the_packets() -> None:
    reader = dpkt.pcapng.Reader(BytesIO(WRITTEN_FILE))
    assert (reader.datalink(), reader.snaplen) == (1, 262_144)
    packets = list(reader)
    assert [data for _, data in packets] == [UDP, UDP[:14], b"", UDP + b"\0"]
    # Its times are floats: nanoseconds get lost.
    assert [time for time, _ in packets] == pytest.approx([TIME_NS / 1e9] * 3 + [END_NS / 1e9], abs=1e-6, rel=0)


# pcap -----------------------------------------------------------------------------------------------------------


def test_pcap_header_to_bytes() -> None:
    assert pcap_header(linktype=1, snaplen_bytes=96) == bytes_of(
        "A1B23C4D 0002 0004 00000000 00000000 00000060 00000001", NATIVE
    )
    assert pcapng.PCAP_HEADER_SIZE_BYTES == 24


@pytest.fixture
def written_pcap(tmp_path: Path) -> Path:
    path = tmp_path / "written.pcap"
    record = struct.pack("=IIII", 1_700_000_000, 123_456_789, len(UDP), 1500) + UDP
    path.write_bytes(pcap_header(linktype=1, snaplen_bytes=96) + record)
    assert len(record) == pcapng.PCAP_RECORD_HEADER_SIZE_BYTES + len(UDP)
    return path


def test_tcpdump_reads_nanoseconds(written_pcap: Path) -> None:
    command = ["tcpdump", "-n", "-tt", "--time-stamp-precision=nano", "-r", str(written_pcap)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert "link-type EN10MB (Ethernet), snapshot length 96" in done.stderr
    assert done.stdout.startswith("1700000000.123456789 IP 198.18.0.1.50000 > 198.18.0.2.50001: UDP")


def test_capinfos_reads_the_pcap_header(written_pcap: Path) -> None:
    lines = [line.strip() for line in run("capinfos", "-M", written_pcap).splitlines()]
    assert "File type:           nsecpcap" in lines
    assert "Packet size limit:   file hdr: 96 bytes" in lines
    assert "First packet time:   2023-11-14 22:13:20.123456789" in lines


def test_dpkt_reads_the_pcap_header(written_pcap: Path) -> None:
    reader = dpkt.pcap.Reader(BytesIO(written_pcap.read_bytes()))
    assert (reader.datalink(), reader.snaplen) == (1, 96)
    assert [data for _, data in reader] == [UDP]
