"""Counters for metrics: sums that never go down, also when captures end. Pure."""

import collections
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from capd_protocol.messages import EndReason, FailureCode


@dataclass(frozen=True)
class Counts:
    """What captures have come to, from their beginning. None of these ever goes down."""

    #: Captures that were granted, whether they could begin or not.
    attempts: int = 0
    #: Processes that were started, and those that ended without a word.
    workers: int = 0
    deaths: int = 0
    files: int = 0
    written_bytes: int = 0
    received_packets: int = 0
    written_packets: int = 0
    kernel_drops: int = 0
    writer_drops: int = 0
    excess_packets: int = 0


@dataclass(frozen=True)
class Gauges:
    """How captures that run stand now."""

    captures: int = 0
    disk_bytes: int = 0
    #: Neither written yet nor lost.
    waiting_packets: int = 0
    #: Events that clients have not read yet.
    waiting_events: int = 0


def total_counts(counts: Iterable[Counts]) -> Counts:
    """Add up counts."""
    return Counts(*map(sum, zip(*map(dataclasses.astuple, counts), strict=True)))


def total_gauges(gauges: Iterable[Gauges]) -> Gauges:
    """Add up what stands now."""
    return Gauges(*map(sum, zip(*map(dataclasses.astuple, gauges), strict=True)))


class Tally:
    """What has happened since the daemon was started, and is over."""

    def __init__(self) -> None:
        self.clients = 0
        self.refused: collections.Counter[FailureCode] = collections.Counter()
        #: Of captures that have ended, by their name in metrics.
        self.ended: dict[str, Counts] = {}
        self.ends: collections.Counter[tuple[str, EndReason]] = collections.Counter()

    def expect(self, name: str) -> None:
        """Show a name from now on, also before its first capture, which may be late."""
        self.ended.setdefault(name, Counts())

    def add_refused(self, code: FailureCode) -> None:
        """Note a request that was refused, or could not be carried out."""
        self.refused[code] += 1

    def add_ended(self, name: str, counts: Counts, reason: EndReason) -> None:
        """Note a capture that is over."""
        self.ended[name] = total_counts((self.ended.get(name, Counts()), counts))
        self.ends[name, reason] += 1
