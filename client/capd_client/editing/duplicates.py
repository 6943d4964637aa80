"""Packets without those that are the same as one shortly before them, as a mirror port or two interfaces see them."""

from collections.abc import Iterable, Iterator

import numpy as np

from capd_client.editing.choosing import some
from capd_client.errors import InvalidArgument
from capd_protocol.batches.model import Batch

#: As editcap's.
DEFAULT_WINDOW_PACKETS = 5
_MOST_WINDOW_PACKETS = 1_000_000

#: The number of bytes, and a hash of them that is another one in each process.
_Key = tuple[int, int]


def without_duplicates(
    batches: Iterable[Batch],
    *,
    window_packets: int | None = None,
    window_s: float | None = None,
    ignored_bytes: int = 0,
) -> Iterator[Batch]:
    """Give packets without those that have the same bytes as one shortly before.

    Args:
        batches: of all packets.
        window_packets: how many packets are compared, the packet itself among them; None: 5, or all of ``window_s``.
        window_s: in seconds, how much later a packet may be and still be a duplicate; of times that go back, none is.
        ignored_bytes: so many are not compared, from the beginning on; of packets that are no longer, all are.

    Raises:
        InvalidArgument: both windows are given, or one is not possible.
    """
    if window_packets is not None and window_s is not None:
        raise InvalidArgument("a window has packets or seconds, not both", argument="window_s")
    if window_packets is not None and not 0 <= window_packets <= _MOST_WINDOW_PACKETS:
        text = f"window is {window_packets} packets; possible are 0 to {_MOST_WINDOW_PACKETS}"
        raise InvalidArgument(text, argument="window_packets")
    if window_s is not None and not 0 <= window_s < 1e9:
        raise InvalidArgument(f"window is {window_s} s; possible are 0 to 1e9", argument="window_s")
    if ignored_bytes < 0:
        raise InvalidArgument(
            f"{ignored_bytes} bytes cannot be ignored: possible are 0 and more", argument="ignored_bytes"
        )
    if window_s is not None:
        return _without(batches, round(window_s * 10**9), ignored_bytes, by_time=True)
    packets = DEFAULT_WINDOW_PACKETS if window_packets is None else window_packets
    return _without(batches, packets - 1, ignored_bytes, by_time=False)


def _without(batches: Iterable[Batch], window: int, ignored_bytes: int, *, by_time: bool) -> Iterator[Batch]:
    """Compare each packet with the last one before it that has the same bytes.

    Args:
        batches: of all packets.
        window: so much later it may be.
        ignored_bytes: as for ``without_duplicates``.
        by_time: the window is in nanoseconds, not in packets.
    """
    last: dict[_Key, int] = {}
    count, worth_forgetting = 0, 2 * _MOST_WINDOW_PACKETS
    for batch in batches:
        places = batch.timestamps_ns.tolist() if by_time else range(count, count + len(batch.offsets))
        count += len(batch.offsets)
        are_kept: list[bool] = []
        place = 0
        for key, place in zip(_keys(batch, ignored_bytes), places, strict=True):
            before = last.get(key)
            are_kept.append(before is None or not 0 <= place - before <= window)
            last[key] = place
        yield from some(batch, np.array(are_kept, np.bool_))
        if len(last) > worth_forgetting:
            last = {key: at for key, at in last.items() if place - at <= window}
            worth_forgetting = 2 * max(len(last), _MOST_WINDOW_PACKETS)


def _keys(batch: Batch, ignored_bytes: int) -> Iterator[_Key]:
    memory = batch.data.data
    begins = np.where(batch.captured_sizes > ignored_bytes, batch.offsets + ignored_bytes, batch.offsets)
    ends = batch.offsets + batch.captured_sizes
    for begin, end, size in zip(begins.tolist(), ends.tolist(), batch.captured_sizes.tolist(), strict=True):
        yield size, hash(bytes(memory[begin:end]))
