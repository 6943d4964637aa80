"""Frames, as engines have dissected them: with fields that were asked for, or whole. Pure."""

import abc
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

from capd_client.dissection import pdml, rows
from capd_client.dissection.pdml import Item
from capd_client.dissection.values import Value, nanoseconds_of, value_of
from capd_client.errors import UnknownField

#: Of ``_ws.expert.severity`` and ``_ws.expert.group``, by Wireshark's numbers (epan/proto.h).
_SEVERITIES: Final = {0x100000: "comment", 0x200000: "chat", 0x400000: "note", 0x600000: "warning", 0x800000: "error"}
_GROUPS: Final = dict(
    enumerate(
        (
            "checksum", "sequence", "response", "request", "undecoded", "reassemble", "malformed", "debug", "protocol",
            "security", "comments", "decryption", "assumption", "deprecated", "receive", "interface", "dissector bug",
        ),
        1,
    )
)  # fmt: skip


class Types(Protocol):
    """What is known of fields."""

    def type_of(self, name: str) -> str | None:
        """Return the type of a field, such as ``FT_IPv4``, or of a protocol; None: there is neither."""
        ...

    def has_below(self, name: str) -> bool:
        """Whether there are fields whose names begin with this one and a dot."""
        ...

    def unknown(self, name: str) -> UnknownField:
        """Return the error of a field that there is not."""
        ...

    @property
    def aggregator(self) -> bytes:
        """What stands between the values of a field in rows, and in none of them."""
        ...

    def name_here(self, name: str) -> str:
        """Return the name that a field, or a column of the list of packets, has in the version that is there."""
        ...


class Expert(NamedTuple):
    """What an expert of Wireshark's has to say of a frame.

    Attributes:
        severity: ``comment``, ``chat``, ``note``, ``warning`` or ``error``.
        group: such as ``checksum``, ``sequence`` or ``malformed``.
        message: what it is.
        field: the name that filters use for it, such as ``tcp.analysis.retransmission``; may be empty.
    """

    severity: str
    group: str
    message: str
    field: str


class Frame(abc.ABC):
    """A frame, with the values of its fields: ``frame["ip.src"]``, or ``frame.ip.src``.

    Attributes:
        number: of the packet, from 1, among all that the engine, and those before it, were given.
    """

    __slots__ = ("_types", "number")

    def __init__(self, number: int, types: Types) -> None:
        """Take what every frame has."""
        self.number = number
        self._types = types

    @abc.abstractmethod
    def texts(self, name: str) -> Sequence[str]:
        """Return all values of a field as Wireshark shows them, in the frame's order.

        Args:
            name: of a field, such as ``ip.src``.

        Raises:
            UnknownField: there is no such field, or it was not asked for.
        """

    @abc.abstractmethod
    def names(self) -> Sequence[str]:
        """Return the names of the fields and protocols that have values."""

    @abc.abstractmethod
    def may_have(self, name: str) -> bool:
        """Whether some frame may have a value of such a name here.

        Args:
            name: of a field, such as ``ip.src``.
        """

    @abc.abstractmethod
    def may_have_below(self, name: str) -> bool:
        """Whether some frame may have values here whose names begin with this one and a dot.

        Args:
            name: of a protocol, or the beginning of fields' names.
        """

    def __getitem__(self, name: str) -> Value | None:
        """Return the first value of a field, by its type; None: the frame has none.

        Numbers are ``int``, flags ``bool``, addresses of IP those of ``ipaddress``, bytes ``bytes``, times ``datetime``
        and ``timedelta``; the rest is text, and what is shown as nothing of its type, too.

        Raises:
            UnknownField: there is no such field, or it was not asked for.
        """
        found = self.texts(name)
        return value_of(found[0], self._types.type_of(name) or "") if found else None

    def all(self, name: str) -> list[Value]:
        """Return all values of a field, in the frame's order: the outer ones before the inner ones.

        Args:
            name: of a field, such as ``ip.src``.

        Raises:
            UnknownField: there is no such field, or it was not asked for.
        """
        type_name = self._types.type_of(name) or ""
        return [value_of(text, type_name) for text in self.texts(name)]

    def nanoseconds(self, name: str) -> int | None:
        """Return the first value of a time since 1970, or of a duration, in nanoseconds; None: there is none.

        Args:
            name: of a field, such as ``ip.src``.

        Raises:
            UnknownField: as ``all``.
            ValueError: the field's values are no times.
        """
        found = self.texts(name)
        return nanoseconds_of(found[0]) if found else None

    def __contains__(self, name: str) -> bool:
        """Whether it has a value of a field, or a protocol."""
        return name in self.names()

    def __getattr__(self, name: str) -> "Part":
        """Return what begins with a name: ``frame.ip`` of ``frame.ip.src``."""
        if name.startswith("__"):
            raise AttributeError(name)
        return Part(self, name).checked()

    def __dir__(self) -> list[str]:
        """Return also the first parts of names that have values."""
        return sorted({*super().__dir__(), *(name.partition(".")[0] for name in self.names())})

    def __repr__(self) -> str:
        """Return its number."""
        return f"<{type(self).__name__} {self.number}>"


