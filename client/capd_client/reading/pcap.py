"""pcap records. Pure: bytes of the file in, batches out."""

import struct
import sys

import numpy as np

from capd_client.reading.model import Batch, FileInterface
from capd_client.reading.record_offsets import MAX_RECORD_BYTES, U8, Damage, follow_records, headers
from capd_protocol.formats.pcapng import PCAP_HEADER_SIZE_BYTES, PCAP_NANOSECOND_MAGIC, PCAP_RECORD_HEADER_SIZE_BYTES

_NATIVE = "<" if sys.byteorder == "little" else ">"
_MICROSECOND_MAGIC = 0xA1B2C3D4
#: From the file's first four bytes: byte order, units of a second.
FORMATS = {
    struct.pack(order + "I", magic): (order, units_per_s)
    for order in "<>"
    for magic, units_per_s in ((_MICROSECOND_MAGIC, 10**6), (PCAP_NANOSECOND_MAGIC, 10**9))
}
#: Above it stand the length of the frame check sequence, and flags.
_LINKTYPE_MASK = 0x03FFFFFF


class PcapParser:
    """Knows what the file's header has said."""

    def __init__(self, magic: bytes) -> None:
        self.interfaces: list[FileInterface] = []
        self._order, self._units_per_s = FORMATS[magic]

    def parse(self, data: U8, begin: int) -> tuple[list[Batch], int]:
        """Read the header, if it was not yet, and the records that are whole; as ``PcapngParser.parse``."""
        header_bytes = 0
        if not self.interfaces:
            header_bytes = PCAP_HEADER_SIZE_BYTES
            if len(data) - begin < PCAP_HEADER_SIZE_BYTES:
                return [], begin
            major, _, _, _, snaplen, network = struct.unpack_from(self._order + "HHIIII", data.data, begin + 4)
            if major != 2:
                raise Damage(4, f"pcap of version {major}; only 2 is known")
            self.interfaces.append(FileInterface(None, network & _LINKTYPE_MASK, snaplen, self._units_per_s))
        begin += header_bytes
        records = data[begin:]
        positions = follow_records(records, self._order, MAX_RECORD_BYTES - PCAP_RECORD_HEADER_SIZE_BYTES)
        if not len(positions):
            if len(records) >= 12:
                (captured,) = struct.unpack_from(self._order + "I", records.data, 8)
                if captured > MAX_RECORD_BYTES - PCAP_RECORD_HEADER_SIZE_BYTES:
                    raise Damage(header_bytes, f"a packet of {captured} bytes")
            return [], begin
        fields = headers(records, positions, PCAP_RECORD_HEADER_SIZE_BYTES)
        if self._order != _NATIVE:
            fields = fields.byteswap()
        seconds, fractions = fields[:, 0].astype(np.int64), fields[:, 1].astype(np.int64)
        timestamps_ns = seconds * 10**9 + fractions * (10**9 // self._units_per_s)
        offsets = positions + (begin + PCAP_RECORD_HEADER_SIZE_BYTES)
        ids = np.zeros(len(positions), np.uint32)
        batch = Batch(timestamps_ns, ids, fields[:, 2].copy(), fields[:, 3].copy(), offsets, data)
        return [batch], int(offsets[-1]) + int(fields[-1, 2])
