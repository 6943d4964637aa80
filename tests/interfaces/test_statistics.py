"""``LiveInterfaceStats``, by what ``ip -s`` counts."""

import contextlib
import itertools
import math
import os
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from capd_client import (
    BrokenPipe,
    DaemonUnavailable,
    Interface,
    InvalidArgument,
    LiveInterfaceStats,
    NoEvents,
    get_driver_counters,
)
from capd_protocol.messages.interfaces import InterfaceCounts
from tests.capture.helpers import ip
from tests.interfaces.helpers import (
    PATIENCE_S,
    add_pair,
    cleaned,
    cpu_seconds,
    delete,
    frame_for,
    ip_batch,
    link_of,
    other_namespace,
    outcome_of,
    unique,
    wait_until,
)
from tests.support.bounds import check_bound
from tests.support.daemon import Daemon, running_daemon
from tests.support.namespace import private_network_namespace
from tests.support.traffic import send

FAST_S = 0.05
SIZE_BYTES = 64


def fresh(stats: LiveInterfaceStats) -> None:
    """Wait for counts from after now."""
    while True:  # what has been received already is no news
        stats.clear_tick()
        try:
            stats.wait_for_tick(0)
        except NoEvents:
            break
    # The first that comes may have been counted before now, the next one was after it.
    for _ in range(2):
        stats.clear_tick()
        stats.wait_for_tick(PATIENCE_S)


def transmit(interface: str, packets: int) -> None:
    assert send(interface, [frame_for(0, 0, SIZE_BYTES)], packets) == packets


def kernels(name: str) -> InterfaceCounts:
    """Return what ``ip -s -s`` has counted since the interface was made."""
    counted = link_of(name)["stats64"]
    rx, tx = counted["rx"], counted["tx"]
    return InterfaceCounts(
        name=name,
        rx_packets=rx["packets"],
        tx_packets=tx["packets"],
        rx_bytes=rx["bytes"],
        tx_bytes=tx["bytes"],
        rx_errors=rx["errors"],
        tx_errors=tx["errors"],
        rx_dropped=rx["dropped"],
        tx_dropped=tx["dropped"],
        multicast=rx["multicast"],
        rx_missed_errors=rx["missed_errors"],
        rx_fifo_errors=rx["fifo_errors"],
        tx_fifo_errors=tx["fifo_errors"],
    )


def received(stats: LiveInterfaceStats, *names: str) -> list[int]:
    """Return how many packets passed; nobody on this machine takes ours, so the kernel counts them as dropped too."""
    return [stats[name][0] for name in names]


def minus(now: InterfaceCounts, before: InterfaceCounts) -> InterfaceCounts:
    fields = [name for name in InterfaceCounts.__struct_fields__ if name != "name"]
    return InterfaceCounts(name=now.name, **{each: getattr(now, each) - getattr(before, each) for each in fields})


@contextlib.contextmanager
def counting(daemon: Daemon, interval: float = FAST_S) -> Generator[LiveInterfaceStats, None, None]:
    with LiveInterfaceStats(interval=interval, socket_path=daemon.socket_path) as stats:
        yield stats


# Counts ---------------------------------------------------------------------------------------------------------


def test_counts_are_the_kernels_since_the_beginning(daemon: Daemon) -> None:
    stem = unique("st")
    with cleaned(stem):
        add_pair(f"{stem}t", f"{stem}r")
        transmit(f"{stem}t", 77)  # before it began
        before = {name: kernels(name) for name in (f"{stem}t", f"{stem}r")}
        with counting(daemon) as stats:
            assert stats[f"{stem}t"] == stats[f"{stem}r"] == (0, 0)
            transmit(f"{stem}t", 100)
            transmit(f"{stem}r", 23)
            fresh(stats)
            for name, first in before.items():
                assert stats.details(name) == minus(kernels(name), first)
            assert stats.details(f"{stem}r").rx_packets == 100
            assert stats.details(f"{stem}r").rx_bytes == 100 * SIZE_BYTES
            assert received(stats, f"{stem}r", f"{stem}t") == [123, 123]


