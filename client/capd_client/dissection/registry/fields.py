"""Fields that there are: ``fields["http.host"]``, and ``fields.http.host`` with completion."""

import contextlib
import difflib
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from capd_client.display_filters.expressions import FieldExpression
from capd_client.dissection import rows
from capd_client.dissection.engine.asking import answer, report
from capd_client.dissection.engine.programs import Program, found
from capd_client.dissection.registry.cache import kept
from capd_client.dissection.registry.lines import Memory, SortedLines
from capd_client.dissection.registry.reports import PROTOCOL, fields_of, values_of
from capd_client.errors import EngineFailed, UnknownField, UnsupportedError
from capd_protocol.fields.protocols import FRAME, PROTOCOLS
from capd_protocol.fields.registry import FIELDS
from capd_protocol.formats import pcapng

#: Of what is kept: another number where it is kept in another form.
_FORM: Final = 1
_NEAR: Final = 3
_SIMILARITY: Final = 0.7

#: Of fields that display filters here have, whatever Wireshark there is.
_OWN_NAMES: Final = frozenset((*FIELDS, *PROTOCOLS, FRAME))
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

    ``fields.ip.src`` is a ``FieldExpression``, of which filters are made; shells complete what follows a dot.

    What there is, is asked of ``tshark`` once for each version, and kept in the user's cache. Without it there are the
    expressions for those that display filters have here.
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
        """Return a field or a protocol; None: there is none of that name.

        Args:
            name: of a field, such as ``ip.src``.
        """
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
        """Iterate over the names that begin so, in order.

        Args:
            beginning: such as ``ip.``; an empty one begins all names.
        """
        return (name.decode() for name in self._lines.beginning_with(beginning.encode()))

    def type_of(self, name: str) -> str | None:
        """Return the type of a field or a protocol; None: there is neither.

        Args:
            name: of a field, such as ``ip.src``.
        """
        field = self.get(name)
        return None if field is None else field.type

    def has_below(self, name: str) -> bool:
        """Whether there are fields whose names begin with this one and a dot.

        Args:
            name: of a field, such as ``ip.src``.
        """
        return next(self.beginning_with(f"{name}."), None) is not None

    def name_here(self, name: str) -> str:
        """Return the name that a field, or a column of the list of packets, has in the version that is there.

        Args:
            name: of a field, such as ``ip.src``.
        """
        return name if name in self else _TITLES.get(name, name)

    def checked(self, names: Iterable[str]) -> None:
        """Refuse names of what there is not; columns may be of any title.

        Args:
            names: of fields, or of columns of the list of packets.

        Raises:
            UnknownField: there is no such field.
        """
        for name in names:
            if not name.startswith(_COLUMN) and name not in self:
                raise self.unknown(name)

    def value_names(self, name: str) -> list[ValueName]:
        """Return what the values of a field mean, such as ``ValueName(6, 6, "TCP")`` of ``ip.proto``.

        Args:
            name: of a field, such as ``ip.src``.

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

        Args:
            name: of a field, such as ``ip.src``.
            value: a number that the field may have.

        Raises:
            UnknownField: there is no such field.
        """
        named = (each.label for each in self.value_names(name) if each.first <= value <= each.last)
        return next(named, None)

    def unknown(self, name: str) -> UnknownField:
        """Return the error of a field that there is not, with near ones.

        Args:
            name: of a field, such as ``ip.src``.
        """
        protocol, _, rest = name.lower().partition(".")
        candidates = list(self.beginning_with(f"{protocol}.")) if rest else []
        near = difflib.get_close_matches(name.lower(), candidates, _NEAR, _SIMILARITY)
        if not candidates:
            protocols = {each.partition(".")[0] for each in self}
            names = difflib.get_close_matches(protocol, protocols, _NEAR, _SIMILARITY)
            whole = [f"{each}.{rest}" if rest else each for each in names]
            near = [each for each in whole if each in self] or names
        return UnknownField(name, tuple(near), "Wireshark has no field")

    def named(self, name: str) -> FieldExpression:
        """Return a field, a protocol, or the beginning of names, as an expression.

        Args:
            name: of a field or a protocol, or the beginning of fields' names.

        Raises:
            AttributeError: there is none; near names are offered.
        """
        if name not in _OWN_NAMES and not _own_parts_below(name):
            try:
                if name not in self and not self.has_below(name):
                    raise AttributeError(str(self.unknown(name)))
            except UnsupportedError:
                raise AttributeError(f"without tshark there is no field {name!r}") from None
        return FieldExpression(name, self)

    def parts_below(self, name: str) -> set[str]:
        """Return what follows a name and a dot, up to the next dot; of an empty name what names begin with.

        Args:
            name: of a protocol, or the beginning of fields' names; it may be empty.
        """
        beginning = f"{name}." if name else ""
        parts: set[str] = set()
        with contextlib.suppress(UnsupportedError):  # those that are known here there are all the same
            parts = {each[len(beginning) :].partition(".")[0] for each in self.beginning_with(beginning)}
        return parts | _own_parts_below(name)

    def described(self, name: str) -> str:
        """Return a name, and what is known of it, for people.

        Args:
            name: of a field, such as ``ip.src``.
        """
        try:
            field = self.get(name)
        except (UnsupportedError, EngineFailed):
            field = None
        return name if field is None else f"{name}: {field.title}, {field.type}"

    def __getattr__(self, name: str) -> FieldExpression:
        """Return a field, a protocol, or the beginning of names: ``fields.http`` of ``fields.http.host``."""
        if name.startswith("_"):
            raise AttributeError(name)
        return self.named(name)

    def __repr__(self) -> str:
        """Return whose fields they are."""
        return f"<Fields of {self._program_path or 'tshark'}>"

    def __dir__(self) -> list[str]:
        """Return also the protocols."""
        return sorted({*super().__dir__(), *self.parts_below("")})


def _own_parts_below(name: str) -> set[str]:
    beginning = f"{name}." if name else ""
    return {each.removeprefix(beginning).partition(".")[0] for each in _OWN_NAMES if each.startswith(beginning)}


def _aggregator_of(program: Program) -> bytes:
    """Return what a version of tshark leaves as it is between two values."""
    # Nobody's addresses, and nothing behind them.
    packet = b"\x45\0\0\x14" + bytes(5) + b"\xfd" + bytes(10)
    words = [*rows.words(["ip.addr"], rows.AGGREGATOR), "-n", "-r", "-"]
    said = answer(program, words, "no row", given=pcapng.pcap_of_packet(packet, linktype=_RAW))
    return rows.AGGREGATOR if rows.AGGREGATOR in said else rows.OTHER_AGGREGATOR


#: Fields as attributes, for display filters: ``fields.tcp.dstport == 443``; and what the ``tshark`` in PATH knows.
fields: Final = Fields()


@functools.cache
def fields_of_program(program: str | None) -> Fields:
    """Return the fields of a ``tshark``, which are loaded once."""
    return fields if program is None else Fields(program)
