"""What a worker that was taken over can do: real ones are, by root's right to trace (``takeover``)."""

import contextlib
import errno
import itertools
import os
import re
import resource
import socket
import struct
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import capd
from capd.linux.packet_ring import make_ring
from capd.linux.packet_socket import ETH_P_ALL, bind, open_packet_socket
from capd_client import CaptureSession
from capd_protocol.messages import DirectoryWanted, EndReason, FailureCode, Refused, Started
from tests.capture.helpers import in_background, until_received
from tests.client.helpers import read_complete, wait_for_packets
from tests.support.attack import (
    FRAMES,
    PATIENCE_S,
    RawClient,
    User,
    beginning_worker,
    check_unharmed,
    connected_as,
    eventually,
    leaving_nothing,
    opened,
    request_for,
    slow_request_for,
    with_limits,
    without_call,
)
from tests.support.daemon import REFUSED_CALL, Daemon, MakeDir, children_of, running_daemon, status_of
from tests.support.namespace import veth_pair
from tests.support.takeover import (
    Caller,
    OwnCaller,
    TakenThread,
    packet_sockets_of,
    taken_over,
    threads_of,
)
from tests.support.tools import numbered_descriptors_of
from tests.support.traffic import send

USER = User(23471, 23471)
_numbers = itertools.count(1)
#: A frame that whoever takes over a worker would like to send.
FRAME = bytes.fromhex("ffffffffffff 020000000666 88b5") + b"forged".ljust(46)
AT_WORKING_DIRECTORY = -100
SIGCHLD = 17


class Place(NamedTuple):
    """Where an attack takes place: descriptors, and numbers of others."""

    ring: int
    #: To the daemon.
    control: int
    #: Of the capture.
    directory: int
    #: A regular file.
    file: int
    #: The interface that is captured on.
    interface: int
    #: A process of somebody else: the daemon.
    other: int


class Attack(NamedTuple):
    """Something to try."""

    name: str
    do: Callable[[Caller, Place], int]
    error: int = errno.EPERM
    #: Whether it succeeds where nothing confines, and so is one at all; False: that would harm, or takes more.
    is_shown: bool = False


def _address(index: int) -> bytes:
    """Return a struct sockaddr_ll."""
    return struct.pack("=HHiHBB8s", socket.AF_PACKET, 0, index, 0, 0, 6, b"\xff" * 6)


def _vector(caller: Caller) -> bytes:
    """Return a struct iovec with the frame."""
    return struct.pack("@PN", caller.put(FRAME), len(FRAME))


def _message(caller: Caller, data: bytes = FRAME, address: bytes = b"", control: bytes = b"") -> bytes:
    """Return a struct msghdr."""
    vector = caller.put(struct.pack("@PN", caller.put(data), len(data)))
    return struct.pack(
        "@PIPNPNi",
        caller.put(address) if address else 0,
        len(address),
        vector,
        1,
        caller.put(control) if control else 0,
        len(control),
        0,
    )


def _rights(descriptor: int) -> bytes:
    """Return a control message with a descriptor."""
    return struct.pack("@Niii", 20, socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)


