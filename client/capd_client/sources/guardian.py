"""Guardian of a program that writes a stream: a process of its own that starts it, and ends it when nobody needs it.

Run by its path, with nothing but the standard library, so that it is there within some milliseconds. A process rather
than a thread of the client, since a client that is killed ends nothing: here its end is seen, as that of a socket.

It sends, each as a line of JSON: that the program has opened its FIFO, with the end where it is read; and, where the
program ends by itself, how, and what it wrote to standard error. The stream ends after that, never before.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

#: How long a program may take to end when it is asked to.
_GRACE_S = 2.0
#: How long the kernel may take to end what is killed. More than it takes: what is left is what nobody waits for.
_KILLED_S = 0.2
#: Between two looks whether it has.
_LOOK_S = 0.01
#: How long a program that has opened its FIFO may take to end without a byte: so many do that cannot capture.
_SECOND_THOUGHTS_S = 0.1
#: Of what a program writes to standard error, the last part: there is the reason.
_STDERR_BYTES = 1024
#: A pipe's size; and how often so much is read of a program that has ended: what it has started may go on writing.
_READ_BYTES = 65536
_MOST_READS = 16


class _Guardian:
    """A program that is running."""

    def __init__(self, lifeline: socket.socket, process: "subprocess.Popen[bytes]") -> None:
        self._lifeline = lifeline
        self._process = process
        self._exit = _closed_when(lambda: os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT))
        assert process.stderr is not None
        self._stderr = process.stderr.fileno()
        os.set_blocking(self._stderr, False)
        self._complaint = b""
        self._is_stderr_over = False
        self._poll = select.poll()
        for descriptor in (lifeline, self._exit, self._stderr):
            self._poll.register(descriptor, select.POLLIN)

    def wait_for(self, descriptor: int, deadline_s: float | None) -> bool:
        """Wait until a descriptor is ready, the program or its client has ended, or it is late; return whether it is.

        With 0 as the events a descriptor is ready when the other side has gone.
        """
        while True:
            timeout_ms = None if deadline_s is None else max(0.0, deadline_s - time.monotonic()) * 1000
            ready = {each for each, _ in self._poll.poll(timeout_ms)}
            if self._stderr in ready:
                self._read_stderr()
            if descriptor in ready:
                return True
            if ready - {self._stderr} or not ready:
                return False

    def watch(self, descriptor: int, events: int) -> None:
        """Have a descriptor waited for."""
        self._poll.register(descriptor, events)

    def forget(self, descriptor: int) -> None:
        """Have it waited for no more."""
        self._poll.unregister(descriptor)

    @property
    def has_exited(self) -> bool:
        """Whether the program has ended."""
        return bool(select.select([self._exit], [], [], 0)[0])

    def _read_stderr(self) -> bool:
        """Read what is there; return whether there may be more."""
        try:
            read = os.read(self._stderr, _READ_BYTES)
        except BlockingIOError:
            return False
        self._complaint = (self._complaint + read)[-_STDERR_BYTES:]
        if not read and not self._is_stderr_over:
            self._is_stderr_over = True
            self._poll.unregister(self._stderr)
        return bool(read)

    def report(self, **more: object) -> None:
        """Send how the program has ended, if it has, and what it wrote to standard error."""
        for _ in range(_MOST_READS):
            if not self._read_stderr():
                break
        status = self._process.wait() if self.has_exited else None
        self.send({"status": status, "stderr": self._complaint.decode("utf-8", "replace"), **more})

    def send(self, message: dict[str, object], *descriptors: int) -> None:
        """Send a message, and descriptors with it. A client that has gone needs none."""
        with contextlib.suppress(OSError):
            socket.send_fds(self._lifeline, [json.dumps(message).encode()], descriptors)

    def end(self) -> None:
        """End the program, and what it has started, unless that is in other process groups."""
        if self._signal(signal.SIGTERM):
            select.select([self._exit], [], [], _GRACE_S)
        deadline_s = time.monotonic() + _KILLED_S
        is_there = self._signal(signal.SIGKILL)
        while is_there and time.monotonic() < deadline_s:
            time.sleep(_LOOK_S)
            self._process.poll()
            is_there = self._signal(0)

    def _signal(self, number: int) -> bool:
        """Send a signal to the program's process group; return whether there is one."""
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):  # there is none; or what there is became another user's
            return False
        return True


