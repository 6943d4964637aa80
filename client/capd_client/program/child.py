"""A program in dumpcap's place as a child of this one, and the thread that speaks for it as the daemon does."""

import abc
import contextlib
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence

from capd_client.errors import InvalidArgument
from capd_protocol.messages import FailureCode
from capd_protocol.text import quoted


class CannotStart(Exception):
    """The program cannot be started; the text says why."""


class Spoken(abc.ABC):
    """A socket on which a thread speaks for a program; a subclass says what."""

    def __init__(self, program: Sequence[str]) -> None:
        """Check the words. Nothing is done before ``_begin``.

        Args:
            program: its own words, such as ``["dumpcap"]``.

        Raises:
            InvalidArgument: there are no words.
        """
        if not program or isinstance(program, str):
            raise InvalidArgument("program has the words of a command, such as ['dumpcap']", argument="program")
        self._program = list(program)
        #: For people.
        self._name = quoted(program[0])

    def _begin(self) -> None:
        self.socket, self._theirs = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it has ended.

        Raises:
            subprocess.TimeoutExpired: not in time.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise subprocess.TimeoutExpired(self._program, timeout or 0)

    def kill(self) -> None:  # noqa: B027  # the same for all
        """Do nothing: the thread kills it, in bounded time."""

    # The thread -----------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _run(self) -> None:
        """Speak, and have the program ended."""

    def _say(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # who listens has gone
            self._theirs.sendall(data)

    def _started(self, words: Sequence[str], *, output: int, errors: int) -> "subprocess.Popen[bytes]":
        """Start it, with its messages on standard error.

        Raises:
            CannotStart: that cannot be.
        """
        try:
            return subprocess.Popen(
                [*self._program, *words, "-Z", "none"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                # A Ctrl-C at our terminal is ours to handle.
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise CannotStart(f"{self._name} cannot be started: {reason}") from error


def end(process: "subprocess.Popen[bytes]", *signals: tuple[signal.Signals | None, float]) -> None:
    """See that a program has ended.

    Args:
        process: this one.
        signals: what it is sent, one after another, each with how many seconds it may take then; None: nothing.
    """
    for number, patience_s in signals:
        if number is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
            return
    process.wait()


def failure_with(interfaces: Sequence[str]) -> FailureCode:
    """Return which kind of failure it is with these interfaces: found out here, as a program's words are for people."""
    for each in interfaces:
        try:
            socket.if_nametoindex(each)
        except OSError:
            return FailureCode.NO_SUCH_INTERFACE
    return FailureCode.UNSUPPORTED
