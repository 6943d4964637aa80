"""Files that are written: what other programs find in them, and what is left where writing fails."""

import errno
import io
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capd_client import (
    DestinationError,
    InvalidArgument,
    Packet,
    Reader,
    ReadError,
    UnsupportedError,
    merge,
    read,
    write,
)
from capd_client.writing import FileFormat
from capd_client.writing.gathering import write_gathered
from capd_protocol.batches.model import FileInterface
from capd_protocol.formats import pcapng
from tests.cli.calling import called
from tests.support.tools import capinfos, tshark_fields

FORMATS: list[FileFormat] = ["pcapng", "pcap", "nsecpcap"]
START_NS = 1_790_000_000_123_456_789
SIZES = (60, 61, 62, 63, 64, 1500, 0, 1)


def some_file(path: Path, count: int = 300, *, seed: int = 0, linktype: int = 1, interfaces: int = 2) -> Path:
    """Write a file of ours by hand: several interfaces, flags with some packets, times that now and then go back."""
    chance = random.Random(seed)
    blocks = [pcapng.section_header()]
    blocks += (
        pcapng.interface_description(
            linktype=linktype, snaplen_bytes=2000, name=f"if{seed}_{number}", capture_filter="ip"
        )
        for number in range(interfaces)
    )
    at_ns = START_NS
    for number in range(count):
        at_ns += chance.randrange(-2, 20) * 1000
        data = chance.randbytes(chance.choice(SIZES))
        flags = chance.choice((0, 0, 1, 2))
        packet = pcapng.enhanced_packet(number % interfaces, at_ns, data, len(data) + number % 3, flags=flags)
        blocks.append(packet)
    blocks += (
        pcapng.interface_statistics(
            number, timestamp_ns=at_ns, start_ns=START_NS, end_ns=at_ns, received=999, dropped=7, delivered=992
        )
        for number in range(interfaces)
    )
    path.write_bytes(b"".join(blocks))
    return path


def rows(path: Path, *, unit_ns: int = 1) -> list[tuple[object, ...]]:
    """Return what is in a file, by our reader."""
    with read(path) as reader:
        return [
            (
                each.timestamp_ns // unit_ns * unit_ns,
                each.interface,
                bytes(each.data),
                each.original_size_bytes,
                each.flags,
            )
            for each in reader
        ]


FIELDS = ("frame.time_epoch", "frame.len", "frame.cap_len", "frame.interface_name", "frame.packet_flags")


@pytest.mark.parametrize("name", ["a.pcapng", "a.pcapng.gz", "a.pcapng.zst"])
def test_a_whole_file_is_written_as_it_was_read(tmp_path: Path, name: str) -> None:
    source, target = some_file(tmp_path / "source"), tmp_path / name
    with read(source) as reader:
        assert write(target, reader, comments=["one", "two"]) == 300
    assert rows(target) == rows(source)
    assert tshark_fields(target, *FIELDS) == tshark_fields(source, *FIELDS)
    assert capinfos(target, "-c")["Number of packets"] == "300"
    with read(target) as reader:
        list(reader)
        assert [(each.name, each.linktype, each.capture_filter) for each in reader.interfaces] == [
            ("if0_0", 1, "ip"),
            ("if0_1", 1, "ip"),
        ]
        assert [each.statistics and each.statistics[:3] for each in reader.interfaces] == [(999, 7, 992)] * 2


@pytest.mark.parametrize(("file_format", "magic"), [("pcap", 0xA1B2C3D4), ("nsecpcap", 0xA1B23C4D)])
def test_pcap_keeps_what_it_can_say(tmp_path: Path, file_format: FileFormat, magic: int) -> None:
    source, target = some_file(tmp_path / "source", interfaces=1), tmp_path / "a.pcap"
    with read(source) as reader:
        assert write(target, reader, file_format=file_format) == 300
    assert int.from_bytes(target.read_bytes()[:4], "little") == magic
    unit_ns = 1000 if file_format == "pcap" else 1
    assert [(each[0], *each[2:4]) for each in rows(target)] == [
        (each[0], *each[2:4]) for each in rows(source, unit_ns=unit_ns)
    ]
    assert len(tshark_fields(target, "frame.len")) == 300
    with pytest.raises(InvalidArgument, match="comments need pcapng"), read(source) as reader:
        write(target, reader, file_format=file_format, comments=["x"])


