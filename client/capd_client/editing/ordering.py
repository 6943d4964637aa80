"""Packets in the order of their times, as reordercap does it."""

from collections.abc import Iterable, Iterator

import numpy as np

from capd_client.reading.model import Packet, batch_of
from capd_protocol.batches.model import Batch

#: Put together from several batches at once. Chosen: more are no faster.
_PACKETS_AT_ONCE = 4096


def in_time_order(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Give packets in the order of their times; those of equal times stay in their order.

    All of them are read before the first is given. In memory are numbers, about 60 bytes for each packet; of compressed
    files and pipes also the packets themselves, which in other files stay where they are.

    Args:
        batches: of all packets.
    """
    every = [batch for batch in batches if len(batch.offsets)]
    if not every:
        return
    times_ns = np.concatenate([each.timestamps_ns for each in every])
    if not (times_ns[1:] < times_ns[:-1]).any():
        yield from every
        return
    counts = [len(each.offsets) for each in every]
    order = np.argsort(times_ns, kind="stable")
    numbers = np.repeat(np.arange(len(every)), counts)[order]
    places = np.concatenate([np.arange(count) for count in counts])[order]
    for start in range(0, len(order), _PACKETS_AT_ONCE):
        end = start + _PACKETS_AT_ONCE
        here, chosen = numbers[start:end], places[start:end]
        if (here == here[0]).all():
            yield every[int(here[0])].chosen(chosen)
        else:
            yield batch_of(list(_packets(every, here.tolist(), chosen.tolist())))


def _packets(every: list[Batch], numbers: list[int], places: list[int]) -> Iterator[Packet]:
    for batch, place in zip(map(every.__getitem__, numbers), places, strict=True):
        begin = int(batch.offsets[place])
        yield Packet(
            int(batch.timestamps_ns[place]),
            None,
            int(batch.interface_ids[place]),
            int(batch.original_sizes[place]),
            batch.data.data[begin : begin + int(batch.captured_sizes[place])],
            0 if batch.flags is None else int(batch.flags[place]),
            None if batch.options is None else batch.options.at(place),
        )
