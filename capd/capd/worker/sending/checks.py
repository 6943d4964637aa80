"""Which frames may be sent: by their size, and by their source address. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capd_protocol.sending import Frames, Reason

#: Two addresses and a type.
_HEADER_BYTES = 14
_SOURCE_AT, _ADDRESS_BYTES, _TYPE_AT = 6, 6, 12
#: What a VLAN tag adds, whose type takes the place of the frame's (IEEE 802.1Q, and 802.1ad for the outer one of two).
_TAG_BYTES = 4
_TAG_TYPES = (0x8100, 0x88A8)


class Checked(NamedTuple):
    """A batch that was looked at.

    Attributes:
        starts: where the frames begin.
        ends: and where they end.
        allowed: whether each may be sent.
        refused: masks of the others, by reason; one frame is in one of them.
    """

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    allowed: npt.NDArray[np.bool_]
    refused: Sequence[tuple[Reason, npt.NDArray[np.bool_]]]


class Checks:
    """What holds for all frames of one client."""

    def __init__(self, max_frame_bytes: int, source_macs: Sequence[bytes] | None) -> None:
        """Take over what the rule says.

        Args:
            max_frame_bytes: the longest frame that the interface takes, less a VLAN tag.
            source_macs: source addresses that they may have; None: any.
        """
        self._max_frame_bytes = max_frame_bytes
        self._sources = None if source_macs is None else np.array([_number(each) for each in source_macs], np.uint64)

    def check(self, frames: Frames) -> Checked:
        """Look at a batch."""
        lengths = np.frombuffer(frames.lengths, np.uint32).astype(np.int64)
        ends = np.cumsum(lengths)
        starts = ends - lengths
        too_short = lengths < _HEADER_BYTES
        allowed = ~too_short
        # A frame without a header has nothing to look at: the batch's first one, or zeros, are looked at instead.
        data = np.frombuffer(frames.data, np.uint8) if len(frames.data) >= _HEADER_BYTES else np.zeros(14, np.uint8)
        headers = np.where(allowed, starts, 0)
        types = data[headers + _TYPE_AT].astype(np.int64) << 8 | data[headers + _TYPE_AT + 1]
        longest = self._max_frame_bytes + _TAG_BYTES * np.isin(types, _TAG_TYPES)
        too_long = allowed & (lengths > longest)
        allowed &= ~too_long
        refused = [(Reason.TOO_SHORT, too_short), (Reason.TOO_LONG, too_long)]
        if self._sources is not None:
            foreign = allowed & ~np.isin(_addresses(data, headers + _SOURCE_AT), self._sources)
            allowed &= ~foreign
            refused.append((Reason.FOREIGN_SOURCE, foreign))
        return Checked(starts, ends, allowed, [(reason, mask) for reason, mask in refused if mask.any()])


def _addresses(data: npt.NDArray[np.uint8], places: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Return the addresses at some places as numbers."""
    found = np.zeros(len(places), np.uint64)
    for at in range(_ADDRESS_BYTES):
        found = found << np.uint64(8) | data[places + at]
    return found


def _number(address: bytes) -> int:
    return int.from_bytes(address, "big")
