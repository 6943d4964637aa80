"""Packets as the pcapng that an engine reads. Pure: batches in, bytes out."""

from collections.abc import Iterator, Sequence
from typing import Final, cast

import numpy as np

from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.batches.records import Packets, copied_records
from capd_protocol.formats import pcapng

_NS_PER_S: Final = 10**9
#: Given at once: packets, and bytes of them, but for a packet that is larger. Chosen: as much as a pipe takes, so that
#: what waits is little, and an engine is not kept waiting.
_PACKETS: Final = 1024
_BYTES: Final = 256 * 1024
#: What 64 bits can say of a time in nanoseconds.
_TIMESTAMPS: Final = 2**64


def pieces(batch: Batch) -> Iterator[Batch]:
    """Give a batch in pieces of which each is given at once; no copies."""
    ends = np.cumsum(batch.captured_sizes, dtype=np.int64)
    at, before = 0, 0
    while at < len(ends):
        count = max(1, int(np.searchsorted(ends, before + _BYTES, "right")) - at)
        end = min(at + count, at + _PACKETS)
        yield batch.chosen(slice(at, end))
        at, before = end, int(ends[end - 1])


class Feeder:
    """Makes one stream of pcapng of batches, whichever files they come from."""

    def __init__(self) -> None:
        """Begin."""
        self._begin_s: int | None = None
        self._ids: dict[FileInterface, int] = {}

    def begin(self) -> bytes:
        """Return the beginning, which also a stream without packets has."""
        return self._section(0)

    def bytes_of(self, batch: Batch, interfaces: Sequence[FileInterface]) -> bytes:
        """Return the records of at least one packet, and what has to stand before them.

        Args:
            batch: the packets.
            interfaces: what their interface ids mean.
        """
        head: list[bytes] = []
        earliest_ns, latest_ns = int(batch.timestamps_ns.min()), int(batch.timestamps_ns.max())
        wanted_s = min(0, earliest_ns // _NS_PER_S)
        if self._begin_s is None or wanted_s < self._begin_s or latest_ns - self._begin_s * _NS_PER_S >= _TIMESTAMPS:
            head.append(self._section(wanted_s))
        begin_s = self._begin_s or 0
        own_ids = np.unique(batch.interface_ids)
        numbers = np.zeros(int(own_ids[-1]) + 1, np.int64)
        for own_id in cast("list[int]", own_ids.tolist()):
            # Statistics come later, and change nothing.
            interface = interfaces[own_id]._replace(statistics=None)
            if interface not in self._ids:
                head.append(_description(interface, begin_s))
                self._ids[interface] = len(self._ids)
            numbers[own_id] = self._ids[interface]
        # Without a sign: what is before 1970 counts from the section's offset.
        times = batch.timestamps_ns.view(np.uint64) - np.uint64(begin_s * _NS_PER_S % _TIMESTAMPS)
        packets = Packets(
            batch.data,
            batch.offsets,
            batch.captured_sizes,
            batch.original_sizes,
            times,
            numbers[batch.interface_ids],
            batch.flags,
        )
        return b"".join((*head, copied_records(packets, "pcapng").data))

    def _section(self, begin_s: int) -> bytes:
        self._begin_s = begin_s
        self._ids.clear()
        return pcapng.section_header(application="capd")


def _description(interface: FileInterface, begin_s: int) -> bytes:
    return pcapng.interface_description(
        linktype=interface.linktype,
        snaplen_bytes=interface.snaplen_bytes,
        name=interface.name or "",
        capture_filter=interface.capture_filter or "",
        offset_s=begin_s,
    )
