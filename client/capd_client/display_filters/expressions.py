"""Display filters as expressions of Python: ``fields.tcp.dstport == 443`` is one, and reads as one."""

import ipaddress
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Protocol

from capd_client.errors import InvalidArgument


class Names(Protocol):
    """Names of fields and protocols."""

    def named(self, name: str) -> "FieldExpression":
        """Return a field, a protocol, or what names begin with.

        Raises:
            AttributeError: there is none.
        """
        ...

    def parts_below(self, name: str) -> Iterable[str]:
        """Return what follows a name and a dot, up to the next dot."""
        ...

    def described(self, name: str) -> str:
        """Return a name, and what is known of it, for people."""
        ...


def _literal(value: object) -> str:
    """Return how a value is written in a filter."""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, FieldExpression):
        return str(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidArgument("a time needs a time zone, such as datetime.now(UTC) has")
        return f'"{value.isoformat(sep=" ")}"'
    if isinstance(value, timedelta):
        microseconds = value // timedelta(microseconds=1)
        sign = "-" if microseconds < 0 else ""
        return f"{sign}{abs(microseconds) // 10**6}.{abs(microseconds) % 10**6:06}"
    if isinstance(value, float):
        return f"{value:.9f}"
    if isinstance(value, bytes):
        if not value:
            raise InvalidArgument("a field is compared with one byte at least")
        return f":{value.hex(':')}"
    if isinstance(value, str):
        return '"' + "".join(_escaped(each) for each in value) + '"'
    return str(value)


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else "".join(f"\\x{byte:02x}" for byte in character.encode())


class FilterExpression:
    """A display filter that was made of fields: ``str()`` of it is the filter; combine with ``&``, ``|`` and ``~``.

    Wherever a display filter is taken, this is.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        """Return the filter."""
        return self._text

    def __repr__(self) -> str:
        """Return the filter, and what it is."""
        return f"<filter {self._text}>"

    def __and__(self, other: "FilterExpression") -> "FilterExpression":
        """Return what passes both."""
        return FilterExpression(f"({self}) && ({other})")

    def __or__(self, other: "FilterExpression") -> "FilterExpression":
        """Return what passes one of them."""
        return FilterExpression(f"({self}) || ({other})")

    def __invert__(self) -> "FilterExpression":
        """Return what does not pass it."""
        return FilterExpression(f"!({self})")

    def __bool__(self) -> bool:
        """Raise: neither ``and`` nor ``not`` can be asked for what packets there will be.

        Raises:
            InvalidArgument: always.
        """
        raise InvalidArgument("a filter is neither true nor false: combine filters with &, | and ~")


class FieldExpression(FilterExpression):
    """A field or protocol: by itself the filter for packets that have it; its attributes are those below its name.

    Compare it with numbers, text, bytes, addresses and networks of ``ipaddress``, times and other fields.
    """

    __hash__ = FilterExpression.__hash__

    def __init__(self, text: str, names: Names) -> None:
        """Take a name.

        Args:
            text: the name.
            names: those that there are.
        """
        super().__init__(text)
        self._names = names

    def __repr__(self) -> str:
        """Return the name, and what it is."""
        return f"<field {self._names.described(self._text)}>"

    def __getattr__(self, name: str) -> "FieldExpression":
        """Return the field of a longer name.

        Raises:
            AttributeError: there is none.
        """
        if name.startswith("_"):
            raise AttributeError(name)
        return self._names.named(f"{self}.{name}")

    def __dir__(self) -> Iterable[str]:
        """Return which fields have longer names."""
        return (*super().__dir__(), *self._names.parts_below(self._text))

    def __eq__(self, other: object) -> FilterExpression:  # type: ignore[override]  # a filter, not an answer
        """Return the filter for packets that have a value equal to this."""
        return FilterExpression(f"{self} == {_literal(other)}")

    def __ne__(self, other: object) -> FilterExpression:  # type: ignore[override]  # likewise
        """Return the filter for packets that have values, and none equal to this."""
        return FilterExpression(f"{self} != {_literal(other)}")

    def __lt__(self, other: "Value") -> FilterExpression:
        """Return the filter for packets with a smaller value."""
        return FilterExpression(f"{self} < {_literal(other)}")

    def __le__(self, other: "Value") -> FilterExpression:
        """Return the filter for packets with a value that is no larger."""
        return FilterExpression(f"{self} <= {_literal(other)}")

    def __gt__(self, other: "Value") -> FilterExpression:
        """Return the filter for packets with a larger value."""
        return FilterExpression(f"{self} > {_literal(other)}")

    def __ge__(self, other: "Value") -> FilterExpression:
        """Return the filter for packets with a value that is no smaller."""
        return FilterExpression(f"{self} >= {_literal(other)}")

    def __getitem__(self, part: int | slice) -> "FieldExpression":
        """Return some of its bytes: ``fields.eth.src[0:3]`` are the first three, as of bytes in Python.

        Raises:
            InvalidArgument: the slice is no display filter's: it has a step, or ends before it begins.
        """
        if isinstance(part, int):
            return _Sliced(f"{self}[{part}]", self._names)
        begin, end = part.start or 0, part.stop
        if part.step is not None or (end is not None and ((begin < 0) != (end < 0) or end <= begin)):
            raise InvalidArgument("a slice has no step, and ends behind its beginning, on the same side")
        return _Sliced(f"{self}[{begin}:{'' if end is None else end - begin}]", self._names)

    def contains(self, value: str | bytes) -> FilterExpression:
        """Return the filter for packets that have something in the field.

        Args:
            value: bytes or text.
        """
        return FilterExpression(f"{self} contains {_literal(value)}")

    def matches(self, pattern: str) -> FilterExpression:
        """Return the filter for packets in which a regular expression is found.

        Args:
            pattern: the expression, PCRE2's; capitals do not matter.
        """
        return FilterExpression(f"{self} matches {_literal(pattern)}")

    def in_(self, values: "Iterable[Value | range]") -> FilterExpression:
        """Return the filter for packets with one of some values.

        Args:
            values: of the field; a ``range`` is all numbers in it.

        Raises:
            InvalidArgument: there are no values.
        """
        elements = [f"{each.start}..{each.stop - 1}" if isinstance(each, range) else _literal(each) for each in values]
        if not elements:
            raise InvalidArgument("a set of values has one at least")
        return FilterExpression(f"{self} in {{{', '.join(elements)}}}")


class _Sliced(FieldExpression):
    """Some bytes of a field, below which there are no others."""

    def __getattr__(self, name: str) -> FieldExpression:
        raise AttributeError(f"{self} has no fields of its own")


#: What fields are compared with.
Value = (
    str
    | bytes
    | int
    | float
    | ipaddress.IPv4Address
    | ipaddress.IPv6Address
    | ipaddress.IPv4Network
    | ipaddress.IPv6Network
    | datetime
    | timedelta
    | FieldExpression
)
