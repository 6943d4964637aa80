"""The fields of some packets: what their records say, and what stands in their layers. Pure: arrays in, arrays out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.batches.progress import Progress
from capd_protocol.fields.layers import I64, Found, Layer, Numbers, Walk
from capd_protocol.fields.registry import WIDTHS, At, Field
from capd_protocol.fields.steps import LINKTYPES, STEPS
from capd_protocol.fields.types import FieldType, Values
from capd_protocol.fields.upper import TCP_OPTIONS

#: Packets that are looked at together. Chosen: less is slower for the steps in Python, more for what the processor's
#: caches do not hold.
PACKETS_AT_ONCE: Final = 32768


class Part(NamedTuple):
    """Values of a field in some layers.

    Attributes:
        rows: of which packets.
        values: one for each row.
        order: of those of one packet, that with the lower number comes first.
    """

    rows: I64
    values: Values
    order: int


def _names(ids: npt.NDArray[np.uint32], interfaces: Sequence[FileInterface]) -> Values:
    """Return the names of packets' interfaces; empty where the file has none."""
    if not len(ids):
        return np.empty(0, object)
    first = int(ids.min())
    names = [interfaces[each].name or "" for each in range(first, int(ids.max()) + 1)]
    found: Values = np.array(names, object)[ids - np.uint32(first)]
    return found


def _delta(batch: Batch, before: Progress) -> Values:
    times = batch.timestamps_ns
    return np.diff(times, prepend=times[:1] if before.first_ns is None else before.before_ns).view("m8[ns]")


def _relative(batch: Batch, before: Progress) -> Values:
    times = batch.timestamps_ns
    return (times - (times[:1] if before.first_ns is None else before.first_ns)).view("m8[ns]")


def _numbers(batch: Batch, before: Progress) -> Values:
    return np.arange(before.packets + 1, before.packets + 1 + len(batch.offsets), dtype=np.uint32)


#: What the records say of their packets.
FRAMES: Final[dict[str, Callable[[Batch, Sequence[FileInterface], Progress], Values]]] = {
    "number": lambda batch, _, before: _numbers(batch, before),
    "time": lambda batch, _, before: batch.timestamps,
    "delta": lambda batch, _, before: _delta(batch, before),
    "relative": lambda batch, _, before: _relative(batch, before),
    "original_size": lambda batch, _, before: batch.original_sizes,
    "captured_size": lambda batch, _, before: batch.captured_sizes,
    "interface_id": lambda batch, _, before: batch.interface_ids,
    "interface_name": lambda batch, interfaces, before: _names(batch.interface_ids, interfaces),
}


def kinds_of(fields: Iterable[Field]) -> frozenset[str]:
    """Return the kinds of layers, and of parts of layers, in which fields stand."""
    kinds = {place.kind for field in fields for place in field.places}
    if any(kind.startswith(TCP_OPTIONS) for kind in kinds):
        kinds.add(TCP_OPTIONS)
    return frozenset(kinds)


