"""Rings that the daemon arms for a worker: with policy's filter before the user's, for good."""

import socket
import struct
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from capd.launch import Arm, Launch, LaunchInterface, RingFilter
from capd.linux.packet_socket import SOL_PACKET, attach_filter
from capd.supervisor.armed_rings import ArmedRings, Outcome
from capd.supervisor.packet_rings import PacketRingMaker, PacketRings
from capd.supervisor.policy_filters import PolicyFilters
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.formats.linktypes import DLT_EN10MB
from capd_protocol.messages import FailureCode, InterfaceRequest
from tests.daemon.test_rings import launch
from tests.policy.test_daemon import TCP_80, UDP_53, UDP_80
from tests.support.namespace import veth_pair
from tests.support.traffic import send

#: Programs that take all, and nothing.
TAKES_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0x40000)
TAKES_NOTHING = struct.pack("=HBBI", 0x06, 0, 0, 0)
_STATISTICS = 6


def interface_of(name: str, policy_filter: str = "") -> LaunchInterface:
    return LaunchInterface(
        request=InterfaceRequest(name=name, kernel_buffer_size_bytes=1 << 20, promiscuous=False),
        policy_filter=policy_filter,
        device=name,
        index=socket.if_nametoindex(name),
        hardware_type=1,
        default_dlt=DLT_EN10MB,
        loopback=False,
    )


@pytest.fixture
def other_veth() -> Generator[tuple[str, str], None, None]:
    with veth_pair("othertx", "otherrx"):
        yield "othertx", "otherrx"


@asynccontextmanager
async def armed_rings(of: Launch) -> AsyncGenerator[ArmedRings, None]:
    rings = PacketRings(of, PacketRingMaker())
    armed = ArmedRings(of, rings, PolicyFilters())
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rings.run)
            try:
                yield armed
            finally:
                await armed.close()
                nursery.cancel_scope.cancel()


def received(outcome: Outcome) -> int:
    """Return what a ring has received since this was asked for the last time."""
    (descriptor,) = outcome.descriptors
    taken = socket.socket(fileno=descriptor)
    try:
        packets: int = struct.unpack("=3I", taken.getsockopt(SOL_PACKET, _STATISTICS, 12))[0]
        return packets
    finally:
        taken.detach()


async def armed_one(rings: ArmedRings, program: bytes = TAKES_ALL, number: int = 0) -> Outcome:
    (outcome,) = await rings.arm(Arm(rings=(RingFilter(number=number, program=program),)))
    return outcome


@pytest.mark.parametrize(
    ("policy_filter", "program", "expected"),
    [
        ("", TAKES_ALL, 3),
        ("", TAKES_NOTHING, 0),
        ("udp port 53", TAKES_ALL, 1),
        ("udp", TAKES_ALL, 2),
        ("udp", TAKES_NOTHING, 0),
    ],
)
async def test_a_ring_receives_what_both_filters_take(
    veth: tuple[str, str], policy_filter: str, program: bytes, expected: int
) -> None:
    async with armed_rings(launch(interface_of(veth[1], policy_filter))) as rings:
        outcome = await armed_one(rings, program)
        assert outcome.made.failure is None
        assert send(veth[0], [UDP_53, UDP_80, TCP_80], 3) == 3
        assert received(outcome) == expected


async def test_nobody_changes_a_filter_that_was_armed(veth: tuple[str, str]) -> None:
    async with armed_rings(launch(interface_of(veth[1]))) as rings:
        (descriptor,) = (await armed_one(rings)).descriptors
        taken = socket.socket(fileno=descriptor)
        with pytest.raises(PermissionError):
            attach_filter(taken, TAKES_ALL)
        taken.detach()


async def test_one_interface_is_disarmed_and_the_others_go_on(
    veth: tuple[str, str], other_veth: tuple[str, str]
) -> None:
    first, second = interface_of(veth[1]), interface_of(other_veth[1])
    async with armed_rings(launch(first, second)) as rings:
        outcomes = await rings.arm(Arm(rings=tuple(RingFilter(number=n, program=TAKES_ALL) for n in (0, 1))))
        await rings.disarm(first.index)
        for sender in (veth[0], other_veth[0]):
            assert send(sender, [UDP_53], 5) == 5
        assert [received(outcome) for outcome in outcomes] == [0, 5]
        await rings.disarm_all()
        assert send(other_veth[0], [UDP_53], 5) == 5
        assert received(outcomes[1]) == 0


