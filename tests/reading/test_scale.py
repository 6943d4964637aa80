"""Reading takes time in proportion to the size of a file, whatever it holds."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from capd_client import read
from capd_client.cli.__main__ import main
from tests.reading.test_reading import interface, packet, section

#: Four times as much takes four times as long, and sixteen times where something is gone over again for each part of a
#: file. Whatever takes no longer than this is not looked at: it says nothing.
MOST_TIMES, LEAST_S = 10, 0.5
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


def taken_by(function: Callable[[], int]) -> tuple[float, int]:
    """Return how long a call takes of a processor, for this thread; and what it returns."""
    began_s = time.thread_time()
    result = function()
    return time.thread_time() - began_s, result


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
    path, part = tmp_path / "a", tmp_path / "b"
    path.write_bytes(make(count))
    part.write_bytes(make(count // 4))
    for in_batches in (True, False):

        def counted(path: Path, in_batches: bool = in_batches) -> int:
            with read(path) as reader:
                return sum(len(each.offsets) for each in reader.batches()) if in_batches else sum(1 for _ in reader)

        part_s, _ = taken_by(partial(counted, part))
        whole_s, found = taken_by(partial(counted, path))
        assert found == packets
        assert whole_s < max(LEAST_S, MOST_TIMES * part_s)


def test_many_interfaces_and_sections_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, part = tmp_path / "a", tmp_path / "b"
    path.write_bytes(sections(5_000))
    part.write_bytes(sections(1_250))
    for words in (["read"], ["read", "--info"], ["extract"]):
        part_s, _ = taken_by(partial(main, [*words, str(part)]))
        capsys.readouterr()
        whole_s, status = taken_by(partial(main, [*words, str(path)]))
        assert status == 0
        assert whole_s < max(LEAST_S, MOST_TIMES * part_s)
        assert len(capsys.readouterr().out.splitlines()) >= 5_000
