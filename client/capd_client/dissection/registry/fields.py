"""Fields that there are: ``fields["http.host"]``, and ``fields.http.host`` with completion."""

import difflib
import functools
import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from capd_client.dissection import rows
from capd_client.dissection.engine.asking import answer, report
from capd_client.dissection.engine.programs import Program, found
from capd_client.dissection.registry.cache import kept
from capd_client.dissection.registry.lines import Memory, SortedLines
from capd_client.dissection.registry.reports import PROTOCOL, fields_of, values_of
from capd_client.errors import UnknownField
from capd_protocol.formats import pcapng

#: Of what is kept: another number where it is kept in another form.
_FORM: Final = 1
_NEAR: Final = 3
_SIMILARITY: Final = 0.7


#: Link-layer type: IP at once.
_RAW: Final = 101
#: Columns of the list of packets.
_COLUMN: Final = "_ws.col."
#: Before Wireshark 4.2 they were called by their titles.
_TITLES: Final = {
    f"{_COLUMN}{name}": f"{_COLUMN}{title}"
    for name, title in (
        ("number", "No."),
        ("cls_time", "Time"),
        ("def_src", "Source"),
        ("def_dst", "Destination"),
        ("protocol", "Protocol"),
        ("packet_length", "Length"),
        ("info", "Info"),
    )
}


class ValueName(NamedTuple):
    """What a number means.

    Attributes:
        first: the number, or the first of several that mean the same.
        last: the last of them.
        label: what it means.
    """

    first: int
    last: int
    label: str


class KnownField(NamedTuple):
    """A field, or a protocol.

    Attributes:
        name: as in filters, such as ``ip.src``.
        type: Wireshark's, such as ``FT_IPv4``; of a protocol ``FT_PROTOCOL``.
        protocol: the name of the protocol it belongs to.
        title: as people read it: ``Source Address``.
        description: more of that; often empty.
    """

    name: str
    type: str
    protocol: str
    title: str
    description: str

    @property
    def is_protocol(self) -> bool:
        """Whether it is a protocol."""
        return self.type.encode() == PROTOCOL


class Fields:
    """All fields and protocols of Wireshark as it is installed: ``fields["ip.src"]`` is a ``KnownField``.

    ``fields.ip.src`` is the same, with what is below it; shells complete what follows a dot.

    What there is, is asked of ``tshark`` once for each version, and kept in the user's cache.
    """

    def __init__(self, program: str | os.PathLike[str] | None = None) -> None:
        """Nothing is asked yet.

        Args:
            program: another ``tshark`` than that in PATH.
        """
        self._program_path = program
        self._known: dict[str, KnownField | None] = {}

    @functools.cached_property
    def _lines(self) -> SortedLines:
        return SortedLines(self._kept("fields", fields_of))

    @functools.cached_property
    def _values(self) -> tuple[Memory, SortedLines, int]:
        memory = self._kept("values", values_of)
        begin = memory.find(b"\n") + 1
        end = begin + int(memory[0 : begin - 1])
        return memory, SortedLines(memory, begin, end), end

    @property
    def aggregator(self) -> bytes:
        """What stands between the values of a field in rows, and in none of them: tried with the version there is."""
        return self._aggregator

    @functools.cached_property
    def _aggregator(self) -> bytes:
        return self._made("form", _aggregator_of)[0:1]

    def _kept(self, what: str, made_of: Callable[[bytes], bytes]) -> Memory:
        return self._made(what, lambda program: made_of(report(program, what)))

    def _made(self, what: str, make: Callable[[Program], bytes]) -> Memory:
        program = found("tshark", self._program_path)
        path = os.path.realpath(program.path)
        status = os.stat(path)  # noqa: PTH116
        # With another version it is another file.
        identity = f"{_FORM} {path} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
        key = hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]
        return kept(f"{what}-{key}", lambda: make(program))

    def load(self) -> None:
        """Ask what fields there are, if that is not known yet: up to some seconds, once for each version.

        Raises:
            UnsupportedError: there is no tshark.
            EngineFailed: it does not answer.
        """
        _ = self._lines

    def get(self, name: str) -> KnownField | None:
        """Return a field or a protocol; None: there is none of that name."""
        if name not in self._known:
            cells = self._lines.find(name.encode("utf-8", "surrogateescape"))
            texts = [cell.decode("utf-8", "replace") for cell in cells] if cells else []
            self._known[name] = KnownField(*texts[:5]) if len(texts) >= 5 else None
        return self._known[name]

    def __getitem__(self, name: str) -> KnownField:
        """Return a field or a protocol.

        Raises:
            UnknownField: there is none of that name; near ones are offered.
        """
        field = self.get(name)
        if field is None:
            raise self.unknown(name)
        return field

    def __contains__(self, name: str) -> bool:
        """Whether there is a field or a protocol of a name."""
        return self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        """Iterate over all names, in order."""
        return self.beginning_with("")

    def beginning_with(self, beginning: str) -> Iterator[str]:
        """Iterate over the names that begin so, in order."""
        return (name.decode() for name in self._lines.beginning_with(beginning.encode()))

    def type_of(self, name: str) -> str | None:
        """Return the type of a field or a protocol; None: there is neither."""
        field = self.get(name)
        return None if field is None else field.type

    def has_below(self, name: str) -> bool:
        """Whether there are fields whose names begin with this one and a dot."""
        return next(self.beginning_with(f"{name}."), None) is not None

    def name_here(self, name: str) -> str:
        """Return the name that a field, or a column of the list of packets, has in the version that is there."""
        return name if name in self else _TITLES.get(name, name)

    def checked(self, names: Iterable[str]) -> None:
        """Refuse names of what there is not; columns may be of any title.

        Raises:
            UnknownField: there is no such field.
        """
        for name in names:
            if not name.startswith(_COLUMN) and name not in self:
                raise self.unknown(name)

    def value_names(self, name: str) -> list[ValueName]:
        """Return what the values of a field mean, such as ``ValueName(6, 6, "TCP")`` of ``ip.proto``.

        Raises:
            UnknownField: there is no such field.
        """
        field = self[name]
        memory, index, end = self._values
        cells = index.find(field.name.encode())
        if cells is None:
            return []
        begin, size = end + int(cells[1]), int(cells[2])
        return [
            ValueName(int(first, 0), int(last, 0), label)
            for first, last, label in (
                line.split("\t", 2) for line in memory[begin : begin + size].decode("utf-8", "replace").split("\n")
            )
        ]

    def label_of(self, name: str, value: int) -> str | None:
        """Return what a value of a field means; None: it has no name.

        Raises:
            UnknownField: there is no such field.
        """
        named = (each.label for each in self.value_names(name) if each.first <= value <= each.last)
        return next(named, None)

    def unknown(self, name: str) -> UnknownField:
        """Return the error of a field that there is not, with near ones."""
        protocol, _, rest = name.lower().partition(".")
        candidates = list(self.beginning_with(f"{protocol}.")) if rest else []
        near = difflib.get_close_matches(name.lower(), candidates, _NEAR, _SIMILARITY)
        if not candidates:
            protocols = {each.partition(".")[0] for each in self}
            names = difflib.get_close_matches(protocol, protocols, _NEAR, _SIMILARITY)
            whole = [f"{each}.{rest}" if rest else each for each in names]
            near = [each for each in whole if each in self] or names
        return UnknownField(name, tuple(near), "Wireshark has no field")

    def __getattr__(self, name: str) -> "Named":
        """Return the beginning of names: ``fields.http`` of ``fields.http.host``."""
        if name.startswith("_"):
            raise AttributeError(name)
        return Named(self, name).checked()

    def __dir__(self) -> list[str]:
        """Return also the protocols."""
        return sorted({*super().__dir__(), *(each.partition(".")[0] for each in self)})


