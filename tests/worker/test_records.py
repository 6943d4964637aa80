"""What the kernel has laid out in a ring block becomes, in place, the records that a slow and simple writer makes.

The expected records are made from the packets as they were on the wire; the ring holds what the kernel makes of them.
"""

import ctypes
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capd.worker.packets.arrays import U8, U32
from capd.worker.packets.blocks import Block, Blocks
from capd.worker.packets.records import RecordMaker, Records
from capd_protocol.formats import pcapng
from capd_protocol.formats.linktypes import DLT_EN10MB, DLT_RAW

FileFormat = Literal["pcapng", "pcap"]
both_formats = pytest.mark.parametrize("file_format", ["pcapng", "pcap"])

# linux/if_packet.h, net/packet/af_packet.c
TPACKET3_HDRLEN = 48 + 20  # struct tpacket3_hdr, and a struct sockaddr_ll behind it
BLOCK_HEADER_BYTES = 48  # struct tpacket_block_desc, and nothing private behind it
TP_STATUS_USER = 1 << 0
TP_STATUS_VLAN_VALID = 1 << 4
TP_STATUS_VLAN_TPID_VALID = 1 << 6
ETHERNET_HEADER_BYTES = 14

CANARY = 0xA5


def align(number: int, to: int) -> int:
    return -(-number // to) * to


@dataclass(frozen=True)
class Packet:
    """A packet on the wire without its outer VLAN tag, and how the kernel tells of the tag."""

    data: bytes
    #: TPID and TCI; None: untagged.
    tag: tuple[int, int] | None = None
    #: What the kernel says of the tag: both are valid, or only the TCI (Linux before 3.14).
    tag_status: int = TP_STATUS_VLAN_VALID | TP_STATUS_VLAN_TPID_VALID
    #: How much of it was captured; None: all.
    captured: int | None = None
    #: How long it was, beyond ``data``.
    longer: int = 0
    time_ns: int = 1_700_000_000_123_456_789
    #: Of struct sockaddr_ll.
    packet_type: int = 0

    @property
    def captured_bytes(self) -> int:
        return len(self.data) if self.captured is None else min(self.captured, len(self.data))

    def expected(self, snaplen_bytes: int) -> tuple[bytes, int]:
        """Return what belongs into the file, and the original length."""
        data, original = self.data[: self.captured_bytes], len(self.data) + self.longer
        if self.tag is not None:
            if len(data) >= 12:
                data = data[:12] + struct.pack("!HH", *self.tag) + data[12:]
            original += 4
        return data[:snaplen_bytes], original


@dataclass
class Memory:
    """What a RecordMaker sees of a ring: two blocks, the second one somebody else's."""

    words: U32
    bytes: U8 = field(init=False)
    address: int = field(init=False)

    def __post_init__(self) -> None:
        self.bytes = self.words.view(np.uint8)
        self.address = self.bytes.ctypes.data


@dataclass
class Layout:
    """How the kernel lays packets out: see tpacket_rcv() and prb_fill_curr_block()."""

    header_bytes: int = ETHERNET_HEADER_BYTES
    reserve_bytes: int = 2
    #: From the last packet's end to the end of its block.
    slack_bytes: int = 64
    end_word: int = 0

    def frame(self, packet: Packet) -> bytes:
        network = align(TPACKET3_HDRLEN + max(self.header_bytes, 16), 16) + self.reserve_bytes
        mac = network - self.header_bytes
        captured = packet.captured_bytes
        status, tci, tpid = TP_STATUS_USER, 0, 0
        if packet.tag is not None:
            status |= packet.tag_status
            tci = packet.tag[1]
            tpid = packet.tag[0] if packet.tag_status & TP_STATUS_VLAN_TPID_VALID else 0
        end = mac + captured
        header = struct.pack(
            "=6I2HIIHH8s",
            align(end, 8),
            *divmod(packet.time_ns, 10**9),
            captured,
            len(packet.data) + packet.longer,
            status,
            mac,
            network,
            0x12345678,  # tp_rxhash
            tci,
            tpid,
            0,
            b"",
        )
        # Between header and packet, and behind it, is whatever was there before, but for the address of the link layer.
        between = bytearray([CANARY]) * (mac - len(header))
        between[10] = packet.packet_type
        return header + between + packet.data[:captured]

    def lay_out(self, packets: Sequence[Packet]) -> tuple[Memory, Blocks]:
        data = bytearray([CANARY]) * BLOCK_HEADER_BYTES
        positions = []
        for packet in packets:
            data += bytes([CANARY]) * (-len(data) % 8)
            positions.append(len(data))
            data += self.frame(packet)
        struct.pack_into("=I", data, positions[-1], 0)  # the last frame has no next one
        block_bytes = align(len(data) + self.slack_bytes, 4)
        data += bytes([CANARY]) * (2 * block_bytes - len(data))
        # numpy aligns its memory well enough for words; the kernel aligns to pages.
        memory = Memory(np.frombuffer(bytes(data), np.uint32).copy())
        self.end_word = block_bytes // 4
        block = Block(positions[0] // 4, len(positions), (block_bytes - self.slack_bytes) // 4, self.end_word)
        return memory, Blocks(0, 1, (block,))


@dataclass
class Made:
    """Records, and the memory that they were made in."""

    memory: Memory
    records: Records
    before: U8
    end_byte: int

    @property
    def data(self) -> list[bytes]:
        return [ctypes.string_at(int(address), int(size)) for address, size in self.records.vectors]

    @property
    def in_place(self) -> list[bool]:
        start = self.memory.address
        return [start <= int(address) < start + self.memory.bytes.size for address, _ in self.records.vectors]


def make(
    packets: Sequence[Packet],
    layout: Layout | None = None,
    *,
    file_format: FileFormat = "pcapng",
    interface_id: int = 0,
    snaplen_bytes: int = 262_144,
    ethernet: bool = True,
    has_flags: bool = False,
) -> Made:
    layout = layout or Layout()
    memory, block = layout.lay_out(packets)
    before = memory.bytes.copy()
    maker = RecordMaker(
        memory=memory.bytes,
        address=memory.address,
        file_format=file_format,
        interface_id=interface_id,
        snaplen_bytes=snaplen_bytes,
        dlt=DLT_EN10MB if ethernet else DLT_RAW,
        has_flags=has_flags,
    )
    made = Made(memory, maker.make(block), before, layout.end_word * 4)
    assert np.array_equal(made.before[made.end_byte :], memory.bytes[made.end_byte :]), "another block was written to"
    assert not np.shares_memory(made.records.timestamps_ns, memory.words)
    return made


def slow(
    packet: Packet, *, file_format: FileFormat = "pcapng", interface_id: int = 0, snaplen_bytes: int = 262_144
) -> bytes:
    data, original = packet.expected(snaplen_bytes)
    if file_format == "pcap":
        return struct.pack("=IIII", *divmod(packet.time_ns, 10**9), len(data), original) + data
    return pcapng.enhanced_packet(interface_id, packet.time_ns, data, original)


def payload(size_bytes: int) -> bytes:
    """Return bytes none of which is zero, as padding must be."""
    return bytes(i % 255 + 1 for i in range(size_bytes))


# Flags ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("snaplen_bytes", [262_144, 61])
def test_records_have_the_flags_of_the_packet_type(snaplen_bytes: int) -> None:
    #: PACKET_HOST and so on (linux/if_packet.h).
    flags = (0x05, 0x0D, 0x09, 0x11, 0x02)
    packets = [
        Packet(payload(60 + kind), packet_type=kind, tag=(0x8100, 5) if kind == 1 else None) for kind in range(5)
    ]
    made = make(packets, has_flags=True, snaplen_bytes=snaplen_bytes)
    assert made.data == [
        pcapng.enhanced_packet(0, packet.time_ns, *packet.expected(snaplen_bytes), flags=value)
        for packet, value in zip(packets, flags, strict=True)
    ]


def test_of_other_packet_types_nothing_is_known() -> None:
    (record,) = make([Packet(payload(60), packet_type=5)], has_flags=True).data
    assert record[-16:-4] == struct.pack("=HHIHH", 2, 4, 0, 0, 0)


# Sizes ----------------------------------------------------------------------------------------------------------


@both_formats
@pytest.mark.parametrize("size_bytes", [*range(10), 14, 59, 60, 61, 62, 63, 64, 1514, 9014, 65_535, 262_144])
def test_packets_of_every_size(size_bytes: int, file_format: FileFormat) -> None:
    packet = Packet(payload(size_bytes), longer=3)
    made = make([packet], file_format=file_format)
    assert made.data == [slow(packet, file_format=file_format)]
    assert made.in_place == [True]


@both_formats
def test_small_packets_side_by_side_leave_one_another_alone(file_format: FileFormat) -> None:
    packets = [Packet(payload(size_bytes), time_ns=size_bytes) for size_bytes in [*range(10), *range(9, -1, -1)]]
    made = make(packets, file_format=file_format)
    assert made.data == [slow(packet, file_format=file_format) for packet in packets]
    assert all(made.in_place)


def test_padding_is_zero() -> None:
    for size_bytes in range(1, 10):
        (record,) = make([Packet(b"\xff" * size_bytes)]).data
        assert record[28:-4] == b"\xff" * size_bytes + bytes(-size_bytes % 4)


@both_formats
def test_no_bytes_were_captured(file_format: FileFormat) -> None:
    packet = Packet(payload(60), captured=0)
    (record,) = make([packet], file_format=file_format).data
    assert record == slow(packet, file_format=file_format)
    assert len(record) == (16 if file_format == "pcap" else 32)


@both_formats
def test_records_tell_time_and_interface(file_format: FileFormat) -> None:
    times_ns = [0, 1, 999_999_999, 1_000_000_000, 2**32 - 1, 2**32, (2**32 - 1) * 10**9 + 999_999_999]
    packets = [Packet(b"x", time_ns=time_ns) for time_ns in times_ns]
    made = make(packets, file_format=file_format, interface_id=7)
    assert made.records.timestamps_ns.tolist() == times_ns
    assert made.data == [slow(packet, file_format=file_format, interface_id=7) for packet in packets]


# The two kinds that are copied ----------------------------------------------------------------------------------


@both_formats
@pytest.mark.parametrize("slack_bytes", range(13))
@pytest.mark.parametrize("size_bytes", range(60, 64))
def test_the_last_packet_may_touch_the_end_of_its_block(
    size_bytes: int, slack_bytes: int, file_format: FileFormat
) -> None:
    packets = [Packet(payload(60)), Packet(payload(size_bytes))]
    made = make(packets, Layout(slack_bytes=slack_bytes), file_format=file_format)
    assert made.data == [slow(packet, file_format=file_format) for packet in packets]
    assert made.in_place[0]


@both_formats
@pytest.mark.parametrize("tagged", [False, True])
def test_a_last_packet_without_room_behind_it_is_copied_whole(file_format: FileFormat, tagged: bool) -> None:
    packet = Packet(payload(60), tag=(0x8100, 5) if tagged else None)
    made = make([packet], Layout(slack_bytes=0), file_format=file_format)
    assert made.in_place == [False]
    assert made.data == [slow(packet, file_format=file_format)]


@both_formats
@pytest.mark.parametrize("reserve_bytes", range(4))
@pytest.mark.parametrize("header_bytes", [0, 4, 14, 16, 22, 26, 80])
def test_link_layer_headers_of_any_length(header_bytes: int, reserve_bytes: int, file_format: FileFormat) -> None:
    layout = Layout(header_bytes=header_bytes, reserve_bytes=reserve_bytes)
    packets = [
        Packet(payload(100)),
        Packet(payload(97), tag=(0x8100, 5)),
        Packet(payload(3)),
        Packet(payload(102), captured=50),
    ]
    made = make(packets, layout, file_format=file_format, snaplen_bytes=99)
    assert made.data == [slow(packet, file_format=file_format, snaplen_bytes=99) for packet in packets]
    aligned = (reserve_bytes - header_bytes) % 4 == 0
    assert made.in_place == [aligned] * 4
    assert len(made.records.copies) == made.in_place.count(False)


# VLAN tags ------------------------------------------------------------------------------------------------------

TAGS = {
    "802.1Q": ((0x8100, 0x2064), TP_STATUS_VLAN_VALID | TP_STATUS_VLAN_TPID_VALID, 0x8100),
    "802.1ad": ((0x88A8, 0x0FFF), TP_STATUS_VLAN_VALID | TP_STATUS_VLAN_TPID_VALID, 0x88A8),
    "802.1Q, priority only": ((0x8100, 0), TP_STATUS_VLAN_VALID | TP_STATUS_VLAN_TPID_VALID, 0x8100),
    "no TPID": ((0x88A8, 100), TP_STATUS_VLAN_VALID, 0x8100),
    "no TPID, priority only": ((0x88A8, 0), TP_STATUS_VLAN_VALID, 0x8100),
    "no status": ((0x88A8, 100), 0, 0x8100),
}


@both_formats
@pytest.mark.parametrize("slack_bytes", [0, 64], ids=["copied", "in place"])
@pytest.mark.parametrize(("tag", "status", "tpid"), TAGS.values(), ids=TAGS)
def test_a_tag_is_put_back(
    tag: tuple[int, int], status: int, tpid: int, slack_bytes: int, file_format: FileFormat
) -> None:
    frame = payload(12) + b"\x08\x00" + payload(46)
    packet = Packet(frame, tag=tag, tag_status=status)
    made = make([packet], Layout(slack_bytes=slack_bytes), file_format=file_format)
    wire = frame[:12] + struct.pack("!HH", tpid, tag[1]) + frame[12:]
    assert made.data == [slow(Packet(wire), file_format=file_format)]
    assert made.in_place == [slack_bytes > 0]


def test_a_tag_is_put_back_only_where_there_was_one() -> None:
    packets = [
        Packet(payload(60)),
        Packet(payload(61), tag=(0x8100, 1)),
        Packet(payload(62)),
        Packet(payload(63), tag=(0x88A8, 2)),
    ]
    assert make(packets).data == [slow(packet) for packet in packets]


@pytest.mark.parametrize("slack_bytes", [0, 64], ids=["copied", "in place"])
def test_no_tag_is_put_where_ethernet_is_not(slack_bytes: int) -> None:
    packet = Packet(payload(60), tag=(0x8100, 5))
    made = make([packet], Layout(slack_bytes=slack_bytes), ethernet=False)
    assert made.data == [slow(Packet(payload(60)))]


@both_formats
@pytest.mark.parametrize("slack_bytes", [0, 64], ids=["copied", "in place"])
@pytest.mark.parametrize("captured", [0, 1, 11, 12, 13, 14, 60])
def test_a_tag_needs_the_addresses_before_it(captured: int, slack_bytes: int, file_format: FileFormat) -> None:
    packet = Packet(payload(60), tag=(0x8100, 5), captured=captured)
    (record,) = make([packet], Layout(slack_bytes=slack_bytes), file_format=file_format).data
    assert record == slow(packet, file_format=file_format)
    # It was four bytes longer, whether or not they can be shown.
    assert struct.pack("=I", 64) in record


# Snaplen --------------------------------------------------------------------------------------------------------


@both_formats
@pytest.mark.parametrize("slack_bytes", [0, 64], ids=["copied", "in place"])
@pytest.mark.parametrize("snaplen_bytes", [1, 11, 12, 13, 14, 15, 16, 17, 59, 60, 61, 62, 63, 64, 65])
def test_the_snaplen_cuts_when_the_tag_is_back(snaplen_bytes: int, slack_bytes: int, file_format: FileFormat) -> None:
    # The kernel's filter knows nothing of the tag: it captures up to the snaplen without it.
    packet = Packet(payload(60), tag=(0x8100, 5), captured=snaplen_bytes)
    made = make([packet], Layout(slack_bytes=slack_bytes), file_format=file_format, snaplen_bytes=snaplen_bytes)
    assert made.data == [slow(packet, file_format=file_format, snaplen_bytes=snaplen_bytes)]
    data, original = packet.expected(snaplen_bytes)
    assert (len(data), original) == (min(snaplen_bytes, 64), 64)


# Anything -------------------------------------------------------------------------------------------------------

tags = st.none() | st.tuples(st.sampled_from([0x8100, 0x88A8, 0x9100]), st.integers(0, 0xFFFF))
packets_strategy = st.builds(
    Packet,
    data=st.binary(max_size=90),
    tag=tags,
    captured=st.none() | st.integers(0, 90),
    longer=st.integers(0, 70_000),
    time_ns=st.integers(0, (2**32 - 1) * 10**9),
)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    packets=st.lists(packets_strategy, min_size=1, max_size=12),
    header_bytes=st.sampled_from([0, 14, 14, 16, 80]),
    reserve_bytes=st.sampled_from([2, 2, 2, 0, 1, 3]),
    slack_bytes=st.integers(0, 16),
    snaplen_bytes=st.sampled_from([262_144, 64, 20, 13]),
    file_format=st.sampled_from(["pcapng", "pcap"]),
    interface_id=st.integers(0, 63),
)
def test_any_packets_become_what_the_slow_writer_makes(
    *,
    packets: list[Packet],
    header_bytes: int,
    reserve_bytes: int,
    slack_bytes: int,
    snaplen_bytes: int,
    file_format: FileFormat,
    interface_id: int,
) -> None:
    made = make(
        packets,
        Layout(header_bytes, reserve_bytes, slack_bytes),
        file_format=file_format,
        interface_id=interface_id,
        snaplen_bytes=snaplen_bytes,
    )
    expected = [
        slow(packet, file_format=file_format, interface_id=interface_id, snaplen_bytes=snaplen_bytes)
        for packet in packets
    ]
    assert made.data == expected
    assert made.records.timestamps_ns.tolist() == [packet.time_ns for packet in packets]
    aligned = (reserve_bytes - header_bytes) % 4 == 0
    # No packet's bytes are copied without need.
    assert made.in_place[:-1] == [aligned] * (len(packets) - 1)
    assert len(made.records.copies) == made.in_place.count(False)


def test_thousands_of_packets_become_records_at_once() -> None:
    packets = [
        Packet(payload(60 + i % 7), tag=(0x8100, i % 4096) if i % 3 == 0 else None, time_ns=10**18 + i)
        for i in range(5_000)
    ]
    made = make(packets)
    assert made.data == [slow(packet) for packet in packets]
    assert made.records.copies == []


# Other people's tools -------------------------------------------------------------------------------------------


@both_formats
def test_tshark_reads_what_was_made(tmp_path: Path, file_format: FileFormat) -> None:
    udp = bytes.fromhex("0200000000020200000000010800") + bytes.fromhex(
        "4500001c00010000401166cdc6120001c6120002c350c35100080000"
    )
    packets = [
        Packet(udp),
        Packet(udp, tag=(0x8100, 0xA064), time_ns=1_700_000_000_123_456_790),
        Packet(udp + b"\0", tag=(0x88A8, 7), captured=43, time_ns=1_700_000_000_123_456_791),
        Packet(udp, time_ns=1_700_000_001_000_000_000),
    ]
    made = make(packets, Layout(slack_bytes=0), file_format=file_format)
    assert made.in_place == [True, True, True, False]
    header = (
        pcapng.pcap_header(linktype=1, snaplen_bytes=262_144)
        if file_format == "pcap"
        else pcapng.section_header() + pcapng.interface_description(linktype=1, snaplen_bytes=262_144, name="eth0")
    )
    file = tmp_path / "made"
    file.write_bytes(header + b"".join(made.data))
    fields = [
        word
        for name in (
            "_ws.col.Time",
            "frame.len",
            "frame.cap_len",
            "vlan.id",
            "vlan.priority",
            "ieee8021ad.id",
            "udp.dstport",
        )
        for word in ("-e", name)
    ]
    shown = subprocess.run(
        ["tshark", "-n", "-t", "e", "-r", str(file), "-T", "fields", "-E", "separator=,", *fields],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert shown.stdout.split() == [
        "1700000000.123456789,42,42,,,,50001",
        "1700000000.123456790,46,46,100,5,,50001",
        "1700000000.123456791,47,47,,,7,50001",
        "1700000001.000000000,42,42,,,,50001",
    ]


@both_formats
@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_the_kernel_does_when_it_closes_an_open_block_harms_no_record(count: int, file_format: FileFormat) -> None:
    for size_bytes in range(60, 76):
        packets = [Packet(payload(size_bytes + i)) for i in range(count)]
        memory, block = Layout().lay_out(packets)
        maker = RecordMaker(
            memory=memory.bytes,
            address=memory.address,
            file_format=file_format,
            interface_id=0,
            snaplen_bytes=262_144,
            dlt=DLT_EN10MB,
        )
        last = [block.filled[0].first]
        for _ in range(count - 1):
            last.append(last[-1] + int(memory.words[last[-1]]) // 4)
        records = maker.make(block._replace(is_open=True))
        memory.words[last[-1]] = 0  # tp_next_offset: prb_close_block() in net/packet/af_packet.c
        made = [ctypes.string_at(int(address), int(size)) for address, size in records.vectors]
        assert made == [slow(packet, file_format=file_format) for packet in packets]


@both_formats
@pytest.mark.parametrize("slack_bytes", [0, 4, 8, 64])
def test_blocks_made_together_are_as_each_by_itself(slack_bytes: int, file_format: FileFormat) -> None:
    packets = [[Packet(payload(60 + i)) for i in range(count)] for count in (3, 1, 40)]
    layouts = [Layout(slack_bytes=slack_bytes) for _ in packets]
    parts = [layout.lay_out(some) for layout, some in zip(layouts, packets, strict=True)]
    begins = np.cumsum([0, *(layout.end_word for layout in layouts)])
    tail = np.full(64, 0x5A5A5A5A, np.uint32)
    memory = Memory(
        np.concatenate(
            [part.words[: layout.end_word] for layout, (part, _) in zip(layouts, parts, strict=True)] + [tail]
        )
    )
    filled = [
        Block(block.first + begin, block.packets, block.end + begin, block.limit + begin)
        for begin, (_, blocks) in zip(begins[:-1].tolist(), parts, strict=True)
        for block in blocks.filled
    ]
    blocks = Blocks(0, 3, tuple(filled))
    before = memory.words.copy()
    maker = RecordMaker(
        memory=memory.bytes,
        address=memory.address,
        file_format=file_format,
        interface_id=0,
        snaplen_bytes=262_144,
        dlt=DLT_EN10MB,
    )
    records = maker.make(blocks)
    made = [ctypes.string_at(int(address), int(size)) for address, size in records.vectors]
    assert made == [slow(packet, file_format=file_format) for some in packets for packet in some]
    for begin in begins:  # the descriptors, and what is behind the last block
        descriptor = slice(begin, begin + BLOCK_HEADER_BYTES // 4)
        assert np.array_equal(memory.words[descriptor], before[descriptor])