SENDING = [
    Attack("write", lambda c, at: c.call("write", at.ring, FRAME, len(FRAME)), is_shown=True),
    Attack("writev", lambda c, at: c.call("writev", at.ring, _vector(c), 1), is_shown=True),
    Attack("pwritev2", lambda c, at: c.call("pwritev2", at.ring, _vector(c), 1, -1, -1, 0), is_shown=True),
    Attack("pwrite64", lambda c, at: c.call("pwrite64", at.ring, FRAME, len(FRAME), 0), errno.ESPIPE),
    Attack("pwritev", lambda c, at: c.call("pwritev", at.ring, _vector(c), 1, 0, 0), errno.ESPIPE),
    Attack("sendto", lambda c, at: c.call("sendto", at.ring, FRAME, len(FRAME), 0, 0, 0), is_shown=True),
    Attack(
        "sendto with an address",
        lambda c, at: c.call("sendto", at.ring, FRAME, len(FRAME), 0, _address(at.interface), 20),
        is_shown=True,
    ),
    Attack("sendmsg", lambda c, at: c.call("sendmsg", at.ring, _message(c), 0), is_shown=True),
    Attack(
        "sendmsg with an address",
        lambda c, at: c.call("sendmsg", at.ring, _message(c, address=_address(at.interface)), 0),
        is_shown=True,
    ),
    Attack("sendmmsg", lambda c, at: c.call("sendmmsg", at.ring, _message(c) + bytes(8), 1, 0), is_shown=True),
    Attack("sendfile", lambda c, at: c.call("sendfile", at.ring, at.file, struct.pack("=q", 0), 60), is_shown=True),
    Attack("splice", lambda c, at: c.call("splice", at.file, 0, at.ring, 0, 60, 0)),
    Attack("vmsplice", lambda c, at: c.call("vmsplice", at.ring, _vector(c), 1, 0)),
    Attack("copy_file_range", lambda c, at: c.call("copy_file_range", at.file, 0, at.ring, 0, 60, 0)),
    Attack("io_uring", lambda c, at: c.call("io_uring_setup", 1, bytes(120)), is_shown=True),
    Attack("aio", lambda c, at: c.call("io_setup", 1, bytes(8)), is_shown=True),
    # A duplicate is one, whatever its number is.
    Attack("write to a duplicate", lambda c, at: c.call("write", _duplicate(c, at), FRAME, len(FRAME))),
    Attack("pwrite to a duplicate", lambda c, at: c.call("pwrite64", _duplicate(c, at), FRAME, 60, 0), errno.ESPIPE),
    Attack("sendto on a duplicate", lambda c, at: c.call("sendto", _duplicate(c, at), FRAME, 60, 0, 0, 0)),
    # Nothing takes the place of what may be sent on.
    Attack("dup2", lambda c, at: c.call("dup2", at.ring, at.control)),
    Attack("dup3", lambda c, at: c.call("dup3", at.ring, at.control, 0)),
    Attack("dup3 to standard error", lambda c, at: c.call("dup3", at.ring, 2, 0)),
    Attack("close", lambda c, at: c.call("close", at.control)),
    Attack("close standard error", lambda c, at: c.call("close", 2)),
    Attack("close_range", lambda c, at: c.call("close_range", at.control, at.control, 0)),
    # The kernel's own way to send, and other options.
    Attack(
        "a ring to send from",
        lambda c, at: c.call("setsockopt", at.ring, 263, 13, struct.pack("=7I", 4096, 1, 2048, 2, 0, 0, 0), 28),
    ),
    Attack("to join a fanout", lambda c, at: c.call("setsockopt", at.ring, 263, 18, struct.pack("=I", 1), 4)),
    Attack("another ring", lambda c, at: c.call("setsockopt", at.ring, 263, 5, bytes(28), 28)),
    Attack("another filter by eBPF", lambda c, at: c.call("setsockopt", at.ring, 1, 50, struct.pack("=i", 0), 4)),
    Attack("no filter", lambda c, at: c.call("setsockopt", at.ring, 1, 27, bytes(4), 4)),
]


def _duplicate(caller: Caller, at: Place) -> int:
    return caller.call("fcntl", at.ring, 1030, 0)  # F_DUPFD_CLOEXEC, as Python's mmap does


