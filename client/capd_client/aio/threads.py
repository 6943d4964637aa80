"""What a thread makes for a task, and who closes it where the task is cancelled meanwhile."""

import threading
from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread

_Made = TypeVar("_Made")


async def made_in_thread(make: Callable[[], _Made], close: Callable[[_Made], object]) -> _Made:
    """Return what a function makes in a thread, which is not interrupted.

    trio, and anyio's own scopes, wait for the thread before they cancel. asyncio's ``Task.cancel`` does not, and what
    comes afterwards would be nobody's: it is closed.

    Args:
        make: may take long.
        close: lets go of what was made.

    Raises:
        Exception: what ``make`` raises.
    """
    lock = threading.Lock()
    made: list[_Made] = []
    is_wanted = True

    def run() -> _Made:
        one = make()
        with lock:
            if is_wanted:
                made.append(one)
                return one
        close(one)
        return one

    try:
        return await anyio.to_thread.run_sync(run)
    except BaseException:
        with lock:
            is_wanted = False
        for one in made:
            close(one)
        raise
