"""Files are full where dumpcap's are, to the packet, and bear the names that dumpcap gives them."""

import re
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capd.worker.output.rotation import Fill, is_full, room_for, time_left
from capd_protocol.arguments import MAX_FILE_NAME_BYTES, RING_SUFFIX_BYTES
from capd_protocol.formats.pcapng import EnhancedPacket, read_blocks
from capd_protocol.formats.ring_index import number_of, ring_file_name, ring_of
from capd_protocol.messages import Conditions, EndReason

REPEATABLE = settings(derandomize=True, deadline=None, max_examples=200)

EMPTY = Fill(size_bytes=0, packets=0)


def room(fill: Fill, conditions: Conditions, sizes_bytes: Sequence[int]) -> int:
    return room_for(fill, conditions, np.array(sizes_bytes, np.uint64))


# Full -----------------------------------------------------------------------------------------------------------

FULL = [
    (Conditions(), Fill(2**62, 2**62), None),
    (Conditions(duration_s=0.001, files=1), Fill(2**62, 2**62), None),  # not a matter of what is in the file
    (Conditions(packets=3), Fill(0, 2), None),
    (Conditions(packets=3), Fill(0, 3), EndReason.PACKETS),
    (Conditions(packets=3), Fill(0, 4), EndReason.PACKETS),
    (Conditions(filesize_kb=2), Fill(1_999, 0), None),  # kB are not KiB
    (Conditions(filesize_kb=2), Fill(2_000, 0), EndReason.FILESIZE),
    (Conditions(filesize_kb=2_000_000_000), Fill(1_999_999_999_999, 1), None),
    (Conditions(filesize_kb=2_000_000_000), Fill(2_000_000_000_000, 1), EndReason.FILESIZE),
    (Conditions(packets=3, filesize_kb=2), Fill(1_999, 2), None),
    (Conditions(packets=3, filesize_kb=2), Fill(2_000, 2), EndReason.FILESIZE),
    (Conditions(packets=3, filesize_kb=2), Fill(2_000, 3), EndReason.PACKETS),  # packets are looked at first
]


@pytest.mark.parametrize(("conditions", "fill", "reason"), FULL)
def test_a_file_is_full_when_a_condition_is_met(conditions: Conditions, fill: Fill, reason: EndReason | None) -> None:
    assert is_full(fill, conditions) == reason


# Room -----------------------------------------------------------------------------------------------------------

# Conditions, what is in the file, sizes of the next packets, and how many of them still go into it.
ROOM = [
    (Conditions(), EMPTY, [100] * 3, 4),
    (Conditions(duration_s=1, files=2), EMPTY, [100] * 3, 4),
    (Conditions(packets=5), EMPTY, [100] * 3, 4),
    (Conditions(packets=3), EMPTY, [100] * 3, 3),
    (Conditions(packets=2), EMPTY, [100] * 3, 2),
    (Conditions(packets=5), Fill(0, 3), [100] * 3, 2),
    (Conditions(packets=2**63 - 1), EMPTY, [100] * 3, 4),
    (Conditions(filesize_kb=1), EMPTY, [100] * 3, 4),
    (Conditions(filesize_kb=1), EMPTY, [333, 333, 333], 4),
    (Conditions(filesize_kb=1), EMPTY, [333, 333, 334], 3),  # the one that reaches the size is the last
    (Conditions(filesize_kb=1), EMPTY, [999, 1, 100], 2),
    (Conditions(filesize_kb=1), EMPTY, [999, 500, 100], 2),  # and may go beyond it
    (Conditions(filesize_kb=1), EMPTY, [262_176, 100], 1),
    (Conditions(filesize_kb=1), Fill(900, 1), [99, 1, 100], 2),
    (Conditions(filesize_kb=1), Fill(900, 1), [100, 1], 1),
    (Conditions(filesize_kb=2_000_000_000), Fill(1_999_999_999_000, 1), [999, 1, 100], 2),
    (Conditions(filesize_kb=1, packets=2), EMPTY, [500, 500, 500], 2),
    (Conditions(filesize_kb=1, packets=1), EMPTY, [500, 500, 500], 1),
    (Conditions(filesize_kb=1, packets=9), EMPTY, [500, 500, 500], 2),
]


