"""Events of a capture: typed, and as wirepy has them, which is pairs of a type, ``SP_…``, and a message.

Typed events are the daemon's own messages, but that files are named by their paths.
"""

import enum
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from capd_client.errors import InvalidArgument
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
    TriggersIgnored,
)


class EventType(enum.IntEnum):
    """Types of events in wirepy's vocabulary: numbers as wirepy has them, which print as their names.

    ``EVENTS`` says what each of them carries.
    """

    SP_FILE = 70
    SP_PACKET_COUNT = 80
    SP_DROPS = 68
    SP_ERROR_MSG = 69
    SP_BAD_FILTER = 66
    SP_SUCCESS = 83
    # What follows is capd's own; wirepy has only those above.
    SP_FILE_CLOSED = ord("f")
    SP_FILE_DELETED = ord("d")
    SP_INTERFACE_LOST = ord("i")
    SP_INTERFACE_ATTACHED = ord("a")
    SP_INTERFACE_SKIPPED = ord("k")
    SP_RECORDING = ord("r")
    SP_TRIGGERED = ord("t")
    SP_SNAPSHOT_FAILED = ord("s")
    SP_TRIGGERS_IGNORED = ord("g")
    SP_LAGGED = ord("l")
    SP_ENDED = ord("z")

    def __repr__(self) -> str:
        return self.name

    def __str__(self) -> str:
        return self.name

    def __format__(self, format_spec: str) -> str:
        return format(self.name, format_spec)


SP_FILE = EventType.SP_FILE
SP_PACKET_COUNT = EventType.SP_PACKET_COUNT
SP_DROPS = EventType.SP_DROPS
SP_ERROR_MSG = EventType.SP_ERROR_MSG
SP_BAD_FILTER = EventType.SP_BAD_FILTER
SP_SUCCESS = EventType.SP_SUCCESS
SP_FILE_CLOSED = EventType.SP_FILE_CLOSED
SP_FILE_DELETED = EventType.SP_FILE_DELETED
SP_INTERFACE_LOST = EventType.SP_INTERFACE_LOST
SP_INTERFACE_ATTACHED = EventType.SP_INTERFACE_ATTACHED
SP_INTERFACE_SKIPPED = EventType.SP_INTERFACE_SKIPPED
SP_RECORDING = EventType.SP_RECORDING
SP_TRIGGERED = EventType.SP_TRIGGERED
SP_SNAPSHOT_FAILED = EventType.SP_SNAPSHOT_FAILED
SP_TRIGGERS_IGNORED = EventType.SP_TRIGGERS_IGNORED
SP_LAGGED = EventType.SP_LAGGED
SP_ENDED = EventType.SP_ENDED

#: wirepy's.
Event = tuple[EventType, Any]

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
    | TriggersIgnored
    | Lagged
    | Refused
    | ErrorMessage
    | BadFilter
    | Success
    | Ended
)


def _itself(event: CaptureEvent) -> CaptureEvent:
    return event


def _nothing(_event: CaptureEvent) -> None:
    return None


def _skipped(event: InterfaceSkipped) -> str:
    return f"{event.interface}: {event.text}"


class EventSpec(NamedTuple):
    """What an event is in wirepy's vocabulary.

    Attributes:
        type: of the pair.
        carries: what its message is.
        meaning: when it comes.
        message_of: returns the message of a typed event.
    """

    type: EventType
    carries: str
    meaning: str
    message_of: Callable[[Any], Any]


