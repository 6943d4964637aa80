"""Options of pcapng blocks: their codes with values in this machine's byte order, whatever the file has. Pure.

Layouts: draft-ietf-opsawg-pcapng, sections 3.5 (options of all blocks) and 4 (of each).
"""

import ipaddress
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Self, overload

from capd_protocol.formats import pcapng

_NATIVE = "<" if sys.byteorder == "little" else ">"


class Option(NamedTuple):
    """An option of a block.

    Attributes:
        code: what it is, in blocks of this type; as the format numbers them.
        value: its bytes, without padding; numbers in this machine's byte order.
    """

    code: int
    value: bytes


#: Of custom options (and blocks): the first bytes say whose they are.
ENTERPRISE_NUMBER = struct.Struct("=I")
#: A text and bytes that may be copied, and those that programs which change a file shall leave out.
_CUSTOM = frozenset((2988, 2989, 19372, 19373))
NOT_COPIED = frozenset((19372, 19373))

#: By code, how the value is laid out; "s" is a text, which ends at its first NUL.
Layouts = Mapping[int, str]
_COMMENT: Layouts = {pcapng.OPT_COMMENT: "s"}
SECTION: Layouts = {**_COMMENT, pcapng.SHB_HARDWARE: "s", pcapng.SHB_OS: "s", pcapng.SHB_USERAPPL: "s"}
_IF_TZONE, _IF_FCSLEN, _IF_TXSPEED, _IF_RXSPEED, _IF_TZNAME = 10, 13, 16, 17, 18
INTERFACE: Layouts = {
    **_COMMENT,
    pcapng.IF_NAME: "s",
    pcapng.IF_DESCRIPTION: "s",
    pcapng.IF_SPEED: "Q",
    _IF_TZONE: "I",
    pcapng.IF_FILTER: "filter",
    pcapng.IF_OS: "s",
    pcapng.IF_TSOFFSET: "q",
    pcapng.IF_HARDWARE: "s",
    _IF_TXSPEED: "Q",
    _IF_RXSPEED: "Q",
    _IF_TZNAME: "s",
}
STATISTICS: Layouts = {
    **_COMMENT,
    pcapng.ISB_STARTTIME: "II",
    pcapng.ISB_ENDTIME: "II",
    pcapng.ISB_IFRECV: "Q",
    pcapng.ISB_IFDROP: "Q",
    pcapng.ISB_FILTERACCEPT: "Q",
    pcapng.ISB_OSDROP: "Q",
    pcapng.ISB_USRDELIV: "Q",
}
EPB_HASH, EPB_DROPCOUNT, EPB_PACKETID, EPB_QUEUE, EPB_VERDICT, _EPB_THREAD = 3, 4, 5, 6, 7, 8
PACKET: Layouts = {
    **_COMMENT,
    pcapng.EPB_FLAGS: "I",
    EPB_DROPCOUNT: "Q",
    EPB_PACKETID: "Q",
    EPB_QUEUE: "I",
    EPB_VERDICT: "BQ",
    _EPB_THREAD: "II",
}
_NS_DNSNAME = 2
NAMES: Layouts = {**_COMMENT, _NS_DNSNAME: "s"}
SECRETS: Layouts = _COMMENT


#: What a filter of an interface begins with: the text for libpcap, or the program that was made of it.
_FILTER_TEXT = b"\0"
#: struct bpf_insn.
_INSTRUCTION = "HBBI"


class FirstOptions:
    """The first option of each code of a block. One whose length its code does not have is as if it were missing."""

    def __init__(self, options: tuple[tuple[int, bytes], ...], order: str) -> None:
        self._values = dict(reversed(options))
        self._order = order

    def numbers(self, code: int, layout: str) -> tuple[int, ...] | None:
        """Return numbers laid out as ``struct`` says; None where the option is missing."""
        value = self._values.get(code)
        if value is None or len(value) != struct.calcsize(self._order + layout):
            return None
        return struct.unpack(self._order + layout, value)

    def number(self, code: int, layout: str) -> int | None:
        """Return one number; None where the option is missing."""
        found = self.numbers(code, layout)
        return None if found is None else found[0]

    def text(self, code: int, begin: bytes = b"") -> str | None:
        """Return a text that ends at its first NUL, from behind what it must begin with; None for an empty one."""
        value = self._values.get(code, b"")
        return _text(value.removeprefix(begin)) or None if value.startswith(begin) else None


