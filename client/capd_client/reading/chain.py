"""Where the records of a file are: each says how long it is, and so where the next one begins.

Pure: arrays in, positions out. What is not whole, or damaged, ends a chain; ``check_block`` tells which.
"""

import struct

import numpy as np
import numpy.typing as npt

from capd_protocol.pcapng import ENHANCED_PACKET_BLOCK, PCAP_RECORD_HEADER_SIZE_BYTES

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]

#: A longer record is damage, not one that is still being written. As libpcap and Wireshark have it for blocks.
MAX_RECORD_BYTES = 16 * 1024 * 1024

#: Chains are followed side by side from places so far apart. Chosen: 8 and 32 KiB were about as fast.
_LANE_WORDS = 16 * 1024 // 4
#: How far from such a place a block's beginning is looked for: most packets are shorter.
_SEARCH_WORDS = 2048 // 4
#: A step of all lanes costs about 10 µs, one block in a plain loop about 0.15 µs.
_WORTH_LANES = 64
#: An enhanced packet block without a byte of a packet: no lane has more steps to go.
_MIN_PACKET_WORDS = 32 // 4
#: Type, length, length again.
_MIN_BLOCK_BYTES = 12


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


def follow_blocks(words: U32) -> I64:
    """Return the positions, in words, of the pcapng blocks that are whole and end with the length that they begin with.

    Args:
        words: of a file, in this machine's byte order, from the beginning of a block.
    """
    guesses = _guess_blocks(words)
    lengths = words[guesses + 1]
    nexts = guesses + (lengths >> 2)
    is_block = (lengths % 4 == 0) & (lengths >= _MIN_BLOCK_BYTES) & (lengths <= MAX_RECORD_BYTES)
    is_block &= nexts <= len(words)
    is_block[is_block] = words[nexts[is_block] - 1] == lengths[is_block]
    guesses, nexts = guesses[is_block], nexts[is_block]
    # Guesses that lead from one to the next are right if the first one is: runs of them are taken whole.
    run_ends = np.append(np.flatnonzero(nexts[:-1] != guesses[1:]), len(guesses) - 1)
    parts: list[I64] = []
    at = 0
    while True:
        found = int(np.searchsorted(guesses, at))
        goal = int(guesses[found]) if found < len(guesses) else len(words)
        walked, at, is_whole = _walk(words, at, goal)
        parts.append(np.array(walked, np.int64))
        if not is_whole or goal == len(words):
            return np.concatenate(parts)
        if at == goal:
            last = int(run_ends[np.searchsorted(run_ends, found)])
            parts.append(guesses[found : last + 1])
            at = int(nexts[last])


def _walk(words: U32, at: int, goal: int) -> tuple[list[int], int, bool]:
    """Go from block to block up to a position, or behind it; tell where, and whether all were whole blocks."""
    memory, limit = words.data, len(words)
    positions: list[int] = []
    while at < goal:
        if at + 2 > limit:
            return positions, at, False
        length = memory[at + 1]
        after = at + (length >> 2)
        if length & 3 or not _MIN_BLOCK_BYTES <= length <= MAX_RECORD_BYTES:
            return positions, at, False
        if after > limit or memory[after - 1] != length:
            return positions, at, False
        positions.append(at)
        at = after
    return positions, at, True


def _guess_blocks(words: U32) -> I64:
    """Follow many chains at once, from places that look like a packet's block; return where they came, in order."""
    lanes = len(words) // _LANE_WORDS
    if lanes < _WORTH_LANES:
        return np.empty(0, np.int64)
    near = words[: lanes * _LANE_WORDS].reshape(lanes, _LANE_WORDS)[:, :_SEARCH_WORDS]
    # Copied and flat: nonzero() is several times faster there.
    lane, column = np.divmod(np.flatnonzero(near.copy() == ENHANCED_PACKET_BLOCK), _SEARCH_WORDS)
    begins = lane * _LANE_WORDS + column
    lengths = words[begins + 1]
    afters = begins + (lengths >> 2)
    fits = afters <= len(words)
    lane, begins, lengths, afters = lane[fits], begins[fits], lengths[fits], afters[fits]
    matches = words[afters - 1] == lengths
    _, firsts = np.unique(lane[matches], return_index=True)
    at = begins[matches][firsts]
    if len(at) < _WORTH_LANES:
        return np.empty(0, np.int64)
    # A lane ends where the next one begins; one that goes past it was, or was led, astray.
    ends = np.append(at[1:], len(words) - 2)
    lengths = words[1:]
    steps: list[I64] = []
    for _ in range(_LANE_WORDS // _MIN_PACKET_WORDS):
        if not (at < ends).any():
            break
        steps.append(at)
        # Lanes that have come to their end go on with the others: stopping them costs more.
        at = at + np.maximum(lengths.take(at, mode="clip") >> 2, 1)
    grid = np.ascontiguousarray(np.array(steps).T)
    guesses: I64 = grid[grid < ends[:, np.newaxis]]
    return guesses


def follow_records(data: U8, order: str, limit_bytes: int) -> I64:
    """Return the offsets of the pcap records that are whole.

    Args:
        data: of a file, from the beginning of a record.
        order: "<" or ">".
        limit_bytes: a record that claims more ends the chain.
    """
    unpack = struct.Struct(order + "I").unpack_from
    header, size = PCAP_RECORD_HEADER_SIZE_BYTES, len(data)
    positions: list[int] = []
    parts: list[I64] = []
    at = run = last = 0
    view = data.data
    while at + header <= size:
        (captured,) = unpack(view, at + 8)
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
            count = _run_length(data, at, step, order)
            parts += [np.array(positions, np.int64), np.arange(count, dtype=np.int64) * step + at]
            positions = []
            at += count * step
    return np.concatenate([*parts, np.array(positions, np.int64)])


#: Shorter runs are cheaper one by one (about 0.15 µs each) than guessed (about 5 µs).
_WORTH_GUESSING = 64


def _run_length(data: U8, at: int, step: int, order: str) -> int:
    """Return how many records of one size, in bytes, follow one another."""
    count = (len(data) - at) // step
    if not count:
        return 0
    sizes = np.ndarray((count,), np.dtype(order + "u4"), data.data, at + 8, (step,))
    wrong = np.flatnonzero(sizes != step - PCAP_RECORD_HEADER_SIZE_BYTES)
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
