"""Destinations of a live stream: standard output, an open file, whose reader comes once, and a FIFO.

Writing takes as long as the reader does: whoever writes has a thread for it.
"""

import contextlib
import errno
import io
import os
import select
import socket
import stat
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from capd_client.errors import CaptureError, DestinationError, InvalidArgument
from capd_client.request.options import HasWrite, Savefile, path_of_text
from capd_protocol.text import quoted

_STANDARD_OUTPUT = 1
#: Linux's devices.txt: not of blocks, and its number.
_NULL = (False, os.makedev(1, 3))
#: How often it is looked whether the reader has left, or another one has come, while nothing is written. Chosen: a
#: program that is started anew takes longer to open a FIFO again.
READER_LOOK_S = 0.01
#: How often a write that waits looks whether it was given up. Chosen: nobody notices.
_LOOK_S = 0.1
#: How soon a file that takes nothing now is asked again, where nothing can be waited for.
_PAUSE_S = 0.01
#: A pipe that can be written at all takes so much at once (pipe(7): PIPE_BUF).
_PIPE_BUF_BYTES = select.PIPE_BUF


class ReaderGone(Exception):  # no error: who has read enough leaves
    """Nobody reads any more."""


class LiveDestination(Protocol):
    """Where a live stream goes."""

    #: Whether a reader that has left can come back, or another one.
    has_readers: bool

    @property
    def sent_bytes(self) -> int:
        """How much readers have taken so far."""
        ...

    def wait_for_reader(self) -> None:
        """Return when there is the first reader.

        Raises:
            DestinationError: there can be none.
        """
        ...

    def connect(self) -> bool:
        """Say whether there is a reader now, who gets the stream from its header on."""
        ...

    def is_read(self) -> bool:
        """Say whether the reader is still there."""
        ...

    def write(self, data: Iterable[bytes | memoryview]) -> None:
        """Write all of this.

        Raises:
            ReaderGone: the reader has left; a part of it may have been read.
            OSError: it cannot be written, such as where a disk is full.
            DestinationError: it cannot be written, for another reason.
        """
        ...

    def give_up(self) -> None:
        """Have a ``write`` that waits for the reader, and any further one, end as if it had left."""
        ...

    def close(self) -> None:
        """Let readers find the stream's end."""
        ...


class _Writer:
    """Writes to a descriptor, never so that it cannot be given up."""

    def __init__(self, descriptor: int) -> None:
        """Take a descriptor; it stays the caller's, and is not set to non-blocking: others may share it."""
        self.sent_bytes = 0
        self._is_given_up = False
        self._descriptor = descriptor
        self._twin = -1
        self._socket: socket.socket | None = None
        mode = 0
        with contextlib.suppress(OSError):  # one that is not open is for ``write`` to report
            mode = os.fstat(descriptor).st_mode
        self._is_pipe = stat.S_ISFIFO(mode)
        with contextlib.suppress(OSError):  # a pipe that another user has made
            if self._is_pipe:
                self._twin = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            elif stat.S_ISSOCK(mode):
                self._socket = socket.socket(fileno=os.dup(descriptor))

    def write(self, data: Iterable[bytes | memoryview]) -> None:
        """Write all of this.

        Raises:
            ReaderGone: the reader has left, or was given up.
            OSError: it cannot be written.
        """
        write_all(self._write_some, data)

    def _write_some(self, data: memoryview) -> int:
        while not self._is_given_up:
            try:
                sent_bytes = self._write_now(data)
            except (BrokenPipeError, ConnectionResetError) as error:
                raise ReaderGone from error
            except BlockingIOError:
                self._wait_for_room()
            else:
                self.sent_bytes += sent_bytes
                return sent_bytes
        raise ReaderGone

    def _write_now(self, data: memoryview) -> int:
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        if self._twin >= 0:
            return os.write(self._twin, data)
        if self._is_pipe:
            if not self._wait_for_room():
                raise BlockingIOError
            data = data[:_PIPE_BUF_BYTES]
        return os.write(self._descriptor, data)

    def _wait_for_room(self) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(_LOOK_S * 1000))

    def give_up(self) -> None:
        """Have what waits in ``write`` end."""
        self._is_given_up = True

    def close(self) -> None:
        """Close what this has opened."""
        if self._twin >= 0:
            os.close(self._twin)
        if self._socket is not None:
            self._socket.close()


