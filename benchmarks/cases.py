"""What is measured: packets sent at a program that captures them, and what that costs it."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median, quantiles

from benchmarks import measure
from benchmarks.tools import Capd, Dumpcap, Job, Outcome, Tool
from capd_client import CaptureSession, PacketLoop
from tests.support.daemon import running_daemon
from tests.support.namespace import link_counters

#: Pairs of a veth: sent on the first, captured on the second.
PAIRS = (("send0", "take0"), ("send1", "take1"), ("send2", "take2"))
#: CPU is compared where all keep up.
PACED_PPS = 600_000
#: What a busy gigabit carries, more or less: who wakes up for fewer packets has more to do for each.
SLOWER_PPS = 300_000
#: So many keep up with a processor that is shared with a thread that compresses.
COMPRESSED_PPS = 200_000
#: More than any program keeps up with for long at 1500 B: 7.2 Gbit/s. The same for all of them: without a bound the
#: sender would be faster beside a program that leaves it more of the memory's bandwidth.
SATURATING_PPS = 600_000
#: Before a reading, by default: code is loaded, memory is touched, a ring of ten files of 10 MB has come round.
_WARM_UP = 100_000
_WARM_UP_PPS = 100_000
#: Of an enhanced packet block.
_AROUND_PACKET_BYTES = 34
_LATENCY_PPS = 1_000
_PROMPT_S = 0.005
_CAPTURES = 100
_IDLE_S = 10.0
_CAPINFOS_AT_ONCE = 200
#: For packets that wait for a handler: all that are sent, even those of 1500 B, so that only its speed counts.
_HANDLER_BYTES = 1_500_000_000
_HANDLER_PACKETS = 1_000_000
#: How often it is looked whether all has come.
_HANDLER_LOOK_S = 0.5

#: Readings of one repetition, by figure.
Reading = dict[str, float]


@dataclass(frozen=True)
class Place:
    """Where things run.

    Attributes:
        tmpfs: a directory in memory.
        disk: one that is not.
        capture_cpu: processor of the program that captures.
        send_cpu: another one.
    """

    tmpfs: Path
    disk: Path
    capture_cpu: int
    send_cpu: int


@dataclass(frozen=True)
class Case:
    """One kind of traffic into one kind of files.

    Attributes:
        name: for the tables and for ``--only``.
        sizes: bytes in each kind of packet.
        ratio: how many of each.
        packets: of a reading, after the warm-up.
        rate_pps: None: as many as the sender can.
        interfaces: how many, which share the packets evenly.
        file_kb: size of a ring's files; None: a single file.
        files: how many a ring keeps.
        capture_filter: which all packets pass.
        compress_type: how files are compressed.
        on_disk: in the directory that is not in memory.
        warm_up: packets before a reading.
        subscribers: how many clients hear of the capture; the processor time of one of them counts.
        only_capd: compared with capd's other readings, not with other programs.
    """

    name: str
    sizes: tuple[int, ...]
    ratio: tuple[int, ...] = (1,)
    packets: int = 1_000_000
    rate_pps: int | None = PACED_PPS
    interfaces: int = 1
    file_kb: int | None = None
    files: int | None = None
    capture_filter: str = ""
    compress_type: str = "none"
    on_disk: bool = False
    warm_up: int = _WARM_UP
    subscribers: int = 1
    only_capd: bool = False

    @property
    def mean_bytes(self) -> float:
        """Of a packet."""
        return sum(size * share for size, share in zip(self.sizes, self.ratio, strict=True)) / sum(self.ratio)


#: Sizes and shares of packets.
IMIX = (64, 576, 1500), (7, 4, 1)
CASES = (
    Case("64-B", (64,)),
    Case("IMIX", *IMIX),
    Case("64-B-fastest", (64,), packets=2_000_000, rate_pps=None),
    Case("64-B-slower", (64,), rate_pps=SLOWER_PPS),
    Case("IMIX-slower", *IMIX, rate_pps=SLOWER_PPS),
    Case("1500-B", (1500,), rate_pps=SLOWER_PPS),
    Case("interfaces", *IMIX, interfaces=3),
    Case("filter", *IMIX, capture_filter="udp port 50001"),
    Case("ring", *IMIX, file_kb=1000, files=10),
    Case("saturated-64-B", (64,), packets=2_000_000, rate_pps=None, file_kb=10_000, files=10),
    Case("saturated-IMIX", *IMIX, packets=2_000_000, rate_pps=None, file_kb=10_000, files=10),
    Case("saturated-tmpfs", (1500,), packets=2_000_000, rate_pps=SATURATING_PPS, file_kb=10_000, files=10),
    Case("saturated-disk", (1500,), packets=2_000_000, rate_pps=SATURATING_PPS, file_kb=10_000, files=10, on_disk=True),
    *(
        Case(
            f"compressed-{kind}",
            *IMIX,
            rate_pps=COMPRESSED_PPS,
            file_kb=10_000,
            files=10,
            compress_type=kind,
            only_capd=True,
        )
        for kind in ("none", "zstd", "gzip")
    ),
    Case("subscribers-50", *IMIX, subscribers=50, only_capd=True),
    # Of 66 packets each. Both rings have come round before the reading.
    Case("ring-2-files", (1500,), packets=200_000, rate_pps=20_000, file_kb=100, files=2, only_capd=True),
    Case(
        "ring-10000-files",
        (1500,),
        packets=200_000,
        rate_pps=20_000,
        file_kb=100,
        files=10_000,
        warm_up=750_000,
        only_capd=True,
    ),
    Case("packets-1M", (64,), file_kb=20_000, files=2, only_capd=True),
    Case("packets-10M", (64,), packets=10_000_000, file_kb=20_000, files=2, only_capd=True),
    Case("packets-100M", (64,), packets=100_000_000, file_kb=20_000, files=2, only_capd=True),
)


class WrongCountError(Exception):
    """What was written and dropped is not what was sent, or a file is not what it should be."""


def received(interfaces: int) -> int:
    """Return how many packets have come to the interfaces of so many pairs since these were made."""
    return sum(link_counters(taker)["rx"]["packets"] for _, taker in PAIRS[:interfaces])


def send(case: Case, packets: int, rate_pps: int | None, cpu: int) -> tuple[int, float]:
    """Send packets of a case's kind; return how many came to the interfaces, and how many seconds it took."""
    before = received(case.interfaces)
    senders = [sender for sender, _ in PAIRS[: case.interfaces]]
    command = [sys.executable, "-m", "benchmarks.sender", *senders, "--count", str(packets), "--cpu", str(cpu)]
    command += ["--sizes", ",".join(map(str, case.sizes)), "--ratio", ",".join(map(str, case.ratio))]
    command += [] if rate_pps is None else ["--rate", str(rate_pps)]
    # Its own bound on time, beyond what it should take at its slowest.
    command += ["--max-seconds", str(10 + packets / 50_000)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=60 + packets / 50_000)
    return received(case.interfaces) - before, float(done.stdout)


