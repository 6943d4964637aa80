"""The files of a ring, as its index has them: which there are, and which of them a span of time concerns."""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from capd_client.errors import InvalidArgument, ReadError
from capd_client.obstacles import IS_DIRECTORY, obstacle
from capd_client.ring.times import parse_time
from capd_client.transport.passed import CaptureFiles, open_regular
from capd_protocol.formats.ring_index import MAX_INDEX_BYTES, Contents, IndexedFile, index_name, read_index
from capd_protocol.times import datetime_of

#: A time as a person writes it (``capd_client.ring.times``), seconds since 1970, or a datetime, which without a zone is
#: in local time.
Time = str | float | datetime

_NS = 1_000_000_000
#: That a packet can have: in 1677.
_EARLIEST_NS = -(2**63)
#: A packet may be written so long after it came: a worker that is kept from working for longer is ended.
_BEHIND_NS = 60 * _NS


@dataclass(frozen=True)
class Span:
    """From a time on, and until before another one.

    Attributes:
        start_ns: the first nanosecond of it, since 1970-01-01 00:00 UTC; None: there is no beginning.
        end_ns: the first nanosecond after it, since the same moment; None: there is no end.
    """

    start_ns: int | None = None
    end_ns: int | None = None

    @property
    def start(self) -> datetime | None:
        """``start_ns`` as a datetime in UTC, which keeps only microseconds."""
        return datetime_of(self.start_ns)

    @property
    def end(self) -> datetime | None:
        """``end_ns`` as a datetime in UTC, which keeps only microseconds."""
        return datetime_of(self.end_ns)

    def overlaps(self, first_ns: int, last_ns: int | None) -> bool:
        """Whether it has a part of what lasts from the first to the last nanosecond.

        Args:
            first_ns: since 1970-01-01 00:00 UTC.
            last_ns: since the same moment; None: the present.
        """
        return (self.end_ns is None or first_ns < self.end_ns) and (
            self.start_ns is None or last_ns is None or last_ns >= self.start_ns
        )


@dataclass(frozen=True)
class RingFile:
    """A file of a ring.

    Attributes:
        path: where it is.
        size_bytes: as of now.
        is_complete: nothing will be added.
        packets: how many it has; None where nobody knows: it is being written, or its writer was killed and left more
            than is looked through when its ring goes on.
        first_timestamp_ns: of its packets, the earliest, since 1970-01-01 00:00 UTC; None where there are
            none, or nobody knows.
        last_timestamp_ns: of its packets, the latest; None where there are none, or nobody knows.
        drops: packets that were dropped meanwhile, by interface; empty where nobody knows.
        opened_ns: when it was opened, since 1970-01-01 00:00 UTC; None where that is not known.
        closed_ns: when it was closed, since the same moment; None while it is written, and where that is not known.
    """

    path: str
    size_bytes: int
    is_complete: bool
    packets: int | None = None
    first_timestamp_ns: int | None = None
    last_timestamp_ns: int | None = None
    drops: dict[str, int] = field(default_factory=dict[str, int])
    opened_ns: int | None = None
    closed_ns: int | None = None
    #: Where it is opened, and as which file, if there may be others; None: by its path.
    _place: "tuple[_Directory | _Passed | _Given, str, int | None] | None" = field(
        default=None, compare=False, repr=False
    )

    def __repr__(self) -> str:
        """Return where it is, and how much is in it."""
        packets = "" if self.packets is None else f", {self.packets:,} packets"
        state = "" if self.is_complete else ", being written"
        return f"<RingFile {self.path!r}, {self.size_bytes:,} bytes{packets}{state}>"

    def may_have(self, span: Span) -> bool:
        """Whether it may have packets of a span; for certain, where it is known which packets it has.

        An empty file has none of any span, but of all time it is one of the files.

        Args:
            span: from when until when.
        """
        if span == Span():
            return True
        if self.packets == 0 and self.is_complete:
            return False
        if self.first_timestamp_ns is not None:
            return span.overlaps(self.first_timestamp_ns, self.last_timestamp_ns)
        return span.overlaps(self.earliest_ns, None if self.closed_ns is None else self.closed_ns + _BEHIND_NS)

    @property
    def first_timestamp(self) -> datetime | None:
        """``first_timestamp_ns`` as a datetime in UTC, which keeps only microseconds."""
        return datetime_of(self.first_timestamp_ns)

    @property
    def last_timestamp(self) -> datetime | None:
        """``last_timestamp_ns`` as a datetime in UTC, which keeps only microseconds."""
        return datetime_of(self.last_timestamp_ns)

    @property
    def opened(self) -> datetime | None:
        """``opened_ns`` as a datetime in UTC, which keeps only microseconds."""
        return datetime_of(self.opened_ns)

    @property
    def closed(self) -> datetime | None:
        """``closed_ns`` as a datetime in UTC, which keeps only microseconds."""
        return datetime_of(self.closed_ns)

    @property
    def earliest(self) -> datetime:
        """``earliest_ns`` as a datetime in UTC, which keeps only microseconds."""
        return datetime_of(self.earliest_ns)

    @property
    def earliest_ns(self) -> int:
        """No packet in it is older: nanoseconds since 1970-01-01 00:00 UTC."""
        if self.first_timestamp_ns is not None:
            return self.first_timestamp_ns
        return _EARLIEST_NS if self.opened_ns is None else self.opened_ns - _BEHIND_NS

    def open(self) -> BinaryIO:
        """Open it for reading.

        Raises:
            ReadError: it is not there any more, or cannot be opened.
        """
        try:
            if self._place is None:
                return open(self.path, "rb")  # noqa: PTH123  # the caller closes it
            directory, name, inode = self._place
            descriptor = directory.open(name)
        except OSError as error:
            raise ReadError(self.path, 0, obstacle(self.path, error)) from error
        if inode is not None and os.fstat(descriptor).st_ino != inode:
            os.close(descriptor)
            raise ReadError(self.path, 0, "the file was deleted, and another one has its name")
        return open(descriptor, "rb")  # noqa: PTH123  # the caller closes it


