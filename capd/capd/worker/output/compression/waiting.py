"""Memory in which records wait until they are compressed: so many places, each filled, compressed, and filled again."""

import mmap
import os

from capd.worker.output.savefile import SaveFile
from capd.worker.packets.arrays import U64

#: Of one place. Chosen: what is compressed at once takes 4 ms.
PLACE_BYTES = 1024 * 1024
#: Chosen: the end of a file waits until so many are compressed, some 30 ms; longer bursts wait in the packet rings.
PLACES = 8


class WaitingRoom:
    """The memory. It is the capture thread's to fill, and the compressing thread's to read."""

    def __init__(self) -> None:
        """Take the memory; pages come as they are used.

        Raises:
            OSError: there is none.
        """
        descriptor = os.memfd_create("capd-compressing", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, PLACES * PLACE_BYTES)
        self._mapped = mmap.mmap(descriptor, PLACES * PLACE_BYTES, mmap.MAP_SHARED, mmap.PROT_READ)
        # Records are gathered there as they are into a file: the kernel copies them.
        self._file = SaveFile(-1, "", descriptor, os.fstat(descriptor))

    def put(self, place: int, used_bytes: int, vectors: U64) -> None:
        """Copy what vectors point at behind what is in a place already; it fits.

        Raises:
            WriteError: there is no memory for it.
        """
        self._file.size_bytes = place * PLACE_BYTES + used_bytes
        self._file.write_records(vectors)

    def contents(self, place: int, size_bytes: int) -> memoryview:
        """Return the first bytes of a place."""
        return memoryview(self._mapped)[place * PLACE_BYTES : place * PLACE_BYTES + size_bytes]
