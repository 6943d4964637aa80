"""``InterfaceWatcher``: what happens, in order, and a picture that is right in the end whatever happened."""

import contextlib
import os
import signal
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from capd_client import BrokenPipe, DaemonUnavailable, Interface, InterfaceChanged, InterfaceWatcher, NoEvents
from capd_protocol.messages.interfaces import InterfaceChange, Link
from tests.capture.helpers import ip, kernel_setting
from tests.interfaces.helpers import (
    PATIENCE_S,
    add_pair,
    cleaned,
    delete,
    ip_batch,
    link_of,
    other_namespace,
    unique,
    wait_until,
)
from tests.support.daemon import Daemon, running_daemon
from tests.support.namespace import private_network_namespace

ADDED, REMOVED, RENAMED = InterfaceChange.ADDED, InterfaceChange.REMOVED, InterfaceChange.RENAMED
UP, DOWN, CHANGED = InterfaceChange.UP, InterfaceChange.DOWN, InterfaceChange.CHANGED


@contextlib.contextmanager
def watching(daemon: Daemon) -> Generator[InterfaceWatcher, None, None]:
    with InterfaceWatcher(socket_path=daemon.socket_path) as watcher:
        yield watcher


def until_change(
    watcher: InterfaceWatcher, kind: InterfaceChange, name: str, timeout_s: float = PATIENCE_S
) -> list[InterfaceChanged]:
    """Return the changes up to this one."""
    deadline_s = time.monotonic() + timeout_s
    changes: list[InterfaceChanged] = []
    while not changes or (changes[-1].change, changes[-1].link.name) != (kind, name):
        changes.append(watcher.wait_for_change(max(0, deadline_s - time.monotonic())))
    return changes


def changes_of(changes: list[InterfaceChanged], name: str) -> list[InterfaceChange]:
    """Return what happened to one interface, without reports of its state alone."""
    return [each.change for each in changes if each.link.name == name and each.change != CHANGED]


def fresh_picture(daemon: Daemon) -> dict[str, Link]:
    """Return the interfaces as a new listing has them."""
    found = Interface.list_interfaces(socket_path=daemon.socket_path)
    return {each.name: each.info.link for each in found if each.info and each.info.link}


def settle(watcher: InterfaceWatcher, stem: str) -> list[InterfaceChanged]:
    """Return what comes until a new interface, the last of all, is reported; the kernel is quiet then."""
    ip("link", "add", "name", f"{stem}end", "type", "ifb")
    return until_change(watcher, ADDED, f"{stem}end", 40)


# What happens ---------------------------------------------------------------------------------------------------


def test_what_happens_is_told_in_order(daemon: Daemon) -> None:
    stem = unique("wt")
    one, two = f"{stem}a", f"{stem}b"
    with cleaned(stem), watching(daemon) as watcher:
        assert set(watcher.interfaces) == set(fresh_picture(daemon))
        add_pair(one, two)
        changes = until_change(watcher, UP, two)
        assert changes_of(changes, one) == [ADDED, UP]
        assert changes_of(changes, two) == [ADDED, UP]
        ip("link", "set", "dev", one, "down")
        assert changes_of(until_change(watcher, DOWN, one), one) == [DOWN]
        assert not watcher.interfaces[one].is_up
        ip("link", "set", "dev", one, "name", f"{stem}c")
        renamed = until_change(watcher, RENAMED, f"{stem}c")[-1]
        assert renamed.former_name == one
        assert renamed.link.index == link_of(f"{stem}c")["ifindex"]
        assert one not in watcher.interfaces
        ip("link", "set", "dev", two, "mtu", "1400")
        while watcher.interfaces[two].mtu != 1400:
            assert watcher.wait_for_change(PATIENCE_S).change == CHANGED
        for action, expected in (("add", ("192.0.2.1",)), ("del", ())):
            ip("address", action, "192.0.2.1/24", "dev", two)
            changed = until_change(watcher, CHANGED, two)[-1]
            while changed.link.addresses != expected:
                changed = until_change(watcher, CHANGED, two)[-1]
        delete(two)
        changes = until_change(watcher, REMOVED, two)
        if changes_of(changes, f"{stem}c")[-1:] != [REMOVED]:
            changes += until_change(watcher, REMOVED, f"{stem}c")
        assert changes[-1].former_name is None
        assert not [name for name in watcher.interfaces if name.startswith(stem)]
        assert watcher.interfaces == fresh_picture(daemon)


