"""A hostile local user's tools: raw clients, processes of other users, and a look at what is left behind."""

import array
import contextlib
import ctypes
import multiprocessing.connection
import multiprocessing.reduction
import os
import platform
import select
import signal
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from capd.worker.confinement.system_calls import ARCHITECTURES, number_of
from capd_client import CaptureSession, list_captures
from capd_protocol.frames import FrameDecoder
from capd_protocol.messages import (
    PROTOCOL_VERSION,
    AttachCapture,
    Destination,
    Failure,
    Hello,
    InterfaceRequest,
    InterfaceSnapshot,
    Message,
    Refused,
    StartCapture,
    StartSending,
    WatchInterfaces,
    decode,
    encode,
)
from tests.support.accounts import have_account
from tests.support.daemon import IN_PYTHON, Daemon, running_daemon, status_of
from tests.support.tools import busy_descriptors_of, capinfos, ip_json
from tests.support.traffic import build_frames, send

#: In this time everything that a test awaits has happened, but for what has limits of its own.
PATIENCE_S = 20.0
HELLO = encode(Hello(protocol_version=PROTOCOL_VERSION, software="attack"))
FRAMES = build_frames((64,))

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_DUMPABLE = 4


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Wait for something in another process that has no event to wait for."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.005)


# Daemons --------------------------------------------------------------------------------------------------------


#: Takes libpcap some tenths of a second. A large ring takes time too, but a machine has not always memory for it.
SLOW_FILTER = " or ".join(f"host 10.0.0.{each}" for each in range(200))


def slow_request_for(interface: str) -> StartCapture:
    """Return a request that can be granted, and takes some tenths of a second."""
    return request_for(interface, interfaces=(InterfaceRequest(name=interface, capture_filter=SLOW_FILTER),))


def beginning_worker(daemon: Daemon) -> int:
    """Return the only worker as soon as it is its user's; where its filter is the slow one, it has not begun yet."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (workers := daemon.workers()) or int(status_of(workers[0])["CapPrm"], 16):
        assert time.monotonic() < deadline_s, "there is no worker"
    (worker,) = workers
    return worker


_WITH_LIMITS = """
import sys
from capd import limits
from capd.linux import descriptors
from capd.pacing.rates import Rate
from trio._core import _thread_cache
if "older" in sys.argv[2]:
    assert descriptors._SO_PASSRIGHTS == 83
    descriptors._SO_PASSRIGHTS = 10_083
for pair in filter(None, sys.argv[1].split(",")):
    name, _, value = pair.partition("=")
    where = _thread_cache if name == "IDLE_TIMEOUT" else limits
    assert hasattr(where, name), name
    before = getattr(where, name)
    is_rate = isinstance(before, Rate)
    setattr(where, name, Rate(float(value), before.burst) if is_rate else type(before)(float(value)))
