"""Columns as programs get them, for each batch, and for all of a reader."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Self

from capd_client.errors import InvalidArgument, UnknownField
from capd_client.reading.columns.arrow import Rows, batch_reader, record_batch
from capd_client.reading.selection import Selection
from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.batches.progress import Progress
from capd_protocol.fields.columns import Column, FieldColumns, Occurrence
from capd_protocol.fields.registry import UnknownFieldError


class Columns:
    """The columns of a batch: ``columns["ip.src"]`` is that of a field, ``len(columns)`` the number of rows.

    Whatever takes Arrow's PyCapsule interface takes this too, as one record batch: pyarrow, polars, pandas, DuckDB. It
    needs pyarrow, the extra ``arrow``.
    Arrays are passed on without a copy, but for flags and validity, of which Arrow has eight in a byte.

    Attributes:
        names: of the fields, in the order in which they were asked for.
    """

    def __init__(self, columns: Mapping[str, Column], rows: int) -> None:
        self._columns = columns
        self._rows = rows
        self.names = tuple(columns)

    def __getitem__(self, name: str) -> Column:
        """Return the column of a field.

        Raises:
            KeyError: it was not asked for.
        """
        return self._columns[name]

    def __len__(self) -> int:
        """Return the number of rows: a row for each packet."""
        return self._rows

    @property
    def rows(self) -> Rows:
        """The columns by their names, and how many rows they have."""
        return self._columns, self._rows

    def __repr__(self) -> str:
        """Return which columns these are, and of how many packets."""
        return f"<Columns {', '.join(self.names)} of {self._rows} packets>"

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        """Return the columns as a struct array of Arrow, in capsules for its schema and itself.

        Raises:
            UnsupportedError: there is no pyarrow.
        """
        capsules: tuple[object, object] = record_batch(*self.rows).__arrow_c_array__(requested_schema)
        return capsules

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the columns as a stream of Arrow with one record batch, in a capsule; what is raised is as above."""
        capsule: object = batch_reader(self._columns, iter([self.rows])).__arrow_c_stream__(requested_schema)
        return capsule


class ColumnMaker:
    """Makes columns of batches, for fields that were asked for."""

    def __init__(self, names: Sequence[str], occurrence: Occurrence, selection: Selection) -> None:
        """Nothing is made yet.

        Raises:
            UnknownField: there is no such field.
            InvalidArgument: no field is named, or one twice.
        """
        if not names or len(set(names)) < len(names):
            raise InvalidArgument("columns are of one field at least, and of none twice", argument="names")
        try:
            self._fields = FieldColumns(names, occurrence)
        except UnknownFieldError as error:
            raise UnknownField(error.name, error.near) from None
        self._selection = selection

    def of(self, batch: Batch, interfaces: Sequence[FileInterface], progress: Progress) -> Columns:
        """Return the columns of a batch.

        Args:
            batch: packets.
            interfaces: what their interface ids mean.
            progress: what came before.
        """
        are_chosen = self._selection.mask(batch, interfaces, progress)
        rows = len(batch.offsets) if are_chosen is None else int(are_chosen.sum())
        return Columns(self._fields.of(batch, interfaces, progress, are_chosen), rows)

    def empty(self) -> dict[str, Column]:
        """Return columns without a row: what their types are."""
        return self._fields.empty()


class ColumnReader:
    """Columns batch by batch: an iterator of ``Columns``, and a stream of record batches for Arrow's programs.

    Such as ``polars.from_arrow(packets.columns("ip.src", "ip.dst"))``.
    """

    def __init__(self, maker: ColumnMaker, items: Iterator[Columns]) -> None:
        self._maker = maker
        self._items = items

    def __repr__(self) -> str:
        """Return which columns it gives."""
        return f"<ColumnReader of {', '.join(self._maker.empty())}>"

    @property
    def empty(self) -> Mapping[str, Column]:
        """Columns without a row: what their types are."""
        return self._maker.empty()

    def __iter__(self) -> Self:
        """Iterate over columns, to the end of what is read; what is raised is as for batches."""
        return self

    def __next__(self) -> Columns:
        """Return the columns of the next batch that has packets which match."""
        return next(self._items)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return what is still to come as a stream of Arrow, in a capsule.

        What goes wrong while it is read is an error of the program that takes the stream, with our text.

        Raises:
            UnsupportedError: there is no pyarrow.
        """
        batches = batch_reader(self._maker.empty(), (each.rows for each in self._items))
        capsule: object = batches.__arrow_c_stream__(requested_schema)
        return capsule
