"""What a reader of a running capture needs of a session."""

from typing import BinaryIO, Protocol, runtime_checkable

from capd_client.conversation.events import CaptureEvent


class _HasFiles(Protocol):
    @property
    def packetcount(self) -> int:
        """Packets in the files so far."""
        ...

    @property
    def packetcount_before(self) -> int:
        """Those of them that were there before the session."""
        ...

    def open_file(self, path: str) -> BinaryIO:
        """Open one of the capture's files."""
        ...


@runtime_checkable
class EventSource(_HasFiles, Protocol):
    """A session that blocks."""

    def next_event(self, block: bool = True, timeout: float | None = None) -> CaptureEvent:
        """Return the next event."""
        ...


class AsyncEventSource(_HasFiles, Protocol):
    """A session on trio or asyncio."""

    async def next_event(self, block: bool = True) -> CaptureEvent:
        """Return the next event."""
        ...
