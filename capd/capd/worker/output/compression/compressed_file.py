"""A capture file that is written compressed, in place of ``savefile.SaveFile``.

Sizes that a capture decides by are those before compression, as in dumpcap. What is announced, and what counts for
limits of the disk, is what is in the file.
"""

import os
import time
from math import inf

import numpy as np

from capd.worker.output.compression.compressor import Compressor, Output, Piece
from capd.worker.output.compression.waiting import PLACE_BYTES
from capd.worker.output.rotation import fitting
from capd.worker.output.savefile import SaveFile, WriteError, write_at
from capd.worker.packets.arrays import U64
from capd_protocol.formats.frame_index import NO_TIMES, index_bytes


class CompressedFile(SaveFile):
    """An open capture file. ``size_bytes`` is what was appended, until it is closed; then, the file's size."""

    def __init__(self, file: SaveFile, compressor: Compressor) -> None:
        """Take over a file that is empty, and write it with a thread."""
        descriptor = file.open_fd
        super().__init__(file.directory_fd, file.name, descriptor, os.fstat(descriptor), is_new=file.is_new)
        self._compressor = compressor
        self._output = Output(descriptor, compressor.compression)
        self._empty()

    def _empty(self) -> None:
        self._place: int | None = None
        self._used_bytes, self._since_s = 0, inf
        self._earliest_ns, self._latest_ns = NO_TIMES
        self._describes = False

    # What there is ------------------------------------------------------------------------------------------------

    @property
    def file_bytes(self) -> int:
        """The size that it has as a file, up to the last whole record."""
        return self._output.stored_bytes

    @property
    def disk_bytes(self) -> int:
        """What it takes now, or at the most, once what waits is written."""
        return self._output.stored_bytes + self.size_bytes - self._output.saved_bytes

    @property
    def saved_bytes(self) -> int:
        """How much of what was appended is in the file."""
        return self._output.saved_bytes

    @property
    def end_bytes(self) -> int:
        """What closing it appends, beside statistics."""
        return index_bytes(len(self._output.framing.frames) + 2)

    @property
    def waits_since_s(self) -> float:
        """Since when the oldest of what was appended waits to be compressed, by the monotonic clock."""
        return self._since_s

    # Writing ------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Append a header or a block.

        Raises:
            WriteError: the file takes nothing more.
        """
        held = np.frombuffer(data, np.uint8)
        self._describes = True
        self.write_records(np.array([[held.ctypes.data, len(data)]], np.uint64))

    def write_records(self, vectors: U64, timestamps_ns: U64 | None = None) -> None:
        """Append records from where they lie in memory. It waits where the disk or the processor is slower.

        Args:
            vectors: rows of address and size in bytes.
            timestamps_ns: of each.

        Raises:
            WriteError: the file takes nothing more.
        """
        at = 0
        while at < len(vectors):
            self.check()
            sizes = vectors[at:, 1]
            end = at + fitting(PLACE_BYTES - self._used_bytes, sizes)
            if end > at:
                self._put(vectors[at:end])
                self._note_times(timestamps_ns, at, end)
            elif self._used_bytes:
                self._hand_over()
                continue
            else:
                end = at + 1
                self._append_long(int(vectors[at, 0]), int(vectors[at, 1]), timestamps_ns, at)
            self.size_bytes += int(vectors[at:end, 1].sum())
            at = end

    def _append_long(self, address: int, size_bytes: int, timestamps_ns: U64 | None, at: int) -> None:
        """Append a record that fits into no place."""
        for start in range(0, size_bytes, PLACE_BYTES):
            part_bytes = min(PLACE_BYTES, size_bytes - start)
            self._put(np.array([[address + start, part_bytes]], np.uint64))
            self._note_times(timestamps_ns, at, at + 1)
            self._hand_over(is_whole=start + part_bytes == size_bytes)

    def _put(self, vectors: U64) -> None:
        if self._place is None:
            self._place = self._compressor.take_place()
            self._since_s = time.monotonic()
        self._compressor.put(self._place, self._used_bytes, vectors)
        self._used_bytes += int(vectors[:, 1].sum())

    def _note_times(self, timestamps_ns: U64 | None, start: int, end: int) -> None:
        if timestamps_ns is not None:
            self._earliest_ns = min(self._earliest_ns, int(timestamps_ns[start:end].min()))
            self._latest_ns = max(self._latest_ns, int(timestamps_ns[start:end].max()))

    def _hand_over(self, *, is_whole: bool = True, is_last: bool = False) -> None:
        place = self._compressor.take_place() if self._place is None else self._place
        times_ns = self._earliest_ns, self._latest_ns
        piece = Piece(self._output, place, self._used_bytes, is_whole, is_last, *times_ns, self._describes)
        self._compressor.add(piece)
        self._empty()

    def flush(self) -> None:
        """Have compressed what waits."""
        if self._used_bytes:
            self._hand_over()

    def settle(self) -> None:
        """Return when all that was appended is in the file.

        Raises:
            WriteError: it is not.
        """
        self.flush()
        self._compressor.wait()
        self.check()

    def check(self) -> None:
        """Raise what has kept something that was appended from the file.

        Raises:
            WriteError: something has.
        """
        if self._output.error is not None:
            raise WriteError(self._output.error)

    def close(self) -> None:
        """End the file with the index of its frames, and close it.

        Raises:
            WriteError: the index is not in it, or not all that was appended.
        """
        try:
            self._hand_over(is_last=True)
            self._compressor.wait()
            self.size_bytes = self._output.stored_bytes
            self.check()
            index = self._output.framing.index()
            try:
                write_at(self.open_fd, index, self.size_bytes)
            except OSError as error:
                self._leave_whole()
                raise WriteError(error) from error
            self.size_bytes += len(index)
        finally:
            super().close()
