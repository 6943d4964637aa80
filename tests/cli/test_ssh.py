"""``capctl`` over ssh, and in the place of wireshark and dumpcap in the commands of Wireshark's page about pipes.

The page: https://gitlab.com/wireshark/wireshark/-/wikis/CaptureSetup/Pipes, but for what it says of Windows.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from capd_client import list_captures, read
from tests.capture.helpers import ip
from tests.cli.test_live import runs, wait_until_armed
from tests.client.conftest import Bench
from tests.client.helpers import PATIENCE_S, wait_until
from tests.client.test_streams import data_of, many
from tests.support.daemon import running_daemon
from tests.support.namespace import private_network_namespace, veth_pair
from tests.support.ssh import Server, ssh_server
from tests.worker.test_streams import pcap

PACKETS = many(300)
PROGRAMS = Path(sys.executable).parent


class Remote:
    """A daemon, and an SSH server beside it that leads to the same machine."""

    def __init__(self, bench: Bench, server: Server, environment: dict[str, str]) -> None:
        self.bench = bench
        self.server = server
        self.environment = environment

    def ssh(self, command: str) -> subprocess.Popen[bytes]:
        """Have a command run there."""
        words = (*self.server.command, command)
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)

    def send(self, datagrams: int, port: int = 9) -> None:
        """Send datagrams over the loopback interface, where nobody takes them."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(datagrams):
                with contextlib.suppress(ConnectionRefusedError):
                    sender.sendto(b"x" * 100, ("127.0.0.1", port))


