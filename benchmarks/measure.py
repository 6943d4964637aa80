"""What processes cost: processor time and memory, as the kernel reports them."""

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.support.daemon import children_of_one_that_may_end

_SETTLE_TIMEOUT_S = 120.0
#: Of one processor: a program that does less than this has nothing left to do but its timers.
_QUIET_SHARE = 0.02


@dataclass(frozen=True)
class Memory:
    """What a process has in memory, rings that it shares with the kernel apart."""

    resident_bytes: int
    private_bytes: int
    ring_bytes: int


def tree_of(process_id: int) -> list[int]:
    """Return a process's id and those of all its descendants, which may end meanwhile."""
    return [process_id, *(each for child in children_of_one_that_may_end(process_id) for each in tree_of(child))]


def cpu_ns(process_ids: Iterable[int]) -> int:
    """Return the time that processes have run so far, user and system together.

    From their clocks (clock_getcpuclockid(3)), which count nanoseconds; /proc/PID/stat counts hundredths of a second.
    A process that has ended has none any more: it adds nothing.
    """
    used_ns = 0
    for process_id in process_ids:
        with contextlib.suppress(OSError):
            used_ns += time.clock_gettime_ns(~process_id << 3 | 2)
    return used_ns


def settle(cpu: Callable[[], int], quiet_s: float) -> None:
    """Wait until a program has done nothing for a while.

    Args:
        cpu: returns the processor time that it has used, in nanoseconds.
        quiet_s: how long packets may lie in its ring before it looks at them.

    Raises:
        TimeoutError: it went on and on.
    """
    deadline_s = time.monotonic() + _SETTLE_TIMEOUT_S
    while time.monotonic() < deadline_s:
        before_ns, began_s = cpu(), time.monotonic()
        time.sleep(quiet_s)
        if cpu() - before_ns < _QUIET_SHARE * (time.monotonic() - began_s) * 1e9:
            return
    raise TimeoutError(f"still busy after {_SETTLE_TIMEOUT_S:g} s")


def memory_of(process_id: int) -> Memory:
    """Return what a process has in memory."""
    return parse_smaps(Path(f"/proc/{process_id}/smaps").read_text())


def parse_smaps(text: str) -> Memory:
    """Add up the mappings in /proc/PID/smaps."""
    resident_kib = private_kib = ring_kib = 0
    is_ring = False
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):  # a mapping's first line: its addresses, and at the end what is mapped
            is_ring = "socket:[" in rest
        elif name in {"Rss:", "Size:"} and is_ring:
            ring_kib += int(rest.split()[0]) if name == "Size:" else 0
        elif name == "Rss:":
            resident_kib += int(rest.split()[0])
        elif name in {"Private_Clean:", "Private_Dirty:"} and not is_ring:
            private_kib += int(rest.split()[0])
    return Memory(resident_kib * 1024, private_kib * 1024, ring_kib * 1024)
