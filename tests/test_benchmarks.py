"""The benchmarks: what they reckon, and that the smallest real run of each tool adds up."""

import contextlib
import os
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import cases, tables
from benchmarks.measure import Memory, parse_smaps
from benchmarks.reading import READING_CASES, FileReader, measure_reading
from benchmarks.tables import GOALS, Goal, judge
from benchmarks.tools import TOOLS, Capd, Job, Outcome, Tool, number_before, parse_sync_pipe
from tests.support.namespace import private_network_namespace, veth_pair

PACKETS = 5_000


# What is reckoned ------------------------------------------------------------------------------------------------


def test_a_ring_that_the_kernel_shares_is_not_the_programs_memory() -> None:
    smaps = """\
55d0c0a00000-55d0c0a10000 r-xp 00000000 fe:00 17    /usr/bin/tcpdump
Size:                 64 kB
Rss:                  40 kB
Private_Clean:         8 kB
Private_Dirty:         4 kB
7f2b00000000-7f2b02000000 rw-s 00000000 00:08 4242  socket:[4242]
Size:              32768 kB
Rss:               32768 kB
Private_Clean:         0 kB
Private_Dirty:     32768 kB
"""
    assert parse_smaps(smaps) == Memory(40 * 1024, 12 * 1024, 32 * 1024 * 1024)


def test_what_dumpcap_says_is_found_in_its_messages() -> None:
    data = b"F\0\0\x07/x.pcap" + b"P\0\0\x0312\0" + b"D\0\0\x067:eth0"
    assert parse_sync_pipe(data) == [("F", "/x.pcap"), ("P", "12"), ("D", "7:eth0")]


def test_the_last_number_before_the_words_counts() -> None:
    log = b"5 packets captured\n12 packets captured\n0 packets dropped by kernel\n"
    assert number_before(rb" packets? captured", log) == 12
    with pytest.raises(ValueError, match="no number"):
        number_before(rb" packets? lost", log)


RATIO = Goal("capd / dumpcap", "64-B", "cpu_ns", 0.5, "dumpcap")


@pytest.mark.parametrize(("own", "is_reached"), [([40.0, 50.0, 999.0], True), ([51.0], False), ([], None)])
def test_a_goal_compares_medians(own: list[float], is_reached: bool | None) -> None:
    readings = {"64-B": {"capd": {"cpu_ns": own}, "dumpcap": {"cpu_ns": [90.0, 100.0, 110.0]}}}
    assert judge(RATIO, readings).is_reached is is_reached


def test_a_goal_without_a_reference_is_in_the_figures_unit() -> None:
    goal = Goal("99 %: ms", "latency", "latency_p99_s", 10)
    assert judge(goal, {"latency": {"capd": {"latency_p99_s": [0.008]}}}).value == pytest.approx(8)


def test_a_goal_that_is_not_reached_is_shown() -> None:
    readings = {"64-B": {"capd": {"cpu_ns": [100.0]}, "tcpdump": {"cpu_ns": [100.0]}}}
    shown = tables.goals_table(readings).splitlines()
    assert len(shown) == len(GOALS) + 2
    assert [line for line in shown if "1.00" in line and "NO" in line]


def test_readings_are_shown_with_their_spread() -> None:
    readings = {"64-B": {"capd": {"cpu_ns": [200.0, 100.0, 300.0]}, "tcpdump": {"cpu_ns": [90.0]}}}
    assert "| 0.20 (0.10-0.30) | 0.09" in tables.readings_table(readings)


def test_the_goals_speak_of_cases_that_there_are() -> None:
    names = {case.name for case in cases.CASES} | set(cases.SPECIAL) | set(READING_CASES)
    assert {goal.case for goal in GOALS} | {goal.other_case or goal.case for goal in GOALS} <= names
    assert {goal.figure for goal in GOALS} <= set(tables.FIGURES)


def test_packets_that_are_nowhere_are_an_error(tmp_path: Path) -> None:
    job = Job(("lo",), tmp_path)
    job.files_directory.mkdir()
    with pytest.raises(cases.WrongCountError, match="9 written and 0 dropped of 10 sent"):
        cases.check(job, Outcome(9, 0), 10)
    with pytest.raises(cases.WrongCountError, match="0 packets in the files"):
        cases.check(job, Outcome(10, 0), 10)


# What is measured ------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Generator[cases.Place, None, None]:
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) < 2:
        pytest.skip("sender and capturer need a processor each")
    with contextlib.ExitStack() as stack:
        stack.enter_context(private_network_namespace())
        for pair in cases.PAIRS:
            stack.enter_context(veth_pair(*pair))
        yield cases.Place(tmp_path, tmp_path, processors[0], processors[1])


@pytest.mark.long
@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_the_smallest_run_adds_up(tool: type[Tool], place: cases.Place) -> None:
    ring = next(case for case in cases.CASES if case.name == "ring")
    # Files small enough that some are deleted; tcpdump's are a megabyte at least.
    reading = cases.capture(tool, replace(ring, files=2), place, PACKETS)
    assert reading["cpu_ns"] > 0
    assert 0 <= reading["kept"] <= 1
    assert reading["resident_bytes"] >= reading["private_bytes"] > 0


@pytest.mark.long
def test_three_interfaces_share_the_packets(place: cases.Place) -> None:
    case = next(case for case in cases.CASES if case.name == "interfaces")
    assert cases.capture(Capd, case, place, PACKETS)["sent_pps"] > 0


@pytest.mark.long
def test_what_takes_no_load_is_measured(place: cases.Place) -> None:
    for earlier in (0, 1):
        assert cases.start(Capd, place, earlier)["start_s"] > 0
    assert cases.latency(place, 200)["latency_p99_s"] > 0
    handled = cases.handling(Capd, place, cases.CASES[0], PACKETS)
    assert handled["handled_pps"] > 0
    assert 0 < handled["kept"] <= 1
    assert cases.idle(place, 2)["private_bytes"] > 0


@pytest.mark.parametrize("case", READING_CASES)
def test_each_reader_goes_through_a_file(case: str, tmp_path: Path) -> None:
    for reader in READING_CASES[case]:
        if reader.is_installed():
            assert measure_reading(reader, cases.Place(tmp_path, tmp_path, 0, 1), PACKETS)["read_pps"] > 0


def test_a_reader_that_misses_packets_is_an_error(tmp_path: Path) -> None:
    blind = FileReader("blind", PACKETS, lambda _: 0)
    with pytest.raises(cases.WrongCountError):
        measure_reading(blind, cases.Place(tmp_path, tmp_path, 0, 1), PACKETS)
