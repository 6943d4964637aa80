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
        """Open one of the capture's files.

        Args:
            path: as the capture announced it.
        """
        ...

    def next_event(self, block: bool = True, timeout: float | None = None) -> CaptureEvent:
        """Return the next event.

        Args:
            block: wait for one; False: only one that is there already.
            timeout: wait at most so many seconds.
        """
        ...

    def fileno(self) -> int:
        """Return a descriptor that is readable when there may be an event more; -1 when there will be none."""
        ...
