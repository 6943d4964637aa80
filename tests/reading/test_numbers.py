"""Packets by their numbers, the formats that there are, and files compressed with lz4."""

import contextlib
import subprocess
from pathlib import Path

import lz4.frame
import pytest

from capd_client import (
    InvalidArgument,
    Packet,
    ReadError,
    UnsupportedError,
    iter_encapsulation_types,
    iter_file_types,
    read,
    write,
)
from tests.reading import full
from tests.reading.test_foreign import converted
from tests.reading.test_metadata import everything
from tests.reading.test_writing import some_file

PAST_ONE_WINDOW = 9000


def comparable(packet: Packet) -> tuple[object, ...]:
    return (*packet[:4], bytes(packet.data), packet.flags, packet.options)


@pytest.mark.parametrize("suffix", ["", ".zst", ".gz"])
def test_a_packet_is_found_by_its_number(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with read(some_file(tmp_path / "source", PAST_ONE_WINDOW)) as reader:
        write(path, reader)
    with read(path) as reader:
        every = list(map(comparable, reader))
    with read(path) as reader:
        first = next(iter(reader))
        for number in (1, 17, 8999, 9000, 2, 5000, 5001):
            assert comparable(reader.packet(number)) == every[number - 1]
        # An iteration goes on where it was.
        assert [comparable(first), *map(comparable, reader)] == every
        # It is closed then; its path is known.
        assert comparable(reader.packet(9000)) == every[-1]
        for wrong in (0, -1, 9001):
            with pytest.raises(InvalidArgument, match=r"no packet 9001: the file has 9000|numbered from 1"):
                reader.packet(wrong)


@pytest.mark.parametrize("order", ["<", ">"])
def test_it_has_what_the_file_says(tmp_path: Path, order: str) -> None:
    with read(everything(tmp_path / "a", order)) as reader:
        packets = [reader.packet(number) for number in range(1, 5)]
        assert list(map(comparable, packets)) == list(map(comparable, reader))
        assert packets[0].comments == ("of a packet", "and again")


def test_a_file_that_grows_has_more_packets_later(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(full.section("<") + full.interface("<") + full.packet("<", 0, 1, b"one"))
    with read(path) as reader:
        with pytest.raises(InvalidArgument, match="no packet 2: the file has 1"):
            reader.packet(2)
        with path.open("ab") as file:
            file.write(full.packet("<", 0, 2, b"two"))
        assert bytes(reader.packet(2).data) == b"two"
        path.write_bytes(path.read_bytes()[:-12])
        with pytest.raises(ReadError, match="cut"):
            reader.packet(2)


def test_where_there_are_no_numbers_that_is_said(tmp_path: Path) -> None:
    source = some_file(tmp_path / "a.pcapng", 3, interfaces=1)
    with subprocess.Popen(["cat", source], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with read(process.stdout) as reader, pytest.raises(UnsupportedError, match="write one first"):
            reader.packet(1)
    with source.open("rb") as file, read(file) as reader:
        list(reader)
        with pytest.raises(InvalidArgument, match="the file is closed"):
            reader.packet(1)
    with read(converted(source, "snoop")) as reader, pytest.raises(UnsupportedError, match="write one first"):
        reader.packet(1)


def test_there_are_formats_and_encapsulations(monkeypatch: pytest.MonkeyPatch) -> None:
    types = {each.name: each for each in iter_file_types()}
    assert [name for name, each in types.items() if each.is_written] == ["pcapng", "pcap", "nsecpcap"]
    assert types["snoop"].description == "Sun snoop"
    assert "Ethernet" in [each.description for each in iter_encapsulation_types()]
    monkeypatch.setenv("PATH", "/nowhere")
    assert [each.name for each in iter_file_types()] == ["pcapng", "pcap", "nsecpcap", "modpcap"]


def test_lz4_is_read_as_other_compressed_files_are(tmp_path: Path) -> None:
    source, path = some_file(tmp_path / "source", PAST_ONE_WINDOW), tmp_path / "a.lz4"
    data = source.read_bytes()
    path.write_bytes(lz4.frame.compress(data[:100_000]) + lz4.frame.compress(data[100_000:]))
    with read(source) as before, read(path) as after, path.open("rb") as file:
        expected = list(map(comparable, before))
        assert list(map(comparable, after)) == expected
        with subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert list(map(comparable, read(process.stdout))) == expected
        assert after.is_compressed
    with read(path) as reader:
        assert comparable(reader.packet(8000)) == expected[7999]
    for wrong in (path.read_bytes()[:50_000], path.read_bytes()[:-9], path.read_bytes()[:7] + b"\xff" * 5000):
        path.write_bytes(wrong)
        with read(path) as reader:
            found: list[object] = []
            with contextlib.suppress(ReadError):
                found += map(comparable, reader)
            assert found == expected[: len(found)]
            assert len(found) < PAST_ONE_WINDOW or reader.rest_bytes