def test_dropped_are_what_the_kernel_dropped_on_receiving(daemon: Daemon) -> None:
    stem = unique("st")
    with cleaned(stem):
        add_pair(f"{stem}t", f"{stem}r")
        with counting(daemon) as stats:
            transmit(f"{stem}t", 50)
            fresh(stats)
            now = kernels(f"{stem}r")
            assert now.rx_dropped == 50  # nobody takes them there
            assert stats[f"{stem}r"] == (50, now.rx_dropped + now.rx_missed_errors)
            assert stats[f"{stem}t"] == (50, 0)


def test_totals_outlive_an_interface_that_is_deleted_and_made_again(daemon: Daemon) -> None:
    stem = unique("st")
    sender, receiver = f"{stem}t", f"{stem}r"
    with cleaned(stem):
        add_pair(sender, receiver)
        transmit(sender, 10)
        with counting(daemon) as stats:
            transmit(sender, 100)
            fresh(stats)
            transmit(sender, 5)
            delete(sender)
            wait_until(lambda: _gone(stats, receiver))
            add_pair(sender, receiver)
            transmit(sender, 20)
            fresh(stats)
            # The kernel's last word on the sender has what passed since the last tick. That on a veth's receiver has
            # not: its counter is the other end's.
            assert received(stats, sender) == [125]
            assert received(stats, receiver)[0] in (120, 125)
            # Between two ticks, several times.
            for _ in range(5):
                delete(sender)
                add_pair(sender, receiver)
                transmit(sender, 3)
            fresh(stats)
            assert received(stats, sender) == [140]
            assert stats.details(sender).tx_bytes == 140 * SIZE_BYTES
            assert kernels(sender).tx_packets == 3


def _gone(stats: LiveInterfaceStats, name: str) -> bool:
    fresh(stats)
    return name not in stats.interfaces


def test_interfaces_that_come_later_count_from_zero(daemon: Daemon) -> None:
    stem = unique("st")
    with cleaned(stem), counting(daemon) as stats:
        assert f"{stem}r" not in stats.interfaces
        with pytest.raises(KeyError):
            stats[f"{stem}r"]
        add_pair(f"{stem}t", f"{stem}r")
        transmit(f"{stem}t", 10)
        fresh(stats)
        assert stats.details(f"{stem}r") == kernels(f"{stem}r")
        assert received(stats, f"{stem}r") == [10]


@pytest.mark.parametrize("is_second_client", [False, True])
def test_a_renamed_interface_takes_its_total_along(daemon: Daemon, is_second_client: bool) -> None:
    stem = unique("st")
    with cleaned(stem), contextlib.ExitStack() as stack:
        add_pair(f"{stem}t", f"{stem}r")
        if is_second_client:
            # Somebody has counted longer.
            stack.enter_context(counting(daemon))
        transmit(f"{stem}t", 1000)
        with counting(daemon) as stats:
            transmit(f"{stem}t", 10)
            fresh(stats)
            assert received(stats, f"{stem}r") == [10]
            ip_batch((f"link set dev {stem}r down", f"link set dev {stem}r name {stem}n", f"link set dev {stem}n up"))
            wait_until(lambda: link_of(f"{stem}n")["operstate"] == "UP")
            transmit(f"{stem}t", 5)
            fresh(stats)
            assert f"{stem}r" not in stats.interfaces
            assert received(stats, f"{stem}n") == [15]


def test_interfaces_that_swap_their_names_swap_their_totals(daemon: Daemon) -> None:
    stem = unique("st")
    one, two = f"{stem}r1", f"{stem}r2"
    with cleaned(stem):
        for number, name in ((1, one), (2, two)):
            add_pair(f"{stem}t{number}", name)
        with counting(daemon) as stats:
            transmit(f"{stem}t1", 10)
            transmit(f"{stem}t2", 200)
            fresh(stats)
            assert received(stats, one, two) == [10, 200]
            ip_batch(
                (
                    *(f"link set dev {name} down" for name in (one, two)),
                    f"link set dev {one} name {stem}x",
                    f"link set dev {two} name {one}",
                    f"link set dev {stem}x name {two}",
                )
            )
            fresh(stats)
            fresh(stats)
            assert received(stats, one, two) == [200, 10]


