"""Recognition of a capture file's format by its first bytes. Pure."""

from capd_protocol.batches.pcap_parser import FORMATS, PcapParser
from capd_protocol.batches.pcapng_parser import PcapngParser
from capd_protocol.batches.record_offsets import Damage
from capd_protocol.formats.compression import compression_of
from capd_protocol.formats.pcapng import SECTION_HEADER_BLOCK

Parser = PcapngParser | PcapParser

#: What shows which format it is.
MAGIC_BYTES = 4


def is_foreign(magic: bytes) -> bool:
    """Whether a file that begins so is neither pcapng nor pcap; not, where these are too few bytes to know."""
    try:
        recognize(magic)
    except Damage:
        return True
    return False


def recognize(magic: bytes) -> Parser | None:
    """Return what reads a file that begins so; None where these are fewer than ``MAGIC_BYTES``, and it cannot be known.

    Raises:
        Damage: nothing does.
    """
    if magic in FORMATS:
        return PcapParser(magic)
    if magic == SECTION_HEADER_BLOCK.to_bytes(4, "little"):  # the same in both orders
        return PcapngParser()
    name = compression_of(magic)
    if name is not None:
        raise Damage(0, f"compressed with {name}: it must be decompressed first, such as by a pipe")
    if len(magic) == MAGIC_BYTES:
        raise Damage(0, "neither pcapng nor pcap")
    return None
