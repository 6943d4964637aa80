"""Numbers and tables as people read them."""

import os
from collections.abc import Sequence
from itertools import accumulate
from typing import TextIO

from capd_protocol.text import escaped

#: Where a terminal does not report its width, as one behind a serial line.
_USUAL_COLUMNS = 80

_SI = ("", "k", "M", "G", "T")

#: A text that may be made shorter, or several of which each is whole or left out, such as addresses.
Cell = str | tuple[str, ...]


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


def whole(items: Sequence[str], width: int | None) -> str:
    """Return as many items as fit, each whole, and the number of others: ``a, b, +3``; empty where nothing fits.

    Args:
        items: what is joined with commas.
        width: at most so many characters; None: all of them.
    """
    if width is None:
        return ", ".join(items)
    sizes = list(accumulate((len(", ") + len(item) for item in items), initial=0))
    for shown in range(len(items), 0, -1):
        rest = f", +{len(items) - shown}" if shown < len(items) else ""
        if sizes[shown] - len(", ") + len(rest) <= width:
            return ", ".join(items[:shown]) + rest
    none = f"+{len(items)}" if items else ""
    return none if len(none) <= width else ""


def width_of(stream: TextIO) -> int | None:
    """Return how many columns a terminal has; None for what is no terminal."""
    return (os.get_terminal_size(stream.fileno()).columns or _USUAL_COLUMNS) if stream.isatty() else None


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[Cell]],
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
    everything = [[_escaped(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(_fitted(row[i], None)) for row in everything) for i in range(len(header))]
    if width is not None:
        for _ in range(sum(widths) + 2 * (len(widths) - 1) - width):
            widest = max(flexible, key=lambda i: widths[i] - len(header[i]), default=None)
            if widest is None or widths[widest] <= len(header[widest]):
                break
            widths[widest] -= 1
        starts = accumulate((size + 2 for size in widths), initial=0)
        # What is still too wide ends with the line.
        widths = [min(size, max(width - start, 0)) for size, start in zip(widths, starts, strict=False)]
    lines = (
        "  ".join(
            _fitted(cell, size).rjust(size) if i in right else _fitted(cell, size).ljust(size)
            for i, (cell, size) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in everything
    )
    return [line[:width] for line in lines]


def _escaped(cell: Cell) -> Cell:
    return escaped(cell) if isinstance(cell, str) else tuple(map(escaped, cell))


def _fitted(cell: Cell, width: int | None) -> str:
    if isinstance(cell, tuple):
        return whole(cell, width)
    return cell if width is None else shorten(cell, width)