#: Of each typed event.
EVENTS: dict[type[CaptureEvent], EventSpec] = {
    FileOpened: EventSpec(
        SP_FILE, "path", "a file was opened and has its header; from now on packets go there", attrgetter("name")
    ),
    PacketCount: EventSpec(
        SP_PACKET_COUNT, "number", "so many more packets are in the file", attrgetter("packets_delta")
    ),
    Drops: EventSpec(SP_DROPS, "number", "at the end, for each interface: packets lost", attrgetter("drops_total")),
    ErrorMessage: EventSpec(
        SP_ERROR_MSG, "text", "the capture was refused or has failed; raised as `ChildError`", attrgetter("primary")
    ),
    BadFilter: EventSpec(
        SP_BAD_FILTER, "text", "the filter does not compile; raised as `BadFilterError`", attrgetter("text")
    ),
    # Of a bad filter it is SP_BAD_FILTER.
    Refused: EventSpec(
        SP_ERROR_MSG,
        "text",
        "the capture was refused or has failed; raised as `ChildError`",
        attrgetter("failure.text"),
    ),
    Success: EventSpec(SP_SUCCESS, "nothing", "wirepy's; does not occur during a capture", _nothing),
    FileClosed: EventSpec(SP_FILE_CLOSED, "`FileClosed`", "a file is complete", _itself),
    FileDeleted: EventSpec(SP_FILE_DELETED, "`FileDeleted`", "the ring has deleted its oldest file, and why", _itself),
    InterfaceLost: EventSpec(SP_INTERFACE_LOST, "name", "an interface has disappeared", attrgetter("interface")),
    InterfaceAttached: EventSpec(
        SP_INTERFACE_ATTACHED, "name", "an interface has appeared, or reappeared", attrgetter("interface")
    ),
    InterfaceSkipped: EventSpec(
        SP_INTERFACE_SKIPPED,
        "text",
        "an interface that matches is not captured, and why",
        _skipped,
    ),
    Recording: EventSpec(SP_RECORDING, "`Recording`", "a flight recorder runs, and has no file yet", _itself),
    Triggered: EventSpec(SP_TRIGGERED, "`Triggered`", "a trigger starts a snapshot", _itself),
    SnapshotFailed: EventSpec(
        SP_SNAPSHOT_FAILED, "text", "that snapshot is missing or incomplete", attrgetter("failure.text")
    ),
    TriggersIgnored: EventSpec(
        SP_TRIGGERS_IGNORED,
        "number",
        "triggers came while a snapshot was written and in the cool-down after it, and began no other",
        attrgetter("triggers"),
    ),
    Lagged: EventSpec(
        SP_LAGGED, "number", "the program was too slow: so many events are missing, but no count", attrgetter("events")
    ),
    Ended: EventSpec(SP_ENDED, "`EndReason`", "the capture has ended", attrgetter("reason")),
}

#: What wirepy has. A program that was made for it knows no other.
WIREPYS = frozenset({SP_FILE, SP_PACKET_COUNT, SP_DROPS, SP_ERROR_MSG, SP_BAD_FILTER, SP_SUCCESS})

#: Which events beyond wirepy's are wanted: all, or some by type or name.
Wanted = Literal["all"] | Iterable[int | str]


def event_type_of(wanted: int | str) -> EventType:
    """Return the type of an event that is called by its number or name.

    Raises:
        InvalidArgument: there is none.
    """
    try:
        return EventType[wanted] if isinstance(wanted, str) else EventType(wanted)
    except (KeyError, ValueError) as error:
        names = ", ".join(EventType.__members__)
        raise InvalidArgument(f"{wanted!r} is no event: there are {names}", argument="events") from error


def wanted_types(wanted: Wanted) -> frozenset[EventType]:
    """Return which events are shown: wirepy's, and those that are wanted.

    Raises:
        InvalidArgument: one of them is none.
    """
    if wanted == "all":
        return frozenset(EventType)
    if isinstance(wanted, str):  # a single name is a likely mistake, and its letters are no events
        return WIREPYS | {event_type_of(wanted)}
    return WIREPYS | {event_type_of(each) for each in wanted}


def pair_of(event: CaptureEvent) -> Event:
    """Return wirepy's view of an event.

    Args:
        event: as ``CaptureSession.next_event`` returns it.
    """
    spec = EVENTS[type(event)]
    is_bad_filter = isinstance(event, Refused) and event.failure.code == FailureCode.BAD_FILTER
    return SP_BAD_FILTER if is_bad_filter else spec.type, spec.message_of(event)


__all__ = [
    "EVENTS",
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
    "SP_TRIGGERS_IGNORED",
    "BadFilter",
    "CaptureEvent",
    "Drops",
    "Ended",
    "ErrorMessage",
    "Event",
    "EventSpec",
    "EventType",
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
    "TriggersIgnored",
    "Wanted",
    "pair_of",
]
