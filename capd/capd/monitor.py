"""What happens to interfaces, and what passes through them, for all clients together.

One netlink socket for changes, and one dump of counters at each tick, however many clients ask; nothing before the
first one does. Ticks are multiples of their interval on one clock, so that clients with the same interval share
them. A client takes what is new when it can: one that is slow gets a fresh picture instead of more changes, and
counters are totals anyway.
"""

import logging
import math
from collections.abc import Generator
from contextlib import aclosing

import trio

from capd.counters import Account, Totals, Values, counts_of, read_counters
from capd.links import Change, LinkTable, watch_links
from capd_protocol.interfaces import InterfaceChange, Link
from capd_protocol.messages import InterfaceEvent, InterfaceSnapshot, Message, Statistics

#: Links, or counts, in one frame: they stay well below its limit.
_AT_ONCE = 500
#: Changes that wait for one client; beyond, it gets a fresh picture.
_MAX_PENDING_CHANGES = 5000
#: Between two attempts to watch interfaces, where the system has no room for it.
_RETRY_S = 0.5

_log = logging.getLogger(__name__)


class Watch:
    """One client's view of the changes."""

    def __init__(self, table: LinkTable) -> None:
        self._table = table
        self._pending: list[Change] = []
        self._needs_picture = True
        self._news = trio.Event()
        self._news.set()

    def put(self, changes: list[Change]) -> None:
        """Add changes."""
        if not self._needs_picture:
            self._pending += changes
        if len(self._pending) > _MAX_PENDING_CHANGES:
            self._needs_picture = True
            self._pending.clear()
        self._news.set()

    async def next_links(self) -> tuple[list[Link], set[int]]:
        """Return all interfaces, at once the first time, then whenever one of them has changed.

        With them come the indexes of those that were removed meanwhile, which new ones may have now.
        """
        await self._news.wait()
        self._news = trio.Event()
        self._needs_picture = False
        removed = {change.link.index for change in self._pending if change.kind == InterfaceChange.REMOVED}
        self._pending = []
        return list(self._table.links.values()), removed

    async def next_messages(self) -> list[Message]:
        """Return what is new as soon as there is anything: first, and after too much of it, the whole picture."""
        await self._news.wait()
        self._news = trio.Event()
        if self._needs_picture:
            self._needs_picture = False
            return list(_picture(list(self._table.links.values())))
        changes, self._pending = self._pending, []
        return [InterfaceEvent(change=c.kind, link=c.link, former_name=c.former_name) for c in changes]


def _picture(links: list[Link]) -> Generator[Message, None, None]:
    for at in range(0, max(len(links), 1), _AT_ONCE):
        part = tuple(links[at : at + _AT_ONCE])
        yield InterfaceSnapshot(links=part, is_first=at == 0, is_last=at + _AT_ONCE >= len(links))


class Count:
    """One client's view of the counters, from when it began."""

    def __init__(self, totals: Totals, interval_s: float) -> None:
        self._totals = totals
        self._base = totals.all()
        self._told: dict[str, tuple[Account, Values]] = {}
        self._tick = trio.Event()
        self._tick.set()
        self._interval_s = interval_s
        self.due_s = 0.0
        self.plan(trio.current_time())

    def plan(self, now_s: float) -> None:
        """Set the time of the next tick: the next multiple of the interval."""
        self.due_s = (math.floor(now_s / self._interval_s) + 1) * self._interval_s

    def tick(self) -> None:
        """Say that there are new counters."""
        self._tick.set()

    async def next_messages(self) -> list[Message]:
        """Return, at the next tick, what has changed since the last time; at once, the first time."""
        await self._tick.wait()
        self._tick = trio.Event()
        present = {name: (account, account.values) for name, account in self._totals.present().items()}
        changed = [(name, *told) for name, told in present.items() if self._told.get(name) != told]
        gone = tuple(name for name in self._told if name not in present)
        self._told = present
        messages: list[Message] = []
        for at in range(0, max(len(changed), 1), _AT_ONCE):
            counts = tuple(
                counts_of(name, v, self._base.get(account)) for name, account, v in changed[at : at + _AT_ONCE]
            )
            is_last = at + _AT_ONCE >= len(changed)
            messages.append(Statistics(counts=counts, gone=gone if is_last else (), is_last=is_last))
        return messages


class Monitor:
    """Changes and counters of the daemon's network namespace."""

    def __init__(self) -> None:
        self._table = LinkTable()
        self._totals = Totals()
        self._watches: set[Watch] = set()
        self._counts: set[Count] = set()
        self._is_needed = trio.Event()
        self._is_current = trio.Event()
        self._has_more_counts = trio.Event()
        self._sampling = trio.Lock()
        #: The last tick was left out.
        self._is_late = False

    async def run(self) -> None:
        """Work for whoever asks, until cancelled.

        Where the system has no room for it (descriptors, memory), it goes on as soon as there is: the picture is made
        anew, and counts are totals anyway.
        """
        await self._is_needed.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            nursery.start_soon(self._tick)

    async def _current(self) -> None:
        self._is_needed.set()
        await self._is_current.wait()

    async def watch(self) -> Watch:
        """Return a view of the changes; give it back with ``leave``."""
        await self._current()
        watch = Watch(self._table)
        self._watches.add(watch)
        return watch

    async def count(self, interval_s: float) -> Count:
        """Return a view of the counters, which begin at zero now; give it back with ``leave``.

        Raises:
            OSError: the kernel does not tell them.
        """
        await self._current()
        if not self._counts:
            self._totals = Totals()
        await self._sample()
        count = Count(self._totals, interval_s)
        self._counts.add(count)
        self._has_more_counts.set()
        return count

    def leave(self, view: Watch | Count) -> None:
        """Take a view back."""
        if isinstance(view, Watch):
            self._watches.discard(view)
        else:
            self._counts.discard(view)

    async def _watch(self) -> None:
        while True:
            try:
                await self._follow_changes()
            except OSError as error:
                _log.warning("interfaces cannot be watched now: %s", error)
                await trio.sleep(_RETRY_S)

    async def _follow_changes(self) -> None:
        async with aclosing(watch_links(self._table)) as batches:
            async for changes in batches:
                for change in changes:
                    if change.kind == InterfaceChange.ADDED:
                        self._totals.begin(change.link.index, change.counters)
                    elif change.kind == InterfaceChange.REMOVED:
                        self._totals.forget(change.link.index, change.link.name, change.counters)
                for watch in self._watches:
                    watch.put(changes)
                self._is_current.set()

    async def _sample(self) -> None:
        async with self._sampling:
            counters = await read_counters()
            self._totals.sample(counters, {index: link.name for index, link in self._table.links.items()})

    async def _tick(self) -> None:
        while True:
            self._has_more_counts = trio.Event()
            next_s = min((count.due_s for count in self._counts), default=math.inf)
            with trio.move_on_at(next_s):
                await self._has_more_counts.wait()
            now_s = trio.current_time()
            due = [count for count in self._counts if count.due_s <= now_s]
            for count in due:
                count.plan(now_s)
            if due and await self._could_sample():
                for count in due:
                    count.tick()

    async def _could_sample(self) -> bool:
        try:
            await self._sample()
        except OSError as error:
            if not self._is_late:
                _log.warning("interfaces' counters cannot be read now: %s", error)
            self._is_late = True
            return False
        self._is_late = False
        return True
