"""The layers of packets, found for whole batches: packets that have come to the same kind of layer advance together.

Each kind has a step, a function that says where the layers behind it begin; ``steps`` has those of tunnels and
addresses, ``upper`` those of what lies in IP. What a layer says of its own length is believed only as far as the
layer around it and what was captured reach. Pure: arrays in, places out.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[Any]

#: Layers of a packet that are looked at, at most. Chosen: Wireshark takes 20 VLAN tags; what is deeper has no values.
MAX_STEPS: Final = 64


class Layer:
    """Layers of one kind: at most one of each packet.

    Attributes:
        rows: which packets.
        at: where it begins in the data, in bytes.
        size: its bytes that were captured, never negative.
        reported: bytes that it has, whether they were captured or not; not fewer.
        in_error: the kind of message that they lie in, as the beginning of the packet that it is about; else empty.
    """

    __slots__ = ("_block", "_least", "at", "data", "in_error", "reported", "rows", "size")

    def __init__(self, data: U8, rows: I64, at: I64, size: I64, reported: I64) -> None:
        self.data = data
        self._least = -1
        self._block: U8 | None = None
        self.rows = rows
        self.at = at
        self.size = size
        self.reported = reported
        self.in_error = ""

    @property
    def least(self) -> int:
        """None of them has fewer bytes that were captured."""
        if self._least < 0:
            self._least = int(self.size.min(initial=1 << 40))
        return self._least

    def _in_same(self, rows: I64, at: I64, size: I64, reported: I64) -> "Layer":
        layer = Layer(self.data, rows, at, size, reported)
        layer.in_error = self.in_error
        return layer

    def only(self, places: "I64 | Flags") -> "Layer":
        """Return some of them."""
        layer = self._in_same(self.rows[places], self.at[places], self.size[places], self.reported[places])
        if self._block is not None:
            layer._block = self._block[places]  # of its own class
        return layer

    def having(self, size_bytes: int) -> "Layer":
        """Return those of which at least so much was captured."""
        return self if self.least >= size_bytes else self.only(np.flatnonzero(self.size >= size_bytes))

    def where(self, are_kept: Flags) -> "Layer":
        """Return those that are kept."""
        return self if are_kept.all() else self.only(np.flatnonzero(are_kept))

    def behind(self, header_bytes: "int | I64") -> "Layer":
        """Return what follows their headers."""
        size, reported = self.size - header_bytes, self.reported - header_bytes
        if self.least < (header_bytes if isinstance(header_bytes, int) else 1 << 30):
            size, reported = np.maximum(size, 0), np.maximum(reported, 0)
        return self._in_same(self.rows, self.at + header_bytes, size, reported)

    def cut(self, reported: I64) -> "Layer":
        """Return them with no more bytes than they say they have."""
        reported = np.minimum(self.reported, reported)
        layer = self._in_same(self.rows, self.at, np.minimum(self.size, reported), reported)
        layer._block = self._block  # of its own class
        return layer

    def keep_block(self, size_bytes: int) -> None:
        """Read the first bytes at once, if all of them have as many: what is read of these later costs less."""
        if self._block is None and len(self.rows) and self.least >= size_bytes:
            self._block = self._gathered(0, size_bytes).view(np.uint8).reshape(-1, size_bytes)

    def _gathered(self, offset: int, size_bytes: int) -> Numbers:
        every = np.ndarray((len(self.data) - size_bytes + 1,), np.dtype(f"V{size_bytes}"), self.data.data, 0, (1,))
        return every[self.at + offset if offset else self.at]

    def bytes_at(self, offset: int, size_bytes: int) -> Numbers:
        """Return bytes of each; all must have them, see ``having``."""
        if not len(self.rows):
            return np.empty(0, f"V{size_bytes}")
        block = self._block
        if block is not None and offset + size_bytes <= block.shape[1]:
            return np.ndarray((len(block),), f"V{size_bytes}", block.data, offset, (block.shape[1],))
        return self._gathered(offset, size_bytes)

    def u8(self, offset: int) -> Numbers:
        """Return a byte of each; all must have it, see ``having``."""
        block = self._block
        if block is not None and offset < block.shape[1]:
            return block[:, offset]
        return self.data.take(self.at + offset if offset else self.at)

    def u16(self, offset: int) -> Numbers:
        """Return a number of two bytes of each; all must have it, see ``having``."""
        return self._number(offset, 2)

    def u32(self, offset: int) -> Numbers:
        """Return a number of four bytes of each; all must have it, see ``having``."""
        return self._number(offset, 4)

    def _number(self, offset: int, width: int) -> Numbers:
        if not len(self.rows):
            return np.empty(0, f"u{width}")
        block = self._block
        if block is not None and offset + width <= block.shape[1]:
            begin = np.ndarray((len(block),), f">u{width}", block.data, offset, (block.shape[1],))
            return begin.astype(f"u{width}")
        return self._gathered(offset, width).view(f">u{width}").astype(f"u{width}")


class Found(NamedTuple):
    """Layers, or parts of layers, that are kept.

    Attributes:
        number: of what lies one in another, the inner one's is higher.
        layer: where.
        numbers: what a step has worked out of them, by names.
    """

    number: int
    layer: Layer
    numbers: dict[str, Numbers]


class Table:
    """Which kind of layer a number says comes next."""

    def __init__(self, kinds: Mapping[int, str], numbers: int) -> None:
        """Make a table.

        Args:
            kinds: by their numbers.
            numbers: how many there may be.
        """
        self.kinds = ("", *sorted(set(kinds.values())))
        self._places = np.zeros(numbers, np.uint8)
        for number, kind in kinds.items():
            self._places[number] = self.kinds.index(kind)

    def of(self, numbers: Numbers) -> U8:
        """Return the place of each number's kind in ``kinds``; 0: there is none."""
        return self._places.take(numbers)


