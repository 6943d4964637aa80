"""Reader of a TPACKET_V3 ring: the kernel fills blocks, we take them and give them back.

State of a block: the kernel's until it sets TP_STATUS_USER; ours until ``release`` clears it. Blocks come and go
in order, so two counters say it all: how many were taken, how many were given back.

Layouts and options: packet(7), linux/if_packet.h, Documentation/networking/packet_mmap.rst.
"""

import mmap
import socket
import struct

import numpy as np

from capd.linux.packet_ring import RingMemory
from capd.linux.packet_socket import ALL_INTERFACES, SOL_PACKET
from capd.worker.packets.arrays import U8
from capd.worker.packets.blocks import Block, Blocks
from capd.worker.sources.source import Statistics

_PACKET_STATISTICS = 6
_TP_STATUS_USER = 1
#: Blocks that have gathered are worked on together: what is done once for them takes as long as for thousands of
#: packets. Not all that there are: the kernel gets none of them back before the last one is done.
_TAKEN_AT_ONCE_BYTES = 4 * 1024 * 1024

#: Words in the block's descriptor (struct tpacket_block_desc, tpacket_hdr_v1).
_BLOCK_STATUS = 2
_BLOCK_PACKETS = 3
_BLOCK_FIRST = 4
_BLOCK_LENGTH = 5
_BLOCK_OPENED_SECONDS = 8
_BLOCK_OPENED_NANOSECONDS = 9


class PacketRingReader:
    """One interface's packet socket and the memory that it shares with the kernel.

    It has its filter, and is bound, since before it came here (``capd.supervisor.armed_rings``), and is never bound
    again here.
    """

    def __init__(self, packet_socket: socket.socket, memory: RingMemory, interface_index: int) -> None:
        """Take over a packet socket that is bound to an interface, and map the ring that ``make_ring`` gave it.

        Raises:
            OSError: there is no room for it in this process.
        """
        self.socket = packet_socket
        self._block_bytes, self._blocks = memory
        self._taken = 0
        self._released = 0
        self._received_total = 0
        self._drops_total = 0
        self._interface_index = interface_index
        self._map = mmap.mmap(self.socket.fileno(), self._blocks * self._block_bytes)
        self.bytes: U8 = np.frombuffer(self._map, np.uint8)
        self._memory = memoryview(self._map).cast("I")
        self.address: int = self.bytes.ctypes.data

    def is_attached(self) -> bool:
        """Whether the interface still exists; it may be down."""
        if self._interface_index == ALL_INTERFACES:
            return True
        # The kernel unbinds the socket from an interface that goes away; its index may be another one's by now.
        return bool(self.socket.getsockname()[0])

    def clear_error(self) -> None:
        """Take the socket's pending error, which an interface that goes down leaves."""
        self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def statistics(self) -> Statistics:
        """Return the running totals. The kernel's own counts begin anew at each read, and are 32 bits wide."""
        received, drops, _freezes = struct.unpack("=3I", self.socket.getsockopt(SOL_PACKET, _PACKET_STATISTICS, 12))
        self._received_total += received  # the kernel counts the dropped ones here too
        self._drops_total += drops
        return Statistics(self._received_total, self._drops_total)

    def take(self) -> Blocks | None:
        """Return the next blocks that the kernel has closed, or None where there is none.

        At most the whole ring can be held unreleased; the kernel drops packets then, and counts them.
        """
        number, most = self._taken, max(_TAKEN_AT_ONCE_BYTES // self._block_bytes, 1)
        filled: list[Block] = []
        while self._taken < number + most and self.is_ready():
            block = self._next()
            if block.packets:
                filled.append(block)
            self._taken += 1
        return Blocks(number, self._taken - number, tuple(filled)) if self._taken > number else None

    def take_open(self) -> Blocks | None:
        """Return the block that the kernel was filling, once ``take`` gives nothing; None where it has no packet.

        Only when the ring is disarmed, which waits for the last packet: the kernel's timer would close it, but later.
        """
        if self._taken - self._released == self._blocks or not (block := self._next()).packets:
            return None
        self._taken += 1
        return Blocks(self._taken - 1, 1, (block,), is_open=True)

    def _next(self) -> Block:
        first_word = self._taken % self._blocks * self._block_bytes // 4
        memory = self._memory
        return Block(
            first=first_word + memory[first_word + _BLOCK_FIRST] // 4,
            packets=memory[first_word + _BLOCK_PACKETS],
            end=first_word + memory[first_word + _BLOCK_LENGTH] // 4,
            limit=first_word + self._block_bytes // 4,
        )

    @property
    def size_bytes(self) -> int:
        """Its size, in whole blocks."""
        return self._blocks * self._block_bytes

    @property
    def blocks(self) -> int:
        """How many blocks it has."""
        return self._blocks

    def is_ready(self) -> bool:
        """Whether ``take`` would give a block."""
        if self._taken - self._released == self._blocks:
            return False
        first_word = self._taken % self._blocks * self._block_bytes // 4
        return bool(self._memory[first_word + _BLOCK_STATUS] & _TP_STATUS_USER)

    def open_since_ns(self) -> int | None:
        """Return since when the kernel has had packets in a block that it has not closed; None where it has none.

        To be asked when ``take`` gave nothing: the block is the next one then. The kernel's timer closes it in
        time, but on a busy machine that may be late.
        """
        if self._taken - self._released == self._blocks:
            return None
        first_word = self._taken % self._blocks * self._block_bytes // 4
        if not self._memory[first_word + _BLOCK_PACKETS]:
            return None
        seconds = self._memory[first_word + _BLOCK_OPENED_SECONDS]
        return int(seconds) * 1_000_000_000 + int(self._memory[first_word + _BLOCK_OPENED_NANOSECONDS])

    def release(self, blocks: Blocks) -> None:
        """Give the oldest blocks back to the kernel."""
        if blocks.number != self._released:
            raise AssertionError("blocks are released in the order in which they came")
        for number in range(blocks.number, blocks.number + blocks.total):
            first_word = number % self._blocks * self._block_bytes // 4
            # The kernel opens a block as soon as the one before is closed, but not where it had to wait for this one:
            # until its next packet there would still be the number of packets of the last time.
            self._memory[first_word + _BLOCK_PACKETS] = 0
            self._memory[first_word + _BLOCK_STATUS] = 0
        self._released += blocks.total

    def close(self) -> None:
        """Close the socket: promiscuous mode and the kernel's side of the ring end with it."""
        self.socket.close()
