"""The program of a capture filter as lines of text, by libpcap's own ``bpf_image``."""

import ctypes
import functools

from capd_client.pcap_library import NETMASK_UNKNOWN, Program, Signature, load
from capd_protocol.messages import MAX_SNAPLEN_BYTES


class _Instruction(ctypes.Structure):
    """``struct bpf_insn``."""

    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint32))


_SIGNATURES: tuple[Signature, ...] = (
    ("pcap_open_dead", ctypes.c_void_p, (ctypes.c_int, ctypes.c_int)),
    ("bpf_image", ctypes.c_char_p, (ctypes.POINTER(_Instruction), ctypes.c_int)),
)


class NoSuchFilter(Exception):
    """libpcap does not compile it, in its words."""


@functools.cache
def _library() -> ctypes.CDLL:
    return load(_SIGNATURES)


def lines_of(expression: str, dlt: int, *, optimizes: bool = True) -> list[str]:
    """Return the program of a filter, an instruction a line.

    Args:
        expression: in libpcap's language.
        dlt: of the packets.
        optimizes: have libpcap make it shorter.

    Raises:
        NoSuchFilter: it is none.
        OSError: libpcap is not installed.
    """
    library = _library()
    handle = library.pcap_open_dead(dlt, MAX_SNAPLEN_BYTES)
    program = Program()
    try:
        compiled = library.pcap_compile(
            handle, ctypes.byref(program), expression.encode(), int(optimizes), NETMASK_UNKNOWN
        )
        if compiled < 0:
            raise NoSuchFilter(library.pcap_geterr(handle).decode(errors="replace"))
        try:
            instructions = ctypes.cast(program.instructions or 0, ctypes.POINTER(_Instruction))
            # It has one buffer for all: what it returns is copied at once.
            return [
                library.bpf_image(ctypes.byref(instructions[at]), at).decode("ascii", "replace")
                for at in range(program.length)
            ]
        finally:
            library.pcap_freecode(ctypes.byref(program))
    finally:
        library.pcap_close(handle)
