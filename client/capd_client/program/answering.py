"""Questions to a program in dumpcap's place: a thread runs it, and answers on a socket as the daemon does."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from capd_client.program.child import CannotStart, Spoken, end, failure_with
from capd_client.program.listings import NotUnderstood, capabilities_of, counts_of, interfaces_of
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import FrameDecoder
from capd_protocol.messages import (
    PROTOCOL_VERSION,
    ErrorMessage,
    Failure,
    FailureCode,
    GetCapabilities,
    Hello,
    InterfaceList,
    ListInterfaces,
    Message,
    Refused,
    Statistics,
    WatchStatistics,
    decode,
    encode,
)

_Parsed = TypeVar("_Parsed")

#: How long it may take to answer. Chosen: it opens each interface, and one that is slow takes seconds.
_ANSWER_S = 10.0
#: How long it may take to end when it is asked to, before it is killed.
_END_S = 2.0
#: Between two of its ticks, which is not to be changed.
_INTERVAL_S = 1.0
_READ_BYTES = 65536
#: Of one answer. Chosen: thousands of interfaces.
_MOST_BYTES = 4 * 1024 * 1024


class _Failed(Exception):
    def __init__(self, code: FailureCode, text: str) -> None:
        super().__init__(text)
        self.failure = Failure(code=code, text=text)


class Answering(Spoken):
    """A program for one question, which speaks to this one as the daemon does, on a socket."""

    def __init__(self, program: Sequence[str]) -> None:
        """Wait for the question.

        Args:
            program: its own words, such as ``["dumpcap"]``.

        Raises:
            InvalidArgument: there are no words.
        """
        super().__init__(program)
        self._begin()

    def _run(self) -> None:
        with self._theirs:
            self._say(encode(Hello(protocol_version=PROTOCOL_VERSION, software=self._name)))
            requests = FrameDecoder()
            while data := self._received():
                requests.feed(data)
                with contextlib.suppress(RemoteProtocolError):  # of our own making
                    while (frame := requests.next_frame()) is not None:
                        self._take(decode(frame))

    def _received(self) -> bytes:
        try:
            return self._theirs.recv(_READ_BYTES)
        except OSError:
            return b""

    def _take(self, request: Message) -> None:
        try:
            match request:
                case ListInterfaces():
                    found = self._answer(["-D"], interfaces_of, FailureCode.UNSUPPORTED)
                    self._say(encode(InterfaceList(interfaces=found, is_last=True)))
                case GetCapabilities(interface=name, monitor_mode=monitor_mode):
                    words = ["-i", name, "-L", "--list-time-stamp-types", *(["-I"] if monitor_mode else [])]
                    self._say(encode(self._answer(words, capabilities_of, failure_with([name]))))
                case WatchStatistics(interval_s=interval_s):
                    if interval_s != _INTERVAL_S:
                        text = f"a program in dumpcap's place counts each second: leave out the interval {interval_s:g}"
                        raise _Failed(FailureCode.UNSUPPORTED, text)
                    self._count()
                case _:
                    pass
        except _Failed as error:
            self._say(encode(Refused(failure=error.failure)))
        except CannotStart as error:
            self._say(encode(Refused(failure=Failure(code=FailureCode.WORKER_DIED, text=str(error)))))

    def _answer(self, words: Sequence[str], parse: Callable[[str], _Parsed], why_not: FailureCode) -> _Parsed:
        """Return what it lists.

        Raises:
            _Failed: it refuses, does not answer in time, or cannot be understood.
            CannotStart: it cannot be started.
        """
        process = self._started(words, output=subprocess.PIPE, errors=subprocess.PIPE)
        with process:
            try:
                output, errors = process.communicate(timeout=_ANSWER_S)
            except subprocess.TimeoutExpired:
                process.kill()
                text = f"{self._name} has not answered within {_ANSWER_S:g} s"
                raise _Failed(FailureCode.WORKER_DIED, text) from None
        complaint = _complaint(errors)
        if complaint is not None:
            raise _Failed(why_not, complaint)
        try:
            if process.returncode:
                raise NotUnderstood(f"it has ended with status {process.returncode}")
            return parse(output[:_MOST_BYTES].decode("utf-8", "replace"))
        except NotUnderstood as error:
            text = f"{self._name} cannot be understood: {error}; it is no program in dumpcap's place"
            raise _Failed(FailureCode.PROTOCOL, text) from error

    def _count(self) -> None:
        """Pass on its counts until it ends, or nobody wants them any more."""
        process = self._started(["-S"], output=subprocess.PIPE, errors=subprocess.DEVNULL)
        try:
            self._say(encode(Statistics(counts=(), gone=(), is_last=True)))
            self._pass_on(process)
        finally:
            assert process.stdout is not None
            process.stdout.close()
            end(process, (signal.SIGINT, _END_S), (signal.SIGKILL, _END_S))

    def _pass_on(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        poll.register(self._theirs, select.POLLIN)
        rest = b""
        deadline_s = time.monotonic() + _ANSWER_S
        while True:
            ready = {each for each, _ in poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000)}
            if not ready:
                raise _Failed(FailureCode.WORKER_DIED, f"{self._name} has counted nothing within {_ANSWER_S:g} s")
            if self._theirs.fileno() in ready and not self._received():
                return
            if process.stdout.fileno() not in ready:
                continue
            data = os.read(process.stdout.fileno(), _READ_BYTES)
            if not data:
                raise _Failed(FailureCode.WORKER_DIED, f"{self._name} has ended, and counts no more")
            lines, _, rest = (rest + data).rpartition(b"\n")
            if len(rest) > _MOST_BYTES:
                raise _Failed(FailureCode.PROTOCOL, f"{self._name} cannot be understood: it writes no lines")
            deadline_s = time.monotonic() + _ANSWER_S
            try:
                counts = counts_of(lines.decode("utf-8", "replace"))
            except NotUnderstood as error:
                raise _Failed(FailureCode.PROTOCOL, f"{self._name} cannot be understood: {error}") from error
            if counts:
                self._say(encode(Statistics(counts=counts, gone=(), is_last=True)))


def _complaint(errors: bytes) -> str | None:
    """Return what a program complains of to its parent, if it does."""
    decoder = FrameDecoder()
    decoder.feed(errors)
    with contextlib.suppress(RemoteProtocolError):
        while (frame := decoder.next_frame()) is not None:
            message = decode(frame)
            if isinstance(message, ErrorMessage):
                return " ".join(message.primary.split())
    return None
