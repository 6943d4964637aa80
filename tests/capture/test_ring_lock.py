"""Two captures write neither one ring, with an index or without, nor one file: the second is refused, and harmless."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from capd_client import CaptureSession
from capd_client.errors import DestinationError
from capd_protocol.formats import pcapng
from tests.capture.helpers import END_TIMEOUT_S, capturing, end, local_frame, until_packets
from tests.support.daemon import Daemon
from tests.support.tools import packets_of
from tests.support.traffic import send

FRAMES = [local_frame(1000, number) for number in range(300)]


@pytest.mark.parametrize("names", [(None, None), (None, "two"), ("one", None)])
def test_a_second_capture_onto_a_ring_is_refused_and_the_first_goes_on(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, names: tuple[str | None, str | None]
) -> None:
    first, second = names
    arguments: dict[str, Any] = {
        "interfaces": veth[1],
        "savefile": user_dir / "ring.pcapng",
        "ringbuffer_filesize": 100,
    }
    with capturing(daemon, **arguments, name=first) as capture:
        send(veth[0], FRAMES, len(FRAMES))
        with (
            pytest.raises(DestinationError, match=r"another capture writes this ring.*name another file"),
            CaptureSession(socket_path=daemon.socket_path, **arguments, name=second),
        ):
            raise AssertionError("entered")
        send(veth[0], FRAMES, len(FRAMES))
        until_packets(capture, 2 * len(FRAMES))
        end(capture)
    assert sum(closed.packets for closed in capture.files) == 2 * len(FRAMES)
    assert sum(map(packets_of, user_dir.glob("ring_*.pcapng"))) == 2 * len(FRAMES)


def test_a_ring_without_an_index_leaves_nothing_beside_its_files_and_a_killed_one_keeps_no_other_from_starting(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    arguments: dict[str, Any] = {
        "interfaces": veth[1],
        "savefile": user_dir / "ring.pcapng",
        "ringbuffer_filesize": 100,
    }
    with capturing(daemon, **arguments) as killed:
        send(veth[0], FRAMES, len(FRAMES))
        until_packets(killed, len(FRAMES))
        (worker,) = daemon.workers()
        os.kill(worker, signal.SIGKILL)
        killed.wait(END_TIMEOUT_S)
    files = sorted(user_dir.glob("ring_*"))
    # As where it is killed within a write.
    whole = files[-1].read_bytes()
    with files[-1].open("ab") as file:
        file.write(pcapng.enhanced_packet(0, 1, b"x" * 60, 60)[:-5])
    with capturing(daemon, **arguments) as capture:
        end(capture)
        assert [path.name for path in user_dir.iterdir() if not path.name.startswith("ring_")] == []
    assert files[-1].read_bytes() == whole
    assert sum(map(packets_of, files)) == len(FRAMES)


def test_a_second_capture_onto_a_file_that_is_written_is_refused_and_nothing_of_the_first_is_lost(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    path = user_dir / "a.pcapng"
    with capturing(daemon, interfaces=veth[1], savefile=path) as capture:
        send(veth[0], FRAMES, len(FRAMES))
        until_packets(capture, len(FRAMES))
        with (
            pytest.raises(DestinationError, match=r"a\.pcapng is written by another capture: name another"),
            CaptureSession(socket_path=daemon.socket_path, interfaces=veth[1], savefile=path),
        ):
            raise AssertionError("entered")
        send(veth[0], FRAMES, len(FRAMES))
        until_packets(capture, len(FRAMES))
        end(capture)
    assert packets_of(path) == 2 * len(FRAMES)
    assert [each.name for each in user_dir.iterdir()] == [path.name]
    # It is whole, and so may be replaced; and one that was killed keeps nobody from that.
    with capturing(daemon, interfaces=veth[1], savefile=path) as killed:
        (worker,) = daemon.workers()
        os.kill(worker, signal.SIGKILL)
        killed.wait(END_TIMEOUT_S)
    with capturing(daemon, interfaces=veth[1], savefile=path) as capture:
        send(veth[0], FRAMES, 3)
        until_packets(capture, 3)
        end(capture)
    assert packets_of(path) == 3


@pytest.mark.parametrize(
    ("files", "refusals"),
    # One that is written over an older one is not even opened; then its ring has given way.
    [(10, ["is written by another"]), (2, ["cannot be created", "is written by another"])],
)
def test_a_file_does_not_replace_one_that_a_ring_is_writing(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, files: int, refusals: list[str]
) -> None:
    arguments: dict[str, Any] = {"ringbuffer_filesize": 100, "ringbuffer_files": files}
    with capturing(daemon, interfaces=veth[1], savefile=user_dir / "ring.pcapng", **arguments) as capture:
        send(veth[0], FRAMES, len(FRAMES))  # three files, so that the third is written over the first
        until_packets(capture, len(FRAMES))
        current = max(user_dir.glob("ring_*.pcapng"))
        for text in refusals:
            with (
                pytest.raises(DestinationError, match=text),
                CaptureSession(socket_path=daemon.socket_path, interfaces=veth[1], savefile=current),
            ):
                raise AssertionError("entered")
        end(capture)
    assert [packets_of(each) for each in sorted(user_dir.glob("ring_*"))] == [
        each.packets for each in capture.files[-files:]
    ]