class Options(Sequence[Option]):
    """A block's options in their order. One whose length its code does not have is as if it were missing."""

    __slots__ = ("_found", "_layouts", "_order")

    def __init__(self, options: Iterable[Option] = ()) -> None:
        """Have some options.

        Args:
            options: these, with numbers in this machine's byte order.
        """
        self._found: tuple[tuple[int, bytes], ...] = tuple(options)
        self._order = _NATIVE
        self._layouts: Layouts = {}

    @classmethod
    def of(cls, found: tuple[tuple[int, bytes], ...], order: str, layouts: Layouts) -> Self:
        """Return options as a file has them, of which each is turned where it is asked for.

        Args:
            found: codes and values.
            order: "<" or ">".
            layouts: of the block's options.
        """
        options = cls.__new__(cls)
        options._found, options._order, options._layouts = found, order, layouts
        return options

    @classmethod
    def read(cls, body: memoryview, order: str, layouts: Layouts) -> Self:
        """Read options from where they begin in a block.

        Args:
            body: what is behind the block's fixed part, but for its length at the end.
            order: as for ``of``, and so the next one.
            layouts: see there.

        Raises:
            MalformedFileError: one is longer than the block.
        """
        return cls.of(pcapng.read_options(body, order), order, layouts)

    @overload
    def __getitem__(self, place: int) -> Option: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Option, ...]: ...
    def __getitem__(self, place: int | slice) -> Option | tuple[Option, ...]:
        return tuple(self)[place]

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Option]:
        return (Option(code, self._turned(code, value)) for code, value in self._found)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Options) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Options({list(self)})"

    def _turned(self, code: int, value: bytes) -> bytes:
        return _native(code, value, self._order, self._layouts.get(code, ""))

    def numbers(self, code: int, layout: str) -> tuple[int, ...] | None:
        """Return the numbers of an option; None where it is missing, or is not so long.

        Args:
            code: its code; of several options that have it, the first one counts.
            layout: of the numbers, in letters of ``struct``: ``I`` has 4 bytes, ``Q`` 8.
        """
        return FirstOptions(self._found, self._order).numbers(code, layout)

    def number(self, code: int, layout: str) -> int | None:
        """Return an option that is one number; None where it is missing.

        Args:
            code: as for ``numbers``, and so the next one.
            layout: see there.
        """
        return FirstOptions(self._found, self._order).number(code, layout)

    def text(self, code: int, begin: bytes = b"") -> str | None:
        """Return an option that is a text, which ends at its first NUL; None where it is missing or empty.

        Args:
            code: as for ``numbers``.
            begin: what it must begin with, which is left out.
        """
        return FirstOptions(self._found, self._order).text(code, begin)

    def value(self, code: int) -> bytes | None:
        """Return the bytes of an option; None where it is missing.

        Args:
            code: as for ``numbers``.
        """
        return next(iter(self.values(code)), None)

    def values(self, code: int) -> tuple[bytes, ...]:
        """Return the bytes of all options of a code.

        Args:
            code: theirs.
        """
        return tuple(self._turned(each, value) for each, value in self._found if each == code)

    @property
    def comments(self) -> tuple[str, ...]:
        """What is said in words."""
        return tuple(map(_text, self.values(pcapng.OPT_COMMENT)))

    def without(self, codes: Iterable[int]) -> "Options":
        """Return the options but those of some codes.

        Args:
            codes: what is left out.
        """
        left_out = frozenset(codes)
        return Options(each for each in self if each.code not in left_out)


NO_OPTIONS = Options()


def _text(value: bytes) -> str:
    return value.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _native(code: int, value: bytes, order: str, layout: str) -> bytes:
    if layout == "s":
        return value.split(b"\0", 1)[0]
    if layout == "filter" and value.startswith(_FILTER_TEXT):
        return _FILTER_TEXT + value[1:].split(b"\0", 1)[0]
    if order == _NATIVE:
        return value
    if layout == "filter":
        instructions = struct.iter_unpack(order + _INSTRUCTION, value[1 : len(value) - (len(value) - 1) % 8])
        return value[:1] + b"".join(struct.pack("=" + _INSTRUCTION, *each) for each in instructions)
    if code in _CUSTOM:
        return value[3::-1] + value[4:]
    if not layout or len(value) != struct.calcsize("=" + layout):
        return value
    return struct.pack("=" + layout, *struct.unpack(order + layout, value))


def joined(several: Iterable[Options]) -> Options:
    """Return what is said of several sections together: all comments, each once, and what none of them contradicts."""
    found: dict[Option, None] = {}
    differ: set[int] = set()
    for options in several:
        for each in options:
            others = {other.value for other in found if other.code == each.code}
            if each.code in (pcapng.SHB_HARDWARE, pcapng.SHB_OS, pcapng.SHB_USERAPPL) and others - {each.value}:
                differ.add(each.code)
            found[each] = None
    return Options(found).without(differ)


def comment_options(comments: Iterable[str]) -> Options:
    """Return comments as options; each is cut to what an option can be long."""
    return Options(
        Option(pcapng.OPT_COMMENT, each.encode("utf-8", "surrogateescape")[: pcapng.MAX_OPTION_BYTES])
        for each in comments
    )


def mac_text(value: bytes) -> str:
    """Return a hardware address as people write it: two digits and a colon for each byte."""
    return value.hex(":")


def network_text(value: bytes) -> str | None:
    """Return an address of an interface with its prefix, such as ``192.0.2.1/24``; None where it is none."""
    if len(value) == 8:
        mask = int.from_bytes(value[4:], "big")
        return f"{ipaddress.IPv4Address(value[:4])}/{mask.bit_count()}"
    return f"{ipaddress.IPv6Address(value[:16])}/{value[16]}" if len(value) == 17 else None
