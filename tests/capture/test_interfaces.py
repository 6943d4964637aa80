"""Several interfaces in one capture, and interfaces that go down, come up, and go away while one runs."""

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from capd_client import CaptureInterface
from capd_client.errors import CaptureEnded, InterfaceError
from capd_protocol.formats import pcapng
from capd_protocol.messages import EndReason, FailureCode
from tests.capture.helpers import (
    END_TIMEOUT_S,
    Contents,
    all_events,
    capturing,
    end,
    in_background,
    ip,
    local_frame,
    messages,
    read_file,
    tagged,
    text_option,
    until,
    until_packets,
)
from tests.support.daemon import Daemon
from tests.support.namespace import veth_pair
from tests.support.tools import capinfos, ip_json, packets_of, tshark_fields
from tests.support.traffic import build_frames, send

#: Where a frame of local_frame() has the mark that tells which interface it was sent to.
MARK_AT = 8


@contextlib.contextmanager
def links(*names: str) -> Generator[tuple[list[str], list[str]], None, None]:
    """Have several pairs of interfaces: send on the first ones, capture on the second ones."""
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(veth_pair(f"{name}-tx", f"{name}-rx"))
        yield [f"{name}-tx" for name in names], [f"{name}-rx" for name in names]


def steps_back(files: list[Contents]) -> int:
    """Return how often a packet is older than the one before it, in the same file or in the one before."""
    times_ns = [time_ns for contents in files for time_ns in contents.timestamps_ns]
    return sum(later < earlier for earlier, later in itertools.pairwise(times_ns))


def assert_each_on_its_own(files: list[Contents]) -> None:
    for contents in files:
        for packet in contents.packets:
            assert packet.data[MARK_AT] == packet.interface_id


# Order ----------------------------------------------------------------------------------------------------------


def bursts(interface: str, mark: int, times: int) -> None:
    for number in range(times):
        send(interface, [local_frame(700, number, mark)], 300)
        time.sleep(0.15)


@pytest.mark.long
@pytest.mark.parametrize("update_interval", [0.005, 0.1])
def test_busy_sparse_and_bursty_interfaces_are_in_the_order_of_time_through_all_files(
    daemon: Daemon, user_dir: Path, update_interval: float
) -> None:
    # A cycle of 200 different busy frames, 20,000 times a second for two seconds.
    busy = [local_frame((64, 64, 576, 64, 1500)[number % 5], number, mark=0) for number in range(200)]
    with links("busy", "sparse", "burst") as (senders, receivers):
        with (
            capturing(
                daemon,
                interfaces=receivers,
                savefile=user_dir / "ring.pcapng",
                ringbuffer_filesize=2000,
                ringbuffer_files=5,
                update_interval=update_interval,
                kernel_buffer_size=128,
            ) as capture,
            in_background(send, senders[0], busy, 40_000, 20_000),
            in_background(send, senders[1], [local_frame(60, 0, mark=1)], 40, 20),
            in_background(bursts, senders[2], 2, 12),
        ):
            pass
        end(capture)
        events, error = all_events(capture)
    assert isinstance(error, CaptureEnded)
    sent = [40_000, 40, 3600]
    assert [one.written_total for one in capture.interface_counters] == sent
    assert [one.drops_total for one in capture.interface_counters] == [0, 0, 0]
    assert [one.interface for one in capture.interface_counters] == receivers
    assert messages(events, capture.SP_DROPS) == [0, 0, 0]
    paths = sorted(user_dir.iterdir())
    assert len(paths) == 5
    assert len(capture.files) > 8
    assert sum(closed.packets for closed in capture.files) == sum(sent)
    files = [read_file(path) for path in paths]
    for contents in files:
        assert [text_option(one.options, pcapng.IF_NAME) for one in contents.interfaces] == receivers
    assert_each_on_its_own(files)
    assert {packet.interface_id for contents in files for packet in contents.packets} == {0, 1, 2}
    assert steps_back(files) == 0
    for path in paths:
        assert capinfos(path, "-o")["Strict time order"] == "True"
    # The deleted files too, as far as their ends were announced.
    ends_ns = [time_ns for closed in capture.files for time_ns in (closed.first_timestamp_ns, closed.last_timestamp_ns)]
    assert ends_ns == sorted(ends_ns, key=lambda time_ns: time_ns or 0)
    assert [files[-1].counts(interface_id) for interface_id in range(3)] == [(count, 0, count) for count in sent]


