"""Datetimes of times that are nanoseconds since 1970."""

from datetime import UTC, datetime, timedelta
from typing import overload

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@overload
def datetime_of(time_ns: int) -> datetime: ...
@overload
def datetime_of(time_ns: int | None) -> datetime | None: ...
def datetime_of(time_ns: int | None) -> datetime | None:
    """Return the datetime, in UTC, of nanoseconds since 1970-01-01 00:00 UTC; None of None.

    A datetime keeps only microseconds: what is less is cut off, towards the past.

    Raises:
        OverflowError: it is after the year 9999, or before the year 1.
    """
    return None if time_ns is None else _EPOCH + timedelta(microseconds=time_ns // 1000)


def time_text(time_ns: int) -> str:
    """Return a time for people, with all its nanoseconds: ``2026-01-31T12:00:00.123456789Z``.

    Raises:
        OverflowError: as ``datetime_of``.
    """
    return f"{datetime_of(time_ns):%Y-%m-%dT%H:%M:%S}.{time_ns % 1_000_000_000:09}Z"
