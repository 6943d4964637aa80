"""Compressed files, as bytes: frames, what decompresses them, and the index behind them."""

import subprocess
from pathlib import Path

import pytest
from backports import zstd
from pyzstd import SeekableZstdFile

from capd_protocol.formats.codecs import DamagedFrame, Decompressor, new_compressor
from capd_protocol.formats.compression import (
    CHUNK_BYTES,
    Compression,
    compression_of,
    suffix_of,
    wanted_compression,
)
from capd_protocol.formats.frame_index import NO_TIMES, Frame, encode_index, index_bytes, read_index

KINDS: list[Compression] = ["gzip", "zstd"]
TOOLS = {"gzip": "gzip", "zstd": "zstd", "xz": "xz", "bzip2": "bzip2"}


def compressed(kind: Compression, contents: list[bytes]) -> tuple[bytes, list[Frame]]:
    """Return a file with a frame for each of these, and its frames."""
    compressor = new_compressor(kind)
    data, frames = b"", list[Frame]()
    for number, each in enumerate(contents):
        begin = len(data)
        data += compressor.add(each)
        data += compressor.end(len(data), is_only=False)
        frames.append(Frame(len(data) - begin, len(each), 1000 * number, 1000 * number + 999, number == 0))
    return data, frames


def by_tool(kind: str, data: bytes) -> bytes:
    return subprocess.run([TOOLS[kind], "-dc"], input=data, capture_output=True, check=True, timeout=30).stdout


def decompressed(kind: str, data: bytes, step_bytes: int = 1 << 30, most_bytes: int = 1 << 20) -> bytes:
    decompressor, found = Decompressor(kind), b""
    for at in range(0, len(data), step_bytes):
        decompressor.feed(data[at : at + step_bytes])
        while part := decompressor.read(most_bytes):
            assert len(part) <= most_bytes
            found += part
    return found


CONTENTS = [b"first " * 50, bytes(range(256)) * 3, b"x", b"last " * 1000]


# Frames ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_other_programs_read_the_frames_and_pass_over_the_index(kind: Compression) -> None:
    data, frames = compressed(kind, CONTENTS)
    whole = data + encode_index(kind, frames)
    assert by_tool(kind, data) == by_tool(kind, whole) == decompressed(kind, whole) == b"".join(CONTENTS)


@pytest.mark.parametrize("kind", KINDS)
def test_each_frame_is_decompressed_without_the_others(kind: Compression) -> None:
    data, frames = compressed(kind, CONTENTS)
    at = 0
    for frame, contents in zip(frames, CONTENTS, strict=True):
        assert decompressed(kind, data[at : at + frame.stored_bytes]) == contents
        at += frame.stored_bytes


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_added_can_be_decompressed_before_the_frame_has_ended(kind: Compression) -> None:
    compressor, decompressor = new_compressor(kind), Decompressor(kind)
    for each in CONTENTS:
        decompressor.feed(compressor.add(each))
        assert decompressor.read(1 << 20) == each
        assert decompressor.read(1 << 20) == b""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("step_bytes", "most_bytes"), [(1, 1), (1, 1 << 20), (1 << 30, 1), (7, 11)])
def test_bytes_may_come_and_go_in_any_number(kind: Compression, step_bytes: int, most_bytes: int) -> None:
    compressor = new_compressor(kind)
    # Without what fills chunks up: that is long, byte by byte.
    data = compressor.add(CONTENTS[0]) + compressor.end(0, is_only=True)
    data += compressor.add(CONTENTS[1]) + compressor.end(0, is_only=True)
    assert decompressed(kind, data, step_bytes, most_bytes) == b"".join(CONTENTS[:2])


@pytest.mark.parametrize("kind", [*KINDS, "xz", "bzip2"])
def test_other_programs_files_are_read_also_several_in_one(kind: str) -> None:
    each = subprocess.run([TOOLS[kind], "-c"], input=CONTENTS[3], capture_output=True, check=True, timeout=30).stdout
    assert compression_of(each[:4]) == kind
    assert decompressed(kind, each + each) == 2 * CONTENTS[3]
    assert decompressed(kind, each + bytes(512) + each, 100) == 2 * CONTENTS[3]


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_and_what_is_cut_is_known(kind: Compression) -> None:
    compressor = new_compressor(kind)
    data = compressor.add(CONTENTS[3]) + compressor.end(0, is_only=True)
    for at in range(len(data)):
        cut = Decompressor(kind)
        cut.feed(data[:at])
        assert CONTENTS[3].startswith(cut.read(1 << 20))
    changed = bytearray(data)
    changed[-4 if kind == "zstd" else -8] ^= 1  # of the checksum
    with pytest.raises(DamagedFrame):
        decompressed(kind, bytes(changed))


