"""Processes with too few descriptors for what is passed to them: it is said so, and all goes on when there are more."""

import contextlib
import errno
import os
import resource
import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from capd.launch import RingMade, Rotate, encode
from capd.linux.descriptors import rights
from capd.linux.packet_ring import RingMemory
from capd.worker.control import ControlSocket, RingCame
from capd_client.errors import ResourceError
from capd_client.transport.connect import Transport
from capd_client.transport.passed import FileReceiver, FilesOnRequest
from capd_protocol.messages import Failure, FailureCode, Refused, Started
from tests.support.attack import RawClient, check_unharmed, leaving_nothing, opened, request_for, with_limits
from tests.support.daemon import Daemon, MakeDir, running_daemon

#: The numbers of standard input, output and error: no other one may be given.
NONE_LEFT = 3


@contextlib.contextmanager
def limited(process_id: int, descriptors: int) -> Generator[None, None, None]:
    """Have a process take no number of a descriptor from this one on while the block lasts."""
    before = resource.prlimit(process_id, resource.RLIMIT_NOFILE)
    resource.prlimit(process_id, resource.RLIMIT_NOFILE, (descriptors, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process_id, resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module")
def daemon(make_dir: MakeDir) -> Generator[Daemon, None, None]:
    """A daemon that has every worker forked when it is asked for."""
    with running_daemon(make_dir("scarce"), prefix=with_limits(SPARE_WORKERS=0)) as daemon:
        yield daemon


def _answer(daemon: Daemon, interface: str, directory: Path) -> Started | Failure:
    with opened(directory) as descriptor, RawClient(daemon.socket_path) as client:
        with contextlib.suppress(BrokenPipeError):  # refused already
            client.send(request_for(interface), [descriptor])
        while not isinstance(answer := client.receive(), Started | Refused):
            pass
    return answer.failure if isinstance(answer, Refused) else answer


def test_a_spawner_without_descriptors_has_the_start_refused_and_serves_the_next_one(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    check_unharmed(daemon, veth, user_dir)
    spawner = daemon.spawner()
    with leaving_nothing(daemon, veth[1], directory=user_dir), limited(spawner, NONE_LEFT):
        for _ in range(3):
            failure = _answer(daemon, veth[1], user_dir)
            assert isinstance(failure, Failure)
            assert failure.code == FailureCode.RESOURCES
            assert "as many descriptors as it may (RLIMIT_NOFILE)" in failure.text
    check_unharmed(daemon, veth, user_dir)
    assert daemon.spawner() == spawner


def test_a_worker_with_too_few_descriptors_for_its_start_says_so(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    check_unharmed(daemon, veth, user_dir)
    failures: list[Failure] = []
    with leaving_nothing(daemon, veth[1]):
        for few in range(NONE_LEFT + 1, 15):
            with limited(daemon.spawner(), few):
                answer = _answer(daemon, veth[1], user_dir)
            if isinstance(answer, Failure):
                failures.append(answer)
    # How many it is of depends on what else this user has on its way in sockets.
    assert len(failures) > 2
    assert {each.code for each in failures} == {FailureCode.RESOURCES}, f"{failures}\n{daemon.log}"
    assert [each.text for each in failures if "(RLIMIT_NOFILE)" not in each.text] == []
    check_unharmed(daemon, veth, user_dir)
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("limit", [12, 15, 20])
def test_a_daemon_with_too_few_descriptors_goes_on_when_it_has_more(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, limit: int
) -> None:
    check_unharmed(daemon, veth, user_dir)
    with limited(daemon.process.pid, limit):
        answer = _answer(daemon, veth[1], user_dir)
        assert isinstance(answer, Failure)
        assert answer.code == FailureCode.RESOURCES
        assert "(RLIMIT_NOFILE)" in answer.text
    check_unharmed(daemon, veth, user_dir)


def test_clients_that_a_daemon_has_no_descriptor_for_are_refused_and_served_when_there_are_more(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    check_unharmed(daemon, veth, user_dir)
    failures: list[Failure] = []
    with leaving_nothing(daemon), limited(daemon.process.pid, 40), contextlib.ExitStack() as stack:
        while len(failures) < 3:
            client = stack.enter_context(RawClient(daemon.socket_path, greet=False))
            answer = client.receive()
            if isinstance(answer, Refused):
                failures.append(answer.failure)
    assert {each.code for each in failures} == {FailureCode.RESOURCES}
    assert "as many descriptors as it may (RLIMIT_NOFILE)" in failures[0].text
    check_unharmed(daemon, veth, user_dir)


# In this process --------------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Generator[tuple[socket.socket, socket.socket], None, None]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_a_ring_that_a_worker_has_no_descriptor_for_is_a_failure_and_the_next_order_is_heard() -> None:
    ours, theirs = socket.socketpair()
    memory = RingMemory(block_bytes=4096, blocks=1)
    with ours, theirs, socket.socket() as ring:
        control = ControlSocket(theirs)
        with limited(0, NONE_LEFT):
            ours.sendmsg([encode(RingMade(number=0, memory=memory))], rights([ring.fileno()]))
            ours.sendmsg([encode(RingMade(number=1, memory=memory))], rights([ring.fileno()]))
            (lost,) = control.read()
        (came,) = control.read()
        ours.send(encode(Rotate(number=7)))
        assert control.read() == [Rotate(number=7)]
        assert isinstance(lost, RingCame)
        assert isinstance(lost.sockets, Failure)
        assert lost.sockets.code == FailureCode.RESOURCES
        assert isinstance(came, RingCame)
        assert not isinstance(came.sockets, Failure)
        assert os.path.sameopenfile(came.sockets.ring.fileno(), ring.fileno())
        came.sockets.close()
        control.close()


def test_a_client_without_descriptors_says_so(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    socket.send_fds(ours, [b"x"], [ours.fileno()])
    transport = Transport(theirs)
    with limited(0, NONE_LEFT), pytest.raises(ResourceError, match=r"as many descriptors as it may \(RLIMIT_NOFILE\)"):
        transport.receive_nowait()


def test_a_file_that_a_client_has_no_descriptor_for_is_no_missing_one(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    ours, theirs = pair
    (tmp_path / "a").touch()
    on_request = FilesOnRequest(theirs)
    with (tmp_path / "a").open("rb") as file:
        socket.send_fds(ours, [b"a"], [file.fileno()])
        with limited(0, NONE_LEFT), pytest.raises(OSError, match="Too many open files") as failed:
            on_request._ask("a")
        assert failed.value.errno == errno.EMFILE
        socket.send_fds(ours, [b"a"], [file.fileno()])
        descriptor = on_request._ask("a")
        assert os.path.sameopenfile(descriptor, file.fileno())
        os.close(descriptor)
    on_request.close()


def test_files_that_come_after_one_that_a_client_has_no_descriptor_for_are_taken(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    ours, theirs = pair
    receiver = FileReceiver(theirs, None)
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    with (tmp_path / "a").open("rb") as first, (tmp_path / "b").open("rb") as second:
        socket.send_fds(ours, [b"a"], [first.fileno()])
        with limited(0, NONE_LEFT):
            receiver.take()
        socket.send_fds(ours, [b"b"], [second.fileno()])
        assert receiver.open("a") is None
        descriptor = receiver.open("b")
        assert descriptor is not None
        assert os.path.sameopenfile(descriptor, second.fileno()) or os.pread(descriptor, 1, 0) == b"b"
        os.close(descriptor)
    receiver.close()
