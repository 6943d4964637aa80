"""Capture packets without being root: drives the capd daemon, with the vocabulary of dumpcap and wirepy.

``CaptureSession``, ``LiveInterfaceStats`` and ``InterfaceWatcher`` block; ``capd_client.aio`` has the same for programs
on trio and asyncio. ``read`` gives the packets.
"""

from capd_client.errors import (
    BadFilterError,
    BrokenPipe,
    CaptureEnded,
    CaptureError,
    ChildError,
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
from capd_client.inquiry import (
    Revocation,
    flush_capture,
    list_captures,
    revoke_captures,
    rotate_capture,
    snapshot_capture,
    stop_capture,
    who_am_i,
)
from capd_client.interfaces import Interface, InterfaceChanged, InterfaceWatcher, get_capabilities, get_driver_counters
from capd_client.options import CaptureInterface
from capd_client.reading import read, stream
from capd_client.reading.gap import Gap
from capd_client.rings import RingFile, files
from capd_client.session import CaptureSession
from capd_client.stats import LiveInterfaceStats
from capd_protocol.formats.linktypes import LinkLayerType

__all__ = [
    "BadFilterError",
    "BrokenPipe",
    "CaptureEnded",
    "CaptureError",
    "CaptureInterface",
    "CaptureSession",
    "ChildError",
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
