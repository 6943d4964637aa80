"""What a reader of a running capture needs of a session."""

from typing import BinaryIO, Protocol, runtime_checkable

from capd_client.conversation.events import CaptureEvent


@runtime_checkable
class EventSource(Protocol):
    """A session that blocks."""

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

    def next_event(self, block: bool = True, timeout: float | None = None) -> CaptureEvent:
        """Return the next event."""
        ...
