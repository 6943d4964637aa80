"""Descriptors that clients send, and what they make of closing them: nobody else waits for it, however long."""

import contextlib
import os
import select
import socket
import struct
import subprocess
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pytest

from capd import limits
from capd.captures.registry import Captures
from capd.errors import RequestRefused
from capd.policy.peer import Peer
from capd.policy.rules import Policy, Rule
from capd.supervisor.closer import Closer
from capd.supervisor.packet_rings import PacketRingMaker
from capd.supervisor.spawner import Spawner
from capd_client import CaptureSession
from capd_protocol.messages import (
    PROTOCOL_VERSION,
    AttachCapture,
    Attached,
    DirectoryWanted,
    FailureCode,
    Hello,
    InterfaceSnapshot,
    Message,
    PacketCount,
    Permissions,
    Started,
    WatchInterfaces,
    WhoAmI,
    encode,
)
from tests.support.attack import (
    FRAMES,
    HELLO,
    PATIENCE_S,
    RawClient,
    check_complete,
    eventually,
    leaving_nothing,
    on_older_kernel,
    opened,
    replaced_when_dead,
    request_for,
    with_limits,
)
from tests.support.daemon import Daemon, MakeDir, children_of, is_closer, running_daemon, standing_still
from tests.support.namespace import private_network_namespace
from tests.support.tools import busy_descriptors_of
from tests.support.traffic import send

#: How long a close takes that is made to take long; far longer than anybody here waits.
_LINGER_S = 30
#: Others are answered within this time, where a close that takes long would keep them waiting for all of it.
_AT_ONCE_S = 5.0


@pytest.fixture(scope="module", params=["this kernel", "an older one"])
def _daemons(make_dir: MakeDir, request: pytest.FixtureRequest) -> Generator[Callable[[], Daemon], None, None]:
    directory = make_dir("rights")
    # Without a ring ahead, so that descriptors can be counted; and what closes them ends soon.
    make = on_older_kernel if request.param == "an older one" else with_limits
    prefix = make(SPARE_RING_PAUSE_S=1000, CLOSER_IDLE_S=0.2, END_TIMEOUT_S=1)
    with replaced_when_dead(directory, prefix=prefix) as get:
        yield get


@pytest.fixture
def daemon(_daemons: Callable[[], Daemon]) -> Daemon:
    return _daemons()


@pytest.fixture
def make_stuck() -> Generator[Callable[[int], list[socket.socket]], None, None]:
    """Makes TCP connections that whoever closes them last waits for, until the other side has read everything."""
    with contextlib.ExitStack() as stack:

        def make(count: int) -> list[socket.socket]:
            made: list[socket.socket] = []
            with private_network_namespace():
                subprocess.run(["ip", "link", "set", "dev", "lo", "up"], check=True, timeout=10)
                with socket.create_server(("127.0.0.1", 0)) as listener:
                    for _ in range(count):
                        made.append(socket.create_connection(listener.getsockname()))
                        stack.enter_context(listener.accept()[0])
            for connection in made:
                connection.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        connection.send(bytes(65536))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, _LINGER_S))
            return made

        yield make


MakeStuck = Callable[[int], list[socket.socket]]


def check_answers(daemon: Daemon) -> None:
    """Check that the daemon answers somebody else at once."""
    with RawClient(daemon.socket_path) as client:
        client.send(WhoAmI())
        client.receive(Permissions, timeout_s=_AT_ONCE_S)


def threads_of(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.process.pid}/task").iterdir()))


def descriptors_of(daemon: Daemon) -> int:
    return len(busy_descriptors_of(daemon.process.pid))


def send_along(
    daemon: Daemon, client: RawClient, data: bytes | Message, stuck: Sequence[socket.socket], more: Sequence[int]
) -> None:
    """Send descriptors, and close our own; a kernel that refuses them says so."""
    with given_away(daemon, stuck, (PermissionError, BrokenPipeError, ConnectionResetError)):
        client.send_along(data, [*more, *(each.fileno() for each in stuck)])


