"""A place to capture at: a daemon, a pair of interfaces, a directory."""

import socket
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from capd_client import CaptureSession
from tests.support.daemon import Daemon, running_daemon
from tests.support.namespace import veth_pair
from tests.support.tools import ip_json
from tests.support.traffic import build_frames, send

_FRAMES = build_frames((100,))


@dataclass
class Bench:
    """Everything that a capture needs; arguments that a test does not care about have a value here."""

    daemon: Daemon
    sender: str
    interface: str
    directory: Path

    @property
    def savefile(self) -> Path:
        """Where a session captures to by default."""
        return self.directory / "a.pcapng"

    def arguments(self, **changes: Any) -> dict[str, Any]:
        """Return a session's arguments."""
        return {
            "interfaces": self.interface,
            "savefile": self.savefile,
            "socket_path": self.daemon.socket_path,
            # The default of 32 takes 10 ms of a processor more: the kernel clears it, twice for each capture. Streams,
            # which a test names itself, have none.
            **({} if "interfaces" in changes else {"kernel_buffer_size": 4}),
            **changes,
        }

    def session(self, **changes: Any) -> CaptureSession:
        """Ask for a capture."""
        return CaptureSession(**self.arguments(**changes))

    def running(self, **changes: Any) -> CaptureSession:
        """Return a session whose capture runs."""
        capture = self.session(**changes)
        try:
            capture.wait_started(20)
        except BaseException:
            capture.terminate()
            raise
        return capture

    def send(self, packets: int, size_bytes: int = 100, rate_pps: float | None = None) -> None:
        """Send so many packets to the captured interface."""
        frames = _FRAMES if size_bytes == 100 else build_frames((size_bytes,))
        assert send(self.sender, frames, packets, rate_pps) == packets

    def exchange(self) -> None:
        """Have a packet to each kind of address come in at the captured interface, and one go out."""
        own, peer = (mac_of(name) for name in (self.interface, self.sender))
        rest = b"\x88\xb5" + bytes(50)
        for destination in (own, b"\xff" * 6, b"\x01\x00\x5e\0\0\1", b"\2\0\0\0\0\x99"):
            assert send(self.sender, [destination + peer + rest], 1) == 1
        # Not as the others are sent, past the queueing discipline: captures see nothing of that.
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as outgoing:
            outgoing.bind((self.interface, 0))
            outgoing.send(peer + own + rest)


def mac_of(interface: str) -> bytes:
    """Return an interface's MAC address."""
    (link,) = ip_json("link", "show", interface)
    return bytes.fromhex(link["address"].replace(":", ""))


@pytest.fixture(scope="module")
def lasting_veth() -> Generator[tuple[str, str], None, None]:
    """A pair of interfaces for all tests of a module, none of which harms it: making one takes a while."""
    with veth_pair("bench0", "bench1"):
        yield "bench0", "bench1"


@pytest.fixture
def bench(daemon: Daemon, lasting_veth: tuple[str, str], user_dir: Path) -> Bench:
    """With the daemon that all tests share."""
    return Bench(daemon, *lasting_veth, user_dir)


@pytest.fixture
def own_bench(lasting_veth: tuple[str, str], user_dir: Path) -> Generator[Bench, None, None]:
    """With a daemon that the test may harm."""
    with running_daemon(user_dir) as daemon:
        yield Bench(daemon, *lasting_veth, user_dir)
