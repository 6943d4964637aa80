"""The process that forks workers: ends with its daemon, is replaced when it has ended, and hands nothing on."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from benchmarks.measure import memory_of
from capd.supervisor.spawner import Spawner
from capd_client import CaptureSession, list_captures
from capd_protocol.messages import FailureCode, Refused, Started
from tests.capture.helpers import ip
from tests.support.attack import (
    FRAMES,
    PATIENCE_S,
    RawClient,
    User,
    await_end,
    capturing,
    check_complete,
    check_unharmed,
    eventually,
    leaving_nothing,
    opened,
    replaced_when_dead,
    request_for,
    slow_request_for,
    with_limits,
    without_call,
)
from tests.support.daemon import Daemon, MakeDir, children_of, forked_for, is_spare, running_daemon, status_of
from tests.support.tools import numbered_descriptors_of
from tests.support.traffic import send

MEMBERS = "daemon"  # what the group 1 is called everywhere
MEMBER = User(12420, 12421, (1,))
OTHER_MEMBER = User(12422, 12423, (1,))


def _with_limits(**limits: float) -> tuple[str, ...]:
    """Return a prefix for a daemon that has every worker forked when it is asked for."""
    return with_limits(SPARE_WORKERS=0, **limits)


@pytest.fixture(scope="module")
def _daemons(make_dir: MakeDir) -> Generator[Callable[[], Daemon], None, None]:
    directory = make_dir("spawner")
    with replaced_when_dead(directory, "--group", MEMBERS, prefix=_with_limits(SPAWNER_PAUSE_S=0.3)) as get:
        yield get


@pytest.fixture
def daemon(_daemons: Callable[[], Daemon]) -> Daemon:
    """A daemon that starts a new spawner after 0.3 s, and that has every worker forked when it is asked for."""
    daemon = _daemons()
    _await_spawner(daemon)
    return daemon


@pytest.fixture
def where(user_dir: Path) -> Path:
    """A directory for a daemon of the test's own."""
    directory = user_dir / "daemon"
    directory.mkdir()
    return directory


def _spawners(daemon: Daemon) -> list[int]:
    return [child for child in children_of(daemon.process.pid) if child not in daemon.workers()]


def _has_epoll(process_id: int) -> bool:
    return "anon_inode:[eventpoll]" in numbered_descriptors_of(process_id).values()


def _await_spawner(daemon: Daemon) -> None:
    """Wait until the spawner has imported what it needs: then it takes its name."""

    def names() -> list[str]:
        try:
            return [Path(f"/proc/{spawner}/comm").read_text() for spawner in _spawners(daemon)]
        except (FileNotFoundError, ProcessLookupError):  # one of before, which has just ended
            return []

    eventually(lambda: names() == ["capd-spawner\n"], "the spawner")


def _arguments(daemon: Daemon, interface: str, savefile: Path) -> dict[str, Any]:
    return {"interfaces": interface, "savefile": savefile, "socket_path": daemon.socket_path, "update_interval": 0.02}


def _own(directory: Path, user: User) -> Path:
    own = directory / str(user.user_id)
    own.mkdir()
    os.chown(own, user.user_id, user.group_id)
    return own


def _ask_for(daemon: Daemon, client: RawClient, directory: int, interface: str) -> None:
    """Send a request, and wait until the daemon looks after it."""
    before = len(numbered_descriptors_of(daemon.process.pid))
    client.send(request_for(interface, pass_files=True), [directory])
    # The directory, the sockets for files, and one to the kernel or to the worker.
    eventually(lambda: len(numbered_descriptors_of(daemon.process.pid)) >= before + 4, "the request")
    for _ in range(3):
        list_captures(socket_path=daemon.socket_path)


def _sockets(process_id: int) -> set[str]:
    return {target for target in numbered_descriptors_of(process_id).values() if target.startswith("socket:")}


# Its end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_daemon(where: Path, number: int) -> None:
    with running_daemon(where) as daemon:
        spawner = daemon.spawner()
        daemon.process.send_signal(number)
        daemon.process.wait(PATIENCE_S)
        await_end([spawner])


def test_a_daemon_ends_although_it_is_stopped(where: Path) -> None:
    with running_daemon(where, prefix=_with_limits(END_TIMEOUT_S=0.5)) as daemon:
        spawner = daemon.spawner()
        os.kill(spawner, signal.SIGSTOP)
        assert daemon.terminate() == 0
        await_end([spawner], 0)


