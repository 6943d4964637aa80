"""What must hold of a run. Pure, but for the files that it looks at: what was observed in, checks out."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.support.hostile import figures, witnesses
from tests.support.hostile.crowd import Reports
from tests.support.hostile.footprint import Footprint, foreign_files
from tests.support.hostile.world import ALICE, CAROL, HOSTILE, World
from tests.support.tools import tshark_fields

#: An event comes so long after it was due, at most.
EVENT_BOUND_S = 0.25
#: By how much memory may be more than after the first round. Chosen: what fragments of a heap take.
_MORE_KB = 8 * 1024
#: What a daemon's log has when something in it is wrong.
_COMPLAINTS = ("please report this", "Traceback", "Fatal Python error", "the process that starts captures has ended")
#: Of what is shown of many.
_SHOWN = 5


@dataclass(frozen=True)
class Observed:
    """What was seen of a run.

    Attributes:
        reports: what actors have reported.
        attacked_s: when the first of them began (monotonic).
        over_s: when the last had gone, and all had settled.
        base: what the daemon had before.
        before: what it had after the first round.
        after: what it had at the end.
        left_before: of the first round, in a line for people; empty: nothing.
        left_after: of all rounds.
        listed: numbers of captures that root is shown.
        alice: the number of hers.
        sent: what her sender tells.
        heard: what she tells.
        answers: that carol got.
        late: how late a process was that only sleeps.
        link_packets: received by alice's interface.
        counted: packets in each of alice's files, by capinfos.
        complaints: of capinfos.
    """

    reports: Reports
    attacked_s: float
    over_s: float
    base: Footprint
    before: Footprint
    after: Footprint
    left_before: str
    left_after: str
    listed: list[int]
    alice: int
    sent: witnesses.Sent
    heard: witnesses.Heard
    answers: list[witnesses.Answer]
    late: list[witnesses.Late]
    link_packets: int
    counted: list[int]
    complaints: list[str]

    @cached_property
    def delays(self) -> dict[str, list[figures.Delay]]:
        """How long each thing took, by what it is of."""
        return figures.all_delays(self.heard, self.sent, self.answers, self.late)

    @property
    def calm(self) -> dict[str, figures.Summary]:
        """What was measured before the attack, by what it is."""
        return {name: figures.summary(each, end_s=self.attacked_s) for name, each in self.delays.items()}

    @property
    def hostile(self) -> dict[str, figures.Summary]:
        """What was measured during the attack, and until all had settled."""
        return {name: figures.summary(each, self.attacked_s, self.over_s) for name, each in self.delays.items()}

    def as_json(self) -> dict[str, Any]:
        """Return figures for programs."""
        return {
            "calm": {name: each._asdict() for name, each in self.calm.items()},
            "hostile": {name: each._asdict() for name, each in self.hostile.items()},
            "acts": dict(sorted(self.reports.acts.items())),
            "killed": self.reports.killed,
            "base": self.base.figures,
            "before": self.before.figures,
            "after": self.after.figures,
        }


@dataclass(frozen=True)
class Check:
    """Something that must hold: whether it does, and what was seen."""

    name: str
    holds: bool
    text: str


def checks(observed: Observed) -> Iterator[Check]:
    """Give what must hold of what was observed."""
    yield from _packets(observed)
    yield from _times(observed)
    yield from _remains(observed)
    violations = observed.reports.violations
    yield Check("nobody got what was not theirs", not violations, _some(violations))


def _packets(observed: Observed) -> Iterator[Check]:
    sent, heard = observed.sent.packets, observed.heard
    ended = heard.end.startswith("CaptureEnded") and not heard.others
    yield Check("alice's capture went on to its end", ended, _some([heard.end, *heard.others]))
    for each in heard.interfaces:
        is_whole = each.received_total == each.written_total == sent and not each.drops_total + each.excess_total
        text = (
            f"{sent:,} sent, {each.received_total:,} received, {each.written_total:,} written, "
            f"{each.kernel_drops_total:,} dropped by the kernel, {each.writer_drops_total:,} by the writer"
        )
        yield Check("no packet is lost", is_whole, text)
    link = observed.link_packets
    yield Check("the interface has had as many", link == sent, f"{link:,} received by the interface")
    files, announced = len(heard.closed), sum(each.packets for each in heard.closed)
    is_same = len(observed.counted) == files and sum(observed.counted) == announced == sent and not observed.complaints
    text = f"{sum(observed.counted):,} in {len(observed.counted)} of {files} files by capinfos, {announced:,} announced"
    yield Check("all are in the files", is_same, "; ".join([text, *observed.complaints[:_SHOWN]]))


def _times(observed: Observed) -> Iterator[Check]:
    bounds_s = {
        "packet sent to announced": EVENT_BOUND_S,
        "announcement to the next": EVENT_BOUND_S + witnesses.UPDATE_INTERVAL_S,
        "file full to announced": EVENT_BOUND_S,
    }
    for name, bound_s in bounds_s.items():
        found, calm = observed.hostile[name], observed.calm[name]
        text = (
            f"at worst {_ms(found.worst_s)}, {_ms(found.own_worst_s)} without what the machine made of it, "
            f"bound {_ms(bound_s)}; calm {_ms(calm.worst_s)} and {_ms(calm.own_worst_s)}"
        )
        yield Check(f"in time: {name}", found.number > 0 and found.own_worst_s <= bound_s, text)
    failures = [each.failure for each in observed.answers if each.failure]
    text = f"{len(observed.answers) - len(failures)} of {len(observed.answers)}"
    yield Check(
        "carol is always answered", not failures and bool(observed.answers), "; ".join([text, *failures[:_SHOWN]])
    )


def _remains(observed: Observed) -> Iterator[Check]:
    before, after = observed.before, observed.after
    yield Check("nothing is left of the first round", not observed.left_before, observed.left_before or "nothing")
    yield Check("nothing is left of all rounds", not observed.left_after, observed.left_after or "nothing")
    captures = f"{len(observed.listed)} captures"
    yield Check("root is reports of alice's capture only", observed.listed == [observed.alice], captures)
    for name, was_kb, is_kb in (
        ("daemon", before.resident_kb, after.resident_kb),
        ("spawner", before.spawner_resident_kb, after.spawner_resident_kb),
    ):
        text = f"{was_kb / 1024:.1f} MiB after the first round, {is_kb / 1024:.1f} after all"
        yield Check(f"the {name} has no more memory", is_kb - was_kb <= _MORE_KB, text)
    text = f"process {after.spawner}, was {observed.base.spawner}"
    yield Check("the spawner is the same", observed.base.spawner == before.spawner == after.spawner, text)


def checks_of_place(world: World) -> Iterator[Check]:
    """Give what must hold of files and of the daemon's log, when the daemon has ended."""
    foreign = [
        path
        for account in (ALICE, CAROL, *HOSTILE)
        for path in foreign_files(world.directory_of(account), account.user_id)
    ]
    yield Check("nobody has files in others' directories", not foreign, _some(foreign))
    status = world.daemon.process.returncode
    yield Check("the daemon ends well", status == 0, f"status {status}")
    with world.daemon.log_path.open(encoding="utf-8", errors="replace") as log:
        complaints = [line.rstrip() for line in log if any(words in line for words in _COMPLAINTS)]
    yield Check("the daemon's log has no complaint", not complaints, _some(complaints))


def check_sequence(path: Path) -> Check:
    """Return whether the packets of a file are those that were sent, one after another, as tshark reads them."""
    numbers = [int(payload.replace(":", "")[:16], 16) for (payload,) in tshark_fields(path, "udp.payload")]
    is_whole = bool(numbers) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return Check("packets are in their order, by tshark", is_whole, f"{len(numbers):,} of the last complete file")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ("; ".join(texts[:_SHOWN]) or "none") + more
