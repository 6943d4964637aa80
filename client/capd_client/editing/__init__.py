"""Packets chosen and changed on their way, as editcap and reordercap do it, and those of a span out of a ring.

The functions take batches as ``Reader.batches`` gives them, and give batches, so that they can be put one into
another. In memory are a few batches at a time, but for ``in_time_order``.

Example:
    with read("all.pcapng") as packets:
        short = cut_to(without_duplicates(packets.batches("udp")), 96)
        write("udp.pcapng", shifted(short, 3600 * 10**9), packets.interfaces)
"""

from capd_client.editing.changing import commented, cut_to, shifted, without_bytes, without_comments
from capd_client.editing.choosing import in_span, numbered
from capd_client.editing.duplicates import without_duplicates
from capd_client.editing.ordering import in_time_order

__all__ = [
    "commented",
    "cut_to",
    "in_span",
    "in_time_order",
    "numbered",
    "shifted",
    "without_bytes",
    "without_comments",
    "without_duplicates",
]
