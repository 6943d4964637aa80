"""A file system that becomes read-only while it is captured to: it ends as a full disk does, and all is counted."""

import contextlib
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from capd_client.errors import DiskError
from capd_protocol.messages import EndReason
from tests.capture.helpers import END_TIMEOUT_S, all_events, capturing, local_frame, messages, until_packets
from tests.support.daemon import Daemon
from tests.support.tools import packets_of, unmount
from tests.support.traffic import send

FRAMES = [local_frame(1000, number) for number in range(400)]
RING = {"ringbuffer_filesize": 100}


@contextlib.contextmanager
def ext4(directory: Path) -> Generator[Path, None, None]:
    """A file system of its own that becomes read-only when it finds an error."""
    mount, image = directory / "disk", directory / "image"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True, timeout=30)
    subprocess.run(["mount", "-o", "loop,errors=remount-ro", image, mount], check=True, timeout=30)
    try:
        yield mount
    finally:
        unmount(mount)


def find_an_error(mount: Path) -> None:
    """Have the kernel do what it does when it finds an error in the file system (ext4(5), ``abort``)."""
    subprocess.run(["mount", "-o", "remount,abort", mount], check=False, timeout=30, capture_output=True)
    with pytest.raises(OSError, match="Read-only"):
        (mount / "probe").touch()


@pytest.mark.parametrize(
    "arguments",
    [{}, RING, {**RING, "ringbuffer_files": 3}, {**RING, "ringbuffer_free_space": 1000}, {**RING, "name": "named"}],
    ids=["file", "ring", "written-over", "free-space", "index"],
)
def test_a_disk_that_becomes_read_only_ends_the_capture_and_all_is_counted(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path, arguments: dict[str, Any]
) -> None:
    with ext4(user_dir) as disk:
        with capturing(daemon, interfaces=veth[1], savefile=disk / "a.pcapng", **arguments) as capture:
            send(veth[0], FRAMES, len(FRAMES))
            events = until_packets(capture, len(FRAMES))
            find_an_error(disk)
            send(veth[0], FRAMES, len(FRAMES))
            capture.wait(END_TIMEOUT_S)
            more, error = all_events(capture)
        assert isinstance(error, DiskError), error
        assert "Read-only" in str(error)
        assert capture.end_reason == EndReason.FAILED
        (counters,) = capture.interface_counters
        assert counters.received_total == counters.written_total + counters.drops_total
        assert counters.written_total >= len(FRAMES)
        assert counters.writer_drops_total > 0
        events += more
        assert sum(messages(events, capture.SP_PACKET_COUNT)) == counters.written_total
        if "ringbuffer_files" not in arguments:
            found = sum(map(packets_of, disk.glob("a*.pcapng")))
            assert found == counters.written_total
    assert "Traceback" not in daemon.log
