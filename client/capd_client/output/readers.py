"""Readers of a live stream as they come and leave, with what each of them has missed. Pure."""

import enum
from collections.abc import Callable
from dataclasses import dataclass

from capd_protocol.text import counted


class ReaderChange(enum.Enum):
    """What has become of a reader."""

    CAME = "came"
    #: There are as many as there may be.
    REFUSED = "refused"
    LEFT = "left"
    #: The capture has ended, and it was given what it did not miss.
    DONE = "done"
    #: It took nothing any more, and was left.
    STUCK = "stuck"
    #: What was captured cannot be read, or nothing be written to it.
    FAILED = "failed"


@dataclass(frozen=True)
class ReaderEvent:
    """Something that happens to a reader.

    Attributes:
        number: of the reader, from 1.
        name: for people.
        change: what it is.
        missed_packets: that it did not get while it read.
        text: why it has failed, or is refused.
    """

    number: int
    name: str
    change: ReaderChange
    missed_packets: int = 0
    text: str = ""

    def __str__(self) -> str:
        """Return what happens, for people."""
        missed = counted(self.missed_packets, "packet")
        match self.change:
            case ReaderChange.CAME:
                return f"{self.name} reads"
            case ReaderChange.REFUSED:
                return f"{self.name} is refused: {self.text}"
            case ReaderChange.STUCK:
                return f"{self.name} took nothing any more, and is left: {missed} not written"
            case ReaderChange.FAILED:
                return f"{self.name}: {self.text}"
            case _:
                return f"{self.name} has left" + (f": {missed} not written, it was slow" if self.missed_packets else "")


#: Takes them; called from other threads, too.
ReaderReport = Callable[[ReaderEvent], object]
