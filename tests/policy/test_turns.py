"""Turns: where only so many are served at once, however many one person sends."""

import pytest
import trio
import trio.testing

from capd.pacing.turns import Turn, Turns


class Queue:
    """Those who ask for turns, and who is served."""

    def __init__(self, turns: Turns, nursery: trio.Nursery) -> None:
        self.turns = turns
        self._nursery = nursery
        #: In the order in which they were served.
        self.served: list[str] = []
        self._having: list[tuple[str, Turn]] = []

    async def ask(self, *names: str, weight: int = 1) -> list[trio.CancelScope]:
        """Have some ask, one after the other; each is called after its person, with a number behind."""
        scopes = [trio.CancelScope() for _ in names]
        for name, scope in zip(names, scopes, strict=True):
            self._nursery.start_soon(self._ask, name, weight, scope)
            await trio.testing.wait_all_tasks_blocked()
        return scopes

    async def _ask(self, name: str, weight: int, scope: trio.CancelScope) -> None:
        with scope:
            turn = await self.turns.take(name[0], weight)
            self.served.append(name)
            self._having.append((name, turn))

    async def leave(self, name: str) -> None:
        """Have one leave who is served."""
        (found,) = [each for each in self._having if each[0] == name]
        self._having.remove(found)
        found[1].leave()
        found[1].leave()  # does nothing
        await trio.testing.wait_all_tasks_blocked()


async def test_one_of_each_person_is_served_in_turn(nursery: trio.Nursery) -> None:
    queue = Queue(Turns(1, 1), nursery)
    await queue.ask("a0", "a1", "a2", "a3", "b0", "c0", "b1")
    for name in ("a0", "a1", "b0", "c0", "a2", "b1", "a3"):
        assert queue.served[-1] == name
        await queue.leave(name)


async def test_one_person_has_not_all_turns(nursery: trio.Nursery) -> None:
    queue = Queue(Turns(3, 2), nursery)
    await queue.ask("a0", "a1", "a2", "b0", "b1")
    assert queue.served == ["a0", "a1", "b0"]
    await queue.leave("b0")
    assert queue.served[3:] == ["b1"]
    await queue.leave("a0")
    assert queue.served[4:] == ["a2"]


async def test_a_heavy_one_counts_for_several_and_is_served_at_last(nursery: trio.Nursery) -> None:
    queue = Queue(Turns(10, 4), nursery)
    await queue.ask("a0")
    await queue.ask("a1", weight=9)
    await queue.ask("a2")
    assert queue.served == ["a0"]
    await queue.leave("a0")
    assert queue.served == ["a0", "a1"]
    await queue.leave("a1")
    assert queue.served == ["a0", "a1", "a2"]


async def test_who_no_longer_wants_a_turn_is_in_nobodys_way(nursery: trio.Nursery) -> None:
    queue = Queue(Turns(1, 1), nursery)
    await queue.ask("a0")
    (heavy,) = await queue.ask("a1", weight=5)
    (other,) = await queue.ask("b0")
    await queue.ask("b1")
    heavy.cancel()
    other.cancel()
    await queue.leave("a0")
    assert queue.served == ["a0", "b1"]
    await queue.leave("b1")
    # Cancelled in the moment in which it is served.
    with trio.CancelScope() as scope:
        scope.cancel()
        await queue.turns.take("a")
        pytest.fail("it is cancelled")  # pragma: no cover
    await queue.ask("c0")
    assert queue.served[-1] == "c0"
