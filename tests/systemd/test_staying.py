"""Detached captures and a real systemd, which keeps them while there is no daemon."""

import contextlib
import json
from collections.abc import Generator
from pathlib import Path

import pytest

from capd_client import list_captures
from capd_protocol.messages import CaptureSummary
from tests.client.helpers import read_complete
from tests.support.attack import FRAMES, eventually
from tests.support.tools import ip_json
from tests.support.traffic import send
from tests.systemd.machine import Machine, await_daemon_after

pytestmark = pytest.mark.long

HOME = Path("/home/capd-alice")
SOCKET = Path("/run/capd/capd.sock")
CONFIGURATION = """\
[[rule]]
name = "{rule}"
users = ["capd-alice"]
interfaces = ["{interfaces}"]
"""


def listed(machine: Machine) -> list[CaptureSummary]:
    """Return what runs. Asked here: to start capctl takes a tenth of a second of a processor, and some wait for it."""
    return list(list_captures(socket_path=str(machine.path(SOCKET))))


def kept(machine: Machine) -> int:
    """How many descriptors systemd keeps."""
    return int(machine.show("NFileDescriptorStore"))


@contextlib.contextmanager
def staying(machine: Machine, *options: object, name: str = "ring") -> Generator[CaptureSummary, None, None]:
    """Have a detached capture of capd-alice; what is left of it is ended with the block."""
    words = ("capctl", "capture", "-i", "rx", "-w", HOME / f"{name}.pcapng", "--update-interval", "0.02", *options)
    machine.run(*words, "--name", name, "--detach", user="capd-alice")
    try:
        (summary,) = (each for each in listed(machine) if each.name == name)
        yield summary
    finally:
        machine.run("systemctl", "start", "capd.service")
        if any(each.name == name for each in listed(machine)):
            machine.run("capctl", "stop", name, user="capd-alice")
        eventually(lambda: listed(machine) == [], "it has ended")
        eventually(lambda: kept(machine) == 0, "nothing is kept of it")
        machine.run("sh", "-c", f"rm -f {HOME}/{name}*")


def runs(machine: Machine, number: int) -> bool:
    """Whether a capture of this number has its first file, since the daemon runs."""
    return [(each.capture_id, each.files_total > 0) for each in listed(machine)] == [(number, True)]


def files(machine: Machine, name: str = "ring") -> list[Path]:
    return sorted(machine.path(HOME).glob(f"{name}_*"))


def captured(machine: Machine, packets: int) -> None:
    """Send packets, and wait until this daemon has captured them."""
    before = listed(machine)[0].packets_total
    send("tx", FRAMES, packets)
    eventually(lambda: listed(machine)[0].packets_total == before + packets, "they are captured")


def test_a_ring_goes_on_over_restarts_and_crashes(service: Machine) -> None:
    options = ("-b", "packets:4", "-b", "files:50", "-f", f"ether src {FRAMES[0][6:12].hex(':')}")
    with staying(service, *options) as summary:
        number = summary.capture_id
        captured(service, 6)
        for end in ("restart", "restart", "kill", "restart", "kill"):
            daemon = service.daemon()
            if end == "kill":
                service.run("kill", "-KILL", daemon)
            else:
                service.run("systemctl", "restart", "capd.service")
            await_daemon_after(service, [daemon])
            service.run("systemctl", "reset-failed", "capd.service")
            eventually(lambda: runs(service, number), "it goes on")
            (now,) = listed(service)
            assert (now.name, now.started_ns) == ("ring", summary.started_ns)
            captured(service, 6)
            assert kept(service) == 2
        service.run("capctl", "stop", "ring", user="capd-alice")
        eventually(lambda: listed(service) == [], "it has ended")
        # Two files of each run, with numbers that go on.
        assert [int(path.name[5:10]) for path in files(service)] == list(range(1, 13))
        # The last one of a daemon that was killed has no statistics, but all that was announced.
        whole = [path for index, path in enumerate(files(service), 1) if index not in (6, 10)]
        assert [len(read_complete(path).packets) for path in whole] == [4, 2] * 2 + [4] + [4, 2] + [4] + [4, 2]
        for index in (6, 10):
            path = f"{HOME}/{files(service)[index - 1].name}"
            shown = service.run("capctl", "read", path, user="capd-alice")
            assert len(shown.splitlines()) == 2
        eventually(lambda: kept(service) == 0, "nothing is kept of it")


def test_a_ring_keeps_its_number_of_files_over_restarts(service: Machine) -> None:
    with staying(service, "-b", "packets:1000", "-b", "files:2") as summary:
        for _ in range(3):
            service.run("systemctl", "restart", "capd.service")
            eventually(lambda: runs(service, summary.capture_id), "it goes on")
        assert [int(path.name[5:10]) for path in files(service)] == [3, 4]


