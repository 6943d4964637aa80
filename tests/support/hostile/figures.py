"""What the witnesses' times come to. Pure: times in, delays out."""

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tests.support.hostile.witnesses import SLEEP_S, Answer, Closed, Counted, Heard, Late, Mark, Opened, Sent, Stall

#: What the machine itself makes a process wait that only sleeps.
MACHINE = "the machine: a short sleep"


class Delay(NamedTuple):
    """How long something took.

    Attributes:
        at_s: when it was over (monotonic).
        delay_s: how long it took.
        machine_s: for how much of that the machine kept even a process waiting that only sleeps.
    """

    at_s: float
    delay_s: float
    machine_s: float = 0.0


class Summary(NamedTuple):
    """How long it took: typically, for all but one of a hundred, and at worst.

    ``own_worst_s`` is the worst less what the machine made of it.
    """

    number: int
    median_s: float
    p99_s: float
    worst_s: float
    own_worst_s: float

    @property
    def times_s(self) -> tuple[float, ...]:
        """All of these times."""
        return self.median_s, self.p99_s, self.worst_s, self.own_worst_s


def summary(delays: Iterable[Delay], start_s: float = -math.inf, end_s: float = math.inf) -> Summary:
    """Return what delays that were over in a span of time come to; of none: zeros."""
    among = [each for each in delays if start_s <= each.at_s < end_s]
    if not among:
        return Summary(0, 0.0, 0.0, 0.0, 0.0)
    ordered = sorted(each.delay_s for each in among)
    median_s, p99_s = (ordered[len(ordered) * percent // 100] for percent in (50, 99))
    return Summary(len(ordered), median_s, p99_s, ordered[-1], max(each.delay_s - each.machine_s for each in among))


def with_machine(delays: Sequence[Delay], late: Sequence[Late]) -> list[Delay]:
    """Return the delays with what the machine made of them: how long, meanwhile, a process was late that only sleeps.

    Such a process waits for a processor and for nothing else, as each on the way of an event does, beside that.
    """
    times_s = [each.at_s for each in late]
    found: list[Delay] = []
    for delay in delays:
        start_s = delay.at_s - delay.delay_s
        machine_s = 0.0
        for at in range(bisect_left(times_s, start_s), len(late)):
            late_start_s = late[at].at_s - late[at].late_s
            # The next sleep begins where this one has ended.
            if late_start_s - SLEEP_S >= delay.at_s:
                break
            machine_s += max(min(late[at].at_s, delay.at_s) - max(late_start_s, start_s), 0.0)
        found.append(delay._replace(machine_s=machine_s))
    return found


def mark_delays(marks: Sequence[Mark], counted: Sequence[Counted]) -> list[Delay]:
    """Return how long it took from each mark's sending until it was announced; infinite, where it never was."""
    delays: list[Delay] = []
    at = 0
    for mark in marks:
        while at < len(counted) and counted[at].packets < mark.sent:
            at += 1
        heard_s = counted[at].at_s if at < len(counted) else math.inf
        delays.append(Delay(min(heard_s, mark.at_s + 3600), heard_s - mark.at_s))
    return delays


def gaps(counted: Sequence[Counted], stalls: Sequence[Stall]) -> list[Delay]:
    """Return how long it took from each announcement to the next, less the time in which nothing was sent."""
    delays: list[Delay] = []
    for before, after in itertools.pairwise(counted):
        # What a sender leaves out it makes up for: a stall is no longer than the gap that it makes.
        stalled_s = sum(
            max(min(stall.end_s, after.at_s) - max(stall.start_s, before.at_s), 0.0)
            for stall in stalls
            if stall.end_s > before.at_s and stall.start_s < after.at_s
        )
        delays.append(Delay(after.at_s, after.at_s - before.at_s - stalled_s))
    return delays


def file_delays(opened: Sequence[Opened], closed: Sequence[Closed]) -> list[Delay]:
    """Return how long after the last packet of each file alice heard of its end, and of the next.

    With that packet it was full. The last file of all is complete when the capture is stopped: it counts no more.
    """
    delays: list[Delay] = []
    for each, following in zip(closed, opened[1:], strict=False):
        if each.last_ns is not None:
            delays.append(Delay(each.at_s, (each.at_ns - each.last_ns) / 1e9))
            delays.append(Delay(following.at_s, (following.at_ns - each.last_ns) / 1e9))
    return delays


def all_delays(heard: Heard, sent: Sent, answers: Sequence[Answer], late: Sequence[Late]) -> dict[str, list[Delay]]:
    """Return all delays, by what they are of."""
    answered = [each for each in answers if not each.failure]
    delays = {
        "packet sent to announced": mark_delays(sent.marks, heard.counted),
        "announcement to the next": gaps(heard.counted, sent.stalls),
        "file full to announced": file_delays(heard.opened, heard.closed),
        "carol: whoami": [Delay(each.at_s + each.whoami_s, each.whoami_s) for each in answered],
        "carol: capture started": [Delay(each.started_s, each.start_s) for each in answered],
        "carol: capture ended": [Delay(each.ended_s, each.end_s) for each in answered],
    }
    return {
        **{name: with_machine(each, late) for name, each in delays.items()},
        MACHINE: [Delay(each.at_s, each.late_s) for each in late],
    }
