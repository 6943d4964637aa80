"""Packets are read as they were written, whoever wrote them, however much of the file is there."""

import contextlib
import gc
import json
import os
import struct
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capd_client import ReadError, read
from capd_protocol.batches import record_offsets
from capd_protocol.formats import pcapng
from tests.capture.helpers import capturing, local_frame, silence
from tests.support.daemon import Daemon
from tests.support.traffic import build_frames, send

TIME_NS = 1_700_000_000_123_456_789
ORDERS = pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
Row = tuple[int, str | None, int, int, bytes]


# Files ------------------------------------------------------------------------------------------------------------


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def section(order: str) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str, name: bytes, resolution: int | None = 9, offset_s: int = 0, snaplen: int = 0) -> bytes:
    options = struct.pack(order + "HH", 2, len(name)) + name + bytes(-len(name) % 4)
    if resolution is not None:
        options += struct.pack(order + "HHB3x", 9, 1, resolution)
    options += struct.pack(order + "HHq", 14, 8, offset_s)
    return block(order, 1, struct.pack(order + "HHI", 1, 0, snaplen) + options)


def packet(order: str, interface_id: int, units: int, data: bytes, original: int | None = None) -> bytes:
    sizes = len(data), len(data) if original is None else original
    return block(order, 6, struct.pack(order + "5I", interface_id, units >> 32, units & 0xFFFFFFFF, *sizes) + data)


def pcap(order: str, magic: int, rows: list[tuple[int, int, bytes]]) -> bytes:
    header = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, 1)
    return header + b"".join(struct.pack(order + "4I", s, f, len(d), len(d)) + d for s, f, d in rows)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def rows_of(path: Path) -> list[Row]:
    with read(path) as reader:
        return [(p.timestamp_ns, p.interface, p.interface_id, p.original_size_bytes, bytes(p.data)) for p in reader]


def batch_rows(path: Path) -> list[tuple[int, int, int, bytes]]:
    with read(path) as reader:
        return [
            (time, place, original, batch.data[at : at + size].tobytes())
            for batch in reader.batches()
            for time, place, size, original, at in zip(*(each.tolist() for each in batch[:5]), strict=True)
        ]


# Formats ----------------------------------------------------------------------------------------------------------


@ORDERS
def test_several_sections_and_kinds_of_blocks(tmp_path: Path, order: str) -> None:
    other = ">" if order == "<" else "<"
    old = struct.pack(order + "HHIIII", 1, 7, 0, 5, 2, 2) + b"ol"
    data = (
        section(order)
        + interface(order, b"eth0", snaplen=3)
        + packet(order, 0, TIME_NS, b"one", 99)
        + block(order, 0xBAD, b"unknown")
        + interface(order, b"eth1")
        + packet(order, 1, 7, b"")
        + block(order, 3, struct.pack(order + "I", 60) + b"sim")
        + block(order, 2, old)
        + section(other)
        + interface(other, b"wlan0")
        + packet(other, 0, 8, b"other")
    )
    expected = [
        (TIME_NS, "eth0", 0, 99, b"one"),
        (7, "eth1", 1, 0, b""),
        (0, "eth0", 0, 60, b"sim"),
        (5, "eth1", 1, 2, b"ol"),
        (8, "wlan0", 2, 5, b"other"),
    ]
    path = write(tmp_path / "a.pcapng", data)
    assert rows_of(path) == expected
    assert batch_rows(path) == [(row[0], row[2], row[3], row[4]) for row in expected]


@pytest.mark.parametrize(
    ("clock", "units", "expected"),
    [
        ((None, 0), 1_700_000_000_000_001, 1_700_000_000_000_001_000),
        ((0, 0), 5, 5_000_000_000),
        ((12, 0), 1999, 1),
        ((0x80 | 10, 0), 1025, 1_000_976_562),
        ((0x80 | 63, 0), 1 << 63, 1_000_000_000),
        ((9, -3), 1, -2_999_999_999),
        ((0, 0), 1 << 63, (1 << 63) - 1),
        ((127, 0), 1 << 63, 0),
    ],
)
@ORDERS
def test_every_resolution(tmp_path: Path, order: str, clock: tuple[int | None, int], units: int, expected: int) -> None:
    resolution, offset_s = clock
    data = section(order) + interface(order, b"a", resolution, offset_s) + packet(order, 0, units, b"x")
    assert [row[0] for row in rows_of(write(tmp_path / "a", data))] == [expected]


