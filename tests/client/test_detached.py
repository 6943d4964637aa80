"""Captures that stay when their client leaves, are found again by name, and take orders from others."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import anyio
import pytest

from capd.captures.lasting.detached import Detached
from capd.captures.registry import Captures
from capd.errors import RequestRefused
from capd.network.monitor import Monitor
from capd.policy.audit import Audit
from capd.policy.peer import Peer
from capd.policy.rules import Policy
from capd.supervisor.closer import Closer
from capd.supervisor.handover import FromClient
from capd.supervisor.packet_rings import PacketRingMaker
from capd.supervisor.spawner import Spawner
from capd_client import (
    CaptureEnded,
    CaptureError,
    CaptureSession,
    ChildError,
    DaemonUnavailable,
    InvalidArgument,
    NameTaken,
    NoSuchCapture,
    NotPermitted,
    ResourceError,
    aio,
    flush_capture,
    list_captures,
    read,
    rotate_capture,
    stop_capture,
)
from capd_protocol.messages import (
    AttachCapture,
    Attached,
    CaptureSummary,
    EndReason,
    FailureCode,
    FlushCapture,
    Flushed,
    InterfaceSnapshot,
    Refused,
    RotateCapture,
    Rotated,
    StopCapture,
    WatchInterfaces,
    encode,
)
from tests.client.conftest import Bench
from tests.client.helpers import PATIENCE_S, drain, of_type, read_complete, wait_for_packets, wait_until
from tests.support.attack import (
    SLOW_FILTER,
    RawClient,
    beginning_worker,
    leaving_nothing,
    opened,
    request_for,
    with_limits,
)
from tests.support.bounds import check_bound
from tests.support.daemon import as_user, running_daemon
from tests.support.tools import busy_descriptors_of

#: Of this module alone.
ALICE, BOB = 23551, 23552
GROUP_ID = 1


def listed(bench: Bench) -> tuple[CaptureSummary, ...]:
    return list_captures(socket_path=bench.daemon.socket_path)


def descriptors(bench: Bench) -> int:
    return len(busy_descriptors_of(bench.daemon.process.pid))


def attach(bench: Bench, capture: int | str) -> CaptureSession:
    return CaptureSession.attach(capture, socket_path=bench.daemon.socket_path)


def stop(bench: Bench, capture: int | str) -> None:
    stop_capture(capture, socket_path=bench.daemon.socket_path)


@contextlib.contextmanager
def staying(bench: Bench, name: str = "stays", **arguments: object) -> Generator[CaptureSession, None, None]:
    """Have a capture that has stayed when its session was left; it is ended with the block."""
    before = listed(bench)
    with bench.running(name=name, detach=True, **arguments) as capture:
        pass
    try:
        yield capture
    finally:
        if any(each.name == name for each in listed(bench)):
            stop(bench, name)
        wait_until(lambda: listed(bench) == before, "it has ended")
        wait_until(lambda: len(bench.daemon.workers()) == len(before), "nothing is left of it")


# Staying -----------------------------------------------------------------------------------------------------------


def test_a_detached_capture_stays_and_is_found_again_by_name(bench: Bench) -> None:
    with staying(bench) as left:
        assert left.end_reason is None
        bench.send(10)
        with attach(bench, "stays") as capture:
            assert (capture.capture_id, capture.name) == (left.capture_id, "stays")
            assert capture.wait_for_event(timeout=PATIENCE_S) == (capture.SP_FILE, str(bench.savefile))
            wait_for_packets(capture, 10)
            capture.stop()
            drain(capture)
            assert capture.end_reason == EndReason.STOPPED
            assert [each.written_total for each in capture.interface_counters] == [10]
    assert len(read_complete(bench.savefile).packets) == 10


def test_its_starter_hears_of_it_as_of_any_other(bench: Bench) -> None:
    with bench.running(name="stays", detach=True, max_packet_count=3) as capture:
        bench.send(3)
        events = drain(capture)
        assert events[0] == (capture.SP_FILE, str(bench.savefile))
        assert sum(map(int, map(str, of_type(events, capture.SP_PACKET_COUNT)))) == 3
        with pytest.raises(CaptureEnded):
            capture.wait_for_event(timeout=PATIENCE_S)
    assert capture.end_reason == EndReason.PACKETS
    assert listed(bench) == ()


def test_who_attaches_goes_on_with_the_counts(bench: Bench) -> None:
    with staying(bench, ringbuffer_packets=4):
        bench.send(10)
        wait_until(lambda: listed(bench)[0].packets_total == 10, "all are counted")
        with attach(bench, "stays") as capture:
            assert (capture.packetcount, capture.packetcount_before) == (10, 10)
            bench.send(3)
            wait_for_packets(capture, 13)
            capture.stop()
            drain(capture)
            files = sorted(bench.directory.glob("a_*"))
            assert capture.size_bytes_total == sum(path.stat().st_size for path in files)
    assert sum(len(read_complete(path).packets) for path in files) == 13


def test_leaving_leaves_it_alone_and_stopping_waits_for_its_end(bench: Bench) -> None:
    with staying(bench) as left:
        for _ in range(3):
            with attach(bench, left.capture_id or 0):
                pass
        assert len(listed(bench)) == 1
        with attach(bench, "stays") as capture:
            capture.stop()
        assert capture.end_reason == EndReason.STOPPED
        read_complete(bench.savefile)


def test_a_client_that_is_killed_leaves_it_alone(bench: Bench) -> None:
    program = (
        "import sys\nfrom capd_client import CaptureSession\n"
        "session = CaptureSession(interfaces=sys.argv[1], savefile=sys.argv[2], socket_path=sys.argv[3],"
        " name='stays', detach=True)\nsession.wait_started()\nprint('runs', flush=True)\nsession.wait()\n"
    )
    words = [sys.executable, "-c", program, bench.interface, str(bench.savefile), bench.daemon.socket_path]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"runs\n"
        process.kill()
    bench.send(5)
    with attach(bench, "stays") as capture:
        wait_for_packets(capture, 5)
        capture.stop()
    assert len(read_complete(bench.savefile).packets) == 5


def test_files_are_read_through_the_directory_that_is_passed(bench: Bench) -> None:
    with staying(bench, ringbuffer_packets=3):
        bench.send(4)
        wait_until(lambda: listed(bench)[0].packets_total == 4, "all are counted")
        bench.directory.rename(bench.directory.with_name("elsewhere"))
        try:
            with attach(bench, "stays") as capture:
                _, path = capture.wait_for_event(timeout=PATIENCE_S)
                assert Path(path).parent == bench.directory.with_name("elsewhere")
                wait_for_packets(capture, 4)
                with capture.open_file(path) as file, read(file) as packets:
                    assert len(list(packets)) == 1
        finally:
            bench.directory.with_name("elsewhere").rename(bench.directory)


def test_the_packets_of_a_capture_that_was_attached_to_are_read(bench: Bench) -> None:
    with staying(bench):
        bench.send(4)
        wait_until(lambda: listed(bench)[0].packets_total == 4, "all are counted")
        with attach(bench, "stays") as capture, read(capture) as packets:
            assert len([next(iter(packets)) for _ in range(4)]) == 4
            bench.send(2)
            assert len([next(iter(packets)) for _ in range(2)]) == 2


@pytest.mark.parametrize("trap", ["link", "pipe"])
def test_what_its_owner_puts_in_the_place_of_a_file_is_not_followed(bench: Bench, trap: str) -> None:
    with staying(bench), attach(bench, "stays") as capture:
        _, path = capture.wait_for_event(timeout=PATIENCE_S)
        bench.savefile.unlink()
        if trap == "link":
            bench.savefile.symlink_to("/etc/shadow")
        else:
            os.mkfifo(bench.savefile)
        with pytest.raises(OSError, match=r"symbolic|regular"):
            capture.open_file(path)


def test_a_private_daemon_is_no_place_to_stay(user_dir: Path, lasting_veth: tuple[str, str]) -> None:
    arguments = {"interfaces": lasting_veth[1], "savefile": user_dir / "a", "name": "stays"}
    with pytest.raises(DaemonUnavailable):
        CaptureSession(detach=True, **arguments)  # type: ignore[arg-type]
    with pytest.raises(DaemonUnavailable):
        CaptureSession.attach("stays")


def test_a_capture_that_does_not_start_is_refused_and_nothing_is_left(bench: Bench) -> None:
    for changes in ({"interfaces": "nowhere0"}, {"capture_filter": "host"}, {"savefile": "/proc/a"}):
        with pytest.raises(ChildError), bench.session(name="stays", detach=True, **changes):
            raise AssertionError("entered")
    assert listed(bench) == ()
    wait_until(lambda: bench.daemon.workers() == [], "no process is left")
    assert list(bench.directory.iterdir()) == []


def watch_interfaces(bench: Bench) -> None:
    """Have the daemon watch interfaces, which it does from the first time on that somebody asks for one."""
    with RawClient(bench.daemon.socket_path) as first:
        first.send(WatchInterfaces())
        first.receive(InterfaceSnapshot)
        first.finish()


def test_a_client_that_leaves_before_it_runs_leaves_nothing(own_bench: Bench) -> None:
    bench = own_bench
    watch_interfaces(bench)
    before = descriptors(bench)
    session = bench.session(name="stays", detach=True, capture_filter=SLOW_FILTER)
    beginning_worker(bench.daemon)
    session.abandon()
    wait_until(lambda: bench.daemon.workers() == [], "no process is left")
    wait_until(lambda: listed(bench) == (), "it is not in the list")
    assert not bench.savefile.exists()
    wait_until(lambda: descriptors(bench) <= before, "all are closed")


def test_the_daemon_ends_it_well_when_it_is_stopped(own_bench: Bench) -> None:
    with own_bench.running(name="stays", detach=True) as starter, attach(own_bench, "stays") as second:
        own_bench.send(3)
        wait_for_packets(second, 3)
        assert own_bench.daemon.terminate() == 0
        for capture in (starter, second):
            assert drain(capture)[-1] == (capture.SP_ENDED, EndReason.DAEMON_STOPPING)
    assert len(read_complete(own_bench.savefile).packets) == 3


@pytest.mark.parametrize("ring", [True, False])
def test_a_ring_goes_on_where_its_process_dies_and_a_single_file_ends(bench: Bench, ring: bool) -> None:
    with staying(bench, ringbuffer_packets=4 if ring else None) as capture:
        bench.send(5)
        wait_until(lambda: listed(bench)[0].packets_total == 5, "all are counted")
        with attach(bench, "stays") as witness:
            os.kill(bench.daemon.workers()[0], signal.SIGKILL)
            with pytest.raises(ChildError, match="process died"):
                list(witness)
        if not ring:
            wait_until(lambda: listed(bench) == (), "it has ended")
            return
        # While it waits to run again it is there, by its name and number.
        assert [each.capture_id for each in listed(bench)] == [capture.capture_id]
        wait_until(lambda: len(list(bench.directory.glob("a_00003_*"))) == 1, "it goes on in the next file")
        assert len(list(bench.directory.glob("a_*"))) == 3


def test_one_that_waits_to_run_again_can_be_stopped(bench: Bench) -> None:
    with staying(bench, ringbuffer_packets=4):
        os.kill(bench.daemon.workers()[0], signal.SIGKILL)
        wait_until(lambda: bench.daemon.workers() == [], "it is dead")
        with pytest.raises(ResourceError, match="waits to run again"):
            attach(bench, "stays")
        with pytest.raises(ResourceError, match="waits to run again"):
            rotate_capture("stays", socket_path=bench.daemon.socket_path)
        stop(bench, "stays")
        wait_until(lambda: listed(bench) == (), "it has ended")


# Names and whose they are -----------------------------------------------------------------------------------------


def test_a_name_is_taken_while_its_capture_runs(bench: Bench) -> None:
    with staying(bench):
        for detach in (False, True):
            second = bench.session(name="stays", detach=detach, savefile=bench.directory / "b")
            with pytest.raises(NameTaken) as taken, second:
                raise AssertionError("entered")
            assert taken.value.failure is not None
            assert (taken.value.failure.code, taken.value.failure.argument) == (FailureCode.NAME_TAKEN, "name")
        assert not (bench.directory / "b").exists()
        stop(bench, "stays")
        wait_until(lambda: listed(bench) == (), "it has ended")
        with bench.running(name="stays"):
            pass


ACTIONS: dict[str, Callable[[str, int | str], object]] = {
    "attach": lambda socket, capture: CaptureSession.attach(capture, socket_path=socket),
    "stop": lambda socket, capture: stop_capture(capture, socket_path=socket),
    "rotate": lambda socket, capture: rotate_capture(capture, socket_path=socket),
    "flush": lambda socket, capture: flush_capture(capture, socket_path=socket),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_what_is_somebody_elses_is_as_if_it_did_not_exist(bench: Bench, action: str) -> None:
    act, socket = ACTIONS[action], bench.daemon.socket_path

    def words(capture: int | str) -> str:
        with pytest.raises(NoSuchCapture) as refused:
            act(socket, capture)
        return str(refused.value)

    with staying(bench) as capture:
        assert capture.capture_id is not None
        number = capture.capture_id
        refusals = as_user(lambda: (words("stays"), words("other"), words(number), words(7)), BOB, GROUP_ID)
        assert refusals[0].replace("stays", "other") == refusals[1]
        assert refusals[2].replace(str(number), "7") == refusals[3]
        assert len(listed(bench)) == 1


@pytest.mark.parametrize("action", ACTIONS)
def test_what_can_be_no_capture_is_refused_at_once(bench: Bench, action: str) -> None:
    nonsense: list[object] = ["", "1", "../a", "a" * 65, -1, 2**70, True, None, 1.5, b"a"]
    for each in nonsense:
        with pytest.raises(InvalidArgument):
            ACTIONS[action](bench.daemon.socket_path, each)  # type: ignore[arg-type]


def test_two_users_may_have_the_same_name_and_root_means_its_own(user_dir: Path, lasting_veth: tuple[str, str]) -> None:
    (user_dir / "capd.toml").write_text('[[rule]]\nname = "all"\neverybody = true\n')
    with running_daemon(user_dir, "--config", str(user_dir / "capd.toml")) as daemon:
        bench = Bench(daemon, *lasting_veth, user_dir)

        def begin(path: Path) -> int:
            with bench.running(name="same", detach=True, savefile=path) as capture:
                assert capture.capture_id is not None
                return capture.capture_id

        alices = as_user(lambda: begin(user_dir / "alice"), ALICE)
        bobs = as_user(lambda: begin(user_dir / "bob"), BOB)
        with attach(bench, alices) as capture:  # root sees everybody's
            assert capture.name == "same"
        with pytest.raises(InvalidArgument, match="use its number"):
            attach(bench, "same")
        own = begin(user_dir / "root")
        with attach(bench, "same") as capture:
            assert capture.capture_id == own
        as_user(lambda: stop(bench, "same"), BOB)
        wait_until(lambda: bobs not in [each.capture_id for each in listed(bench)], "it has ended")
        stop(bench, "same")
        wait_until(lambda: len(listed(bench)) == 1, "one is left")
        stop(bench, "same")  # which is alice's, and no other
        wait_until(lambda: listed(bench) == (), "all have ended")


def test_who_may_read_a_capture_of_the_configuration_may_attach_and_no_more(
    user_dir: Path, lasting_veth: tuple[str, str]
) -> None:
    (user_dir / "capd.toml").write_text(
        f'[captures.dns]\ninterfaces = ["{lasting_veth[1]}"]\ngroup = {GROUP_ID}\nringbuffer_packets = 3\n'
    )
    options = ("--config", str(user_dir / "capd.toml"), "--state-directory", str(user_dir / "state"))
    with running_daemon(user_dir, *options) as daemon:
        bench = Bench(daemon, *lasting_veth, user_dir)
        wait_until(lambda: any(each.files_total for each in listed(bench)), "it runs")

        def look() -> None:
            with attach(bench, "dns") as capture:
                _, path = capture.wait_for_event(timeout=PATIENCE_S)
                assert Path(path).parent == user_dir / "state" / "dns"
                with capture.open_file(path) as file:
                    assert file.read(4) == b"\n\r\r\n"
                for act in (capture.rotate, capture.flush):
                    with pytest.raises(NotPermitted, match="one of the configuration: only root may"):
                        act()
                capture.stop()
                with pytest.raises(NotPermitted, match="one of the configuration: only root may"):
                    list(capture)
            for act_on in (rotate_capture, stop_capture, flush_capture):
                with pytest.raises(NotPermitted, match="dns is one of the configuration: only root may"):
                    act_on("dns", socket_path=daemon.socket_path)
            with pytest.raises(NoSuchCapture, match="no capture dsn of yours"):
                rotate_capture("dsn", socket_path=daemon.socket_path)

        as_user(look, ALICE, ALICE, (GROUP_ID,))
        with pytest.raises(NoSuchCapture):
            as_user(lambda: attach(bench, "dns"), BOB)
        with attach(bench, "dns") as capture:
            assert capture.rotate().endswith(".pcapng")


# Rotating and flushing --------------------------------------------------------------------------------------------


def test_a_ring_is_rotated_by_its_session_and_by_others(bench: Bench) -> None:
    with staying(bench, ringbuffer_packets=1000), attach(bench, "stays") as capture:
        bench.send(3)
        wait_for_packets(capture, 3)
        second = capture.rotate()
        assert Path(second).name.startswith("a_00002_")
        assert Path(second).read_bytes()[:4] == b"\n\r\r\n"
        third = rotate_capture("stays", socket_path=bench.daemon.socket_path)
        assert third.startswith("a_00003_")
        capture.stop()
        events = drain(capture)
        opened = [Path(str(path)).name for path in of_type(events, capture.SP_FILE)]
        assert opened == [Path(second).name, third]
        assert [each.packets for each in capture.files] == [3, 0, 0]
        for path in sorted(bench.directory.glob("a_*"))[:2]:
            read_complete(path)


def test_a_ring_keeps_its_number_of_files_when_it_is_rotated(bench: Bench) -> None:
    with bench.running(ringbuffer_packets=1000, ringbuffer_files=2) as capture:
        for _ in range(5):
            capture.rotate()
        assert [path.name[:7] for path in sorted(bench.directory.glob("a_*"))] == ["a_00005", "a_00006"]


def test_a_single_file_is_not_rotated(bench: Bench) -> None:
    with bench.running() as capture:
        with pytest.raises(InvalidArgument, match="single file"):
            capture.rotate()
        with pytest.raises(InvalidArgument, match="single file"):
            rotate_capture(capture.capture_id or 0, socket_path=bench.daemon.socket_path)
        bench.send(2)
        wait_for_packets(capture, 2)
        capture.stop()
        drain(capture)
        assert capture.end_reason == EndReason.STOPPED


def test_the_last_file_of_a_capture_is_not_rotated(bench: Bench) -> None:
    with bench.running(ringbuffer_packets=1000, autostop_files=2) as capture:
        capture.rotate()
        with pytest.raises(InvalidArgument, match="the last of the 2 files"):
            capture.rotate()
        assert capture.end_reason is None


def test_a_full_disk_is_why_there_is_no_next_file(bench: Bench) -> None:
    with bench.running(ringbuffer_packets=1000) as capture:
        bench.directory.chmod(0o755)
        for path in bench.directory.iterdir():
            path.unlink()
        bench.directory.rmdir()
        with pytest.raises(CaptureError):
            capture.rotate()
        with pytest.raises(ChildError):
            list(capture)


@pytest.mark.parametrize("update_interval", [0.02, 0.1, 5.0])
@pytest.mark.parametrize("interfaces", [1, 2])
def test_a_flush_brings_all_that_the_kernel_had(bench: Bench, interfaces: int, update_interval: float) -> None:
    names = [bench.interface, bench.sender][:interfaces]
    with bench.running(interfaces=names, update_interval=update_interval, capture_filter="inbound") as capture:
        for sent in range(100, 600, 100):
            bench.send(100)
            began_s = time.monotonic()
            capture.flush()
            assert capture.packetcount == sent
            assert time.monotonic() - began_s < 2.0
            with read(bench.savefile) as packets:
                assert len(list(packets)) == sent


def test_a_flush_by_another_is_in_the_file_too(bench: Bench) -> None:
    with staying(bench, update_interval=10.0):
        bench.send(50)
        flush_capture("stays", socket_path=bench.daemon.socket_path)
        with read(bench.savefile) as packets:
            assert len(list(packets)) == 50


def test_a_flush_while_packets_come_is_answered(bench: Bench) -> None:
    with bench.running() as capture:
        sending = threading.Thread(target=bench.send, args=(20_000,), kwargs={"rate_pps": 10_000})
        sending.start()
        flushes = 0
        while sending.is_alive():
            before = listed(bench)[0].packets_total
            capture.flush()
            assert capture.packetcount >= before
            flushes += 1
        sending.join()
        assert flushes > 5


def test_several_threads_ask_one_after_another(bench: Bench) -> None:
    with bench.running(ringbuffer_packets=100_000) as capture:
        names: list[str] = []
        threads = [threading.Thread(target=lambda: names.append(capture.rotate())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(names)) == 8


def test_a_capture_that_ends_meanwhile_answers_with_that(bench: Bench) -> None:
    with bench.running(ringbuffer_packets=1000) as capture:
        (worker,) = bench.daemon.workers()
        os.kill(worker, signal.SIGSTOP)
        killing = threading.Timer(0.3, os.kill, (worker, signal.SIGKILL))
        killing.start()
        with pytest.raises(CaptureError):
            capture.flush()
        killing.join()


@pytest.mark.long
def test_a_capture_that_does_not_answer_is_told_of_in_time(user_dir: Path, lasting_veth: tuple[str, str]) -> None:
    with running_daemon(user_dir, prefix=with_limits(ORDER_TIMEOUT_S=0.3)) as daemon:
        bench = Bench(daemon, *lasting_veth, user_dir)
        with bench.running(ringbuffer_packets=1000) as capture:
            (worker,) = daemon.workers()
            os.kill(worker, signal.SIGSTOP)
            for _ in range(2):
                with pytest.raises(ResourceError, match="ask again") as late:
                    capture.flush()
                assert late.value.failure is not None
                assert late.value.failure.code == FailureCode.TIMEOUT
            with pytest.raises(ResourceError):
                rotate_capture(capture.capture_id or 0, socket_path=daemon.socket_path)
            os.kill(worker, signal.SIGCONT)
            bench.send(5)
            capture.flush()  # late answers confuse nobody
            assert capture.packetcount == 5


# Asynchronous -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_all_of_it_in_asynchronous_programs(bench: Bench, backend: str) -> None:
    async def main() -> None:
        arguments = bench.arguments(name="stays", detach=True, ringbuffer_packets=1000)
        async with aio.CaptureSession(**arguments) as starter:
            assert starter.name == "stays"
        async with aio.CaptureSession.attach("stays", socket_path=bench.daemon.socket_path) as capture:
            kind, path = await capture.wait_for_event(timeout=PATIENCE_S)
            assert kind == capture.SP_FILE
            with capture.open_file(path) as file:
                assert file.read(4) == b"\n\r\r\n"
            await anyio.to_thread.run_sync(bench.send, 7)
            await capture.flush()
            assert capture.packetcount == 7
            names: list[str] = []

            async def rotate() -> None:
                names.append(await capture.rotate())

            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(rotate)
            assert len(set(names)) == 3
            with anyio.move_on_after(0):
                await capture.flush()
            await capture.flush()
            await capture.stop()
        assert capture.end_reason == EndReason.STOPPED
        with pytest.raises(NoSuchCapture):
            async with aio.CaptureSession.attach("stays", socket_path=bench.daemon.socket_path):
                pass
        with pytest.raises(InvalidArgument):
            aio.CaptureSession.attach("")

    anyio.run(main, backend=backend)
    wait_until(lambda: listed(bench) == (), "it has ended")


# Raw clients ------------------------------------------------------------------------------------------------------


def test_what_is_asked_without_a_capture_is_refused(bench: Bench) -> None:
    with RawClient(bench.daemon.socket_path) as client:
        for request in (StopCapture(), RotateCapture(), FlushCapture()):
            client.send(request)
            assert client.refusal().code == FailureCode.INVALID
        client.send(AttachCapture(capture="x" * 10_000))
        failure = client.refusal()
        assert failure.code == FailureCode.NO_SUCH_CAPTURE
        assert len(failure.text) < 200
        client.send(AttachCapture(capture="\x1b[31m\n"))
        assert "\x1b" not in client.refusal().text


def test_who_asks_for_more_before_an_answer_breaks_the_protocol(bench: Bench) -> None:
    with staying(bench), RawClient(bench.daemon.socket_path) as client:
        client.send(AttachCapture(capture="stays"))
        assert isinstance(client.receive(Attached), Attached)
        client.socket.sendall(encode(FlushCapture()) * 50)
        (failure,) = [message.failure for message in client.rest() if isinstance(message, Refused)]
        assert failure.code == FailureCode.PROTOCOL
        assert len(listed(bench)) == 1


async def never_asked(_descriptor: int) -> None:
    raise AssertionError("nobody is asked")


async def test_a_daemon_of_one_client_has_no_captures_that_stay() -> None:
    closer = Closer()
    captures = Captures(Policy(owner_id=0), Spawner(), closer, PacketRingMaker())
    detached = Detached(captures, Monitor(), Audit(), closer)
    handover = FromClient(never_asked, closer, 0)
    with pytest.raises(RequestRefused) as refused:
        await detached.start(Peer(1, 0, 0, ()), request_for("lo", name="a", detached=True), handover)
    assert (refused.value.failure.code, refused.value.failure.argument) == (FailureCode.UNSUPPORTED, "detach")


def test_there_are_only_so_many_detached_captures(user_dir: Path, lasting_veth: tuple[str, str]) -> None:
    with running_daemon(user_dir, prefix=with_limits(MAX_DETACHED=1)) as daemon:
        bench = Bench(daemon, *lasting_veth, user_dir)
        with staying(bench):
            with pytest.raises(ResourceError, match="stop one first"), bench.session(name="b", detach=True):
                raise AssertionError("entered")
            assert len(listed(bench)) == 1
        with staying(bench, name="b"):
            pass


def test_who_is_attached_to_a_capture_of_a_session_hears_that_its_client_left(bench: Bench) -> None:
    with bench.running(name="own") as owner, attach(bench, "own") as witness:
        bench.send(2)
        wait_for_packets(witness, 2)
        owner.terminate()
        assert drain(witness)[-1] == (witness.SP_ENDED, EndReason.CLIENT_LEFT)


def test_clients_that_come_and_go_leave_nothing(own_bench: Bench) -> None:
    bench = own_bench
    with staying(bench, ringbuffer_packets=1000):
        with leaving_nothing(bench.daemon, bench.interface):
            for left in range(40):
                with RawClient(bench.daemon.socket_path) as client:
                    client.send(AttachCapture(capture="stays"))
                    if left % 4:
                        client.receive(Attached)
                    if left % 4 > 1:
                        client.send(FlushCapture() if left % 8 > 3 else RotateCapture())
                    if left % 4 > 2:
                        client.receive(Flushed if left % 8 > 3 else Rotated)
        with attach(bench, "stays") as capture:
            capture.flush()
    assert "failed" not in bench.daemon.log


def test_a_stuck_client_cannot_be_made_to_keep_the_daemon_alive(own_bench: Bench) -> None:
    with RawClient(own_bench.daemon.socket_path) as client:
        with opened(own_bench.directory) as directory:
            request = request_for(own_bench.interface, name="stays", detached=True)
            client.send(request, [directory])
            assert isinstance(client.receive(Attached), Attached)
        began_s = time.monotonic()
        assert own_bench.daemon.terminate() == 0
        assert time.monotonic() - began_s < 10


# Many that follow one ----------------------------------------------------------------------------------------------


_SUBSCRIBER = """
import json, sys, time
from capd_client import CaptureSession
with CaptureSession.attach("stays", socket_path=sys.argv[1]) as capture:
    print("runs", flush=True)
    files, late_s, lagged = 0, [], 0
    while capture.end_reason is None:
        kind, message = capture.wait_for_event(timeout=20)
        if kind == capture.SP_FILE:
            files += 1
        elif kind == capture.SP_FILE_CLOSED and message.packets == 2:
            late_s.append(time.time() - message.last_timestamp_ns / 1e9)
        elif kind == capture.SP_LAGGED:
            lagged += message
    print(json.dumps([files, late_s, lagged, capture.packetcount]), flush=True)
