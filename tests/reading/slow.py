"""A reader of capture files that only wants to be right: block by block, byte by byte."""

import struct
from typing import NamedTuple

MAX_RECORD_BYTES = 128 * 1024 * 1024 + 128 * 1024
_INTERFACE, _OLD, _SIMPLE, _ENHANCED = 1, 2, 3, 6


#: Timestamp as the file has it, interface, captured and original size, and the packet.
Row = tuple[int, int, int, int, bytes]


class Found(NamedTuple):
    """What a file says.

    Attributes:
        rows: its packets.
        end: offset behind the last whole record.
        is_damaged: whether what is there is no record, rather than one that is not whole.
    """

    rows: list[Row]
    end: int
    is_damaged: bool


def read_pcapng(data: bytes) -> Found:
    rows: list[Row] = []
    at, order, first, snaplens = 0, "<", 0, list[int]()
    while True:
        if at + 12 > len(data):
            return Found(rows, at, _is_bad_start(data, at, order))
        if data[at : at + 4] == b"\x0a\x0d\x0d\x0a":
            order = "<" if data[at + 8 : at + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            first = len(snaplens)
        kind, length = struct.unpack_from(order + "II", data, at)
        if length % 4 or not 12 <= length <= MAX_RECORD_BYTES:
            return Found(rows, at, True)
        if at + length > len(data):
            return Found(rows, at, False)
        if struct.unpack_from(order + "I", data, at + length - 4)[0] != length:
            return Found(rows, at, True)
        interfaces = len(snaplens) - first
        if kind == _INTERFACE:
            snaplens.append(struct.unpack_from(order + "I", data, at + 12)[0])
        elif kind in {_ENHANCED, _OLD, _SIMPLE}:
            header = 12 if kind == _SIMPLE else 28
            if length < header + 4 or not interfaces:
                return Found(rows, at, True)
            if kind == _SIMPLE:
                original = struct.unpack_from(order + "I", data, at + 8)[0]
                place, time, captured = 0, 0, min(original, snaplens[first] or original)
            else:
                place, high, low, captured, original = struct.unpack_from(order + "5I", data, at + 8)
                if kind == _OLD:
                    place = struct.unpack_from(order + "H", data, at + 8)[0]
                time = high << 32 | low
            if place >= interfaces or captured > length - header - 4:
                return Found(rows, at, True)
            rows.append(
                (min(time, 2**63 - 1), first + place, captured, original, data[at + header : at + header + captured])
            )
        at += length


def _is_bad_start(data: bytes, at: int, order: str) -> bool:
    if at + 8 > len(data):
        return False
    length = struct.unpack_from(order + "I", data, at + 4)[0]
    return bool(length % 4 or not 12 <= length <= MAX_RECORD_BYTES)


def read_pcap(data: bytes, order: str) -> Found:
    rows: list[Row] = []
    at = 24
    while at + 16 <= len(data):
        seconds, fraction, captured, original = struct.unpack_from(order + "4I", data, at)
        if captured > MAX_RECORD_BYTES - 16:
            return Found(rows, at, True)
        if at + 16 + captured > len(data):
            break
        rows.append((seconds * 10**9 + fraction, 0, captured, original, data[at + 16 : at + 16 + captured]))
        at += 16 + captured
    return Found(rows, at, False)
