"""Subscribers of a capture: an outbox for each, which the task that serves the client empties."""

from collections.abc import Iterable

import trio

from capd import limits
from capd.captures.outbox import Outbox
from capd_protocol.messages import Ended, Message


class Subscriber:
    """One subscriber of a capture: an outbox, and an event for the task that empties it."""

    def __init__(self) -> None:
        self.outbox = Outbox(limits.MAX_PENDING_EVENTS)
        self._news = trio.Event()
        #: The capture's last event has come.
        self.ended = trio.Event()

    def put(self, message: Message) -> None:
        """Add a message."""
        self.outbox.put(message)
        if isinstance(message, Ended):
            self.ended.set()
        self._news.set()

    async def next_batch(self) -> bytes | None:
        """Return bytes to send as soon as there are any; None after the capture's last event."""
        while not (batch := self.outbox.take()):
            if self.ended.is_set():
                return None
            self._news = trio.Event()
            await self._news.wait()
        return batch


class Subscribers:
    """All subscribers of one capture."""

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []

    def add(self, past_events: Iterable[Message] = ()) -> Subscriber:
        """Return a subscriber that gets these events, and all that come from now on."""
        subscriber = Subscriber()
        for event in past_events:
            subscriber.put(event)
        self._subscribers.append(subscriber)
        return subscriber

    def leave(self, subscriber: Subscriber) -> None:
        """Tell this one nothing more."""
        self._subscribers.remove(subscriber)

    def put(self, message: Message) -> None:
        """Tell all of them."""
        for subscriber in self._subscribers:
            subscriber.put(message)

    @property
    def pending(self) -> int:
        """How many messages wait, of all of them."""
        return sum(subscriber.outbox.pending for subscriber in self._subscribers)
