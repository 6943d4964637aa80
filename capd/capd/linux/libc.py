"""The C library, for calls that Python has no name for."""

import ctypes
import os

library = ctypes.CDLL(None, use_errno=True)


def has(name: str) -> bool:
    """Whether this C library has a function."""
    return hasattr(library, name)


def call(name: str, *arguments: object, what: str = "") -> int:
    """Call a function that returns a negative int where it fails, and return what it returns.

    Args:
        name: of the function.
        arguments: as ctypes takes them.
        what: is done with it, where its name does not say that; for the exception.

    Raises:
        OSError: it has failed.
    """
    result: int = getattr(library, name)(*arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}" if what else os.strerror(error))
    return result