class Part:
    """The beginning of names: ``frame.ip``, of which ``src`` is the value of ``ip.src``."""

    __slots__ = ("_frame", "_name")

    def __init__(self, frame: Frame, name: str) -> None:
        """Take a frame, and a name of a protocol or the beginning of fields' names."""
        self._frame = frame
        self._name = name

    def checked(self) -> "Part":
        """Return it where there is such a thing.

        Raises:
            AttributeError: there is not.
        """
        if not self._frame.may_have_below(self._name) and not self._frame.may_have(self._name):
            raise AttributeError(f"there is no {self._name!r} in this frame")
        return self

    def __getattr__(self, name: str) -> Any:
        """Return the first value of a field (or None), or, as a ``Part``, what begins with a longer name."""
        if name.startswith("__"):
            raise AttributeError(name)
        full = f"{self._name}.{name}"
        if self._frame.may_have(full):
            return self._frame[full]
        return Part(self._frame, full).checked()

    def __bool__(self) -> bool:
        """Whether the frame has the protocol, or anything below it."""
        below = f"{self._name}."
        return any(name == self._name or name.startswith(below) for name in self._frame.names())

    def __dir__(self) -> list[str]:
        """Return the next parts of names that have values."""
        below = f"{self._name}."
        return sorted({n[len(below) :].partition(".")[0] for n in self._frame.names() if n.startswith(below)})

    def __repr__(self) -> str:
        """Return its name, and the frame's number."""
        return f"<{self._name} of frame {self._frame.number}>"


class Form(NamedTuple):
    """The form of rows.

    Attributes:
        places: where in each row a field is.
        aggregator: what is between values of a field.
    """

    places: dict[str, int]
    aggregator: bytes


class FieldFrame(Frame):
    """A frame with the fields that were asked for."""

    __slots__ = ("_cells", "_form")

    def __init__(self, number: int, types: Types, form: Form, cells: Sequence[bytes]) -> None:
        """Take a row, and its form."""
        super().__init__(number, types)
        self._form = form
        self._cells = cells

    def texts(self, name: str) -> Sequence[str]:
        """Return all values of a field as Wireshark shows them.

        Args:
            name: of a field, such as ``ip.src``.

        Raises:
            UnknownField: it was not asked for.
        """
        place = self._form.places.get(name)
        if place is None:
            raise UnknownField(name, tuple(self._form.places)[:3], "nobody has asked for the field")
        return rows.texts(self._cells[place], self._form.aggregator)

    def names(self) -> Sequence[str]:
        """Return the fields that were asked for and have values."""
        return [name for name, place in self._form.places.items() if self._cells[place]]

    def may_have(self, name: str) -> bool:
        """Whether it was asked for.

        Args:
            name: of a field, such as ``ip.src``.
        """
        return name in self._form.places

    def may_have_below(self, name: str) -> bool:
        """Whether something below it was asked for.

        Args:
            name: of a protocol, or the beginning of fields' names.
        """
        below = f"{name}."
        return any(each.startswith(below) for each in self._form.places)

    def __contains__(self, name: str) -> bool:
        """Whether it has a value of a field."""
        place = self._form.places.get(name)
        return place is not None and bool(self._cells[place])


