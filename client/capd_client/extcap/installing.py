"""``capctl install-extcap``: the program where Wireshark looks for such programs, of this user or of all, and its end.

It is a link, so that it stays the one that is installed. What somebody else has put there is left as it is.
"""

import contextlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

from capd_client.errors import DestinationError
from capd_client.extcap.configuration import PROGRAM
from capd_client.sources.programs import WIRESHARKS_OWN, global_directories, personal_directories
from capd_protocol.text import quoted

#: How its own programs say where they look; ``tshark -G folders`` has a line of this.
_LINES = ("Extcap path:", "Global Extcap path:")
_ANSWER_S = 10.0


def install(*, for_all: bool) -> list[str]:
    """Make the links; return a line for each.

    Args:
        for_all: for all users of this machine.

    Raises:
        DestinationError: something else is there, or a link cannot be made, or there is nowhere to make one.
    """
    program = _program()
    if for_all:
        fault = _fault_on_way(program)
        if fault is not None:
            raise DestinationError(fault)
    report: list[str] = []
    for link in _links(for_all=for_all):
        if os.path.lexists(link) and not _is_ours(link):
            raise DestinationError(f"{quoted(str(link))} is there already, and is not capd's: move it away")
        if link.is_symlink() and link.readlink() == program:
            report.append(f"{link} is there")
            continue
        with _explained(link):
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(program)
        report.append(f"{link} is made")
    if not report:
        raise DestinationError("no Wireshark is installed for all users: it has no directory for such programs")
    return [*report, "Wireshark lists capd's interfaces when it starts, or with F5"]


def remove(*, for_all: bool) -> list[str]:
    """Remove the links; return a line for each.

    Args:
        for_all: for all users of this machine.

    Raises:
        DestinationError: one cannot be removed.
    """
    report: list[str] = []
    for link in filter(_is_ours, _links(for_all=for_all)):
        with _explained(link):
            link.unlink()
        report.append(f"{link} is removed")
    return report or ["there is nothing to remove"]


def _links(*, for_all: bool) -> list[Path]:
    """Return where links belong: each version of Wireshark looks in one of these."""
    directories = _directories_for_all() if for_all else map(Path, personal_directories())
    return [each / PROGRAM for each in directories]


def _directories_for_all() -> Iterator[Path]:
    known = [*map(Path, global_directories()), *_said_by_tshark()]
    for each in dict.fromkeys(known):
        # 4.4.0 looks where its own programs are then.
        inner = each / WIRESHARKS_OWN
        if each.is_dir():
            yield inner if inner.is_dir() else each


def _said_by_tshark() -> list[Path]:
    """Return where the tshark on the path looks, whatever its version, and wherever it was installed."""
    try:
        done = subprocess.run(
            ["tshark", "-G", "folders"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ANSWER_S,
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line.partition("\t") for line in done.stdout.splitlines()]
    return [Path(path.strip()) for name, _, path in lines if name.strip() in _LINES and path.strip()]


def _program() -> Path:
    """Return the program of this installation.

    Raises:
        DestinationError: it is not there.
    """
    beside = Path(sys.executable).with_name(PROGRAM)
    found = beside if beside.exists() else shutil.which(PROGRAM)
    if found is None:
        raise DestinationError(f"this installation of capd has no {PROGRAM}: install it anew")
    return Path(found)


def _is_ours(link: Path) -> bool:
    return link.is_symlink() and link.readlink().name == PROGRAM


def _fault_on_way(program: Path) -> str | None:
    """Return why not all users should run a program: others than root can change what it is. None: they cannot."""
    real = program.resolve()
    for path in (real, *real.parents):
        status = path.stat()
        is_open = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
        if status.st_uid != 0 or is_open:
            return f"{quoted(str(path))} can be changed by others than root, and all users would run what is there"
    return None


@contextlib.contextmanager
def _explained(link: Path) -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        raise DestinationError(f"{quoted(str(link))} cannot be changed: {error.strerror}") from error
