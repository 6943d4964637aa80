"""The blocking session keeps what wirepy's documentation promises of ``CaptureSession``, and says more."""

import contextlib
import copy
import gc
import itertools
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import capd_client
from capd.limits import MAX_CLIENTS_PER_USER
from capd_client import (
    BadFilterError,
    BrokenPipe,
    CaptureEnded,
    CaptureError,
    CaptureSession,
    ChildError,
    DaemonGone,
    DaemonUnavailable,
    DestinationError,
    DiskError,
    DumpcapError,
    InterfaceError,
    InvalidArgument,
    NoEvents,
    NotPermitted,
    ReadError,
    ResourceError,
    UnsupportedError,
    aio,
    events,
    list_captures,
    stop_capture,
)
from capd_client.errors import error_for
from capd_protocol.messages import EndReason, Failure, FailureCode
from tests.client.conftest import Bench
from tests.client.helpers import (
    PATIENCE_S,
    Watched,
    drain,
    merged,
    not_awaited,
    of_type,
    read_complete,
    wait_for_packets,
    wait_until,
)
from tests.support.attack import SLOW_FILTER, beginning_worker
from tests.support.bpf import LONG
from tests.support.daemon import as_user
from tests.support.namespace import room_for_filters, veth_pair
from tests.support.tools import unmount
from tests.support.traffic import build_frames, send

#: Somebody who may not capture.
STRANGER = 23456
#: What a machine that is busy with other things may add to a time.
SLACK_S = 2.0


def collect(capture: CaptureSession) -> list[Any]:
    """Iterate to the end."""
    return list(capture)


# Names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("session_class", [CaptureSession, aio.CaptureSession])
def test_constants_have_the_values_of_wirepy(session_class: type[CaptureSession | aio.CaptureSession]) -> None:
    documented = {
        "SP_BAD_FILTER": 66,
        "SP_DROPS": 68,
        "SP_ERROR_MSG": 69,
        "SP_FILE": 70,
        "SP_PACKET_COUNT": 80,
        "SP_SUCCESS": 83,
    }
    own = {
        *("SP_FILE_CLOSED", "SP_FILE_DELETED", "SP_LAGGED", "SP_ENDED"),
        *("SP_RECORDING", "SP_TRIGGERED", "SP_SNAPSHOT_FAILED", "SP_TRIGGERS_IGNORED"),
        *("SP_INTERFACE_LOST", "SP_INTERFACE_ATTACHED", "SP_INTERFACE_SKIPPED"),
    }
    constants = {name: getattr(session_class, name) for name in dir(session_class) if name.startswith("SP_")}
    assert {name: constants[name] for name in documented} == documented
    assert set(constants) == set(documented) | own
    assert len(set(constants.values())) == len(constants)


def test_exceptions_have_the_family_of_wirepy() -> None:
    assert DumpcapError is CaptureError
    for error in (NoEvents, BrokenPipe, ChildError, DaemonUnavailable, ReadError):
        assert error.__mro__[1] is CaptureError
    assert BadFilterError.__mro__[1] is ChildError
    assert issubclass(CaptureEnded, BrokenPipe)
    assert issubclass(InvalidArgument, ValueError)
    everything = {getattr(capd_client, name) for name in capd_client.__all__}
    errors = {each for each in everything if isinstance(each, type) and issubclass(each, Exception)}
    assert issubclass(DaemonGone, BrokenPipe)
    assert issubclass(DaemonGone, ChildError)
    assert len(errors) == 29
    assert all(issubclass(error, CaptureError) for error in errors)


