"""Bytes of capture files in the order in which they stand there: of a descriptor, and of what is compressed."""

import os
import select
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from capd_protocol.batches.record_offsets import U8
from capd_protocol.formats.codecs import DamagedFrame, Decompressor

#: Of a compressed file. Chosen: a frame of our own has mostly less.
_COMPRESSED_BYTES = 256 * 1024


class Unreadable(Exception):
    """Nothing more can be read; the text says why."""


class Incoming(Protocol):
    """What bytes come from."""

    def receive(self, room: U8) -> int:
        """Put what comes next into memory; return how many bytes that is, 0 where nothing more is there now.

        Raises:
            Unreadable: there may be more, which cannot be had.
        """
        ...

    def rest_bytes(self) -> int:
        """Return how many bytes are known to be there that were not received."""
        ...


class Received:
    """What comes through a pipe, a socket or a device: it is waited for until the other side closes it."""

    def __init__(self, descriptor: int) -> None:
        """Read an open descriptor, which stays its owner's."""
        self._descriptor = descriptor

    def receive(self, room: U8) -> int:
        """Wait for some bytes."""
        while True:
            try:
                return os.readv(self._descriptor, [room.data])
            except BlockingIOError:
                waiting = select.poll()
                waiting.register(self._descriptor, select.POLLIN)
                waiting.poll()
            except OSError as error:
                raise Unreadable(f"it cannot be read: {error.strerror}") from error

    def rest_bytes(self) -> int:
        """Return 0: what will come is not known."""
        return 0


class Range(NamedTuple):
    """A part of a file."""

    start: int
    end: int


class Stored:
    """What is in a regular file, or in some parts of it."""

    def __init__(self, descriptor: int, ranges: Sequence[Range] | None = None) -> None:
        """Read an open descriptor, which stays its owner's.

        Args:
            descriptor: of the file.
            ranges: those parts; None: all of it, as far as it goes when it is read.
        """
        self._descriptor = descriptor
        self._ranges: Iterator[Range] = iter(()) if ranges is None else iter(ranges)
        self._left_bytes = sum(each.end - each.start for each in ranges or ())
        self.at = 0
        self._end: int | None = None if ranges is None else 0

    def receive(self, room: U8) -> int:
        """Read what is there."""
        while self.at == self._end:
            found = next(self._ranges, None)
            if found is None:
                return 0
            self.at, self._end = found
        wanted = len(room) if self._end is None else min(len(room), self._end - self.at)
        try:
            came_bytes = os.preadv(self._descriptor, [room.data[:wanted]], self.at)
        except OSError as error:
            raise Unreadable(f"it cannot be read: {error.strerror}") from error
        self.at += came_bytes
        self._left_bytes -= came_bytes
        return came_bytes

    def rest_bytes(self) -> int:
        """Return how much is there, or in the rest of the parts."""
        return self._left_bytes if self._end is not None else os.fstat(self._descriptor).st_size - self.at


class Decompressed:
    """What compressed bytes are, one frame after another."""

    def __init__(self, incoming: Incoming, compression: str, received: bytes = b"") -> None:
        """Decompress.

        Args:
            incoming: the compressed bytes.
            compression: how they are (``compression_of``).
            received: the first of them.
        """
        self._incoming = incoming
        self._compression = compression
        self._decompressor = Decompressor(compression)
        self._decompressor.feed(received)
        self._room: U8 = np.empty(_COMPRESSED_BYTES, np.uint8)

    def receive(self, room: U8) -> int:
        """Decompress what is there."""
        while True:
            try:
                data = self._decompressor.read(len(room))
            except DamagedFrame as error:
                raise Unreadable(f"what is compressed with {self._compression} is damaged: {error}") from error
            if data:
                room[: len(data)].data[:] = data
                return len(data)
            came_bytes = self._incoming.receive(self._room)
            if not came_bytes:
                return 0
            self._decompressor.feed(self._room[:came_bytes].tobytes())

    def rest_bytes(self) -> int:
        """Return how much there is, as it is compressed."""
        return self._decompressor.rest_bytes + self._incoming.rest_bytes()