async def test_what_is_revoked_receives_nothing_and_gets_no_ring_any_more(
    veth: tuple[str, str], other_veth: tuple[str, str]
) -> None:
    first, second = interface_of(veth[1]), interface_of(other_veth[1])
    async with armed_rings(launch(first, second)) as rings:
        outcome = await armed_one(rings)
        await rings.revoke()
        assert send(veth[0], [UDP_53], 5) == 5
        assert received(outcome) == 0
        refused = await armed_one(rings, number=1)
        assert refused.made.failure is not None
        assert (refused.made.failure.code, refused.descriptors) == (FailureCode.NOT_PERMITTED, ())


@pytest.mark.parametrize(
    "asked",
    [
        RingFilter(number=1, program=TAKES_ALL),
        RingFilter(number=-1, program=TAKES_ALL),
        RingFilter(number=0, program=b""),
        RingFilter(number=0, program=TAKES_ALL[:-1]),
        RingFilter(number=0, program=TAKES_ALL, trigger_program=b"x"),
    ],
)
async def test_what_a_worker_may_not_ask_for_breaks_the_protocol(veth: tuple[str, str], asked: RingFilter) -> None:
    async with armed_rings(launch(interface_of(veth[1]))) as rings:
        with pytest.raises(RemoteProtocolError):
            await rings.arm(Arm(rings=(asked,)))


async def test_each_ring_is_given_once(veth: tuple[str, str]) -> None:
    async with armed_rings(launch(interface_of(veth[1]))) as rings:
        await armed_one(rings)
        with pytest.raises(RemoteProtocolError):
            await armed_one(rings)
        assert rings.add(interface_of(veth[1])) == 1
        assert (await armed_one(rings, number=1)).made.memory is not None


@pytest.mark.parametrize(
    "program", [TAKES_ALL * 4097, struct.pack("=HBBI", 0xFFFF, 0, 0, 0), struct.pack("=HBBI", 0x05, 0, 0, 7)]
)
async def test_what_the_kernel_does_not_take_is_a_bad_filter(veth: tuple[str, str], program: bytes) -> None:
    async with armed_rings(launch(interface_of(veth[1], "udp"))) as rings:
        failure = (await armed_one(rings, program)).made.failure
        assert failure is not None
        assert failure.code == FailureCode.BAD_FILTER


async def test_an_interface_of_another_name_by_now_is_none(veth: tuple[str, str]) -> None:
    renamed = msgspec.structs.replace(interface_of(veth[1]), device="other")
    async with armed_rings(launch(renamed)) as rings:
        failure = (await armed_one(rings)).made.failure
        assert failure is not None
        assert failure.code == FailureCode.NO_SUCH_INTERFACE


async def test_what_the_worker_leaves_out_and_lets_go_is_closed(veth: tuple[str, str]) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    await trio.to_thread.run_sync(lambda: None)
    async with armed_rings(launch(interface_of(veth[1]), interface_of(veth[1]))) as rings:
        before = descriptors()
        await armed_one(rings, number=1)
        await rings.drop_rest()
        assert descriptors() == before + 1
        await rings.let_go(1)
        assert descriptors() == before


async def test_interfaces_that_come_and_go_leave_nothing(veth: tuple[str, str]) -> None:
    async with armed_rings(launch(interface_of(veth[1]))) as rings:
        await armed_one(rings)
        numbers = [rings.add(interface_of(veth[1])) for _ in range(2)]
        for _ in range(3):
            numbers.append(rings.add(interface_of(veth[1])))
            outcome = await armed_one(rings, number=numbers[-1])
            assert outcome.made.failure is None
            await rings.let_go(numbers[-1])
            with pytest.raises(RemoteProtocolError):
                await armed_one(rings, number=numbers[-1])
        assert len(set(numbers)) == 5
        assert len(rings._interfaces) == 3  # the first one, and those that nobody has asked for