@contextlib.contextmanager
def new_directory(parent: Path) -> Iterator[Path]:
    """Have a directory with an empty one, ``files``, in it."""
    with tempfile.TemporaryDirectory(prefix="capd-bench-", dir=parent) as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "files").mkdir()
        yield directory


def capture(tool: type[Tool], case: Case, place: Place, packets: int | None = None) -> Reading:
    """Have a tool capture a case's packets.

    Raises:
        WrongCountError: the numbers do not agree; nothing of this run can be relied on.
    """
    with new_directory(place.disk if case.on_disk else place.tmpfs) as directory:
        job = make_job(case, directory)
        running = tool(job)
        try:
            warm, _ = send(case, min(case.warm_up, packets or case.warm_up), _WARM_UP_PPS, place.send_cpu)
            touch_memory(place.tmpfs, case, packets or case.packets)
            measure.settle(running.cpu_ns, running.quiet_s)
            before_ns = running.cpu_ns()
            sent, sent_s = send(case, packets or case.packets, case.rate_pps, place.send_cpu)
            measure.settle(running.cpu_ns, running.quiet_s)
            spent_ns = running.cpu_ns() - before_ns
            # Of capd the worker, the last: each further capture has one.
            memory = measure.memory_of(running.process_ids()[-1])
        finally:
            outcome = running.finish()
        check(job, outcome, warm + sent)
    kept = 1 - outcome.drops / sent
    return {
        "cpu_ns": spent_ns / max(1, sent - outcome.drops),
        "kept": kept,
        "sent_pps": sent / sent_s,
        "resident_bytes": memory.resident_bytes,
        "private_bytes": memory.private_bytes,
    }


