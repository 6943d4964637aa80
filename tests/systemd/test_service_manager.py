"""What the service manager passes, and what it is sent; no service manager is needed for it."""

import contextlib
import os
import re
import socket
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
import trio
import trio.testing

from capd import limits
from capd.captures.lasting.detached import Detached
from capd.captures.registry import Captures
from capd.clients.server import Server
from capd.leases.devices import Devices
from capd.leases.senders import Senders
from capd.network.monitor import Monitor
from capd.policy.audit import Audit
from capd.policy.peer import Peer
from capd.policy.people import People
from capd.policy.rules import Policy
from capd.service import systemd
from capd.service.systemd import Inherited, ServiceManagerError, listener_of, take_inherited, watchdog_interval_s
from capd.supervisor.closer import Closer
from capd.supervisor.packet_rings import PacketRingMaker
from capd.supervisor.spawner import Spawner
from tests.support.attack import request_for
from tests.support.daemon import running_daemon

UNIT = Path(__file__).parents[2] / "systemd" / "capd.service"
PROCESS_ID = 77


def passed(**variables: str) -> dict[str, str]:
    return {"LISTEN_PID": str(PROCESS_ID), "LISTEN_FDS": "1", "PATH": "/bin", **variables}


# Inherited sockets -------------------------------------------------------------------------------------------------


def test_descriptors_begin_at_3_and_have_names() -> None:
    inherited = take_inherited(passed(LISTEN_FDS="2", LISTEN_FDNAMES="capd.socket:other"), PROCESS_ID)
    assert inherited == [Inherited(3, "capd.socket"), Inherited(4, "other")]


def test_names_may_be_missing() -> None:
    assert take_inherited(passed(LISTEN_FDS="2"), PROCESS_ID) == [Inherited(3, ""), Inherited(4, "")]


@pytest.mark.parametrize("process_id", [PROCESS_ID, PROCESS_ID + 1])
def test_what_we_start_sees_none_of_the_variables(process_id: int) -> None:
    environment = passed(LISTEN_FDNAMES="capd.socket")
    take_inherited(environment, process_id)
    assert environment == {"PATH": "/bin"}


def test_what_is_meant_for_another_process_is_not_taken() -> None:
    assert take_inherited(passed(), PROCESS_ID + 1) == []
    assert take_inherited({}, PROCESS_ID) == []


@pytest.mark.parametrize("number", ["", "-1", "many", "\N{SUPERSCRIPT TWO}"])
def test_a_number_of_descriptors_that_is_none_is_refused(number: str) -> None:
    with pytest.raises(ServiceManagerError):
        take_inherited(passed(LISTEN_FDS=number), PROCESS_ID)


def test_two_sockets_are_refused() -> None:
    with pytest.raises(ServiceManagerError):
        systemd.listener_among([Inherited(3, "capd.socket"), Inherited(4, "other")])


def test_the_socket_of_containers_is_known_by_its_name_and_no_other_is() -> None:
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind("")
        ours.listen()
        passed_on = [Inherited(os.dup(ours.fileno()), "containers")]
        assert systemd.listener_among(passed_on) is None
        listener = systemd.containers_listener_among(passed_on)
        assert listener is not None
        listener.close()
        with pytest.raises(ServiceManagerError, match="FileDescriptorName=containers"):
            systemd.listener_among([Inherited(ours.fileno(), "container")])


def test_without_a_socket_the_daemon_makes_its_own() -> None:
    assert systemd.listener_among([]) is None


def test_a_listener_is_taken_and_not_passed_on() -> None:
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind("")  # an abstract name of the kernel's choice
        ours.listen()
        descriptor = os.dup(ours.fileno())
        os.set_inheritable(descriptor, True)
        with listener_of(Inherited(descriptor, "capd.socket")) as listener:
            assert listener.getsockname() == ours.getsockname()
            assert not listener.get_inheritable()


def unix_datagram() -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    bound.bind("")
    return bound


def internet_listener() -> socket.socket:
    listener = socket.socket(socket.AF_INET)
    listener.bind(("", 0))
    listener.listen()
    return listener


def not_listening() -> socket.socket:
    return socket.socket(socket.AF_UNIX)


@pytest.mark.parametrize("make", [unix_datagram, internet_listener, not_listening])
def test_any_other_socket_is_refused(make: object) -> None:
    assert callable(make)
    with make() as other, pytest.raises(ServiceManagerError):
        listener_of(Inherited(os.dup(other.fileno()), "capd.socket"))


def test_what_is_no_socket_is_refused() -> None:
    with tempfile.TemporaryFile() as file, pytest.raises(ServiceManagerError):
        listener_of(Inherited(file.fileno(), "capd.socket"))


def test_a_daemon_leaves_a_socket_that_has_come_in_the_place_of_its_own(user_dir: Path) -> None:
    with running_daemon(user_dir) as daemon, socket.socket(socket.AF_UNIX) as managers:
        path = Path(daemon.socket_path)
        path.rename(user_dir / "old")
        managers.bind(str(path))
        assert daemon.terminate() == 0
        assert path.is_socket()


