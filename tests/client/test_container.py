"""A client in a container, which has nothing but the daemon's socket: it gets files, and no way out."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import capd_client.reading.reader  # noqa: F401  # in the container there is nothing to import
from capd_client import CaptureSession, read
from capd_protocol.messages import AttachCapture, Attached
from tests.client.conftest import Bench
from tests.client.helpers import wait_for_packets
from tests.support.attack import PATIENCE_S, RawClient, User, process_of
from tests.support.container import enter_container

#: Root, without a user namespace: docker's default.
CONTAINERS_ROOT = User(0, 0)


def in_container(bench: Bench, root: Path, function: Callable[[], Any]) -> Any:
    """Return what a function returns there."""
    root.mkdir()

    def run(channel: Any) -> None:
        enter_container(root, bench.daemon.socket_path)
        channel.send(function())

    with process_of(CONTAINERS_ROOT, run) as process:
        return process.hear()


def test_the_files_of_a_ring_are_read_from_a_container(bench: Bench, user_dir: Path) -> None:
    with bench.running(name="ring", ringbuffer_packets=2, ringbuffer_files=10) as capture:
        bench.send(7)
        wait_for_packets(capture, 7)

        def look() -> Any:
            with CaptureSession.attach("ring", socket_path="/capd.sock") as attached:
                files = attached.ring_files()
                packets = 0
                for file in files:
                    with file.open() as opened, read(opened) as found:
                        packets += len(list(found))
                return [file.path for file in files], packets

        paths, packets = in_container(bench, user_dir / "root", look)
    assert packets == 7
    assert paths == [file.name for file in sorted(bench.directory.glob("a_*.pcapng"))]


def test_a_container_gets_no_directory(bench: Bench, user_dir: Path) -> None:
    with bench.running(name="ring", ringbuffer_packets=2, ringbuffer_files=10):

        def look() -> Any:
            found: list[int] = []
            with RawClient("/capd.sock") as client:
                client.send(AttachCapture(capture="ring"))
                client.receive(Attached)
                before = set(range(256))
                for descriptor in before:
                    try:
                        found.append(stat.S_IFMT(os.fstat(descriptor).st_mode))
                    except OSError:
                        continue
                assert client.channel is not None
                answers = []
                for name in ("..", "/", ".", "../../../etc/shadow", "/etc/shadow"):
                    client.channel.settimeout(PATIENCE_S)
                    client.channel.send(name.encode())
                    data, ancillary, _, _ = client.channel.recvmsg(255, 64)
                    while data.decode() != name:  # the current file
                        data, ancillary, _, _ = client.channel.recvmsg(255, 64)
                    answers.append(len(ancillary))
                return stat.S_IFDIR in found, answers

        has_directory, answers = in_container(bench, user_dir / "root", look)
    assert not has_directory
    assert answers == [0] * 5


def test_events_have_bare_names_where_no_path_leads(bench: Bench, user_dir: Path) -> None:
    with bench.running(name="ring", ringbuffer_packets=2, ringbuffer_files=10) as capture:
        _, path = capture.wait_for_event(timeout=PATIENCE_S)

        def look() -> Any:
            with CaptureSession.attach("ring", socket_path="/capd.sock") as attached:
                event, message = attached.wait_for_event(timeout=PATIENCE_S)
                assert event == attached.SP_FILE
                with attached.open_file(message) as file:
                    return message, len(file.read(4))

        assert in_container(bench, user_dir / "root", look) == (Path(path).name, 4)
