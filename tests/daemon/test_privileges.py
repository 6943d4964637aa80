"""Who may do what: the daemon keeps little, a worker nothing, and a user gets no more than is the user's own."""

import contextlib
import ctypes
import errno
import grp
import os
import resource
import signal
import socket
import stat
import struct
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

import capd
from capd import limits
from capd.linux.packet_socket import attach_filter
from capd.linux.privileges import restrict_daemon
from capd_client import (
    CaptureError,
    CaptureSession,
    DestinationError,
    NotPermitted,
    list_captures,
    stop_capture,
)
from capd_protocol.messages import (
    Capabilities,
    Conditions,
    Destination,
    Ended,
    EndReason,
    FailureCode,
    GetCapabilities,
    Hello,
    Message,
    Refused,
    Started,
    StopCapture,
)
from tests.support.attack import (
    FRAMES,
    PATIENCE_S,
    Channel,
    RawClient,
    User,
    UserProcess,
    await_end,
    capturing,
    check_complete,
    check_unharmed,
    eventually,
    leaving_nothing,
    opened,
    process_of,
    promiscuity_of,
    replaced_when_dead,
    request_for,
    with_limits,
)
from tests.support.daemon import Daemon, MakeDir, as_user, running_daemon
from tests.support.namespace import veth_pair
from tests.support.tools import descriptors_of
from tests.support.traffic import send

#: Any group that every machine has: its members may capture.
GROUP = grp.getgrgid(1)
MEMBER = User(12345, 12346, (GROUP.gr_gid, 54321))
OTHER_MEMBER = User(12350, 12350, (GROUP.gr_gid,))
#: Of the first member's group, but not of the one that may capture.
STRANGER = User(12355, 12346)

_SO_DETACH_FILTER, _SO_LOCK_FILTER = 27, 44
_TAKE_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0xFFFF)
#: linux/capability.h
SETGID, SETUID, NET_ADMIN, NET_RAW = 6, 7, 12, 13


def _mask(*capabilities: int) -> int:
    return sum(1 << capability for capability in capabilities)