class OneReader:
    """What is open already, and has one reader, once."""

    has_readers = False
    #: What of poll(2) says that the reader has left, beside POLLERR and POLLHUP. Not POLLRDHUP, by default: sshd's
    #: socket is standard input and output in one, and has no more input where the reader still reads.
    _left_events = 0

    def __init__(self, descriptor: int) -> None:
        """Take the descriptor that is written to; it stays the caller's."""
        self._descriptor = descriptor
        self._is_connected = False

    def wait_for_reader(self) -> None:
        """Return at once: whoever has opened it reads it."""

    def connect(self) -> bool:
        """Say yes, once."""
        is_first, self._is_connected = not self._is_connected, True
        return is_first

    def is_read(self) -> bool:
        """Say whether its other end is open, if it has one."""
        return _is_read(self._descriptor, self._left_events)


class DescriptorDestination(OneReader):
    """A descriptor that is open already, by default standard output. It stays open: it is its process's."""

    def __init__(self, descriptor: int = _STANDARD_OUTPUT, owner: object = None) -> None:
        """Take a descriptor.

        Args:
            descriptor: of a pipe, a socket, or another file.
            owner: what would close it if nobody had it.
        """
        super().__init__(descriptor)
        self._owner = owner
        self._writer = _Writer(descriptor)

    @property
    def sent_bytes(self) -> int:
        """How much was written."""
        return self._writer.sent_bytes

    def write(self, data: Iterable[bytes | memoryview]) -> None:
        """Write all of this; see ``LiveDestination``."""
        self._writer.write(data)

    def give_up(self) -> None:
        """Have what waits in ``write`` end."""
        self._writer.give_up()

    def close(self) -> None:
        """Leave it open."""
        self._writer.close()


class FileDestination(OneReader):
    """An open file of Python's, whatever it is: a compressed one, one in memory, a program's own. It stays open."""

    def __init__(self, file: HasWrite, descriptor: int = -1) -> None:
        """Take a file, and its descriptor where it has one."""
        super().__init__(descriptor)
        self._file = file
        self._is_given_up = False
        self.sent_bytes = 0

    def is_read(self) -> bool:
        """Say that it can be written: it has no reader who could leave."""
        return True

    def write(self, data: Iterable[bytes | memoryview]) -> None:
        """Write all of this, and have it passed on; see ``LiveDestination``."""
        try:
            write_all(self._write_some, data)
            if callable(flush := getattr(self._file, "flush", None)):
                flush()
        except BrokenPipeError as error:
            raise ReaderGone from error
        except (ReaderGone, OSError, CaptureError):
            raise
        except Exception as error:  # it may be anybody's: that it was closed is a ValueError
            raise DestinationError(f"the open file that packets go to takes nothing: {error}") from error

    def _write_some(self, data: memoryview) -> int:
        if self._is_given_up:
            raise ReaderGone
        written = self._file.write(data)
        if written is None and isinstance(self._file, io.RawIOBase):  # it would block
            time.sleep(_PAUSE_S)
            return 0
        written_bytes = written if isinstance(written, int) else len(data)
        self.sent_bytes += written_bytes
        return written_bytes

    def give_up(self) -> None:
        """Have nothing more written; a call of the file's own that waits is waited for."""
        self._is_given_up = True

    def close(self) -> None:
        """Leave it open."""


class FifoDestination:
    """A FIFO: each reader that opens it gets a stream of its own, from the header on."""

    has_readers = True

    def __init__(self, path: str) -> None:
        """Take the path of a FIFO; it is opened when somebody reads."""
        self._path = path
        self._descriptor: int | None = None
        self._writer: _Writer | None = None
        self._is_given_up = False
        #: By readers that have left.
        self._sent_before_bytes = 0

    @property
    def sent_bytes(self) -> int:
        """How much readers have taken so far."""
        writer = self._writer
        return self._sent_before_bytes + (0 if writer is None else writer.sent_bytes)

    def wait_for_reader(self) -> None:
        """Return when somebody has opened it to read.

        Raises:
            DestinationError: it cannot be opened.
        """
        self._open(0)

    def connect(self) -> bool:
        """Say whether somebody reads.

        Raises:
            DestinationError: it cannot be opened.
        """
        if self._descriptor is None:
            self._open(os.O_NONBLOCK)
        return self._descriptor is not None

    def _open(self, flags: int) -> None:
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | flags)
        except OSError as error:
            if error.errno == errno.ENXIO:  # fifo(7): nobody reads
                return
            raise DestinationError(f"{quoted(self._path)} cannot be written: {error.strerror}") from error
        self._descriptor, self._writer = descriptor, _Writer(descriptor)
        if self._is_given_up:
            self._writer.give_up()

    def is_read(self) -> bool:
        """Say whether the reader is still there."""
        return self._descriptor is not None and _is_read(self._descriptor)

    def write(self, data: Iterable[bytes | memoryview]) -> None:
        """Write all of this; see ``LiveDestination``."""
        if self._writer is None:
            raise ReaderGone
        self._writer.write(data)

    def give_up(self) -> None:
        """Have what waits in ``write`` end, and whoever reads later gets nothing."""
        self._is_given_up = True
        if self._writer is not None:
            self._writer.give_up()

    def close(self) -> None:
        """Let the reader find the end."""
        if self._writer is not None:
            self._sent_before_bytes += self._writer.sent_bytes
            self._writer.close()
            self._writer = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def goes_nowhere(savefile: Savefile | None) -> bool:
    """Whether a savefile is ``/dev/null``, by whatever name: what is written there is kept by nobody."""
    if savefile is None or isinstance(savefile, HasWrite):
        return False
    path = path_of_text(savefile)
    return path != "-" and _device_of(path) == _NULL


