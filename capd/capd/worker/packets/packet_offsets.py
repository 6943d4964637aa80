"""Offsets of the packets in a ring block: tp_next_offset followed without a step for each packet.

A step of Python takes some 100 ns, which is more than all else that is done to a packet. So the chain is guessed, as
a whole and by numpy, and a guess counts only if every frame of it says that the next one is where it was guessed.
"""

import sys
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capd.worker.packets.arrays import I64, U8, U32, U64
from capd.worker.packets.blocks import Block

#: Words of a frame's header, struct tpacket3_hdr (linux/if_packet.h). Where the packet begins, and what is behind its
#: link-layer header, are two 16-bit fields of one word.
NEXT_OFFSET = 0
SECONDS = 1
NANOSECONDS = 2
CAPTURED = 3
ORIGINAL = 4
STATUS = 5
MAC_AND_NET = 6
VLAN_TCI = 8
VLAN_TPID = 9
HEADER_WORDS = 10
#: In STATUS: there was a VLAN tag, which the kernel has set aside.
_VLAN_VALID = 1 << 4
#: Of two 16-bit fields in one word: how far to shift for the first one.
LOW_HALF = 0 if sys.byteorder == "little" else 16

#: Frames begin at multiples of it (V3_ALIGNMENT, net/packet/af_packet.c).
_ALIGNMENT_WORDS = 2
#: The words of a frame's header (two of them, from here on) that are the same in all frames of a block, but for rare
#: kinds of packets: where the packet begins, behind its link-layer header and behind its network header; then a hash
#: that the kernel leaves 0 where nobody has asked for it.
_MARK = MAC_AND_NET
#: Fewer frames are followed sooner than guessed: a guess costs some 10 µs.
_WORTH_GUESSING = 64
#: Looking for marks costs by the words of a block, following by its frames: this is where they cost the same.
_WORTH_LOOKING_WORDS = 500


class Frames(NamedTuple):
    """Where frames are, in 32-bit words of the ring, and the ``HEADER_WORDS`` words of each one's header."""

    positions: I64
    headers: U32


class FrameFinder:
    """Finds the frames in the blocks of one ring."""

    def __init__(self, memory: U8) -> None:
        """Look at nothing yet; ``memory`` is the ring's."""
        self._words: U32 = memory.view(np.uint32)
        #: Single words are read from it in a tenth of the time that numpy takes.
        self._memory = memory.data.cast("I")
        self._rows = rows(memory, HEADER_WORDS)

    def distance(self, block: Block) -> int | None:
        """Return from one frame to the next, in words, where all seem to be equally far; ``headers`` is the proof."""
        step = self._memory[block.first + NEXT_OFFSET] >> 2
        # The cheapest look: at the far end of the guess.
        if block.packets < 2 or not step or block.first + (block.packets - 1) * step + HEADER_WORDS > block.end:
            return None
        return step if self._memory[block.first + (block.packets - 2) * step + NEXT_OFFSET] >> 2 == step else None

    def first_captured_bytes(self, block: Block) -> int:
        """Return how much there is of a block's first packet."""
        return self._memory[block.first + CAPTURED]

    def headers(self, block: Block, step: int) -> U32 | None:
        """Return the headers of frames at equal distances; None if they are not."""
        stop = block.first + (block.packets - 1) * step + 1
        headers = _numbers(self._rows[block.first : stop : step].copy())
        # What the last one of a block says of its next one means nothing.
        return headers if (headers[:-1, NEXT_OFFSET] == step << 2).all() else None

    def find(self, block: Block) -> Frames:
        """Find the frames of a block, and take their marks.

        The kernel does not write to every byte of a block: of six blocks of mixed packets one had a frame of an
        earlier round between two of its own, and had to be followed.
        """
        frames = self._guess(block) if block.packets > _WORTH_GUESSING else None
        if frames is None:
            positions = _follow(self._memory, block.first, block.packets)
            frames = Frames(positions, _numbers(self._rows[positions]))
        self._words[frames.positions + _MARK] = 0
        return frames

    def _guess(self, block: Block) -> Frames | None:
        step = self.distance(block)
        headers = self.headers(block, step) if step else None
        if step and headers is not None:
            return Frames(np.arange(block.first, block.first + block.packets * step, step), headers)
        if block.end - block.first >= block.packets * _WORTH_LOOKING_WORDS:
            return None
        # Whatever has the mark of the first frame may be a frame.
        marks = self._words[block.first + _MARK : block.end & -_ALIGNMENT_WORDS].view(np.uint64)
        positions = np.flatnonzero(marks == marks[0]) * _ALIGNMENT_WORDS + block.first
        if len(positions) != block.packets:
            return None
        headers = _numbers(self._rows[positions])
        is_chain = ((positions[1:] - positions[:-1]) << 2 == headers[:-1, NEXT_OFFSET]).all()
        return Frames(positions, headers) if is_chain else None


def read_times(headers: U32, timestamps_ns: U64) -> None:
    """Write when packets came, by their frames' headers."""
    np.multiply(headers[:, SECONDS], 1_000_000_000, out=timestamps_ns, dtype=np.uint64)
    timestamps_ns += headers[:, NANOSECONDS]


def tagged(headers: U32) -> I64:
    """Return which packets had a VLAN tag that the kernel has set aside."""
    return np.flatnonzero((headers[:, STATUS] & _VLAN_VALID != 0) | (headers[:, VLAN_TCI] != 0))


def rows(memory: U8, words: int) -> npt.NDArray[np.void]:
    """Return a view whose item ``i`` is the ``words`` 32-bit words from ``i`` on.

    Opaque items: numpy gathers and scatters them by copying bytes, in half the time that rows of integers take.
    """
    size_bytes = words * 4
    return np.ndarray(((len(memory) - size_bytes) // 4 + 1,), np.dtype(f"V{size_bytes}"), memory.data, 0, (4,))


def _numbers(headers: npt.NDArray[np.void]) -> U32:
    return headers.view(np.uint32).reshape(-1, HEADER_WORDS)


def _follow(memory: memoryview, first: int, count: int) -> I64:
    positions = np.empty(count, np.int64)
    at = first
    for i in range(count):
        positions[i] = at
        at += memory[at] >> 2
    return positions
