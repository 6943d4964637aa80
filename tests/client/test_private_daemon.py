"""Without a daemon a session of a privileged program starts one of its own, and nobody else gets anything started.

Programs run where /run is empty, so that a daemon of this machine is neither asked nor disturbed.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple, TypeVar

import anyio
import pytest

import capd
import capd_client
import capd_protocol
from capd_client import CaptureSession, DaemonUnavailable, aio, list_captures, stop_capture
from capd_client.errors import CaptureError
from capd_client.transport.listening import DEFAULT_SOCKET, SOCKET_VARIABLE
from tests.client.conftest import Bench
from tests.client.helpers import PATIENCE_S, Watched, read_complete
from tests.support.daemon import as_user, children_of, running_daemon, status_of, workers_of
from tests.support.traffic import build_frames, send

_Result = TypeVar("_Result")

#: Nobody else's tests use this user: some stop or kill all processes of theirs.
STRANGER = 23457
CAP_SETGID, CAP_SETUID, CAP_NET_RAW = 6, 7, 13
_CLONE_NEWNS = 0x20000
_MS_REC_PRIVATE = 0x44000

#: Runs a command where /run is empty.
WITHOUT_RUN = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh")

#: Captures two packets on an interface, or until it is stopped, and tells how it goes.
PROGRAM = """
import os, sys
from capd_client import CaptureSession
with CaptureSession(interfaces=sys.argv[1], savefile=sys.argv[2], max_packet_count=2) as capture:
    capture.wait_started(20)
    print("started", flush=True)
    for event_type, message in capture:
        if event_type == capture.SP_PACKET_COUNT:
            print("packets", message, flush=True)
