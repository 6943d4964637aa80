"""A source of packets, as the capture loop and the sinks see it."""

import socket
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from capd.worker.packets.merge import Waiting
from capd_protocol.formats import pcapng
from capd_protocol.messages import Counters, InterfaceCounters


class Statistics(NamedTuple):
    """What a source has counted since it began."""

    #: The dropped ones among them.
    received_total: int
    drops_total: int


class Taken(NamedTuple):
    """What a source gave at one time."""

    #: Its packets as records, and what gives their memory back; None where there were none in it after all.
    waiting: Waiting | None
    #: Of the source's memory, 0 to 1.
    share: float


class PacketSource(Protocol):
    """Packets of one interface. One whose interface is gone stays, and may come back.

    It is armed while packets can come. It is lost when its interface is gone, until its last packets were written and
    it was disarmed.
    """

    #: Of the interface.
    name: str
    #: The block that declares it in a pcapng file.
    description: bytes
    #: Becomes readable when a packet comes that triggers a snapshot.
    trigger: socket.socket | None
    #: Packets in files, or in a recorder's memory.
    written_total: int
    is_lost: bool
    #: It was found to be down once; the system does not report what happens to it then.
    was_down: bool

    @property
    def interface_index(self) -> int:
        """The kernel's number of the interface; 0 stands for all."""
        ...

    @property
    def is_armed(self) -> bool:
        """Whether packets can come."""
        ...

    @property
    def size_bytes(self) -> int:
        """How much memory it has for packets that nobody has taken; 0 where it is not armed."""
        ...

    @property
    def is_drained(self) -> bool:
        """Whether every packet that it has counted has been taken."""
        ...

    def fileno(self) -> int:
        """Return what to wait for, edge-triggered, while it is armed."""
        ...

    def take(self) -> Taken | None:
        """Return the next packets; once it is lost, also what the system has not completed yet. None: none are there.

        What is not released stays as it is; at most the whole memory can be held, and what comes then is dropped.
        """
        ...

    def is_ready(self) -> bool:
        """Whether ``take`` would give something."""
        ...

    def caught_up_ns(self, looked_ns: int) -> int:
        """Return a time, by the clock that stamps packets, up to which all have been taken; once nothing is ready.

        Args:
            looked_ns: the present, read before ``take``.
        """
        ...

    def look(self) -> bool:
        """Look what has become of the interface after an error; return whether it is gone, and was there before."""
        ...

    def statistics(self) -> Statistics:
        """Return its totals since the capture began."""
        ...

    def counters(self, *, unwritten: str | None = None) -> InterfaceCounters:
        """Return where its packets are; ``unwritten`` names the counter of those that are in no file at the end."""
        ...

    def disarm(self) -> None:
        """Let nothing more come; what it has counted stays."""
        ...


def drops_by_name(sources: Sequence[PacketSource]) -> dict[str, int]:
    """Return how many packets each source has dropped."""
    return {source.name: source.statistics().drops_total for source in sources}


def statistics_blocks(sources: Sequence[PacketSource], start_ns: int) -> bytes:
    """Return what a pcapng file ends with: where the counters of every interface stand now."""
    now_ns = time.time_ns()
    blocks: list[bytes] = []
    for interface_id, source in enumerate(sources):
        received, drops = source.statistics()
        blocks.append(
            pcapng.interface_statistics(
                interface_id,
                timestamp_ns=now_ns,
                start_ns=start_ns,
                end_ns=now_ns,
                received=received,
                dropped=drops,
                delivered=source.written_total,
            )
        )
    return b"".join(blocks)


def standing(
    sources: Sequence[PacketSource], *, waits: bool, file_size_bytes: int = 0, disk_bytes: int = 0
) -> Counters:
    """Return where a capture stands.

    Args:
        sources: all that it has had.
        waits: it goes on without any.
        file_size_bytes: of its current file.
        disk_bytes: of all its files.
    """
    return Counters(
        file_size_bytes=file_size_bytes,
        disk_bytes=disk_bytes,
        interfaces=tuple(source.counters() for source in sources),
        is_waiting=waits and not any(source.is_armed and not source.is_lost for source in sources),
    )
