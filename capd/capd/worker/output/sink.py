"""Where packets go, as the capture loop sees it: into files, or into a flight recorder's memory."""

import enum
import select
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from capd.launch import Rotate, Snapshot
from capd.worker.packets.merge import Slice
from capd.worker.sources.source import CapturedInterface, PacketSource
from capd_protocol.messages import EndReason, Failure


class Ending(NamedTuple):
    """Why a sink takes no more packets, which ends the capture."""

    reason: EndReason
    failure: Failure | None = None


class SinkFailed(Exception):
    """A sink takes no more packets."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.reason)
        self.ending = ending


class Change(enum.Enum):
    """What has happened to a source."""

    #: Packets can come from now on.
    ARMED = enum.auto()
    #: The kernel reported that its interface is down, or gone.
    DOWN = enum.auto()
    #: It is about to be disarmed: its interface is gone.
    GONE = enum.auto()


class Sink(Protocol):
    """Takes the packets of a capture, and announces by itself what it has opened, closed, and written."""

    @property
    def deadline_s(self) -> float:
        """When ``on_time`` is to be called at the latest, by the monotonic clock; infinite where it need not be."""
        ...

    @property
    def size_bytes(self) -> int:
        """Size of the current file; 0 where there is none."""
        ...

    @property
    def disk_bytes(self) -> int:
        """What all files of the capture take on the disk now."""
        ...

    def begin(
        self,
        epoll: select.epoll,
        urgent: select.epoll,
        sources: Sequence[PacketSource],
        has_written_until: Callable[[int], bool],
        note_written: Callable[[Slice], None],
    ) -> None:
        """Take part in the loop.

        Args:
            epoll: for what ``on_event`` is to be called for.
            urgent: for what of it ends a rest of the loop, too.
            sources: all of the capture; the sequence grows.
            has_written_until: says whether all packets until a time, by the clock that stamps them, were written.
            note_written: is called with records that were taken, before a file that they are in is ended.
        """
        ...

    def write(self, records: Slice) -> Ending | None:
        """Take records, at least one, in the order of their timestamps; return why no more are taken, if it is so."""
        ...

    def describe(self, interface: CapturedInterface, statistics_bytes: int) -> None:
        """Take the block that declares a further interface.

        Args:
            interface: that interface.
            statistics_bytes: what its statistics take at the end.

        Raises:
            CaptureFailed: there is no room for it: the interface is left out.
            SinkFailed: no more packets are taken.
        """
        ...

    def on_time(self, now_s: float) -> Ending | None:
        """Do what is due by now; return why no more packets are taken, if it comes to that."""
        ...

    def on_event(self, descriptor: int, event: int) -> bool:
        """Take an event of ``epoll``, if it is about something of the sink's; return whether it is.

        Raises:
            SinkFailed: no more packets are taken.
        """
        ...

    def order(self, order: Rotate | Snapshot) -> Ending | None:
        """Carry out an order, and answer it when that is done, or say in the answer why it cannot be.

        Returns:
            Why no more packets are taken, if it comes to that; then it is not answered.
        """
        ...

    def save(self, *, wait: bool) -> bool:
        """Have what was taken put where it goes; return whether it is there.

        Args:
            wait: return when it is.

        Raises:
            SinkFailed: it cannot be.
        """
        ...

    def source_changed(self, source: PacketSource, change: Change) -> None:
        """Take note of what happened to a source."""
        ...

    def close(self, drops_total: Mapping[str, int]) -> Ending | None:
        """End what is being written, well; return what failed, if something did.

        Args:
            drops_total: packets that are in no file, since the capture began, by interface.
        """
        ...
