"""Two captures do not write one ring, with an index or without: the second one is refused, and the first goes on."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from capd_client import CaptureSession
from capd_client.errors import DestinationError
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
        (worker,) = daemon.workers()
        os.kill(worker, signal.SIGKILL)
        killed.wait(END_TIMEOUT_S)
    with capturing(daemon, **arguments) as capture:
        end(capture)
        assert [path.name for path in user_dir.iterdir() if not path.name.startswith("ring_")] == []
