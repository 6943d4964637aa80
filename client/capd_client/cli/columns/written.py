"""Columns as files of Parquet and Arrow, through pyarrow."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from capd_client.errors import DestinationError, DiskError, InvalidArgument
from capd_client.reading.columns.arrow import library, schema_of

if TYPE_CHECKING:
    from capd_client.reading.columns.model import ColumnReader


def check(options: argparse.Namespace) -> None:
    """Find what cannot be done before anything is read.

    Raises:
        InvalidArgument: nothing is written that could be replaced.
        DestinationError: what would be written is there already.
        UnsupportedError: there is no pyarrow.
    """
    path = options.parquet or options.arrow
    if path is None:
        if options.overwrite:
            raise InvalidArgument("there is no file to overwrite without --parquet or --arrow", argument="overwrite")
        return
    library()
    if not options.overwrite and os.path.lexists(path):
        raise DestinationError(f"{path} is there already: name another file, or say --overwrite")


def write(columns: "ColumnReader", options: argparse.Namespace) -> None:
    """Write a file; it has its name when it is complete.

    Raises:
        DestinationError: it cannot be created there.
        DiskError: it cannot be written any further; what was written is gone again.
        ReadError: what is read is damaged; likewise.
    """
    path = Path(options.parquet or options.arrow)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        file = part.open("xb")
    except OSError as error:
        raise DestinationError(f"{path}: the file cannot be created: {error.strerror}") from error
    try:
        with file:
            _write_all(columns, _writer(file, columns, bool(options.parquet)))
        part.replace(path)
    except OSError as error:
        raise DiskError(f"{path}: the file cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def _writer(file: BinaryIO, columns: "ColumnReader", is_parquet: bool) -> Any:
    schema = schema_of(columns.empty)
    if not is_parquet:
        return library().ipc.new_file(file, schema)
    from pyarrow import parquet  # noqa: PLC0415  # of an extra

    return parquet.ParquetWriter(file, schema)


def _write_all(columns: "ColumnReader", writer: Any) -> None:
    pyarrow = library()
    with writer:
        for each in columns:
            writer.write_batch(pyarrow.record_batch(each))
