"""Capture packets without being root: drives the capd daemon, with the vocabulary of dumpcap and wirepy.

``CaptureSession`` blocks; ``capd_client.aio`` has the same for programs on trio and asyncio.
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
    NoEvents,
    NotPermitted,
    ResourceError,
    UnsupportedError,
)
from capd_client.options import CaptureInterface
from capd_client.session import CaptureSession, list_captures, stop_capture

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
    "InterfaceError",
    "InvalidArgument",
    "NoEvents",
    "NotPermitted",
    "ResourceError",
    "UnsupportedError",
    "list_captures",
    "stop_capture",
]
