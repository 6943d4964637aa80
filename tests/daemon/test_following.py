"""A client that follows a capture: what it is sent, what it may order, and what ends it. No worker is needed."""

import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
import trio
import trio.testing

from capd import limits
from capd.captures.capture import Capture
from capd.captures.lasting.detached import Detached
from capd.captures.registry import Captures
from capd.captures.revoker import Revoker
from capd.captures.subscribers import Subscriber
from capd.clients.admission import Admission
from capd.clients.connection import Connection
from capd.clients.following import Following
from capd.clients.services import Services
from capd.clients.states import Conversation
from capd.errors import RequestRefused
from capd.leases.devices import Devices
from capd.leases.senders import Senders
from capd.network.monitor import Monitor
from capd.policy.audit import Audit
from capd.policy.peer import Peer
from capd.policy.people import People
from capd.policy.rules import Policy
from capd.supervisor.closer import Closer
from capd.supervisor.packet_rings import PacketRingMaker
from capd.supervisor.spawner import Spawner
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import FrameDecoder
from capd_protocol.messages import (
    AttachCapture,
    Ended,
    EndReason,
    FailureCode,
    FlushCapture,
    Hello,
    ListCaptures,
    Message,
    PacketCount,
    Refused,
    Started,
    StopCapture,
    Stopping,
    Triggered,
    TriggerReason,
    decode,
    encode,
)
from tests.support.attack import request_for

ROOT, OTHER = Peer(1, 0, 0, ()), Peer(2, 1000, 1000, ())
FIRST = Started(capture_id=1)
END = Ended(reason=EndReason.STOPPED, interfaces=())

Settled = Callable[[], Awaitable[RequestRefused | None]]


async def at_once() -> None:
    return None


class Talk:
    """A client that follows root's capture, which nothing is known to have come of yet."""

    def __init__(self, services: Services, capture: Capture, peer: Peer, *, is_own: bool) -> None:
        ours, theirs = socket.socketpair()
        self.client = trio.socket.from_stdlib_socket(theirs)
        self.capture = capture
        self.subscriber: Subscriber = capture.subscribe()
        #: How the client has left, each time.
        self.left: list[RemoteProtocolError | None] = []
        self.refused: RequestRefused | None = None
        self.violation: RemoteProtocolError | None = None
        self.is_over = trio.Event()
        self._connection = Connection(trio.socket.from_stdlib_socket(ours), services.closer)
        conversation = Conversation()
        conversation.hear(Hello(protocol_version=1, software="x"))
        conversation.hear(AttachCapture(capture=1))
        self._following = Following(
            services,
            peer,
            self._connection,
            conversation,
            capture=capture,
            subscriber=self.subscriber,
            on_left=self.left.append if is_own else None,
        )
        self._decoder = FrameDecoder()

    async def run(self, settled: Settled = at_once) -> None:
        try:
            self.refused = await self._following.run(FIRST, settled=settled)
        except RemoteProtocolError as error:
            self.violation = error
        finally:
            self.is_over.set()
            self._connection.close(0)

    async def say(self, *messages: Message) -> None:
        await self.client.send(b"".join(map(encode, messages)))

    async def hear(self) -> Message | None:
        """Return what comes next; None at the end."""
        while (frame := self._decoder.next_frame()) is None:
            data = await self.client.recv(65536)
            if not data:
                return None
            self._decoder.feed(data)
        return decode(frame)

    def tell(self, *messages: Message) -> None:
        for message in messages:
            self.subscriber.put(message)


@contextlib.asynccontextmanager
async def talking(settled: Settled = at_once, *, peer: Peer = ROOT, is_own: bool = False) -> AsyncGenerator[Talk, None]:
    captures = Captures(Policy(), Spawner(), Closer(), PacketRingMaker())
    closer, audit, monitor, people = Closer(), Audit(), Monitor(), People()
    services = Services(
        captures=captures,
        detached=Detached(captures, monitor, audit, closer),
        monitor=monitor,
        audit=audit,
        closer=closer,
        admission=Admission(people, captures, closer, audit),
        revoker=Revoker(captures, people, monitor),
        senders=Senders(Policy, monitor, Spawner(), closer, people),
        devices=Devices(Policy, Spawner(), closer, people),
    )
    with captures.granted(ROOT, request_for("lo", name="a")) as capture:
        talk = Talk(services, capture, peer, is_own=is_own)
        with talk.client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk.run, settled)
                yield talk
                nursery.cancel_scope.cancel()


BOTH = pytest.mark.parametrize("is_own", [False, True], ids=["attached", "own"])


# Events -----------------------------------------------------------------------------------------------------------


@BOTH
async def test_events_come_in_order_until_the_last_one(is_own: bool) -> None:
    async with talking(is_own=is_own) as talk:
        assert await talk.hear() == FIRST
        talk.tell(PacketCount(1), END)
        assert [await talk.hear() for _ in range(3)] == [PacketCount(1), END, None]
    assert (talk.left, talk.violation, talk.refused) == ([], None, None)


async def test_nothing_is_told_of_one_that_does_not_run() -> None:
    refusal = RequestRefused(FailureCode.DISK, "no room")

    async def refuse() -> RequestRefused:
        return refusal

    async with talking(refuse) as talk:
        assert await talk.hear() is None
    assert talk.refused is refusal


