"""``sniff``: packets of a capture as a list, with the arguments of scapy's function of that name."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any, Unpack, cast

from capd_client.blocking.packet_loop import FILE_ARGUMENTS, PacketLoop, checked_count, checked_timeout
from capd_client.errors import InvalidArgument
from capd_client.reading import read
from capd_client.reading.headers import PacketHeader, headed_packets
from capd_client.request.options import CaptureArguments, Source, shows_arguments_but
from capd_client.transport.connect import SocketPath


@dataclass(frozen=True, slots=True, repr=False)
class SniffedPacket:
    """A copy of a packet; ``bytes(packet)`` and ``len(packet)`` are about the bytes that were captured.

    Attributes:
        header: when and where it came, and how long it was.
        data: its bytes.
    """

    header: PacketHeader
    data: bytes

    @property
    def time(self) -> float:
        """When it came, in seconds since 1970, as scapy has it: to less than a microsecond."""
        return self.header.timestamp_ns / 10**9

    @property
    def timestamp(self) -> datetime:
        """When it came, as a datetime in UTC. ``header.timestamp_ns`` has the nanoseconds."""
        return self.header.timestamp

    @property
    def sniffed_on(self) -> str | None:
        """The interface it came through, as scapy has it."""
        return self.header.ifname

    @property
    def wirelen(self) -> int:
        """How long the packet was, in bytes, as scapy has it."""
        return self.header.len

    def __bytes__(self) -> bytes:
        return self.data

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        """Return when, where and how long it is; its bytes are in ``data``."""
        return repr(self.header).replace("PacketHeader", "SniffedPacket", 1)


class SniffedPackets(list[SniffedPacket]):
    """What ``sniff`` returns: a list of ``SniffedPacket``.

    Attributes:
        drops: packets that are lost: the functions were too slow for them, or the kernel had no room.
    """

    drops = 0


#: Arguments that scapy calls otherwise than we do.
_SCAPYS_NAMES = {"iface": "interfaces", "filter": "capture_filter"}

#: Called with a packet.
PacketFunction = Callable[[SniffedPacket], object]


@shows_arguments_but(FILE_ARGUMENTS)
def sniff(
    *,
    iface: Source | Iterable[Source] | None = None,
    filter: str | None = None,
    count: int = 0,
    timeout: float | None = None,
    prn: PacketFunction | None = None,
    store: bool = True,
    stop_filter: PacketFunction | None = None,
    lfilter: PacketFunction | None = None,
    started_callback: Callable[[], object] | None = None,
    offline: str | os.PathLike[str] | None = None,
    socket_path: SocketPath = None,
    **arguments: Unpack[CaptureArguments],
) -> SniffedPackets:
    """Capture packets and return them as a list; for those who know scapy's ``sniff``, whose names its arguments have.

    It ends with ``count``, ``timeout``, ``stop_filter``, the capture, or Ctrl-C, and returns the packets so far. It
    copies each packet; ``PacketLoop`` does not, and is for programs that see many.

    Example:
        packets = sniff(iface="eth0", filter="udp port 53", count=10, prn=lambda packet: packet.wirelen)
        print(packets[0].time, bytes(packets[0]).hex())

    Args:
        iface: scapy's name for ``interfaces``, see ``CaptureArguments``. One of the two names may be used.
        filter: scapy's name for ``capture_filter``: only packets that match. One of the two names may be used.
        count: end after so many packets; 0: no limit.
        timeout: end after so many seconds; None: no limit.
        prn: called with each ``SniffedPacket``. What it returns is printed, unless it is None.
        store: keep the packets; False: the list stays empty.
        stop_filter: called with each packet, after ``prn``. Where it returns something true, the packet is the last.
        lfilter: called with each packet, before all else. Where it returns something false, the packet is left out, and
            not counted.
        started_callback: called without arguments when the capture runs.
        offline: read the packets of this pcapng or pcap file instead.
        socket_path: where the daemon listens; None: as for ``CaptureSession``.
        **arguments: as for ``PacketLoop``.

    Raises:
        InvalidArgument: an argument is impossible, is given under both of its names, or has no effect with ``offline``.
        ReadError: the file of ``offline`` cannot be read, or no further.
        CaptureError: as ``PacketLoop`` and its ``loop`` have it.
        Exception: what one of the functions raises.
    """
    sniffer = _Sniffer(prn, lfilter, stop_filter, checked_count(count or None), store=store)
    checked_timeout(timeout)
    chosen = _with_scapys_names(arguments, {"iface": iface, "filter": filter})
    started = started_callback or _nothing
    if offline is not None:
        capture_filter = chosen.pop("capture_filter", None)
        _refuse_for_files({**chosen, "socket_path": socket_path})
        started()
        with suppress(KeyboardInterrupt):
            sniffer.take_all(_packets_of_file(offline, capture_filter), timeout)
        return sniffer.packets
    with PacketLoop(socket_path=socket_path, **chosen) as session:
        started()
        with suppress(KeyboardInterrupt):
            session.loop(sniffer.take, session, timeout=timeout)
        sniffer.packets.drops = session.drops
    return sniffer.packets


class _Sniffer:
    """What is done with each packet."""

    def __init__(
        self,
        prn: PacketFunction | None,
        lfilter: PacketFunction | None,
        stop_filter: PacketFunction | None,
        count: int,
        *,
        store: bool,
    ) -> None:
        self._prn = prn or _nothing
        self._lfilter = lfilter or _always
        self._stop_filter = stop_filter or _nothing
        self._left = count
        self._store = store
        self.packets = SniffedPackets()

    def take(self, session: PacketLoop, header: PacketHeader, data: memoryview) -> None:
        """Take a packet of a session, and end the session's loop if it was the last."""
        if self._is_last(header, data):
            session.end_loop()

    def take_all(self, packets: Iterator[tuple[PacketHeader, memoryview]], timeout_s: float | None) -> None:
        """Take packets until one is the last, or the time is over."""
        deadline_s = monotonic() + checked_timeout(timeout_s)
        for header, data in packets:
            if self._is_last(header, data) or monotonic() >= deadline_s:
                return

    def _is_last(self, header: PacketHeader, data: memoryview) -> bool:
        packet = SniffedPacket(header, bytes(data))
        if not self._lfilter(packet):
            return False
        self._left -= 1
        if self._store:
            self.packets.append(packet)
        shown = self._prn(packet)
        if shown is not None:
            print(shown)  # noqa: T201  # the text of the program that has called us
        return bool(self._stop_filter(packet)) or not self._left


def _nothing(*_: object) -> None:
    """Stand for a function that was not given."""


def _always(_: object) -> bool:
    return True


def _packets_of_file(
    path: str | os.PathLike[str], capture_filter: str | None
) -> Iterator[tuple[PacketHeader, memoryview]]:
    with read(path) as packets:
        for batch in packets.batches(capture_filter):
            yield from headed_packets(batch, packets.interfaces)


def _with_scapys_names(arguments: CaptureArguments, given: dict[str, Any]) -> CaptureArguments:
    """Return the arguments, with what is given under scapy's names.

    Raises:
        InvalidArgument: one is given under both of its names.
    """
    chosen: dict[str, Any] = {**arguments}
    for scapys, ours in _SCAPYS_NAMES.items():
        if given[scapys] is None:
            continue
        if chosen.get(ours) is not None:
            raise InvalidArgument(f"{scapys} and {ours} are the same argument: give one of them", argument=scapys)
        chosen[ours] = given[scapys]
    return cast(CaptureArguments, chosen)


def _refuse_for_files(arguments: dict[str, Any]) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise InvalidArgument(f"{name} is about capturing, and offline reads a file: leave it out", argument=name)
