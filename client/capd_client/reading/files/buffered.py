"""Capture files that cannot be mapped: those that come through a pipe, and compressed ones. What is there is given."""

import os
from collections.abc import Iterable, Iterator

import numpy as np

from capd_client.errors import UnsupportedError
from capd_client.reading.files.file import GONE, File, FileGone
from capd_client.reading.files.incoming import Decompressed, Incoming, Range, Received, Stored, Unreadable
from capd_protocol.batches.model import Batch
from capd_protocol.batches.recognition import MAGIC_BYTES
from capd_protocol.batches.record_offsets import U8, Damage
from capd_protocol.formats.compression import compression_of
from capd_protocol.formats.frame_index import read_index

#: What comes at once is less: 64 KiB of a pipe as it is, up to 1 MiB of one that was enlarged, or of a frame.
_READ_BYTES = 1024 * 1024
#: In one piece of memory, which is kept as long as a packet of it is; only what has come takes room.
_BUFFER_BYTES = 4 * 1024 * 1024


class Buffered(File):
    """A file that is read into memory, as far as whole records have come."""

    def __init__(self, descriptor: int, name: str, incoming: Incoming) -> None:
        """Take over an open descriptor, and what its bytes come from."""
        super().__init__(descriptor, name)
        self._incoming = incoming
        self._received_bytes = 0
        self._buffer: U8 = np.empty(0, np.uint8)
        self._begin = self._end = 0
        self._wanted_bytes = MAGIC_BYTES

    def size_bytes(self) -> int:
        """Return how much has come, decompressed."""
        return self._received_bytes

    def _windows(self) -> Iterator[tuple[U8, int, Iterable[Batch]]]:
        while self.is_open:
            if len(self._buffer) - self._end < _READ_BYTES:
                # What was given stays where it is. A long record gets room as it comes, whatever it announces.
                rest = self._buffer[self._begin : self._end]
                self._buffer = np.empty(max(_BUFFER_BYTES, 2 * len(rest)), np.uint8)
                self._buffer[: len(rest)] = rest
                self._begin, self._end = 0, len(rest)
            if not self._receive():
                return
            window = self._buffer[: self._end]
            window.flags.writeable = False
            while self._end - self._begin >= self._wanted_bytes and self.is_open:
                try:
                    if self._begins_compressed(window):
                        break
                    parser = self.parser_for(window, self._begin)
                    if parser is None:
                        return
                    batches, stop = parser.parse(window, self._begin)
                    begin, self._begin = self._begin, stop
                    self.at += stop - begin
                    yield window[:stop], begin, batches
                    self._wanted_bytes = parser.record_bytes(window, stop)
                except Damage as error:
                    self.fail(self.at + error.offset_bytes, str(error))

    def _receive(self) -> int:
        try:
            came_bytes = self._incoming.receive(self._buffer[self._end :])
        except Unreadable as error:
            self.fail(self._received_bytes, str(error))
        self._received_bytes += came_bytes
        self._end += came_bytes
        return came_bytes

    def _begins_compressed(self, window: U8) -> bool:
        """Where the first bytes are those of a compressed file, go on with what they are decompressed."""
        if self.at:
            return False
        received = window[self._begin :].tobytes()
        compression = compression_of(received)
        if compression is None:
            return False
        self.is_compressed = True
        self._incoming = Decompressed(self._incoming, compression, received)
        self._received_bytes, self._end = 0, self._begin
        return True

    def read_at(self, offset: int, size_bytes: int) -> bytes:
        """Refuse that: what has come is there no more."""
        text = (
            "packets can be asked for by their numbers only in files that are pcapng or pcap on a disk: write one first"
        )
        raise UnsupportedError(text)


class Pipe(Buffered):
    """A pipe, a socket or a device."""

    #: Its end comes when all who could write have closed it.
    can_grow = False

    def __init__(self, descriptor: int, name: str) -> None:
        """Take over an open descriptor."""
        super().__init__(descriptor, name, Received(descriptor))


class Compressed(Buffered):
    """A compressed file, which may grow."""

    is_compressed = True

    def __init__(self, descriptor: int, name: str, compression: str) -> None:
        """Take over an open descriptor of a regular file.

        Args:
            descriptor: of the file.
            name: what it is called.
            compression: how it is compressed.
        """
        self._compression = compression
        self._stored = Stored(descriptor)
        self._rest_at_close = 0
        self._again: Decompressed | None = None
        self._again_begin, self._again_at = b"", 0
        super().__init__(descriptor, name, Decompressed(self._stored, compression))

    def rest_bytes(self) -> int:
        """Return how much is there, as it is compressed, and how much of what was decompressed was not given."""
        return self._rest_at_close if not self.is_open else super().rest_bytes() + self._incoming.rest_bytes()

    def stored_read_bytes(self) -> int | None:
        """Return how much was read, as it is compressed."""
        return self._stored.at

    def read_at(self, offset: int, size_bytes: int) -> bytes:
        """Return bytes of what it is decompressed; from before the last ones it is decompressed again."""
        if self._again is None or offset < self._again_at:
            self._again, self._again_at = Decompressed(Stored(self.descriptor), self._compression), 0
            self._again_begin = b""
        try:
            while self._again_at + len(self._again_begin) < offset + size_bytes:
                # What comes before is not needed any more, but for packets that are asked for one after another.
                skipped = min(len(self._again_begin), max(0, offset - self._again_at))
                room: U8 = np.empty(_READ_BYTES, np.uint8)
                came_bytes = self._again.receive(room)
                if not came_bytes:
                    self.fail(offset, "the file was cut after it was read")
                self._again_begin = self._again_begin[skipped:] + room[:came_bytes].tobytes()
                self._again_at += skipped
        except Unreadable as error:
            self.fail(offset, str(error))
        begin = offset - self._again_at
        return self._again_begin[begin : begin + size_bytes]

    def leave_out_but(self, first_ns: int | None, end_ns: int | None) -> None:
        """Leave out frames that have none of the packets between two times, where the file says which they are."""
        frames = read_index(self._compression, self._stored.rest_bytes(), self._read_at)
        if frames is None:
            return
        wanted = [
            frame.earliest_ns <= frame.latest_ns
            and (first_ns is None or frame.latest_ns >= first_ns)
            and (end_ns is None or frame.earliest_ns < end_ns)
            for frame in frames
        ]
        last = max((number for number, is_wanted in enumerate(wanted) if is_wanted), default=0)
        ranges: list[Range] = []
        at = 0
        for number, frame in enumerate(frames[: last + 1]):
            if wanted[number] or frame.describes:
                ranges.append(Range(at, at + frame.stored_bytes))
            at += frame.stored_bytes
        self._stored = Stored(self.descriptor, ranges)
        self._incoming = Decompressed(self._stored, self._compression)

    def _read_at(self, at: int, size_bytes: int) -> bytes:
        return os.pread(self.descriptor, size_bytes, at)

    def _receive(self) -> int:
        status = os.fstat(self.descriptor)
        if status.st_size < self._stored.at:
            if not status.st_nlink:
                raise FileGone(self.name, self.at, f"the file was {GONE} while it was read")
            self.fail(self.at, f"the file was cut to {status.st_size} bytes while it was read")
        return super()._receive()

    def close(self) -> None:
        """Close it; what was given stays valid."""
        if self.is_open:
            self._rest_at_close = self.rest_bytes()
        super().close()
