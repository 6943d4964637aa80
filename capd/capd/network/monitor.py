"""Changes and counters of interfaces, watched once for all clients.

One netlink socket for changes, and one dump of counters at each tick, however many clients ask; nothing before the
first one does. Ticks are multiples of their interval on one clock, so that clients with the same interval share
them. A client takes what is new when it can: one that is slow gets a fresh picture instead of more changes, and
counters are totals anyway.
"""

import logging
import math
import time
from collections.abc import Generator
from contextlib import aclosing
from typing import NamedTuple

import trio

from capd import limits
from capd.network.counters import Account, Totals, Values, counts_of, read_counters
from capd.network.devices import Interfaces
from capd.network.links import Change, LinkTable, LinkWatch
from capd_protocol.messages import InterfaceEvent, InterfaceSnapshot, Statistics, encode
from capd_protocol.messages.interfaces import InterfaceChange, Link

#: Links, or counts, in one frame: they stay well below its limit.
_AT_ONCE = 500
#: Changes that wait for one client; beyond, it gets a fresh picture.
_MAX_PENDING_CHANGES = 5000
#: Between two attempts to watch interfaces, where the system has no room for it.
_RETRY_S = 0.5

_log = logging.getLogger(__name__)


class _Picture:
    """All interfaces in frames ready to be sent, made once for all who see them for the first time."""

    def __init__(self, table: LinkTable) -> None:
        self._table = table
        self._version = -1
        self._made = b""

    def bytes(self) -> bytes:
        if self._version != self._table.version:
            self._made = b"".join(map(encode, _parts(list(self._table.links.values()))))
            self._version = self._table.version
        return self._made


def _parts(links: list[Link]) -> Generator[InterfaceSnapshot, None, None]:
    for at in range(0, max(len(links), 1), _AT_ONCE):
        part = tuple(links[at : at + _AT_ONCE])
        yield InterfaceSnapshot(links=part, is_first=at == 0, is_last=at + _AT_ONCE >= len(links))


class _Encoded(NamedTuple):
    """A change, and its frame, which is the same for all."""

    change: Change
    frame: bytes


class Watch:
    """One client's view of the changes."""

    def __init__(self, table: LinkTable, picture: _Picture) -> None:
        self._table = table
        self._picture = picture
        self._pending: list[_Encoded] = []
        self._needs_picture = True
        self._news = trio.Event()
        self._news.set()

    def put(self, changes: list[_Encoded]) -> None:
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
        removed = {each.change.link.index for each in self._pending if each.change.kind == InterfaceChange.REMOVED}
        self._pending = []
        return list(self._table.links.values()), removed

    async def next_frames(self) -> bytes:
        """Return what is new as soon as there is anything: first, and after too much of it, the whole picture."""
        await self._news.wait()
        self._news = trio.Event()
        pending, self._pending = self._pending, []
        if self._needs_picture:
            self._needs_picture = False
            return self._picture.bytes()
        return b"".join(each.frame for each in pending)


#: The counters of one moment, by name: the same object for all views that show that moment.
_Present = dict[str, tuple[Account, Values]]


class _Difference(NamedTuple):
    """What has changed between two moments."""

    changed: list[tuple[str, Account, Values]]
    gone: tuple[str, ...]


def _difference(before: _Present, now: _Present) -> _Difference:
    changed = [(name, *counted) for name, counted in now.items() if before.get(name) != counted]
    return _Difference(changed, tuple(name for name in before if name not in now))


class Count:
    """One client's view of the counters, from when it began."""

    def __init__(self, totals: Totals, interval_s: float) -> None:
        self._base = totals.all()
        #: The moment that it was sent last.
        self.sent: _Present = {}
        self._frames = b""
        self._tick = trio.Event()
        self._interval_s = interval_s
        self.due_s = 0.0
        self.plan(trio.current_time())

    def plan(self, now_s: float) -> None:
        """Set the time of the next tick: the next multiple of the interval."""
        self.due_s = (math.floor(now_s / self._interval_s) + 1) * self._interval_s

    @property
    def is_behind(self) -> bool:
        """Whether the client has not taken what it was sent last. It gets the sum of all later."""
        return self._tick.is_set()

    def tell(self, difference: _Difference, present: _Present) -> None:
        """Give what has changed since the last time."""
        changed, gone = difference
        frames: list[bytes] = []
        for at in range(0, max(len(changed), 1), _AT_ONCE):
            counts = tuple(
                counts_of(name, v, self._base.get(account)) for name, account, v in changed[at : at + _AT_ONCE]
            )
            is_last = at + _AT_ONCE >= len(changed)
            frames.append(encode(Statistics(counts=counts, gone=gone if is_last else (), is_last=is_last)))
        self.sent, self._frames = present, b"".join(frames)
        self._tick.set()

    async def next_frames(self) -> bytes:
        """Return, at the next tick, what has changed since the last time; at once, the first time."""
        await self._tick.wait()
        self._tick = trio.Event()
        return self._frames