Step = Callable[["Walk", Layer], None]


class Walk:
    """The layers of a batch's packets."""

    def __init__(self, steps: Mapping[str, Step], wanted: frozenset[str], packets: int) -> None:
        """Nothing is found yet.

        Args:
            steps: those of each kind, in the order in which they are best taken.
            wanted: kinds of layers, and of parts of layers, that are kept.
            packets: how many there are.
        """
        self._is_fragment = np.zeros(packets, np.bool_)
        self._is_ipv6 = np.zeros(packets, np.bool_)
        self._steps = steps
        self._ranks = {kind: place for place, kind in enumerate(steps)}
        self._wanted = wanted
        self._pending: dict[str, list[Layer]] = {}
        #: By kinds, the inner ones behind the outer ones.
        self.found: dict[str, list[Found]] = {}
        self._number = 0

    def note_version(self, layer: Layer, *, is_ipv6: bool) -> None:
        """Remember in which version of IP lies what comes next."""
        self._is_ipv6[layer.rows] = is_ipv6

    def is_in_ipv6(self, layer: Layer) -> Flags:
        """Return which of the layers lie in IPv6."""
        return self._is_ipv6[layer.rows]

    def note_fragments(self, layer: Layer, are_fragments: Flags) -> None:
        """Remember which layers are fragments, of which what comes next is only the beginning."""
        self._is_fragment[layer.rows] = are_fragments

    def is_fragment(self, layer: Layer) -> Flags:
        """Return which of the layers lie in fragments."""
        return self._is_fragment[layer.rows]

    def wants(self, kind: str) -> bool:
        """Whether layers or parts of this kind are kept."""
        return kind in self._wanted

    def keep(self, kind: str, layer: Layer, **numbers: Numbers) -> None:
        """Keep layers, or parts of layers, that were found.

        Args:
            kind: what they are.
            layer: where.
            numbers: what was worked out of them.
        """
        if kind in self._wanted and len(layer.rows):
            self._number += 1
            self.found.setdefault(kind, []).append(Found(self._number, layer, numbers))

    def go(self, kind: str, layer: Layer) -> None:
        """Have layers of a kind looked at."""
        if len(layer.rows):
            self._pending.setdefault(kind, []).append(layer)

    def choose(self, table: Table, numbers: Numbers, layer: Layer) -> None:
        """Have layers looked at, of the kinds that their numbers say."""
        if not len(layer.rows):
            return
        places = table.of(numbers)
        counts = np.bincount(places, minlength=len(table.kinds)).tolist()
        for place, kind in enumerate(table.kinds):
            if place and counts[place]:
                self.go(kind, layer if counts[place] == len(places) else layer.only(np.flatnonzero(places == place)))

    def run(self) -> None:
        """Take steps until there are none, or too many."""
        left = MAX_STEPS
        while self._pending and left:
            left -= 1
            kind = min(self._pending, key=self._ranks.__getitem__)
            for layer in _joined(self._pending.pop(kind)):
                self._steps[kind](self, layer)


def _joined(layers: list[Layer]) -> list[Layer]:
    """Return layers of one kind as few: those that lie in errors apart."""
    if len(layers) == 1:
        return layers
    found: list[Layer] = []
    for in_error in {each.in_error: None for each in layers}:
        some = [each for each in layers if each.in_error == in_error]
        if len(some) > 1:
            parts = [(each.rows, each.at, each.size, each.reported) for each in some]
            rows, at, size, reported = (np.concatenate(part) for part in zip(*parts, strict=True))
            some = [Layer(some[0].data, rows, at, size, reported)]
            some[0].in_error = in_error
        found += some
    return found