def test_the_order_is_that_of_time_even_after_the_worker_was_kept_waiting(daemon: Daemon, user_dir: Path) -> None:
    path = user_dir / "late.pcapng"
    with (
        links("much", "little") as (senders, receivers),
        capturing(daemon, interfaces=receivers, savefile=path, kernel_buffer_size=128, update_interval=0.5) as capture,
    ):
        (worker,) = daemon.workers()
        os.kill(worker, signal.SIGSTOP)
        try:
            # One ring fills block after block, while all that is in the other one fits into one or two.
            for number in range(10):
                send(senders[0], [local_frame(1500, number, mark=0)], 500)
                send(senders[1], [local_frame(60, number, mark=1)], 1)
            time.sleep(0.3)  # the worker is as late as that
        finally:
            os.kill(worker, signal.SIGCONT)
        until_packets(capture, 10 * 501)
        end(capture)
        assert [one.written_total for one in capture.interface_counters] == [5000, 10]
    contents = read_file(path)
    assert steps_back([contents]) == 0
    assert_each_on_its_own([contents])


def test_one_busy_interface_does_not_wait_for_idle_ones(daemon: Daemon, user_dir: Path) -> None:
    path, count = user_dir / "idle.pcapng", 100_000
    with (
        links("lone", "idle", "still") as (senders, receivers),
        capturing(daemon, interfaces=receivers, savefile=path, kernel_buffer_size=64) as capture,
    ):
        assert send(senders[0], build_frames((64, 576, 1500), (7, 4, 1)), count, 100_000) == count
        until_packets(capture, count)
        end(capture)
    assert [one.written_total for one in capture.interface_counters] == [count, 0, 0]
    assert sum(one.drops_total for one in capture.interface_counters) == 0
    assert packets_of(path) == count


# Options of each ------------------------------------------------------------------------------------------------


def test_each_interface_has_its_own_filter_and_snaplen(daemon: Daemon, user_dir: Path) -> None:
    path = user_dir / "own.pcapng"
    udp, local = build_frames(range(70, 80)), [local_frame(90, number) for number in range(10)]
    vlan = [tagged(frame, (0x8100, 5)) for frame in udp]
    with links("udp", "most", "rest", "vlan") as (senders, receivers):
        interfaces: list[str | CaptureInterface] = [
            CaptureInterface(name=receivers[0], capture_filter="udp and not vlan", snaplen=42),
            CaptureInterface(name=receivers[1], snaplen=14),
            receivers[2],
            CaptureInterface(name=receivers[3], capture_filter="vlan 5"),
        ]
        with capturing(
            daemon, interfaces=interfaces, savefile=path, capture_filter="ether proto 0x88b5", snaplen=60
        ) as capture:
            for sender in senders:
                send(sender, [*udp, *local, *vlan], 30)
            until_packets(capture, 40)
            end(capture)
    expected = [(udp, 42), (local, 14), (local, 60), (vlan, 60)]
    contents, shown = read_file(path), tshark_fields(path, "frame.interface_name", "frame.cap_len", "frame.len")
    for interface_id, (frames, snaplen) in enumerate(expected):
        found = [packet for packet in contents.packets if packet.interface_id == interface_id]
        assert [packet.data for packet in found] == [frame[:snaplen] for frame in frames]
        assert contents.counts(interface_id) == (10, 0, 10)
        assert [row[1:] for row in shown if row[0] == receivers[interface_id]] == [
            (str(snaplen), str(len(frame))) for frame in frames
        ]
    assert [one.snaplen_bytes for one in contents.interfaces] == [42, 14, 60, 60]
    texts = [text_option(one.options, pcapng.IF_FILTER) for one in contents.interfaces]
    assert texts == ["\0udp and not vlan", "\0ether proto 0x88b5", "\0ether proto 0x88b5", "\0vlan 5"]
    assert [one.received_total for one in capture.interface_counters] == [10] * 4


# Interfaces that go away ----------------------------------------------------------------------------------------


def frames_for(mark: int, count: int = 10) -> list[bytes]:
    return [local_frame(60 + number, number, mark) for number in range(count)]


def test_when_an_interface_is_deleted_the_others_go_on_until_the_last(daemon: Daemon, user_dir: Path) -> None:
    path = user_dir / "fewer.pcapng"
    with (
        links("one", "two", "three") as (senders, receivers),
        capturing(daemon, interfaces=receivers, savefile=path, update_interval=2) as capture,
    ):
        # Whatever is sent right before an interface goes is in the file: its blocks are open for 0.2 s then.
        for gone, sender in enumerate(senders):
            for mark in range(gone, 3):
                send(senders[mark], frames_for(mark), 10)
            ip("link", "delete", "dev", sender)
            assert until(capture, capture.SP_INTERFACE_LOST) == receivers[gone]
        capture.wait(END_TIMEOUT_S)
        events, error = all_events(capture)
        assert isinstance(error, InterfaceError)
        assert error.failure is not None
        assert error.failure.code == FailureCode.INTERFACE_LOST
        assert error.failure.interface in receivers
        assert all(name in str(error) for name in receivers)
        assert events[-1] == (capture.SP_ENDED, EndReason.FAILED)
        counters = capture.interface_counters
    assert [one.received_total for one in counters] == [10, 20, 30]
    assert [one.written_total for one in counters] == [10, 20, 30]
    contents = read_file(path)
    for mark in range(3):
        found = [packet.data for packet in contents.packets if packet.interface_id == mark]
        assert found == frames_for(mark) * (mark + 1)
    assert [contents.counts(mark) for mark in range(3)] == [(10, 0, 10), (20, 0, 20), (30, 0, 30)]
    assert packets_of(path) == 60


