"""``capctl interfaces``, ``linktypes``, ``stats`` and ``watch``: for people at a terminal, and for programs."""

import contextlib
import grp
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import msgspec
import pytest

from capd_client import Interface, InterfaceWatcher, get_capabilities
from capd_client.cli.interfaces import _change_line
from capd_client.conversation.interface_picture import InterfaceChanged
from capd_client.transport.listening import SOCKET_VARIABLE
from capd_protocol.messages.interfaces import InterfaceChange, Link
from tests.capture.helpers import ip, kernel_setting
from tests.cli.calling import Done, called
from tests.cli.terminal import in_terminal
from tests.client.test_private_daemon import WITHOUT_RUN
from tests.interfaces.helpers import (
    PATIENCE_S,
    add_pair,
    cleaned,
    delete,
    frame_for,
    ip_batch,
    link_of,
    unique,
    wait_until,
)
from tests.support.daemon import Daemon, as_user, running_daemon
from tests.support.traffic import send

LONG_ADDRESSES = tuple(f"2001:db8:1234:5678:9abc:def0:1234:{number:x}" for number in range(0x5670, 0x5676))

STRANGER = 12345
#: As the command's help says.
NO_DAEMON = 3


def command(daemon: Daemon, *words: str) -> list[str]:
    return [sys.executable, "-m", "capd_client.cli", "--socket", daemon.socket_path, *words]


def done(daemon: Daemon, *words: str) -> Done:
    return called("--socket", daemon.socket_path, *words)