@contextlib.contextmanager
def given_away(
    daemon: Daemon, stuck: Sequence[socket.socket], refused: tuple[type[OSError], ...]
) -> Generator[None, None, None]:
    """Close what the block passes to a daemon, which sees it only when it is the last to close it."""
    with standing_still(daemon):
        try:
            yield
        except refused:
            take_back(stuck)
        for each in stuck:
            each.close()


def take_back(stuck: Sequence[socket.socket]) -> None:
    """Have nobody wait for these: they are ours alone."""
    for each in stuck:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))


_OTHER_VERSION = encode(Hello(protocol_version=PROTOCOL_VERSION + 1, software="x"))


@pytest.mark.parametrize(
    ("read", "data", "surplus"),
    [(b"", HELLO[:1], 0), (b"", HELLO, 0), (b"", HELLO[:1], 200), (_OTHER_VERSION, b"x", 0), (b"\xff" * 4, b"x", 0)],
    ids=["with the first byte", "with a message", "behind 200 others", "behind what is refused", "behind nonsense"],
)
def test_what_takes_long_to_close_keeps_nobody_waiting(
    daemon: Daemon, make_stuck: MakeStuck, read: bytes, data: bytes, surplus: int
) -> None:
    with opened(Path("/")) as directory:
        client = RawClient(daemon.socket_path, greet=False)
        if read:
            client.send(read)
        send_along(daemon, client, data, make_stuck(1), [directory] * surplus)
        client.close()
    check_answers(daemon)


def test_it_may_even_be_many_times(daemon: Daemon, make_stuck: MakeStuck) -> None:
    check_answers(daemon)
    threads, descriptors = threads_of(daemon), descriptors_of(daemon)
    for _ in range(22):
        client = RawClient(daemon.socket_path, greet=False)
        send_along(daemon, client, b"\xff" * 4, make_stuck(2), ())
        client.close()
    check_answers(daemon)
    assert threads_of(daemon) <= threads + 4
    eventually(lambda: descriptors_of(daemon) <= descriptors, "all are closed")


def test_a_descriptor_with_a_request_is_refused(daemon: Daemon) -> None:
    with RawClient(daemon.socket_path) as client, opened(Path("/")) as directory:
        try:
            client.send_along(WhoAmI(), [directory])
        except PermissionError:
            check_answers(daemon)
        else:
            assert client.refusal().code == FailureCode.PROTOCOL


@pytest.mark.parametrize("request_", [AttachCapture(capture="held"), WatchInterfaces()], ids=["attach", "watch"])
def test_a_client_cannot_pass_its_own_end_to_keep_a_connection(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, request_: Message
) -> None:
    arguments = {"interfaces": veth[1], "savefile": user_dir / "x.pcapng", "socket_path": daemon.socket_path}
    with CaptureSession(name="held", **arguments) as held:  # type: ignore[arg-type]  # by name
        held.wait_started(PATIENCE_S)
        with RawClient(daemon.socket_path) as first:  # interfaces are watched from now on
            first.send(WatchInterfaces())
            first.receive(InterfaceSnapshot)
            first.finish()
        eventually(lambda: not closers_of(daemon), "nothing is left to close")
        before = descriptors_of(daemon)
        with RawClient(daemon.socket_path) as client:
            client.send(request_)
            client.receive(Attached if isinstance(request_, AttachCapture) else InterfaceSnapshot)
            with contextlib.suppress(PermissionError, BrokenPipeError):  # refused, or the connection closed for it
                client.send_along(b"r", [client.socket.fileno()])
        eventually(lambda: descriptors_of(daemon) <= before, "the connection is gone")