def test_batches_and_packets_are_written_alike(tmp_path: Path) -> None:
    source = some_file(tmp_path / "source", 9000)
    with read(source) as reader:
        assert write(tmp_path / "batches", list(reader.batches()), reader.interfaces) == 9000
    with read(source) as reader:
        assert write(tmp_path / "packets", reader, reader.interfaces) == 9000
    with read(source) as reader:
        assert write(tmp_path / "one by one", iter(reader), reader.interfaces) == 9000
    contents = [rows(tmp_path / each) for each in ("batches", "packets", "one by one")]
    assert contents == [rows(source)] * 3
    with read(source) as reader:
        found = write(tmp_path / "some", reader.matching("greater 100"), reader.interfaces)
    assert found == len([each for each in rows(source) if isinstance(each[3], int) and each[3] >= 100])
    # Of some packets, the statistics of all of them say nothing.
    with read(tmp_path / "some") as reader:
        list(reader)
        assert [each.statistics for each in reader.interfaces] == [None, None]
    with pytest.raises(InvalidArgument, match="need the interfaces"):
        write(tmp_path / "none", [])
    empty: list[Packet] = []
    assert write(tmp_path / "none", empty, []) == 0
    assert rows(tmp_path / "none") == []


def test_an_open_file_is_written_as_packets_come_and_stays_open(tmp_path: Path) -> None:
    source = some_file(tmp_path / "source")
    memory = io.BytesIO()
    with read(source) as reader:
        write(memory, reader, compress_type="gzip")
    (tmp_path / "copy.gz").write_bytes(memory.getvalue())
    assert rows(tmp_path / "copy.gz") == rows(source)


class Slow(io.RawIOBase):
    """Takes a few bytes at once."""

    def __init__(self) -> None:
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int | None:
        self.taken += bytes(data[:1000])
        return min(1000, len(data)) if len(self.taken) < 1_000_000 else None


def test_a_file_that_takes_little_at_once_gets_all(tmp_path: Path) -> None:
    source, slow = some_file(tmp_path / "source"), Slow()
    with read(source) as reader:
        write(slow, reader)
    (tmp_path / "copy").write_bytes(slow.taken)
    assert rows(tmp_path / "copy") == rows(source)
    with pytest.raises(DestinationError, match="takes nothing now"), read(some_file(tmp_path / "more", 9000)) as reader:
        write(slow, reader)


@pytest.mark.parametrize("first_ns", [-1, -10_000_000_000, 5])
def test_times_before_1970_are_said_in_pcapng_alone(tmp_path: Path, first_ns: int) -> None:
    packets = [
        Packet(at_ns, "eth0", 0, 3, memoryview(b"abc")) for at_ns in (first_ns, 7, first_ns - 3_000_000_000, 2**62)
    ]
    interfaces = [FileInterface("eth0", 1, 0, 10**9)]
    assert write(tmp_path / "a", packets, interfaces) == 4
    assert [each[0] for each in rows(tmp_path / "a")] == [each.timestamp_ns for each in packets]
    assert len(tshark_fields(tmp_path / "a", "frame.len")) == 4
    with pytest.raises(UnsupportedError, match="write pcapng"):
        write(tmp_path / "b", packets, interfaces, file_format="nsecpcap")
    assert not (tmp_path / "b").exists()


def test_pcap_has_one_link_layer_type(tmp_path: Path) -> None:
    interfaces = [FileInterface("a", 1, 0, 10**9), FileInterface("b", 113, 0, 10**9)]
    packets = [Packet(1, None, number, 3, memoryview(b"abc")) for number in (0, 1)]
    with pytest.raises(UnsupportedError, match="one link-layer type"):
        write(tmp_path / "a", packets, interfaces, file_format="pcap")
    assert write(tmp_path / "a", packets, interfaces) == 2
    assert [each for (each,) in tshark_fields(tmp_path / "a", "frame.encap_type")] == ["1", "25"]


