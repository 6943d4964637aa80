"""Protocol trees as ``tshark -T pdml`` prints them: bytes in, trees out. Pure.

Of its forms this one has names, labels, values, bytes, places and the order of layers. Packets are cut apart at once,
which is quick, since no value has a ``<`` in it; a tree is made of one when it is looked at.
"""

import re
from collections.abc import Iterator
from itertools import chain
from typing import Final

from capd_client.dissection.garbage import NotUnderstood, is_number

_BEGIN: Final = b"<packet"
_END: Final = b"</packet>\n"
_LAST: Final = b"</pdml>"
#: Before the first packet, and between two.
_MOST_BETWEEN_BYTES: Final = 64 * 1024
#: Larger is no tree of a packet. Chosen: of the largest packets, with bytes at every item, it is some megabytes.
_MOST_BYTES: Final = 256 * 1024 * 1024
_NUMBER: Final = re.compile(rb'<field name="num" pos="0" show="(\d+)"')
#: An element that begins, or ends.
_ELEMENT: Final = re.compile(r'<(/?)(proto|field)((?:\s+[\w:]+="[^"]*")*)\s*(/?)>')
_ATTRIBUTE: Final = re.compile(r'([\w:]+)="([^"]*)"')
_REFERENCE: Final = re.compile("&(amp|lt|gt|quot|apos|#x27|#39);")
_CHARACTERS: Final = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'", "#x27": "'", "#39": "'"}
#: What tshark makes of no dissector.
_GENERAL: Final = "geninfo"
_WRAPPER: Final = "fake-field-wrapper"
_HEXADECIMAL: Final = re.compile(r"(?:[0-9a-fA-F]{2})*$")


class Packets:
    """Takes what tshark writes, and gives the packets, each as it was written."""

    def __init__(self) -> None:
        """Begin before the first one."""
        self._rest = bytearray()
        self._searched = 0

    def take(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Give the packets that are whole by now, each with its frame's number.

        Raises:
            NotUnderstood: this is none.
        """
        self._rest += data
        start = 0
        while (end := self._rest.find(_END, max(start, self._searched))) >= 0:
            begin = self._rest.find(_BEGIN, start, end)
            packet = bytes(self._rest[begin if begin >= 0 else start : end])
            start = end + len(_END)
            number = _NUMBER.search(packet)
            if begin < 0 or number is None or not is_number(number[1]):
                raise NotUnderstood(packet)
            yield int(number[1]), packet
        del self._rest[:start]
        self._searched = max(0, len(self._rest) - len(_END))
        begin = self._rest.find(_BEGIN, 0, _MOST_BETWEEN_BYTES)
        if (begin < 0 and len(self._rest) > _MOST_BETWEEN_BYTES) or len(self._rest) > _MOST_BYTES:
            raise NotUnderstood(bytes(self._rest[:_MOST_BETWEEN_BYTES]))

    def end(self) -> None:
        """Check that nothing is left but the end.

        Raises:
            NotUnderstood: something is.
        """
        rest = bytes(self._rest)
        if _BEGIN in rest or (rest.strip() and _LAST not in rest):
            raise NotUnderstood(rest)


class Item:
    """A line of a protocol tree: a layer, a field, or a text between fields.

    Attributes:
        name: of the field or protocol; empty where it is only a text.
        label: what Wireshark shows, such as ``Time to Live: 64``.
        text: the value as it is shown: ``64``.
        offset_bytes: where in its data it begins: mostly in the packet, or in what was reassembled or decrypted.
        size_bytes: how long it is there; 0: it was worked out.
        is_hidden: Wireshark does not show it, as it does not ``ip.addr``.
        children: the lines below it.
    """

    __slots__ = ("_bits", "_hex", "children", "is_hidden", "label", "name", "offset_bytes", "size_bytes", "text")

    def __init__(self, attributes: dict[str, str]) -> None:
        """Take the attributes of an element."""
        given = attributes.get
        self.name = given("name", "")
        self.text = given("show", "")
        self.label = given("showname", self.text)
        self.offset_bytes, self.size_bytes = _number(given("pos")), _number(given("size"))
        self.is_hidden = given("hide") == "yes"
        self._bits, self._hex = given("value", ""), given("unmaskedvalue")
        self.children: list[Item] = []

    @property
    def raw(self) -> bytes:
        """The bytes it was made of: all of them, also where it has only some of their bits; none if worked out."""
        text = self._hex or self._bits
        return bytes.fromhex(text) if _HEXADECIMAL.match(text) else b""

    @property
    def has_mask(self) -> bool:
        """Whether it has only some of the bits of its bytes."""
        return self._hex is not None

    def walk(self) -> "Iterator[Item]":
        """Iterate over it, and all below it, from top to bottom."""
        yield self
        for child in self.children:
            yield from child.walk()

    def __repr__(self) -> str:
        """Return its name and label."""
        return f"<Item {self.name}: {self.label!r}>"


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0


def _plain(text: str) -> str:
    return _REFERENCE.sub(lambda found: _CHARACTERS[found[1]], text) if "&" in text else text


def layers_of(packet: bytes) -> tuple[Item, ...]:
    """Return the layers of a packet, each with what is below it, in their order.

    Raises:
        NotUnderstood: it is no tree.
    """
    layers: list[Item] = []
    open_items: list[Item] = []
    for closes, _kind, attributes, is_empty in _ELEMENT.findall(packet.decode("utf-8", "backslashreplace")):
        if closes:
            if not open_items:
                raise NotUnderstood(packet)
            open_items.pop()
            continue
        item = Item({name: _plain(text) for name, text in _ATTRIBUTE.findall(attributes)})
        (open_items[-1].children if open_items else layers).append(item)
        if not is_empty:
            open_items.append(item)
    if open_items:
        raise NotUnderstood(packet)
    # Some versions wrap what is no protocol's.
    unwrapped = chain.from_iterable(layer.children if layer.name == _WRAPPER else (layer,) for layer in layers)
    return tuple(layer for layer in unwrapped if layer.name != _GENERAL)
