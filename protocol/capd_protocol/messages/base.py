"""What all messages have in common: the indicators of their frames, and how JSON messages are declared."""

import enum

import msgspec

#: Raised when one side could misunderstand the other. Both sides must agree on it.
PROTOCOL_VERSION = 2


class Indicator(enum.IntEnum):
    """The first byte of each frame."""

    FILE = ord("F")  #: dumpcap: a file was opened, its header is on disk
    PACKET_COUNT = ord("P")  #: dumpcap: packets written since the last such message
    DROPS = ord("D")  #: dumpcap: packets lost on one interface, in total, at the end
    ERROR = ord("E")  #: dumpcap: two texts, each a frame of its own inside
    BAD_FILTER = ord("B")  #: dumpcap: which interface, and libpcap's words
    SUCCESS = ord("S")  #: dumpcap: a request that is no capture was carried out
    HELLO = ord("h")  #: ours: the first frame of each side
    REQUEST = ord("r")  #: ours: client to daemon, daemon to worker
    REPLY = ord("a")  #: ours: one answer to each request
    EVENT = ord("e")  #: ours: what dumpcap has no word for


class JsonMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, repr_omit_defaults=True):
    """A message, or part of one, that travels as a JSON object."""


class Hello(JsonMessage, frozen=True):
    """First frame of each side."""

    protocol_version: int
    #: For logs and people: ``capd 0.1.0``.
    software: str
