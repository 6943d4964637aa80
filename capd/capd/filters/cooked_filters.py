"""Filters of cooked captures: made for libpcap's headers, and run by the kernel, which does not know them. Pure.

As libpcap does it (``pcap-linux.c``): offsets count from behind the header, and its fields have other names.
"""

from capd.filters import bpf
from capd_protocol.formats.linktypes import DLT_LINUX_SLL, DLT_LINUX_SLL2

HEADER_SIZE_BYTES = {DLT_LINUX_SLL: 16, DLT_LINUX_SLL2: 20}

#: Fields of the headers that the kernel knows by other names, by offset and size in bytes.
_FIELDS = {
    DLT_LINUX_SLL: {(0, 2): bpf.PACKET_TYPE, (2, 2): bpf.HARDWARE_TYPE, (14, 2): bpf.PROTOCOL},
    DLT_LINUX_SLL2: {
        (0, 2): bpf.PROTOCOL,
        (4, 4): bpf.INTERFACE_INDEX,
        (8, 2): bpf.HARDWARE_TYPE,
        (10, 1): bpf.PACKET_TYPE,
    },
}


def cook(program: bytes, dlt: int) -> bytes | None:
    """Return a filter that was compiled for cooked headers as the kernel can run it; None if it cannot.

    Args:
        program: an array of struct sock_filter.
        dlt: DLT_LINUX_SLL or DLT_LINUX_SLL2.
    """
    size, fields = HEADER_SIZE_BYTES[dlt], _FIELDS[dlt]
    cooked: list[bpf.Instruction] = []
    for instruction in bpf.parse(program):
        k = instruction.k
        if instruction.is_load_from_packet and k < bpf.ANCILLARY:
            if k >= size:
                k -= size
            elif (k, instruction.size_bytes) in fields and instruction.code & bpf.MODE == bpf.ABSOLUTE:
                k = fields[k, instruction.size_bytes]
            else:
                return None
        cooked.append(instruction._replace(k=k))
    return bpf.assemble(cooked)


def without_looped_back(program: bytes, loopback_index: int) -> bytes:
    """Return a filter that leaves out what goes out on the loopback interface: it comes in there too."""
    start = [
        bpf.Instruction(bpf.LOAD_WORD, k=bpf.INTERFACE_INDEX),
        bpf.Instruction(bpf.JUMP_IF_EQUAL, 0, 3, loopback_index),
        bpf.Instruction(bpf.LOAD_WORD, k=bpf.PACKET_TYPE),
        bpf.Instruction(bpf.JUMP_IF_EQUAL, 0, 1, bpf.PACKET_OUTGOING),
        bpf.Instruction(bpf.RETURN, k=0),
    ]
    return bpf.assemble(start) + program
