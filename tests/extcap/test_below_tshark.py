"""capd-extcap below a real tshark: its list, a capture, a wrong filter, and its end."""

import grp
import os
import select
import signal
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from capd_client import CaptureSession, list_captures, stop_capture
from tests.client.conftest import Bench
from tests.client.helpers import wait_until
from tests.extcap.wireshark import PATIENCE_S, PROGRAM, environment_of
from tests.support.attack import Channel, User, process_of
from tests.support.daemon import MakeDir, running_daemon
from tests.support.traffic import build_frames, send

pytestmark = pytest.mark.alone
FRAMES = build_frames((100,))
#: Any group that is there.
CAPTURERS = grp.getgrall()[-1]


@pytest.fixture
def environment(bench: Bench, tmp_path: Path) -> dict[str, str]:
    """Of a tshark that finds the program, and leaves nothing outside of a directory."""
    directory = tmp_path / ".config/wireshark/extcap"
    directory.mkdir(parents=True)
    (directory / "capd-extcap").symlink_to(PROGRAM)
    newer = tmp_path / ".local/lib/wireshark/extcap"
    newer.mkdir(parents=True)
    (newer / "capd-extcap").symlink_to(PROGRAM)
    return environment_of(bench.daemon.socket_path, tmp_path, TMPDIR=str(tmp_path))


@pytest.fixture
def ring(bench: Bench) -> Generator[CaptureSession, None, None]:
    """A ring that runs, named all."""
    with bench.session(detach=True, name="all", ringbuffer_filesize=10_000) as capture:
        yield capture
        stop_capture("all", socket_path=bench.daemon.socket_path)


def started(environment: dict[str, str], *words: str) -> "subprocess.Popen[bytes]":
    """Have a tshark run that prints the length of each packet."""
    command = ["tshark", "-n", "-l", *words, "-T", "fields", "-e", "frame.len"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def captures_with(bench: Bench, count: int) -> bool:
    return len(list_captures(socket_path=bench.daemon.socket_path)) == count


def shows(process: "subprocess.Popen[bytes]", bench: Bench, lines: int) -> None:
    """Send packets until tshark has shown some: it begins to read in its own time."""
    assert process.stdout is not None
    seen, deadline_s = b"", time.monotonic() + PATIENCE_S
    while seen.count(b"\n") < lines:
        assert time.monotonic() < deadline_s, seen
        bench.send(1)
        if select.select([process.stdout], [], [], 0.1)[0]:
            more = os.read(process.stdout.fileno(), 65_536)
            assert more, process.communicate()
            seen += more
    assert set(seen.split()) == {b"100"}


def test_tshark_lists_what_there_is(bench: Bench, environment: dict[str, str], ring: CaptureSession) -> None:
    done = subprocess.run(["tshark", "-D"], env=environment, capture_output=True, text=True, check=True)
    listed = {line.partition(". ")[2] for line in done.stdout.splitlines()}
    assert {
        f"capd:{bench.interface} (capd {bench.interface})",
        f"capd:capture/all (capd capture all, on {bench.interface})",
        "capd:ssh:// (capd on another host, over ssh)",
    } <= listed
    done = subprocess.run(
        ["tshark", "-L", "-i", f"capd:{bench.interface}"], env=environment, capture_output=True, text=True, check=True
    )
    assert "EN10MB (Ethernet)" in done.stdout + done.stderr


def test_tshark_captures_as_many_as_it_wants(bench: Bench, environment: dict[str, str]) -> None:
    preference = f"extcap.capd_{bench.interface}.snaplen:60"
    with started(environment, "-i", f"capd:{bench.interface}", "-f", "udp", "-o", preference, "-c", "5") as process:
        shows(process, bench, 5)
        assert process.wait(PATIENCE_S) == 0
    wait_until(lambda: captures_with(bench, 0), "the capture has ended")


def test_an_ordinary_user_captures_with_a_tshark_that_may_capture_nothing(
    make_dir: MakeDir, lasting_veth: tuple[str, str], user_dir: Path
) -> None:
    sender, name = lasting_veth
    directory = user_dir / ".config/wireshark/extcap"
    directory.mkdir(parents=True)
    (directory / "capd-extcap").symlink_to(PROGRAM)

    def run(channel: Channel) -> None:
        environment = environment_of(daemon.socket_path, user_dir, TMPDIR=str(user_dir))
        with started(environment, "-i", name) as process:
            process.communicate(timeout=PATIENCE_S)
            channel.send(process.returncode)
        with started(environment, "-i", f"capd:{name}", "-c", "3") as process:
            output, _ = process.communicate(timeout=PATIENCE_S)
            channel.send((process.returncode, output))

    user = User(23_735, 23_735, (CAPTURERS.gr_gid,))
    options = ("--group", CAPTURERS.gr_name)
    with running_daemon(make_dir("below"), *options) as daemon, process_of(user, run) as process:
        assert process.hear() != 0
        deadline_s = time.monotonic() + PATIENCE_S
        while not process.channel.poll(0.1):
            assert time.monotonic() < deadline_s
            send(sender, FRAMES, 1)
        assert process.hear() == (0, b"100\n" * 3)


def test_tshark_shows_what_is_wrong_with_a_filter(bench: Bench, environment: dict[str, str]) -> None:
    began_s = time.monotonic()
    with started(environment, "-i", f"capd:{bench.interface}", "-f", "udp port and") as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert time.monotonic() - began_s < PATIENCE_S / 2
    assert process.returncode != 0
    assert b"syntax error (at character 10)" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_tshark_is_stopped_at_once_though_no_packet_comes(
    bench: Bench, environment: dict[str, str], number: signal.Signals
) -> None:
    with started(environment, "-i", f"capd:{bench.interface}") as process:
        wait_until(lambda: captures_with(bench, 1), "it captures")
        shows(process, bench, 1)
        began_s = time.monotonic()
        process.send_signal(number)
        process.communicate(timeout=PATIENCE_S)
        wait_until(lambda: captures_with(bench, 0), "the capture has ended")
    assert time.monotonic() - began_s < 3


def test_nothing_stays_of_a_tshark_that_is_killed(bench: Bench, environment: dict[str, str]) -> None:
    with started(environment, "-i", f"capd:{bench.interface}") as process:
        shows(process, bench, 1)
        process.kill()
        wait_until(lambda: captures_with(bench, 0), "the capture has ended")


def test_tshark_follows_a_capture_that_runs(bench: Bench, environment: dict[str, str], ring: CaptureSession) -> None:
    with started(environment, "-i", "capd:capture/all", "-c", "3") as process:
        shows(process, bench, 3)
        assert process.wait(PATIENCE_S) == 0
    assert captures_with(bench, 1)
