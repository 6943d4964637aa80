"""A terminal that a command believes in, and what a person would see on it."""

import contextlib
import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Generator, Sequence

from tests.client.helpers import PATIENCE_S

_ESCAPE = re.compile(r"\x1b\[(\d*(?:;\d+)*)([A-Za-z])")


class Screen:
    """Enough of a VT100: text, carriage return, line feed, backspace, erasing to the end of a line; lines wrap."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.rows: list[list[str]] = [[]]
        self.wraps = 0
        #: What stood in a row before it was erased.
        self.erased: list[str] = []
        self._row = self._column = 0
        self._pending = ""

    def feed(self, text: str) -> None:
        """Show text."""
        text = self._pending + text
        self._pending = ""
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                escape = _ESCAPE.match(text, at)
                if escape is None:
                    assert len(text) - at < 20, f"not an escape sequence: {text[at:]!r}"
                    self._pending = text[at:]
                    return
                self._obey(*escape.groups())
                at = escape.end()
            else:
                self._put(text[at])
                at += 1

    def _obey(self, argument: str, command: str) -> None:
        assert (argument, command) == ("", "K"), f"unknown escape sequence {argument}{command}"
        row = self.rows[self._row]
        if self._column == 0 and row:
            self.erased.append("".join(row))
        del row[self._column :]

    def _put(self, character: str) -> None:
        match character:
            case "\r":
                self._column = 0
            case "\n":
                self._next_row()
            case "\b":
                self._column = max(0, self._column - 1)
            case _:
                assert character.isprintable(), f"{character!r} on a terminal"
                if self._column == self.columns:
                    self.wraps += 1
                    self._column = 0
                    self._next_row()
                row = self.rows[self._row]
                row += [" "] * (self._column + 1 - len(row))
                row[self._column] = character
                self._column += 1

    def _next_row(self) -> None:
        self._row += 1
        if self._row == len(self.rows):
            self.rows.append([])

    @property
    def lines(self) -> list[str]:
        """What stands there, without empty lines at the end."""
        lines = ["".join(row).rstrip() for row in self.rows]
        while lines and not lines[-1]:
            del lines[-1]
        return lines

    @property
    def current(self) -> str:
        """The line with the cursor."""
        return "".join(self.rows[self._row])


class Session:
    """A command in its terminal."""

    def __init__(self, process: subprocess.Popen[bytes], master: int, columns: int) -> None:
        self.process = process
        self.screen = Screen(columns)
        self._master = master
        self._bytes = b""

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def hang_up(self) -> int:
        """Have the terminal be gone, as when its window is closed; return the command's exit status."""
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, self._master)  # which is closed again in the end
        os.close(nothing)
        return self.process.wait(PATIENCE_S)

    def _read(self, deadline_s: float) -> bool:
        poll = select.poll()
        poll.register(self._master, select.POLLIN)
        assert poll.poll(max(0, (deadline_s - time.monotonic()) * 1000)), f"nothing more came; {self.screen.lines}"
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the other side open any more
            return False
        self._bytes += data
        whole = self._bytes.decode(errors="ignore")
        self._bytes = self._bytes[len(whole.encode()) :]
        self.screen.feed(whole)
        return True

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Read until something stands on the screen, or in its last line."""
        deadline_s = time.monotonic() + PATIENCE_S
        while (found := re.search(pattern, "\n".join(self.screen.lines))) is None:
            assert self._read(deadline_s), f"{pattern!r} never came; {self.screen.lines}"
        return found

    def wait_ended(self) -> int:
        """Read until the command has ended; return its exit status."""
        deadline_s = time.monotonic() + PATIENCE_S
        while self._read(deadline_s):
            pass
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def in_terminal(
    command: Sequence[str],
    *,
    columns: int = 80,
    told_columns: int | None = None,
    cwd: str | os.PathLike[str] | None = None,
    stdout: int | None = None,
) -> Generator[Session, None, None]:
    """Run a command in a terminal of its own, which Ctrl-C reaches.

    Args:
        command: its words.
        columns: how wide the terminal is.
        told_columns: how wide it says that it is.
        cwd: where it runs.
        stdout: a descriptor that its standard output goes to instead.
    """
    master, slave = pty.openpty()
    try:
        termios.tcsetwinsize(slave, (24, columns if told_columns is None else told_columns))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=slave,
            stdout=slave if stdout is None else stdout,
            stderr=slave,
            cwd=cwd,
            env={**environment, "TERM": "xterm"},
        )
        os.close(slave)
        slave = -1
        try:
            yield Session(process, master, columns)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    finally:
        os.close(master)
        if slave >= 0:
            os.close(slave)
