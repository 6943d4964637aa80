"""Gaps in a live stream."""

from typing import Literal, NamedTuple


class Gap(NamedTuple):
    """Packets that are in the capture and not in the stream.

    Attributes:
        packets: how many.
        reason: ``too_slow``: the reader was further behind than it may be; ``deleted``: the file was gone before it
            could be opened.
    """

    packets: int
    reason: Literal["too_slow", "deleted"]
