"""The files of a capture, joined to one pcapng or pcap stream.

Each file is complete in itself. Joined, the section and the interfaces that were described already are not described
again, so that readers which know one section only, or pcap's one header, read it to its end.
"""

import struct
from collections.abc import Iterable, Iterator
from itertools import islice, takewhile

from capd_client.reading.live import FilePart
from capd_protocol.formats.pcapng import (
    ENHANCED_PACKET_BLOCK,
    INTERFACE_DESCRIPTION_BLOCK,
    SECTION_HEADER_BLOCK,
)

#: Of a pcap file (draft-ietf-opsawg-pcap, section 4).
_PCAP_HEADER_BYTES = 24
#: The same, section 5: seconds, fraction, captured and original length.
_PCAP_RECORD = struct.Struct("=IIII")
#: Our own files are in the byte order of this machine.
_BLOCK = struct.Struct("=II")
_LENGTH = struct.Struct("=I")
#: Of an enhanced packet block: interface, both halves of the timestamp, captured and original length.
_PACKET = struct.Struct("=IIIII")
#: draft-ietf-opsawg-pcapng, section 4.3: code, length and value of the option; the end of all options.
_EPB_DROPCOUNT = 4
_DROP_COUNT = struct.Struct("=HHQ")
_END_OF_OPTIONS = bytes(4)


class JoinedFiles:
    """What is in the stream so far, as far as it matters to what comes next. Parts of files in, bytes out."""

    def __init__(self) -> None:
        self._section = b""
        #: Their descriptions, in order.
        self._interfaces: list[bytes] = []

    @property
    def header(self) -> bytes:
        """What a further reader needs first: the section and all interfaces, as far as they are known."""
        return self._section + b"".join(self._interfaces)

    def add(self, part: FilePart, missed_packets: int = 0) -> tuple[bytes | memoryview, ...]:
        """Return what the stream goes on with; parts come in order, but some may be left out between two files.

        Args:
            part: comes next.
            missed_packets: how many are missing before it: its first packet says so (``epb_dropcount``), in pcapng.
        """
        data = self._joined(part)
        if missed_packets == 0 or not _is_pcapng(self._section):
            return data
        return (*data[:-1], *_with_drop_count(memoryview(data[-1]), missed_packets))

    def packets_within(self, data: Iterable[bytes | memoryview], size_bytes: int) -> int:
        """Return how many packets are whole within the first bytes of what ``add`` has returned."""
        beginning = b"".join(data)[:size_bytes]
        if _is_pcapng(self._section):
            return sum(kind == ENHANCED_PACKET_BLOCK and end <= size_bytes for kind, _, end in _blocks(beginning))
        at, packets = _PCAP_HEADER_BYTES if beginning.startswith(self._section) else 0, 0
        while at + _PCAP_RECORD.size <= size_bytes:
            at += _PCAP_RECORD.size + _PCAP_RECORD.unpack_from(beginning, at)[2]
            packets += at <= size_bytes
        return packets

    def _joined(self, part: FilePart) -> tuple[bytes | memoryview, ...]:
        if not part.begins_file:
            if _is_pcapng(self._section) and part.interfaces > len(self._interfaces):  # one was attached
                self._interfaces.extend(_descriptions(part.data)[len(self._interfaces) - part.interfaces :])
            return (part.data,)
        if not _is_pcapng(part.data):
            is_first, self._section = not self._section, bytes(part.data[:_PCAP_HEADER_BYTES])
            return (part.data if is_first else part.data[_PCAP_HEADER_BYTES:],)
        section, interfaces, end = _beginning(part.data)
        known = self._interfaces
        if section != self._section or interfaces[: len(known)] != known:
            self._section, self._interfaces = section, interfaces
            self._note_later(part, end)
            return (part.data,)
        new = interfaces[len(known) :]
        self._interfaces = interfaces
        self._note_later(part, end)
        return (*new, part.data[end:])

    def _note_later(self, part: FilePart, end: int) -> None:
        """Note interfaces that are described behind the beginning of a file."""
        if part.interfaces > len(self._interfaces):
            self._interfaces.extend(_descriptions(part.data[end:]))


def _is_pcapng(beginning: bytes | memoryview) -> bool:
    return any(block_type == SECTION_HEADER_BLOCK for block_type, _, _ in islice(_blocks(beginning), 1))


def _with_drop_count(data: memoryview, packets: int) -> tuple[bytes | memoryview, ...]:
    """Return blocks of which the first packet has an option more: how many were lost before it."""
    for block_type, at, end in _blocks(data):
        if block_type == ENHANCED_PACKET_BLOCK:
            captured = _PACKET.unpack_from(data, at + _BLOCK.size)[3]
            options = at + _BLOCK.size + _PACKET.size + captured + -captured % 4
            has_options = options < end - _LENGTH.size
            option = _DROP_COUNT.pack(_EPB_DROPCOUNT, 8, packets) + (b"" if has_options else _END_OF_OPTIONS)
            length = _LENGTH.pack(end - at + len(option))
            header = data[at : at + 4].tobytes() + length + data[at + _BLOCK.size : options].tobytes()
            return (data[:at], header + option + data[options : end - _LENGTH.size].tobytes() + length, data[end:])
    return (data,)


def _blocks(data: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """Give each block's type, and where it begins and ends."""
    at = 0
    while at + _BLOCK.size <= len(data):
        block_type, size_bytes = _BLOCK.unpack_from(data, at)
        yield block_type, at, at + size_bytes
        at += size_bytes


def _beginning(data: memoryview) -> tuple[bytes, list[bytes], int]:
    """Return the section header, the interfaces that are described before anything else, and where that ends."""
    blocks = _blocks(data)
    _, _, end = next(blocks)
    section = bytes(data[:end])
    interfaces: list[bytes] = []
    for _, at, end in takewhile(_is_description, blocks):  # where the last one ends
        interfaces.append(bytes(data[at:end]))
    return section, interfaces, end


def _descriptions(data: memoryview) -> list[bytes]:
    """Return all descriptions of interfaces among some blocks."""
    return [bytes(data[at:end]) for _, at, end in filter(_is_description, _blocks(data))]


def _is_description(block: tuple[int, int, int]) -> bool:
    return block[0] == INTERFACE_DESCRIPTION_BLOCK
