"""The index at the end of a compressed capture file: which frame has the packets of which time. Pure.

It is what gzip and zstd skip when they decompress: in a gzip file members without content, with the index in their
extra fields (RFC 1952, 2.3.1.1); in a zstd file a skippable frame (RFC 8878, 3.1.2). Behind that a zstd file has the
seek table of zstd's seekable format (zstd_seekable_compression_format.md, version 0.1.0), for other programs.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from capd_protocol.formats.compression import CHUNK_BYTES, Compression


class Frame(NamedTuple):
    """A frame of a compressed file; records are whole in it.

    Attributes:
        stored_bytes: its size in the file.
        size_bytes: and decompressed.
        earliest_ns: when the first of its packets came; behind ``latest_ns`` where it has none.
        latest_ns: when the last of them did.
        describes: it has blocks that the packets of later frames need, such as those of interfaces.
    """

    stored_bytes: int
    size_bytes: int
    earliest_ns: int
    latest_ns: int
    describes: bool


#: Of a frame without packets.
NO_TIMES = (2**64 - 1, 0)

_ENTRY = struct.Struct("<IIQQB3x")
#: What says that an index is one.
_MAGIC = b"capd frames 1\n\0\0"

# RFC 8878; zstd_seekable_compression_format.md.
_SKIPPABLE = struct.Struct("<II")
_SKIPPABLE_MAGIC = 0x184D2A50
_SEEK_TABLE_MAGIC = 0x184D2A5E
_SEEK_ENTRY = struct.Struct("<II")
_SEEK_FOOTER = struct.Struct("<IBI")
_SEEKABLE_MAGIC = 0x8F92EAB1
#: A single segment, no checksum, size 0; the last block, raw and empty.
_EMPTY_FRAME = b"\x28\xb5\x2f\xfd\x20\0\1\0\0"

# RFC 1952: a member with an extra field, of one subfield; behind it no content: an empty last block, CRC and size.
_MEMBER = struct.Struct("<4BI2BH2sH")
_MEMBER_BEGIN = (0x1F, 0x8B, 8, 4, 0, 0, 255)
_SUBFIELD = b"cF"
_NO_CONTENT = b"\x03\0" + bytes(8)
#: Of one extra field; the subfield's own header counts.
_MOST_ENTRIES = (2**16 - 1 - 4) // _ENTRY.size
_GZIP_FOOTER = struct.Struct("<Q16s")

#: Returns so many bytes of a file, from a place on.
ReadAt = Callable[[int, int], bytes]


def encode_index(compression: Compression, frames: Sequence[Frame]) -> bytes:
    """Return what a file ends with behind its frames."""
    return _gzip_index(frames) if compression == "gzip" else _zstd_index(frames)


def index_bytes(frames: int) -> int:
    """Return how large the index of so many frames is at the most."""
    members = frames // _MOST_ENTRIES + 2
    chunks = CHUNK_BYTES if frames * _ENTRY.size > CHUNK_BYTES // 2 else 0
    return frames * (_ENTRY.size + _SEEK_ENTRY.size) + chunks + 128 + members * (_MEMBER.size + len(_NO_CONTENT))


def _zstd_index(frames: Sequence[Frame]) -> bytes:
    entries = _MAGIC + b"".join(_ENTRY.pack(*frame) for frame in frames)
    # What comes behind is found by Wireshark where the chunk that it has read begins as a frame does.
    end = len(_EMPTY_FRAME) + _SKIPPABLE.size + len(entries)
    if end >= CHUNK_BYTES:
        entries += bytes(-end % CHUNK_BYTES) + _EMPTY_FRAME[:4]
    own = _SKIPPABLE.pack(_SKIPPABLE_MAGIC, len(entries)) + entries
    table = b"".join(_SEEK_ENTRY.pack(frame.stored_bytes, frame.size_bytes) for frame in frames)
    # They count as frames without content.
    table += _SEEK_ENTRY.pack(len(_EMPTY_FRAME), 0) + _SEEK_ENTRY.pack(len(own), 0)
    table += _SEEK_FOOTER.pack(len(frames) + 2, 0, _SEEKABLE_MAGIC)
    return _EMPTY_FRAME + own + _SKIPPABLE.pack(_SEEK_TABLE_MAGIC, len(table)) + table


def _gzip_index(frames: Sequence[Frame]) -> bytes:
    parts = (frames[at : at + _MOST_ENTRIES] for at in range(0, len(frames), _MOST_ENTRIES))
    members = b"".join(_member(b"".join(_ENTRY.pack(*frame) for frame in part)) for part in parts)
    return members + _member(_GZIP_FOOTER.pack(len(members), _MAGIC))


def _member(extra: bytes) -> bytes:
    size_bytes = len(extra)
    return _MEMBER.pack(*_MEMBER_BEGIN, size_bytes + 4, _SUBFIELD, size_bytes) + extra + _NO_CONTENT


def read_index(compression: str, size_bytes: int, read_at: ReadAt) -> list[Frame] | None:
    """Return the frames of a file, in their order; None if it has no index: it was not ended, or not written so.

    Args:
        compression: of the file.
        size_bytes: of the file.
        read_at: reads from it.
    """
    find = {"gzip": _entries_of_gzip, "zstd": _entries_of_zstd}.get(compression)
    found = None if find is None else find(size_bytes, read_at)
    if found is None:
        return None
    entries, end = found
    fields: Iterator[tuple[int, int, int, int, int]] = _ENTRY.iter_unpack(entries)
    frames = [
        Frame(stored, size, earliest, latest, bool(describes)) for stored, size, earliest, latest, describes in fields
    ]
    # An index that was written for another file, or changed, leads nowhere.
    return frames if sum(frame.stored_bytes for frame in frames) == end else None


def _entries_of_zstd(size_bytes: int, read_at: ReadAt) -> tuple[bytes, int] | None:
    """Return the entries, and where the frames end."""
    footer = _read(size_bytes - _SEEK_FOOTER.size, _SEEK_FOOTER, read_at)
    if footer is None or footer[2] != _SEEKABLE_MAGIC or footer[1] or footer[0] < 2:
        return None
    count = footer[0] - 2
    last_at = size_bytes - _SEEK_FOOTER.size - _SEEK_ENTRY.size
    last = _read(last_at, _SEEK_ENTRY, read_at)
    table_at = last_at - (count + 1) * _SEEK_ENTRY.size - _SKIPPABLE.size
    if last is None or last[1] or table_at < last[0]:
        return None
    at = table_at - last[0]
    entries_bytes = count * _ENTRY.size
    if (
        _read(at, _SKIPPABLE, read_at) != (_SKIPPABLE_MAGIC, last[0] - _SKIPPABLE.size)
        or _SKIPPABLE.size + len(_MAGIC) + entries_bytes > last[0]
    ):
        return None
    data = read_at(at + _SKIPPABLE.size, len(_MAGIC) + entries_bytes)
    return (data[len(_MAGIC) :], at - len(_EMPTY_FRAME)) if data.startswith(_MAGIC) else None


def _entries_of_gzip(size_bytes: int, read_at: ReadAt) -> tuple[bytes, int] | None:
    footer_bytes = _MEMBER.size + _GZIP_FOOTER.size + len(_NO_CONTENT)
    footer = _extra_at(size_bytes - footer_bytes, size_bytes, read_at)
    if footer is None or len(footer) != _GZIP_FOOTER.size:
        return None
    members_bytes, magic = _GZIP_FOOTER.unpack(footer)
    end = size_bytes - footer_bytes
    at = begin = end - members_bytes
    if magic != _MAGIC or begin < 0:
        return None
    entries: list[bytes] = []
    while at < end:
        extra = _extra_at(at, end, read_at)
        if extra is None or len(extra) % _ENTRY.size:
            return None
        entries.append(extra)
        at += _MEMBER.size + len(extra) + len(_NO_CONTENT)
    return b"".join(entries), begin


def _extra_at(at: int, end: int, read_at: ReadAt) -> bytes | None:
    """Return the extra field of a member without content; None if there is none."""
    fields = _read(at, _MEMBER, read_at)
    if fields is None or fields[:7] != _MEMBER_BEGIN or fields[8] != _SUBFIELD or fields[7] != fields[9] + 4:
        return None
    extra_at = at + _MEMBER.size
    if extra_at + fields[9] + len(_NO_CONTENT) > end:
        return None
    data = read_at(extra_at, fields[9] + len(_NO_CONTENT))
    return data[: fields[9]] if data[fields[9] :] == _NO_CONTENT else None


def _read(at: int, form: struct.Struct, read_at: ReadAt) -> tuple[Any, ...] | None:
    data = read_at(at, form.size) if at >= 0 else b""
    return form.unpack(data) if len(data) == form.size else None
