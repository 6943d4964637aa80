"""Devices of capture modules that the daemon opens for users whom a rule names, in a network namespace of its own."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import trio

from capd_client import (
    BadFilterError,
    CaptureSession,
    NoSuchCapture,
    NotPermitted,
    ResourceError,
    SourceError,
    UnsupportedError,
    aio,
    read,
    revoke_captures,
)
from capd_protocol.formats.packet_flags import Direction
from capd_protocol.messages import DeviceEnded, DeviceOpened, FailureCode, InterfaceRequest, OpenDevice
from tests.capture.helpers import ip
from tests.cli.calling import called
from tests.client.test_nflog import RULES as LOGGED
from tests.client.test_nflog import fields_of, send
from tests.support.accounts import have_account
from tests.support.attack import Channel, User, await_end, connected_as, eventually, process_of, reload
from tests.support.daemon import Daemon, MakeDir, running_daemon, status_of
from tests.support.namespace import private_network_namespace

LISTENER = User(23_721, 23_721)
OTHER = User(23_722, 23_722)
RULES = f"""
[[rule]]
name = "log"
users = [{LISTENER.user_id}]
devices = ["nflog:5", "nflog:6", "dbus-*"]
max_snaplen_bytes = 2048

[[rule]]
name = "other"
users = [{OTHER.user_id}]
"""


@pytest.fixture(scope="module", autouse=True)
def log() -> Generator[None, None, None]:
    """The rules of netfilter, in a network namespace that has a loopback."""
    with private_network_namespace():
        ip("link", "set", "lo", "up")
        subprocess.run(["nft", "-f", "-"], input=LOGGED, text=True, check=True)
        yield


@contextlib.contextmanager
def daemon_in(directory: Path) -> Generator[Daemon, None, None]:
    """Run a daemon in that network namespace, with CAP_NET_ADMIN."""
    for user in (LISTENER, OTHER):
        have_account(user.user_id)
    path = directory / "capd.toml"
    path.write_text(RULES)
    # As one that is not forked it is in our network namespace.
    with running_daemon(directory, "--modules", "--config", str(path), prefix=("env",)) as running:
        yield running


@pytest.fixture(scope="module")
def opening(make_dir: MakeDir) -> Generator[Daemon, None, None]:
    """A daemon for all tests that leave it as it is."""
    with daemon_in(make_dir("opening")) as running:
        yield running


def rules_of(daemon: Daemon) -> Path:
    """Return where its configuration is."""
    return daemon.log_path.with_name("capd.toml")


@pytest.fixture
def changing(opening: Daemon) -> Generator[Daemon, None, None]:
    """The daemon, whose rules a test changes."""
    yield opening
    reload(opening, rules_of(opening), RULES)


@pytest.fixture
def listeners_dir(make_dir: MakeDir) -> Path:
    """A directory of the user's."""
    directory = make_dir("listener")
    os.chown(directory, LISTENER.user_id, LISTENER.group_id)
    return directory


def module_of(daemon: Daemon, user: User = LISTENER) -> int:
    """Return the process of the only device that is open."""
    (process,) = (each for each in daemon.workers() if b"capture-granted" in command_of(each))
    assert status_of(process)["Uid"].split() == [str(user.user_id)] * 4
    return process


def command_of(process: int) -> list[bytes]:
    return Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")


def capture(daemon: Daemon, path: Path, **arguments: Any) -> Callable[[Channel], None]:
    """Return what captures until it is told to end, and answers how many packets there were."""

    def run(channel: Channel) -> None:
        session = CaptureSession(savefile=path, socket_path=daemon.socket_path, **arguments)
        with session:
            channel.send("running")
            channel.recv()
            with contextlib.suppress(NoSuchCapture):  # it has ended, and how comes when the block is left
                session.flush()
        channel.send(session.packetcount)

    return run


def test_a_user_whom_a_rule_names_captures_what_root_does(opening: Daemon, listeners_dir: Path) -> None:
    daemon = opening
    path = listeners_dir / "log.pcapng"
    with process_of(LISTENER, capture(daemon, path, interfaces="nflog:5", packet_flags=True)) as process:
        assert process.hear() == "running"
        module = module_of(daemon)
        status = status_of(module)
        # Whatever it could do to open the device, it cannot any more.
        assert [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0, 0, 0, 0]
        assert status["NoNewPrivs"] == "1"
        # Nothing that this user could have put into a home directory was imported while it could.
        assert {b"-I", b"-s"} & set(command_of(module))
        assert not any(each.startswith(b"HOME=") for each in Path(f"/proc/{module}/environ").read_bytes().split(b"\0"))
        send(20)
        send(3, port=8)
        eventually(lambda: path.exists() and len(list(read(path))) == 23, "all are there")
        process.say("end")
        assert process.hear() == 23
    await_end([module])
    assert {tuple(each) for each in fields_of(path, "nflog.res_id", "nflog.prefix")} == {("5", "came"), ("5", "went")}
    assert [each.direction for each in read(path)].count(Direction.OUT) == 3
    eventually(lambda: "ended: user" in daemon.log, "the line of its end")
    granted = next(each for each in daemon.log.splitlines() if "granted" in each and "open_device" in each)
    assert 'device="nflog:5"' in granted
    assert "rule=log" in granted


