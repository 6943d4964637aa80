"""Readings become tables, and goals that are reached or not. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

#: By case, tool and figure: what each repetition gave.
Readings = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]

#: Name, unit, and by how much a reading is divided to be in it.
FIGURES = {
    "cpu_ns": ("CPU per packet", "µs", 1e3),
    "kept": ("share kept", "%", 0.01),
    "sent_pps": ("sent", "kpps", 1e3),
    "start_s": ("start", "ms", 1e-3),
    "resident_bytes": ("resident, ring apart", "MiB", 2**20),
    "private_bytes": ("private, ring apart", "MiB", 2**20),
    "latency_median_s": ("packet to event, median", "ms", 1e-3),
    "latency_p99_s": ("packet to event, 99 %", "ms", 1e-3),
    "handled_pps": ("given to a handler", "kpps", 1e3),
    "idle_share": ("of one processor, idle", "%", 0.01),
    "switch_ns": ("a switch of files", "µs", 1e3),
    "read_pps": ("read", "Mpps", 1e6),
    "times_peer": ("capd reads so many times as fast", "", 1.0),
}


@dataclass(frozen=True)
class Goal:
    """A bound on capd's median, or on its ratio to another one.

    Attributes:
        text: what is compared.
        case: of capd's reading.
        figure: of both readings.
        bound: the ratio's, or the value's in the figure's unit, where there is nothing to compare with.
        tool: whose reading capd's is divided by; None: nobody's.
        other_case: of that reading; None: the same.
        is_least: the bound is the least that will do, not the most.
    """

    text: str
    case: str
    figure: str
    bound: float
    tool: str | None = None
    other_case: str | None = None
    is_least: bool = False


@dataclass(frozen=True)
class Verdict:
    """What came of a goal; ``value`` is None where a reading is missing."""

    text: str
    bound: str
    value: float | None
    is_reached: bool | None


_PEERS = ("dumpcap", "tcpdump", "netsniff-ng")
GOALS = (
    Goal("CPU per packet, 64 B: capd / tcpdump", "64-B", "cpu_ns", 0.9, "tcpdump"),
    Goal("CPU per packet, 64 B: capd / dumpcap", "64-B", "cpu_ns", 0.2, "dumpcap"),
    Goal("CPU per packet, 64 B, as fast as they are sent: capd / tcpdump", "64-B-fastest", "cpu_ns", 0.9, "tcpdump"),
    Goal("CPU per packet, 64 B, as fast as they are sent: capd / dumpcap", "64-B-fastest", "cpu_ns", 0.2, "dumpcap"),
    Goal("CPU per packet, 64 B, the same into a ring: capd / tcpdump", "saturated-64-B", "cpu_ns", 0.9, "tcpdump"),
    Goal("CPU per packet, 64 B, the same into a ring: capd / dumpcap", "saturated-64-B", "cpu_ns", 0.2, "dumpcap"),
    Goal("CPU per packet, IMIX: capd / tcpdump", "IMIX", "cpu_ns", 0.7, "tcpdump"),
    Goal("CPU per packet, IMIX: capd / dumpcap", "IMIX", "cpu_ns", 0.5, "dumpcap"),
    Goal("CPU per packet, IMIX, as fast, into a ring: capd / tcpdump", "saturated-IMIX", "cpu_ns", 0.7, "tcpdump"),
    Goal("CPU per packet, IMIX, as fast, into a ring: capd / dumpcap", "saturated-IMIX", "cpu_ns", 0.5, "dumpcap"),
    Goal("share kept, 1500 B saturated, ring on tmpfs: %", "saturated-tmpfs", "kept", 100, is_least=True),
    *(
        Goal(
            f"share kept, 1500 B saturated, ring on disk: capd / {peer}",
            "saturated-disk",
            "kept",
            1,
            peer,
            is_least=True,
        )
        for peer in _PEERS
    ),
    Goal("CPU per packet: three interfaces / one", "interfaces", "cpu_ns", 1.15, "capd", "IMIX"),
    Goal("CPU per packet: with a filter / without", "filter", "cpu_ns", 1.15, "capd", "IMIX"),
    Goal("CPU per packet: ring of 1 MB files / one file", "ring", "cpu_ns", 1.15, "capd", "IMIX"),
    Goal("start: capd's request to first file / dumpcap's spawn to first F", "start", "start_s", 1, "dumpcap"),
    Goal("the same, with a capture like it in the last minute", "next-start", "start_s", 1, "dumpcap"),
    Goal("packet to event, 99 %, prompt: ms", "latency", "latency_p99_s", 10),
    Goal("given to an empty handler, 64 B: kpps", "handler-64-B", "handled_pps", 150, is_least=True),
    Goal("given to an empty handler, IMIX: kpps", "handler-IMIX", "handled_pps", 150, is_least=True),
    Goal("private memory of one of 100 captures, ring apart: MiB", "100-captures", "private_bytes", 8),
    Goal("100 idle captures: % of one processor", "100-captures", "idle_share", 2),
    Goal("CPU per packet: 10 million packets / 1 million", "packets-10M", "cpu_ns", 1.15, "capd", "packets-1M"),
    Goal("CPU per packet: 100 million packets / 1 million", "packets-100M", "cpu_ns", 1.15, "capd", "packets-1M"),
    Goal("CPU per packet: ring of 10,000 files / of 2", "ring-10000-files", "cpu_ns", 1.15, "capd", "ring-2-files"),
    Goal("CPU per packet: 50 subscribers / one", "subscribers-50", "cpu_ns", 1.15, "capd", "IMIX"),
    Goal("reading in batches, IMIX: Mpps", "read-batches", "read_pps", 15, is_least=True),
    Goal("reading packet by packet, IMIX: Mpps", "read-packets", "read_pps", 2, is_least=True),
)


def judge(goal: Goal, readings: Readings) -> Verdict:
    """Compare capd's median with the goal."""
    own = readings.get(goal.case, {}).get("capd", {}).get(goal.figure)
    bound = f"{'≥' if goal.is_least else '≤'} {goal.bound:g}"
    if goal.tool is None:
        other: Sequence[float] | None = [FIGURES[goal.figure][2]]
    else:
        other = readings.get(goal.other_case or goal.case, {}).get(goal.tool, {}).get(goal.figure)
    if not own or not other or not median(other):
        return Verdict(goal.text, bound, None, None)
    value = median(own) / median(other)
    return Verdict(goal.text, bound, value, value >= goal.bound if goal.is_least else value <= goal.bound)