@pytest.fixture
def remote(user_dir: Path) -> Generator[Remote, None, None]:
    with private_network_namespace(), veth_pair("near", "far"), running_daemon(user_dir) as daemon:
        ip("link", "set", "lo", "up")
        environment = {"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "CAPD_SOCKET": daemon.socket_path}
        directory = user_dir / "ssh"
        directory.mkdir()
        with ssh_server(directory, environment) as server:
            yield Remote(Bench(daemon, "near", "far", user_dir), server, environment)


# Over ssh ------------------------------------------------------------------------------------------------------------


def test_packets_come_over_ssh_and_its_own_connection_is_left_out(remote: Remote) -> None:
    with remote.ssh("capctl capture -i lo -w - -c 60") as process:
        wait_until_armed(remote.bench)
        remote.send(30)
        data, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert errors.splitlines()[0] == b"The ssh connection from 127.0.0.1 is left out; --with-ssh captures it too."
    words = ("tshark", "-r", "-", "-T", "fields", "-e", "frame.protocols")
    shown = subprocess.run(words, input=data, capture_output=True, check=True).stdout.decode().splitlines()
    assert len(shown) == 60
    assert not [line for line in shown if "tcp" in line]


def test_its_own_connection_is_captured_where_that_is_asked_for(remote: Remote) -> None:
    with remote.ssh("capctl capture -i lo -w - --with-ssh -a duration:1 tcp port 22") as process:
        data, _ = process.communicate(timeout=PATIENCE_S)
    words = ("tshark", "-r", "-", "-Y", "tcp.port == 22")
    assert subprocess.run(words, input=data, capture_output=True, check=True).stdout


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_ctrl_c_at_ssh_ends_the_capture_there(remote: Remote, how: signal.Signals) -> None:
    with remote.ssh("capctl capture -i lo -w - udp port 9") as process:
        wait_until_armed(remote.bench)
        remote.send(10)
        assert process.stdout is not None
        assert process.stdout.read(100)
        process.send_signal(how)
        process.communicate(timeout=PATIENCE_S)
        wait_until(lambda: runs(remote.bench, 0), "the capture has ended")


def test_a_capture_that_is_served_is_started_over_ssh(remote: Remote) -> None:
    with remote.ssh("capctl capture -i lo --serve 19000 udp port 9") as process:
        wait_until_armed(remote.bench)
        words = ("tshark", "-i", "TCP@127.0.0.1:19000", "-c", "20", "-T", "fields", "-e", "udp.dstport")
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tshark:
            assert tshark.stderr is not None
            for line in tshark.stderr:
                if "Capturing on" in line:
                    break
            wait_until(lambda: is_read(19_000), "tshark reads")
            # It has packets from when it was accepted on, which is a moment later.
            ended = threading.Event()
            sending = threading.Thread(target=send_until, args=(remote, ended))
            sending.start()
            shown, _ = tshark.communicate(timeout=PATIENCE_S)
            ended.set()
            sending.join(PATIENCE_S)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
    assert shown.split() == ["9"] * 20


def send_until(remote: Remote, ended: threading.Event) -> None:
    while not ended.wait(0.1):
        remote.send(5)


def is_read(port: int) -> bool:
    """Whether somebody has connected to a port."""
    words = ("ss", "-Htn", "state", "established", f"sport = :{port}")
    return bool(subprocess.run(words, capture_output=True, check=True).stdout.strip())


# Wireshark's page about pipes ----------------------------------------------------------------------------------------


@pytest.fixture
def place(user_dir: Path) -> Path:
    """A directory with the file of the page."""
    (user_dir / "capture.cap").write_bytes(pcap(PACKETS))
    return user_dir


def shell(script: str, place: Path, environment: dict[str, str]) -> None:
    """Have bash do what the page says, and have it end well."""
    done = subprocess.run(
        ("bash", "-euo", "pipefail", "-c", script),
        cwd=place,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def in_the_file(place: Path) -> list[tuple[int, bytes]]:
    return data_of(read(place / "out.pcapng"))


@pytest.mark.parametrize(
    "script",
    [
        "mkfifo sharkfin; capctl capture -w out.pcapng -i ./sharkfin & cat capture.cap > ./sharkfin; wait %1",
        "capctl capture -w out.pcapng -i <(cat capture.cap)",
        "cat capture.cap | capctl capture -w out.pcapng -i -",
        "cat capture.cap | capctl capture -i - -w out.pcapng",
        "tail -f -c +0 capture.cap | capctl capture -i - -w out.pcapng -c 300 || test $? = 141",
        "cat capture.cap | capctl capture -i - -w - | capctl capture -i - -w out.pcapng",
        "cat capture.cap | capctl capture -P -i - -w - | tshark -r - -w out.pcapng",
    ],
)
def test_a_command_of_the_page(bench: Bench, place: Path, script: str) -> None:
    environment = {"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "CAPD_SOCKET": bench.daemon.socket_path}
    shell(f"mkfifo() {{ command mkfifo -m 600 $1; }}; {script}", place, environment)
    assert in_the_file(place) == data_of(PACKETS)


@contextlib.contextmanager
def served(*addresses: tuple[str, int]) -> Generator[None, None, None]:
    """Have servers send the packets to one client each."""

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(pcap(PACKETS))

    with contextlib.ExitStack() as stack:
        threads: list[threading.Thread] = []
        for host, port in addresses:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            server = stack.enter_context(socket.create_server((host, port), family=family))
            threads.append(threading.Thread(target=serve, args=(server,)))
            threads[-1].start()
        yield
        for each in threads:
            each.join(PATIENCE_S)


@pytest.mark.parametrize(
    ("words", "addresses"),
    [
        (("-i", "TCP@127.0.0.1:19000"), [("127.0.0.1", 19_000)]),
        (("-i", "TCP@127.0.0.1"), [("127.0.0.1", 19_000)]),
        (("-i", "TCP@[::1]:19000"), [("::1", 19_000)]),
        (("-i", "TCP@[::1]"), [("::1", 19_000)]),
        (("-i", "TCP@[::1]:19000", "-i", "TCP@127.0.0.1:19001"), [("::1", 19_000), ("127.0.0.1", 19_001)]),
    ],
)
def test_a_server_of_the_page(
    remote: Remote, place: Path, words: Sequence[str], addresses: Sequence[tuple[str, int]]
) -> None:
    with served(*addresses):
        shell(f"capctl capture {' '.join(words)} -w out.pcapng", place, remote.environment)
    assert sorted(in_the_file(place)) == sorted(data_of(PACKETS) * len(addresses))


SSH = "ssh -l root remote-host"


@pytest.mark.parametrize(
    "script",
    [
        # To exclude the connection is what the page asks for, and not needed here.
        f"""capctl capture -w out.pcapng -i <({SSH} "capctl capture -P -i lo -w - -c 40 -f 'not tcp port 22'")""",
        f"""mkfifo sharkfin; capctl capture -w out.pcapng -i ./sharkfin &
        {SSH} "capctl capture -P -i lo -w - -c 40 -f 'not tcp port 22'" > ./sharkfin; wait %1""",
        f"""{SSH} "tcpdump -U -w - -c 40 -i lo not tcp port 22" | capctl capture -w out.pcapng -i -""",
    ],
    ids=["in the shell's own pipe", "in a fifo", "tcpdump there"],
)
def test_a_remote_capture_of_the_page(remote: Remote, place: Path, script: str) -> None:
    options = " ".join(remote.server.command[1:-3])
    function = f"""ssh() {{ command ssh {options} -l root 127.0.0.1 "${{@: -1}}"; }}\n"""
    stop = threading.Event()

    def send_until_it_is_enough() -> None:
        while not stop.wait(0.05):
            remote.send(5)

    # Interfaces belong to a thread's namespace, which a thread has of the one that starts it.
    sender = threading.Thread(target=send_until_it_is_enough)
    sender.start()
    try:
        shell(function + script, place, remote.environment)
    finally:
        stop.set()
        sender.join(PATIENCE_S)
    assert len(in_the_file(place)) == 40
    wait_until(lambda: not list_captures(socket_path=remote.bench.daemon.socket_path), "all captures have ended")
