"""Fair queueing: where only so many can be served at once, one of each person who waits, in turn."""

import collections
from collections.abc import Hashable
from types import TracebackType
from typing import NamedTuple, Self

import trio

#: Whose turns those are that nobody is to be kept waiting by: root's, and the configuration's.
FREE = "unbound"


class Turn:
    """What somebody has while being served; a context manager that gives it back."""

    def __init__(self, turns: "Turns", whose: Hashable, weight: int) -> None:
        self._turns: Turns | None = turns
        self._whose = whose
        self._weight = weight

    def leave(self) -> None:
        """Let the next one in. The second time it does nothing."""
        turns, self._turns = self._turns, None
        if turns is not None:
            turns.leave(self._whose, self._weight)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()


class _Waiting(NamedTuple):
    is_next: trio.Event
    weight: int


class Turns:
    """Serves so many at once, and so many of one person; some count for several.

    However many of one person wait, another one waits for no more than the next to be done.
    """

    def __init__(self, at_once: float, of_one: float) -> None:
        self._at_once = at_once
        self._of_one = of_one
        self._served: collections.Counter[Hashable] = collections.Counter()
        #: Those who wait, by person; the person who is next comes first.
        self._waiting: dict[Hashable, collections.deque[_Waiting]] = {}

    async def take(self, whose: Hashable, weight: int = 1) -> Turn:
        """Wait for a turn.

        Args:
            whose: it is.
            weight: for how many it counts; for more than there may be of one, where that one has no other.
        """
        own = self._waiting.setdefault(whose, collections.deque())
        waiting = _Waiting(trio.Event(), weight)
        own.append(waiting)
        self._let_in()
        try:
            await waiting.is_next.wait()
        except BaseException:
            if waiting.is_next.is_set():
                self.leave(whose, weight)
            else:
                own.remove(waiting)
                if not own:
                    del self._waiting[whose]
                self._let_in()  # it may have kept a lighter one waiting
            raise
        return Turn(self, whose, weight)

    def leave(self, whose: Hashable, weight: int) -> None:
        """Take note that one is done."""
        self._served[whose] -= weight
        if not self._served[whose]:
            del self._served[whose]
        self._let_in()

    def _let_in(self) -> None:
        while (whose := self._next()) is not None:
            own = self._waiting.pop(whose)
            served = own.popleft()
            if own:
                self._waiting[whose] = own  # behind all others
            self._served[whose] += served.weight
            served.is_next.set()

    def _next(self) -> Hashable | None:
        """Return whose turn it is; None while nobody else may be served."""
        for whose, own in self._waiting.items():
            if not self._served[whose] or self._served[whose] + own[0].weight <= self._of_one:
                return whose if self._served.total() < self._at_once else None
        return None
