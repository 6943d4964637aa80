"""What a thread makes for a task has an owner, also where asyncio cancels the task without waiting for the thread."""

import asyncio
import threading

import anyio
import pytest

from capd_client.aio.threads import made_in_thread
from tests.client.helpers import PATIENCE_S


class Made:
    """Something that somebody has to close."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        assert not self.closed.is_set(), "it is closed once"
        self.closed.set()


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_what_is_made_is_returned_and_open(backend: str) -> None:
    made = Made()

    async def main() -> None:
        assert await made_in_thread(lambda: made, Made.close) is made

    anyio.run(main, backend=backend)
    assert not made.closed.is_set()


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_what_it_raises_is_raised(backend: str) -> None:
    def make() -> Made:
        raise ZeroDivisionError("mine")

    async def main() -> None:
        with pytest.raises(ZeroDivisionError, match="mine"):
            await made_in_thread(make, Made.close)

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("is_late", [True, False])
def test_what_its_task_does_not_take_is_closed(is_late: bool) -> None:
    """It comes after its task has been cancelled, or at the same time, which is one moment or another."""

    async def main() -> None:
        made, goes_on = Made(), threading.Event()
        began = asyncio.Event()
        loop = asyncio.get_running_loop()

        def make() -> Made:
            loop.call_soon_threadsafe(began.set)
            if is_late:
                assert goes_on.wait(PATIENCE_S)
            return made

        task = asyncio.create_task(made_in_thread(make, Made.close))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not (is_late and made.closed.is_set())
        goes_on.set()
        assert await anyio.to_thread.run_sync(made.closed.wait, PATIENCE_S)

    for _ in range(1 if is_late else 30):
        asyncio.run(main())
