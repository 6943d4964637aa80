"""Capture filters on packets in files: compiled by the system's libpcap, through ctypes, and run on whole batches."""

import ctypes
import functools
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from capd_client.errors import BadFilterError, UnsupportedError
from capd_client.pcap_library import ERROR_BYTES, NETMASK_UNKNOWN, Program, Signature, load
from capd_protocol.batches.batch_filter import BatchFilter, LoopError, UnanswerableError
from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.formats import pcapng
from capd_protocol.formats.linktypes import linktype_to_dlt
from capd_protocol.messages import MAX_SNAPLEN_BYTES

Flags = npt.NDArray[np.bool_]

#: sizeof(struct bpf_insn)
_INSTRUCTION_BYTES = 8


class _Header(ctypes.Structure):
    """``struct pcap_pkthdr``."""

    _fields_ = (
        ("seconds", ctypes.c_long),
        ("microseconds", ctypes.c_long),
        ("captured_size_bytes", ctypes.c_uint32),
        ("original_size_bytes", ctypes.c_uint32),
    )


_SIGNATURES: tuple[Signature, ...] = (
    # Of the C library, which it needs: its file is that of libpcap's own.
    ("fmemopen", ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)),
    ("pcap_fopen_offline", ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p)),
    ("pcap_open_dead", ctypes.c_void_p, (ctypes.c_int, ctypes.c_int)),
    ("pcap_offline_filter", ctypes.c_int, (ctypes.POINTER(Program), ctypes.POINTER(_Header), ctypes.c_void_p)),
)


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        return load(_SIGNATURES)
    except OSError as error:
        raise UnsupportedError(f"filters need libpcap, which is not installed: {error}") from error


@contextmanager
def _empty_file(linktype: int, is_swapped: bool) -> Generator[int, None, None]:
    """Give a handle of libpcap for a file without packets.

    For a file it compiles otherwise than for a capture here: some headers have numbers of the system that wrote them.
    """
    library = _library()
    header = pcapng.pcap_header(linktype=linktype, snaplen_bytes=MAX_SNAPLEN_BYTES, is_swapped=is_swapped)
    contents = ctypes.create_string_buffer(header, len(header))
    file = library.fmemopen(contents, len(header), b"r")
    message = ctypes.create_string_buffer(ERROR_BYTES)
    handle = library.pcap_fopen_offline(file, message) if file else None
    if not handle:
        text = message.value.decode(errors="replace")
        raise UnsupportedError(f"libpcap compiles no filter for link type {linktype}: {text}")
    try:
        yield handle
    finally:
        library.pcap_close(handle)  # and the file


class _NoSuchFilter(Exception):
    """libpcap does not compile it, in its words."""


def _compiled(handle: int, text: str) -> bytes:
    """Return a filter as an array of struct bpf_insn.

    Raises:
        _NoSuchFilter: libpcap does not compile it.
    """
    library = _library()
    program = Program()
    # (Bytes of an argument that are no text come as surrogates: libpcap knows no such words either.)
    words = text.encode(errors="surrogatepass")
    if library.pcap_compile(handle, program, words, 1, NETMASK_UNKNOWN) != 0:
        raise _NoSuchFilter(library.pcap_geterr(handle).decode(errors="replace"))
    try:
        return ctypes.string_at(program.instructions, program.length * _INSTRUCTION_BYTES)
    finally:
        library.pcap_freecode(program)


def _check_is_answerable(text: str, linktype: int) -> None:
    """Find out whether a filter that does not compile for a file would compile for a capture, in which more is known.

    Raises:
        UnanswerableError: so it is.
    """
    library = _library()
    handle = library.pcap_open_dead(linktype_to_dlt(linktype), MAX_SNAPLEN_BYTES)
    try:
        BatchFilter(_compiled(handle, text))
    except (_NoSuchFilter, LoopError):
        pass  # what is wrong is something else
    finally:
        library.pcap_close(handle)


def _compiled_for_file(text: str, linktype: int, is_swapped: bool) -> bytes:
    with _empty_file(linktype, is_swapped) as handle:
        try:
            return _compiled(handle, text)
        except _NoSuchFilter as error:
            _check_is_answerable(text, linktype)
            raise BadFilterError(str(error)) from error


