"""Cooked captures: packets without their link-layer headers, with one that the kernel's own words make.

What libpcap does for ``any`` and for link types whose headers it does not trust (``pcap-linux.c``): headers of
LINKTYPE_LINUX_SLL and LINKTYPE_LINUX_SLL2, and filters whose offsets count from there, which the kernel does not know.
"""

import numpy as np

from capd.worker import bpf
from capd.worker.arrays import U8
from capd_protocol.linktypes import DLT_LINUX_SLL, DLT_LINUX_SLL2

#: From a frame's first byte: struct sockaddr_ll (linux/if_packet.h), behind the tpacket3_hdr.
ADDRESS_OFFSET_BYTES = 48
ADDRESS_SIZE_BYTES = 20
HEADER_SIZE_BYTES = {DLT_LINUX_SLL: 16, DLT_LINUX_SLL2: 20}
#: Of LINUX_SLL: the protocol stands behind it, and a VLAN tag before that.
VLAN_OFFSET_BYTES = 14

_PACKET_OUTGOING = 4
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


def headers(addresses: U8, dlt: int) -> U8:
    """Return a row with the cooked header for each row of sockaddr_ll bytes."""
    made = np.zeros((len(addresses), HEADER_SIZE_BYTES[dlt]), np.uint8)
    protocol, index = addresses[:, 2:4], addresses[:, 4:8].copy().view(np.uint32)
    hardware_type = addresses[:, 8:10].copy().view(np.uint16)
    if dlt == DLT_LINUX_SLL:
        made[:, 1] = addresses[:, 10]
        made[:, 2:4] = hardware_type.astype(">u2").view(np.uint8)
        made[:, 5] = addresses[:, 11]
        made[:, 6:14] = addresses[:, 12:20]
        made[:, 14:16] = protocol
    else:
        made[:, 0:2] = protocol
        made[:, 4:8] = index.astype(">u4").view(np.uint8)
        made[:, 8:10] = hardware_type.astype(">u2").view(np.uint8)
        made[:, 10:20] = addresses[:, 10:20]
    return made


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
        bpf.Instruction(bpf.JUMP_IF_EQUAL, 0, 1, _PACKET_OUTGOING),
        bpf.Instruction(bpf.RETURN, k=0),
    ]
    return bpf.assemble(start) + program
