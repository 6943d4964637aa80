"""Recognition of a capture file's format by its first bytes. Pure."""

from capd_protocol.batches.pcap_parser import FORMATS, PcapParser
from capd_protocol.batches.pcapng_parser import PcapngParser
from capd_protocol.batches.record_offsets import Damage
from capd_protocol.formats.pcapng import SECTION_HEADER_BLOCK

Parser = PcapngParser | PcapParser

#: What shows which format it is.
MAGIC_BYTES = 4
#: What other files begin with that people take for capture files.
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"\xfd7zX": "xz",
    b"BZh": "bzip2",
}


def recognize(magic: bytes) -> Parser | None:
    """Return what reads a file that begins so; None where these are fewer than ``MAGIC_BYTES``, and it cannot be known.

    Raises:
        Damage: nothing does.
    """
    if magic in FORMATS:
        return PcapParser(magic)
    if magic == SECTION_HEADER_BLOCK.to_bytes(4, "little"):  # the same in both orders
        return PcapngParser()
    for begin, name in _COMPRESSED.items():
        if magic.startswith(begin):
            raise Damage(0, f"compressed with {name}: it must be decompressed first, such as by a pipe")
    if len(magic) == MAGIC_BYTES:
        raise Damage(0, "neither pcapng nor pcap")
    return None
