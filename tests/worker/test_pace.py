"""Rests are as long as the update interval and the rings allow, and shorter where packets come fast."""

import pytest

from capd.worker.packets.pace import Pace

MIB = 1024 * 1024


def pace(interval_s: float = 0.1, *sizes_bytes: int) -> Pace:
    made = Pace(interval_s)
    for size_bytes in sizes_bytes:
        made.has_ring(size_bytes)
    return made


def rests(made: Pace, share: float, count: int) -> list[float]:
    found = []
    for _ in range(count):
        made.took(share)
        found.append(made.rest_s())
    return found


@pytest.mark.parametrize(
    ("interval_s", "sizes_bytes", "longest_s"),
    [
        (0.1, (1024 * MIB,), 0.03),
        (0.01, (1024 * MIB,), 0.003),
        (0.1, (25_000_000,), 0.01),
        (0.1, (1024 * MIB, 25_000_000, 1024 * MIB), 0.01),
    ],
)
def test_a_rest_is_no_longer_than_interval_and_smallest_ring_allow(
    interval_s: float, sizes_bytes: tuple[int, ...], longest_s: float
) -> None:
    assert rests(pace(interval_s, *sizes_bytes), 0.001, 3) == pytest.approx([longest_s] * 3)


@pytest.mark.parametrize(("interval_s", "size_bytes"), [(0.003, 1024 * MIB), (10, 2_000_000)])
def test_where_it_would_be_shorter_than_a_millisecond_there_is_none(interval_s: float, size_bytes: int) -> None:
    assert rests(pace(interval_s, size_bytes), 0.001, 3) == [0, 0, 0]


def test_there_is_none_after_nothing_was_taken() -> None:
    made = pace(0.1, 1024 * MIB)
    made.took(0.0)
    assert made.rest_s() == 0
    assert rests(made, 0.01, 1) == [0.03]
    assert made.rest_s() == 0


def test_an_eighth_of_the_ring_fills_in_a_rest() -> None:
    # Traffic that fills the ring in 100 ms.
    made = pace(0.1, 1024 * MIB)
    rest_s = 0.03
    for _ in range(5):
        made.took(rest_s / 0.1)
        rest_s = made.rest_s()
    assert rest_s == pytest.approx(0.0125)


def test_passes_between_two_rests_are_added_up() -> None:
    made = pace(0.1, 1024 * MIB)
    made.took(0.125)
    made.took(0.125)
    assert made.rest_s() == pytest.approx(0.015)


def test_rests_become_shorter_at_once_and_longer_again() -> None:
    made = pace(0.1, 1024 * MIB)
    assert rests(made, 1.0, 4) == pytest.approx([0.03 / 8, 0.001, 0.001, 0.001], abs=1e-3)
    assert rests(made, 0.01, 3)[-1] == pytest.approx(0.03)
