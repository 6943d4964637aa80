"""When the records of a capture file are due, and where in the file they end. Pure."""

import numpy as np
import numpy.typing as npt

from capd_protocol.batches.model import Batch
from capd_protocol.batches.pcap_parser import PcapParser
from capd_protocol.batches.recognition import Parser
from capd_protocol.formats.pcapng import (
    ENHANCED_PACKET_BLOCK,
    PACKET_BLOCK_HEADER_SIZE_BYTES,
    PCAP_RECORD_HEADER_SIZE_BYTES,
)

I64 = npt.NDArray[np.int64]

_MAX_NS = np.iinfo(np.int64).max
#: Of a simple packet block: type, length, the packet's true size.
_SIMPLE_HEADER_BYTES = 12
#: The old kind of packet block, with a header like that of the enhanced one.
_OLD_PACKET_BLOCK = 2
#: No packet is due later, and none is taken to be further from the first one: more than a capture lasts, and twice as
#: much is still an int64.
LATEST_NS = 2**61


class Schedule:
    """When packets are due, since the first one.

    A time of 0 is none: simple packet blocks have no other. So of a file whose first packet came at 0 of its clock, the
    time up to the next one is left out.
    """

    def __init__(self, speed: float) -> None:
        """Begin.

        Args:
            speed: how many seconds of the file pass in one.
        """
        self._speed = speed
        self._first_ns: int | None = None
        self._latest_ns = 0

    def due_ns(self, timestamps_ns: I64) -> I64:
        """Return when the next packets are due: none before one that stands before it, one without a time at once."""
        has_time = timestamps_ns != 0
        if self._first_ns is None and has_time.any():
            self._first_ns = int(timestamps_ns[has_time.argmax()])
        first_ns = self._first_ns or 0
        # Cut before the difference is taken: times of a file may be as far apart as the type goes.
        within = np.clip(timestamps_ns, first_ns, min(first_ns + LATEST_NS, _MAX_NS))
        since_ns = np.where(has_time, within - first_ns, 0)
        latest_ns = np.maximum.accumulate(np.maximum(since_ns, self._latest_ns))
        self._latest_ns = int(latest_ns[-1])
        return np.minimum(latest_ns / self._speed, LATEST_NS).astype(np.int64)


def record_spans(parser: Parser, batch: Batch) -> tuple[I64, I64]:
    """Return where the records of packets begin and end, in the data that they are in.

    Args:
        parser: of their file.
        batch: some of them; whole records, one behind another.
    """
    ends = batch.offsets + batch.captured_sizes
    if isinstance(parser, PcapParser):
        # The first begins with its header; what a variant has beyond that is of no matter: nothing is between records.
        begins = np.concatenate([batch.offsets[:1] - PCAP_RECORD_HEADER_SIZE_BYTES, ends[:-1]])
        return begins, ends
    words = batch.data[: len(batch.data) // 4 * 4].view(np.uint32)
    if parser.interfaces[int(batch.interface_ids[0])].is_swapped:
        words = words.byteswap()
    at = batch.offsets >> 2
    types, lengths = (words.take(at - back, mode="clip").astype(np.int64) for back in (7, 6))
    room = ends - batch.offsets + PACKET_BLOCK_HEADER_SIZE_BYTES + 4
    # What stands before a simple one's header may look so, too: then the packet comes in two parts.
    is_long = ((types == ENHANCED_PACKET_BLOCK) | (types == _OLD_PACKET_BLOCK)) & (lengths >= room)
    begins = batch.offsets - np.where(is_long, PACKET_BLOCK_HEADER_SIZE_BYTES, _SIMPLE_HEADER_BYTES)
    lengths = np.where(is_long, lengths, words.take(at - 2, mode="clip"))
    return begins, np.minimum(np.maximum.accumulate(begins + lengths), len(batch.data))
