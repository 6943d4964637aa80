"""Token buckets: what a burst is, what haste costs, and that whom rates are not meant for never notices."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capd import limits
from capd.pacing.rates import Bucket, Rate

RATES = st.builds(Rate, st.floats(0.1, 1000), st.integers(1, 300))


def taken(rate: Rate, times_s: Sequence[float]) -> list[float]:
    """Return when each of those who ask then gets what is asked for."""
    bucket = Bucket(rate)
    return [now_s + bucket.take(now_s) for now_s in times_s]


def test_a_burst_is_free_and_then_it_takes_its_time() -> None:
    assert taken(Rate(10, 3), [5.0] * 5) == pytest.approx([5, 5, 5, 5.1, 5.2])
    assert taken(Rate(10, 3), [5.0] * 3 + [5.3] * 4) == pytest.approx([5, 5, 5, 5.3, 5.3, 5.3, 5.4])


@given(RATES, st.lists(st.floats(0, 5), max_size=50))
def test_in_no_time_is_there_more_than_the_rate_and_a_burst(rate: Rate, gaps_s: list[float]) -> None:
    times_s = [sum(gaps_s[: at + 1]) for at in range(len(gaps_s))]
    given_s = taken(rate, times_s)
    assert given_s == sorted(given_s)
    for first, first_s in enumerate(given_s):
        for last in range(first, len(given_s)):
            most = rate.burst + rate.per_s * (given_s[last] - first_s)
            assert last - first + 1 <= most + 1e-6


@given(RATES)
def test_where_a_token_is_nobody_waits(rate: Rate) -> None:
    bucket = Bucket(rate)
    for _ in range(rate.burst):
        assert bucket.wait_s(1.0) == 0
        assert bucket.try_to_take(1.0)
    assert bucket.wait_s(1.0) == pytest.approx(1 / rate.per_s)
    assert not bucket.try_to_take(1.0)
    assert not bucket.is_full(1.0)
    assert bucket.is_full(1.1 + rate.burst / rate.per_s)


@pytest.mark.parametrize(
    ("rate", "count", "per_s"),
    [
        (limits.STARTS, 64, 1000),  # a script that starts 64 captures at once
        (limits.RINGS, 64, 1000),
        (limits.STARTS, 10_000, 15),
        (limits.CONNECTIONS, 10_000, 20),  # a program that asks 20 times a second, on a connection each
        (limits.QUESTIONS, 10_000, 20),
        (limits.CONNECTIONS_OF_STRANGER, 10_000, 15),
        (limits.QUESTIONS_OF_STRANGER, 10_000, 15),
        (limits.ORDERS, 64, 1000),
        (limits.REFUSALS, 64, 1000),
    ],
)
def test_who_is_not_in_an_unusual_haste_never_waits(rate: Rate, count: int, per_s: float) -> None:
    bucket = Bucket(rate)
    assert all(bucket.take(number / per_s) == 0 for number in range(count))


#: Clients give up after 30 s.
PATIENCE_S = 20.0


@pytest.mark.parametrize(
    ("rate", "clients"),
    [
        *((rate, limits.MAX_CLIENTS_PER_USER) for rate in (limits.CONNECTIONS, limits.QUESTIONS, limits.STARTS)),
        *((rate, limits.MAX_CLIENTS_PER_USER) for rate in (limits.ORDERS, limits.REFUSALS)),
        *((rate, limits.MAX_CLIENTS_PER_STRANGER) for rate in (limits.QUESTIONS_OF_STRANGER,)),
        (limits.REFUSALS_OF_STRANGER, limits.MAX_CLIENTS_PER_STRANGER),
        *((rate, limits.MAX_STRANGERS) for rate in (limits.QUESTIONS_OF_STRANGERS, limits.REFUSALS_OF_STRANGERS)),
    ],
)
def test_whoever_is_waits_no_longer_than_a_client_does(rate: Rate, clients: int) -> None:
    """One request of each connection waits at once, or was refused at once, behind a burst that is used up."""
    bucket = Bucket(rate)
    assert max(bucket.take(0.0) for _ in range(rate.burst + clients)) < PATIENCE_S
