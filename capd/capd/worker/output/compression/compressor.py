"""The thread that compresses and writes, one piece after another. A capture has one, for all its files.

It has the same descriptors as the capture's own thread, but may open nothing, and write at positions alone
(``confinement``). It signals by an eventfd that something is done.
"""

import contextlib
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from capd.worker.output.compression.waiting import PLACES, WaitingRoom
from capd.worker.output.savefile import write_at
from capd.worker.packets.arrays import U64
from capd_protocol.formats.compression import Compression
from capd_protocol.formats.framing import Framing


class Piece(NamedTuple):
    """What is compressed at once.

    Attributes:
        output: the file that it goes to.
        place: where it waits.
        size_bytes: of it.
        is_whole: it ends with a record: what was written up to there is whole.
        is_last: nothing more comes of its file; it may be empty.
        earliest_ns: when the first packet in it came; behind ``latest_ns`` where it has none.
        latest_ns: when the last one did.
        describes: it has blocks that are no packets.
    """

    output: "Output"
    place: int
    size_bytes: int
    is_whole: bool
    is_last: bool
    earliest_ns: int
    latest_ns: int
    describes: bool


class Output:
    """A file that is written compressed, as the thread has it. What is public is read by the capture's own thread."""

    def __init__(self, descriptor: int, compression: Compression) -> None:
        """Begin at the file's beginning."""
        self._fd = descriptor
        self.framing = Framing(compression)
        #: In the file, and what that is decompressed, up to the last whole record.
        self.stored_bytes = 0
        self.saved_bytes = 0
        #: What has failed: nothing more is written.
        self.error: OSError | None = None
        self._passed_bytes = 0

    def write(self, piece: Piece, data: memoryview) -> None:
        """Compress a piece, and write that."""
        if self.error is not None:
            return
        at = self.framing.size_bytes
        compressed = self.framing.add(
            data,
            times_ns=(piece.earliest_ns, piece.latest_ns),
            describes=piece.describes,
            is_whole=piece.is_whole,
            is_last=piece.is_last,
        )
        try:
            write_at(self._fd, compressed, at)
        except OSError as error:
            with contextlib.suppress(OSError):  # the first one is reported
                os.ftruncate(self._fd, self.stored_bytes)
            self.error = error
            return
        self._passed_bytes += piece.size_bytes
        if piece.is_whole:
            # The bytes last: whoever sees them as saved finds the others.
            self.stored_bytes = self.framing.size_bytes
            self.saved_bytes = self._passed_bytes


class Compressor:
    """The thread, and what waits for it. What is public is for the capture's own thread."""

    def __init__(self, room: WaitingRoom, told_fd: int, compression: Compression) -> None:
        """Nothing is compressed before ``begin``.

        Args:
            room: where pieces wait.
            told_fd: an eventfd, which is written to when something is in its file.
            compression: how files are compressed.
        """
        self._room = room
        self.told_fd = told_fd
        self.compression: Compression = compression
        self._free = deque(range(PLACES))
        self._waiting: deque[Piece] = deque()
        self._changed = threading.Condition()
        self._is_ready = False

    def begin(self, confine: Callable[[], None]) -> None:
        """Start the thread, and wait until it is confined.

        Args:
            confine: what the thread is to do before all else.

        Raises:
            RuntimeError: there can be no thread more.
        """
        threading.Thread(target=self._run, args=(confine,), name="compressing", daemon=True).start()
        with self._changed:
            self._changed.wait_for(lambda: self._is_ready)

    def take_place(self) -> int:
        """Return a place that is free; wait where none is, since the disk or the processor is slower than packets."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._free))
            return self._free.popleft()

    def put(self, place: int, used_bytes: int, vectors: U64) -> None:
        """Copy records into a place that was taken, behind what is in it.

        Raises:
            WriteError: there is no memory for them.
        """
        self._room.put(place, used_bytes, vectors)

    def add(self, piece: Piece) -> None:
        """Have a piece compressed; its place is free afterwards."""
        with self._changed:
            self._waiting.append(piece)
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until all that was added is in its file, or has failed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting)

    def clear(self) -> None:
        """Take note that something is done."""
        os.read(self.told_fd, 8)

    # The thread ---------------------------------------------------------------------------------------------------

    def _run(self, confine: Callable[[], None]) -> None:
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            confine()
            with self._changed:
                self._is_ready = True
                self._changed.notify_all()
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: bool(self._waiting))
                    piece = self._waiting[0]
                with self._room.contents(piece.place, piece.size_bytes) as data:
                    piece.output.write(piece, data)
                with self._changed:
                    self._waiting.popleft()
                    self._free.append(piece.place)
                    self._changed.notify_all()
                os.write(self.told_fd, (1).to_bytes(8, "little"))
        except BaseException:  # nothing is above, and the capture's own thread waits
            traceback.print_exc()
            os._exit(1)