def _threads(process_id: int) -> list[dict[str, str]]:
    """Return the status of each thread: privileges are a thread's, not a process's."""
    statuses: list[dict[str, str]] = []
    for task in Path(f"/proc/{process_id}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        statuses.append({name: value.strip() for name, _, value in (line.partition(":") for line in lines)})
    assert statuses
    return statuses


@pytest.fixture(scope="module")
def _daemons(make_dir: MakeDir) -> Generator[Callable[[], Daemon], None, None]:
    directory = make_dir("privileges")
    with replaced_when_dead(directory, "--group", GROUP.gr_name) as get:
        yield get


@pytest.fixture
def daemon(_daemons: Callable[[], Daemon]) -> Daemon:
    """A daemon with a group."""
    return _daemons()


def _private_dir(parent: Path, user: User, mode: int = 0o700) -> Path:
    directory = parent / f"of{user.user_id}"
    directory.mkdir()
    os.chown(directory, user.user_id, user.group_id)
    directory.chmod(mode)
    return directory


# The worker -----------------------------------------------------------------------------------------------------


@dataclass
class Running:
    """A member's capture."""

    process: UserProcess
    capture_id: int
    worker: int
    savefile: Path
    daemon: Daemon
    veth: tuple[str, str]


@pytest.fixture(scope="module")
def running(make_dir: MakeDir, _daemons: Callable[[], Daemon]) -> Generator[Running, None, None]:
    """A member's capture, into a directory that nobody else may enter."""
    daemon = _daemons()
    directory = _private_dir(make_dir("running"), MEMBER)
    savefile = directory / "mine.pcapng"
    with (
        veth_pair("txpriv", "rxpriv"),
        capturing(MEMBER, interfaces="rxpriv", savefile=savefile, socket_path=daemon.socket_path) as (process, number),
    ):
        (worker,) = daemon.workers()
        yield Running(process, number, worker, savefile, daemon, ("txpriv", "rxpriv"))


def test_every_thread_of_a_worker_is_the_user_and_may_nothing(running: Running) -> None:
    for status in _threads(running.worker):
        # Real, effective, saved, of the file system.
        assert status["Uid"].split() == [str(MEMBER.user_id)] * 4
        assert status["Gid"].split() == [str(MEMBER.group_id)] * 4
        assert sorted(map(int, status["Groups"].split())) == sorted(MEMBER.groups)
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(status[name], 16) == 0, name
        assert status["NoNewPrivs"] == "1"


def test_a_worker_could_never_gain_what_the_daemon_gave_up(running: Running) -> None:
    for status in _threads(running.worker):
        assert int(status["CapBnd"], 16) & ~_mask(NET_RAW, SETUID, SETGID) == 0


def test_a_worker_holds_no_socket_of_the_daemon_but_rings(running: Running) -> None:
    def packet_sockets() -> set[str]:
        table = [line.split() for line in Path("/proc/net/packet").read_text().splitlines()[1:]]
        return {f"socket:[{fields[-1]}]" for fields in table} & of_worker

    def sockets(process_id: int) -> set[str]:
        return {link for link in descriptors_of(process_id) if link.startswith("socket:")}

    of_worker = sockets(running.worker)
    assert len(of_worker) >= 2, "its control socket, and the ring"
    assert of_worker & sockets(running.daemon.process.pid) == packet_sockets(), "which the daemon keeps, to disarm them"


def test_a_worker_is_given_each_packet_once(running: Running) -> None:
    index = socket.if_nametoindex(running.veth[1])
    table = [line.split() for line in Path("/proc/net/packet").read_text().splitlines()[1:]]
    # Fields: sk, RefCnt, Type, Proto, Iface.
    assert [fields[3] for fields in table if fields[4] == str(index)].count("0003") == 1


def test_files_are_the_users_and_for_nobody_else(running: Running) -> None:
    status = running.savefile.stat()
    assert (status.st_uid, status.st_gid) == (MEMBER.user_id, MEMBER.group_id)
    assert stat.filemode(status.st_mode) == "-rw-------"


@pytest.mark.parametrize("ring", [None, 5])
def test_files_are_readable_by_the_group_where_asked_for(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, ring: int | None
) -> None:
    directory = _private_dir(user_dir, MEMBER)
    with capturing(
        MEMBER,
        interfaces=veth[1],
        savefile=directory / "x.pcapng",
        group_access=True,
        ringbuffer_packets=ring,
        socket_path=daemon.socket_path,
    ) as (process, _):
        send(veth[0], FRAMES, 7)
        assert process.ask("stop")[0] == 7
    modes = [stat.filemode(file.stat().st_mode) for file in directory.iterdir()]
    assert modes == ["-rw-r-----"] * (2 if ring else 1)


# Attempts on a process, in a process of the same user -----------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)
_PTRACE_ATTACH, _PTRACE_DETACH, _PTRACE_SEIZE = 16, 17, 0x4206
_SYS_KCMP, _SYS_PIDFD_GETFD = 312, 438


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _attach(process_id: int) -> None:
    _checked(_libc.ptrace(_PTRACE_ATTACH, process_id, None, None))
    os.waitpid(process_id, 0x40000000)  # __WALL
    _libc.ptrace(_PTRACE_DETACH, process_id, None, None)


def _seize(process_id: int) -> None:
    _checked(_libc.ptrace(_PTRACE_SEIZE, process_id, None, None))
    # Who seized it lets go of it by ending.


def _get_descriptors(process_id: int) -> None:
    pidfd = os.pidfd_open(process_id)
    os.close(_checked(_libc.syscall(_SYS_PIDFD_GETFD, pidfd, 0, 0)))


def _packet_sockets_of(process_id: int) -> list[socket.socket]:
    """Return duplicates of all packet sockets of a process, as who controls that process would have them."""
    ours: dict[str, socket.socket] = {}
    pidfd = os.pidfd_open(process_id)
    try:
        for entry in Path(f"/proc/{process_id}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                what = os.readlink(entry)  # noqa: PTH115  # it leads to no path
                if what.startswith("socket:") and what not in ours:  # a ring's memory has a further descriptor of it
                    descriptor = _checked(_libc.syscall(_SYS_PIDFD_GETFD, pidfd, int(entry.name), 0))
                    ours[what] = socket.socket(fileno=descriptor)
    finally:
        os.close(pidfd)
    for each in ours.values():
        if each.family != socket.AF_PACKET:
            each.close()
    return [each for each in ours.values() if each.fileno() >= 0]


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _read_memory(process_id: int) -> None:
    # The process was forked from ours or runs the same interpreter: any address will do to be refused.
    buffer = ctypes.create_string_buffer(8)
    ours = _IoVec(ctypes.addressof(buffer), 8)
    theirs = _IoVec(ctypes.addressof(buffer), 8)
    _checked(_libc.process_vm_readv(process_id, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0))


def _compare_files(process_id: int) -> None:
    _checked(_libc.syscall(_SYS_KCMP, os.getpid(), process_id, 0, 0, 0))


def _read_proc(name: str) -> Callable[[int], None]:
    def read(process_id: int) -> None:
        with Path(f"/proc/{process_id}/{name}").open("rb") as file:
            file.read(1)

    return read


def _open_memory(process_id: int, flags: int) -> None:
    os.close(os.open(f"/proc/{process_id}/mem", flags))


def _enter(name: str) -> Callable[[int], None]:
    def enter(process_id: int) -> None:
        os.close(os.open(f"/proc/{process_id}/{name}", os.O_PATH | os.O_DIRECTORY))
        os.listdir(f"/proc/{process_id}/{name}")  # noqa: PTH208  # no path is wanted

    return enter


def _read_link(name: str) -> Callable[[int], None]:
    def read(process_id: int) -> None:
        os.readlink(f"/proc/{process_id}/{name}")  # noqa: PTH115  # nor here

    return read


ATTEMPTS: dict[str, Callable[[int], None]] = {
    "ptrace attach": _attach,
    "ptrace seize": _seize,
    "pidfd_getfd": _get_descriptors,
    "process_vm_readv": _read_memory,
    "kcmp": _compare_files,
    "open mem to read": lambda process_id: _open_memory(process_id, os.O_RDONLY),
    "open mem to write": lambda process_id: _open_memory(process_id, os.O_RDWR),
    **{f"read {name}": _read_proc(name) for name in ("maps", "smaps", "environ", "auxv", "syscall", "io")},
    **{f"enter {name}": _enter(name) for name in ("fd", "fdinfo", "map_files", "root", "cwd", "ns")},
    **{f"read link {name}": _read_link(name) for name in ("exe", "cwd", "root", "fd/0", "ns/net")},
}
#: These want more than the same user: nobody but root could, or they say nothing of another process.
NEEDS_MORE = ("enter map_files", "enter ns")


def _attempt(name: str, process_id: int, user: User) -> int:
    """Return the error number of an attempt, 0 if it succeeds."""

    def attempt() -> int:
        try:
            ATTEMPTS[name](process_id)
        except OSError as error:
            return error.errno or -1
        return 0

    return as_user(attempt, user.user_id, user.group_id, user.groups)


def _wait(channel: Channel) -> None:
    channel.send(None)
    channel.recv()


@pytest.mark.parametrize("name", ATTEMPTS)
def test_not_even_its_own_user_reaches_into_a_worker(running: Running, name: str) -> None:
    assert _attempt(name, running.worker, MEMBER) in (errno.EPERM, errno.EACCES)
    # An ordinary process of the same user can be reached into: the worker is not safe for another reason.
    if name not in NEEDS_MORE:
        with process_of(MEMBER, _wait, traceable=True) as ordinary:
            ordinary.hear()
            assert _attempt(name, ordinary.process_id, MEMBER) == 0


@pytest.mark.parametrize("name", ["ptrace attach", "pidfd_getfd", "open mem to read", "read maps", "read link fd/0"])
def test_roots_id_alone_reaches_into_no_worker_of_root(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, name: str
) -> None:
    def attempt() -> int:
        restrict_daemon(())  # root's id is all that is left
        try:
            ATTEMPTS[name](worker)
        except OSError as error:
            return error.errno or -1
        return 0

    before = daemon.workers()
    with CaptureSession(interfaces=veth[1], savefile=user_dir / "x", socket_path=daemon.socket_path) as capture:
        capture.wait_started(PATIENCE_S)
        (worker,) = set(daemon.workers()) - set(before)
        assert as_user(attempt, 0) in (errno.EPERM, errno.EACCES)


@pytest.mark.parametrize("name", ATTEMPTS)
def test_no_user_reaches_into_the_daemon(running: Running, name: str) -> None:
    assert _attempt(name, running.daemon.process.pid, MEMBER) in (errno.EPERM, errno.EACCES)
    assert _attempt(name, running.daemon.spawner(), MEMBER) in (errno.EPERM, errno.EACCES)


# The daemon -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ((), _mask(NET_RAW, SETUID, SETGID)),
        (("--monitor-mode",), _mask(NET_RAW, SETUID, SETGID, NET_ADMIN)),
    ],
    ids=["as it is", "for monitor mode"],
)
def test_every_thread_of_the_daemon_keeps_what_it_needs_and_no_more(
    user_dir: Path, options: tuple[str, ...], kept: int
) -> None:
    with running_daemon(user_dir, *options) as daemon:
        for status in _threads(daemon.process.pid):
            for name in ("CapPrm", "CapEff", "CapBnd"):
                assert int(status[name], 16) == kept, name
            assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
            assert status["NoNewPrivs"] == "1"