def test_what_ends_a_service_does_not_end_it(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    spawner = daemon.spawner()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(spawner, number)
    check_unharmed(daemon, veth, user_dir)
    assert daemon.spawner() == spawner


def test_captures_go_on_when_it_is_killed_and_the_next_one_waits(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    savefile = user_dir / "kept.pcapng"
    with leaving_nothing(daemon, veth[1]), CaptureSession(**_arguments(daemon, veth[1], savefile)) as kept:
        kept.wait_started(PATIENCE_S)
        spawner, (worker,) = daemon.spawner(), daemon.workers()
        os.kill(spawner, signal.SIGKILL)
        killed_s = time.monotonic()
        await_end([spawner])
        check_unharmed(daemon, veth, user_dir)
        assert time.monotonic() - killed_s >= 0.3, "it was started anew at once"
        assert daemon.spawner() != spawner
        assert daemon.workers() == [worker]
        send(veth[0], FRAMES, 10)
        kept.stop()
        kept.wait(PATIENCE_S)
    check_complete(savefile, 20)  # with the ten of the other one
    assert "the process that starts captures has ended (status -9)" in daemon.log


def test_a_request_outlasts_spawners_that_end_before_they_are_ready(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    with opened(user_dir) as directory, RawClient(daemon.socket_path) as client:
        for number in range(3):
            spawner = daemon.spawner()
            os.kill(spawner, signal.SIGKILL)
            await_end([spawner])
            if number == 0:
                client.send(request_for(veth[1]), [directory])
            eventually(lambda: len(_spawners(daemon)) == 1, "another one")
        client.receive(Started)


def test_where_none_can_be_started_a_capture_is_refused(where: Path, veth: tuple[str, str], user_dir: Path) -> None:
    # Its imports fail: numpy's place is taken.
    (where / "numpy.py").write_text("raise ImportError('no numpy here')\n")
    broken = ("env", f"PYTHONPATH={where}", *_with_limits(START_TIMEOUT_S=2, SPAWNER_PAUSE_S=0.3))
    with running_daemon(where, prefix=broken) as daemon, opened(user_dir) as directory:
        with RawClient(daemon.socket_path) as client:
            client.send(request_for(veth[1]), [directory])
            failure = client.refusal()
        assert failure.code == FailureCode.RESOURCES
        assert "the process that starts captures does not begin" in failure.text
        assert "no numpy here" in daemon.log
        assert daemon.terminate() == 0
    assert list(user_dir.glob("*.pcapng")) == []


def test_one_that_hangs_is_replaced_and_the_capture_refused(where: Path, veth: tuple[str, str], user_dir: Path) -> None:
    short = _with_limits(FORK_TIMEOUT_S=0.5, END_TIMEOUT_S=0.5, SPAWNER_PAUSE_S=0.1)
    with running_daemon(where, prefix=short) as daemon, leaving_nothing(daemon, veth[1], directory=user_dir):
        spawner = daemon.spawner()
        os.kill(spawner, signal.SIGSTOP)
        with opened(user_dir) as directory, RawClient(daemon.socket_path) as client:
            client.send(request_for(veth[1]), [directory])
            failure = client.refusal()
        assert failure.code == FailureCode.RESOURCES
        assert "does not answer" in failure.text
        await_end([spawner])
        check_unharmed(daemon, veth, user_dir)


def test_one_that_hangs_keeps_no_client_that_leaves(where: Path, veth: tuple[str, str], user_dir: Path) -> None:
    with running_daemon(where, prefix=_with_limits(FORK_TIMEOUT_S=5)) as daemon:
        with leaving_nothing(daemon, veth[1], directory=user_dir), opened(user_dir) as directory:
            spawner = daemon.spawner()
            os.kill(spawner, signal.SIGSTOP)
            with RawClient(daemon.socket_path) as client:
                _ask_for(daemon, client, directory, veth[1])
            os.kill(spawner, signal.SIGCONT)
        check_unharmed(daemon, veth, user_dir)
        assert daemon.spawner() == spawner


@pytest.mark.parametrize("delay_s", [0.0005 * step for step in range(1, 13)])
def test_killed_while_it_forks_it_leaves_no_process(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, delay_s: float
) -> None:
    spawner = daemon.spawner()
    with leaving_nothing(daemon, veth[1], directory=user_dir), opened(user_dir) as directory:
        with RawClient(daemon.socket_path) as client:
            killer = threading.Timer(delay_s, os.kill, (spawner, signal.SIGKILL))
            client.send(request_for(veth[1], "forked.pcapng"), [directory])
            killer.start()
            while not isinstance(answer := client.receive(), Started | Refused):
                pass
            killer.join()
            assert isinstance(answer, Started) or answer.failure.code == FailureCode.RESOURCES
        await_end([spawner])
        eventually(lambda: daemon.workers() == [], "no worker, and none that nobody has waited for")
        for file in user_dir.glob("forked*"):
            file.unlink()
        _await_spawner(daemon)


def test_an_interface_that_goes_down_before_there_is_a_worker_is_told_of(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    spawner = daemon.spawner()
    with (
        leaving_nothing(daemon, directory=user_dir),
        opened(user_dir) as directory,
        RawClient(daemon.socket_path) as client,
    ):
        os.kill(spawner, signal.SIGSTOP)
        _ask_for(daemon, client, directory, veth[1])
        ip("link", "set", veth[1], "down")
        os.kill(spawner, signal.SIGCONT)
        assert client.refusal().code == FailureCode.INTERFACE_DOWN


@pytest.mark.long
def test_a_worker_that_comes_too_late_is_waited_for(where: Path, veth: tuple[str, str], user_dir: Path) -> None:
    with running_daemon(where, prefix=_with_limits(FORK_TIMEOUT_S=0.3, SPAWNER_PAUSE_S=0.1)) as daemon:
        late = 0
        for _ in range(40):
            _await_spawner(daemon)  # what there is before has the next one's descriptors
            with (
                leaving_nothing(daemon, veth[1], directory=user_dir),
                opened(user_dir) as directory,
                RawClient(daemon.socket_path) as client,
            ):
                client.send(slow_request_for(veth[1]), [directory])
                while not (workers := forked_for(daemon.process.pid)):
                    pass
                os.kill(workers[0], signal.SIGSTOP)  # mostly before it has sent its number
                with contextlib.suppress(TimeoutError):
                    client.receive(Refused, timeout_s=1)
                    late += 1
                client.close()
                os.kill(workers[0], signal.SIGCONT)
                eventually(lambda: forked_for(daemon.process.pid) == [], "its end")
                for file in user_dir.glob("*.pcapng"):
                    file.unlink()
            if late == 2:
                break
        assert late


# The worker that waits ----------------------------------------------------------------------------------------------


def _spare(daemon: Daemon) -> int:
    """Return the process id of the worker that waits for a capture, once there is one."""
    found: list[int] = []

    def is_there() -> bool:
        found[:] = filter(is_spare, children_of(daemon.process.pid))
        # It has greeted by then: it waits, and is in no group of others.
        return len(found) == 1 and status_of(found[0])["State"].startswith("S") and os.getsid(found[0]) == found[0]

    eventually(is_there, "one that waits")
    return found[0]


def test_a_worker_waits_for_each_capture(where: Path, veth: tuple[str, str], user_dir: Path) -> None:
    with running_daemon(where) as daemon, leaving_nothing(daemon, veth[1], directory=user_dir):
        spare = _spare(daemon)
        os.kill(daemon.spawner(), signal.SIGSTOP)  # nobody else can come of it
        with CaptureSession(**_arguments(daemon, veth[1], user_dir / "x.pcapng")) as capture:
            capture.wait_started(PATIENCE_S)
            assert daemon.workers() == [spare]
            os.kill(daemon.spawner(), signal.SIGCONT)
            assert _spare(daemon) != spare
        (user_dir / "x.pcapng").unlink()


def test_captures_that_are_started_at_once_do_not_wait_for_it(
    where: Path, veth: tuple[str, str], user_dir: Path
) -> None:
    with running_daemon(where, prefix=with_limits(SPARE_PAUSE_S=3600)) as daemon, contextlib.ExitStack() as stack:
        spare = _spare(daemon)
        for number in range(3):
            arguments = _arguments(daemon, veth[1], user_dir / f"{number}.pcapng")
            stack.enter_context(CaptureSession(**arguments)).wait_started(PATIENCE_S)
        assert len(daemon.workers()) == 3
        assert spare in daemon.workers()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_one_that_waits_ends_with_its_daemon(where: Path, number: int) -> None:
    with running_daemon(where) as daemon:
        spare = _spare(daemon)
        if number == signal.SIGSTOP:
            os.kill(spare, number)
            assert daemon.terminate() == 0
        else:
            daemon.process.kill()
            daemon.process.wait(PATIENCE_S)
        await_end([spare])


def test_one_that_was_killed_while_it_waited_is_replaced(where: Path, veth: tuple[str, str], user_dir: Path) -> None:
    short = with_limits(SPARE_PAUSE_S=0.5)
    with running_daemon(where, prefix=short) as daemon, leaving_nothing(daemon, veth[1], directory=user_dir):
        spare = _spare(daemon)
        os.kill(spare, signal.SIGKILL)
        await_end([spare])
        check_unharmed(daemon, veth, user_dir)
        assert _spare(daemon) != spare


def test_one_that_ends_as_it_is_taken_is_not_taken(where: Path, veth: tuple[str, str], user_dir: Path) -> None:
    with running_daemon(where) as daemon, opened(user_dir) as directory:
        spare = _spare(daemon)
        os.kill(daemon.process.pid, signal.SIGSTOP)
        os.kill(spare, signal.SIGKILL)
        await_end([spare])
        with RawClient(daemon.socket_path) as client:
            client.send(request_for(veth[1]), [directory])
            os.kill(daemon.process.pid, signal.SIGCONT)  # it gets both at once
            client.receive(Started)


# What it may, and what it hands on -----------------------------------------------------------------------------------


def test_it_is_what_its_daemon_is(daemon: Daemon) -> None:
    ours, theirs = status_of(daemon.process.pid), status_of(daemon.spawner())
    for name in ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"):
        assert theirs[name] == ours[name], name
    assert theirs["Threads"] == "1"


def test_it_never_holds_what_is_of_a_capture(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    spawner = daemon.spawner()
    before = numbered_descriptors_of(spawner)
    log = str(daemon.log_path)
    assert sorted(before.values())[:3] == ["/dev/null", "/dev/null", log]
    assert len(before) == 4, "the fourth is where it is asked"
    with CaptureSession(**_arguments(daemon, veth[1], user_dir / "x.pcapng")) as capture:
        capture.wait_started(PATIENCE_S)
        # The next one that waits for a capture may just be forked.
        eventually(
            lambda: numbered_descriptors_of(spawner) == before and children_of(spawner) == [], "it has nothing of it"
        )
    eventually(lambda: numbered_descriptors_of(spawner) == before, "nor afterwards")


def test_workers_share_nothing(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    users = MEMBER, OTHER_MEMBER
    savefiles = [_own(user_dir, user) / "x.pcapng" for user in users]
    with (
        capturing(users[0], **_arguments(daemon, veth[1], savefiles[0])),
        capturing(users[1], **_arguments(daemon, veth[1], savefiles[1])),
    ):
        workers = sorted(daemon.workers(), key=lambda worker: status_of(worker)["Uid"])
        everybody = [daemon.process.pid, daemon.spawner(), *workers]
        # The daemon closes its copies of what it has handed over when it has reported the start to the client.
        # It keeps the rings, to have them receive nothing more.
        table = [line.split() for line in Path("/proc/self/net/packet").read_text().splitlines()[1:]]
        rings = {f"socket:[{fields[-1]}]" for fields in table}

        def shared() -> set[str]:
            pairs = itertools.combinations(everybody, 2)
            return {each for one, other in pairs for each in _sockets(one) & _sockets(other)} - rings

        eventually(lambda: not shared(), "no socket that two of them have")
        assert not _sockets(workers[0]) & _sockets(workers[1])
        for worker, savefile in zip(workers, savefiles, strict=True):
            # The last thing that it opens, after the first file.
            eventually(partial(_has_epoll, worker), "its epoll")
            assert len(_sockets(worker)) == 4, "its control socket, the ring, a pair that tells of who opens a file"
            others = [target for target in numbered_descriptors_of(worker).values() if target not in _sockets(worker)]
            log = str(daemon.log_path)
            files = [
                "/dev/null",
                "/dev/null",
                log,
                str(savefile),
                str(savefile.parent),
                *["anon_inode:[eventpoll]"] * 2,
            ]
            assert sorted(others) == sorted(files)


def test_a_worker_is_as_one_that_was_started(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    def mask(*numbers: int) -> int:
        return sum(1 << number - 1 for number in numbers)

    with CaptureSession(**_arguments(daemon, veth[1], user_dir / "x.pcapng")) as capture:
        capture.wait_started(PATIENCE_S)
        (worker,) = daemon.workers()
        status = status_of(worker)
        assert status["PPid"] == str(daemon.process.pid)
        assert os.getsid(worker) == os.getpgid(worker) == worker
        ignored = mask(signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ)
        assert int(status["SigIgn"], 16) == ignored
        assert int(status["SigBlk"], 16) == 0
        # By which the kernel tells of who opens a file that is written over, and of calls that are refused.
        assert int(status["SigCgt"], 16) == mask(signal.SIGIO, signal.SIGSYS)
        assert status["Threads"] == "1"
        scores = [int(Path(f"/proc/{one}/oom_score_adj").read_text()) for one in (daemon.process.pid, worker)]
        assert scores[1] == scores[0] + 100
        for name in ("cgroup", "limits"):
            ours, theirs = (Path(f"/proc/{one}/{name}").read_text() for one in (daemon.process.pid, worker))
            assert theirs == ours, name
        environment = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
        names = {entry.partition(b"=")[0].decode() for entry in environment if entry}
        assert names <= {"PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL", "TZ"}


def test_what_a_worker_has_of_its_own_is_little(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    with CaptureSession(**_arguments(daemon, veth[1], user_dir / "x.pcapng"), kernel_buffer_size=1) as capture:
        capture.wait_started(PATIENCE_S)
        (worker,) = daemon.workers()
        assert memory_of(worker).private_bytes <= 8 << 20


def test_the_time_zone_is_that_of_the_captures_start(where: Path, veth: tuple[str, str], user_dir: Path) -> None:
    zones, local = Path("/usr/share/zoneinfo"), Path("/etc/localtime")
    own_zone = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
    begin = f'mount --bind "{user_dir}/zone" {local.resolve()}; unset TZ; exec "$@"'
    zone = user_dir / "zone"
    zone.write_bytes((zones / "UTC").read_bytes())
    os.utime(zone, (0, 0))
    with running_daemon(where, prefix=(*own_zone, begin, "sh")) as daemon:
        zone.write_bytes((zones / "Etc/GMT+12").read_bytes())
        arguments = _arguments(daemon, veth[1], user_dir / "x.pcapng")
        with CaptureSession(**arguments, ringbuffer_packets=1) as capture:
            capture.wait_started(PATIENCE_S)
    (name,) = (file.name for file in user_dir.glob("x_*"))
    began = time.mktime(time.strptime(name, "x_00001_%Y%m%d%H%M%S.pcapng"))
    assert abs(began - time.mktime(time.gmtime(time.time() - 12 * 3600))) < 60


def test_an_old_kernel_will_do(where: Path, veth: tuple[str, str], user_dir: Path) -> None:
    # pidfd_open(2) came with Linux 5.3.
    with running_daemon(where, prefix=without_call("pidfd_open")) as daemon, leaving_nothing(daemon, veth[1]):
        check_unharmed(daemon, veth, user_dir)
        with CaptureSession(**_arguments(daemon, veth[1], user_dir / "x.pcapng")) as capture:
            capture.wait_started(PATIENCE_S)
            (worker,) = daemon.workers()
            os.kill(worker, signal.SIGKILL)
            eventually(lambda: capture.end_reason is not None or not daemon.workers(), "its end")
        eventually(lambda: "died with status -9" in daemon.log, "the status")


#: A worker that has ended while the process between it and the daemon has not: its parent is that process until then.
_ENDED_TOO_EARLY = """
import os, trio
from capd.linux.privileges import adopt_orphans
from capd.supervisor.spawner import WorkerProcess

adopt_orphans()
ours, theirs = os.pipe()
heard, tells = os.pipe()
if (between := os.fork()) == 0:
    if (worker := os.fork()) == 0:
        os._exit(3)
    os.write(tells, worker.to_bytes(4, "little"))
    os.close(theirs)
    os.read(ours, 1)
    os._exit(0)

async def main():
    process = WorkerProcess(int.from_bytes(os.read(heard, 4), "little"))
    os.waitid(os.P_PID, between, os.WNOHANG | os.WEXITED)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.wait)
            await trio.sleep(0.1)
            assert process.returncode is None
            os.close(theirs)
    print(process.returncode)

trio.run(main)
"""


def test_a_worker_that_ends_before_the_process_in_between_is_waited_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ENDED_TOO_EARLY], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.stdout, done.stderr) == ("3\n", "")


async def test_one_that_ends_while_it_has_no_room_for_a_request_is_an_error_of_the_system() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(b"x")
    refused: list[OSError] = []

    async def ask(spawner: Spawner) -> None:
        try:
            await spawner.spawn_closer()
        except OSError as error:
            refused.append(error)

    with theirs:
        async with trio.open_nursery() as nursery:
            spawner = Spawner()
            requests = trio.socket.from_stdlib_socket(ours)
            vars(spawner).update(_requests=requests, _process=object(), _nursery=nursery)
            vars(spawner)["_is_ready"].set()
            nursery.start_soon(ask, spawner)
            await trio.testing.wait_all_tasks_blocked()
            requests.close()
    assert len(refused) == 1
