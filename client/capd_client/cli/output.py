"""Standard output and standard error of ``capctl``: nothing is printed but through these functions.

Names and texts from files, packets, other users and libpcap are escaped here, so that they can neither steer a terminal
nor look like a line of ours. All functions take whole lines, and so a line end in one is no line end.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import TextIO

from capd_protocol.text import escaped

#: ECMA-48: to the first column and erase to the right; home and erase all.
_ERASE_LINE = "\r\x1b[K"
_CLEAR_SCREEN = "\x1b[H\x1b[2J"


def show(*lines: str, flush: bool = False) -> None:
    """Print lines, by default with as many others as the stream takes at once."""
    for line in lines:
        print(escaped(line))
    if flush:
        sys.stdout.flush()


def show_json(fields: Mapping[str, object], *, flush: bool = False) -> None:
    """Print an object as a line of JSON."""
    show(json.dumps(fields), flush=flush)


def note_json(fields: Mapping[str, object], *, flush: bool = False) -> None:
    """Print an object as a line of JSON to standard error, for where standard output has packets."""
    note(json.dumps(fields), flush=flush)


class StandardOutput:
    """Standard output of a command that goes on without it, as when the files of a capture are what was asked for."""

    def __init__(self, goes_on: str | None) -> None:
        """Take what goes on, as the subject of a sentence; None: nothing does, and what cannot be printed is an error.

        All methods raise ``OSError`` then.
        """
        self._goes_on = goes_on
        #: Something could not be printed, and so nothing is any more.
        self.is_lost = False

    def show(self, *lines: str, flush: bool = False) -> None:
        """Print lines, as the function of that name does."""
        if self.is_lost:
            return
        try:
            show(*lines, flush=flush)
        except OSError as error:
            if self._goes_on is None:
                raise
            self.is_lost = True
            forget_output()
            complain(f"nothing more is printed: {error.strerror}; {self._goes_on} goes on")

    def show_json(self, fields: Mapping[str, object], *, flush: bool = False) -> None:
        """Print an object, as the function of that name does."""
        self.show(json.dumps(fields), flush=flush)


def forget_output() -> None:
    """Have standard output go nowhere, what is to be flushed at exit too: it cannot be written."""
    _forget(sys.stdout)


def show_screen(lines: Iterable[str]) -> None:
    """Print lines from the top of a screen that is empty otherwise."""
    print(_CLEAR_SCREEN, end="")
    show(*lines, flush=True)


def show_script(text: str) -> None:
    """Print what another program is to read as it is, of which nothing comes from anybody else."""
    print(text, end="")


def note(*lines: str, flush: bool = False) -> None:  # as ``show``; standard error is always flushed
    """Print lines to standard error, for where standard output has packets."""
    for line in lines:
        _print_error(escaped(line) + "\n")


def complain(text: str) -> None:
    """Print to standard error what went wrong."""
    _print_error(f"capctl: {escaped(text)}\n")


def draw(line: str) -> None:
    """Print a line to standard error in place of the one that was drawn before; an empty one erases it."""
    _print_error(_ERASE_LINE + escaped(line))


def _print_error(text: str) -> None:
    """Print to standard error, unless whoever read it has left: then the exit status has to do."""
    try:
        print(text, end="", file=sys.stderr, flush=True)
    except OSError:
        _forget(sys.stderr)


def _forget(stream: TextIO) -> None:
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), stream.fileno())
