"""The async session does on trio and on asyncio what the blocking one does, and cancellation loses nothing."""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest
import trio

from capd_client import (
    BadFilterError,
    BrokenPipe,
    CaptureEnded,
    ChildError,
    DaemonUnavailable,
    InterfaceError,
    InvalidArgument,
    NoEvents,
    list_captures,
)
from capd_client.aio import CaptureSession
from capd_client.conversation.events import CaptureEvent, Event
from capd_protocol.messages import Drops, Ended, EndReason, FileClosed, FileOpened, PacketCount
from tests.client.conftest import Bench
from tests.client.helpers import PATIENCE_S, Watched, merged, of_type, read_complete, wait_until

_Result = TypeVar("_Result")


@pytest.fixture(params=["trio", "asyncio"])
def backend(request: pytest.FixtureRequest) -> str:
    """What runs the program."""
    return str(request.param)


@pytest.fixture
def held_bench(bench: Bench) -> Generator[Bench, None, None]:
    """With a daemon that the test may stop with SIGSTOP."""
    yield bench
    bench.daemon.process.send_signal(signal.SIGCONT)


def run(backend: str, main: Callable[[], Awaitable[_Result]]) -> _Result:
    """Run a program on one of the two, for as long as it may take."""

    async def bounded() -> _Result:
        with anyio.fail_after(PATIENCE_S):
            return await main()

    return anyio.run(bounded, backend=backend)


def make(bench: Bench, **changes: Any) -> CaptureSession:
    """Return a session that is not entered."""
    return CaptureSession(**bench.arguments(**changes))


async def send(bench: Bench, packets: int, rate_pps: float | None = None) -> None:
    """Send packets while other tasks run."""
    await anyio.to_thread.run_sync(bench.send, packets, 100, rate_pps)


async def wait_for_packets(capture: CaptureSession, packets: int) -> None:
    """Take the first events, until so many packets are announced."""
    seen = 0
    while seen < packets:
        event_type, message = await capture.wait_for_event(timeout=PATIENCE_S)
        seen += message if event_type == capture.SP_PACKET_COUNT else 0


async def drain(capture: CaptureSession) -> list[Event]:
    """Take every event, of all types, until the capture has ended."""
    events: list[Event] = []
    while not events or events[-1][0] != capture.SP_ENDED:
        events.append(await capture.wait_for_event(timeout=PATIENCE_S))
    return events


def assert_nothing_is_left(bench: Bench) -> None:
    """See that the capture is over for everybody."""
    assert bench.daemon.workers() == []
    assert list_captures(socket_path=bench.daemon.socket_path) == ()


@contextlib.contextmanager
def stopped(bench: Bench) -> Generator[Callable[[], None], None, None]:
    """Have a daemon that does not react; what is given lets it go on."""

    def go_on() -> None:
        bench.daemon.process.send_signal(signal.SIGCONT)

    bench.daemon.process.send_signal(signal.SIGSTOP)
    try:
        yield go_on
    finally:
        go_on()


# As the blocking one --------------------------------------------------------------------------------------------


def test_a_capture_from_beginning_to_end(bench: Bench, backend: str) -> None:
    async def main() -> list[Event]:
        async with make(bench, max_packet_count=5) as capture:
            assert capture.capture_id is not None
            await send(bench, 5)
            return [event async for event in capture]

    events = run(backend, main)
    assert merged(events) == [
        (CaptureSession.SP_FILE, str(bench.savefile)),
        (CaptureSession.SP_PACKET_COUNT, 5),
        (CaptureSession.SP_DROPS, 0),
    ]
    assert len(read_complete(bench.savefile).packets) == 5
    assert_nothing_is_left(bench)


def test_attributes_tell_where_the_capture_stands(bench: Bench, backend: str) -> None:
    async def main() -> CaptureSession:
        capture = make(bench, ringbuffer_packets=2)
        assert (capture.packetcount, capture.dropcount, capture.files) == (0, 0, ())
        assert (capture.capture_id, capture.end_reason, capture.interface_counters) == (None, None, ())
        async with capture as entered:
            assert entered is capture
            await send(bench, 3)
            await wait_for_packets(capture, 3)
        return capture

    capture = run(backend, main)
    assert capture.end_reason == EndReason.CLIENT_LEFT
    assert [each.packets for each in capture.files] == [2, 1]
    assert [(each.interface, each.written_total) for each in capture.interface_counters] == [(bench.interface, 3)]


