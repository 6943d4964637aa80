"""Threads for what would block the event loop. Where the system gives none, that is an OSError like others."""

import contextlib
import errno
from collections.abc import Callable, Generator
from functools import partial
from typing import NoReturn, TypeVar

import trio

_Result = TypeVar("_Result")


@contextlib.contextmanager
def no_thread_as_oserror() -> Generator[None, None, None]:
    """Raise an OSError where a thread cannot be started, which threading says by a RuntimeError.

    Only for what raises no RuntimeError for another reason, such as trio's starting a process.
    """
    try:
        yield
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, "no thread can be started") from error


async def in_thread(
    function: Callable[[], _Result], *, limiter: trio.CapacityLimiter | None = None, abandon_on_cancel: bool = False
) -> _Result:
    """Return what a function returns in a thread, or raise what it raises.

    Args:
        function: what to call.
        limiter: counts the threads.
        abandon_on_cancel: when cancelled, leave the thread alone, which counts until it has ended.

    Raises:
        OSError: no thread can be started.
    """

    def attempt() -> Callable[[], _Result]:
        # Its own RuntimeError shall not pass for that of a thread that cannot be started.
        try:
            result = function()
        except BaseException as error:  # raised in the task that waits for it
            return partial(_raise, error)
        return lambda: result

    with no_thread_as_oserror():
        outcome = await trio.to_thread.run_sync(attempt, limiter=limiter, abandon_on_cancel=abandon_on_cancel)
    return outcome()


def _raise(error: BaseException) -> NoReturn:
    raise error
