"""The programs that are measured, each behind the same interface: it captures from when it is made until ``finish``."""

import contextlib
import re
import shutil
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from benchmarks import measure
from capd_client import CaptureSession
from tests.support.daemon import running_daemon

#: Of each interface, for every program: capd's default.
BUFFER_MIB = 32
_START_TIMEOUT_S = 20.0
_END_TIMEOUT_S = 60.0
#: Before each start: the kernel has done by then with what ended before, which a start would wait for. And the time
#: between two captures of a daemon.
_BEFORE_START_S = 0.2


@dataclass(frozen=True)
class Job:
    """What to capture.

    Attributes:
        interfaces: all into one file.
        directory: an empty one; packets go to ``files`` in it.
        file_kb: next file after so many kB; None: a single file.
        files: keep so many.
        capture_filter: in libpcap's language.
        compress_type: how files are compressed; capd only.
        update_interval_s: how late a packet may be announced; capd only.
        subscribers: how many clients hear of the capture; capd only.
        earlier: how many captures its daemon has had before this one; capd only.
    """

    interfaces: tuple[str, ...]
    directory: Path
    file_kb: int | None = None
    files: int | None = None
    capture_filter: str = ""
    update_interval_s: float | None = None
    subscribers: int = 1
    earlier: int = 0
    compress_type: str = "none"

    @property
    def files_directory(self) -> Path:
        """Where nothing is but files of packets."""
        return self.directory / "files"


@dataclass(frozen=True)
class Outcome:
    """What a program says of its capture."""

    written: int
    drops: int


class Tool(ABC):
    """A capture that runs.

    Attributes:
        name: for people.
        program: without it the tool is not measured.
        quiet_s: how long packets may lie in the ring before the program gets them.
        start_s: from asking for the capture until it reported that it runs.
    """

    name: ClassVar[str]
    program: ClassVar[str]
    quiet_s: ClassVar[float]
    start_s: float

    @abstractmethod
    def __init__(self, job: Job) -> None:
        """Start the capture, and return when it runs."""

    @classmethod
    def is_installed(cls) -> bool:
        """Whether it can be measured here."""
        return shutil.which(cls.program) is not None

    @classmethod
    def takes(cls, job: Job) -> bool:
        """Whether it can do the job."""
        return len(job.interfaces) == 1

    @abstractmethod
    def process_ids(self) -> list[int]:
        """Return its processes."""

    def cpu_ns(self) -> int:
        """Return the processor time that it has used: all its processes, user and system."""
        return measure.cpu_ns(self.process_ids())

    @abstractmethod
    def finish(self) -> Outcome:
        """End the capture; its files are complete then."""


class Capd(Tool):
    """capd as its users have it: a daemon, a worker, and a program with a CaptureSession, which is a thread here."""

    name = "capd"
    program = "ip"  # which the namespace needs anyway: capd itself is always there
    quiet_s = 0.4

    @classmethod
    def takes(cls, job: Job) -> bool:
        """Whether it can do the job."""
        return True

    def __init__(self, job: Job) -> None:
        """Start a daemon, and a capture when it is ready."""
        self._stack = contextlib.ExitStack()
        self.daemon = self._stack.enter_context(running_daemon(job.directory))
        for _ in range(job.earlier):
            with self._capture(job, job.directory / "earlier.pcapng") as earlier:
                earlier.wait_started(_START_TIMEOUT_S)
        time.sleep(_BEFORE_START_S)
        began_s = time.monotonic()
        self.session = self._stack.enter_context(self._capture(job, job.files_directory / "capd.pcapng"))
        event_type, _ = self.session.wait_for_event(timeout=_START_TIMEOUT_S)
        self.start_s = time.monotonic() - began_s
        if event_type != self.session.SP_FILE:
            raise RuntimeError(f"the first event is {event_type}")
        #: When packets were announced, and how many.
        self.announced: list[tuple[float, int]] = []
        self._client = threading.Thread(target=self._take_events)
        self._client.start()
        self._client_clock = time.pthread_getcpuclockid(self._client.ident or 0)
        self._others = [threading.Thread(target=self._subscribe) for _ in range(job.subscribers - 1)]
        for other in self._others:
            other.start()

    def _capture(self, job: Job, savefile: Path) -> CaptureSession:
        return CaptureSession(
            socket_path=self.daemon.socket_path,
            interfaces=job.interfaces,
            capture_filter=job.capture_filter or None,
            savefile=savefile,
            ringbuffer_filesize=job.file_kb,
            ringbuffer_files=job.files,
            kernel_buffer_size=BUFFER_MIB,
            update_interval=job.update_interval_s,
            compress_type=job.compress_type,
        )

    def _subscribe(self) -> None:
        with CaptureSession.attach(self.session.capture_id or 0, socket_path=self.daemon.socket_path) as session:
            for _ in session:
                pass

    def _take_events(self) -> None:
        for event_type, message in self.session:
            if event_type == self.session.SP_PACKET_COUNT:
                self.announced.append((time.monotonic(), message))

    def process_ids(self) -> list[int]:
        """Return the daemon's and the worker's."""
        return measure.tree_of(self.daemon.process.pid)

    def cpu_ns(self) -> int:
        """Return that of daemon, worker and client."""
        return super().cpu_ns() + time.clock_gettime_ns(self._client_clock)

    def finish(self) -> Outcome:
        """End the capture, then the daemon."""
        with self._stack:
            self.session.stop()
            for client in (self._client, *self._others):
                client.join(_END_TIMEOUT_S)
            return Outcome(self.session.packetcount, self.session.dropcount)