def test_leaving_completes_the_files_and_passes_errors_on(bench: Bench, backend: str) -> None:
    async def main() -> None:
        async with make(bench):
            await send(bench, 3)
            raise KeyError("mine")

    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(KeyError, match="mine"):
        run(backend, main)
    assert_nothing_is_left(bench)
    assert len(read_complete(bench.savefile).packets) == 3
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208


def test_events_are_typed_for_those_who_want_them(bench: Bench, backend: str) -> None:
    async def main() -> list[CaptureEvent]:
        async with make(bench, max_packet_count=5) as capture:
            await send(bench, 5)
            return [event async for event in capture.events()]

    first, *counts, closed, drops, ended = run(backend, main)
    assert first == FileOpened(str(bench.savefile))
    assert sum(each.packets_delta for each in counts if isinstance(each, PacketCount)) == 5
    assert isinstance(closed, FileClosed)
    assert closed.name == str(bench.savefile)
    assert drops == Drops(0, bench.interface)
    assert isinstance(ended, Ended)
    assert ended.reason == EndReason.PACKETS


def test_handlers_are_given_messages_and_what_they_raise_is_raised(bench: Bench, backend: str) -> None:
    async def main() -> None:
        async with make(bench) as capture:
            names: list[str] = []
            capture.register_eventhandler(capture.SP_FILE, names.append)
            await send(bench, 1)
            assert await capture.wait_for_unhandled_event(timeout=PATIENCE_S) == (capture.SP_PACKET_COUNT, 1)
            assert names == [str(bench.savefile)]
            for error in (KeyError("mine"), TimeoutError("mine"), NoEvents("mine"), CaptureEnded("mine")):

                def refuse(_: object, error: Exception = error) -> None:
                    raise error

                capture.register_eventhandler(capture.SP_PACKET_COUNT, refuse)
                await send(bench, 1)
                with pytest.raises(type(error), match="mine"):
                    await capture.wait_for_unhandled_event(timeout=PATIENCE_S)

    run(backend, main)


def test_events_beyond_wirepy_come_by_wait_for_event_only(bench: Bench, backend: str) -> None:
    async def main() -> None:
        async with make(bench, max_packet_count=1) as capture:
            await send(bench, 1)
            kinds = [kind for kind, _ in await drain(capture)]
            assert kinds == [
                capture.SP_FILE,
                capture.SP_PACKET_COUNT,
                capture.SP_FILE_CLOSED,
                capture.SP_DROPS,
                capture.SP_ENDED,
            ]
            for _ in range(2):
                with pytest.raises(CaptureEnded, match="packets"):
                    await capture.wait_for_event()
            assert [event async for event in capture] == []

    run(backend, main)


def test_not_blocking_gives_what_is_there(bench: Bench, backend: str) -> None:
    async def main() -> None:
        async with make(bench) as capture:
            await capture.wait_for_event(timeout=PATIENCE_S)
            for wait in (capture.wait_for_event, capture.wait_for_unhandled_event):
                for arguments in ({"block": False}, {"block": False, "timeout": 10}, {"timeout": 0}, {"timeout": -1}):
                    started_s = time.monotonic()
                    with pytest.raises(NoEvents):
                        await wait(**arguments)
                    assert time.monotonic() - started_s < 2
            for wait in (capture.wait_for_event, capture.wait_for_unhandled_event):
                for arguments in ({"block": False}, {"timeout": 0}):
                    await send(bench, 1)
                    event = None
                    while event is None:
                        with contextlib.suppress(NoEvents):
                            event = await wait(**arguments)
                    assert event == (capture.SP_PACKET_COUNT, 1)

    run(backend, main)


def test_a_timeout_is_kept(bench: Bench, backend: str) -> None:
    async def main() -> None:
        async with make(bench) as capture:
            await capture.wait_for_event(timeout=PATIENCE_S)
            for wait in (capture.wait_for_event, capture.wait_for_unhandled_event):
                started_s = time.monotonic()
                with pytest.raises(NoEvents):
                    await wait(timeout=0.2)
                assert 0.2 <= time.monotonic() - started_s < 2
            # The session goes on.
            await send(bench, 1)
            assert await capture.wait_for_event(timeout=float("inf")) == (capture.SP_PACKET_COUNT, 1)

    run(backend, main)