print(capture.end_reason, flush=True)
print("children:", open(f"/proc/self/task/{os.getpid()}/children").read(), flush=True)
"""


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SOCKET_VARIABLE, raising=False)


def where_run_is_empty(function: Callable[[], _Result]) -> _Result:
    """Return what a function returns in a process of root that sees an empty /run."""

    def inside() -> _Result:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(_CLONE_NEWNS) == 0
        assert libc.mount(None, b"/", None, _MS_REC_PRIVATE, None) == 0
        assert libc.mount(b"none", b"/run", b"tmpfs", 0, None) == 0
        return function()

    return as_user(inside, 0)


class Running(NamedTuple):
    """A program that captures through a daemon of its own."""

    process: subprocess.Popen[str]
    daemon: int
    worker: int

    def lines(self) -> list[str]:
        """Return what it still prints, when it has ended."""
        output, errors = self.process.communicate(timeout=PATIENCE_S)
        assert errors == ""
        return str(output).splitlines()


@contextlib.contextmanager
def running_program(interface: str, savefile: Path, before: str = "") -> Generator[Running, None, None]:
    """Have the program capture; it does something else before."""
    with subprocess.Popen(
        [*WITHOUT_RUN, sys.executable, "-c", before + PROGRAM, interface, savefile],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            (daemon,) = children_of(process.pid)
            (worker,) = workers_of(daemon)
            yield Running(process, daemon, worker)
        finally:
            process.kill()


# With privilege -------------------------------------------------------------------------------------------------


def test_a_privileged_program_needs_no_daemon(lasting_veth: tuple[str, str], user_dir: Path) -> None:
    savefile = user_dir / "a.pcapng"
    with running_program(lasting_veth[1], savefile) as program:
        # It keeps as little as any daemon.
        effective = int(status_of(program.daemon)["CapEff"], 16)
        assert effective == 1 << CAP_SETGID | 1 << CAP_SETUID | 1 << CAP_NET_RAW
        assert send(lasting_veth[0], build_frames((100,)), 2) == 2
        lines = program.lines()
    assert [line.strip() for line in lines[-2:]] == ["packets", "children:"]
    assert sum(int(line.split()[1]) for line in lines if line.startswith("packets ")) == 2
    assert len(read_complete(savefile).packets) == 2


def test_a_private_daemon_ends_with_a_program_that_is_killed(lasting_veth: tuple[str, str], user_dir: Path) -> None:
    savefile = user_dir / "a.pcapng"
    with running_program(lasting_veth[1], savefile) as program:
        both = Watched([program.daemon, program.worker])
        assert send(lasting_veth[0], build_frames((100,)), 1) == 1
        assert program.process.stdout is not None
        assert program.process.stdout.readline() == "packets 1\n"
        program.process.kill()
        both.wait_ended()
    assert len(read_complete(savefile).packets) == 1


def test_a_ctrl_c_is_the_programs_own_to_handle(lasting_veth: tuple[str, str], user_dir: Path) -> None:
    handler = "import signal; signal.signal(signal.SIGINT, lambda *_: print('noted', flush=True))"
    with running_program(lasting_veth[1], user_dir / "a.pcapng", handler) as program:
        os.killpg(program.process.pid, signal.SIGINT)
        assert program.process.stdout is not None
        assert program.process.stdout.readline() == "noted\n"
        assert send(lasting_veth[0], build_frames((100,)), 2) == 2
        lines = program.lines()
    assert lines[-2] == "packets"


def test_a_ctrl_c_that_ends_the_program_leaves_a_complete_file(lasting_veth: tuple[str, str], user_dir: Path) -> None:
    savefile = user_dir / "a.pcapng"
    with running_program(lasting_veth[1], savefile) as program:
        both = Watched([program.daemon, program.worker])
        assert send(lasting_veth[0], build_frames((100,)), 1) == 1
        os.killpg(program.process.pid, signal.SIGINT)
        errors = program.process.communicate(timeout=PATIENCE_S)[1]
        both.wait_ended(0)
    assert "KeyboardInterrupt" in errors
    assert len(read_complete(savefile).packets) == 1


def test_a_private_daemon_that_is_killed_breaks_the_pipe(lasting_veth: tuple[str, str], user_dir: Path) -> None:
    with running_program(lasting_veth[1], user_dir / "a.pcapng") as program:
        worker = Watched([program.worker])
        os.kill(program.daemon, signal.SIGKILL)
        errors = program.process.communicate(timeout=PATIENCE_S)[1]
        worker.wait_ended()
    assert "DaemonGone: capd has gone away" in errors


@pytest.mark.long
def test_each_session_has_its_own_private_daemon(lasting_veth: tuple[str, str], user_dir: Path) -> None:
    def two() -> tuple[int, int]:
        with CaptureSession(interfaces=lasting_veth[1], savefile=user_dir / "a") as first:
            first.wait_started(PATIENCE_S)
            with CaptureSession(interfaces=lasting_veth[1], savefile=user_dir / "b") as second:
                second.wait_started(PATIENCE_S)
                both = len(children_of(os.getpid()))
            assert len(children_of(os.getpid())) == 1
        return both, len(children_of(os.getpid()))

    assert where_run_is_empty(two) == (2, 0)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_an_async_session_has_a_private_daemon_too(lasting_veth: tuple[str, str], user_dir: Path, backend: str) -> None:
    async def main() -> list[int]:
        with anyio.fail_after(PATIENCE_S):
            async with aio.CaptureSession(
                interfaces=lasting_veth[1], savefile=user_dir / "a", max_packet_count=1
            ) as capture:
                assert len(children_of(os.getpid())) == 1
                assert send(lasting_veth[0], build_frames((100,)), 1) == 1
                assert [kind async for kind, _ in capture][:2] == [capture.SP_FILE, capture.SP_PACKET_COUNT]
        return children_of(os.getpid())

    assert where_run_is_empty(lambda: anyio.run(main, backend=backend)) == []
    assert len(read_complete(user_dir / "a").packets) == 1


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_cancelled_async_session_leaves_no_private_daemon(
    lasting_veth: tuple[str, str], user_dir: Path, backend: str
) -> None:
    async def main() -> list[int]:
        with anyio.CancelScope() as scope:
            async with aio.CaptureSession(interfaces=lasting_veth[1], savefile=user_dir / "a") as capture:
                await capture.wait_for_event(timeout=PATIENCE_S)
                scope.cancel()
                await capture.wait_for_event()
        return children_of(os.getpid())

    assert where_run_is_empty(lambda: anyio.run(main, backend=backend)) == []
    assert read_complete(user_dir / "a").packets == []


def test_a_running_daemon_is_used_rather_than_a_private_one(lasting_veth: tuple[str, str], user_dir: Path) -> None:
    def capture() -> bool:
        with (
            running_daemon(user_dir, "--socket", DEFAULT_SOCKET) as daemon,
            CaptureSession(interfaces=lasting_veth[1], savefile=user_dir / "a") as session,
        ):
            session.wait_started(PATIENCE_S)
            (listed,) = list_captures()
            assert children_of(os.getpid()) == [daemon.process.pid]
            return listed.capture_id == session.capture_id

    assert where_run_is_empty(capture)


def test_a_refused_capture_leaves_no_private_daemon(user_dir: Path) -> None:
    def refused() -> tuple[str, list[int]]:
        try:
            with CaptureSession(interfaces="nowhere0", savefile=user_dir / "a") as capture:
                capture.wait_started(PATIENCE_S)
        except CaptureError as error:
            return str(error), children_of(os.getpid())
        raise AssertionError("started")

    text, children = where_run_is_empty(refused)
    assert "there is no interface nowhere0" in text
    assert children == []


# Ordinary users, with a user namespace of their own -------------------------------------------------------------

#: Lets a user run our interpreter and our packages, wherever root keeps them: bound to where /run was.
_FOR_EVERYBODY = """
mount -t tmpfs none /run
bind() { mkdir -p "$2"; mount --bind "$1" "$2"; }
bind "$PREFIX" /run/python
bind "$PACKAGES" /run/packages
bind "$PROTOCOL" /run/sources/protocol
bind "$CLIENT" /run/sources/client
bind "$DAEMON" /run/sources/capd
exec "$@"
"""


def as_ordinary_user(program: str, user_dir: Path, *prefix: str) -> subprocess.CompletedProcess[str]:
    """Have an ordinary user run a program, by a command that runs others."""
    sources = {"PROTOCOL": capd_protocol, "CLIENT": capd_client, "DAEMON": capd}
    environment = {
        **os.environ,
        **{name: str(Path(str(package.__file__)).parent.parent) for name, package in sources.items()},
        "PREFIX": sys.base_prefix,
        "PACKAGES": sysconfig.get_path("purelib"),
        "PYTHONPATH": "/run/sources/protocol:/run/sources/client:/run/sources/capd:/run/packages",
    }
    return subprocess.run(
        [
            *("unshare", "--mount", "sh", "-e", "-c", _FOR_EVERYBODY, "sh"),
            *("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"),
            *prefix,
            *(f"/run/python/bin/python{sys.version_info.major}.{sys.version_info.minor}", "-c", program),
        ],
        env=environment,
        cwd=user_dir,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize("mapping", [("--map-root-user",), ("--map-current-user", "--keep-caps")], ids="".join)
def test_an_ordinary_user_captures_in_a_namespace_of_its_own(user_dir: Path, mapping: tuple[str, ...]) -> None:
    program = """
