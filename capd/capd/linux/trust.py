"""File ownership: who may change a file, by its mode and that of each directory and link on the way to it."""

import os
import shlex
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

#: With an access control list the group's bits are the most that any of its entries gives (acl(5)).
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
#: As many as the kernel follows (MAXSYMLINKS, path_resolution(7)).
_MAX_LINKS = 40


class Fault(NamedTuple):
    """Somebody may change it who is not trusted."""

    #: What is wrong: the beginning of a sentence.
    text: str
    #: The shell's command that mends it.
    remedy: str


def find_fault(
    path: str | Path,
    owner_id: int,
    mode: int,
    trusted: Collection[int] = (0,),
    *,
    sticky_is_safe: bool = False,
    recursive: bool = False,
) -> Fault | None:
    """Return what lets others change a file, a directory or a link; None if nothing does.

    Args:
        path: where it is; a directory on the way must have been found to be right.
        owner_id: whose it is.
        mode: its kind and mode (``st_mode``). That of a link, 0777, says nothing: nobody can write to one.
        trusted: users who may change it, by number. No group is: its members may be anybody.
        sticky_is_safe: a directory of theirs like /tmp, where others can only add something, is right.
        recursive: the remedy is for what is in a directory, too.
    """
    whole = "-R " if recursive and stat.S_ISDIR(mode) else ""
    if owner_id not in trusted:
        link = "-h " if stat.S_ISLNK(mode) else ""
        return Fault(f"{quoted(path)} belongs to user {owner_id}", f"chown {whole}{link}root {quoted(path)}")
    is_sticky = sticky_is_safe and stat.S_ISDIR(mode) and mode & stat.S_ISVTX
    if mode & _OTHERS_MAY_WRITE and not stat.S_ISLNK(mode) and not is_sticky:
        return Fault(f"others may write to {quoted(path)}", f"chmod {whole}go-w {quoted(path)}")
    return None


def quoted(path: str | Path) -> str:
    """Return a path as the shell takes it, and as it can be shown."""
    return shlex.quote(str(path)) if str(path).isprintable() else repr(str(path))


def way(path: Path, lstat: Callable[[Path], os.stat_result] = Path.lstat) -> Iterator[tuple[Path, os.stat_result]]:
    """Go the kernel's way to a path, from the root directory on: each directory, each link, and what is at the end.

    The target of a link is gone to part by part, too. Where something is not there, the way ends before it: whoever may
    write to the directory that came last could make it. So it does where the kernel follows no more links.

    Raises:
        OSError: something cannot be looked at.
    """
    at, links = Path("/"), 0
    rest = list(reversed((Path.cwd() / path).parts))
    while rest:
        part = rest.pop()
        if part == "..":
            at = at.parent
            continue
        place = at / part  # the first part of an absolute path is the root directory, wherever we are
        try:
            status = lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            return
        yield place, status
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MAX_LINKS:
                return
            rest += reversed(place.readlink().parts)
        else:
            at = place


def find_fault_on_way(path: Path, trusted: Collection[int] = (0,), *, sticky_is_safe: bool = False) -> Fault | None:
    """Return what lets others change what a path leads to, or have it lead elsewhere; it need not be there yet.

    Raises:
        OSError: something on the way cannot be looked at.
    """
    for place, status in way(path):
        fault = find_fault(place, status.st_uid, status.st_mode, trusted, sticky_is_safe=sticky_is_safe)
        if fault:
            return fault
    return None
