"""Reopening of streams: a FIFO whose writer has left, and a server that is away, until they come again.

A thread opens the stream, passes a descriptor of it to the capture's process, and looks at its own for the end.
"""

import os
import select
import socket
import threading
import time
from collections.abc import Callable

from capd_client.errors import CaptureError
from capd_client.sources.opened import Outcome

#: After the first failure, and after many. Chosen: a program that is started again is found at once, and a server that
#: stays away is not asked all the time.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
#: A stream that has lasted so long was one. Chosen: a server that refuses each connection ends it sooner.
_LASTING_S = 1.0
#: Chosen: opening takes as long at most.
_END_S = 12.0
#: What of poll(2) shows that the writer has left; POLLERR and POLLHUP come anyway.
_LEFT = select.POLLRDHUP


class Reopener:
    """What opens one stream, again and again (``opened.Feeder``)."""

    def __init__(self, channel: socket.socket, open_it: Callable[[], int]) -> None:
        """Begin.

        Args:
            channel: where descriptors of the stream are passed on; it is taken over.
            open_it: returns a new one; raises CaptureError.
        """
        self._channel = channel
        self._open = open_it
        self._woken, self._waker = os.pipe()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reopening", daemon=True)
        self._thread.start()

    def outcome(self) -> Outcome | None:
        """Return nothing: what becomes of the stream is an event of the capture."""
        return None

    def end(self) -> None:
        """Open nothing more."""
        if not self._is_over.is_set():
            self._is_over.set()
            os.close(self._waker)

    def wait(self) -> None:
        """Wait until nothing more is opened."""
        self._thread.join(_END_S)

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        with self._channel:
            while not self._is_over.is_set():
                try:
                    descriptor = self._open()
                except CaptureError:
                    self._pause(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                    continue
                try:
                    if not self._pass_on(descriptor):
                        break
                    began_s = time.monotonic()
                    self._wait_for_end(descriptor)
                    if time.monotonic() - began_s > _LASTING_S:
                        pause_s = _FIRST_PAUSE_S
                finally:
                    os.close(descriptor)
                self._pause(pause_s)
        os.close(self._woken)

    def _pass_on(self, descriptor: int) -> bool:
        """Say whether somebody takes it."""
        try:
            socket.send_fds(self._channel, [b"s"], [descriptor])
        except OSError:
            return False
        return True

    def _pause(self, seconds: float) -> None:
        select.select([self._woken], [], [], seconds)

    def _wait_for_end(self, descriptor: int) -> None:
        poll = select.poll()
        poll.register(descriptor, _LEFT)
        poll.register(self._woken, select.POLLIN)
        poll.register(self._channel, 0)
        poll.poll()
