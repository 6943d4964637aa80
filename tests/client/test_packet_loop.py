"""A packet loop gives each packet to its handler, one at a time and in order, or counts it."""

import contextlib
import gc
import inspect
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from capd_client import (
    BadFilterError,
    DaemonGone,
    DaemonUnavailable,
    InterfaceError,
    InvalidArgument,
    LoopRunning,
    PacketHandler,
    PacketHeader,
    PacketLoop,
    PacketType,
    SessionClosed,
    list_captures,
    sniff,
    stop_capture,
)
from capd_client.request import options
from capd_protocol.messages import EndReason
from tests.capture.helpers import in_background, ip, local_frame
from tests.client.conftest import Bench
from tests.client.helpers import PATIENCE_S, wait_until
from tests.support.namespace import veth_pair
from tests.support.tools import unmount
from tests.support.traffic import build_frames, send, sequence_offset

#: How soon a loop ends that is ended. A loop that only looks again when a packet comes takes for ever.
PROMPT_S = 2.0

Given = tuple[PacketHeader, memoryview]


def opened(bench: Bench, **changes: Any) -> PacketLoop:
    """Begin a session, whose packets come soon."""
    arguments = {
        "interfaces": bench.interface,
        "socket_path": bench.daemon.socket_path,
        "update_interval": 0.01,
        # Interfaces look for routers and neighbours while they are new.
        "capture_filter": "not ip6",
        **changes,
    }
    return PacketLoop(**arguments)


@pytest.fixture
def session(bench: Bench) -> Generator[PacketLoop, None, None]:
    with opened(bench) as session:
        yield session


def collecting(given: list[Given]) -> PacketHandler:
    return lambda _, header, packet: given.append((header, packet))


def frames_of(given: list[Given]) -> list[bytes]:
    return [bytes(packet) for _, packet in given]


def nothing(_argument: object, _header: PacketHeader, _packet: memoryview) -> None:
    """Do nothing with a packet."""


def captured(bench: Bench) -> int:
    """Return how many packets the daemon knows to be captured, whoever has read them, or lost."""
    (capture,) = list_captures(socket_path=bench.daemon.socket_path)
    return capture.packets_total + capture.drops_total


def loop_until_all(session: PacketLoop, handler: PacketHandler, packets: int) -> None:
    """Loop until so many packets were given or dropped."""
    deadline_s = time.monotonic() + PATIENCE_S
    while session.received + session.drops < packets:
        assert time.monotonic() < deadline_s, session
        session.loop(handler, timeout=0.05)


# What is given --------------------------------------------------------------------------------------------------