def test_a_timeout_of_the_programs_own_is_not_taken_for_ours(bench: Bench, backend: str) -> None:
    async def main() -> None:
        async with make(bench) as capture:
            await capture.wait_for_event(timeout=PATIENCE_S)
            with pytest.raises(TimeoutError), anyio.fail_after(0.1):
                await capture.wait_for_event(timeout=PATIENCE_S)

    run(backend, main)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"interfaces": "nowhere0"}, InterfaceError, "nowhere0"),
        ({"capture_filter": "udp port"}, BadFilterError, "syntax error"),
        ({"socket_path": "/nowhere/capd.sock"}, DaemonUnavailable, "start capd"),
    ],
)
def test_a_refused_capture_raises_on_entering(
    bench: Bench, backend: str, changes: dict[str, str], error: type[Exception], words: str
) -> None:
    async def main() -> None:
        async with make(bench, **changes):
            raise AssertionError("entered")

    started_s = time.monotonic()
    with pytest.raises(error, match=words):
        run(backend, main)
    assert time.monotonic() - started_s < 5
    assert not bench.savefile.exists()
    assert_nothing_is_left(bench)


def test_an_impossible_argument_is_refused_before_entering(bench: Bench, backend: str) -> None:
    async def main() -> None:
        with pytest.raises(InvalidArgument, match="snaplen"):
            make(bench, snaplen=-1)

    run(backend, main)


def test_a_session_that_is_not_entered_cannot_be_waited_for(bench: Bench, backend: str) -> None:
    async def main() -> None:
        capture = make(bench)
        for wait in (capture.wait_for_event, capture.wait_for_unhandled_event, capture.wait, capture.__anext__):
            with pytest.raises(RuntimeError, match="async with"):
                await wait()
        with pytest.raises(RuntimeError, match="async with"):
            await capture.wait_for_event(block=False)
        await capture.stop()
        await capture.terminate()

    run(backend, main)
    assert not bench.savefile.exists()


def test_a_session_is_entered_once(bench: Bench, backend: str) -> None:
    async def main() -> None:
        capture = make(bench)
        async with capture:
            with pytest.raises(RuntimeError, match="one capture"):
                await capture.__aenter__()
        with pytest.raises(RuntimeError, match="one capture"):
            await capture.__aenter__()

    run(backend, main)
    assert_nothing_is_left(bench)


def test_a_daemon_that_is_killed_breaks_the_pipe(own_bench: Bench, backend: str) -> None:
    async def main() -> Watched:
        async with make(own_bench) as capture:
            await send(own_bench, 4)
            await wait_for_packets(capture, 4)
            workers = Watched(own_bench.daemon.workers())
            own_bench.daemon.process.kill()
            for _ in range(2):
                with pytest.raises(BrokenPipe, match="gone away") as raised:
                    _ = [event async for event in capture]
                assert not isinstance(raised.value, CaptureEnded)
            return workers

    run(backend, main).wait_ended()
    assert len(read_complete(own_bench.savefile).packets) == 4


def test_a_capture_that_fails_raises_when_iterated(bench: Bench, backend: str) -> None:
    async def main() -> None:
        async with make(bench) as capture:
            (worker,) = bench.daemon.workers()
            os.kill(worker, signal.SIGKILL)
            with pytest.raises(ChildError, match="died"):
                _ = [event async for event in capture]
            assert (await drain(capture))[-1] == (capture.SP_ENDED, EndReason.FAILED)

    run(backend, main)


@pytest.mark.parametrize("order", [("stop", "wait"), ("terminate", "wait", "stop"), ("wait", "stop", "terminate")])
def test_stop_wait_and_terminate_in_any_order_and_twice(bench: Bench, backend: str, order: tuple[str, ...]) -> None:
    async def main() -> list[Event]:
        # Of itself it ends soon, so that waiting may come first.
        async with make(bench, autostop_duration=0.2) as capture:
            for method in order:
                await getattr(capture, method)()
                await getattr(capture, method)()
            return [event async for event in capture]

    assert run(backend, main)[0] == (CaptureSession.SP_FILE, str(bench.savefile))
    assert read_complete(bench.savefile).packets == []
    assert_nothing_is_left(bench)


