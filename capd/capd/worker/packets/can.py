"""CAN frames as LINKTYPE_CAN_SOCKETCAN has them: what kind each is stands in its flags, and byte orders are fixed.

The kernel gives numbers in its own byte order, and says beside the frame what kind it is. This is what libpcap makes of
it (``pcap-linux.c``). Behind a cooked header frames stay as the kernel gives them: the protocol is in the header, and
readers take the numbers in the byte order of the file.
"""

import numpy as np

from capd.worker.packets.arrays import U8, U32

#: A frame's header: identifier; length, flags of CAN FD. Of CAN XL: priority; flags, SDU type, length (16 bits),
#: acceptance field.
_IDENTIFIER, _FLAGS, _XL_LENGTH, _XL_ACCEPTANCE = slice(0, 4), slice(4, 6), slice(6, 8), slice(8, 12)
#: Both kinds' numbers and flags are in them.
HEADER_BYTES = 12
#: linux/can.h: of the fifth byte, this is a CAN XL frame; of the sixth, this is a CAN FD frame.
_XLF, _FDF = 0x80, 0x04
#: By the protocol (linux/if_ether.h), which bits of the two are kept, and which are set.
_KINDS = {
    0x000C: ((0xFF ^ _XLF, 0xFF ^ _FDF), (0, 0)),
    0x000D: ((0xFF ^ _XLF, 0xFF), (0, _FDF)),
    0x000E: ((0xFF, 0xFF), (_XLF, 0)),
}


def to_file_order(frames: U8, protocols: U8, captured: U32) -> U8:
    """Return the first bytes of frames as they belong into a file.

    Args:
        frames: a row of ``HEADER_BYTES`` for each, as the kernel gives it.
        protocols: a row with the two bytes of each one's protocol, in network byte order.
        captured: how many bytes of each were captured. A number that was cut stays as it is, for nothing of what is
            behind it belongs to the frame.
    """
    made = frames.copy()
    numbers = protocols.astype(np.uint16) @ np.array([256, 1], np.uint16)
    for protocol, (kept, added) in _KINDS.items():
        which = numbers == protocol
        made[which, _FLAGS] = made[which, _FLAGS] & np.array(kept, np.uint8) | np.array(added, np.uint8)
    is_xl = (made[:, _FLAGS.start] & _XLF != 0) & (captured > _FLAGS.start)
    for field, order, is_there in (
        (_IDENTIFIER, ">u4", True),
        (_XL_LENGTH, "<u2", is_xl),
        (_XL_ACCEPTANCE, "<u4", is_xl),
    ):
        which = is_there & (captured >= field.stop)
        made[which, field] = made[which, field].view(f"={order[1:]}").astype(order).view(np.uint8)
    return made
