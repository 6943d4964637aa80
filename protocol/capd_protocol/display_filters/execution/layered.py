"""The layers of a protocol in each packet, counted from 1, as display filters ask for them behind ``#``. Pure."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from capd_protocol.display_filters.execution.slicing import extent
from capd_protocol.display_filters.execution.values import I64, Flags
from capd_protocol.display_filters.syntax import Range
from capd_protocol.fields.layers import Found
from capd_protocol.fields.packets import PacketFields, some_of
from capd_protocol.fields.protocols import FRAME

#: Packets are one layer, and Wireshark takes all labels of a stack together.
_IN_ONE: Final = (FRAME, "mpls")


def kind_of_layers(kind: str) -> str:
    """Return the kind of the layers of which these, or parts of them, are counted."""
    return kind.partition(".")[0]


def _numbers(fields: PacketFields, kind: str, found: Found) -> I64:
    """Return the number of the layer of each row of a finding."""
    rows = found.layer.rows
    if kind in _IN_ONE:
        return np.ones(len(rows), np.int64)
    counts = np.zeros(fields.count, np.int64)
    for each in fields.layers(kind):
        if each.number > found.number:
            break
        counts[each.layer.rows] += 1
    return counts[rows]


def in_layers(fields: PacketFields, founds: Sequence[tuple[str, Found]], layers: Sequence[Range]) -> list[Found]:
    """Return of each finding what lies in certain layers; no layers: all of it.

    Args:
        fields: of the packets.
        founds: all layers, or parts of layers, in which a field has values, with their kinds.
        layers: numbers from 1, and negative ones from the last in which a packet has the field.
    """
    if not layers:
        return [found for _, found in founds]
    numbers = [_numbers(fields, kind_of_layers(kind), found) for kind, found in founds]
    last = np.zeros(fields.count, np.int64)
    for (_, found), some in zip(founds, numbers, strict=True):
        last[found.layer.rows] = np.maximum(last[found.layer.rows], some)
    kept: list[Found] = []
    for (_, found), some in zip(founds, numbers, strict=True):
        are_kept = np.logical_or.reduce([_are_in(some, last[found.layer.rows], each) for each in layers])
        kept.append(some_of(found, np.flatnonzero(are_kept)))
    return kept


def _are_in(numbers: I64, last: I64, part: Range) -> Flags:
    # They are numbered from 1.
    begin, size = extent(part, last + 1)
    are_in: Flags = (numbers >= begin) & (numbers < begin + size)
    return are_in