def test_each_packet_is_given_in_order_with_what_was_sent(bench: Bench, session: PacketLoop) -> None:
    frames = [local_frame(60 + number % 900, number) for number in range(3000)]
    given: list[tuple[object, PacketHeader, bytes]] = []
    argument = object()
    with in_background(send, bench.sender, frames, len(frames), 20_000):
        before_ns = time.time_ns()
        returned = session.loop(lambda *each: given.append((each[0], each[1], bytes(each[2]))), argument, len(frames))
        after_ns = time.time_ns()
    assert returned == len(frames) == session.received
    assert session.drops == 0
    assert [packet for _, _, packet in given] == frames
    assert all(each is argument for each, _, _ in given)
    for (_, header, _), frame in zip(given, frames, strict=True):
        assert (header.caplen, header.len, header.ifname, header.linktype) == (
            len(frame),
            len(frame),
            bench.interface,
            1,
        )
    times_ns = [header.timestamp_ns for _, header, _ in given]
    assert times_ns == sorted(times_ns)
    assert before_ns - 10**9 < times_ns[0] <= times_ns[-1] <= after_ns
    first = given[0][1]
    assert first.timestamp == datetime.fromtimestamp(first.timestamp_ns // 1000 / 10**6, UTC)
    assert repr(first).endswith(f" {bench.interface}, 60 of 60 bytes, OTHER_HOST>")


def test_a_packet_that_is_cut_says_how_long_it_was(bench: Bench) -> None:
    given: list[Given] = []
    with opened(bench, snaplen=68) as session:
        bench.send(1, size_bytes=1000)
        session.loop(collecting(given), count=1)
    ((header, packet),) = given
    assert (header.caplen, len(packet), header.len) == (68, 68, 1000)


def test_packets_of_several_interfaces_say_which(bench: Bench) -> None:
    given: list[Given] = []
    with veth_pair("loop0", "loop1"), opened(bench, interfaces=["loop1", bench.interface]) as session:
        bench.send(1)
        send("loop0", build_frames((100,)), 1)
        session.loop(collecting(given), count=2)
    assert [header.ifname for header, _ in given] == [bench.interface, "loop1"]


def test_a_filter_leaves_packets_out_uncounted(bench: Bench) -> None:
    given: list[Given] = []
    with opened(bench, capture_filter="greater 500") as session:
        bench.send(5)
        bench.send(2, size_bytes=600)
        session.loop(collecting(given), count=2)
    assert [header.len for header, _ in given] == [600, 600]
    assert (session.received, session.drops) == (2, 0)


def test_headers_and_packets_that_are_kept_stay_right(bench: Bench) -> None:
    frames = [local_frame(500, number) for number in range(4000)]
    given: list[Given] = []
    with opened(bench, max_waiting_bytes=1_000_000) as session:
        for at in range(0, len(frames), 500):  # twice as many as are kept in memory, and no more at once than fit
            send(bench.sender, frames[at : at + 500], 500)
            session.loop(collecting(given), count=500)
    gc.collect()
    # Behind the end of the session, too.
    assert frames_of(given) == frames
    assert [header.len for header, _ in given] == [500] * 4000
    assert all(packet.readonly for _, packet in given)


def test_each_packet_has_the_kind_that_the_kernel_gives_it(bench: Bench, session: PacketLoop) -> None:
    given: list[Given] = []
    bench.exchange()
    session.loop(collecting(given), count=5, timeout=PATIENCE_S)
    kinds = [header.pkttype for header, _ in given]
    assert kinds == [
        PacketType.INCOMING,
        PacketType.BROADCAST,
        PacketType.MULTICAST,
        PacketType.OTHER_HOST,
        PacketType.OUTGOING,
    ]
    assert repr(given[4][0]).endswith("64 of 64 bytes, OUTGOING>")


def test_a_packet_that_nothing_is_said_of_has_no_kind(bench: Bench) -> None:
    given: list[Given] = []
    with opened(bench, packet_flags=False) as session:
        bench.send(1)
        session.loop(collecting(given), count=1, timeout=PATIENCE_S)
    assert given[0][0].pkttype is None


def test_kinds_of_packets_have_the_kernel_s_numbers(monkeypatch: pytest.MonkeyPatch, session: PacketLoop) -> None:
    kernels = {
        PacketType.INCOMING: socket.PACKET_HOST,
        PacketType.BROADCAST: socket.PACKET_BROADCAST,
        PacketType.MULTICAST: socket.PACKET_MULTICAST,
        PacketType.OTHER_HOST: socket.PACKET_OTHERHOST,
        PacketType.OUTGOING: socket.PACKET_OUTGOING,
    }
    assert {int(kind): number for kind, number in kernels.items()} == {number: number for number in kernels.values()}
    assert set(kernels) == set(PacketType)


# A slow handler -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def memory_for_files(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[[], int], None, None]:
    """Have captures keep their packets in a file system of their own; gives what says how many bytes they take."""
    place = directory / "memory"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "none", place], check=True, timeout=10)
    monkeypatch.setattr(options, "_SHARED_MEMORY", str(place))
    try:

        def taken_bytes() -> int:
            status = os.statvfs(place)
            return (status.f_blocks - status.f_bfree) * status.f_frsize

        yield taken_bytes
    finally:
        unmount(place)


