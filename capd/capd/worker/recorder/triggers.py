"""Triggers of a flight recorder: a filter, a packet rate, a link that goes down.

A filter has a packet socket of its own beside the ring, with nothing but the kernel's filter to say when it becomes
readable. It is bound to the same interface, behind the same policy, and its packets are never looked at. While triggers
are ignored, the kernel goes on counting them.
"""

import fcntl
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from math import inf
from typing import NamedTuple

from capd.worker.sources.source import PacketSource
from capd_protocol.messages import Recorder, TriggerReason

#: How often rate and links are looked at. Chosen: ten times within the second that a rate is about.
LOOK_S = 0.1
_WINDOW_S = 1.0

#: linux/sockios.h, linux/if.h. struct ifreq: the name, then flags.
_SIOCGIFFLAGS = 0x8913
_IFREQ = struct.Struct("=16sh22x")
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
#: What is taken from a socket that was not listened to: all that its memory holds, several times over.
_MOST_WAITING = 64
#: struct tpacket_stats (linux/if_packet.h): packets that have passed the filter, dropped ones among them, and those.
_STATISTICS = struct.Struct("=II")
_SOL_PACKET, _PACKET_STATISTICS = 263, 6


class Trigger(NamedTuple):
    """What has happened."""

    reason: TriggerReason
    interface: str | None


class Rate:
    """Says when so many packets have come within a second. Pure."""

    def __init__(self, packets: int) -> None:
        self._packets = packets
        #: Times, and what had come by then; the first one is a window old or older.
        self._seen: deque[tuple[float, int]] = deque()

    def is_reached(self, now_s: float, received_total: int) -> bool:
        """Take note of what has come since the beginning, and say whether it is too much."""
        self._seen.append((now_s, received_total))
        while len(self._seen) > 1 and self._seen[1][0] <= now_s - _WINDOW_S:
            self._seen.popleft()
        return received_total - self._seen[0][1] >= self._packets

    def begin(self, now_s: float, received_total: int) -> None:
        """Count from now on: what comes after this moment, also before the next look."""
        self._seen.clear()
        self._seen.append((now_s, received_total))


def is_running(interface_index: int) -> bool:
    """Whether an interface is there, is up, and has a link."""
    try:
        name = os.fsencode(socket.if_indextoname(interface_index))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
            _, flags = _IFREQ.unpack(fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _IFREQ.pack(name, 0)))
    except OSError:
        return False
    return bool(flags & _IFF_UP and flags & _IFF_RUNNING)