class WholeFrame(Frame):
    """A frame with all that there is of it: its layers, and the tree below each."""

    __slots__ = ("_index", "_layers", "_packet")

    def __init__(self, number: int, types: Types, packet: bytes) -> None:
        """Take a packet as it was written; it is looked at when something of it is asked for."""
        super().__init__(number, types)
        self._packet = packet
        self._layers: tuple[Item, ...] | None = None
        self._index: dict[str, list[Item]] = {}

    @property
    def layers(self) -> tuple[Item, ...]:
        """The layers in their order, as often as they come: that of IP in IP is there twice."""
        if self._layers is None:
            self._layers = pdml.layers_of(self._packet)
            self._packet = b""
            for item in self.tree():
                if item.name:
                    self._index.setdefault(item.name, []).append(item)
        return self._layers

    def tree(self) -> Iterator[Item]:
        """Iterate over all lines of the tree, from top to bottom, and each layer's own line before."""
        for layer in self.layers:
            yield from layer.walk()

    def items(self, name: str) -> Sequence[Item]:
        """Return the lines of a field or a protocol.

        Args:
            name: of a field, or of a protocol.
        """
        return self.layers and self._index.get(name, ())

    def texts(self, name: str) -> Sequence[str]:
        """Return all values of a field as Wireshark shows them.

        Args:
            name: of a field, such as ``ip.src``.

        Raises:
            UnknownField: there is no such field.
        """
        found = self.items(name)
        if not found and self._types.type_of(name) is None:
            raise self._types.unknown(name)
        return [each.text or each.label if each in self.layers else each.text for each in found]

    def names(self) -> Sequence[str]:
        """Return the names of all fields and protocols that it has."""
        return list(self._index) if self.layers else []

    def may_have(self, name: str) -> bool:
        """Whether there is such a field.

        Args:
            name: of a field, such as ``ip.src``.
        """
        return bool(self.items(name)) or self._types.type_of(name) is not None

    def may_have_below(self, name: str) -> bool:
        """Whether there are fields below it.

        Args:
            name: of a protocol, or the beginning of fields' names.
        """
        return self._types.has_below(name)

    def expression(self, item: Item) -> str:
        """Return the display filter that an item's frames match: ``ip.ttl == 64``; empty where there is none.

        Args:
            item: a line of the tree of this frame.
        """
        if not item.name:
            raw = item.raw
            return f"frame[{item.offset_bytes}:{len(raw)}] == {raw.hex(':')}" if raw else ""
        type_name = self._types.type_of(item.name)
        if type_name in (None, "FT_PROTOCOL", "FT_NONE") or not item.text:
            return item.name
        return f"{item.name} == {_literal(item.text) if type_name in _IN_QUOTES else item.text}"

    @property
    def experts(self) -> list[Expert]:
        """What Wireshark's experts have to say of it."""
        return [_expert(item) for item in self.items("_ws.expert")]


#: Of these types, a filter has values in quotes.
_IN_QUOTES: Final = {
    "FT_STRING", "FT_STRINGZ", "FT_UINT_STRING", "FT_STRINGZPAD", "FT_STRINGZTRUNC", "FT_ABSOLUTE_TIME",
}  # fmt: skip


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _expert(item: Item) -> Expert:
    children = {child.name: child for child in item.children}
    message, severity, group = (children.pop(f"_ws.expert.{name}", None) for name in ("message", "severity", "group"))
    return Expert(
        _SEVERITIES.get(_number(severity), ""),
        _GROUPS.get(_number(group) >> 24, ""),
        message.text if message is not None else item.label,
        next(iter(children), ""),
    )


def _number(item: Item | None) -> int:
    return int(item.text) if item is not None and item.text.isdigit() else 0
