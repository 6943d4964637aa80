"""Whether a capture filter is one, and where it goes wrong, without a capture: for the text as it is typed."""

import ctypes
import functools
from collections.abc import Callable, Iterable

from capd_client.errors import BadFilterError
from capd_client.pcap_library import NETMASK_UNKNOWN, Program, Signature, load
from capd_protocol.arguments import find_interface_faults
from capd_protocol.filter_words import find_host_name, find_position, host_name_complaint, words
from capd_protocol.messages import MAX_SNAPLEN_BYTES, Failure, FailureCode, InterfaceRequest

#: What the place of a mistake is looked for in. Chosen: as the daemon has it; libpcap takes long for more.
_MOST_WORDS = 200
_SIGNATURES: tuple[Signature, ...] = (("pcap_open_dead", ctypes.c_void_p, (ctypes.c_int, ctypes.c_int)),)


@functools.cache
def _library() -> ctypes.CDLL:
    return load(_SIGNATURES)


def complaint_about(text: str, link_types: Iterable[int]) -> str | None:
    """Return what is wrong with a filter, in a sentence with the place; None where nothing is.

    Args:
        text: the filter.
        link_types: ``DLT_`` numbers of what there is to capture; it must be one for one of them.

    Raises:
        OSError: libpcap is not installed.
    """
    fault = next((each for each in find_interface_faults(InterfaceRequest(name="any", capture_filter=text))), None)
    if fault is not None:
        return fault.text
    host = find_host_name(text)
    if host is not None:
        return _sentence(host_name_complaint(host), host.position)
    found: list[str] = []
    for dlt in link_types:
        complain = functools.partial(_complain, dlt)
        said = complain(text)
        if said is None:
            return None
        found.append(_sentence(said, _position(text, complain)))
    return next(iter(found), None)


def _position(text: str, complain: Callable[[str], str | None]) -> int | None:
    is_quick = sum(1 for _ in words(text)) <= _MOST_WORDS
    return find_position(text, complain) if is_quick else None


def _sentence(text: str, position: int | None) -> str:
    return str(BadFilterError(text, Failure(code=FailureCode.BAD_FILTER, text=text, position=position)))


def _complain(dlt: int, text: str) -> str | None:
    """Return what libpcap says of a text, None where it compiles."""
    library, program = _library(), Program()
    handle = library.pcap_open_dead(dlt, MAX_SNAPLEN_BYTES)
    try:
        if library.pcap_compile(handle, ctypes.byref(program), text.encode(), 0, NETMASK_UNKNOWN) < 0:
            return str(library.pcap_geterr(handle).decode(errors="replace"))
        library.pcap_freecode(ctypes.byref(program))
        return None
    finally:
        library.pcap_close(handle)
