"""Whoever is killed, nothing remains running, files are readable, and the others go on."""

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from capd import limits
from capd_client import BrokenPipe, CaptureEnded, CaptureSession, ChildError, DaemonGone, ResourceError, list_captures
from capd_protocol.messages import (
    CaptureList,
    EndReason,
    FailureCode,
    InterfaceEvent,
    InterfaceRequest,
    InterfaceSnapshot,
    ListCaptures,
    Started,
    WatchInterfaces,
)
from tests.support.attack import (
    ENHANCED_PACKET,
    FRAMES,
    PATIENCE_S,
    Channel,
    RawClient,
    User,
    await_end,
    beginning_worker,
    blocks_of,
    capturing,
    check_complete,
    check_unharmed,
    connected_as,
    eventually,
    leaving_nothing,
    opened,
    process_of,
    promiscuity_of,
    replaced_when_dead,
    request_for,
    slow_request_for,
    traffic,
    with_limits,
    without_stragglers,
)
from tests.support.daemon import Daemon, MakeDir, running_daemon
from tests.support.namespace import veth_pair
from tests.support.traffic import send

ROOT = User(0, 0)
#: Of this process alone: it stops all processes of its user, also those of tests that run at the same time.
MEMBER = User(100_000 + os.getpid(), 12345, (1,))
MEMBERS = "daemon"  # what the group 1 is called everywhere


@pytest.fixture(scope="module")
def _daemons(make_dir: MakeDir) -> Generator[Callable[[], Daemon], None, None]:
    directory = make_dir("kill")
    with replaced_when_dead(directory, "--group", MEMBERS) as get:
        yield get


@pytest.fixture
def daemon(_daemons: Callable[[], Daemon]) -> Daemon:
    """A daemon that no test of this file ends, if all is well."""
    return _daemons()


@pytest.fixture
def where(user_dir: Path) -> Path:
    """A directory for a daemon of the test's own."""
    directory = user_dir / "daemon"
    directory.mkdir()
    return directory


def _session(daemon: Daemon, interface: str, savefile: Path, **arguments: Any) -> CaptureSession:
    session = CaptureSession(
        interfaces=interface, savefile=savefile, socket_path=daemon.socket_path, update_interval=0.02, **arguments
    )
    try:
        session.wait_started(PATIENCE_S)
    except BaseException:
        session.terminate()
        raise
    return session


def _await_packets(session: CaptureSession, count: int) -> None:
    while session.packetcount < count:
        session.wait_for_event(timeout=PATIENCE_S)


def _rest(session: CaptureSession) -> tuple[list[tuple[int, Any]], Exception]:
    """Return the events that are left, and what ends them."""
    events: list[tuple[int, Any]] = []
    try:
        while True:
            events.append(session.wait_for_event(timeout=PATIENCE_S))
    except (BrokenPipe, ChildError) as error:
        return events, error


# The client -----------------------------------------------------------------------------------------------------


def test_a_killed_client_leaves_a_whole_file_and_nothing_else(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    savefile = user_dir / "x.pcapng"
    arguments = {"interfaces": veth[1], "savefile": savefile, "socket_path": daemon.socket_path}
    counted = 0
    with leaving_nothing(daemon, veth[1]), traffic(veth[0]), capturing(ROOT, **arguments) as (process, _):
        workers = daemon.workers()
        assert promiscuity_of(veth[1]) == 1
        while counted < 500:
            event_type, message = process.ask("wait")
            counted += message if event_type == CaptureSession.SP_PACKET_COUNT else 0
        process.kill()
        await_end(workers)
    assert check_complete(savefile) >= counted
    assert promiscuity_of(veth[1]) == 0


# The worker -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_worker_is_told_of_and_its_file_is_readable(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, number: int
) -> None:
    savefile = user_dir / "x.pcapng"
    with leaving_nothing(daemon, veth[1]), traffic(veth[0]), _session(daemon, veth[1], savefile) as session:
        _await_packets(session, 500)
        (worker,) = daemon.workers()
        os.kill(worker, number)
        killed_s = time.monotonic()
        events, error = _rest(session)
        assert time.monotonic() - killed_s < 2
        assert isinstance(error, ChildError)
        assert error.failure is not None
        assert error.failure.code == FailureCode.WORKER_DIED
        assert events[-2:] == [(session.SP_ERROR_MSG, str(error)), (session.SP_ENDED, EndReason.FAILED)]
        announced = session.packetcount
    assert announced >= 500
    assert sum(kind == ENHANCED_PACKET for kind in blocks_of(savefile)) >= announced
    tshark = ["tshark", "-n", "-r", str(savefile), "-T", "fields", "-e", "frame.number"]
    # It may complain of a record that is cut short, behind all those that were announced.
    shown = subprocess.run(tshark, capture_output=True, text=True, check=False, timeout=30)
    assert len(shown.stdout.splitlines()) >= announced
    check_unharmed(daemon, veth, user_dir)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_ends_a_service_does_not_end_a_capture_in_the_middle(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, number: int
) -> None:
    with _session(daemon, veth[1], user_dir / "x.pcapng") as session:
        (worker,) = daemon.workers()
        send(veth[0], FRAMES, 10)
        os.kill(worker, number)
        send(veth[0], FRAMES, 10)
        session.stop()
        _, error = _rest(session)
        assert type(error) is CaptureEnded
    check_complete(user_dir / "x.pcapng", 20)