@pytest.mark.parametrize("duplicate", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize("code", FailureCode)
def test_an_error_stays_the_same_on_its_way_to_another_process(
    code: FailureCode, duplicate: Callable[[Any], Any]
) -> None:
    error = error_for(Failure(code=code, text="what is wrong", argument="savefile", interface="lo", position=3))
    again = duplicate(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


# Events ---------------------------------------------------------------------------------------------------------


def test_the_first_event_is_the_file_and_then_the_packets_in_it(bench: Bench) -> None:
    with bench.session() as capture:
        assert capture.wait_for_event(timeout=PATIENCE_S) == (capture.SP_FILE, str(bench.savefile))
        # Announced, so it can be read already.
        assert bench.savefile.stat().st_size > 0
        bench.send(10)
        seen = 0
        while seen < 10:
            event_type, message = capture.wait_for_event(timeout=PATIENCE_S)
            assert event_type == capture.SP_PACKET_COUNT
            assert isinstance(message, int)
            seen += message
            assert seen <= capture.packetcount <= 10
    assert seen == 10
    assert len(read_complete(bench.savefile).packets) == 10


def test_events_are_typed_for_those_who_want_them(bench: Bench) -> None:
    with bench.session(max_packet_count=5) as capture:
        capture.wait_started(PATIENCE_S)
        bench.send(5)
        first, *counts, closed, drops, ended = capture.events()
    assert first == events.FileOpened(str(bench.savefile))
    assert sum(each.packets_delta for each in counts if isinstance(each, events.PacketCount)) == 5
    assert isinstance(closed, events.FileClosed)
    assert (closed.name, closed.packets) == (str(bench.savefile), 5)
    assert drops == events.Drops(0, bench.interface)
    assert isinstance(ended, events.Ended)
    assert ended.reason == EndReason.PACKETS


def test_not_blocking_says_at_once_that_there_is_no_event(bench: Bench) -> None:
    with bench.running() as capture:
        assert capture.wait_for_event(timeout=PATIENCE_S)[0] == capture.SP_FILE
        for wait in (capture.wait_for_event, capture.wait_for_unhandled_event):
            started_s = time.monotonic()
            with pytest.raises(NoEvents):
                wait(block=False)
            with pytest.raises(NoEvents):
                wait(False, 10)  # wirepy: the timeout counts only when blocking
            assert time.monotonic() - started_s < SLACK_S


def test_not_blocking_gives_what_is_there(bench: Bench) -> None:
    with bench.running() as capture:
        assert capture.wait_for_event(timeout=PATIENCE_S)[0] == capture.SP_FILE
        bench.send(1)
        wait_until(lambda: _event_is_there(capture), "the packet is announced")


def _event_is_there(capture: CaptureSession) -> bool:
    try:
        event = capture.wait_for_event(block=False)
    except NoEvents:
        return False
    assert event == (capture.SP_PACKET_COUNT, 1)
    return True


def test_a_timeout_is_kept(bench: Bench) -> None:
    with bench.running() as capture:
        capture.wait_for_event(timeout=PATIENCE_S)
        for wait in (capture.wait_for_event, capture.wait_for_unhandled_event, capture.wait):
            for timeout_s in (-1, 0, 0.2):
                started_s = time.monotonic()
                with pytest.raises(NoEvents):
                    wait(timeout=timeout_s)
                assert max(0, timeout_s) <= time.monotonic() - started_s < max(0, timeout_s) + SLACK_S


@pytest.mark.parametrize("timeout_s", [1e9, float("inf")])
def test_a_timeout_may_be_longer_than_anybody_waits(bench: Bench, timeout_s: float) -> None:
    with bench.session(max_packet_count=1) as capture:
        assert capture.wait_for_event(timeout=timeout_s)[0] == capture.SP_FILE
        bench.send(1)
        capture.wait(timeout_s)


@pytest.mark.long
def test_a_timeout_counts_for_all_handled_events_together(bench: Bench) -> None:
    handled: list[int] = []
    with bench.running(update_interval=0.01) as capture:
        capture.wait_for_event(timeout=PATIENCE_S)
        capture.register_eventhandler(capture.SP_PACKET_COUNT, handled.append)
        sender = threading.Thread(target=bench.send, args=(400,), kwargs={"rate_pps": 400})
        sender.start()
        started_s = time.monotonic()
        with pytest.raises(NoEvents):
            capture.wait_for_unhandled_event(timeout=0.4)
        took_s = time.monotonic() - started_s
        sender.join()
    assert 0.4 <= took_s < 0.9
    assert len(handled) > 3


def test_waiting_for_the_start_has_a_timeout_and_an_end(bench: Bench) -> None:
    with not_awaited(bench.session()) as capture:
        with pytest.raises(NoEvents):
            capture.wait_started(0)
        assert (capture.capture_id, capture.end_reason) == (None, None)
        capture.wait_started(PATIENCE_S)
        assert isinstance(capture.capture_id, int)
        capture.wait_started(0)  # known already
        assert capture.wait_for_event(timeout=PATIENCE_S)[0] == capture.SP_FILE


# Handlers -------------------------------------------------------------------------------------------------------


def test_a_handler_is_given_the_message_and_its_events_are_not_returned(bench: Bench) -> None:
    names: list[str] = []
    counts: list[int] = []
    with bench.session(max_packet_count=5) as capture:
        capture.register_eventhandler(capture.SP_FILE, names.append)
        capture.register_eventhandler(capture.SP_PACKET_COUNT, counts.append)
        capture.wait_started(PATIENCE_S)
        bench.send(5)
        assert capture.wait_for_unhandled_event(timeout=PATIENCE_S) == (capture.SP_DROPS, 0)
    assert names == [str(bench.savefile)]
    assert sum(counts) == 5


def test_a_handler_is_not_asked_by_wait_for_event(bench: Bench) -> None:
    handled: list[str] = []
    with bench.session() as capture:
        capture.register_eventhandler(capture.SP_FILE, handled.append)
        assert capture.wait_for_event(timeout=PATIENCE_S)[0] == capture.SP_FILE
    assert handled == []


def test_a_handler_replaces_the_one_before(bench: Bench) -> None:
    first: list[int] = []
    second: list[int] = []
    with bench.running() as capture:
        capture.register_eventhandler(capture.SP_PACKET_COUNT, first.append)
        capture.register_eventhandler(capture.SP_PACKET_COUNT, second.append)
        bench.send(3)
        capture.stop()
        collect(capture)
    assert (first, sum(second)) == ([], 3)


@pytest.mark.parametrize("error", [KeyError("mine"), NoEvents("mine"), CaptureEnded("mine"), TimeoutError("mine")])
def test_what_a_handler_raises_is_raised_where_the_event_was_waited_for(bench: Bench, error: Exception) -> None:
    def refuse(_: object) -> None:
        raise error

    with bench.running() as capture:
        capture.register_eventhandler(capture.SP_FILE, refuse)
        with pytest.raises(type(error), match="mine"):
            capture.wait_for_unhandled_event(timeout=PATIENCE_S)
        # The event is spent, and the session goes on.
        bench.send(2)
        assert capture.wait_for_unhandled_event(timeout=PATIENCE_S)[0] == capture.SP_PACKET_COUNT
        capture.stop()
        assert of_type(drain(capture), capture.SP_ENDED) == [EndReason.STOPPED]


def test_a_filter_that_the_kernel_has_no_room_for_is_refused_with_what_it_needs_and_what_there_is(bench: Bench) -> None:
    with (
        room_for_filters(4321),
        not_awaited(bench.session(capture_filter=LONG)) as capture,
        pytest.raises(
            BadFilterError, match=r"needs some [0-9,]+ bytes of the sysctl net\.core\.optmem_max, which is 4,321: "
        ),
    ):
        collect(capture)
    with bench.session(capture_filter=LONG) as capture:
        capture.stop()


@pytest.mark.parametrize(
    ("arguments", "event_type", "error", "words"),
    [
        ({"interfaces": "nowhere0"}, "SP_ERROR_MSG", InterfaceError, "nowhere0"),
        ({"capture_filter": "udp port"}, "SP_BAD_FILTER", BadFilterError, "syntax error"),
    ],
)
def test_a_refused_capture_has_one_event_whose_handler_raises(
    bench: Bench, arguments: dict[str, str], event_type: str, error: type[ChildError], words: str
) -> None:
    started_s = time.monotonic()
    with not_awaited(bench.session(**arguments)) as capture, pytest.raises(error, match=words):
        collect(capture)
    with not_awaited(bench.session(**arguments)) as capture:
        kind, message = capture.wait_for_event(timeout=PATIENCE_S)
        assert kind == getattr(capture, event_type)
        assert words in message
        # There is nothing more to come, and that is known at once.
        for _ in range(2):
            with pytest.raises(error, match=words):
                capture.wait_for_event(timeout=PATIENCE_S)
    with not_awaited(bench.session(**arguments)) as capture, pytest.raises(error, match=words):
        capture.wait_started(PATIENCE_S)
    with pytest.raises(error, match=words), bench.session(**arguments):
        raise AssertionError("entered")
    assert time.monotonic() - started_s < 5
    assert not bench.savefile.exists()


def test_an_own_handler_of_errors_hears_the_text_and_iteration_ends_with_the_error(bench: Bench) -> None:
    texts: list[str] = []
    with not_awaited(bench.session(interfaces="nowhere0")) as capture:
        capture.register_eventhandler(capture.SP_ERROR_MSG, texts.append)
        started_s = time.monotonic()
        with pytest.raises(InterfaceError, match="nowhere0") as raised:
            collect(capture)
        assert time.monotonic() - started_s < 5
    assert len(texts) == 1
    assert "nowhere0" in texts[0]
    assert raised.value.failure is not None
    assert raised.value.failure.code == FailureCode.NO_SUCH_INTERFACE


def test_waiting_for_the_end_of_a_refused_capture_is_short(bench: Bench) -> None:
    with not_awaited(bench.session(interfaces="nowhere0")) as capture:
        started_s = time.monotonic()
        capture.wait(PATIENCE_S)
        assert time.monotonic() - started_s < 5


def test_a_bad_filter_says_where_it_is_bad(bench: Bench) -> None:
    with pytest.raises(BadFilterError) as raised, bench.session(capture_filter="udp and ether broccoli"):
        raise AssertionError("entered")
    assert raised.value.interface == bench.interface
    assert raised.value.position == len("udp and ether ")
    assert str(raised.value).startswith("capture filter: ")
    assert str(raised.value).endswith("(at character 15)")


def test_events_beyond_wirepy_are_not_shown_by_iteration(bench: Bench) -> None:
    with bench.running(ringbuffer_packets=2, max_packet_count=6) as capture:
        bench.send(6)
        kinds = {kind for kind, _ in collect(capture)}
    assert kinds == {capture.SP_FILE, capture.SP_PACKET_COUNT, capture.SP_DROPS}


@pytest.mark.parametrize(
    ("wanted", "beyond"),
    [("all", {"SP_FILE_CLOSED", "SP_FILE_DELETED", "SP_ENDED"}), (["SP_ENDED"], {"SP_ENDED"})],
)
def test_events_beyond_wirepy_that_were_asked_for_are(bench: Bench, wanted: Any, beyond: set[str]) -> None:
    with bench.running(ringbuffer_packets=2, ringbuffer_files=2, max_packet_count=6, events=wanted) as capture:
        bench.send(6)
        kinds = {str(kind) for kind, _ in collect(capture)}
    assert kinds == {"SP_FILE", "SP_PACKET_COUNT", "SP_DROPS", *beyond}


def test_there_is_no_handler_for_what_is_no_event(bench: Bench) -> None:
    with bench.running() as capture:
        for wrong in (1, "SP_NONE"):
            with pytest.raises(InvalidArgument, match="is no event"):
                capture.register_eventhandler(wrong, print)
        with pytest.raises(InvalidArgument, match="is no event"):
            CaptureSession.attach(capture.capture_id or 0, socket_path=bench.daemon.socket_path, events=["x"])


def test_events_beyond_wirepy_are_shown_by_wait_for_event(bench: Bench) -> None:
    with bench.running(ringbuffer_packets=2, max_packet_count=6) as capture:
        bench.send(6)
        events = drain(capture)
    closed = of_type(events, capture.SP_FILE_CLOSED)
    assert closed == list(capture.files)
    assert [each.packets for each in capture.files] == [2, 2, 2]
    assert [each.name for each in capture.files] == of_type(events, capture.SP_FILE)
    assert events[-1] == (capture.SP_ENDED, EndReason.PACKETS)
    # A count belongs to the file named last.
    kinds = [kind for kind, _ in merged(events)]
    one_file = [capture.SP_FILE, capture.SP_PACKET_COUNT, capture.SP_FILE_CLOSED]
    assert kinds == [*one_file, *one_file, *one_file, capture.SP_DROPS, capture.SP_ENDED]


def test_events_beyond_wirepy_are_shown_to_own_handlers(bench: Bench) -> None:
    heard: list[object] = []
    with bench.running(max_packet_count=2) as capture:
        capture.register_eventhandler(capture.SP_FILE_CLOSED, heard.append)
        capture.register_eventhandler(capture.SP_ENDED, heard.append)
        bench.send(2)
        collect(capture)
    assert heard == [*capture.files, EndReason.PACKETS]


def test_an_interface_that_goes_away_is_told_of_and_the_others_go_on(bench: Bench) -> None:
    with veth_pair("gone0", "gone1"), bench.running(interfaces=("gone1", bench.interface)) as capture:
        lost: list[str] = []
        capture.register_eventhandler(capture.SP_INTERFACE_LOST, lost.append)
        subprocess.run(["ip", "link", "delete", "dev", "gone0"], check=True, timeout=10)
        bench.send(1)
        kind, _ = capture.wait_for_unhandled_event(timeout=PATIENCE_S)
        assert kind == capture.SP_FILE
        assert capture.wait_for_unhandled_event(timeout=PATIENCE_S) == (capture.SP_PACKET_COUNT, 1)
        capture.stop()
        collect(capture)
    assert lost == ["gone1"]
    assert capture.end_reason == EndReason.STOPPED


@pytest.mark.long
def test_a_program_that_reads_too_slowly_is_told_what_it_missed(bench: Bench) -> None:
    packets = 6000
    with bench.running(ringbuffer_packets=1, ringbuffer_files=2) as capture:
        lagged: list[int] = []
        capture.register_eventhandler(capture.SP_LAGGED, lagged.append)
        bench.send(packets)
        (capture_id,) = (each.capture_id for each in list_captures(socket_path=bench.daemon.socket_path))
        assert capture_id == capture.capture_id
        # Nothing of this session is read before all has happened.
        wait_until(
            lambda: list_captures(socket_path=bench.daemon.socket_path)[0].files_total == packets + 1,
            "all files are there",
        )
        capture.stop()
        deleted: list[object] = []
        capture.register_eventhandler(capture.SP_FILE_DELETED, deleted.append)
        names = [message for kind, message in capture if kind == capture.SP_FILE]
    assert sum(lagged) > 0
    # Opened and closed each, and deleted all but two.
    assert len(names) + len(capture.files) + len(deleted) + sum(lagged) == 3 * (packets + 1) - 2
    assert capture.packetcount == packets


# Ends -----------------------------------------------------------------------------------------------------------


def test_iteration_ends_when_the_capture_ends_by_itself(bench: Bench) -> None:
    with bench.running(max_packet_count=4) as capture:
        bench.send(4)
        assert merged(capture) == [
            (capture.SP_FILE, str(bench.savefile)),
            (capture.SP_PACKET_COUNT, 4),
            (capture.SP_DROPS, 0),
        ]
        assert collect(capture) == []
    assert len(read_complete(bench.savefile).packets) == 4


def test_iteration_raises_when_the_capture_fails(bench: Bench) -> None:
    with veth_pair("gone0", "gone1"), bench.running(interfaces="gone1") as capture:
        subprocess.run(["ip", "link", "delete", "dev", "gone0"], check=True, timeout=10)
        shown: list[int] = []
        with pytest.raises(InterfaceError, match="gone1") as raised:
            shown.extend(kind for kind, _ in capture)
        assert raised.value.failure is not None
        assert raised.value.failure.code == FailureCode.INTERFACE_LOST
        # Totals still come, then the error again, however often one asks.
        assert drain(capture)[-1] == (capture.SP_ENDED, EndReason.FAILED)
        for _ in range(2):
            with pytest.raises(InterfaceError, match="gone1"):
                collect(capture)
    assert capture.end_reason == EndReason.FAILED
    assert read_complete(bench.savefile).packets == []


def test_after_a_good_end_there_is_an_error_that_says_so(bench: Bench) -> None:
    with bench.running() as capture:
        capture.stop()
        drain(capture)
        for _ in range(2):
            with pytest.raises(CaptureEnded, match="stopped") as raised:
                capture.wait_for_event(timeout=PATIENCE_S)
            assert not isinstance(raised.value, ChildError)


def test_a_daemon_that_is_killed_breaks_the_pipe_and_ends_the_capture(own_bench: Bench) -> None:
    with own_bench.running() as capture:
        own_bench.send(7)
        wait_for_packets(capture, 7)
        workers = Watched(own_bench.daemon.workers())
        own_bench.daemon.process.kill()
        for _ in range(2):
            with pytest.raises(BrokenPipe, match="gone away") as raised:
                collect(capture)
            assert not isinstance(raised.value, CaptureEnded)
        workers.wait_ended()
    # The worker had the last word: it ends well when its daemon is gone.
    assert len(read_complete(own_bench.savefile).packets) == 7
    assert capture.end_reason is None


def test_a_worker_that_is_killed_is_a_failed_capture(bench: Bench) -> None:
    with bench.running() as capture:
        bench.send(7)
        wait_for_packets(capture, 7)
        (worker,) = bench.daemon.workers()
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(ChildError, match="died") as raised:
            collect(capture)
        assert raised.value.failure is not None
        assert raised.value.failure.code == FailureCode.WORKER_DIED


def test_a_daemon_that_is_stopped_ends_captures_well(own_bench: Bench) -> None:
    with own_bench.running() as capture:
        own_bench.send(7)
        wait_for_packets(capture, 7)
        own_bench.daemon.process.send_signal(signal.SIGTERM)
        collect(capture)
    assert capture.end_reason == EndReason.DAEMON_STOPPING
    assert len(read_complete(own_bench.savefile).packets) == 7


@pytest.mark.parametrize("order", list(itertools.permutations(("stop", "terminate", "wait"))), ids="-".join)
def test_stop_wait_and_terminate_in_any_order_and_twice(bench: Bench, order: tuple[str, ...]) -> None:
    # Of itself it ends soon, so that waiting may come first.
    capture = bench.running(autostop_duration=0.2)
    for method in order:
        getattr(capture, method)()
        getattr(capture, method)()
    assert collect(capture)[0] == (capture.SP_FILE, str(bench.savefile))
    assert read_complete(bench.savefile).names == [bench.interface]
    assert bench.daemon.workers() == []


def test_a_capture_may_be_stopped_while_it_starts(own_bench: Bench) -> None:
    for delay_s in (0, 0.003, 0.01, 0.03, 0.06, 0.1, 0.15):
        with not_awaited(own_bench.session()) as capture:
            # There is nothing to wait for: the moments are just different ones of the start.
            time.sleep(delay_s)
            capture.stop()
            started_s = time.monotonic()
            events = drain(capture)
            assert time.monotonic() - started_s < 5
        assert events[0] == (capture.SP_FILE, str(own_bench.savefile))
        assert events[-1] == (capture.SP_ENDED, EndReason.STOPPED)
        assert read_complete(own_bench.savefile).packets == []
    # Whoever does that harms nobody else.
    assert list_captures(socket_path=own_bench.daemon.socket_path) == ()
    assert own_bench.daemon.process.poll() is None
    assert "Traceback" not in own_bench.daemon.log


@pytest.mark.parametrize("old", [None, b"what was there"], ids=["a new file", "an old file"])
@pytest.mark.parametrize("delay_s", [0, 0.003, 0.006, 0.009, 0.012, 0.015, 0.1])
def test_a_capture_that_is_left_while_it_starts_never_began_or_ended_as_any_other(
    bench: Bench, delay_s: float, old: bytes | None
) -> None:
    if old is not None:
        bench.savefile.write_bytes(old)
    with not_awaited(bench.session()) as capture:
        time.sleep(delay_s)  # there is nothing to wait for: the moments are just different ones of the start
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 3
    assert bench.daemon.workers() == []
    if capture.capture_id is not None:
        assert read_complete(bench.savefile).packets == []
    elif old is not None:
        assert bench.savefile.read_bytes() == old
    else:
        assert not bench.savefile.exists()


@pytest.mark.parametrize("arguments", [{"interfaces": "nowhere0"}, {"capture_filter": "udp port"}], ids=str)
def test_a_refused_capture_leaves_an_old_file_as_it_is(bench: Bench, arguments: dict[str, str]) -> None:
    bench.savefile.write_bytes(b"what was there")
    with pytest.raises(ChildError), bench.session(**arguments):
        raise AssertionError("entered")
    assert bench.savefile.read_bytes() == b"what was there"


def test_what_is_sent_in_the_block_is_captured(bench: Bench) -> None:
    for _ in range(5):
        with bench.session() as capture:
            bench.send(3)
        assert capture.capture_id is not None
        assert len(read_complete(bench.savefile).packets) == 3


def test_an_interrupt_while_the_block_is_entered_ends_the_capture(bench: Bench) -> None:
    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    capture = bench.session(capture_filter=SLOW_FILTER)
    beginning_worker(bench.daemon)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(KeyboardInterrupt), capture:
            raise AssertionError("entered")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert bench.daemon.workers() == []
    assert capture.capture_id is not None or not bench.savefile.exists()


def test_leaving_the_block_completes_the_files_and_passes_errors_on(bench: Bench) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # one of them is the directory's own
    capture = bench.running()
    workers = Watched(bench.daemon.workers())
    bench.send(3)
    with pytest.raises(KeyError, match="mine"), capture:
        raise KeyError("mine")
    workers.wait_ended(0)
    assert bench.daemon.workers() == []
    assert list_captures(socket_path=bench.daemon.socket_path) == ()
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208
    # All that was sent before leaving is there, whether it was announced or not.
    assert len(read_complete(bench.savefile).packets) == 3
    assert capture.end_reason == EndReason.CLIENT_LEFT
    assert [each.packets for each in capture.files] == [3]
    # What came last can still be had.
    assert drain(capture)[-1] == (capture.SP_ENDED, EndReason.CLIENT_LEFT)


def test_entering_gives_the_session_itself(bench: Bench) -> None:
    capture = bench.session()
    with capture as entered:
        assert entered is capture


def test_a_capture_that_another_program_stops_ends_well(bench: Bench) -> None:
    with bench.running() as capture:
        assert capture.capture_id is not None
        (listed,) = list_captures(socket_path=bench.daemon.socket_path)
        assert (listed.capture_id, listed.user_id) == (capture.capture_id, os.getuid())
        assert (listed.interfaces, listed.file_name) == ((bench.interface,), bench.savefile.name)
        bench.send(3)
        stop_capture(capture.capture_id, socket_path=bench.daemon.socket_path)
        # It is gone by now, and its file is complete.
        assert list_captures(socket_path=bench.daemon.socket_path) == ()
        assert bench.daemon.workers() == []
        assert len(read_complete(bench.savefile).packets) == 3
        capture.wait(PATIENCE_S)
        assert capture.end_reason == EndReason.STOPPED
        with pytest.raises(ChildError, match=f"no capture {capture.capture_id}"):
            stop_capture(capture.capture_id, socket_path=bench.daemon.socket_path)


def test_a_program_that_polls_learns_when_there_are_events(bench: Bench) -> None:
    with bench.running(update_interval=0.01) as capture:
        poll = select.poll()
        poll.register(capture, select.POLLIN)

        def take_all() -> list[events.CaptureEvent]:
            with contextlib.suppress(NoEvents):
                return [capture.next_event(block=False), *take_all()]
            return []

        # When it was begun, and all is told of that, nothing comes.
        while poll.poll(100):
            take_all()
        bench.send(3)
        packets = 0
        while packets < 3:  # counters come as well, and are no event
            assert poll.poll(PATIENCE_S * 1000) == [(capture.fileno(), select.POLLIN)]
            packets += sum(each.packets_delta for each in take_all() if isinstance(each, events.PacketCount))
        assert packets == 3
    assert capture.fileno() == -1


def test_a_session_that_is_dropped_ends_its_capture(bench: Bench) -> None:
    capture: CaptureSession | None = bench.running()
    workers = Watched(bench.daemon.workers())
    gc.disable()
    try:
        # Python's own way to say that something should have been closed.
        with pytest.warns(ResourceWarning, match="socket"):
            capture = None
        workers.wait_ended()
    finally:
        gc.enable()
    assert capture is None
    wait_until(lambda: not bench.daemon.workers(), "the daemon has noticed")
    assert read_complete(bench.savefile).packets == []


# What a session knows -------------------------------------------------------------------------------------------


def test_attributes_tell_where_the_capture_stands(bench: Bench) -> None:
    with not_awaited(bench.session(ringbuffer_packets=4)) as capture:
        assert (capture.packetcount, capture.dropcount, capture.file_size_bytes) == (0, 0, 0)
        assert (capture.files, capture.interface_counters) == ((), ())
        assert (capture.capture_id, capture.end_reason) == (None, None)
        capture.wait_started(PATIENCE_S)
        bench.send(6)
        wait_for_packets(capture, 6)
        wait_until(lambda: _counted(capture) == 6, "the counters are announced")
        (counters,) = capture.interface_counters
        assert counters.interface == bench.interface
        assert counters.received_total == counters.written_total == 6
        assert capture.dropcount == 0
        assert [each.packets for each in capture.files] == [4]
        current = max(bench.directory.glob("a_*"))
        assert capture.file_size_bytes == current.stat().st_size
        assert [capture.end_reason] == [None]
        capture.stop()
        collect(capture)
    assert capture.end_reason == EndReason.STOPPED
    assert [each.packets for each in capture.files] == [4, 2]
    assert [each.size_bytes for each in capture.files] == [Path(each.name).stat().st_size for each in capture.files]
    for closed in capture.files:
        assert closed.first_timestamp_ns is not None
        assert closed.last_timestamp_ns is not None
        assert time.time_ns() - 60 * 10**9 < closed.first_timestamp_ns <= closed.last_timestamp_ns < time.time_ns()


def _counted(capture: CaptureSession) -> int:
    with contextlib.suppress(NoEvents):
        capture.wait_for_event(block=False)
    return sum(each.written_total for each in capture.interface_counters)


def test_lost_packets_are_counted_everywhere_alike(bench: Bench) -> None:
    with bench.running(kernel_buffer_size=1) as capture:
        # A worker that cannot read: its ring runs over.
        (worker,) = bench.daemon.workers()
        os.kill(worker, signal.SIGSTOP)
        bench.send(3000, size_bytes=1000)
        os.kill(worker, signal.SIGCONT)
        capture.stop()
        events = drain(capture)
    (counters,) = capture.interface_counters
    assert counters.received_total == 3000
    assert capture.dropcount == counters.kernel_drops_total > 0
    assert capture.packetcount == counters.written_total == 3000 - capture.dropcount
    assert of_type(events, capture.SP_DROPS) == [capture.dropcount]
    assert sum(each.drops for each in capture.files) == capture.dropcount
    assert len(read_complete(bench.savefile).packets) == capture.packetcount


def test_each_interface_has_its_counters_and_its_drops_event(bench: Bench) -> None:
    with veth_pair("two0", "two1"), bench.running(interfaces=("two1", bench.interface)) as capture:
        bench.send(5)
        send("two0", build_frames((100,)), 3)
        capture.stop()
        events = drain(capture)
    # In the order of the argument.
    counted = [(each.interface, each.written_total) for each in capture.interface_counters]
    assert counted == [("two1", 3), (bench.interface, 5)]
    assert of_type(events, capture.SP_DROPS) == [0, 0]
    assert capture.packetcount == 8


def _outcome(arguments: dict[str, Any]) -> tuple[str, str]:
    try:
        with CaptureSession(**arguments) as capture:
            capture.wait_started(PATIENCE_S)
    except CaptureError as error:
        return type(error).__name__, str(error)
    return "started", ""


@pytest.mark.parametrize(
    ("user_id", "changes", "error", "words"),
    [
        (0, {"interfaces": "nowhere0"}, InterfaceError, "there is no interface nowhere0"),
        (0, {"interfaces": "lo"}, InterfaceError, "lo is down"),
        (0, {"capture_filter": "nonsense"}, BadFilterError, "nonsense"),
        (0, {"snaplen": -1}, InvalidArgument, "snaplen"),
        (0, {"link_layer_type": "IEEE802_11"}, UnsupportedError, "it has"),
        (0, {"savefile": "/nowhere/a.pcapng"}, DestinationError, "/nowhere"),
        (0, {"savefile": "/proc/a.pcapng"}, DestinationError, "a.pcapng"),
        (0, {"socket_path": "/nowhere/capd.sock"}, DaemonUnavailable, "start capd"),
        (STRANGER, {}, NotPermitted, "capd"),
    ],
)
def test_each_refusal_has_its_exception_and_a_sentence(
    bench: Bench, user_id: int, changes: dict[str, Any], error: type[CaptureError], words: str
) -> None:
    name, text = as_user(lambda: _outcome(bench.arguments(**changes)), user_id)
    assert name == error.__name__
    assert words in text
    assert "\n" not in text


def test_a_full_disk_is_told_as_such(bench: Bench) -> None:
    disk = bench.directory / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=True, timeout=10)
    try:
        with bench.running(savefile=disk / "a.pcapng") as capture:
            bench.send(500, size_bytes=1000)
            with pytest.raises(DiskError, match="make room"):
                collect(capture)
        assert capture.packetcount > 0
    finally:
        unmount(disk)


def test_a_user_with_too_many_connections_is_told_to_come_later(bench: Bench) -> None:
    def one_too_many() -> tuple[str, str]:
        with contextlib.ExitStack() as stack:
            for _ in range(MAX_CLIENTS_PER_USER):
                connection = stack.enter_context(socket.socket(socket.AF_UNIX))
                connection.settimeout(PATIENCE_S)
                connection.connect(bench.daemon.socket_path)
                assert connection.recv(4096)  # the greeting: it is counted by now
            return _outcome(bench.arguments())

    name, text = as_user(one_too_many, STRANGER)
    assert name == ResourceError.__name__
    assert "later" in text


# Several at once ------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_one_program_may_have_many_sessions(bench: Bench) -> None:
    sessions = [bench.session(savefile=bench.directory / f"{number}.pcapng") for number in range(6)]
    try:
        for capture in sessions:
            capture.wait_started(PATIENCE_S)
        assert len({capture.capture_id for capture in sessions}) == 6
        bench.send(20)
        for capture in reversed(sessions):
            wait_for_packets(capture, 20)
        sessions[0].terminate()
        bench.send(5)
        for capture in sessions[1:]:
            wait_for_packets(capture, 25)
    finally:
        for capture in sessions:
            capture.terminate()
    packets = [len(read_complete(bench.directory / f"{number}.pcapng").packets) for number in range(6)]
    assert packets == [20] + [25] * 5


def test_one_thread_iterates_while_another_stops(bench: Bench) -> None:
    events: list[Any] = []
    with bench.running() as capture:
        iterating = threading.Thread(target=lambda: events.extend(capture))
        iterating.start()
        bench.send(9)
        wait_until(lambda: sum(n for kind, n in list(events) if kind == capture.SP_PACKET_COUNT) == 9, "all came")
        capture.stop()
        iterating.join(PATIENCE_S)
        assert not iterating.is_alive()
    assert [kind for kind, _ in events][-1] == capture.SP_DROPS
    assert capture.end_reason == EndReason.STOPPED


@pytest.mark.long
def test_the_block_may_be_left_while_another_thread_iterates(bench: Bench) -> None:
    for attempt in range(5):
        events: list[Any] = []
        savefile = bench.directory / f"{attempt}.pcapng"
        with bench.running(savefile=savefile, ringbuffer_packets=1) as capture:
            iterating = threading.Thread(target=lambda found, of: found.extend(of), args=(events, capture))
            iterating.start()
            bench.send(50)
        iterating.join(PATIENCE_S)
        assert not iterating.is_alive()
        assert capture.end_reason == EndReason.CLIENT_LEFT
        assert capture.packetcount == 50


def test_a_signal_handler_may_stop_the_capture(bench: Bench) -> None:
    with bench.running() as capture:
        before = signal.signal(signal.SIGUSR1, lambda *_: capture.stop())
        try:
            # The main thread waits for events by then.
            interrupt = threading.Timer(0.3, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1))
            interrupt.start()
            assert collect(capture)[-1] == (capture.SP_DROPS, 0)
            interrupt.join()
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert capture.end_reason == EndReason.STOPPED
    assert read_complete(bench.savefile).packets == []