import os, socket, subprocess
from capd_client import CaptureSession
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with CaptureSession(interfaces="lo", capture_filter="udp", savefile="a.pcapng", max_packet_count=2) as capture:
    capture.wait_started(20)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(2):
            sender.sendto(b"x", ("127.0.0.1", 9))
    capture.wait(20)
    print(os.getuid(), capture.end_reason, capture.packetcount)
"""
    done = as_ordinary_user(program, user_dir, "unshare", "--user", "--net", *mapping)
    assert done.stderr == ""
    assert done.stdout.split()[1:] == ["packets", "2"]
    assert done.stdout.split()[0] == ("0" if "--map-root-user" in mapping else str(STRANGER))
    assert (user_dir / "a.pcapng").stat().st_uid == STRANGER
    assert len(read_complete(user_dir / "a.pcapng").packets) == 2


def test_who_runs_a_container_without_root_captures_in_it(user_dir: Path) -> None:
    program = """
import os, subprocess, sys
from capd_client import CaptureSession
inside = '''
import socket, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
print("up", flush=True)
for line in sys.stdin:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", 9))
'''
words = ("unshare", "--user", "--net", "--map-root-user", sys.executable, "-c", inside)
with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as container:
    container.stdout.readline()
    arguments = {"interfaces": "lo", "capture_filter": "udp", "savefile": "a.pcapng", "max_packet_count": 2}
    with CaptureSession(netns=container.pid, **arguments) as capture:
        container.stdin.writelines([os.linesep] * 2)
        container.stdin.flush()
        capture.wait(20)
        print(os.getuid(), capture.end_reason, capture.packetcount)
    container.communicate()