STARTING = [
    Attack("execve", lambda c, at: c.call("execve", b"/bin/true\0", 0, 0)),
    Attack("execveat", lambda c, at: c.call("execveat", at.file, b"\0", 0, 0, 0x1000)),
    Attack("fork", lambda c, at: c.call("fork")),
    Attack("vfork", lambda c, at: c.call("vfork")),
    Attack("clone", lambda c, at: c.call("clone", SIGCHLD, 0, 0, 0, 0)),
    Attack("clone with the memory", lambda c, at: c.call("clone", 0x100 | SIGCHLD, 0, 0, 0, 0)),
    Attack("a thread elsewhere", lambda c, at: c.call("clone", 0x00010F00 | 0x40000000, 0, 0, 0, 0)),
    Attack("new code", lambda c, at: c.call("mmap", 0, 4096, 7, 0x22, -1, 0), is_shown=True),
    Attack("code of a file", lambda c, at: c.call("mmap", 0, 4096, 5, 2, at.file, 0), is_shown=True),
    Attack("data as code", lambda c, at: c.call("mprotect", c.put(b"") & ~4095, 4096, 7)),
    Attack("unshare", lambda c, at: c.call("unshare", 0x10000000), is_shown=True),
    Attack("setns", lambda c, at: c.call("setns", at.file, 0)),
    Attack("a user-fault handler", lambda c, at: c.call("userfaultfd", 0), is_shown=True),
    Attack("eBPF", lambda c, at: c.call("bpf", 0, bytes(48), 48)),
    Attack("perf", lambda c, at: c.call("perf_event_open", bytes(128), 0, -1, -1, 0)),
    Attack("keys", lambda c, at: c.call("keyctl", 0, -3, 0), is_shown=True),
    Attack("mount", lambda c, at: c.call("mount", 0, b"/\0", 0, 0, 0)),
    Attack("to be traced", lambda c, at: c.call("prctl", 4, 1, 0, 0, 0), is_shown=True),
    Attack("another user", lambda c, at: c.call("setresuid", 0, 0, 0), is_shown=True),
    Attack("another list", lambda c, at: c.call("seccomp", 1, 8, bytes(16))),
]
REACHING = [
    Attack("IPv4", lambda c, at: c.call("socket", socket.AF_INET, socket.SOCK_STREAM, 0), errno.EAFNOSUPPORT, True),
    Attack("IPv6", lambda c, at: c.call("socket", socket.AF_INET6, socket.SOCK_DGRAM, 0), errno.EAFNOSUPPORT, True),
    Attack("netlink", lambda c, at: c.call("socket", socket.AF_NETLINK, socket.SOCK_RAW, 0), errno.EAFNOSUPPORT, True),
    Attack("packets", lambda c, at: c.call("socket", socket.AF_PACKET, socket.SOCK_RAW, 0), errno.EAFNOSUPPORT, True),
    Attack("vsock", lambda c, at: c.call("socket", socket.AF_VSOCK, socket.SOCK_STREAM, 0), errno.EAFNOSUPPORT),
    Attack("Unix", lambda c, at: c.call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0), errno.EAFNOSUPPORT, True),
    Attack(
        "a pair", lambda c, at: c.call("socketpair", socket.AF_UNIX, socket.SOCK_STREAM, 0, bytes(8)), is_shown=True
    ),
    Attack("connect", lambda c, at: c.call("connect", _datagram(c), b"\1\0/run/systemd/notify\0", 22)),
    Attack("a datagram", lambda c, at: c.call("sendto", _datagram(c), b"x", 1, 0, b"\1\0/run/x\0", 9)),
    Attack("a datagram to the daemon", lambda c, at: c.call("sendto", at.control, b"x", 1, 0, b"\1\0/run/x\0", 9)),
    Attack("passing to the daemon", lambda c, at: c.call("sendmsg", at.control, _message(c, b"x", b"", _rights(0)), 0)),
    Attack("listen", lambda c, at: c.call("listen", at.control, 1)),
    Attack("accept", lambda c, at: c.call("accept4", at.control, 0, 0, 0)),
    Attack("a signal", lambda c, at: c.call("kill", at.other, 0), is_shown=True),
    Attack("a signal to all", lambda c, at: c.call("kill", -1, 0), is_shown=True),
    Attack("a signal to a thread", lambda c, at: c.call("tgkill", at.other, at.other, 0), is_shown=True),
    Attack("the same, as it was", lambda c, at: c.call("tkill", at.other, 0), is_shown=True),
    Attack("a signal with a value", lambda c, at: c.call("rt_sigqueueinfo", at.other, 0, bytes(128))),
    Attack("a signal by descriptor", lambda c, at: c.call("pidfd_open", at.other, 0), is_shown=True),
    Attack("a signal by a socket", lambda c, at: c.call("fcntl", at.control, 8, at.other), is_shown=True),
    Attack("the same by ioctl", lambda c, at: c.call("ioctl", at.control, 0x8901, struct.pack("=i", at.other))),
    Attack("tracing", lambda c, at: c.call("ptrace", 0x4206, at.other, 0, 0)),
    Attack("others' memory", lambda c, at: c.call("process_vm_readv", at.other, 0, 0, 0, 0, 0), is_shown=True),
    Attack("others' limits", lambda c, at: c.call("prlimit64", at.other, 7, 0, bytes(16)), is_shown=True),
    Attack("an interface down", lambda c, at: c.call("ioctl", at.ring, 0x8914, bytes(40))),
]


def _datagram(caller: Caller) -> int:
    return caller.call("socket", socket.AF_UNIX, socket.SOCK_DGRAM, 0)


