"""Measures capd beside other programs that capture, on veth pairs of a network namespace of its own, or read."""

import argparse
import contextlib
import json
import os
import platform
import socket
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import cases, tables
from benchmarks.cases import Case, Place, Reading
from benchmarks.reading import READING_CASES, measure_reading
from benchmarks.tools import TOOLS, Tool
from tests.support.namespace import enter_private_network_namespace, veth_pair

#: Enough for a look in two minutes.
_QUICK = ("64-B", "saturated-tmpfs", "start", "next-start", "latency", *READING_CASES)
_QUICK_PACKETS = 300_000
_LONG = "packets-100M"


class Run(NamedTuple):
    """One program, measured once."""

    case: str
    tool: str
    read: Callable[[], Reading]


def _arguments() -> argparse.Namespace:
    names = [*(case.name for case in cases.CASES), *cases.SPECIAL, *READING_CASES]
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"two minutes: {', '.join(_QUICK)}, fewer packets")
    parser.add_argument("--long", action="store_true", help=f"also {_LONG}, which takes minutes")
    parser.add_argument("--only", metavar="NAME", action="append", choices=names, help=f"one of {', '.join(names)}")
    parser.add_argument("--repeat", type=int, metavar="N", help="repetitions of each (5; with --quick 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all readings there as well")
    parser.add_argument("--tmpfs", type=Path, metavar="DIR", default=Path("/dev/shm"), help="in memory (%(default)s)")
    parser.add_argument("--disk", type=Path, metavar="DIR", default=Path("/var/tmp"), help="on disk (%(default)s)")
    return parser.parse_args()


def _runs(wanted: Callable[[str], bool], tools: list[type[Tool]], place: Place, packets: int | None) -> list[list[Run]]:
    """Return what one repetition consists of, case by case."""
    plan: list[list[Run]] = []
    for case in cases.CASES:
        if wanted(case.name):
            takers = [tool for tool in tools if _takes(tool, case)]
            plan.append(
                [Run(case.name, tool.name, partial(cases.capture, tool, case, place, packets)) for tool in takers]
            )
    for name, special in cases.SPECIAL.items():
        if wanted(name):
            own_tools = [tool for tool in special.tools if tool in tools]
            plan.append(
                [Run(name, tool.name, partial(special.read, tool, place)) for tool in own_tools] * special.times
            )
    for name, readers in READING_CASES.items():
        if wanted(name):
            installed = [reader for reader in readers if reader.is_installed()]
            plan.append([Run(name, each.name, partial(measure_reading, each, place, packets)) for each in installed])
    return plan


def _takes(tool: type[Tool], case: Case) -> bool:
    return tool is TOOLS[0] if case.only_capd else tool.takes(cases.make_job(case, Path()))


def _measure(plan: list[list[Run]], repetitions: int) -> tuple[tables.Readings, int]:
    """Repeat each case, tools in turn; return what was read, and how many runs failed."""
    readings: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    failed = 0
    for runs in plan:
        for repetition in range(repetitions):
            first = repetition % len(runs)
            for name, tool, read in runs[first:] + runs[:first]:
                _say(f"{name}: {tool}, {repetition + 1} of {repetitions}")
                try:
                    reading = read()
                except (cases.WrongCountError, RuntimeError, ValueError, OSError) as error:
                    failed += 1
                    _say(f"ERROR: {name}: {tool}: {error}")
                    continue
                for figure, value in reading.items():
                    readings[name][tool][figure].append(value)
    _add_switches(readings)
    _add_ratios(readings)
    return readings, failed


def _add_switches(readings: dict[str, dict[str, dict[str, list[float]]]]) -> None:
    """Reckon what a switch of files costs: what a ring costs beyond one file, for each of its files."""
    ring = next(case for case in cases.CASES if case.name == "ring")
    packets_per_file = (ring.file_kb or 0) * 1000 / ring.mean_bytes
    for tool, figures in readings.get("ring", {}).items():
        plain_ns = readings.get("IMIX", {}).get(tool, {}).get("cpu_ns", [])
        both = zip(figures["cpu_ns"], plain_ns, strict=False)
        if switches_ns := [(ring_ns - file_ns) * packets_per_file for ring_ns, file_ns in both]:
            figures["switch_ns"] = switches_ns


def _add_ratios(readings: dict[str, dict[str, dict[str, list[float]]]]) -> None:
    """Reckon how many times as fast as others capd reads, in each repetition."""
    for name in READING_CASES:
        by_tool = readings.get(name, {})
        for tool, figures in by_tool.items():
            if tool != "capd" and "capd" in by_tool:
                both = zip(by_tool["capd"]["read_pps"], figures["read_pps"], strict=False)
                figures["times_peer"] = [own / other for own, other in both]


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Measure, and print what was found."""
    arguments = _arguments()
    processors = sorted(os.sched_getaffinity(0))
    if os.geteuid() != 0 or len(processors) < 2:
        _say("needs root, and two processors: one that sends, one that captures")
        return 2
    # This process and all that it starts; senders move to the other one.
    os.sched_setaffinity(0, {processors[0]})
    place = Place(arguments.tmpfs, arguments.disk, processors[0], processors[1])
    tools = [tool for tool in TOOLS if tool.is_installed()]
    missing = [tool.name for tool in TOOLS if tool not in tools]
    if missing:
        _say(f"not installed, and left out: {', '.join(missing)}")

    def wanted(name: str) -> bool:
        if arguments.only:
            return name in arguments.only
        return name in _QUICK if arguments.quick else name != _LONG or arguments.long

    plan = _runs(wanted, tools, place, _QUICK_PACKETS if arguments.quick else None)
    load_before = os.getloadavg()
    enter_private_network_namespace()
    with contextlib.ExitStack() as stack:
        for pair in cases.PAIRS:
            stack.enter_context(veth_pair(*pair))
        readings, failed = _measure(plan, arguments.repeat or (2 if arguments.quick else 5))
    machine = {
        "kernel": platform.release(),
        "processors": len(processors),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "load_before": load_before[0],
        "left_out": missing,
        "failed_runs": failed,
    }
    print(f"Linux {machine['kernel']}, {len(processors)} processors, load before: {load_before[0]:.2f}")
    print("Median (least-most) of all repetitions.\n")
    # Others read than capture.
    captured = {name: each for name, each in readings.items() if name not in READING_CASES}
    was_read = {name: each for name, each in readings.items() if name in READING_CASES}
    for each in filter(None, (captured, was_read)):
        print(tables.readings_table(each) + "\n")
    print(tables.goals_table(readings))
    if failed:
        print(f"\n{failed} runs failed; their readings are left out.")
    if arguments.json:
        arguments.json.write_text(json.dumps(tables.as_json(machine, readings), indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
