"""Compiling is bounded: a filter that takes too much of a processor or of memory ends its own worker, and no later."""

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext, SpawnContext

import pytest

from capd.filters import bounds
from capd.filters.compiler import CaptureFailed
from capd.worker import start
from capd_protocol.formats.linktypes import DLT_EN10MB
from capd_protocol.messages import Failure, FailureCode
from tests.worker.test_sources import interface, maker_for

#: libpcap's optimizer takes 20 s for it, in 140 MiB.
PORTS = " or ".join(f"port {number + 1}" for number in range(600))
#: Its programs take much memory in little time.
PAIRS = " or ".join(f"(host 10.0.{number // 256}.{number % 256} and port {number + 1})" for number in range(400))
FORKED = multiprocessing.get_context("fork")


def in_child(
    function: Callable[[Connection], object], timeout_s: float = 30, context: ForkContext | SpawnContext = FORKED
) -> tuple[int | None, object, float]:
    """Run a function in a process of its own; return its exit code, what it sent, and its time of a processor."""
    ours, theirs = multiprocessing.Pipe()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = context.Process(target=function, args=(theirs,))
    process.start()
    theirs.close()
    process.join(timeout_s)
    process.kill()
    process.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = None
    if ours.poll():
        try:
            answer = ours.recv()
        except EOFError:
            answer = None
    ours.close()
    taken_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return process.exitcode, answer, taken_s


def plan(text: str) -> None:
    wish = interface(1, DLT_EN10MB, capture_filter=text)
    maker = maker_for(wish)
    with bounds.bounded(1):
        maker.plan(wish, 0)


def test_a_filter_that_takes_too_long_ends_its_process_by_a_signal_of_its_own() -> None:
    def compile_it(_: Connection) -> None:
        # As it may have been inherited.
        signal.signal(bounds.TIME_IS_UP, signal.SIG_IGN)
        plan(PORTS)

    exit_code, _, taken_s = in_child(compile_it)
    assert exit_code == -bounds.TIME_IS_UP
    assert bounds.TIME_S / 2 < taken_s < bounds.TIME_S + 1  # two clocks that need not agree


def forked_as_user(function: Callable[[], object]) -> int:
    """Run a function in a child that is an ordinary user's, and ends with 1 where it raises; return its number."""
    child = os.fork()
    if child:
        return child
    try:
        os.setresuid(4711, 4711, 4711)
        function()
        os._exit(0)
    finally:
        os._exit(1)  # what is raised may not go on as a second pytest


def test_the_bound_is_not_one_that_the_user_can_lift() -> None:
    is_ready, say_ready = os.pipe()

    def compile_it() -> None:
        os.write(say_ready, b"r")
        plan(PORTS)

    child = forked_as_user(compile_it)

    def lift_it() -> None:
        os.read(is_ready, 1)  # before it has become the user's, nobody but root may
        deadline_s = time.monotonic() + 1
        while time.monotonic() < deadline_s:
            for which in (resource.RLIMIT_CPU, resource.RLIMIT_AS):
                resource.prlimit(child, which, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            time.sleep(0.05)

    other = forked_as_user(lift_it)
    os.close(is_ready)
    os.close(say_ready)
    assert os.waitpid(other, 0)[1] == 0
    _, status, usage = os.wait4(child, 0)
    assert os.waitstatus_to_exitcode(status) == -bounds.TIME_IS_UP
    assert usage.ru_utime + usage.ru_stime < bounds.TIME_S + 1


def plan_in_64_mib(channel: Connection) -> None:
    bounds.MEMORY_BYTES = 64 * 1024 * 1024
    try:
        plan(PAIRS)  # which takes 150 MiB
    except CaptureFailed as error:
        channel.send(error.failure)


def test_a_filter_that_takes_too_much_memory_is_refused() -> None:
    # A new interpreter: in one that is forked, what other tests have left in the heap is room for what is bounded.
    exit_code, failure, _ = in_child(plan_in_64_mib, context=multiprocessing.get_context("spawn"))
    assert exit_code == 0
    assert isinstance(failure, Failure)
    assert (failure.code, failure.argument) == (FailureCode.BAD_FILTER, "capture_filter")
    assert "64 MiB" in failure.text


def test_a_start_without_memory_for_its_filters_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MEMORY_BYTES", 0)

    def compile_it(channel: Connection) -> None:
        wish = interface(1, DLT_EN10MB, capture_filter="udp")
        maker = maker_for(wish)
        monkeypatch.setattr(maker, "plan", lambda *_: bytearray(1024 * 1024 * 1024))
        try:
            with start._bounded(maker):
                start._compile(maker._launch, maker)
        except CaptureFailed as error:
            channel.send(error.failure)

    assert in_child(compile_it)[:2] == (0, bounds.too_much())


def test_the_bounds_hold_for_the_block_alone() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with bounds.bounded(3):
        remaining_s, _ = signal.getitimer(signal.ITIMER_PROF)
        assert 2 * bounds.TIME_S < remaining_s <= 3 * bounds.TIME_S + 0.01
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        assert soft != before[0]
        assert hard == before[1]
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_a_lower_limit_than_the_bound_stays() -> None:
    def look(channel: Connection) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (2**40, hard))
        bounds.MEMORY_BYTES = 2**41
        with bounds.bounded(1):
            channel.send(resource.getrlimit(resource.RLIMIT_AS)[0])

    assert in_child(look)[:2] == (0, 2**40)