SERVICE = User(12390, 12390)
CAPABILITIES = "+net_raw,+setuid,+setgid"


@contextlib.contextmanager
def _service_daemon(parent: Path, **changed_limits: float) -> Generator[Daemon, None, None]:
    """Run a daemon as a user of its own with the capabilities that it needs, as a service manager would."""
    readable = (sys.executable, capd.__file__, str(Path(__file__).parent))
    if not as_user(lambda: all(os.access(path, os.R_OK) for path in readable), SERVICE.user_id):
        pytest.skip("the interpreter is where other users may not read")
    directory = _private_dir(parent, SERVICE, 0o755)
    prefix = (
        *("sh", "-ec", 'chmod 0666 "$0"; exec "$@"', str(directory / "notify")),
        *("setpriv", "--reuid", str(SERVICE.user_id), "--regid", str(SERVICE.group_id), "--clear-groups"),
        *("--inh-caps", CAPABILITIES, "--ambient-caps", CAPABILITIES, "--bounding-set", f"-all,{CAPABILITIES}"),
        *(with_limits(**changed_limits) if changed_limits else ()),
    )
    with running_daemon(directory, "--group", GROUP.gr_name, prefix=prefix) as daemon:
        yield daemon


def test_a_daemon_that_is_not_root_works_likewise(veth: tuple[str, str], user_dir: Path) -> None:
    directory = _private_dir(user_dir, MEMBER)
    with _service_daemon(user_dir) as daemon:
        for status in _threads(daemon.process.pid):
            assert status["Uid"].split() == [str(SERVICE.user_id)] * 4
            for name in ("CapPrm", "CapEff", "CapBnd"):
                assert int(status[name], 16) == _mask(NET_RAW, SETUID, SETGID), name
            assert status["NoNewPrivs"] == "1"
        arguments = {"interfaces": veth[1], "savefile": directory / "x.pcapng", "socket_path": daemon.socket_path}
        with capturing(MEMBER, **arguments) as (process, _):
            (worker,) = daemon.workers()
            test_every_thread_of_a_worker_is_the_user_and_may_nothing(
                Running(process, 0, worker, directory / "x.pcapng", daemon, veth)
            )
            for name in ("ptrace attach", "pidfd_getfd", "open mem to read", "enter fd"):
                assert _attempt(name, worker, MEMBER) in (errno.EPERM, errno.EACCES)
                assert _attempt(name, worker, SERVICE) in (errno.EPERM, errno.EACCES)
            for name in ("ptrace attach", "pidfd_getfd", "open mem to read", "read link fd/0"):
                assert _attempt(name, daemon.process.pid, SERVICE) in (errno.EPERM, errno.EACCES)
                assert _attempt(name, daemon.spawner(), SERVICE) in (errno.EPERM, errno.EACCES)
            send(veth[0], FRAMES, 10)
            assert process.ask("stop") == (10, EndReason.STOPPED)
        check_unharmed(daemon, veth, user_dir)
        # A client of the daemon's own user has no more power over a worker than others.
        own = _private_dir(user_dir / f"of{SERVICE.user_id}", SERVICE)
        user = User(SERVICE.user_id, SERVICE.group_id, (GROUP.gr_gid,))
        with capturing(user, interfaces=veth[1], savefile=own / "x.pcapng", socket_path=daemon.socket_path):
            (worker,) = daemon.workers()
            for name in ("ptrace attach", "pidfd_getfd", "open mem to read", "enter fd"):
                assert _attempt(name, worker, user) in (errno.EPERM, errno.EACCES)
    check_complete(directory / "x.pcapng", 10)


