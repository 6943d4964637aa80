"""A bounded, coalescing queue of events for one client.

A client that never reads must cost neither memory nor packets. Counts can be added up, and counters replaced by
newer ones, without a loss. Of other events of a running capture the oldest is dropped, and the client learns how many
were. Answers, failures and the end, of which there are few, are never dropped.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass

from capd_protocol.messages import (
    Counters,
    FileClosed,
    FileDeleted,
    FileOpened,
    InterfaceAttached,
    InterfaceLost,
    InterfaceSkipped,
    Lagged,
    Message,
    PacketCount,
    Recording,
    SnapshotFailed,
    Triggered,
    TriggersIgnored,
    encode,
)

#: Packets that are counted belong to the file opened last: counts are merged back to these, and not beyond.
_BETWEEN_COUNTS = FileOpened | FileClosed
#: What happens again and again, while a capture runs or is started anew.
_DROPPED = (
    FileOpened
    | FileClosed
    | FileDeleted
    | InterfaceAttached
    | InterfaceLost
    | InterfaceSkipped
    | Recording
    | SnapshotFailed
    | TriggersIgnored
    | Triggered
)


@dataclass
class _Count:
    """Packets that one message counts."""

    number: int
    packets: int


class Outbox:
    """Messages for one client. What is done for one takes no longer the more are waiting."""

    def __init__(self, max_pending: int) -> None:
        self._max_pending = max_pending
        self._number = 0
        self._dropped = 0
        self._forget()

    def _forget(self) -> None:
        #: By a number that only grows.
        self._pending: OrderedDict[int, Message] = OrderedDict()
        #: Numbers of those that may be dropped, oldest first.
        self._droppable: deque[int] = deque()
        #: What is counted before the first message that is between counts, behind it, and so on; None: nothing.
        self._counts: deque[_Count | None] = deque([None])
        self._counters: int | None = None

    @property
    def pending(self) -> int:
        """How many messages wait."""
        return len(self._pending)

    def put(self, message: Message) -> None:
        """Add a message behind the others."""
        match message:
            case PacketCount(packets_delta):
                self._count(packets_delta)
            case Counters():
                if self._counters is not None:
                    del self._pending[self._counters]
                self._counters = self._append(message)
            case _:
                number = self._append(message)
                if isinstance(message, _DROPPED):
                    self._droppable.append(number)
                if isinstance(message, _BETWEEN_COUNTS):
                    self._counts.append(None)
        if len(self._pending) > self._max_pending and self._droppable:
            self._drop_oldest()

    def _append(self, message: Message) -> int:
        self._number += 1
        self._pending[self._number] = message
        return self._number

    def _count(self, packets: int) -> None:
        count = self._counts[-1]
        if count is None:
            self._counts[-1] = _Count(self._append(PacketCount(packets)), packets)
        else:
            self._add(count, packets)

    def _add(self, count: _Count, packets: int) -> None:
        count.packets += packets
        self._pending[count.number] = PacketCount(count.packets)

    def _drop_oldest(self) -> None:
        message = self._pending.pop(self._droppable.popleft())
        self._dropped += 1
        if isinstance(message, _BETWEEN_COUNTS):  # the first one: what is counted before and behind it becomes one
            before, behind = self._counts.popleft(), self._counts.popleft()
            if before is not None and behind is not None:
                del self._pending[behind.number]
                self._add(before, behind.packets)
            self._counts.appendleft(behind if before is None else before)

    def take(self) -> bytes:
        """Return everything that waits as bytes to send, and forget it; empty where nothing waits."""
        messages = list(self._pending.values())
        self._forget()
        if self._dropped:
            messages.insert(0, Lagged(events=self._dropped))
            self._dropped = 0
        return b"".join(map(encode, messages))
