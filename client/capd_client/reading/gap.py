"""Gaps in a live stream, and what is done about a reader that is too slow."""

from typing import Literal, NamedTuple

#: What happens where the reader of a stream is further behind than it may be; see ``stream``.
Overflow = Literal["wait", "drop_oldest", "disconnect"]


class Gap(NamedTuple):
    """Packets that are in the capture and not in the stream.

    Attributes:
        packets: how many.
        reason: ``too_slow``: the reader was further behind than it may be; ``deleted``: the file was gone before it
            could be opened.
    """

    packets: int
    reason: Literal["too_slow", "deleted"]