"""


@pytest.mark.long
@pytest.mark.alone
def test_ten_hear_of_one_capture_and_the_one_that_is_stuck_costs_the_others_nothing(bench: Bench) -> None:
    files = 900  # more events than wait for one client
    with contextlib.ExitStack() as stack:
        stack.enter_context(staying(bench, ringbuffer_packets=2, ringbuffer_files=3, update_interval=0.02))
        stuck = stack.enter_context(attach(bench, "stays"))
        words = [sys.executable, "-c", _SUBSCRIBER, bench.daemon.socket_path]
        subscribers = [
            stack.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE, text=True)) for _ in range(9)
        ]
        for each in subscribers:
            assert each.stdout is not None
            assert each.stdout.readline() == "runs\n"
        bench.send(2 * files, rate_pps=400)
        wait_until(lambda: listed(bench)[0].packets_total == 2 * files, "all are captured")
        stop(bench, "stays")
        # It learns what it missed, and no count is missing.
        events = drain(stuck)
        (missed,) = of_type(events, stuck.SP_LAGGED)
        kinds = stuck.SP_FILE, stuck.SP_FILE_CLOSED, stuck.SP_FILE_DELETED
        heard = sum(len(of_type(events, kind)) for kind in kinds)
        # Three are kept, and the last one is not reported as deleted.
        assert heard + int(str(missed)) == 2 * (files + 1) + (files + 1 - 3)
        assert stuck.packetcount == 2 * files
        results = [json.loads(each.communicate(timeout=PATIENCE_S)[0]) for each in subscribers]
    assert [(opened, lagged, packets) for opened, _, lagged, packets in results] == [(files + 1, 0, 2 * files)] * 9
    assert [len(late_s) for _, late_s, _, _ in results] == [files] * 9
    # From the last packet of each file, by the kernel's clock, to the word that the file is complete.
    all_late_s = sorted(late for _, late_s, _, _ in results for late in late_s)
    # Of 8,100, a few may find the processor taken by somebody else.
    check_bound(all_late_s[-8] < 0.15, f"8th worst: {all_late_s[-8]:.3f} s")
    check_bound(all_late_s[-1] < 1, f"worst: {all_late_s[-1]:.3f} s")
