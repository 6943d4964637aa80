"""Starts daemons by forking a process that has imported all they need, which takes most of a start.

Tests start some two hundred. What is forked runs ``capd.__main__.main``, as ``python -m capd`` does. Those that a
program in Python changes before anything of capd is imported (``tests.support.attack.with_limits``) are forked by a
process that has imported the libraries only. Those that another command runs (the prefix of
``tests.support.daemon.running_daemon``), private daemons and services are started as anywhere else.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple, NoReturn, Protocol

_NAMESPACES = ("mnt", "net")
_REQUEST_BYTES = 1 << 20
_ANSWER_BYTES = 64
_PATIENCE_S = 20.0
#: What the daemon imports of others, which takes longer than what is its own.
_LIBRARIES = ("trio", "msgspec", "pyroute2", "pyroute2.ethtool.ioctl", "importlib.metadata", "ssl")
_LIBRARIES_OF_METRICS = ("h11", "prometheus_client")


class Process(Protocol):
    """What tests use of a daemon's process, as it is in ``subprocess.Popen``."""

    @property
    def pid(self) -> int:
        """Its id."""
        ...

    @property
    def returncode(self) -> int | None:
        """How it has ended, as far as was asked; None while it runs."""
        ...

    def poll(self) -> int | None:
        """Return how it has ended; None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return how it has ended."""
        ...

    def send_signal(self, sig: int) -> None:
        """Send it a signal, unless it has ended."""
        ...

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        ...


class Forked:
    """A daemon that was forked. Its parent is the starter, which says how it has ended."""

    def __init__(self, pid: int, reap: Callable[[int], int]) -> None:
        """Take the process id of one that runs, or was not reaped, and what reaps it."""
        self.pid = pid
        self.returncode: int | None = None
        self._reap = reap
        self._descriptor = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return how it has ended; None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return how it has ended.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        status = self._ended(timeout)
        if status is None:
            raise subprocess.TimeoutExpired("capd", timeout or 0)
        return status

    def send_signal(self, sig: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout_s: float | None) -> int | None:
        if self.returncode is None and select.select([self._descriptor], [], [], timeout_s)[0]:
            self.returncode = self._reap(self.pid)
            os.close(self._descriptor)
        return self.returncode


class _Request(NamedTuple):
    """What a daemon has from whoever starts it, beside its first three descriptors."""

    #: What runs it, with the words that it is to see; None: ``capd.__main__.main``.
    program: str | None
    words: list[str]
    environment: dict[str, str]
    directory: str
    umask: int


class Starter:
    """The processes that fork daemons, as long as tests run."""

    def __init__(self, channel: socket.socket, channel_of_libraries: socket.socket) -> None:
        """Take our ends of the sockets to them."""
        self._channel, self._channel_of_libraries = channel, channel_of_libraries
        self._namespaces = _namespaces()

    @property
    def is_here(self) -> bool:
        """Whether what it forks is in the namespaces of the calling thread."""
        return self._namespaces == _namespaces()

    def start(
        self, words: Sequence[str], environment: Mapping[str, str], log: IO[bytes], program: str | None = None
    ) -> Forked:
        """Have a daemon run with these arguments; its output goes to the log, and it has no input.

        Args:
            words: its arguments.
            environment: its own.
            log: where its output goes.
            program: runs it, as with ``python -P -c``; it sees the words.
        """
        channel = self._channel if program is None else self._channel_of_libraries
        request = _Request(program, list(words), dict(environment), str(Path.cwd()), _umask())
        with Path(os.devnull).open("rb") as nothing:
            descriptors = [nothing.fileno(), log.fileno(), log.fileno()]
            socket.send_fds(channel, [json.dumps(request).encode()], descriptors)

        def reap(process_id: int) -> int:
            channel.send(str(process_id).encode())
            return os.waitstatus_to_exitcode(int(channel.recv(_ANSWER_BYTES)))

        return Forked(int(channel.recv(_ANSWER_BYTES)), reap)


@contextlib.contextmanager
def running_starter() -> Generator[Starter, None, None]:
    """Have a starter, in the namespaces of the calling thread."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    with contextlib.ExitStack() as stack:
        ours, its = ([stack.enter_context(pair[end]) for pair in pairs] for end in range(2))
        numbers = [each.fileno() for each in its]
        command = [sys.executable, "-P", __file__, *map(str, numbers)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=numbers) as process:
            for each in its:
                each.close()
            try:
                yield Starter(*ours)
            finally:
                for each in ours:
                    each.close()
                process.wait(_PATIENCE_S)


def _namespaces() -> list[str]:
    return [os.readlink(f"/proc/thread-self/ns/{name}") for name in _NAMESPACES]  # noqa: PTH115


def _umask() -> int:
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    return next(int(line.split()[1], 8) for line in lines if line.startswith("Umask:"))


# In the starter -----------------------------------------------------------------------------------------------------


def _serve(channel: socket.socket) -> None:
    gc.collect()
    gc.freeze()  # else collecting would copy all that is shared
    while True:
        data, descriptors, _, _ = socket.recv_fds(channel, _REQUEST_BYTES, 3)
        if not data:
            return
        if descriptors:
            process_id = os.fork()
            if process_id == 0:
                _be_daemon(_Request(*json.loads(data)), descriptors)
            for each in descriptors:
                os.close(each)
            channel.send(str(process_id).encode())
        else:
            channel.send(str(os.waitpid(int(data), 0)[1]).encode())


def _be_daemon(request: _Request, descriptors: Sequence[int]) -> NoReturn:
    status: object = 1
    try:
        for number, each in enumerate(descriptors):
            os.dup2(each, number)
        os.closerange(len(descriptors), os.sysconf("SC_OPEN_MAX"))
        os.chdir(request.directory)
        os.umask(request.umask)
        os.environ.clear()
        os.environ.update(request.environment)
        sys.argv[1:] = request.words
        status = _run(request)
    except SystemExit as error:
        status = error.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def _run(request: _Request) -> object:
    if request.program is not None:
        exec(compile(request.program, "<string>", "exec"), {"__name__": "__main__"})
        return 0
    from capd.__main__ import main  # noqa: PLC0415  # imported already, but where a program is to run first

    return main(request.words)


def _be_starter(channel: socket.socket, channel_of_libraries: socket.socket) -> None:
    """Serve both: one process has imported capd, and its child no more than what capd imports of others."""
    # In namespaces of its own or not, what is imported here makes no thread, and opens nothing.
    for name in _LIBRARIES:
        importlib.import_module(name)
    child = os.fork()
    if child == 0:
        channel.close()
        for name in _LIBRARIES_OF_METRICS:
            importlib.import_module(name)
        _serve(channel_of_libraries)
        os._exit(0)
    channel_of_libraries.close()
    importlib.import_module("capd.__main__")
    _serve(channel)
    os.waitpid(child, 0)


if __name__ == "__main__":
    _be_starter(*(socket.socket(fileno=int(number)) for number in sys.argv[1:3]))
