"""Sentences for people: what others have called things, and how many there are. For both sides.

What is not printable (``str.isprintable``: control characters, line ends, escape sequences, and what changes the
direction of text or has no width) stands in them as Python writes it in a literal.
"""

from collections.abc import Collection
from itertools import count


def escaped(text: str) -> str:
    r"""Return a text on one line, with ``\n``, ``\x1b`` and the like for what is not printable."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def quoted(name: str) -> str:
    """Return a name as it is, or, if something in it is not printable, in quotes and escaped."""
    return name if name.isprintable() else repr(name)


def numbered(name: str, taken: Collection[str]) -> str:
    """Return a name that is not taken: this one, or with the first number behind it that is free, from 2."""
    if name not in taken:
        return name
    return next(each for each in (f"{name} ({number})" for number in count(2)) if each not in taken)


def counted(number: int, what: str) -> str:
    """Return how many there are, with the thousands apart: ``1 packet``, ``1,234 packets``.

    Args:
        number: how many.
        what: one of them; an "s" makes it several.
    """
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
