"""A subscriber of a capture gets all its events in order, as long as it is there."""

import trio
import trio.testing

from capd.captures.subscribers import Subscriber, Subscribers
from capd_protocol.messages import Ended, EndReason, FileOpened, PacketCount, encode

END = Ended(reason=EndReason.STOPPED, interfaces=())


async def test_who_comes_later_hears_the_past_first() -> None:
    subscribers = Subscribers()
    early = subscribers.add()
    subscribers.put(FileOpened("1"))
    late = subscribers.add([FileOpened("1")])
    subscribers.put(PacketCount(2))
    expected = encode(FileOpened("1")) + encode(PacketCount(2))
    assert [await early.next_batch(), await late.next_batch()] == [expected, expected]


def test_who_has_left_hears_no_more_and_what_waits_is_that_of_the_others() -> None:
    subscribers = Subscribers()
    one, other = subscribers.add(), subscribers.add()
    subscribers.put(FileOpened("1"))
    assert subscribers.pending == 2
    subscribers.leave(one)
    subscribers.put(FileOpened("2"))
    assert (one.outbox.pending, other.outbox.pending, subscribers.pending) == (1, 2, 2)


async def test_events_are_given_as_soon_as_there_are_any_and_nothing_after_the_last() -> None:
    subscriber = Subscriber()
    batches: list[bytes | None] = []

    async def read() -> None:
        while not batches or batches[-1] is not None:
            batches.append(await subscriber.next_batch())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        assert batches == []
        for message in (PacketCount(1), PacketCount(2)):
            subscriber.put(message)
            await trio.testing.wait_all_tasks_blocked()
        assert batches == [encode(PacketCount(1)), encode(PacketCount(2))]
        assert not subscriber.ended.is_set()
        subscriber.put(END)
        assert subscriber.ended.is_set()
    assert batches[2:] == [encode(END), None]