def touch_memory(tmpfs: Path, case: Case, packets: int) -> None:
    """Use as much memory as a single file will take, and free it again.

    Virtual machines give what is free back to their host within seconds, and pay for getting it back: whoever is
    measured first would pay for all.
    """
    if case.file_kb is not None:
        return
    with tempfile.TemporaryFile(prefix="capd-bench-", dir=tmpfs) as file:
        os.posix_fallocate(file.fileno(), 0, round(packets * (case.mean_bytes + _AROUND_PACKET_BYTES)))


def make_job(case: Case, directory: Path) -> Job:
    """Return what a tool is to do for a case."""
    takers = tuple(taker for _, taker in PAIRS[: case.interfaces])
    return Job(
        takers,
        directory,
        case.file_kb,
        case.files,
        case.capture_filter,
        subscribers=case.subscribers,
        compress_type=case.compress_type,
    )


def check(job: Job, outcome: Outcome, sent: int) -> None:
    """Check that every packet is accounted for, and that others accept the files.

    Raises:
        WrongCountError: it is not so.
    """
    if outcome.written + outcome.drops != sent:
        raise WrongCountError(f"{outcome.written} written and {outcome.drops} dropped of {sent} sent")
    in_files = packets_in(sorted(job.files_directory.iterdir()))
    if in_files > outcome.written or (job.files is None and in_files != outcome.written):
        raise WrongCountError(f"{in_files} packets in the files, {outcome.written} reported as written")


