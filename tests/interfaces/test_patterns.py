"""Captures of whatever matches, of what is not there yet, of what comes back, and of all interfaces mixed into one."""

import contextlib
import fcntl
import grp
import itertools
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from capd_client import CaptureInterface, CaptureSession
from capd_client.errors import BadFilterError, CaptureEnded, InterfaceError
from capd_protocol.messages import EndReason, FailureCode
from tests.capture.helpers import all_events, capturing, end, ip, messages, send_queued, until, until_packets
from tests.interfaces.helpers import (
    PATIENCE_S,
    add_pair,
    check_accounts,
    cleaned,
    delete,
    frame_for,
    ip_batch,
    link_of,
    other_namespace,
    outcome_of,
    pcap_records,
    read,
    tcpdump_until_told,
    unique,
    until_event,
    wait_until,
)
from tests.support.attack import Channel, User, process_of
from tests.support.daemon import Daemon, running_daemon, status_of
from tests.support.tools import packets_of, tshark_fields
from tests.support.traffic import build_frames, send

ETHERNET, RAW = 1, 101
STRANGER = 12345
#: Any group that is there.
CAPTURERS = grp.getgrall()[-1]
#: The filter of so many hosts takes longer to compile than a running capture may wait (0.1 s), and less than is
#: allowed (2 s of a processor): 0.66 s where 300 hosts take 1.7.
HOSTS = 200


def frames(mark: int, first: int, count: int = 10) -> list[bytes]:
    return [frame_for(mark, number) for number in range(first, first + count)]


# Coming and going ----------------------------------------------------------------------------------------------


def test_everything_that_matches_is_captured_while_it_is_there(daemon: Daemon, user_dir: Path) -> None:
    path, stem = user_dir / "all.pcapng", unique("pt")
    sent: dict[str, list[bytes]] = {f"{stem}r{mark}": [] for mark in range(3)}
    events = []
    with cleaned(stem):
        add_pair(f"{stem}t0", f"{stem}r0")
        with capturing(daemon, interfaces=f"{stem}r*", savefile=path) as capture:

            def deliver(mark: int, first: int) -> None:
                chosen = frames(mark, first)
                assert send(f"{stem}t{mark}", chosen, 10) == 10
                sent[f"{stem}r{mark}"] += chosen

            deliver(0, 0)
            for mark in (1, 2):
                add_pair(f"{stem}t{mark}", f"{stem}r{mark}")
                events += until_event(capture, capture.SP_INTERFACE_ATTACHED, f"{stem}r{mark}")
                deliver(mark, 10)
                deliver(0, 10 * mark)
            for round_ in (1, 2):
                delete(f"{stem}t1")
                events += until_event(capture, capture.SP_INTERFACE_LOST, f"{stem}r1")
                deliver(2, 100 * round_)
                add_pair(f"{stem}t1", f"{stem}r1")
                events += until_event(capture, capture.SP_INTERFACE_ATTACHED, f"{stem}r1")
                deliver(1, 100 * round_)
            end(capture)
            rest, error = all_events(capture)
        check_accounts(capture, path)
    assert isinstance(error, CaptureEnded)
    contents = read(path)
    assert contents.interfaces == [(f"{stem}r{mark}", ETHERNET) for mark in range(3)]
    for name, expected in sent.items():
        assert contents.of(name) == expected
        assert contents.counts[name] == (len(expected), 0, len(expected))
    shown = tshark_fields(path, "frame.interface_name")
    assert [row[0] for row in shown] == [name for name, _ in contents.packets]
    assert sum(messages(events + rest, capture.SP_PACKET_COUNT)) == capture.packetcount == packets_of(path)
    assert messages(events + rest, capture.SP_INTERFACE_SKIPPED) == []


