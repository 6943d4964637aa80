"""Capture files as streams: each packet comes when it came, by the file's times, as fast or at another speed.

A thread writes the file's bytes into a pipe, as they are, up to the end of the last packet that is due. What is wrong
with the file is found where it is read: from there on the rest is written at once.
"""

import errno
import fcntl
import os
import select
import signal
import stat
import struct
import termios
import threading
import time
from collections.abc import Callable

import numpy as np

from capd_client.sources.opened import OpenedStream, Outcome
from capd_client.sources.pacing import I64, Schedule, record_spans
from capd_protocol.batches.recognition import MAGIC_BYTES, Parser, recognize
from capd_protocol.batches.record_offsets import Damage

#: Read at once. Chosen: a quarter of what the pipe holds.
_READ_BYTES = 256 * 1024
#: A longer record is not waited for. Chosen: as long as one of a stream may be.
_MAX_RECORD_BYTES = 16 * 1024 * 1024
#: The last part of a wait is slept, exactly; poll(2) counts in milliseconds.
_SLEPT_NS = 2_000_000
#: poll(2) takes milliseconds as an int.
_LONGEST_WAIT_NS = 3600 * 10**9
#: Between two looks whether the capture has begun.
_LOOK_MS = 2
_NS_PER_MS = 1_000_000


class _OverError(Exception):
    """Nobody reads any more, or the session has ended."""


class Replay:
    """A thread that plays a file into a pipe (``opened.Feeder``)."""

    def __init__(self, file_fd: int, speed: float, pipe_fd: int) -> None:
        """Take over both descriptors, and begin.

        Args:
            file_fd: the file.
            speed: how many seconds of the file pass in one.
            pipe_fd: where its packets are written to.
        """
        is_ended, ends = os.pipe()
        self._player = _Player(file_fd, pipe_fd, is_ended, Schedule(speed))
        #: Closed, it ends the thread, which has the other end. So does the reader's end, where a session is dropped.
        self._ends = os.fdopen(ends, "wb", buffering=0)
        self._thread = threading.Thread(target=self._player.run, daemon=True)
        self._thread.start()

    def outcome(self) -> Outcome | None:
        """Return what kept it from reading the file."""
        return self._player.outcome

    def end(self) -> None:
        """Have it end."""
        self._ends.close()

    def wait(self) -> None:
        """Wait until it has ended."""
        self._thread.join()


