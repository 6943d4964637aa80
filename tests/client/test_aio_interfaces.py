"""The async statistics and watcher do what the blocking ones do, for several tasks, and cancellation loses nothing."""

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest

from capd_client import (
    BrokenPipe,
    DaemonUnavailable,
    Interface,
    InterfaceChanged,
    InvalidArgument,
    NoEvents,
    NoSuchCapture,
    Revocation,
    aio,
    get_capabilities,
    get_driver_counters,
    who_am_i,
)
from capd_protocol.messages.interfaces import InterfaceChange, Link
from tests.capture.helpers import ip, kernel_setting
from tests.client.helpers import PATIENCE_S
from tests.client.test_private_daemon import where_run_is_empty
from tests.support.daemon import Daemon, children_of, running_daemon
from tests.support.namespace import veth_pair
from tests.support.traffic import build_frames, send

_Result = TypeVar("_Result")
_FRAMES = build_frames((100,))
FAST_S = 0.05
#: No second tick comes within a test.
SLOW_S = 1000.0


@pytest.fixture(params=["trio", "asyncio"])
def backend(request: pytest.FixtureRequest) -> str:
    """What runs the program."""
    return str(request.param)


@pytest.fixture
def pair() -> Generator[tuple[str, str], None, None]:
    """A pair of interfaces that send nothing of their own accord."""
    with kernel_setting("net/ipv6/conf/default/disable_ipv6", "1"), veth_pair("aiot", "aior"):
        yield "aiot", "aior"


@pytest.fixture
def held(daemon: Daemon) -> Generator[Daemon, None, None]:
    """A daemon that the test may stop with SIGSTOP."""
    yield daemon
    daemon.process.send_signal(signal.SIGCONT)


def run(backend: str, main: Callable[[], Awaitable[_Result]]) -> _Result:
    """Run a program on one of the two, for as long as it may take."""

    async def bounded() -> _Result:
        with anyio.fail_after(PATIENCE_S):
            return await main()

    return anyio.run(bounded, backend=backend)


def counting(daemon: Daemon, interval: float = FAST_S) -> aio.LiveInterfaceStats:
    return aio.LiveInterfaceStats(interval=interval, socket_path=daemon.socket_path)


def watching(daemon: Daemon) -> aio.InterfaceWatcher:
    return aio.InterfaceWatcher(socket_path=daemon.socket_path)


async def rename(name: str, new_name: str) -> None:
    """Rename an interface while other tasks run."""
    await anyio.to_thread.run_sync(ip, "link", "set", "dev", name, "name", new_name)


async def until_renamed(watcher: aio.InterfaceWatcher, name: str) -> InterfaceChanged:
    """Take changes until this name is new."""
    async for changed in watcher:
        if (changed.change, changed.link.name) == (InterfaceChange.RENAMED, name):
            return changed
    raise AssertionError("it goes on for ever")


# Questions ------------------------------------------------------------------------------------------------------


def test_questions_have_the_answers_of_the_blocking_ones(
    daemon: Daemon, backend: str, pair: tuple[str, str], tmp_path: Path
) -> None:
    interface, path = pair[0], daemon.socket_path

    async def main() -> None:
        savefile = tmp_path / "asked.pcapng"
        ring = aio.CaptureSession(
            interfaces=[interface], socket_path=path, savefile=savefile, ringbuffer_files=3, ringbuffer_filesize=1000
        )
        async with ring as capture:
            number = capture.capture_id
            assert number is not None
            # Before and after: nothing else captures here.
            assert [each.capture_id for each in await aio.list_captures(socket_path=path)] == [number]
            await aio.flush_capture(number, socket_path=path)
            assert (await aio.rotate_capture(number, socket_path=path)).startswith("asked_00002_")
            with pytest.raises(InvalidArgument):
                await aio.snapshot_capture(number, socket_path=path)
            await aio.stop_capture(number, socket_path=path)
            with pytest.raises(NoSuchCapture):
                await aio.flush_capture(number, socket_path=path)
        assert await aio.list_captures(socket_path=path) == ()
        assert await aio.who_am_i(socket_path=path) == who_am_i(socket_path=path)
        listed = await aio.list_interfaces(socket_path=path)
        assert [info.name for info in listed] == [each.name for each in Interface.list_interfaces(socket_path=path)]
        assert interface in [info.name for info in listed]
        assert await aio.get_capabilities(interface, socket_path=path) == get_capabilities(interface, socket_path=path)
        found = await aio.get_driver_counters(interface, socket_path=path)
        assert found.keys() == get_driver_counters(interface, socket_path=path).keys()
        assert await aio.revoke_captures(dry_run=True, socket_path=path) == Revocation((), ())

    run(backend, main)


