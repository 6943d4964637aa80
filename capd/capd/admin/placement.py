"""Placement of the service: only where the hardened unit sees it, and nobody but root can change it.

A user who may change one file that the service imports has its capabilities, and CAP_SETUID amounts to being root. So
every file is checked that lies where the service imports from, and every directory and link on the way there.
"""

import functools
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from capd.linux import trust

#: Where the unit looks into emptiness: ProtectHome= hides the first three, PrivateTmp= the others.
_UNSEEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))
#: What a unit file's command line takes as it is.
_PLAIN = re.compile(r"[\w/.+-]+", re.ASCII)


class PlacementError(Exception):
    """A service must not run from here; the text says what to do."""


def find_obstacle(path: Path, mode: int) -> str | None:
    """Return what keeps the service from a file, a link or a directory on the way to it; None if nothing does."""
    for unseen in _UNSEEN:
        if path.is_relative_to(unseen):
            return f"the service cannot see what is in {unseen}: install capd elsewhere, such as in /opt/capd"
    if not stat.S_ISLNK(mode) and not mode & (stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH):
        # Where root's umask is 077, say.
        place = trust.quoted(path)
        return f"the service, a user of its own, cannot get at {place}: 'chmod -R go+rX {place}'"
    return None


def check_interpreter(interpreter: Path) -> None:
    """Check that a unit file can name an interpreter.

    Raises:
        PlacementError: it has characters that would mean something there.
    """
    if not _PLAIN.fullmatch(str(interpreter)):
        text = f"{str(interpreter)!r} has characters that a unit file cannot take"
        raise PlacementError(f"{text}: install capd in a place such as /opt/capd")


def check(paths: Iterable[Path]) -> None:
    """Check what a service runs and imports: files, directories with all that is in them, and the way to each.

    What is not there is checked as far as its way goes. A directory that a link leads to belongs to the one that the
    link is in, as it does for a program that imports from there.

    Raises:
        PlacementError: the first fault, from the root directory on.
    """
    check = _Check()
    try:
        for path in paths:
            check.place(path)
    except OSError as error:
        raise PlacementError(f"cannot look at {error.filename}: {error.strerror}") from error


class _Check:
    """Looks at each place once."""

    def __init__(self) -> None:
        self._lstat = functools.cache(Path.lstat)
        self._walked: set[str] = set()

    def place(self, path: Path) -> None:
        top = path.resolve() if path.is_dir() else None
        for place, status in trust.way(path, self._lstat):
            obstacle = find_obstacle(place, status.st_mode)
            if obstacle:
                raise PlacementError(obstacle)
            _check_owner(place, status, recursive=place == top)
        if top is not None:
            self._walk(str(top))

    def _walk(self, top: str) -> None:
        """Check what is in a directory, from above."""
        #: Each with the link that has led out of the directory, and there.
        directories: list[tuple[str, str | None]] = [(top, None)]
        while directories:
            directory, link = directories.pop()
            if directory in self._walked:
                continue
            self._walked.add(directory)
            with os.scandir(directory) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    status = entry.stat(follow_symlinks=False)
                    _check_owner(entry.path, status, recursive=link is None, link=link)
                    if stat.S_ISDIR(status.st_mode):
                        directories.append((entry.path, link))
                    elif stat.S_ISLNK(status.st_mode):
                        directories += self._followed(entry.path, top)

    def _followed(self, link: str, top: str) -> list[tuple[str, str | None]]:
        """Check the way that a link leads; return the directory at its end, if it is one outside of the one walked."""
        for place, status in trust.way(Path(link), self._lstat):
            _check_owner(place, status, link=link)
        if not Path(link).is_dir():
            return []
        end = Path(link).resolve()
        return [] if end.is_relative_to(top) else [(str(end), link)]


def _check_owner(path: str | Path, status: os.stat_result, *, recursive: bool = False, link: str | None = None) -> None:
    fault = trust.find_fault(path, status.st_uid, status.st_mode, recursive=recursive)
    if fault:
        reached = f" ({trust.quoted(link)} leads there)" if link is not None else ""
        raise PlacementError(
            f"{fault.text}{reached}, and whoever may change what the service runs can become root by it: "
            f"'{fault.remedy}' if what is there can be trusted, or install capd elsewhere"
        )
