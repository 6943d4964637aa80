"""A source of packets, and the interfaces of a capture, as the capture loop and the sinks see them."""

import socket
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from capd.worker.packets.merge import Waiting
from capd_protocol.formats import pcapng
from capd_protocol.messages import Counters, Failure, FailureCode, InterfaceCounters


class Statistics(NamedTuple):
    """What was counted of an interface since the capture began."""

    #: The dropped ones among them.
    received_total: int
    drops_total: int


class Taken(NamedTuple):
    """What a source gave at one time."""

    #: Its packets as records, and what gives their memory back; None where there were none in it after all.
    waiting: Waiting | None
    #: Of the source's memory, 0 to 1.
    share: float


class CapturedInterface(Protocol):
    """An interface that files declare, with its counters. Its number is its place among those of the capture."""

    @property
    def name(self) -> str:
        """What it is called in counters and events."""
        ...

    @property
    def description(self) -> bytes:
        """The block that declares it in a pcapng file."""
        ...

    @property
    def linktype(self) -> int:
        """LINKTYPE_ number of its packets."""
        ...

    @property
    def snaplen_bytes(self) -> int:
        """How much of a packet is kept."""
        ...

    @property
    def written_total(self) -> int:
        """Packets in files, or in a recorder's memory."""
        ...

    @written_total.setter
    def written_total(self, packets: int) -> None: ...

    def statistics(self) -> Statistics:
        """Return its totals since the capture began."""
        ...


#: Has a further interface declared in the files, and returns its number. Raises CaptureFailed where there is no room.
Declare = Callable[[CapturedInterface], int]


class Listener(Protocol):
    """What is told of what becomes of sources by themselves."""

    def interface_lost(self, name: str, text: str) -> None:
        """Take note that one is gone for now, and why."""
        ...

    def interface_attached(self, name: str) -> None:
        """Take note that it has come again."""
        ...


class PacketSource(Protocol):
    """Packets of one interface, or of a stream that has several. One whose interface is gone stays, and may come back.

    It is armed while packets can come. It is lost when its interface is gone, or its stream has ended, until its last
    packets were written and it was disarmed.
    """

    #: Of the interface or stream.
    name: str
    #: Becomes readable when a packet comes that triggers a snapshot.
    trigger: socket.socket | None
    is_lost: bool
    #: Its interface was found to be down once; the system does not report what happens to it then.
    was_down: bool

    @property
    def interface_index(self) -> int | None:
        """The kernel's number of the interface; 0 stands for all. None: it is none of this system's."""
        ...

    @property
    def ring_number(self) -> int | None:
        """By which the daemon knows its packet ring; None where it has none."""
        ...

    @property
    def is_armed(self) -> bool:
        """Whether packets can come."""
        ...

    @property
    def may_return(self) -> bool:
        """Whether packets can come again, once none can, where the capture waits for that."""
        ...

    @property
    def loss(self) -> Failure | None:
        """Why no more come, once it is lost; None where it has come to its end, and all is well."""
        ...

    @property
    def size_bytes(self) -> int:
        """How much can wait for ``take`` until packets are dropped; 0 where it is not armed."""
        ...

    @property
    def is_drained(self) -> bool:
        """Whether every packet that it has counted has been taken."""
        ...

    def begin(self, declare: Declare, listener: Listener) -> None:
        """Take part; interfaces that are found in its packets are to be declared."""
        ...

    def fileno(self) -> int:
        """Return what to wait for, edge-triggered, while it is armed; -1: there is nothing to wait for."""
        ...

    def take(self) -> Taken | None:
        """Return the next packets; once it is lost, also what the system has not completed yet. None: none are there.

        What is not released stays as it is; at most the whole memory can be held, and what comes then is dropped, or
        waits with who sends it.

        Raises:
            SinkFailed: an interface that was found cannot be declared: no more packets are taken.
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
        """Return the totals of its interfaces since the capture began."""
        ...

    def disarm(self) -> None:
        """Let nothing more come; what it has counted stays."""
        ...


def one_interface_only(interface: CapturedInterface) -> Failure:
    """Return why a further interface cannot be in a pcap file."""
    text = f"a pcap file has packets of one interface, and {interface.name} is a second one: capture to pcapng"
    return Failure(code=FailureCode.UNSUPPORTED, text=text, interface=interface.name, argument="use_libpcap")


def drops_by_name(interfaces: Sequence[CapturedInterface]) -> dict[str, int]:
    """Return how many packets of each interface were dropped."""
    return {each.name: each.statistics().drops_total for each in interfaces}


def statistics_blocks(interfaces: Sequence[CapturedInterface], start_ns: int) -> bytes:
    """Return what a pcapng file ends with: where the counters of every interface stand now."""
    now_ns = time.time_ns()
    blocks: list[bytes] = []
    for interface_id, interface in enumerate(interfaces):
        received, drops = interface.statistics()
        blocks.append(
            pcapng.interface_statistics(
                interface_id,
                timestamp_ns=now_ns,
                start_ns=start_ns,
                end_ns=now_ns,
                received=received,
                dropped=drops,
                delivered=interface.written_total,
            )
        )
    return b"".join(blocks)


def counters_of(interface: CapturedInterface, *, unwritten: str | None = None) -> InterfaceCounters:
    """Return where an interface's packets are.

    Args:
        interface: the interface.
        unwritten: the counter of those that are in no file at the end.
    """
    received, drops = interface.statistics()
    rest = {unwritten: received - drops - interface.written_total} if unwritten else {}
    return InterfaceCounters(
        interface=interface.name,
        received_total=received,
        written_total=interface.written_total,
        kernel_drops_total=drops,
        **rest,
    )


def standing(
    interfaces: Sequence[CapturedInterface], *, is_waiting: bool, file_size_bytes: int = 0, disk_bytes: int = 0
) -> Counters:
    """Return where a capture stands.

    Args:
        interfaces: all that it has had.
        is_waiting: it goes on, without any source for now.
        file_size_bytes: of its current file.
        disk_bytes: of all its files.
    """
    return Counters(
        file_size_bytes=file_size_bytes,
        disk_bytes=disk_bytes,
        interfaces=tuple(map(counters_of, interfaces)),
        is_waiting=is_waiting,
    )