def test_a_stop_of_the_service_ends_it_for_good(service: Machine) -> None:
    with staying(service, "-b", "packets:1000"):
        service.run("systemctl", "stop", "capd.service")
        assert read_complete(files(service)[0]).packets == []
        service.run("systemctl", "start", "capd.service")
        assert listed(service) == []
        assert len(files(service)) == 1


def test_a_single_file_ends_with_the_daemon_and_is_complete(service: Machine) -> None:
    with staying(service, "-f", "udp"):
        assert kept(service) == 0
        captured(service, 3)
        service.run("systemctl", "restart", "capd.service")
        assert listed(service) == []
        assert len(read_complete(service.path(HOME / "ring.pcapng")).packets) == 3


def test_one_whose_limit_is_reached_is_kept_no_longer(service: Machine) -> None:
    with staying(service, "-b", "packets:2", "-c", "3", "-f", "udp"):
        assert kept(service) == 2
        send("tx", FRAMES, 3)
        eventually(lambda: listed(service) == [], "it has ended")
        eventually(lambda: kept(service) == 0, "nothing is kept of it")


def test_its_time_counts_from_its_beginning(service: Machine) -> None:
    with staying(service, "-b", "packets:1000", "-a", "duration:4") as summary:
        service.run("systemctl", "restart", "capd.service")
        eventually(lambda: runs(service, summary.capture_id), "it goes on")
        eventually(lambda: listed(service) == [], "its time is over")
        (ended, *_) = service.run(
            "journalctl", "--output=json", "--no-pager", "CAPD_END=duration", "--output-fields=CAPD_FILE", "--reverse"
        ).splitlines()
        took_s = int(json.loads(ended)["__REALTIME_TIMESTAMP"]) / 1e6 - summary.started_ns / 1e9
        assert 3.5 < took_s < 6
        eventually(lambda: kept(service) == 0, "nothing is kept of it")


def test_one_whose_interface_is_not_there_waits_for_it_and_can_be_stopped(service: Machine) -> None:
    with staying(service, "-b", "packets:1000") as summary:
        ip_json("link", "set", "rx", "down")
        try:
            service.run("systemctl", "restart", "capd.service")
            eventually(lambda: "is down" in service.run("journalctl", "-u", "capd", "-n", "20"), "it is logged")
            (now,) = listed(service)
            assert (now.capture_id, now.files_total) == (summary.capture_id, 0)
            assert kept(service) == 2
        finally:
            ip_json("link", "set", "rx", "up")
        eventually(lambda: runs(service, summary.capture_id), "it goes on")
        ip_json("link", "set", "rx", "down")
        try:
            service.run("systemctl", "restart", "capd.service")
            service.run("capctl", "stop", "ring", user="capd-alice")
            eventually(lambda: listed(service) == [], "it has ended")
            eventually(lambda: kept(service) == 0, "nothing is kept of it")
        finally:
            ip_json("link", "set", "rx", "up")


def test_policy_is_asked_anew(service: Machine) -> None:
    configuration = service.path("/etc/capd/capd.toml")
    try:
        with staying(service, "-b", "packets:1000") as summary:
            configuration.write_text(CONFIGURATION.format(rule="new", interfaces="r*"))
            service.run("systemctl", "restart", "capd.service")
            eventually(lambda: runs(service, summary.capture_id), "it goes on")
            assert "goes on, under new instead of capd" in service.run("journalctl", "-u", "capd", "-n", "20")
            configuration.write_text(CONFIGURATION.format(rule="new", interfaces="other*"))
            service.run("systemctl", "restart", "capd.service")
            eventually(lambda: listed(service) == [], "it is not granted any more")
            assert "may not capture on rx, only on other*" in service.run("journalctl", "-u", "capd", "-n", "20")
            assert kept(service) == 0
    finally:
        configuration.unlink()
        service.run("systemctl", "restart", "capd.service")


def test_many_go_on_in_one_directory(service: Machine) -> None:
    with contextlib.ExitStack() as stack:
        numbers = {stack.enter_context(staying_many(service, f"ring{index}")) for index in range(5)}
        service.run("systemctl", "restart", "capd.service")
        eventually(lambda: {each.capture_id for each in listed(service) if each.files_total} == numbers, "they go on")
        assert kept(service) == 10
        for index in range(5):
            assert len(files(service, f"ring{index}")) == 2
    eventually(lambda: kept(service) == 0, "nothing is kept of them")


@contextlib.contextmanager
def staying_many(machine: Machine, name: str) -> Generator[int, None, None]:
    words = ("capctl", "capture", "-i", "rx", "-w", HOME / f"{name}.pcapng", "-b", "packets:1000", "--json")
    events = machine.run(*words, "--name", name, "--detach", user="capd-alice").splitlines()
    try:
        yield json.loads(events[0])["capture_id"]
    finally:
        machine.run("capctl", "stop", name, user="capd-alice")
        eventually(lambda: name not in [each.name for each in listed(machine)], "it has ended")
        machine.run("sh", "-c", f"rm -f {HOME}/{name}_*")
