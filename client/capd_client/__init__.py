"""Capture packets without being root: drives the capd daemon, with the vocabulary of dumpcap and wirepy.

``CaptureSession``, ``LiveInterfaceStats`` and ``InterfaceWatcher`` block; ``capd_client.aio`` has the same for programs
on trio and asyncio. ``read`` gives the packets.
"""

from capd_client.blocking.interfaces import Interface, InterfaceWatcher, get_capabilities, get_driver_counters
from capd_client.blocking.questions import (
    Revocation,
    flush_capture,
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
from capd_client.conversation.interface_picture import InterfaceChanged
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
    NameTaken,
    NoEvents,
    NoSuchCapture,
    NotPermitted,
    ReadError,
    ResourceError,
    StreamOverrun,
    UnsupportedError,
)
from capd_client.reading import read, stream
from capd_client.reading.gap import Gap
from capd_client.request.options import CaptureInterface
from capd_client.ring.files import RingFile, files
from capd_protocol.formats.linktypes import LinkLayerType

__all__ = [
    "BadFilterError",
    "BrokenPipe",
    "CaptureEnded",
    "CaptureError",
    "CaptureInterface",
    "CaptureSession",
    "ChildError",
    "DaemonGone",
    "DaemonUnavailable",
    "DestinationError",
    "DiskError",
    "DumpcapError",
    "Gap",
    "Interface",
    "InterfaceChanged",
    "InterfaceError",
    "InterfaceWatcher",
    "InvalidArgument",
    "LinkLayerType",
    "LiveInterfaceStats",
    "NameTaken",
    "NoEvents",
    "NoSuchCapture",
    "NotPermitted",
    "ReadError",
    "ResourceError",
    "Revocation",
    "RingFile",
    "StreamOverrun",
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
    "stop_capture",
    "stream",
    "who_am_i",
]
