"""The types of fields, as Wireshark calls them: what numpy has for each, and how a value is shown as tshark shows it.

Pure: values in, texts out.
"""

import ipaddress
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

#: Values of any type; see ``FieldType``.
Values = npt.NDArray[Any]


class FieldType(Enum):
    """What a field's values are, by Wireshark's names, with numpy's type for them.

    Numbers are numbers, and IPv4 addresses too. IPv6 and Ethernet addresses are their bytes, in the order of the
    packet. Times are in nanoseconds.
    """

    UINT8 = "FT_UINT8", "u1"
    UINT16 = "FT_UINT16", "u2"
    UINT24 = "FT_UINT24", "u4"
    UINT32 = "FT_UINT32", "u4"
    INT16 = "FT_INT16", "i2"
    INT32 = "FT_INT32", "i4"
    BOOLEAN = "FT_BOOLEAN", "?"
    IPV4 = "FT_IPv4", "u4"
    IPV6 = "FT_IPv6", "V16"
    ETHER = "FT_ETHER", "V6"
    ABSOLUTE_TIME = "FT_ABSOLUTE_TIME", "M8[ns]"
    RELATIVE_TIME = "FT_RELATIVE_TIME", "m8[ns]"
    STRING = "FT_STRING", "O"
    #: Only in display filters: the bytes of a protocol's header, and parts of values.
    PROTOCOL = "FT_PROTOCOL", "O"
    BYTES = "FT_BYTES", "O"

    def __init__(self, wireshark_name: str, dtype: str) -> None:
        self.wireshark_name = wireshark_name
        self.dtype = np.dtype(dtype)


#: Types whose values are times.
TIMES: Final = frozenset((FieldType.ABSOLUTE_TIME, FieldType.RELATIVE_TIME))


class Base(Enum):
    """How a number is shown."""

    DECIMAL = "decimal"
    HEXADECIMAL = "hexadecimal"
    EPOCH = "seconds since 1970"


#: Digits of a hexadecimal number.
_HEXADECIMAL_DIGITS = {
    FieldType.UINT8: 2,
    FieldType.UINT16: 4,
    FieldType.UINT24: 6,
    FieldType.UINT32: 8,
}


def _seconds(nanoseconds: int) -> str:
    sign = "-" if nanoseconds < 0 else ""
    seconds, rest = divmod(abs(nanoseconds), 10**9)
    return f"{sign}{seconds}.{rest:09}"


def _moment(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 10**9)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%b} {moment.day:2}, {moment:%Y %H:%M:%S}.{rest:09} UTC"


def _ipv6(address: bytes) -> str:
    packed = ipaddress.IPv6Address(address)
    # As inet_ntop(3) shows it, and tshark; of the rest "::1" and "::", which are none, are excepted.
    if packed.ipv4_mapped is not None:
        return f"::ffff:{packed.ipv4_mapped}"
    if address[:12] == bytes(12) and address[12:14] != bytes(2):
        return f"::{ipaddress.IPv4Address(address[12:])}"
    return str(packed)


#: Of the types that are not shown as numbers.
_SHOWN: dict[FieldType, Callable[[Any], str]] = {
    # As "True" and "False" only from Wireshark 4.2 on.
    FieldType.BOOLEAN: lambda value: "1" if value else "0",
    FieldType.IPV4: lambda value: f"{value >> 24}.{value >> 16 & 255}.{value >> 8 & 255}.{value & 255}",
    FieldType.IPV6: _ipv6,
    FieldType.ETHER: lambda value: value.hex(":"),
    FieldType.RELATIVE_TIME: _seconds,
    FieldType.STRING: str,
}


class Shown(NamedTuple):
    """How values are shown.

    Attributes:
        type: of the values.
        base: of numbers, and of times.
    """

    type: FieldType
    base: Base = Base.DECIMAL

    def texts(self, values: Values) -> list[str]:
        """Return each value as ``tshark -T fields`` of Wireshark 4.0 shows it."""
        if self.base is Base.HEXADECIMAL:
            digits = _HEXADECIMAL_DIGITS[self.type]
            return [f"0x{each:0{digits}x}" for each in values.tolist()]
        if self.type is FieldType.ABSOLUTE_TIME:
            show = _seconds if self.base is Base.EPOCH else _moment
            return list(map(show, values.view(np.int64).tolist()))
        if self.type is FieldType.RELATIVE_TIME:
            return list(map(_seconds, values.view(np.int64).tolist()))
        return list(map(_SHOWN.get(self.type, str), values.tolist()))