@pytest.mark.parametrize("seconds", [0.0, 0.002], ids=["once", "always"])
def test_what_comes_while_the_handler_is_slow_is_dropped_and_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """It is slow once, until all has come, or at each packet; what waits has its bound, and all are counted."""
    frames = build_frames((1000,))
    at = sequence_offset()
    # What comes fast is less than may wait: a busy machine loses none of it.
    fast, slow, bound_bytes = 400, 6000, 2_000_000
    is_sent = threading.Event()
    numbers: list[int] = []
    most_bytes = 0

    def handle(_: object, _header: PacketHeader, packet: memoryview) -> None:
        nonlocal most_bytes
        numbers.append(int.from_bytes(packet[at : at + 8], "big"))
        if len(numbers) == 1:
            assert is_sent.wait(PATIENCE_S)
        time.sleep(seconds)
        most_bytes = max(most_bytes, taken_bytes())

    def send_all() -> None:
        assert send(bench.sender, frames, slow, 20_000, sequence_at=at) == slow
        is_sent.set()

    with (
        memory_for_files(bench.directory, monkeypatch) as taken_bytes,
        opened(bench, max_waiting_bytes=bound_bytes) as session,
    ):
        with in_background(send, bench.sender, frames, fast, 2000):
            loop_until_all(session, nothing, fast)
        assert session.received == fast
        with in_background(send_all):
            loop_until_all(session, handle, fast + slow)
        assert session.received + session.drops == fast + slow
        # A part is given, in order, of at least what may come in a single call; the rest was dropped.
        assert session.received - fast == len(numbers)
        assert 0.25 * bound_bytes < len(numbers) * 1000
        assert session.drops > slow // 4
        assert numbers == sorted(set(numbers))
        assert 0.5 * bound_bytes < most_bytes <= bound_bytes, most_bytes


def test_what_no_event_has_told_of_is_counted_too(bench: Bench) -> None:
    """The daemon keeps a thousand events for a client that takes none; here come several times as many."""
    count = 40_010  # so that there are some in the file that is being written
    with opened(bench, max_waiting_bytes=1_000_000) as session:
        assert send(bench.sender, build_frames((1000,)), count, 40_000) == count
        wait_until(lambda: captured(bench) == count, "all packets have come")
        loop_until_all(session, nothing, count)
        assert session._files._has_lagged
        # Events of files that could not be had come later, and count nothing twice.
        bench.send(5)
        assert session.loop(nothing, count=5) == 5
        assert session.received + session.drops == count + 5
    assert session.received + session.drops == count + 5


def test_a_handler_that_was_slow_gets_what_comes_next_at_once(bench: Bench) -> None:
    """Also where the file that is being written could not be kept for it."""
    given: list[Given] = []
    with opened(bench, max_waiting_bytes=1_000_000) as session:
        assert send(bench.sender, build_frames((1000,)), 5000, 20_000) == 5000
        wait_until(lambda: captured(bench) == 5000, "all packets have come")
        loop_until_all(session, nothing, 5000)
        dropped = session.drops
        assert dropped > 2000
        bench.send(3)
        assert session.loop(collecting(given), count=3, timeout=PATIENCE_S) == 3
        assert [header.len for header, _ in given] == [100] * 3
        assert session.drops == dropped


def test_what_the_kernel_drops_is_counted_too(bench: Bench) -> None:
    with opened(bench, kernel_buffer_size=1) as session:
        (worker,) = bench.daemon.workers()
        os.kill(worker, signal.SIGSTOP)
        bench.send(3000, size_bytes=1000)
        os.kill(worker, signal.SIGCONT)
        loop_until_all(session, nothing, 3000)
        assert session.drops > 0
        assert session.received > 0
        assert session.received + session.drops == 3000


@pytest.mark.long
def test_packets_of_mixed_sizes_that_come_too_fast_are_given_or_counted(bench: Bench) -> None:
    count, seen = 300_000, 0

    def handle(_argument: object, header: PacketHeader, packet: memoryview) -> None:
        nonlocal seen
        seen += len(packet) == header.caplen == header.len

    with opened(bench) as session:
        with in_background(send, bench.sender, build_frames((64, 200, 594)), count):
            loop_until_all(session, handle, count)
        assert session.received + session.drops == count
    assert seen == session.received > count // 10


# Streams --------------------------------------------------------------------------------------------------------


def test_packets_of_a_stream_are_given_until_it_ends(bench: Bench) -> None:
    frames = [local_frame(60 + number, number) for number in range(10)]
    with bench.running(max_packet_count=10, use_libpcap=True) as capture:
        send(bench.sender, frames, 10)
        capture.wait(PATIENCE_S)
    given: list[Given] = []
    with opened(bench, interfaces=str(bench.savefile)) as session:
        assert session.loop(collecting(given)) == 10
        assert session.end_reason == EndReason.SOURCE_ENDED
    assert frames_of(given) == frames
    assert {header.ifname for header, _ in given} == {str(bench.savefile)}


# The end of a loop ----------------------------------------------------------------------------------------------


