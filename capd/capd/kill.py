"""Kills a worker that does not end: ``python -m capd.kill PID USER GROUP``.

The daemon has no CAP_KILL. This process becomes the worker's user, with all the care of a worker, and may then.
"""

import os
import signal
import sys

from capd import privileges


def main() -> None:
    """Become the user, kill the process. The daemon has not waited for it yet: its number is still its own."""
    process_id, user_id, group_id = map(int, sys.argv[1:4])
    privileges.become(user_id, group_id, ())
    os.kill(process_id, signal.SIGKILL)


if __name__ == "__main__":
    main()
