"""pcap records. Pure: bytes of the file in, batches out."""

import struct
import sys
from typing import NamedTuple

import numpy as np

from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.batches.record_offsets import (
    MAX_RECORD_BYTES,
    U8,
    Damage,
    RecordLayout,
    captured_size,
    follow_records,
    headers,
)
from capd_protocol.formats.metadata import BlockLog, Section
from capd_protocol.formats.pcapng import (
    PCAP_HEADER_SIZE_BYTES,
    PCAP_MAGIC,
    PCAP_NANOSECOND_MAGIC,
    PCAP_RECORD_HEADER_SIZE_BYTES,
)

_NATIVE = "<" if sys.byteorder == "little" else ">"
#: Of Linux in the nineties, by Kuznetzov: interface index, protocol, and packet type stand behind the lengths.
_MODIFIED_MAGIC = 0xA1B2CD34
_MODIFIED_RECORD_HEADER_SIZE_BYTES = PCAP_RECORD_HEADER_SIZE_BYTES + 8


class _Format(NamedTuple):
    order: str
    units_per_s: int
    record_header_bytes: int
    name: str


#: From the file's first four bytes.
FORMATS = {
    struct.pack(order + "I", magic): _Format(order, units_per_s, header_bytes, name)
    for order in "<>"
    for magic, units_per_s, header_bytes, name in (
        (PCAP_MAGIC, 10**6, PCAP_RECORD_HEADER_SIZE_BYTES, "pcap"),
        (PCAP_NANOSECOND_MAGIC, 10**9, PCAP_RECORD_HEADER_SIZE_BYTES, "nsecpcap"),
        (_MODIFIED_MAGIC, 10**6, _MODIFIED_RECORD_HEADER_SIZE_BYTES, "modpcap"),
    )
}
#: By minor version, where a record's captured size stands. It came behind the original one before 2.3, whose writers
#: did not agree; as libpcap has it.
_CAPTURED_AT = {0: (12,), 1: (12,), 2: (12,), 3: (8, 12), 4: (8,)}
#: Above it stand the length of the frame check sequence, and what is reserved.
_LINKTYPE_MASK = 0xFFFF


class PcapParser:
    """Knows what was in the file's header."""

    #: No record is a block of pcapng, as those may be that ``PcapngParser`` reads.
    are_native_blocks = False

    def __init__(self, magic: bytes) -> None:
        self.interfaces: list[FileInterface] = []
        self.names: list[str | None] = [None]
        #: pcap says nothing but packets.
        self.sections: list[Section] = []
        self.blocks = BlockLog()
        #: As Wireshark calls it.
        self._order, self._units_per_s, record_header_bytes, self.file_type = FORMATS[magic]
        self._layout = RecordLayout(record_header_bytes, _CAPTURED_AT[4])

    def record_bytes(self, data: U8, begin: int) -> int:
        """Return how long what stands at an offset is, as far as can be known; as ``PcapngParser.record_bytes``."""
        if not self.interfaces:
            return PCAP_HEADER_SIZE_BYTES
        header_bytes = self._layout.header_bytes
        if len(data) - begin < header_bytes:
            return header_bytes
        captured = captured_size(data, begin, self._order, self._layout)
        if captured > MAX_RECORD_BYTES - header_bytes:
            raise Damage(0, f"a packet of {captured} bytes")
        return header_bytes + captured

    def parse(self, data: U8, begin: int) -> tuple[list[Batch], int]:
        """Read the header, if it was not yet, and the records that are whole; as ``PcapngParser.parse``."""
        if not self.interfaces:
            if len(data) - begin < PCAP_HEADER_SIZE_BYTES:
                return [], begin
            self._read_header(data, begin)
            # What is wrong behind it is so at its own offset.
            return [], begin + PCAP_HEADER_SIZE_BYTES
        records = data[begin:]
        header_bytes, sizes_at = self._layout
        positions = follow_records(records, self._order, self._layout, MAX_RECORD_BYTES - header_bytes)
        if not len(positions):
            self.record_bytes(data, begin)  # for its complaint
            return [], begin
        fields = headers(records, positions, PCAP_RECORD_HEADER_SIZE_BYTES)
        if self._order != _NATIVE:
            fields = fields.byteswap()
        seconds, fractions = fields[:, 0].astype(np.int64), fields[:, 1].astype(np.int64)
        timestamps_ns = seconds * 10**9 + fractions * (10**9 // self._units_per_s)
        captured_sizes = np.minimum.reduce([fields[:, at // 4] for at in sizes_at])
        # The other one, whichever that is.
        original_sizes = fields[:, 2] ^ fields[:, 3] ^ captured_sizes
        offsets = positions + (begin + header_bytes)
        ids = np.zeros(len(positions), np.uint32)
        batch = Batch(timestamps_ns, ids, captured_sizes, original_sizes, offsets, data)
        return [batch], int(offsets[-1]) + int(captured_sizes[-1])

    def header_among(self, batch: Batch) -> int | None:
        """Return where the header of another file stands in place of a batch's last record; None: it does not.

        What would be the batch's last record is its beginning: one of no bytes, of a time that the magic number says.
        """
        last = int(batch.offsets[-1])
        if batch.captured_sizes[-1] or batch.original_sizes[-1]:
            return None
        at = last - self._layout.header_bytes
        begin = batch.data[at : at + 8].tobytes()
        order, *_ = FORMATS.get(begin[:4], ("", 0, 0, ""))
        return at if order and begin[4:] == struct.pack(order + "HH", 2, 4) else None

    def _read_header(self, data: U8, begin: int) -> None:
        major, minor, _, _, snaplen, network = struct.unpack_from(self._order + "HHIIII", data.data, begin + 4)
        if major != 2 or minor not in _CAPTURED_AT:
            raise Damage(4, f"pcap of version {major}.{minor}; only 2.0 to 2.4 are known")
        self._layout = self._layout._replace(sizes_at=_CAPTURED_AT[minor])
        is_swapped = self._order != _NATIVE
        linktype = network & _LINKTYPE_MASK
        self.interfaces.append(FileInterface(None, linktype, snaplen, self._units_per_s, is_swapped=is_swapped))
