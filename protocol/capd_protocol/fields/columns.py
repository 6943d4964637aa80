"""Columns: the values of fields for all packets of a batch. Pure: arrays in, arrays out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.fields.layers import Found, Layer, Numbers, Walk
from capd_protocol.fields.registry import WIDTHS, At, Field, fields_of
from capd_protocol.fields.steps import LINKTYPES, STEPS
from capd_protocol.fields.types import FieldType, Values
from capd_protocol.fields.upper import TCP_OPTIONS

I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
#: Which values of a field that a packet has several of: the first one, or all.
Occurrence = Literal["first", "all"]

#: Packets that are looked at together. Chosen: less is slower for the steps in Python, more for what the processor's
#: caches do not hold.
_PACKETS_AT_ONCE: Final = 32768


class Column(NamedTuple):
    """The values of a field.

    Attributes:
        field: whose.
        values: of first occurrences, one for each packet, 0 where it has none; of all occurrences, those of one packet
            behind those of the one before.
        valid: of first occurrences, a flag for each packet: it has a value. None with all occurrences.
        offsets: of all occurrences, int64: those of packet i are ``values[offsets[i]:offsets[i + 1]]``. None with
            first occurrences.
    """

    field: Field
    values: Values
    valid: Flags | None
    offsets: I64 | None

    def texts(self) -> list[str]:
        """Return for each packet what ``tshark -T fields`` shows: nothing, a value, or values with commas between."""
        texts = self.field.shown.texts(self.values)
        if self.valid is not None:
            return [text if valid else "" for text, valid in zip(texts, self.valid.tolist(), strict=True)]
        assert self.offsets is not None
        ends = self.offsets.tolist()
        return [",".join(texts[begin:end]) for begin, end in pairwise(ends)]


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


class Progress:
    """What came before a batch.

    Attributes:
        packets: how many, the missed ones too.
        first_ns: when the first one came, since 1970-01-01 00:00 UTC; None: this is the first batch.
        before_ns: when the last one before the batch came.
    """

    def __init__(self) -> None:
        self.packets = 0
        self.first_ns: int | None = None
        self.before_ns = 0

    def note(self, batch: Batch) -> None:
        """Take note of a batch, before the next one comes."""
        if len(batch.timestamps_ns):
            self.packets += len(batch.timestamps_ns)
            self.before_ns = int(batch.timestamps_ns[-1])
            if self.first_ns is None:
                self.first_ns = int(batch.timestamps_ns[0])


class FieldColumns:
    """Fields that were asked for, of one batch after another."""

    def __init__(self, names: Sequence[str], occurrence: Occurrence = "first") -> None:
        """Nothing is worked out yet.

        Args:
            names: of fields.
            occurrence: of several in a packet the first one, or all.

        Raises:
            UnknownFieldError: there is no such field.
        """
        self.fields = fields_of(names)
        self.occurrence: Occurrence = occurrence
        kinds = {place.kind for field in self.fields for place in field.places}
        if any(kind.startswith(TCP_OPTIONS) for kind in kinds):
            kinds.add(TCP_OPTIONS)
        self._kinds = frozenset(kinds)
        self._frames = {field.frame for field in self.fields if field.frame}

    def empty(self) -> dict[str, Column]:
        """Return the columns of no packets."""
        offsets = None if self.occurrence == "first" else np.zeros(1, np.int64)
        valid = np.empty(0, np.bool_) if self.occurrence == "first" else None
        return {each.name: Column(each, np.empty(0, each.type.dtype), valid, offsets) for each in self.fields}

    def of(
        self,
        batch: Batch,
        interfaces: Sequence[FileInterface],
        progress: Progress,
        are_chosen: Flags | None = None,
    ) -> dict[str, Column]:
        """Return the columns of a batch, by names.

        Args:
            batch: packets.
            interfaces: what their interface ids mean.
            progress: what came before.
            are_chosen: which of them have a row; None: all.
        """
        frames = {each: _FRAMES[each](batch, interfaces, progress) for each in self._frames}
        if are_chosen is not None:
            batch = batch.chosen(are_chosen)
            frames = {name: values[are_chosen] for name, values in frames.items()}
        count = len(batch.offsets)
        parts = [
            _Parts(batch, slice(at, at + _PACKETS_AT_ONCE), interfaces, self._kinds)
            for at in range(0, count if self._kinds else 0, _PACKETS_AT_ONCE)
        ]
        columns: dict[str, Column] = {}
        for field in self.fields:
            if field.frame:
                columns[field.name] = _frame_column(field, frames, self.occurrence, count)
            elif self.occurrence == "first":
                columns[field.name] = _first(field, parts, count)
            else:
                columns[field.name] = _all(field, parts, count)
        return columns


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
_FRAMES: Final[dict[str, Callable[[Batch, Sequence[FileInterface], Progress], Values]]] = {
    "number": lambda batch, _, before: _numbers(batch, before),
    "time": lambda batch, _, before: batch.timestamps,
    "delta": lambda batch, _, before: _delta(batch, before),
    "relative": lambda batch, _, before: _relative(batch, before),
    "original_size": lambda batch, _, before: batch.original_sizes,
    "captured_size": lambda batch, _, before: batch.captured_sizes,
    "interface_id": lambda batch, _, before: batch.interface_ids,
    "interface_name": lambda batch, interfaces, before: _names(batch.interface_ids, interfaces),
}


def _frame_column(field: Field, frames: Mapping[str, Values], occurrence: Occurrence, count: int) -> Column:
    values = frames[field.frame]
    has_value = values.astype(np.bool_) if field.type is FieldType.STRING else np.ones(count, np.bool_)
    if occurrence == "all":
        offsets = np.zeros(count + 1, np.int64)
        np.cumsum(has_value, out=offsets[1:])
        return Column(field, values[has_value], None, offsets)
    return Column(field, values, has_value, None)


class _Parts:
    """Some packets of a batch, and what was found in them."""

    def __init__(
        self, batch: Batch, places: slice, interfaces: Sequence[FileInterface], wanted: frozenset[str]
    ) -> None:
        self.places = places
        captured = batch.captured_sizes[places].astype(np.int64)
        # Of a record that claims that more was captured than there was, all counts.
        reported = np.maximum(batch.original_sizes[places].astype(np.int64), captured)
        layer = Layer(batch.data, np.arange(len(captured)), batch.offsets[places], captured, reported)
        walk = Walk(STEPS, wanted, len(captured))
        ids = batch.interface_ids[places]
        for kind, numbers in _kinds(ids, interfaces).items():
            walk.go(kind, layer if numbers is None else layer.only(np.flatnonzero(np.isin(ids, numbers))))
        walk.run()
        self.found = walk.found

    def of(self, field: Field) -> Iterator[Part]:
        """Give the values of a field, outer layers before inner ones."""
        several = len(field.places)
        founds = [
            (found.number * several + place, at, found)
            for place, at in enumerate(field.places)
            for found in self.found.get(at.kind, ())
        ]
        for order, at, found in sorted(founds, key=lambda each: each[0]):
            values, layer = _values(field, at, found)
            yield Part(layer.rows, values, order)


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


def _values(field: Field, at: At, found: Found) -> tuple[Values, Layer]:
    """Return the values of a field in some layers, and which of these have any."""
    width = at.width or WIDTHS[field.type]
    end = at.needs or at.offset + width
    layer = found.layer
    numbers = found.numbers.get(at.number) if at.number else None
    if layer.least < end:
        has_value = layer.size >= end
        layer = layer.only(np.flatnonzero(has_value))
        numbers = None if numbers is None else numbers[has_value]
    dtype = field.type.dtype
    if numbers is None and dtype.kind == "V":
        return layer.bytes_at(at.offset, width).view(dtype), layer
    value = _read(layer, at.offset, width) if numbers is None else numbers
    if field.type is FieldType.BOOLEAN:
        return value & value.dtype.type(at.mask) != 0, layer
    if at.mask:
        value = value & value.dtype.type(at.mask)
        shift = (at.mask & -at.mask).bit_length() - 1
        if shift:
            value = value >> value.dtype.type(shift)
    if at.times != 1:
        value = value * value.dtype.type(at.times)
    return value.astype(dtype, copy=False), layer


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


def _first(field: Field, parts: list[_Parts], count: int) -> Column:
    values = np.zeros(count, field.type.dtype)
    valid = np.zeros(count, np.bool_)
    for part in parts:
        into, are_valid = values[part.places], valid[part.places]
        is_empty = True
        for some in part.of(field):
            rows, found = some.rows, some.values
            if not is_empty:
                is_new = ~are_valid[rows]
                rows, found = rows[is_new], found[is_new]
            into[rows] = found
            are_valid[rows] = True
            is_empty = False
    return Column(field, values, valid, None)


def _all(field: Field, parts: list[_Parts], count: int) -> Column:
    values: list[Any] = [np.empty(0, field.type.dtype)]
    counts = np.zeros(count, np.int64)
    for part in parts:
        some = list(part.of(field))
        if not some:
            continue
        rows = np.concatenate([each.rows for each in some])
        # Those of one packet stay in their order: the inner ones behind the outer ones.
        order = np.argsort(rows, kind="stable")
        values.append(np.concatenate([each.values for each in some])[order])
        counts[part.places] = np.bincount(rows, minlength=len(counts[part.places]))
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return Column(field, np.concatenate(values), None, offsets)