def test_a_question_that_is_cancelled_leaves_no_connection(held: Daemon, backend: str) -> None:
    async def main() -> None:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # only how many
        held.process.send_signal(signal.SIGSTOP)
        with anyio.move_on_after(0.1) as scope:
            await aio.who_am_i(socket_path=held.socket_path)
        assert scope.cancelled_caught
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208

    run(backend, main)


# As the blocking ones -------------------------------------------------------------------------------------------


def test_statistics_count_from_entering_on(daemon: Daemon, backend: str, pair: tuple[str, str]) -> None:
    sender, receiver = pair
    send(sender, _FRAMES, 7)

    async def main() -> None:
        async with counting(daemon) as stats:
            assert {sender, receiver, "lo"} <= set(stats.interfaces)
            assert len(stats) == len(stats.interfaces)
            assert receiver in stats
            assert "nothing0" not in stats
            assert stats[receiver] == (0, 0)
            with pytest.raises(KeyError):
                stats["nothing0"]
            send(sender, _FRAMES, 5)
            async for results in stats:
                assert set(dict(results)) == set(stats.interfaces)
                if dict(results)[receiver][0] == 5:
                    break
            assert stats[receiver] == dict(results)[receiver]
            assert stats.details(sender).tx_packets == 5

    run(backend, main)


def test_ticks_are_waited_for_and_cleared(daemon: Daemon, backend: str) -> None:
    async def main() -> None:
        async with counting(daemon, 1.0) as stats:
            with pytest.raises(NoEvents):  # the beginning is no tick
                await stats.wait_for_tick(0)
            await stats.wait_for_tick()
            await stats.wait_for_tick(0)  # still the same
            stats.clear_tick()
            for timeout_s in (0.01, 0, -1):
                with pytest.raises(NoEvents):
                    await stats.wait_for_tick(timeout_s)

    run(backend, main)


def test_a_watcher_tells_changes_and_which_interfaces_there_are(
    daemon: Daemon, backend: str, pair: tuple[str, str]
) -> None:
    async def main() -> dict[str, Link]:
        async with watching(daemon) as watcher:
            assert set(pair) <= set(watcher.interfaces)
            for timeout_s in (0.01, 0):
                with pytest.raises(NoEvents):
                    await watcher.wait_for_change(timeout_s)
            ip("link", "set", "dev", pair[1], "down")
            changed = await watcher.wait_for_change(PATIENCE_S)
            assert (changed.change, changed.link.name) == (InterfaceChange.DOWN, pair[1])
            await rename(pair[1], "aion")
            assert (await until_renamed(watcher, "aion")).former_name == pair[1]
            assert pair[1] not in watcher.interfaces
            await rename("aion", pair[1])
            await until_renamed(watcher, pair[1])
            return watcher.interfaces

    shown = run(backend, main)
    found = Interface.list_interfaces(socket_path=daemon.socket_path)
    assert shown == {each.name: each.info.link for each in found if each.info and each.info.link}


@pytest.mark.parametrize("interval", [0, float("nan"), 3601])
def test_an_impossible_interval_is_refused_before_entering(daemon: Daemon, interval: float) -> None:
    with pytest.raises(InvalidArgument, match=r"0\.05 to 3600"):
        counting(daemon, interval)


def test_without_a_daemon_at_the_place_that_was_named_there_are_none(user_dir: Path, backend: str) -> None:
    async def main() -> None:
        for make in (aio.LiveInterfaceStats, aio.InterfaceWatcher):
            with pytest.raises(DaemonUnavailable):
                async with make(socket_path=user_dir / "none.sock"):
                    pass

    run(backend, main)


