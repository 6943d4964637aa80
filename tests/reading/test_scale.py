"""Reading takes time in proportion to the size of a file, whatever it holds."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from capd_client import read
from capd_client.cli.__main__ import main
from tests.reading.test_reading import interface, packet, section

#: Of a processor, in which ten times as much is done. What goes over all interfaces again for each part of a file takes
#: several times as long.
BOUND_S = 1.5
FRAME = bytes(60)


def interfaces(count: int) -> bytes:
    return section("<") + b"".join(interface("<", b"i") for _ in range(count)) + packet("<", count - 1, 1, FRAME)


def interfaces_among_packets(count: int) -> bytes:
    parts = (interface("<", b"i") + packet("<", number, 1, FRAME) * 10 for number in range(count))
    return section("<") + b"".join(parts)


def sections(count: int) -> bytes:
    return (section("<") + interface("<", b"i") + packet("<", 0, 1, FRAME)) * count


def sections_of_both_orders(count: int) -> bytes:
    return b"".join(section(order) + interface(order, b"i") + packet(order, 0, 1, FRAME) for order in "<>") * count


def clocks(count: int) -> bytes:
    """Return as many resolutions as there can be, and an offset for each interface; their packets in turn."""
    described = b"".join(interface("<", b"i", number % 256, number) for number in range(count))
    return section("<") + described + b"".join(packet("<", number % count, 1, FRAME) for number in range(20_000))


@pytest.mark.parametrize(
    ("make", "count", "packets"),
    [
        (interfaces, 30_000, 1),
        (interfaces_among_packets, 5_000, 50_000),
        (sections, 10_000, 10_000),
        (sections_of_both_orders, 2_000, 4_000),
        (clocks, 2_000, 20_000),
    ],
)
def test_many_of_everything(tmp_path: Path, make: Callable[[int], bytes], count: int, packets: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(make(count))
    for in_batches in (True, False):
        began_s = time.process_time()
        with read(path) as reader:
            found = sum(len(each.offsets) for each in reader.batches()) if in_batches else sum(1 for _ in reader)
        assert found == packets
        assert time.process_time() - began_s < BOUND_S


def test_many_interfaces_and_sections_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a"
    path.write_bytes(sections(5_000))
    for words in (["read"], ["read", "--info"], ["extract"]):
        began_s = time.process_time()
        assert main([*words, str(path)]) == 0
        assert time.process_time() - began_s < BOUND_S
        assert len(capsys.readouterr().out.splitlines()) >= 5_000