def _open(path: str, flags: int, *, here: bool = False) -> Callable[[Caller, Place], int]:
    def do(caller: Caller, at: Place) -> int:
        return caller.call(
            "openat", at.directory if here else AT_WORKING_DIRECTORY, path.encode() + b"\0", flags | os.O_CLOEXEC, 0o600
        )

    return do


_WRITE, _CREATE = os.O_WRONLY, os.O_WRONLY | os.O_CREAT
WRITING = [
    Attack("shadow", _open("/etc/shadow", _WRITE), errno.EACCES, True),
    Attack("shadow, to read", _open("/etc/shadow", os.O_RDONLY), errno.EACCES, True),
    Attack("passwd, to read", _open("/etc/passwd", os.O_RDONLY), errno.EACCES, True),
    Attack("the code of capd", _open(capd.__file__, _WRITE), errno.EACCES, True),
    Attack("what it may read", _open("/etc/services", _WRITE), errno.EACCES, True),
    Attack("a file elsewhere", _open("/etc/capd-attack", _CREATE), errno.EACCES),
    Attack("a file beside it", _open("../attack", _CREATE, here=True), errno.EACCES),
    Attack("memory by a file", _open("/proc/self/mem", _WRITE), errno.EACCES, True),
    Attack("a device", _open("/dev/null", _WRITE), errno.EACCES, True),
    Attack("a directory", lambda c, at: c.call("mkdirat", at.directory, b"attack\0", 0o700)),
    Attack("a symbolic link", lambda c, at: c.call("symlinkat", b"/etc/shadow\0", at.directory, b"attack\0")),
    Attack("a link", lambda c, at: c.call("linkat", -100, b"/etc/passwd\0", at.directory, b"attack\0", 0)),
    Attack("a socket", lambda c, at: c.call("mknodat", at.directory, b"attack\0", 0o140600, 0)),
    Attack("deleting", lambda c, at: c.call("unlinkat", at.directory, b"../beside\0", 0), errno.EACCES),
    Attack(
        "renaming away",
        lambda c, at: c.call("renameat2", at.directory, b"inside\0", at.directory, b"../attack\0", 0),
        errno.EACCES,
    ),
    Attack("truncating", lambda c, at: c.call("truncate", b"/etc/capd-attack\0", 0)),
    Attack("a mode", lambda c, at: c.call("fchmodat", at.directory, b"../beside\0", 0o777)),
    Attack("an owner", lambda c, at: c.call("fchown", at.file, 1, 1)),
    Attack("the daemon's log", lambda c, at: c.call("pwrite64", 2, b"forged", 6, 0)),
    Attack("its length", lambda c, at: c.call("ftruncate", 2, 0)),
    Attack("a duplicate of it", lambda c, at: c.call("fcntl", 2, 1030, 0)),
    Attack("its flags", lambda c, at: c.call("ioctl", 2, 0x5421, struct.pack("=i", 1))),
]
#: These leave the ring bound elsewhere, where nothing confines them.
BINDING = [
    Attack("another interface", lambda c, at: c.call("bind", at.ring, _address(1), 20), is_shown=True),
    Attack(
        "promiscuous",
        lambda c, at: c.call("setsockopt", at.ring, 263, 1, struct.pack("=iHH8s", at.interface, 1, 0, b""), 16),
        is_shown=True,
    ),
]
ATTACKS = [*SENDING, *STARTING, *REACHING, *WRITING, *BINDING]


class Target(NamedTuple):
    """A worker whose interface has another end."""

    worker: int
    place: Place
    #: A socket that receives what is sent there.
    outside: socket.socket
    #: The interface at the other end.
    outer: str


@pytest.fixture(scope="module")
def lenient(make_dir: MakeDir) -> Generator[Daemon, None, None]:
    """A daemon whose workers go on when a call is refused, as usual; it captures of its own accord."""
    directory = make_dir("confinement")
    configuration = directory / "capd.toml"
    configuration.write_text('[captures.own]\ninterfaces = ["own*"]\ngroup = 4242\nringbuffer_packets = 3\n')
    options = ("--config", str(configuration), "--state-directory", str(directory))
    with running_daemon(directory, *options, is_strict=False) as running:
        eventually(lambda: len(running.workers()) == 1, "its own capture")
        yield running


