"""A program of Wireshark's that runs: what it is given, and what it answers. Nothing here waits but ``close``."""

import contextlib
import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import termios
import weakref
from collections.abc import Sequence
from pathlib import Path

from capd_client.dissection.engine.ended import Ended
from capd_client.dissection.engine.guardian import SIGNALLED
from capd_client.dissection.engine.programs import Program, environment
from capd_client.errors import ResourceError
from capd_protocol.text import quoted

_GUARDIAN = str(Path(__file__).with_name("guardian.py"))
#: Whom it runs as where we are root: its dissectors have met many a packet that was made for them.
_NOBODY = 65534
#: Read at once, and the size of the pipes, as far as the user may have so much: fewer turns between the processes.
_PIPE_BYTES = 256 * 1024
#: How long a guardian may take to end when its owner wants it to. Chosen: it has only to kill.
_END_S = 5.0
#: Of what a program says, so much is looked at.
_MOST_WORDS_BYTES = 16_384


class _Held:
    """What is the system's: let go of once, however its owner ends."""

    def __init__(self) -> None:
        self.descriptors: set[int] = set()
        self.epoll = select.epoll()
        self.guardian: subprocess.Popen[bytes] | None = None

    def keep(self, descriptor: int) -> int:
        self.descriptors.add(descriptor)
        os.set_blocking(descriptor, False)
        return descriptor

    def close(self, descriptor: int) -> None:
        if descriptor in self.descriptors:
            self.descriptors.remove(descriptor)
            os.close(descriptor)

    def release(self) -> None:
        """Have the program ended, and wait until it has."""
        self.epoll.close()
        for each in tuple(self.descriptors):
            self.close(each)
        guardian, self.guardian = self.guardian, None
        if guardian is None:
            return
        try:
            guardian.wait(_END_S)
        except subprocess.TimeoutExpired:
            guardian.kill()  # and the kernel the program
            guardian.wait()


class Engine:
    """A program of Wireshark's that runs: ended with its owner, by ``close`` at the latest."""

    def __init__(
        self,
        program: Program,
        words: Sequence[str | bytes],
        *,
        source_fd: int | None = None,
        kept_fds: Sequence[int] = (),
    ) -> None:
        """Start it.

        Args:
            program: which one.
            words: behind its name.
            source_fd: its standard input, from where that stands; None: what ``offer`` is given.
            kept_fds: descriptors that it has, too.

        Raises:
            ResourceError: there is no room for it.
        """
        self._program = program
        self._source_fd = source_fd
        self._pending = memoryview(b"")
        self._moved_bytes = 0
        self._is_input_over = source_fd is not None
        self._is_output_over = False
        self._ended: Ended | None = None
        self._held = _Held()
        self._release = weakref.finalize(self, self._held.release)
        theirs: list[int] = []
        try:
            self._start(words, kept_fds, theirs)
        except OSError as error:
            self._release()
            raise ResourceError(f"{quoted(program.path)} cannot be started: {error.strerror}") from error
        except BaseException:
            self._release()
            raise
        finally:
            for each in theirs:
                os.close(each)

    def _start(self, words: Sequence[str | bytes], kept_fds: Sequence[int], theirs: list[int]) -> None:
        held = self._held
        source = self._source_fd
        self._input = -1
        if source is None:
            source, writing = _pipe()
            theirs.append(source)
            self._input = held.keep(writing)
        reading, output = _pipe()
        theirs.append(output)
        self._output = held.keep(reading)
        ours, lifeline = socket.socketpair()
        theirs.append(lifeline.detach())
        self._lifeline = held.keep(ours.detach())
        self._said = held.keep(os.memfd_create("capd-said", os.MFD_CLOEXEC))
        user = _NOBODY if os.geteuid() == 0 else -1
        held.guardian = self._guardian = subprocess.Popen(
            # Without what is not the standard library's: nothing more has to be found and loaded.
            [sys.executable, "-I", "-S", _GUARDIAN, str(theirs[-1]), str(user), self._program.path, *words],
            stdin=source,
            stdout=output,
            stderr=self._said,
            pass_fds=(theirs[-1], *kept_fds),
            env=environment(self._program),
            # A Ctrl-C at our terminal is ours to handle.
            start_new_session=True,
        )
        held.epoll.register(self._output, select.EPOLLIN)

    # What it is given -------------------------------------------------------------------------------------------------

    @property
    def wants_input(self) -> bool:
        """Whether it has taken all that it was offered, and may take more."""
        return not self._pending and not self._is_input_over

    def offer(self, data: bytes) -> None:
        """Have it given bytes as it takes them: no more are offered until then."""
        assert self.wants_input
        self._pending = memoryview(data)
        self._write()
        if self._pending:
            self._held.epoll.register(self._input, select.EPOLLOUT)

    def end_input(self) -> None:
        """Let it find the end of what it is given, which it has taken."""
        self._is_input_over = True
        self._pending = memoryview(b"")
        self._held.close(self._input)

    def _write(self) -> None:
        try:
            while self._pending:
                written = os.write(self._input, self._pending)
                self._moved_bytes += written
                self._pending = self._pending[written:]
        except BlockingIOError:
            pass
        except BrokenPipeError:  # how it has ended says why
            self.end_input()

    # What it answers --------------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Return a descriptor that is readable when ``step`` has something to do."""
        return self._held.epoll.fileno()

    def step(self) -> bytes:
        """Give it what it takes now, and return what it has answered: nothing where that is nothing yet."""
        if self._pending:
            self._write()
            if not self._pending and not self._is_input_over:
                self._held.epoll.unregister(self._input)
        if self._is_output_over:
            self._look()
            return b""
        try:
            data = os.read(self._output, _PIPE_BYTES)
        except BlockingIOError:
            return b""
        self._moved_bytes += len(data)
        if not data:
            self._is_output_over = True
            self._held.epoll.unregister(self._output)
            self._held.epoll.register(self._lifeline, select.EPOLLIN)
            self._look()
        return data

    def _look(self) -> None:
        """Learn how it has ended, if it has."""
        if self._ended is not None or self._held.guardian is None or not _is_ready(self._lifeline):
            return
        status = self._guardian.wait()  # its socket is closed: it ends now
        if status > SIGNALLED:
            status = SIGNALLED - status
        words = os.pread(self._said, _MOST_WORDS_BYTES, 0).decode("utf-8", "replace")
        self._ended = Ended(status, words)

    @property
    def ended(self) -> Ended | None:
        """How it has ended, once all that it answered was returned."""
        return self._ended

    @property
    def moved_bytes(self) -> int:
        """How much it has taken and answered: no more means that it stands still."""
        taken = 0 if self._source_fd is None else os.lseek(self._source_fd, 0, os.SEEK_CUR)
        return self._moved_bytes + taken

    @property
    def has_unread(self) -> bool:
        """Whether it has not read all that it was given."""
        if self._input not in self._held.descriptors:
            return True  # to its end, or the end of a file
        unread = bytearray(4)
        fcntl.ioctl(self._input, termios.FIONREAD, unread)
        return bool(self._pending) or struct.unpack("i", unread)[0] > 0

    def close(self) -> None:
        """End it, and wait until it has ended: some milliseconds."""
        self._release()


def _pipe() -> tuple[int, int]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # the user has as much in pipes as is allowed
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return reading, writing


def _is_ready(descriptor: int) -> bool:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(0))
