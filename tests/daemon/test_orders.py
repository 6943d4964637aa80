"""Each order that a worker is given has its own answer, or an end to waiting for it."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from capd import limits
from capd.captures.account import Account
from capd.captures.orders import Orders
from capd.errors import RequestRefused
from capd.launch import Answer, Flush, NumberedOrder, Rotate, Snapshot
from capd.policy.peer import Peer
from capd.policy.rules import Terms
from capd_protocol.messages import Conditions, Failure, FailureCode, FileOpened, Recorder, StartCapture
from tests.support.attack import request_for

RING = request_for("lo", ring=Conditions(packets=1))
SINGLE = request_for("lo")
RECORDER = request_for("lo", recorder=Recorder(after_s=3.0))

Answers = Callable[[NumberedOrder], Answer | None]


def done(order: NumberedOrder) -> Answer:
    return Answer(number=order.number)


def silent(_: NumberedOrder) -> None:
    return None


class Worker:
    """Answers orders as a test wants it, or not at all."""

    def __init__(self, answers: Answers) -> None:
        self.given: list[NumberedOrder] = []
        self.orders: Orders | None = None
        self._answers = answers

    async def take(self, order: NumberedOrder) -> None:
        self.given.append(order)
        answer = self._answers(order)
        if answer is not None and self.orders is not None:
            self.orders.take_answer(answer)


def running(request: StartCapture, answers: Answers = silent, *, file_name: str = "current") -> tuple[Orders, Worker]:
    account = Account(10_000, Peer(1, 0, 0, ()), request, Terms((), None, None), 0)
    account.is_running = account.has_worker = True
    account.add(FileOpened(file_name))
    worker = Worker(answers)
    worker.orders = Orders(account, worker.take)
    return worker.orders, worker


async def refusal_of(order: Awaitable[object]) -> Failure:
    with pytest.raises(RequestRefused) as refused:
        await order
    return refused.value.failure


# What may be ordered ----------------------------------------------------------------------------------------------

IMPOSSIBLE: dict[str, tuple[StartCapture, Callable[[Orders], Awaitable[object]], str, str]] = {
    "rotate a recorder": (RECORDER, lambda orders: orders.rotate(), "is a recorder", "capture"),
    "rotate a single file": (SINGLE, lambda orders: orders.rotate(), "single file", "capture"),
    "a snapshot of a ring": (RING, lambda orders: orders.snapshot(None), "no recorder", "capture"),
    "a snapshot of no time": (RECORDER, lambda orders: orders.snapshot(-1.0), "", "after"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
async def test_what_is_impossible_is_refused_and_no_worker_hears_of_it(case: str) -> None:
    request, order, words, argument = IMPOSSIBLE[case]
    orders, worker = running(request, done)
    failure = await refusal_of(order(orders))
    assert failure.code == FailureCode.INVALID
    assert words in failure.text
    assert failure.argument == argument
    assert worker.given == []


async def test_one_that_does_not_run_is_given_no_orders() -> None:
    account = Account(10_000, Peer(1, 0, 0, ()), RING, Terms((), None, None), 0)
    worker = Worker(done)
    for order in (Orders(account, worker.take).rotate, Orders(account, worker.take).flush):
        assert (await refusal_of(order())).code == FailureCode.RESOURCES
    assert worker.given == []


# Answers ----------------------------------------------------------------------------------------------------------


async def test_each_order_has_its_number() -> None:
    orders, worker = running(RING, done)
    assert await orders.rotate() == "current"
    await orders.flush()
    assert await orders.rotate() == "current"
    assert worker.given == [Rotate(number=1), Flush(number=2), Rotate(number=3)]


async def test_a_snapshot_is_told_of_by_its_own_name_and_goes_on_as_long_as_it_was_wished() -> None:
    orders, worker = running(RECORDER, lambda order: Answer(number=order.number, file_name="snapshot"))
    assert await orders.snapshot(None) == "snapshot"
    assert await orders.snapshot(0.5) == "snapshot"
    assert worker.given == [Snapshot(number=1, after_s=3.0), Snapshot(number=2, after_s=0.5)]


async def test_what_a_worker_could_not_do_is_refused_in_its_words() -> None:
    failure = Failure(code=FailureCode.DISK, text="no room", argument="savefile")
    orders, _ = running(RING, lambda order: Answer(number=order.number, failure=failure))
    assert await refusal_of(orders.rotate()) == failure


async def test_answers_go_to_those_who_asked_in_any_order() -> None:
    orders, _ = running(RECORDER)
    named: dict[float, str] = {}

    async def snapshot(after_s: float) -> None:
        named[after_s] = await orders.snapshot(after_s)

    async with trio.open_nursery() as nursery:
        for after_s in (1.0, 2.0):
            nursery.start_soon(snapshot, after_s)
            await trio.testing.wait_all_tasks_blocked()
        orders.take_answer(Answer(number=2, file_name="second"))
        await trio.testing.wait_all_tasks_blocked()
        assert named == {2.0: "second"}
        orders.take_answer(Answer(number=1, file_name="first"))
    assert named == {1.0: "first", 2.0: "second"}


# No answer --------------------------------------------------------------------------------------------------------


async def test_nobody_waits_longer_than_it_may_take(autojump_clock: trio.testing.MockClock) -> None:
    orders, worker = running(RING)
    began_s = trio.current_time()
    failure = await refusal_of(orders.flush())
    assert failure.code == FailureCode.TIMEOUT
    assert trio.current_time() - began_s == pytest.approx(limits.ORDER_TIMEOUT_S)
    orders.take_answer(Answer(number=1))  # nobody waits for it any more
    assert not orders._pending
    assert worker.given == [Flush(number=1)]


@pytest.mark.parametrize(("after_s", "window_s"), [(None, 3.0), (20.0, 20.0)])
async def test_a_snapshot_may_take_as_long_as_it_goes_on_and_some_time_more(
    autojump_clock: trio.testing.MockClock, after_s: float | None, window_s: float
) -> None:
    orders, _ = running(RECORDER)
    began_s = trio.current_time()
    assert (await refusal_of(orders.snapshot(after_s))).code == FailureCode.TIMEOUT
    assert trio.current_time() - began_s == pytest.approx(window_s + limits.SNAPSHOT_TIMEOUT_S)


async def test_a_worker_that_does_not_take_an_order_keeps_nobody_waiting(
    autojump_clock: trio.testing.MockClock,
) -> None:
    account = Account(10_000, Peer(1, 0, 0, ()), RING, Terms((), None, None), 0)
    account.is_running = account.has_worker = True
    account.add(FileOpened("1"))

    async def stuck(_: NumberedOrder) -> None:
        await trio.sleep_forever()

    assert (await refusal_of(Orders(account, stuck).flush())).code == FailureCode.TIMEOUT


async def test_the_end_of_the_capture_ends_the_waiting(autojump_clock: trio.testing.MockClock) -> None:
    orders, _ = running(RING)
    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        failures: list[Failure] = []

        async def flush() -> None:
            failures.append(await refusal_of(orders.flush()))

        nursery.start_soon(flush)
        nursery.start_soon(flush)
        await trio.testing.wait_all_tasks_blocked()
        orders.end()
    assert [each.code for each in failures] == [FailureCode.NO_SUCH_CAPTURE] * 2
    assert trio.current_time() == began_s