@BOTH
async def test_a_client_that_does_not_read_is_waited_for_only_so_long(
    autojump_clock: trio.testing.MockClock, is_own: bool
) -> None:
    async with talking(is_own=is_own) as talk:
        await talk.hear()
        for number in range(500):
            talk.tell(Triggered(reason=TriggerReason.FILTER, interface=f"{number}" * 1000))
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(1000)
        assert not talk.is_over.is_set()
        talk.tell(END)
        ended_s = trio.current_time()
        await talk.is_over.wait()
        assert trio.current_time() - ended_s == pytest.approx(limits.LAST_EVENTS_TIMEOUT_S)


# Leaving ----------------------------------------------------------------------------------------------------------


async def test_who_is_attached_and_leaves_hears_no_more_and_changes_nothing() -> None:
    async with talking() as talk:
        await talk.hear()
        talk.client.shutdown(socket.SHUT_WR)
        await talk.is_over.wait()
        assert await talk.hear() is None
        assert talk.capture.account.stopped_for is None


async def test_who_has_started_a_capture_and_leaves_hears_of_its_end() -> None:
    async with talking(is_own=True) as talk:
        await talk.hear()
        talk.client.shutdown(socket.SHUT_WR)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert talk.left == [None]
        assert not talk.is_over.is_set()
        talk.tell(END)
        assert [await talk.hear(), await talk.hear()] == [END, None]


async def test_a_client_that_cannot_be_told_has_left() -> None:
    async with talking(is_own=True) as talk:
        await talk.hear()
        talk.client.shutdown(socket.SHUT_RD)  # what is sent there now is a broken pipe
        talk.tell(PacketCount(1))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert talk.left == [None]
        assert not talk.is_over.is_set()
        talk.tell(END)
        await talk.is_over.wait()


async def test_who_leaves_before_it_runs_is_told_nothing() -> None:
    async with talking(trio.sleep_forever) as talk:
        talk.client.shutdown(socket.SHUT_WR)
        assert await talk.hear() is None


MISUSES: dict[str, Message] = {
    "a question": ListCaptures(),
    "an order to another one": FlushCapture(capture="b"),
    "an event": PacketCount(1),
}


@pytest.mark.parametrize("misuse", MISUSES)
async def test_who_is_attached_and_breaks_the_protocol_hears_no_more(misuse: str) -> None:
    async with talking() as talk:
        await talk.hear()
        await talk.say(MISUSES[misuse])
        assert await talk.hear() is None
    assert "while this connection captures" in str(talk.violation)


@pytest.mark.parametrize("misuse", MISUSES)
async def test_who_has_started_a_capture_and_breaks_the_protocol_hears_of_its_end(misuse: str) -> None:
    async with talking(is_own=True) as talk:
        await talk.hear()
        await talk.say(MISUSES[misuse])
        await trio.testing.wait_all_tasks_blocked(0.01)
        talk.tell(END)
        assert [await talk.hear(), await talk.hear()] == [END, None]
    (violation,) = talk.left
    assert "while this connection captures" in str(violation)
    assert talk.violation is None


# Orders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [None, "a", "number"])
async def test_a_capture_is_stopped_once_by_whatever_it_is_called(which: str | None) -> None:
    async with talking() as talk:
        await talk.hear()
        number = talk.capture.capture_id
        await talk.say(*[StopCapture(capture=number if which == "number" else which)] * 3)
        assert await talk.hear() == Stopping()
        assert talk.capture.account.stopped_for == EndReason.STOPPED
        talk.tell(END)
        assert await talk.hear() == END


async def test_orders_are_answered_among_the_events_also_before_it_runs() -> None:
    runs = trio.Event()
    async with talking(runs.wait) as talk:
        await talk.say(FlushCapture())
        await trio.testing.wait_all_tasks_blocked(0.01)
        runs.set()
        assert await talk.hear() == FIRST
        for _ in range(2):
            answer = await talk.hear()
            assert isinstance(answer, Refused)
            assert answer.failure.code == FailureCode.RESOURCES  # it does not run
            await talk.say(FlushCapture())


async def test_two_orders_at_once_break_the_protocol() -> None:
    async with talking(trio.sleep_forever) as talk:
        await talk.say(FlushCapture(), FlushCapture())
        assert await talk.hear() is None
    assert "before the answer" in str(talk.violation)


async def test_who_may_not_stop_a_capture_is_told_so_and_hears_on() -> None:
    async with talking(peer=OTHER) as talk:
        await talk.hear()
        await talk.say(StopCapture())
        answer = await talk.hear()
        assert isinstance(answer, Refused)
        assert answer.failure.code == FailureCode.NO_SUCH_CAPTURE
        assert talk.capture.account.stopped_for is None
        talk.tell(END)
        assert await talk.hear() == END


async def test_a_client_whose_kernel_refuses_descriptors_breaks_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    async def send(*_: object) -> bool:
        raise RemoteProtocolError("the client takes no descriptors")  # as from Linux 6.16 on (SO_PASSRIGHTS)

    monkeypatch.setattr(Connection, "send", send)
    with trio.fail_after(5):
        async with talking() as talk:
            await talk.is_over.wait()
    assert str(talk.violation) == "the client takes no descriptors"