@pytest.mark.parametrize(("conditions", "fill", "sizes_bytes", "expected"), ROOM)
def test_room_ends_with_the_packet_that_fills_the_file(
    conditions: Conditions, fill: Fill, sizes_bytes: list[int], expected: int
) -> None:
    assert room(fill, conditions, sizes_bytes) == expected


@settings(REPEATABLE)
@given(
    filesize_kb=st.none() | st.integers(1, 5),
    packets=st.none() | st.integers(1, 50),
    size_bytes=st.integers(0, 4_999),
    in_file=st.integers(0, 49),
    sizes_bytes=st.lists(st.integers(1, 1_500), min_size=1, max_size=60),
)
def test_room_is_what_looking_after_each_packet_finds(
    filesize_kb: int | None, packets: int | None, size_bytes: int, in_file: int, sizes_bytes: list[int]
) -> None:
    conditions = Conditions(filesize_kb=filesize_kb, packets=packets)
    fill = Fill(size_bytes, in_file)
    if is_full(fill, conditions):
        return
    expected = len(sizes_bytes) + 1
    for count, size in enumerate(sizes_bytes, 1):
        fill = Fill(fill.size_bytes + size, fill.packets + 1)
        if is_full(fill, conditions):
            expected = count
            break
    assert room(Fill(size_bytes, in_file), conditions, sizes_bytes) == expected


# Time -----------------------------------------------------------------------------------------------------------

# Conditions, how long the file has been open, when it was opened and the time now, and what is left.
TIMES = [
    (Conditions(), 10**9, 0, 10**9, None),
    (Conditions(packets=1, files=2), 10**9, 0, 10**9, None),
    (Conditions(duration_s=2), 0.5, 0, 0, 1.5),
    (Conditions(duration_s=2), 2, 0, 0, 0),
    (Conditions(duration_s=2), 3, 0, 0, 0),
    (Conditions(interval_s=60), 0, 1_000_000_000, 1_000_000_000, 20),  # 40 s into a minute
    (Conditions(interval_s=60), 0, 1_000_000_000, 1_000_000_019.5, 0.5),
    (Conditions(interval_s=60), 0, 1_000_000_000, 1_000_000_020, 0),
    (Conditions(interval_s=60), 0, 1_000_000_020, 1_000_000_020, 60),  # opened at a multiple: until the next
    (Conditions(interval_s=60), 0, 1_000_000_000, 1_000_005_000, 0),
    (Conditions(interval_s=60), 0, 1_000_000_000, 999_990_000, 0),  # the clock was set back
    (Conditions(interval_s=60, duration_s=5), 1, 1_000_000_000, 1_000_000_001, 4),
    (Conditions(interval_s=60, duration_s=50), 1, 1_000_000_000, 1_000_000_001, 19),
]


@pytest.mark.parametrize(("conditions", "open_for_s", "opened_at_s", "now_s", "expected"), TIMES)
def test_a_files_time_is_up_after_its_duration_and_at_multiples_of_the_interval(
    conditions: Conditions, open_for_s: float, opened_at_s: float, now_s: float, expected: float | None
) -> None:
    assert time_left(conditions, open_for_s=open_for_s, opened_at_s=opened_at_s, now_s=now_s) == expected


# Names ----------------------------------------------------------------------------------------------------------

OPENED = time.struct_time((2026, 1, 31, 3, 4, 5, 5, 31, 0))

NAMES = [
    ("base.pcapng", 1, "base_00001_20260131030405.pcapng"),
    ("base", 1, "base_00001_20260131030405"),
    ("my.base.pcapng", 12, "my.base_00012_20260131030405.pcapng"),
    ("base.pcapng.gz", 1, "base_00001_20260131030405.pcapng.gz"),  # as dumpcap from 4.4 on
    ("base.zst", 1, "base_00001_20260131030405.zst"),
    (".hidden.zst", 1, ".hidden_00001_20260131030405.zst"),
    ("base.", 1, "base_00001_20260131030405."),
    (".hidden", 1, ".hidden_00001_20260131030405"),  # dumpcap itself puts this one into the directory above
    (".hidden.pcapng", 1, ".hidden_00001_20260131030405.pcapng"),
    ("50%_%Y.pcapng", 1, "50%_%Y_00001_20260131030405.pcapng"),
    ("für später.pcapng", 1, "für später_00001_20260131030405.pcapng"),
    ("base.pcapng", 99_999, "base_99999_20260131030405.pcapng"),
    ("base.pcapng", 100_000, "base_00000_20260131030405.pcapng"),
    ("base.pcapng", 100_001, "base_00001_20260131030405.pcapng"),
]


