"""Engines that run, and descriptors that are open: what must not be left."""

import contextlib
import os
from pathlib import Path

#: In the environment of every engine that this process starts; a search path of nothing is of no effect.
MARK = f"/nonexistent/capd-tests-{os.getpid()}"


def engines() -> list[tuple[int, str]]:
    """Return the engines and guardians that this process has started, by number and words."""
    found: list[tuple[int, str]] = []
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if MARK.encode() in (directory / "environ").read_bytes() and int(directory.name) != os.getpid():
                words = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                found.append((int(directory.name), words))
    return found


def descriptors() -> set[str]:
    """Return the descriptors that are open."""
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208