# Only now: a default of an argument is what it was at import.
from capd.__main__ import main
sys.exit(main(sys.argv[sys.argv.index("capd", 3) + 1 :]))
"""


def with_limits(**limits: float) -> tuple[str, ...]:
    """Return a prefix for ``running_daemon`` that gives some of ``capd.limits`` other values.

    What takes 10 s to be given up is given up the same way after one. IDLE_TIMEOUT is trio's, of threads without work;
    of a rate, what is allowed in a second is given. Unless it is given, CLOSER_IDLE_S is short: ``leaving_nothing``
    waits for the end of what closes descriptors.
    """
    return _with_limits("this", {"CLOSER_IDLE_S": 0.1} | limits)


def on_older_kernel(**limits: float) -> tuple[str, ...]:
    """Return such a prefix, and have the daemon run as before Linux 6.16, which cannot refuse descriptors."""
    return _with_limits("older", limits)


def _with_limits(kernel: str, limits: dict[str, float]) -> tuple[str, ...]:
    pairs = ",".join(f"{name}={value}" for name, value in limits.items())
    return (*IN_PYTHON, _WITH_LIMITS, pairs, kernel)


_WITHOUT_CALL = """
import ctypes, os, struct, sys
program = b"".join(struct.pack("=HBBI", *each) for each in [
    (0x20, 0, 0, 0),                # load the system call's number
    (0x15, 0, 1, int(sys.argv[1])),
    (0x06, 0, 0, 0x00050000 + 38),  # SECCOMP_RET_ERRNO, ENOSYS
    (0x06, 0, 0, 0x7FFF0000),       # SECCOMP_RET_ALLOW
])
code = ctypes.create_string_buffer(program, len(program))
filters = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(22, 2, filters, 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
assert libc.syscall(int(sys.argv[1]), -1, -1, -1, -1) == -1 and ctypes.get_errno() == 38
os.execv(sys.argv[2], sys.argv[2:])
"""


def without_call(name: str) -> tuple[str, ...]:
    """Return a prefix for ``running_daemon``: on a kernel that does not know a system call (ENOSYS)."""
    number = number_of(name, ARCHITECTURES[platform.machine()])
    assert number is not None
    return (sys.executable, "-c", _WITHOUT_CALL, str(number))


@contextlib.contextmanager
def replaced_when_dead(
    directory: Path, *options: str, prefix: tuple[str, ...] | None = None
) -> Generator[Callable[[], Daemon], None, None]:
    """Have a daemon for many tests; the function gives it, or a new one where a test has ended it.

    Args:
        directory: as for ``running_daemon``.
        *options: further options of ``capd``.
        prefix: a command that runs it; the default is that of ``with_limits()``.
    """
    if prefix is None:
        prefix = with_limits()
    with contextlib.ExitStack() as stack:
        running: list[Daemon] = []

        def get() -> Daemon:
            if running and running[-1].process.poll() is not None:
                stack.close()
                running.clear()
            if not running:
                running.append(stack.enter_context(running_daemon(directory, *options, prefix=prefix)))
            return running[-1]

        yield get


@contextlib.contextmanager
def without_stragglers(daemon: Daemon) -> Generator[None, None, None]:
    """End what the daemon has started and not ended, when a test is over, however it went."""
    try:
        yield
    finally:
        for process_id in daemon.workers() if daemon.process.poll() is None else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)


# Clients --------------------------------------------------------------------------------------------------------


def request_for(interface: str, file_name: str = "raw.pcapng", **changes: Any) -> StartCapture:
    """Return a request that can be granted, but for the changes."""
    return StartCapture(
        **{
            "interfaces": (InterfaceRequest(name=interface, kernel_buffer_size_bytes=1 << 20),),
            "destination": Destination(file_name=file_name),
            "update_interval_s": 0.02,
            **changes,
        }
    )


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_PATH | os.O_DIRECTORY) -> Generator[int, None, None]:
    """Have a descriptor while the block lasts; as given, the kind that the client library sends."""
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class RawClient:
    """A connection to the daemon that sends whatever a test wants.

    Descriptors that go along with what it sends are passed where the daemon asks for them, as the directory.
    """

    def __init__(self, socket_path: str | socket.socket, *, greet: bool = True) -> None:
        """Connect, or take over a connection."""
        if isinstance(socket_path, socket.socket):
            self.socket = socket_path
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(socket_path)  # blocks: else a full backlog would be an error
        self.socket.settimeout(PATIENCE_S)
        self._decoder = FrameDecoder()
        self._offered: list[int] = []
        #: Whether what the daemon sends is for the client to talk on, not for it to pass the directory on.
        self._takes_channel = False
        #: On which the capture's process passes files; what the daemon has sent last.
        self.channel: socket.socket | None = None
        #: Pipes with packets of devices, which the daemon has sent.
        self.pipes: list[int] = []
        if greet:
            with contextlib.suppress(BrokenPipeError):  # the daemon may refuse without being asked
                self.send(HELLO)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def send(self, data: bytes | Message, descriptors: Sequence[int] = ()) -> None:
        """Send bytes or a message; when the daemon asks for the directory, the descriptors are passed."""
        if descriptors:
            self._forget_offered()
            self._offered = list(map(os.dup, descriptors))
        self._takes_channel = isinstance(data, AttachCapture | StartSending)
        self.socket.sendall(data if isinstance(data, bytes) else encode(data))

    def send_along(self, data: bytes | Message, descriptors: Sequence[int]) -> None:
        """Send bytes or a message, and descriptors with the first of them, which the daemon does not take."""
        data = data if isinstance(data, bytes) else encode(data)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        if rest := data[self.socket.sendmsg([data], rights) :]:  # to send nothing may fail too
            self.socket.sendall(rest)

    def _pass_offered(self, channel: socket.socket) -> None:
        if self.channel is not None:
            self.channel.close()
        self.channel = channel
        if not self._takes_channel:
            with contextlib.suppress(BrokenPipeError):  # the capture's process may have gone
                socket.send_fds(channel, [b"d"], self._offered)
        self._forget_offered()

    def _forget_offered(self) -> None:
        while self._offered:
            os.close(self._offered.pop())

    def receive(self, kind: type[Message] | None = None, timeout_s: float = PATIENCE_S) -> Message:
        """Return the next message, or the next of this kind.

        Raises:
            EOFError: the daemon has closed the connection.
            TimeoutError: nothing came in time.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            while (frame := self._decoder.next_frame()) is not None:
                message = decode(frame)
                if kind is None or isinstance(message, kind):
                    return message
            self.socket.settimeout(max(deadline_s - time.monotonic(), 0.001))
            try:
                data, descriptors, _, _ = socket.recv_fds(self.socket, 65536, 1)
            except ConnectionResetError:
                data, descriptors = b"", []
            if descriptors and stat.S_ISFIFO(os.fstat(descriptors[0]).st_mode):
                self.pipes += descriptors
            elif descriptors:
                self._pass_offered(socket.socket(fileno=descriptors[0]))
            if not data:
                self._decoder.check_end()
                raise EOFError("the daemon has closed the connection")
            self._decoder.feed(data)

    def rest(self, timeout_s: float = PATIENCE_S) -> list[Message]:
        """Return all messages until the daemon closes the connection, in time for each."""
        messages: list[Message] = []
        with contextlib.suppress(EOFError):
            while True:
                messages.append(self.receive(timeout_s=timeout_s))
        return messages

    def refusal(self) -> Failure:
        """Return why the daemon refuses."""
        message = self.receive(Refused)
        assert isinstance(message, Refused)
        return message.failure

    def finish(self, timeout_s: float = PATIENCE_S) -> list[Message]:
        """Say that nothing more comes; return what still comes from the daemon."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        return self.rest(timeout_s)

    def close(self) -> None:
        """Vanish."""
        self.socket.close()
        if self.channel is not None:
            self.channel.close()
        while self.pipes:
            os.close(self.pipes.pop())
        self._forget_offered()


# Other users ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class User:
    """A user, whom the system knows by default."""

    user_id: int
    group_id: int
    groups: tuple[int, ...] = ()
    has_account: bool = True


Channel = multiprocessing.connection.Connection


class UserProcess:
    """A forked process of a user, with a channel to it."""

    def __init__(self, process_id: int, channel: Channel) -> None:
        self.process_id = process_id
        self.channel = channel

    def hear(self, timeout_s: float = PATIENCE_S) -> Any:
        """Return the next thing that it says; an exception is raised."""
        assert self.channel.poll(timeout_s), "the user's process says nothing"
        thing = self.channel.recv()
        if isinstance(thing, BaseException):
            raise thing
        return thing

    def say(self, thing: object) -> None:
        """Tell it something."""
        self.channel.send(thing)

    def ask(self, thing: object, timeout_s: float = PATIENCE_S) -> Any:
        """Tell it something and return the answer."""
        self.say(thing)
        return self.hear(timeout_s)

    def kill(self) -> None:
        """End it as the kernel would."""
        os.kill(self.process_id, signal.SIGKILL)


@contextlib.contextmanager
def process_of(
    user: User, function: Callable[[Channel], object], *, keep: Sequence[int] = (), traceable: bool = False
) -> Generator[UserProcess, None, None]:
    """Run a function in a process of a user while the block lasts; the process is killed and reaped at its end.

    Args:
        user: whose.
        function: gets the other end of the channel; what it raises is sent there.
        keep: descriptors of ours that it shall have; all others are closed there.
        traceable: let that user trace the process, as one that the user had started anew.
    """
    if user.has_account:
        have_account(user.user_id)
    ours, theirs = multiprocessing.connection.Pipe()
    child = os.fork()
    if child == 0:
        try:
            for descriptor in {int(entry.name) for entry in Path("/proc/self/fd").iterdir()} - {
                0,
                1,
                2,
                theirs.fileno(),
                *keep,
            }:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            os.setgroups(user.groups)
            os.setresgid(user.group_id, user.group_id, user.group_id)
            os.setresuid(user.user_id, user.user_id, user.user_id)
            if traceable:
                _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
            try:
                function(theirs)
            except BaseException as error:  # sent to the other side
                theirs.send(error)
        finally:
            os._exit(0)
    theirs.close()
    try:
        yield UserProcess(child, ours)
    finally:
        ours.close()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@contextlib.contextmanager
def connected_as(user: User, daemon: Daemon) -> Generator[RawClient, None, None]:
    """Have a connection that a user has made, in this process."""

    def connect(channel: Channel) -> None:
        with RawClient(daemon.socket_path, greet=False) as client:
            multiprocessing.reduction.send_handle(channel, client.socket.fileno(), os.getppid())
            channel.recv()

    with process_of(user, connect) as process:
        connection = socket.socket(fileno=multiprocessing.reduction.recv_handle(process.channel))
    with RawClient(connection) as client:
        yield client


def hold_capture(channel: Channel, arguments: Any) -> None:
    """In a user's process: capture; answer ``"wait"``, ``"stop"`` and ``"count"`` until anything else comes."""
    with CaptureSession(**arguments) as capture:
        capture.wait_started(PATIENCE_S)
        channel.send(capture.capture_id)
        while True:
            match channel.recv():
                case "wait":
                    event_type, message = capture.wait_for_event(timeout=PATIENCE_S)
                    channel.send((event_type, message))
                case "stop":
                    capture.stop()
                    capture.wait(PATIENCE_S)
                    channel.send((capture.packetcount, capture.end_reason))
                case _:
                    return


@contextlib.contextmanager
def capturing(user: User, **arguments: Any) -> Generator[tuple[UserProcess, int], None, None]:
    """Have a process of a user with a capture that runs; give it and the capture's id."""
    with process_of(user, lambda channel: hold_capture(channel, arguments)) as process:
        yield process, process.hear()


# What is left behind --------------------------------------------------------------------------------------------


def promiscuity_of(interface: str) -> int:
    """Return how many times the interface was asked to be promiscuous."""
    promiscuity: int = ip_json("-d", "link", "show", "dev", interface)[0]["promiscuity"]
    return promiscuity


def resident_kb(daemon: Daemon) -> int:
    """Return how much memory the daemon has."""
    return int(status_of(daemon.process.pid)["VmRSS"].removesuffix(" kB"))


def reload(daemon: Daemon, path: Path, rules: str) -> None:
    """Have a daemon take over other rules, which its configuration has."""
    at = daemon.log.count("was read again")
    path.write_text(rules)
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: daemon.log.count("was read again") > at, "the rules")


