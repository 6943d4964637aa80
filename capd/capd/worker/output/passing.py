"""Passing of open files to the capture's client, by a thread that has no packet socket.

A filter of system calls cannot see which descriptors a message carries. So the thread that may send some has its own
descriptors, none of which is worth passing on to a user who has taken over the worker: the directory, which is that
user's, and this socket. The other threads have the packet sockets, and no call to pass them with (``confinement``).

So a descriptor means something only in the thread that it belongs to, and each is closed there by name: never by a
collection of garbage, which may come to run in any thread.
"""

import contextlib
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable

from capd.linux import libc
from capd.worker.output.savefile import SaveFile

#: linux/sched.h.
_CLONE_FILES = 0x00000400


class FilePasser:
    """The socket, and the thread that passes files on it. What is public is for the capture's own thread."""

    def __init__(self, files: socket.socket) -> None:
        """Take over a socket. Nothing is passed before ``begin``."""
        files.setblocking(False)
        self._files = files
        self._file: SaveFile | None = None
        self._is_apart = False
        self._wanted = threading.Semaphore(0)
        self._done = threading.Semaphore(0)

    def begin(self, directory_fd: int, confine: Callable[[int], None]) -> None:
        """Start the thread, and wait until it is apart.

        Args:
            directory_fd: where the files are.
            confine: what the thread is to do before all else, with the descriptor of the socket.

        Raises:
            RuntimeError: there can be no thread more.
        """
        threading.Thread(target=self._run, args=(directory_fd, confine), name="passing", daemon=True).start()
        self._done.acquire()
        if self._is_apart:
            os.close(self._files.fileno())  # for this thread; the other one goes on with the same number

    def pass_file(self, file: SaveFile) -> None:
        """Pass a descriptor for reading; a client that has not taken earlier ones gets no more."""
        self._file = file
        self._wanted.release()
        self._done.acquire()

    # The thread ---------------------------------------------------------------------------------------------------

    def _run(self, directory_fd: int, confine: Callable[[int], None]) -> None:
        try:
            # Signals are noted on a descriptor that the thread will not have.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
            # A sandbox around us may refuse it. Then the thread shares the descriptors of the others.
            with contextlib.suppress(OSError):
                libc.call("unshare", _CLONE_FILES)
                self._is_apart = True
            if self._is_apart:
                _close_all_but(directory_fd, self._files.fileno())
            confine(self._files.fileno())
            while True:
                self._done.release()
                self._wanted.acquire()
                if self._file is not None:
                    self._pass(self._file)
        except BaseException:  # nothing is above, and the capture's own thread waits
            traceback.print_exc()
            os._exit(1)

    def _pass(self, file: SaveFile) -> None:
        descriptor = file.open_for_reading()
        if descriptor is None:
            return
        try:
            with contextlib.suppress(OSError):
                socket.send_fds(self._files, [os.fsencode(file.name)], [descriptor])
        finally:
            os.close(descriptor)


def _close_all_but(*kept: int) -> None:
    """Close all descriptors of this thread but standard input, output and error, and these."""
    first = 3
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
