"""Rate-limited log lines: so many, and then how many were left out."""

import logging
import time

from capd.pacing.rates import Bucket, Rate


class Restrained:
    """A kind of lines."""

    def __init__(self, log: logging.Logger, rate: Rate, what: str) -> None:
        """Have left out none yet.

        Args:
            log: where they go.
            rate: how many.
            what: they are about, in words, for those that are left out.
        """
        self._log = log
        self._bucket = Bucket(rate)
        self._what = what
        self._left_out = 0
        self._level = logging.NOTSET

    def say(self, level: int, text: str, *values: object, exc_info: bool = False) -> None:
        """Write a line, with the exception that is being handled if that is wished; or count it."""
        if self._bucket.try_to_take(time.monotonic()):
            self.tell_left_out()
            self._log.log(level, text, *values, exc_info=exc_info)
        else:
            self._left_out += 1
            self._level = max(self._level, level)

    @property
    def is_idle(self) -> bool:
        """Whether it is as good as a new one."""
        return not self._left_out and self._bucket.is_full(time.monotonic())

    def tell_left_out(self) -> None:
        """Write how many were left out, if any were."""
        left_out, level = self._left_out, self._level
        self._left_out, self._level = 0, logging.NOTSET
        if left_out:
            self._log.log(level, "%d lines about %s were left out", left_out, self._what)
