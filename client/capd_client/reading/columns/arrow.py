"""Columns as Arrow has them in memory, through pyarrow, which only this needs: the extra ``arrow``.

Its capsules are made by pyarrow too. Made here, through ctypes, their functions would be Python's, and called while an
exception is on its way, which they would lose, and Arrow with them.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from capd_client.errors import UnsupportedError
from capd_protocol.fields.columns import Column
from capd_protocol.fields.types import FieldType

#: Columns by their names, and how many rows they have.
Rows = tuple[Mapping[str, Column], int]

#: pyarrow's functions for types, with their arguments.
_TYPES: Final[dict[FieldType, tuple[Any, ...]]] = {
    FieldType.UINT8: ("uint8",),
    FieldType.UINT16: ("uint16",),
    FieldType.UINT24: ("uint32",),
    FieldType.UINT32: ("uint32",),
    FieldType.INT16: ("int16",),
    FieldType.INT32: ("int32",),
    FieldType.BOOLEAN: ("bool_",),
    FieldType.IPV4: ("uint32",),
    FieldType.IPV6: ("binary", 16),
    FieldType.ETHER: ("binary", 6),
    FieldType.ABSOLUTE_TIME: ("timestamp", "ns", "UTC"),
    FieldType.RELATIVE_TIME: ("duration", "ns"),
    FieldType.STRING: ("string",),
}


def library() -> Any:
    """Return pyarrow.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        import pyarrow  # noqa: PLC0415  # an extra, and slow
    except ImportError as error:
        raise UnsupportedError("Arrow and Parquet need pyarrow: install capd with the extra [arrow]") from error
    return pyarrow


def _type(pyarrow: Any, column: Column) -> Any:
    name, *arguments = _TYPES[column.field.type]
    own = getattr(pyarrow, name)(*arguments)
    return own if column.offsets is None else pyarrow.large_list(own)


def schema_of(columns: Mapping[str, Column]) -> Any:
    """Return the schema of columns, pyarrow's."""
    pyarrow = library()
    return pyarrow.schema([(name, _type(pyarrow, column)) for name, column in columns.items()])


def _bits(pyarrow: Any, flags: npt.NDArray[np.bool_]) -> Any:
    return pyarrow.py_buffer(np.packbits(flags, bitorder="little"))


def _array(pyarrow: Any, column: Column, rows: int) -> Any:
    field, values = column.field, column.values
    own = getattr(pyarrow, _TYPES[field.type][0])(*_TYPES[field.type][1:])
    validity = None if column.valid is None or column.valid.all() else column.valid
    if field.type is FieldType.STRING:
        found = pyarrow.array(values, own, mask=None if validity is None else ~validity)
    else:
        bits = None if validity is None else _bits(pyarrow, validity)
        data = _bits(pyarrow, values) if field.type is FieldType.BOOLEAN else pyarrow.py_buffer(values.view(np.uint8))
        found = pyarrow.Array.from_buffers(own, len(values), [bits, data])
    if column.offsets is None:
        return found
    offsets = pyarrow.py_buffer(column.offsets)
    return pyarrow.Array.from_buffers(pyarrow.large_list(own), rows, [None, offsets], children=[found])


def record_batch(columns: Mapping[str, Column], rows: int) -> Any:
    """Return columns as a record batch of pyarrow's: without a copy but of flags, validity and text.

    Raises:
        UnsupportedError: there is no pyarrow.
    """
    pyarrow = library()
    arrays = [_array(pyarrow, column, rows) for column in columns.values()]
    return pyarrow.RecordBatch.from_arrays(arrays, schema=schema_of(columns))


def batch_reader(empty: Mapping[str, Column], batches: Iterator[Rows]) -> Any:
    """Return a reader of record batches, pyarrow's, which takes them as they are asked for.

    Args:
        empty: columns of the same fields: what their types are.
        batches: what it reads.

    Raises:
        UnsupportedError: there is no pyarrow.
    """
    return library().RecordBatchReader.from_batches(schema_of(empty), (record_batch(*each) for each in batches))
