"""Real daemons and real users for tests: processes that are started, waited for, and ended by their own id."""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from tests.support.accounts import have_account
from tests.support.starter import Process, Starter

_Result = TypeVar("_Result")
#: See the fixture ``make_dir``.
MakeDir = Callable[[str], Path]

#: What a worker says that made a system call which it may not.
REFUSED_CALL = "it made the system call"
READY_TIMEOUT_S = 20.0
END_TIMEOUT_S = 20.0


@dataclass
class Daemon:
    """A running ``capd``."""

    process: Process
    socket_path: str
    log_path: Path

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self.log_path.read_text()

    def terminate(self) -> int:
        """Stop it as a service manager does; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(END_TIMEOUT_S)

    def workers(self) -> list[int]:
        """Return the process ids of its workers, and of those who answer questions about interfaces."""
        return workers_of(self.process.pid)

    def spawner(self) -> int:
        """Return the process id of what forks its workers, once there is one and one only."""
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while len(found := [child for child in children_of(self.process.pid) if is_spawner(child)]) != 1:
            assert time.monotonic() < deadline_s, f"{len(found)} processes that fork workers"
            time.sleep(0.01)
        return found[0]


def workers_of(daemon: int) -> list[int]:
    """Return the process ids of a daemon's workers, and of those who answer questions about interfaces."""
    return [each for each in forked_for(daemon) if _name_of(each) not in _HELPERS]


def forked_for(daemon: int) -> list[int]:
    """Return the process ids of all that is forked for a daemon."""
    # A worker is the daemon's child as soon as the process in between has ended, which may be behind its first word.
    found: list[int] = []
    for spawner in filter(is_spawner, children_of(daemon)):
        for between in children_of_one_that_may_end(spawner):
            found += children_of_one_that_may_end(between)
    found += [child for child in children_of(daemon) if not is_spawner(child)]
    return list(dict.fromkeys(found))


#: What closes descriptors for the daemon, or passes files.
_CLOSERS = ("capd-closer", "capd-server")
#: And what waits for a capture.
_HELPERS = (*_CLOSERS, "capd-spare")


def is_closer(process_id: int) -> bool:
    """Whether a process is what closes descriptors for the daemon, or passes files."""
    return _name_of(process_id) in _CLOSERS


def is_spare(process_id: int) -> bool:
    """Whether a process is a worker that waits for a capture."""
    return _name_of(process_id) == "capd-spare"


def _name_of(process_id: int, root: Path = Path("/")) -> str:
    try:
        return (root / "proc" / str(process_id) / "comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children_of_one_that_may_end(process_id: int) -> list[int]:
    """Return the ids of a process's children; none if it has ended."""
    try:
        return children_of(process_id)
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_spawner(process_id: int, root: Path = Path("/")) -> bool:
    """Whether a process is, or is about to become, what forks workers; they have its command line."""
    process = root / "proc" / str(process_id)
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        return b"capd.worker" in words and _name_of(process_id, root) not in (
            "",
            "capd-worker",
            "capd-sender",
            *_HELPERS,
        )
    except (FileNotFoundError, ProcessLookupError):
        return False


def children_of(process_id: int) -> list[int]:
    """Return the ids of a process's children, of all its threads."""
    found: list[int] = []
    for task in Path(f"/proc/{process_id}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended has none
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def status_of(process_id: int) -> dict[str, str]:
    """Return the fields of /proc/PID/status."""
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@contextlib.contextmanager
def standing_still(daemon: Daemon) -> Generator[None, None, None]:
    """Stop a daemon, and all that is forked for it, for as long as the block runs."""
    process_ids = {daemon.process.pid, daemon.spawner(), *forked_for(daemon.process.pid)}
    stopped: list[int] = []
    try:
        for each in process_ids:
            with contextlib.suppress(ProcessLookupError):  # one may end meanwhile
                os.kill(each, signal.SIGSTOP)
                stopped.append(each)
        for each in stopped:
            _await_stop(each)
        yield
    finally:
        for each in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGCONT)


def _await_stop(process_id: int) -> None:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        # T: stopped; Z and X: ended, and not waited for yet.
        while status_of(process_id)["State"][0] not in "TZX":
            assert time.monotonic() < deadline_s, f"process {process_id} does not stop"
            time.sleep(0.001)


@contextlib.contextmanager
def running_daemon(
    directory: Path, *options: str, prefix: tuple[str, ...] = (), is_strict: bool = True
) -> Generator[Daemon, None, None]:
    """Start a daemon whose socket and log are in a directory, wait until it is ready, end it afterwards.

    Args:
        directory: everybody must be able to enter it.
        *options: further options of ``capd``.
        prefix: a command that runs it, such as ``("unshare", "--mount")``, which must exec it.
        is_strict: whether a worker ends at a system call that it may not make; then the log must tell of none.
    """
    socket_path, log_path = directory / "capd.sock", directory / "capd.log"
    notify_path = directory / "notify"
    words = ["--socket", str(socket_path), "--verbose", *(["--strict-workers"] if is_strict else []), *options]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, log_path.open("wb") as log:
        notify.bind(str(notify_path))
        notify.settimeout(READY_TIMEOUT_S)
        process = _started(prefix, words, {**os.environ, "NOTIFY_SOCKET": str(notify_path)}, log)
        daemon = Daemon(process, str(socket_path), log_path)
        try:
            try:
                assert notify.recv(4096) == b"READY=1"
            except TimeoutError:
                raise AssertionError(f"capd did not get ready; its log:\n{daemon.log}") from None
            yield daemon
        finally:
            try:
                daemon.terminate()
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            finally:
                notify_path.unlink()
        assert not is_strict or REFUSED_CALL not in daemon.log, (
            f"a worker made a system call that it may not:\n{daemon.log}"
        )


_starters: list[Starter] = []
#: How a prefix begins that is a program in Python, which then runs the daemon itself. Its next word is the program.
IN_PYTHON = (sys.executable, "-P", "-c")


@contextlib.contextmanager
def forked_by(starter: Starter) -> Generator[None, None, None]:
    """Have daemons be forked by a process that has imported all they need, while the block lasts."""
    _starters.append(starter)
    try:
        yield
    finally:
        _starters.remove(starter)


def _started(prefix: Sequence[str], words: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> Process:
    runs_capd = [sys.executable, "-P", "-m", "capd", *words]
    for starter in _starters:
        if starter.is_here and not prefix:
            return starter.start(words, environment, log)
        if starter.is_here and prefix[:3] == IN_PYTHON:
            program, *arguments = prefix[3:]
            return starter.start([*arguments, *runs_capd], environment, log, program)
    command = [*prefix, *runs_capd]
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def as_user(
    function: Callable[[], _Result],
    user_id: int,
    group_id: int | None = None,
    groups: tuple[int, ...] = (),
    *,
    has_account: bool = True,
) -> _Result:
    """Return what a function returns in a process of another user, which ends with it.

    The process is forked: the user needs no right to read the interpreter's files, but what the function imports
    must be imported already. What it raises is raised here. An account is made for the user, unless it is to have none.
    """
    if has_account:
        have_account(user_id)
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(readable)
            os.setgroups(groups)
            os.setresgid(*[user_id if group_id is None else group_id] * 3)
            os.setresuid(user_id, user_id, user_id)
            try:
                answer: tuple[bool, Any] = (True, function())
            except BaseException as error:
                error.add_note(traceback.format_exc())
                answer = (False, error)
            with os.fdopen(writable, "wb") as pipe:
                pickle.dump(answer, pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    is_value, value = pickle.loads(data)
    if is_value:
        result: _Result = value
        return result
    raise value
