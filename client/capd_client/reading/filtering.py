"""Capture filters on packets in files: compiled and run by the system's libpcap, through ctypes."""

import ctypes
import ctypes.util
import functools
import struct
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from capd_client.errors import BadFilterError, UnsupportedError
from capd_client.reading.model import Packet
from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.formats import pcapng
from capd_protocol.messages import MAX_SNAPLEN_BYTES

_NETMASK_UNKNOWN = 0xFFFFFFFF
#: PCAP_ERRBUF_SIZE
_ERROR_BYTES = 256


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


class _Header(ctypes.Structure):
    """``struct pcap_pkthdr``."""

    _fields_ = (
        ("seconds", ctypes.c_long),
        ("microseconds", ctypes.c_long),
        ("captured_size_bytes", ctypes.c_uint32),
        ("original_size_bytes", ctypes.c_uint32),
    )


@functools.cache
def _library() -> ctypes.CDLL:
    name = ctypes.util.find_library("pcap") or "libpcap.so.0.8"
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise UnsupportedError(f"filters need libpcap, which is not installed: {error}") from error
    signatures: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
        # Of the C library, which it needs: its file is that of libpcap's own.
        ("fmemopen", ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)),
        ("pcap_fopen_offline", ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p)),
        (
            "pcap_compile",
            ctypes.c_int,
            (ctypes.c_void_p, ctypes.POINTER(_Program), ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32),
        ),
        ("pcap_geterr", ctypes.c_char_p, (ctypes.c_void_p,)),
        ("pcap_close", None, (ctypes.c_void_p,)),
        ("pcap_freecode", None, (ctypes.POINTER(_Program),)),
        ("pcap_offline_filter", ctypes.c_int, (ctypes.POINTER(_Program), ctypes.POINTER(_Header), ctypes.c_void_p)),
    )
    for function, result, arguments in signatures:
        getattr(library, function).restype = result
        getattr(library, function).argtypes = arguments
    return library


@contextmanager
def _empty_file(linktype: int, is_swapped: bool) -> Generator[int, None, None]:
    """Give a handle of libpcap for a file without packets.

    For a file it compiles otherwise than for a capture here: some headers have numbers of the system that wrote them.
    """
    library = _library()
    order = "<" if (sys.byteorder == "little") != is_swapped else ">"
    header = struct.pack(order + "IHHiIII", pcapng.PCAP_NANOSECOND_MAGIC, 2, 4, 0, 0, MAX_SNAPLEN_BYTES, linktype)
    contents = ctypes.create_string_buffer(header, len(header))
    file = library.fmemopen(contents, len(header), b"r")
    message = ctypes.create_string_buffer(_ERROR_BYTES)
    handle = library.pcap_fopen_offline(file, message) if file else None
    if not handle:
        text = message.value.decode(errors="replace")
        raise UnsupportedError(f"libpcap compiles no filter for link type {linktype}: {text}")
    try:
        yield handle
    finally:
        library.pcap_close(handle)  # and the file


class PacketFilter:
    """A filter for packets of one link-layer type; see pcap-filter(7)."""

    def __init__(self, text: str, linktype: int, *, is_swapped: bool = False) -> None:
        """Compile a filter.

        Args:
            text: in libpcap's language.
            linktype: LINKTYPE_ number of the packets.
            is_swapped: whether they are of a file of the other byte order.

        Raises:
            BadFilterError: it does not compile for this type.
            UnsupportedError: there is no libpcap.
        """
        library = _library()
        self._match = library.pcap_offline_filter
        self._free = library.pcap_freecode
        self._program: _Program | None = None
        if "\0" in text:
            raise BadFilterError("it has a NUL")
        program = _Program()
        with _empty_file(linktype, is_swapped) as handle:
            if library.pcap_compile(handle, program, text.encode(), 1, _NETMASK_UNKNOWN) != 0:
                raise BadFilterError(library.pcap_geterr(handle).decode(errors="replace"))
        self._program = program
        self._header = _Header()

    def matches(self, address: int, captured_size_bytes: int, original_size_bytes: int) -> bool:
        """Whether a packet passes.

        Args:
            address: of its bytes in memory.
            captured_size_bytes: how many there are.
            original_size_bytes: how many it had.
        """
        self._header.captured_size_bytes = captured_size_bytes
        self._header.original_size_bytes = original_size_bytes
        return bool(self._match(self._program, self._header, address))

    def __del__(self) -> None:
        if self._program is not None:
            self._free(self._program)


class Matching:
    """A filter for packets of files: compiled for each link-layer type that comes."""

    def __init__(self, text: str) -> None:
        """Take a filter in libpcap's language."""
        self._text = text
        self._filters: dict[tuple[int, bool], PacketFilter] = {}

    def of(self, batch: Batch, packets: Iterable[Packet], interfaces: Sequence[FileInterface]) -> Iterator[Packet]:
        """Return the packets that match.

        Args:
            batch: where they are.
            packets: all of them.
            interfaces: what their interface ids mean.

        Raises:
            BadFilterError: it does not compile for the packets' link-layer type.
            UnsupportedError: there is no libpcap.
        """
        address = int(batch.data.ctypes.data)
        for packet, offset in zip(packets, batch.offsets.tolist(), strict=True):
            matches = self.filter_for(interfaces[packet.interface_id]).matches
            if matches(address + offset, len(packet.data), packet.original_size_bytes):
                yield packet

    def filter_for(self, interface: FileInterface) -> PacketFilter:
        """Return the filter for an interface's packets.

        Raises:
            BadFilterError: it does not compile for their link-layer type.
            UnsupportedError: there is no libpcap.
        """
        kind = interface.linktype, interface.is_swapped
        if kind not in self._filters:
            self._filters[kind] = PacketFilter(self._text, kind[0], is_swapped=kind[1])
        return self._filters[kind]
