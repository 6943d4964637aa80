"""The memory of a flight recorder: segments, of which the oldest is written over by the newest.

A segment is a file that is in no directory (memfd_create(2)), so that records get there and from there as they get
into any other file, never through Python. Its places are known by the time at which they were written, by a clock that
nobody sets: a packet is stamped before it is written, so that all before a place is older than that.
"""

import os
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import numpy as np

from capd.worker.output.rotation import fitting
from capd.worker.output.savefile import SaveFile, WriteError
from capd.worker.packets.arrays import U64
from capd.worker.packets.merge import Slice
from capd_protocol.messages import MAX_SNAPLEN_BYTES

#: Into so many segments memory and time are divided. Chosen: that much more than what was asked for is kept, or less.
_PARTS = 32
#: A segment holds at least a packet of the greatest size, and what capd writes around it.
_SMALLEST_SEGMENT_BYTES = 2 * MAX_SNAPLEN_BYTES
#: A snapshot begins at a place that was noted: each time that this part of a segment has come since the last one, or
#: this part of the time has passed. Chosen: a few thousand in all, however small the packets are.
_PLACES_IN_SEGMENT = 128
_PLACES_IN_TIME = 256
#: Type, length, interface, and the time in two halves.
_BLOCK_HEADER_WORDS = 5
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Place(NamedTuple):
    """A place between two records of a segment."""

    #: When it was written to, by the monotonic clock.
    noted_s: float
    #: When something was last written before it.
    before_s: float
    offset: int
    packets_before: int
    #: Of the packet that follows.
    first_ns: int


