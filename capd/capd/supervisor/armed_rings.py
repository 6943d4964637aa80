"""Armed packet rings: filtered, locked and bound by the daemon, and in the end disarmed by it.

The daemon does this, with sockets that it keeps. A worker gets a ring when its filter cannot be changed any more and it
is bound, and has neither the need nor the right to bind it: so code that took a worker over would read no other
interface, and a user who stops a worker keeps no interface that was taken away. The user's part of a filter is a
program that the worker has compiled. Here it is put behind policy's, and keeps no more of a packet than fits into a
block; what it does, the kernel checks.
"""

import contextlib
import errno
import itertools
import os
import socket
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import trio

from capd import limits
from capd.errors import no_room, revoked
from capd.filters import bpf
from capd.filters.compiler import CaptureFailed, FilterError
from capd.launch import Arm, Launch, LaunchInterface, RingFilter, RingMade
from capd.linux.packet_ring import BLOCK_OVERHEAD_BYTES, kernel_failure
from capd.linux.packet_socket import (
    ALL_INTERFACES,
    ETH_P_ALL,
    ETH_P_NONE,
    attach_filter,
    bind,
    check_error,
    filter_room_bytes,
    lock_filter,
    set_promiscuous,
)
from capd.pacing.threads import in_thread
from capd.supervisor.packet_rings import NewPacketRing, PacketRings, close_sockets
from capd.supervisor.policy_filters import PolicyFilters, joined
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.messages import Failure

#: Of a trigger's socket. Chosen: the least that the kernel gives; one packet says it all.
_TRIGGER_BUFFER_BYTES = 2048

_arming = trio.CapacityLimiter(limits.MAX_RINGS_BEING_MADE)


class Outcome(NamedTuple):
    """What came of what a worker has asked for."""

    made: RingMade
    #: Go along to the worker.
    descriptors: Sequence[int] = ()


class _Wanted(NamedTuple):
    """A ring that is to be armed, or why it cannot be."""

    number: int
    interface: LaunchInterface
    ring: NewPacketRing
    #: With policy's.
    program: bytes = b""
    trigger_program: bytes = b""
    failure: Failure | None = None