class PacketFields:
    """Some packets of a batch, and what was found in them.

    Attributes:
        places: which packets of the batch.
        count: how many.
        data: of the batch.
    """

    def __init__(
        self, batch: Batch, places: slice, interfaces: Sequence[FileInterface], wanted: frozenset[str]
    ) -> None:
        """Walk through the layers of packets.

        Args:
            batch: packets.
            places: which of them.
            interfaces: what their interface ids mean.
            wanted: kinds of layers, and of parts of layers, that are looked for.
        """
        self.places = places
        captured = batch.captured_sizes[places].astype(np.int64)
        self.count = len(captured)
        self.data = batch.data
        # Of a record that claims that more was captured than there was, all counts.
        reported = np.maximum(batch.original_sizes[places].astype(np.int64), captured)
        #: The packets themselves.
        self.frames = Layer(batch.data, np.arange(self.count), batch.offsets[places], captured, reported)
        self._found: dict[str, list[Found]] = {}
        if wanted and self.count:
            walk = Walk(STEPS, wanted, self.count)
            for kind, numbers in _kinds(batch.interface_ids[places], interfaces).items():
                rows = None if numbers is None else np.flatnonzero(np.isin(batch.interface_ids[places], numbers))
                walk.go(kind, self.frames if rows is None else self.frames.only(rows))
            walk.run()
            self._found = walk.found

    def layers(self, kind: str) -> Sequence[Found]:
        """Return the layers, or parts of layers, of a kind, outer ones before inner ones."""
        return self._found.get(kind, ())

    def spots_of(self, field: Field) -> list["Spot"]:
        """Return where a field stands, outer layers before inner ones, as far as it was captured."""
        several = len(field.places)
        spots = [
            Spot(found.number * several + place, at, _having(found, at.needs or at.offset + width_of(field, at)))
            for place, at in enumerate(field.places)
            for found in self.layers(at.kind)
        ]
        return sorted(spots, key=lambda each: each.order)

    def of(self, field: Field) -> Iterator[Part]:
        """Give the values of a field, outer layers before inner ones."""
        for spot in self.spots_of(field):
            yield Part(spot.found.layer.rows, values_at(field, spot), spot.order)


class Spot(NamedTuple):
    """A place of a field in some layers.

    Attributes:
        order: of those in one packet, that with the lower number comes first.
        at: the place.
        found: the layers; all of them have the place.
    """

    order: int
    at: At
    found: Found


def width_of(field: Field, at: At) -> int:
    """Return how many bytes a field has in a place."""
    return at.width or WIDTHS[field.type]


def _having(found: Found, size_bytes: int) -> Found:
    """Return those of some layers that have as many bytes."""
    if found.layer.least >= size_bytes:
        return found
    return some_of(found, np.flatnonzero(found.layer.size >= size_bytes))


def some_of(found: Found, places: I64) -> Found:
    """Return some of the layers."""
    numbers = {name: values[places] for name, values in found.numbers.items()}
    return Found(found.number, found.layer.only(places), numbers)


def _kinds(ids: npt.NDArray[np.uint32], interfaces: Sequence[FileInterface]) -> dict[str, list[int] | None]:
    """Return which kinds of layers packets begin with, and of which interfaces these are; None: of all."""
    kinds: dict[str, list[int] | None] = {}
    first = int(ids.min())
    present = (np.flatnonzero(np.bincount(ids - np.uint32(first))) + first).tolist()
    by_kind: dict[str, list[int]] = {}
    for number in present:
        by_kind.setdefault(LINKTYPES.get(interfaces[number].linktype, ""), []).append(number)
    for kind, numbers in by_kind.items():
        if kind:
            kinds[kind] = None if len(numbers) == len(present) else numbers
    return kinds


def values_at(field: Field, spot: Spot) -> Values:
    """Return the values of a field in some layers."""
    at, layer, width = spot.at, spot.found.layer, width_of(field, spot.at)
    numbers = spot.found.numbers.get(at.number) if at.number else None
    dtype = field.type.dtype
    if numbers is None and dtype.kind == "V":
        return layer.bytes_at(at.offset, width).view(dtype)
    value = _read(layer, at.offset, width) if numbers is None else numbers
    if field.type is FieldType.BOOLEAN:
        flags: Values = value & value.dtype.type(at.mask) != 0
        return flags
    if at.mask:
        value = value & value.dtype.type(at.mask)
        shift = (at.mask & -at.mask).bit_length() - 1
        if shift:
            value = value >> value.dtype.type(shift)
    if at.times != 1:
        value = value * value.dtype.type(at.times)
    return value.astype(dtype, copy=False)


def _read(layer: Layer, offset: int, width: int) -> Numbers:
    if not len(layer.rows):
        return np.empty(0, np.uint32)
    if width == 1:
        return layer.u8(offset)
    if width == 2:
        return layer.u16(offset)
    if width == 3:
        return (layer.u16(offset).astype(np.uint32) << np.uint32(8)) | layer.u8(offset + 2)
    return layer.u32(offset)