def test_a_daemon_that_is_not_root_can_kill_workers_of_others(veth: tuple[str, str], user_dir: Path) -> None:
    directory = _private_dir(user_dir, MEMBER)
    with _service_daemon(user_dir, END_TIMEOUT_S=0.5) as daemon:
        arguments = {"interfaces": veth[1], "savefile": directory / "x.pcapng", "socket_path": daemon.socket_path}
        with capturing(MEMBER, **arguments):
            (worker,) = daemon.workers()
            os.kill(worker, signal.SIGSTOP)
            assert daemon.terminate() == 0
            await_end([worker], 0)
    assert promiscuity_of(veth[1]) == 0


def test_a_capture_that_no_process_is_left_for_is_refused(veth: tuple[str, str], user_dir: Path) -> None:
    def limit_processes(most: int) -> None:
        def limit() -> None:
            resource.prlimit(
                spawner, resource.RLIMIT_NPROC, (most, resource.prlimit(spawner, resource.RLIMIT_NPROC)[1])
            )

        as_user(limit, SERVICE.user_id, SERVICE.group_id)

    answers: list[type[Message]] = []
    with _service_daemon(user_dir, SPARE_WORKERS=0) as daemon, opened(user_dir) as directory:
        spawner = daemon.spawner()
        # At some number the process in between can be, and the worker cannot.
        while Started not in answers:
            limit_processes(len(answers))
            with leaving_nothing(daemon, veth[1]), RawClient(daemon.socket_path) as client:
                client.send(request_for(veth[1]), [directory])
                while not isinstance(answer := client.receive(), Started | Refused):
                    pass
            answers.append(type(answer))
            if isinstance(answer, Refused):
                assert answer.failure.code == FailureCode.RESOURCES
                assert os.strerror(errno.EAGAIN) in answer.failure.text
        assert daemon.spawner() == spawner
    assert len(answers) > 3, "daemon, spawner, the one in between, worker"


