"""The file of a snapshot, written by a thread of its own: a slow disk keeps only the thread waiting.

The thread has the file to itself, from creating it to closing it. It gets what it is to append in order; it signals by
an eventfd that something is done, and the capture's own thread fetches what.
"""

import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from capd.worker.output.savefile import DestinationError, SaveFile, WriteError
from capd.worker.recorder.memory import Part, whole_records

#: Copied at once: so soon it is seen that a snapshot is given up. Chosen: it stays in a processor's cache from reading
#: to writing, so that both take no longer than sendfile(2), which a worker may not call: it sends on sockets, too.
_CHUNK_BYTES = 1024 * 1024


def _ends(blocks: bytes) -> list[int]:
    """Return where each of several pcapng blocks ends."""
    ends: list[int] = []
    at = 0
    while at < len(blocks):
        at += int.from_bytes(blocks[at + 4 : at + 8], sys.byteorder)
        ends.append(at)
    return ends


class SnapshotThread(NamedTuple):
    """What the thread of a snapshot has to know of the process that it is in."""

    #: An eventfd, which is written to when there is something new.
    told_fd: int
    #: What is done first: what it may do from then on.
    confine: Callable[[], None]


class SnapshotWriter:
    """Writes one file. What is public is for the capture's own thread, and never waits but in ``join``."""

    def __init__(self, create: Callable[[], SaveFile], header: bytes, thread: SnapshotThread) -> None:
        """Begin.

        Args:
            create: makes the file.
            header: what it begins with.
            thread: what the thread has to know.

        Raises:
            RuntimeError: there can be no thread more.
        """
        self._create = create
        self._header = header
        #: How many interfaces are described in the file: all blocks but the one that begins it.
        self._described = len(_ends(header)) - 1
        self._confine = thread.confine
        self._told_fd = thread.told_fd
        self._changed = threading.Condition()
        self._waiting: deque[Part | bytes] = deque()
        self._is_last = False
        self._is_given_up = False
        self._rest = b""
        self._opened: SaveFile | None = None
        self._copied: deque[Part] = deque()
        #: Not wholly copied: it, and what is reported of it instead.
        self.cut: Part | None = None
        self.cut_packets = 0
        self.cut_last_ns = 0
        #: Why it ended early.
        self.error: DestinationError | WriteError | None = None
        #: All that it was given is in the file, and the end.
        self.is_whole = False
        #: In the file so far.
        self.size_bytes = 0
        self.is_over = False
        self._thread = threading.Thread(target=self._run, name="snapshot", daemon=True)
        self._thread.start()

    # For the capture's own thread ---------------------------------------------------------------------------------

    def append(self, what: Part | bytes) -> None:
        """Have records, or the description of an interface, appended."""
        with self._changed:
            self._waiting.append(what)
            self._changed.notify()

    def end(self, statistics: bytes) -> None:
        """Have the file ended, with a block for each interface; those that the file does not describe are left out."""
        with self._changed:
            self._rest = statistics
            self._is_last = True
            self._changed.notify()

    def give_up(self, statistics: bytes) -> None:
        """Have the file ended as soon as possible: after the last whole record that is in it."""
        with self._changed:
            self._is_given_up = True
        self.end(statistics)

    def take_opened(self) -> SaveFile | None:
        """Return the file, once, when its header is in it."""
        opened, self._opened = self._opened, None
        return opened

    def take_copied(self) -> list[Part]:
        """Return the parts that have been copied since."""
        copied: list[Part] = []
        while self._copied:
            copied.append(self._copied.popleft())
        return copied

    def take_waiting(self) -> list[Part]:
        """Return what will not be copied any more: of a snapshot that was given up, or has failed."""
        with self._changed:
            waiting = [each for each in self._waiting if isinstance(each, Part)]
            self._waiting.clear()
        return waiting

    def join(self, timeout_s: float) -> bool:
        """Wait until the thread has ended; say whether it has."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # The thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._confine()
            file = self._open()
            try:
                self._write(file)
            finally:
                self.size_bytes = file.size_bytes
                file.close()
        except (DestinationError, WriteError) as error:
            self.error = self.error or error
        finally:
            self.is_over = True
            self._tell()

    def _open(self) -> SaveFile:
        file = self._create()
        try:
            file.write(self._header)
        except WriteError:
            with contextlib.suppress(WriteError, DestinationError):  # what failed first is reported
                file.close()
                file.remove()
            raise
        self.size_bytes = file.size_bytes
        self._opened = file
        self._tell()
        return file

    def _write(self, file: SaveFile) -> None:
        try:
            is_wanted = True
            while is_wanted and (what := self._next()) is not None:
                if isinstance(what, bytes):
                    file.write(what)
                    self._described += 1
                else:
                    is_wanted = self._copy(file, what)
                self.size_bytes = file.size_bytes
                self._tell()
        except WriteError as error:
            self.error = error
            self._tell()
        # Where there is no room for more, there may be room for these.
        statistics = self._wait_for_rest()
        file.write(statistics[: ([0, *_ends(statistics)])[self._described]])
        self.is_whole = self.error is None and not self._is_given_up

    def _next(self) -> Part | bytes | None:
        with self._changed:
            while not (self._waiting or self._is_last):
                self._changed.wait()
            return self._waiting.popleft() if self._waiting and not self._is_given_up else None

    def _wait_for_rest(self) -> bytes:
        with self._changed:
            while not self._is_last:
                self._changed.wait()
            return self._rest

    def _copy(self, file: SaveFile, part: Part) -> bool:
        """Append a part; say whether it is wholly there. If not, the file ends with a whole record."""
        before, at = file.size_bytes, part.start
        try:
            while at < part.end and not self._is_given_up:
                at += file.append_from(part.segment.open_fd, at, min(_CHUNK_BYTES, part.end - at))
        except WriteError:
            self._cut(file, before, part)
            raise
        if at < part.end:
            self._cut(file, before, part)
            return False
        self._copied.append(part)
        return True

    def _cut(self, file: SaveFile, before: int, part: Part) -> None:
        whole_bytes, packets, last_ns = whole_records(part, file.size_bytes - before)
        self.cut, self.cut_packets, self.cut_last_ns = part, packets, last_ns
        file.cut_back_to(before + whole_bytes)

    def _tell(self) -> None:
        os.eventfd_write(self._told_fd, 1)
