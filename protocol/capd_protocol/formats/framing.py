"""Frames of a compressed file as it is written: where one ends, and what its index says of each. Pure."""

from capd_protocol.formats.codecs import new_compressor
from capd_protocol.formats.compression import Compression
from capd_protocol.formats.frame_index import NO_TIMES, Frame, encode_index

#: A frame ends behind the piece with which it has so much. Chosen: it takes 20 ms to decompress for a packet out of its
#: middle, and frames of zstd are filled up to whole chunks, which costs 2 % of it.
FRAME_BYTES = 8 * 1024 * 1024


class Framing:
    """One file, piece by piece."""

    def __init__(self, compression: Compression) -> None:
        """Begin at the file's beginning."""
        self._compression: Compression = compression
        self._compressor = new_compressor(compression)
        #: Frames that have ended.
        self.frames: list[Frame] = []
        #: Of what was returned.
        self.size_bytes = 0
        self._begin()

    def _begin(self) -> None:
        self._frame_at, self._frame_bytes = self.size_bytes, 0
        self._earliest_ns, self._latest_ns = NO_TIMES
        self._describes = False

    def add(
        self,
        data: bytes | memoryview,
        *,
        times_ns: tuple[int, int] = NO_TIMES,
        describes: bool = False,
        is_whole: bool = True,
        is_last: bool = False,
    ) -> bytes:
        """Return what to write for a piece, with which all of it can be decompressed.

        Args:
            data: the piece; the last one may be empty.
            times_ns: when the first of its packets came, and the last one.
            describes: it has something else than packets.
            is_whole: it ends with a record.
            is_last: nothing more comes.
        """
        if not len(data) and not self._frame_bytes:
            return b""  # an end where a frame has ended already
        compressed = self._compressor.add(data)
        self._frame_bytes += len(data)
        self._earliest_ns = min(self._earliest_ns, times_ns[0])
        self._latest_ns = max(self._latest_ns, times_ns[1])
        self._describes |= describes
        is_end = is_last or (is_whole and self._frame_bytes >= FRAME_BYTES)
        if is_end:
            at = self.size_bytes + len(compressed)
            compressed += self._compressor.end(at, is_only=is_last and not self.frames)
        self.size_bytes += len(compressed)
        if is_end:
            stored_bytes = self.size_bytes - self._frame_at
            times = self._earliest_ns, self._latest_ns
            self.frames.append(Frame(stored_bytes, self._frame_bytes, *times, self._describes))
            self._begin()
        return compressed

    def index(self) -> bytes:
        """Return the index to write behind the last frame; empty for a single one, which needs none."""
        return encode_index(self._compression, self.frames) if len(self.frames) > 1 else b""
