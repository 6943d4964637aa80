"""Numbers and tables as people read them."""

from collections.abc import Sequence

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


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Return the lines of a table; columns whose index is in ``right`` are aligned to the right."""
    everything = [header, *rows]
    widths = [max(len(row[i]) for row in everything) for i in range(len(header))]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in everything
    ]
