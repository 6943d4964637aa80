"""Who gets which files of a capture, and how many in a second."""

import os
import select
import socket
import stat
from collections.abc import Generator
from pathlib import Path

import pytest

from capd.worker.helpers import readers
from capd.worker.helpers.readers import Readers

RING_FILE = "ring_00001_20260131235959.pcapng"


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


class Bench:
    """Readers of a directory, and one of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.epoll = select.epoll()
        self.directory_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        self.readers = Readers(self.epoll, self.directory_fd, "ring.pcapng")
        self.channel = self.add()

    def add(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        assert self.readers.add(theirs, RING_FILE)
        ours.setblocking(False)
        return ours

    def serve(self) -> int:
        """Serve all that ask until nobody does, or may; return how many events there were."""
        events = 0
        while ready := self.epoll.poll(0):
            for descriptor, _ in ready:
                assert self.readers.on_event(descriptor)
                events += 1
        return events

    def answer(self) -> tuple[bytes, list[int]]:
        data, descriptors, _, _ = socket.recv_fds(self.channel, 255, 4)
        return data, descriptors

    def ask(self, name: str) -> list[int]:
        self.channel.send(os.fsencode(name))
        self.serve()
        data, descriptors = self.answer()
        assert os.fsdecode(data) == name
        return descriptors


@pytest.fixture
def bench(tmp_path: Path) -> Generator[Bench, None, None]:
    directory = tmp_path / "files"
    directory.mkdir()
    for name in (RING_FILE, "ring.pcapng.index", "ring_00002_20260131235959.pcapng", "other.txt"):
        (directory / name).write_text(name)
    (directory / "ring_00003_20260131235959.pcapng").symlink_to(directory / "other.txt")
    (directory / "ring_00004_20260131235959.pcapng").mkdir()
    os.mkfifo(directory / "ring_00005_20260131235959.pcapng")
    (directory / "ring_00006_20260131235959.pcapng").write_text("somebody else's")
    os.chown(directory / "ring_00006_20260131235959.pcapng", 4321, 4321)
    (tmp_path / "outside.pcapng").write_text("secret")
    bench = Bench(directory)
    yield bench
    bench.channel.close()
    bench.epoll.close()
    os.close(bench.directory_fd)
    for channel in list(bench.readers._channels.values()):
        channel.close()


def check_file(descriptors: list[int], text: str) -> None:
    """Check that there is one descriptor, of a regular file, for reading, at its beginning."""
    (descriptor,) = descriptors
    assert stat.S_ISREG(os.fstat(descriptor).st_mode)
    with open(descriptor) as file:  # noqa: PTH123  # it is no path
        assert file.read() == text
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(descriptor, b"x")


def test_the_current_file_comes_unasked(bench: Bench) -> None:
    data, descriptors = bench.answer()
    assert data.decode() == RING_FILE
    check_file(descriptors, RING_FILE)


@pytest.mark.parametrize("name", [RING_FILE, "ring_00002_20260131235959.pcapng", "ring.pcapng.index"])
def test_files_of_the_capture_are_passed(bench: Bench, name: str) -> None:
    check_file(bench.answer()[1], RING_FILE)
    check_file(bench.ask(name), name)


@pytest.mark.parametrize(
    "name",
    [
        *(".", "..", "/", "other.txt", "../outside.pcapng", "../files/" + RING_FILE, "./" + RING_FILE),
        *("/etc/passwd", "/proc/self/environ", RING_FILE + "/..", "ring.pcapng", "ring.pcapng.index.new", "nothing"),
        *(RING_FILE + "\0", "\0", "\n", "ring_00001_20260131235959.pcapng\n", "x" * 255),
        *(f"ring_0000{number}_20260131235959.pcapng" for number in (3, 4, 5, 6, 7)),
    ],
)
def test_nothing_else_is(bench: Bench, name: str) -> None:
    check_file(bench.answer()[1], RING_FILE)
    assert bench.ask(name) == []


def test_only_so_many_in_a_second(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(readers, "time", clock)
    bench.readers._counted_s = clock.now_s
    check_file(bench.answer()[1], RING_FILE)

    def ask_all() -> int:
        answers = 0
        for _ in range(600):
            bench.channel.send(b"nothing")
            if not bench.serve():
                break
            assert bench.answer() == (b"nothing", [])
            answers += 1
        return answers

    assert ask_all() == readers._FILES_PER_S - 1  # with the current file
    wait_s = bench.readers.wait_s()
    assert wait_s is not None
    assert 0 < wait_s <= 2 / readers._FILES_PER_S
    late = bench.add()  # who comes now waits as well
    late.send(b"nothing")
    bench.readers.go_on()
    assert not bench.serve()
    clock.now_s += 0.1
    bench.readers.go_on()
    assert bench.readers.wait_s() is None
    assert bench.serve() == 2
    late.close()


def test_one_who_leaves_is_forgotten(bench: Bench) -> None:
    bench.channel.close()
    assert bench.serve() == 1
    assert bench.serve() == 0
    assert bench.readers._channels == {}


def test_what_others_sent_is_not_received_and_not_closed(bench: Bench) -> None:
    readable, writable = os.pipe()
    for _ in range(readers._MAX_LEFT):
        with bench.add() as channel:
            socket.send_fds(channel, [b"x"], [writable])
            bench.serve()
    os.close(writable)
    os.set_blocking(readable, False)
    with pytest.raises(BlockingIOError):  # there is another end yet, in the sockets
        os.read(readable, 1)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    assert not bench.readers.add(theirs, RING_FILE)
    ours.close()
    os.close(readable)


def test_one_who_does_not_take_files_gets_no_more(bench: Bench) -> None:
    bench.channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    while bench.readers._channels:
        bench.channel.send(RING_FILE.encode())
        bench.serve()
    assert bench.readers._left == 1
