"""Files of the user's cache: made once for each version, read as they lie there, and only where they are the user's."""

import contextlib
import mmap
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from capd_client.dissection.registry.lines import Memory

#: So many are kept. Chosen: all of some versions.
_MOST_FILES = 12
_BEGINNING = "wireshark-"


def directory() -> Path | None:
    """Return where files are kept, which is made if it is not there; None: there is no such place of this user's."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        path = (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "capd"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path if _is_ours(path.stat()) else None
    except (OSError, RuntimeError):  # the latter: no home
        return None


def _is_ours(status: os.stat_result) -> bool:
    """Whether only this user can have written it."""
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def kept(name: str, make: Callable[[], bytes]) -> Memory:
    """Return a file that is kept, made now if it is not there; in memory only where it cannot be kept.

    Args:
        name: of the file, which says all that it depends on.
        make: returns what is in it.
    """
    place = directory()
    if place is None:
        return make()
    path = place / f"{_BEGINNING}{name}"
    found = _mapped(path)
    if found is not None:
        return found
    data = make()
    with contextlib.suppress(OSError):
        _write(path, data)
    return data


def _mapped(path: Path) -> Memory | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not _is_ours(status) or not status.st_size:
            return None
        with contextlib.suppress(OSError):
            os.utime(descriptor)  # it is used, and stays
        return mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ)
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes) -> None:
    """Put a file there at once, and only whole; and take away what nobody has used for longest."""
    descriptor, written = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.rename(written, path)  # noqa: PTH104
    except BaseException:
        os.unlink(written)  # noqa: PTH108
        raise
    files = sorted(path.parent.glob(f"{_BEGINNING}*"), key=lambda each: each.stat().st_mtime, reverse=True)
    for old in files[_MOST_FILES:]:
        old.unlink()