# Several tasks --------------------------------------------------------------------------------------------------


def test_another_task_stops_the_capture(bench: Bench, backend: str) -> None:
    async def main() -> EndReason | None:
        async with make(bench) as capture, anyio.create_task_group() as tasks:

            async def send_and_stop() -> None:
                await send(bench, 6)
                await capture.stop()

            tasks.start_soon(send_and_stop)
            kinds = [kind for kind, _ in merged([event async for event in capture])]
        assert kinds == [capture.SP_FILE, capture.SP_PACKET_COUNT, capture.SP_DROPS]
        return capture.end_reason

    assert run(backend, main) == EndReason.STOPPED
    assert len(read_complete(bench.savefile).packets) == 6


def test_the_block_may_be_left_while_another_task_iterates(bench: Bench, backend: str) -> None:
    events: list[Event] = []

    async def iterate(capture: CaptureSession) -> None:
        events.extend([event async for event in capture])

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            async with make(bench) as capture:
                tasks.start_soon(iterate, capture)
                await send(bench, 6)
            assert_nothing_is_left(bench)

    run(backend, main)
    assert events[0] == (CaptureSession.SP_FILE, str(bench.savefile))
    assert sum(message for kind, message in events if kind == CaptureSession.SP_PACKET_COUNT) == 6
    assert len(read_complete(bench.savefile).packets) == 6


def test_two_tasks_share_the_events(bench: Bench, backend: str) -> None:
    events: list[Event] = []

    async def iterate(capture: CaptureSession) -> None:
        events.extend([event async for event in capture])

    async def main() -> None:
        arguments = {"ringbuffer_packets": 1, "max_packet_count": 20}
        async with make(bench, **arguments) as capture, anyio.create_task_group() as tasks:
            tasks.start_soon(iterate, capture)
            tasks.start_soon(iterate, capture)
            await send(bench, 20)

    run(backend, main)
    assert len(of_type(events, CaptureSession.SP_FILE)) == 20
    assert of_type(events, CaptureSession.SP_PACKET_COUNT) == [1] * 20


def test_a_task_that_only_looks_takes_part_in_the_events(bench: Bench, backend: str) -> None:
    events: list[Event] = []

    async def iterate(capture: CaptureSession) -> None:
        events.extend([event async for event in capture])

    async def main() -> None:
        arguments = {"ringbuffer_packets": 1, "max_packet_count": 20}
        async with make(bench, **arguments) as capture, anyio.create_task_group() as tasks:
            tasks.start_soon(iterate, capture)
            tasks.start_soon(send, bench, 20, 100)
            # It is as quick to see that bytes have come as the task that waits for them.
            with contextlib.suppress(CaptureEnded):
                while True:
                    with contextlib.suppress(NoEvents):
                        events.append(await capture.wait_for_event(block=False))

    run(backend, main)
    assert len(of_type(events, CaptureSession.SP_FILE)) == 20
    assert of_type(events, CaptureSession.SP_PACKET_COUNT) == [1] * 20


def test_two_sessions_at_once(bench: Bench, backend: str) -> None:
    async def capture_four(number: int, ready: anyio.Event) -> None:
        path = bench.directory / f"{number}.pcapng"
        async with make(bench, savefile=path, max_packet_count=4) as capture:
            ready.set()
            counts = [message async for kind, message in capture if kind == capture.SP_PACKET_COUNT]
        assert sum(counts) == 4

    async def main() -> None:
        ready = [anyio.Event(), anyio.Event()]
        async with anyio.create_task_group() as tasks:
            for number in range(2):
                tasks.start_soon(capture_four, number, ready[number])
            for event in ready:
                await event.wait()
            await send(bench, 4)

    run(backend, main)
    assert [len(read_complete(bench.directory / f"{number}.pcapng").packets) for number in range(2)] == [4, 4]


