"""pcapng files with every block and option, in either byte order, made by hand."""

import struct
from collections.abc import Iterable

Option = tuple[int, bytes]


def options(order: str, each: Iterable[Option]) -> bytes:
    parts = [struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4) for code, value in each]
    return b"".join((*parts, bytes(4)))


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def section(order: str, each: Iterable[Option] = ()) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1) + options(order, each))


def interface(order: str, each: Iterable[Option] = (), linktype: int = 1, snaplen: int = 2000) -> bytes:
    return block(order, 1, struct.pack(order + "HHI", linktype, 0, snaplen) + options(order, each))


def packet(order: str, interface_id: int, time: int, data: bytes, each: Iterable[Option] = ()) -> bytes:
    head = struct.pack(order + "IIIII", interface_id, time >> 32, time & 0xFFFFFFFF, len(data), len(data))
    return block(order, 6, head + data + bytes(-len(data) % 4) + options(order, each))


def names(order: str, each: Iterable[tuple[int, bytes]], more: Iterable[Option] = ()) -> bytes:
    parts = [struct.pack(order + "HH", kind, len(value)) + value + bytes(-len(value) % 4) for kind, value in each]
    return block(order, 4, b"".join((*parts, bytes(4))) + options(order, more))


def secrets(order: str, data: bytes) -> bytes:
    padded = data + bytes(-len(data) % 4)
    return block(order, 10, struct.pack(order + "II", 0x544C534B, len(data)) + padded + options(order, ()))


def statistics(order: str, interface_id: int, time: int, each: Iterable[Option]) -> bytes:
    head = struct.pack(order + "III", interface_id, time >> 32, time & 0xFFFFFFFF)
    return block(order, 5, head + options(order, each))


TIME = 1_700_000_000_000_000
KEYS = b"CLIENT_RANDOM 00 11\n"
DATA = bytes.fromhex("ffffffffffff02005e1000010800450000200000000040110000c0000201c000020204d20035000c0000") + b"abcd"


def everything(order: str) -> bytes:
    """Return a file of two sections with every block and option that the format has."""

    def number(layout: str, *values: int) -> bytes:
        return struct.pack(order + layout, *values)

    first = [
        section(order, [(1, b"first section"), (2, b"a machine"), (3, b"an OS"), (4, b"a program"), (1, b"again")]),
        interface(
            order,
            [
                (2, b"eth0"),
                (3, b"the way out"),
                (4, bytes((192, 0, 2, 1, 255, 255, 255, 0))),
                (5, bytes.fromhex("20010db8000000000000000000000001") + b"\x40"),
                (6, bytes.fromhex("02005e100001")),
                (7, bytes.fromhex("02005efffe100001")),
                (8, number("Q", 10**9)),
                (9, b"\x06"),
                (11, b"\0udp port 53"),
                (12, b"an OS"),
                (13, b"\x04"),
                (15, b"a card"),
                (1, b"of an interface"),
                (2988, number("I", 32473) + b"text"),
            ],
        ),
        interface(order, [(2, b"quiet"), (11, b"\1" + number("HBBI", 6, 0, 0, 65535))]),
        names(order, [(1, bytes((192, 0, 2, 1)) + b"one.example\0uno.example\0"), (2, bytes(15) + b"\1here\0")]),
        secrets(order, KEYS),
        packet(
            order,
            0,
            TIME,
            DATA,
            [
                (1, b"of a packet"),
                (2, number("I", 0x1 | 0x4)),
                (3, b"\x02\x12\x34\x56\x78"),
                (4, number("Q", 7)),
                (5, number("Q", 0x1122334455667788)),
                (6, number("I", 3)),
                (7, b"\x01" + number("Q", 2)),
                (1, b"and again"),
                (19372, number("I", 32473) + b"not copied"),
            ],
        ),
        packet(order, 0, TIME + 5, DATA[:-1], [(2, number("I", 2))]),
        block(order, 0x0BAD, number("I", 32473) + b"custom data."),
        block(order, 0x40000BAD, number("I", 32473) + b"not copied.."),
        packet(order, 0, TIME + 9, DATA[:-2]),
        statistics(
            order,
            0,
            TIME + 10,
            [
                (1, b"of statistics"),
                (2, number("II", TIME >> 32, TIME & 0xFFFFFFFF)),
                (3, number("II", TIME >> 32, (TIME & 0xFFFFFFFF) + 10)),
                (4, number("Q", 30)),
                (5, number("Q", 4)),
                (6, number("Q", 26)),
                (7, number("Q", 5)),
                (8, number("Q", 21)),
            ],
        ),
    ]
    second = [
        section(order, [(1, b"second section"), (2, b"another machine")]),
        interface(order, [(2, b"wlan0"), (9, b"\x09")]),
        block(order, 0x0000BEEF, b"not known..."),
        packet(order, 0, (TIME + 20) * 1000, DATA, [(1, b"in the second section")]),
    ]
    return b"".join(first + second)
