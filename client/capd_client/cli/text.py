"""Numbers and tables as people read them."""

import os
from collections.abc import Sequence
from typing import TextIO

from capd_protocol.text import escaped

#: Where a terminal does not report its width, as one behind a serial line.
_USUAL_COLUMNS = 80

_SI = ("", "k", "M", "G", "T")


def si(value: float, unit: str = "") -> str:
    """Return a number with three digits and a prefix of 1000: ``12.3 MB``; whole below 1000."""
    power = 0
    while abs(value) >= 999.5 and power < len(_SI) - 1:
        value /= 1000
        power += 1
    prefix = _SI[power]
    digits = 0 if not prefix or abs(value) >= 99.95 else 1
    return f"{value:.{digits}f} {prefix}{unit}".rstrip()


def count(value: int) -> str:
    """Return a whole number with its thousands apart: ``1,234,567``."""
    return f"{value:,}"


def shorten(text: str, width: int) -> str:
    """Return a text of at most ``width`` characters; the middle goes, since names differ at their ends."""
    if len(text) <= width:
        return text
    if width < 3:
        return text[:width]
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def width_of(stream: TextIO) -> int | None:
    """Return how many columns a terminal has; None for what is no terminal."""
    return (os.get_terminal_size(stream.fileno()).columns or _USUAL_COLUMNS) if stream.isatty() else None


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: frozenset[int] = frozenset(),
    width: int | None = None,
    flexible: frozenset[int] = frozenset(),
) -> list[str]:
    """Return the lines of a table.

    Args:
        header: the first line.
        rows: the others.
        right: indexes of the columns that are aligned to the right.
        width: lines are not longer.
        flexible: indexes of the columns whose cells are shortened for it, the widest first.
    """
    everything = [[escaped(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in everything) for i in range(len(header))]
    if width is not None:
        for _ in range(sum(widths) + 2 * (len(widths) - 1) - width):
            widest = max(flexible, key=lambda i: widths[i] - len(header[i]), default=None)
            if widest is None or widths[widest] <= len(header[widest]):
                break
            widths[widest] -= 1
    lines = (
        "  ".join(
            shorten(cell, size).rjust(size) if i in right else shorten(cell, size).ljust(size)
            for i, (cell, size) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in everything
    )
    return [line[:width] for line in lines]
