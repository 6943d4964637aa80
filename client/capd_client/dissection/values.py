"""Values of fields, as Python has them, by the types that Wireshark gives them. Pure: texts in, values out."""

import ipaddress
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

#: Of a field: a number, a flag, an address, bytes, a time, a duration or a text, by its type.
Value = int | float | bool | str | bytes | datetime | timedelta | ipaddress.IPv4Address | ipaddress.IPv6Address

_MONTHS: Final = {
    name: number for number, name in enumerate("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)
}
#: "Nov 29, 2026 22:48:06.097838000 UTC"
_NAMED_MONTH: Final = re.compile(r"(\w{3}) +(\d+), (\d{4}) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?: \S+)?$")
#: "2026-11-29T22:48:06.097838000Z", and with a blank.
_ISO: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:Z| ?UTC)?$")
_SECONDS: Final = re.compile(r"(-?)(\d+)(?:\.(\d{1,9}))?(?: seconds)?$")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_HEXADECIMAL: Final = re.compile("[^0-9a-fA-F]")
_NO_BYTES: Final = ("<MISSING>", "<none>")
_FLAGS: Final = {"1": True, "True": True, "Set": True, "0": False, "False": False, "": True}


def nanoseconds_of(text: str) -> int:
    """Return a duration in nanoseconds, or a moment in nanoseconds since 1970.

    Raises:
        ValueError: it is neither.
    """
    if found := _SECONDS.match(text):
        sign, seconds, rest = found.groups()
        size = int(seconds) * 10**9 + _parts(rest)
        return -size if sign else size
    if found := _NAMED_MONTH.match(text):
        month, day, year, *clock, rest = found.groups()
        if month not in _MONTHS:
            raise ValueError(text)
        numbers = [int(year), _MONTHS[month], int(day), *map(int, clock)]
    elif found := _ISO.match(text):
        *given, rest = found.groups()
        numbers = list(map(int, given))
    else:
        raise ValueError(text)
    year_, month_, day_, hours, minutes, seconds_ = numbers
    moment = datetime(year_, month_, day_, hours, minutes, tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(seconds=1) * 10**9 + seconds_ * 10**9 + _parts(rest)


def _parts(digits: str | None) -> int:
    return int((digits or "").ljust(9, "0"))


def _number(text: str) -> int:
    """Return a number that is shown in any base; or a character, in quotes."""
    if text[:2] in ("0x", "0X"):
        return int(text, 16)
    if text[:1] == "'" and len(text) > 2:
        character = text[1:-1]
        return ord(character) if len(character) == 1 else ord(character.encode().decode("unicode_escape"))
    return int(text)


def _flag(text: str) -> bool:
    return _FLAGS[text]


def _bytes(text: str) -> bytes:
    return b"" if text in _NO_BYTES else bytes.fromhex(_NOT_HEXADECIMAL.sub("", text))


def _moment(text: str) -> datetime:
    return _EPOCH + timedelta(microseconds=nanoseconds_of(text) // 1000)


def _duration(text: str) -> timedelta:
    return timedelta(microseconds=nanoseconds_of(text) // 1000)


_BY_TYPE: Final[dict[str, Callable[[str], Value]]] = {
    **dict.fromkeys([f"FT_{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 24, 32, 40, 48, 56, 64)], _number),
    **dict.fromkeys(("FT_FRAMENUM", "FT_CHAR"), _number),
    **dict.fromkeys(("FT_FLOAT", "FT_DOUBLE", "FT_IEEE_11073_SFLOAT", "FT_IEEE_11073_FLOAT"), float),
    **dict.fromkeys(("FT_BOOLEAN", "FT_NONE"), _flag),
    **dict.fromkeys(("FT_BYTES", "FT_UINT_BYTES"), _bytes),
    "FT_IPv4": ipaddress.IPv4Address,
    "FT_IPv6": ipaddress.IPv6Address,
    "FT_ABSOLUTE_TIME": _moment,
    "FT_RELATIVE_TIME": _duration,
}


def value_of(text: str, type_name: str) -> Value:
    """Return what a text is, of a field of a type; the text where it is shown as nothing of that type.

    Args:
        text: as Wireshark's programs show it.
        type_name: such as ``FT_UINT16``.
    """
    convert = _BY_TYPE.get(type_name)
    if convert is None:
        return text
    try:
        return convert(text)
    except (ValueError, KeyError, OverflowError, TypeError):
        # Such as a name where a number was to be, a month of no calendar, the year 9999.
        return text
