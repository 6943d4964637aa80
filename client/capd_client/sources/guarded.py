"""Programs that write streams: one is started for a capture, by a guardian that ends it with the capture."""

import contextlib
import errno
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from capd_client.sources.opened import OpenedStream, Outcome
from capd_protocol.text import escaped

#: How long a guardian may take beyond a program's time, on a busy machine; and at the end, when it has killed the
#: program.
_GUARDIAN_S = 10.0
_GUARDIAN = str(Path(__file__).with_name("guardian.py"))
#: Of a guardian: the last part of what a program wrote, as JSON.
_MAX_MESSAGE_BYTES = 65536


class EndedProgram(NamedTuple):
    """A program that has ended by itself, or was ended because it was no use.

    Attributes:
        status: its exit status, or the number of a signal below zero; None: it was not started, or was ended.
        complaint: what it has written to standard error; the last part of that.
        text: all that, for people.
    """

    status: int | None
    complaint: str
    text: str


class Program(NamedTuple):
    """A program to start.

    Attributes:
        shown: what people know it by.
        command: what is run.
        fifo_at: where in that the path of the FIFO is to stand that it writes to.
        open_s: how long it may take to open that.
        explain: returns what people are to know of its end.
    """

    shown: str
    command: Sequence[str]
    fifo_at: int
    open_s: float
    explain: Callable[[EndedProgram], str] = lambda ended: ended.text


class NotOpenedError(ChildProcessError):
    """A program has not opened its FIFO.

    Attributes:
        ended: what became of it.
    """

    def __init__(self, ended: EndedProgram, text: str) -> None:
        super().__init__(errno.ECHILD, text)
        self.ended = ended


class RunningProgram:
    """A program that writes a stream (``opened.Feeder``)."""

    def __init__(self, program: Program, guardian: "subprocess.Popen[bytes]", lifeline: socket.socket) -> None:
        self._program = program
        self._guardian = guardian
        self._lifeline = lifeline
        self._outcome: Outcome | None = None
        #: So that nobody has to wait for the guardian, and it is no zombie nevertheless.
        self._waiting = threading.Thread(target=guardian.wait, daemon=True)

    def outcome(self) -> Outcome | None:
        """Return how the program has ended by itself: badly, or with a complaint."""
        if self._outcome is None and self._lifeline.fileno() >= 0:
            with contextlib.suppress(OSError):
                data = self._lifeline.recv(_MAX_MESSAGE_BYTES, socket.MSG_DONTWAIT)
                self._outcome = _outcome(self._program, json.loads(data)) if data else None
        return self._outcome

    def end(self) -> None:
        """Have it end."""
        if self._lifeline.fileno() >= 0:
            self._lifeline.close()
            self._waiting.start()

    def wait(self) -> None:
        """Wait until it has ended."""
        self._waiting.join(_GUARDIAN_S)
        if self._waiting.is_alive():
            self._guardian.kill()
            self._waiting.join()


def start(program: Program) -> OpenedStream:
    """Start a program, and return where its packets are read.

    Raises:
        NotOpenedError: the program does not start, or does not open its FIFO.
        OSError: there is no room for it.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs:
            running = RunningProgram(program, _guardian(program, theirs.fileno()), ours)
    except BaseException:
        ours.close()
        raise
    try:
        return OpenedStream(_reading_end(program, ours), running)
    except BaseException:
        running.end()
        running.wait()
        raise


def _guardian(program: Program, lifeline_fd: int) -> "subprocess.Popen[bytes]":
    words = [str(lifeline_fd), tempfile.gettempdir(), str(program.open_s), str(program.fifo_at), *program.command]
    return subprocess.Popen(
        # Without what is not the standard library's: nothing more has to be found and loaded.
        [sys.executable, "-I", "-S", _GUARDIAN, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(lifeline_fd,),
        # A Ctrl-C at our terminal is ours to handle.
        start_new_session=True,
    )


def _reading_end(program: Program, lifeline: socket.socket) -> int:
    """Return the descriptor that the guardian passes when the program has opened its FIFO.

    Raises:
        NotOpenedError: it has not.
    """
    lifeline.settimeout(program.open_s + _GUARDIAN_S)
    data, ancillary, _, _ = lifeline.recvmsg(_MAX_MESSAGE_BYTES, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            return int.from_bytes(payload[:4], sys.byteorder)
    ended = _ended(program, json.loads(data) if data else {"error": "its guardian has ended"})
    raise NotOpenedError(ended, program.explain(ended))


def _outcome(program: Program, message: dict[str, Any]) -> Outcome | None:
    ended = _ended(program, message)
    if not ended.status and not ended.complaint:
        return None
    return Outcome(program.explain(ended), is_failure=bool(ended.status))


def _ended(program: Program, message: dict[str, Any]) -> EndedProgram:
    """Return what a guardian says of a program that has ended, or that is no use."""
    status, complaint = message.get("status"), escaped(message.get("stderr", "").strip())
    if (error := message.get("error")) is not None:
        return EndedProgram(None, "", f"{program.shown} cannot be started: {error}")
    if message.get("is_late"):
        text = f"{program.shown} has not opened the FIFO that it is to write to within {program.open_s:g} s"
    elif status is not None and status < 0:
        text = f"{program.shown} was ended by {_signal_name(-status)}"
    else:
        text = f"{program.shown} has ended with status {status}"
    return EndedProgram(status, complaint, f"{text}: {complaint}" if complaint else text)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