"""
    done = as_ordinary_user(program, user_dir)
    assert done.stderr == ""
    assert done.stdout.split() == [str(STRANGER), "packets", "2"]
    assert (user_dir / "a.pcapng").stat().st_uid == STRANGER
    assert len(read_complete(user_dir / "a.pcapng").packets) == 2


# Without privilege ----------------------------------------------------------------------------------------------


def _unavailable(ask: Callable[[], object]) -> tuple[str, list[int]]:
    """Return the sentence with which a daemon is unavailable, and the children that the process has then."""
    try:
        ask()
    except DaemonUnavailable as error:
        return str(error), children_of(os.getpid())
    raise AssertionError("there is a daemon")


def _session(socket_path: str | None = None) -> CaptureSession:
    return CaptureSession(interfaces="lo", savefile="/tmp/never", socket_path=socket_path)


def test_an_ordinary_user_is_told_that_there_is_no_daemon() -> None:
    text, children = where_run_is_empty(lambda: as_user(lambda: _unavailable(_session), STRANGER))
    assert text.startswith(f"there is no capd at {DEFAULT_SOCKET} (")
    assert text.endswith("start capd, or name its socket")
    assert "\n" not in text
    assert children == []


def test_root_without_the_capability_is_told_so_too(user_dir: Path) -> None:
    done = subprocess.run(
        [
            *(*WITHOUT_RUN, "setpriv", "--bounding-set=-net_raw", "--inh-caps=-all"),
            *(sys.executable, "-c", PROGRAM, "lo", user_dir / "a.pcapng"),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.stdout == ""
    assert f"DaemonUnavailable: there is no capd at {DEFAULT_SOCKET}" in done.stderr


@pytest.mark.parametrize("way", ["argument", "variable"])
@pytest.mark.parametrize("kind", ["absent", "nobody listens", "a file", "a directory", "too long"])
def test_a_socket_that_was_named_is_the_only_one_that_is_tried(user_dir: Path, way: str, kind: str) -> None:
    path = user_dir / ("x" * 120 if kind == "too long" else "capd.sock")
    if kind == "nobody listens":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif kind == "a file":
        path.touch()
    elif kind == "a directory":
        path.mkdir()

    def ask() -> object:
        if way == "argument":
            return _session(socket_path=str(path))
        os.environ[SOCKET_VARIABLE] = str(path)
        return _session()

    text, children = where_run_is_empty(lambda: _unavailable(ask))
    assert f"there is no capd at {path} (" in text
    assert children == []


def test_a_socket_that_may_not_be_reached_is_for_an_administrator(daemon_out_of_reach: Path) -> None:
    text, _ = as_user(lambda: _unavailable(lambda: _session(socket_path=str(daemon_out_of_reach))), STRANGER)
    assert str(daemon_out_of_reach) in text
    assert text.endswith("ask an administrator")


@pytest.fixture
def daemon_out_of_reach(user_dir: Path) -> Generator[Path, None, None]:
    """A daemon whose directory is root's alone."""
    with running_daemon(user_dir) as daemon:
        user_dir.chmod(0o700)
        yield Path(daemon.socket_path)


def test_the_variable_names_the_socket_and_the_argument_comes_before_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SOCKET_VARIABLE, bench.daemon.socket_path)
    with CaptureSession(interfaces=bench.interface, savefile=bench.savefile) as capture:
        capture.wait_started(PATIENCE_S)
        assert [each.capture_id for each in list_captures()] == [capture.capture_id]
    monkeypatch.setenv(SOCKET_VARIABLE, "/nowhere/capd.sock")
    with bench.running():
        assert len(list_captures(socket_path=Path(bench.daemon.socket_path))) == 1
    with pytest.raises(DaemonUnavailable, match="/nowhere"):
        list_captures()


def test_an_empty_variable_names_nothing(lasting_veth: tuple[str, str], user_dir: Path) -> None:
    def capture() -> int:
        os.environ[SOCKET_VARIABLE] = ""
        with CaptureSession(interfaces=lasting_veth[1], savefile=user_dir / "a") as session:
            session.wait_started(PATIENCE_S)
            return len(children_of(os.getpid()))

    assert where_run_is_empty(capture) == 1


@pytest.mark.parametrize("ask", [list_captures, lambda: stop_capture(1)], ids=["list", "stop"])
def test_asking_for_captures_starts_no_daemon(ask: Callable[[], object]) -> None:
    text, children = where_run_is_empty(lambda: _unavailable(ask))
    assert DEFAULT_SOCKET in text
    assert children == []
