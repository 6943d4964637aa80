"""What is wrong with a display filter, and where. Pure."""

from typing import NamedTuple


class Place(NamedTuple):
    """Where something stands in the text of a filter.

    Attributes:
        begin: the first character's position; the text's length: at its end.
        end: behind the last one.
    """

    begin: int
    end: int


class FilterFault(ValueError):
    """A text is no display filter.

    Attributes:
        place: where it is wrong.
        text: what is wrong there, as a sentence.
        unknown_field: which field or protocol it names that there is not here; empty: that is not what is wrong.
        near: names of fields that resemble it.
    """

    def __init__(self, place: Place, text: str, *, unknown_field: str = "", near: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.place = place
        self.text = text
        self.unknown_field = unknown_field
        self.near = near
