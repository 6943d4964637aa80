"""The packets of files, to be sent again: in their order, and at their times or others."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, repeat
from typing import IO

import numpy as np

from capd_client.conversation.sending import Outgoings, at_rate, checked_number, checked_speed
from capd_client.errors import InvalidArgument
from capd_client.reading import read
from capd_client.reading.reader import Reader
from capd_client.sources.pacing import LATEST_NS, Schedule
from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.formats.linktypes import from_dlt, linktype_to_dlt
from capd_protocol.sending import MAX_DUE_NS

_LINKTYPE_ETHERNET = 1


def begun(
    source: "str | os.PathLike[str] | int | IO[bytes] | Reader",
    *,
    speed: float,
    rate: float | None,
    count: int | None,
    loop: int,
) -> Outgoings:
    """Return the messages for the packets of a source; see ``Injector.replay``.

    Raises:
        InvalidArgument: an argument is impossible.
        ReadError: the source cannot be opened.
    """
    speed, most = checked_speed(speed, rate), checked_number(count, "count")
    if checked_number(loop, "loop") != 1 and not isinstance(source, str | os.PathLike):
        raise InvalidArgument("loop is for files that are named by their paths: others are read once", argument="loop")
    first = source if isinstance(source, Reader) else read(source)
    readers = chain((first,), (read(source) for _ in range(loop - 1) if not isinstance(source, Reader)))
    is_scheduled = rate is not None or math.isfinite(speed)
    if rate is not None:
        timed = at_rate((packet for reader in readers for _, packets in _batches(reader) for packet in packets), rate)
    else:
        timed = chain.from_iterable(
            zip(packets, times, strict=False) for packets, times in _placed(readers, speed if is_scheduled else None)
        )
    return Outgoings(islice(timed, most), is_scheduled=is_scheduled)


def _placed(
    readers: Iterable[Reader], speed: float | None
) -> Iterator[tuple[Sequence[memoryview | None], Iterable[int]]]:
    """Return the packets of readers, one behind the other, with their times; all zero, where there is no speed."""
    begin_ns = 0
    for reader in readers:
        schedule = Schedule(1 if speed is None else speed)
        latest_ns, seen = 0, 0
        for batch, packets in _batches(reader):
            if speed is None:
                yield packets, repeat(0)
                continue
            times = schedule.due_ns(batch.timestamps_ns)
            latest_ns = int(times[-1])
            seen += len(times)
            yield packets, np.minimum(begin_ns + times, MAX_DUE_NS).tolist()
        # The next round begins as long after the last packet as packets are apart.
        begin_ns = min(begin_ns + latest_ns + latest_ns // max(seen - 1, 1), LATEST_NS)


def _batches(reader: Reader) -> Iterator[tuple[Batch, list[memoryview | None]]]:
    with reader:
        for batch in reader.batches():
            if len(batch.offsets):
                _check(batch, reader.interfaces)
                yield batch, _packets_of(batch)


def _packets_of(batch: Batch) -> list[memoryview | None]:
    ends = batch.offsets + batch.captured_sizes
    packets: list[memoryview | None] = list(
        map(batch.data.data.__getitem__, map(slice, batch.offsets.tolist(), ends.tolist()))
    )
    for place in np.flatnonzero(batch.captured_sizes < batch.original_sizes).tolist():
        packets[place] = None
    return packets


def _check(batch: Batch, interfaces: Sequence[FileInterface]) -> None:
    found: list[int] = np.unique(batch.interface_ids).tolist()
    for interface_id in found:
        linktype = interfaces[interface_id].linktype
        if linktype != _LINKTYPE_ETHERNET:
            name = from_dlt(linktype_to_dlt(linktype)).name
            text = f"source has packets of the link-layer type {name}, and only Ethernet frames are sent"
            raise InvalidArgument(text, argument="source")
