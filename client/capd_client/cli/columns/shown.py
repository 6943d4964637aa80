"""Columns as lines: a table, comma-separated values, JSON."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Protocol

from capd_protocol.text import escaped

if TYPE_CHECKING:
    from capd_client.reading.columns.model import Columns
    from capd_protocol.fields.columns import Column


class Form(Protocol):
    """A form in which columns are printed."""

    def head(self) -> Iterable[str]:
        """Return the lines before all others."""
        ...

    def lines(self, columns: "Columns") -> Iterable[str]:
        """Return a line for each row."""
        ...


def _texts(column: "Column") -> list[str]:
    """Return the texts of a column; what others have written without what could look like a line of ours."""
    texts = column.texts()
    return list(map(escaped, texts)) if column.field.type.dtype.kind == "O" else texts


class _Table:
    """Aligned by the widest values that have come."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._widths: list[int] = []

    def head(self) -> Iterable[str]:
        return ()  # nobody knows yet how wide it is

    def lines(self, columns: "Columns") -> Iterator[str]:
        texts = [_texts(columns[name]) for name in self._names]
        is_first, before = not self._widths, self._widths or [len(name) for name in self._names]
        self._widths = [max(width, *map(len, column)) for width, column in zip(before, texts, strict=True)]
        if is_first:
            yield self._line(self._names)
        yield from map(self._line, zip(*texts, strict=True))

    def _line(self, cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, self._widths, strict=True)).rstrip()


class _Csv:
    """As RFC 4180 has it, but for its line ends; with a line of names."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def head(self) -> Iterable[str]:
        return self._rows([self._names])

    def lines(self, columns: "Columns") -> Iterable[str]:
        return self._rows(zip(*(_texts(columns[name]) for name in self._names), strict=True))

    def _rows(self, rows: Iterable[Sequence[str]]) -> list[str]:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue().split("\n")[:-1]


class _Json:
    """An object for each packet: numbers and flags as they are, addresses and times as texts."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def head(self) -> Iterable[str]:
        return ()

    def lines(self, columns: "Columns") -> Iterator[str]:
        cells = [self._cells(columns[name]) for name in self._names]
        for row in zip(*cells, strict=True):
            yield json.dumps(dict(zip(self._names, row, strict=True)))

    def _cells(self, column: "Column") -> list[Any]:
        values: list[Any] = column.values.tolist() if column.field.is_number else column.value_texts()
        if column.offsets is not None:
            return [values[begin:end] for begin, end in pairwise(column.offsets.tolist())]
        assert column.valid is not None
        return [value if valid else None for value, valid in zip(values, column.valid.tolist(), strict=True)]


#: By names.
FORMS: Final[dict[str, Callable[[Sequence[str]], Form]]] = {"table": _Table, "csv": _Csv, "json": _Json}
