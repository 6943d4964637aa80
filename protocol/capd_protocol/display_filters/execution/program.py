"""A checked display filter as a program, which says of each packet of a batch whether it passes. Pure."""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.batches.progress import Progress
from capd_protocol.display_filters.execution.evaluation import Evaluation, Search
from capd_protocol.display_filters.execution.fetching import Fetcher
from capd_protocol.display_filters.execution.layered import kind_of_layers
from capd_protocol.display_filters.execution.values import Flags
from capd_protocol.display_filters.plan import Condition, FieldValue
from capd_protocol.fields.packets import FRAMES, PACKETS_AT_ONCE, PacketFields, kinds_of
from capd_protocol.fields.protocols import PROTOCOLS
from capd_protocol.fields.registry import FIELDS


def _fields_of(part: object) -> list[FieldValue]:
    """Return the fields and protocols of a condition or value, and of what they consist of."""
    if isinstance(part, FieldValue):
        return [part]
    parts = cast("tuple[object, ...]", part) if isinstance(part, tuple) else ()
    return [found for each in parts for found in _fields_of(each)]


class Program:
    """A checked filter, to be asked about one batch after another."""

    def __init__(self, condition: Condition, searches: Mapping[bytes, Search]) -> None:
        """Nothing is worked out yet.

        Args:
            condition: the filter.
            searches: for each regular expression of it, what finds it.
        """
        self._condition = condition
        self._searches = searches
        values = _fields_of(condition)
        #: The fields and protocols that it asks for.
        self.names = tuple(sorted({each.name for each in values}))
        fields = [FIELDS[name] for name in self.names if name in FIELDS]
        kinds = set(kinds_of(fields)) | {each.kind for name in self.names for each in PROTOCOLS.get(name, ())}
        for value in values:
            if value.layers:
                places = FIELDS[value.name].places if value.name in FIELDS else PROTOCOLS.get(value.name, ())
                kinds |= {kind_of_layers(each.kind) for each in places}
        self._kinds = frozenset(kinds)
        self._frames = {field.frame for field in fields if field.frame}

    def mask(self, batch: Batch, interfaces: Sequence[FileInterface], progress: Progress) -> Flags:
        """Return which packets of a batch pass.

        Args:
            batch: packets.
            interfaces: what their interface ids mean.
            progress: what came before.
        """
        frames = {each: FRAMES[each](batch, interfaces, progress) for each in self._frames}
        count = len(batch.offsets)
        flags = np.zeros(count, np.bool_)
        for at in range(0, count, PACKETS_AT_ONCE):
            places = slice(at, at + PACKETS_AT_ONCE)
            fields = PacketFields(batch, places, interfaces, self._kinds)
            fetcher = Fetcher(fields, {name: values[places] for name, values in frames.items()})
            flags[places] = Evaluation(fetcher, fields.count, self._searches).of(self._condition)
        return flags