def test_the_handler_ends_the_loop(bench: Bench, session: PacketLoop) -> None:
    def handle(argument: list[int], _header: PacketHeader, _packet: memoryview) -> None:
        argument.append(1)
        if len(argument) == 3:
            session.end_loop()

    numbers: list[int] = []
    bench.send(10)
    assert session.loop(handle, numbers) == 3
    assert len(numbers) == session.received == 3
    # The others are given next.
    assert session.loop(nothing, count=7) == 7
    assert (session.received, session.drops) == (10, 0)


def test_another_thread_ends_the_loop_though_no_packet_comes(session: PacketLoop) -> None:
    timer = threading.Timer(0.2, session.end_loop)
    timer.start()
    before_s = time.monotonic()
    assert session.loop(nothing) == 0
    assert 0.15 < time.monotonic() - before_s < PROMPT_S
    timer.join()


def test_another_thread_ends_the_loop_among_packets(bench: Bench, session: PacketLoop) -> None:
    bench.send(2000)
    begun = threading.Event()

    def handle(_argument: object, _header: PacketHeader, _packet: memoryview) -> None:
        begun.set()
        time.sleep(0.001)

    def end() -> None:
        assert begun.wait(PATIENCE_S)
        session.end_loop()

    with in_background(end):
        given = session.loop(handle)
    assert 1 <= given < 2000


def test_a_signal_handler_ends_the_loop_though_no_packet_comes(session: PacketLoop) -> None:
    former = signal.signal(signal.SIGUSR1, lambda *_: session.end_loop())
    timer = threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1))
    try:
        timer.start()
        before_s = time.monotonic()
        assert session.loop(nothing) == 0
        assert 0.15 < time.monotonic() - before_s < PROMPT_S
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, former)


def test_a_loop_in_another_thread_is_ended_as_well(session: PacketLoop) -> None:
    with in_background(session.loop, nothing):
        wait_until(lambda: "looping" in repr(session), "the loop runs")
        session.end_loop()


def test_an_end_that_comes_before_the_loop_is_not_lost(bench: Bench, session: PacketLoop) -> None:
    bench.send(1)
    session.end_loop()
    session.end_loop()
    assert session.loop(nothing) == 0
    assert session.loop(nothing, count=1) == 1


def test_a_loop_ends_with_its_time_however_many_packets_wait(bench: Bench, session: PacketLoop) -> None:
    before_s = time.monotonic()
    assert session.loop(nothing, timeout=0.2) == 0
    assert 0.2 <= time.monotonic() - before_s < PROMPT_S
    bench.send(1000)
    before_s = time.monotonic()
    assert 1 <= session.loop(lambda *_: time.sleep(0.01), timeout=0.3) <= 30
    assert 0.3 <= time.monotonic() - before_s < PROMPT_S


# Again and again ------------------------------------------------------------------------------------------------


def test_packets_that_come_between_loops_wait(bench: Bench, session: PacketLoop) -> None:
    frames = [local_frame(100, number) for number in range(9)]
    given: list[Given] = []
    for at in range(0, 9, 3):
        # Also before the first one: the capture begins with the session.
        send(bench.sender, frames[at : at + 3], 3)
        assert session.loop(collecting(given), count=3) == 3
    assert frames_of(given) == frames
    assert session.loop(collecting(given), timeout=0.05) == 0


def test_what_a_handler_raises_is_raised_and_the_loop_goes_on_later(bench: Bench, session: PacketLoop) -> None:
    frames = [local_frame(100, number) for number in range(10)]
    given: list[Given] = []

    def handle(_argument: object, header: PacketHeader, packet: memoryview) -> None:
        given.append((header, packet))
        if len(given) == 4:
            raise ZeroDivisionError("fourth")

    send(bench.sender, frames, len(frames))
    with pytest.raises(ZeroDivisionError, match="fourth"):
        session.loop(handle)
    assert session.received == 4
    assert session.loop(handle, count=6) == 6
    assert frames_of(given) == frames


def test_a_loop_is_started_once_at_a_time(bench: Bench, session: PacketLoop) -> None:
    def handle(_argument: object, _header: PacketHeader, _packet: memoryview) -> None:
        with pytest.raises(LoopRunning, match="runs already"):
            session.loop(nothing)

    bench.send(1)
    assert session.loop(handle, count=1) == 1
    with in_background(session.loop, nothing):
        wait_until(lambda: "looping" in repr(session), "the loop runs")
        with pytest.raises(LoopRunning, match="runs already"):
            session.loop(nothing)
        session.end_loop()


