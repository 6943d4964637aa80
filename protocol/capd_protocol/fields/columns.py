"""Columns: the values of fields for all packets of a batch. Pure: arrays in, arrays out."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.batches.progress import Progress
from capd_protocol.fields.packets import FRAMES, PACKETS_AT_ONCE, PacketFields, kinds_of
from capd_protocol.fields.registry import Field, fields_of
from capd_protocol.fields.types import FieldType, Shown, Values

I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
#: Which values of a field that a packet has several of: the first one, or all.
Occurrence = Literal["first", "all"]


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

    def value_texts(self) -> list[str]:
        """Return for each element of ``values`` what ``tshark -T fields`` shows."""
        return Shown(self.field.type, self.field.base).texts(self.values)

    def texts(self) -> list[str]:
        """Return for each packet what ``tshark -T fields`` shows: nothing, a value, or values with commas between."""
        texts = self.value_texts()
        if self.valid is not None:
            return [text if valid else "" for text, valid in zip(texts, self.valid.tolist(), strict=True)]
        assert self.offsets is not None
        ends = self.offsets.tolist()
        return [",".join(texts[begin:end]) for begin, end in pairwise(ends)]


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
        self._kinds = kinds_of(self.fields)
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
        frames = {each: FRAMES[each](batch, interfaces, progress) for each in self._frames}
        if are_chosen is not None:
            batch = batch.chosen(are_chosen)
            frames = {name: values[are_chosen] for name, values in frames.items()}
        count = len(batch.offsets)
        parts = [
            PacketFields(batch, slice(at, at + PACKETS_AT_ONCE), interfaces, self._kinds)
            for at in range(0, count if self._kinds else 0, PACKETS_AT_ONCE)
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


def _frame_column(field: Field, frames: Mapping[str, Values], occurrence: Occurrence, count: int) -> Column:
    values = frames[field.frame]
    has_value = values.astype(np.bool_) if field.type is FieldType.STRING else np.ones(count, np.bool_)
    if occurrence == "all":
        offsets = np.zeros(count + 1, np.int64)
        np.cumsum(has_value, out=offsets[1:])
        return Column(field, values[has_value], None, offsets)
    return Column(field, values, has_value, None)


def _first(field: Field, parts: list[PacketFields], count: int) -> Column:
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


def _all(field: Field, parts: list[PacketFields], count: int) -> Column:
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
