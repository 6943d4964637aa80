"""File records made of packets in a ring block, in place: pcapng enhanced packet blocks or pcap records.

The kernel's own header of a frame has been read by then, so the bytes before the packet's first byte become the
record's header, and the bytes behind its last one padding and trailer. Every field of all packets of a block is
written by one numpy call; no packet is ever a Python object, and no packet byte is copied, but of two kinds:

- the last packet of a block, where its trailer would run into the next block, and the one before it, where the
  kernel may yet write to the last frame;
- a packet that does not begin on a 32-bit word (a link-layer header of unusual length).

These are laid out in memory of their own. So are, by ``runs``, small packets that are all of one size.

A VLAN tag that the kernel has set aside is put back by moving the two
MAC addresses four bytes down; a cooked header goes before a packet that has none of its own.
"""

import struct
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from capd.filters.cooked_filters import HEADER_SIZE_BYTES
from capd.worker.packets import can, cooked
from capd.worker.packets.arrays import I64, U8, U32, U64
from capd.worker.packets.blocks import Blocks
from capd.worker.packets.packet_flags import flags_of
from capd.worker.packets.packet_offsets import (
    CAPTURED,
    LOW_HALF,
    MAC_AND_NET,
    ORIGINAL,
    STATUS,
    VLAN_TCI,
    VLAN_TPID,
    FrameFinder,
    Frames,
    read_times,
    rows,
    tagged,
)
from capd.worker.packets.uniform import Buffer, RunCopier
from capd_protocol.batches.records import HIGH_HALF_FIRST, Packets, copied_records
from capd_protocol.formats import pcapng
from capd_protocol.formats.linktypes import DLT_CAN_SOCKETCAN, DLT_EN10MB, DLT_LINUX_SLL

_Item = TypeVar("_Item", np.uint8, np.uint32)

_VLAN_TPID_VALID = 1 << 6
_ETHERTYPE_VLAN = 0x8100
_VLAN_TAG_BYTES = 4
_MAC_ADDRESSES_BYTES = 12

#: Link-layer types of which each packet is changed on its way, and so cannot be copied as it is.
_CHANGED = {*HEADER_SIZE_BYTES, DLT_CAN_SOCKETCAN}

_NS_PER_S = np.uint64(1_000_000_000)
#: By the number of bytes that a packet has in its last word: which bits of that word are its own.
_OWN_BITS = np.frombuffer(b"".join(b"\xff" * n + b"\0" * (4 - n) for n in (4, 1, 2, 3)), np.uint32)

_BLOCK_HEADER_WORDS = pcapng.PACKET_BLOCK_HEADER_SIZE_BYTES // 4
_RECORD_HEADER_WORDS = pcapng.PCAP_RECORD_HEADER_SIZE_BYTES // 4
_AROUND_PACKET_BYTES = np.uint32(pcapng.PACKET_BLOCK_HEADER_SIZE_BYTES + pcapng.PACKET_BLOCK_TRAILER_SIZE_BYTES)
#: From the beginning of a packet to the block's trailer: its size less so much.
_AROUND_PACKET_WORDS = np.uint32(8)
#: A packet whose end is nearer than this to the end of its block is copied: padding and trailer.
_TAIL_BYTES = 3 + pcapng.PACKET_BLOCK_TRAILER_SIZE_BYTES


@dataclass(slots=True)
class Records:
    """File records in time order, ready to be written.

    ``vectors`` has a row (address, size in bytes) for each: an array of struct iovec. Valid until the blocks
    are released and as long as this object lives.
    """

    vectors: U64
    timestamps_ns: U64
    #: The number of the interface that they came by: of all of them, or of each.
    interface_ids: int | I64
    #: Memory that they are in, where it is not the ring's.
    copies: list[bytes]
    #: Where they all are, if they were copied by ``runs``.
    buffer: Buffer | None = None


@dataclass(slots=True)
class _Packets:
    """The fields of a block's packets; ``first`` is the position of the first byte in the ring."""

    first: I64
    captured: U32
    original: U32
    timestamps_ns: U64

    def pick(self, which: I64) -> "_Packets":
        return _Packets(self.first[which], self.captured[which], self.original[which], self.timestamps_ns[which])


