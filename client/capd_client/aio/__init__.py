"""What blocks in ``capd_client``, for asynchronous programs, on trio and on asyncio (through anyio).

The same arguments, events, handlers and attributes as the blocking classes of the same names.
"""

from capd_client.aio.injector import Injector
from capd_client.aio.interfaces import InterfaceWatcher, LiveInterfaceStats
from capd_client.aio.questions import (
    flush_capture,
    get_capabilities,
    get_driver_counters,
    list_captures,
    list_interfaces,
    revoke_captures,
    rotate_capture,
    snapshot_capture,
    stop_capture,
    who_am_i,
)
from capd_client.aio.session import CaptureSession
from capd_client.aio.stream import Stream, stream

__all__ = [
    "CaptureSession",
    "Injector",
    "InterfaceWatcher",
    "LiveInterfaceStats",
    "Stream",
    "flush_capture",
    "get_capabilities",
    "get_driver_counters",
    "list_captures",
    "list_interfaces",
    "revoke_captures",
    "rotate_capture",
    "snapshot_capture",
    "stop_capture",
    "stream",
    "who_am_i",
]
