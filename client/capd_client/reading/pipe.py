"""Capture files that come through a pipe: what has come is given, and only then is waited for more."""

import os
import select
from collections.abc import Iterable, Iterator

import numpy as np

from capd_client.reading.file import File
from capd_protocol.batches.model import Batch
from capd_protocol.batches.recognition import MAGIC_BYTES
from capd_protocol.batches.record_offsets import U8, Damage

#: What comes at once is less: 64 KiB of a pipe as it is, up to 1 MiB of one that was enlarged.
_READ_BYTES = 1024 * 1024
#: In one piece of memory, which is kept as long as a packet of it is; only what has come takes room.
_BUFFER_BYTES = 4 * 1024 * 1024


class Pipe(File):
    """A pipe, a socket or a device, read as far as whole records have come."""

    #: Its end comes when all who could write have closed it.
    can_grow = False

    def __init__(self, descriptor: int, name: str) -> None:
        """Take over an open descriptor."""
        super().__init__(descriptor, name)
        self._received_bytes = 0

    def size_bytes(self) -> int:
        """Return how much has come."""
        return self._received_bytes

    def _windows(self) -> Iterator[tuple[U8, int, Iterable[Batch]]]:
        buffer = np.empty(_BUFFER_BYTES, np.uint8)
        begin = end = 0
        wanted_bytes = MAGIC_BYTES
        while self.is_open:
            if len(buffer) - end < _READ_BYTES:
                # What was given stays where it is. A long record gets room as it comes, whatever it announces.
                rest = buffer[begin:end]
                buffer = np.empty(max(_BUFFER_BYTES, 2 * len(rest)), np.uint8)
                buffer[: len(rest)] = rest
                begin, end = 0, len(rest)
            came_bytes = self._receive(buffer[end:])
            if not came_bytes:
                return
            end += came_bytes
            window = buffer[:end]
            window.flags.writeable = False
            while end - begin >= wanted_bytes and self.is_open:
                try:
                    parser = self.parser_for(window, begin)
                    if parser is None:
                        return
                    batches, stop = parser.parse(window, begin)
                    self.at += stop - begin
                    yield window[:stop], begin, batches
                    begin = stop
                    wanted_bytes = parser.record_bytes(window, begin)
                except Damage as error:
                    self.fail(self.at + error.offset_bytes, str(error))

    def _receive(self, room: U8) -> int:
        """Wait for some bytes; return how many have come, 0 at the end."""
        while True:
            try:
                came_bytes = os.readv(self.descriptor, [room.data])
            except BlockingIOError:
                waiting = select.poll()
                waiting.register(self.descriptor, select.POLLIN)
                waiting.poll()
            except OSError as error:
                self.fail(self.at, f"it cannot be read: {error.strerror}")
            else:
                self._received_bytes += came_bytes
                return came_bytes
