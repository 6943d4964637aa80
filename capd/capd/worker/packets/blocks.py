"""The packets in blocks of a TPACKET_V3 ring, as positions. Pure."""

from typing import NamedTuple


class Block(NamedTuple):
    """The packets of one block. Positions are in 32-bit words of the ring."""

    #: Where the first packet's tpacket3_hdr is.
    first: int
    packets: int
    #: Where the last packet ends, at the latest; the alignment behind it may be counted.
    end: int
    #: Where the block itself ends.
    limit: int


class Blocks(NamedTuple):
    """The packets of some consecutive blocks, as the kernel left them. Valid until they are released."""

    #: Of the first one, and how many they are.
    number: int
    total: int
    #: Those that have packets.
    filled: tuple[Block, ...]
    #: The kernel's timer has yet to close the last block, and writes 0 to the first word of the last frame then.
    is_open: bool = False

    @property
    def packets(self) -> int:
        """How many there are."""
        return sum(block.packets for block in self.filled)
