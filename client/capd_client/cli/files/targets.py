"""What ``-w`` names where a command writes a file of packets."""

import sys
from pathlib import Path
from typing import BinaryIO

from capd_client.errors import DestinationError


def target_of(path: str, *, overwrite: bool) -> str | BinaryIO:
    """Return what a path means: ``-`` is standard output.

    Args:
        path: as it was typed.
        overwrite: whether a file that is there is replaced.

    Raises:
        DestinationError: it is there, and is not to be.
    """
    if path == "-":
        return sys.stdout.buffer
    if not overwrite and Path(path).is_file():
        raise DestinationError(f"{path} is there already: name another file, or say --overwrite")
    return path
