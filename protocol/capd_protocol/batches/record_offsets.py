"""Offsets of the records in a file: each says how long it is, and so where the next one begins.

Pure: arrays in, positions out. What is not whole, or damaged, ends a chain; ``check_block`` reports which.
"""

import struct
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from capd_protocol.formats.pcapng import ENHANCED_PACKET_BLOCK

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]

#: A longer record is damage, not one that is still being written. A D-Bus message has up to 128 MiB, as libpcap and
#: Wireshark have it; libpcap leaves as much room for the options of its block.
MAX_RECORD_BYTES = 128 * 1024 * 1024 + 128 * 1024

#: Chains are followed side by side from places so far apart. Chosen: less takes longer to search for the places, and
#: with fewer lanes each step is dearer.
_LANES = 256
_MOST_LANE_WORDS = 32 * 1024 // 4
_LEAST_LANE_WORDS = 8 * 1024 // 4
#: How far from such a place a block's beginning is looked for: most packets are shorter.
_SEARCH_WORDS = 2048 // 4
#: A step of all lanes costs 2 µs and more, one block in a plain loop about 0.15 µs.
_WORTH_LANES = 32
#: Between two looks whether lanes have more to go: a look costs about as much as a step.
_STEPS_AT_ONCE = 4
#: An enhanced packet block without a byte of a packet: no lane has more steps to go.
_MIN_PACKET_WORDS = 32 // 4
#: Type, length, length again.
_MIN_BLOCK_BYTES = 12


#: As ``struct`` calls it, and as ``int`` does.
_WORDS: dict[str, Literal["little", "big"]] = {"<": "little", ">": "big"}


class Damage(Exception):
    """The format is broken at an offset, in bytes, of the data that were looked at."""

    def __init__(self, offset_bytes: int, text: str) -> None:
        super().__init__(text)
        self.offset_bytes = offset_bytes


def check_block(words: U32) -> None:
    """Find out why the chain of blocks ends at once: silent where the block is just not whole yet.

    Raises:
        Damage: no block is like that.
    """
    if len(words) < 2:
        return
    length = int(words[1])
    if length % 4 or not _MIN_BLOCK_BYTES <= length <= MAX_RECORD_BYTES:
        raise Damage(0, f"a block of {length} bytes")
    if length // 4 <= len(words) and words[length // 4 - 1] != length:
        raise Damage(0, f"a block of {length} bytes ends with another length, {words[length // 4 - 1]}")


def follow_blocks(words: U32) -> tuple[I64, U32]:
    """Return the positions, in words, of the pcapng blocks that are whole and end with the length that they begin with.

    Args:
        words: of a file, in this machine's byte order, from the beginning of a block.

    Returns:
        The positions, and the first words of each block, a row for each; of a short one also what follows it.
    """
    guesses = _guess_blocks(words)
    rows = _rows(words, guesses)
    lengths = rows[:-1, 2]
    # Each guess that leads to the next one is a whole block if it is one at all: runs of them are taken whole.
    leads = lengths == (guesses[1:] - guesses[:-1]) * 4
    leads &= rows[1:, 0] == lengths
    leads &= (lengths >= _MIN_BLOCK_BYTES) & (lengths <= MAX_RECORD_BYTES)
    run_ends = np.append(np.flatnonzero(~leads), len(guesses) - 1)
    parts: list[tuple[I64, U32]] = []
    walked: list[int] = []
    at, is_whole = 0, True
    while is_whole and at < len(words):
        found = int(np.searchsorted(guesses, at))
        goal = int(guesses[found]) if found < len(guesses) else len(words)
        if at == goal and found < (last := int(run_ends[np.searchsorted(run_ends, found)])):
            _flush(words, walked, parts)
            parts.append((guesses[found:last], rows[found:last]))
            at = goal = int(guesses[last])
        at, is_whole = _walk(words, at, goal + 1, walked)
    _flush(words, walked, parts)
    if len(parts) == 1:
        ((positions, rows),) = parts  # the usual case, not copied
    else:
        positions = np.concatenate([np.empty(0, np.int64), *(each for each, _ in parts)])
        rows = np.concatenate([np.empty((0, 8), np.uint32), *(each for _, each in parts)])
    return positions, rows[:, 1:]


def _flush(words: U32, walked: list[int], parts: list[tuple[I64, U32]]) -> None:
    """Move what was walked to the parts."""
    if walked:
        positions = np.array(walked, np.int64)
        parts.append((positions, _rows(words, positions)))
        walked.clear()


def _walk(words: U32, at: int, goal: int, walked: list[int]) -> tuple[int, bool]:
    """Go from block to block up to a position, or behind it; return where, and whether all were whole blocks."""
    memory, limit = words.data, len(words)
    while at < goal:
        if at + 2 > limit:
            return at, False
        length = memory[at + 1]
        after = at + (length >> 2)
        if length & 3 or not _MIN_BLOCK_BYTES <= length <= MAX_RECORD_BYTES:
            return at, False
        if after > limit or memory[after - 1] != length:
            return at, False
        walked.append(at)
        at = after
    return at, True