class _Directory:
    """The directory of a ring; closed when the last of its files is forgotten."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path

    def path_of(self, name: str) -> str:
        """Return a path that a person can use."""
        return os.path.join(self._path, name)  # noqa: PTH118  # as it was given

    def open(self, name: str) -> int:
        """Open a file for reading."""
        return open_regular(name, self._descriptor)

    def status(self, name: str) -> os.stat_result:
        """Return what is known of a file."""
        return os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)

    def __del__(self) -> None:
        os.close(self._descriptor)


class _Passed:
    """What gives a ring's files one by one."""

    def __init__(self, files: CaptureFiles) -> None:
        self._files = files

    def path_of(self, name: str) -> str:
        """Return a path that a person can use: the bare name, where none leads there."""
        return self._files.path_of(name)

    def open(self, name: str) -> int:
        """Open a file for reading."""
        descriptor = self._files.open(name)
        if descriptor is None:
            raise FileNotFoundError(errno.ENOENT, "the capture does not pass it", name)
        return descriptor


class _Given:
    """A file that is open already."""

    def __init__(self, opened: BinaryIO) -> None:
        self._opened = opened

    def open(self, _name: str) -> int:
        """Return a descriptor of its own."""
        return os.dup(self._opened.fileno())


class HasRingFiles(Protocol):
    """A session, as far as it knows the files of its ring."""

    def ring_files(self, start: Time | None = None, end: Time | None = None) -> tuple[RingFile, ...]:
        """Return the files that may have packets of a span.

        Args:
            start: only those with packets of that time or later.
            end: only those with packets before that time.
        """
        ...


def files(
    source: str | os.PathLike[str] | HasRingFiles, start: Time | None = None, end: Time | None = None
) -> tuple[RingFile, ...]:
    """Return the files of a ring that may have packets of a span, oldest first.

    Args:
        source: the path that was given for the ring, such as ``dns.pcapng``, whose index lies beside its files; the
            path of a capture file; or a session.
        start: only those with packets of that time or later.
        end: only those with packets before that time. With neither, also those without packets.

    Raises:
        InvalidArgument: a time is not valid, or the span ends before it begins.
        ReadError: there is no ring and no file, or its index cannot be read.
    """
    if not isinstance(source, str | os.PathLike):
        return source.ring_files(start, end)
    span = span_of(start, end)
    return tuple(file for file in of_path(source) if file.may_have(span))


def span_of(start: Time | None, end: Time | None, now_ns: int | None = None) -> Span:
    """Return the span between two times.

    Raises:
        InvalidArgument: a time is not valid, or the span ends before it begins.
    """
    now_ns = time.time_ns() if now_ns is None else now_ns
    span = Span(_nanoseconds(start, "start", now_ns), _nanoseconds(end, "end", now_ns))
    if span.start_ns is not None and span.end_ns is not None and span.end_ns < span.start_ns:
        raise InvalidArgument(f"the span ends before it begins: from {start} to {end}", argument="end")
    return span