def test_a_daemon_removes_its_own_socket(user_dir: Path) -> None:
    with running_daemon(user_dir) as daemon:
        assert Path(daemon.socket_path).is_socket()
        assert daemon.terminate() == 0
        assert not Path(daemon.socket_path).exists()


# The watchdog ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "1000", "WATCHDOG_PID": str(PROCESS_ID)}, 0.0005),
        ({"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}, None),
    ],
)
def test_half_the_time_is_the_interval(environment: dict[str, str], interval_s: float | None) -> None:
    assert watchdog_interval_s(environment, PROCESS_ID) == interval_s


@pytest.mark.parametrize("time_us", ["", "soon", "0", "-5"])
def test_a_time_that_is_none_is_refused(time_us: str) -> None:
    with pytest.raises(ServiceManagerError):
        watchdog_interval_s({"WATCHDOG_USEC": time_us}, PROCESS_ID)


# Notifications -----------------------------------------------------------------------------------------------------


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Generator[socket.socket, None, None]:
    """The socket of a service manager."""
    with unix_datagram() as manager:
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + manager.getsockname()[1:].decode())
        yield manager


def heard(manager: socket.socket) -> list[str]:
    states: list[str] = []
    while True:
        try:
            states.append(manager.recv(4096).decode())
        except BlockingIOError:
            return states


async def test_the_watchdog_is_fed_as_long_as_the_loop_comes_round(
    manager: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    with trio.move_on_after(10):
        await systemd.feed_watchdog(4.0)
    assert heard(manager) == ["WATCHDOG=1"] * 3


async def test_the_status_is_sent_when_it_changes(
    manager: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    texts = iter(["one", "one", "two", "two", "two"])
    with pytest.raises(RuntimeError):  # the end of the texts, in a coroutine
        await systemd.keep_status(lambda: next(texts))
    assert heard(manager) == ["STATUS=one", "STATUS=two"]


async def test_a_status_that_could_not_be_sent_is_sent_later(
    manager: socket.socket, autojump_clock: trio.testing.MockClock
) -> None:
    asked = 0
    with unix_datagram() as other:
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"X=1", manager.getsockname())

    def text() -> str:
        nonlocal asked
        asked += 1
        if asked == 2:
            heard(manager)  # there is room again
        return "now"

    with trio.move_on_after(5):
        await systemd.keep_status(text)
    assert heard(manager) == ["STATUS=now"]


def test_a_reload_begins_and_ends(manager: socket.socket) -> None:
    with systemd.reloading():
        (begun,) = heard(manager)
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", begun)
    assert heard(manager) == ["READY=1"]


def test_without_a_manager_nobody_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify("READY=1")
    assert caplog.records == []


def test_a_manager_that_is_gone_is_worth_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    systemd.notify("READY=1")
    assert len(caplog.records) == 1


async def test_the_status_counts_captures_and_their_users() -> None:
    captures = Captures(Policy(owner_id=1000), Spawner(), Closer(), PacketRingMaker())
    monitor, audit = Monitor(), Audit()
    senders = Senders(Policy, monitor, Spawner(), Closer(), People())
    devices = Devices(Policy, Spawner(), Closer(), People())
    detached = Detached(captures, monitor, audit, Closer())
    server = Server(captures, detached, monitor, audit, Closer(), senders=senders, devices=devices)
    assert server.status() == "0 captures of 0 users, 0 clients"
    root, user = (Peer(1, user_id, user_id, ()) for user_id in (0, 1000))
    with captures.granted(root, request_for("lo")):
        assert server.status() == "1 capture of 1 user, 0 clients"
        with captures.granted(user, request_for("lo")), captures.granted(user, request_for("lo")):
            assert server.status() == "3 captures of 2 users, 0 clients"


# The unit ----------------------------------------------------------------------------------------------------------


def setting(name: str) -> str:
    """Return what the unit sets something to, once."""
    (found,) = re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)
    return str(found)


def test_the_unit_leaves_time_to_end_captures() -> None:
    assert int(setting("TimeoutStopSec")) >= limits.STOP_TIMEOUT_S + limits.END_TIMEOUT_S


def test_the_unit_has_room_for_all_detached_captures() -> None:
    assert int(setting("FileDescriptorStoreMax")) == 2 * limits.MAX_DETACHED


def test_the_unit_has_room_for_all_descriptors() -> None:
    assert int(setting("LimitNOFILE")) == limits.DESCRIPTORS


def test_the_unit_has_room_for_all_captures_of_users_at_once() -> None:
    of_captures = 2 * (limits.MAX_CLIENTS + limits.MAX_DETACHED)
    of_daemon = limits.MAX_RINGS_BEING_MADE + limits.MAX_QUESTIONS + limits.MAX_SCRAPES
    # As much again for captures of the configuration, and no more: it is a bound.
    assert of_captures + of_daemon < int(setting("TasksMax")) <= 2 * of_captures


def test_the_unit_has_room_for_the_greatest_recorder_and_leaves_some_to_others() -> None:
    share = int(setting("MemoryMax").removesuffix("%")) / 100
    assert limits.RECORDER_SHARE < share < 1