@pytest.mark.parametrize(("file_name", "number", "name"), NAMES)
def test_ring_files_have_dumpcaps_names(file_name: str, number: int, name: str) -> None:
    assert ring_file_name(file_name, number, OPENED) == name
    turned = ring_file_name(file_name, number, OPENED, time_first=True)
    assert turned == re.sub(r"_(\d{5})_(20260131030405)", r"_\2_\1", name)
    assert number_of(file_name, name) == number_of(file_name, turned) == number % 100_000
    assert ring_of(name) == ring_of(turned) == file_name


@pytest.mark.parametrize("file_name", ["x" * 234, "x" * 227 + ".pcapng", ".", ".x", "x."])
@pytest.mark.parametrize("number", [1, 99_999, 100_000, 2**31])
def test_a_name_grows_by_what_the_limit_allows_for(file_name: str, number: int) -> None:
    name = ring_file_name(file_name, number, OPENED)
    assert len(name) == len(file_name) + RING_SUFFIX_BYTES <= MAX_FILE_NAME_BYTES
    assert "/" not in name


# Dumpcap itself -------------------------------------------------------------------------------------------------


def run_dumpcap(directory: Path, file_name: str, packet_sizes_bytes: Sequence[int], *conditions: str) -> list[Path]:
    data = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)
    for size_bytes in packet_sizes_bytes:
        data += struct.pack("=IIII", 1, 0, size_bytes, size_bytes) + bytes(size_bytes)
    command = ["dumpcap", "-q", "-i", "-", "-w", file_name, *(word for each in conditions for word in ("-b", each))]
    subprocess.run(command, cwd=directory, input=data, capture_output=True, timeout=30, check=True)
    return sorted(directory.iterdir())


@pytest.mark.parametrize("file_name", ["base.pcapng", "base", "my.base.pcapng", "base.", "50%.pcapng"])
def test_dumpcap_gives_the_same_names(tmp_path: Path, file_name: str) -> None:
    before_s = int(time.time())
    files = run_dumpcap(tmp_path, file_name, [60] * 5, "packets:2")
    opened = [time.localtime(second) for second in range(before_s, int(time.time()) + 1)]
    assert len(files) == 3
    for number, file in enumerate(files, 1):
        assert file.name in {ring_file_name(file_name, number, second) for second in opened}


SIZES_BYTES = [60, 576, 1500, 64, 1500, 1500, 60, 61, 62, 63, 1000, 9, 900, 1, 1, 1, 1500, 60] * 5


@pytest.mark.parametrize(
    ("options", "conditions"),
    [
        (("packets:7",), Conditions(packets=7)),
        (("filesize:3",), Conditions(filesize_kb=3)),
        (("filesize:3", "packets:4"), Conditions(filesize_kb=3, packets=4)),
    ],
)
def test_dumpcap_fills_its_files_with_the_same_packets(
    tmp_path: Path, options: tuple[str, ...], conditions: Conditions
) -> None:
    left = list(SIZES_BYTES)
    files = run_dumpcap(tmp_path, "base.pcapng", SIZES_BYTES, *options)
    assert len(files) > 5
    for file in files:
        data = file.read_bytes()
        packets = [len(block.data) for block in read_blocks(data) if isinstance(block, EnhancedPacket)]
        records = [32 + (size + 3) // 4 * 4 for size in left]
        header_bytes = len(data) - sum(records[: len(packets)])
        fits = min(room(Fill(header_bytes, 0), conditions, records), len(left))
        assert packets == left[:fits]
        del left[:fits]
    assert not left
