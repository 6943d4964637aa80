"""Rings on the disk as capd leaves them, made without a capture: files, and their index."""

import ctypes
import os
import struct
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from capd_protocol.formats import pcapng
from capd_protocol.formats.ring_index import FileWasClosed, FileWasOpened, Line, encode_line, index_name

LINKTYPE_ETHERNET = 1


class Frame(NamedTuple):
    """A packet of a ring."""

    timestamp_ns: int
    interface: str
    data: bytes


def pcapng_bytes(frames: Sequence[Frame], interfaces: Sequence[str]) -> bytes:
    """Return a file with these packets, in this order."""
    parts = [pcapng.section_header(application="test")]
    parts += [
        pcapng.interface_description(linktype=LINKTYPE_ETHERNET, snaplen_bytes=262_144, name=name)
        for name in interfaces
    ]
    parts += [
        pcapng.enhanced_packet(interfaces.index(each.interface), each.timestamp_ns, each.data, len(each.data))
        for each in frames
    ]
    return b"".join(parts)


def write_ring(
    path: Path,
    files: Sequence[Sequence[Frame]],
    interfaces: Sequence[str],
    *,
    last_is_open: bool = False,
    first_number: int = 1,
) -> list[Path]:
    """Write files of a ring, as if its capture ran or had ended; return them."""
    lines: list[Line] = []
    paths: list[Path] = []
    for number, frames in enumerate(files, first_number):
        file = path.with_name(f"{path.stem}_{number:05}_20260131000000{path.suffix}")
        file.write_bytes(pcapng_bytes(frames, interfaces))
        paths.append(file)
        status = file.stat()
        times = [each.timestamp_ns for each in frames]
        opened_ns = min(times, default=10**18)
        lines.append(FileWasOpened(name=file.name, device=status.st_dev, inode=status.st_ino, opened_ns=opened_ns))
        if not (last_is_open and number == first_number + len(files) - 1):
            lines.append(
                FileWasClosed(
                    name=file.name,
                    closed_ns=max(times, default=10**18),
                    size_bytes=status.st_size,
                    packets=len(frames),
                    first_timestamp_ns=min(times, default=None),
                    last_timestamp_ns=max(times, default=None),
                    drops=dict.fromkeys(interfaces, 0),
                )
            )
    append_to_index(path, *lines)
    return paths


def append_to_index(path: Path, *lines: Line) -> None:
    """Write lines behind those that are there."""
    with path.with_name(index_name(path.name)).open("ab") as index:
        index.write(b"".join(map(encode_line, lines)))


_IN_OPEN = 0x20
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def opened_files(directory: Path) -> Generator[set[str], None, None]:
    """Give a set that has, after the context, the names of all files of a directory that anybody opened meanwhile."""
    names: set[str] = set()
    descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert descriptor >= 0
    try:
        assert _libc.inotify_add_watch(descriptor, os.fsencode(directory), _IN_OPEN) >= 0
        yield names
        while True:
            try:
                data = os.read(descriptor, 1024 * 1024)
            except BlockingIOError:
                break
            at = 0
            while at < len(data):
                mask, _, size = struct.unpack_from("=4xIII", data, at)
                assert not mask & 0x4000, "events were lost"
                names.add(os.fsdecode(data[at + 16 : at + 16 + size].rstrip(b"\0")))
                at += 16 + size
        names.discard("")
    finally:
        os.close(descriptor)
