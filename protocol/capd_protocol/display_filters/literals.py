"""Values as they are written in display filters, read as each type of fields has them. Pure.

What is a value of a type, and what is none, is as in Wireshark 4.0.
"""

import ipaddress
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from capd_protocol.display_filters.plan import Constant
from capd_protocol.fields.types import FieldType

#: In bytes.
WIDTHS: Final = {FieldType.UINT8: 1, FieldType.UINT16: 2, FieldType.UINT24: 3, FieldType.UINT32: 4}
_NUMBER = re.compile(r"0[xX](?P<hex>[0-9A-Fa-f]+)|0[bB](?P<binary>[01]+)|(?P<octal>0[0-7]*)|(?P<decimal>[1-9][0-9]*)")
_BASES = {"hex": 16, "binary": 2, "octal": 8, "decimal": 10}
_MOST_NUMBER = 2**64 - 1
_SECONDS = re.compile(r"(?P<seconds>[0-9]+)(?:\.(?P<fraction>[0-9]{1,9}))?")
_MOST_NANOSECONDS = 2**63 - 1
_BYTE_HEX = re.compile(r"0[xX]([0-9A-Fa-f]{1,2})")
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_SEPARATORS = frozenset("-:.")
_ETHER_BYTES: Final = 6
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_ISO = re.compile(
    r"\s*(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})"
    r"(?:[T\s]\s*(?P<hour>\d{1,2})(?::(?P<minute>\d{1,2})(?::(?P<second>\d{1,2})(?:[.,](?P<fraction>\d+))?)?"
    r"(?P<zone>Z|[+-]\d{2}:?\d{2})?)?)?(?P<utc>\s*UTC)?\s*"
)
_LEGACY = re.compile(
    r"\s*(?P<name>[A-Za-z]{3})\s+(?P<day>\d{1,2}),\s*(?P<year>\d{4})\s+(?P<hour>\d{1,2}):(?P<minute>\d{1,2})"
    r":(?P<second>\d{1,2})(?:\.(?P<fraction>\d{1,9}))?(?P<utc>\s*UTC)?\s*"
)


class NotOfTypeError(ValueError):
    """What is written is no value of the type; says why, as a part of a sentence."""


def number_of(text: str) -> int:
    """Return a number without a sign: decimal, octal behind 0, hexadecimal behind 0x, binary behind 0b."""
    found = _NUMBER.fullmatch(text)
    if found is None or found.lastgroup is None:
        raise NotOfTypeError("is no number")
    number = int(found[found.lastgroup], _BASES[found.lastgroup])
    if number > _MOST_NUMBER:
        raise NotOfTypeError("is larger than any number of 64 bits")
    return number


def _integer(type_: FieldType, text: str) -> Constant:
    return _fitting(type_, number_of(text))


def _fitting(type_: FieldType, number: int) -> Constant:
    most = (1 << (8 * WIDTHS[type_])) - 1
    if number > most:
        raise NotOfTypeError(f"is too large for this field, which is {most} at most")
    return Constant(type_, number)


def _boolean(type_: FieldType, text: str) -> Constant:
    if text in ("True", "TRUE", "False", "FALSE"):
        return Constant(type_, int(text[0] == "T"))
    return Constant(type_, int(number_of(text) != 0))


def _address(text: str, most_bits: int) -> tuple[str, int]:
    address, slash, bits = text.partition("/")
    if not slash:
        return address, most_bits
    if not bits.isdigit() or int(bits) > most_bits:
        raise NotOfTypeError(f"has no prefix of at most {most_bits} bits")
    return address, int(bits)


def _ipv4(type_: FieldType, text: str) -> Constant:
    address, bits = _address(text, 32)
    try:
        return Constant(type_, int(ipaddress.IPv4Address(address)), bits)
    except ValueError:
        raise NotOfTypeError("is no IPv4 address; names of hosts are not looked up") from None


def _ipv6(type_: FieldType, text: str) -> Constant:
    address, bits = _address(text, 128)
    try:
        return Constant(type_, ipaddress.IPv6Address(address).packed, bits)
    except ValueError:
        raise NotOfTypeError("is no IPv6 address; names of hosts are not looked up") from None


def bytes_of(text: str) -> bytes:
    """Return bytes in hexadecimal, with ``:``, ``-`` or ``.`` between them, or nothing."""
    value, at = bytearray(), 0
    while at < len(text):
        digits = 0
        while digits < 4 and text[at + digits : at + digits + 1] in _HEX_DIGITS and at + digits < len(text):
            digits += 1
        # Of three, two are a byte; one alone is one only before a separator, and at the end.
        taken = {4: 4, 3: 2, 2: 2, 1: 1}.get(digits, 0)
        behind = text[at + taken : at + taken + 1]
        if not taken or (taken == 1 and behind and behind not in _SEPARATORS):
            raise NotOfTypeError("is no bytes in hexadecimal")
        value += bytes.fromhex(text[at : at + taken].rjust(2, "0"))
        at += taken + (1 if behind and behind in _SEPARATORS else 0)
    return bytes(value)