def test_a_state_that_the_other_end_changes_is_told(daemon: Daemon) -> None:
    stem = unique("wt")
    with cleaned(stem):
        add_pair(f"{stem}a", f"{stem}b")
        with watching(daemon) as watcher:
            assert watcher.interfaces[f"{stem}a"].state == "up"
            ip("link", "set", "dev", f"{stem}b", "down")
            wait_until(lambda: _state(watcher, f"{stem}a") == link_of(f"{stem}a")["operstate"].lower() != "up")


def _state(watcher: InterfaceWatcher, name: str) -> str:
    watcher.wait_for_change(PATIENCE_S)
    return watcher.interfaces[name].state


def test_an_interface_that_moves_to_another_namespace_is_gone_until_it_returns(daemon: Daemon) -> None:
    stem = unique("wt")
    with cleaned(stem), other_namespace() as there, watching(daemon) as watcher:
        add_pair(f"{stem}a", f"{stem}b")
        there.take(f"{stem}a")
        until_change(watcher, REMOVED, f"{stem}a")
        there.give(f"{stem}a")
        until_change(watcher, ADDED, f"{stem}a")


def test_nothing_comes_when_nothing_happens(daemon: Daemon) -> None:
    with watching(daemon) as watcher:
        with pytest.raises(NoEvents):
            watcher.wait_for_change(0.2)
        with pytest.raises(NoEvents):
            watcher.wait_for_change(0)


def test_a_watcher_that_has_ended_says_so(daemon: Daemon) -> None:
    watcher = InterfaceWatcher(socket_path=daemon.socket_path)
    watcher.terminate()
    watcher.terminate()
    assert "lo" in watcher.interfaces
    with pytest.raises(BrokenPipe):
        watcher.wait_for_change(1)


def test_a_daemon_that_is_killed_breaks_the_pipe(user_dir: Path) -> None:
    with running_daemon(user_dir) as daemon, watching(daemon) as watcher:
        daemon.process.kill()
        with pytest.raises(BrokenPipe):
            watcher.wait_for_change(PATIENCE_S)


def test_without_a_daemon_at_the_place_that_was_named_there_is_none(user_dir: Path) -> None:
    with pytest.raises(DaemonUnavailable):
        InterfaceWatcher(socket_path=user_dir / "none.sock")


def test_both_ends_of_a_new_pair_know_each_other(daemon: Daemon) -> None:
    stem = unique("wt")
    with cleaned(stem), watching(daemon) as watcher:
        ip("link", "add", "name", f"{stem}a", "type", "veth", "peer", "name", f"{stem}b")
        settle(watcher, stem)
        one, two = (watcher.interfaces[f"{stem}{side}"] for side in "ab")
        assert one.bound_to_index == two.index
        # The kernel tells of it before it has a peer.
        assert two.bound_to_index == one.index


# Addresses ------------------------------------------------------------------------------------------------------


def test_addresses_are_told_in_the_order_of_a_listing(daemon: Daemon) -> None:
    stem = unique("wt")
    name = f"{stem}a"
    with cleaned(stem), watching(daemon) as watcher:
        add_pair(name, f"{stem}b")
        ip("link", "set", "dev", name, "addrgenmode", "none")
        with kernel_setting(f"net/ipv6/conf/{name}/disable_ipv6", "0"):
            for address in ("2001:db8::1/64", "192.0.2.1/24", "2001:db8::2/64", "192.0.2.2/24", "fe80::1/64"):
                ip("address", "add", address, "dev", name, *(["nodad"] if ":" in address else []))
            # The kernel tells of a new IPv6 address a moment after it is there.
            wait_until(lambda: len(fresh_picture(daemon)[name].addresses) == 5)
            settle(watcher, stem)
            expected = fresh_picture(daemon)[name].addresses
            assert set(watcher.interfaces[name].addresses) == set(expected)
            assert watcher.interfaces[name].addresses == expected


def test_an_address_that_is_there_twice_is_there_until_it_is_gone_twice(daemon: Daemon) -> None:
    stem = unique("wt")
    name = f"{stem}a"
    with cleaned(stem), watching(daemon) as watcher:
        add_pair(name, f"{stem}b")
        for prefix in (24, 16):
            ip("address", "add", f"192.0.2.1/{prefix}", "dev", name)
        ip("address", "del", "192.0.2.1/16", "dev", name)
        settle(watcher, stem)
        assert fresh_picture(daemon)[name].addresses == ("192.0.2.1",)
        assert watcher.interfaces[name].addresses == ("192.0.2.1",)


