"""Cooked captures: packets without their link-layer headers, with one that the kernel's own words make.

What libpcap does for ``any`` and for link types whose headers it does not trust (``pcap-linux.c``): headers of
LINKTYPE_LINUX_SLL and LINKTYPE_LINUX_SLL2, and filters whose offsets count from there, which the kernel does not know.
"""

import struct

import numpy as np

from capd.worker.arrays import U8
from capd_protocol.linktypes import DLT_LINUX_SLL, DLT_LINUX_SLL2

#: From a frame's first byte: struct sockaddr_ll (linux/if_packet.h), behind the tpacket3_hdr.
ADDRESS_OFFSET_BYTES = 48
ADDRESS_SIZE_BYTES = 20
HEADER_SIZE_BYTES = {DLT_LINUX_SLL: 16, DLT_LINUX_SLL2: 20}
#: Of LINUX_SLL: the protocol stands behind it, and a VLAN tag before that.
VLAN_OFFSET_BYTES = 14

_BPF_CLASS = 0x07
_BPF_LD = 0x00
_BPF_LDX = 0x01
_BPF_MODE = 0xE0
_FROM_PACKET = (0x20, 0x40, 0xA0)  # BPF_ABS, BPF_IND, BPF_MSH
_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_EQUAL = 0x15
_RETURN = 0x06
#: linux/filter.h: what the kernel tells beside the packet.
_SKF_AD_OFF = 0xFFFFF000
_PROTOCOL = _SKF_AD_OFF + 0
_PKTTYPE = _SKF_AD_OFF + 4
_IFINDEX = _SKF_AD_OFF + 8
_HATYPE = _SKF_AD_OFF + 28
_PACKET_OUTGOING = 4
#: Fields of the headers that the kernel knows by other names.
_FIELDS = {
    DLT_LINUX_SLL: {0: _PKTTYPE, 2: _HATYPE, 14: _PROTOCOL},
    DLT_LINUX_SLL2: {0: _PROTOCOL, 4: _IFINDEX, 8: _HATYPE, 10: _PKTTYPE},
}
_INSTRUCTION = struct.Struct("=HBBI")


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
    cooked: list[bytes] = []
    for code, jump_true, jump_false, operand in _INSTRUCTION.iter_unpack(program):
        k = operand
        if code & _BPF_CLASS in (_BPF_LD, _BPF_LDX) and code & _BPF_MODE in _FROM_PACKET and k < _SKF_AD_OFF:
            if k >= size:
                k -= size
            elif k in fields:
                k = fields[k]
            else:
                return None
        cooked.append(_INSTRUCTION.pack(code, jump_true, jump_false, k))
    return b"".join(cooked)


def without_looped_back(program: bytes, loopback_index: int) -> bytes:
    """Return a filter that leaves out what goes out on the loopback interface: it comes in there too."""
    start = (
        (_LOAD_WORD, 0, 0, _IFINDEX),
        (_JUMP_IF_EQUAL, 0, 3, loopback_index),
        (_LOAD_WORD, 0, 0, _PKTTYPE),
        (_JUMP_IF_EQUAL, 0, 1, _PACKET_OUTGOING),
        (_RETURN, 0, 0, 0),
    )
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in start) + program