def _closed_when(wait: Callable[[], object]) -> int:
    """Return the end of a pipe that is closed when a wait is over, which a thread of its own does."""
    over, closes = os.pipe()

    def close() -> None:
        with contextlib.suppress(OSError):
            wait()
        os.close(closes)

    threading.Thread(target=close, daemon=True).start()
    return over


class _Fifo:
    """A FIFO that is opened for reading as soon as somebody opens it for writing: nothing else shows that."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.opened: list[int] = []
        self.is_open = _closed_when(lambda: self.opened.append(os.open(path, os.O_RDONLY)))


def _begin(guardian: _Guardian, fifo: _Fifo, patience_s: float) -> int | None:
    """Wait until the program has opened the FIFO, and pass on where it is read; return the other end, or None."""
    is_open, opened = fifo.is_open, fifo.opened
    deadline_s = time.monotonic() + patience_s
    guardian.watch(is_open, select.POLLIN)
    guardian.wait_for(is_open, deadline_s)
    guardian.forget(is_open)
    if not opened and guardian.has_exited:
        # It may have opened it, and be gone. This wakes who waits for that in either case; what came shows which it is.
        with contextlib.suppress(OSError):
            os.close(os.open(fifo.path, os.O_WRONLY | os.O_NONBLOCK))
            os.read(is_open, 1)
    if not opened:
        guardian.report(is_late=time.monotonic() >= deadline_s)
        return None
    (reading,) = opened
    writing = os.open(fifo.path, os.O_WRONLY)
    guardian.watch(reading, select.POLLIN)
    has_written = guardian.wait_for(reading, time.monotonic() + _SECOND_THOUGHTS_S)
    guardian.forget(reading)
    if guardian.has_exited and not (has_written or select.select([reading], [], [], 0)[0]):
        guardian.report()
        return None
    guardian.send({"is_open": True}, reading)
    os.close(reading)
    return writing


def _run(lifeline: socket.socket, directory: str, patience_s: float, fifo_at: int, words: list[str]) -> None:
    path = os.path.join(directory, "fifo")  # noqa: PTH118  # pathlib takes as long to import as all else here
    os.mkfifo(path, 0o600)
    fifo = _Fifo(path)
    command = [*words[:fifo_at], path, *words[fifo_at:]]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, process_group=0
        )
    except OSError as error:
        lifeline.send(json.dumps({"status": None, "stderr": "", "error": error.strerror}).encode())
        return
    guardian = _Guardian(lifeline, process)
    try:
        writing = _begin(guardian, fifo, patience_s)
        _remove(directory)
        if writing is None:
            return
        guardian.watch(writing, 0)  # ready when all that read are gone
        have_gone = guardian.wait_for(writing, None)
        if not have_gone and guardian.has_exited and not select.select([lifeline], [], [], 0)[0]:
            guardian.report()
    finally:
        guardian.end()


def _remove(directory: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(directory, "fifo"))  # noqa: PTH108, PTH118
    with contextlib.suppress(OSError):
        os.rmdir(directory)  # noqa: PTH106


def main() -> None:
    """Take a socket, a directory for temporary files, seconds, a command, and where in it the FIFO's path belongs.

    That number is before the command.
    """
    lifeline = socket.socket(fileno=int(sys.argv[1]))
    directory = os.path.join(sys.argv[2], f"capd-source-{os.urandom(8).hex()}")  # noqa: PTH118
    try:
        os.mkdir(directory, 0o700)  # noqa: PTH102
        _run(lifeline, directory, float(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
    except OSError as error:
        with contextlib.suppress(OSError):
            lifeline.send(json.dumps({"status": None, "stderr": "", "error": error.strerror}).encode())
    finally:
        _remove(directory)
    os._exit(0)  # past a thread that may wait for a FIFO to be opened


if __name__ == "__main__":
    main()