def test_a_client_without_its_own_end_of_the_connection_has_left(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    with leaving_nothing(daemon, veth[1], timeout_s=10), opened(user_dir) as directory:
        client = RawClient(daemon.socket_path)
        client.send(request_for(veth[1]), [directory])
        client.receive(Started)
        with contextlib.suppress(PermissionError):
            client.send_along(b"r", [client.socket.fileno()])
        client.close()


@pytest.mark.parametrize("right", [False, True], ids=["as the directory", "behind the directory"])
def test_what_is_passed_as_the_directory_keeps_nobody_else_waiting(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, make_stuck: MakeStuck, right: bool
) -> None:
    (stuck,) = make_stuck(1)
    with opened(user_dir) as directory:
        client = RawClient(daemon.socket_path)
        client.receive(Hello)
        client.send(request_for(veth[1]), [directory if right else stuck.fileno()])
        assert select.select([client.socket], [], [], PATIENCE_S)[0], "the directory is asked for"
        with given_away(daemon, [stuck], ()):
            client.receive(DirectoryWanted)
            if right:
                assert client.channel is not None
                socket.send_fds(client.channel, [b"d"], [stuck.fileno()])
        client.close()
    check_answers(daemon)
    eventually(lambda: not daemon.workers(), "its process is ended", timeout_s=limits.START_TIMEOUT_S + PATIENCE_S)


def test_a_reader_keeps_no_capture_waiting(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, make_stuck: MakeStuck
) -> None:
    with opened(user_dir) as directory, RawClient(daemon.socket_path) as owner:
        owner.send(request_for(veth[1]), [directory])
        started = owner.receive(Started)
        assert isinstance(started, Started)
        with RawClient(daemon.socket_path) as reader:
            reader.send(AttachCapture(capture=started.capture_id))
            reader.receive(Attached)
            assert reader.channel is not None
            for stuck in make_stuck(3):
                with given_away(daemon, [stuck], (PermissionError, BrokenPipeError)):
                    socket.send_fds(reader.channel, [b"raw.pcapng"], [stuck.fileno()])
        send(veth[0], FRAMES, 10)
        count = owner.receive(PacketCount, timeout_s=_AT_ONCE_S)
        assert isinstance(count, PacketCount)
        owner.finish()
    check_complete(user_dir / "raw.pcapng", 10)


def test_the_end_of_a_connection_does_not_wait_for_what_others_have_closed(
    make_dir: MakeDir, veth: tuple[str, str], user_dir: Path, make_stuck: MakeStuck
) -> None:
    directory = make_dir("slow to close")
    prefix = on_older_kernel(CLOSING_S=_LINGER_S)  # the process that closes may take as long as that
    with running_daemon(directory, prefix=prefix) as daemon:
        hostile = RawClient(daemon.socket_path)
        send_along(daemon, hostile, HELLO[:1], make_stuck(1), ())
        hostile.close()
        eventually(lambda: bool(closers_of(daemon)), "it is being closed")
        arguments = {"interfaces": veth[1], "savefile": user_dir / "x.pcapng", "socket_path": daemon.socket_path}
        with CaptureSession(**arguments) as capture:  # type: ignore[arg-type]  # by name
            capture.wait_started(PATIENCE_S)
            capture.stop()
            capture.wait(_AT_ONCE_S)
        assert closers_of(daemon)


def closers_of(daemon: Daemon) -> list[int]:
    """Return the processes that close descriptors for a daemon."""
    return [each for each in children_of(daemon.process.pid) if is_closer(each)]


def test_only_so_much_of_one_user_waits_to_be_closed(user_dir: Path) -> None:
    closer = Closer()  # which does not run
    captures = Captures(Policy((Rule(name="all", everybody=True),)), Spawner(), closer, PacketRingMaker())
    for number in range(limits.MAX_UNCLOSED_PER_USER):
        with captures.granted(Peer(1, 1000, 1000, ()), request_for("lo")):
            closer.close(os.open("/dev/null", os.O_RDONLY), 1000)
        assert closer.unclosed(1000) == number + 1
    with pytest.raises(RequestRefused) as refused, captures.granted(Peer(1, 1000, 1000, ()), request_for("lo")):
        raise AssertionError("it is granted")
    assert refused.value.failure.code == FailureCode.RESOURCES
    with captures.granted(Peer(1, 1001, 1001, ()), request_for("lo")):
        pass  # others' captures are another matter
    while closer._waiting:
        os.close(closer._waiting.pop().descriptor)
