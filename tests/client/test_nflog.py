"""Netfilter's log as a source, in a network namespace of its own."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from capd_client import (
    CaptureSession,
    ChildError,
    InvalidArgument,
    ResourceError,
    SourceError,
    UnsupportedError,
    read,
)
from capd_client.modules.devices import nflog_wire
from capd_client.modules.devices.nflog import NflogCapture
from capd_protocol.formats.packet_flags import Direction
from tests.capture.helpers import ip
from tests.cli.calling import called
from tests.client.conftest import Bench
from tests.client.helpers import wait_until
from tests.client.test_extcap import processes_with
from tests.client.test_modules import written
from tests.client.test_streams import typed
from tests.support.namespace import private_network_namespace

#: Datagrams to port 7 come to three groups when they come in, those to port 8 to one when they go out.
RULES = """table inet capd {
  chain incoming { type filter hook input priority 0;
    udp dport 7 log group 5 prefix "came"
    udp dport 7 log group 6
    udp dport 7 log group 7;
  }
  chain outgoing { type filter hook output priority 0; udp dport 8 log group 5 prefix "went"; }
}
"""


@pytest.fixture(autouse=True)
def log() -> Generator[None, None, None]:
    """The rules, in a network namespace that has a loopback."""
    with private_network_namespace():
        ip("link", "set", "lo", "up")
        subprocess.run(["nft", "-f", "-"], input=RULES, text=True, check=True)
        yield


def send(count: int, port: int = 7, address: str = "127.0.0.1") -> None:
    """Send numbered datagrams."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        for number in range(count):
            sender.sendto(b"datagram %06d" % number, (address, port))


def fields_of(path: Path, *names: str) -> list[list[str]]:
    """Return what tshark finds in each packet."""
    words = [word for name in names for word in ("-e", name)]
    command = ["tshark", "-r", str(path), "-T", "fields", *words]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    return [line.split("\t") for line in lines[:-1]]


def test_packets_are_those_of_tcpdump_and_have_the_kernels_time(bench: Bench) -> None:
    theirs = bench.directory / "theirs.pcap"
    command = ["tcpdump", "-i", "nflog:6", "-U", "-w", str(theirs)]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE) as tcpdump,
        bench.session(interfaces="nflog:5,7") as capture,
    ):
        try:
            assert tcpdump.stderr is not None
            while b"listening on nflog:6" not in tcpdump.stderr.readline():
                assert tcpdump.poll() is None
            began_ns = time.time_ns()
            send(20)
            ended_ns = time.time_ns()
            wait_until(lambda: written(capture) == 40, "we have all")
            wait_until(lambda: theirs.exists() and len(fields_of(theirs, "frame.len")) == 20, "tcpdump has all")
        finally:
            tcpdump.terminate()
    packets = list(read(bench.savefile))
    # To the microsecond: the kernel's own stamps are no later than the sending of the last one.
    assert all(began_ns - 1000 <= each.timestamp_ns <= ended_ns for each in packets)
    names = ("nflog.res_id", "udp.dstport", "data.data")
    ours = fields_of(bench.savefile, *names, "nflog.prefix")
    assert [each[1:3] for each in ours if each[0] == "7"] == [each[1:] for each in fields_of(theirs, *names)]
    assert {tuple(each[::3]) for each in ours} == {("5", "came"), ("7", "")}
    # Of nflog_wire's own: what libpcap keeps, its reader does, with the attribute of the sequence beyond that.
    assert {bytes(each.data)[:1] for each in packets} == {b"\x02"}


def test_both_directions_and_ip6_are_there_and_direction_chooses(bench: Bench) -> None:
    with bench.session(interfaces="nflog:5", packet_flags=True) as capture:
        send(2)
        send(3, port=8)
        send(4, address="::1")
        wait_until(lambda: written(capture) == 9, "all are there")
    assert [each.direction for each in read(bench.savefile)].count(Direction.OUT) == 3
    assert [each.direction for each in read(bench.savefile)].count(Direction.IN) == 6
    assert sum(bool(each[0]) for each in fields_of(bench.savefile, "ipv6.dst")) == 4
    with bench.session(interfaces="nflog:5", direction="out") as capture:
        send(2)
        send(3, port=8)
        wait_until(lambda: written(capture) == 3, "all are there")
    assert {each[0] for each in fields_of(bench.savefile, "udp.dstport")} == {"8"}


@pytest.mark.parametrize("buffer_mib", [1, None])
def test_losses_are_exact(bench: Bench, buffer_mib: int | None) -> None:
    count = 30_000
    with bench.session(interfaces="nflog:5", kernel_buffer_size=buffer_mib) as capture:
        (module,) = [each for each in ours() if is_module(each)]
        if buffer_mib is not None:
            os.kill(module, signal.SIGSTOP)  # it cannot keep up
        send(count)
        os.kill(module, signal.SIGCONT)
        wait_until(lambda: unread_bytes() == 0, "what the kernel has kept is read")
        send(1)  # its number shows what was lost before it
        count += 1
        wait_until(lambda: written(capture) + drops_of(capture) == count, "each is accounted for")
        drops = drops_of(capture)
    assert len(list(read(bench.savefile))) == count - drops
    if buffer_mib is not None:
        assert drops > 1000
    info = subprocess.run(
        ["tshark", "-r", str(bench.savefile), "-z", "io,stat,0", "-q"], capture_output=True, check=True
    )
    assert str(count - drops).encode() in info.stdout


