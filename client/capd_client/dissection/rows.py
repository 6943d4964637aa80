"""Rows of fields as ``tshark -T fields`` prints them: bytes in, cells out. Pure.

Tabs, carriage returns and line feeds in values are escaped, and so can stand between cells, values and rows. Not every
version leaves a carriage return between values as it is: there it is a byte that UTF-8 has not, which only such values
have that Wireshark has not made UTF-8 of. Last in each row is the frame's number: what comes behind the last tab is
digits, and a line feed before is one in a value, whatever a version of tshark escapes.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from capd_client.dissection.garbage import NotUnderstood, is_number

_SEPARATOR: Final = b"\t"
#: Between the values of a cell; see above.
AGGREGATOR: Final = b"\r"
OTHER_AGGREGATOR: Final = b"\xff"
#: Last in each row.
NUMBER: Final = "frame.number"
#: Longer is none that was asked for. Chosen: many times the largest packet in hexadecimal.
_MOST_BYTES: Final = 64 * 1024 * 1024


def words(names: Sequence[str], aggregator: bytes) -> list[str | bytes]:
    """Return the words that ask for fields in this form."""
    form: list[str | bytes] = ["-E", b"aggregator=" + aggregator, "-E", "separator=/t", "-E", "occurrence=a"]
    form += ["-T", "fields"]
    for name in (*names, NUMBER):
        form += ["-e", name]
    return form


def texts(cell: bytes, aggregator: bytes) -> list[str]:
    """Return the values in a cell."""
    return [each.decode("utf-8", "backslashreplace") for each in cell.split(aggregator)] if cell else []


class Rows:
    """Takes what tshark writes, and gives rows."""

    def __init__(self, fields: int) -> None:
        """Begin.

        Args:
            fields: how many each row has, without its number.
        """
        self._cells = fields + 1
        self._rest = b""

    def take(self, data: bytes) -> Iterator[tuple[int, Sequence[bytes]]]:
        """Give the rows that are whole by now: each frame's number, and a cell for each field, and for that.

        Raises:
            NotUnderstood: this is none.
        """
        lines = (self._rest + data).split(b"\n") if self._rest else data.split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > _MOST_BYTES:
            raise NotUnderstood(self._rest)
        expected, before = self._cells, b""
        for line in lines:
            cells = (before + line if before else line).split(_SEPARATOR)
            if len(cells) < expected:
                before += line + b"\n"
                continue
            before = b""
            last = cells[-1]
            if len(cells) > expected or not is_number(last):
                raise NotUnderstood(line)
            yield int(last), cells
        self._rest = before + self._rest

    def end(self) -> None:
        """Check that nothing is left.

        Raises:
            NotUnderstood: something is.
        """
        if self._rest:
            raise NotUnderstood(self._rest)
