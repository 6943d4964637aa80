"""Real rings, made by the daemon's side: as large as asked for, all at once, and none left where nobody takes them."""

import os
import resource
from collections.abc import Callable

import pytest
import trio

from capd.rings import Rings, make
from capd.worker.launch import Launch, LaunchInterface
from capd.worker.ring import Ring
from capd_protocol.linktypes import DLT_EN10MB
from capd_protocol.messages import Conditions, Destination, FailureCode, InterfaceRequest, Recorder

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
    rings = Rings(launch(*map(interface, sizes)))
    with trio.fail_after(_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rings.run)
            for number in reversed(range(20)):
                ring = await rings.take(number)
                (packet_socket,) = ring.sockets
                assert ring.made.failure is None
                assert ring.made.memory is not None
                block_bytes, blocks = ring.made.memory
                assert block_bytes * blocks == sizes[number]
                mapped = Ring(packet_socket, ring.made.memory)
                assert mapped.size_bytes == len(mapped.bytes) == sizes[number]
                assert mapped.take() is None
                mapped.close()
            nursery.cancel_scope.cancel()


async def test_what_nobody_takes_is_closed(descriptors: Callable[[], int]) -> None:
    # Threads and what wakes the loop are trio's.
    await trio.to_thread.run_sync(lambda: None)
    before = descriptors()
    rings = Rings(launch(*[interface() for _ in range(20)]))
    with trio.fail_after(_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rings.run)
            async with await rings.take(3):
                pass
            nursery.cancel_scope.cancel()
    assert descriptors() == before


@pytest.mark.parametrize("checkpoints", range(6))
async def test_cancelled_at_any_time_nothing_is_left(descriptors: Callable[[], int], checkpoints: int) -> None:
    await trio.to_thread.run_sync(lambda: None)
    before = descriptors()
    rings = Rings(launch(*[interface() for _ in range(20)]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rings.run)
        for _ in range(checkpoints):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert descriptors() == before


async def test_a_recorder_with_a_trigger_has_a_second_socket() -> None:
    with_trigger = launch(interface(), recorder=Recorder(memory_bytes=_MIB, duration_s=1.0, trigger_filter="udp"))
    ring = await make(interface(), with_trigger)
    assert ring.made.has_trigger
    assert len(ring.descriptors) == 2
    async with ring:
        pass
    assert [each.fileno() for each in ring.sockets] == [-1, -1]


async def test_one_that_cannot_be_handed_over_is_closed_where_nobody_waits_for_it(
    descriptors: Callable[[], int],
) -> None:
    await trio.to_thread.run_sync(lambda: None)
    before = descriptors()
    ring = await make(interface(), launch())
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        with pytest.raises(trio.BrokenResourceError):
            async with ring:
                raise trio.BrokenResourceError
        nursery.cancel_scope.cancel()
    # Closing waits for the kernel, milliseconds, and the event loop goes on meanwhile.
    assert turns > 10
    assert descriptors() == before


async def test_without_descriptors_there_is_a_typed_failure() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        ring = await make(interface(), launch())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert ring.made.failure is not None
    assert ring.made.failure.code == FailureCode.RESOURCES
    assert ring.sockets == ()
