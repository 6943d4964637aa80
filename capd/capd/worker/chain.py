"""Where the packets of a ring block are: the chain of tp_next_offset, followed without a step for each packet.

A step of Python takes some 100 ns, which is more than all else that is done to a packet. So the chain is guessed, as
a whole and by numpy, and a guess counts only if every frame of it says that the next one is where it was guessed.
"""

import numpy as np
import numpy.typing as npt

U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]

#: Frames begin at multiples of it (V3_ALIGNMENT, net/packet/af_packet.c).
_ALIGNMENT_WORDS = 2
#: The words of a frame's header (two of them, from here on) that are the same in all frames of a block, but for rare
#: kinds of packets: where the packet begins, behind its link-layer header and behind its network header; then a hash
#: that the kernel leaves 0 where nobody has asked for it.
_MARK = 6
#: Fewer frames are followed sooner than guessed: a guess costs some 10 µs.
_WORTH_GUESSING = 64
#: Looking for marks costs by the words of a block, following by its frames: this is where they cost the same.
_WORTH_LOOKING_WORDS = 500


def find_frames(memory: memoryview, words: U32, first: int, count: int, end: int) -> I64:
    """Return the positions of a block's frames, in 32-bit words.

    Args:
        memory: the ring's words.
        words: the same, for numpy.
        first: position of the first frame.
        count: how many there are.
        end: where the last one ends, at the latest.
    """
    if count > _WORTH_GUESSING:
        guess = _at_equal_distances(memory, first, count)
        if guess is not None and _is_chain(words, guess):
            return guess
        if end - first < count * _WORTH_LOOKING_WORDS:
            guess = _with_equal_marks(words, first, end)
            if len(guess) == count and _is_chain(words, guess):
                return guess
    return _follow(memory, first, count)


def forget_frames(words: U32, frames: I64) -> None:
    """Take their marks from frames whose headers have been read.

    The kernel does not write to every byte of a block: of six blocks of mixed packets one had a frame of an earlier
    round between two of its own, and had to be followed.
    """
    words[frames + _MARK] = 0


def _is_chain(words: U32, frames: I64) -> bool:
    # What the last one of a block says of its next one means nothing.
    return bool(((frames[1:] - frames[:-1]) << 2 == words[frames[:-1]]).all())


def _at_equal_distances(memory: memoryview, first: int, count: int) -> I64 | None:
    """Guess that all packets are of one size, as in a flood and in most of a download."""
    step = memory[first] >> 2
    # The cheapest look: at the far end of the guess.
    if first + (count - 1) * step >= len(memory) or memory[first + (count - 2) * step] >> 2 != step:
        return None
    return np.arange(first, first + count * step, step)


def _with_equal_marks(words: U32, first: int, end: int) -> I64:
    """Guess that whatever has the mark of the first frame is a frame."""
    marks = words[first + _MARK : end & -_ALIGNMENT_WORDS].view(np.uint64)
    return np.flatnonzero(marks == marks[0]) * _ALIGNMENT_WORDS + first


def _follow(memory: memoryview, first: int, count: int) -> I64:
    frames = np.empty(count, np.int64)
    at = first
    for i in range(count):
        frames[i] = at
        at += memory[at] >> 2
    return frames
