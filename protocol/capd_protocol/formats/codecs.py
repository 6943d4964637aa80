"""Compressors and decompressors of capture files, which consist of independent frames.

A *frame* is what can be decompressed without what comes before it: a member of a gzip file (RFC 1952), a frame of a
zstd file (RFC 8878). What a capture's frames have is in ``frame_index``.
"""

# isal's annotations leave out types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import bz2
import lzma
import sys
from collections.abc import Callable
from typing import Any, Protocol, cast

from isal import igzip_lib, isal_zlib

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from capd_protocol.formats.compression import CHUNK_BYTES, Compression

#: Of zstd. Chosen: level 3 makes files that are smaller by a twentieth, and takes twice as long; a window larger than a
#: processor's cache takes longer, and finds nothing. The checksum is looked at where a frame ends.
_ZSTD_OPTIONS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: 1,
    zstd.CompressionParameter.window_log: 19,
    zstd.CompressionParameter.checksum_flag: 1,
}
#: Without content, and not the last one of a frame: raw, and a byte that is repeated not once.
_RAW, _REPEATED = b"\0\0\0", b"\2\0\0\0"
#: Of isal: the smallest files at which it is still faster than zstd.
_GZIP_LEVEL = 2
#: zlib's: with gzip's header and trailer.
_GZIP_WINDOW_BITS = 31


class FrameCompressor(Protocol):
    """Compresses one frame after another."""

    def add(self, data: bytes | memoryview) -> bytes:
        """Return what to write so that all that was added can be decompressed."""
        ...

    def end(self, at: int, *, is_only: bool) -> bytes:
        """Return the frame's end; what is added next begins another.

        Args:
            at: where in the file that comes.
            is_only: it is the only frame of the file.
        """
        ...


def _empty_blocks(size_bytes: int) -> bytes:
    """Return blocks without content of a frame of zstd (RFC 8878, 3.1.1.2) that take so many bytes, or a chunk more."""
    # A raw block takes 3 bytes, one with a repeated byte 4.
    repeated = size_bytes % len(_RAW)
    if size_bytes < repeated * len(_REPEATED):
        size_bytes += CHUNK_BYTES
        repeated = size_bytes % len(_RAW)
    raw = (size_bytes - repeated * len(_REPEATED)) // len(_RAW)
    return raw * _RAW + repeated * _REPEATED


class _Zstd:
    def __init__(self) -> None:
        self._compressor = zstd.ZstdCompressor(options=_ZSTD_OPTIONS)

    def add(self, data: bytes | memoryview) -> bytes:
        return self._compressor.compress(data, self._compressor.FLUSH_BLOCK)

    def end(self, at: int, *, is_only: bool) -> bytes:
        last = self._compressor.flush(self._compressor.FLUSH_FRAME)
        return last if is_only else _empty_blocks(-(at + len(last)) % CHUNK_BYTES) + last


class _Gzip:
    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._compressor = isal_zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_WINDOW_BITS)

    def add(self, data: bytes | memoryview) -> bytes:
        compressed: bytes = self._compressor.compress(data)
        return compressed + self._compressor.flush(isal_zlib.Z_SYNC_FLUSH)

    def end(self, at: int, *, is_only: bool) -> bytes:
        last: bytes = self._compressor.flush(isal_zlib.Z_FINISH)
        self._begin()
        return last


_COMPRESSORS: dict[Compression, Callable[[], FrameCompressor]] = {"gzip": _Gzip, "zstd": _Zstd}


def new_compressor(compression: Compression) -> FrameCompressor:
    """Return what compresses so."""
    return _COMPRESSORS[compression]()


class FrameDecompressor(Protocol):
    """Decompresses one frame, as the standard library's ``bz2.BZ2Decompressor`` does."""

    @property
    def eof(self) -> bool:
        """Whether the frame's end has come."""
        ...

    @property
    def needs_input(self) -> bool:
        """Whether it gives nothing more before it gets something."""
        ...

    @property
    def unused_data(self) -> bytes:
        """What came behind the end of the frame."""
        ...

    def decompress(self, data: bytes, /, max_length: int = -1) -> bytes:
        """Return so many decompressed bytes at the most."""
        ...


class _Lz4:
    """As the protocol wants it: lz4 says None for what is not known yet, or empty."""

    def __init__(self) -> None:
        import lz4.frame  # noqa: PLC0415  # what captures has no use for it

        self._decompressor = cast(Any, lz4.frame.LZ4FrameDecompressor())

    @property
    def eof(self) -> bool:
        return bool(self._decompressor.eof)

    @property
    def needs_input(self) -> bool:
        return bool(self._decompressor.needs_input)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._decompressor.unused_data or b"")

    def decompress(self, data: bytes, /, max_length: int = -1) -> bytes:
        return bytes(self._decompressor.decompress(data, max_length))


#: The libraries' own errors.
_DAMAGED: tuple[type[Exception], ...] = (
    zstd.ZstdError,
    lzma.LZMAError,
    cast(type[Exception], igzip_lib.error),
    OSError,
    EOFError,
    RuntimeError,  # lz4
    ValueError,
)
_DECOMPRESSORS: dict[str, Callable[[], FrameDecompressor]] = {
    "gzip": lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP),
    "zstd": zstd.ZstdDecompressor,
    "xz": lzma.LZMADecompressor,
    "bzip2": bz2.BZ2Decompressor,
    "lz4": _Lz4,
}


#: What some programs fill up the last block of a tape with; gzip passes over it, too.
_PADDING = b"\0"


class DamagedFrame(Exception):
    """Nothing more can be decompressed."""


class Decompressor:
    """Decompresses one frame after another: bytes in, bytes out."""

    def __init__(self, compression: str) -> None:
        """Begin where a frame does.

        Args:
            compression: of the frames (``compression_of``).
        """
        self._new = _DECOMPRESSORS[compression]
        self._waiting = b""
        self._frame: FrameDecompressor | None = None
        self._fruitless_bytes = 0

    @property
    def rest_bytes(self) -> int:
        """How many compressed bytes nothing has come of yet: they are of a frame that goes on, or is not whole."""
        return len(self._waiting) + self._fruitless_bytes

    def feed(self, data: bytes) -> None:
        """Take what comes next of the compressed bytes."""
        self._waiting += data

    def read(self, most_bytes: int) -> bytes:
        """Return so many decompressed bytes at the most; none where more compressed ones are needed.

        Raises:
            DamagedFrame: it cannot be decompressed.
        """
        while True:
            if self._frame is None:
                self._waiting = self._waiting.lstrip(_PADDING)
                if not self._waiting:
                    return b""
                self._frame = self._new()
            data = b""
            if self._frame.needs_input:
                if not self._waiting:
                    return b""
                data, self._waiting = self._waiting, b""
            try:
                decompressed = self._frame.decompress(data, most_bytes)
            except _DAMAGED as error:
                raise DamagedFrame(str(error)) from error
            self._fruitless_bytes = 0 if decompressed else self._fruitless_bytes + len(data)
            if self._frame.eof:
                self._waiting = self._frame.unused_data + self._waiting
                self._frame, self._fruitless_bytes = None, 0
            if decompressed:
                return decompressed
