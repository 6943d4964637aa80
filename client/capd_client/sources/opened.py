"""Streams that are open, and what feeds them for this program."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

#: What names of extcap programs' interfaces begin with.
EXTCAP = "extcap:"


class Outcome(NamedTuple):
    """What became of a feeder that has ended by itself.

    Attributes:
        stream: what its stream is called in the capture.
        text: how it has ended, and what it has complained of; for people.
        is_failure: it has not ended as it should.
    """

    stream: str
    text: str
    is_failure: bool


class Feeder(Protocol):
    """What writes a stream: it is the session's, and ends with the capture."""

    def outcome(self) -> Outcome | None:
        """Return what became of it; None where there is nothing to say. Known before its stream ends; never waits."""
        ...

    def end(self) -> None:
        """Have it end; does not wait for that. Safe to call again."""
        ...

    def wait(self) -> None:
        """Wait until it has ended, for some seconds at most; ``end`` was called."""
        ...


class OpenedStream(NamedTuple):
    """A stream that is open.

    Attributes:
        descriptor: where it is read; the caller's.
        feeder: what writes it; None: nothing of this program's.
    """

    descriptor: int
    feeder: Feeder | None = None


def end_all(feeders: Sequence[Feeder], *, wait: bool = True) -> None:
    """Have feeders end, and wait until all have."""
    for each in feeders:
        each.end()
    if wait:
        for each in feeders:
            each.wait()