def _nanoseconds(given: Time | None, argument: str, now_ns: int) -> int | None:
    match given:
        case None:
            return None
        case str():
            try:
                return parse_time(given, now_ns)
            except InvalidArgument as error:
                raise InvalidArgument(str(error), argument=argument) from error
        case datetime():
            return round(given.astimezone().timestamp() * 1_000_000) * 1000
        case _:
            try:
                return round(given * _NS)
            except (ValueError, OverflowError) as error:
                raise InvalidArgument(f"{given} is no time", argument=argument) from error


def of_path(path: str | os.PathLike[str]) -> tuple[RingFile, ...]:
    """Return the files of the ring with that savefile, or else the one file of that path.

    Raises:
        ReadError: there is neither.
    """
    given = Path(path)
    try:
        descriptor = os.open(given.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        text = "there is no such directory" if isinstance(error, FileNotFoundError) else obstacle(path, error)
        raise ReadError(str(path), 0, text) from error
    found = of_directory(descriptor, os.fspath(given.parent), given.name)
    if found is not None:
        return found
    try:
        status = given.stat()
    except FileNotFoundError as error:
        text = f"there is no file, and no {index_name(given.name)}, which a ring has whose capture has a name"
        raise ReadError(str(path), 0, text) from error
    except OSError as error:
        raise ReadError(str(path), 0, obstacle(path, error)) from error
    if stat.S_ISDIR(status.st_mode):
        raise ReadError(str(path), 0, IS_DIRECTORY)
    return (RingFile(str(path), status.st_size, is_complete=True, closed_ns=None),)


def of_input(opened: BinaryIO) -> RingFile:
    """Return what is open already as a file; it stays open."""
    return RingFile(str(opened.name), 0, is_complete=True, _place=(_Given(opened), "", None))


def of_directory(descriptor: int, path: str, file_name: str) -> tuple[RingFile, ...] | None:
    """Return the files of a ring in an open directory; None if there is no index.

    Args:
        descriptor: of the directory; the files keep it, and close it.
        path: of the directory, for people.
        file_name: what the ring's files are named after.

    Raises:
        ReadError: the index cannot be read.
    """
    directory = _Directory(descriptor, "" if path == "." else path)
    name = index_name(file_name)
    try:
        opened = directory.open(name)
    except FileNotFoundError:
        return None
    except OSError as error:
        shown = directory.path_of(name)
        raise ReadError(shown, 0, obstacle(shown, error)) from error
    contents, device = _read_index(opened, directory.path_of(name), file_name)
    return tuple(_present(directory, contents.files, device))


def of_passed_index(files: CaptureFiles, file_name: str) -> tuple[RingFile, ...] | None:
    """Return the files of a ring that its index has, where only its files can be had; None if there is none.

    Args:
        files: gives the index and the files; they can be opened as long as it is not closed.
        file_name: what the ring's files are named after.

    Raises:
        ReadError: the index cannot be read.
    """
    name = index_name(file_name)
    try:
        opened = files.open(name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ReadError(name, 0, f"the index cannot be opened: {error.strerror}") from error
    if opened is None:
        return None
    contents, _ = _read_index(opened, name, file_name)
    place = _Passed(files)
    return tuple(_ring_file(place, each, each.closed.size_bytes if each.closed else 0) for each in contents.files)


def _read_index(descriptor: int, shown: str, file_name: str) -> tuple[Contents, int]:
    """Return what an index says of a ring, and its device; the descriptor is closed.

    Raises:
        ReadError: it is no index.
    """
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_INDEX_BYTES:
            raise ReadError(shown, 0, "it is no index")
        return read_index(file.read(MAX_INDEX_BYTES), file_name), status.st_dev


def _present(directory: _Directory, indexed: Iterable[IndexedFile], device: int) -> Iterable[RingFile]:
    for each in indexed:
        with contextlib.suppress(OSError):  # deleted since
            status = directory.status(each.name)
            if stat.S_ISREG(status.st_mode) and each.is_file(status.st_ino, status.st_dev, device):
                yield _ring_file(directory, each, status.st_size)


def _ring_file(where: "_Directory | _Passed", indexed: IndexedFile, size_bytes: int) -> RingFile:
    path, closed = where.path_of(indexed.name), indexed.closed
    place = where, indexed.name, indexed.opened.inode
    if closed is None:
        return RingFile(path, size_bytes, is_complete=False, opened_ns=indexed.opened.opened_ns, _place=place)
    return RingFile(
        path,
        size_bytes,
        is_complete=True,
        packets=closed.packets,
        first_timestamp_ns=closed.first_timestamp_ns,
        last_timestamp_ns=closed.last_timestamp_ns,
        drops=closed.drops,
        opened_ns=indexed.opened.opened_ns,
        closed_ns=closed.closed_ns,
        _place=place,
    )
