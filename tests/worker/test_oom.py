"""Whom the kernel kills when memory runs out: not the daemon."""

import os
from pathlib import Path

from tests.capture.helpers import capturing
from tests.support.daemon import Daemon

MIB = 1024 * 1024


def score(process_id: int) -> int:
    return int(Path(f"/proc/{process_id}/oom_score_adj").read_text())


def test_workers_are_killed_before_daemon_and_spawner(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    with capturing(daemon, interfaces=[veth[1]], savefile=user_dir / "a.pcapng"):
        (worker,) = daemon.workers()
        assert score(daemon.process.pid) == score(daemon.spawner()) == score(os.getpid())
        assert score(worker) == min(score(os.getpid()) + 100, 1000)


def test_a_recorder_counts_with_the_memory_that_it_may_have(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    share = 0.25
    memory = int(share * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with capturing(daemon, interfaces=[veth[1]], savefile=user_dir / "r.pcapng", recorder_memory=memory // MIB):
        (worker,) = daemon.workers()
        assert min(score(os.getpid()) + 345, 999) <= score(worker) <= score(os.getpid()) + 350
