"""What waits for one client: in order, bounded, and merged where the client reads too slowly.

A client that never reads must cost neither memory nor packets. Counts can be added up and counters replaced by
newer ones without telling it less; only file events are ever dropped, and then it is told how many.
"""

from capd_protocol.messages import Counters, FileClosed, FileDeleted, FileOpened, Lagged, Message, PacketCount, encode


class Outbox:
    """Messages for one client."""

    def __init__(self, max_pending: int) -> None:
        self._max_pending = max_pending
        self._pending: list[Message] = []
        self._dropped = 0

    @property
    def pending(self) -> int:
        """How many messages wait."""
        return len(self._pending)

    def put(self, message: Message) -> None:
        """Add a message behind the others."""
        match message:
            case PacketCount(packets_delta):
                self._add_count(packets_delta)
            case Counters():
                self._pending = [other for other in self._pending if not isinstance(other, Counters)]
                self._pending.append(message)
            case _:
                self._pending.append(message)
        if len(self._pending) > self._max_pending:
            self._drop_oldest_file_event()

    def _add_count(self, packets_delta: int) -> None:
        """Packets belong to the file opened last: counts are merged back to there, and not beyond."""
        for at in range(len(self._pending) - 1, -1, -1):
            other = self._pending[at]
            if isinstance(other, PacketCount):
                self._pending[at] = PacketCount(other.packets_delta + packets_delta)
                return
            if isinstance(other, FileOpened | FileClosed):
                break
        self._pending.append(PacketCount(packets_delta))

    def _drop_oldest_file_event(self) -> None:
        for at, message in enumerate(self._pending):
            if isinstance(message, FileOpened | FileClosed | FileDeleted):
                del self._pending[at]
                self._dropped += 1
                break
        # Without what stood between them, counts of several files become one.
        pending, self._pending = self._pending, []
        for message in pending:
            if isinstance(message, PacketCount):
                self._add_count(message.packets_delta)
            else:
                self._pending.append(message)

    def take(self) -> bytes:
        """Return everything that waits as bytes to send, and forget it; empty where nothing waits."""
        messages, self._pending = self._pending, []
        if self._dropped:
            messages.insert(0, Lagged(events=self._dropped))
            self._dropped = 0
        return b"".join(map(encode, messages))