def test_other_tasks_run_while_the_daemon_does_not_react(held_bench: Bench, backend: str) -> None:
    async def tick_then(go_on: Callable[[], None]) -> None:
        # If anything blocked the event loop, this would never get that far.
        for _ in range(50):
            await anyio.sleep(0.001)
        go_on()

    async def main() -> None:
        capture = make(held_bench)
        async with anyio.create_task_group() as tasks:
            with stopped(held_bench) as go_on:
                tasks.start_soon(tick_then, go_on)
                await capture.__aenter__()
        async with anyio.create_task_group() as tasks:
            with stopped(held_bench) as go_on:
                tasks.start_soon(tick_then, go_on)
                await capture.stop()
                assert [event async for event in capture][-1] == (capture.SP_DROPS, 0)
        await capture.__aexit__()

    run(backend, main)
    assert read_complete(held_bench.savefile).packets == []


def test_other_tasks_run_while_the_daemon_accepts_nobody(held_bench: Bench, backend: str) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            with stopped(held_bench) as go_on, contextlib.ExitStack() as waiting:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        other = waiting.enter_context(socket.socket(socket.AF_UNIX))
                        other.setblocking(False)
                        other.connect(held_bench.daemon.socket_path)

                async def tick_then_go_on() -> None:
                    for _ in range(50):
                        await anyio.sleep(0.001)
                    waiting.close()
                    go_on()

                tasks.start_soon(tick_then_go_on)
                async with make(held_bench):
                    pass

    run(backend, main)
    assert read_complete(held_bench.savefile).packets == []


def test_leaving_lets_other_tasks_run(held_bench: Bench, backend: str) -> None:
    async def main() -> None:
        ticks = 0

        async def tick_then(go_on: Callable[[], None]) -> None:
            nonlocal ticks
            for _ in range(50):
                await anyio.sleep(0.001)
                ticks += 1
            go_on()

        async with anyio.create_task_group() as tasks:
            with stopped(held_bench) as go_on:
                go_on()
                async with make(held_bench):
                    held_bench.daemon.process.send_signal(signal.SIGSTOP)
                    tasks.start_soon(tick_then, go_on)
                assert ticks == 50

    run(backend, main)
    assert read_complete(held_bench.savefile).packets == []


# Cancellation ---------------------------------------------------------------------------------------------------


def test_cancelled_before_it_starts_nothing_is_asked(bench: Bench, backend: str) -> None:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with make(bench):
                raise AssertionError("entered")
        assert scope.cancelled_caught

    run(backend, main)
    assert not bench.savefile.exists()
    assert_nothing_is_left(bench)


@pytest.mark.parametrize("after_s", [0.001, 0.01, 0.05])
def test_cancelled_while_it_starts_nothing_is_left(bench: Bench, backend: str, after_s: float) -> None:
    async def main() -> bool:
        started_s = time.monotonic()
        with anyio.move_on_after(after_s) as scope:
            # So large a ring keeps the kernel busy for longer than all of these.
            async with make(bench, kernel_buffer_size=512) as capture:
                await capture.wait_for_event(timeout=PATIENCE_S)
        assert time.monotonic() - started_s < 3
        return scope.cancelled_caught

    assert run(backend, main)
    assert_nothing_is_left(bench)
    if bench.savefile.exists():
        assert read_complete(bench.savefile).packets == []


def test_cancelled_while_waiting_the_files_are_complete(bench: Bench, backend: str) -> None:
    async def cancel_waiting(scope: anyio.CancelScope) -> None:
        await anyio.wait_all_tasks_blocked()
        scope.cancel()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                async with make(bench) as capture:
                    await send(bench, 4)
                    await wait_for_packets(capture, 4)
                    tasks.start_soon(cancel_waiting, scope)
                    await capture.wait_for_event()
            assert scope.cancelled_caught
            assert_nothing_is_left(bench)
            assert capture.end_reason == EndReason.CLIENT_LEFT

    run(backend, main)
    assert len(read_complete(bench.savefile).packets) == 4


