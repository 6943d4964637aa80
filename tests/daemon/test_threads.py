"""Where no thread can be started, that one request is refused, and the daemon goes on."""

import errno
import socket
from typing import Any

import pytest
import trio

from capd.captures.lasting.detached import Detached
from capd.captures.registry import Captures
from capd.clients.server import Server
from capd.leases.devices import Devices
from capd.leases.senders import Senders
from capd.network.monitor import Monitor
from capd.pacing.threads import in_thread
from capd.policy.audit import Audit
from capd.policy.people import People
from capd.policy.rules import Policy
from capd.supervisor.closer import Closer
from capd.supervisor.packet_rings import PacketRingMaker
from capd.supervisor.spawner import Spawner
from capd_protocol.frames import FrameDecoder
from capd_protocol.messages import (
    FailureCode,
    GetCapabilities,
    GetDriverCounters,
    ListInterfaces,
    Message,
    Permissions,
    Refused,
    WhoAmI,
    decode,
    encode,
)
from tests.support.attack import HELLO


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("trio._threads.start_thread_soon", fail)


@pytest.mark.usefixtures("no_threads")
async def test_a_thread_that_cannot_be_started_is_an_oserror() -> None:
    with pytest.raises(OSError, match="no thread can be started") as error:
        await in_thread(lambda: None)
    assert error.value.errno == errno.EAGAIN


async def test_what_a_function_raises_is_its_own() -> None:
    def fail() -> None:
        raise RuntimeError("of the function")

    with pytest.raises(RuntimeError, match="of the function"):
        await in_thread(fail)
    assert await in_thread(lambda: 7) == 7


class Talk:
    """A client's side, in the event loop."""

    def __init__(self, connection: trio.socket.SocketType) -> None:
        self._connection = connection
        self._decoder = FrameDecoder()

    async def send(self, *data: bytes) -> None:
        await self._connection.send(b"".join(data))

    async def receive(self) -> Message:
        while (frame := self._decoder.next_frame()) is None:
            data = await self._connection.recv(65536)
            assert data, "the connection is closed"
            self._decoder.feed(data)
        return decode(frame)


@pytest.mark.usefixtures("no_threads")
@pytest.mark.parametrize(
    "request_",
    [ListInterfaces(), GetCapabilities(interface="lo"), GetDriverCounters(interface="lo")],
    ids=lambda request: type(request).__name__,
)
async def test_a_request_that_needs_a_thread_is_refused_and_others_are_not(request_: Any) -> None:
    closer = Closer()
    captures = Captures(Policy(), Spawner(), closer, PacketRingMaker())
    monitor, audit = Monitor(), Audit()
    senders = Senders(Policy, monitor, Spawner(), closer, People())
    devices = Devices(Policy, Spawner(), closer, People())
    detached = Detached(captures, monitor, audit, closer)
    server = Server(captures, detached, monitor, audit, closer, senders=senders, devices=devices)
    ours, theirs = socket.socketpair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(monitor.run)
        nursery.start_soon(server.serve_client, trio.socket.from_stdlib_socket(theirs))
        with trio.fail_after(10), trio.socket.from_stdlib_socket(ours) as connection:
            talk = Talk(connection)
            await talk.send(HELLO, encode(request_), encode(WhoAmI()))
            await talk.receive()
            refused = await talk.receive()
            assert isinstance(refused, Refused)
            assert refused.failure.code == FailureCode.RESOURCES
            assert "no thread can be started" in refused.failure.text
            assert isinstance(await talk.receive(), Permissions)
        nursery.cancel_scope.cancel()
