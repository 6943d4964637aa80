"""A real ring: blocks come together, in order, each packet once, and go back to the kernel."""

import select
import socket

import numpy as np
import pytest

from capd.linux.packet_ring import make_ring
from capd.linux.packet_socket import ETH_P_ALL, bind, open_packet_socket
from capd.worker.packets.blocks import Blocks
from capd.worker.packets.packet_offsets import MAC_AND_NET, FrameFinder
from capd.worker.sources.ring_reader import PacketRingReader
from tests.support.traffic import build_frames, send

_FRAMES = build_frames((1500,))
#: Where the UDP payload's sequence number is in a frame, which begins 82 bytes behind its header here.
_SEQUENCE_AT = 42
#: In a block of 1 MiB are some 640 of them.
_COUNT = 5_000
_SIZE_BYTES = 16 << 20
_TIMEOUT_S = 5.0


def ring_of(packet_socket: socket.socket, interface: str, *, retire_ms: int) -> PacketRingReader:
    memory = make_ring(packet_socket, size_bytes=_SIZE_BYTES, retire_ms=retire_ms, header_bytes=14, loopback=False)
    index = socket.if_nametoindex(interface)
    bind(packet_socket.fileno(), ETH_P_ALL, index)
    return PacketRingReader(packet_socket, memory, index)


def taken_until(ring: PacketRingReader, count: int) -> list[Blocks]:
    """Take blocks until so many packets have come; the kernel's timer closes the last one."""
    taken: list[Blocks] = []
    while sum(blocks.packets for blocks in taken) < count:
        assert select.select([ring.socket], [], [], _TIMEOUT_S)[0], "no block was closed"
        blocks = ring.take()
        if blocks is not None:
            taken.append(blocks)
    return taken


def numbers_in(ring: PacketRingReader, taken: list[Blocks]) -> list[int]:
    """Return the packets' sequence numbers."""
    finder = FrameFinder(ring.bytes)
    found = [finder.find(block) for blocks in taken for block in blocks.filled]
    at = np.concatenate([frames.positions * 4 + (frames.headers[:, MAC_AND_NET] & 0xFFFF) for frames in found])
    return [int.from_bytes(ring.bytes[each + _SEQUENCE_AT :][:8].tobytes(), "big") for each in at.tolist()]


def test_blocks_that_have_gathered_come_together(veth: tuple[str, str]) -> None:
    with open_packet_socket(cooked=False) as packet_socket:
        ring = ring_of(packet_socket, veth[1], retire_ms=20)
        released = 0
        for _ in range(5):  # more than once around
            send(veth[0], _FRAMES, _COUNT, 500_000, sequence_at=_SEQUENCE_AT)
            taken = taken_until(ring, _COUNT)
            assert numbers_in(ring, taken) == list(range(_COUNT))
            assert max(blocks.total for blocks in taken) > 1
            for blocks in taken:
                assert len(blocks.filled) <= blocks.total
                assert blocks.number == released
                ring.release(blocks)
                released += blocks.total
        assert ring.take() is None
        assert ring.statistics() == (5 * _COUNT, 0)
        ring.close()


def test_blocks_go_back_in_the_order_in_which_they_came(veth: tuple[str, str]) -> None:
    with open_packet_socket(cooked=False) as packet_socket:
        ring = ring_of(packet_socket, veth[1], retire_ms=2)
        send(veth[0], _FRAMES, 100)
        first = taken_until(ring, 100)
        send(veth[0], _FRAMES, 100)
        second = taken_until(ring, 100)
        with pytest.raises(AssertionError, match="order"):
            ring.release(second[0])
        for blocks in first + second:
            ring.release(blocks)
        ring.close()