def test_other_captures_go_on_when_a_worker_is_killed(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(_session(daemon, veth[1], user_dir / "kept.pcapng"))
        (first,) = daemon.workers()
        lost = stack.enter_context(_session(daemon, veth[1], user_dir / "lost.pcapng"))
        (second,) = set(daemon.workers()) - {first}
        send(veth[0], FRAMES, 100)
        _await_packets(kept, 100)
        _await_packets(lost, 100)
        os.kill(second, signal.SIGKILL)
        _, error = _rest(lost)
        assert isinstance(error, ChildError)
        assert promiscuity_of(veth[1]) == 1
        assert daemon.workers() == [first]
        send(veth[0], FRAMES, 100)
        kept.stop()
        kept.wait(PATIENCE_S)
        assert kept.packetcount == 200
        assert kept.dropcount == 0
    check_complete(user_dir / "kept.pcapng", 200)
    assert sum(kind == ENHANCED_PACKET for kind in blocks_of(user_dir / "lost.pcapng")) == 100


# The daemon -----------------------------------------------------------------------------------------------------


def test_a_killed_daemon_takes_its_workers_along_and_they_end_well(
    where: Path, veth: tuple[str, str], user_dir: Path
) -> None:
    with running_daemon(where) as daemon, traffic(veth[0]):
        sessions = [_session(daemon, veth[1], user_dir / f"{number}.pcapng") for number in range(2)]
        for session in sessions:
            _await_packets(session, 500)
        workers = daemon.workers()
        daemon.process.kill()
        daemon.process.wait()
        for session in sessions:
            _, error = _rest(session)
            assert type(error) is DaemonGone
            session.terminate()
        await_end(workers)
    assert promiscuity_of(veth[1]) == 0
    for number, session in enumerate(sessions):
        assert check_complete(user_dir / f"{number}.pcapng") >= session.packetcount
    # What it left where it listened is in nobody's way.
    assert stat.S_ISSOCK((where / "capd.sock").stat().st_mode)
    with running_daemon(where) as daemon:
        check_unharmed(daemon, veth, user_dir)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_that_is_told_to_stop_ends_all_captures_well(
    where: Path, veth: tuple[str, str], user_dir: Path, number: int
) -> None:
    with running_daemon(where) as daemon:
        savefiles = [user_dir / f"{name}.pcapng" for name in "abc"]
        sessions = [_session(daemon, veth[1], savefile) for savefile in savefiles]
        sent = send(veth[0], FRAMES, 3000)
        workers = daemon.workers()
        daemon.process.send_signal(number)
        for session in sessions:
            events, error = _rest(session)
            assert type(error) is CaptureEnded
            assert events[-1] == (session.SP_ENDED, EndReason.DAEMON_STOPPING)
            assert session.packetcount == sent
            assert session.dropcount == 0
            session.terminate()
        assert daemon.process.wait(PATIENCE_S) == 0
        await_end(workers, 0)
        assert not Path(daemon.socket_path).exists()
        assert "Traceback" not in daemon.log
    for savefile in savefiles:
        check_complete(savefile, sent)
    assert promiscuity_of(veth[1]) == 0
    with running_daemon(where) as daemon:
        check_unharmed(daemon, veth, user_dir)


def test_a_stopping_daemon_refuses_captures_and_says_why(where: Path, veth: tuple[str, str], user_dir: Path) -> None:
    with running_daemon(where) as daemon, _session(daemon, veth[1], user_dir / "x.pcapng") as session:
        (worker,) = daemon.workers()
        with opened(user_dir) as directory, RawClient(daemon.socket_path) as late:
            late.send(request_for("nosuch0"), [directory])
            assert late.refusal().code == FailureCode.NO_SUCH_INTERFACE  # it is being served
            os.kill(worker, signal.SIGSTOP)
            daemon.process.send_signal(signal.SIGTERM)
            eventually(lambda: "stopping" in daemon.log, "the daemon's stopping")
            late.send(request_for(veth[1], "late.pcapng"), [directory])
            failure = late.refusal()
            assert failure.code == FailureCode.STOPPING
            assert "stopping" in failure.text
        with pytest.raises(ResourceError, match="stopping"):
            _session(daemon, veth[1], user_dir / "later.pcapng")
        os.kill(worker, signal.SIGCONT)
        events, _ = _rest(session)
        assert events[-1] == (session.SP_ENDED, EndReason.DAEMON_STOPPING)
        assert daemon.process.wait(PATIENCE_S) == 0
    assert [file.name for file in user_dir.glob("*.pcapng")] == ["x.pcapng"]


def test_a_daemon_stops_although_the_service_manager_is_gone(
    where: Path, veth: tuple[str, str], user_dir: Path
) -> None:
    with running_daemon(where) as daemon, _session(daemon, veth[1], user_dir / "x.pcapng") as session:
        (where / "notify").rename(where / "gone")
        try:
            daemon.process.send_signal(signal.SIGTERM)
            events, error = _rest(session)
            assert type(error) is CaptureEnded
            assert daemon.process.wait(PATIENCE_S) == 0
        finally:
            (where / "gone").rename(where / "notify")
    assert events[-1] == (CaptureSession.SP_ENDED, EndReason.DAEMON_STOPPING)


# The socket's place ---------------------------------------------------------------------------------------------


def _start_in_vain(socket_path: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "capd", "--socket", socket_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("kind", ["a file", "a directory", "a FIFO", "a symbolic link"])
def test_what_is_no_socket_is_not_replaced(user_dir: Path, kind: str) -> None:
    path = user_dir / "capd.sock"
    match kind:
        case "a file":
            path.write_bytes(b"precious")
        case "a directory":
            path.mkdir()
        case "a FIFO":
            os.mkfifo(path)
        case "a symbolic link":
            path.symlink_to("elsewhere")
    before = path.lstat()
    status, text = _start_in_vain(path)
    assert status == 1
    assert text == f"capd: {path} exists and is not a socket: choose another place\n"
    assert (path.lstat().st_ino, path.lstat().st_size) == (before.st_ino, before.st_size)
    assert not (user_dir / "elsewhere").exists()


@pytest.mark.parametrize("place", ["missing/capd.sock", "x" * 200], ids=["no directory", "too long"])
def test_a_place_that_cannot_be_is_told_of(user_dir: Path, place: str) -> None:
    status, text = _start_in_vain(user_dir / place)
    assert status == 1
    assert text.startswith(f"capd: cannot listen on {user_dir / place}: ")
    assert text.count("\n") == 1


def test_a_second_daemon_is_refused_where_one_listens(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    with leaving_nothing(daemon):
        status, text = _start_in_vain(Path(daemon.socket_path))
    assert (status, text) == (1, f"capd: another capd listens on {daemon.socket_path}\n")
    check_unharmed(daemon, veth, user_dir)


def test_a_socket_that_nobody_listens_on_is_replaced(where: Path, veth: tuple[str, str], user_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(where / "capd.sock"))
    with running_daemon(where) as daemon:
        assert stat.filemode(Path(daemon.socket_path).stat().st_mode) == "srw-rw-rw-"
        check_unharmed(daemon, veth, user_dir)


# Who does not want to end ---------------------------------------------------------------------------------------

SHORT = {"START_TIMEOUT_S": 1.0, "END_TIMEOUT_S": 0.5, "LAST_EVENTS_TIMEOUT_S": 0.5}


def test_a_stopping_daemon_kills_a_worker_that_does_not_end(where: Path, veth: tuple[str, str], user_dir: Path) -> None:
    end_s = 2.0
    assert limits.END_TIMEOUT_S == 10
    with (
        running_daemon(where, prefix=with_limits(END_TIMEOUT_S=end_s)) as daemon,
        without_stragglers(daemon),
        _session(daemon, veth[1], user_dir / "x.pcapng"),
    ):
        (worker,) = daemon.workers()
        os.kill(worker, signal.SIGSTOP)
        daemon.process.send_signal(signal.SIGTERM)
        began_s = time.monotonic()
        assert daemon.process.wait(end_s + 5) == 0
        assert time.monotonic() - began_s >= end_s
        await_end([worker], 0)
        assert not Path(daemon.socket_path).exists()
    assert promiscuity_of(veth[1]) == 0


@pytest.mark.parametrize("signals", [1, 2])
def test_a_daemon_that_has_waited_long_enough_kills_its_workers(
    where: Path, veth: tuple[str, str], user_dir: Path, signals: int
) -> None:
    with (
        running_daemon(where, prefix=with_limits(**SHORT)) as daemon,
        without_stragglers(daemon),
        contextlib.ExitStack() as stack,
    ):
        stack.enter_context(_session(daemon, veth[1], user_dir / "stuck.pcapng"))
        (stuck,) = daemon.workers()
        well = stack.enter_context(_session(daemon, veth[1], user_dir / "well.pcapng"))
        os.kill(stuck, signal.SIGSTOP)
        send(veth[0], FRAMES, 10)
        for _ in range(signals):
            daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(5) == 0
        await_end([stuck], 0)
        _rest(well)
        assert "Traceback" not in daemon.log
    check_complete(user_dir / "well.pcapng", 10)


def test_a_worker_that_does_not_stop_when_told_is_killed(where: Path, veth: tuple[str, str], user_dir: Path) -> None:
    with (
        running_daemon(where, prefix=with_limits(**SHORT)) as daemon,
        without_stragglers(daemon),
        leaving_nothing(daemon, veth[1]),
        _session(daemon, veth[1], user_dir / "x.pcapng") as session,
    ):
        (worker,) = daemon.workers()
        os.kill(worker, signal.SIGSTOP)
        session.stop()
        _, error = _rest(session)
        assert isinstance(error, ChildError)
        assert error.failure is not None
        assert error.failure.code == FailureCode.WORKER_DIED
        await_end([worker], 0)


def test_a_worker_that_does_not_end_when_its_client_left_is_killed(
    where: Path, veth: tuple[str, str], user_dir: Path
) -> None:
    with (
        running_daemon(where, prefix=with_limits(**SHORT)) as daemon,
        without_stragglers(daemon),
        leaving_nothing(daemon, veth[1]),
        opened(user_dir) as directory,
        RawClient(daemon.socket_path) as client,
    ):
        client.send(request_for(veth[1]), [directory])
        client.receive(Started)
        (worker,) = daemon.workers()
        os.kill(worker, signal.SIGSTOP)
        client.close()
        await_end([worker])


def _stop_all_own_processes(channel: Channel) -> None:
    """In a user's process: stop every other process of that user, as soon as there is one, again and again."""
    channel.send(None)
    while True:
        try:
            os.kill(-1, signal.SIGSTOP)
        except ProcessLookupError:
            continue


def test_a_user_who_stops_the_worker_before_it_began_harms_nobody_else(
    where: Path, veth: tuple[str, str], user_dir: Path
) -> None:
    with (
        running_daemon(where, "--group", MEMBERS, prefix=with_limits(**SHORT)) as daemon,
        without_stragglers(daemon),
        leaving_nothing(daemon, veth[1]),
        _session(daemon, veth[1], user_dir / "other.pcapng") as other,
        connected_as(MEMBER, daemon) as client,
        opened(user_dir) as directory,
        process_of(MEMBER, _stop_all_own_processes) as stopper,
    ):
        (others,) = daemon.workers()
        stopper.hear()
        client.send(slow_request_for(veth[1]), [directory])
        assert client.refusal().code == FailureCode.WORKER_DIED
        assert daemon.workers() == [others]
        send(veth[0], FRAMES, 10)
        other.stop()
        other.wait(PATIENCE_S)
        assert other.packetcount == 10


def test_a_worker_that_takes_no_more_orders_is_killed(where: Path, user_dir: Path) -> None:
    # A stopped worker does not read; interfaces that come fill its socket, and the order to stop finds no room.
    wordy = InterfaceRequest(name="many*", capture_filter="udp" + " " * 16_000, kernel_buffer_size_bytes=1 << 20)
    pairs = [(f"many{number}a", f"many{number}b") for number in range(15)]
    with (
        running_daemon(where, prefix=with_limits(**SHORT)) as daemon,
        without_stragglers(daemon),
        leaving_nothing(daemon),
        opened(user_dir) as directory,
        RawClient(daemon.socket_path) as client,
        RawClient(daemon.socket_path) as other,
        contextlib.ExitStack() as links,
    ):
        client.send(request_for("many*", interfaces=(wordy,)), [directory])
        client.receive(Started)
        # When this is answered twice, the daemon has gone round, and closed what it needed for the start.
        for _ in range(2):
            other.send(ListCaptures())
            other.receive(CaptureList)
        (worker,) = daemon.workers()
        os.kill(worker, signal.SIGSTOP)
        other.send(WatchInterfaces())
        other.receive(InterfaceSnapshot)
        for names in pairs:
            links.enter_context(veth_pair(*names))
        event = other.receive(InterfaceEvent)
        while isinstance(event, InterfaceEvent) and event.link.name != pairs[-1][1]:
            event = other.receive(InterfaceEvent)
        client.close()
        await_end([worker])


def test_a_worker_that_never_begins_is_killed_and_told_of(where: Path, veth: tuple[str, str], user_dir: Path) -> None:
    with (
        running_daemon(where, prefix=with_limits(**SHORT)) as daemon,
        without_stragglers(daemon),
        leaving_nothing(daemon, veth[1], directory=user_dir),
        opened(user_dir) as directory,
        RawClient(daemon.socket_path) as client,
    ):
        client.send(slow_request_for(veth[1]), [directory])
        worker = beginning_worker(daemon)
        os.kill(worker, signal.SIGSTOP)
        assert client.refusal().code == FailureCode.WORKER_DIED
        await_end([worker], 0)


def test_a_user_cannot_keep_the_daemon_from_stopping(where: Path, veth: tuple[str, str], user_dir: Path) -> None:
    # The daemon has no CAP_KILL: whatever ends the worker for it must not be within the user's reach.
    arguments = {"interfaces": veth[1], "savefile": user_dir / "x.pcapng"}
    with (
        running_daemon(where, "--group", MEMBERS, prefix=with_limits(**SHORT)) as daemon,
        without_stragglers(daemon),
    ):
        with capturing(MEMBER, socket_path=daemon.socket_path, **arguments):
            workers = daemon.workers()
            with process_of(MEMBER, _stop_all_own_processes) as stopper:
                stopper.hear()
                daemon.process.send_signal(signal.SIGTERM)
                assert daemon.process.wait(8) == 0
        await_end(workers, 0)
    assert promiscuity_of(veth[1]) == 0


def test_a_killed_clients_slow_brother_is_not_touched(daemon: Daemon, user_dir: Path) -> None:
    with veth_pair("txone", "rxone"), veth_pair("txtwo", "rxtwo"):
        one = {"interfaces": "rxone", "savefile": user_dir / "one.pcapng", "socket_path": daemon.socket_path}
        with _session(daemon, "rxtwo", user_dir / "two.pcapng") as two, capturing(ROOT, **one) as (process, number):
            process.kill()
            eventually(
                lambda: number not in [each.capture_id for each in list_captures(socket_path=daemon.socket_path)],
                "the end of the first capture",
            )
            assert promiscuity_of("rxone") == 0
            assert promiscuity_of("rxtwo") == 1
            send("txtwo", FRAMES, 10)
            two.stop()
            two.wait(PATIENCE_S)
            assert two.packetcount == 10