def _ether(type_: FieldType, text: str) -> Constant:
    value = bytes_of(text)
    if len(value) != _ETHER_BYTES:
        raise NotOfTypeError(f"has {len(value)} bytes, and an Ethernet address {_ETHER_BYTES}")
    return Constant(type_, value)


def _any_bytes(type_: FieldType, text: str) -> Constant:
    found = _BYTE_HEX.fullmatch(text)
    return Constant(type_, bytes([int(found[1], 16)]) if found else bytes_of(text))


def _nanoseconds(fraction: str | None) -> int:
    return int((fraction or "0")[:9].ljust(9, "0"))


def _relative(type_: FieldType, text: str) -> Constant:
    found = _SECONDS.fullmatch(text)
    if found is None:
        raise NotOfTypeError("is no number of seconds")
    # More than fit are more than any time, too.
    return Constant(type_, min(int(found["seconds"]) * 10**9 + _nanoseconds(found["fraction"]), _MOST_NANOSECONDS))


def _absolute(type_: FieldType, text: str) -> Constant:
    found = _ISO.fullmatch(text) or _LEGACY.fullmatch(text)
    if found is None:
        raise NotOfTypeError('is no time, as "2026-01-31 12:34:56.789" is one, or "Jan 31, 2026 12:34:56"')
    parts = found.groupdict()
    name = parts.get("name")
    zone = parts.get("zone") or ("Z" if parts["utc"] else "")
    try:
        moment = datetime(
            int(parts["year"]),
            _MONTHS.index(name.lower()) + 1 if name else int(parts["month"]),
            int(parts["day"]),
            int(parts["hour"] or 0),
            int(parts["minute"] or 0),
            int(parts["second"] or 0),
            tzinfo=_zone(zone),
        )
        # Where none is said, it is the local time.
        seconds = round(moment.timestamp())
    except (ValueError, OverflowError, OSError):
        raise NotOfTypeError("is no day or no time of day") from None
    nanoseconds = seconds * 10**9 + _nanoseconds(parts["fraction"])
    if abs(nanoseconds) >= 2**63:
        raise NotOfTypeError("is too far from 1970")
    return Constant(type_, nanoseconds)


def _zone(text: str) -> timezone | None:
    if not text:
        return None
    if text == "Z":
        return UTC
    digits = text[1:].replace(":", "")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-offset if text[0] == "-" else offset)


def _string(type_: FieldType, text: str) -> Constant:
    return Constant(type_, text.encode())


_READERS: Final = {
    **dict.fromkeys(WIDTHS, _integer),
    FieldType.BOOLEAN: _boolean,
    FieldType.IPV4: _ipv4,
    FieldType.IPV6: _ipv6,
    FieldType.ETHER: _ether,
    FieldType.BYTES: _any_bytes,
    FieldType.PROTOCOL: _any_bytes,
    FieldType.STRING: _string,
    FieldType.RELATIVE_TIME: _relative,
    FieldType.ABSOLUTE_TIME: _absolute,
}


def from_word(type_: FieldType, text: str, *, is_part: bool) -> Constant:
    """Return what a word means as a value of a type.

    Args:
        type_: which one.
        text: the word.
        is_part: whether part of a value will do, where it is of bytes.

    Raises:
        NotOfTypeError: it is none.
    """
    if is_part and type_ is FieldType.ETHER:
        return _any_bytes(FieldType.BYTES, text)
    return _READERS[type_](type_, text)


def from_string(type_: FieldType, value: bytes) -> Constant:
    """Return what a string in quotes means as a value of a type.

    Raises:
        NotOfTypeError: it is none.
    """
    if type_ in (FieldType.STRING, FieldType.PROTOCOL, FieldType.BYTES):
        return Constant(type_, value)
    if type_ is FieldType.ABSOLUTE_TIME:
        return _absolute(type_, value.decode(errors="replace"))
    raise NotOfTypeError("is a string in quotes, which this is never equal to")


def from_character(type_: FieldType, value: int) -> Constant:
    """Return what a character in single quotes means as a value of a type.

    Raises:
        NotOfTypeError: it is none.
    """
    if type_ in WIDTHS or type_ is FieldType.BOOLEAN:
        return Constant(type_, value if type_ in WIDTHS else int(value != 0))
    if type_ in (FieldType.STRING, FieldType.PROTOCOL, FieldType.BYTES):
        return Constant(type_, bytes([value]))
    raise NotOfTypeError("is a character in quotes, which this is never equal to")
