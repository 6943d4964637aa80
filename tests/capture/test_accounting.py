"""Every packet is accounted for: written or counted as dropped; and the files are right by others' judgement."""

import subprocess
from pathlib import Path

import pytest

from capd_client import CaptureSession
from tests.support.daemon import Daemon
from tests.support.tools import capinfos, packets_of
from tests.support.traffic import build_frames, send

MIX = build_frames((64, 576, 1500), (7, 4, 1))


@pytest.mark.long
def test_a_million_packets_at_full_speed_are_written_or_counted(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    savefile = user_dir / "million.pcapng"
    with CaptureSession(interfaces=veth[1], savefile=savefile, socket_path=daemon.socket_path) as capture:
        capture.wait_started(20)
        sent = send(veth[0], MIX, 1_000_000)
        capture.stop()
        capture.wait(60)
        (counters,) = capture.interface_counters
    assert sent == 1_000_000
    assert counters.received_total == sent
    assert counters.written_total + counters.kernel_drops_total == sent
    assert counters.writer_drops_total == counters.excess_total == 0
    assert packets_of(savefile) == counters.written_total
    savefile.unlink()


@pytest.mark.long
@pytest.mark.alone
def test_nothing_is_dropped_at_200000_packets_a_second(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    savefile = user_dir / "paced.pcapng"
    with CaptureSession(interfaces=veth[1], savefile=savefile, socket_path=daemon.socket_path) as capture:
        capture.wait_started(20)
        sent = send(veth[0], MIX, 600_000, rate_pps=200_000)
        capture.stop()
        capture.wait(60)
        (counters,) = capture.interface_counters
    assert counters.written_total == sent == 600_000
    assert counters.drops_total == 0
    assert capinfos(savefile)["Number of packets"] == str(sent)
    tshark = subprocess.run(["tshark", "-r", savefile, "-c", "1"], capture_output=True, text=True, check=True)
    assert "UDP" in tshark.stdout
    savefile.unlink()