def test_a_destination_need_not_be_writable_for_the_daemon(veth: tuple[str, str], user_dir: Path) -> None:
    directory = _private_dir(user_dir, MEMBER)
    own_view = (
        *("unshare", "--mount", "--propagation", "private", "sh", "-ec"),
        f'mount --bind "{directory}" "{directory}"; mount -o remount,bind,ro "{directory}"; exec "$@"',
        "sh",
    )
    where = user_dir / "daemon"
    where.mkdir()
    with running_daemon(where, "--group", GROUP.gr_name, prefix=own_view) as daemon:
        # As the daemon sees it:
        with pytest.raises(OSError, match="Read-only"):
            Path(f"/proc/{daemon.process.pid}/root{directory}/y").touch()
        arguments = {"interfaces": veth[1], "savefile": directory / "x.pcapng", "socket_path": daemon.socket_path}
        with capturing(MEMBER, ringbuffer_packets=4, ringbuffer_files=2, **arguments) as (process, _):
            send(veth[0], FRAMES, 10)
            assert process.ask("stop") == (10, EndReason.STOPPED)
    assert [check_complete(file) for file in sorted(directory.iterdir())] == [4, 2]


# Permissions of users -------------------------------------------------------------------------------------------


def _start(user: User, daemon: Daemon, interface: str, savefile: Path) -> None:
    """As a user: start a capture, and stop it."""

    def start() -> None:
        with CaptureSession(interfaces=interface, savefile=savefile, socket_path=daemon.socket_path) as capture:
            capture.wait_started(PATIENCE_S)

    as_user(start, user.user_id, user.group_id, user.groups)


