"""The system's libpcap, through ctypes: what its users here share."""

import ctypes
import ctypes.util
from collections.abc import Iterable
from typing import Any

NETMASK_UNKNOWN = 0xFFFFFFFF
#: PCAP_ERRBUF_SIZE
ERROR_BYTES = 256


class Program(ctypes.Structure):
    """``struct bpf_program``."""

    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


#: A function's name, the type of its result, and those of its arguments.
Signature = tuple[str, Any, tuple[Any, ...]]

_HANDLE, _TEXT, _NUMBER = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
_COMPILING: tuple[Signature, ...] = (
    ("pcap_compile", _NUMBER, (_HANDLE, ctypes.POINTER(Program), _TEXT, _NUMBER, ctypes.c_uint32)),
    ("pcap_freecode", None, (ctypes.POINTER(Program),)),
    ("pcap_geterr", _TEXT, (_HANDLE,)),
    ("pcap_close", None, (_HANDLE,)),
)


def load(signatures: Iterable[Signature]) -> ctypes.CDLL:
    """Load libpcap, with the types of the functions that compile filters, and of others.

    Args:
        signatures: of the others; also of functions of the C library, which libpcap needs.

    Raises:
        OSError: it is not installed.
    """
    library = ctypes.CDLL(ctypes.util.find_library("pcap") or "libpcap.so.0.8")
    for name, result, arguments in (*_COMPILING, *signatures):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
