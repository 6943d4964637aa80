"""Input from a descriptor that others have a share in: read as it comes, without a wait.

Whether reading waits (O_NONBLOCK) is a property of what is open, not of the descriptor, and so the client's and its
shell's as well: it is left as it is.
"""

import contextlib
import errno
import io
import os
import select
import socket
import stat

from capd.linux.descriptors import DescriptorsDropped, receive

#: Of one message; more than one are closed.
_MAX_DESCRIPTORS = 16


class Input:
    """A pipe, a FIFO, a socket, a device or a file, from its present position on."""

    def __init__(self, descriptor: int) -> None:
        """Take over a descriptor."""
        mode = os.fstat(descriptor).st_mode
        self._socket = socket.socket(fileno=descriptor) if stat.S_ISSOCK(mode) else None
        self._is_always_ready = stat.S_ISREG(mode)
        #: None where it was closed.
        self._descriptor: int | None = descriptor
        self._file = None if self._socket is not None or stat.S_ISDIR(mode) else io.FileIO(descriptor)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    @property
    def is_open(self) -> bool:
        """Whether it was not closed."""
        return self._descriptor is not None

    def fileno(self) -> int:
        """Return what to wait for; -1 where there is nothing to wait for."""
        return -1 if self._descriptor is None or self._is_always_ready else self._descriptor

    def is_ready(self) -> bool:
        """Whether something can be read, or the end is there."""
        return self._descriptor is not None and (self._is_always_ready or bool(self._poll.poll(0)))

    def read_into(self, room: memoryview) -> int | None:
        """Read what is there; return how many bytes, 0 at the end, None where there is nothing now.

        Raises:
            OSError: it cannot be read.
        """
        if self._socket is not None:
            try:
                return self._socket.recv_into(room, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
        if self._file is None:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return self._file.readinto(room) if self.is_ready() else None

    def close(self) -> None:
        """Close it."""
        self._descriptor = None
        if self._socket is not None:
            self._socket.close()
        elif self._file is not None:
            self._file.close()


class SuccessiveInputs:
    """Inputs that come one after another on a socket; the next one is taken when the one before has ended."""

    is_open = True

    def __init__(self, channel: int) -> None:
        """Take over the socket on which their descriptors come."""
        self._channel = socket.socket(fileno=channel)
        self._current: Input | None = None
        #: Of the channel and of the current one: whoever waits for it waits for the same descriptor all the time.
        self._epoll = select.epoll()
        self._epoll.register(self._channel, select.EPOLLIN)

    def fileno(self) -> int:
        """Return what to wait for."""
        return self._epoll.fileno()

    def is_ready(self) -> bool:
        """Whether something can be read, or an end or another one is there."""
        return self.is_open and bool(self._take_next() and self._current is not None and self._current.is_ready())

    def _take_next(self) -> bool:
        """Say whether there is one that has not ended."""
        if self._current is None:
            try:
                _, descriptors = receive(self._channel, 1, _MAX_DESCRIPTORS, socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionResetError, DescriptorsDropped):
                return False
            if not descriptors:  # nobody passes any more
                self._forget_channel()
                return False
            for each in descriptors[1:]:
                os.close(each)
            self._current = Input(descriptors[0])
            if self._current.fileno() >= 0:
                self._epoll.register(self._current.fileno(), select.EPOLLIN | select.EPOLLET)
        return True

    def _forget_channel(self) -> None:
        with contextlib.suppress(OSError):  # for the second time
            self._epoll.unregister(self._channel)

    def read_into(self, room: memoryview) -> int | None:
        """Read what is there; return how many bytes, 0 at the end of one, None where there is nothing now.

        Raises:
            OSError: it cannot be read.
        """
        if not self._take_next() or self._current is None:
            return None
        came_bytes = self._current.read_into(room)
        if came_bytes == 0:
            self._close_current()
        return came_bytes

    def _close_current(self) -> None:
        if self._current is not None:
            self._current.close()  # which ends that epoll waits for it
            self._current = None

    def close(self) -> None:
        """Close all."""
        if not self.is_open:
            return
        self.is_open = False
        self._close_current()
        self._epoll.close()
        self._channel.close()
