"""Rings are made by the daemon, while the worker that will read them begins.

With each the kernel waits for a grace period (RCU), 8 to 12 ms however large it is. A worker that made its own would
wait for two, as the fork before it has begun one that must end first, and for several rings one after the other. What
is used here of what a client asked for is numbers, which are within the limits.
"""

import socket
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple, Self

import trio

from capd import limits
from capd.packet_ring import RingError, kernel_failure, make_ring, retire_ms
from capd.packet_socket import open_packet_socket
from capd.worker.launch import Launch, LaunchInterface, RingMade
from capd_protocol.messages import DEFAULT_KERNEL_BUFFER_SIZE_BYTES

_making = trio.CapacityLimiter(limits.MAX_RINGS_BEING_MADE)
_closing = trio.CapacityLimiter(limits.MAX_RINGS_BEING_MADE)


class NewRing(NamedTuple):
    """What has become of a ring, and its socket; with a trigger that one's, too. With a failure there is none.

    A context manager for handing it over: at the end our own descriptors are closed.
    """

    made: RingMade
    sockets: tuple[socket.socket, ...] = ()

    @property
    def descriptors(self) -> list[int]:
        """What goes along to the worker."""
        return [each.fileno() for each in self.sockets]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            # Nobody else has it, so closing it takes a grace period again.
            await _close(self.sockets)
            return
        for each in self.sockets:
            each.close()


async def make(interface: LaunchInterface, launch: Launch) -> NewRing:
    """Make the ring of an interface, and open what triggers a recorder's snapshots there."""
    sockets: list[socket.socket] = []
    try:
        async with _making:
            sockets.append(open_packet_socket(cooked=interface.is_cooked))
            if launch.trigger_filter:
                sockets.append(open_packet_socket(cooked=interface.is_cooked))
            memory = await trio.to_thread.run_sync(
                partial(
                    make_ring,
                    sockets[0],
                    size_bytes=interface.request.kernel_buffer_size_bytes or DEFAULT_KERNEL_BUFFER_SIZE_BYTES,
                    retire_ms=retire_ms(launch.update_interval_s),
                    header_bytes=interface.header_bytes,
                    loopback=interface.loopback,
                )
            )
    except (OSError, RingError) as error:
        await _close(sockets)
        return NewRing(RingMade(failure=kernel_failure(error, interface.request.name)))
    except BaseException:
        await _close(sockets)
        raise
    return NewRing(RingMade(memory=memory, has_trigger=len(sockets) > 1), tuple(sockets))


async def _close(sockets: Iterable[socket.socket]) -> None:
    with trio.CancelScope(shield=True):
        for each in sockets:
            await trio.to_thread.run_sync(each.close, limiter=_closing)


class Rings:
    """The rings that a capture begins with, made at once."""

    def __init__(self, launch: Launch) -> None:
        """Make none yet."""
        self._launch = launch
        self._rings: dict[int, NewRing] = {}
        self._are_made = [trio.Event() for _ in launch.interfaces]

    async def run(self) -> None:
        """Make them, until cancelled; then those are closed that nobody has taken."""
        try:
            async with trio.open_nursery() as nursery:
                for number in range(len(self._are_made)):
                    nursery.start_soon(self._make, number)
            await trio.sleep_forever()
        finally:
            await _close(each for ring in self._rings.values() for each in ring.sockets)

    async def _make(self, number: int) -> None:
        self._rings[number] = await make(self._launch.interfaces[number], self._launch)
        self._are_made[number].set()

    async def take(self, number: int) -> NewRing:
        """Wait for the ring of an interface, which is the caller's from now on."""
        await self._are_made[number].wait()
        return self._rings.pop(number)
