"""What a hostile user tries against policy and against other users, with more than filters' texts."""

import contextlib
import os
import socket
from pathlib import Path

from capd_client import CaptureSession
from capd_protocol.messages import Conditions
from tests.client.helpers import wait_for_packets
from tests.support.attack import (
    FRAMES,
    RawClient,
    await_end,
    eventually,
    leaving_nothing,
    opened,
    request_for,
)
from tests.support.daemon import Daemon
from tests.support.traffic import send


def receive_with_files(client: RawClient) -> socket.socket:
    """Return the socket that comes with the daemon's word that a capture runs."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(client.socket, 65536, 1)
        assert data
        if descriptors:
            return socket.socket(fileno=descriptors[0])


def test_nothing_can_be_left_with_a_worker_that_outlasts_its_client(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    with leaving_nothing(daemon, veth[1]), opened(user_dir) as directory, RawClient(daemon.socket_path) as client:
        client.send(request_for(veth[1]), [directory])
        with receive_with_files(client) as files:
            # Waiting there to be received, its own end of the connection would never close.
            with contextlib.suppress(BrokenPipeError):
                socket.send_fds(files, [b"x"], [client.socket.fileno()])
            workers = daemon.workers()
            client.close()
        await_end(workers)


def deleted_files(directory: Path) -> int:
    """Return how many files of a directory this process keeps on the disk, though they are deleted."""
    deleted = 0
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            link = os.fspath(each.readlink())
            deleted += link.startswith(os.fspath(directory)) and link.endswith(" (deleted)")
    return deleted


def test_what_a_ring_has_deleted_does_not_fill_the_disk(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    ring = Conditions(packets=1, files=1)
    with opened(user_dir) as directory, RawClient(daemon.socket_path) as client:
        client.send(request_for(veth[1], ring=ring), [directory])
        with receive_with_files(client) as files:
            send(veth[0], FRAMES, 100)
            eventually(lambda: bool(list(user_dir.glob("raw_00101_*"))), "the last file")
            # As many as wait for a client that takes none.
            files.setblocking(False)
            waiting = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    _, (descriptor,), _, _ = socket.recv_fds(files, 255, 1)
                    os.close(descriptor)
                    waiting += 1
            assert 4 <= waiting <= 20


def test_the_library_keeps_few_files_that_a_ring_has_deleted(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    with CaptureSession(
        interfaces=veth[1],
        savefile=user_dir / "a",
        ringbuffer_packets=1,
        ringbuffer_files=1,
        update_interval=0.02,
        socket_path=daemon.socket_path,
    ) as session:
        session.wait_started(20)
        for number in range(1, 21):
            send(veth[0], FRAMES, 1)
            wait_for_packets(session, number)
        path = session.files[-1].name
        with session.open_file(path) as file:
            assert file.read(4) == b"\x0a\x0d\x0d\x0a"
        assert not Path(path).exists()
        assert deleted_files(user_dir) <= 3