def ours() -> list[int]:
    """Return the processes of group 5 in this network namespace: other tests run, too."""
    here = Path("/proc/thread-self/ns/net").readlink()
    return [each for each in processes_with("nflog:5") if Path(f"/proc/{each}/ns/net").readlink() == here]


def is_module(process: int) -> bool:
    """Whether a process is a module's, and not its guardian."""
    return b"guardian" not in Path(f"/proc/{process}/cmdline").read_bytes()


def unread_bytes() -> int:
    """Return what netlink sockets of netfilter hold."""
    lines = Path("/proc/thread-self/net/netlink").read_text().splitlines()[1:]
    return sum(int(line.split()[4]) for line in lines if line.split()[1] == "12")


def drops_of(capture: CaptureSession) -> int:
    """Return how many were lost, as of the last report."""
    return capture.interface_counters[0].drops_total


REFUSALS: dict[str, tuple[str, dict[str, Any], type[ChildError], str]] = {
    "no group": ("nflog:", {}, InvalidArgument, "names no groups: write nflog:GROUP"),
    "too large": ("nflog:65536", {}, InvalidArgument, "a group is a number from 0 to 65535"),
    "twice": ("nflog:1,1", {}, InvalidArgument, "up to 32 different ones"),
    "too many": ("nflog:" + ",".join(map(str, range(33))), {}, InvalidArgument, "up to 32 different ones"),
    "words": ("nflog:eth0", {}, InvalidArgument, "names no groups"),
    "a radio": ("nflog:1", {"monitor_mode": True}, UnsupportedError, "is no radio: leave the monitor mode out"),
    "another type": ("nflog:1", {"link_layer_type": "EN10MB"}, UnsupportedError, "cannot be chosen"),
    "a queue": ("nfqueue:1", {}, UnsupportedError, "nfqueue:1 is no tap: .* log them instead"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_no_group_is_refused(bench: Bench, name: str) -> None:
    device, arguments, error, words = REFUSALS[name]
    with pytest.raises(error, match=words) as raised:
        bench.running(interfaces=device, **arguments)
    assert raised.value.failure is not None
    assert raised.value.failure.interface == device
    assert not bench.savefile.exists()


def test_a_group_that_somebody_listens_to_is_refused_and_free_behind_that(bench: Bench) -> None:
    with bench.session(interfaces="nflog:5"), pytest.raises(ResourceError, match="another program listens to group 5"):
        bench.running(interfaces="nflog:7,5")
    with bench.session(interfaces="nflog:7,5") as capture:
        send(1)
        wait_until(lambda: written(capture) == 2, "it is there")


def test_the_right_that_is_missing_is_named(user_dir: Path) -> None:
    done = typed("capctl capture -i nflog:5 -w a.pcapng", user_dir)
    assert done.returncode != 0
    assert "nflog:5 takes CAP_NET_ADMIN in the network namespace" in done.stderr
    lines = typed("capctl interfaces --modules", user_dir).stdout.splitlines()
    assert ["nflog", "CAP_NET_ADMIN", "module"] in [line.split()[1:4] for line in lines]
    assert typed("capctl linktypes nflog:5", user_dir).stdout.splitlines()[1].split()[:2] == ["239", "NFLOG"]
    assert not any("CAP_NET_ADMIN" in line for line in called("interfaces", "--modules").stdout.splitlines())


def test_a_module_that_is_killed_fails_the_capture_and_leaves_the_group_free(bench: Bench) -> None:
    with bench.session(interfaces="nflog:5") as capture:
        send(3)
        wait_until(lambda: written(capture) == 3, "they are there")
        (module,) = [each for each in ours() if is_module(each)]
        os.kill(module, signal.SIGKILL)
        with pytest.raises(SourceError, match="was ended by SIGKILL"):
            list(capture)
    assert len(list(read(bench.savefile))) == 3
    assert not ours()
    with bench.session(interfaces="nflog:5"):
        pass


def test_numbers_that_begin_again_are_no_loss() -> None:
    capture = NflogCapture("nflog:1", [1])

    def taken(*numbers: int) -> tuple[int, int]:
        packets = (nflog_wire.LogPacket(1, 0, b"", number, Direction.IN) for number in numbers)
        capture._waiting.extend(packets)
        capture.read(len(numbers))
        counts = capture.statistics()
        return counts.received, counts.dropped

    assert taken(0, 1) == (2, 0)
    assert taken(5) == (6, 3)
    capture._next[1] = 2**32 - 1
    assert taken(2**32 - 1, 0, 2) == (10, 4)


def test_a_missing_right_is_a_typed_refusal(user_dir: Path) -> None:
    code = (
        "from capd_client import CaptureSession, NotPermitted\n"
        "try:\n    CaptureSession(interfaces='nflog:5', savefile='b')\n"
        "except NotPermitted as error:\n    print(error.failure.code, error.failure.interface)\n"
    )
    (user_dir / "code.py").write_text(code)
    assert typed("python code.py", user_dir).stdout == "not_permitted nflog:5\n"
