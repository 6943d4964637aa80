"""Packets in a ring block become file records, in place: pcapng enhanced packet blocks or pcap records.

The kernel's own header of a frame has been read by then, so the bytes before the packet's first byte become the
record's header, and the bytes behind its last one padding and trailer. Every field of all packets of a block is
written by one numpy call; no packet is ever a Python object, and no packet byte is copied, but for two kinds:

- the last packet of a block, where its trailer would run into the next block;
- a packet that does not begin on a 32-bit word (a link-layer header of unusual length).

These are laid out in memory of their own. A VLAN tag that the kernel has set aside is put back by moving the two
MAC addresses four bytes down; a cooked header goes before a packet that has none of its own.
"""

import struct
import sys
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from capd.worker import cooked
from capd.worker.ring import U32, Block, Ring
from capd_protocol import pcapng
from capd_protocol.linktypes import DLT_EN10MB, DLT_LINUX_SLL

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
_Item = TypeVar("_Item", np.uint8, np.uint32)

# Words of struct tpacket3_hdr (linux/if_packet.h).
_SECONDS = 1
_NANOSECONDS = 2
_CAPTURED = 3
_ORIGINAL = 4
_STATUS = 5
_MAC_AND_NET = 6
_VLAN_TCI = 8
_VLAN_TPID = 9
_HEADER_WORDS = 10

_VLAN_VALID = 1 << 4
_VLAN_TPID_VALID = 1 << 6
_ETHERTYPE_VLAN = 0x8100
_VLAN_TAG_BYTES = 4
_MAC_ADDRESSES_BYTES = 12

#: Of two 16-bit fields in one word: how far to shift for the first one.
_LOW_HALF = 0 if sys.byteorder == "little" else 16
#: By the number of bytes that a packet has in its last word: which bits of that word are its own.
_OWN_BITS = np.frombuffer(b"".join(b"\xff" * n + b"\0" * (4 - n) for n in (4, 1, 2, 3)), np.uint32)

_BLOCK_HEADER_WORDS = pcapng.PACKET_BLOCK_HEADER_SIZE_BYTES // 4
_RECORD_HEADER_WORDS = pcapng.PCAP_RECORD_HEADER_SIZE_BYTES // 4
#: A packet whose end is nearer than this to the end of its block is copied: padding and trailer.
_TAIL_BYTES = 3 + pcapng.PACKET_BLOCK_TRAILER_SIZE_BYTES


@dataclass(slots=True)
class Records:
    """File records in time order, ready to be written.

    ``vectors`` has a row (address, size in bytes) for each: an array of struct iovec. Valid until the block is
    released and as long as this object lives.
    """

    vectors: U64
    timestamps_ns: U64
    copies: list[bytes]


@dataclass(slots=True)
class _Packets:
    """The fields of some packets of a block; ``first`` is the position of the first byte in the ring."""

    first: I64
    captured: I64
    original: U32
    seconds: U32
    nanoseconds: U32

    def pick(self, which: I64) -> "_Packets":
        return _Packets(
            self.first[which], self.captured[which], self.original[which], self.seconds[which], self.nanoseconds[which]
        )


