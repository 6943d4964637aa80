"""Packets changed: their times, their bytes, and what is said of them."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from capd_client.errors import InvalidArgument
from capd_protocol.arguments import is_comment
from capd_protocol.batches.model import Batch
from capd_protocol.batches.packet_options import OptionColumn, no_options, options_of_flags
from capd_protocol.batches.record_offsets import I64
from capd_protocol.formats import pcapng
from capd_protocol.formats.options import comment_options

#: What 64 bits with a sign can say.
_MOST_NS = 2**63 - 1
#: Whose bytes are copied together. Chosen: what says where each byte comes from takes eight times as much.
_PACKETS_AT_ONCE = 4096


def shifted(batches: Iterable[Batch], offset_ns: int) -> Iterator[Batch]:
    """Give packets as if they had come later, or earlier.

    Args:
        batches: of all packets.
        offset_ns: how much later, in nanoseconds; below 0: earlier.

    Raises:
        InvalidArgument: a packet's time would be before 1678 or after 2262, which 64 bits cannot say.
    """
    for batch in batches:
        times_ns = batch.timestamps_ns
        if not len(times_ns):
            continue
        if not (int(times_ns.min()) + offset_ns >= -_MOST_NS and int(times_ns.max()) + offset_ns <= _MOST_NS):
            text = "with that offset, times would be before 1678 or after 2262: choose a smaller one"
            raise InvalidArgument(text, argument="offset_ns")
        yield batch._replace(timestamps_ns=times_ns + np.int64(offset_ns))


def cut_to(batches: Iterable[Batch], snaplen_bytes: int, *, shortens_original: bool = False) -> Iterator[Batch]:
    """Give at most so many bytes of each packet.

    Args:
        batches: of all packets.
        snaplen_bytes: how many.
        shortens_original: as if no packet had been longer: their original sizes become smaller, too.

    Raises:
        InvalidArgument: it is less than 1.
    """
    if snaplen_bytes < 1:
        raise InvalidArgument(f"snaplen is {snaplen_bytes}; possible are numbers from 1", argument="snaplen")
    most = np.uint32(min(snaplen_bytes, 0xFFFFFFFF))
    return (
        batch._replace(
            captured_sizes=np.minimum(batch.captured_sizes, most),
            original_sizes=np.minimum(batch.original_sizes, most) if shortens_original else batch.original_sizes,
        )
        for batch in batches
    )


def without_bytes(
    batches: Iterable[Batch], count: int, offset: int = 0, *, shortens_original: bool = False
) -> Iterator[Batch]:
    """Give packets without some of their bytes, such as a header that is none of theirs.

    Args:
        batches: of all packets.
        count: how many bytes; below 0: those before the offset, rather than behind it.
        offset: where, in bytes from the packet's beginning. Below 0, and for a count below 0 also 0: from its end. Of a
            packet that is too short for it, nothing is left out.
        shortens_original: make the original size as much smaller.
    """
    for batch in batches:
        captured = batch.captured_sizes.astype(np.int64)
        at = captured + offset if offset < 0 or (count < 0 and not offset) else np.full_like(captured, offset)
        is_there = (at >= 0) & (at <= captured)
        begin = np.where(is_there, np.maximum(at + min(count, 0), 0), 0)
        end = np.where(is_there, np.minimum(at + max(count, 0), captured), 0)
        removed = np.maximum(end - begin, 0)
        original = batch.original_sizes
        if shortens_original:
            original = np.maximum(original.astype(np.int64) - removed, 0).astype(np.uint32)
        changed = batch._replace(original_sizes=original)
        rest = (captured - removed).astype(np.uint32)
        if (end == captured)[removed > 0].all():
            yield changed._replace(captured_sizes=rest)
        elif (begin == 0)[removed > 0].all():
            yield changed._replace(captured_sizes=rest, offsets=batch.offsets + removed)
        else:
            for start in range(0, len(captured), _PACKETS_AT_ONCE):
                piece = slice(start, start + _PACKETS_AT_ONCE)
                yield _without_middle(changed.chosen(piece), begin[piece], removed[piece])


def _without_middle(batch: Batch, begin: I64, removed: I64) -> Batch:
    """Return copies of packets without what stands somewhere in them."""
    captured = batch.captured_sizes.astype(np.int64)
    # Of each packet two parts: before what is left out, and behind it.
    sizes = np.stack([begin, captured - begin - removed], axis=1).reshape(-1)
    sources = np.stack([batch.offsets, batch.offsets + begin + removed], axis=1).reshape(-1)
    targets = np.cumsum(sizes) - sizes
    data = batch.data[np.repeat(sources - targets, sizes) + np.arange(int(sizes.sum()))]
    return batch._replace(data=data, offsets=targets[::2], captured_sizes=(captured - removed).astype(np.uint32))


def commented(batches: Iterable[Batch], comments: Mapping[int, str]) -> Iterator[Batch]:
    """Give packets of which some have another comment, behind those that they have.

    Args:
        batches: of all packets; the first has the number 1.
        comments: by the packet's number.

    Raises:
        InvalidArgument: a comment is empty, or has a NUL, or a number is less than 1.
    """
    if not all(map(is_comment, comments.values())) or min(comments, default=1) < 1:
        text = "packets are numbered from 1, and a comment has at least one character, no NUL, and is UTF-8"
        raise InvalidArgument(text, argument="comments")
    return _commented(batches, comments)


def _commented(batches: Iterable[Batch], comments: Mapping[int, str]) -> Iterator[Batch]:
    before, numbers = 0, sorted(comments)
    for batch in batches:
        count = len(batch.offsets)
        here = [number for number in numbers if before < number <= before + count]
        if here:
            column = _options_of(batch)
            places = [number - before - 1 for number in here]
            added = [comment_options([comments[number]]) for number in here]
            stored = [column.at(place) for place in places]
            kept = [() if each is None else tuple(each.read()) for each in stored]
            made = [pcapng.options_bytes((*old, *new)) for old, new in zip(kept, added, strict=True)]
            batch = batch._replace(options=column.replaced(places, made))  # noqa: PLW2901  # the same, with more
        before += count
        yield batch


def without_comments(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Give packets without their comments.

    Args:
        batches: of all packets.
    """
    for batch in batches:
        if batch.options is None:
            yield batch
            continue
        column = batch.options.fit_to_write()
        found = {place: each.read() for place, each in enumerate(column.each()) if each is not None}
        places = [place for place, options in found.items() if options.comments]
        made = [pcapng.options_bytes(found[place].without((pcapng.OPT_COMMENT,))) for place in places]
        yield batch._replace(options=column.replaced(places, made)) if places else batch


def _options_of(batch: Batch) -> OptionColumn:
    """Return what is written of packets, flags among it."""
    if batch.options is not None:
        return batch.options.fit_to_write()
    return no_options(len(batch.offsets)) if batch.flags is None else options_of_flags(batch.flags)