# What fails ----------------------------------------------------------------------------------------------------------


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-200] + b"\x06\0\0\0\1\0\0\0" + bytes(192))
    return path


def failing() -> Iterator[Packet]:
    yield Packet(1, None, 0, 3, memoryview(b"abc"))
    raise KeyboardInterrupt


WAYS: dict[str, Callable[[Path, Path], object]] = {
    "damage": lambda target, source: write(target, read(cut(source))),
    "damage of one of several": lambda target, source: merge(
        target, [some_file(source.with_name("other")), cut(source)]
    ),
    "no such file": lambda target, source: merge(target, [source, source.with_name("nowhere")]),
    "interrupted": lambda target, _: write(target, failing(), [FileInterface(None, 1, 0, 10**9)]),
}


@pytest.mark.parametrize("way", WAYS)
def test_where_it_fails_what_was_there_is_untouched(tmp_path: Path, way: str) -> None:
    target = tmp_path / "there" / "a.pcapng"
    target.parent.mkdir()
    target.write_text("before")
    with pytest.raises((ReadError, KeyboardInterrupt)):
        WAYS[way](target, some_file(tmp_path / "source"))
    assert [(each.name, each.read_text()) for each in target.parent.iterdir()] == [("a.pcapng", "before")]


def test_a_file_that_is_there_is_replaced_or_not_as_is_asked(tmp_path: Path) -> None:
    source, target = some_file(tmp_path / "source"), tmp_path / "a"
    target.write_text("before")
    with pytest.raises(DestinationError, match="is there already"), read(source) as reader:
        write(target, reader, overwrite=False)
    assert target.read_text() == "before"
    with read(source) as reader:
        write(target, reader)
    assert len(rows(target)) == 300
    # Over what is read itself.
    with read(source) as reader:
        assert write(source, reader) == 300
    for wrong, words in ((tmp_path, "regular file"), (tmp_path / "no" / "a", "cannot be written")):
        with pytest.raises(DestinationError, match=words), read(source) as reader:
            write(wrong, reader)


def test_a_file_goes_on(tmp_path: Path) -> None:
    first, second = some_file(tmp_path / "first"), some_file(tmp_path / "second", seed=1)
    target = tmp_path / "a"
    for source in (first, second):
        with read(source) as reader:
            write(target, reader, append=True)
    assert rows(target) == rows(first) + rows(second)
    assert len(tshark_fields(target, "frame.len")) == 600
    before = target.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write(target, failing(), [FileInterface(None, 1, 0, 10**9)], append=True)
    with pytest.raises(ReadError):
        write(target, read(cut(second)), append=True)
    assert target.read_bytes() == before
    with read(first) as reader:
        write(tmp_path / "b.gz", reader)
        (tmp_path / "c").write_bytes(before[:-3])
    for wrong, error in (("b.gz", UnsupportedError), ("c", UnsupportedError)):
        with pytest.raises(error, match="merge them"), read(first) as reader:
            write(tmp_path / wrong, reader, append=True)
    for arguments in ({"file_format": "pcap"}, {}):
        with pytest.raises(InvalidArgument, match="can go on"), read(first) as reader:
            write(io.BytesIO() if not arguments else target, reader, append=True, **arguments)  # type: ignore[call-overload, arg-type, unused-ignore]  # by name


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=True, timeout=10)
    try:
        source = some_file(tmp_path / "source", 2000)
        for name in ("a", "a.zst"):
            with pytest.raises(DestinationError, match="No space left"), read(source) as reader:
                write(disk / name, reader)
            assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True, timeout=10)
    with pytest.raises(DestinationError, match="No space left"), read(source) as reader:
        into_full(reader)


def into_full(reader: Reader) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        write(full, reader)


