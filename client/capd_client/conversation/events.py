"""Events of a capture: typed, and as wirepy has them, which is pairs of a type, ``SP_…``, and a message.

Typed events are the daemon's own messages, but that files are named by their paths.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from capd_protocol.messages import (
    BadFilter,
    Drops,
    Ended,
    ErrorMessage,
    FailureCode,
    FileClosed,
    FileDeleted,
    FileOpened,
    InterfaceAttached,
    InterfaceLost,
    InterfaceSkipped,
    Lagged,
    PacketCount,
    Recording,
    Refused,
    SnapshotFailed,
    Success,
    Triggered,
)

#: A new file was opened, its header can be read; the message is its path.
SP_FILE = 70
#: So many packets more are in the file named last; the message is an int.
SP_PACKET_COUNT = 80
#: At the end, once for each interface: how many packets it lost in total; the message is an int.
SP_DROPS = 68
#: The capture has failed; the message is a sentence.
SP_ERROR_MSG = 69
#: The filter does not compile, there is no capture; the message is libpcap's.
SP_BAD_FILTER = 66
#: wirepy's; a request that is no capture was carried out. Never comes during one.
SP_SUCCESS = 83
#: Beyond wirepy. A file is complete; the message is a ``FileClosed`` whose name is the file's path.
SP_FILE_CLOSED = ord("f")
#: Beyond wirepy. A ring has deleted its oldest file; the message is a ``FileDeleted`` whose name is the file's path.
SP_FILE_DELETED = ord("d")
#: Beyond wirepy. An interface went away; the message is its name.
SP_INTERFACE_LOST = ord("i")
#: Beyond wirepy. An interface has come, or come back; the message is its name.
SP_INTERFACE_ATTACHED = ord("a")
#: Beyond wirepy. An interface that belongs to the capture cannot be in it; the message is a sentence.
SP_INTERFACE_SKIPPED = ord("k")
#: Beyond wirepy. A recorder runs, and has no file yet; the message is a ``Recording``.
SP_RECORDING = ord("r")
#: Beyond wirepy. A recorder begins with a snapshot of its own accord; the message is a ``Triggered``.
SP_TRIGGERED = ord("t")
#: Beyond wirepy. Such a snapshot was not written, or not all of it; the message is a sentence.
SP_SNAPSHOT_FAILED = ord("s")
#: Beyond wirepy. This program read too slowly; the message says how many events it will not get.
SP_LAGGED = ord("l")
#: Beyond wirepy. The capture has ended; the message is an ``EndReason``.
SP_ENDED = ord("z")

#: wirepy's.
Event = tuple[int, Any]

CaptureEvent = (
    FileOpened
    | PacketCount
    | Drops
    | FileClosed
    | FileDeleted
    | InterfaceLost
    | InterfaceAttached
    | InterfaceSkipped
    | Recording
    | Triggered
    | SnapshotFailed
    | Lagged
    | Refused
    | ErrorMessage
    | BadFilter
    | Success
    | Ended
)


def _itself(event: CaptureEvent) -> CaptureEvent:
    return event


#: Of each typed event: its type in wirepy's vocabulary, and the message that goes with that.
_PAIRS: dict[type[CaptureEvent], tuple[int, Callable[[Any], Any]]] = {
    FileOpened: (SP_FILE, attrgetter("name")),
    PacketCount: (SP_PACKET_COUNT, attrgetter("packets_delta")),
    Drops: (SP_DROPS, attrgetter("drops_total")),
    ErrorMessage: (SP_ERROR_MSG, attrgetter("primary")),
    BadFilter: (SP_BAD_FILTER, attrgetter("text")),
    Refused: (SP_ERROR_MSG, attrgetter("failure.text")),
    Success: (SP_SUCCESS, lambda _: None),
    FileClosed: (SP_FILE_CLOSED, _itself),
    FileDeleted: (SP_FILE_DELETED, _itself),
    InterfaceLost: (SP_INTERFACE_LOST, attrgetter("interface")),
    InterfaceAttached: (SP_INTERFACE_ATTACHED, attrgetter("interface")),
    InterfaceSkipped: (SP_INTERFACE_SKIPPED, lambda event: f"{event.interface}: {event.text}"),
    Recording: (SP_RECORDING, _itself),
    Triggered: (SP_TRIGGERED, _itself),
    SnapshotFailed: (SP_SNAPSHOT_FAILED, attrgetter("failure.text")),
    Lagged: (SP_LAGGED, attrgetter("events")),
    Ended: (SP_ENDED, attrgetter("reason")),
}


def pair_of(event: CaptureEvent) -> Event:
    """Return wirepy's view of an event."""
    event_type, message_of = _PAIRS[type(event)]
    if isinstance(event, Refused) and event.failure.code == FailureCode.BAD_FILTER:
        event_type = SP_BAD_FILTER
    return event_type, message_of(event)


__all__ = [
    "SP_BAD_FILTER",
    "SP_DROPS",
    "SP_ENDED",
    "SP_ERROR_MSG",
    "SP_FILE",
    "SP_FILE_CLOSED",
    "SP_FILE_DELETED",
    "SP_INTERFACE_ATTACHED",
    "SP_INTERFACE_LOST",
    "SP_INTERFACE_SKIPPED",
    "SP_LAGGED",
    "SP_PACKET_COUNT",
    "SP_RECORDING",
    "SP_SNAPSHOT_FAILED",
    "SP_SUCCESS",
    "SP_TRIGGERED",
    "BadFilter",
    "CaptureEvent",
    "Drops",
    "Ended",
    "ErrorMessage",
    "Event",
    "FileClosed",
    "FileDeleted",
    "FileOpened",
    "InterfaceAttached",
    "InterfaceLost",
    "InterfaceSkipped",
    "Lagged",
    "PacketCount",
    "Recording",
    "Refused",
    "SnapshotFailed",
    "Success",
    "Triggered",
    "pair_of",
]