def test_what_an_interface_counted_elsewhere_is_not_counted_here(daemon: Daemon) -> None:
    stem = unique("st")
    with cleaned(stem), other_namespace() as there:
        add_pair(f"{stem}t", f"{stem}r")
        with counting(daemon) as stats:
            transmit(f"{stem}t", 10)
            there.take(f"{stem}t")
            fresh(stats)
            there.give(f"{stem}t")
            ip("link", "set", "dev", f"{stem}t", "up")
            wait_until(lambda: link_of(f"{stem}t")["operstate"] == "UP")
            transmit(f"{stem}t", 5)
            fresh(stats)
            assert received(stats, f"{stem}t", f"{stem}r") == [15, 15]


# The object -----------------------------------------------------------------------------------------------------


def test_it_is_iterated_over_by_ticks(daemon: Daemon) -> None:
    stem = unique("st")
    with cleaned(stem):
        add_pair(f"{stem}t", f"{stem}r")
        with counting(daemon) as stats:
            assert {f"{stem}t", f"{stem}r", "lo"} <= set(stats.interfaces)
            assert len(stats) == len(stats.interfaces) == len(Interface.list_interfaces()) - _devices_only()
            transmit(f"{stem}t", 5)
            for results in itertools.islice(stats, 100):
                assert set(dict(results)) == set(stats.interfaces)
                if dict(results)[f"{stem}r"][0] == 5:
                    break
            assert dict(results)[f"{stem}r"] == (5, 5) == stats[f"{stem}r"]


def _devices_only() -> int:
    return sum(each.info is not None and each.info.link is None for each in Interface.list_interfaces())


def test_ticks_are_waited_for_and_cleared(daemon: Daemon) -> None:
    with counting(daemon, 1.0) as stats:
        with pytest.raises(NoEvents):
            stats.wait_for_tick(0.001)
        stats.wait_for_tick(PATIENCE_S)
        stats.wait_for_tick(0)  # still the same
        stats.clear_tick()
        with pytest.raises(NoEvents):
            stats.wait_for_tick(0.001)


@pytest.mark.timeout(5)
def test_whether_an_interface_is_there_can_be_asked(daemon: Daemon) -> None:
    with counting(daemon) as stats:
        asked: Any = stats
        assert "lo" in asked
        assert "nothing0" not in asked


def test_it_ends_once_and_for_all(daemon: Daemon) -> None:
    stats = LiveInterfaceStats(socket_path=daemon.socket_path)
    stats.terminate()
    stats.terminate()
    with stats:
        pass
    with pytest.raises(BrokenPipe):
        stats.wait_for_tick(1)


def test_counts_can_be_read_after_the_end(daemon: Daemon) -> None:
    stem = unique("st")
    with cleaned(stem):
        add_pair(f"{stem}t", f"{stem}r")
        with counting(daemon) as stats:
            transmit(f"{stem}t", 10)
            while stats[f"{stem}r"][0] < 10:
                fresh(stats)
    assert stats[f"{stem}r"][0] == stats.details(f"{stem}r").rx_packets == 10


@pytest.mark.alone
def test_intervals_are_kept(daemon: Daemon) -> None:
    with counting(daemon, 0.2) as slow, counting(daemon, 0.1) as fast:
        counted = {}
        for stats in (slow, fast):
            fresh(stats)
            times_s = []
            for _ in range(6):
                stats.clear_tick()
                stats.wait_for_tick(PATIENCE_S)
                times_s.append(time.monotonic())
            counted[stats] = times_s
        # The fast one has waited in its socket meanwhile; so the slow one's are compared.
        interval_s = (counted[slow][-1] - counted[slow][0]) / 5
        assert interval_s > 0.17
        check_bound(interval_s < 0.23, f"{interval_s:.3f} s")


