"""Capture packets without being root: drives the capd daemon, with the vocabulary of dumpcap and wirepy.

``CaptureSession``, ``Injector``, ``LiveInterfaceStats`` and ``InterfaceWatcher`` block; ``capd_client.aio`` has the
same for programs on trio and asyncio. ``read`` gives the packets, and ``PacketLoop`` calls a function for each. Events
are in ``events``. What these take, return, give or raise can be named from here too.
"""

import importlib
from typing import TYPE_CHECKING

from capd_client.blocking.injector import Injector
from capd_client.blocking.interfaces import Interface, InterfaceWatcher
from capd_client.blocking.questions import (
    flush_capture,
    get_capabilities,
    get_driver_counters,
    list_captures,
    revoke_captures,
    rotate_capture,
    snapshot_capture,
    stop_capture,
    who_am_i,
)
from capd_client.blocking.session import CaptureSession
from capd_client.blocking.statistics import LiveInterfaceStats
from capd_client.conversation import events
from capd_client.conversation.events import CaptureEvent, EventType
from capd_client.conversation.interface_picture import InterfaceChanged
from capd_client.conversation.questions import Revocation
from capd_client.conversation.sending import SendReport
from capd_client.conversation.statistics import ReceivedDropped
from capd_client.errors import (
    BadFilterError,
    BrokenPipe,
    CaptureEnded,
    CaptureError,
    ChildError,
    DaemonGone,
    DaemonUnavailable,
    DestinationError,
    DiskError,
    DumpcapError,
    InterfaceError,
    InvalidArgument,
    LoopRunning,
    NameTaken,
    NoEvents,
    NoSuchCapture,
    NotPermitted,
    PacketRefused,
    PacketSizeError,
    RateExceeded,
    ReadError,
    ResourceError,
    SessionClosed,
    SourceAddressError,
    SourceError,
    StreamOverrun,
    UnsupportedError,
)
from capd_client.reading import read, stream
from capd_client.reading.event_source import EventSource
from capd_client.reading.gap import Gap, Overflow
from capd_client.request.options import CaptureArguments, CaptureInterface, HasName, HasWrite
from capd_client.request.streams import HasDescriptor
from capd_client.ring.files import HasRingFiles, RingFile, Span, Time, files
from capd_client.transport.connect import SocketPath
from capd_protocol.formats.linktypes import LinkLayerType
from capd_protocol.formats.packet_flags import Direction, PacketKind
from capd_protocol.messages import (
    Capabilities,
    CaptureSummary,
    DeletionReason,
    EndReason,
    Failure,
    FailureCode,
    FileClosed,
    FileDeleted,
    InterfaceCounters,
    Permission,
    Permissions,
    RevokedCapture,
    RevokedDevice,
    RevokedSender,
    SendPermission,
    TriggerReason,
)
from capd_protocol.messages.interfaces import (
    InterfaceChange,
    InterfaceCounts,
    InterfaceInfo,
    InterfaceType,
    Link,
    LinkLayer,
    MissingRight,
    TimestampType,
)
from capd_protocol.sending import Lateness, Reason, Refusal

if TYPE_CHECKING:
    from capd_client.blocking.packet_loop import PacketHandler, PacketLoop
    from capd_client.blocking.sniffing import PacketFunction, SniffedPacket, SniffedPackets, sniff
    from capd_client.reading.headers import PacketHeader, PacketType
    from capd_client.reading.live import Stream
    from capd_client.reading.model import Packet
    from capd_client.reading.reader import Reader
    from capd_protocol.batches.model import Batch, FileInterface, FileStatistics
else:
    #: Where the others are: their modules import numpy, which not every program of a client needs.
    _LATER = {
        "Batch": "capd_protocol.batches.model",
        "FileInterface": "capd_protocol.batches.model",
        "FileStatistics": "capd_protocol.batches.model",
        "Packet": "capd_client.reading.model",
        "PacketFunction": "capd_client.blocking.sniffing",
        "PacketHandler": "capd_client.blocking.packet_loop",
        "PacketHeader": "capd_client.reading.headers",
        "PacketLoop": "capd_client.blocking.packet_loop",
        "PacketType": "capd_client.reading.headers",
        "Reader": "capd_client.reading.reader",
        "SniffedPacket": "capd_client.blocking.sniffing",
        "SniffedPackets": "capd_client.blocking.sniffing",
        "Stream": "capd_client.reading.live",
        "sniff": "capd_client.blocking.sniffing",
    }

    def __getattr__(name: str) -> object:
        """Import what is used for the first time."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
        return found

    def __dir__() -> list[str]:
        """Return also what is imported later."""
        return sorted({*globals(), *_LATER})


__all__ = [
    "BadFilterError",
    "Batch",
    "BrokenPipe",
    "Capabilities",
    "CaptureArguments",
    "CaptureEnded",
    "CaptureError",
    "CaptureEvent",
    "CaptureInterface",
    "CaptureSession",
    "CaptureSummary",
    "ChildError",
    "DaemonGone",
    "DaemonUnavailable",
    "DeletionReason",
    "DestinationError",
    "Direction",
    "DiskError",
    "DumpcapError",
    "EndReason",
    "EventSource",
    "EventType",
    "Failure",
    "FailureCode",
    "FileClosed",
    "FileDeleted",
    "FileInterface",
    "FileStatistics",
    "Gap",
    "HasDescriptor",
    "HasName",
    "HasRingFiles",
    "HasWrite",
    "Injector",
    "Interface",
    "InterfaceChange",
    "InterfaceChanged",
    "InterfaceCounters",
    "InterfaceCounts",
    "InterfaceError",
    "InterfaceInfo",
    "InterfaceType",
    "InterfaceWatcher",
    "InvalidArgument",
    "Lateness",
    "Link",
    "LinkLayer",
    "LinkLayerType",
    "LiveInterfaceStats",
    "LoopRunning",
    "MissingRight",
    "NameTaken",
    "NoEvents",
    "NoSuchCapture",
    "NotPermitted",
    "Overflow",
    "Packet",
    "PacketFunction",
    "PacketHandler",
    "PacketHeader",
    "PacketKind",
    "PacketLoop",
    "PacketRefused",
    "PacketSizeError",
    "PacketType",
    "Permission",
    "Permissions",
    "RateExceeded",
    "ReadError",
    "Reader",
    "Reason",
    "ReceivedDropped",
    "Refusal",
    "ResourceError",
    "Revocation",
    "RevokedCapture",
    "RevokedDevice",
    "RevokedSender",
    "RingFile",
    "SendPermission",
    "SendReport",
    "SessionClosed",
    "SniffedPacket",
    "SniffedPackets",
    "SocketPath",
    "SourceAddressError",
    "SourceError",
    "Span",
    "Stream",
    "StreamOverrun",
    "Time",
    "TimestampType",
    "TriggerReason",
    "UnsupportedError",
    "events",
    "files",
    "flush_capture",
    "get_capabilities",
    "get_driver_counters",
    "list_captures",
    "read",
    "revoke_captures",
    "rotate_capture",
    "snapshot_capture",
    "sniff",
    "stop_capture",
    "stream",
    "who_am_i",
]