def live_destination_of(savefile: Savefile | None) -> LiveDestination | None:
    """Return the destination that a savefile means, if it is none on a disk that is opened by its name.

    Args:
        savefile: ``-`` is standard output; a FIFO is written to as often as somebody reads it; or an open file.

    Raises:
        InvalidArgument: it is open, but not for writing bytes; or no path of text.
        DestinationError: it is a terminal, or closed; or a device, none of which takes packets.
    """
    if savefile is None or goes_nowhere(savefile):
        return None
    if isinstance(savefile, HasWrite):
        return _open_destination(savefile)
    return _named_destination(path_of_text(savefile))


def _named_destination(path: str) -> LiveDestination | None:
    if path == "-":
        return _checked_descriptor(_STANDARD_OUTPUT, "standard output")
    if _device_of(path) is not None:
        possible = "name a file, a FIFO, - for standard output, or /dev/null, where packets are counted only"
        raise DestinationError(f"{quoted(path)} is a device: {possible}")
    with contextlib.suppress(OSError, ValueError):
        if not stat.S_ISFIFO(os.stat(path).st_mode):  # noqa: PTH116
            return None
        # Pipes without a name, such as /dev/stdout and what a shell makes of >(…), have one reader, once.
        if os.path.realpath(path).startswith("/proc/"):
            return DescriptorDestination(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
        return FifoDestination(path)
    return None


def _device_of(path: str) -> tuple[bool, int] | None:
    """Return whether a path names a device of blocks, and its number; None: it names no device."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    is_blocks = stat.S_ISBLK(found.st_mode)
    return (is_blocks, found.st_rdev) if is_blocks or stat.S_ISCHR(found.st_mode) else None


def _checked_descriptor(descriptor: int, name: str, owner: object = None) -> DescriptorDestination:
    if os.isatty(descriptor):
        text = f"{name} is a terminal, which cannot show packets: pipe it to a program, or name a file"
        raise DestinationError(text)
    return DescriptorDestination(descriptor, owner)


def _open_destination(file: HasWrite) -> LiveDestination:
    owner: object = file
    if isinstance(owner, io.TextIOBase):
        raise InvalidArgument("savefile is open for text: open it for bytes, as with 'wb'", argument="savefile")
    if getattr(file, "closed", False):
        raise InvalidArgument("savefile is closed", argument="savefile")
    if callable(writable := getattr(file, "writable", None)) and not writable():
        raise InvalidArgument(
            "savefile is open for reading only: open it for writing, as with 'wb'", argument="savefile"
        )
    descriptor = _own_descriptor(file)
    if descriptor < 0:
        return FileDestination(file)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return FileDestination(file, descriptor)
    if isinstance(file, io.BufferedWriter | io.BufferedRandom):
        file.flush()
    return _checked_descriptor(descriptor, "the open file", owner)


def _own_descriptor(file: object) -> int:
    """Return the descriptor of a file that writes what it is given, as it is; -1: it has none such."""
    raw: object = getattr(file, "raw", None) if type(file) in (io.BufferedWriter, io.BufferedRandom) else file
    return raw.fileno() if isinstance(raw, io.FileIO) else -1


def write_all(write_some: Callable[[memoryview], int], data: Iterable[bytes | memoryview]) -> None:
    """Write all of this.

    Args:
        write_some: writes the beginning of some bytes; returns how many.
        data: what is written.
    """
    for each in data:
        rest = memoryview(each)
        while rest:
            rest = rest[write_some(rest) :]


def _is_read(descriptor: int, left_events: int = 0) -> bool:
    poll = select.poll()
    poll.register(descriptor, left_events)
    # One that is not open is for ``write`` to report.
    return not any(events & ~select.POLLNVAL for _, events in poll.poll(0))
