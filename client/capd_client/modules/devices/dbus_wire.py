"""The D-Bus protocol, as far as a monitor speaks it: its login, two calls, and where messages begin and end. Pure.

From the D-Bus Specification, version 0.42.
"""

import struct
from typing import NamedTuple

from capd_protocol.text import escaped

#: What is before a message's header fields, with their length.
_FIXED_BYTES = 16
#: Of a message; the specification's own limit.
_MAX_MESSAGE_BYTES = 128 * 1024 * 1024
_METHOD_CALL, _METHOD_RETURN, _ERROR = 1, 2, 3
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8

BUS = "org.freedesktop.DBus"
_BUS_PATH = "/org/freedesktop/DBus"
MONITORING = "org.freedesktop.DBus.Monitoring"
#: A bus that does not know the interface, or the method.
UNKNOWN = ("org.freedesktop.DBus.Error.UnknownMethod", "org.freedesktop.DBus.Error.UnknownInterface")
ACCESS_DENIED = "org.freedesktop.DBus.Error.AccessDenied"


class NotDbusError(ValueError):
    """What came is no message."""


class WrongAddressError(ValueError):
    """What should be the address of a bus is none; or of a kind that a monitor cannot use."""


class Reply(NamedTuple):
    """An answer to a call.

    Attributes:
        serial: the call's.
        error: what the error is called; None: there is none.
        text: of the error.
    """

    serial: int
    error: str | None
    text: str


# Login ---------------------------------------------------------------------------------------------------------------


def login(user_id: int) -> list[tuple[bytes, bytes]]:
    """Return what to write, and what the line must begin with that comes then; for all lines but the last one.

    The bus asks the kernel who it is: nothing of this is secret.
    """
    name = str(user_id).encode().hex().encode()
    return [
        (b"\0AUTH EXTERNAL " + name + b"\r\n", b"OK"),
        # Messages with descriptors are for those only that would take them; ours the kernel closes at once.
        (b"NEGOTIATE_UNIX_FD\r\n", b"AGREE_UNIX_FD"),
    ]


BEGIN = b"BEGIN\r\n"


# Messages ------------------------------------------------------------------------------------------------------------


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("=I", len(data)) + data + b"\0"


def _padded(data: bytes, to: int) -> bytes:
    return data + bytes(-len(data) % to)


def _order() -> bytes:
    return b"l" if struct.pack("=H", 1) == b"\1\0" else b"B"


def call(serial: int, interface: str, member: str, signature: str = "", body: bytes = b"") -> bytes:
    """Return a method call to the bus itself."""
    fields = b""
    values = ((_PATH, "o", _BUS_PATH), (_INTERFACE, "s", interface), (_MEMBER, "s", member), (_DESTINATION, "s", BUS))
    for code, kind, value in values:
        fields = _padded(fields, 8) + bytes((code, 1)) + kind.encode() + b"\0" + _string(value)
    if signature:
        fields = _padded(fields, 8) + bytes((_SIGNATURE, 1)) + b"g\0" + bytes((len(signature),))
        fields += signature.encode() + b"\0"
    fixed = _order() + struct.pack("=BBBIII", _METHOD_CALL, 0, 1, len(body), serial, len(fields))
    return _padded(fixed + fields, 8) + body


def hello(serial: int) -> bytes:
    """Return the call that every connection begins with."""
    return call(serial, BUS, "Hello")


def become_monitor(serial: int) -> bytes:
    """Return the call after which all messages of the bus come: it has no rules, so that all match."""
    return call(serial, MONITORING, "BecomeMonitor", "asu", struct.pack("=II", 0, 0))


def message_bytes(data: bytes | bytearray, at: int) -> int | None:
    """Return how long the message is that begins at a place; None: too little is there to know.

    Raises:
        NotDbusError: none begins there.
    """
    if len(data) - at < _FIXED_BYTES:
        return None
    order = _order_of(data[at])
    (body_bytes,) = struct.unpack_from(order + "I", data, at + 4)
    (fields_bytes,) = struct.unpack_from(order + "I", data, at + 12)
    size_bytes = int(_FIXED_BYTES + fields_bytes + -fields_bytes % 8 + body_bytes)
    if size_bytes > _MAX_MESSAGE_BYTES:
        raise NotDbusError(f"a message of {size_bytes:,} bytes; one may have {_MAX_MESSAGE_BYTES:,}")
    return size_bytes


def _order_of(first: int) -> str:
    order = {ord("l"): "<", ord("B"): ">"}.get(first)
    if order is None:
        raise NotDbusError(f"a message begins with the byte {first:#x}")
    return order


def reply_of(message: bytes) -> Reply | None:
    """Return what a message answers; None: it is no answer.

    Raises:
        NotDbusError: it is malformed.
    """
    order, kind = _order_of(message[0]), message[1]
    if kind not in (_METHOD_RETURN, _ERROR):
        return None
    try:
        fields, at = _fields(message, order)
        text = ""
        if kind == _ERROR and fields.get(_SIGNATURE, "").startswith("s"):
            (length,) = struct.unpack_from(order + "I", message, at)
            text = message[at + 4 : at + 4 + length].decode("utf-8", "replace")
        return Reply(int(fields[_REPLY_SERIAL]), fields.get(_ERROR_NAME), escaped(text))
    except (struct.error, IndexError, KeyError, ValueError) as error:
        raise NotDbusError("an answer without the number of what it answers") from error


def _fields(message: bytes, order: str) -> tuple[dict[int, str], int]:
    """Return a message's header fields, as text, and where its body begins."""
    (size_bytes,) = struct.unpack_from(order + "I", message, 12)
    at, end = _FIXED_BYTES, _FIXED_BYTES + size_bytes
    fields: dict[int, str] = {}
    while at < end:
        at += -at % 8
        code, kind = message[at], chr(message[at + 2])
        at += 4
        if kind == "u":
            fields[code] = str(struct.unpack_from(order + "I", message, at)[0])
            at += 4
        elif kind == "g":
            length = message[at]
            fields[code] = message[at + 1 : at + 1 + length].decode()
            at += length + 2
        else:
            (length,) = struct.unpack_from(order + "I", message, at)
            fields[code] = message[at + 4 : at + 4 + length].decode()
            at += length + 5
    return fields, end + -end % 8


# Addresses -----------------------------------------------------------------------------------------------------------


def socket_addresses(address: str, runtime_directory: str | None) -> list[str]:
    """Return the Unix sockets that an address names, in the order in which they are tried; abstract ones with a NUL.

    Raises:
        WrongAddressError: it names none.
    """
    found: list[str] = []
    for each in address.split(";"):
        kind, colon, rest = each.partition(":")
        if not colon or kind != "unix":
            continue
        pairs = (pair.partition("=") for pair in rest.split(","))
        values = {key: _unescaped(value) for key, _, value in pairs}
        if "path" in values:
            found.append(values["path"])
        elif "abstract" in values:
            found.append("\0" + values["abstract"])
        elif values.get("runtime") == "yes" and runtime_directory:
            found.append(f"{runtime_directory}/bus")
    if not found:
        raise WrongAddressError(
            f"{address!r:.200} is no address of a bus on this machine: write unix:path=PATH or unix:abstract=NAME"
        )
    return found


def _unescaped(value: str) -> str:
    """Return a value without its escapes, such as ``%2c``.

    Raises:
        WrongAddressError: one is wrong.
    """
    first, *rest = value.split("%")
    try:
        return first + "".join(chr(int(each[:2], 16)) + each[2:] for each in rest)
    except ValueError as error:
        raise WrongAddressError(f"in {value!r:.200} behind % stands no number of two digits") from error