def test_asynchronous_programs_have_it_too(opening: Daemon, listeners_dir: Path) -> None:
    path = listeners_dir / "log.pcapng"

    async def take(channel: Channel) -> None:
        session = aio.CaptureSession(interfaces="nflog:6", savefile=path, socket_path=opening.socket_path)
        async with session:
            channel.send("running")
            await trio.to_thread.run_sync(channel.recv)
        channel.send(session.packetcount)
        devices = await aio.list_interfaces(modules=True, socket_path=opening.socket_path)
        channel.send({each.name: each.may_capture for each in devices if each.name == "nflog"})

    def run(channel: Channel) -> None:
        trio.run(take, channel)

    with process_of(LISTENER, run) as process:
        assert process.hear() == "running"
        module = module_of(opening)
        send(4)
        eventually(lambda: path.exists() and len(list(read(path))) == 4, "all are there")
        process.say("end")
        assert process.hear() == 4
        assert process.hear() == {"nflog": True}
    await_end([module])


@pytest.mark.parametrize("user", [LISTENER, OTHER])
def test_a_user_whom_no_rule_names_for_it_is_refused_in_both_their_words(
    opening: Daemon, listeners_dir: Path, user: User
) -> None:
    daemon = opening
    with (
        process_of(user, capture(daemon, listeners_dir / "a", interfaces="nflog:7")) as process,
        pytest.raises(NotPermitted) as raised,
    ):
        process.hear()
    text = str(raised.value)
    assert "nflog:7 takes CAP_NET_ADMIN" in text
    assert f"user {user.user_id} may not have capd open nflog:7: ask an administrator" in text
    assert """with 'devices = ["nflog:7"]'""" in text
    assert not daemon.workers()


def test_options_of_the_capture_are_the_modules(opening: Daemon, listeners_dir: Path) -> None:
    daemon = opening
    path = listeners_dir / "log.pcapng"
    options = {"direction": "out", "kernel_buffer_size": 4, "snaplen": 60}
    with process_of(LISTENER, capture(daemon, path, interfaces="nflog:5", **options)) as process:
        assert process.hear() == "running"
        send(2)
        send(3, port=8)
        eventually(lambda: path.exists() and len(list(read(path))) == 3, "all are there")
        process.say("end")
        assert process.hear() == 3
    assert {len(each.data) for each in read(path)} == {60}


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"kernel_buffer_size": 65}, ResourceError, "at most 64 MiB"),
        ({"monitor_mode": True}, UnsupportedError, "is no radio"),
        ({"link_layer_type": "EN10MB"}, UnsupportedError, "link-layer type"),
        ({"capture_filter": "no filter at all"}, BadFilterError, "filter"),
    ],
)
def test_what_is_not_possible_is_refused(
    opening: Daemon, listeners_dir: Path, options: dict[str, Any], kind: type[Exception], words: str
) -> None:
    daemon = opening
    with (
        process_of(LISTENER, capture(daemon, listeners_dir / "a", interfaces="nflog:5", **options)) as process,
        pytest.raises(kind, match=words),
    ):
        process.hear()
    eventually(lambda: not daemon.workers(), "nothing is left")


def test_a_group_that_another_program_has_is_busy(opening: Daemon, listeners_dir: Path) -> None:
    daemon = opening
    with process_of(LISTENER, capture(daemon, listeners_dir / "a", interfaces="nflog:5")) as process:
        assert process.hear() == "running"
        again = capture(daemon, listeners_dir / "b", interfaces="nflog:5")
        with process_of(LISTENER, again) as another, pytest.raises(ResourceError, match="another program listens"):
            another.hear()


def test_who_loses_the_right_loses_the_device_when_it_is_revoked(changing: Daemon, listeners_dir: Path) -> None:
    daemon = changing
    with process_of(LISTENER, capture(daemon, listeners_dir / "a", interfaces="nflog:5")) as process:
        assert process.hear() == "running"
        module = module_of(daemon)
        assert revoke_captures(socket_path=daemon.socket_path).devices_ended == ()
        reload(daemon, rules_of(daemon), RULES.replace('"nflog:5", ', ""))
        (line,) = revoke_captures(dry_run=True, socket_path=daemon.socket_path).devices_ended
        assert (line.user_id, line.device) == (LISTENER.user_id, "nflog:5")
        assert line.why == "no rule allows the device, as it was asked for"
        # It cannot stand in the way of that.
        os.kill(module, signal.SIGSTOP)
        done = called("--socket", daemon.socket_path, "revoke")
        assert done.stdout.splitlines()[-1] == "1 device ended."
        assert "has nflog:5" in done.stdout
        eventually(lambda: not daemon.workers(), "the capture has ended by itself")
        process.say("end")
        with pytest.raises(SourceError, match="an administrator has revoked this"):
            process.hear()


