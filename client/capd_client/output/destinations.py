"""Destinations of a live stream: a descriptor such as standard output, whose reader comes once, and a FIFO.

Writing blocks for as long as the reader takes: whoever writes has a thread for it.
"""

import contextlib
import errno
import os
import select
import stat
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from capd_client.errors import DestinationError
from capd_protocol.text import quoted

_STANDARD_OUTPUT = 1
#: Linux's devices.txt: not of blocks, and its number.
_NULL = (False, os.makedev(1, 3))


class ReaderGone(Exception):  # no error: who has read enough leaves
    """Nobody reads any more."""


class LiveDestination(Protocol):
    """Where a live stream goes."""

    #: Whether a reader that has left can come back, or another one.
    has_readers: bool

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
        """
        ...

    def close(self) -> None:
        """Let readers find the stream's end."""
        ...


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

    def __init__(self, descriptor: int = _STANDARD_OUTPUT) -> None:
        """Take a descriptor."""
        super().__init__(descriptor)

    def write(self, data: Iterable[bytes | memoryview]) -> None:
        """Write all of this; see ``LiveDestination``."""
        write_all(partial(_write_some, self._descriptor), data)

    def close(self) -> None:
        """Leave it open."""


class FifoDestination:
    """A FIFO: each reader that opens it gets a stream of its own, from the header on."""

    has_readers = True

    def __init__(self, path: str) -> None:
        """Take the path of a FIFO; it is opened when somebody reads."""
        self._path = path
        self._descriptor: int | None = None

    def wait_for_reader(self) -> None:
        """Return when somebody has opened it to read.

        Raises:
            DestinationError: it cannot be opened.
        """
        self._descriptor = self._open(0)

    def connect(self) -> bool:
        """Say whether somebody reads.

        Raises:
            DestinationError: it cannot be opened.
        """
        if self._descriptor is None:
            self._descriptor = self._open(os.O_NONBLOCK)
        return self._descriptor is not None

    def _open(self, flags: int) -> int | None:
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | flags)
        except OSError as error:
            if error.errno == errno.ENXIO:  # fifo(7): nobody reads
                return None
            raise DestinationError(f"{quoted(self._path)} cannot be written: {error.strerror}") from error
        os.set_blocking(descriptor, True)
        return descriptor

    def is_read(self) -> bool:
        """Say whether the reader is still there."""
        return self._descriptor is not None and _is_read(self._descriptor)

    def write(self, data: Iterable[bytes | memoryview]) -> None:
        """Write all of this; see ``LiveDestination``."""
        if self._descriptor is None:
            raise ReaderGone
        write_all(partial(_write_some, self._descriptor), data)

    def close(self) -> None:
        """Let the reader find the end."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def goes_nowhere(savefile: str | os.PathLike[str] | None) -> bool:
    """Whether a savefile is ``/dev/null``, by whatever name: what is written there is kept by nobody."""
    return savefile is not None and os.fspath(savefile) != "-" and _device_of(os.fspath(savefile)) == _NULL


def live_destination_of(savefile: str | os.PathLike[str] | None) -> LiveDestination | None:
    """Return the destination that a savefile means, if it is none on a disk.

    Args:
        savefile: ``-`` is standard output; a FIFO is written to as often as somebody reads it.

    Raises:
        DestinationError: standard output is a terminal, or closed; or it is a device, none of which takes packets.
    """
    if savefile is None or goes_nowhere(savefile):
        return None
    path = os.fspath(savefile)
    if path == "-":
        return _checked_descriptor(_STANDARD_OUTPUT)
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


def _checked_descriptor(descriptor: int) -> DescriptorDestination:
    if os.isatty(descriptor):
        text = "standard output is a terminal, which cannot show packets: pipe it to a program, or name a file"
        raise DestinationError(text)
    return DescriptorDestination(descriptor)


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


def _write_some(descriptor: int, data: memoryview) -> int:
    try:
        return os.write(descriptor, data)
    except BrokenPipeError as error:
        raise ReaderGone from error
    except BlockingIOError:  # whoever shares it with us has set it so
        select.select([], [descriptor], [])
        return 0