class _Program(Tool):
    """A program that captures until it is interrupted, and says that it does."""

    ready: ClassVar[bytes]

    def __init__(self, job: Job) -> None:
        """Start it and wait until it captures."""
        self._log = job.directory / "log"
        time.sleep(_BEFORE_START_S)
        began_s = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self.command(job), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._wait_ready(began_s + _START_TIMEOUT_S)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        self.start_s = time.monotonic() - began_s

    @abstractmethod
    def command(self, job: Job) -> list[str]:
        """Return the command line that does the job."""

    @abstractmethod
    def outcome(self, log: bytes) -> Outcome:
        """Read in its output what came of it."""

    def _wait_ready(self, deadline_s: float) -> None:
        while self.ready not in self._log.read_bytes():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{self.name} did not start: {self._log.read_text(errors='replace')}")
            time.sleep(0.0002)  # a start takes a hundred times as long

    def process_ids(self) -> list[int]:
        """Return its only one."""
        return [self._process.pid]

    def finish(self) -> Outcome:
        """Interrupt it."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        return self.outcome(self._log.read_bytes())


class Dumpcap(_Program):
    """Wireshark's, as Wireshark runs it: it reports files and counts by messages on stderr (``-Z none``)."""

    name = "dumpcap"
    program = "dumpcap"
    # libpcap asks the kernel to close a block after 250 ms, which it does when it looks the second time.
    quiet_s = 0.7
    ready = b"F\0"

    @classmethod
    def takes(cls, job: Job) -> bool:
        """Whether it can do the job."""
        return True

    def command(self, job: Job) -> list[str]:
        """Return its command line."""
        command = ["dumpcap", "-Z", "none", "-n", "-w", str(job.files_directory / "dumpcap.pcapng")]
        if job.capture_filter:
            command += ["-f", job.capture_filter]  # before -i: the default of all interfaces
        command += ["-B", str(BUFFER_MIB)]
        for interface in job.interfaces:
            command += ["-i", interface]
        if job.file_kb is not None:
            command += ["-b", f"filesize:{job.file_kb}"]
        if job.files is not None:
            command += ["-b", f"files:{job.files}"]
        return command

    def outcome(self, log: bytes) -> Outcome:
        """Add up its messages."""
        messages = parse_sync_pipe(log)
        written = sum(int(text) for indicator, text in messages if indicator == "P")
        drops = sum(int(text.partition(":")[0]) for indicator, text in messages if indicator == "D")
        return Outcome(written, drops)


class Tcpdump(_Program):
    """The one of libpcap's authors."""

    name = "tcpdump"
    program = "tcpdump"
    # As dumpcap, but one second.
    quiet_s = 2.3
    ready = b"listening on"

    def command(self, job: Job) -> list[str]:
        """Return its command line."""
        command = ["tcpdump", "-n", "-Z", "root", "-i", *job.interfaces, "-B", str(BUFFER_MIB * 1024)]
        command += ["-w", str(job.files_directory / "tcpdump.pcap")]
        if job.file_kb is not None:
            command += ["-C", str(job.file_kb // 1000)]
        if job.files is not None:
            command += ["-W", str(job.files)]
        return [*command, job.capture_filter] if job.capture_filter else command

    def outcome(self, log: bytes) -> Outcome:
        """Read its last lines."""
        return Outcome(number_before(rb" packets? captured", log), number_before(rb" packets? dropped by kernel", log))


class NetsniffNg(_Program):
    """The one of the zero-copy tool kit; the machine's settings are left alone (``-A``, ``-Q``)."""

    name = "netsniff-ng"
    program = "netsniff-ng"
    quiet_s = 0.4
    ready = b"Running!"

    def command(self, job: Job) -> list[str]:
        """Return its command line."""
        # It says that it runs on stdout, which would be kept back.
        command = [
            "stdbuf",
            "-oL",
            "netsniff-ng",
            "--silent",
            "-A",
            "-Q",
            "-i",
            *job.interfaces,
            "-S",
            f"{BUFFER_MIB}MiB",
        ]
        if job.file_kb is None:
            command += ["-o", str(job.files_directory / "netsniff.pcap")]
        else:
            command += ["-o", f"{job.files_directory}/", "-F", f"{job.file_kb}KiB"]
        if job.files is not None:
            command += ["-O", str(job.files)]
        return [*command, "-f", job.capture_filter] if job.capture_filter else command

    def outcome(self, log: bytes) -> Outcome:
        """Read its last lines."""
        return Outcome(number_before(rb"\s+packets passed filter", log), number_before(rb"\s+packets failed", log))


TOOLS: tuple[type[Tool], ...] = (Capd, Dumpcap, Tcpdump, NetsniffNg)


def parse_sync_pipe(data: bytes) -> list[tuple[str, str]]:
    """Return dumpcap's messages: indicator and text."""
    messages: list[tuple[str, str]] = []
    while data:
        size = int.from_bytes(data[1:4], "big")
        messages.append((chr(data[0]), data[4 : 4 + size].rstrip(b"\0").decode()))
        data = data[4 + size :]
    return messages


def number_before(words: bytes, log: bytes) -> int:
    """Return the number that comes last before some words.

    Raises:
        ValueError: there is none.
    """
    found = re.findall(rb"(\d+)" + words, log)
    if not found:
        raise ValueError(f"no number before {words!r} in {log!r}")
    return int(found[-1])
