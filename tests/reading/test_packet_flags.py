"""Direction and kind of packets, as pcapng files say it (``epb_flags``), beside tshark."""

import struct
import subprocess
from pathlib import Path

import pytest

from capd_client import Direction, PacketKind, read
from capd_client.cli.__main__ import main
from capd_protocol.formats import packet_flags, pcapng
from tests.support import rings
from tests.support.rings import write_ring
from tests.worker.test_streams import BEGIN_NS, Frame, block, description, enhanced, option, section

COMMENT, FLAGS, HASH = 1, 2, 3
ARP = bytes(12) + b"\x08\x06" + bytes(28)


def packet(*options: bytes, order: str = "=", ends: bool = True) -> bytes:
    """Return an enhanced packet block with options."""
    plain = enhanced(Frame(ARP, BEGIN_NS), order=order)
    return block(6, plain[8:-4] + b"".join(options) + (option(0, b"", order) if ends and options else b""), order)


def flags(value: int, order: str = "=") -> bytes:
    """Return the option."""
    return option(FLAGS, value.to_bytes(4, "little" if order == "<" else "big"), order)


@pytest.mark.parametrize("order", "<>")
def test_flags_are_read_wherever_they_stand_among_the_options(tmp_path: Path, order: str) -> None:
    comment, hash_ = option(COMMENT, b"hello", order), option(HASH, b"\x02\0\0\0\0", order)
    blocks = {
        packet(order=order): 0,
        packet(flags(0x05, order), order=order): 0x05,
        packet(flags(0x02, order), order=order, ends=False): 0x02,
        packet(comment, order=order): 0,
        packet(comment, hash_, flags(0x0D, order), order=order): 0x0D,
        packet(flags(0xFF000011, order), comment, order=order): 0xFF000011,
        packet(option(FLAGS, b"\1\0", order), order=order): 0,
        # One that is longer than its block.
        packet(struct.pack(order + "HH", COMMENT, 1000), flags(0x05, order), order=order): 0,
    }
    path = tmp_path / "a.pcapng"
    path.write_bytes(section(order) + description("eth0", order=order) + b"".join(blocks))
    packets = list(read(path))
    assert [each.flags for each in packets] == list(blocks.values())
    words = ["tshark", "-r", str(path), "-T", "fields", "-e", "frame.packet_flags"]
    if order == "<":  # tshark 4.0 ends at the last one
        shown = subprocess.run(words, check=False, capture_output=True, text=True).stdout.splitlines()
        assert [int(line or "0", 16) for line in shown[:6]] == list(blocks.values())[:6]


def test_a_batch_without_flags_has_none_of_them(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(section() + description("eth0") + packet(option(COMMENT, b"a long comment", "=")) * 3)
    with read(path) as reader:
        assert [batch.flags for batch in reader.batches()] == [None]


def test_values_that_the_format_leaves_open_are_unknown() -> None:
    for value in (0x03, 0x14, 0x18, 0x1C):
        assert packet_flags.direction_of(value) == Direction.UNKNOWN
        assert packet_flags.kind_of(value) == PacketKind.UNKNOWN


def test_what_is_extracted_keeps_its_flags(tmp_path: Path) -> None:
    ring, target = tmp_path / "a.pcapng", tmp_path / "out.pcapng"
    (source,) = write_ring(ring, [[rings.Frame(BEGIN_NS, "eth0", ARP)]], ["eth0"], last_is_open=True)
    value = packet_flags.packet_flags(Direction.IN, PacketKind.MULTICAST)
    source.write_bytes(
        pcapng.section_header()
        + pcapng.interface_description(linktype=1, snaplen_bytes=0)
        + pcapng.enhanced_packet(0, BEGIN_NS, ARP, len(ARP), flags=value)
        + pcapng.enhanced_packet(0, BEGIN_NS + 1, ARP, len(ARP))
    )
    assert main(["extract", str(ring), "-w", str(target)]) == 0
    assert [each.flags for each in read(target)] == [value, 0]


@pytest.mark.parametrize(
    ("value", "word"), [(0x05, "In "), (0x0D, "B "), (0x09, "M "), (0x11, "P "), (0x02, "Out "), (0, "")]
)
def test_lines_show_them_as_tcpdump_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: int, word: str
) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(section() + description("eth0") + packet(flags(value, "<")))
    assert main(["read", "-t", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{word}ARP")
