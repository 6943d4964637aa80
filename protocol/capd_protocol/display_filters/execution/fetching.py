"""The values of a field, and the bytes of a protocol, in some packets. Pure: arrays in, arrays out."""

from collections.abc import Mapping

import numpy as np

from capd_protocol.display_filters.execution.layered import in_layers
from capd_protocol.display_filters.execution.values import Octets, Piece, octets_of
from capd_protocol.display_filters.plan import FieldValue
from capd_protocol.fields.layers import Found
from capd_protocol.fields.packets import PacketFields, Spot, values_at, width_of
from capd_protocol.fields.protocols import FRAME, PROTOCOLS, Header
from capd_protocol.fields.registry import FIELDS, Field
from capd_protocol.fields.types import TIMES, FieldType, Values

_STRINGS = frozenset((FieldType.ETHER, FieldType.IPV6))


class Fetcher:
    """Gets the values of fields of some packets."""

    def __init__(self, fields: PacketFields, frames: Mapping[str, Values]) -> None:
        """Nothing is fetched yet.

        Args:
            fields: what was found in the packets.
            frames: what their records say, by names; see ``FRAMES``.
        """
        self._fields = fields
        self._frames = frames

    def pieces(self, value: FieldValue, *, whole: bool) -> list[Piece]:
        """Return the values of a field or protocol.

        Args:
            value: which one.
            whole: of protocols, not only their headers, but all that is in them.
        """
        if value.name == FRAME:
            return self._headers(value, [(Header(FRAME), Found(0, self._fields.frames, {}))])
        if value.name in PROTOCOLS:
            headers = [
                (header._replace(size=None) if whole else header, found)
                for header in PROTOCOLS[value.name]
                for found in self._fields.layers(header.kind)
            ]
            return self._headers(value, headers)
        field = FIELDS[value.name]
        if field.frame:
            return [self._of_record(value, field)]
        spots = self._fields.spots_of(field)
        founds = in_layers(self._fields, [(spot.at.kind, spot.found) for spot in spots], value.layers)
        return [_of_spot(field, spot._replace(found=found)) for spot, found in zip(spots, founds, strict=True)]

    def _headers(self, value: FieldValue, headers: list[tuple[Header, Found]]) -> list[Piece]:
        pieces: list[Piece] = []
        founds = in_layers(self._fields, [(header.kind, found) for header, found in headers], value.layers)
        for (header, _), found in zip(headers, founds, strict=True):
            layer = found.layer
            reported = layer.size if header.size is None else header.size(layer)
            there = np.minimum(layer.size, reported if header.limit is None else header.limit(layer))
            pieces.append(Piece(layer.rows, Octets(layer.data, layer.at, there, reported)))
        return pieces

    def _of_record(self, value: FieldValue, field: Field) -> Piece:
        frame = Found(0, self._fields.frames, {})
        (found,) = in_layers(self._fields, [(FRAME, frame)], value.layers)
        rows = found.layer.rows
        values = self._frames[field.frame][rows]
        if field.type is FieldType.STRING:
            there = np.flatnonzero(values.astype(np.bool_))
            return Piece(rows[there], octets_of([each.encode() for each in values[there].tolist()], is_text=True))
        if field.type in TIMES:
            return Piece(rows, values.view(np.int64).view("m8[ns]"))
        return Piece(rows, values.astype(np.uint32, copy=False))


def _of_spot(field: Field, spot: Spot) -> Piece:
    layer = spot.found.layer
    if field.type in _STRINGS:
        sizes = np.full(len(layer.rows), width_of(field, spot.at))
        return Piece(layer.rows, Octets(layer.data, layer.at + spot.at.offset, sizes, sizes))
    return Piece(layer.rows, values_at(field, spot).astype(np.uint32, copy=False))
