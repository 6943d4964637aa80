"""Records of several rings leave in the order of their timestamps, each once, as soon as no earlier one can come.

Blocks go back to their rings in the order in which they came, when all that is in them has left.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capd.worker.packets.merge import JITTER_NS, Slice, Waiting, WatermarkMerge
from capd.worker.packets.records import Records

HOLD_NS = 22_000_000
#: Beyond every timestamp here.
NEVER_NS = 10**18
MS = 1_000_000


def time_order(rings: int) -> WatermarkMerge:
    order = WatermarkMerge(HOLD_NS)
    for _ in range(rings):
        order.add_ring()
    return order


@dataclass
class Writer:
    """Takes what may be written, and releases what was written, as the capture's loop does."""

    order: WatermarkMerge
    rings: int
    #: Of each record that left: ring, and position in order of arrival.
    left: list[tuple[int, int]] = field(default_factory=list)
    left_ns: list[int] = field(default_factory=list)
    #: By block: its ring, and how many records came before and with it.
    blocks: list[tuple[int, int, int]] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    arrived: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.arrived = [[] for _ in range(self.rings)]

    def add(self, ring: int, timestamps_ns: Sequence[int]) -> None:
        """Have a block come from a ring. Its vectors tell which record is which."""
        start = len(self.arrived[ring])
        self.arrived[ring] += timestamps_ns
        end = len(self.arrived[ring])
        vectors = np.array([(ring, position) for position in range(start, end)], np.uint64)
        records = Records(vectors, np.array(timestamps_ns, np.uint64), ring, [])
        number = len(self.blocks)
        self.blocks.append((ring, start, end))
        self.order.add(ring, Waiting(records, lambda: self.released.append(number)))

    def take(self, now_ns: int, ended: Sequence[bool] | None = None) -> list[int]:
        """Write what may be written; return the timestamps."""
        taken = self.order.take([now_ns] * self.rings, ended or [False] * self.rings)
        if taken is None:
            return []
        slice_, finished = taken
        self._write(slice_)
        for waiting in finished:
            waiting.release()
        self._check_released()
        return [int(timestamp_ns) for timestamp_ns in slice_.timestamps_ns]

    def _write(self, taken: Slice) -> None:
        assert len(taken.vectors) == len(taken.timestamps_ns) > 0
        rings = np.broadcast_to(taken.interface_ids, len(taken.timestamps_ns))
        gone = {
            (ring, position)
            for number in self.released
            for ring, start, end in [self.blocks[number]]
            for position in range(start, end)
        }
        for (ring, position), timestamp_ns, expected in zip(
            taken.vectors.tolist(), taken.timestamps_ns.tolist(), rings.tolist(), strict=True
        ):
            assert expected == ring
            assert self.arrived[ring][position] == timestamp_ns
            assert (ring, position) not in gone, "its block is the kernel's again"
            self.left.append((ring, position))
            self.left_ns.append(timestamp_ns)

    def _check_released(self) -> None:
        left = set(self.left)
        for number, (ring, start, end) in enumerate(self.blocks):
            done = all((ring, position) in left for position in range(start, end))
            assert done or number not in self.released, "not all of it was written"
        for ring in range(self.rings):
            mine = [number for number in self.released if self.blocks[number][0] == ring]
            came = [number for number, block in enumerate(self.blocks) if block[0] == ring]
            assert mine == came[: len(mine)], "a ring takes its blocks back in order"

    def check_all_left(self) -> None:
        assert sorted(self.left) == [
            (ring, position) for ring in range(self.rings) for position in range(len(self.arrived[ring]))
        ]
        assert len(self.released) == len(self.blocks)
        assert not self.order.is_waiting()


def writer(rings: int) -> Writer:
    return Writer(time_order(rings), rings)


# One ring -------------------------------------------------------------------------------------------------------


def test_a_single_ring_waits_for_nothing() -> None:
    one = writer(1)
    one.add(0, [10, 20, NEVER_NS])
    assert one.take(0) == [10, 20, NEVER_NS]
    one.add(0, [5, NEVER_NS + 1])
    one.add(0, [NEVER_NS + 2])
    assert one.take(0) == [5, NEVER_NS + 1]
    assert one.take(0) == [NEVER_NS + 2]
    one.check_all_left()


def test_nothing_to_write_is_none() -> None:
    order = time_order(2)
    assert order.take([NEVER_NS] * 2, [False, False]) is None
    assert order.take([NEVER_NS] * 2, [True, True]) is None
    assert not order.is_waiting()


@pytest.mark.parametrize("rings", [1, 2])
def test_packets_that_overtook_each_other_in_a_block_are_put_in_order(rings: int) -> None:
    one = writer(rings)
    one.add(0, [30, 10, 20, 20])
    assert one.take(NEVER_NS) == [10, 20, 20, 30]
    one.check_all_left()
    assert one.left == [(0, 1), (0, 2), (0, 3), (0, 0)]


# How long a record waits ----------------------------------------------------------------------------------------


def test_a_record_waits_while_another_ring_may_show_an_earlier_one() -> None:
    two = writer(2)
    two.add(0, [100 * MS])
    assert two.take(100 * MS) == []
    assert two.order.is_waiting()
    assert two.released == []


def test_a_record_waits_no_longer_than_the_kernel_may_hold_an_earlier_one() -> None:
    two = writer(2)
    two.add(0, [100 * MS])
    last_ns = 100 * MS + HOLD_NS + JITTER_NS
    assert two.take(last_ns - 1) == []
    assert two.take(last_ns) == [100 * MS]
    two.check_all_left()


