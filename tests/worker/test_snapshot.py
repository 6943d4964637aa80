"""The file of a snapshot is whole, wherever its writer has to end it."""

import os
import threading
from math import inf
from pathlib import Path

import numpy as np

from capd.worker.output.savefile import SaveFile, create_file
from capd.worker.packets.merge import Slice
from capd.worker.recorder.memory import Memory
from capd.worker.recorder.snapshot import SnapshotThread, SnapshotWriter
from capd_protocol.formats import pcapng
from tests.capture.helpers import read_file

MIB = 1024 * 1024
TIMEOUT_S = 20.0


def description(name: str) -> bytes:
    return pcapng.interface_description(linktype=1, snaplen_bytes=65535, name=name)


def statistics(count: int) -> bytes:
    return b"".join(
        pcapng.interface_statistics(number, timestamp_ns=3, start_ns=1, end_ns=2, received=5, dropped=0, delivered=5)
        for number in range(count)
    )


HEADER = pcapng.section_header(hardware="h", operating_system="o", application="a") + description("one")


def filled(packets: int) -> Memory:
    """Return a memory with so many packets, in places of a few hundred."""
    memory = Memory(8 * MIB, inf)
    memory.begin_segment(0.0, {})
    for first in range(0, packets, 200):
        records = [
            np.frombuffer(pcapng.enhanced_packet(0, 10**18 + number, bytes(61), 61), np.uint8)
            for number in range(first, min(first + 200, packets))
        ]
        vectors = np.array([(each.ctypes.data, len(each)) for each in records], np.uint64)
        memory.write(Slice(vectors, np.arange(first, first + len(records), dtype=np.uint64) + 10**18, 0), float(first))
    return memory


class Writing:
    """A writer that begins when it is let go."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.may_begin = threading.Event()
        self.writer = SnapshotWriter(self._create, HEADER, SnapshotThread(os.eventfd(0), lambda: None))

    def _create(self) -> SaveFile:
        assert self.may_begin.wait(TIMEOUT_S)
        directory = os.open(self._path.parent, os.O_PATH)
        return create_file(directory, self._path.name, group_access=False, exclusive=True)


def test_statistics_are_of_the_interfaces_that_are_described(tmp_path: Path) -> None:
    memory, writing = filled(1000), Writing(tmp_path / "a")
    (part,) = memory.since(-1.0)
    writing.writer.append(part)
    writing.writer.append(description("two"))
    writing.writer.give_up(statistics(2))
    writing.may_begin.set()
    assert writing.writer.join(TIMEOUT_S)
    contents = read_file(tmp_path / "a")
    assert (len(contents.interfaces), contents.packets) == (1, [])
    assert not writing.writer.is_whole
    assert writing.writer.take_waiting() == [part]


def test_what_was_given_is_written_in_order(tmp_path: Path) -> None:
    memory, writing = filled(1000), Writing(tmp_path / "a")
    (part,) = memory.since(-1.0)
    writing.may_begin.set()
    writing.writer.append(part)
    writing.writer.append(description("two"))
    writing.writer.end(statistics(2))
    assert writing.writer.join(TIMEOUT_S)
    blocks = list(pcapng.read_blocks((tmp_path / "a").read_bytes()))
    assert [type(block).__name__ for block in blocks] == [
        "SectionHeader",
        "InterfaceDescription",
        *["EnhancedPacket"] * 1000,
        "InterfaceDescription",
        "InterfaceStatistics",
        "InterfaceStatistics",
    ]
    assert writing.writer.is_whole
    assert writing.writer.take_copied() == [part]


def test_a_window_begins_at_the_last_place_before_it() -> None:
    memory = filled(10_000)
    (everything,) = memory.since(-1.0)
    assert (everything.start, everything.packets, everything.first_ns) == (0, 10_000, 10**18)
    for start_s in (0.0, 1.0, 4300.0, 9800.0):
        (part,) = memory.since(start_s)
        first = part.first_ns - 10**18
        # Nothing that was written since then is left out, and little is too much.
        assert first <= start_s + 200
        assert start_s - first <= 600
        assert part.packets == 10_000 - first
    assert list(memory.since(9800.1)) == []
