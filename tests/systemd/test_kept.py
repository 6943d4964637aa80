"""What a service manager keeps of captures, and what comes back from it; no service manager is needed for it."""

import array
import fcntl
import os
import socket
from collections.abc import Callable, Generator
from pathlib import Path

import msgspec
import pytest

from capd.captures.lasting import fd_store
from capd.captures.lasting.fd_store import Record, keep, separate
from capd.policy.peer import Peer
from capd.service.systemd import Inherited
from capd.supervisor.handover import Envelope
from capd_protocol.messages import Conditions
from tests.support.attack import request_for

RECORD = Record(
    capture_id=12345,
    started_ns=1_700_000_000_123_456_789,
    owner=Peer(1, 1000, 1001, (4, 1001)),
    request=request_for("eth0", name="dns", detached=True, ring=Conditions(packets=7)),
    rules=("one", "two"),
)


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Generator[socket.socket, None, None]:
    """The socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + manager.getsockname()[1:].decode())
        yield manager


@pytest.fixture
def directory(tmp_path: Path) -> Generator[int, None, None]:
    descriptor = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def envelope(directory: int) -> Generator[Envelope, None, None]:
    envelope = Envelope.of(directory)
    yield envelope
    os.close(envelope.detach())


def stored(manager: socket.socket) -> list[Inherited]:
    """Return what was given to the manager, as it would give it back."""
    message, descriptors, _, _ = socket.recv_fds(manager, 4096, 8)
    assert message == b"FDSTORE=1\nFDPOLL=0\nFDNAME=capture-12345"
    return [Inherited(descriptor, "capture-12345") for descriptor in descriptors]


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def looked_into(envelope: Envelope) -> list[int]:
    """Return what lies in an envelope, as a worker gets it."""
    channel = socket.socket(fileno=os.dup(envelope.fileno()))
    with channel:
        _, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(8), socket.MSG_PEEK)
        return [each for _, _, payload in ancillary for each in array.array("i", payload)]


def test_what_is_kept_comes_back(manager: socket.socket, envelope: Envelope, directory: int) -> None:
    before = open_descriptors()
    keep(RECORD, envelope)
    ((record, restored),), others, useless = separate([Inherited(99, "capd.socket"), *stored(manager)])
    assert record == RECORD
    for _ in range(2):  # it stays in there
        (directory_fd,) = looked_into(restored)
        assert os.path.samestat(os.fstat(directory_fd), os.fstat(directory))
        os.close(directory_fd)
    assert not os.get_inheritable(restored.fileno())
    assert (others, useless) == ([Inherited(99, "capd.socket")], [])
    os.close(restored.detach())
    assert open_descriptors() == before


def test_the_oldest_comes_first(manager: socket.socket, envelope: Envelope) -> None:
    inherited: list[Inherited] = []
    for number, started_ns in enumerate((3, 1, 2)):
        keep(msgspec.structs.replace(RECORD, started_ns=started_ns), envelope)
        inherited += [Inherited(each.descriptor, f"capture-{number}") for each in stored(manager)]
    captures = separate(inherited).kept
    assert [each.record.started_ns for each in captures] == [1, 2, 3]
    for each in captures:
        os.close(each.envelope.detach())


def memory(data: bytes, *, sealed: bool) -> int:
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(descriptor, data)
    if sealed:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fd_store._SEALS)
    return descriptor


RIGHT = msgspec.json.encode(RECORD)
#: How many of the descriptors are to be closed elsewhere, and the descriptors, from one of an envelope.
OF_NO_USE: dict[str, tuple[int, Callable[[int], list[int]]]] = {
    "no file": (1, lambda envelope: [os.dup(envelope)]),
    "no directory": (0, lambda _: [memory(RIGHT, sealed=True)]),
    "two files": (1, lambda envelope: [os.dup(envelope), memory(RIGHT, sealed=True), memory(RIGHT, sealed=True)]),
    "two directories": (2, lambda envelope: [os.dup(envelope), os.dup(envelope), memory(RIGHT, sealed=True)]),
    "not sealed": (2, lambda envelope: [os.dup(envelope), memory(RIGHT, sealed=False)]),
    "empty": (1, lambda envelope: [os.dup(envelope), memory(b"", sealed=True)]),
    "of another version": (1, lambda envelope: [os.dup(envelope), memory(b'{"capture_id":1}', sealed=True)]),
    "a pipe": (3, lambda envelope: [os.dup(envelope), *os.pipe()]),
    "a bare directory": (1, lambda _: [os.open("/", os.O_PATH | os.O_DIRECTORY), memory(RIGHT, sealed=True)]),
}


@pytest.mark.parametrize("case", OF_NO_USE)
def test_what_is_of_no_use_is_told_of_and_dropped(
    manager: socket.socket, envelope: Envelope, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    before = open_descriptors()
    expected, make = OF_NO_USE[case]
    inherited = [Inherited(descriptor, "capture-7") for descriptor in make(envelope.fileno())]
    kept_captures, others, useless = separate(inherited)
    assert (kept_captures, others, len(useless)) == ([], [], expected)
    for descriptor in useless:
        os.close(descriptor)
    assert open_descriptors() == before
    assert "capture-7 is of no use" in caplog.text
    assert manager.recv(4096) == b"FDSTOREREMOVE=1\nFDNAME=capture-7"


def test_without_a_manager_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, envelope: Envelope) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    before = open_descriptors()
    keep(RECORD, envelope)
    assert open_descriptors() == before


def test_a_manager_that_takes_nothing_is_told_of(manager: socket.socket, envelope: Envelope) -> None:
    before = open_descriptors()

    def fill() -> None:
        for _ in range(10_000):
            keep(RECORD, envelope)

    with pytest.raises(BlockingIOError):
        fill()
    assert open_descriptors() == before
