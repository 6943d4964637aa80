"""A program in dumpcap's place while it runs: a thread starts it, passes on what it says, and ends it."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from functools import partial

from capd_client.program.child import CannotStart, Spoken, end, failure_with
from capd_client.program.translation import Translation
from capd_client.program.words import words_of
from capd_client.request.options import Prepared
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import FrameDecoder
from capd_protocol.messages import (
    Failure,
    FailureCode,
    FlushCapture,
    Refused,
    RotateCapture,
    SnapshotCapture,
    StopCapture,
    decode,
    encode,
)

#: How long it may take to begin. Chosen: as long as whatever else is waited for before a capture begins.
_BEGIN_S = 10.0
#: How long it may take to end when it is asked to, before it is terminated, and killed.
_END_S = 5.0
_READ_BYTES = 65536


class Driver(Spoken):
    """A program for one capture, which speaks to this one as the daemon does, on a socket."""

    def __init__(self, program: Sequence[str], prepared: Prepared) -> None:
        """Begin to start it.

        Args:
            program: its own words, such as ``["dumpcap"]``.
            prepared: the capture.

        Raises:
            InvalidArgument: there are no words.
            UnsupportedError: the capture is beyond dumpcap.
            DestinationError: the directory for the files cannot be entered.
        """
        super().__init__(program)
        os.close(prepared.place.open())
        self._words = words_of(prepared)
        self._place = prepared.place
        interfaces = [each.name for each in prepared.request.interfaces]
        find_failure = partial(failure_with, interfaces)
        self._translation = Translation(self._name, prepared.request, find_failure, self._size_of)
        self._begin()

    def _size_of(self, name: str) -> int:
        try:
            return os.stat(self._place.path_of(name)).st_size  # noqa: PTH116
        except OSError:  # somebody has removed it
            return 0

    def _run(self) -> None:
        with self._theirs:
            self._say(self._translation.beginning())
            try:
                process = self._started(self._words, output=subprocess.DEVNULL, errors=subprocess.PIPE)
            except CannotStart as error:
                self._say(self._translation.end(None, str(error)))
                return
            problem = ""
            try:
                problem = self._follow(process)
            finally:
                self._end(process)
            self._say(self._translation.end(process.returncode, problem))

    def _follow(self, process: "subprocess.Popen[bytes]") -> str:
        """Pass on what it says until it ends, or somebody ends it; return what is wrong with it, if something is."""
        assert process.stderr is not None
        said, asked = process.stderr.fileno(), self._theirs.fileno()
        poll = select.poll()
        poll.register(said, select.POLLIN)
        poll.register(asked, select.POLLIN)
        requests = FrameDecoder()
        deadline_s: float | None = time.monotonic() + _BEGIN_S
        while True:
            left_ms = None if deadline_s is None else max(0.0, deadline_s - time.monotonic()) * 1000
            ready = {each for each, _ in poll.poll(left_ms)}
            if said in ready:
                data = os.read(said, _READ_BYTES)
                if not data:
                    return ""
                self._say(self._translation.translated(data))
                if self._translation.is_decided:
                    deadline_s = time.monotonic() + _END_S
                elif not self._translation.is_stopping:
                    deadline_s = None
            if asked in ready and not self._take(requests, process):
                poll.unregister(asked)
                deadline_s = time.monotonic() + _END_S
            if not ready:
                if self._translation.is_decided or self._translation.is_stopping:
                    return f"{self._name} did not end within {_END_S:g} s"
                return f"{self._name} has not begun to capture within {_BEGIN_S:g} s"

    def _take(self, requests: FrameDecoder, process: "subprocess.Popen[bytes]") -> bool:
        """Take what the session asks for; return whether it may ask for more."""
        data = self._theirs.recv(_READ_BYTES)
        requests.feed(data)
        is_asked = not data
        with contextlib.suppress(RemoteProtocolError):  # of our own making
            while (frame := requests.next_frame()) is not None:
                match decode(frame):
                    case StopCapture():
                        is_asked = True
                    case RotateCapture() | FlushCapture() | SnapshotCapture():
                        text = "a program in dumpcap's place takes no orders but to end"
                        self._say(encode(Refused(failure=Failure(code=FailureCode.UNSUPPORTED, text=text))))
                    case _:
                        pass
        if is_asked and not self._translation.is_stopping:
            self._translation.is_stopping = True
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
        return not is_asked

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        """See that it has ended."""
        assert process.stderr is not None
        process.stderr.close()
        end(process, (None, _END_S), (signal.SIGTERM, 1), (signal.SIGKILL, 1))