def test_a_name_goes_before_a_pattern_with_its_own_options(daemon: Daemon, user_dir: Path) -> None:
    path, stem = user_dir / "mixed.pcapng", unique("pt")
    with cleaned(stem):
        add_pair(f"{stem}t0", f"{stem}r0")
        interfaces: list[str | CaptureInterface] = [
            f"{stem}r*",
            CaptureInterface(name=f"{stem}r0", snaplen=40),
            f"{stem}?9",
        ]
        with capturing(daemon, interfaces=interfaces, savefile=path, snaplen=50) as capture:
            add_pair(f"{stem}t1", f"{stem}r1")
            until_event(capture, capture.SP_INTERFACE_ATTACHED, f"{stem}r1")
            add_pair(f"{stem}x8", f"{stem}x9")
            until_event(capture, capture.SP_INTERFACE_ATTACHED, f"{stem}x9")
            for sender in (f"{stem}t0", f"{stem}t1", f"{stem}x8"):
                assert send(sender, frames(1, 0), 10) == 10
            until_packets(capture, 30)
            end(capture)
        check_accounts(capture, path)
    contents = read(path)
    assert contents.interfaces == [(f"{stem}{end_}", ETHERNET) for end_ in ("r0", "r1", "x9")]
    assert {len(data) for data in contents.of(f"{stem}r0")} == {40}
    assert {len(data) for data in contents.of(f"{stem}r1")} == {50}
    assert {len(data) for data in contents.of(f"{stem}x9")} == {50}


