"""Compression of capture files: its kinds, by the first bytes of files and by the ends of their names. Pure."""

from typing import Literal, cast

#: How a file can be written.
Compression = Literal["gzip", "zstd"]
#: What can be asked for.
COMPRESS_TYPES = ("none", "gzip", "zstd")

#: Frames of zstd begin at multiples of this. Wireshark (wiretap/file_wrappers.c, 4.0 to at least 2026) reads so much at
#: once (ZSTD_DStreamInSize), and looks for another frame at the beginning of that, wherever the last one has ended.
CHUNK_BYTES = 131_075

_SUFFIXES: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}
#: First bytes of files that can be read (RFC 1952, RFC 8878, the .xz file format, bzip2, lz4), and of frames of zstd
#: that are skipped: a file may begin with one.
_MAGICS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    **{bytes((0x50 + low, 0x2A, 0x4D, 0x18)): "zstd" for low in range(16)},
    b"\xfd7zX": "xz",
    b"BZh": "bzip2",
    b"\x04\x22\x4d\x18": "lz4",
}


def wanted_compression(compress_type: str | None, file_name: str) -> Compression | None:
    """Return how a file is to be written that is called so; None: as it is.

    Args:
        compress_type: of ``COMPRESS_TYPES``; None: as the end of the name says.
        file_name: of the file.
    """
    if compress_type is None:
        return next((value for suffix, value in _SUFFIXES.items() if file_name.endswith(suffix)), None)
    return None if compress_type == "none" else cast(Compression, compress_type)


def suffix_of(file_name: str) -> str:
    """Return what a name ends with from a dot on: ``.pcapng``, ``.pcapng.zst``; empty where it has no dot.

    A dot at the beginning counts for the name: a hidden file has no suffix.
    """
    base, dot, last = file_name.rpartition(".")
    if not base:
        return ""
    suffix = dot + last
    before = base.rpartition(".") if suffix in _SUFFIXES else ("", "", "")
    return f".{before[2]}{suffix}" if before[0] else suffix


def compression_of(first_bytes: bytes) -> str | None:
    """Return how a file that begins so is compressed; None if it is not."""
    return next((name for magic, name in _MAGICS.items() if first_bytes.startswith(magic)), None)