class _LoopingFilter:
    """A program with loops, which libpcap's own interpreter runs, packet by packet; else like a ``BatchFilter``."""

    def __init__(self, program: bytes) -> None:
        self._match = _library().pcap_offline_filter
        self._instructions = ctypes.create_string_buffer(program, len(program))
        address = ctypes.cast(self._instructions, ctypes.c_void_p)
        self._program = Program(len(program) // _INSTRUCTION_BYTES, address)

    def matches(
        self,
        data: npt.NDArray[np.uint8],
        offsets: npt.NDArray[np.int64],
        captured_sizes: npt.NDArray[np.uint32],
        original_sizes: npt.NDArray[np.uint32],
    ) -> Flags:
        """Return which packets match; see ``BatchFilter.matches``."""
        program, header, match = self._program, _Header(), self._match

        def one_by_one() -> Iterator[int]:
            addresses = (offsets + data.ctypes.data).tolist()
            for address, captured, original in zip(
                addresses, captured_sizes.tolist(), original_sizes.tolist(), strict=True
            ):
                header.captured_size_bytes = captured
                header.original_size_bytes = original
                yield match(program, header, address)

        return np.fromiter(one_by_one(), np.bool_, len(offsets))


def _runnable(program: bytes) -> BatchFilter | _LoopingFilter:
    try:
        return BatchFilter(program)
    except LoopError:
        return _LoopingFilter(program)


def compile_filter(text: str, linktype: int, *, is_swapped: bool = False) -> BatchFilter | _LoopingFilter:
    """Compile a filter for packets of one link-layer type.

    Args:
        text: in libpcap's language, see pcap-filter(7).
        linktype: LINKTYPE_ number of the packets.
        is_swapped: whether they are of a file of the other byte order.

    Raises:
        BadFilterError: it does not compile for this type, or asks for what files do not have.
        UnsupportedError: there is no libpcap, or none that knows this type.
    """
    if "\0" in text:
        raise BadFilterError("it has a NUL")
    try:
        return _runnable(_compiled_for_file(text, linktype, is_swapped))
    except UnanswerableError as error:
        raise BadFilterError(f"files do not say {error.value}") from error


#: LINKTYPE_ numbers: Ethernet; and what has words of its own in pcap-filter(7): 802.11, cooked packets of both kinds,
#: PF's log, SunATM, MTP2, and netfilter's log.
_LINKTYPES_WITH_WORDS = (1, 105, 113, 276, 117, 123, 140, 239)


def check_filter(text: str) -> None:
    """Look at a filter before it is known what packets come.

    Raises:
        BadFilterError: it compiles for no link-layer type; the text is of Ethernet's.
        UnsupportedError: there is no libpcap.
    """
    faults: list[BadFilterError] = []
    for linktype in _LINKTYPES_WITH_WORDS:
        try:
            compile_filter(text, linktype)
        except BadFilterError as error:
            faults.append(error)
        else:
            return
    raise faults[0]


class Matching:
    """A filter for packets of files: compiled for each link-layer type that comes."""

    def __init__(self, text: str) -> None:
        """Take a filter in libpcap's language.

        Raises:
            BadFilterError: it compiles for no link-layer type.
            UnsupportedError: there is no libpcap.
        """
        check_filter(text)
        self._text = text
        self._filters: dict[tuple[int, bool], BatchFilter | _LoopingFilter] = {}

    def of(self, batch: Batch, interfaces: Sequence[FileInterface]) -> Batch:
        """Return the packets that match.

        Args:
            batch: packets.
            interfaces: what their interface ids mean.

        Raises:
            BadFilterError: it does not compile for the link-layer type of some of them, or asks for what files do not
                have.
            UnsupportedError: there is no libpcap, or none that knows such a type.
        """
        return batch.chosen(self.mask(batch, interfaces))

    def mask(self, batch: Batch, interfaces: Sequence[FileInterface]) -> Flags:
        """Return which packets match; otherwise as ``of``."""
        kinds = _kinds_of(batch, interfaces)
        if len(kinds) == 1:
            return self._matches(batch, *kinds)
        are_matching = np.zeros(len(batch.offsets), np.bool_)
        for kind, ids in kinds.items():
            places = np.flatnonzero(np.isin(batch.interface_ids, ids))
            are_matching[places] = self._matches(batch.chosen(places), kind)
        return are_matching

    def check(self, interfaces: Iterable[FileInterface]) -> None:
        """Compile the filter for interfaces of which no packet may have come yet.

        Raises:
            BadFilterError, UnsupportedError: as ``of``.
        """
        for interface in interfaces:
            self._filter_for((interface.linktype, interface.is_swapped))

    def _filter_for(self, kind: tuple[int, bool]) -> BatchFilter | _LoopingFilter:
        if kind not in self._filters:
            linktype, is_swapped = kind
            self._filters[kind] = compile_filter(self._text, linktype, is_swapped=is_swapped)
        return self._filters[kind]

    def _matches(self, batch: Batch, kind: tuple[int, bool]) -> Flags:
        matches = self._filter_for(kind).matches
        return matches(batch.data, batch.offsets, batch.captured_sizes, batch.original_sizes)


def _kinds_of(batch: Batch, interfaces: Sequence[FileInterface]) -> dict[tuple[int, bool], list[int]]:
    """Return of which kinds the interfaces of a batch's packets are, and which ones are of each."""
    kinds: dict[tuple[int, bool], list[int]] = {}
    # Counted from the first one that there is: the file may have described many before.
    first = int(batch.interface_ids.min(initial=len(interfaces)))
    present = np.flatnonzero(np.bincount(batch.interface_ids - np.uint32(first))) + first
    for number in present.tolist():
        interface = interfaces[number]
        kinds.setdefault((interface.linktype, interface.is_swapped), []).append(number)
    return kinds
