"""What files say beside their packets: asked for, and kept where they are written."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from capd_client import FileInterface, InvalidArgument, Packet, merge, read, write
from capd_client.writing import FileFormat
from capd_protocol.formats import metadata, pcapng
from capd_protocol.formats.options import Option, Options
from tests.cli.calling import called
from tests.reading import full
from tests.reading.test_writing import rows, some_file
from tests.support.tools import tshark_fields

ORDERS = pytest.mark.parametrize("order", ["<", ">"])


def everything(path: Path, order: str) -> Path:
    path.write_bytes(full.everything(order))
    return path


def of_capinfos(path: Path) -> list[str]:
    """Return what capinfos says of a file's contents, but for how it lies there and the units of its times."""
    said = subprocess.run(["capinfos", "-M", path], check=True, capture_output=True, text=True, timeout=60).stdout
    left_out = r"File (name|type|size|timestamp)|SHA|RIPEMD|Time (precision|ticks|resolution)"
    return [line.strip() for line in said.splitlines() if not re.match(left_out, line.strip())]


#: A custom block is a frame to tshark, and where it stands among packets is not kept.
FIELDS = ("frame.time_epoch", "frame.len", "frame.comment", "frame.interface_name", "frame.packet_flags")
MORE_FIELDS = (
    "frame.drop_count",
    "frame.packet_id",
    "frame.interface_queue",
    "frame.verdict.ebpf_tc",
    "frame.section_number",
)


def of_tshark(path: Path) -> list[tuple[str, ...]]:
    return tshark_fields(path, *FIELDS, *MORE_FIELDS, display_filter="not frame.cb_pen")


@ORDERS
def test_what_is_said_can_be_asked_for(tmp_path: Path, order: str) -> None:
    with read(everything(tmp_path / "a", order)) as reader:
        # What stands before the first packet is known at once.
        assert (reader.file_type, str(reader.encapsulation), reader.is_compressed) == ("pcapng", "EN10MB", False)
        assert reader.sections[0].hardware == "a machine"
        first, second, *_ = list(reader)
        assert reader.size_bytes == reader.read_bytes == (tmp_path / "a").stat().st_size
    assert reader.timestamp_precision == 9
    assert reader.comments == ("first section", "again", "second section")
    section = reader.sections[0]
    assert (section.operating_system, section.application) == ("an OS", "a program")
    assert [each.hardware for each in reader.sections] == ["a machine", "another machine"]
    eth0, quiet, wlan0 = reader.interfaces
    assert (eth0.description, eth0.comments, eth0.hardware) == ("the way out", ("of an interface",), "a card")
    assert (eth0.mac_address, eth0.speed_bits_per_s, eth0.operating_system) == ("02:00:5e:10:00:01", 10**9, "an OS")
    assert eth0.addresses == ("192.0.2.1/24", "2001:db8::1/64")
    assert (quiet.capture_filter, wlan0.section, wlan0.name) == (None, 1, "wlan0")
    assert eth0.statistics is not None
    assert eth0.statistics.options.comments == ("of statistics",)
    assert first.comments == ("of a packet", "and again")
    assert (first.drop_count, first.packet_id, first.queue) == (7, 0x1122334455667788, 3)
    assert (first.hashes, first.verdicts) == ((b"\x02\x12\x34\x56\x78",), (b"\x01" + (2).to_bytes(8, "little"),))
    assert (second.comments, second.drop_count, second.flags) == ((), None, 2)
    assert [each.names for each in reader.name_resolutions] == [
        {"192.0.2.1": ("one.example", "uno.example"), "::1": ("here",)}
    ]
    (secrets,) = reader.secrets
    assert (secrets.protocol, secrets.data) == ("TLS", full.KEYS)
    assert "CLIENT_RANDOM" not in repr(secrets)
    assert [(each.enterprise, each.data, each.is_copied) for each in reader.custom_blocks] == [
        (32473, b"custom data.", True),
        (32473, b"not copied..", False),
    ]
    assert [each.body for each in reader.other_blocks if each.block_type == 0xBEEF] == [b"not known..."]


def wholly(source: Path, target: Path) -> object:
    with read(source) as reader:
        return write(target, reader)


def one_by_one(source: Path, target: Path) -> object:
    with read(source) as reader:
        return write(target, iter(reader), reader.interfaces)


def chosen(source: Path, target: Path) -> object:
    with read(source) as reader:
        return write(target, reader.batches("greater 1"), reader.interfaces)