@pytest.mark.parametrize("update_interval", [0.005, 0.1, 5])
def test_what_came_right_before_the_only_interface_went_is_in_the_file(
    daemon: Daemon, user_dir: Path, update_interval: float
) -> None:
    path = user_dir / "last.pcapng"
    with (
        links("only") as (senders, receivers),
        capturing(daemon, interfaces=receivers, savefile=path, update_interval=update_interval) as capture,
    ):
        send(senders[0], frames_for(0), 10)
        ip("link", "delete", "dev", senders[0])
        capture.wait(END_TIMEOUT_S)
        events, error = all_events(capture)
        (counters,) = capture.interface_counters
    assert isinstance(error, InterfaceError)
    assert messages(events, capture.SP_INTERFACE_LOST) == receivers
    assert (counters.written_total, counters.drops_total) == (10, 0)
    assert read_file(path).frames == frames_for(0)
    assert sum(messages(events, capture.SP_PACKET_COUNT)) == packets_of(path) == 10


def down(interface: str) -> None:
    ip("link", "set", "dev", interface, "down")


def up(interface: str) -> None:
    """Bring an interface up, and wait until packets get through."""
    ip("link", "set", "dev", interface, "up")
    deadline_s = time.monotonic() + 5
    while ip_json("link", "show", "dev", interface)[0]["operstate"] != "UP":
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_an_interface_that_is_deleted_while_it_is_down_is_lost_too(daemon: Daemon, user_dir: Path) -> None:
    with (
        links("gone", "stays") as (senders, receivers),
        capturing(daemon, interfaces=receivers, savefile=user_dir / "x.pcapng") as capture,
    ):
        down(receivers[0])
        # The worker has seen by now that it is down: it has written this.
        send(senders[1], frames_for(1), 10)
        until_packets(capture, 10)
        ip("link", "delete", "dev", senders[0])
        assert until(capture, capture.SP_INTERFACE_LOST) == receivers[0]
        down(receivers[1])
        ip("link", "delete", "dev", senders[1])
        capture.wait(END_TIMEOUT_S)
        _, error = all_events(capture)
    assert isinstance(error, InterfaceError)


@pytest.mark.parametrize("others", [(), ("other",)])
def test_a_capture_goes_on_when_its_interface_comes_up_again(
    daemon: Daemon, user_dir: Path, others: tuple[str, ...]
) -> None:
    path = user_dir / "again.pcapng"
    with (
        links("moody", *others) as (senders, receivers),
        capturing(daemon, interfaces=receivers, savefile=path) as capture,
    ):
        for round_ in range(3):
            send(senders[0], [local_frame(60, round_)], 1)
            until_packets(capture, 1)
            down(receivers[0])
            up(receivers[0])
        # Right before it goes down, and not waited for.
        send(senders[0], [local_frame(60, 3)], 1)
        down(receivers[0])
        end(capture)
        events, error = all_events(capture)
        (counters, *_) = capture.interface_counters
    assert isinstance(error, CaptureEnded)
    assert messages(events, capture.SP_INTERFACE_LOST) == []
    assert capture.end_reason == EndReason.STOPPED
    assert read_file(path).frames == [local_frame(60, number) for number in range(4)]
    assert (counters.received_total, counters.written_total) == (4, 4)


def test_a_capture_follows_its_interface_to_another_name(daemon: Daemon, user_dir: Path) -> None:
    path = user_dir / "renamed.pcapng"
    with links("before") as (senders, receivers), capturing(daemon, interfaces=receivers, savefile=path) as capture:
        down(receivers[0])
        ip("link", "set", "dev", receivers[0], "name", "after")
        up("after")
        send(senders[0], frames_for(0), 10)
        until_packets(capture, 10)
        end(capture)
        # Nothing is lost between the end and the last packet either: the socket was found under the new name.
        (counters,) = capture.interface_counters
    assert capture.end_reason == EndReason.STOPPED
    assert (counters.interface, counters.received_total, counters.written_total) == ("before-rx", 10, 10)
    assert read_file(path).frames == frames_for(0)
