"""What a worker says, which is its user's by then: the daemon takes only so much of it."""

import socket
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import trio

from capd.launch import DirectoryTaken, Disarm
from capd.launch import encode as encode_control
from capd.linux.descriptors import refuse_rights
from capd.supervisor.armed_rings import ArmedRings
from capd.supervisor.closer import Closer
from capd.supervisor.handover import Envelope, FromEnvelope
from capd.supervisor.packet_rings import PacketRingMaker, PacketRings
from capd.supervisor.policy_filters import PolicyFilters
from capd.supervisor.spawner import Spawner
from capd.supervisor.worker import Worker
from capd_protocol.messages import DeletionReason, Drops, ErrorMessage, FileDeleted, FileOpened, Rotated, WhoAmI, encode
from tests.daemon.test_rings import launch

#: In all tests more than any worker has to say.
MANY = 200_000


class Process:
    """One that has ended."""

    pid = 0
    returncode = 0

    async def wait(self) -> None:
        """It has."""


class OneSpawner:
    """Its worker is the test's."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    async def spawn_worker(self) -> tuple[Process, trio.socket.SocketType]:
        """Return it."""
        refuse_rights(self._connection)
        return Process(), trio.socket.from_stdlib_socket(self._connection)


async def heard_of(frame: Callable[[int], bytes]) -> int:
    """Return how many messages are taken of a worker that says more and more, until it is heard no longer."""
    heard = 0

    def hear(_: object) -> None:
        nonlocal heard
        heard += 1

    async def say(side: trio.socket.SocketType) -> None:
        for number in range(0, MANY, 1000):
            data = memoryview(b"".join(map(frame, range(number, number + 1000))))
            while data:
                try:
                    data = data[await side.send(data) :]
                except (BrokenPipeError, ConnectionResetError):
                    return
        side.close()

    ours, theirs = socket.socketpair()
    kept, other = socket.socketpair()
    of = launch()
    armed = ArmedRings(of, PacketRings(of, PacketRingMaker()), PolicyFilters())
    worker = Worker(of, FromEnvelope(Envelope(kept)), armed, 0)
    with trio.fail_after(60), trio.socket.from_stdlib_socket(theirs) as side, kept, other:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, side)
            await worker.run(cast(Spawner, OneSpawner(ours)), Closer(), hear)
            nursery.cancel_scope.cancel()
    return heard


async def test_one_that_was_given_up_before_it_was_there_gets_nothing() -> None:
    ours, theirs = socket.socketpair()
    kept, other = socket.socketpair()
    of = launch()
    worker = Worker(
        of, FromEnvelope(Envelope(kept)), ArmedRings(of, PacketRings(of, PacketRingMaker()), PolicyFilters()), 0
    )
    await worker.kill()
    with trio.fail_after(60), trio.socket.from_stdlib_socket(theirs) as side, kept, other:
        await worker.run(cast(Spawner, OneSpawner(ours)), Closer(), lambda _: None)
        assert await side.recv(1) == b""


@pytest.mark.parametrize("message", [ErrorMessage("x" * 100), Drops(1, "eth0")], ids=lambda each: type(each).__name__)
async def test_last_words_have_an_end(message: Any) -> None:
    assert 1000 < await heard_of(lambda _: encode(message)) < MANY


async def test_what_is_not_for_a_worker_to_say_ends_it() -> None:
    assert await heard_of(lambda _: encode(WhoAmI())) == 0


async def test_requests_for_rings_do_not_pile_up(caplog: pytest.LogCaptureFixture) -> None:
    await heard_of(lambda _: encode_control(Disarm()))
    assert "requests for rings at once" in caplog.text


async def test_news_have_no_end() -> None:
    event = encode(FileDeleted(name="x", reason=DeletionReason.FILES, size_bytes=1))
    assert await heard_of(lambda _: event) == MANY


async def test_a_name_that_no_list_could_tell_ends_it() -> None:
    name = "a\udcff"  # a byte that is no UTF-8
    with pytest.raises(UnicodeEncodeError):
        encode(Rotated(file_name=name))
    assert await heard_of(partial(_same, encode(FileOpened(name)))) == 0


def _same(told: bytes, _number: int) -> bytes:
    return told


async def test_news_that_say_too_much_end_it() -> None:
    for told in (
        encode(FileDeleted(name="x" * 20_000, reason=DeletionReason.FILES, size_bytes=1)),
        encode_control(DirectoryTaken(path="x" * 20_000)),
    ):
        assert await heard_of(partial(_same, told)) == 0