class Segment(SaveFile):
    """A part of the memory."""

    def __init__(self, place_bytes: int, place_s: float) -> None:
        """Make an empty one, in which places are noted after so many bytes or seconds.

        Raises:
            WriteError: there is no memory, or no descriptor.
        """
        try:
            descriptor = os.memfd_create("capd-recorder", os.MFD_CLOEXEC)
        except OSError as error:
            raise WriteError(error) from error
        super().__init__(-1, "memory", descriptor, os.fstat(descriptor))
        self._place_bytes, self._place_s = place_bytes, place_s
        #: How many parts of a snapshot are still to be copied from it.
        self.pins = 0
        self._most_bytes = 0
        self.begin({})

    def begin(self, drops_before: Mapping[str, int]) -> None:
        """Begin anew: what was in it is written over, in the same pages."""
        self._most_bytes = self.memory_bytes
        self.size_bytes = 0
        #: Until then, by interface.
        self.drops_before = drops_before
        self.packets = 0
        self.began_s = inf
        self.last_s = -inf
        self.last_ns = 0
        self.places: list[Place] = []

    @property
    def memory_bytes(self) -> int:
        """What it takes: whole pages, with those that it had before."""
        return max(self._most_bytes, -(-self.size_bytes // _PAGE_BYTES) * _PAGE_BYTES)

    def note(self, records: Slice, written: int, at_bytes: int, now_s: float) -> None:
        """Note what was written from a place on."""
        if not written:
            return
        last = self.places[-1] if self.places else None
        if last is None or at_bytes - last.offset >= self._place_bytes or now_s - last.noted_s >= self._place_s:
            self.places.append(Place(now_s, self.last_s, at_bytes, self.packets, int(records.timestamps_ns[0])))
        self.began_s = min(self.began_s, now_s)
        self.last_s = now_s
        self.last_ns = int(records.timestamps_ns[written - 1])
        self.packets += written


@dataclass(frozen=True, slots=True)
class Part:
    """Some records of a segment, one behind the other."""

    segment: Segment
    start: int
    end: int
    #: In the segment.
    packets_before: int
    packets: int
    first_ns: int
    last_ns: int


class Memory:
    """All segments, the oldest first. Records are written to the last one."""

    def __init__(self, memory_bytes: int, duration_s: float) -> None:
        """Take no memory yet.

        Args:
            memory_bytes: how much may be taken, by segments that no snapshot still needs.
            duration_s: what is older is let go; may be infinite.
        """
        self._memory_bytes = memory_bytes
        self._duration_s = duration_s
        self._segment_bytes = max(memory_bytes // _PARTS, _SMALLEST_SEGMENT_BYTES)
        self._segments: deque[Segment] = deque()
        #: Whose memory waits to be written over.
        self._spares: list[Segment] = []
        #: Let go, but not copied yet.
        self._lingering: list[Segment] = []

    @property
    def total_bytes(self) -> int:
        """What all of it takes."""
        return _total_bytes((*self._segments, *self._spares, *self._lingering))

    @property
    def current(self) -> Segment | None:
        """The one that is written to."""
        return self._segments[-1] if self._segments else None

    def has_room(self, size_bytes: int, now_s: float) -> bool:
        """Whether so many bytes still belong into the current segment."""
        current = self.current
        return (
            current is not None
            and current.size_bytes + size_bytes <= self._segment_bytes
            and now_s - current.began_s < self._duration_s / _PARTS
        )

    def begin_segment(self, now_s: float, drops_total: Mapping[str, int]) -> None:
        """Go on in another segment; the oldest ones go where they are too old, or there is no room beside them.

        Raises:
            WriteError: there is no memory.
        """
        while self._segments and self._segments[0].last_s < now_s - self._duration_s:
            self._let_go_of_oldest()
        while self._segments and _total_bytes(self._segments) + self._segment_bytes > self._memory_bytes:
            self._let_go_of_oldest()
        segment = self._spares.pop() if self._spares else self._new_segment()
        segment.begin(drops_total)
        self._segments.append(segment)
        self._trim()

    def _new_segment(self) -> Segment:
        return Segment(self._segment_bytes // _PLACES_IN_SEGMENT, self._duration_s / _PLACES_IN_TIME)

    def _let_go_of_oldest(self) -> None:
        segment = self._segments.popleft()
        (self._lingering if segment.pins else self._spares).append(segment)

    def _trim(self) -> None:
        """Give back what is too much, as the current segment may become full."""
        others = _total_bytes(self._segments) - (self._segments[-1].memory_bytes if self._segments else 0)
        while self._spares and others + self._segment_bytes + _total_bytes(self._spares) > self._memory_bytes:
            self._spares.pop(0).close()

    def fitting(self, sizes_bytes: U64) -> int:
        """Return how many of these packets still belong into the current segment; at least one."""
        left_bytes = self._segment_bytes - (self._segments[-1].size_bytes if self._segments else 0)
        return max(fitting(max(left_bytes, 0), sizes_bytes), 1)

    def write(self, records: Slice, now_s: float) -> None:
        """Append records to the current segment.

        Raises:
            WriteError: there is no memory for all of them.
        """
        segment = self._segments[-1]
        at_bytes, written = segment.size_bytes, len(records.timestamps_ns)
        try:
            segment.write_records(records.vectors)
        except WriteError as error:
            written = error.records_written
            raise
        finally:
            segment.note(records, written, at_bytes, now_s)

    def since(self, start_s: float) -> Iterator[Part]:
        """Give all that was written since then, and a little before."""
        for segment in self._segments:
            # Nothing of it, if even its last packets are older.
            if segment.places and segment.last_s >= start_s:
                older = (place for place in reversed(segment.places) if place.before_s < start_s)
                yield part_of(segment, next(older, segment.places[0]))

    def rest(self, offset: int, packets_before: int) -> Part | None:
        """Return what the current segment has beyond a place; None if that is nothing."""
        current = self.current
        if current is None or current.size_bytes == offset:
            return None
        packets = current.packets - packets_before
        return Part(current, offset, current.size_bytes, packets_before, packets, current.last_ns, current.last_ns)

    def pin(self, part: Part) -> None:
        """Keep a part where it is until it is copied."""
        part.segment.pins += 1

    def unpin(self, part: Part) -> None:
        """It is copied, or not wanted any more."""
        segment = part.segment
        segment.pins -= 1
        if not segment.pins and segment in self._lingering:
            self._lingering.remove(segment)
            self._spares.append(segment)
            self._trim()


def part_of(segment: Segment, begin: Place) -> Part:
    """Return what a segment has from a place on."""
    packets = segment.packets - begin.packets_before
    return Part(
        segment, begin.offset, segment.size_bytes, begin.packets_before, packets, begin.first_ns, segment.last_ns
    )


def _total_bytes(segments: "deque[Segment] | list[Segment] | tuple[Segment, ...]") -> int:
    return sum(segment.memory_bytes for segment in segments)


def whole_records(part: Part, size_bytes: int) -> tuple[int, int, int]:
    """Return how many of so many bytes of a part are whole records, how many these are, and the time of the last one.

    Records are enhanced packet blocks.
    """
    at, end = part.start, part.start + size_bytes
    packets, last_ns = 0, part.first_ns
    for place in part.segment.places:
        if at < place.offset <= end:
            at, packets = place.offset, place.packets_before - part.packets_before
            last_ns = place.first_ns
    data = os.pread(part.segment.open_fd, end - at, at)
    words = np.frombuffer(data, np.uint32, len(data) // 4)
    word = 0
    while word + _BLOCK_HEADER_WORDS <= len(words) and word + int(words[word + 1]) // 4 <= len(words):
        last_ns = int(words[word + 3]) << 32 | int(words[word + 4])
        word += int(words[word + 1]) // 4
        packets += 1
    return at - part.start + 4 * word, packets, last_ns
