"""A capture file, finished or growing, in parts with the packets in them. Maps what the pure modules look at."""

import mmap
import os
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple, NoReturn

import numpy as np

from capd_client.errors import ReadError
from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.batches.recognition import MAGIC_BYTES, Parser, recognize
from capd_protocol.batches.record_offsets import U8, Damage
from capd_protocol.formats.metadata import BlockLog, Section

#: Mapped at once to begin with, so that the first packets, and few new ones, cost little.
_SMALL_WINDOW_BYTES = 64 * 1024
#: Where every byte of more than is read would be for nothing.
_LEAST_WINDOW_BYTES = 4 * 1024
#: And where there is more. Chosen: 4 MiB was slower by a tenth, 16 MiB no faster.
_LARGE_WINDOW_BYTES = 8 * 1024 * 1024
#: What a ring does to a file whose room it needs, however many have it open.
GONE = "deleted by its ring and cut to free its room"


class FileGone(ReadError):
    """The file was deleted, and nothing is left in it: a ring needed its room."""


class Piece(NamedTuple):
    """Some records of a file that follow one another.

    Attributes:
        data: their bytes, in the mapped file.
        batches: the packets among them.
    """

    data: memoryview
    batches: tuple[Batch, ...]


class File:
    """A capture file, read from its beginning as far as it is whole."""

    #: Whether there may be more behind its end, later.
    can_grow = True
    is_compressed = False

    def __init__(self, descriptor: int, name: str) -> None:
        """Take over an open descriptor of a regular file."""
        self.descriptor = descriptor
        self.name = name
        self.at: int = 0
        self._size_at_close = 0
        self._stored_at_close: int | None = None
        self._size_at_open = os.fstat(descriptor).st_size
        self._parser: Parser | None = None

    @property
    def interfaces(self) -> list[FileInterface]:
        """What the file has described so far."""
        return self._parser.interfaces if self._parser is not None else []

    @property
    def names(self) -> list[str | None]:
        """Of these interfaces, the names."""
        return self._parser.names if self._parser is not None else []

    @property
    def sections(self) -> list[Section]:
        """Its sections so far, if it is pcapng."""
        return self._parser.sections if self._parser is not None else []

    @property
    def blocks(self) -> BlockLog:
        """What else is in it."""
        return self._parser.blocks if self._parser is not None else BlockLog()

    @property
    def file_type(self) -> str | None:
        """Its format, as Wireshark calls it; None: not known."""
        return self._parser.file_type if self._parser is not None else None

    @property
    def is_open(self) -> bool:
        """Whether it was not closed."""
        return self.descriptor >= 0

    def size_bytes(self) -> int:
        """Return its size now, or when it was closed."""
        return os.fstat(self.descriptor).st_size if self.is_open else self._size_at_close

    def rest_bytes(self) -> int:
        """Return how much is there and was not given."""
        return max(0, self.size_bytes() - self.at)

    def stored_size_bytes(self) -> int | None:
        """Return its size on the disk, now or when it was closed; None: it is on none."""
        if not self.is_open:
            return self._stored_at_close
        status = os.fstat(self.descriptor)
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def stored_read_bytes(self) -> int | None:
        """Return how much of that was read; None: not known."""
        return self.at

    def batches(self) -> Iterator[Batch]:
        """Give the packets that are there and were not given yet."""
        for _, _, batches in self._windows():
            yield from batches

    def pieces(self) -> Iterator[Piece]:
        """Give what is there and was not given yet, with its bytes."""
        for window, begin, batches in self._windows():
            yield Piece(window.data[begin:], tuple(batches))

    def located(self) -> Iterator[tuple[int, tuple[Batch, ...]]]:
        """Give the packets that are there and were not given yet, each with where in the file its ``data`` begins."""
        for window, _, batches in self._windows():
            yield self.at - len(window), tuple(batches)

    def read_at(self, offset: int, size_bytes: int) -> bytes:
        """Return bytes from an offset on; of a compressed file, of what it is decompressed.

        Raises:
            ReadError: they are not there any more.
            UnsupportedError: what is read is no file on a disk.
        """
        data = os.pread(self.descriptor, size_bytes, offset)
        if len(data) < size_bytes:
            self.fail(offset, "the file was cut after it was read")
        return data

    def _windows(self) -> Iterator[tuple[U8, int, Iterable[Batch]]]:
        """Give parts of the file from where records begin to where the last whole one ends."""
        window_bytes = _SMALL_WINDOW_BYTES
        while self.is_open:
            size = self.size_bytes()
            self._check_is_whole(size)
            if size == self.at:
                return
            begin = self.at % mmap.ALLOCATIONGRANULARITY
            length = min(begin + window_bytes, size - self.at + begin)
            try:
                window = self._map(self.at - begin, length)
                parser = self.parser_for(window, begin)
                if parser is None:
                    return
                batches, end = parser.parse(window, begin)
            except Damage as error:
                self.fail(self.at + error.offset_bytes, str(error))
            is_last = self.at - begin + length == size
            read_bytes = end - begin
            self.at += read_bytes
            yield window[:end], begin, batches
            if not read_bytes:
                if is_last:
                    return
                window_bytes *= 2  # for one large record; a parser complains about what is too large
            elif read_bytes >= window_bytes // 2:
                window_bytes = min(window_bytes * 4, _LARGE_WINDOW_BYTES)
            else:
                window_bytes = _LEAST_WINDOW_BYTES  # a section of the other byte order ended it: there may be many

    def _map(self, offset: int, length: int) -> U8:
        try:
            # Populated at once, rather than by a page fault for each few pages.
            mapped = mmap.mmap(
                self.descriptor, length, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ, offset=offset
            )
        except (OSError, ValueError) as error:  # no regular file; or cut since it was looked at
            self._check_is_whole(self.size_bytes())
            self.fail(offset, f"the file cannot be mapped: {error}")
        return np.frombuffer(mapped, np.uint8)

    def parser_for(self, window: U8, begin: int) -> Parser | None:
        """Return what reads this file, from its first bytes; None where these are too few to know.

        Raises:
            Damage: nothing does.
        """
        if self._parser is None:
            self._parser = recognize(window[begin : begin + MAGIC_BYTES].tobytes())
        return self._parser

    def _check_is_whole(self, size: int) -> None:
        """Raise what is wrong where bytes are gone that were there."""
        if size < max(self.at, self._size_at_open) and not os.fstat(self.descriptor).st_nlink:
            raise FileGone(self.name, self.at, f"the file was {GONE} while it was read")
        if size < self.at:
            self.fail(self.at, f"the file was cut to {size} bytes while it was read")

    def leave_out_but(self, first_ns: int | None, end_ns: int | None) -> None:
        """Leave out what has none of the packets between two times, where that is known beforehand.

        Args:
            first_ns: the first nanosecond, since 1970-01-01 00:00 UTC; None: there is no beginning.
            end_ns: the first nanosecond after it; None: there is no end.
        """

    def fail(self, offset: int, text: str) -> NoReturn:
        """Raise what is wrong at a place."""
        raise ReadError(self.name, offset, text)

    def close(self) -> None:
        """Close it; what was given stays valid."""
        if self.descriptor >= 0:
            self._size_at_close, self._stored_at_close = self.size_bytes(), self.stored_size_bytes()
            os.close(self.descriptor)
            self.descriptor = -1
