"""Dumpcap's own messages, byte for byte (Wireshark, ``sync_pipe.h``)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FileOpened:
    """A new file exists and its header can be read from it.

    Attributes:
        name: its path; in the protocol, its name.
    """

    name: str


@dataclass(frozen=True)
class PacketCount:
    """So many packets more can be read from the current file.

    Attributes:
        packets_delta: how many more, of all interfaces.
    """

    packets_delta: int


@dataclass(frozen=True)
class Drops:
    """At the end of a capture: what was lost on one interface since it began.

    Attributes:
        drops_total: packets lost, since the capture began.
        interface: its name.
    """

    drops_total: int
    interface: str


@dataclass(frozen=True)
class ErrorMessage:
    """What went wrong, and advice, which may be empty.

    Attributes:
        primary: what went wrong, as a sentence.
        secondary: advice; may be empty.
    """

    primary: str
    secondary: str = ""


@dataclass(frozen=True)
class BadFilter:
    """libpcap's words about the filter of the interface with this index.

    Attributes:
        interface_index: its place among those that were asked for, from 0.
        text: libpcap's words.
    """

    interface_index: int
    text: str


@dataclass(frozen=True)
class Success:
    """Done."""


@dataclass(frozen=True)
class Unknown:
    """A frame with an indicator of which we know nothing: to be skipped."""

    indicator: int
    payload: bytes
