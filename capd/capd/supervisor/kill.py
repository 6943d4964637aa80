"""Kills a worker that does not end: ``python -m capd.supervisor.kill PID USER``.

The daemon has no CAP_KILL. This process takes the worker's user as its effective one, which is enough for kill(2).
Its real and its saved user stay the daemon's, so that this user can't stop it, as it stopped the worker.
"""

import os
import signal
import sys


def main() -> None:
    """Kill the process. The daemon has not waited for it yet: its number is still its own."""
    process_id, user_id = map(int, sys.argv[1:3])
    os.setresuid(-1, user_id, -1)
    os.kill(process_id, signal.SIGKILL)


if __name__ == "__main__":
    main()
