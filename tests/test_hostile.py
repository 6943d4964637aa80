"""The endurance attack: what it reckons and judges, that nothing is left of it, and a short run of it."""

import contextlib
import dataclasses
import json
import math
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure import tree_of
from capd_protocol.arguments import find_faults
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import MAX_REQUEST_SIZE_BYTES, FrameDecoder
from capd_protocol.messages import InterfaceCounters, Request, StartCapture, decode, encode
from tests.support.attack import await_end, eventually
from tests.support.bounds import check_bound
from tests.support.hostile import values
from tests.support.hostile.crowd import Reports
from tests.support.hostile.figures import Delay, Summary, file_delays, gaps, mark_delays, summary, with_machine
from tests.support.hostile.footprint import Footprint
from tests.support.hostile.judgement import Observed, checks
from tests.support.hostile.witnesses import Answer, Closed, Counted, Heard, Late, Mark, Opened, Sent, Stall

ROOT = Path(__file__).parents[1]

# What is reckoned -----------------------------------------------------------------------------------------------------


def test_a_mark_is_announced_with_the_first_count_that_has_it() -> None:
    counted = [Counted(10, 1.0), Counted(30, 2.0)]
    marks = [Mark(5, 0.5), Mark(10, 0.75), Mark(11, 1.25), Mark(30, 1.5)]
    assert mark_delays(marks, counted) == [Delay(1.0, 0.5), Delay(1.0, 0.25), Delay(2.0, 0.75), Delay(2.0, 0.5)]


def test_a_mark_that_is_never_announced_is_late_for_ever() -> None:
    (delay,) = mark_delays([Mark(31, 1.5)], [Counted(30, 2.0)])
    assert delay.delay_s == math.inf
    assert summary([delay]).worst_s == math.inf


def test_a_gap_does_not_count_the_time_in_which_nothing_was_sent() -> None:
    counted = [Counted(1, 1.0), Counted(2, 1.5), Counted(3, 3.0)]
    stalls = [Stall(0.5, 1.25), Stall(2.0, 2.5), Stall(3.0, 4.0)]
    assert gaps(counted, stalls) == [Delay(1.5, 0.25), Delay(3.0, 1.0)]


def test_a_file_is_due_with_its_last_packet() -> None:
    closed = [Closed("a", 1, 10**9, 10**9 + 2 * 10**8, 5.0), Closed("b", 1, 2 * 10**9, 2 * 10**9, 6.0)]
    opened = [Opened(0, 1.0), Opened(10**9 + 3 * 10**8, 5.1)]
    assert file_delays(opened, closed) == [Delay(5.0, 0.2), Delay(5.1, 0.3)]


def test_what_the_machine_makes_of_a_delay_is_how_late_a_sleeper_was_meanwhile() -> None:
    late = [Late(1.0, 0.5), Late(1.5, 0.25), Late(3.0, 1.0)]  # 0.5 to 1.0, 1.25 to 1.5, 2.0 to 3.0
    delays = [Delay(0.25, 0.25), Delay(1.5, 1.0), Delay(2.25, 1.5), Delay(4.0, 0.5)]
    assert [each.machine_s for each in with_machine(delays, late)] == [0.0, 0.75, 0.75, 0.0]


def test_a_summary_is_of_what_was_over_in_a_span() -> None:
    delays = [Delay(1.0, 9.0), Delay(2.0, 1.0, 0.75), Delay(3.0, 3.0, 2.5), Delay(4.0, 2.0), Delay(5.0, 9.0)]
    assert summary(delays, 2.0, 5.0) == Summary(3, 2.0, 3.0, 3.0, 2.0)
    assert summary(delays, 6.0) == Summary(0, 0.0, 0.0, 0.0, 0.0)


# What is judged -------------------------------------------------------------------------------------------------------

_FOOTPRINT = Footprint(
    descriptors=20,
    open_on=frozenset(),
    threads=1,
    closers=0,
    workers=1,
    resident_kb=40_000,
    spawner=7,
    spawner_descriptors=5,
    spawner_threads=1,
    spawner_resident_kb=30_000,
)
_COUNTERS = InterfaceCounters(interface="alice1", received_total=300, written_total=300)
_HEARD = Heard(
    counted=[Counted(100, 1.1), Counted(200, 1.2), Counted(300, 1.3)],
    opened=[Opened(0, 1.0), Opened(1_250_000_000, 1.25)],
    closed=[Closed("a", 150, 1_150_000_000, 1_200_000_000, 1.2), Closed("b", 150, None, 0, 1.4)],
    others=[],
    interfaces=(_COUNTERS,),
    end="CaptureEnded: the capture has ended (stopped)",
)
_WELL = Observed(
    reports=Reports(Counter({"silent done": 1})),
    attacked_s=1.15,
    over_s=2.0,
    base=_FOOTPRINT,
    before=_FOOTPRINT,
    after=_FOOTPRINT,
    left_before="",
    left_after="",
    listed=[12345],
    alice=12345,
    sent=Sent(300, [Mark(100, 1.05), Mark(200, 1.15), Mark(300, 1.25)], []),
    heard=_HEARD,
    answers=[Answer(1.2, 0.01, 0.02, 0.03)],
    late=[Late(1.2, 0.0)],
    link_packets=300,
    counted=[150, 150],
    complaints=[],
)


