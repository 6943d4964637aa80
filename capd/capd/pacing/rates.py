"""Token buckets. Pure: a time comes in, the time to wait goes out."""

from collections.abc import Hashable
from typing import NamedTuple


class Rate(NamedTuple):
    """So many each second, and so many at once after a while without any."""

    per_s: float
    burst: int


#: What sums of times may be wrong by.
_ROUNDING_S = 1e-6


class Bucket:
    """What one may still do: at first, and after some time without, ``burst`` times at once.

    A caller that asks for more is in debt, and waits until it is paid off, one behind the other. Nobody is turned away:
    a caller that waits does not ask meanwhile, so debts are bounded by how many can wait.
    """

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        #: When it is full again. It is all that there is to know.
        self._full_s = float("-inf")

    def take(self, now_s: float) -> float:
        """Take one token; return how long to wait for it."""
        self._full_s = max(self._full_s, now_s) + 1 / self._rate.per_s
        return self._missing_s(now_s, 0)

    def wait_s(self, now_s: float) -> float:
        """Return how long it takes until there is a token, without taking it."""
        return self._missing_s(now_s, 1)

    def try_to_take(self, now_s: float) -> bool:
        """Take one token if there is one; return whether there was."""
        if self.wait_s(now_s):
            return False
        self.take(now_s)
        return True

    def _missing_s(self, now_s: float, tokens: int) -> float:
        missing_s = max(self._full_s, now_s) + (tokens - self._rate.burst) / self._rate.per_s - now_s
        return missing_s if missing_s > _ROUNDING_S else 0.0

    def is_full(self, now_s: float) -> bool:
        """Whether it is as good as a new one."""
        return self._full_s <= now_s


#: Beyond, buckets are looked through for those that are as good as new ones.
_MANY_BUCKETS = 1000


class Buckets:
    """Those of many, by whatever distinguishes them. What is as good as a new one is forgotten sooner or later."""

    def __init__(self) -> None:
        self._buckets: dict[Hashable, Bucket] = {}
        self._look_through_at = _MANY_BUCKETS

    def of(self, key: Hashable, rate: Rate, now_s: float) -> Bucket:
        """Return the bucket of a key, which always has the same rate."""
        if key not in self._buckets:
            if len(self._buckets) >= self._look_through_at:
                self._buckets = {key: each for key, each in self._buckets.items() if not each.is_full(now_s)}
                self._look_through_at = 2 * len(self._buckets) + _MANY_BUCKETS
            self._buckets[key] = Bucket(rate)
        return self._buckets[key]
