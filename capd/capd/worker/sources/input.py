"""Input from a descriptor that others have a share in: read as it comes, without a wait.

Whether reading waits (O_NONBLOCK) is a property of what is open, not of the descriptor, and so the client's and its
shell's as well: it is left as it is.
"""

import io
import os
import select
import socket
import stat


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
            raise IsADirectoryError(21, os.strerror(21))
        return self._file.readinto(room) if self.is_ready() else None

    def close(self) -> None:
        """Close it."""
        self._descriptor = None
        if self._socket is not None:
            self._socket.close()
        elif self._file is not None:
            self._file.close()