@contextlib.contextmanager
def running(daemon: Daemon, *words: str) -> Generator[subprocess.Popen[str], None, None]:
    with subprocess.Popen(
        command(daemon, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def ended(process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
    """Interrupt it; return its exit status and what it complains about."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE_S)
    return process.returncode, errors


@pytest.fixture
def pair() -> Generator[tuple[str, str], None, None]:
    """Two interfaces with long names and many addresses."""
    stem = f"{unique('cc')}longname"[:13]
    one, two = f"{stem}-t", f"{stem}-r"
    with cleaned(stem):
        add_pair(one, two)
        ip("link", "set", "dev", two, "addrgenmode", "none")
        with kernel_setting(f"net/ipv6/conf/{two}/disable_ipv6", "0"):
            for address in LONG_ADDRESSES:
                ip("address", "add", f"{address}/64", "dev", two, "nodad")
            yield one, two


# For people -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("interfaces",), ("linktypes", "any"), ("stats", "--once", "--interval", "0.05")])
def test_tables_fit_a_terminal(pair: tuple[str, str], daemon: Daemon, words: tuple[str, ...]) -> None:
    with in_terminal(command(daemon, *words)) as terminal:
        assert terminal.wait_ended() == 0
        assert terminal.screen.wraps == 0
        lines = terminal.screen.lines
    assert len(lines) > 1
    assert max(map(len, lines)) <= 80
    if words[0] != "linktypes":
        for name in pair:
            assert [line for line in lines if name in line]


def addresses_of(daemon: Daemon, name: str) -> list[str]:
    found = Interface.list_interfaces(socket_path=daemon.socket_path)
    return [address for each in found if each.name == name for address in each.addresses]


def test_the_list_shows_what_there_is(pair: tuple[str, str], daemon: Daemon) -> None:
    # The kernel tells of a new IPv6 address a moment after it is there (addrconf_dad_work() in net/ipv6/addrconf.c).
    wait_until(lambda: set(LONG_ADDRESSES) <= set(addresses_of(daemon, pair[1])))
    result = done(daemon, "interfaces")
    assert (result.returncode, result.stderr) == (0, "")
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["#", "NAME", "STATE", "KIND", "MAC", "ADDRESSES"]
    found = Interface.list_interfaces(socket_path=daemon.socket_path)
    assert [row.split()[:2] for row in rows] == [[str(each.number), each.name] for each in found]
    (row,) = (row for row in rows if row.split()[1] == pair[1])
    link = link_of(pair[1])
    assert row.split()[2:5] == ["up", "veth", f"@{pair[0]}"]
    assert link["address"] in row
    # A file has no width.
    assert all(address in row for address in LONG_ADDRESSES)


@pytest.mark.parametrize("columns", [40, 80, 132, 200])
def test_addresses_are_whole_or_left_out(pair: tuple[str, str], daemon: Daemon, columns: int) -> None:
    wait_until(lambda: set(LONG_ADDRESSES) <= set(addresses_of(daemon, pair[1])))
    with in_terminal(command(daemon, "interfaces"), columns=columns) as terminal:
        assert terminal.wait_ended() == 0
        header, *rows = terminal.screen.lines
    (row,) = (row for row in rows if row.split()[1:2] == [pair[1]])
    at = header.find("ADDRESSES")
    shown = row[at:].split(", ") if at >= 0 else []
    assert bool(shown) == (columns >= 80)
    assert set(shown[:-1]) <= set(LONG_ADDRESSES)
    assert not shown or shown[-1] == f"+{len(addresses_of(daemon, pair[1])) - len(shown) + 1}"
    assert (len(shown) > 1) == (columns > 120)


def test_a_change_has_as_many_addresses_as_there_is_room_for() -> None:
    link = Link(
        index=7,
        name="eth0",
        loopback=False,
        is_up=True,
        state="up",
        mtu=1500,
        hardware_type=1,
        addresses=LONG_ADDRESSES,
    )
    changed = InterfaceChanged(InterfaceChange.CHANGED, link)
    everything = _change_line(changed, None)
    assert everything.endswith(f"changed: up, MTU 1500, {', '.join(LONG_ADDRESSES)}")
    for width in range(60, len(everything)):
        line = _change_line(changed, width)
        assert len(line) <= width
        *shown, left = line.partition("MTU 1500, ")[2].split(", ")
        assert tuple(shown) == LONG_ADDRESSES[: len(shown)]
        assert left == f"+{len(LONG_ADDRESSES) - len(shown)}"


def column(text: str, heading: str) -> dict[str, str]:
    """Return what a table has in a column, by the names in it; nothing where it has no such column."""
    header, *rows = text.splitlines()
    at = [each.start() for each in re.finditer(r"\S+", header)]
    headings = header.split()
    if heading not in headings:
        return {}
    begin, end = [*at, None][headings.index(heading) :][:2]
    return {row.split()[1]: row[begin:end].strip() for row in rows}


def test_what_one_needs_to_capture_is_shown(daemon: Daemon, user_dir: Path) -> None:
    assert column(done(daemon, "interfaces").stdout, "NEEDS") == {}
    assert column(done(daemon, "interfaces").stdout, "KIND")["nflog"] == "no interface"
    with running_daemon(user_dir, "--group", grp.getgrall()[-1].gr_name) as grouped:
        shown = as_user(lambda: done(grouped, "interfaces").stdout, STRANGER)
        listed = as_user(lambda: done(grouped, "interfaces", "--json").stdout, STRANGER)
    needs = column(shown, "NEEDS")
    assert (needs["lo"], needs["any"], needs["nflog"]) == ("a rule", "a rule", "")
    found = {each["name"]: each for each in map(json.loads, listed.splitlines())}
    assert {name: each["needs"] for name, each in found.items()} == {
        name: {"a rule": "rule", "": None}[text] for name, text in needs.items()
    }
    assert not any(each["may_capture"] for each in found.values())


def test_without_a_daemon_the_capability_is_what_one_needs() -> None:
    words = (*WITHOUT_RUN, "setpriv", "--bounding-set=-net_raw", "--inh-caps=-all", sys.executable, "-m")
    environment = {name: value for name, value in os.environ.items() if name != SOCKET_VARIABLE}
    shown, listed = (
        subprocess.run(
            [*words, "capd_client.cli", "interfaces", *options],
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE_S,
            env=environment,
        ).stdout
        for options in ((), ("--json",))
    )
    assert column(shown, "NEEDS")["lo"] == column(shown, "NEEDS")["any"] == "CAP_NET_RAW"
    (found,) = (each for each in map(json.loads, listed.splitlines()) if each["name"] == "lo")
    assert (found["may_capture"], found["needs"]) == (False, "CAP_NET_RAW")


@pytest.mark.parametrize(
    ("making", "word", "said"),
    [
        (("link", "add", "name", "{}", "type", "veth"), "lowerlayerdown", "but the device under it is down"),
        (("tuntap", "add", "name", "{}", "mode", "tap"), "no-carrier", "but has no carrier"),
        (("link", "add", "name", "{}", "type", "ifb"), "unknown", ""),
    ],
    ids=["veth", "tap", "ifb"],
)
def test_a_state_is_said_as_ip_shows_it(daemon: Daemon, making: tuple[str, ...], word: str, said: str) -> None:
    name = unique("cc")
    with cleaned(name), InterfaceWatcher(socket_path=daemon.socket_path) as watcher:

        def change(kind: InterfaceChange) -> str:
            while (changed := watcher.wait_for_change(PATIENCE_S)).change != kind or changed.link.name != name:
                pass
            return _change_line(changed, None)

        def state() -> str:
            (row,) = (row for row in done(daemon, "interfaces").stdout.splitlines() if row.split()[1] == name)
            return row.split()[2]

        ip(*(each.format(name) for each in making))
        ip("link", "set", "dev", name, "up")
        line = change(InterfaceChange.UP)
        assert line.endswith(f" {name:<15}  is up" + (f", {said} ({word.upper()})" if said else ""))
        shown = link_of(name)
        assert word.upper() in (shown["operstate"], *shown["flags"])
        assert ("NO-CARRIER" in shown["flags"]) == bool(said)
        assert state() == word
        ip("link", "set", "dev", name, "mtu", "1300")
        assert f"  changed: up{said and ', '}{said}" in change(InterfaceChange.CHANGED)
        ip("link", "set", "dev", name, "down")
        assert change(InterfaceChange.DOWN).endswith(f" {name:<15}  is down")
        assert state() == "down"


def test_link_types_are_shown_with_timestamps(daemon: Daemon) -> None:
    result = done(daemon, "linktypes", "any")
    assert (result.returncode, result.stderr) == (0, "")
    found = get_capabilities("any", socket_path=daemon.socket_path)
    lines = result.stdout.splitlines()
    for layer, line in zip(found.link_layers, lines[1:], strict=False):
        assert line.split(maxsplit=2) == [str(layer.dlt), layer.name, layer.description]
    assert lines[-2:] == ["Monitor mode: no", "Timestamps: host"]


def test_a_live_table_ends_with_ctrl_c(pair: tuple[str, str], daemon: Daemon) -> None:
    with running(daemon, "stats", "--interval", "0.1") as process:
        assert line_of(process).split()[:3] == ["INTERFACE", "PACKETS", "DROPPED"]
        assert ended(process) == (0, "")
    with running(daemon, "stats", "--interval", "0.1") as process:
        line_of(process)
        assert ended(process, signal.SIGTERM) == (0, "")


@contextlib.contextmanager
def restless(name: str) -> Generator[None, None, None]:
    """Have an interface go up and down meanwhile: the command does not say when it begins to watch."""
    is_over = threading.Event()
    ip("link", "add", "name", name, "type", "ifb")

    def toggle() -> None:
        while not is_over.wait(0.1):
            ip_batch((f"link set dev {name} up", f"link set dev {name} down"))

    thread = threading.Thread(target=toggle)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        delete(name)


def test_changes_are_lines_that_fit_a_terminal(pair: tuple[str, str], daemon: Daemon) -> None:
    with in_terminal(command(daemon, "watch")) as terminal:
        name = unique("cc")
        with restless(name):
            terminal.wait_for(f"{name} .*is down")
        terminal.wait_for(f"{name} .*is gone")
        ip("link", "set", "dev", pair[1], "mtu", "1300")
        terminal.wait_for("MTU 1300")
        terminal.type("\x03")
        assert terminal.wait_ended() == 0
        assert terminal.screen.wraps == 0
        assert max(map(len, terminal.screen.lines)) <= 80


# For programs ---------------------------------------------------------------------------------------------------


def test_the_list_is_json(pair: tuple[str, str], daemon: Daemon) -> None:
    result = done(daemon, "interfaces", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    found = Interface.list_interfaces(socket_path=daemon.socket_path)
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {**msgspec.json.decode(msgspec.json.encode(each.info)), "friendly_name": each.friendly_name} for each in found
    ]
    assert pair[0] in result.stdout


def test_link_types_are_json(daemon: Daemon) -> None:
    result = done(daemon, "linktypes", "any", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    expected = msgspec.json.encode(get_capabilities("any", socket_path=daemon.socket_path))
    assert {"type": "capabilities", **json.loads(result.stdout)} == json.loads(expected)


def test_statistics_are_json(pair: tuple[str, str], daemon: Daemon) -> None:
    with running(daemon, "stats", "--json", "--interval", "0.1") as process:
        first = json.loads(line_of(process))
        assert send(pair[0], [frame_for(0, 0)], 25) == 25
        later = first
        while later["interfaces"][pair[0]]["tx_packets"] < first["interfaces"][pair[0]]["tx_packets"] + 25:
            later = json.loads(line_of(process))
        assert later["timestamp_ns"] > first["timestamp_ns"]
        assert later["interfaces"][pair[1]]["rx_packets"] == 25
        assert ended(process)[0] == 0
    once = done(daemon, "stats", "--json", "--once", "--interval", "0.05")
    assert once.returncode == 0
    assert len(once.stdout.splitlines()) == 1
    assert pair[0] in json.loads(once.stdout)["interfaces"]


def test_statistics_go_on_while_interfaces_come_and_go(daemon: Daemon) -> None:
    stem = unique("cc")
    with cleaned(stem), running(daemon, "stats", "--json", "--interval", "0.05") as process:
        line_of(process)
        for _ in range(5):
            ip_batch(f"link add name {stem}x{number} type ifb" for number in range(10))
            for number in range(10):
                delete(f"{stem}x{number}")
                assert process.poll() is None
        assert ended(process) == (0, "")


def test_changes_are_json(daemon: Daemon) -> None:
    stem = unique("cc")
    with cleaned(stem), running(daemon, "watch", "--json") as process:
        with restless(f"{stem}x"):
            found = json.loads(line_of(process))
        ip("link", "add", "name", f"{stem}a", "type", "ifb")
        ip("link", "set", "dev", f"{stem}a", "name", f"{stem}b")
        while found["change"] != "renamed":
            found = json.loads(line_of(process))
        assert (found["former_name"], found["link"]["name"]) == (f"{stem}a", f"{stem}b")
        assert found["timestamp_ns"] > 0
        delete(f"{stem}b")
        while found["change"] != "removed":
            found = json.loads(line_of(process))
        assert found["link"]["name"] == f"{stem}b"
        assert ended(process) == (0, "")


# What goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "complaint"),
    [
        (("linktypes", "nothing0"), 1, "nothing0"),
        (("linktypes", ""), 1, "''"),
        (("linktypes", "x" * 300), 1, "xxx"),
        (("linktypes",), 2, "IFACE"),
        (("stats", "--interval", "0"), 2, "0.05"),
        (("stats", "--interval", "soon"), 2, "soon"),
        (("watch", "lo"), 2, "lo"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(daemon: Daemon, words: tuple[str, ...], status: int, complaint: str) -> None:
    result = done(daemon, *words)
    assert (result.returncode, result.stdout) == (status, "")
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()[-1]) < 400


@pytest.mark.parametrize("name", ["interfaces", "stats", "watch", "linktypes lo"])
def test_without_a_daemon_at_the_place_that_was_named_nothing_is_shown(name: str) -> None:
    result = called("--socket", "/nowhere/capd.sock", *name.split())
    assert (result.returncode, result.stdout) == (NO_DAEMON, "")
    assert "/nowhere/capd.sock" in result.stderr
    assert "Traceback" not in result.stderr
