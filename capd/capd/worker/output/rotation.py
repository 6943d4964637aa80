"""Rotation: when a file is full. Pure: sizes, counts and times in, decisions out.

Conditions are dumpcap's (Wireshark, ``dumpcap.c``).
"""

from dataclasses import dataclass

import numpy as np

from capd.worker.packets.arrays import U64
from capd_protocol.messages import Conditions, EndReason

_KB = 1000


@dataclass(frozen=True)
class Fill:
    """How full a file is."""

    size_bytes: int
    packets: int


def room_for(fill: Fill, conditions: Conditions, sizes_bytes: U64) -> int:
    """Return how many of these packets still go into the file; more than given where none of them fills it.

    The packet that reaches the size is the last one, as in dumpcap: a file may be larger by less than it.
    """
    room = len(sizes_bytes) + 1
    if conditions.packets is not None:
        room = min(room, conditions.packets - fill.packets)
    if conditions.filesize_kb is not None:
        limit_bytes = conditions.filesize_kb * _KB
        if fill.size_bytes + int(sizes_bytes.sum()) >= limit_bytes:
            ends = fill.size_bytes + np.cumsum(sizes_bytes.astype(np.int64))
            room = min(room, int(np.searchsorted(ends, limit_bytes)) + 1)
    return room


def is_full(fill: Fill, conditions: Conditions) -> EndReason | None:
    """Say which condition a file meets, if any."""
    if conditions.packets is not None and fill.packets >= conditions.packets:
        return EndReason.PACKETS
    if conditions.filesize_kb is not None and fill.size_bytes >= conditions.filesize_kb * _KB:
        return EndReason.FILESIZE
    return None


def time_left(conditions: Conditions, *, open_for_s: float, opened_at_s: float, now_s: float) -> float | None:
    """Return in how many seconds a file's time is up; 0 if it is, None if it never will be.

    Args:
        conditions: when to switch.
        open_for_s: how long it has been open, whatever the wall clock does.
        opened_at_s: when it was opened, by the wall clock.
        now_s: the wall clock's time.
    """
    left_s: list[float] = []
    if conditions.duration_s is not None:
        left_s.append(conditions.duration_s - open_for_s)
    if conditions.interval_s is not None:
        # Another multiple than at the beginning, also if the clock was set back.
        is_over = now_s // conditions.interval_s != opened_at_s // conditions.interval_s
        left_s.append(0 if is_over else conditions.interval_s - now_s % conditions.interval_s)
    return max(min(left_s), 0) if left_s else None


def fitting(room_bytes: int, sizes_bytes: U64) -> int:
    """Return how many of these packets take no more than so many bytes."""
    if int(sizes_bytes.sum()) <= room_bytes:
        return len(sizes_bytes)
    return int(np.searchsorted(np.cumsum(sizes_bytes.astype(np.int64)), room_bytes, "right"))
