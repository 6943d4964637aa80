"""Passes a capture's files to those who may read them, open for reading, on sockets past the daemon.

What is asked for is a name; what comes back is the same name, with a descriptor if there is such a file of this
capture's. So nobody gets a directory, which would lead to more than these files.

A reader may be another user than the capture's, and keeps others waiting for nothing: descriptors that come from
one are not received, and a socket in which some may lie is not closed, but left to the end of the process.
"""

import contextlib
import os
import select
import socket
import stat
import time

from capd_protocol.formats.ring_index import index_name, number_of

#: NAME_MAX (linux/limits.h).
_MAX_NAME_BYTES = 255
#: Files in a second, for all readers together, and as many at once where none were asked for in the second before.
#: Chosen: each takes some 50 µs, so that readers take a fortieth of a processor at most.
_FILES_PER_S = 500
#: Sockets that are not served any more, and not closed; beyond, nobody else is served. Chosen: only readers leave some
#: who send descriptors, or do not take the files that they ask for.
_MAX_LEFT = 64


class Readers:
    """Those who are served, and their sockets."""

    def __init__(self, epoll: select.epoll, directory_fd: int, file_name: str) -> None:
        """Serve nobody yet.

        Args:
            epoll: waits for requests.
            directory_fd: where the files are.
            file_name: what they are called.
        """
        self._epoll = epoll
        self._directory_fd = directory_fd
        self._file_name = file_name
        self._channels: dict[int, socket.socket] = {}
        self._left = 0
        self._allowance = float(_FILES_PER_S)
        self._counted_s = time.monotonic()
        self._is_paused = False

    def add(self, channel: socket.socket, current: str) -> bool:
        """Serve one more, and pass the current file first, if there is one; return whether there is room for it."""
        channel.setblocking(False)
        if self._left >= _MAX_LEFT:
            channel.close()  # nobody else has had the other end yet, so it is empty
            return False
        self._channels[channel.fileno()] = channel
        self._epoll.register(channel, 0 if self._is_paused else select.EPOLLIN)
        if current:
            self._pass(channel, os.fsencode(current))
        return True

    def on_event(self, descriptor: int) -> bool:
        """Serve a reader's request; return whether the descriptor is one of theirs."""
        channel = self._channels.get(descriptor)
        if channel is None:
            return False
        try:
            name, _, flags, _ = channel.recvmsg(_MAX_NAME_BYTES, 0, socket.MSG_PEEK)
            if flags & socket.MSG_CTRUNC:
                self._leave(channel)
                return True
            channel.recv(1)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            name = b""
        if name:
            self._pass(channel, name)
        else:
            self._forget(channel)
            channel.close()
        return True

    def wait_s(self) -> float | None:
        """Return in how many seconds ``go_on`` is to be called; None: not at all."""
        return max(0.0, (1 - self._allowance) / _FILES_PER_S) if self._is_paused else None

    def go_on(self) -> None:
        """Serve those again who had to wait, if it is time."""
        self._earn()
        if self._is_paused and self._allowance >= 1:
            self._pause(paused=False)

    def _earn(self) -> None:
        now_s = time.monotonic()
        self._allowance = min(self._allowance + (now_s - self._counted_s) * _FILES_PER_S, float(_FILES_PER_S))
        self._counted_s = now_s

    def _pause(self, *, paused: bool) -> None:
        self._is_paused = paused
        for channel in self._channels.values():
            self._epoll.modify(channel, 0 if paused else select.EPOLLIN)

    def _pass(self, channel: socket.socket, name: bytes) -> None:
        self._earn()
        self._allowance -= 1
        descriptor = self._open(os.fsdecode(name))
        try:
            if descriptor is None:
                channel.send(name)
            else:
                socket.send_fds(channel, [name], [descriptor])
        except OSError:  # gone, or it does not take what it has asked for
            self._leave(channel)
        finally:
            if descriptor is not None:
                os.close(descriptor)
        if self._allowance < 1 and not self._is_paused:
            self._pause(paused=True)

    def _open(self, name: str) -> int | None:
        own = self._file_name
        if name not in (own, index_name(own)) and number_of(own, name) is None:
            return None
        with contextlib.suppress(OSError, ValueError):
            found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory_fd)
            try:
                status = os.fstat(found)
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                    # One that is just written over an older one is waited for: the capture makes it ready.
                    return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
            finally:
                os.close(found)
        return None

    def _leave(self, channel: socket.socket) -> None:
        self._forget(channel)
        with contextlib.suppress(OSError):  # it is gone
            channel.shutdown(socket.SHUT_RDWR)
        channel.detach()
        self._left += 1

    def _forget(self, channel: socket.socket) -> None:
        self._epoll.unregister(channel)
        del self._channels[channel.fileno()]