class Monitor:
    """Changes and counters of the daemon's network namespace."""

    def __init__(self, netns: str = "") -> None:
        """Know nothing yet.

        Args:
            netns: what the network namespace is called; empty: nobody needs to be told.
        """
        self._links = LinkWatch()
        self._picture = _Picture(self._links.table)
        #: What is known of interfaces, by what changes of them.
        self.interfaces = Interfaces(self.current_links, self._has_begun, netns)
        self._totals = Totals()
        self._watches: set[Watch] = set()
        self._counts: set[Count] = set()
        self._is_needed = trio.Event()
        self._is_current = trio.Event()
        #: A batch of changes has been taken, or cannot be.
        self._has_moved = trio.Event()
        self._trouble: OSError | None = None
        #: For statistics, not before this time again.
        self._rested_s = -math.inf
        self._has_more_counts = trio.Event()
        self._sampling = trio.Lock()
        #: The last tick was left out.
        self._is_late = False

    async def run(self) -> None:
        """Work for all callers, until cancelled.

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

    def _has_begun(self) -> bool:
        self._is_needed.set()
        return self._is_current.is_set()

    async def current_links(self) -> LinkTable:
        """Return the interfaces, with all that the kernel has reported of them up to now.

        Raises:
            OSError: the kernel does not answer.
        """
        self._is_needed.set()
        enough = self._links.next_dry
        while not self._links.is_current and self._links.dry_and_applied < enough:
            if self._trouble is not None:
                raise OSError(self._trouble.errno, self._trouble.strerror)
            await self._has_moved.wait()
        return self._links.table

    async def watch(self) -> Watch:
        """Return a view of the changes; give it back with ``leave``."""
        await self._current()
        watch = Watch(self._links.table, self._picture)
        self._watches.add(watch)
        return watch

    async def count(self, interval_s: float) -> Count:
        """Return a view of the counters, which begin at zero now; give it back with ``leave``.

        Raises:
            OSError: the kernel does not list them.
        """
        await self._current()
        if not self._counts:
            self._totals = Totals()
        await self._sample()
        count = Count(self._totals, interval_s)
        present = self._present()
        count.tell(_difference({}, present), present)
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
                self._trouble = error
                self._note_move()
                await trio.sleep(_RETRY_S)

    def _note_move(self) -> None:
        self._has_moved.set()
        self._has_moved = trio.Event()

    async def _follow_changes(self) -> None:
        async with aclosing(self._links.batches()) as batches:
            async for changes in batches:
                for change in changes:
                    if change.kind == InterfaceChange.ADDED:
                        self._totals.begin(change.link.index, change.counters)
                    elif change.kind == InterfaceChange.REMOVED:
                        self._totals.forget(change.link.index, change.link.name, change.counters)
                if changes and self._watches:
                    encoded = [_Encoded(each, _frame_of(each)) for each in changes]
                    for watch in self._watches:
                        watch.put(encoded)
                self._trouble = None
                self._is_current.set()
                self._note_move()

    async def _sample(self) -> None:
        async with self._sampling:
            counters = await read_counters()
            names = {index: link.name for index, link in self._links.table.links.items()}
            self._totals.sample(counters, names)

    def _present(self) -> _Present:
        return {name: (account, account.values) for name, account in self._totals.present().items()}

    async def _tick(self) -> None:
        while True:
            self._has_more_counts = trio.Event()
            next_s = max(min((count.due_s for count in self._counts), default=math.inf), self._rested_s)
            with trio.move_on_at(next_s):
                await self._has_more_counts.wait()
            now_s = trio.current_time()
            if now_s < self._rested_s:
                continue
            due = [count for count in self._counts if count.due_s <= now_s]
            for count in due:
                count.plan(now_s)
            if due and await self._could_sample():
                await self._tell(due)

    async def _tell(self, counts: list[Count]) -> None:
        """Tell views what has changed, one after the other: others' answers are not kept waiting by more than one."""
        present = self._present()
        # Many were sent the same moment last.
        differences: dict[int, tuple[_Present, _Difference]] = {}
        busy_s = 0.0
        for count in counts:
            began_s = time.perf_counter()
            if not count.is_behind and count in self._counts:
                before = count.sent
                if id(before) not in differences:
                    differences[id(before)] = before, _difference(before, present)
                count.tell(differences[id(before)][1], present)
            busy_s += time.perf_counter() - began_s
            await trio.lowlevel.checkpoint()
        self._rested_s = trio.current_time() + busy_s * (1 / limits.STATISTICS_SHARE - 1)

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


def _frame_of(change: Change) -> bytes:
    return encode(InterfaceEvent(change=change.kind, link=change.link, former_name=change.former_name))
