"""What is no answer of an engine: from one that is none, or that was cut off. Pure."""

from typing import Final

from capd_protocol.text import escaped

_SHOWN_BYTES: Final = 60
#: Of a frame: as many digits as 64 bits have.
_MOST_DIGITS: Final = 20


class NotUnderstood(Exception):
    """It has written what is no answer; the text is its beginning."""

    def __init__(self, data: bytes) -> None:
        shown = escaped(data[:_SHOWN_BYTES].decode("utf-8", "backslashreplace"))
        super().__init__(f"{shown}…" if len(data) > _SHOWN_BYTES else shown)


def is_number(data: bytes) -> bool:
    """Whether these are the digits of a number that may be a frame's."""
    return data.isdigit() and len(data) <= _MOST_DIGITS
