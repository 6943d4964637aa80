"""The index of a ring: which files it made, what is in them, which it has deleted. Pure: lines to files and back.

Beside the files of ``dns.pcapng`` lies ``dns.pcapng.index``: a line of JSON for each file that was opened, closed or
deleted, in the order in which that happened. The worker appends to it; whoever may read the directory may read it.
Where the writer was killed the last line may be torn: it does not count. Nor does a line that is not understood, so
that a later version may add some; nor one about a file whose name is none of this ring's.

Their names are dumpcap's (Wireshark, ``ringbuffer.c``).
"""

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from capd_protocol.formats.compression import suffix_of
from capd_protocol.messages import DeletionReason

#: What is longer is read by nobody. Chosen: a ring of as many files as there can be has about 50 MB.
MAX_INDEX_BYTES = 256 * 1024 * 1024

#: ``base_00001_20260131235959.pcapng``, where the last dot splits.
_RING_FILE = re.compile(r"(.+)_(?:[0-9]{5}_[0-9]{14}|[0-9]{14}_[0-9]{5})(\.[^.]*(?:\.gz|\.zst)?)?", re.DOTALL)
_NUMBER_AND_TIME = re.compile("_([0-9]{5})_[0-9]{14}|_[0-9]{14}_([0-9]{5})")


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    name: str


class FileWasOpened(_Line, frozen=True, tag="opened"):
    """The ring has a new file."""

    #: As stat(2) gives them. Device numbers may change when the machine starts: what holds across that is that the
    #: file is on the index's own device.
    device: int
    inode: int
    opened_ns: int


class FileWasClosed(_Line, frozen=True, tag="closed"):
    """The file is complete; one whose writer was killed, since the ring's next worker cut it to what is whole."""

    closed_ns: int
    size_bytes: int
    #: None: not known.
    packets: int | None
    #: None in a file without packets, or where they are not known.
    first_timestamp_ns: int | None
    last_timestamp_ns: int | None
    #: Dropped meanwhile, by interface; empty where that is not known, since the writer was killed.
    drops: dict[str, int]


class FileWasDeleted(_Line, frozen=True, tag="deleted"):
    """The file is gone, or another one has its name."""

    deleted_ns: int
    #: None: it was not the ring that deleted it.
    reason: DeletionReason | None
    size_bytes: int


Line = FileWasOpened | FileWasClosed | FileWasDeleted

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


@dataclass(frozen=True)
class IndexedFile:
    """A file that the ring has, as far as its index knows.

    Attributes:
        opened: when, and as which file.
        closed: what is in it; None as long as it is being written, or if its writer was killed and the ring has not
            gone on since.
    """

    opened: FileWasOpened
    closed: FileWasClosed | None = None

    @property
    def name(self) -> str:
        """The file's name in the directory of the index."""
        return self.opened.name

    def is_file(self, inode: int, device: int, index_device: int) -> bool:
        """Whether what has this name now is the file that was meant.

        Args:
            inode: of what has the name.
            device: of what has the name.
            index_device: on which the index is.
        """
        return inode == self.opened.inode and device == index_device


@dataclass(frozen=True)
class Contents:
    """What an index says.

    Attributes:
        files: those that the ring has, oldest first.
        last: the one opened last, also if it was deleted: its number goes on.
        size_bytes: of the lines that are whole.
    """

    files: tuple[IndexedFile, ...]
    last: FileWasOpened | None
    size_bytes: int


def index_name(file_name: str) -> str:
    """Return the name of a ring's index."""
    return f"{file_name}.index"


def lock_name(file_name: str) -> str:
    """Return the name of what the writer of a ring locks; it is empty, and its owner's alone."""
    return f"{index_name(file_name)}.lock"


def ring_file_name(file_name: str, number: int, opened: time.struct_time, *, time_first: bool = False) -> str:
    """Name a ring's file: ``base_00001_20260131235959.pcapng`` for ``base.pcapng``, number 1; or with the time first.

    What the name ends with from the last dot on comes last, with what stands before it where it says how the file is
    compressed (``suffix_of``).
    """
    base, suffix = _split(file_name)
    parts = f"{number % 100_000:05}", time.strftime("%Y%m%d%H%M%S", opened)
    return f"{base}_{'_'.join(parts[::-1] if time_first else parts)}{suffix}"


def number_of(file_name: str, name: str) -> int | None:
    """Return the number in the name of a ring's file; None if it is no name of this ring's.

    So whoever follows names that others may have written follows none that leads elsewhere.

    Args:
        file_name: what the ring's files are named after.
        name: of the file.
    """
    base, suffix = _split(file_name)
    middle = name.removeprefix(base).removesuffix(suffix)
    match = _NUMBER_AND_TIME.fullmatch(middle)
    return int(match[1] or match[2]) if match is not None and name == f"{base}{middle}{suffix}" else None


def ring_of(name: str) -> str | None:
    """Return what the ring is named after to which a file of this name belongs; None if it is no name of a ring's."""
    match = _RING_FILE.fullmatch(name)
    return None if match is None else f"{match[1]}{match[2] or ''}"


def _split(file_name: str) -> tuple[str, str]:
    suffix = suffix_of(file_name)
    return file_name.removesuffix(suffix), suffix


def encode_line(line: Line) -> bytes:
    """Return a line with its end."""
    return _encode(line) + b"\n"


def read_index(data: bytes, file_name: str) -> Contents:
    """Return what an index says of the ring that is named after ``file_name``."""
    size_bytes = data.rfind(b"\n") + 1
    files: dict[str, IndexedFile] = {}
    last: FileWasOpened | None = None
    for line in _lines(data[:size_bytes]):
        if number_of(file_name, line.name) is None:
            continue
        match line:
            case FileWasOpened(name=name):
                files.pop(name, None)  # one of the same name is no more
                files[name] = IndexedFile(line)
                last = line
            case FileWasClosed(name=name):
                if name in files:
                    files[name] = IndexedFile(files[name].opened, line)
            case FileWasDeleted(name=name):
                files.pop(name, None)
    return Contents(tuple(files.values()), last, size_bytes)


def _lines(data: bytes) -> Iterator[Line]:
    for line in data.splitlines():
        try:
            yield _decode(line)
        except (ValueError, RecursionError):  # msgspec's own are ValueErrors too
            continue


def compacted(files: Iterable[IndexedFile], last: FileWasOpened | None) -> bytes:
    """Return the shortest index that says the same of these files."""
    lines: list[Line] = []
    names: set[str] = set()
    for file in files:
        names.add(file.name)
        lines += [file.opened] if file.closed is None else [file.opened, file.closed]
    if last is not None and last.name not in names:
        gone = FileWasDeleted(name=last.name, deleted_ns=last.opened_ns, reason=None, size_bytes=0)
        lines += [last, gone]
    return b"".join(map(encode_line, lines))
