"""Files, growing files and running captures, as packets and batches. Maps what the pure modules look at."""

import errno
import itertools
import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn, Self, cast

import numpy as np

from capd_client.errors import CaptureEnded, CaptureError, ReadError
from capd_client.reading.event_source import EventSource
from capd_client.reading.model import Batch, FileInterface, Packet
from capd_client.reading.pcap import FORMATS, PcapParser
from capd_client.reading.pcapng import PcapngParser
from capd_client.reading.record_offsets import U8, Damage
from capd_protocol.formats.pcapng import SECTION_HEADER_BLOCK
from capd_protocol.messages import FileOpened, Lagged, PacketCount

Source = str | os.PathLike[str] | int | BinaryIO

#: Mapped at once to begin with, so that the first packets, and few new ones, cost little.
_SMALL_WINDOW_BYTES = 64 * 1024
#: And where there is more. Chosen: 4 MiB was slower by a tenth, 16 MiB no faster.
_LARGE_WINDOW_BYTES = 8 * 1024 * 1024
#: How often a file that is followed is looked at. inotify would tell sooner, but not of every file system.
_POLL_S = 0.05
#: What a ring does to a file whose room it needs, however many have it open.
_GONE = "deleted by its ring and cut to free its room"


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

    def __init__(self, descriptor: int, name: str) -> None:
        self.descriptor = descriptor
        self.name = name
        self.at = 0
        self._size_at_close = 0
        self._size_at_open = os.fstat(descriptor).st_size
        self._parser: PcapngParser | PcapParser | None = None

    @property
    def interfaces(self) -> list[FileInterface]:
        """What the file has described so far."""
        return self._parser.interfaces if self._parser is not None else []

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

    def batches(self) -> Iterator[Batch]:
        """Give the packets that are there and were not given yet."""
        for _, _, batches in self._windows():
            yield from batches

    def pieces(self) -> Iterator[Piece]:
        """Give what is there and was not given yet, with its bytes."""
        for window, begin, batches in self._windows():
            yield Piece(window.data[begin:], tuple(batches))

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
                parser = self._parser or self._recognize(window, begin)
                if parser is None:
                    return
                self._parser = parser
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
                window_bytes = _SMALL_WINDOW_BYTES  # a new section ended it: there may be many

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

    def _recognize(self, window: U8, begin: int) -> PcapngParser | PcapParser | None:
        magic = window[begin : begin + 4].tobytes()
        if magic in FORMATS:
            return PcapParser(magic)
        if magic == SECTION_HEADER_BLOCK.to_bytes(4, "little"):  # the same in both orders
            return PcapngParser()
        if len(magic) == 4:
            raise Damage(0, "neither pcapng nor pcap")
        return None

    def _check_is_whole(self, size: int) -> None:
        """Raise what is wrong where bytes are gone that were there."""
        if size < max(self.at, self._size_at_open) and not os.fstat(self.descriptor).st_nlink:
            raise FileGone(self.name, self.at, f"the file was {_GONE} while it was read")
        if size < self.at:
            self.fail(self.at, f"the file was cut to {size} bytes while it was read")

    def fail(self, offset: int, text: str) -> NoReturn:
        """Raise what is wrong at a place."""
        raise ReadError(self.name, offset, text)

    def close(self) -> None:
        """Close it; what was given stays valid."""
        if self.descriptor >= 0:
            self._size_at_close = self.size_bytes()
            os.close(self.descriptor)
            self.descriptor = -1


