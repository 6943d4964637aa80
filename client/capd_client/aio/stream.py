"""Live streams of packets, for trio and asyncio."""

from typing import TYPE_CHECKING

from capd_client.aio.session import CaptureSession
from capd_client.reading import DEFAULT_BEHIND_BYTES

if TYPE_CHECKING:
    from capd_client.reading.live import AsyncStream, Overflow


def stream(
    session: CaptureSession,
    *,
    overflow: "Overflow" = "drop_oldest",
    max_behind_bytes: int = DEFAULT_BEHIND_BYTES,
    as_bytes: bool = False,
) -> "AsyncStream":
    """Give the packets of a capture that runs as they come: ``capd_client.stream``, for ``async for``.

    Args:
        session: entered; the stream takes its events.
        overflow: as for ``capd_client.stream``.
        max_behind_bytes: as for ``capd_client.stream``.
        as_bytes: as for ``capd_client.stream``.
    """
    from capd_client.reading.live import AsyncStream, LiveFiles  # noqa: PLC0415  # numpy

    files = LiveFiles(session.open_file, max_behind_bytes=max_behind_bytes, overflow=overflow, as_bytes=as_bytes)
    return AsyncStream(session, files)
