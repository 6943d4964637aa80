"""May a service run from here? Only from where the hardened unit sees it, and nobody but root can change it."""

import re
import stat
from collections.abc import Iterable
from pathlib import Path

#: Where the unit looks into emptiness: ProtectHome= hides the first three, PrivateTmp= the others.
_UNSEEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))
#: What a unit file's command line takes as it is.
_PLAIN = re.compile(r"[\w/.+-]+", re.ASCII)
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class PlacementError(Exception):
    """A service must not run from here; the text says what to do."""


def find_fault(path: Path, owner_id: int, mode: int) -> str | None:
    """Return what is wrong with a file or a directory on the way to it, as a sentence; None if nothing is."""
    for unseen in _UNSEEN:
        if path.is_relative_to(unseen):
            return f"the service cannot see what is in {unseen}: install capd elsewhere, such as in /opt/capd"
    if not _PLAIN.fullmatch(str(path)):
        return f"{str(path)!r} has characters that a unit file cannot take: install capd in a place such as /opt/capd"
    if owner_id != 0:
        return (
            f"{path} belongs to user {owner_id}, who could become root by it: 'chown root {path}', or install elsewhere"
        )
    if mode & _OTHERS_MAY_WRITE:
        return f"others than root may write to {path}, and become root by it: 'chmod go-w {path}', or install elsewhere"
    if not mode & (stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH):
        # Where root's umask is 077, say.
        return f"the service, a user of its own, cannot get at {path}: 'chmod -R go+rX {path}'"
    return None


def places_on_the_way(path: Path) -> set[Path]:
    """Return a path, what it leads to, and every directory above both."""
    ends = path.absolute(), path.resolve()
    return {place for end in ends for place in (end, *end.parents)}


def check(paths: Iterable[Path]) -> None:
    """Check these, and all places on the way.

    Raises:
        PlacementError: the first fault, from the root directory on.
    """
    for place in sorted({place for path in paths for place in places_on_the_way(path)}):
        status = place.stat()
        fault = find_fault(place, status.st_uid, status.st_mode)
        if fault:
            raise PlacementError(fault)