def failed(observed: Observed) -> set[str]:
    return {each.name for each in checks(observed) if not each.holds}


def but_heard(**changes: Any) -> Observed:
    return dataclasses.replace(_WELL, heard=_HEARD._replace(**changes))


def but_counters(**changes: int) -> Observed:
    fields = {"interface": "alice1", "received_total": 300, "written_total": 300, **changes}
    return but_heard(interfaces=(InterfaceCounters(**fields),))  # type: ignore[arg-type]  # by name


def test_a_run_in_which_nobody_noticed_anything_holds() -> None:
    assert failed(_WELL) == set()


WRONG: dict[str, tuple[Observed, str]] = {
    "a packet the kernel dropped": (but_counters(written_total=299, kernel_drops_total=1), "no packet is lost"),
    "a packet the writer dropped": (but_counters(written_total=299, writer_drops_total=1), "no packet is lost"),
    "a packet that nobody knows of": (but_counters(received_total=299, written_total=299), "no packet is lost"),
    "one too many": (dataclasses.replace(_WELL, link_packets=301), "the interface has had as many"),
    "one missing in a file": (dataclasses.replace(_WELL, counted=[150, 149]), "all are in the files"),
    "a file missing": (dataclasses.replace(_WELL, counted=[150]), "all are in the files"),
    "a file that is broken": (dataclasses.replace(_WELL, complaints=["cut short"]), "all are in the files"),
    "a capture that failed": (but_heard(end="ChildError: x"), "alice's capture went on to its end"),
    "an event that nobody expects": (but_heard(others=["SP_LAGGED"]), "alice's capture went on to its end"),
    "a late packet": (
        dataclasses.replace(_WELL, sent=_WELL.sent._replace(marks=[Mark(100, 1.05), Mark(200, 0.9)])),
        "in time: packet sent to announced",
    ),
    "a gap": (
        dataclasses.replace(
            but_heard(counted=[Counted(100, 1.1), Counted(200, 1.2), Counted(300, 1.56)]),
            sent=_WELL.sent._replace(marks=[Mark(100, 1.05), Mark(200, 1.15)]),
        ),
        "in time: announcement to the next",
    ),
    "no announcement but one": (but_heard(counted=[Counted(300, 1.2)]), "in time: announcement to the next"),
    "a late file": (but_heard(opened=[Opened(0, 1.0), Opened(1_401_000_000, 1.4)]), "in time: file full to announced"),
    "a refusal": (
        dataclasses.replace(_WELL, answers=[Answer(1.2, 0.1, math.inf, math.inf, "ResourceError: x")]),
        "carol is always answered",
    ),
    "no answer": (dataclasses.replace(_WELL, answers=[]), "carol is always answered"),
    "what is left at once": (dataclasses.replace(_WELL, left_before="1 workers"), "nothing is left of the first round"),
    "what is left": (dataclasses.replace(_WELL, left_after="1 workers"), "nothing is left of all rounds"),
    "a capture that is left": (
        dataclasses.replace(_WELL, listed=[12345, 1]),
        "root is reports of alice's capture only",
    ),
    "memory": (
        dataclasses.replace(_WELL, after=dataclasses.replace(_FOOTPRINT, resident_kb=80_000)),
        "the daemon has no more memory",
    ),
    "memory of the spawner": (
        dataclasses.replace(_WELL, after=dataclasses.replace(_FOOTPRINT, spawner_resident_kb=80_000)),
        "the spawner has no more memory",
    ),
    "another spawner": (
        dataclasses.replace(_WELL, after=dataclasses.replace(_FOOTPRINT, spawner=8)),
        "the spawner is the same",
    ),
    "what was not theirs": (
        dataclasses.replace(_WELL, reports=Reports(violations=["eve got Started"])),
        "nobody got what was not theirs",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_found_by_its_check(wrong: str) -> None:
    observed, check = WRONG[wrong]
    assert failed(observed) == {check}


def test_the_machine_is_excused_for_what_it_does_to_a_sleeper() -> None:
    sent = _WELL.sent._replace(marks=[Mark(100, 1.05), Mark(200, 0.9)])
    late = dataclasses.replace(_WELL, sent=sent, late=[Late(1.1, 0.06)])
    assert failed(late) == set()


# What is sent ---------------------------------------------------------------------------------------------------------


def chooser(seed: int) -> values.Chooser:
    return values.Chooser(random.Random(seed), ("attack-b0",), ("attack-b0", "any", "lo"), (12345,))


def test_the_same_seed_makes_the_same_requests() -> None:
    assert [chooser(1).request() for _ in range(10)] == [chooser(1).request() for _ in range(10)]
    both = [chooser(each) for each in (1, 1)]
    assert [both[0].broken() for _ in range(100)] == [both[1].broken() for _ in range(100)]


def test_requests_are_of_every_kind_and_most_captures_can_be() -> None:
    make = chooser(2)
    requests = [make.request() for _ in range(2000)]
    assert {type(each) for each in requests} == set(Request.__args__)
    starts = [each for each in requests if isinstance(each, StartCapture)]
    assert len([each for each in starts if not find_faults(each)]) > len(starts) / 2
    assert all(encode(each) for each in requests)


def test_some_broken_requests_are_understood_and_some_are_not() -> None:
    make = chooser(3)
    outcomes: Counter[str] = Counter()
    for _ in range(500):
        decoder = FrameDecoder(MAX_REQUEST_SIZE_BYTES)
        decoder.feed(make.broken())
        try:
            frame = decoder.next_frame()
            outcomes["cut short" if frame is None else type(decode(frame)).__name__] += 1
        except RemoteProtocolError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 50
    assert outcomes["cut short"] > 50
    assert outcomes["StartCapture"]


# Where it happens -----------------------------------------------------------------------------------------------------

_ISOLATED = """
import os, subprocess, sys
from tests.support.hostile.isolation import run_isolated
def inside(place):
    subprocess.Popen(["sleep", "60"])
    (place / "file").write_text("x")
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout.split()
    print(os.getpid(), links[0], *os.listdir(place))
    if sys.argv[1] == "raise":
        raise ValueError("wrong")
    return 3
sys.exit(run_isolated(inside, 1))
"""


@pytest.mark.parametrize(("how", "status"), [("return", 3), ("raise", 1)])
def test_nothing_is_left_of_what_ran_in_namespaces(how: str, status: int) -> None:
    mounted = Path("/proc/self/mounts").read_text()
    done = subprocess.run(
        [sys.executable, "-c", _ISOLATED, how],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,  # its sleep, which has the same standard output, takes longer
    )
    assert done.returncode == status, done.stderr
    assert done.stdout.split() == ["1", "lo", "file"]
    assert ("ValueError: wrong" in done.stderr) == (how == "raise")
    assert Path("/proc/self/mounts").read_text() == mounted
    assert not Path("/dev/shm/file").exists()


# The command ----------------------------------------------------------------------------------------------------------


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.support.hostile", *arguments]


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda each: each.name)
def test_a_run_that_is_ended_leaves_nothing(number: signal.Signals) -> None:
    with subprocess.Popen(
        command("20", "--rate", "1000"),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            while "warm-up" not in (line := process.stderr.readline()):
                assert line, "it has ended"
            eventually(lambda: len(tree_of(process.pid)) > 20, "hostile clients")
            processes = tree_of(process.pid)[1:]
            process.send_signal(number)
            output, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == (-number if number == signal.SIGKILL else 1)
    assert output == ""
    assert ("nothing is judged" in errors) == (number != signal.SIGKILL)
    await_end(processes)


@pytest.mark.alone
@pytest.mark.long
@pytest.mark.timeout(240)
def test_nobody_notices_hostile_clients() -> None:
    # The rate is one that a machine keeps up with that is busy with other things; the command's own is 50,000.
    run = command("8", "--rate", "10000", "--seed", "1", "--hasty", "--json")
    kernels = {"this kernel": (), "an older one": ("--older-kernel",)}
    with contextlib.ExitStack() as stack:
        # At once, each in namespaces of its own: most of the time they wait until all has settled.
        processes = {
            kernel: stack.enter_context(ended_with_us([*run, *options])) for kernel, options in kernels.items()
        }
        printed = {kernel: process.communicate(timeout=200) for kernel, process in processes.items()}
    late: list[str] = []
    for kernel, (output, errors) in printed.items():
        assert output, (kernel, errors)
        found = json.loads(output)
        failed = [each for each in found["checks"] if not each["holds"]]
        late += [f"{kernel}: {each}" for each in failed if each["name"].startswith("in time: ")]
        assert [each for each in failed if not each["name"].startswith("in time: ")] == [], kernel
        assert found["ok"] == (not failed)
        assert processes[kernel].returncode == (1 if failed else 0)
        assert sum(found["acts"].values()) > 100
        assert found["killed"] > 5
        assert found["hostile"]["packet sent to announced"]["number"] > 100
    check_bound(not late, "; ".join(late))


@contextlib.contextmanager
def ended_with_us(words: list[str]) -> Generator[subprocess.Popen[str], None, None]:
    """Have a command run, which is killed if it has not ended."""
    with subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()