def await_end(process_ids: Sequence[int], timeout_s: float = PATIENCE_S) -> None:
    """Wait until these processes have ended, whoever their parent is."""
    deadline_s = time.monotonic() + timeout_s
    for process_id in process_ids:
        try:
            descriptor = os.pidfd_open(process_id)
        except ProcessLookupError:
            continue
        try:
            ready, _, _ = select.select([descriptor], [], [], max(deadline_s - time.monotonic(), 0))
            assert ready, f"process {process_id} still runs"
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class Traces:
    """What a request that came to nothing must not change."""

    descriptors: int
    workers: frozenset[int]
    promiscuity: tuple[int, ...]
    files: tuple[tuple[str, int], ...]

    def is_left_by(self, after: "Traces") -> bool:
        """Whether nothing more is there after than before; a connection or worker of before may have gone meanwhile."""
        return (
            after.descriptors <= self.descriptors
            and after.workers <= self.workers
            and replace(after, descriptors=self.descriptors, workers=self.workers) == self
        )


def _traces(daemon: Daemon, interfaces: Sequence[str], directory: Path | None) -> Traces:
    return Traces(
        len(busy_descriptors_of(daemon.process.pid)),
        frozenset(daemon.workers()),
        tuple(map(promiscuity_of, interfaces)),
        tuple(sorted(_sizes(directory))) if directory else (),
    )