class Triggers:
    """All of a recorder. What comes between ``ignore`` and ``listen`` is counted, and no more."""

    def __init__(self, wish: Recorder, sources: Sequence[PacketSource], epoll: select.epoll) -> None:
        self._sources = sources
        self._epoll = epoll
        self._rate = Rate(wish.trigger_pps) if wish.trigger_pps is not None else None
        self._watches_links = wish.trigger_link_down
        #: By index.
        self._was_running: dict[int, bool] = {}
        #: By descriptor, of those that are bound.
        self._sockets: dict[int, tuple[socket.socket, str]] = {}
        self._is_listening = False
        #: What was not looked at since ``ignore``, but for packets, which the kernel counts.
        self._ignored = 0
        self.next_look_s = inf

    # Packets ------------------------------------------------------------------------------------------------------

    def add(self, source: PacketSource) -> None:
        """Take in the socket of an interface that has just been armed."""
        if source.trigger is not None:
            self._sockets[source.trigger.fileno()] = source.trigger, source.name
            if self._is_listening:
                self._epoll.register(source.trigger, select.EPOLLIN)

    def remove(self, source: PacketSource) -> None:
        """Let go of it; it is still open."""
        if source.trigger is not None and source.trigger.fileno() in self._sockets:
            del self._sockets[source.trigger.fileno()]
            if self._is_listening:
                self._epoll.unregister(source.trigger)

    def has(self, descriptor: int) -> bool:
        """Whether a descriptor is one of these sockets."""
        return descriptor in self._sockets

    def on_event(self, descriptor: int, event: int) -> Trigger | None:
        """Return what a socket that is ready has to say."""
        packet_socket, name = self._sockets[descriptor]
        if event & (select.EPOLLERR | select.EPOLLHUP):
            packet_socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # the ring's reports the same
        if not self._is_listening or not event & select.EPOLLIN:
            return None
        return Trigger(TriggerReason.FILTER, name)

    def listen(self, now_s: float) -> int:
        """Begin to look at them; return how many have come since ``ignore``."""
        if self._is_listening:
            return 0
        self._is_listening = True
        ignored, self._ignored = self._ignored, 0
        for packet_socket, _ in self._sockets.values():
            drain(packet_socket)
            ignored += _count_since(packet_socket)
            self._epoll.register(packet_socket, select.EPOLLIN)
        self._begin_to_look(now_s)
        return ignored

    def ignore(self, now_s: float) -> None:
        """Only count them from now on. What waits in the sockets then is bounded by their memory."""
        if not self._is_listening:
            return
        self._is_listening = False
        packets = 0
        for packet_socket, _ in self._sockets.values():
            self._epoll.unregister(packet_socket)
            packets += _count_since(packet_socket)
        self._ignored = max(packets - 1, 0)  # all but the one that was heeded
        self._begin_to_look(now_s)

    def _begin_to_look(self, now_s: float) -> None:
        """Look at rate and links from now on; what has come before does not count."""
        if self._rate is not None:
            self._rate.begin(now_s, self._received_total())
        if self._watches_links:
            self._was_running = {index: is_running(index) for _, index in self._interfaces()}
        self.next_look_s = inf if self._rate is None and not self._watches_links else now_s

    # Rate and links -----------------------------------------------------------------------------------------------

    def look(self, now_s: float) -> Trigger | None:
        """Return what has happened since the last look, unless it is ignored; at ``next_look_s``."""
        if now_s < self.next_look_s:
            return None
        self.next_look_s = now_s + LOOK_S
        return self._heeded(self._reached_rate(now_s) or self._lost_link())

    def _reached_rate(self, now_s: float) -> Trigger | None:
        if self._rate is None:
            return None
        received_total = self._received_total()
        if not self._rate.is_reached(now_s, received_total):
            return None
        self._rate.begin(now_s, received_total)  # the same packets are no second trigger
        return Trigger(TriggerReason.RATE, None)

    def _received_total(self) -> int:
        return sum(source.statistics().received_total for source in self._sources)

    def _lost_link(self) -> Trigger | None:
        if not self._watches_links:
            return None
        for name, index in self._interfaces():
            was_running, self._was_running[index] = self._was_running.get(index, False), is_running(index)
            if was_running and not self._was_running[index]:
                return Trigger(TriggerReason.LINK_DOWN, name)
        return None

    def _interfaces(self) -> Iterator[tuple[str, int]]:
        """Return those of this system, by name and index."""
        for source in self._sources:
            if (index := source.interface_index) is not None:
                yield source.name, index

    def went_down(self, source: PacketSource) -> Trigger | None:
        """Return what it means that the kernel reports an interface that is down or gone, unless it is ignored."""
        if not self._watches_links or source.interface_index is None:
            return None
        self._was_running[source.interface_index] = False  # which is no second trigger
        return self._heeded(Trigger(TriggerReason.LINK_DOWN, source.name))

    def _heeded(self, trigger: Trigger | None) -> Trigger | None:
        if trigger is None or self._is_listening:
            return trigger
        self._ignored += 1
        return None


def _count_since(packet_socket: socket.socket) -> int:
    """Return how many packets have passed a socket's filter since this was asked last."""
    try:
        packets, _ = _STATISTICS.unpack(packet_socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size))
    except OSError:  # an error of the socket, such as that its interface is down, which is reported elsewhere
        return 0
    return int(packets)


def drain(packet_socket: socket.socket) -> None:
    """Take what waits in a socket."""
    for _ in range(_MOST_WAITING):
        try:
            packet_socket.recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:  # the interface is down, which is reported once
            continue
