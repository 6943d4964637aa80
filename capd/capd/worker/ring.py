"""A TPACKET_V3 ring of one interface: the kernel fills blocks, we take them and give them back.

State of a block: the kernel's until it sets TP_STATUS_USER; ours until ``release`` clears it. Blocks come and go
in order, so two counters say it all: how many were taken, how many were given back.

Layouts and options: packet(7), linux/if_packet.h, Documentation/networking/packet_mmap.rst.
"""

import contextlib
import mmap
import os
import socket
import struct
from typing import NamedTuple

import numpy as np

from capd.packet_ring import RingMemory
from capd.packet_socket import ALL_INTERFACES, ETH_P_ALL, ETH_P_NONE, SOL_PACKET, attach_filter, bind, lock_filter
from capd.worker.arrays import U8

_PACKET_ADD_MEMBERSHIP = 1
_PACKET_STATISTICS = 6
_PACKET_MR_PROMISC = 1
_TP_STATUS_USER = 1
#: What a block needs beside one packet: its descriptor, the frame's header, alignment. A packet that the kernel
#: had to cut to the block's size itself would not fit by these, and be dropped.
_BLOCK_OVERHEAD_BYTES = 512
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


#: struct sock_filter (linux/filter.h), and the instruction that says how much of a packet is kept.
_INSTRUCTION = np.dtype([("code", "u2"), ("jt", "u1"), ("jf", "u1"), ("k", "u4")])
_BPF_RET_K = 0x06


class Block(NamedTuple):
    """The packets of one block. Positions are in 32-bit words of the ring."""

    #: Where the first packet's tpacket3_hdr is.
    first: int
    packets: int
    #: Where the last packet ends, at the latest; the alignment behind it may be counted.
    end: int
    #: Where the block itself ends.
    limit: int


class Blocks(NamedTuple):
    """The packets of some consecutive blocks, as the kernel left them. Valid until they are released."""

    #: Of the first one, and how many they are.
    number: int
    total: int
    #: Those that have packets.
    filled: tuple[Block, ...]
    #: The kernel's timer has yet to close the last block, and writes 0 to the first word of the last frame then.
    is_open: bool = False

    @property
    def packets(self) -> int:
        """How many there are."""
        return sum(block.packets for block in self.filled)


class Statistics(NamedTuple):
    """What the kernel counted since the ring was armed."""

    received_total: int
    drops_total: int


class Ring:
    """One interface's packet socket and the memory that it shares with the kernel.

    The socket is inert until ``arm``: made with protocol 0 it gets no packets, so nothing is counted or missed
    from before the filter was in place.
    """

    def __init__(self, packet_socket: socket.socket, memory: RingMemory) -> None:
        """Take over a packet socket, and map the ring that ``make_ring`` gave it.

        Raises:
            OSError: there is no room for it in this process.
        """
        self.socket = packet_socket
        self._block_bytes, self._blocks = memory
        self._taken = 0
        self._released = 0
        self._received_total = 0
        self._drops_total = 0
        self._interface_index = 0
        self._map = mmap.mmap(self.socket.fileno(), self._blocks * self._block_bytes)
        self.bytes: U8 = np.frombuffer(self._map, np.uint8)
        self._memory = memoryview(self._map).cast("I")
        self.address: int = self.bytes.ctypes.data

    def attach_filter(self, program: bytes) -> None:
        """Attach a classic BPF program: an array of struct sock_filter. What it keeps of a packet fits into a block.

        Raises:
            OSError: EINVAL, where the kernel does not take the program (more than 4096 instructions, say).
        """
        instructions = np.frombuffer(program, _INSTRUCTION).copy()
        returns = instructions["code"] == _BPF_RET_K
        instructions["k"][returns] = np.minimum(instructions["k"][returns], self._block_bytes - _BLOCK_OVERHEAD_BYTES)
        attach_filter(self.socket, instructions.tobytes())

    def lock_filter(self) -> None:
        """Let nobody change the filter any more, whoever gets hold of the socket."""
        lock_filter(self.socket)

    def arm(self, interface_index: int, *, promiscuous: bool) -> None:
        """Begin to receive, from one interface or from ALL_INTERFACES.

        Promiscuous mode ends when the socket closes, however that happens.

        Raises:
            OSError: ENODEV, if there is no such interface any more.
        """
        self._interface_index = interface_index
        if promiscuous and interface_index != ALL_INTERFACES:
            request = struct.pack("=iHH8s", interface_index, _PACKET_MR_PROMISC, 0, b"")
            self.socket.setsockopt(SOL_PACKET, _PACKET_ADD_MEMBERSHIP, request)
        bind(self.socket.fileno(), ETH_P_ALL, interface_index)

    def disarm(self) -> None:
        """Receive nothing more. When this returns, the kernel's counts are final."""
        # bind(2) waits until the last packet has gone through the old hook; changing the filter would not.
        # An interface that is gone has no hook any more.
        with contextlib.suppress(OSError):
            bind(self.socket.fileno(), ETH_P_NONE, self._interface_index)

    def is_attached(self) -> bool:
        """Whether the interface still exists; it may be down."""
        if self._interface_index == ALL_INTERFACES:
            return True
        # The kernel unbinds the socket from an interface that goes away; its index may be another one's by now.
        return bool(self.socket.getsockname()[0])

    def clear_error(self) -> None:
        """Take the socket's pending error, which an interface that goes down leaves."""
        self._take_error()

    def check_error(self) -> None:
        """Take the socket's pending error.

        Raises:
            OSError: there was one: ENETDOWN, where the interface is down.
        """
        error = self._take_error()
        if error:
            raise OSError(error, os.strerror(error))

    def _take_error(self) -> int:
        return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

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

        Only after ``disarm``, which waits for the last packet: the kernel's timer would close it too, but later.
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
