"""Cooked captures: packets without their link-layer headers, with one that the kernel's own words make.

What libpcap does for ``any`` and for link types whose headers it does not trust (``pcap-linux.c``): headers of
LINKTYPE_LINUX_SLL and LINKTYPE_LINUX_SLL2. Their filters are in ``capd.filters.cooked_filters``.
"""

import numpy as np

from capd.filters.cooked_filters import HEADER_SIZE_BYTES
from capd.worker.packets.arrays import U8
from capd_protocol.formats.linktypes import DLT_LINUX_SLL

#: From a frame's first byte: struct sockaddr_ll (linux/if_packet.h), behind the tpacket3_hdr.
ADDRESS_OFFSET_BYTES = 48
ADDRESS_SIZE_BYTES = 20
#: In it, as it is on the wire.
PROTOCOL = slice(2, 4)
#: sll_pkttype.
PACKET_TYPE = 10
#: Of LINUX_SLL: the protocol stands behind it, and a VLAN tag before that.
VLAN_OFFSET_BYTES = 14


def headers(addresses: U8, dlt: int) -> U8:
    """Return a row with the cooked header for each row of sockaddr_ll bytes."""
    made = np.zeros((len(addresses), HEADER_SIZE_BYTES[dlt]), np.uint8)
    protocol, index = addresses[:, PROTOCOL], addresses[:, 4:8].copy().view(np.uint32)
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
