"""What a killed writer has left is cut to what is whole of it when its ring goes on, and the index says what it is."""

import os
import socket
import struct
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from capd.worker.output import complete_files
from capd.worker.output.complete_files import CompleteFiles, OpenFile
from capd.worker.output.recycling import reuse
from capd.worker.output.report import Report
from capd.worker.output.ring_index import RingIndex
from capd.worker.output.savefile import KeptFile
from capd.worker.packets.whole import Whole, whole_of
from capd_protocol.formats import pcapng
from capd_protocol.formats.ring_index import FileWasClosed
from capd_protocol.messages import Conditions
from tests.support.rings import Frame, pcapng_bytes, write_ring
from tests.support.tools import packets_of, tshark_fields

Make = Callable[[Sequence[Frame]], bytes]

T = 1_700_000_000_000_000_000
INTERFACES = ["eth0", "eth1"]
HEADER = pcapng_bytes([], INTERFACES)
STATISTICS = pcapng.interface_statistics(0, timestamp_ns=T, start_ns=T, end_ns=T, received=1, dropped=0, delivered=1)


def frames(count: int) -> list[Frame]:
    """Return packets of all kinds of lengths; the first one is not the earliest."""
    times = [T + 5, *range(T, T + count - 1)]
    return [Frame(time_ns, INTERFACES[n % 2], bytes([n]) * (60 + n % 7)) for n, time_ns in enumerate(times)]


def pcap_bytes(packets: Sequence[Frame]) -> bytes:
    records = [
        struct.pack("=IIII", *divmod(each.timestamp_ns, 10**9), len(each.data), len(each.data) + 9) + each.data
        for each in packets
    ]
    return pcapng.pcap_header(linktype=1, snaplen_bytes=100) + b"".join(records)


# What is whole ------------------------------------------------------------------------------------------------------


def expected(packets: Sequence[Frame], size_bytes: int) -> Whole:
    times = [each.timestamp_ns for each in packets]
    return Whole(size_bytes, len(packets), min(times, default=None), max(times, default=None))


@pytest.mark.parametrize("make", [lambda some: pcapng_bytes(some, INTERFACES), pcap_bytes], ids=["pcapng", "pcap"])
def test_wherever_a_file_is_cut_all_records_before_are_whole(make: Make) -> None:
    packets = frames(9)
    ends = [len(make(packets[:count])) for count in range(10)]
    data = make(packets)
    for size_bytes in range(ends[0], len(data) + 1):
        count = sum(end <= size_bytes for end in ends[1:])
        assert whole_of([data[:size_bytes]]) == expected(packets[:count], ends[count]), size_bytes


@pytest.mark.parametrize("part_bytes", [64, 100, 1000])
@pytest.mark.parametrize("make", [lambda some: pcapng_bytes(some, INTERFACES), pcap_bytes], ids=["pcapng", "pcap"])
def test_how_a_file_is_divided_for_reading_changes_nothing(make: Make, part_bytes: int) -> None:
    packets = frames(200)
    data = make(packets)
    parts = [data[at : at + part_bytes] for at in range(0, len(data), part_bytes)]
    assert whole_of(parts) == expected(packets, len(data))
    assert whole_of([*parts, b"abc"]) == expected(packets, len(data))


RECORD = pcapng.enhanced_packet(0, T + 1000, b"x" * 60, 60)
NO_RECORDS = {
    "what is left of an old file": struct.pack("=II", 0x80000001, 92) + RECORD[8:],
    "an unequal trailer": RECORD[:-4] + struct.pack("=I", 88),
    "a length that is no multiple of 4": struct.pack("=II", 5, 90) + bytes(76) + struct.pack("=I", 90),
    "a block that is too short": struct.pack("=II", 5, 8),
    "a block that is too long": struct.pack("=II", 6, 1 << 25) + RECORD,
    "a packet without room for its fields": struct.pack("=III", 6, 12, 12),
    "a packet that is longer than its block": RECORD[:20] + struct.pack("=I", 61) + RECORD[24:],
    "zeros": bytes(100),
    "another section": HEADER,
}


