"""Options of packets: where they lie, and which of them can be written as they are. Pure.

They are looked into only where somebody asks, or where packets are written.
"""

import itertools
import struct
import sys
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capd_protocol.batches.record_offsets import I64, U8, U32
from capd_protocol.formats import pcapng
from capd_protocol.formats.options import NO_OPTIONS, NOT_COPIED, PACKET, Options

_IS_LITTLE = sys.byteorder == "little"
#: With less there is no option that says something: a lone end takes so much.
LEAST_OPTION_BYTES = 8
_FLAGS_OPTION = int.from_bytes(struct.pack("=HH", pcapng.EPB_FLAGS, 4), sys.byteorder)
_FLAGS_OPTION_BYTES = 12


class StoredOptions(NamedTuple):
    """The options of a packet as its file has them.

    Attributes:
        data: their bytes.
        is_swapped: written on a machine of the other byte order.
    """

    data: memoryview
    is_swapped: bool = False

    def read(self) -> Options:
        """Return what they say, as far as they are whole."""
        try:
            return Options.read(self.data, ">" if self.is_swapped == _IS_LITTLE else "<", PACKET)
        except pcapng.MalformedFileError:
            return NO_OPTIONS


class OptionColumn(NamedTuple):
    """The options of a batch's packets; arrays with an element for each packet.

    Attributes:
        data: what they lie in; they begin at multiples of 4.
        offsets: where.
        sizes: in bytes; 0: there are none.
        is_swapped: written on a machine of the other byte order.
    """

    data: U8
    offsets: I64
    sizes: U32
    is_swapped: bool = False

    def chosen(self, places: npt.NDArray[np.bool_] | npt.NDArray[np.intp] | slice) -> "OptionColumn":
        """Return those of some packets.

        Args:
            places: as for ``Batch.chosen``.
        """
        return self._replace(offsets=self.offsets[places], sizes=self.sizes[places])

    def at(self, place: int) -> StoredOptions | None:
        """Return those of one packet; None where it has none.

        Args:
            place: the packet's.
        """
        begin, size = int(self.offsets[place]), int(self.sizes[place])
        return StoredOptions(self.data.data[begin : begin + size], self.is_swapped) if size else None

    def each(self) -> list[StoredOptions | None]:
        """Return those of all packets."""
        memory, ends = self.data.data, self.offsets + self.sizes
        return [
            StoredOptions(memory[begin:end], self.is_swapped) if begin < end else None
            for begin, end in zip(self.offsets.tolist(), ends.tolist(), strict=True)
        ]

    def fit_to_write(self) -> "OptionColumn":
        """Return them in this machine's byte order, without those that are damaged or not to be copied."""
        has_some = self.sizes > 0
        wrong = has_some if self.is_swapped else has_some & ~self._are_right()
        places: list[int] = np.flatnonzero(wrong).tolist()
        if not places:
            return self
        made = [b"" if (found := self.at(place)) is None else _right(found) for place in places]
        return self._replace(is_swapped=False).replaced(places, made)

    def replaced(self, places: list[int], made: list[bytes]) -> "OptionColumn":
        """Return them with others for some packets.

        Args:
            places: of those packets.
            made: the options of each as they stand in a block.
        """
        kept = self.sizes.copy()
        kept[places] = 0
        has_kept = np.flatnonzero(kept)
        memory = self.data.data
        old = [
            memory[at : at + size]
            for at, size in zip(self.offsets[has_kept].tolist(), kept[has_kept].tolist(), strict=True)
        ]
        sizes = kept
        sizes[places] = [len(each) for each in made]
        offsets = np.zeros(len(sizes), np.int64)
        order = [*has_kept.tolist(), *places]
        offsets[order] = list(itertools.accumulate(map(len, (*old, *made)), initial=0))[:-1]
        return OptionColumn(np.frombuffer(b"".join((*old, *made)), np.uint8), offsets, sizes)

    def _are_right(self) -> npt.NDArray[np.bool_]:
        """Return which of them are whole, and may be copied: the first options of all packets, then the second ones."""
        words: U32 = self.data[: len(self.data) // 4 * 4].view(np.uint32)
        right = np.zeros(len(self.sizes), np.bool_)
        going = np.flatnonzero(self.sizes)
        at, ends = self.offsets[going] >> 2, (self.offsets[going] + self.sizes[going]) >> 2
        if (self.offsets[going] & 3).any():
            return right
        while len(going):
            found = words[at]
            codes, lengths = (found & 0xFFFF, found >> 16) if _IS_LITTLE else (found >> 16, found & 0xFFFF)
            after = at + 1 + ((lengths.astype(np.int64) + 3) >> 2)
            is_end = codes == pcapng.OPT_END
            fits = (after <= ends) & ~np.isin(codes, list(NOT_COPIED))
            right[going[is_end | (fits & (after == ends))]] = True
            on = ~is_end & fits & (after < ends)
            going, at, ends = going[on], after[on], ends[on]
        return right


def _right(stored: StoredOptions) -> bytes:
    return pcapng.options_bytes(stored.read().without(NOT_COPIED))


def options_of_flags(flags: U32) -> OptionColumn:
    """Return options that say packets' flags; none where these are 0."""
    rows = np.zeros((len(flags), 3), np.uint32)
    rows[:, 0], rows[:, 1] = _FLAGS_OPTION, flags
    sizes = np.where(flags != 0, np.uint32(_FLAGS_OPTION_BYTES), np.uint32(0)).astype(np.uint32)
    offsets = np.arange(len(flags), dtype=np.int64) * _FLAGS_OPTION_BYTES
    return OptionColumn(rows.view(np.uint8).reshape(-1), offsets, sizes)


def no_options(count: int) -> OptionColumn:
    """Return the options of packets that have none."""
    return OptionColumn(np.zeros(4, np.uint8), np.zeros(count, np.int64), np.zeros(count, np.uint32))


def column_of(options: "list[StoredOptions | None]", flags: U32) -> OptionColumn | None:
    """Return the options of packets together; those that have only flags get options that say these."""
    if not any(options):
        return options_of_flags(flags) if flags.any() else None
    made = [
        each_flags if each is None else _right(each)
        for each, each_flags in zip(options, map(_flags_bytes, flags.tolist()), strict=True)
    ]
    return no_options(len(options)).replaced(list(range(len(options))), made)


def _flags_bytes(flags: int) -> bytes:
    return pcapng.options_bytes([(pcapng.EPB_FLAGS, struct.pack("=I", flags))]) if flags else b""