def test_a_record_leaves_when_every_other_ring_has_shown_a_later_one() -> None:
    three = writer(3)
    three.add(0, [100 * MS])
    three.add(1, [100 * MS + JITTER_NS])
    assert three.take(0) == []  # the third ring has shown nothing
    three.add(2, [100 * MS + JITTER_NS - 1])
    assert three.take(0) == []  # its own ring may yet show one that is earlier by less than the jitter
    three.add(0, [100 * MS + JITTER_NS])
    assert three.take(0) == []  # the third ring may show one that is a nanosecond earlier
    three.add(2, [100 * MS + JITTER_NS])
    assert three.take(0) == [100 * MS]


def test_a_ring_that_has_ended_is_not_waited_for() -> None:
    two = writer(2)
    two.add(0, [100 * MS, 110 * MS])
    assert two.take(0, [False, True]) == [100 * MS]  # its own ring may yet show an earlier one than the second
    assert two.released == []
    assert two.take(0, [True, True]) == [110 * MS]
    two.check_all_left()


def test_a_block_leaves_in_parts_and_is_released_after_its_last() -> None:
    two = writer(2)
    two.add(0, [10 * MS, 20 * MS, 30 * MS])
    two.add(1, [15 * MS, 25 * MS])
    assert two.take(15 * MS + HOLD_NS + JITTER_NS) == [10 * MS, 15 * MS, 20 * MS]
    assert two.released == []
    assert two.take(25 * MS + HOLD_NS + JITTER_NS) == [25 * MS]
    assert two.released == [1]
    assert two.take(NEVER_NS) == [30 * MS]
    assert two.released == [1, 0]
    two.check_all_left()


def test_equal_times_do_not_hold_each_other_up() -> None:
    two = writer(2)
    two.add(0, [10 * MS] * 3)
    two.add(1, [10 * MS] * 2)
    assert two.take(10 * MS + HOLD_NS + JITTER_NS) == [10 * MS] * 5
    two.check_all_left()


def test_an_earlier_record_in_a_later_block_does_not_wait_for_the_block_before() -> None:
    # The first ring's packets were carried by two processors: the second block begins before the first one ends.
    two = writer(2)
    two.add(0, [10_000_000, 13_000_000])
    two.add(0, [12_000_000, 14_000_000])
    two.add(1, [12_500_000, 14_000_000])
    now_ns = 12_600_000 + HOLD_NS + JITTER_NS
    assert two.take(now_ns) == [10_000_000, 12_000_000, 12_500_000]
    assert two.released == []
    assert two.take(NEVER_NS) == [13_000_000, 14_000_000, 14_000_000]
    two.check_all_left()


# Any interleaving -----------------------------------------------------------------------------------------------


@dataclass
class Arrival:
    """A block as the kernel closes it."""

    closed_ns: int
    ring: int
    timestamps_ns: list[int]


def arrivals(random: Random, rings: int) -> list[Arrival]:
    """Return the blocks of several rings, in the order in which the kernel closes them.

    What WatermarkMerge may rely on: a packet enters its ring less than the jitter after it was stamped, and is in a
    closed block when it is as old as the hold time.
    """
    found = []
    for ring in range(rings):
        entered_ns = random.randrange(10, 50) * MS
        block = Arrival(NEVER_NS, ring, [])
        for _ in range(random.randrange(25)):
            entered_ns += random.choice([0, 1, MS // 2, MS, 3 * MS, 30 * MS])
            timestamp_ns = entered_ns - random.choice([0, 0, 1, MS, JITTER_NS - 1])
            is_full = random.random() < 0.2
            if block.timestamps_ns and (is_full or entered_ns > block.closed_ns):
                block.closed_ns = min(block.closed_ns, entered_ns)
                found.append(block)
                block = Arrival(NEVER_NS, ring, [])
            block.timestamps_ns.append(timestamp_ns)
            block.closed_ns = min(block.closed_ns, timestamp_ns + HOLD_NS)
        if block.timestamps_ns:
            found.append(block)
    # Blocks of one ring are closed in order, at the same time too: sorting is stable.
    return sorted(found, key=lambda block: block.closed_ns)


@settings(derandomize=True, deadline=None, max_examples=500)
@given(st.integers(0, 2**32 - 1))
def test_any_interleaving_of_three_rings_leaves_in_order(seed: int) -> None:
    rings = 3
    random = Random(seed)
    three = writer(rings)
    blocks = arrivals(random, rings)
    ended = [False] * rings
    for now_ns in sorted({block.closed_ns for block in blocks} | {0, NEVER_NS}):
        # The loop comes round when it can: some looks are missed.
        if now_ns != NEVER_NS and random.random() < 0.25:
            continue
        while blocks and blocks[0].closed_ns <= now_ns:
            block = blocks.pop(0)
            three.add(block.ring, block.timestamps_ns)
        for ring in range(rings):
            ended[ring] |= all(block.ring != ring for block in blocks) and random.random() < 0.5
        three.take(now_ns, ended)
        assert three.left_ns == sorted(three.left_ns)
        # Nothing waits for longer than the kernel may hold what comes before it.
        old_ns = now_ns - HOLD_NS - JITTER_NS
        assert len(three.left) >= sum(time_ns <= old_ns for arrived in three.arrived for time_ns in arrived)
        assert three.order.is_waiting() == (len(three.left) < sum(map(len, three.arrived)))
    three.check_all_left()
