"""How a program has ended. Pure."""

from typing import NamedTuple


class Ended(NamedTuple):
    """How a program has ended.

    Attributes:
        status: its exit status, or the number of a signal below zero.
        words: what it has written to standard error.
    """

    status: int
    words: str