def test_they_have_a_private_daemon_too(backend: str) -> None:
    async def main() -> list[int]:
        async with aio.LiveInterfaceStats(interval=FAST_S) as stats, aio.InterfaceWatcher() as watcher:
            await stats.wait_for_tick()
            assert set(stats.interfaces) == set(watcher.interfaces)
            assert len(children_of(os.getpid())) == 2
        return children_of(os.getpid())

    assert where_run_is_empty(lambda: anyio.run(main, backend=backend)) == []


def test_what_is_not_entered_cannot_be_waited_for_and_is_entered_once(daemon: Daemon, backend: str) -> None:
    async def main() -> None:
        stats, watcher = counting(daemon), watching(daemon)
        with pytest.raises(RuntimeError, match="async with"):
            await stats.wait_for_tick()
        with pytest.raises(RuntimeError, match="async with"):
            stats["lo"]
        with pytest.raises(RuntimeError, match="async with"):
            await watcher.wait_for_change(0)
        for each in (stats, watcher):
            await each.terminate()  # nothing to end
            async with each:
                with pytest.raises(RuntimeError, match="another one"):
                    await each.__aenter__()

    run(backend, main)


# The end --------------------------------------------------------------------------------------------------------


def test_they_end_once_and_for_all_and_what_was_known_stays(daemon: Daemon, backend: str) -> None:
    async def main() -> None:
        stats, watcher = counting(daemon), watching(daemon)
        async with stats, watcher:
            for each in (stats, watcher):
                await each.terminate()
                await each.terminate()
            stats.clear_tick()  # there may have been one before
            for timeout_s in (None, 0):
                with pytest.raises(BrokenPipe):
                    await stats.wait_for_tick(timeout_s)
                with pytest.raises(BrokenPipe):
                    await watcher.wait_for_change(timeout_s)
            assert stats.details("lo").name == "lo"  # as of the last tick
            assert "lo" in stats.interfaces
            assert "lo" in watcher.interfaces

    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    run(backend, main)
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208


def test_a_daemon_that_is_killed_breaks_the_pipe(user_dir: Path, backend: str) -> None:
    async def main() -> None:
        async with counting(daemon) as stats, watching(daemon) as watcher:
            daemon.process.kill()
            for each in (stats, watcher):
                with pytest.raises(BrokenPipe):
                    async for _ in each:
                        pass

    with running_daemon(user_dir) as daemon:
        run(backend, main)


# Several tasks --------------------------------------------------------------------------------------------------


def test_every_task_that_waits_is_given_the_tick(held: Daemon, backend: str) -> None:
    async def main() -> None:
        async def wait() -> None:
            await stats.wait_for_tick()
            stats.clear_tick()
            held.process.send_signal(signal.SIGSTOP)  # there will be no other one

        async with counting(held, 0.5) as stats, anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(wait)

    run(backend, main)


def test_each_change_is_given_to_one_of_the_waiting_tasks(daemon: Daemon, backend: str, pair: tuple[str, str]) -> None:
    names = [f"aio{number}" for number in range(20)]
    renamed: list[str] = []

    async def main() -> None:
        async def iterate() -> None:
            async for changed in watcher:
                if changed.change == InterfaceChange.RENAMED:
                    renamed.append(changed.link.name)
                if len(renamed) == len(names):
                    tasks.cancel_scope.cancel()

        async with watching(daemon) as watcher, anyio.create_task_group() as tasks:
            tasks.start_soon(iterate)
            tasks.start_soon(iterate)
            for former, name in itertools.pairwise([pair[1], *names]):
                await rename(former, name)

    ip("link", "set", "dev", pair[1], "down")
    run(backend, main)
    ip("link", "set", "dev", names[-1], "name", pair[1])
    assert sorted(renamed) == sorted(names)