def merged(source: Path, target: Path) -> object:
    return merge(target, [source])


WAYS: dict[str, Callable[[Path, Path], object]] = {
    "whole": wholly,
    "one by one": one_by_one,
    "chosen": chosen,
    "merged": merged,
}


@ORDERS
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("suffix", ["", ".zst"])
def test_what_is_said_is_kept(tmp_path: Path, order: str, way: str, suffix: str) -> None:
    source, target = everything(tmp_path / "source.pcapng", order), tmp_path / f"target.pcapng{suffix}"
    WAYS[way](source, target)
    assert of_tshark(target) == of_tshark(source)
    assert len(of_tshark(target)) == 4
    if way in ("whole", "merged"):
        assert of_capinfos(target) == of_capinfos(source)
    with read(source) as before, read(target) as after:
        assert [(*each[:4], bytes(each.data)) for each in before] == [(*each[:4], bytes(each.data)) for each in after]
        assert [each.options for each in before.sections] == [each.options for each in after.sections]
        assert before.name_resolutions == after.name_resolutions
        assert before.secrets == after.secrets
        assert after.custom_blocks == before.custom_blocks[:1]
        unknown = [each.body for each in after.other_blocks if each.block_type == 0xBEEF]
        # In the other byte order nobody can say what in it is to be turned.
        assert unknown == ([b"not known..."] if order == "<" else [])
        changed = (pcapng.IF_TSRESOL,)
        assert [each.options.without(changed) for each in after.interfaces] == [
            each.options.without(changed) for each in before.interfaces
        ]
    with read(target) as reader:
        first = next(iter(reader))
        assert first.options.values(2988) == ()
        assert first.options.values(19372) == ()


@ORDERS
def test_extract_keeps_it_too(tmp_path: Path, order: str) -> None:
    source = everything(tmp_path / "source.pcapng", order)
    assert called("extract", source, "-w", tmp_path / "target").returncode == 0
    with read(source) as before, read(tmp_path / "target") as after:
        assert [each.comments for each in before] == [each.comments for each in after]
        assert after.comments == before.comments
        # The sections differ in it.
        assert [each.hardware for each in after.sections] == [None]
        assert (after.secrets, after.name_resolutions) == (before.secrets, before.name_resolutions)
    assert called("read", "--info", "--json", source).returncode == 0
    assert '"comments": ["of a packet", "and again"]' in called("read", "--json", source).stdout


def test_merged_files_say_together_what_each_says(tmp_path: Path) -> None:
    def said(comment: str, hardware: str) -> bytes:
        return full.section("<", [(1, comment.encode()), (2, hardware.encode()), (3, b"same")]) + full.interface("<")

    times = {"a": (1, 4, 7), "b": (2, 5)}
    for name, each in times.items():
        packets = b"".join(full.packet("<", 0, at, name.encode()) for at in each)
        more = said("later", name) + full.packet("<", 0, 6, b"late") if name == "b" else b""
        (tmp_path / name).write_bytes(said(f"of {name}", name) + packets + more)
    assert merge(tmp_path / "m", [tmp_path / "a", tmp_path / "b"], comments=["merged"]) == 6
    with read(tmp_path / "m") as reader:
        assert [bytes(each.data) for each in reader] == [b"a", b"b", b"a", b"b", b"late", b"a"]
        assert [each.comments for each in reader.sections] == [("of a", "of b", "merged"), ("of a", "later")]
        assert [(each.hardware, each.operating_system) for each in reader.sections] == [(None, "same")] * 2
        assert [each.section for each in reader.interfaces] == [0, 0, 1, 1]
    assert len(tshark_fields(tmp_path / "m", "frame.len")) == 6


def test_sections_and_interfaces_without_packets_are_kept(tmp_path: Path) -> None:
    data = b"".join(
        full.section("<", [(1, str(number).encode())]) + full.interface("<", [(2, f"if{number}".encode())])
        for number in range(3)
    )
    for packets in (b"", full.packet("<", 0, 5, b"abc")):
        for place in (data + packets, data + packets + full.section("<", [(1, b"last")])):
            (tmp_path / "a").write_bytes(place)
            wholly(tmp_path / "a", tmp_path / "b")
            with read(tmp_path / "a") as before, read(tmp_path / "b") as after:
                assert len(list(before)) == len(list(after))
                assert after.sections == before.sections
                assert [each[:3] for each in after.interfaces] == [each[:3] for each in before.interfaces]


