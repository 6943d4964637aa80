"""TPACKET_V3 rings: how large their blocks are, and how the kernel is asked for one.

Layouts and options: packet(7), linux/if_packet.h, Documentation/networking/packet_mmap.rst.
"""

import errno
import socket
import struct
from typing import NamedTuple

from capd.errors import is_out_of_descriptors, no_room
from capd.linux import libc
from capd.linux.packet_socket import SOL_PACKET
from capd_protocol.messages import Failure, FailureCode

_PACKET_RX_RING = 5
_PACKET_VERSION = 10
_PACKET_RESERVE = 12
_PACKET_IGNORE_OUTGOING = 23
_TPACKET_V3 = 2
#: From a frame's first byte to its first packet byte, before the reserve and without a link-layer header:
#: TPACKET_ALIGN(TPACKET3_HDRLEN + 16), see tpacket_rcv() in net/packet/af_packet.c.
_NETWORK_OFFSET_BYTES = 96
_FRAME_SIZE_BYTES = 2048
_SMALLEST_BLOCK_BYTES = 64 * 1024
#: A block costs some 100 µs, whatever is in it: up to here larger ones save that. Beyond, they would no longer fit
#: into a processor's own cache together with what is made of them.
_LARGEST_BLOCK_BYTES = 1024 * 1024
#: Down to here, smaller ones are worth it, for the sake of patience.
_PATIENT_BLOCK_BYTES = 256 * 1024
_BLOCK_OF_SMALL_RING_BYTES = 128 * 1024
_SMALL_RING_BYTES = 16 * 1024 * 1024
#: What a block needs beside one packet: its descriptor, the frame's header, alignment. A packet that the kernel
#: had to cut to the block's size itself would not fit by these, and be dropped.
BLOCK_OVERHEAD_BYTES = 512
#: How long a worker may be kept waiting before packets are lost, however few they are. Chosen: longer than a busy
#: machine does so.
_PATIENCE_MS = 900

#: What the kernel says of an interface that has changed since the daemon looked, or of itself; all else is unsupported.
_CODES = {
    errno.EAGAIN: FailureCode.RESOURCES,
    errno.ENOBUFS: FailureCode.RESOURCES,
    errno.ENOMEM: FailureCode.RESOURCES,
    errno.ENODEV: FailureCode.NO_SUCH_INTERFACE,
    errno.ENXIO: FailureCode.NO_SUCH_INTERFACE,
    errno.ENETDOWN: FailureCode.INTERFACE_DOWN,
}


class RingError(Exception):
    """The kernel has no memory for a ring of this size, in pieces however small."""


class RingMemory(NamedTuple):
    """What a ring consists of."""

    block_bytes: int
    blocks: int


def retire_ms(update_interval_s: float) -> int:
    """How long the kernel may keep a block: 15 % of the interval, so that a packet is reported soon after it.

    A block may be kept twice as long, and the packets of several interfaces wait as long for each other. Not below
    2 ms: each time uses up a block, however little is in it, and the ring must outlast a worker that is kept
    waiting. Not above 100 ms: nobody shall wait longer for the packets that an interval begins with.
    """
    return min(max(2, round(update_interval_s * 150)), 100)


def block_size(size_bytes: int, retire_ms: int) -> int:
    """Choose the size of a ring's blocks.

    The kernel uses up one at each retire time, with however few packets: their number says how long a ring lasts.
    """
    if size_bytes < _SMALL_RING_BYTES:
        return _BLOCK_OF_SMALL_RING_BYTES
    size = _LARGEST_BLOCK_BYTES
    while size > _PATIENT_BLOCK_BYTES and size_bytes // size * retire_ms < _PATIENCE_MS:
        size //= 2
    return size


def make_ring(
    packet_socket: socket.socket, *, size_bytes: int, retire_ms: int, header_bytes: int, loopback: bool
) -> RingMemory:
    """Give an inert packet socket its ring. It takes 8 to 20 ms, in which other threads run.

    Args:
        packet_socket: which ``open_packet_socket`` made.
        size_bytes: of the ring, rounded up to whole blocks.
        retire_ms: how long the kernel may keep a block that is not full.
        header_bytes: length of the interface's link-layer header, so that packets begin on a 32-bit word.
        loopback: leave out the outgoing copy of each packet, as libpcap does there.

    Raises:
        RingError: there is no memory for it.
        OSError: the kernel refuses it for another reason.
    """
    packet_socket.setsockopt(SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
    packet_socket.setsockopt(SOL_PACKET, _PACKET_RESERVE, (header_bytes - _NETWORK_OFFSET_BYTES) % 4)
    if loopback:
        packet_socket.setsockopt(SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    block_bytes = block_size(size_bytes, retire_ms)
    while block_bytes >= _SMALLEST_BLOCK_BYTES:
        memory = RingMemory(block_bytes, max(-(-size_bytes // block_bytes), 2))
        if _try(packet_socket, memory, retire_ms):
            return memory
        # The kernel needs each block in one piece; memory may be there in smaller ones.
        block_bytes //= 2
    raise RingError(f"the kernel has no memory for a ring of {size_bytes} bytes")


def _try(packet_socket: socket.socket, memory: RingMemory, retire_ms: int) -> bool:
    frames = memory.blocks * (memory.block_bytes // _FRAME_SIZE_BYTES)
    request = struct.pack("=7I", *memory, _FRAME_SIZE_BYTES, frames, retire_ms, 0, 0)
    # Python's own setsockopt keeps other threads waiting meanwhile.
    try:
        libc.call("setsockopt", packet_socket.fileno(), SOL_PACKET, _PACKET_RX_RING, request, len(request))
    except OSError as error:
        if error.errno == errno.ENOMEM:
            return False
        raise
    return True


def kernel_failure(error: OSError | RingError, interface: str, doing: str = "capture") -> Failure:
    """Return what the kernel's error about an interface means for what was to be done there."""
    if isinstance(error, RingError):
        return Failure(code=FailureCode.RESOURCES, text=f"{error}: ask for a smaller kernel_buffer_size")
    if isinstance(error, PermissionError):
        text = "capd itself may not open a packet socket: it lacks CAP_NET_RAW"
        return Failure(code=FailureCode.NOT_PERMITTED, text=text, interface=interface)
    if is_out_of_descriptors(error):
        return no_room(error).failure
    code = _CODES.get(error.errno or 0, FailureCode.UNSUPPORTED)
    text = f"the kernel does not {doing} on {interface}: {error.strerror}"
    return Failure(code=code, text=text, interface=interface)