def _sizes(directory: Path) -> Generator[tuple[str, int], None, None]:
    for entry in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a worker has just removed it
            yield entry.name, entry.lstat().st_size


#: Of each daemon, by process id, and of the workers that it has: the fewest descriptors that it was seen with, which
#: is when it has nothing else to do.
_idle_descriptors: dict[tuple[int, frozenset[int]], int] = {}


def _settled(daemon: Daemon, interfaces: Sequence[str], directory: Path | None) -> Traces:
    """Return the traces when nothing is left of clients and workers that have gone before."""
    with RawClient(daemon.socket_path) as client:
        # From the first watcher on, the daemon itself keeps watching.
        client.send(WatchInterfaces())
        client.receive(InterfaceSnapshot)
        client.finish()
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        now = _traces(daemon, interfaces, directory)
        key = daemon.process.pid, now.workers
        least = _idle_descriptors[key] = min(now.descriptors, _idle_descriptors.get(key, now.descriptors))
        if now.descriptors == least:
            return now
        assert time.monotonic() < deadline_s, f"the daemon's {now.descriptors} descriptors do not become {least}"
        time.sleep(0.005)


@contextlib.contextmanager
def leaving_nothing(
    daemon: Daemon, *interfaces: str, directory: Path | None = None, timeout_s: float = PATIENCE_S
) -> Generator[None, None, None]:
    """Check that after the block everything is, soon, as it was before: in the daemon, the kernel, the directory."""
    before = _settled(daemon, interfaces, directory)
    yield
    deadline_s = time.monotonic() + timeout_s
    while not before.is_left_by(after := _traces(daemon, interfaces, directory)):
        assert daemon.process.poll() is None, f"capd has ended; its log:\n{daemon.log}"
        if time.monotonic() > deadline_s:
            _idle_descriptors.clear()  # what is left here shall not be found again in other tests
            raise AssertionError(f"left behind: {after}, before: {before}; capd's log:\n{daemon.log}")
        time.sleep(0.005)
    assert daemon.process.poll() is None, f"capd has ended; its log:\n{daemon.log}"


