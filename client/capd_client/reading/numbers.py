"""Packets of a file by their numbers: where each stands is remembered as far as the file was looked through."""

import os
from bisect import bisect_right

import numpy as np

from capd_client.errors import InvalidArgument
from capd_client.reading.files.file import File
from capd_client.reading.model import Packet
from capd_protocol.batches.model import Batch
from capd_protocol.batches.packet_options import OptionColumn, StoredOptions
from capd_protocol.batches.record_offsets import U8

_NOTHING: U8 = np.empty(0, np.uint8)


class PacketIndex:
    """Some 30 bytes in memory for each packet up to the last that was asked for."""

    def __init__(self, file: File) -> None:
        """Look at nothing yet.

        Args:
            file: from its beginning; it is the index's own.
        """
        self._file = file
        self._located = file.located()
        #: What is known of packets, their offsets those in the file, and how many packets there are up to their end.
        self._batches: list[Batch] = []
        self._ends: list[int] = []

    def packet(self, number: int) -> Packet:
        """Return a packet.

        Args:
            number: its number, from 1.

        Raises:
            InvalidArgument: there is none.
            ReadError: the file is damaged before it, or was cut.
        """
        while not self._ends or self._ends[-1] < number:
            if not self._look_further():
                count = self._ends[-1] if self._ends else 0
                raise InvalidArgument(f"there is no packet {number}: the file has {count}", argument="number")
        if number < 1:
            raise InvalidArgument(f"number is {number}; packets are numbered from 1", argument="number")
        place = bisect_right(self._ends, number - 1)
        batch = self._batches[place]
        row = number - 1 - (self._ends[place - 1] if place else 0)
        interface_id = int(batch.interface_ids[row])
        options = batch.options
        stored: StoredOptions | None = None
        if options is not None and options.sizes[row]:
            data = self._file.read_at(int(options.offsets[row]), int(options.sizes[row]))
            stored = StoredOptions(memoryview(data), options.is_swapped)
        return Packet(
            int(batch.timestamps_ns[row]),
            self._file.names[interface_id],
            interface_id,
            int(batch.original_sizes[row]),
            memoryview(self._file.read_at(int(batch.offsets[row]), int(batch.captured_sizes[row]))),
            0 if batch.flags is None else int(batch.flags[row]),
            stored,
        )

    def _look_further(self) -> bool:
        """Find some more packets; return whether there may be more."""
        found = next(self._located, None)
        if found is None:
            self._located = self._file.located()  # it may have grown when somebody asks again
            return False
        begin, batches = found
        for batch in batches:
            options = batch.options
            if options is not None:
                options = OptionColumn(_NOTHING, options.offsets + begin, options.sizes, options.is_swapped)
            self._batches.append(batch._replace(data=_NOTHING, offsets=batch.offsets + begin, options=options))
            self._ends.append((self._ends[-1] if self._ends else 0) + len(batch.offsets))
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def again(file: File | None, path: str | None) -> int:
    """Return another descriptor of a file that is read, or was read to its end.

    Raises:
        OSError: it cannot be opened again.
        InvalidArgument: it is closed, and has no path.
    """
    if file is not None and file.is_open:
        return os.dup(file.descriptor)
    if path is None:
        raise InvalidArgument("the file is closed: ask for packets by their numbers before its end is read")
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