@pytest.mark.parametrize("interval", [0, -1, 0.049, 3600.1, math.inf, math.nan])
def test_impossible_intervals_are_refused(daemon: Daemon, interval: float) -> None:
    with pytest.raises(InvalidArgument, match=r"0\.05 to 3600") as raised:
        LiveInterfaceStats(interval=interval, socket_path=daemon.socket_path)
    assert raised.value.argument == "interval"


def test_without_a_daemon_at_the_place_that_was_named_there_are_none(user_dir: Path) -> None:
    with pytest.raises(DaemonUnavailable):
        LiveInterfaceStats(socket_path=user_dir / "none.sock")


def test_a_daemon_that_is_killed_breaks_the_pipe(user_dir: Path) -> None:
    with running_daemon(user_dir) as daemon, counting(daemon) as stats:
        daemon.process.kill()
        daemon.process.wait()
        with pytest.raises(BrokenPipe):
            list(stats)


def test_a_client_that_does_not_read_gets_the_right_counts_later(daemon: Daemon) -> None:
    stem = unique("st")
    with cleaned(stem):
        add_pair(f"{stem}t", f"{stem}r")
        with counting(daemon) as slow, counting(daemon) as quick:
            for _ in range(20):
                transmit(f"{stem}t", 10)
                fresh(quick)
            delete(f"{stem}t")
            add_pair(f"{stem}t", f"{stem}r")
            transmit(f"{stem}t", 7)
            fresh(quick)
            fresh(slow)
            for stats in (quick, slow):
                assert received(stats, f"{stem}t", f"{stem}r") == [207, 207]


def test_drivers_counters_are_those_of_ethtool(daemon: Daemon) -> None:
    stem = unique("st")
    with cleaned(stem):
        add_pair(f"{stem}t", f"{stem}r")
        shown = outcome_of("ethtool", "-S", f"{stem}r").stdout.splitlines()[1:]
        expected = {name.strip(): int(value) for name, _, value in (line.rpartition(":") for line in shown)}
        assert expected
        assert get_driver_counters(f"{stem}r", socket_path=daemon.socket_path) == expected
        assert get_driver_counters("lo", socket_path=daemon.socket_path) == {}


# A thousand -----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_thousand_interfaces_cost_little(user_dir: Path) -> None:
    with private_network_namespace(), running_daemon(user_dir) as daemon:
        ip_batch(f"link add name many{number}a type veth peer name many{number}b" for number in range(500))
        processes = daemon.process.pid, os.getpid()
        rounds = 10
        # Processor time, which a busy machine does not make longer.
        before_s = [cpu_seconds(each) for each in processes]
        for _ in range(rounds):
            found = Interface.list_interfaces(socket_path=daemon.socket_path)
        daemon_s, client_s = (
            (cpu_seconds(each) - before) / rounds for each, before in zip(processes, before_s, strict=True)
        )
        sys.stdout.write(f"listing 1,000 interfaces: daemon {daemon_s * 1e3:.0f} ms, client {client_s * 1e3:.0f} ms\n")
        assert daemon_s + client_s < 1.0
        assert len([each for each in found if each.name.startswith("many")]) == 1000
        assert [each.number for each in found] == list(range(1, len(found) + 1))
        with counting(daemon, 0.2) as stats:
            assert len(stats) >= 1001
            stats.clear_tick()
            stats.wait_for_tick(PATIENCE_S)
            before_s = [cpu_seconds(each) for each in processes]
            for _ in range(rounds):
                stats.clear_tick()
                stats.wait_for_tick(PATIENCE_S)
            daemon_s, client_s = (
                (cpu_seconds(each) - before) / rounds for each, before in zip(processes, before_s, strict=True)
            )
        sys.stdout.write(f"a tick of 1,000 idle ones: daemon {daemon_s * 1e3:.0f} ms, client {client_s * 1e3:.0f} ms\n")
        assert daemon_s + client_s < 0.02