# The end of a session -------------------------------------------------------------------------------------------


def test_a_closed_session_is_refused_and_leaves_nothing(bench: Bench) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    session = opened(bench)
    bench.send(5)
    session.loop(nothing, count=2)
    session.close()
    session.close()
    session.end_loop()
    with pytest.raises(SessionClosed, match="make another one"):
        session.loop(nothing)
    assert (session.received, session.drops) == (2, 3)
    assert repr(session) == f"<PacketLoop on [{bench.interface}], closed, 2 packets received, 3 dropped>"
    assert set(Path("/proc/self/fd").iterdir()) == before
    assert list_captures(socket_path=bench.daemon.socket_path) == ()
    assert bench.daemon.workers() == []


def test_the_handler_may_close_the_session(bench: Bench) -> None:
    with opened(bench) as session:
        bench.send(5)
        assert session.loop(lambda *_: session.close()) == 1
        with pytest.raises(SessionClosed):
            session.loop(nothing)
        assert bench.daemon.workers() == []


def test_another_thread_may_close_the_session(bench: Bench) -> None:
    session = opened(bench)
    timer = threading.Timer(0.2, session.close)
    timer.start()
    assert session.loop(nothing) == 0
    timer.join(PATIENCE_S)
    with pytest.raises(SessionClosed):
        session.loop(nothing)
    assert bench.daemon.workers() == []


def test_a_signal_handler_may_close_the_session(bench: Bench) -> None:
    session = opened(bench)
    former = signal.signal(signal.SIGUSR1, lambda *_: session.close())
    timer = threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1))
    try:
        timer.start()
        assert session.loop(nothing) == 0
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, former)
    assert bench.daemon.workers() == []


def test_an_interface_that_goes_ends_the_loop_with_what_came_before(bench: Bench) -> None:
    given: list[Given] = []
    with veth_pair("gone0", "gone1"), opened(bench, interfaces="gone1") as session:
        send("gone0", build_frames((100,)), 3)
        ip("link", "delete", "dev", "gone0")
        with pytest.raises(InterfaceError):
            session.loop(collecting(given))
        assert len(given) == session.received == 3
        with pytest.raises(InterfaceError):
            session.loop(nothing)


def test_a_daemon_that_goes_ends_the_loop(own_bench: Bench) -> None:
    with opened(own_bench) as session:
        kill = threading.Timer(0.2, own_bench.daemon.process.kill)
        kill.start()
        with pytest.raises(DaemonGone):
            session.loop(nothing)
        kill.join()


def test_a_capture_that_ends_well_ends_the_loop_with_all_its_packets(bench: Bench) -> None:
    with opened(bench, max_packet_count=7) as session:
        bench.send(7)
        assert session.loop(nothing) == 7
        assert session.end_reason == EndReason.PACKETS
        assert session.loop(nothing) == 0
        assert "ended: packets" in repr(session)


def test_a_capture_that_is_stopped_by_others_ends_the_loop(bench: Bench) -> None:
    with opened(bench, name="looped") as session:
        timer = threading.Timer(0.2, stop_capture, ("looped",), {"socket_path": bench.daemon.socket_path})
        timer.start()
        assert session.loop(nothing) == 0
        timer.join()
        assert session.end_reason == EndReason.STOPPED


# What is refused ------------------------------------------------------------------------------------------------


ABOUT_FILES = {
    **dict.fromkeys(
        ("savefile", "group_access", "pass_files", "in_memory", "use_pcapng", "use_libpcap", "detach"), True
    ),
    **dict.fromkeys(("autostop_filesize", "autostop_files"), 1),
    **{each: 1 for each in options.CaptureArguments.__annotations__ if each.startswith(("ringbuffer", "recorder"))},
}


@pytest.mark.parametrize(("argument", "value"), ABOUT_FILES.items())
def test_arguments_about_files_are_refused(bench: Bench, argument: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=f"{argument} is about files, and .*: leave it out") as refused:
        opened(bench, **{argument: value})
    assert refused.value.argument == argument