def test_nothing_is_left_of_a_client_that_is_killed(opening: Daemon, listeners_dir: Path) -> None:
    daemon = opening
    with process_of(LISTENER, capture(daemon, listeners_dir / "a", interfaces="nflog:5")) as process:
        assert process.hear() == "running"
        module = module_of(daemon)
        process.kill()
        await_end([module])


def test_a_module_that_is_killed_ends_the_capture_in_words(opening: Daemon, listeners_dir: Path) -> None:
    daemon = opening
    with process_of(LISTENER, capture(daemon, listeners_dir / "a", interfaces="nflog:5")) as process:
        assert process.hear() == "running"
        os.kill(module_of(daemon), signal.SIGKILL)
        eventually(lambda: not daemon.workers(), "the capture has ended by itself")
        process.say("end")
        with pytest.raises(SourceError, match="nflog:5"):
            process.hear()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_daemon_that_stops_or_dies_takes_its_devices_along(
    make_dir: MakeDir, listeners_dir: Path, number: int
) -> None:
    with daemon_in(make_dir("ending")) as daemon:
        arguments = {"interfaces": "nflog:5"}
        with process_of(LISTENER, capture(daemon, listeners_dir / "a", **arguments)) as process:
            assert process.hear() == "running"
            module = module_of(daemon)
            daemon.process.send_signal(number)
            daemon.process.wait()
            await_end([module])


def asked(name: str = "nflog:5", **changes: Any) -> OpenDevice:
    return OpenDevice(interface=InterfaceRequest(name=name, is_stream=True, **changes))


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (OpenDevice(interface=InterfaceRequest(name="nflog:5")), FailureCode.INVALID),
        (asked("nflog:5\n"), FailureCode.INVALID),
        (asked("nflog:5" + 300 * "x"), FailureCode.INVALID),
        (asked(snaplen_bytes=0), FailureCode.INVALID),
        (asked(kernel_buffer_size_bytes=-1), FailureCode.INVALID),
        (asked(capture_filter="x" * 20_000), FailureCode.INVALID),
        (asked("nflog:6;reboot"), FailureCode.NOT_PERMITTED),
        (asked(monitor_mode=True), FailureCode.NOT_PERMITTED),
        (asked("dbus-nonsense"), FailureCode.NO_SUCH_INTERFACE),
        (asked("dbus-session"), None),
    ],
)
def test_a_request_that_is_not_the_librarys_is_answered_in_a_typed_way(
    opening: Daemon, request_: OpenDevice, code: FailureCode | None
) -> None:
    daemon = opening
    with connected_as(LISTENER, daemon) as client:
        client.send(request_)
        failure = client.refusal()
        assert code is None or failure.code == code
        # Something else may be asked for then.
        client.send(asked())
        client.receive(DeviceOpened)
    eventually(lambda: not daemon.workers(), "nothing is left")


def test_no_more_devices_are_open_at_once_than_is_said(changing: Daemon) -> None:
    daemon = changing
    reload(daemon, rules_of(daemon), RULES.replace('"nflog:5", ', '"nflog:*", '))
    with contextlib.ExitStack() as stack:
        for group in range(8):
            client = stack.enter_context(connected_as(LISTENER, daemon))
            client.send(asked(f"nflog:{100 + group}"))
            client.receive(DeviceOpened)
        client = stack.enter_context(connected_as(LISTENER, daemon))
        client.send(asked("nflog:200"))
        refused = client.refusal()
        assert refused.code == FailureCode.RESOURCES
        assert "8 programs of this user have devices" in refused.text
    eventually(lambda: not daemon.workers(), "nothing is left")


def test_a_client_that_says_more_breaks_the_protocol(opening: Daemon) -> None:
    daemon = opening
    with connected_as(LISTENER, daemon) as client:
        client.send(asked())
        client.receive(DeviceOpened)
        client.send(asked("nflog:6"))
        assert client.refusal().code == FailureCode.PROTOCOL
    eventually(lambda: not daemon.workers(), "nothing is left")


def test_a_device_nobody_reads_ends(opening: Daemon) -> None:
    daemon = opening
    with connected_as(LISTENER, daemon) as client:
        client.send(asked())
        client.receive(DeviceOpened)
        os.close(client.pipes.pop())
        assert client.receive(DeviceEnded) == DeviceEnded()


def test_what_rules_allow_is_shown(opening: Daemon) -> None:
    daemon = opening

    def run(channel: Channel) -> None:
        for words in (["whoami"], ["whoami", "--json"], ["interfaces", "--modules"]):
            channel.send(called("--socket", daemon.socket_path, *words).stdout)

    with process_of(LISTENER, run) as process:
        assert "    and have capd open the devices nflog:5, nflog:6, dbus-*\n" in process.hear()
        assert json.loads(process.hear())["permissions"][0]["devices"] == ["nflog:5", "nflog:6", "dbus-*"]
        (line,) = (each for each in process.hear().splitlines() if "nflog" in each)
        assert "CAP_NET_ADMIN" not in line
    with process_of(OTHER, run) as process:
        assert "devices" not in process.hear()
        process.hear()
        (line,) = (each for each in process.hear().splitlines() if "nflog" in each)
        assert "CAP_NET_ADMIN" in line