class Reader:
    """Packets of a file or a capture, in the order of the file; a context manager, and an iterator of ``Packet``.

    There is one pass: an iteration goes on where the last one ended, and ``batches`` behind it.

    Files are mapped, a few megabytes at a time, and a part is kept as long as a packet or batch of it is. If somebody
    cuts the file meanwhile, what is noticed is a ``ReadError``; each part is checked before it is looked at. What
    cannot be noticed: bytes that are cut off a part that is mapped. Who reads them then (also the ``data`` of a packet
    that is kept) gets SIGBUS. Bytes that are overwritten change in packets that are kept. A file that is replaced
    by renaming, or deleted, harms nothing: the old one is read. Only a ring with ``ringbuffer_free_space`` also cuts
    files that it deletes, where several are kept open: what is read of them then is a ``ReadError`` that says so.
    """

    def __init__(self) -> None:
        self._file: File | None = None
        self._batches = self._read()
        self._packets = itertools.chain.from_iterable(map(self._packets_of, self._batches))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Packet]:
        """Iterate over packets.

        Raises:
            ReadError: the file is damaged there; all packets before were given.
        """
        return self._packets

    def batches(self) -> Iterator[Batch]:
        """Iterate over packets as arrays, some thousands at once.

        Raises:
            ReadError: the file is damaged there; all packets before were given.
        """
        return self._batches

    @property
    def interfaces(self) -> tuple[FileInterface, ...]:
        """The interfaces so far, of all sections; of a session the current file's."""
        return tuple(self._file.interfaces) if self._file is not None else ()

    @property
    def rest_bytes(self) -> int:
        """How many bytes stand behind what was read: more than 0 at the end where the last record is not whole.

        After ``close`` as it was then.
        """
        return self._file.rest_bytes() if self._file is not None else 0

    def close(self) -> None:
        """Close the file; packets and batches that were given stay valid. Safe to call again.

        An iteration ends then, a packet's behind the rest of its batch.
        """
        if self._file is not None:
            self._file.close()

    def _read(self) -> Iterator[Batch]:
        raise NotImplementedError

    def _packets_of(self, batch: Batch) -> Iterator[Packet]:
        names = [each.name for each in self._file.interfaces] if self._file is not None else []
        ids = batch.interface_ids.tolist()
        ends = batch.offsets + batch.captured_sizes
        rows = zip(
            batch.timestamps_ns.tolist(),
            map(names.__getitem__, ids),
            ids,
            batch.original_sizes.tolist(),
            map(batch.data.data.__getitem__, map(slice, batch.offsets.tolist(), ends.tolist())),
            strict=True,
        )
        # Without Packet's own constructor, which takes as long as everything else.
        return cast("Iterator[Packet]", map(partial(tuple.__new__, Packet), rows))  # pyright: ignore[reportUnknownMemberType]


class FileReader(Reader):
    """See ``capd_client.read``."""

    def __init__(self, source: Source, follow: bool) -> None:
        super().__init__()
        self._follow = follow
        self._path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
        if isinstance(source, str | os.PathLike):
            try:
                descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise ReadError(os.fspath(source), 0, f"the file cannot be opened: {error.strerror}") from error
            self._file = File(descriptor, os.fspath(source))
        else:
            number = source if isinstance(source, int) else source.fileno()
            self._file = File(os.dup(number), str(getattr(source, "name", f"descriptor {number}")))

    def _read(self) -> Iterator[Batch]:
        file = self._file
        while file is not None and file.is_open:
            is_there = self._is_there(file)
            yield from file.batches()
            if not self._follow:
                return
            if not is_there:
                file.fail(file.at, "the file was deleted or replaced while it was followed")
            time.sleep(_POLL_S)

    def _is_there(self, file: File) -> bool:
        try:
            return self._path is None or os.path.samestat(Path(self._path).stat(), os.fstat(file.descriptor))
        except OSError:
            return False


class SessionReader(Reader):
    """See ``capd_client.read``."""

    def __init__(self, session: EventSource) -> None:
        super().__init__()
        self._session = session

    def _read(self) -> Iterator[Batch]:
        while True:
            try:
                event = self._session.next_event()
            except CaptureError as error:
                yield from self._available()
                if isinstance(error, CaptureEnded):
                    return
                raise
            match event:
                case FileOpened(name=path):
                    # The file before is complete.
                    yield from self._available()
                    self.close()
                    self._file = self._open(path)
                    # There is something in it already, if the session has attached to a capture.
                    yield from self._available()
                case PacketCount():
                    yield from self._available()
                case Lagged(events=missed):
                    raise ReadError(self._file.name if self._file else "", 0, f"too slow: missed {missed} events")
                case _:
                    pass  # errors are raised, typed, behind the last event

    def _available(self) -> Iterator[Batch]:
        return self._file.batches() if self._file is not None else iter(())

    def _open(self, path: str) -> File:
        try:
            return open_passed(self._session.open_file, path)
        except OSError as error:
            raise ReadError(path, 0, f"the file cannot be opened: {error.strerror}") from error


def open_passed(open_file: Callable[[str], BinaryIO], path: str) -> File:
    """Open a file of a session.

    Raises:
        OSError: it cannot be opened.
    """
    with open_file(path) as opened:
        if not os.fstat(opened.fileno()).st_size:  # when it was told of, there was a header in it
            raise FileNotFoundError(errno.ENOENT, f"it was {_GONE}", path)
        return File(os.dup(opened.fileno()), path)