def _rows(words: U32, positions: I64) -> U32:
    """Return the word before each position and the seven from it on; at the ends of the words some are others."""
    if not len(positions) or positions[-1] > len(words) - 7 or len(words) < 8:
        places = positions[:, np.newaxis] + np.arange(-1, 7)
        return words.take(places, mode="clip")
    # One gather of whole rows, rather than one for each of their words.
    every = np.ndarray((len(words) - 7,), np.dtype("V32"), words.data, 0, (4,))
    rows = every[np.maximum(positions - 1, 0)].view(np.uint32).reshape(-1, 8)
    if positions[0] == 0:
        rows[0, 1:] = words[:7]
    return rows


def _guess_blocks(words: U32) -> I64:
    """Follow many chains at once, from places that look like a packet's block; return where they came, in order."""
    lane_words = min(max(len(words) // _LANES, _LEAST_LANE_WORDS), _MOST_LANE_WORDS)
    lanes = len(words) // lane_words
    if lanes < _WORTH_LANES:
        return np.empty(0, np.int64)
    near = words[: lanes * lane_words].reshape(lanes, lane_words)[:, :_SEARCH_WORDS]
    lane, column = np.divmod(np.flatnonzero(near == ENHANCED_PACKET_BLOCK), _SEARCH_WORDS)
    begins = lane * lane_words + column
    lengths = words.take(begins + 1, mode="clip")
    matches = words.take(begins + (lengths >> 2) - 1, mode="clip") == lengths
    lane, begins = lane[matches], begins[matches]
    at: I64 = begins[np.flatnonzero(np.diff(lane, prepend=-1))]
    if len(at) < _WORTH_LANES:
        return np.empty(0, np.int64)
    # A lane ends where the next one begins; one that goes past it was, or was led, astray.
    ends = np.append(at[1:], len(words) - 6)
    lengths = words[1:]
    steps: list[I64] = []
    sizes = np.empty(len(at), np.uint32)
    while len(steps) < lane_words // _MIN_PACKET_WORDS and (at < ends).any():
        for _ in range(_STEPS_AT_ONCE):
            steps.append(at)
            # Lanes that have come to their end go on with the others: stopping them costs more.
            lengths.take(at, mode="clip", out=sizes)
            np.right_shift(sizes, 2, out=sizes)
            at = np.add(at, sizes, dtype=np.int64)
    grid = np.stack(steps, axis=1)
    guesses: I64 = grid[grid < ends[:, np.newaxis]]
    return guesses


class RecordLayout(NamedTuple):
    """How pcap records begin.

    Attributes:
        header_bytes: what stands before the packet.
        sizes_at: offsets of the packet's captured size; of two it is the smaller one.
    """

    header_bytes: int
    sizes_at: tuple[int, ...]


def follow_records(data: U8, order: str, layout: RecordLayout, limit_bytes: int) -> I64:
    """Return the offsets of the pcap records that are whole.

    Args:
        data: of a file, from the beginning of a record.
        order: "<" or ">".
        layout: of the file's records.
        limit_bytes: a record that claims more ends the chain.
    """
    header, size = layout.header_bytes, len(data)
    unpack = struct.Struct(order + "I").unpack_from
    first, *more = layout.sizes_at
    positions: list[int] = []
    parts: list[I64] = []
    at = run = last = 0
    view = data.data
    while at + header <= size:
        (captured,) = unpack(view, at + first)
        for each in more:
            captured = min(captured, *unpack(view, at + each))
        if captured > limit_bytes or at + header + captured > size:
            break
        positions.append(at)
        step = header + captured
        at += step
        run = run + 1 if step == last else 0
        last = step
        if run == _WORTH_GUESSING:
            # Most traffic comes in runs of one size: guess, check, go on.
            run = 0
            count = _run_length(data, at, step, order, layout)
            parts += [np.array(positions, np.int64), np.arange(count, dtype=np.int64) * step + at]
            positions = []
            at += count * step
    return np.concatenate([*parts, np.array(positions, np.int64)])


def captured_size(data: U8, at: int, order: str, layout: RecordLayout) -> int:
    """Return the captured size of a pcap record's packet."""
    return min(int.from_bytes(data[at + each : at + each + 4].tobytes(), _WORDS[order]) for each in layout.sizes_at)


#: Shorter runs are cheaper one by one (about 0.15 µs each) than guessed (about 5 µs).
_WORTH_GUESSING = 64


def _run_length(data: U8, at: int, step: int, order: str, layout: RecordLayout) -> int:
    """Return how many records of one size, in bytes, follow one another."""
    count = (len(data) - at) // step
    if not count:
        return 0
    u32 = np.dtype(order + "u4")
    sizes = [np.ndarray((count,), u32, data.data, at + each, (step,)) for each in layout.sizes_at]
    wrong = np.flatnonzero(np.minimum.reduce(sizes) != step - layout.header_bytes)
    return int(wrong[0]) if len(wrong) else count


def headers(data: U8 | U32, positions: I64, size_bytes: int) -> U32:
    """Return the first words of records, a row for each.

    Args:
        data: bytes or words, in this machine's byte order.
        positions: where the records begin, in elements of the data.
        size_bytes: how much of each; they are all as long.
    """
    if not len(positions):
        return np.empty((0, size_bytes // 4), np.uint32)
    count = (data.nbytes - size_bytes) // data.itemsize + 1
    # One gather of whole headers, rather than one for each of their fields.
    every = np.ndarray((count,), np.dtype(f"V{size_bytes}"), data.data, 0, (data.itemsize,))
    return every[positions].view(np.uint32).reshape(-1, size_bytes // 4)