@ORDERS
@pytest.mark.parametrize(("magic", "factor"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
def test_pcap(tmp_path: Path, order: str, magic: int, factor: int) -> None:
    # Runs of one size, and sizes that are no multiple of 4.
    sizes = [*[61] * 200, *range(1, 40), *[7] * 100, 9]
    rows = [(1_700_000_000, number, bytes((number % 251,)) * size) for number, size in enumerate(sizes)]
    path = write(tmp_path / "a.pcap", pcap(order, magic, rows))
    assert rows_of(path) == [(s * 10**9 + f * factor, None, 0, len(d), d) for s, f, d in rows]


@given(
    sizes=st.lists(st.one_of(st.integers(0, 64), st.sampled_from([60, 1514])), max_size=40),
    repeat=st.integers(1, 80),
    order=st.sampled_from("<>"),
    noise=st.binary(max_size=24),
)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_chains_followed_side_by_side_are_those_followed_one_by_one(
    sizes: list[int], repeat: int, order: str, noise: bytes
) -> None:
    # Packets that look like blocks lead lanes astray.
    fake = packet("<", 0, 1, b"fake") + noise
    body = b"".join(packet("<", number % 7, 1, (fake * 60)[:size]) for number, size in enumerate(sizes)) * repeat
    words = np.frombuffer(body, np.uint32)
    expected, at = [], 0
    while at < len(body):
        expected.append(at // 4)
        at += struct.unpack_from("<I", body, at + 4)[0]
    assert record_offsets.follow_blocks(words)[0].tolist() == expected


def test_many_mixed_packets_are_read_as_tshark_does(tmp_path: Path) -> None:
    frames = build_frames((60, 590, 1514), (7, 4, 1))
    blocks = [pcapng.enhanced_packet(0, TIME_NS + n, frames[n * n % 12], 2000) for n in range(12_000)]
    header = pcapng.section_header() + pcapng.interface_description(linktype=1, snaplen_bytes=0, name="eth0")
    path = write(tmp_path / "a.pcapng", header + b"".join(blocks))
    rows = rows_of(path)
    assert rows == [(TIME_NS + n, "eth0", 0, 2000, frames[n * n % 12]) for n in range(12_000)]
    shown = subprocess.run(
        ["tshark", "-r", path, "-T", "fields", "-e", "frame.time_epoch", "-e", "frame.cap_len"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert shown.split() == [
        text for row in rows for text in (f"{row[0] // 10**9}.{row[0] % 10**9:09}", str(len(row[4])))
    ]
    # Other people's files of the same packets.
    for kind in ("pcap", "nsecpcap", "pcapng"):
        subprocess.run(["editcap", "-F", kind, path, tmp_path / kind], check=True, timeout=30)
        assert [row[4] for row in rows_of(tmp_path / kind)] == [row[4] for row in rows]
    subprocess.run(["tcpdump", "-r", path, "-w", tmp_path / "t"], check=True, timeout=30, capture_output=True)
    assert [row[4] for row in rows_of(tmp_path / "t")] == [row[4] for row in rows]


def test_interfaces_say_what_the_file_says(tmp_path: Path) -> None:
    data = pcapng.section_header() + pcapng.interface_description(
        linktype=1, snaplen_bytes=96, name="eth0", capture_filter="udp"
    )
    data += pcapng.interface_statistics(
        0, timestamp_ns=9, start_ns=5, end_ns=TIME_NS, received=12, dropped=2, delivered=10
    )
    with read(write(tmp_path / "a", data)) as reader:
        assert list(reader) == []
    (found,) = reader.interfaces
    assert found[:5] == ("eth0", 1, 96, 10**9, "udp")
    assert found.statistics is not None
    assert found.statistics[:5] == (12, 2, 10, 5, TIME_NS)
    assert found.statistics.timestamp_ns == 9


# What is not whole, or damaged ------------------------------------------------------------------------------------


def small(order: str) -> tuple[bytes, list[int]]:
    """Return a file, and where its packets end."""
    data, ends = section(order) + interface(order, b"eth0"), []
    for number in range(3):
        data += packet(order, 0, number, bytes(number * 3))
        ends.append(len(data))
    return data, ends


@ORDERS
def test_a_file_cut_at_any_byte_gives_what_is_whole(tmp_path: Path, order: str) -> None:
    data, ends = small(order)
    old = pcap(order, 0xA1B23C4D, [(1, 2, b"abc"), (3, 4, b"")])
    for contents, boundaries in ((data, ends), (old, [43, 59])):
        for size in range(len(contents) + 1):
            with read(write(tmp_path / "a", contents[:size])) as reader:
                assert len(list(reader)) == sum(end <= size for end in boundaries)
                assert (reader.rest_bytes == 0) or size < len(contents)


@ORDERS
@pytest.mark.parametrize("length", [0, 4, 8, 11, 13, 0x7FFFFFFC, 0xFFFFFFFC, 0xFFFFFFFF])
def test_damaged_lengths_are_an_error_behind_what_is_whole(tmp_path: Path, order: str, length: int) -> None:
    data, ends = small(order)
    bad = data[: ends[0] + 4] + struct.pack(order + "I", length) + data[ends[0] + 8 :]
    reader = read(write(tmp_path / "a", bad))
    packets = iter(reader)
    assert next(packets).timestamp_ns == 0
    with pytest.raises(ReadError) as raised:
        next(packets)
    assert (raised.value.file, raised.value.offset_bytes) == (str(tmp_path / "a"), ends[0])
    reader.close()


@ORDERS
@pytest.mark.parametrize(("at", "value"), [(8, 1), (20, 8), (20, 0xFFFFFFFF)], ids=["interface", "size", "huge"])
def test_packets_that_cannot_be_are_an_error(tmp_path: Path, order: str, at: int, value: int) -> None:
    data, ends = small(order)
    place = ends[0] + at
    bad = data[:place] + struct.pack(order + "I", value) + data[place + 4 :]
    with read(write(tmp_path / "a", bad)) as reader:
        packets = iter(reader)
        next(packets)
        with pytest.raises(ReadError) as raised:
            next(packets)
    assert raised.value.offset_bytes == ends[0]


@given(st.binary(max_size=300), st.integers(0, 200), st.sampled_from("<>"))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_whatever_stands_in_a_file_it_is_read_or_an_error(noise: bytes, at: int, order: str) -> None:
    data = small(order)[0]
    with open(os.memfd_create("noise"), "r+b") as file:  # noqa: PTH123  # it has no path
        file.write(data[:at] + noise + data[at:])
        file.flush()
        with read(file) as reader, contextlib.suppress(ReadError):
            for each in reader:
                bytes(each.data)


def test_what_is_no_capture_file_is_an_error(tmp_path: Path) -> None:
    for source in (write(tmp_path / "a", b"hello world"), tmp_path, tmp_path / "none"):
        with pytest.raises(ReadError) as raised, read(source) as reader:
            list(reader)
        assert raised.value.offset_bytes == 0


def test_a_file_that_is_cut_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    data, ends = small("<")
    path = write(tmp_path / "a", data)
    with read(path, follow=True) as reader:
        next(iter(reader.batches()))
        os.truncate(path, ends[0])
        with pytest.raises(ReadError):
            next(iter(reader.batches()))


# Growing files ----------------------------------------------------------------------------------------------------


@ORDERS
def test_a_file_that_grows_byte_by_byte(tmp_path: Path, order: str) -> None:
    data, _ = small(order)
    path = tmp_path / "a"
    path.touch()
    with read(path, follow=True) as reader:
        writer = threading.Thread(target=_append, args=(path, data))
        writer.start()
        times = [next(iter(reader)).timestamp_ns for _ in range(3)]
        writer.join(20)
        assert times == [0, 1, 2]
        path.unlink()
        with pytest.raises(ReadError):
            next(iter(reader))


def _append(path: Path, data: bytes) -> None:
    with path.open("ab", buffering=0) as file:
        for at in range(len(data)):
            file.write(data[at : at + 1])


def test_several_files_are_followed_side_by_side(tmp_path: Path) -> None:
    data, ends = small("<")
    paths = [write(tmp_path / name, data[: ends[0]]) for name in "ab"]
    with read(paths[0], follow=True) as first, read(paths[1], follow=True) as second:
        found = [next(iter(each)).timestamp_ns for each in (first, second)]
        for begin, end in pairwise(ends):
            for path, reader in ((paths[1], second), (paths[0], first)):
                with path.open("ab") as file:
                    file.write(data[begin:end])
                found.append(next(iter(reader)).timestamp_ns)
    assert found == [0, 0, 1, 1, 2, 2]


def test_a_file_that_is_replaced_is_read_to_its_end_first(tmp_path: Path) -> None:
    data, ends = small("<")
    path = write(tmp_path / "a", data[: ends[0]])
    with read(path, follow=True) as reader:
        packets = iter(reader)
        assert next(packets).timestamp_ns == 0
        with path.open("ab") as file:
            file.write(data[ends[0] :])
        write(tmp_path / "b", data[: ends[0]]).rename(path)
        assert [next(packets).timestamp_ns for _ in range(2)] == [1, 2]
        with pytest.raises(ReadError) as raised:
            next(packets)
    assert raised.value.offset_bytes == len(data)


@pytest.mark.parametrize("follow", [False, True])
def test_a_reader_closed_in_the_middle_ends(tmp_path: Path, follow: bool) -> None:
    data, _ = small("<")
    large = data + packet("<", 0, 9, bytes(1400)) * 2000
    reader = read(write(tmp_path / "a", large), follow=follow)
    batches = reader.batches()
    batch = next(batches)
    kept = batch.data[int(batch.offsets[-1]) :].tobytes()
    rest_bytes = reader.rest_bytes
    assert 0 < rest_bytes < len(large)
    reader.close()
    reader.close()
    assert list(batches) == []
    assert reader.rest_bytes == rest_bytes
    assert reader.interfaces[0].name == "eth0"
    assert batch.data[int(batch.offsets[-1]) :].tobytes() == kept


def test_whoever_only_iterates_has_no_descriptor_left(tmp_path: Path) -> None:
    path = write(tmp_path / "a", small("<")[0] + b"\x06\0")
    gc.collect()  # what other tests have mapped goes now, and not meanwhile
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    readers = [read(path) for _ in range(3)]
    assert [len(list(reader)) for reader in readers] == [3, 3, 3]
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208
    assert [reader.rest_bytes for reader in readers] == [2, 2, 2]


def test_the_rest_is_told_behind_the_reader_s_context(tmp_path: Path) -> None:
    data, _ = small("<")
    with read(write(tmp_path / "a", data + data[:9])) as reader:
        assert len(list(reader)) == 3
    assert reader.rest_bytes == 9


@pytest.mark.parametrize("files", [4, 6])
def test_files_that_a_ring_has_deleted_are_read_or_missed_aloud(
    daemon: Daemon, user_dir: Path, veth: tuple[str, str], files: int
) -> None:
    sender, receiver = veth
    silence(sender)
    silence(receiver)
    frames = [local_frame(80 + number % 50, number) for number in range(files * 100)]
    with capturing(
        daemon,
        interfaces=receiver,
        savefile=user_dir / "ring.pcapng",
        ringbuffer_packets=100,
        ringbuffer_files=2,
        max_packet_count=len(frames),
        pass_files=True,
    ) as capture:
        send(sender, frames, len(frames), 4000)
        # All is written, and nothing was read: the ring has deleted all but two, of which the session keeps two more.
        while not list(user_dir.glob(f"ring_{files:05}_*")):
            threading.Event().wait(0.01)
        with read(capture) as reader:
            if files == 4:
                assert [bytes(packet.data) for packet in reader] == frames
            else:
                with pytest.raises(ReadError):
                    list(reader)


@pytest.mark.parametrize("use_libpcap", [False, True], ids=["pcapng", "pcap"])
def test_a_session_is_followed_through_its_ring(
    daemon: Daemon, user_dir: Path, veth: tuple[str, str], use_libpcap: bool
) -> None:
    sender, receiver = veth
    silence(sender)
    silence(receiver)
    frames = [local_frame(80 + number % 50, number) for number in range(2000)]
    with (
        capturing(
            daemon,
            interfaces=receiver,
            savefile=user_dir / "ring.pcapng",
            ringbuffer_packets=150,
            ringbuffer_files=6,  # 0.6 s: so long a busy machine may keep the reader
            max_packet_count=len(frames),
            use_libpcap=use_libpcap or None,
        ) as capture,
        read(capture) as reader,
    ):
        sending = threading.Thread(target=send, args=(sender, frames, len(frames), 1500))
        sending.start()
        assert [bytes(packet.data) for packet in reader] == frames
        sending.join(20)
    assert len(capture.files) > 10


# The client -------------------------------------------------------------------------------------------------------


def test_numpy_is_imported_only_to_read() -> None:
    code = "import sys, json; from capd_client import CaptureSession; print(json.dumps('numpy' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=20)
    assert json.loads(done.stdout) is False
