"""CAN frames come into files as libpcap writes them: tshark reads identifiers, kinds and data as they were sent."""

import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from capd.worker.packets import cooked
from capd.worker.packets.records import RecordMaker
from capd_protocol.formats import pcapng
from capd_protocol.formats.linktypes import DLT_CAN_SOCKETCAN, DLT_LINUX_SLL, DLT_LINUX_SLL2
from tests.worker.test_records import FileFormat, Layout, Packet, both_formats
from tests.worker.test_runs import data_of

ARPHRD_CAN: Final = 280
# linux/if_ether.h
CAN, CAN_FD, CAN_XL = 0x000C, 0x000D, 0x000E
# linux/can.h
EXTENDED, REMOTE = 0x80000000, 0x40000000
FDF, XLF = 0x04, 0x80


@dataclass(frozen=True)
class Sent:
    """A frame as the kernel gives it, and what belongs into the file."""

    protocol: int
    data: bytes
    written: bytes


def classic(identifier: int, *, flags: int = 0, written_flags: int = 0, protocol: int = CAN, size: int = 8) -> Sent:
    rest = bytes(range(1, size + 1))
    return Sent(
        protocol,
        struct.pack("=IBBH", identifier, size, flags, 0) + rest,
        struct.pack(">IBBH", identifier, size, written_flags, 0) + rest,
    )


CLASSIC = classic(0x123)
FRAMES = [
    CLASSIC,
    classic(EXTENDED | 0x1ABCDEF),
    classic(REMOTE | 0x7FF),
    classic(0x321, flags=FDF),  # what is no CAN FD frame does not look like one
    classic(0x456, protocol=CAN_FD, size=64, written_flags=FDF),
    classic(0x457, protocol=CAN_FD, size=64, flags=FDF | 1, written_flags=FDF | 1),
    Sent(
        CAN_XL,
        struct.pack("=IBBHI", 0x123, 0, 3, 16, 0xAABBCCDD) + bytes(16),
        struct.pack(">IBB", 0x123, XLF, 3) + struct.pack("<HI", 16, 0xAABBCCDD) + bytes(16),
    ),
]


def records_of(
    frames: list[Sent], dlt: int, *, file_format: FileFormat = "pcapng", captured: int | None = None, count: int = 1
) -> list[bytes]:
    """Return the records of frames that lie in a block as the kernel puts them there."""
    packets = [Packet(frame.data, captured=captured) for frame in frames] * count
    memory, blocks = Layout(header_bytes=0, reserve_bytes=0).lay_out(packets)
    at = blocks.filled[0].first * 4
    for frame in frames * count:
        address = struct.pack("=HHiHBB8s", 17, 0, 7, ARPHRD_CAN, 0, 0, b"")
        address = address[:2] + frame.protocol.to_bytes(2, "big") + address[4:]
        begin = at + cooked.ADDRESS_OFFSET_BYTES
        memory.bytes[begin : begin + len(address)] = np.frombuffer(address, np.uint8)
        at += int(memory.words[at // 4])
    maker = RecordMaker(
        memory=memory.bytes,
        address=memory.address,
        file_format=file_format,
        interface_id=0,
        snaplen_bytes=262_144,
        dlt=dlt,
    )
    return data_of(maker.make(blocks))


def record(data: bytes, file_format: FileFormat, original: int | None = None) -> bytes:
    time_ns, original = Packet(data).time_ns, len(data) if original is None else original
    if file_format == "pcap":
        return struct.pack("=IIII", *divmod(time_ns, 10**9), len(data), original) + data
    return pcapng.enhanced_packet(0, time_ns, data, original)


@both_formats
def test_frames_are_written_as_libpcap_writes_them(file_format: FileFormat) -> None:
    made = records_of(FRAMES, DLT_CAN_SOCKETCAN, file_format=file_format)
    assert made == [record(frame.written, file_format) for frame in FRAMES]


def test_many_frames_of_one_size_too() -> None:
    assert records_of([CLASSIC], DLT_CAN_SOCKETCAN, count=1000) == [record(CLASSIC.written, "pcapng")] * 1000


@pytest.mark.parametrize("captured", range(13))
def test_of_a_frame_that_was_cut_nothing_is_moved_in_from_behind_it(captured: int) -> None:
    made = records_of(FRAMES, DLT_CAN_SOCKETCAN, captured=captured)
    for frame, data in zip(FRAMES, made, strict=True):
        whole = captured >= 4
        expected = (frame.written if whole else frame.data)[:captured]
        assert data == record(expected, "pcapng", len(frame.data))


@pytest.mark.parametrize("dlt", [DLT_LINUX_SLL, DLT_LINUX_SLL2])
def test_behind_a_cooked_header_they_stay_as_they_are(dlt: int) -> None:
    for frame, data in zip(FRAMES, records_of(FRAMES, dlt), strict=True):
        assert frame.data in data


@pytest.mark.parametrize(("dlt", "linktype"), [(DLT_CAN_SOCKETCAN, 227), (DLT_LINUX_SLL, 113), (DLT_LINUX_SLL2, 276)])
def test_tshark_reads_the_identifiers_that_were_sent(tmp_path: Path, dlt: int, linktype: int) -> None:
    frames = FRAMES[:3] + FRAMES[4:6]  # CAN XL is not known to each tshark
    file = tmp_path / "a.pcapng"
    description = pcapng.interface_description(linktype=linktype, snaplen_bytes=0, name="can0")
    file.write_bytes(pcapng.section_header() + description + b"".join(records_of(frames, dlt)))
    fields = ["_ws.col.Protocol", "can.id", "can.len"]
    command = ["tshark", "-n", "-r", str(file), "-T", "fields", *(word for name in fields for word in ("-e", name))]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    rows = [(protocol, int(number, 0), int(size)) for protocol, number, size in map(str.split, shown)]
    assert rows[:3] == [("CAN", 0x123, 8), ("CAN", 0x1ABCDEF, 8), ("CAN", 0x7FF, 8)]
    assert rows[3:] == [("CANFD", 0x456, 64), ("CANFD", 0x457, 64)]