# Much at once ---------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_after_a_thousand_changes_the_picture_is_that_of_a_listing(user_dir: Path) -> None:
    with private_network_namespace(), running_daemon(user_dir) as daemon, contextlib.ExitStack() as stack:
        quick, lazy = (stack.enter_context(watching(daemon)) for _ in range(2))
        names = [f"burst{number}" for number in range(500)]
        ip_batch(f"link add name {name}a type veth peer name {name}b" for name in names)
        ip_batch(f"link set dev {name}a name {name}c" for name in names)
        ip_batch(f"link set dev {name}b mtu 1400" for name in names)
        ip_batch(f"link delete dev {name}c" for name in names[::2])
        changes = settle(quick, "zz")
        for name in names[1::2]:
            assert [each.change for each in changes if each.link.name == f"{name}c"][:1] == [RENAMED]
        picture = fresh_picture(daemon)
        assert len([name for name in picture if name.startswith("burst")]) == 500
        assert quick.interfaces == picture
        # One that has not read meanwhile.
        until_change(lazy, ADDED, "zzend")
        assert lazy.interfaces == picture


def many_changes(name: str, count: int) -> None:
    ip_batch(f"link set dev {name} alias number{number}" for number in range(count))


def test_a_watcher_that_does_not_read_gets_a_fresh_picture(user_dir: Path) -> None:
    stem = unique("wt")
    with cleaned(stem), running_daemon(user_dir) as daemon, watching(daemon) as lazy, watching(daemon) as quick:
        add_pair(f"{stem}a", f"{stem}b")
        add_pair(f"{stem}c", f"{stem}d")
        until_change(lazy, ADDED, f"{stem}d")
        for _ in range(3):
            many_changes(f"{stem}a", 3000)
        delete(f"{stem}c")
        ip("link", "set", "dev", f"{stem}b", "down")
        ip_batch((f"link set dev {stem}b name {stem}new",))
        settle(quick, stem)
        changes = until_change(lazy, ADDED, f"{stem}end")
        # It was spared most of them, and got the difference.
        assert len(changes) < 9000
        assert {REMOVED} <= set(changes_of(changes, f"{stem}c"))
        assert {RENAMED} <= set(changes_of(changes, f"{stem}new"))
        assert lazy.interfaces == quick.interfaces == fresh_picture(daemon)


def kernel_drops(process_id: int) -> int:
    """Return how many messages the kernel had no room for, of the sockets in a process's namespace that watch."""
    lines = Path(f"/proc/{process_id}/net/netlink").read_text().splitlines()[1:]
    return sum(int(fields[8]) for fields in map(str.split, lines) if fields[1] == "0" and int(fields[3], 16))


def test_what_the_kernel_could_not_tell_is_looked_up(user_dir: Path) -> None:
    stem = unique("wt")
    with cleaned(stem), running_daemon(user_dir) as daemon, watching(daemon) as watcher:
        add_pair(f"{stem}a", f"{stem}b")
        add_pair(f"{stem}c", f"{stem}d")
        until_change(watcher, ADDED, f"{stem}d")
        before = kernel_drops(daemon.process.pid)
        os.kill(daemon.process.pid, signal.SIGSTOP)
        try:
            while kernel_drops(daemon.process.pid) == before:
                many_changes(f"{stem}a", 1000)
            # Nothing is reported of any of these.
            delete(f"{stem}c")
            ip("link", "set", "dev", f"{stem}b", "down")
            ip_batch((f"link set dev {stem}b name {stem}new", f"link add name {stem}x type ifb"))
            ip("address", "add", "192.0.2.9/24", "dev", f"{stem}a")
        finally:
            os.kill(daemon.process.pid, signal.SIGCONT)
        changes = until_change(watcher, ADDED, f"{stem}x")
        changes += settle(watcher, stem)
        assert changes_of(changes, f"{stem}c")[-1:] == [REMOVED]
        assert RENAMED in changes_of(changes, f"{stem}new")
        assert DOWN in {each.change for each in changes if each.link.name in (f"{stem}b", f"{stem}new")}
        assert watcher.interfaces[f"{stem}a"].addresses == ("192.0.2.9",)
        assert watcher.interfaces == fresh_picture(daemon)