def test_given_interfaces_are_what_is_written(tmp_path: Path) -> None:
    source = everything(tmp_path / "a", "<")
    with read(source) as reader:
        list(reader)
        renamed = [each._replace(name=f"new{number}") for number, each in enumerate(reader.interfaces)]
    with read(source) as reader:
        write(tmp_path / "b", reader, renamed)
    with read(tmp_path / "b") as reader:
        assert [each.interface for each in reader] == ["new0", "new0", "new0", "new2"]
        assert (len(reader.sections), reader.interfaces[0].description) == (2, "the way out")
    with pytest.raises(InvalidArgument, match="interface 2, and only 1 are given"), read(source) as reader:
        write(tmp_path / "c", reader, renamed[:1])
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        b"\x01\x00\xff\x00abcd",  # longer than the block
        b"\x01\x00\x04\x00abcd\x02\x00\x40\x00",
        bytes.fromhex("02000400"),
    ],
)
def test_damaged_options_are_not_written_on(tmp_path: Path, wrong: bytes) -> None:
    head = b"\0" * 12 + (4).to_bytes(4, "little") * 2
    data = full.section("<") + full.interface("<") + full.block("<", 6, head + b"abcd" + wrong.ljust(12, b"\0"))
    (tmp_path / "a").write_bytes(data + full.packet("<", 0, 1, b"abcd", [(1, b"right")]))
    wholly(tmp_path / "a", tmp_path / "b")
    assert len(tshark_fields(tmp_path / "b", "frame.len")) == 2
    with read(tmp_path / "b") as reader:
        assert [each.comments for each in reader][1] == ("right",)


def test_other_blocks_that_are_damaged_or_many_are_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [full.block("<", kind, bytes.fromhex("ffffffff")) for kind in (4, 10, 0xBAD, 77)]
    (tmp_path / "a").write_bytes(full.section("<") + full.interface("<") + b"".join(blocks * 100))
    monkeypatch.setattr(metadata, "_MOST_KEPT_BYTES", 10_000)
    with read(tmp_path / "a") as reader:
        assert list(reader) == []
        assert (reader.name_resolutions, reader.secrets) == ((), ())
        assert len(reader.other_blocks) < 60
    wholly(tmp_path / "a", tmp_path / "b")
    assert rows(tmp_path / "b") == []


def test_plain_packets_are_read_without_a_look_at_options(tmp_path: Path) -> None:
    packets = [full.packet("<", 0, number, b"abc") for number in range(10)]
    (tmp_path / "a").write_bytes(full.section("<") + full.interface("<") + b"".join(packets))
    with read(tmp_path / "a") as reader:
        assert [(each.options, each.flags) for each in reader.batches()] == [(None, None)]


FORMATS: dict[FileFormat, int] = {"pcapng": 9, "pcap": 6, "nsecpcap": 9}


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_attributes_of_files(tmp_path: Path, file_format: FileFormat, suffix: str) -> None:
    target = tmp_path / f"a{suffix}"
    with read(some_file(tmp_path / "source", interfaces=1)) as reader:
        write(target, reader, file_format=file_format)
    with read(target) as reader:
        assert (reader.file_type, reader.timestamp_precision) == (file_format, FORMATS[file_format])
        assert reader.is_compressed == bool(suffix)
        assert (reader.size_bytes, len(list(reader))) == (target.stat().st_size, 300)
        assert reader.read_bytes == reader.size_bytes
    assert reader.size_bytes == target.stat().st_size
    with target.open("rb") as file, subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with read(process.stdout) as reader:
            assert (reader.size_bytes, reader.file_type) == (None, file_format)


def test_packets_made_by_hand_have_options(tmp_path: Path) -> None:
    interface = FileInterface("a", 1, 0, 10**9, options=Options([Option(3, b"described")]))
    with read(everything(tmp_path / "a", ">")) as reader:
        first = next(iter(reader))
    packets = [
        Packet(1, None, 0, 3, memoryview(b"abc"), 5),
        first._replace(interface_id=0),
        Packet(3, None, 0, 0, first.data[:0]),
    ]
    write(tmp_path / "b", packets, [interface])
    with read(tmp_path / "b") as reader:
        (batch,) = reader.batches()
        assert batch.flags is not None
        assert batch.flags.tolist() == [5, 5, 0]
        assert reader.interfaces[0].description == "described"
        assert np.count_nonzero(batch.options.sizes if batch.options is not None else []) == 2