def summary(values: Sequence[float], figure: str) -> str:
    """Return median and spread in the figure's unit."""
    scale = FIGURES[figure][2]
    middle, least, most = (value / scale for value in (median(values), min(values), max(values)))
    digits = 2 if abs(middle) < 10 else 1 if abs(middle) < 1000 else 0
    shown = f"{middle:.{digits}f}"
    return shown if len(values) == 1 else f"{shown} ({least:.{digits}f}-{most:.{digits}f})"


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows as Markdown, in columns for people."""
    widths = [max(len(row[column]) for row in (heading, *rows)) for column in range(len(heading))]
    lines = [heading, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def readings_table(readings: Readings) -> str:
    """Return a row for each case and figure, a column for each tool: median (least-most)."""
    tools = list(dict.fromkeys(tool for by_tool in readings.values() for tool in by_tool))
    rows: list[list[str]] = []
    for case, by_tool in readings.items():
        for figure, (name, unit, _) in FIGURES.items():
            cells = [summary(values, figure) if (values := by_tool.get(t, {}).get(figure)) else "-" for t in tools]
            if any(cell != "-" for cell in cells):
                rows.append([case, f"{name}, {unit}" if unit else name, *cells])
    return table(["case", "figure", *tools], rows)


def goals_table(readings: Readings) -> str:
    """Return a row for each goal, whether it is reached or not."""
    words = {True: "yes", False: "NO", None: "not measured"}
    rows = [
        [
            verdict.text,
            verdict.bound,
            "-" if verdict.value is None else f"{verdict.value:.2f}",
            words[verdict.is_reached],
        ]
        for verdict in (judge(goal, readings) for goal in GOALS)
    ]
    return table(["goal", "bound", "measured", "reached"], rows)


def as_json(machine: Mapping[str, Any], readings: Readings) -> dict[str, Any]:
    """Return all there is: every repetition in base units, and the goals."""
    return {
        "machine": dict(machine),
        "readings": readings,
        "goals": [asdict(judge(goal, readings)) for goal in GOALS],
    }
