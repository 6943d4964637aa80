"""Packets in a ring block become file records, in place: pcapng enhanced packet blocks or pcap records.

The kernel's own header of a frame has been read by then, so the bytes before the packet's first byte become the
record's header, and the bytes behind its last one padding and trailer. Every field of all packets of a block is
written by one numpy call; no packet is ever a Python object, and no packet byte is copied, but for two kinds:

- the last packet of a block, where its trailer would run into the next block;
- a packet that does not begin on a 32-bit word (a link-layer header of unusual length).

These are laid out in memory of their own. A VLAN tag that the kernel has set aside is put back by moving the two
MAC addresses four bytes down.
"""

import struct
import sys
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from capd.worker.ring import U32, Block, Ring
from capd_protocol import pcapng

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

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
#: A packet whose end is nearer than this to the end of its block is copied: tag, padding and trailer.
_TAIL_BYTES = 4 + 3 + pcapng.PACKET_BLOCK_TRAILER_SIZE_BYTES


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
    tagged: npt.NDArray[np.bool_]
    tags: U32

    def pick(self, which: I64) -> "_Packets":
        return _Packets(
            self.first[which],
            self.captured[which],
            self.original[which],
            self.seconds[which],
            self.nanoseconds[which],
            self.tagged[which],
            self.tags[which],
        )


@dataclass(slots=True, frozen=True)
class RecordMaker:
    """How the packets of one ring become records."""

    ring: Ring
    file_format: Literal["pcapng", "pcap"]
    interface_id: int
    snaplen_bytes: int
    #: Whether VLAN tags stand between MAC addresses and type, as on Ethernet.
    ethernet: bool

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
        words = self.ring.words
        # One gather of whole rows is several times faster than one for each field.
        rows = np.lib.stride_tricks.as_strided(
            words, (len(words) - _HEADER_WORDS + 1, _HEADER_WORDS), (4, 4), writeable=False
        )
        headers = rows[block.frames]
        captured = headers[:, _CAPTURED].astype(np.int64)
        status, tci = headers[:, _STATUS], headers[:, _VLAN_TCI]
        tagged = (status & _VLAN_VALID != 0) | (tci != 0)
        if not self.ethernet:
            tagged[:] = False
        tpid = headers[:, _VLAN_TPID] >> _LOW_HALF & 0xFFFF
        tpid = np.where((tpid != 0) | (status & _VLAN_TPID_VALID != 0), tpid, _ETHERTYPE_VLAN)
        return _Packets(
            first=block.frames * 4 + (headers[:, _MAC_AND_NET] >> _LOW_HALF & 0xFFFF),
            captured=captured,
            original=headers[:, _ORIGINAL] + np.uint32(_VLAN_TAG_BYTES) * tagged,
            seconds=headers[:, _SECONDS],
            nanoseconds=headers[:, _NANOSECONDS],
            tagged=tagged & (captured >= _MAC_ADDRESSES_BYTES),
            tags=(tpid << 16 | tci & 0xFFFF).astype(np.uint32),
        )

    def _make_in_place(self, packets: _Packets) -> U64:
        """Write header, padding and trailer around each packet; return the vectors."""
        words = self.ring.words
        if packets.tagged.any():
            self._restore_tags(packets)
        captured = np.minimum(packets.captured, self.snaplen_bytes)
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
        # Overlapping windows, of which each is written whole: one scatter for all fields.
        rows = np.lib.stride_tricks.as_strided(words, (len(words) - width + 1, width), (4, 4))
        rows[data - width] = header
        vectors = np.empty((len(data), 2), np.uint64)
        vectors[:, 0] = data * 4 + (self.ring.address - width * 4)
        vectors[:, 1] = sizes
        return vectors

    def _restore_tags(self, packets: _Packets) -> None:
        words = self.ring.words
        which = np.flatnonzero(packets.tagged)
        data = packets.first[which] >> 2
        for word in range(_MAC_ADDRESSES_BYTES // 4):
            words[data + word - 1] = words[data + word]
        words[data + 2] = packets.tags[which].astype(">u4").view(np.uint32)
        packets.first[which] -= _VLAN_TAG_BYTES
        packets.captured[which] += _VLAN_TAG_BYTES

    def _copy(self, packets: _Packets, i: int, timestamp_ns: int) -> bytes:
        """Lay out one packet elsewhere."""
        first, captured = int(packets.first[i]), int(packets.captured[i])
        data = self.ring.bytes[first : first + captured].tobytes()
        if packets.tagged[i]:
            tag = int(packets.tags[i]).to_bytes(4, "big")
            data = data[:_MAC_ADDRESSES_BYTES] + tag + data[_MAC_ADDRESSES_BYTES:]
        data = data[: self.snaplen_bytes]
        original = int(packets.original[i])
        if self.file_format == "pcap":
            fields = int(packets.seconds[i]), int(packets.nanoseconds[i]), len(data), original
            return struct.pack("=IIII", *fields) + data
        return pcapng.enhanced_packet(self.interface_id, timestamp_ns, data, original)