class RecordMaker:
    """How the packets of one ring become records."""

    def __init__(
        self,
        *,
        memory: U8,
        address: int,
        file_format: Literal["pcapng", "pcap"],
        interface_id: int,
        snaplen_bytes: int,
        dlt: int,
        has_flags: bool = False,
    ) -> None:
        """Nothing is read yet.

        Args:
            memory: of the ring that the packets are in.
            address: where it is in this process.
            file_format: of the records.
            interface_id: of the interface, in a pcapng file.
            snaplen_bytes: how much of a packet is kept.
            has_flags: whether each record says where its packet came from (``packet_flags``): then they are copied.
            dlt: link-layer type; on Ethernet, VLAN tags are put back; the cooked ones get their header.
        """
        self._memory = memory
        self._words: U32 = memory.view(np.uint32)
        self._address = address
        self._file_format: Literal["pcapng", "pcap"] = file_format
        self._interface_id = interface_id
        self._snaplen_bytes = snaplen_bytes
        self._dlt = dlt
        self._finder = FrameFinder(memory)
        self._has_flags = has_flags
        self._copier: RunCopier | None = None
        if dlt not in _CHANGED and not has_flags:
            self._copier = RunCopier(
                memory=memory,
                finder=self._finder,
                file_format=file_format,
                interface_id=interface_id,
                snaplen_bytes=snaplen_bytes,
            )
        self._record_header_words = _RECORD_HEADER_WORDS if file_format == "pcap" else _BLOCK_HEADER_WORDS
        self._record_headers = rows(memory, self._record_header_words)

    def make(self, blocks: Blocks) -> Records:
        """Turn the packets of blocks into records. Once for each block: what it needs is overwritten."""
        copied = self._copier.copy(blocks.filled) if self._copier is not None else None
        if copied is not None:
            buffer, timestamps_ns = copied
            return Records(buffer.vectors[: len(timestamps_ns)], timestamps_ns, self._interface_id, [], buffer)
        frames = self._find(blocks)
        # Before anything is written into the ring.
        flags = flags_of(self._addresses(frames)[:, cooked.PACKET_TYPE]) if self._has_flags else None
        packets = self._read(frames)
        if flags is not None:
            return self._copy_all(packets, flags)
        odd = packets.first & 3 != 0
        lasts = np.cumsum([block.packets for block in blocks.filled]) - 1
        limits = np.array([block.limit for block in blocks.filled], np.int64) * 4
        odd[lasts] |= packets.first[lasts] + packets.captured[lasts] + _TAIL_BYTES > limits
        odd[-2:-1] |= blocks.is_open  # its trailer may lie where the last frame begins
        if not odd.any():
            return Records(self._make_in_place(packets), packets.timestamps_ns, self._interface_id, [])
        vectors = np.empty((len(odd), 2), np.uint64)
        copies: list[bytes] = []
        slow, fast = np.flatnonzero(odd), np.flatnonzero(~odd)
        for i in slow:
            copies.append(self._copy(packets, int(i)))
            vectors[i] = np.frombuffer(copies[-1], np.uint8).ctypes.data, len(copies[-1])
        vectors[fast] = self._make_in_place(packets.pick(fast))
        return Records(vectors, packets.timestamps_ns, self._interface_id, copies)

    def _copy_all(self, packets: _Packets, flags: U32) -> Records:
        made = copied_records(
            Packets(
                self._memory,
                packets.first,
                packets.captured,
                packets.original,
                packets.timestamps_ns,
                self._interface_id,
                flags,
            ),
            self._file_format,
        )
        return Records(made.vectors, packets.timestamps_ns, self._interface_id, [made.data])

    def done_with(self, records: Records) -> None:
        """Others may be written over these, which are in the file."""
        if self._copier is not None and records.buffer is not None:
            self._copier.give_back(records.buffer)

    def _find(self, blocks: Blocks) -> Frames:
        found = [self._finder.find(block) for block in blocks.filled]
        if len(found) == 1:
            return found[0]
        return Frames(
            np.concatenate([each.positions for each in found]), np.concatenate([each.headers for each in found])
        )

    def _read(self, frames: Frames) -> _Packets:
        """Read the kernel's headers, and complete the link-layer headers before the packets."""
        headers = frames.headers
        timestamps_ns = np.empty(len(headers), np.uint64)
        read_times(headers, timestamps_ns)
        packets = _Packets(
            first=frames.positions * 4,
            captured=headers[:, CAPTURED],
            original=headers[:, ORIGINAL],
            timestamps_ns=timestamps_ns,
        )
        packets.first += headers[:, MAC_AND_NET] >> LOW_HALF & 0xFFFF
        if self._dlt in HEADER_SIZE_BYTES:
            self._put_cooked_headers(frames, packets)
        elif self._dlt == DLT_EN10MB:
            which = tagged(headers)
            if len(which):
                self._restore_tags(which, _tags(headers[which]), packets)
        elif self._dlt == DLT_CAN_SOCKETCAN:
            self._order_can_frames(frames, packets)
        np.minimum(packets.captured, self._snaplen_bytes, out=packets.captured)
        return packets

    def _restore_tags(self, which: I64, tags: U8, packets: _Packets) -> None:
        """Put VLAN tags between the MAC addresses and the type of these packets."""
        packets.original[which] += _VLAN_TAG_BYTES
        which_whole = packets.captured[which] >= _MAC_ADDRESSES_BYTES
        which, tags = which[which_whole], tags[which_whole]
        first = packets.first[which]
        addresses = _windows(self._memory, _MAC_ADDRESSES_BYTES)
        addresses[first - _VLAN_TAG_BYTES] = addresses[first]
        _windows(self._memory, _VLAN_TAG_BYTES)[first - _VLAN_TAG_BYTES + _MAC_ADDRESSES_BYTES] = tags
        packets.first[which] -= _VLAN_TAG_BYTES
        packets.captured[which] += _VLAN_TAG_BYTES

    def _order_can_frames(self, frames: Frames, packets: _Packets) -> None:
        """Put the numbers of CAN frames into the file's byte order, and their kind into their flags."""
        protocols = self._addresses(frames)[:, cooked.PROTOCOL]
        at = packets.first[:, np.newaxis] + np.arange(can.HEADER_BYTES)
        headers = self._memory[np.minimum(at, len(self._memory) - 1)]
        # Behind a frame that was cut, the kernel may be writing the next one.
        own = np.arange(can.HEADER_BYTES) < packets.captured[:, np.newaxis]
        self._memory[at[own]] = can.to_file_order(headers, protocols, packets.captured)[own]

    def _addresses(self, frames: Frames) -> U8:
        """Return the link-layer address that the kernel gives with each packet, a row each (struct sockaddr_ll)."""
        return _windows(self._memory, cooked.ADDRESS_SIZE_BYTES)[frames.positions * 4 + cooked.ADDRESS_OFFSET_BYTES]

    def _put_cooked_headers(self, frames: Frames, packets: _Packets) -> None:
        """Put the header that takes the place of the link layer's before each packet."""
        made = cooked.headers(self._addresses(frames), self._dlt)
        which = tagged(frames.headers) if self._dlt == DLT_LINUX_SLL else np.empty(0, np.int64)
        others = np.setdiff1d(np.arange(len(made)), which, assume_unique=True)
        self._put_before(packets, others, made[others])
        if len(which):
            parts = np.split(made[which], [cooked.VLAN_OFFSET_BYTES], axis=1)
            self._put_before(packets, which, np.hstack((parts[0], _tags(frames.headers[which]), parts[1])))

    def _put_before(self, packets: _Packets, which: I64, made: U8) -> None:
        size = made.shape[1]
        packets.first[which] -= size
        packets.captured[which] += size
        packets.original[which] += size
        _windows(self._memory, size)[packets.first[which]] = made

    def _make_in_place(self, packets: _Packets) -> U64:
        """Write header, padding and trailer around each packet; return the vectors."""
        words, captured = self._words, packets.captured
        data = packets.first >> 2
        header = np.empty((len(data), self._record_header_words), np.uint32)
        if self._file_format == "pcap":
            header[:, 0] = packets.timestamps_ns // _NS_PER_S
            header[:, 1] = packets.timestamps_ns % _NS_PER_S
            header[:, 2], header[:, 3] = captured, packets.original
            sizes = captured + pcapng.PCAP_RECORD_HEADER_SIZE_BYTES
        else:
            in_last_word = captured & 3
            partial = np.flatnonzero(in_last_word)
            if len(partial):
                words[data[partial] + (captured[partial] >> 2)] &= _OWN_BITS[in_last_word[partial]]
            sizes = (captured + 3 & ~np.uint32(3)) + _AROUND_PACKET_BYTES
            header[:, 0], header[:, 1] = pcapng.ENHANCED_PACKET_BLOCK, sizes
            header[:, 2] = self._interface_id
            header[:, 3:5] = packets.timestamps_ns.view(np.uint32).reshape(-1, 2)[:, HIGH_HALF_FIRST]
            header[:, 5], header[:, 6] = captured, packets.original
            words[data + ((sizes >> 2) - _AROUND_PACKET_WORDS)] = sizes
        self._record_headers[data - self._record_header_words] = header.view(self._record_headers.dtype)[:, 0]
        vectors = np.empty((len(data), 2), np.uint64)
        vectors[:, 0] = packets.first + (self._address - self._record_header_words * 4)
        vectors[:, 1] = sizes
        return vectors

    def _copy(self, packets: _Packets, i: int) -> bytes:
        """Lay out one packet elsewhere."""
        first, captured = int(packets.first[i]), int(packets.captured[i])
        timestamp_ns, original = int(packets.timestamps_ns[i]), int(packets.original[i])
        data = self._memory[first : first + captured].tobytes()
        if self._file_format == "pcap":
            return struct.pack("=IIII", *divmod(timestamp_ns, 1_000_000_000), captured, original) + data
        return pcapng.enhanced_packet(self._interface_id, timestamp_ns, data, original)


def _windows(memory: npt.NDArray[_Item], width: int) -> npt.NDArray[_Item]:
    """Return a view whose row ``i`` is the ``width`` items from ``i`` on: one gather or scatter for all fields."""
    return np.lib.stride_tricks.as_strided(memory, (len(memory) - width + 1, width), memory.strides * 2)


def _tags(headers: U32) -> U8:
    """Return the bytes of these packets' tags, as they were on the wire."""
    tpid = headers[:, VLAN_TPID] >> LOW_HALF & 0xFFFF
    is_given = (tpid != 0) | (headers[:, STATUS] & _VLAN_TPID_VALID != 0)
    tags = np.where(is_given, tpid, _ETHERTYPE_VLAN) << 16 | headers[:, VLAN_TCI] & 0xFFFF
    return tags.astype(">u4").view(np.uint8).reshape(-1, _VLAN_TAG_BYTES)