def test_a_ctrl_c_leaves_the_block_with_complete_files(bench: Bench) -> None:
    capture = bench.running()
    bench.send(4)
    interrupt = threading.Timer(0.3, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))

    def iterate() -> None:
        with capture:
            interrupt.start()
            collect(capture)

    with pytest.raises(KeyboardInterrupt):
        iterate()
    interrupt.join()
    assert len(read_complete(bench.savefile).packets) == 4
    assert bench.daemon.workers() == []


# The example of wirepy's documentation --------------------------------------------------------------------------

#: As it stands there, but for the imports, the interface, the duration, and a function for its "nonlocal".
WIREPY_EXAMPLE = '''
import sys
from capd_client import CaptureSession, NoEvents

interface, arguments = sys.argv[1], eval(sys.argv[2])
print = __import__("functools").partial(print, flush=True)

def example():
    fname = cap = None
    def print_packet_count(n):
        """Handle new packets as they are written to the current file."""
        # not entirely obvious example on using nonlocal...
        nonlocal fname, cap
        print('%s: %i new, %i in all files' % (fname, n, cap.packetcount))

    with CaptureSession(interfaces=(interface, ),
                        autostop_duration=1, **arguments) as cap:
        cap.register_eventhandler(cap.SP_PACKET_COUNT, print_packet_count)
        try:
            # Wait for the first filename
            event_type, event_msg = cap.wait_for_unhandled_event(timeout=10)
            if event_type != cap.SP_FILE:
                # Pipe is out of sync, just exit in any case
                raise RuntimeError
        except NoEvents:
            # Dumpcap did not start capturing for some reason.
            raise RuntimeError('Giving up on dumpcap')
        fname = event_msg
        # Now loop while dumpcap keeps sending messages
        while True:
            print('Switched to file %s' % (fname, ))
            for event_type, event_msg in cap:
                if event_type == cap.SP_FILE:
                    # Switch files
                    fname = event_msg
                    break
            else:
                # The event-iterator stops when dumpcap closes on its own.
                break

example()
'''


@pytest.mark.parametrize(
    ("ring", "files"), [({}, 1), pytest.param({"ringbuffer_packets": 4}, 3, marks=pytest.mark.long)]
)
def test_the_example_of_the_wirepy_documentation_runs(bench: Bench, ring: dict[str, int], files: int) -> None:
    arguments = {"savefile": str(bench.savefile), **ring}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WIREPY_EXAMPLE), bench.interface, repr(arguments)],
        env={**os.environ, "CAPD_SOCKET": bench.daemon.socket_path},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        bench.send(10)
        lines += process.stdout.readlines()
        assert process.wait(PATIENCE_S) == 0
    names = [line.removeprefix("Switched to file ").rstrip("\n") for line in lines if line.startswith("Switched")]
    assert len(names) == files
    assert all(Path(name).parent == bench.directory for name in names)
    if not ring:
        assert names == [str(bench.savefile)]
    counts = [line for line in lines if not line.startswith("Switched")]
    assert counts[-1].endswith(" in all files\n")
    assert "10 in all files" in counts[-1]
    assert sum(len(read_complete(name).packets) for name in names) == 10
