"""Scores for the OOM killer: a worker dies before the daemon, and a recorder's first."""

import contextlib
import os
from pathlib import Path

#: In thousandths of the memory, beside what a process has itself (oom_score_adj, proc(5)). Chosen: so that it dies
#: before the daemon and the process that forks workers, whose end is that of all captures; and no more, so that one of
#: a few MiB does not die before a program with more than a tenth of the machine. systemd gives users' sessions as much.
_WORKERS = 100
_MOST = 1000
_SCORE = Path("/proc/self/oom_score_adj")


def be_killed_first(recorder_bytes: int) -> None:
    """Have the kernel kill this process rather than the daemon.

    Args:
        recorder_bytes: what it may keep in files in memory. The kernel counts only what a process has mapped, and would
            kill one after another of those who have less.
    """
    machine_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    more = _WORKERS + 1000 * recorder_bytes // machine_bytes
    with contextlib.suppress(OSError):  # without /proc the kernel goes by what it sees
        _SCORE.write_text(str(min(int(_SCORE.read_text()) + more, _MOST)))
