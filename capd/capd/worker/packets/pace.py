"""Batching: how long packets may gather before the worker wakes (interrupt moderation, in user space). Pure.

A round costs a worker as much as the work on some thousand packets, so packets are worked on together: whenever the
rings were emptied they rest. Nothing is announced later for it: a rest ends when the next announcement is due.
"""

#: Of the update interval. Chosen: a live reader's packets do not wait longer than they do in the kernel.
_SHARE_OF_INTERVAL = 0.3
#: The share of a ring that fills in a rest. Chosen: the rest of it is for a worker that is kept waiting.
_SHARE_OF_RING = 0.125
#: A ring that was nearly empty is less than half full after a rest, even if traffic sets in at 10 Gbit/s.
_SUDDEN_BYTES_PER_S = 2.5e9
#: A shorter rest is none.
_SHORTEST_S = 0.001


class Pace:
    """Of all rings of a capture."""

    def __init__(self, interval_s: float) -> None:
        """Begin with rests as long as they may be, which depends on the update interval."""
        self._longest_s = interval_s * _SHARE_OF_INTERVAL
        self._rest_s = self._longest_s
        self._filled = 0.0

    def has_ring(self, size_bytes: int) -> None:
        """Take the size of one more ring into account."""
        self._longest_s = min(self._longest_s, size_bytes / _SUDDEN_BYTES_PER_S)

    def took(self, share: float) -> None:
        """Note that so much of the fullest ring was taken."""
        self._filled += share

    def rest_s(self) -> float:
        """Return how long to rest, now that the rings are empty; 0 where nothing was taken since the last time."""
        if not self._filled:
            return 0
        wanted_s = self._rest_s * _SHARE_OF_RING / self._filled
        self._rest_s = min(max(wanted_s, _SHORTEST_S), self._longest_s)
        self._filled = 0
        return self._rest_s if self._rest_s >= _SHORTEST_S else 0