def packets_in(files: list[Path]) -> int:
    """Return how many packets capinfos finds in files.

    Raises:
        WrongCountError: it complains.
    """
    packets = 0
    for start in range(0, len(files), _CAPINFOS_AT_ONCE):
        some = files[start : start + _CAPINFOS_AT_ONCE]
        done = subprocess.run(["capinfos", "-T", "-M", "-r", "-c", *some], capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        if done.returncode != 0 or len(lines) != len(some):
            raise WrongCountError(f"capinfos: {done.stderr}")
        packets += sum(int(line.rpartition("\t")[2]) for line in lines)
    return packets


# Without a load --------------------------------------------------------------------------------------------------


def start(tool: type[Tool], place: Place, earlier: int) -> Reading:
    """Measure how long a tool takes until it captures; capd where its daemon has had so many captures before."""
    with new_directory(place.tmpfs) as directory:
        running = tool(Job((PAIRS[0][1],), directory, earlier=earlier))
        running.finish()
    return {"start_s": running.start_s}


def latency(place: Place, packets: int) -> Reading:
    """Measure how long it takes from sending a packet until capd's client learns that it is in the file."""
    with new_directory(place.tmpfs) as directory:
        running = Capd(Job((PAIRS[0][1],), directory, update_interval_s=_PROMPT_S))
        command = [sys.executable, "-m", "benchmarks.sender", PAIRS[0][0], "--times", "--count", str(packets)]
        command += ["--rate", str(_LATENCY_PPS), "--cpu", str(place.send_cpu)]
        try:
            sent = subprocess.run(command, check=True, capture_output=True, timeout=60 + packets / _LATENCY_PPS)
            measure.settle(running.cpu_ns, running.quiet_s)
        finally:
            running.finish()
    times_s: list[float] = json.loads(sent.stdout)
    announced_s = [at_s for at_s, count in running.announced for _ in range(count)]
    if len(announced_s) != len(times_s):
        raise WrongCountError(f"{len(announced_s)} packets announced of {len(times_s)} sent")
    latencies_s = [after - before for before, after in zip(times_s, announced_s, strict=True)]
    return {"latency_median_s": median(latencies_s), "latency_p99_s": quantiles(latencies_s, n=100)[98]}


def handling(_tool: type[Tool], place: Place, case: Case, packets: int = _HANDLER_PACKETS) -> Reading:
    """Measure how many packets of a case a second are given to a handler that does nothing with them.

    Raises:
        WrongCountError: they were neither given nor counted as dropped.
    """
    with (
        new_directory(place.tmpfs) as directory,
        running_daemon(directory) as daemon,
        PacketLoop(interfaces=PAIRS[0][1], socket_path=daemon.socket_path, max_waiting_bytes=_HANDLER_BYTES) as session,
        ThreadPoolExecutor(1) as threads,
    ):
        sending = threads.submit(send, case, packets, None, place.send_cpu)
        session.loop(lambda *_: None, count=1)
        began_s = time.perf_counter()
        given = 1
        while given and (left := packets - session.received - session.drops) > 0:
            given = session.loop(lambda *_: None, count=left, timeout=_HANDLER_LOOK_S)
        taken_s = time.perf_counter() - began_s
    sent, _ = sending.result()
    if session.received + session.drops != sent:
        raise WrongCountError(f"{session.received} given and {session.drops} dropped of {sent} sent")
    return {"handled_pps": session.received / taken_s, "kept": session.received / sent}


@contextlib.contextmanager
def _captures(directory: Path, count: int) -> Generator[int, None, None]:
    """Have captures without packets of one user; the id of their daemon."""
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(running_daemon(directory))
        for number in range(count):
            path = directory / "files" / f"{number}.pcapng"
            capture = CaptureSession(
                socket_path=daemon.socket_path, interfaces=PAIRS[0][1], savefile=path, kernel_buffer_size=1
            )
            stack.enter_context(capture).wait_started(60)
        yield daemon.process.pid


def idle(place: Place, captures: int = _CAPTURES) -> Reading:
    """Measure what many captures at once have in memory, and what they do while no packet comes."""
    with contextlib.ExitStack() as stack:
        daemons: list[int] = []
        # A user may have 64 at once of one daemon: two daemons.
        for count in (captures // 2, captures - captures // 2):
            directory = stack.enter_context(new_directory(place.tmpfs))
            daemons.append(stack.enter_context(_captures(directory, count)))

        def process_ids() -> list[int]:
            return [process_id for daemon in daemons for process_id in measure.tree_of(daemon)]

        measure.settle(lambda: measure.cpu_ns(process_ids()), 1.0)
        # Not before: what has only helped to start the captures ends meanwhile.
        lasting = process_ids()
        before_ns, began_s = measure.cpu_ns(lasting), time.monotonic()
        time.sleep(_IDLE_S)
        share = (measure.cpu_ns(lasting) - before_ns) / 1e9 / (time.monotonic() - began_s)
        memories = [measure.memory_of(process_id) for process_id in lasting]
    # A daemon has no ring.
    private_bytes = [memory.private_bytes for memory in memories if memory.ring_bytes]
    if len(private_bytes) != captures:
        raise WrongCountError(f"{len(private_bytes)} workers of {captures}")
    return {"private_bytes": mean(private_bytes), "idle_share": share}


@dataclass(frozen=True)
class Special:
    """What is measured without a load.

    Attributes:
        tools: which can do it.
        read: measures one of them.
        times: how often in each repetition.
    """

    tools: tuple[type[Tool], ...]
    read: Callable[[type[Tool], Place], Reading]
    times: int = 1


#: A start is over so soon that more of them cost little.
_STARTS = 4
SPECIAL = {
    "start": Special((Capd, Dumpcap), partial(start, earlier=0), _STARTS),
    "next-start": Special((Capd, Dumpcap), partial(start, earlier=1), _STARTS),
    "latency": Special((Capd,), lambda _, place: latency(place, 5_000)),
    **{f"handler-{case.name}": Special((Capd,), partial(handling, case=case)) for case in CASES[:2]},
    "100-captures": Special((Capd,), lambda _, place: idle(place)),
}