def test_frames_of_zstd_begin_where_wireshark_looks_for_them() -> None:
    data, frames = compressed("zstd", CONTENTS)
    assert [frame.stored_bytes % CHUNK_BYTES for frame in frames] == [0] * len(CONTENTS)
    # It is filled up with whole blocks, whatever is left.
    for size in (*range(1, 40), 130_000, 131_050, 131_060, 131_070):
        compressor = new_compressor("zstd")
        data = compressor.add(b"a" * 100)
        data += compressor.end(size, is_only=False)
        assert (size + len(data) - len(new_compressor("zstd").add(b"a" * 100))) % CHUNK_BYTES == 0
        assert zstd.decompress(data) == b"a" * 100


def seen_by_wireshark(data: bytes) -> bytes:
    """Return what Wireshark makes of a file of zstd: it looks for a frame where the chunk begins that it has read."""
    found, at, frame = b"", 0, None
    while at < len(data):
        chunk = data[at - at % CHUNK_BYTES :][:CHUNK_BYTES]
        if frame is None:
            if chunk[:4] != b"\x28\xb5\x2f\xfd":
                return found + chunk[at % CHUNK_BYTES :]
            frame = zstd.ZstdDecompressor()
        rest = chunk[at % CHUNK_BYTES :]
        found += frame.decompress(rest)
        at += len(rest) - len(frame.unused_data)
        if frame.eof:
            frame = None
    return found


@pytest.mark.parametrize("count", [2, 4000, 5000, 12_000])
def test_wireshark_passes_over_the_index_of_zstd_whatever_its_size(count: int) -> None:
    data, _ = compressed("zstd", CONTENTS[:2])
    index = encode_index("zstd", [Frame(1, 1, *NO_TIMES, True)] * count)
    assert len(index) <= index_bytes(count)
    assert seen_by_wireshark(data + index) == b"".join(CONTENTS[:2])


# The index ------------------------------------------------------------------------------------------------------------


def found(kind: str, data: bytes) -> list[Frame] | None:
    return read_index(kind, len(data), lambda at, size_bytes: data[at : at + size_bytes])


def many_frames(count: int) -> list[Frame]:
    return [Frame(1, number, number << 40, (number << 40) + 5, number % 7 == 0) for number in range(count)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 2339, 2340, 5000])
def test_the_index_is_read_as_it_was_written(kind: Compression, count: int) -> None:
    frames = many_frames(count)
    index = encode_index(kind, frames)
    assert len(index) <= index_bytes(count)
    assert found(kind, bytes(count) + index) == frames
    assert by_tool(kind, index) == b""


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_index_is_none(kind: Compression) -> None:
    frames = many_frames(3)
    data = bytes(3) + encode_index(kind, frames)
    assert found(kind, b"") is None
    for at in range(len(data)):
        assert found(kind, data[:at]) is None
    assert found(kind, data + b"\0") is None
    assert found(kind, data[1:]) is None
    assert found(kind, b"\0" + data) is None
    assert found("xz", data) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_index_is_none_or_leads_to_places_of_the_file(kind: Compression) -> None:
    data = bytes(3) + encode_index(kind, many_frames(3))
    for at in range(3, len(data)):
        for bit in (1, 128):
            changed = bytearray(data)
            changed[at] ^= bit
            frames = found(kind, bytes(changed))
            assert frames is None or sum(frame.stored_bytes for frame in frames) == 3


def test_the_seek_table_of_zstd_is_that_of_its_seekable_format(tmp_path: Path) -> None:
    data, frames = compressed("zstd", CONTENTS)
    path = tmp_path / "a.zst"
    path.write_bytes(data + encode_index("zstd", frames))
    with SeekableZstdFile(str(path)) as file:
        for at, contents in zip(starts_of(CONTENTS), CONTENTS, strict=True):
            file.seek(at)
            assert file.read(len(contents)) == contents
    with SeekableZstdFile(str(path), "w") as file:
        file.write(b"abc" * 100)
    assert found("zstd", path.read_bytes()) is None  # and that of another program is no index of times


def starts_of(contents: list[bytes]) -> list[int]:
    return [sum(map(len, contents[:number])) for number in range(len(contents))]


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compress_type", "name", "expected"),
    [
        (None, "a.pcapng", None),
        (None, "a.pcapng.gz", "gzip"),
        (None, "a.zst", "zstd"),
        ("none", "a.zst", None),
        ("gzip", "a.zst", "gzip"),
        ("zstd", "a", "zstd"),
    ],
)
def test_the_name_decides_where_nothing_is_said(compress_type: str | None, name: str, expected: str | None) -> None:
    assert wanted_compression(compress_type, name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a", ""),
        ("a.b", ".b"),
        ("a.b.gz", ".b.gz"),
        (".a", ""),
        (".a.zst", ".zst"),
        ("a.gz.b", ".b"),
        ("a..gz", "..gz"),
    ],
)
def test_an_end_of_compression_belongs_to_the_one_before_it(name: str, expected: str) -> None:
    assert suffix_of(name) == expected
