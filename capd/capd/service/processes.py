"""How processes of ours are started: which command line, which environment."""

import os
import sys

#: What they see of our environment: where Python finds what it imports, and nothing else.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL", "TZ")


def command(module: str, *arguments: object, as_other_user: bool = False) -> list[str]:
    """Return the command line that runs one of our modules; nothing is imported from the working directory.

    Where the daemon is isolated (``-I``) from its user's packages and Python's variables, so is what it starts.

    Args:
        module: its name.
        *arguments: of its command line.
        as_other_user: it runs with a client's ids; then none of that user's packages is imported in any case.
    """
    isolation = ["-I"] if sys.flags.isolated else ["-P", *(["-s"] if as_other_user else [])]
    return [sys.executable, *isolation, "-m", module, *map(str, arguments)]


def environment() -> dict[str, str]:
    """Return what a process that we start sees of our environment."""
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