def test_a_short_write_is_no_success() -> None:
    data = np.zeros(100, np.uint8)
    vectors = np.array([[data.ctypes.data, 100]], np.uint64)
    read_fd, write_fd = os.pipe()
    with pytest.raises(OSError, match=os.strerror(errno.ESPIPE)):
        write_gathered(write_fd, vectors, 0)
    os.close(read_fd)
    os.close(write_fd)


# Merging --------------------------------------------------------------------------------------------------------------


def test_merging_is_what_mergecap_does(tmp_path: Path) -> None:
    sources = [some_file(tmp_path / f"{seed}.pcapng", 5000 + seed * 3, seed=seed) for seed in range(4)]
    some_file(tmp_path / "empty.pcapng", 0)
    sources.insert(2, tmp_path / "empty.pcapng")
    theirs = tmp_path / "theirs.pcapng"
    subprocess.run(["mergecap", "-I", "none", "-w", theirs, *sources], check=True, timeout=60)
    for name in ("ours.pcapng", "ours.pcapng.zst"):
        ours = tmp_path / name
        assert merge(ours, sources) == sum(5000 + seed * 3 for seed in range(4))
        assert rows(ours) == rows(theirs)
        assert tshark_fields(ours, *FIELDS) == tshark_fields(theirs, *FIELDS)
    with read(tmp_path / "ours.pcapng") as reader:
        list(reader)
        names = [each.name for each in reader.interfaces]
    # One of the files has no packets; its interfaces are kept, too.
    seeds = (0, 0, 1, 2, 3)
    assert sorted(filter(None, names)) == sorted(f"if{seed}_{number}" for seed in seeds for number in range(2))


def test_equal_times_come_in_mergecaps_order(tmp_path: Path) -> None:
    interfaces = [FileInterface("x", 1, 0, 10**9)]
    times = ([5, 3, 7, 7], [4, 6, 7], [7, 7, 1])
    for number, each in enumerate(times):
        packets = [Packet(at, None, 0, 2, memoryview(bytes((number, place)))) for place, at in enumerate(each)]
        write(tmp_path / str(number), packets, interfaces)
    sources = [tmp_path / str(number) for number in range(3)]
    merge(tmp_path / "ours", sources)
    subprocess.run(["mergecap", "-w", tmp_path / "theirs", *sources], check=True, timeout=60)
    assert [each[2] for each in rows(tmp_path / "ours")] == [each[2] for each in rows(tmp_path / "theirs")]


def test_files_of_several_kinds_are_merged(tmp_path: Path) -> None:
    source = some_file(tmp_path / "a.pcapng", interfaces=1)
    with read(source) as reader:
        write(tmp_path / "b.pcap", reader, file_format="pcap")
    with read(source) as reader:
        write(tmp_path / "c.pcap.gz", reader, file_format="nsecpcap")
    assert merge(tmp_path / "m", [source, tmp_path / "b.pcap", tmp_path / "c.pcap.gz"]) == 900
    assert capinfos(tmp_path / "m", "-c")["Number of packets"] == "900"
    assert merge(tmp_path / "m.pcap", [tmp_path / "b.pcap", tmp_path / "c.pcap.gz"], file_format="nsecpcap") == 600


def test_in_the_shell(tmp_path: Path) -> None:
    sources = [some_file(tmp_path / f"{seed}.pcapng", seed=seed) for seed in range(2)]
    done = called("merge", "-w", tmp_path / "m.pcapng.gz", *sources)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/m.pcapng.gz: 600 packets\n")
    refused = called("merge", "-w", tmp_path / "m.pcapng.gz", *sources)
    assert refused.returncode == 1
    assert "say --overwrite" in refused.stderr
    assert called("merge", "--overwrite", "-F", "nsecpcap", "-w", tmp_path / "m.pcapng.gz", *sources).returncode == 0
    assert called("merge", "-w", tmp_path / "n", tmp_path / "nowhere").returncode == 1
    assert not (tmp_path / "n").exists()
    assert rows(tmp_path / "m.pcapng.gz") != []