def test_a_user_who_is_no_member_is_told_the_group(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    with (
        leaving_nothing(daemon, veth[1], directory=user_dir),
        pytest.raises(NotPermitted, match=rf"{STRANGER.user_id}.*group {GROUP.gr_name}\b"),
    ):
        _start(STRANGER, daemon, veth[1], user_dir / "x.pcapng")


def test_membership_by_primary_group_counts_too(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    user = User(12360, GROUP.gr_gid)
    _start(user, daemon, veth[1], _private_dir(user_dir, user) / "x.pcapng")


def test_without_such_a_group_only_root_may(veth: tuple[str, str], user_dir: Path) -> None:
    where = user_dir / "daemon"
    where.mkdir()
    with running_daemon(where, "--group", "no-such-group") as daemon:
        with pytest.raises(NotPermitted, match="group no-such-group"):
            _start(MEMBER, daemon, veth[1], _private_dir(user_dir, MEMBER) / "x.pcapng")
        check_unharmed(daemon, veth, user_dir)


def test_a_group_that_is_made_later_is_found(veth: tuple[str, str], user_dir: Path) -> None:
    groups, where, directory = user_dir / "group", user_dir / "daemon", _private_dir(user_dir, MEMBER)
    groups.write_text("root:x:0:\n")
    where.mkdir()
    own_view = (
        *("unshare", "--mount", "--propagation", "private", "sh", "-ec"),
        f'mount --bind "{groups}" /etc/group; exec "$@"',
        "sh",
    )
    with running_daemon(where, "--group", "later", prefix=(*own_view, *with_limits(GROUP_LOOK_S=0.05))) as daemon:
        assert "until there is one, only root may capture" in daemon.log
        with pytest.raises(NotPermitted, match="group later"):
            _start(MEMBER, daemon, veth[1], directory / "x.pcapng")
        with groups.open("a") as file:  # the same file: it is what is mounted
            file.write(f"later:x:{MEMBER.groups[0]}:\n")
        eventually(lambda: "the configuration was read again" in daemon.log, "it is found")
        _start(MEMBER, daemon, veth[1], directory / "x.pcapng")


@pytest.mark.parametrize("owner_mode", [0o755, 0o500])
def test_a_user_gets_no_file_where_the_user_may_not_write(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, owner_mode: int
) -> None:
    directory = user_dir / "closed"
    directory.mkdir()
    if owner_mode == 0o500:
        os.chown(directory, MEMBER.user_id, MEMBER.group_id)
    directory.chmod(owner_mode)
    with leaving_nothing(daemon, veth[1], directory=directory), pytest.raises(DestinationError, match=r"x\.pcapng"):
        _start(MEMBER, daemon, veth[1], directory / "x.pcapng")


def test_a_descriptor_gives_no_way_into_a_directory_that_the_user_may_not_enter(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    directory = user_dir / "roots"
    directory.mkdir(mode=0o700)
    with opened(directory) as descriptor, leaving_nothing(daemon, veth[1], directory=directory):

        def ask(channel: Channel) -> None:
            with RawClient(daemon.socket_path) as client:
                client.send(request_for(veth[1]), [descriptor])
                channel.send(client.refusal())

        with process_of(MEMBER, ask, keep=[descriptor]) as process:
            assert process.hear().code == FailureCode.DESTINATION


def test_a_users_existing_file_of_another_is_left_alone(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    victim = user_dir / "x.pcapng"
    victim.write_bytes(b"root's")
    victim.chmod(0o644)
    with leaving_nothing(daemon, veth[1], directory=user_dir), pytest.raises(DestinationError, match=r"x\.pcapng"):
        _start(MEMBER, daemon, veth[1], victim)
    assert victim.read_bytes() == b"root's"


def test_users_see_and_stop_their_own_captures_only(running: Running, user_dir: Path) -> None:
    def seen() -> list[int]:
        return [capture.capture_id for capture in list_captures(socket_path=running.daemon.socket_path)]

    def stop() -> None:
        stop_capture(running.capture_id, socket_path=running.daemon.socket_path)

    for user in (OTHER_MEMBER, STRANGER):
        assert as_user(seen, user.user_id, user.group_id, user.groups) == []
        with pytest.raises(CaptureError, match=f"no capture {running.capture_id}"):
            as_user(stop, user.user_id, user.group_id, user.groups)
    assert as_user(seen, MEMBER.user_id, MEMBER.group_id) == [running.capture_id]
    assert seen() == [running.capture_id]
    (summary,) = list_captures(socket_path=running.daemon.socket_path)
    assert (summary.user_id, summary.file_name) == (MEMBER.user_id, "mine.pcapng")


@pytest.mark.parametrize("stopper", [MEMBER, User(0, 0)], ids=["itself", "root"])
def test_a_capture_can_be_stopped_by_its_user_and_by_root(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, stopper: User
) -> None:
    directory = _private_dir(user_dir, MEMBER)
    arguments = {"interfaces": veth[1], "savefile": directory / "x.pcapng", "socket_path": daemon.socket_path}
    with capturing(MEMBER, **arguments) as (process, number):
        as_user(lambda: stop_capture(number, socket_path=daemon.socket_path), stopper.user_id, stopper.group_id)
        events = [process.ask("wait") for _ in range(4)]
    assert events[-1] == (CaptureSession.SP_ENDED, EndReason.STOPPED)
    check_complete(directory / "x.pcapng", 0)


@pytest.mark.parametrize("user", [User(12345, 12345, tuple(range(20_000, 20_300))), User(0, 0, tuple(range(300)))])
def test_a_user_of_many_groups_does_no_harm(daemon: Daemon, veth: tuple[str, str], user_dir: Path, user: User) -> None:
    def ask() -> None:
        list_captures(socket_path=daemon.socket_path)

    as_user(ask, user.user_id, user.group_id, user.groups)
    check_unharmed(daemon, veth, user_dir)


def test_every_group_counts_however_many_there_are(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    user = User(12365, 12365, (*range(20_000, 21_000), GROUP.gr_gid))
    _start(user, daemon, veth[1], _private_dir(user_dir, user) / "x.pcapng")


def test_questions_of_strangers_keep_nobody_busy(daemon: Daemon, veth: tuple[str, str]) -> None:
    questions = 3 * limits.MAX_QUESTIONS

    def ask(channel: Channel) -> None:
        clients = [RawClient(daemon.socket_path) for _ in range(questions)]
        for client in clients:
            client.send(GetCapabilities(interface=veth[1]))
        channel.send(None)
        for client in clients:
            client.receive(Capabilities, timeout_s=30)
            channel.send(None)

    others = len(daemon.workers())
    with process_of(STRANGER, ask) as process:
        process.hear()
        seen = 0
        for _ in range(questions):
            while not process.channel.poll(0.001):
                seen = max(seen, len(daemon.workers()))
            process.hear()
    assert 0 < seen - others <= limits.MAX_QUESTIONS


def test_a_stranger_cannot_have_a_radio_switched(daemon: Daemon, veth: tuple[str, str]) -> None:
    def ask() -> Message:
        with RawClient(daemon.socket_path) as client:
            client.send(GetCapabilities(interface=veth[1], monitor_mode=True))
            client.receive(Hello)
            return client.receive()

    answer = as_user(ask, STRANGER.user_id, STRANGER.group_id)
    assert isinstance(answer, Refused)
    assert answer.failure.code == FailureCode.NOT_PERMITTED


# Descriptors and names that no client library sends -------------------------------------------------------------


@contextlib.contextmanager
def _descriptors(kind: str, directory: Path) -> Generator[list[int], None, None]:
    with contextlib.ExitStack() as stack:
        file = directory / "file"
        file.write_bytes(b"precious")
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        stack.enter_context(theirs)
        (directory / "link").symlink_to(directory)
        good = stack.enter_context(opened(directory))
        match kind:
            case "none":
                yield []
            case "two":
                yield [good] * 2
            case "nine":
                yield [good] * 9
            case "200":
                yield [good] * 200
            case "a regular file":
                yield [stack.enter_context(opened(file, os.O_RDWR))]
            case "a directory, to be read":
                yield [stack.enter_context(opened(directory, os.O_RDONLY | os.O_DIRECTORY))]
            case "a regular file, as a path":
                yield [stack.enter_context(opened(file, os.O_PATH))]
            case "a symbolic link":
                yield [stack.enter_context(opened(directory / "link", os.O_PATH | os.O_NOFOLLOW))]
            case "a socket":
                yield [theirs.fileno()]
            case "a pipe":
                readable, writable = os.pipe()
                stack.callback(os.close, readable)
                stack.callback(os.close, writable)
                yield [writable]
            case "a device":
                yield [stack.enter_context(opened(Path("/dev/null"), os.O_RDWR))]
            case "a deleted directory":
                gone = directory / "gone"
                gone.mkdir()
                descriptor = stack.enter_context(opened(gone))
                gone.rmdir()
                yield [descriptor]
            case "/proc/self/fd":
                yield [stack.enter_context(opened(Path("/proc/self/fd")))]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("none", FailureCode.PROTOCOL),
        ("two", FailureCode.PROTOCOL),
        ("nine", FailureCode.PROTOCOL),
        ("200", FailureCode.PROTOCOL),
        ("a regular file", FailureCode.DESTINATION),
        ("a directory, to be read", FailureCode.DESTINATION),
        ("a regular file, as a path", FailureCode.DESTINATION),
        ("a symbolic link", FailureCode.DESTINATION),
        ("a socket", FailureCode.DESTINATION),
        ("a pipe", FailureCode.DESTINATION),
        ("a device", FailureCode.DESTINATION),
        ("a deleted directory", FailureCode.DESTINATION),
        ("/proc/self/fd", FailureCode.DESTINATION),
    ],
)
def test_only_one_descriptor_and_only_a_directorys_is_taken(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, kind: str, code: FailureCode
) -> None:
    with _descriptors(kind, user_dir) as descriptors:
        with (
            leaving_nothing(daemon, veth[1], directory=user_dir),
            RawClient(daemon.socket_path) as client,
        ):
            client.send(request_for(veth[1]), descriptors)
            failure = client.refusal()
            assert failure.code == code, failure
        assert (user_dir / "file").read_bytes() == b"precious"


def test_after_a_wrong_descriptor_a_right_one_is_taken(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    with (
        opened(user_dir, os.O_RDONLY | os.O_DIRECTORY) as wrong,
        opened(user_dir) as right,
        RawClient(daemon.socket_path) as client,
    ):
        client.send(request_for(veth[1]), [wrong])
        assert client.refusal().code == FailureCode.DESTINATION
        client.send(request_for(veth[1]), [right])
        client.receive(Started)
        client.finish()


def _make(kind: str, directory: Path) -> str:
    """Make something that is no file to capture to; return its name."""
    path = directory / "it"
    match kind:
        case "a symbolic link":
            path.symlink_to("precious")
        case "a symbolic link to nothing":
            path.symlink_to("created")
        case "a symbolic link to a directory":
            path.symlink_to(".")
        case "a FIFO" | "a FIFO with a reader":
            os.mkfifo(path)
        case "a device":
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        case "a directory":
            path.mkdir()
        case "a socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
    return "it"


def _words_for(kind: str) -> str:
    if kind.startswith("a symbolic link"):
        return "is a symbolic link"
    return "is a directory" if kind == "a directory" else "is not a regular file"


@pytest.mark.parametrize("exclusive", [False, True], ids=["", "exclusive"])
@pytest.mark.parametrize(
    "kind",
    [
        "a symbolic link",
        "a symbolic link to nothing",
        "a symbolic link to a directory",
        "a FIFO",
        "a FIFO with a reader",
        "a device",
        "a directory",
        "a socket",
    ],
)
def test_only_a_regular_file_is_written(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, kind: str, exclusive: bool
) -> None:
    precious = user_dir / "precious"
    precious.write_bytes(b"precious")
    name = _make(kind, user_dir)
    with contextlib.ExitStack() as stack:
        if kind == "a FIFO with a reader":
            reader = stack.enter_context(opened(user_dir / name, os.O_RDONLY | os.O_NONBLOCK))
        with (
            leaving_nothing(daemon, veth[1], directory=user_dir),
            opened(user_dir) as directory,
            RawClient(daemon.socket_path) as client,
        ):
            client.send(request_for(veth[1], destination=Destination(file_name=name, exclusive=exclusive)), [directory])
            failure = client.refusal()
            assert failure.code == FailureCode.DESTINATION
            assert failure.argument == "savefile"
            assert name in failure.text
            assert exclusive or _words_for(kind) in failure.text
        if kind == "a FIFO with a reader":
            assert os.read(reader, 1) == b""
    assert precious.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/etc/passwd", "../x", "a/b", "a/../precious", "precious/", "./precious", "a\0b", "\0", "x" * 256],
)
def test_a_name_that_is_none_is_refused(daemon: Daemon, user_dir: Path, name: str) -> None:
    (user_dir / "a").mkdir()
    (user_dir / "precious").write_bytes(b"precious")
    with (
        leaving_nothing(daemon, directory=user_dir),
        opened(user_dir) as directory,
        RawClient(daemon.socket_path) as client,
    ):
        client.send(request_for("lo", name), [directory])
        failure = client.refusal()
        assert (failure.code, failure.argument) == (FailureCode.INVALID, "savefile")


def test_a_file_that_is_to_be_new_is_not_taken_over(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    (user_dir / "x").write_bytes(b"precious")
    with opened(user_dir) as directory, RawClient(daemon.socket_path) as client:
        client.send(request_for(veth[1], destination=Destination(file_name="x", exclusive=True)), [directory])
        assert client.refusal().code == FailureCode.DESTINATION
    assert (user_dir / "x").read_bytes() == b"precious"


def test_a_ring_deletes_only_what_it_made(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    with opened(user_dir) as directory, RawClient(daemon.socket_path) as client:
        client.send(request_for(veth[1], ring=Conditions(packets=5, files=1)), [directory])
        client.receive(Started)
        (first,) = user_dir.glob("*.pcapng")
        first.rename(user_dir / "kept")
        first.write_bytes(b"precious")
        send(veth[0], FRAMES, 7)
        client.send(StopCapture())
        assert isinstance(client.rest()[-1], Ended)
    assert first.read_bytes() == b"precious"
    check_complete(user_dir / "kept", 5)


# Packet sockets of a worker -------------------------------------------------------------------------------------


@pytest.mark.parametrize("capture_filter", ["", "udp", "vlan 5"])
@pytest.mark.parametrize("is_recorder", [False, True])
def test_a_worker_has_no_packet_socket_that_could_get_another_filter(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, capture_filter: str, is_recorder: bool
) -> None:
    recorder = {"recorder_duration": 5, "recorder_trigger_filter": "vlan 6"} if is_recorder else {}
    others = daemon.workers()  # which may take a while to end
    with CaptureSession(
        interfaces=list(veth),
        savefile=user_dir / "x.pcapng",
        capture_filter=capture_filter,
        socket_path=daemon.socket_path,
        **recorder,  # type: ignore[arg-type]
    ) as capture:
        capture.wait_started(PATIENCE_S)
        (worker,) = set(daemon.workers()) - set(others)
        expected = len(veth) * (2 if is_recorder else 1)
        # Those that libpcap has opened are closed while the capture begins, which takes the kernel a while.
        eventually(lambda: _number_of_packet_sockets(worker) == expected, "no others")
        for taken in _packet_sockets_of(worker):
            with taken:
                assert taken.getsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER) == 1
                with pytest.raises(PermissionError):
                    attach_filter(taken, _TAKE_ALL)
                with pytest.raises(PermissionError):
                    taken.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def _number_of_packet_sockets(process_id: int) -> int:
    found = _packet_sockets_of(process_id)
    for each in found:
        each.close()
    return len(found)