@contextlib.contextmanager
def outside_of(interface: str) -> Generator[socket.socket, None, None]:
    """Have a socket that receives what comes to an interface."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as outside:
        outside.bind((interface, ETH_P_ALL))
        outside.setblocking(False)
        yield outside


def place_in(worker: int, directory: Path, index: int, other: int) -> Place:
    """Return what a worker has."""
    found = numbered_descriptors_of(worker)
    files = (f"{directory}/", "/memfd:capd-recorder")
    return Place(
        ring=packet_sockets_of(worker)[0],
        control=min(number for number, link in found.items() if number > 2 and link.startswith("socket:")),
        directory=min(number for number, link in found.items() if link == str(directory)),
        file=min(number for number, link in found.items() if link.startswith(files)),
        interface=index,
        other=other,
    )


@contextlib.contextmanager
def capturing_apart(
    daemon: Daemon, directory: Path, **arguments: Any
) -> Generator[tuple[CaptureSession, Target], None, None]:
    """Have a capture of root's, whose worker has no capability, but may write what is root's; a packet has come."""
    directory.mkdir()
    (directory / "inside").touch()
    (directory.parent / "beside").touch()
    before, number = daemon.workers(), next(_numbers)
    outer, inner = f"conf-out{number}", f"conf-in{number}"
    with (
        veth_pair(outer, inner),
        CaptureSession(
            interfaces=inner,
            savefile=directory / "x.pcapng",
            kernel_buffer_size=1,
            update_interval=0.02,
            socket_path=daemon.socket_path,
            **arguments,
        ) as capture,
    ):
        capture.wait_started(PATIENCE_S)
        (worker,) = set(daemon.workers()) - set(before)
        send(outer, FRAMES, 1)
        until_received(capture, 1)
        place = place_in(worker, directory, socket.if_nametoindex(inner), daemon.process.pid)
        with outside_of(outer) as outside:
            yield capture, Target(worker, place, outside, outer)


_KINDS: dict[str, dict[str, Any]] = {"files": {}, "recorder": {"recorder_memory": 4}}


@pytest.fixture(scope="module", params=_KINDS)
def target(
    request: pytest.FixtureRequest, lenient: Daemon, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Target, None, None]:
    """A worker of each kind. It comes through all that is tried, and captures."""
    directory = tmp_path_factory.mktemp("target") / "files"
    with capturing_apart(lenient, directory, **_KINDS[request.param]) as (capture, target):
        yield target
        send(target.outer, FRAMES, 2)
        until_received(capture, 3)
        capture.stop()
        capture.wait(PATIENCE_S)
        assert capture.interface_counters[0].written_total == 3


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_worker_that_was_taken_over_can_do_nothing_of_it(target: Target, attack: Attack) -> None:
    with taken_over(target.worker) as taken:
        assert attack.do(taken, target.place) == -attack.error
    with pytest.raises(BlockingIOError):
        target.outside.recv(1)
    assert not children_of(target.worker)


@pytest.fixture(scope="module")
def own_place(make_dir: MakeDir) -> Generator[tuple[Place, socket.socket], None, None]:
    """What a worker has, in this process."""
    directory = make_dir("own")
    (directory / "file").write_bytes(FRAME)
    control, other = socket.socketpair()
    with (
        veth_pair("here-out", "here-in"),
        outside_of("here-out") as outside,
        open_packet_socket(cooked=False) as ring,
        control,
        other,
        (directory / "file").open("rb") as file,
        opened(directory) as directory_fd,
    ):
        make_ring(ring, size_bytes=1 << 20, retire_ms=15, header_bytes=14, loopback=False)
        index = socket.if_nametoindex("here-in")
        bind(ring.fileno(), ETH_P_ALL, index)
        yield Place(ring.fileno(), control.fileno(), directory_fd, file.fileno(), index, os.getppid()), outside


@pytest.mark.parametrize("attack", [each for each in ATTACKS if each.is_shown], ids=lambda attack: attack.name)
def test_where_nothing_confines_it_works(own_place: tuple[Place, socket.socket], attack: Attack) -> None:
    place, outside = own_place
    child = os.fork()
    if child == 0:
        os._exit(attack.do(OwnCaller(), place) < 0)
    assert os.waitpid(child, 0)[1] == 0
    if attack in SENDING and attack.name not in ("io_uring", "aio"):
        assert outside.recv(2048)[: len(FRAME)] == FRAME


def _is_own(link: str) -> bool:
    return re.search(r"/confinement\d+/own$", link) is not None


def test_a_capture_of_the_configuration_is_confined(lenient: Daemon) -> None:
    def own() -> list[int]:
        return [each for each in lenient.workers() if any(map(_is_own, numbered_descriptors_of(each).values()))]

    eventually(lambda: len(own()) == 1, "the worker of the configuration's capture")
    (worker,) = own()
    with veth_pair("own-out", "own-in"):
        eventually(lambda: bool(packet_sockets_of(worker)), "its ring")
        assert status_of(worker)["Uid"].split() == ["0"] * 4
        directory = next(number for number, link in numbered_descriptors_of(worker).items() if _is_own(link))
        place = Place(packet_sockets_of(worker)[0], 0, directory, 0, 0, lenient.process.pid)
        with taken_over(worker) as taken:
            for name in ("write", "execve", "IPv4", "a signal", "shadow", "the code of capd", "a file beside it"):
                (attack,) = (each for each in ATTACKS if each.name == name)
                assert attack.do(taken, place) == -attack.error, name


def test_a_worker_is_confined_before_it_looks_at_a_filter(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    with leaving_nothing(daemon, veth[1]), opened(user_dir) as directory, RawClient(daemon.socket_path) as client:
        client.send(slow_request_for(veth[1]), [directory])
        client.receive(DirectoryWanted)
        worker = beginning_worker(daemon)
        eventually(lambda: status_of(worker)["Seccomp"] == "2", "it is confined")
        # It is still at its filter: what comes next is a ring.
        assert not packet_sockets_of(worker)
        assert not list(user_dir.iterdir())


# Threads --------------------------------------------------------------------------------------------------------------


def test_a_recorder_may_start_threads_and_nothing_else(lenient: Daemon, tmp_path: Path) -> None:
    with (
        capturing_apart(lenient, tmp_path / "files", recorder_memory=4) as (_, target),
        taken_over(target.worker) as taken,
    ):
        # Its arguments are out of sight: the C library does without it then.
        assert taken.call("clone3", bytes(88), 88) == -errno.ENOSYS
        assert taken.call("clone", 0x00010F00 | SIGCHLD, 0, 0, 0, 0) == -errno.EPERM


def test_the_thread_of_a_snapshot_writes_files_and_does_nothing_else(lenient: Daemon, tmp_path: Path) -> None:
    with capturing_apart(lenient, tmp_path / "files", recorder_memory=4) as (capture, target):
        paths: list[str] = []
        with in_background(lambda: paths.append(capture.snapshot(after=2))):
            eventually(lambda: len(list((tmp_path / "files").glob("x_*"))) == 1, "its file")
            _, thread = threads_of(target.worker)
            with taken_over(target.worker, thread) as taken:
                for attack in ATTACKS:
                    if "duplicate" not in attack.name and "datagram" not in attack.name:
                        # Less than its process, so it may be another error.
                        assert attack.do(taken, target.place) in (-attack.error, -errno.EPERM), attack.name
                assert taken.call("recvmsg", target.place.ring, _message(taken), 0) == -errno.EPERM
                assert taken.call("sendto", target.place.control, b"x", 1, 0, 0, 0) == -errno.EPERM
        assert len(read_complete(paths[0]).packets) == 1


def test_files_are_passed_by_a_thread_that_has_no_packet_socket(lenient: Daemon, tmp_path: Path) -> None:
    ring: dict[str, Any] = {"ringbuffer_packets": 1, "pass_files": True}
    with capturing_apart(lenient, tmp_path / "files", **ring) as (capture, target):
        first, passing = threads_of(target.worker)
        theirs = numbered_descriptors_of(target.worker, passing)
        assert packet_sockets_of(target.worker, first)
        assert not packet_sockets_of(target.worker, passing)
        kinds = [link.partition(":")[0] for number, link in theirs.items() if number > 2]
        assert sorted(kinds) == sorted([str(tmp_path / "files"), "socket"])
        (files_fd,) = (number for number, link in theirs.items() if number > 2 and link.startswith("socket:"))
        # No other thread has that socket, or any call to pass something with.
        assert theirs[files_fd] not in numbered_descriptors_of(target.worker, first).values()
        with taken_over(target.worker, first) as taken:
            for number, link in numbered_descriptors_of(target.worker, first).items():
                if link.startswith("socket:"):
                    passing_on = _message(taken, b"x", b"", _rights(target.place.ring))
                    assert taken.call("sendmsg", number, passing_on, 0) == -errno.EPERM
        with taken_over(target.worker, passing) as taken:
            for number in numbered_descriptors_of(target.worker, first).keys() - theirs.keys():
                passing_on = _message(taken, b"x", b"", _rights(number))
                assert taken.call("sendmsg", files_fd, passing_on, 0) == -errno.EBADF
            # Nothing else comes there that could be passed.
            for name in ("recvmsg", "recvfrom", "read", "bind", "epoll_ctl", "fcntl", "dup", "eventfd2", "socketpair"):
                assert taken.call(name, files_fd, 0, 0, 0) == -errno.EPERM, name
            for attack in (*STARTING, *REACHING):
                assert attack.do(taken, target.place) in (-attack.error, -errno.EPERM), attack.name
            assert _open("/etc/passwd", os.O_RDONLY)(taken, target.place) == -errno.EACCES
        send(target.outer, FRAMES, 2)
        wait_for_packets(capture, 3)
        with capture.open_file(capture.files[-1].name) as file:
            assert file.read(4) == b"\x0a\x0d\x0d\x0a"


def test_without_a_thread_to_pass_files_with_the_capture_is_refused(veth: tuple[str, str], user_dir: Path) -> None:
    configuration = user_dir / "capd.toml"
    configuration.write_text(f'[[rule]]\nname = "one"\nusers = [{USER.user_id}]\n')
    forked_later = with_limits(SPARE_WORKERS=0)
    with (
        running_daemon(user_dir, "--config", str(configuration), prefix=forked_later) as daemon,
        opened(user_dir) as directory,
    ):
        # The worker itself is one of them. Whom it is forked by is root, and not bound.
        resource.prlimit(daemon.spawner(), resource.RLIMIT_NPROC, (1, 1))
        with leaving_nothing(daemon, veth[1]), connected_as(USER, daemon) as client:
            client.send(request_for(veth[1], pass_files=True), [directory])
            refused = client.receive(Refused)
        assert isinstance(refused, Refused)
        assert (refused.failure.code, refused.failure.argument) == (FailureCode.RESOURCES, "pass_files")
        with leaving_nothing(daemon, veth[1]), connected_as(USER, daemon) as client:
            client.send(request_for(veth[1]), [directory])
            client.receive(Started)


# Kernels and options --------------------------------------------------------------------------------------------------


def test_where_there_is_no_landlock_system_calls_are_still_confined(
    veth: tuple[str, str], user_dir: Path, tmp_path: Path
) -> None:
    with running_daemon(user_dir, prefix=without_call("landlock_create_ruleset"), is_strict=False) as daemon:
        check_unharmed(daemon, veth, tmp_path)
        with capturing_apart(daemon, tmp_path / "files") as (_, target), taken_over(target.worker) as taken:
            for attack in (*SENDING, *STARTING, *REACHING):
                assert attack.do(taken, target.place) == -attack.error, attack.name
            assert _open("/etc/passwd", os.O_RDONLY)(taken, target.place) > 2


def test_where_threads_cannot_be_apart_files_are_passed(user_dir: Path, tmp_path: Path) -> None:
    with (
        running_daemon(user_dir, prefix=without_call("unshare")) as daemon,
        capturing_apart(daemon, tmp_path / "files", pass_files=True) as (capture, _),
        capture.open_file(str(tmp_path / "files" / "x.pcapng")) as file,
    ):
        assert file.read(4) == b"\x0a\x0d\x0d\x0a"


def test_a_strict_worker_ends_at_a_refused_call_and_the_log_names_it(user_dir: Path, tmp_path: Path) -> None:
    # Its log is to tell of it.
    with (
        running_daemon(user_dir, "--strict-workers", is_strict=False) as daemon,
        capturing_apart(daemon, tmp_path / "files") as (capture, target),
    ):
        taken = TakenThread(target.worker, target.worker)
        taken.prepare("connect", target.place.control, 0, 0)
        taken.let_go(restored=False)
        capture.wait(PATIENCE_S)
        assert capture.end_reason == EndReason.FAILED
    assert f"capd-worker {target.worker}: ended: {REFUSED_CALL} connect, which it may not" in daemon.log
    assert "its worker died with status 1" in daemon.log


def test_names_in_filters_are_found(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    text = "(port domain or ip proto ospf) and not port 80"
    with CaptureSession(
        interfaces=veth[1], savefile=user_dir / "x.pcapng", capture_filter=text, socket_path=daemon.socket_path
    ) as capture:
        capture.wait_started(PATIENCE_S)
