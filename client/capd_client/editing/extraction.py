"""The packets of a span out of several files, in time order. Opens only files that may have some."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from capd_client.errors import ReadError
from capd_client.reading.model import Packet
from capd_client.reading.reader import FileReader
from capd_client.reading.selection import Selection
from capd_client.ring.files import RingFile, Span
from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.batches.packet_options import OptionColumn
from capd_protocol.batches.progress import Progress
from capd_protocol.formats.metadata import BlockLog, OtherBlock, Section
from capd_protocol.formats.options import Options, joined

if TYPE_CHECKING:
    from capd_client.display_filters.filter import AnyDisplayFilter

#: Packets of a file that are turned into objects at once. Chosen: their lists stay small.
_ROWS_AT_ONCE = 4096


class Extraction:
    """Packets of a span, each ``Packet.interface_id`` a place in ``interfaces``; there is one pass.

    Files that overlap are merged, and packets within a file sorted. What is in memory at once are numbers, some 50
    bytes for each packet of the files that overlap, of those that match; packets are looked at where the files are
    mapped.
    """

    def __init__(
        self,
        files: Iterable[RingFile],
        span: Span,
        capture_filter: str | None = None,
        display_filter: "AnyDisplayFilter | None" = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            files: where to look.
            span: what for.
            capture_filter: only packets that match, as in pcap-filter(7).
            display_filter: only packets that pass; of each file by itself.
        """
        self._files = sorted((file for file in files if file.may_have(span)), key=lambda file: file.earliest_ns)
        self._span = span
        self._span_ns = span.start_ns, span.end_ns
        self._selection = Selection(capture_filter, display_filter)
        self._interface_ids: dict[FileInterface, int] = {}
        #: Those of the files that were opened so far; equal ones of several files are one.
        self.interfaces: list[FileInterface] = []
        #: What these files say beside their packets.
        self.blocks = BlockLog()
        self._said: dict[Options, None] = {}
        self._known_blocks: set[tuple[int, bytes]] = set()
        #: What could not be read; the packets before are there.
        self.faults: list[ReadError] = []

    def __iter__(self) -> Iterator[Packet]:
        """Iterate over packets.

        Raises:
            BadFilterError: the filter does not compile for the packets of some interface.
        """
        # The next packet of each open file, files in their order where times are equal.
        heads: list[tuple[int, int, Packet, Iterator[Packet]]] = []
        for number, file in enumerate(self._files):
            yield from _merged(heads, file.earliest_ns)
            packets = self._packets(file)
            first = next(packets, None)
            if first is not None:
                heapq.heappush(heads, (first.timestamp_ns, number, first, packets))
        yield from _merged(heads, None)

    @property
    def sections(self) -> list[Section]:
        """One section, which says what those of the files say that were opened so far; none where they say nothing."""
        return [Section(joined(self._said))] if self._said else []

    def _keep(self, reader: FileReader) -> None:
        """Keep what a file says; the files of a ring mostly say the same."""
        self._said |= dict.fromkeys(each.options for each in reader.sections)
        for each in reader.other_blocks:
            body = each.native_body()
            if body is not None and (each.block_type, body) not in self._known_blocks:
                self._known_blocks.add((each.block_type, body))
                self.blocks.add(OtherBlock(0, each.block_type, body))

    def _packets(self, file: RingFile) -> Iterator[Packet]:
        """Give a file's packets of the span, sorted."""
        data: list[memoryview] = []
        options: list[OptionColumn | None] = []
        columns: list[tuple[npt.NDArray[np.int64], ...]] = []
        interfaces: Sequence[FileInterface] = ()
        try:
            with file.open() as opened, FileReader(opened, False, self._span_ns) as reader:
                try:
                    progress = Progress()
                    for batch in reader.batches():
                        found = self._found(batch, reader.interfaces, progress)
                        progress.note(batch)
                        if len(found.offsets):
                            columns.append(_columns(found, len(data)))
                            data.append(found.data.data)
                            options.append(found.options)
                finally:
                    interfaces = reader.interfaces
                    self._keep(reader)
                if file.is_complete and reader.rest_bytes:
                    text = f"the last record is not whole ({reader.rest_bytes} bytes)"
                    self.faults.append(ReadError(file.path, reader.at_bytes, text))
        except ReadError as error:
            self.faults.append(ReadError(file.path, error.offset_bytes, error.text))
        ids = [self._interface_id(interface) for interface in interfaces]
        if not data:
            return
        table = np.stack([np.concatenate(column) for column in zip(*columns, strict=True)])
        del columns
        timestamps = table[0]
        if bool((timestamps[1:] < timestamps[:-1]).any()):
            table = table[:, np.argsort(timestamps, kind="stable")]
        names = [interface.name for interface in interfaces]
        for at in range(0, table.shape[1], _ROWS_AT_ONCE):
            rows: list[list[int]] = table[:, at : at + _ROWS_AT_ONCE].tolist()
            row: tuple[int, int, int, int, int, int, int, int]
            for row in zip(*rows, strict=True):
                timestamp_ns, own_id, original_bytes, size_bytes, begin, flags, batch_number, place = row
                view = data[batch_number][begin : begin + size_bytes]
                column = options[batch_number]
                stored = None if column is None else column.at(place)
                yield Packet(timestamp_ns, names[own_id], ids[own_id], original_bytes, view, flags, stored)

    def _found(self, batch: Batch, interfaces: Sequence[FileInterface], progress: Progress) -> Batch:
        """Return the packets of the span that match."""
        mask = batch.within(self._span.start_ns, self._span.end_ns)
        if not mask.any():
            return batch.chosen(mask)
        selected = self._selection.mask(batch, interfaces, progress)
        if selected is not None:
            mask &= selected
        return batch if mask.all() else batch.chosen(mask)

    def _interface_id(self, interface: FileInterface) -> int:
        # Timestamps have been converted, and statistics are of whole captures.
        described = interface._replace(units_per_s=10**9, statistics=None, section=0)
        if described not in self._interface_ids:
            self._interface_ids[described] = len(self.interfaces)
            self.interfaces.append(described)
        return self._interface_ids[described]


def _columns(batch: Batch, number: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Return what is to be known of a batch's packets, a column each.

    Args:
        batch: the packets.
        number: of what they lie in.
    """
    fields = (
        batch.timestamps_ns,
        batch.interface_ids,
        batch.original_sizes,
        batch.captured_sizes,
        batch.offsets,
        np.zeros(len(batch.offsets)) if batch.flags is None else batch.flags,
        np.full(len(batch.offsets), number),
        np.arange(len(batch.offsets)),
    )
    return tuple(each.astype(np.int64) for each in fields)


def _merged(heads: list[tuple[int, int, Packet, Iterator[Packet]]], before_ns: int | None) -> Iterator[Packet]:
    """Give the packets of open files in order, those before a time."""
    while heads and (before_ns is None or heads[0][0] < before_ns):
        _, number, packet, packets = heads[0]
        yield packet
        following = next(packets, None)
        if following is None:
            heapq.heappop(heads)
        else:
            heapq.heapreplace(heads, (following.timestamp_ns, number, following, packets))