class _Player:
    """The bytes of a file, when they are due."""

    def __init__(self, file_fd: int, pipe_fd: int, is_ended_fd: int, schedule: Schedule) -> None:
        self._file, self._pipe, self._is_ended = file_fd, pipe_fd, is_ended_fd
        self._schedule = schedule
        self.outcome: Outcome | None = None
        os.set_blocking(pipe_fd, False)
        #: Which tells of an end, and of room in the pipe.
        self._end, self._room = select.poll(), select.poll()
        for poll, events in ((self._end, 0), (self._room, select.POLLOUT)):
            poll.register(pipe_fd, events)
            poll.register(is_ended_fd, 0)
        #: What was read, from where a record begins.
        self._data = b""
        #: By the monotonic clock; None before the first packet.
        self._began_ns: int | None = None

    def run(self) -> None:
        """Write the file, and close everything: the stream ends."""
        # A signal is for other threads; where nobody reads, EPIPE says the same as SIGPIPE.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._play()
        except _OverError:
            pass
        except OSError as error:
            text = f"the file that is replayed cannot be read any further: {error.strerror}"
            self.outcome = Outcome(text, is_failure=True)
        finally:
            for each in (self._pipe, self._file, self._is_ended):
                os.close(each)

    def _play(self) -> None:
        """Write the file.

        Raises:
            _OverError: before its end.
            OSError: it cannot be read.
        """
        parser, wanted_bytes = None, MAGIC_BYTES
        while read := os.read(self._file, max(_READ_BYTES, wanted_bytes - len(self._data))):
            self._data += read
            if len(self._data) < wanted_bytes:
                continue
            try:
                parser = parser or recognize(self._data[:MAGIC_BYTES])
                assert parser is not None  # there are enough bytes to know
                while self._play_records(parser):
                    pass
                wanted_bytes = parser.record_bytes(np.frombuffer(self._data, np.uint8), 0)
            except Damage:
                break
            if wanted_bytes > _MAX_RECORD_BYTES:
                break
        while self._data:
            self._write(memoryview(self._data))
            self._data = os.read(self._file, _READ_BYTES)

    def _play_records(self, parser: Parser) -> bool:
        """Write records that are whole, each when it is due; return whether there were any.

        Raises:
            Damage: there is no record where one should begin.
        """
        data = self._data
        batches, stop = parser.parse(np.frombuffer(data, np.uint8), 0)
        written = 0
        for batch in batches:
            if len(batch.timestamps_ns):
                begins, ends = record_spans(parser, batch)
                self._await_reader(memoryview(data)[written : int(begins[0])])
                written = self._write_when_due(data, int(begins[0]), ends, self._schedule.due_ns(batch.timestamps_ns))
        self._write(memoryview(data)[written:stop])
        self._data = data[stop:]
        return stop > 0

    def _await_reader(self, before: memoryview) -> None:
        """Write what stands before a packet; before the first one, wait until the capture has begun and read that."""
        self._write(before)
        if self._began_ns is None:
            while self._unread_bytes():
                self._wait(_LOOK_MS)
            self._began_ns = time.monotonic_ns()

    def _unread_bytes(self) -> int:
        (size_bytes,) = struct.unpack("i", fcntl.ioctl(self._pipe, termios.FIONREAD, b"\0\0\0\0"))
        return int(size_bytes)

    def _write_when_due(self, data: bytes, written: int, ends: I64, due_ns: I64) -> int:
        """Write records, together what is due together; return where the last one ends."""
        assert self._began_ns is not None
        done = 0
        while done < len(ends):
            due = int(np.searchsorted(due_ns, time.monotonic_ns() - self._began_ns, side="right"))
            if due > done:
                self._write(memoryview(data)[written : int(ends[due - 1])])
                done, written = due, int(ends[due - 1])
            else:
                self._sleep_until(self._began_ns + int(due_ns[done]))
        return written

    def _sleep_until(self, deadline_ns: int) -> None:
        while (left_ns := deadline_ns - time.monotonic_ns()) > 0:
            if left_ns > _SLEPT_NS:
                self._wait((min(left_ns, _LONGEST_WAIT_NS) - _SLEPT_NS // 2) // _NS_PER_MS)
            else:
                time.sleep(left_ns / 10**9)

    def _wait(self, timeout_ms: int) -> None:
        """Wait.

        Raises:
            _OverError: the end has come meanwhile.
        """
        if self._end.poll(timeout_ms):
            raise _OverError

    def _write(self, data: memoryview) -> None:
        while data:
            try:
                data = data[os.write(self._pipe, data) :]
            except BlockingIOError:
                if any(descriptor != self._pipe or event != select.POLLOUT for descriptor, event in self._room.poll()):
                    raise _OverError from None
            except BrokenPipeError:
                raise _OverError from None


def open_replay(text: str) -> OpenedStream:
    """Begin to play a file; its first packet comes when the capture reads it.

    Args:
        text: ``:FILE``, or ``@FACTOR:FILE`` for another speed.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no regular file, or this is no factor.
    """
    factor, _, path = text.partition(":")
    speed = _speed_of(factor)
    file_fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(file_fd).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise ValueError("only a file is replayed; what comes by itself has a pace: leave out replay")
        return _piped(lambda pipe_fd: Replay(file_fd, speed, pipe_fd))
    except BaseException:
        os.close(file_fd)
        raise


def _piped(feeder_of: Callable[[int], Replay]) -> OpenedStream:
    reading, writing = os.pipe()
    try:
        return OpenedStream(reading, feeder_of(writing))
    except BaseException:
        os.close(reading)
        os.close(writing)
        raise


def _speed_of(factor: str) -> float:
    if not factor:
        return 1.0
    try:
        speed = float(factor.removeprefix("@"))
    except ValueError:
        speed = 0.0
    if not (factor.startswith("@") and 0 < speed < float("inf")):
        raise ValueError(f"{factor[1:]!r:.20} is no speed: it has to be a number above 0, as in replay@10:FILE")
    return speed
