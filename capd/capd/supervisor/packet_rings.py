"""Packet rings made in threads, while the worker that will read them begins; and one made ahead.

For each ring the kernel clears memory, 4 ms for 32 MiB, and then waits for a grace period (RCU), 8 to 12 ms whatever
the size. A worker that made its own would wait for two, as the fork before it has begun one that must end first, and
would make several rings one after the other. Of a client's request only numbers are used here, which are within the
limits.
"""

import logging
import socket
from collections.abc import Hashable, Iterable
from functools import partial
from typing import NamedTuple

import trio

from capd import limits
from capd.launch import Launch, LaunchInterface
from capd.linux.packet_ring import RingError, RingMemory, kernel_failure, make_ring, retire_ms
from capd.linux.packet_socket import open_packet_socket
from capd.pacing.rates import Buckets
from capd.pacing.threads import in_thread
from capd.pacing.turns import FREE, Turns
from capd_protocol.messages import DEFAULT_KERNEL_BUFFER_SIZE_BYTES, Failure

_log = logging.getLogger(__name__)

_making = Turns(limits.MAX_RINGS_BEING_MADE, limits.MAX_RINGS_BEING_MADE_PER_USER)
#: As many threads as turns.
_threads = trio.CapacityLimiter(limits.MAX_RINGS_BEING_MADE)
_closing = trio.CapacityLimiter(limits.MAX_RINGS_BEING_MADE)


class NewPacketRing(NamedTuple):
    """What has become of a ring, and its socket; with a trigger that one's, too. With a failure there is none."""

    memory: RingMemory | None = None
    failure: Failure | None = None
    sockets: tuple[socket.socket, ...] = ()

    @property
    def descriptors(self) -> list[int]:
        """What goes along to the worker."""
        return [each.fileno() for each in self.sockets]


class _Kind(NamedTuple):
    """What a ring is made by: one for another capture may be had in its place."""

    is_cooked: bool
    size_bytes: int
    retire_ms: int
    header_bytes: int
    loopback: bool

    @property
    def is_worth_keeping(self) -> bool:
        """Whether one may be made ahead."""
        return self.size_bytes <= limits.MAX_SPARE_RING_BYTES and self.retire_ms >= limits.MIN_SPARE_RING_RETIRE_MS


class _MadeRing(NamedTuple):
    kind: _Kind
    packet_socket: socket.socket
    memory: RingMemory


class PacketRingMaker:
    """Makes rings, and while it runs, keeps one ahead: as the last that was asked for, for ``limits.SPARE_RING_S``.

    Programs that capture come one after the other, or many times. The next one need not wait for the kernel then, and a
    daemon that nobody asks for captures keeps no memory.
    """

    def __init__(self) -> None:
        self._spare: _MadeRing | None = None
        self._wanted: _Kind | None = None
        self._is_wanted = trio.Event()
        #: How often each may ask for a ring.
        self._paces = Buckets()

    async def run(self) -> None:
        """Keep one ahead until cancelled; then there is none."""
        try:
            while True:
                await self._is_wanted.wait()
                # What has been asked for begins meanwhile.
                await trio.sleep(limits.SPARE_RING_PAUSE_S)
                self._is_wanted = trio.Event()
                await self._make_spare()
                with trio.move_on_after(limits.SPARE_RING_S):
                    await self._is_wanted.wait()
                    continue
                await self._drop_spare()
        finally:
            await self._drop_spare()

    async def _make_spare(self) -> None:
        kind = self._wanted
        if kind is None or (self._spare is not None and self._spare.kind == kind):
            return
        await self._drop_spare()
        try:
            self._spare = await _make(kind, FREE)
        except (OSError, RingError) as error:
            _log.info("no ring is kept ahead: %s", error)

    async def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            await close_sockets([spare.packet_socket])

    def _take_spare(self, kind: _Kind) -> _MadeRing | None:
        if self._spare is None or self._spare.kind != kind:
            return None
        spare, self._spare = self._spare, None
        return spare

    async def _wait_out(self, whose: Hashable) -> None:
        """Wait where somebody has asked for too many rings."""
        if whose == FREE:
            return
        now_s = trio.current_time()
        await trio.sleep(self._paces.of(whose, limits.RINGS, now_s).take(now_s))

    async def make(self, interface: LaunchInterface, launch: Launch, whose: Hashable = FREE) -> NewPacketRing:
        """Have the ring of an interface, and open what triggers a recorder's snapshots there.

        Args:
            interface: which.
            launch: of the capture.
            whose: turn it must be.
        """
        kind = _Kind(
            is_cooked=interface.is_cooked,
            size_bytes=interface.request.kernel_buffer_size_bytes or DEFAULT_KERNEL_BUFFER_SIZE_BYTES,
            retire_ms=retire_ms(launch.update_interval_s),
            header_bytes=interface.header_bytes,
            loopback=interface.loopback,
        )
        if kind.is_worth_keeping:
            self._wanted = kind
            self._is_wanted.set()
        sockets: list[socket.socket] = []
        try:
            await self._wait_out(whose)
            ring = self._take_spare(kind) or await _make(kind, whose)
            sockets.append(ring.packet_socket)
            if launch.trigger_filter:
                sockets.append(open_packet_socket(cooked=kind.is_cooked))
        except (OSError, RingError) as error:
            await close_sockets(sockets)
            return NewPacketRing(failure=kernel_failure(error, interface.request.name))
        return NewPacketRing(ring.memory, None, tuple(sockets))


