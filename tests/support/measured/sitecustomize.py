"""Measures which lines a process runs, from its start to its end: see ``scripts/coverage``.

Python imports this in each process that finds it in ``PYTHONPATH``, which the daemon passes on to the spawner. Results
go into the directory ``data`` beside it. Workers have no way to a file of ours once they are confined, so each process
opens its file at its start, or when it has been forked, and has only to write into it at its end.
"""

import atexit
import contextlib
import fcntl
import os
import sqlite3.dump  # noqa: F401  # coverage imports it at the end, where a worker may open no module's file
import tempfile
from pathlib import Path
from typing import NoReturn

with contextlib.suppress(ImportError):  # an interpreter that is not the tests', such as the one that makes .venv
    import coverage

_DIRECTORY = Path(__file__).parent / "data"
#: Whose lines are counted.
_SOURCES = [f"{root}/*" for root in (Path(__file__).parent / "sources").read_text(encoding="utf-8").splitlines()]
#: Above what processes open: tests and lists of system calls speak of the lowest numbers.
_LOWEST_DESCRIPTOR = 200


class _Measurement:
    """What this process runs."""

    def begin(self) -> None:
        """Begin, with nothing of the process that this one was forked from."""
        descriptor, _ = tempfile.mkstemp(dir=_DIRECTORY)
        self._descriptor = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _LOWEST_DESCRIPTOR)
        os.close(descriptor)
        # In memory. No "source": at the end it would be searched for files that were never imported.
        self._coverage = coverage.Coverage(data_file=None, config_file=False, include=_SOURCES)
        # Of what runs nothing of ours.
        self._coverage.set_option("run:disable_warnings", ["no-data-collected"])
        self._coverage.start()
        self._coverage.get_data().touch_file(__file__)  # opens its database, which takes system calls, now

    def end(self) -> None:
        """Write what was measured."""
        self._coverage.stop()
        os.pwrite(self._descriptor, self._coverage.get_data().dumps(), 0)

    def begin_in_child(self) -> None:
        """Begin anew after a fork."""
        self._coverage.stop()
        os.close(self._descriptor)
        self.begin()


_measurement = _Measurement()
_really_exit = os._exit


def _exit(status: int) -> NoReturn:
    try:
        _measurement.end()
    finally:
        _really_exit(status)


if "coverage" in globals():
    _measurement.begin()
    atexit.register(_measurement.end)
    os.register_at_fork(after_in_child=_measurement.begin_in_child)
    os._exit = _exit