@pytest.mark.parametrize("what", NO_RECORDS)
def test_a_file_ends_before_what_this_program_does_not_write(what: str) -> None:
    packets = frames(5)
    data = pcapng_bytes(packets, INTERFACES) + STATISTICS

    def parts() -> Iterator[bytes]:
        yield data + NO_RECORDS[what] + RECORD
        pytest.fail("more is read than is needed")

    assert whole_of(parts()) == expected(packets, len(data))


def test_a_pcap_file_ends_before_a_time_or_a_length_that_none_is() -> None:
    packets = frames(5)
    data = pcap_bytes(packets)
    for no_record in (struct.pack("=IIII", 1, 10**9, 4, 4), struct.pack("=IIII", 1, 1, 5, 4)):
        assert whole_of([data + no_record + bytes(100)]) == expected(packets, len(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HEADER[:20],
        b"text" * 100,
        struct.pack(">I", pcapng.PCAP_NANOSECOND_MAGIC) + bytes(100),
        HEADER[:8] + HEADER[11:7:-1] + HEADER[12:],
    ],
)
def test_a_file_that_does_not_begin_as_ours_is_none(data: bytes) -> None:
    assert whole_of([data] if data else []) is None


# In a ring ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def directory_fd(tmp_path: Path) -> Generator[int, None, None]:
    descriptor = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def go_on(directory_fd: int) -> tuple[CompleteFiles, list[FileWasClosed | None]]:
    """Have the ring's next worker take in its files; return these, and what the index says of each."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        index = RingIndex(directory_fd, "a.pcapng", group_access=False)
        complete = CompleteFiles(
            directory_fd=directory_fd,
            file_name="a.pcapng",
            ring=Conditions(packets=10, files=5),
            max_disk_bytes=None,
            open_file=lambda: OpenFile(0, 0, 0),
            report=Report(ours),
            index=index,
            continues=True,
        )
        index.close()
        again = RingIndex(directory_fd, "a.pcapng", group_access=False)
        closed = [file.closed for file in again.files]
        again.close()
        return complete, closed


def ring(directory: Path, count: int = 9) -> tuple[Path, Path]:
    """Leave two files, of which the second one was not closed."""
    first, second = write_ring(directory / "a.pcapng", [frames(3), frames(count)], INTERFACES, last_is_open=True)
    return first, second


@pytest.mark.parametrize("torn_bytes", [0, 1, 91, 93])
def test_a_file_is_cut_to_its_whole_packets(tmp_path: Path, directory_fd: int, torn_bytes: int) -> None:
    first, second = ring(tmp_path)
    before = first.read_bytes()
    whole = second.read_bytes()
    os.truncate(second, len(whole) - torn_bytes)
    os.utime(second, ns=(T, T + 77))
    count = 9 - (torn_bytes + 95) // 96  # a packet's block has 96 bytes
    complete, (_, closed) = go_on(directory_fd)
    left = pcapng_bytes(frames(count), INTERFACES)
    assert second.read_bytes() == left
    assert packets_of(second) == count
    assert [int(time_s.replace(".", "")) for (time_s,) in tshark_fields(second, "frame.time_epoch")] == [
        each.timestamp_ns for each in frames(count)
    ]
    assert closed == FileWasClosed(
        name=second.name,
        closed_ns=T + 77,
        size_bytes=len(left),
        packets=count,
        first_timestamp_ns=T,
        last_timestamp_ns=max(each.timestamp_ns for each in frames(count)),
        drops={},
    )
    assert complete.size_bytes == len(before) + len(left)
    assert first.read_bytes() == before


def test_what_is_left_of_the_file_that_it_was_written_over_is_cut_off(tmp_path: Path, directory_fd: int) -> None:
    _, second = ring(tmp_path, count=0)
    second.write_bytes(HEADER + b"".join(map(pcapng_packet, range(100))))
    second.chmod(0o600)
    old = KeptFile(directory_fd, second.name, second.stat().st_size, second.stat())
    file = reuse(old, "other", header=HEADER, group_access=False)
    assert file is not None
    file.write(HEADER[file.size_bytes :])
    packets = [np.frombuffer(pcapng_packet(number), np.uint8) for number in range(1000, 1007)]
    file.write_records(np.array([(each.ctypes.data, len(each)) for each in packets], np.uint64))
    # Its writer is killed.
    os.close(file._fd)
    (tmp_path / "other").rename(second)
    assert second.stat().st_size > file.size_bytes
    _, (_, closed) = go_on(directory_fd)
    assert second.read_bytes() == HEADER + b"".join(each.tobytes() for each in packets)
    assert closed is not None
    assert (closed.size_bytes, closed.packets, closed.first_timestamp_ns) == (file.size_bytes, 7, T + 1000)


def pcapng_packet(number: int) -> bytes:
    return pcapng.enhanced_packet(0, T + number, b"x" * 60, 60)


@pytest.mark.parametrize("why", ["open", "linked"])
def test_what_somebody_has_is_counted_and_stays_as_long_as_it_is(tmp_path: Path, directory_fd: int, why: str) -> None:
    _, second = ring(tmp_path)
    torn = second.read_bytes()[:-5]
    os.truncate(second, len(torn))
    (tmp_path / "link").hardlink_to(second)
    if why == "open":
        (tmp_path / "link").unlink()
    with (second if why == "open" else tmp_path / "a.pcapng.index").open("rb"):
        _, (_, closed) = go_on(directory_fd)
    assert second.read_bytes() == torn
    assert closed is not None
    assert (closed.size_bytes, closed.packets) == (len(torn), 8)


def test_what_takes_too_long_is_left_as_it_is(
    tmp_path: Path, directory_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second = ring(tmp_path)
    torn = second.read_bytes()[:-5]
    os.truncate(second, len(torn))
    monkeypatch.setattr(complete_files, "_LONGEST_WALK_BYTES", len(torn) - 1)
    _, (_, closed) = go_on(directory_fd)
    assert second.read_bytes() == torn
    assert closed is not None
    assert (closed.size_bytes, closed.packets, closed.first_timestamp_ns) == (len(torn), None, None)


@pytest.mark.parametrize("data", [b"", HEADER[:20], b"no capture file" * 100])
def test_what_does_not_begin_as_ours_is_left_as_it_is(tmp_path: Path, directory_fd: int, data: bytes) -> None:
    _, second = ring(tmp_path)
    second.write_bytes(data)
    _, (_, closed) = go_on(directory_fd)
    assert second.read_bytes() == data
    assert closed is not None
    assert (closed.size_bytes, closed.packets) == (len(data), None)


def test_a_file_that_was_closed_is_not_looked_into(tmp_path: Path, directory_fd: int) -> None:
    first, _ = ring(tmp_path)
    with first.open("ab") as file:
        file.write(b"whoever has added this")
    before = first.read_bytes()
    go_on(directory_fd)
    assert first.read_bytes() == before


def test_the_same_is_done_for_a_file_in_parts(
    tmp_path: Path, directory_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(complete_files, "_PART_BYTES", 100)
    _, second = ring(tmp_path, count=100)
    os.truncate(second, second.stat().st_size - 5)
    _, (_, closed) = go_on(directory_fd)
    assert closed is not None
    assert closed.packets == packets_of(second) == 99


def test_it_is_done_once(tmp_path: Path, directory_fd: int) -> None:
    _, second = ring(tmp_path)
    os.truncate(second, second.stat().st_size - 5)
    _, once = go_on(directory_fd)
    lines = (tmp_path / "a.pcapng.index").read_bytes()
    _, twice = go_on(directory_fd)
    assert once == twice
    assert (tmp_path / "a.pcapng.index").read_bytes() == lines
