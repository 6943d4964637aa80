"""Bounds on compiling filters: processor time and memory, and how the daemon learns that one was passed.

libpcap's optimizer takes time that grows with the square or the cube of a filter's length, and only the end of its
process stops it: ``port 1 or port 2 …`` in 16 KiB kept a processor busy for minutes, in 700 MiB.
"""

import contextlib
import resource
import signal
from collections.abc import Generator
from pathlib import Path

from capd_protocol.messages import Failure, FailureCode

#: Of a processor, for all filters of a capture together, and for each link-layer type that its interfaces have. Chosen:
#: 300 hosts take 1 s, and whatever would fit into the kernel without the optimizer 0.15 s.
TIME_S = 2.0
#: Beyond what the worker has before. Chosen: twice what the longest ports take that are done in so much time; most that
#: would take longer are refused by this at once, since the optimizer asks for all of its memory first.
MEMORY_BYTES = 256 * 1024 * 1024
#: Ends a worker that takes longer. Chosen: not SIGXCPU, which a limit (RLIMIT_CPU) would send. A user may raise limits
#: of the user's own processes (prlimit(2)), but nobody sets another process's timer.
TIME_IS_UP = signal.SIGPROF


def too_much() -> Failure:
    """Return what to say of filters that take more."""
    text = (
        f"compiling the filter takes more than {TIME_S:g} s of a processor, or {MEMORY_BYTES // 2**20} MiB: "
        "write it shorter, with 'net' and 'portrange' for many hosts and ports"
    )
    return Failure(code=FailureCode.BAD_FILTER, text=text, argument="capture_filter")


@contextlib.contextmanager
def bounded(link_layer_types: int) -> Generator[None, None, None]:
    """Hold this process to the bounds while the block lasts, in which it compiles for so many link-layer types.

    Beyond the time it dies of ``TIME_IS_UP``. Beyond the memory there is none: a MemoryError, or libpcap says so.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    signal.signal(TIME_IS_UP, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (most if soft == resource.RLIM_INFINITY else min(most, soft), hard))
    signal.setitimer(signal.ITIMER_PROF, TIME_S * link_layer_types)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
