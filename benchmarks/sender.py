"""Sends packets from memory: a ring that the kernel reads (PACKET_TX_RING), filled once and only marked anew.

A process of its own, on a processor of its own: ``python -m benchmarks.sender --help``. For interfaces of a private
network namespace only. The receiving interface's counters show what was sent, not this program.

Layouts and options: packet(7), linux/if_packet.h, Documentation/networking/packet_mmap.rst.
"""

import argparse
import json
import mmap
import os
import socket
import struct
import sys
import time
from collections.abc import Sequence

import numpy as np

from tests.support.traffic import build_frames

_SOL_PACKET = 263
_PACKET_VERSION, _TPACKET_V2 = 10, 1
_PACKET_TX_RING = 13
_PACKET_QDISC_BYPASS = 20
_SEND_REQUEST = 1
#: Where the kernel looks for the bytes of a frame: behind struct tpacket2_hdr, aligned.
_DATA_OFFSET_BYTES = 32
_SLOT_BYTES = 2048
_BLOCK_BYTES = 64 * 1024
#: Few enough that the processor's cache holds small frames.
_SLOTS = 1024
#: Packets between two looks at the clock where there is a rate: less than a millisecond's worth of the highest.
_PACED_BURST = 128


class TransmitRing:
    """Frames of one interface in memory that the kernel sends from."""

    def __init__(self, interface: str, frames: Sequence[bytes]) -> None:
        """Fill the ring with the frames, over and over in their order."""
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        size_bytes = _SLOTS * _SLOT_BYTES
        request = struct.pack("=IIII", _BLOCK_BYTES, size_bytes // _BLOCK_BYTES, _SLOT_BYTES, _SLOTS)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_TX_RING, request)
        self._socket.bind((interface, 0))
        memory = mmap.mmap(self._socket.fileno(), size_bytes)
        # Words of struct tpacket2_hdr, which each slot begins with: status, length, ...
        self._words = np.frombuffer(memory, np.uint32).reshape(_SLOTS, _SLOT_BYTES // 4)
        for slot in range(_SLOTS):
            frame = frames[slot % len(frames)]
            start = slot * _SLOT_BYTES + _DATA_OFFSET_BYTES
            memory[start : start + len(frame)] = frame
            self._words[slot, 1] = len(frame)
        self._next = 0

    def send(self, count: int) -> int:
        """Send so many frames, or as many as there are to the ring's end; return how many."""
        end = min(self._next + count, _SLOTS)
        count = end - self._next
        self._words[self._next : end, 0] = _SEND_REQUEST
        # Returns when all of them have been given to the interface.
        self._socket.send(b"")
        self._next = end % _SLOTS
        return count


def send(rings: Sequence[TransmitRing], count: int, rate_pps: float | None, max_seconds: float) -> float:
    """Send packets, in turn on each interface, as fast as possible or at a rate; return how many seconds it took."""
    burst = _SLOTS if rate_pps is None else _PACED_BURST
    sent, turn = 0, 0
    began_s = time.monotonic()
    while sent < count and (now_s := time.monotonic()) < began_s + max_seconds:
        if rate_pps is not None and (early_s := began_s + sent / rate_pps - now_s) > 0:
            time.sleep(early_s)
        sent += rings[turn].send(min(burst, count - sent))
        turn = (turn + 1) % len(rings)
    return time.monotonic() - began_s


def send_one_by_one(interface: str, frame: bytes, count: int, rate_pps: float) -> list[float]:
    """Send single packets at an even rate; return when (time.monotonic), just before each."""
    times_s: list[float] = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as packet_socket:
        packet_socket.bind((interface, 0))
        began_s = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, began_s + number / rate_pps - time.monotonic()))
            times_s.append(time.monotonic())
            packet_socket.send(frame)
    return times_s


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> None:
    """Send as the arguments say; print how many seconds it took, or when each packet was sent."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sender", description=__doc__)
    parser.add_argument("interfaces", nargs="+")
    parser.add_argument("--sizes", type=_numbers, default=[64], help="bytes in each kind of frame: 64,576,1500")
    parser.add_argument("--ratio", type=_numbers, help="frames of each size in a cycle: 7,4,1 (default: one)")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--rate", type=float, help="packets a second (default: as many as possible)")
    parser.add_argument("--times", action="store_true", help="send one by one, and print when")
    parser.add_argument("--cpu", type=int, required=True)
    parser.add_argument("--max-seconds", type=float, default=120.0)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.cpu})
    frames = build_frames(arguments.sizes, arguments.ratio)
    if arguments.times:
        times_s = send_one_by_one(arguments.interfaces[0], frames[0], arguments.count, arguments.rate)
        sys.stdout.write(json.dumps(times_s))
        return
    rings = [TransmitRing(interface, frames) for interface in arguments.interfaces]
    sys.stdout.write(json.dumps(send(rings, arguments.count, arguments.rate, arguments.max_seconds)))


if __name__ == "__main__":
    main()