class ArmedRings:
    """Those of one capture."""

    def __init__(self, launch: Launch, rings: PacketRings, filters: PolicyFilters) -> None:
        """Have none yet.

        Args:
            launch: which interfaces the capture begins with.
            rings: makes them.
            filters: policy's.
        """
        self._interfaces = dict(enumerate(launch.interfaces))
        self._at_start = len(launch.interfaces)
        self._numbers = itertools.count(self._at_start)
        self._rings = rings
        self._filters = filters
        #: Asked for already.
        self._asked: set[int] = set()
        self._armed: dict[int, NewPacketRing] = {}
        self._is_revoked = False
        self._changing = trio.Lock()

    def add(self, interface: LaunchInterface) -> int:
        """Let the ring of a further interface be asked for; return its number."""
        number = next(self._numbers)
        self._interfaces[number] = interface
        return number

    async def arm(self, request: Arm) -> list[Outcome]:
        """Arm the rings that a worker asks for.

        Raises:
            RemoteProtocolError: it asks for what it may not ask for.
        """
        for each in request.rings:
            _check(each.program)
            if each.trigger_program:
                _check(each.trigger_program)
            if each.number not in self._interfaces or each.number in self._asked:
                raise RemoteProtocolError(f"a ring of number {each.number}")
            self._asked.add(each.number)
        async with self._changing:
            wanted = [await self._prepared(ring_filter) for ring_filter in request.rings]
            try:
                failures = await in_thread(partial(_arm_all, wanted), limiter=_arming)
            except OSError as error:
                failures = [no_room(error).failure for _ in wanted]
            outcomes: list[Outcome] = []
            for (number, _, ring, *_), failure in zip(wanted, failures, strict=True):
                if failure is None:
                    made = RingMade(number=number, memory=ring.memory, has_trigger=len(ring.sockets) > 1)
                    outcomes.append(Outcome(made, ring.descriptors))
                else:
                    await self._close(number)
                    outcomes.append(Outcome(RingMade(number=number, failure=failure)))
        return outcomes

    async def _prepared(self, wanted: RingFilter) -> _Wanted:
        interface = self._interfaces[wanted.number]
        ring = await (
            self._rings.take(wanted.number) if wanted.number < self._at_start else self._rings.make(interface)
        )
        self._armed[wanted.number] = ring
        prepared = _Wanted(wanted.number, interface, ring)
        if ring.memory is None:
            return prepared._replace(failure=ring.failure)
        if self._is_revoked:
            return prepared._replace(failure=revoked().failure)
        try:
            policys = await self._filters.program(interface)
        except CaptureFailed as error:
            return prepared._replace(failure=error.failure)
        except OSError as error:
            return prepared._replace(failure=no_room(error).failure)
        loopback_index = _loopback_index() if interface.is_cooked else None
        join = partial(joined, policys, loopback_index=loopback_index)
        # What a filter keeps of a packet must fit into a block.
        program = bpf.keeping(join(wanted.program), ring.memory.block_bytes - BLOCK_OVERHEAD_BYTES)
        return prepared._replace(program=program, trigger_program=join(wanted.trigger_program))

    async def drop_rest(self) -> None:
        """Close the rings of interfaces that the capture was to begin with, and that the worker leaves out."""
        async with self._changing:
            for number in set(range(self._at_start)) - self._asked:
                self._asked.add(number)
                await close_sockets((await self._rings.take(number)).sockets)

    async def let_go(self, number: int) -> None:
        """Close a ring that the worker reads no more."""
        async with self._changing:
            await self._close(number)

    async def disarm(self, index: int) -> None:
        """Have nothing more of an interface received; when this returns, nothing is."""
        await self._disarm([number for number in self._armed if self._interfaces[number].index == index])

    async def disarm_all(self) -> None:
        """Have nothing more received by any of them; when this returns, the kernel's counts are final."""
        async with self._changing:
            await self._disarm(list(self._armed))

    async def revoke(self) -> None:
        """Have nothing more received, now and later, also by rings that are asked for from now on."""
        self._is_revoked = True
        await self.disarm_all()

    async def _disarm(self, numbers: Sequence[int]) -> None:
        async with trio.open_nursery() as nursery:
            for number in numbers:
                for each in self._armed[number].sockets:
                    nursery.start_soon(_disarm, each, self._interfaces[number].index)

    async def _close(self, number: int) -> None:
        ring = self._armed.pop(number, None)
        if number >= self._at_start:  # interfaces may come and go for months
            self._interfaces.pop(number, None)
            self._asked.discard(number)
        if ring is not None:
            await close_sockets(ring.sockets)

    async def close(self) -> None:
        """Close all of them."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for number in list(self._armed):
                    nursery.start_soon(self._close, number)


def _check(program: bytes) -> None:
    """Check that something can be a program at all; the kernel checks what it does.

    Raises:
        RemoteProtocolError: it cannot.
    """
    if not program or len(program) % bpf.INSTRUCTION.size:
        raise RemoteProtocolError("a filter that is not a program")


def _loopback_index() -> int | None:
    with contextlib.suppress(OSError):
        return socket.if_nametoindex("lo")
    return None


def _arm_all(wanted: Sequence[_Wanted]) -> list[Failure | None]:
    """Arm rings; return for each why it is not, if it is not. Promiscuous mode may take a driver a while."""
    failures: list[Failure | None] = []
    for each in wanted:
        failure = each.failure
        if failure is None:
            try:
                _arm(each)
            except CaptureFailed as error:
                failure = error.failure
            except OSError as error:
                failure = kernel_failure(error, each.interface.request.name)
        failures.append(failure)
    return failures


def _arm(wanted: _Wanted) -> None:
    """Begin to receive.

    Raises:
        CaptureFailed: the kernel does not take a filter.
        OSError: the interface is not there any more, or not under its name, or down.
    """
    interface, (ring, *triggers) = wanted.interface, wanted.ring.sockets
    index = interface.index
    _attach(ring, wanted.program, wanted)
    for trigger in triggers:
        _attach(trigger, wanted.trigger_program, wanted, argument="recorder_trigger_filter")
        trigger.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _TRIGGER_BUFFER_BYTES)
    if interface.request.promiscuous and index != ALL_INTERFACES:
        set_promiscuous(ring, index)
    for each in wanted.ring.sockets:
        bind(each.fileno(), ETH_P_ALL, index)
    # It was granted by its name, and may have got another one since, or another interface its index.
    if index and os.fsencode(socket.if_indextoname(index)) != interface.device.encode():
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    if interface.is_up and not interface.is_optional:
        check_error(ring)  # it may have gone down since the daemon looked


def _attach(packet_socket: socket.socket, program: bytes, wanted: _Wanted, argument: str = "capture_filter") -> None:
    """Give a socket its filter, for good: whoever gets hold of it cannot have another one."""
    try:
        attach_filter(packet_socket, program)
    except OSError as error:
        count = bpf.count(program)
        text = f"the kernel takes filters of up to 4096 instructions, and this one has {count}: write it shorter"
        if error.errno == errno.ENOMEM:
            room_bytes = filter_room_bytes()
            value = "" if room_bytes is None else f", which is {room_bytes:,}"
            text = f"the kernel has no room for a filter of {count} instructions: it needs some"
            text += f" {bpf.kernel_bytes(program):,} bytes of the sysctl net.core.optmem_max{value}"
            text += ": write it shorter, or have that raised"
        failure = FilterError(text).failure(wanted.interface.request.name, wanted.number, argument=argument)
        raise CaptureFailed(failure) from error
    lock_filter(packet_socket)


async def _disarm(packet_socket: socket.socket, index: int) -> None:
    # bind(2) waits until the last packet has gone through the old hook; changing the filter would not. An interface
    # that is gone has no hook any more.
    with contextlib.suppress(OSError), trio.CancelScope(shield=True):
        # By a descriptor of its own: the ring's may be closed while a thread is waited for, and its number another's.
        same = packet_socket.dup()
        try:
            await in_thread(partial(_unbind, same, index), limiter=_arming)
        except OSError:  # no thread can be started: then all wait for the kernel, some 10 ms
            _unbind(same, index)


def _unbind(packet_socket: socket.socket, index: int) -> None:
    with packet_socket, contextlib.suppress(OSError):
        bind(packet_socket.fileno(), ETH_P_NONE, index)
