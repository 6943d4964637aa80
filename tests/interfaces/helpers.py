"""Interfaces that come and go, what a file says of them, and what other programs do."""

import contextlib
import itertools
import os
import select
import subprocess
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capd_client import CaptureSession
from capd_protocol.formats import pcapng
from tests.capture.helpers import ip, text_option
from tests.support.tools import ip_json

PATIENCE_S = 15.0
_numbers = itertools.count(1)


def unique(stem: str) -> str:
    """Return a name that no other test uses, short enough for six characters more."""
    name = f"{stem}{next(_numbers)}"
    assert len(name) <= 9
    return name


def wait_until(condition: Callable[[], Any], timeout_s: float = PATIENCE_S) -> None:
    """Wait for what has no event to wait for."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it never came to be"
        time.sleep(0.005)


# Interfaces -----------------------------------------------------------------------------------------------------


def ip_batch(commands: Iterable[str]) -> None:
    """Have one ``ip`` process carry out many commands."""
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands) + "\n", text=True, check=True, timeout=50)


def link_of(name: str) -> dict[str, Any]:
    """Return what ``ip -d`` says of an interface."""
    found: dict[str, Any] = ip_json("-d", "-s", "-s", "link", "show", "dev", name)[0]
    return found


def names_now() -> set[str]:
    """Return the names of all interfaces that are there."""
    return {link["ifname"] for link in ip_json("link")}


def add_pair(near: str, far: str, *options: str) -> None:
    """Make a pair of connected interfaces, and wait until packets get through."""
    ip_batch(
        (
            f"link add name {near} {' '.join(options)} type veth peer name {far}",
            f"link set dev {near} up",
            f"link set dev {far} up",
        )
    )
    wait_until(lambda: all(link_of(name)["operstate"] == "UP" for name in (near, far)))


def delete(name: str) -> None:
    """Delete an interface."""
    ip("link", "delete", "dev", name)


@contextlib.contextmanager
def cleaned(prefix: str) -> Generator[None, None, None]:
    """Delete afterwards all interfaces whose names begin so, and that are still there."""
    try:
        yield
    finally:
        while left := [name for name in names_now() if name.startswith(prefix)]:
            # One whose other end was in a namespace that has ended goes by itself.
            subprocess.run(["ip", "link", "delete", "dev", left[0]], check=False, capture_output=True, timeout=10)


def frame_for(mark: int, number: int, size_bytes: int = 64) -> bytes:
    """Return a frame that tells which interface it was sent to, and which one it is."""
    header = bytes.fromhex("020000000002 0200") + mark.to_bytes(2, "big") + number.to_bytes(2, "big") + b"\x88\xb5"
    return header + bytes((mark + number + at) % 251 for at in range(size_bytes - 14))


# Captures -------------------------------------------------------------------------------------------------------


def until_event(capture: CaptureSession, event_type: int, message: object, timeout_s: float = PATIENCE_S) -> list[Any]:
    """Take events until this one comes; return those before it."""
    events: list[Any] = []
    deadline_s = time.monotonic() + timeout_s
    while True:
        event = capture.wait_for_event(timeout=max(0, deadline_s - time.monotonic()))
        if event == (event_type, message):
            return events
        events.append(event)


@dataclass
class Contents:
    """What is in a pcapng file whose interfaces may be described anywhere."""

    #: (name, link type) in the order of their descriptions.
    interfaces: list[tuple[str, int]] = field(default_factory=list)
    #: (name of the interface, bytes) in the order of the file.
    packets: list[tuple[str, bytes]] = field(default_factory=list)
    #: On the wire, of each packet.
    sizes_bytes: list[int] = field(default_factory=list)
    #: (received, dropped, delivered) by name.
    counts: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    #: How many interfaces are described before the first packet.
    declared: int = 0

    def of(self, name: str) -> list[bytes]:
        """Return the packets of one interface."""
        return [data for interface, data in self.packets if interface == name]


def read(path: Path | str) -> Contents:
    """Read a complete file."""
    contents = Contents()
    for block in pcapng.read_blocks(Path(path).read_bytes()):
        match block:
            case pcapng.InterfaceDescription():
                contents.interfaces.append((text_option(block.options, pcapng.IF_NAME) or "", block.linktype))
                contents.declared += not contents.packets
            case pcapng.EnhancedPacket():
                contents.packets.append((contents.interfaces[block.interface_id][0], bytes(block.data)))
                contents.sizes_bytes.append(block.original_size_bytes)
            case pcapng.InterfaceStatistics():
                options = {code: int.from_bytes(value, "little") for code, value in block.options}
                contents.counts[contents.interfaces[block.interface_id][0]] = (
                    options[pcapng.ISB_IFRECV],
                    options[pcapng.ISB_IFDROP],
                    options[pcapng.ISB_USRDELIV],
                )
            case _:
                pass
    assert len(contents.counts) == len(contents.interfaces)
    return contents


def check_accounts(capture: CaptureSession, path: Path | str) -> None:
    """Check that the counters of every interface add up, and are those in the file."""
    contents = read(path)
    assert [each.interface for each in capture.interface_counters] == [name for name, _ in contents.interfaces]
    for each in capture.interface_counters:
        in_files = each.written_total + each.kernel_drops_total + each.writer_drops_total + each.excess_total
        assert each.received_total == in_files
        assert contents.counts[each.interface] == (each.received_total, each.drops_total, each.written_total)


# Other programs -------------------------------------------------------------------------------------------------

#: Runs a program that sees in /sys the interfaces of this network namespace.
OWN_SYS = ("unshare", "--mount", "sh", "-c", 'mount -t sysfs none /sys && exec "$@"', "sh")


def outcome_of(*command: str, own_sys: bool = True) -> subprocess.CompletedProcess[str]:
    """Return what a program says, and how it ended."""
    return subprocess.run(
        [*(OWN_SYS if own_sys else ()), *command], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


@contextlib.contextmanager
def tcpdump_until_told(path: Path, *options: str) -> Generator[None, None, None]:
    """Have tcpdump capture until the block is over."""
    # Its own 2 MiB are eight packets of the largest size.
    command = ["tcpdump", "-B", "65536", *options, "-w", str(path), "--nano", "--immediate-mode", "-U", "-Z", "root"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        try:
            text = b""
            while b"listening on" not in text:
                ready, _, _ = select.select([process.stderr], [], [], PATIENCE_S)
                data = os.read(process.stderr.fileno(), 4096) if ready else b""
                assert data, text
                text += data
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def pcap_records(path: Path) -> tuple[int, list[tuple[int, bytes]]]:
    """Return link type and (original length, bytes) of each packet of a pcap file."""
    data = path.read_bytes()
    at = 24
    if len(data) < at:
        return 0, []
    records: list[tuple[int, bytes]] = []
    while at + 16 <= len(data):
        captured, original = (int.from_bytes(data[at + skip : at + skip + 4], "little") for skip in (8, 12))
        if at + 16 + captured > len(data):
            break  # still being written
        records.append((original, data[at + 16 : at + 16 + captured]))
        at += 16 + captured
    return int.from_bytes(data[20:24], "little"), records


def cpu_seconds(process_id: int) -> float:
    """Return how long a process has used a processor."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class OtherNamespace:
    """Another network namespace, for as long as a process in it runs."""

    def __init__(self, process_id: int) -> None:
        self.process_id = process_id

    def ip(self, *arguments: str) -> None:
        """Run the ``ip`` program there."""
        command = ["nsenter", f"--net=/proc/{self.process_id}/ns/net", "ip", *arguments]
        subprocess.run(command, check=True, timeout=PATIENCE_S)

    def take(self, name: str) -> None:
        """Move an interface of this namespace there."""
        ip("link", "set", "dev", name, "netns", str(self.process_id))

    def give(self, name: str) -> None:
        """Move an interface of that namespace here."""
        self.ip("link", "set", "dev", name, "netns", str(os.getpid()))


@contextlib.contextmanager
def other_namespace() -> Generator[OtherNamespace, None, None]:
    """Have another network namespace."""
    command = ["unshare", "--net", "sh", "-c", "echo there; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"there\n"
            yield OtherNamespace(process.pid)
        finally:
            process.kill()
