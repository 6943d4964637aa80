"""What waits for a client is bounded, whatever happens, and takes no longer to add the more it is."""

import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capd.captures.outbox import Outbox
from capd_protocol.frames import FrameDecoder
from capd_protocol.messages import (
    BadFilter,
    Counters,
    DeletionReason,
    Drops,
    Ended,
    EndReason,
    ErrorMessage,
    Failed,
    Failure,
    FailureCode,
    FileClosed,
    FileDeleted,
    FileOpened,
    Flushed,
    InterfaceAttached,
    InterfaceLost,
    InterfaceSkipped,
    Lagged,
    Message,
    PacketCount,
    Recording,
    Refused,
    Rotated,
    SnapshotFailed,
    SnapshotTaken,
    Stopping,
    Triggered,
    TriggerReason,
    decode,
)

FAILURE = Failure(code=FailureCode.DISK, text="x")

#: What may happen any number of times while a capture runs.
EVENTS: dict[str, Callable[[int], Message]] = {
    "opened": lambda number: FileOpened(f"{number}"),
    "closed": lambda number: FileClosed(
        name=f"{number}", packets=1, size_bytes=1, first_timestamp_ns=None, last_timestamp_ns=None, drops=0
    ),
    "deleted": lambda number: FileDeleted(name=f"{number}", reason=DeletionReason.FILES, size_bytes=1),
    "lost": lambda number: InterfaceLost(interface=f"{number}"),
    "attached": lambda number: InterfaceAttached(interface=f"{number}"),
    "skipped": lambda number: InterfaceSkipped(interface=f"{number}", text="x" * 100),
    "recording": lambda number: Recording(memory_bytes=number, duration_s=None),
    "triggered": lambda number: Triggered(reason=TriggerReason.FILTER, interface=f"{number}"),
    "snapshot failed": lambda _: SnapshotFailed(failure=FAILURE),
}
#: What somebody waits for, or never hears again.
KEPT: dict[str, Message] = {
    "ended": Ended(reason=EndReason.STOPPED, interfaces=()),
    "failed": Failed(failure=FAILURE),
    "error": ErrorMessage("x"),
    "bad filter": BadFilter(0, "x"),
    "drops": Drops(1, "eth0"),
    "refused": Refused(failure=FAILURE),
    "stopping": Stopping(),
    "rotated": Rotated(file_name="x"),
    "flushed": Flushed(),
    "snapshot taken": SnapshotTaken(file_name="x"),
}


def taken(outbox: Outbox) -> list[Message]:
    decoder = FrameDecoder()
    decoder.feed(outbox.take())
    messages: list[Message] = []
    while (frame := decoder.next_frame()) is not None:
        messages.append(decode(frame))
    return messages


@pytest.mark.parametrize("kind", EVENTS)
def test_no_event_waits_in_any_number(kind: str) -> None:
    outbox = Outbox(100)
    began_s = time.monotonic()
    for number in range(20_000):
        outbox.put(EVENTS[kind](number))
        outbox.put(PacketCount(1))
        outbox.put(Counters(file_size_bytes=number, interfaces=()))
    # A tenth of it is seen on a busy machine; what looks at all that wait took a hundred times as long.
    assert time.monotonic() - began_s < 5
    assert outbox.pending <= 100
    first, *rest = taken(outbox)
    kept = [each for each in rest if not isinstance(each, PacketCount | Counters)]
    assert first == Lagged(events=20_000 - len(kept))
    assert kept == [EVENTS[kind](number) for number in range(20_000 - len(kept), 20_000)]
    assert sum(each.packets_delta for each in rest if isinstance(each, PacketCount)) == 20_000
    assert rest[-1] == Counters(file_size_bytes=19_999, interfaces=())
    assert taken(outbox) == []


@pytest.mark.parametrize("kind", KEPT)
def test_answers_failures_and_the_end_are_never_dropped(kind: str) -> None:
    outbox = Outbox(10)
    outbox.put(KEPT[kind])
    for number in range(100):
        outbox.put(EVENTS["triggered"](number))
    outbox.put(KEPT[kind])
    messages = taken(outbox)
    assert len(messages) <= 11
    assert [each for each in messages if each == KEPT[kind]] == [KEPT[kind]] * 2
    assert messages[-1] == KEPT[kind]


class Plain:
    """The same, as plainly as possible; it looks at all that waits each time."""

    def __init__(self, max_pending: int) -> None:
        self._max_pending = max_pending
        self._pending: list[Message] = []
        self._dropped = 0

    def put(self, message: Message) -> None:
        if isinstance(message, Counters):
            self._pending = [each for each in self._pending if not isinstance(each, Counters)]
        self._pending.append(message)
        self._merge()
        if len(self._pending) > self._max_pending:
            for each in self._pending:
                if any(isinstance(each, type(make(0))) for make in EVENTS.values()):
                    self._pending.remove(each)
                    self._dropped += 1
                    break
            self._merge()

    def _merge(self) -> None:
        """Packets belong to the file opened last."""
        merged: list[Message] = []
        count: int | None = None
        for each in self._pending:
            if isinstance(each, PacketCount):
                if count is None:
                    count = len(merged)
                    merged.append(each)
                else:
                    before = merged[count]
                    assert isinstance(before, PacketCount)
                    merged[count] = PacketCount(before.packets_delta + each.packets_delta)
                continue
            merged.append(each)
            if isinstance(each, FileOpened | FileClosed):
                count = None
        self._pending = merged

    def take(self) -> list[Message]:
        lagged: list[Message] = [Lagged(events=self._dropped)] if self._dropped else []
        messages, self._pending, self._dropped = lagged + self._pending, [], 0
        return messages


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(st.sampled_from([*EVENTS, *KEPT, "count", "counters", "take"]), max_size=80), st.integers(1, 8))
def test_it_is_as_if_all_that_waits_were_looked_at(kinds: list[str], max_pending: int) -> None:
    outbox, plain = Outbox(max_pending), Plain(max_pending)
    for number, kind in enumerate(kinds):
        if kind == "take":
            assert taken(outbox) == plain.take()
            continue
        message: Message
        if kind == "count":
            message = PacketCount(number + 1)
        elif kind == "counters":
            message = Counters(file_size_bytes=number, interfaces=())
        else:
            message = EVENTS[kind](number) if kind in EVENTS else KEPT[kind]
        for each in (outbox, plain):
            each.put(message)
        assert outbox.pending == len(plain._pending)
    assert taken(outbox) == plain.take()
