"""Streams that are open, and what feeds them for this program."""

import os
from typing import NamedTuple, Protocol

#: What names of extcap programs' interfaces begin with.
EXTCAP = "extcap:"


class Outcome(NamedTuple):
    """What became of a feeder that has ended by itself.

    Attributes:
        text: how it has ended, and what it has complained of; for people.
        is_failure: it has not ended as it should.
    """

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


class OpenStreams:
    """The streams of a capture: their descriptors until they are passed on, their feeders until these have ended."""

    def __init__(self) -> None:
        #: In the order of the capture.
        self.descriptors: list[int] = []
        self._feeders: dict[str, Feeder] = {}

    def add(self, name: str, opened: OpenedStream) -> None:
        """Take over a stream that is called so in the capture."""
        self.descriptors.append(opened.descriptor)
        if opened.feeder is not None:
            self._feeders[name] = opened.feeder

    def outcomes(self) -> dict[str, Outcome]:
        """Return what became of feeders that have ended by themselves, by the names of their streams."""
        found = ((name, each.outcome()) for name, each in self._feeders.items())
        return {name: outcome for name, outcome in found if outcome is not None}

    def close_descriptors(self) -> None:
        """Close the descriptors: others have them, or nobody needs them."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def close(self, *, wait: bool = True) -> None:
        """Close the descriptors, have the feeders end, and wait until they have. Safe to call again."""
        self.close_descriptors()
        for each in self._feeders.values():
            each.end()
        if wait:
            for each in self._feeders.values():
                each.wait()