@dataclass(slots=True, frozen=True)
class RecordMaker:
    """How the packets of one ring become records."""

    ring: Ring
    file_format: Literal["pcapng", "pcap"]
    interface_id: int
    snaplen_bytes: int
    #: Link-layer type; on Ethernet, VLAN tags are put back; the cooked ones get their header.
    dlt: int

    def make(self, block: Block) -> Records:
        """Turn a block's packets into records. Once for each block: what it needs is overwritten."""
        packets = self._read(block)
        timestamps_ns = packets.seconds * np.uint64(1_000_000_000) + packets.nanoseconds
        odd = packets.first & 3 != 0
        odd[-1] |= packets.first[-1] + packets.captured[-1] + _TAIL_BYTES > block.end_word * 4
        vectors = np.empty((len(odd), 2), np.uint64)
        copies: list[bytes] = []
        if odd.any():
            slow, fast = np.flatnonzero(odd), np.flatnonzero(~odd)
            for i in slow:
                copies.append(self._copy(packets, int(i), int(timestamps_ns[i])))
                vectors[i] = np.frombuffer(copies[-1], np.uint8).ctypes.data, len(copies[-1])
            vectors[fast] = self._make_in_place(packets.pick(fast))
        else:
            vectors[:] = self._make_in_place(packets)
        return Records(vectors, timestamps_ns, copies)

    def _read(self, block: Block) -> _Packets:
        """Read the kernel's headers, and complete the link-layer headers before the packets."""
        # One gather of whole rows is several times faster than one for each field.
        headers = _windows(self.ring.words, _HEADER_WORDS)[block.frames]
        packets = _Packets(
            first=block.frames * 4 + (headers[:, _MAC_AND_NET] >> _LOW_HALF & 0xFFFF),
            captured=headers[:, _CAPTURED].astype(np.int64),
            original=headers[:, _ORIGINAL].copy(),
            seconds=headers[:, _SECONDS],
            nanoseconds=headers[:, _NANOSECONDS],
        )
        if self.dlt in cooked.HEADER_SIZE_BYTES:
            self._put_cooked_headers(block, headers, packets)
        elif self.dlt == DLT_EN10MB:
            which = _tagged(headers)
            if len(which):
                self._restore_tags(which, _tags(headers[which]), packets)
        np.minimum(packets.captured, self.snaplen_bytes, out=packets.captured)
        return packets

    def _restore_tags(self, which: I64, tags: U8, packets: _Packets) -> None:
        """Put VLAN tags between the MAC addresses and the type of these packets."""
        packets.original[which] += _VLAN_TAG_BYTES
        which_whole = packets.captured[which] >= _MAC_ADDRESSES_BYTES
        which, tags = which[which_whole], tags[which_whole]
        first = packets.first[which]
        addresses = _windows(self.ring.bytes, _MAC_ADDRESSES_BYTES)
        addresses[first - _VLAN_TAG_BYTES] = addresses[first]
        _windows(self.ring.bytes, _VLAN_TAG_BYTES)[first - _VLAN_TAG_BYTES + _MAC_ADDRESSES_BYTES] = tags
        packets.first[which] -= _VLAN_TAG_BYTES
        packets.captured[which] += _VLAN_TAG_BYTES

    def _put_cooked_headers(self, block: Block, headers: U32, packets: _Packets) -> None:
        """Put the header that takes the place of the link layer's before each packet."""
        at = block.frames * 4 + cooked.ADDRESS_OFFSET_BYTES
        made = cooked.headers(_windows(self.ring.bytes, cooked.ADDRESS_SIZE_BYTES)[at], self.dlt)
        which = _tagged(headers) if self.dlt == DLT_LINUX_SLL else np.empty(0, np.int64)
        others = np.setdiff1d(np.arange(len(made)), which, assume_unique=True)
        self._put_before(packets, others, made[others])
        if len(which):
            parts = np.split(made[which], [cooked.VLAN_OFFSET_BYTES], axis=1)
            self._put_before(packets, which, np.hstack((parts[0], _tags(headers[which]), parts[1])))

    def _put_before(self, packets: _Packets, which: I64, made: U8) -> None:
        size = made.shape[1]
        packets.first[which] -= size
        packets.captured[which] += size
        packets.original[which] += size
        _windows(self.ring.bytes, size)[packets.first[which]] = made

    def _make_in_place(self, packets: _Packets) -> U64:
        """Write header, padding and trailer around each packet; return the vectors."""
        words, captured = self.ring.words, packets.captured
        data = packets.first >> 2
        if self.file_format == "pcap":
            header = np.empty((len(data), _RECORD_HEADER_WORDS), np.uint32)
            header[:, 0], header[:, 1] = packets.seconds, packets.nanoseconds
            header[:, 2], header[:, 3] = captured, packets.original
            sizes = captured + pcapng.PCAP_RECORD_HEADER_SIZE_BYTES
        else:
            last = data + (captured >> 2)
            partial = np.flatnonzero(captured & 3)
            words[last[partial]] &= _OWN_BITS[captured[partial] & 3]
            padded = captured + 3 & ~3
            sizes = padded + (pcapng.PACKET_BLOCK_HEADER_SIZE_BYTES + pcapng.PACKET_BLOCK_TRAILER_SIZE_BYTES)
            timestamps_ns = packets.seconds * np.uint64(1_000_000_000) + packets.nanoseconds
            header = np.empty((len(data), _BLOCK_HEADER_WORDS), np.uint32)
            header[:, 0], header[:, 1] = pcapng.ENHANCED_PACKET_BLOCK, sizes
            header[:, 2] = self.interface_id
            header[:, 3], header[:, 4] = timestamps_ns >> np.uint64(32), timestamps_ns & np.uint64(0xFFFFFFFF)
            header[:, 5], header[:, 6] = captured, packets.original
            words[data + (padded >> 2)] = sizes
        width = header.shape[1]
        _windows(words, width)[data - width] = header
        vectors = np.empty((len(data), 2), np.uint64)
        vectors[:, 0] = data * 4 + (self.ring.address - width * 4)
        vectors[:, 1] = sizes
        return vectors

    def _copy(self, packets: _Packets, i: int, timestamp_ns: int) -> bytes:
        """Lay out one packet elsewhere."""
        first, captured = int(packets.first[i]), int(packets.captured[i])
        data, original = self.ring.bytes[first : first + captured].tobytes(), int(packets.original[i])
        if self.file_format == "pcap":
            return struct.pack("=IIII", packets.seconds[i], packets.nanoseconds[i], captured, original) + data
        return pcapng.enhanced_packet(self.interface_id, timestamp_ns, data, original)


def _windows(memory: npt.NDArray[_Item], width: int) -> npt.NDArray[_Item]:
    """Return a view whose row ``i`` is the ``width`` items from ``i`` on: one gather or scatter for all fields."""
    return np.lib.stride_tricks.as_strided(memory, (len(memory) - width + 1, width), memory.strides * 2)


def _tagged(headers: U32) -> I64:
    """Return which packets had a VLAN tag that the kernel has set aside."""
    return np.flatnonzero((headers[:, _STATUS] & _VLAN_VALID != 0) | (headers[:, _VLAN_TCI] != 0))


def _tags(headers: U32) -> U8:
    """Return the bytes of these packets' tags, as they were on the wire."""
    tpid = headers[:, _VLAN_TPID] >> _LOW_HALF & 0xFFFF
    is_told = (tpid != 0) | (headers[:, _STATUS] & _VLAN_TPID_VALID != 0)
    tags = np.where(is_told, tpid, _ETHERTYPE_VLAN) << 16 | headers[:, _VLAN_TCI] & 0xFFFF
    return tags.astype(">u4").view(np.uint8).reshape(-1, _VLAN_TAG_BYTES)