@contextlib.contextmanager
def tun(name: str) -> Generator[int, None, None]:
    """Have a tun interface; what is written to the descriptor comes in there."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH14x", name.encode(), 0x0001 | 0x1000))
        ip("link", "set", "dev", name, "up")
        yield descriptor
    finally:
        os.close(descriptor)


def test_interfaces_of_different_kinds_keep_their_link_types(daemon: Daemon, user_dir: Path) -> None:
    path, stem = user_dir / "kinds.pcapng", unique("pt")
    packet = build_frames((80,))[0][14:]
    with cleaned(stem):
        add_pair(f"{stem}t", f"{stem}r")
        with capturing(daemon, interfaces=[f"{stem}r*", f"{stem}un*"], savefile=path) as capture:
            with tun(f"{stem}un0") as descriptor:
                until_event(capture, capture.SP_INTERFACE_ATTACHED, f"{stem}un0")
                os.write(descriptor, packet)
                assert send(f"{stem}t", frames(1, 0), 10) == 10
                until_packets(capture, 11)
            until_event(capture, capture.SP_INTERFACE_LOST, f"{stem}un0")
            end(capture)
        check_accounts(capture, path)
    contents = read(path)
    assert contents.interfaces == [(f"{stem}r", ETHERNET), (f"{stem}un0", RAW)]
    assert contents.of(f"{stem}un0") == [packet]
    assert contents.of(f"{stem}r") == frames(1, 0)
    assert max(tshark_fields(path, "frame.interface_name", "udp.dstport")) == (f"{stem}un0", "50001")


def test_an_interface_that_comes_back_as_another_kind_is_skipped(daemon: Daemon, user_dir: Path) -> None:
    path, stem = user_dir / "other.pcapng", unique("pt")
    with cleaned(stem):
        add_pair(f"{stem}t", f"{stem}r")
        with capturing(daemon, interfaces=f"{stem}r", savefile=path, wait_for_interfaces=True) as capture:
            delete(f"{stem}t")
            until_event(capture, capture.SP_INTERFACE_LOST, f"{stem}r")
            with tun(f"{stem}r"):
                text = until(capture, capture.SP_INTERFACE_SKIPPED)
            assert f"{stem}r" in text
            assert "RAW" in text
            add_pair(f"{stem}t", f"{stem}r")
            until_event(capture, capture.SP_INTERFACE_ATTACHED, f"{stem}r")
            assert send(f"{stem}t", frames(0, 0), 10) == 10
            until_packets(capture, 10)
            end(capture)
        check_accounts(capture, path)
    assert read(path).of(f"{stem}r") == frames(0, 0)


def test_later_files_of_a_ring_declare_all_interfaces_at_once(daemon: Daemon, user_dir: Path) -> None:
    stem = unique("pt")
    with cleaned(stem):
        add_pair(f"{stem}t0", f"{stem}r0")
        with capturing(
            daemon,
            interfaces=f"{stem}r*",
            savefile=user_dir / "ring.pcapng",
            ringbuffer_packets=10,
            ringbuffer_files=20,
            update_interval=0.02,
        ) as capture:
            assert send(f"{stem}t0", frames(0, 0, 15), 15) == 15
            until_packets(capture, 15)
            add_pair(f"{stem}t1", f"{stem}r1")
            until_event(capture, capture.SP_INTERFACE_ATTACHED, f"{stem}r1")
            assert send(f"{stem}t1", frames(1, 0, 15), 15) == 15
            until_packets(capture, 15)
            delete(f"{stem}t0")
            until_event(capture, capture.SP_INTERFACE_LOST, f"{stem}r0")
            assert send(f"{stem}t1", frames(1, 15, 15), 15) == 15
            until_packets(capture, 15)
            end(capture)
            counters = capture.interface_counters
    files = [read(path) for path in sorted(user_dir.iterdir())]
    both = [(f"{stem}r0", ETHERNET), (f"{stem}r1", ETHERNET)]
    assert [each.declared for each in files] == [1, 1, 2, 2, 2]
    assert [each.interfaces for each in files] == [both[:1], both, both, both, both]
    assert [data for each in files for data in each.of(f"{stem}r0")] == frames(0, 0, 15)
    assert [data for each in files for data in each.of(f"{stem}r1")] == frames(1, 0, 30)
    # The last file's statistics are the capture's.
    assert files[-1].counts == {f"{stem}r0": (15, 0, 15), f"{stem}r1": (30, 0, 30)}
    assert [each.written_total for each in counters] == [15, 30]


def test_an_absent_interface_is_waited_for_and_survived(daemon: Daemon, user_dir: Path) -> None:
    path, stem = user_dir / "absent.pcapng", unique("pt")
    with cleaned(stem):
        with capturing(daemon, interfaces=f"{stem}r", savefile=path, wait_for_interfaces=True) as capture:
            assert capture.wait_for_event(timeout=PATIENCE_S) == (capture.SP_FILE, str(path))
            for round_ in range(3):
                add_pair(f"{stem}t", f"{stem}r")
                until_event(capture, capture.SP_INTERFACE_ATTACHED, f"{stem}r")
                assert send(f"{stem}t", frames(0, 10 * round_), 10) == 10
                delete(f"{stem}t")
                until_event(capture, capture.SP_INTERFACE_LOST, f"{stem}r")
            end(capture)
            events, error = all_events(capture)
        check_accounts(capture, path)
    assert isinstance(error, CaptureEnded)
    assert messages(events, capture.SP_ENDED) == [EndReason.STOPPED]
    assert read(path).of(f"{stem}r") == frames(0, 0, 30)


@pytest.mark.parametrize("pattern", [False, True], ids=["name", "pattern"])
def test_an_interface_that_is_down_is_captured_when_it_comes_up(daemon: Daemon, user_dir: Path, pattern: bool) -> None:
    path, stem = user_dir / "down.pcapng", unique("pt")
    name = f"{stem}r"
    with cleaned(stem):
        add_pair(f"{stem}t", name)
        ip("link", "set", "dev", name, "down")
        with capturing(
            daemon, interfaces=f"{stem}r*" if pattern else name, savefile=path, wait_for_interfaces=not pattern
        ) as capture:
            ip("link", "set", "dev", name, "up")
            wait_until(lambda: link_of(name)["operstate"] == "UP")
            assert send(f"{stem}t", frames(0, 0), 10) == 10
            until_packets(capture, 10)
            end(capture)
        check_accounts(capture, path)
    assert read(path).of(name) == frames(0, 0)


def test_without_waiting_the_loss_of_the_only_interface_is_the_end(daemon: Daemon, user_dir: Path) -> None:
    stem = unique("pt")
    with cleaned(stem):
        add_pair(f"{stem}t", f"{stem}r")
        with capturing(daemon, interfaces=f"{stem}r", savefile=user_dir / "a.pcapng") as capture:
            delete(f"{stem}t")
            events, error = all_events(capture)
    assert isinstance(error, InterfaceError)
    assert error.failure is not None
    assert error.failure.code == FailureCode.INTERFACE_LOST
    assert messages(events, capture.SP_INTERFACE_LOST) == [f"{stem}r"]
    with pytest.raises(InterfaceError, match=f"{stem}r"), capturing(daemon, interfaces=f"{stem}r"):
        pass


def test_one_of_two_interfaces_may_be_lost_and_come_back(daemon: Daemon, user_dir: Path) -> None:
    path, stem = user_dir / "two.pcapng", unique("pt")
    with cleaned(stem):
        for mark in (0, 1):
            add_pair(f"{stem}t{mark}", f"{stem}r{mark}")
        with capturing(daemon, interfaces=[f"{stem}r0", f"{stem}r1"], savefile=path) as capture:
            for round_ in range(3):
                delete(f"{stem}t0")
                until_event(capture, capture.SP_INTERFACE_LOST, f"{stem}r0")
                assert send(f"{stem}t1", frames(1, 10 * round_), 10) == 10
                add_pair(f"{stem}t0", f"{stem}r0")
                until_event(capture, capture.SP_INTERFACE_ATTACHED, f"{stem}r0")
                assert send(f"{stem}t0", frames(0, 10 * round_), 10) == 10
            until_packets(capture, 10)
            end(capture)
        check_accounts(capture, path)
    contents = read(path)
    assert contents.interfaces == [(f"{stem}r0", ETHERNET), (f"{stem}r1", ETHERNET)]
    assert contents.of(f"{stem}r0") == frames(0, 0, 30)
    assert contents.of(f"{stem}r1") == frames(1, 0, 30)


def test_an_interface_that_moves_to_another_namespace_is_lost_until_it_returns(daemon: Daemon, user_dir: Path) -> None:
    path, stem = user_dir / "moves.pcapng", unique("pt")
    with cleaned(stem), other_namespace() as there:
        add_pair(f"{stem}t", f"{stem}r")
        with capturing(daemon, interfaces=f"{stem}r*", savefile=path) as capture:
            for round_ in range(2):
                assert send(f"{stem}t", frames(0, 10 * round_), 10) == 10
                there.take(f"{stem}r")
                until_event(capture, capture.SP_INTERFACE_LOST, f"{stem}r")
                there.give(f"{stem}r")
                until_event(capture, capture.SP_INTERFACE_ATTACHED, f"{stem}r")
                ip("link", "set", "dev", f"{stem}r", "up")
                wait_until(lambda: link_of(f"{stem}r")["operstate"] == "UP")
            assert send(f"{stem}t", frames(0, 20), 10) == 10
            until_packets(capture, 10)
            end(capture)
    assert read(path).of(f"{stem}r") == frames(0, 0, 30)


# What happens between two looks ---------------------------------------------------------------------------------


@contextlib.contextmanager
def stopped(process_id: int) -> Generator[None, None, None]:
    """Have a process not run meanwhile."""
    os.kill(process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process_id, signal.SIGCONT)


def test_a_new_interface_with_the_index_of_the_old_one_is_another(user_dir: Path) -> None:
    path, stem = user_dir / "index.pcapng", unique("pt")
    with cleaned(stem), running_daemon(user_dir) as daemon:
        add_pair(f"{stem}t", f"{stem}r")
        index = link_of(f"{stem}r")["ifindex"]
        with capturing(daemon, interfaces=f"{stem}r*", savefile=path) as capture:
            (worker,) = daemon.workers()
            assert send(f"{stem}t", frames(0, 0), 10) == 10
            until_packets(capture, 10)
            with stopped(daemon.process.pid), stopped(worker):
                delete(f"{stem}t")
                ip("link", "add", "name", f"{stem}r", "index", str(index), "type", "veth", "peer", "name", f"{stem}t")
                ip_batch((f"link set dev {stem}r up", f"link set dev {stem}t up"))
                assert link_of(f"{stem}r")["ifindex"] == index
            until_event(capture, capture.SP_INTERFACE_LOST, f"{stem}r")
            until_event(capture, capture.SP_INTERFACE_ATTACHED, f"{stem}r")
            wait_until(lambda: link_of(f"{stem}r")["operstate"] == "UP")
            assert send(f"{stem}t", frames(0, 10), 10) == 10
            until_packets(capture, 10)
            end(capture)
    assert read(path).of(f"{stem}r") == frames(0, 0, 20)


def test_a_new_interface_with_the_name_that_an_old_one_had_is_captured_or_told_of(
    daemon: Daemon, user_dir: Path
) -> None:
    path, stem = user_dir / "name.pcapng", unique("pt")
    with cleaned(stem):
        add_pair(f"{stem}t0", f"{stem}r0")
        with capturing(daemon, interfaces=f"{stem}r*", savefile=path) as capture:
            ip_batch(
                (
                    f"link set dev {stem}r0 down",
                    f"link set dev {stem}r0 name {stem}r9",
                    f"link set dev {stem}r9 up",
                    f"link set dev {stem}t0 name {stem}t9",
                )
            )
            add_pair(f"{stem}t0", f"{stem}r0")
            deadline_s = time.monotonic() + PATIENCE_S
            expected = (capture.SP_INTERFACE_ATTACHED, capture.SP_INTERFACE_SKIPPED)
            while capture.wait_for_event(timeout=deadline_s - time.monotonic())[0] not in expected:
                pass
            end(capture)


@pytest.mark.long
def test_a_capture_of_a_pattern_starts_while_interfaces_come_and_go(daemon: Daemon, user_dir: Path) -> None:
    stem = unique("pt")
    is_over = threading.Event()

    def churn() -> None:
        while not is_over.is_set():
            ip_batch(
                command
                for number in range(4)
                for command in (
                    f"link add name {stem}c{number} type veth peer name {stem}d{number}",
                    f"link set dev {stem}c{number} up",
                    f"link set dev {stem}d{number} up",
                    f"link delete dev {stem}c{number}",
                )
            )

    thread = threading.Thread(target=churn)
    with cleaned(stem):
        add_pair(f"{stem}t", f"{stem}r")
        thread.start()
        try:
            for number in range(12):
                path = user_dir / f"{number}.pcapng"
                with capturing(daemon, interfaces=f"{stem}*", savefile=path) as capture:
                    assert send(f"{stem}t", frames(0, 0), 10) == 10
                    end(capture)
                check_accounts(capture, path)
                contents = read(path)
                assert contents.of(f"{stem}r") == frames(0, 0)
        finally:
            is_over.set()
            thread.join(PATIENCE_S)
        assert not thread.is_alive()


# Filters --------------------------------------------------------------------------------------------------------


def test_a_vlan_filter_needs_an_interface_of_the_kind_from_the_beginning(daemon: Daemon, user_dir: Path) -> None:
    path, stem = user_dir / "vlan.pcapng", unique("pt")
    tagged = build_frames((80,), vlan=5)
    with cleaned(stem):
        add_pair(f"{stem}t", f"{stem}r")
        with capturing(daemon, interfaces=f"{stem}r*", capture_filter="vlan 5", savefile=path) as capture:
            with tun(f"{stem}run"):
                text = until(capture, capture.SP_INTERFACE_SKIPPED)
            assert text.startswith(f"{stem}run: ")
            assert "vlan" in text
            # One of a kind that was there is not skipped.
            add_pair(f"{stem}t1", f"{stem}r1")
            until_event(capture, capture.SP_INTERFACE_ATTACHED, f"{stem}r1")
            for sender in (f"{stem}t", f"{stem}t1"):
                assert send(sender, tagged + frames(0, 0, 1), 2) == 2
            until_packets(capture, 2)
            end(capture)
        check_accounts(capture, path)
    contents = read(path)
    assert contents.packets == [(f"{stem}r", tagged[0]), (f"{stem}r1", tagged[0])]


@pytest.mark.parametrize("is_one_there", [False, True])
def test_a_long_filter_is_there_for_interfaces_that_come_later(
    daemon: Daemon, user_dir: Path, is_one_there: bool
) -> None:
    path, stem = user_dir / "long.pcapng", unique("pt")
    hosts = " or ".join(f"host 10.0.{number // 256}.{number % 256}" for number in range(HOSTS))
    with cleaned(stem):
        if is_one_there:
            add_pair(f"{stem}t", f"{stem}r")
        with capturing(
            daemon, interfaces=f"{stem}r*", capture_filter=f"{hosts} or ether proto 0x88b5", savefile=path
        ) as capture:
            add_pair(f"{stem}t1", f"{stem}r1")
            until_event(capture, capture.SP_INTERFACE_ATTACHED, f"{stem}r1")
            assert send(f"{stem}t1", frames(0, 0), 10) == 10
            until_packets(capture, 10)
            end(capture)
        check_accounts(capture, path)
    assert read(path).of(f"{stem}r1") == frames(0, 0)


def test_an_interface_whose_kind_does_not_take_the_filter_is_skipped_whenever_it_comes(
    daemon: Daemon, user_dir: Path
) -> None:
    path, stem = user_dir / "filter.pcapng", unique("pt")
    with cleaned(stem):
        add_pair(f"{stem}t", f"{stem}r")
        with tun(f"{stem}run"):
            for comes_later in (True, False):
                pattern = f"{stem}r*"
                if comes_later:
                    ip("link", "set", "dev", f"{stem}run", "name", f"{stem}xun")
                with capturing(
                    daemon, interfaces=pattern, capture_filter="ether proto 0x88b5", savefile=path
                ) as capture:
                    if comes_later:
                        ip("link", "set", "dev", f"{stem}xun", "name", f"{stem}run")
                    text = until(capture, capture.SP_INTERFACE_SKIPPED)
                    assert text.startswith(f"{stem}run: ")
                    assert send(f"{stem}t", frames(0, 0), 10) == 10
                    until_packets(capture, 10)
                    end(capture)
                check_accounts(capture, path)
                assert read(path).of(f"{stem}r") == frames(0, 0)


# Privilege ------------------------------------------------------------------------------------------------------


def test_an_ordinary_user_captures_what_comes_later_and_the_worker_stays_powerless(user_dir: Path) -> None:
    path, stem = user_dir / "user.pcapng", unique("pt")

    def capture_as_user(channel: Channel) -> None:
        with CaptureSession(interfaces=f"{stem}r*", savefile=path, socket_path=daemon.socket_path) as capture:
            capture.wait_started(PATIENCE_S)
            channel.send("started")
            until_event(capture, capture.SP_INTERFACE_ATTACHED, f"{stem}r1")
            channel.send("attached")
            until_packets(capture, 20)
            channel.send(capture.packetcount)
            channel.recv()

    with cleaned(stem), running_daemon(user_dir, "--group", CAPTURERS.gr_name) as daemon:
        add_pair(f"{stem}t0", f"{stem}r0")
        with process_of(User(STRANGER, STRANGER, (CAPTURERS.gr_gid,)), capture_as_user) as user:
            assert user.hear() == "started"
            add_pair(f"{stem}t1", f"{stem}r1")
            assert user.hear() == "attached"
            for mark in (0, 1):
                assert send(f"{stem}t{mark}", frames(mark, 0), 10) == 10
            assert user.hear() == 20
            (worker,) = daemon.workers()
            status = status_of(worker)
            assert status["Uid"].split() == status["Gid"].split() == [str(STRANGER)] * 4
            assert [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == ["0" * 16] * 4
            assert [link_of(f"{stem}r{mark}")["promiscuity"] for mark in (0, 1)] == [1, 1]
        # It was killed; its capture ends well.
        wait_until(lambda: not daemon.workers())
        wait_until(lambda: [link_of(f"{stem}r{mark}")["promiscuity"] for mark in (0, 1)] == [0, 0])
    assert path.stat().st_uid == STRANGER
    contents = read(path)
    assert [contents.of(f"{stem}r{mark}") for mark in (0, 1)] == [frames(0, 0), frames(1, 0)]


# All interfaces -------------------------------------------------------------------------------------------------


@pytest.fixture
def loopback() -> Generator[None, None, None]:
    """The loopback interface, up meanwhile."""
    ip("link", "set", "dev", "lo", "up")
    try:
        yield
    finally:
        ip("link", "set", "dev", "lo", "down")


def send_on_loopback(count: int, port: int = 9) -> list[bytes]:
    payloads = [f"packet {number}".encode() for number in range(count)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", port))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for payload in payloads:
                sender.sendto(payload, ("127.0.0.1", port))
    return payloads


@pytest.mark.usefixtures("loopback")
def test_any_is_every_interface_each_on_its_own(daemon: Daemon, user_dir: Path) -> None:
    path, stem = user_dir / "any.pcapng", unique("pt")
    with cleaned(stem):
        add_pair(f"{stem}t0", f"{stem}r0")
        with capturing(daemon, interfaces="any", savefile=path) as capture:
            add_pair(f"{stem}t1", f"{stem}r1")
            coming = {f"{stem}r1", f"{stem}t1"}
            while coming:
                coming.discard(until(capture, capture.SP_INTERFACE_ATTACHED))
            payloads = send_on_loopback(5)
            for mark in (0, 1):
                send_queued(f"{stem}t{mark}", frames(mark, 0))
            until_packets(capture, 45)
            end(capture)
        check_accounts(capture, path)
    contents = read(path)
    assert {"lo", f"{stem}t0", f"{stem}r0", f"{stem}t1", f"{stem}r1"} <= dict(contents.interfaces).keys()
    assert set(dict(contents.interfaces).values()) <= {ETHERNET, RAW}
    # Loopback packets once.
    assert [data[42:] for data in contents.of("lo")] == payloads
    for mark, side in itertools.product((0, 1), "tr"):
        assert contents.of(f"{stem}{side}{mark}") == frames(mark, 0)


COOKED_FILTERS = ["", "udp port 9", "icmp", "ip and not udp", "greater 90", "inbound", "outbound"]


@pytest.mark.usefixtures("loopback")
@pytest.mark.parametrize("link_layer_type", ["LINUX_SLL", "LINUX_SLL2"])
@pytest.mark.parametrize("capture_filter", COOKED_FILTERS)
def test_cooked_packets_are_those_of_tcpdump(
    daemon: Daemon, user_dir: Path, link_layer_type: str, capture_filter: str
) -> None:
    path, theirs, stem = user_dir / "cooked.pcapng", user_dir / "theirs.pcap", unique("pt")
    mixed = [*build_frames((60, 100, 1514)), *build_frames((80,), vlan=5), *frames(0, 0, 3)]
    icmp = bytearray(mixed[0])
    icmp[23] = 1
    mixed.append(bytes(icmp))
    with cleaned(stem):
        add_pair(f"{stem}t", f"{stem}r")
        options = ["-i", "any", "-y", link_layer_type, "-s", "262144", *([capture_filter] if capture_filter else [])]
        with (
            capturing(
                daemon, interfaces="any", link_layer_type=link_layer_type, capture_filter=capture_filter, savefile=path
            ) as capture,
            tcpdump_until_told(theirs, *options),
        ):
            send_queued(f"{stem}t", mixed * 2)
            send_on_loopback(5)
            end(capture)
            contents = read(path)
            wait_until(lambda: len(pcap_records(theirs)[1]) >= len(contents.packets))
    linktype, records = pcap_records(theirs)
    assert contents.interfaces == [("any", linktype)]
    assert records
    assert list(zip(contents.sizes_bytes, [data for _, data in contents.packets], strict=True)) == records
    assert contents.counts == {"any": (len(records), 0, len(records))}


@pytest.mark.parametrize("link_layer_type", ["LINUX_SLL", "LINUX_SLL2"])
def test_cooked_packets_can_be_chosen_by_the_index_of_their_interface(
    daemon: Daemon, user_dir: Path, link_layer_type: str
) -> None:
    # Not compared with tcpdump: its libpcap filters the first packet itself, and does not know indexes there.
    path, stem = user_dir / "cooked.pcapng", unique("pt")
    with cleaned(stem):
        for mark in (0, 1):
            add_pair(f"{stem}t{mark}", f"{stem}r{mark}")
        text = f"ifindex {link_of(f'{stem}r1')['ifindex']}"
        with capturing(
            daemon, interfaces="any", link_layer_type=link_layer_type, capture_filter=text, savefile=path
        ) as capture:
            for mark in (0, 1):
                send_queued(f"{stem}t{mark}", frames(mark, 0))
            until_packets(capture, 10)
            end(capture)
    header_bytes = {"LINUX_SLL": 16, "LINUX_SLL2": 20}[link_layer_type]
    assert [data[header_bytes:] for _, data in read(path).packets] == [frame[14:] for frame in frames(1, 0)]


def test_vlan_filters_are_refused_on_cooked_packets_as_by_tcpdump(daemon: Daemon) -> None:
    words = outcome_of("tcpdump", "-i", "any", "-y", "LINUX_SLL2", "vlan", own_sys=False).stderr
    with (
        pytest.raises(BadFilterError) as raised,
        capturing(daemon, interfaces="any", link_layer_type="LINUX_SLL2", capture_filter="vlan"),
    ):
        pass
    assert raised.value.failure is not None
    assert f"tcpdump: {raised.value.failure.text}" in words.splitlines()