def test_cancelled_while_leaving_the_files_are_complete_all_the_same(held_bench: Bench, backend: str) -> None:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with make(held_bench), anyio.create_task_group() as tasks:
                await send(held_bench, 4)
                held_bench.daemon.process.send_signal(signal.SIGSTOP)

                async def cancel_then_go_on() -> None:
                    scope.cancel()
                    with anyio.CancelScope(shield=True):
                        for _ in range(20):
                            await anyio.sleep(0.001)
                        held_bench.daemon.process.send_signal(signal.SIGCONT)

                tasks.start_soon(cancel_then_go_on)
        assert_nothing_is_left(held_bench)

    run(backend, main)
    assert len(read_complete(held_bench.savefile).packets) == 4


def test_cancelling_again_and_again_loses_no_event(bench: Bench, backend: str) -> None:
    packets = 300

    async def main() -> tuple[list[Event], int]:
        events: list[Event] = []
        cancelled = 0
        arguments = {"ringbuffer_packets": 10, "max_packet_count": packets}
        async with make(bench, **arguments) as capture, anyio.create_task_group() as tasks:
            tasks.start_soon(send, bench, packets, 1000)
            # Some are too short for anything, and some long enough on the busiest machine.
            timeouts_s = itertools.cycle((0, 0.0003, 0.0007, 0.002, 0.05))
            while not events or events[-1][0] != capture.SP_ENDED:
                with anyio.move_on_after(next(timeouts_s)) as scope:
                    events.append(await capture.wait_for_event())
                cancelled += scope.cancelled_caught
        return events, cancelled

    events, cancelled = run(backend, main)
    assert cancelled > 20
    assert len(of_type(events, CaptureSession.SP_FILE)) == packets / 10
    assert len(of_type(events, CaptureSession.SP_FILE_CLOSED)) == packets / 10
    assert sum(message for kind, message in events if kind == CaptureSession.SP_PACKET_COUNT) == packets
    assert of_type(events, CaptureSession.SP_DROPS) == [0]


# asyncio cancels a task by itself, too: once, and whatever anyio shields.


@pytest.mark.parametrize("after_s", [0, 0.02, 0.08])
def test_asyncio_cancels_the_start(bench: Bench, after_s: float) -> None:
    async def capture_for_long() -> None:
        async with asyncio.timeout(after_s), make(bench) as capture:
            _ = [event async for event in capture]

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await capture_for_long()
        # A request that was under way when it was cancelled may still begin, and ends then.
        await anyio.to_thread.run_sync(wait_until, lambda: not bench.daemon.workers(), "all workers have ended")

    run("asyncio", main)
    if bench.savefile.exists():
        assert read_complete(bench.savefile).packets == []


def test_asyncio_cancels_the_waiting(bench: Bench) -> None:
    async def main() -> CaptureSession:
        all_there = asyncio.Event()
        capture = make(bench)

        async def iterate() -> None:
            async with capture:
                await send(bench, 4)
                await wait_for_packets(capture, 4)
                all_there.set()
                _ = [event async for event in capture]

        task = asyncio.create_task(iterate())
        await all_there.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert_nothing_is_left(bench)
        return capture

    assert run("asyncio", main).end_reason == EndReason.CLIENT_LEFT
    assert len(read_complete(bench.savefile).packets) == 4


def test_asyncio_cancels_the_leaving(held_bench: Bench) -> None:
    async def main() -> CaptureSession:
        leaving = asyncio.Event()
        capture = make(held_bench)

        async def capture_and_leave() -> None:
            async with capture:
                await send(held_bench, 4)
                held_bench.daemon.process.send_signal(signal.SIGSTOP)
                leaving.set()

        task = asyncio.create_task(capture_and_leave())
        await leaving.wait()
        for _ in range(3):
            await asyncio.sleep(0.01)
            task.cancel()
        await asyncio.sleep(0.01)
        held_bench.daemon.process.send_signal(signal.SIGCONT)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert_nothing_is_left(held_bench)
        return capture

    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    assert run("asyncio", main).end_reason == EndReason.CLIENT_LEFT
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208
    assert len(read_complete(held_bench.savefile).packets) == 4


def test_a_plain_program_of_the_backend_may_use_it(bench: Bench, backend: str) -> None:
    async def main() -> int:
        async with make(bench, max_packet_count=2) as capture:
            bench.send(2)
            return sum([message async for kind, message in capture if kind == capture.SP_PACKET_COUNT])

    assert (trio.run(main) if backend == "trio" else asyncio.run(main())) == 2