async def _make(kind: _Kind, whose: Hashable) -> _MadeRing:
    """Have the kernel make a ring, when it is somebody's turn.

    Raises:
        RingError: there is no memory for it.
        OSError: the kernel refuses it, or a thread to wait in, for another reason.
    """
    with await _making.take(whose):
        return await in_thread(partial(_make_now, kind), limiter=_threads)


def _make_now(kind: _Kind) -> _MadeRing:
    packet_socket = open_packet_socket(cooked=kind.is_cooked)
    try:
        memory = make_ring(
            packet_socket,
            size_bytes=kind.size_bytes,
            retire_ms=kind.retire_ms,
            header_bytes=kind.header_bytes,
            loopback=kind.loopback,
        )
    except BaseException:
        packet_socket.close()
        raise
    return _MadeRing(kind, packet_socket, memory)


async def close_sockets(sockets: Iterable[socket.socket]) -> None:
    """Close packet sockets that nobody else may have any more: with each the kernel waits for a grace period."""
    with trio.CancelScope(shield=True):
        for each in sockets:
            try:
                await in_thread(each.close, limiter=_closing)
            except OSError:  # no thread can be started: then all wait for the kernel, some 10 ms
                each.close()


class PacketRings:
    """The rings of a capture: those that it begins with are made at once."""

    def __init__(self, launch: Launch, maker: PacketRingMaker, whose: Hashable = FREE) -> None:
        """Make none yet.

        Args:
            launch: of the capture.
            maker: makes them.
            whose: turn it must be for each.
        """
        self._launch = launch
        self._maker = maker
        self._whose = whose
        self._rings: dict[int, NewPacketRing] = {}
        self._are_made = [trio.Event() for _ in launch.interfaces]

    async def run(self) -> None:
        """Make them, until cancelled; then those are closed that nobody has taken."""
        try:
            async with trio.open_nursery() as nursery:
                for number in range(len(self._are_made)):
                    nursery.start_soon(self._make, number)
            await trio.sleep_forever()
        finally:
            await close_sockets(each for ring in self._rings.values() for each in ring.sockets)

    async def _make(self, number: int) -> None:
        self._rings[number] = await self.make(self._launch.interfaces[number])
        self._are_made[number].set()

    async def make(self, interface: LaunchInterface) -> NewPacketRing:
        """Have the ring of an interface, also of one that comes later."""
        return await self._maker.make(interface, self._launch, self._whose)

    async def take(self, number: int) -> NewPacketRing:
        """Wait for the ring of an interface, which is the caller's from now on."""
        await self._are_made[number].wait()
        return self._rings.pop(number)