@pytest.mark.parametrize("function", [PacketLoop, sniff])
def test_the_signature_has_the_arguments_that_are_taken(function: Callable[..., object]) -> None:
    shown = inspect.signature(function).parameters.keys()
    assert options.CaptureArguments.__annotations__.keys() - shown == ABOUT_FILES.keys()


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("max_waiting_bytes", 999_999, "from 1,000,000 to 4,000,000,000"),
        ("max_waiting_bytes", 4_000_000_001, "from 1,000,000 to 4,000,000,000"),
        ("max_waiting_bytes", "64", "whole number"),
        ("max_waiting_bytes", True, "whole number"),
        ("snaplen", -1, "snaplen"),
        ("nonsense", 1, "there is no argument nonsense"),
        ("separate_threads", True, "nothing to set"),
    ],
)
def test_arguments_that_are_impossible_are_refused(bench: Bench, argument: str, value: object, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as refused:
        opened(bench, **{argument: value})
    assert refused.value.argument == argument


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("handler", None, "it must be a function"),
        ("count", 0, "whole number from 1"),
        ("count", -1, "whole number from 1"),
        ("count", 1.5, "whole number from 1"),
        ("count", True, "whole number from 1"),
        ("timeout", 0, "positive number of seconds"),
        ("timeout", -0.5, "positive number of seconds"),
        ("timeout", float("nan"), "positive number of seconds"),
        ("timeout", "1", "positive number of seconds"),
    ],
)
def test_a_loop_refuses_what_is_impossible(session: PacketLoop, argument: str, value: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as refused:
        session.loop(**{"handler": nothing, argument: value})
    assert refused.value.argument == argument


def test_a_session_that_cannot_begin_says_why_and_leaves_nothing(bench: Bench) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(DaemonUnavailable, match="no capd at /nowhere"):
        opened(bench, socket_path="/nowhere")
    with pytest.raises(InterfaceError, match="nowhere0"):
        opened(bench, interfaces="nowhere0")
    with pytest.raises(BadFilterError):
        opened(bench, capture_filter="nonsense")
    assert set(Path("/proc/self/fd").iterdir()) == before


# In a program ---------------------------------------------------------------------------------------------------


def run_program(bench: Bench, text: str) -> "subprocess.Popen[str]":
    program = textwrap.dedent(text)
    return subprocess.Popen(
        [sys.executable, "-u", "-c", program, bench.interface, bench.daemon.socket_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_ends_the_loop_and_it_can_be_started_again(bench: Bench) -> None:
    with run_program(
        bench,
        """
        import sys
        from capd_client import PacketLoop

        with PacketLoop(interfaces=sys.argv[1], socket_path=sys.argv[2], update_interval=0.01) as session:
            print("begun")
            try:
                session.loop(lambda *_: print("packet"))
            except KeyboardInterrupt:
                print("interrupted", session.received)
            print(session.loop(lambda *_: None, count=2), "more")
        """,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        bench.send(1)
        assert process.stdout.readline() == "packet\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted 1\n"
        bench.send(2)
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, output, errors) == (0, "2 more\n", "")


def test_ctrl_c_while_packets_are_received_loses_none(
    bench: Bench, session: PacketLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[object] = []
    next_item = session._files.next_item

    def interrupted() -> Any:
        item = next_item()
        if item is not None:
            found.append(item)
            signal.raise_signal(signal.SIGINT)
        return item

    monkeypatch.setattr(session._files, "next_item", interrupted)
    given: list[Given] = []
    frames = [local_frame(100, number) for number in range(30)]
    for at in range(0, 30, 10):
        send(bench.sender, frames[at : at + 10], 10)
        with pytest.raises(KeyboardInterrupt):
            session.loop(collecting(given), timeout=PATIENCE_S)
    monkeypatch.undo()
    session.loop(collecting(given), count=30 - len(given), timeout=PATIENCE_S)
    assert frames_of(given) == frames
    assert len(found) >= 3


def test_a_program_that_handles_ctrl_c_itself_is_left_alone(bench: Bench, session: PacketLoop) -> None:
    noted: list[int] = []

    def note(number: int, _frame: object) -> None:
        noted.append(number)
        session.end_loop()

    former = signal.signal(signal.SIGINT, note)
    try:
        timer = threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
        timer.start()
        assert session.loop(nothing) == 0
        timer.join()
        assert signal.getsignal(signal.SIGINT) is note
    finally:
        signal.signal(signal.SIGINT, former)
    assert noted == [signal.SIGINT]


def test_numpy_is_imported_with_the_loop_and_not_before() -> None:
    program = (
        "import sys, capd_client\n"
        "before = 'numpy' in sys.modules\n"
        "capd_client.PacketLoop\n"
        "print(before, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"
