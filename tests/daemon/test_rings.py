"""Real rings, made by the daemon's side: as large as asked for, all at once, and none left where nobody takes them."""

import contextlib
import logging
import os
import resource
import socket
import struct
import threading
import time
from collections.abc import AsyncGenerator, Callable, Hashable
from typing import Any, NoReturn

import msgspec
import pytest
import trio
import trio.testing

from capd import limits
from capd.launch import DirectoryComes, Launch, LaunchInterface
from capd.linux.packet_ring import RingError, RingMemory, make_ring
from capd.linux.packet_socket import ETH_P_ALL, SOL_PACKET, bind
from capd.pacing.turns import FREE
from capd.supervisor.packet_rings import NewPacketRing, PacketRingMaker, PacketRings, close_sockets
from capd.worker.sources.ring_reader import PacketRingReader
from capd_protocol.formats.linktypes import DLT_EN10MB, DLT_RAW
from capd_protocol.messages import Conditions, Destination, FailureCode, InterfaceRequest, Recorder
from tests.support.traffic import build_frames, send

_MIB = 1024 * 1024
_TIMEOUT_S = 20.0


def interface(size_bytes: int = _MIB) -> LaunchInterface:
    """Return one that nothing is asked about: a ring that is not bound has none."""
    return LaunchInterface(
        request=InterfaceRequest(name="eth0", kernel_buffer_size_bytes=size_bytes),
        device="eth0",
        index=1,
        hardware_type=1,
        default_dlt=DLT_EN10MB,
        loopback=False,
    )


def launch(*interfaces: LaunchInterface, recorder: Recorder | None = None) -> Launch:
    return Launch(
        user_id=0,
        group_id=0,
        groups=(),
        interfaces=interfaces,
        destination=Destination(file_name="x.pcapng"),
        directory_comes=DirectoryComes.PASSED,
        file_format="pcapng",
        ring=None,
        recorder=recorder,
        autostop=Conditions(),
        update_interval_s=0.1,
    )


@pytest.fixture
def descriptors() -> Callable[[], int]:
    """Say how many more descriptors there are than in the beginning."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # only how many
    return lambda: len(os.listdir("/proc/self/fd")) - before  # noqa: PTH208


async def test_rings_are_there_in_any_order_and_the_takers_to_close() -> None:
    sizes = [_MIB * (1 + number % 3) for number in range(20)]
    rings = PacketRings(launch(*map(interface, sizes)), PacketRingMaker())
    with trio.fail_after(_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rings.run)
            for number in reversed(range(20)):
                ring = await rings.take(number)
                (packet_socket,) = ring.sockets
                assert ring.failure is None
                assert ring.memory is not None
                block_bytes, blocks = ring.memory
                assert block_bytes * blocks == sizes[number]
                mapped = PacketRingReader(packet_socket, ring.memory, 0)
                assert mapped.size_bytes == len(mapped.bytes) == sizes[number]
                assert mapped.take() is None
                mapped.close()
            nursery.cancel_scope.cancel()


async def test_what_nobody_takes_is_closed(descriptors: Callable[[], int]) -> None:
    # Threads and what wakes the loop are trio's.
    await trio.to_thread.run_sync(lambda: None)
    before = descriptors()
    rings = PacketRings(launch(*[interface() for _ in range(20)]), PacketRingMaker())
    with trio.fail_after(_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rings.run)
            await give_back(await rings.take(3))
            nursery.cancel_scope.cancel()
    assert descriptors() == before


@pytest.mark.parametrize("checkpoints", range(6))
async def test_cancelled_at_any_time_nothing_is_left(descriptors: Callable[[], int], checkpoints: int) -> None:
    await trio.to_thread.run_sync(lambda: None)
    before = descriptors()
    rings = PacketRings(launch(*[interface() for _ in range(20)]), PacketRingMaker())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rings.run)
        for _ in range(checkpoints):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert descriptors() == before


async def test_a_recorder_with_a_trigger_has_a_second_socket() -> None:
    with_trigger = launch(interface(), recorder=Recorder(memory_bytes=_MIB, duration_s=1.0, trigger_filter="udp"))
    ring = await PacketRingMaker().make(interface(), with_trigger)
    assert len(ring.descriptors) == 2
    await give_back(ring)
    assert [each.fileno() for each in ring.sockets] == [-1, -1]


async def test_one_is_closed_where_nobody_waits_for_it(
    descriptors: Callable[[], int],
) -> None:
    await trio.to_thread.run_sync(lambda: None)
    before = descriptors()
    ring = await PacketRingMaker().make(interface(), launch())
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await close_sockets(ring.sockets)
        nursery.cancel_scope.cancel()
    # Closing waits for the kernel, milliseconds, and the event loop goes on meanwhile.
    assert turns > 10
    assert descriptors() == before


async def test_without_descriptors_there_is_a_typed_failure() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        ring = await PacketRingMaker().make(interface(), launch())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert ring.failure is not None
    assert ring.failure.code == FailureCode.RESOURCES
    assert ring.sockets == ()


# Of several people -------------------------------------------------------------------------------------------------


class SlowKernel:
    """Takes 10 ms for each ring, however many it makes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._lock = threading.Lock()
        self.at_once = self.most_at_once = self.made = 0
        monkeypatch.setattr("capd.supervisor.packet_rings.make_ring", self._make)

    def _make(self, *arguments: Any, **options: Any) -> RingMemory:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            time.sleep(0.01)
            return make_ring(*arguments, **options)
        finally:
            with self._lock:
                self.at_once -= 1
                self.made += 1


