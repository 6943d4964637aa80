"""What blocks in ``capd_client``, for asynchronous programs, on trio and on asyncio (through anyio).

The same arguments, events, handlers and attributes as the blocking classes of the same names.
"""

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from capd_client.aio.dissection import Dissection, dissect
else:

    def __getattr__(name: str) -> object:
        """Import what takes numpy where it is first used."""
        if name not in ("Dissection", "dissect"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from capd_client.aio import dissection  # noqa: PLC0415

        return getattr(dissection, name)


__all__ = [
    "CaptureSession",
    "Dissection",
    "Injector",
    "InterfaceWatcher",
    "LiveInterfaceStats",
    "Stream",
    "dissect",
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


def __dir__() -> list[str]:
    """Return also the names that nobody has used yet."""
    return sorted({*globals(), *__all__})