def test_a_tick_that_another_task_has_received_is_told_of(held: Daemon, backend: str, pair: tuple[str, str]) -> None:
    async def main() -> None:
        async with counting(held, 0.5) as stats, anyio.create_task_group() as tasks:
            tasks.start_soon(stats.wait_for_tick)
            await anyio.wait_all_tasks_blocked()
            send(pair[0], _FRAMES, 5)
            deadline_s = time.monotonic() + PATIENCE_S
            # Nothing is awaited: the task that waits does not run, and its bytes are taken here.
            while stats[pair[1]][0] < 5:
                assert time.monotonic() < deadline_s
            held.process.send_signal(signal.SIGSTOP)  # there will be no other one

    run(backend, main)


def test_tasks_that_wait_are_told_when_another_one_ends_it(daemon: Daemon, backend: str) -> None:
    async def main() -> None:
        broken = 0

        async def wait(wait_for_it: Callable[[], Awaitable[Any]]) -> None:
            nonlocal broken
            with pytest.raises(BrokenPipe):
                await wait_for_it()
            broken += 1

        async with counting(daemon, SLOW_S) as stats, watching(daemon) as watcher:
            async with anyio.create_task_group() as tasks:
                for _ in range(2):
                    tasks.start_soon(wait, stats.wait_for_tick)
                    tasks.start_soon(wait, watcher.wait_for_change)
                await anyio.wait_all_tasks_blocked()
                await stats.terminate()
                await watcher.terminate()
            assert broken == 4

    run(backend, main)


# Cancellation ---------------------------------------------------------------------------------------------------


def test_cancelling_again_and_again_loses_no_change(daemon: Daemon, backend: str, pair: tuple[str, str]) -> None:
    names = [f"aio{number}" for number in range(30)]

    async def rename_all() -> None:
        for former, name in itertools.pairwise([pair[1], *names]):
            await rename(former, name)

    async def main() -> tuple[list[str], int]:
        renamed: list[str] = []
        cancelled = 0
        async with watching(daemon) as watcher, anyio.create_task_group() as tasks:
            tasks.start_soon(rename_all)
            # Some are too short for anything, and some long enough on the busiest machine.
            timeouts_s = itertools.cycle((0, 0.0003, 0.0007, 0.002, 0.05))
            while names[-1] not in renamed:
                with anyio.move_on_after(next(timeouts_s)) as scope:
                    changed = await watcher.wait_for_change()
                    renamed += [changed.link.name] if changed.change == InterfaceChange.RENAMED else []
                cancelled += scope.cancelled_caught
        return renamed, cancelled

    ip("link", "set", "dev", pair[1], "down")
    renamed, cancelled = run(backend, main)
    ip("link", "set", "dev", names[-1], "name", pair[1])
    assert renamed == names
    assert cancelled > 10


def test_a_cancelled_task_leaves_the_others_waiting(daemon: Daemon, backend: str) -> None:
    async def main() -> None:
        async with counting(daemon, 0.5) as stats:
            async with anyio.create_task_group() as cancelled, anyio.create_task_group() as tasks:
                cancelled.start_soon(stats.wait_for_tick)
                await anyio.wait_all_tasks_blocked()  # that one waits in the socket
                tasks.start_soon(stats.wait_for_tick)
                await anyio.wait_all_tasks_blocked()
                cancelled.cancel_scope.cancel()
            stats.clear_tick()
            await stats.wait_for_tick()

    run(backend, main)


@pytest.mark.parametrize("is_reacting", [True, False])
def test_asyncio_cancels_in_its_own_way(held: Daemon, is_reacting: bool) -> None:
    async def follow_briefly(what: aio.InterfaceWatcher | aio.LiveInterfaceStats) -> None:
        async with asyncio.timeout(0.1), what:
            assert is_reacting
            while True:
                await anext(what)

    async def main() -> None:
        for make in (watching, counting):
            with pytest.raises(TimeoutError):
                await follow_briefly(make(held))

    if not is_reacting:
        held.process.send_signal(signal.SIGSTOP)
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    run("asyncio", main)
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208


def test_cancelled_while_it_begins_nothing_is_left(held: Daemon, backend: str) -> None:
    async def main() -> bool:
        held.process.send_signal(signal.SIGSTOP)
        with anyio.move_on_after(0.1) as scope:
            async with watching(held):
                raise AssertionError("entered")
        return scope.cancelled_caught

    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    assert run(backend, main)
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208