class Named:
    """A field by its name's parts: ``fields.http.host``. As text it is its name.

    ``name``, ``type``, ``protocol``, ``title`` and ``description`` are those of the ``KnownField``, unless there is a
    field below of such a name: ``fields.icmp.type`` is the field ``icmp.type``.
    """

    __slots__ = ("_fields", "_own_name")

    def __init__(self, fields: Fields, name: str) -> None:
        """Take a name, or the beginning of one."""
        self._fields = fields
        self._own_name = name

    def checked(self) -> "Named":
        """Return it where there is such a thing.

        Raises:
            AttributeError: there is not; near names are offered.
        """
        if self._own_name not in self._fields and not self._fields.has_below(self._own_name):
            raise UnknownName(str(self._fields.unknown(self._own_name)))
        return self

    def __getattr__(self, name: str) -> Any:
        """Return what is below, as ``Named``, or an attribute of its own, a text."""
        if name.startswith("__"):
            raise AttributeError(name)
        below = Named(self._fields, f"{self._own_name}.{name}")
        own = self._fields.get(self._own_name)
        if own is not None and name in KnownField._fields and below._own_name not in self._fields:
            return getattr(own, name)
        return below.checked()

    def __dir__(self) -> list[str]:
        """Return the next parts of names, and what a field has."""
        below = f"{self._own_name}."
        parts = {each[len(below) :].partition(".")[0] for each in self._fields.beginning_with(below)}
        return sorted({*parts, *(KnownField._fields if self._own_name in self._fields else ())})

    def __str__(self) -> str:
        """Return the name."""
        return self._own_name

    def __repr__(self) -> str:
        """Return what it is."""
        return repr(self._fields.get(self._own_name) or f"<{self._own_name}.…>")


class UnknownName(AttributeError):
    """There is no field whose name begins so; near ones are offered."""


def _aggregator_of(program: Program) -> bytes:
    """Return what a version of tshark leaves as it is between two values."""
    # Nobody's addresses, and nothing behind them.
    packet = b"\x45\0\0\x14" + bytes(5) + b"\xfd" + bytes(10)
    file = pcapng.pcap_header(linktype=_RAW, snaplen_bytes=len(packet))
    file += struct.pack("=IIII", 0, 0, len(packet), len(packet)) + packet
    words = [*rows.words(["ip.addr"], rows.AGGREGATOR), "-n", "-r", "-"]
    said = answer(program, words, "no row", given=file)
    return rows.AGGREGATOR if rows.AGGREGATOR in said else rows.OTHER_AGGREGATOR


#: Those of the ``tshark`` in PATH.
fields: Final = Fields()


@functools.cache
def fields_of_program(program: str | None) -> Fields:
    """Return the fields of a ``tshark``, which are loaded once."""
    return fields if program is None else Fields(program)
