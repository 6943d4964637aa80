"""Capture packets without being root: drives the capd daemon, with the vocabulary of dumpcap and wirepy.

``CaptureSession``, ``Injector``, ``LiveInterfaceStats`` and ``InterfaceWatcher`` block; ``capd_client.aio`` has the
same for programs on trio and asyncio. ``read`` gives the packets, and ``PacketLoop`` calls a function for each. Events
are in ``events``. What these take, return, give or raise can be named from here too.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capd_client.blocking.injector import Injector
    from capd_client.blocking.interfaces import Interface, InterfaceWatcher
    from capd_client.blocking.packet_loop import PacketHandler, PacketLoop
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
    from capd_client.blocking.sniffing import PacketFunction, SniffedPacket, SniffedPackets, sniff
    from capd_client.blocking.statistics import LiveInterfaceStats
    from capd_client.conversation import events
    from capd_client.conversation.events import CaptureEvent, EventType
    from capd_client.conversation.interface_picture import InterfaceChanged
    from capd_client.conversation.questions import Revocation
    from capd_client.conversation.sending import SendReport
    from capd_client.conversation.statistics import ReceivedDropped
    from capd_client.display_filters.expressions import FieldExpression, FilterExpression
    from capd_client.display_filters.filter import AnyDisplayFilter, DisplayFilter
    from capd_client.dissection.blocking import Dissection
    from capd_client.dissection.dissecting import Restarted
    from capd_client.dissection.frames import Expert, FieldFrame, Frame, Part, WholeFrame
    from capd_client.dissection.options import DissectionArguments
    from capd_client.dissection.pdml import Item
    from capd_client.dissection.registry.fields import Fields, KnownField, ValueName, fields
    from capd_client.dissection.values import Value
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
        DisplayFilterError,
        DumpcapError,
        EngineFailed,
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
        UnknownField,
        UnsupportedError,
    )
    from capd_client.reading import read, stream
    from capd_client.reading.columns.model import ColumnReader, Columns
    from capd_client.reading.event_source import EventSource
    from capd_client.reading.gap import Gap, Overflow
    from capd_client.reading.headers import PacketHeader, PacketType
    from capd_client.reading.live import Stream
    from capd_client.reading.model import Packet
    from capd_client.reading.reader import Reader
    from capd_client.reading.types import FileType, iter_encapsulation_types, iter_file_types
    from capd_client.request.options import CaptureArguments, CaptureInterface, HasName, HasWrite
    from capd_client.request.streams import HasDescriptor
    from capd_client.ring.files import HasRingFiles, RingFile, Span, Time, files
    from capd_client.transport.connect import SocketPath
    from capd_client.writing import FileFormat, merge, split, write
    from capd_protocol.batches.model import Batch, FileInterface, FileStatistics
    from capd_protocol.batches.packet_options import OptionColumn, StoredOptions
    from capd_protocol.fields.columns import Column, Occurrence
    from capd_protocol.fields.registry import Field
    from capd_protocol.fields.types import FieldType
    from capd_protocol.formats.linktypes import LinkLayerType
    from capd_protocol.formats.metadata import CustomBlock, NameResolution, OtherBlock, Secrets, Section
    from capd_protocol.formats.options import Option, Options
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
else:
    #: Where each is: imported where it is first used, so that a program which takes little of this starts at once.
    _NAMES = {
        "capd_client.blocking.injector": "Injector",
        "capd_client.blocking.interfaces": "Interface InterfaceWatcher",
        "capd_client.blocking.packet_loop": "PacketHandler PacketLoop",
        "capd_client.blocking.questions": """
            flush_capture get_capabilities get_driver_counters list_captures revoke_captures
            rotate_capture snapshot_capture stop_capture who_am_i
        """,
        "capd_client.blocking.session": "CaptureSession",
        "capd_client.blocking.sniffing": "PacketFunction SniffedPacket SniffedPackets sniff",
        "capd_client.blocking.statistics": "LiveInterfaceStats",
        "capd_client.conversation.events": "CaptureEvent EventType",
        "capd_client.conversation.interface_picture": "InterfaceChanged",
        "capd_client.conversation.questions": "Revocation",
        "capd_client.conversation.sending": "SendReport",
        "capd_client.conversation.statistics": "ReceivedDropped",
        "capd_client.dissection.blocking": "Dissection",
        "capd_client.dissection.dissecting": "Restarted",
        "capd_client.dissection.frames": "Expert FieldFrame Frame Part WholeFrame",
        "capd_client.dissection.options": "DissectionArguments",
        "capd_client.dissection.pdml": "Item",
        "capd_client.dissection.registry.fields": "Fields KnownField ValueName fields",
        "capd_client.dissection.values": "Value",
        "capd_client.errors": """
            BadFilterError BrokenPipe CaptureEnded CaptureError ChildError DaemonGone DaemonUnavailable
            DestinationError DiskError DisplayFilterError DumpcapError EngineFailed InterfaceError InvalidArgument
            LoopRunning NameTaken NoEvents NoSuchCapture NotPermitted PacketRefused PacketSizeError RateExceeded
            ReadError ResourceError SessionClosed SourceAddressError SourceError StreamOverrun UnknownField
            UnsupportedError
        """,
        "capd_client.display_filters.expressions": "FieldExpression FilterExpression",
        "capd_client.display_filters.filter": "AnyDisplayFilter DisplayFilter",
        "capd_client.reading": "read stream",
        "capd_client.reading.columns.model": "ColumnReader Columns",
        "capd_client.reading.event_source": "EventSource",
        "capd_client.reading.gap": "Gap Overflow",
        "capd_client.reading.headers": "PacketHeader PacketType",
        "capd_client.reading.live": "Stream",
        "capd_client.reading.model": "Packet",
        "capd_client.reading.reader": "Reader",
        "capd_client.reading.types": "FileType iter_encapsulation_types iter_file_types",
        "capd_client.request.options": "CaptureArguments CaptureInterface HasName HasWrite",
        "capd_client.request.streams": "HasDescriptor",
        "capd_client.ring.files": "HasRingFiles RingFile Span Time files",
        "capd_client.transport.connect": "SocketPath",
        "capd_client.writing": "FileFormat merge split write",
        "capd_protocol.batches.model": "Batch FileInterface FileStatistics",
        "capd_protocol.batches.packet_options": "OptionColumn StoredOptions",
        "capd_protocol.fields.columns": "Column Occurrence",
        "capd_protocol.fields.registry": "Field",
        "capd_protocol.fields.types": "FieldType",
        "capd_protocol.formats.linktypes": "LinkLayerType",
        "capd_protocol.formats.metadata": "CustomBlock NameResolution OtherBlock Secrets Section",
        "capd_protocol.formats.options": "Option Options",
        "capd_protocol.formats.packet_flags": "Direction PacketKind",
        "capd_protocol.messages": """
            Capabilities CaptureSummary DeletionReason EndReason Failure FailureCode FileClosed
            FileDeleted InterfaceCounters Permission Permissions RevokedCapture RevokedDevice
            RevokedSender SendPermission TriggerReason
        """,
        "capd_protocol.messages.interfaces": """
            InterfaceChange InterfaceCounts InterfaceInfo InterfaceType Link LinkLayer MissingRight
            TimestampType
        """,
        "capd_protocol.sending": "Lateness Reason Refusal",
    }
    _PLACES = {name: module for module, names in _NAMES.items() for name in names.split()}

    def __getattr__(name: str) -> object:
        """Import what is used for the first time."""
        if name == "events":
            found = importlib.import_module("capd_client.conversation.events")
        elif name in _PLACES:
            found = getattr(importlib.import_module(_PLACES[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        """Return also what is imported later."""
        return sorted({*globals(), *_PLACES, "events"})


__all__ = [
    "AnyDisplayFilter",
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
    "Column",
    "ColumnReader",
    "Columns",
    "CustomBlock",
    "DaemonGone",
    "DaemonUnavailable",
    "DeletionReason",
    "DestinationError",
    "Direction",
    "DiskError",
    "DisplayFilter",
    "DisplayFilterError",
    "Dissection",
    "DissectionArguments",
    "DumpcapError",
    "EndReason",
    "EngineFailed",
    "EventSource",
    "EventType",
    "Expert",
    "Failure",
    "FailureCode",
    "Field",
    "FieldExpression",
    "FieldFrame",
    "FieldType",
    "Fields",
    "FileClosed",
    "FileDeleted",
    "FileFormat",
    "FileInterface",
    "FileStatistics",
    "FileType",
    "FilterExpression",
    "Frame",
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
    "Item",
    "KnownField",
    "Lateness",
    "Link",
    "LinkLayer",
    "LinkLayerType",
    "LiveInterfaceStats",
    "LoopRunning",
    "MissingRight",
    "NameResolution",
    "NameTaken",
    "NoEvents",
    "NoSuchCapture",
    "NotPermitted",
    "Occurrence",
    "Option",
    "OptionColumn",
    "Options",
    "OtherBlock",
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
    "Part",
    "Permission",
    "Permissions",
    "RateExceeded",
    "ReadError",
    "Reader",
    "Reason",
    "ReceivedDropped",
    "Refusal",
    "ResourceError",
    "Restarted",
    "Revocation",
    "RevokedCapture",
    "RevokedDevice",
    "RevokedSender",
    "RingFile",
    "Secrets",
    "Section",
    "SendPermission",
    "SendReport",
    "SessionClosed",
    "SniffedPacket",
    "SniffedPackets",
    "SocketPath",
    "SourceAddressError",
    "SourceError",
    "Span",
    "StoredOptions",
    "Stream",
    "StreamOverrun",
    "Time",
    "TimestampType",
    "TriggerReason",
    "UnknownField",
    "UnsupportedError",
    "Value",
    "ValueName",
    "WholeFrame",
    "events",
    "fields",
    "files",
    "flush_capture",
    "get_capabilities",
    "get_driver_counters",
    "iter_encapsulation_types",
    "iter_file_types",
    "list_captures",
    "merge",
    "read",
    "revoke_captures",
    "rotate_capture",
    "snapshot_capture",
    "sniff",
    "split",
    "stop_capture",
    "stream",
    "who_am_i",
    "write",
]
