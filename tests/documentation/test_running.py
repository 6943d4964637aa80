"""Samples that capture do what the page shows: on an interface eth0 of the test's own, with queries and answers of DNS.

The daemon has the configuration that docs/policy.md shows.
"""

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dpkt
import pytest

from capd_client import CaptureSession, ChildError, list_captures, stop_capture
from tests.cli.terminal import in_terminal
from tests.documentation.pages import PAGES, Command, Sample, commands, name_of, samples
from tests.support.daemon import running_daemon
from tests.support.namespace import veth_pair
from tests.support.traffic import transmit

PATIENCE_S = 40.0
#: Of a group that the configuration names, and of a user whose captures are revoked; neither needs to exist.
_GROUP_ID, _USER_ID = 23_811, 23_812
#: Far more than are sent.
MAX_FRAMES = 1_000_000
_NUMBER = re.compile(r"\d[\d.,:]*")


def dns_frames() -> list[bytes]:
    """Return a query and its answer."""
    question = dpkt.dns.DNS.Q(name="example.org")
    query = dpkt.dns.DNS(id=7, qd=[question])
    answer = dpkt.dns.DNS.RR(name="example.org", ip=bytes((192, 0, 2, 9)), ttl=60)
    response = dpkt.dns.DNS(id=7, qr=1, qd=[question], an=[answer])
    sides = [(bytes((192, 0, 2, 7)), 53124), (bytes((192, 0, 2, 1)), 53)]
    frames: list[bytes] = []
    for (source, source_port), (target, target_port), message in (
        (*sides, query),
        (*reversed(sides), response),
    ):
        udp: Any = dpkt.udp.UDP(sport=source_port, dport=target_port, data=bytes(message))
        udp.ulen = len(udp)
        ip: Any = dpkt.ip.IP(src=source, dst=target, p=17, data=udp)
        ip.len = len(ip)
        frames.append(bytes.fromhex("020000000002 020000000001 0800") + bytes(ip))
    return frames


@dataclass
class Place:
    """A daemon with traffic, and a file that was captured there."""

    socket_path: str
    state: Path
    capture_file: Path

    def adapted(self, text: str, directory: Path) -> str:
        """Return the text of a sample with the paths and the user that there are here."""
        for shown, here in (
            ("/var/lib/capd", str(self.state)),
            ("/dev/shm", str(directory)),
            ("/home/alice", str(directory)),
            ("--user alice", f"--user {_USER_ID}"),
        ):
            text = text.replace(shown, here)
        return text

    def variables(self, directory: Path) -> dict[str, str]:
        """Return the variables with which samples find the daemon, and leave nothing outside of a directory."""
        cache = str(self.capture_file.parent / "cache")
        return {"CAPD_SOCKET": self.socket_path, "TMPDIR": str(directory), "XDG_CACHE_HOME": cache}

    def stop_captures(self) -> int:
        """Stop what samples have started; return how many captures that were."""
        started = [each for each in list_captures(socket_path=self.socket_path) if each.name != "dns"]
        for each in started:
            with contextlib.suppress(ChildError):  # it has ended meanwhile
                stop_capture(each.capture_id, socket_path=self.socket_path)
        return len(started)


@contextlib.contextmanager
def traffic() -> Generator[None, None, None]:
    is_over = threading.Event()
    thread = threading.Thread(
        target=transmit,
        args=("peer0", dns_frames(), MAX_FRAMES, 200),
        kwargs={"max_seconds": 600, "until": lambda *_: is_over.is_set()},
        daemon=True,
    )
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(PATIENCE_S)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Generator[Place, None, None]:
    directory = tmp_path_factory.mktemp("documentation")
    (configuration,) = [each for each in samples("toml") if each.page == "docs/policy.md"]
    path, state = directory / "capd.toml", directory / "state"
    path.write_text(re.sub(r'(group = |groups = \[)"\w+"', rf"\g<1>{_GROUP_ID}", configuration.text))
    options = ("--config", str(path), "--state-directory", str(state))
    with veth_pair("peer0", "eth0"), traffic(), running_daemon(directory, *options) as daemon:
        capture_file = directory / "dns.pcapng"
        with CaptureSession(
            interfaces="eth0",
            capture_filter="udp port 53",
            savefile=capture_file,
            max_packet_count=20,
            socket_path=daemon.socket_path,
        ) as capture:
            capture.wait(PATIENCE_S)
        yield Place(daemon.socket_path, state, capture_file)


@pytest.fixture
def directory(place: Place, tmp_path: Path) -> Path:
    """A directory to run samples in, with a capture file."""
    (tmp_path / "dns.pcapng").write_bytes(place.capture_file.read_bytes())
    return tmp_path


@pytest.mark.parametrize("sample", samples("python"), ids=str)
def test_a_sample_in_python_runs(place: Place, directory: Path, sample: Sample) -> None:
    script = directory / "sample.py"
    script.write_text(place.adapted(sample.text, directory), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-u", script],
        cwd=directory,
        env={**os.environ, **place.variables(directory)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        # One that does not end by itself ends with its capture.
        place.stop_captures()
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, "")
    assert first.strip()


def pattern_of(line: str) -> str:
    """Return what a line looks like whose numbers, and units of sizes, are others."""
    parts = [re.escape(part) for part in _NUMBER.split(line.strip())]
    return re.sub(r"\\ kB", r" k?B", r"[\d.,:]+".join(parts)).replace("\\ ", r" +")


def run_in_terminal(place: Place, directory: Path, command: Command) -> None:
    """Run a command as a person does, who ends a capture with Ctrl-C when all has come that the page shows."""
    program, *arguments = command.words
    words = [sys.executable, "-m", "capd_client.cli", *arguments]
    is_staying = arguments[0] == "capture" and "--detach" not in arguments
    variables = [f"{name}={value}" for name, value in place.variables(directory).items()]
    assert program == "capctl"
    with in_terminal(["env", *variables, *words], columns=200, cwd=directory) as session:
        for line in command.output:
            session.wait_for(pattern_of(line))
        if is_staying:
            session.type("\x03")
        assert session.wait_ended() == 0, session.screen.lines


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_commands_of_a_page_show_what_it_says(place: Place, directory: Path, page: Path) -> None:
    shown = [each for each in samples("console") if each.page == name_of(page)]
    try:
        for sample in shown:
            adapted = Sample(sample.page, sample.line, sample.language, place.adapted(sample.text, directory))
            for command in commands(adapted):
                run_in_terminal(place, directory, command)
    finally:
        place.stop_captures()