def check_unharmed(daemon: Daemon, veth: tuple[str, str], directory: Path) -> None:
    """Check that the daemon captures as ever."""
    assert daemon.process.poll() is None, f"capd has ended; its log:\n{daemon.log}"
    savefile = directory / "unharmed.pcapng"
    with CaptureSession(interfaces=veth[1], savefile=savefile, socket_path=daemon.socket_path) as capture:
        capture.wait_started(PATIENCE_S)
        send(veth[0], FRAMES, 10)
        capture.stop()
        capture.wait(PATIENCE_S)
        assert capture.packetcount == 10
        assert capture.capture_id not in [each.capture_id for each in list_captures(socket_path=daemon.socket_path)]
    check_complete(savefile, 10)
    savefile.unlink()


# Traffic and files ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def traffic(interface: str, rate_pps: float = 5_000) -> Generator[None, None, None]:
    """Have packets sent on an interface while the block lasts."""
    is_over = threading.Event()

    def keep_sending() -> None:
        while not is_over.is_set():
            send(interface, FRAMES, round(rate_pps / 50), rate_pps)

    thread = threading.Thread(target=keep_sending)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


ENHANCED_PACKET = 6
INTERFACE_STATISTICS = 5


def blocks_of(path: Path) -> Iterator[int]:
    """Give the type of each whole block of a pcapng file of this machine's byte order."""
    data = path.read_bytes()
    at = 0
    while at + 12 <= len(data):
        kind, size_bytes = struct.unpack_from("=II", data, at)
        if at + size_bytes > len(data):
            return
        assert struct.unpack_from("=I", data, at + size_bytes - 4) == (size_bytes,)
        yield kind
        at += size_bytes


def check_complete(path: Path, packets: int | None = None) -> int:
    """Check that a file is whole, with the statistics of its end; return how many packets it has."""
    counted = int(capinfos(path, "-c")["Number of packets"])
    kinds = list(blocks_of(path))
    assert kinds[-1] == INTERFACE_STATISTICS
    assert kinds.count(ENHANCED_PACKET) == counted
    assert packets is None or counted == packets
    return counted