async def test_who_asks_for_many_rings_keeps_nobody_else_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = SlowKernel(monkeypatch)
    maker = PacketRingMaker()
    many = [PacketRings(launch(*[interface(131072) for _ in range(60)]), maker, 1000) for _ in range(2)]
    async with trio.open_nursery() as nursery:
        for rings in many:
            nursery.start_soon(rings.run)
        while not kernel.at_once:
            await trio.lowlevel.checkpoint()
        began = kernel.made
        ring = await maker.make(interface(131072), launch(), 1001)
        assert ring.failure is None
        await give_back(ring)
        # They would all have come before.
        assert kernel.made - began <= 3 * limits.MAX_RINGS_BEING_MADE_PER_USER
        assert kernel.most_at_once <= limits.MAX_RINGS_BEING_MADE_PER_USER + 1
        nursery.cancel_scope.cancel()


async def test_who_asks_for_too_many_rings_waits_for_them(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def make(*_: object) -> NoReturn:
        raise RingError("it takes no time to fail")

    monkeypatch.setattr("capd.supervisor.packet_rings._make", make)
    maker, rate = PacketRingMaker(), limits.RINGS

    async def took_s(whose: Hashable, count: int) -> float:
        began_s = trio.current_time()
        for _ in range(count):
            await maker.make(interface(), launch(), whose)
        return trio.current_time() - began_s

    assert await took_s("one", rate.burst) == 0
    assert await took_s("one", rate.burst) == pytest.approx(rate.burst / rate.per_s)
    assert await took_s("other", rate.burst) == 0
    assert await took_s(FREE, 10 * rate.burst) == 0


# One ahead --------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def running(maker: PacketRingMaker) -> AsyncGenerator[None, None]:
    with trio.fail_after(_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(maker.run)
            yield
            nursery.cancel_scope.cancel()


async def give_back(ring: NewPacketRing) -> None:
    """Close a ring at once: the kernel keeps everybody waiting, and nothing else happens meanwhile."""
    for each in ring.sockets:
        each.close()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # nobody tells
        await trio.sleep(0.002)


async def until_made(made: list[dict[str, Any]], number: int) -> None:
    """Wait until the kernel has made so many rings, and the event loop has got them from its threads."""
    await until(lambda: len(made) == number)
    await trio.testing.wait_all_tasks_blocked(0.05)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SPARE_RING_PAUSE_S", 0.001)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """List what the kernel has made."""
    rings: list[dict[str, Any]] = []

    def making(packet_socket: socket.socket, **what: Any) -> RingMemory:
        memory = make_ring(packet_socket, **what)
        rings.append(what)
        return memory

    monkeypatch.setattr("capd.supervisor.packet_rings.make_ring", making)
    return rings


async def test_who_comes_next_waits_for_no_kernel_and_has_a_ring_like_any_other(
    made: list[dict[str, Any]], veth: tuple[str, str]
) -> None:
    maker = PacketRingMaker()
    async with running(maker):
        first = await maker.make(interface(), launch())
        await give_back(first)
        await until_made(made, 2)
        # What passes meanwhile is nobody's.
        send(veth[0], build_frames((64,)), 10)
        ring = await maker.make(interface(), launch())
        assert len(made) == 2
        assert ring.memory == first.memory
        (packet_socket,) = ring.sockets
        assert ring.memory is not None
        assert struct.unpack("=3I", packet_socket.getsockopt(SOL_PACKET, 6, 12)) == (0, 0, 0)  # PACKET_STATISTICS
        mapped = PacketRingReader(packet_socket, ring.memory, 0)
        assert mapped.take() is None
        bind(packet_socket.fileno(), ETH_P_ALL, socket.if_nametoindex(veth[1]))
        send(veth[0], build_frames((64,)), 10)
        packets = 0
        while packets < 10:
            await trio.lowlevel.wait_readable(packet_socket)
            while (blocks := mapped.take()) is not None:
                packets += blocks.packets
        assert packets == 10
        mapped.close()
        await give_back(ring)
        await until_made(made, 3)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"request": InterfaceRequest(name="eth0", kernel_buffer_size_bytes=2 * _MIB)}, {"size_bytes": 2 * _MIB}),
        ({"loopback": True}, {"loopback": True}),
        ({"default_dlt": DLT_RAW, "hardware_type": 65534}, {"header_bytes": 0}),
    ],
    ids=["size", "loopback", "no-header"],
)
async def test_one_of_another_kind_is_made_anew(
    made: list[dict[str, Any]], other: dict[str, Any], expected: dict[str, Any]
) -> None:
    maker = PacketRingMaker()
    async with running(maker):
        await give_back(await maker.make(interface(), launch()))
        await until_made(made, 2)
        await give_back(await maker.make(msgspec.structs.replace(interface(), **other), launch()))
        assert made[2] == made[0] | expected
        # The next one will rather be like this one.
        await until_made(made, 4)
        assert made[3] == made[2]


async def test_it_is_given_up_when_nobody_comes_and_made_again(
    made: list[dict[str, Any]], descriptors: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SPARE_RING_S", 0.02)
    maker = PacketRingMaker()
    async with running(maker):
        before = descriptors()
        for _ in range(2):
            made.clear()
            await give_back(await maker.make(interface(), launch()))
            await until(lambda: len(made) == 2 and descriptors() == before)


@pytest.mark.parametrize(
    ("size_bytes", "interval_s"), [(2 * _MIB, 0.1), (_MIB, 0.01)], ids=["large", "waking the processor"]
)
async def test_none_is_made_of_what_is_not_worth_it(
    made: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, size_bytes: int, interval_s: float
) -> None:
    monkeypatch.setattr(limits, "MAX_SPARE_RING_BYTES", _MIB)
    maker = PacketRingMaker()
    async with running(maker):
        await give_back(await maker.make(interface(), launch()))
        await until_made(made, 2)
        unlike = msgspec.structs.replace(launch(), update_interval_s=interval_s)
        await give_back(await maker.make(interface(size_bytes), unlike))
        await until_made(made, 3)
        # The other one is kept.
        await give_back(await maker.make(interface(), launch()))
        assert len(made) == 3


@pytest.mark.parametrize("rings", [1, 2])
async def test_cancelled_it_leaves_none(made: list[dict[str, Any]], descriptors: Callable[[], int], rings: int) -> None:
    await trio.to_thread.run_sync(lambda: None)
    before = descriptors()
    maker = PacketRingMaker()
    async with running(maker):
        await give_back(await maker.make(interface(), launch()))
        await until(lambda: len(made) >= rings)  # while the second one is being made, or after that
    assert descriptors() == before


async def test_where_it_cannot_be_made_captures_go_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SPARE_RING_PAUSE_S", 0.2)  # beyond the time that the first one takes
    caplog.set_level(logging.INFO)
    maker = PacketRingMaker()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with running(maker):
        await give_back(await maker.make(interface(), launch()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        try:
            await until(lambda: "no ring is kept ahead" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        await give_back(await maker.make(interface(), launch()))


@contextlib.asynccontextmanager
async def no_threads() -> AsyncGenerator[None, None]:
    """Have the kernel start none for this process, as where there are as many as there may be."""
    is_over = threading.Event()
    is_so = False

    async def occupy() -> None:
        nonlocal is_so
        try:
            await trio.to_thread.run_sync(is_over.wait, _TIMEOUT_S, limiter=trio.CapacityLimiter(1))
        except RuntimeError:
            is_so = True

    # Root is bound by no RLIMIT_NPROC; a stack that has no room is refused in the same way.
    usual_bytes = threading.stack_size(1 << 46)
    try:
        async with trio.open_nursery() as nursery:
            while not is_so:  # until those are used up that trio keeps for who comes next
                nursery.start_soon(occupy)
                await trio.testing.wait_all_tasks_blocked()
            try:
                yield
            finally:
                is_over.set()
    finally:
        threading.stack_size(usual_bytes)


async def test_without_threads_there_is_a_typed_failure_and_nothing_is_left(
    made: list[dict[str, Any]], descriptors: Callable[[], int]
) -> None:
    await trio.to_thread.run_sync(lambda: None)
    before = descriptors()
    maker = PacketRingMaker()
    async with running(maker):
        before_any = descriptors()
        await give_back(await maker.make(interface(), launch()))
        await until_made(made, 2)
        async with no_threads():
            other = await maker.make(interface(_MIB // 2), launch())
            assert other.failure is not None
            assert other.failure.code == FailureCode.RESOURCES
            # The one that is kept makes room for one like this, which cannot be made.
            await until(lambda: descriptors() == before_any)
        await give_back(await maker.make(interface(_MIB // 2), launch()))
    assert descriptors() == before
