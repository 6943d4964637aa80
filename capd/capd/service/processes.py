"""How processes of ours are started: which command line, which environment."""

import os
import sys

#: What they see of our environment: where Python finds what it imports, and nothing else.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL", "TZ")


def command(module: str, *arguments: object) -> list[str]:
    """Return the command line that runs one of our modules; nothing is imported from the working directory.

    Where the daemon is isolated (``-I``) from its user's packages and Python's variables, so is what it starts.
    """
    return [sys.executable, "-I" if sys.flags.isolated else "-P", "-m", module, *map(str, arguments)]


def environment() -> dict[str, str]:
    """Return what a process that we start sees of our environment."""
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
