"""Signals that end a command well: SIGTERM, SIGHUP unless it is ignored, and SIGINT where a command says so."""

import functools
import signal
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")

#: What is a signal's where no program has a say.
_DEFAULTS = {signal.SIGINT: signal.default_int_handler}


class _Told(BaseException):
    """A signal ends the command."""


def end_by(end: Callable[[], None], *others: signal.Signals) -> None:
    """Have something done at the first SIGTERM or SIGHUP, or one of others; the second one ends the program at once.

    SIGHUP is left alone where it is ignored: then nohup(1) has asked for a command that goes on.
    """

    def handle(number: int, _frame: object) -> None:
        signal.signal(number, _DEFAULTS.get(signal.Signals(number), signal.SIG_DFL))
        end()

    for number in (signal.SIGHUP, signal.SIGTERM, *others):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handle)


def until_told(command: Callable[P, int]) -> Callable[P, int]:
    """Return a command that SIGTERM or SIGHUP ends with the status 0: one that shows what happens, for ever."""

    @functools.wraps(command)
    def told(*args: P.args, **kwargs: P.kwargs) -> int:
        is_over = False

        def end() -> None:
            nonlocal is_over
            if not is_over:  # SIGHUP may come right behind SIGTERM
                is_over = True
                raise _Told

        try:
            try:
                end_by(end)
                return command(*args, **kwargs)
            finally:
                is_over = True
        except _Told:
            return 0

    return told
