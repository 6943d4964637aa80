"""The chain of a block's frames, guessed, is the chain that following it step by step finds."""

import struct
from collections.abc import Sequence
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capd.worker.packets.blocks import Block
from capd.worker.packets.packet_offsets import HEADER_WORDS, FrameFinder

_FIRST_BYTES = 48  # behind the block's descriptor
_HEADER_BYTES = 48  # struct tpacket3_hdr, linux/if_packet.h
_MAC, _NET = 84, 98


def frame(size_bytes: int, payload: bytes = b"", mac: int = _MAC) -> bytes:
    """Lay out a frame of so many bytes, a multiple of 8, as the kernel does."""
    header = struct.pack("=6I2HIIHH8s", size_bytes, 1_700_000_000, 5, 60, 60, 1, mac, _NET, 0, 0, 0, 0, b"")
    return (header + payload).ljust(size_bytes, b"\xa5")[:size_bytes]


def positions_of(frames: Sequence[bytes], *, behind: bytes = b"") -> tuple[list[int], list[int]]:
    """Return what is found, and what is so, in words, in a block of these frames with something behind the last."""
    data = bytes(_FIRST_BYTES) + b"".join(frames) + behind
    end = _FIRST_BYTES + sum(map(len, frames))
    memory = np.frombuffer(bytearray(data.ljust((len(data) + 7) // 8 * 8 + 64, b"\0")), np.uint8)
    block = Block(_FIRST_BYTES // 4, len(frames), end // 4, len(memory) // 4)
    found = FrameFinder(memory).find(block)
    assert [row.tobytes() for row in found.headers] == [each[: 4 * HEADER_WORDS] for each in frames]
    starts = np.cumsum([_FIRST_BYTES, *map(len, frames[:-1])]) // 4
    return found.positions.tolist(), starts.tolist()


_sizes = st.integers(6, 250).map(lambda eighths: 8 * eighths)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(_sizes, st.integers(1, 90)), min_size=1, max_size=12), st.integers(0, 2**32))
def test_any_runs_of_any_sizes_are_found(runs: list[tuple[int, int]], seed: int) -> None:
    sizes = [size for size, count in runs for _ in range(count)]
    found, expected = positions_of([frame(size) for size in sizes])
    assert found == expected
    found, expected = positions_of([frame(size) for size in np.random.default_rng(seed).permutation(sizes).tolist()])
    assert found == expected


@pytest.mark.parametrize("count", [1, 2, 64, 65, 66, 1000])
def test_as_many_as_the_block_says_are_found(count: int) -> None:
    found, expected = positions_of([frame(152)] * count, behind=frame(152) * 3)
    assert found == expected


def test_packets_that_look_like_frames_are_not_taken_for_some() -> None:
    imitation = frame(104, frame(56))
    found, expected = positions_of([imitation if i % 3 else frame(512, imitation) for i in range(300)])
    assert found == expected


def test_an_imitation_does_not_take_the_place_of_a_frame_with_another_mark() -> None:
    # As many marks as frames, but not the same ones.
    frames = [frame(160) for _ in range(100)] + [frame(208, frame(104)), frame(160, mac=80)] + [frame(160)] * 20
    found, expected = positions_of(frames)
    assert found == expected


def test_frames_of_an_earlier_round_behind_the_last_one_are_not_found() -> None:
    found, expected = positions_of([frame(8 * (10 + i % 7)) for i in range(200)], behind=frame(96) * 20)
    assert found == expected


def test_frames_too_large_to_be_looked_for_are_followed() -> None:
    found, expected = positions_of([frame(8 * (600 + i % 5)) for i in range(90)])
    assert found == expected


def test_a_frame_that_was_read_is_not_found_again_where_nothing_was_written_over_it() -> None:
    old = np.frombuffer(bytearray(frame(48)), np.uint8)
    FrameFinder(old).find(Block(0, 1, 12, 12))
    frames = [frame(8 * (30 + i % 7), old.tobytes()) for i in range(200)]
    memory = np.frombuffer(bytearray(b"".join(frames)), np.uint8)
    with patch("capd.worker.packets.packet_offsets._follow", side_effect=AssertionError("had to be followed")):
        found = FrameFinder(memory).find(Block(0, len(frames), len(memory) // 4, len(memory) // 4))
    assert found.positions.tolist() == [0, *np.cumsum([len(each) // 4 for each in frames[:-1]]).tolist()]


@pytest.mark.parametrize("other", [0, 1, 99, 198, 199])
def test_distances_that_only_seem_equal_are_not_taken_for_equal(other: int) -> None:
    found, expected = positions_of([frame(160 if i == other else 152) for i in range(200)])
    assert found == expected
