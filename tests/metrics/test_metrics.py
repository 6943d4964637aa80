"""Metrics of a real daemon: what they count, what they do not tell, and that they are a help and no more."""

import contextlib
import ipaddress
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from capd.admin import check_config
from capd.captures.registry import Captures
from capd.config.reader import MetricsAddress
from capd.metrics.switch import Metrics
from capd.policy.rules import Policy
from capd.supervisor.closer import Closer
from capd.supervisor.packet_rings import PacketRingMaker
from capd.supervisor.spawner import Spawner
from capd_client import CaptureSession, Injector, InterfaceError, list_captures, stop_capture
from tests.capture.helpers import ip
from tests.client.helpers import drain, wait_for_packets
from tests.metrics.helpers import CURL_REFUSED, parsed, scrape, scrape_text
from tests.support.attack import (
    FRAMES,
    PATIENCE_S,
    check_unharmed,
    eventually,
    resident_kb,
    traffic,
    with_limits,
)
from tests.support.daemon import Daemon, as_user, running_daemon
from tests.support.namespace import veth_pair
from tests.support.tools import ip_json
from tests.support.traffic import send

#: Any group that every machine has.
GROUP_ID = 1
#: Of this module alone.
MEMBER, STRANGER = 23471, 23472


@contextlib.contextmanager
def serving(directory: Path, configuration: str = "", **limits: float) -> Generator[tuple[Daemon, Path], None, None]:
    """Have a daemon with metrics on a socket, made anew each time, and what else the configuration says."""
    path = directory / "metrics.sock"
    (directory / "capd.toml").write_text(f'[metrics]\nsocket = "{path}"\ngroup = {GROUP_ID}\n{configuration}')
    options = ("--config", str(directory / "capd.toml"), "--state-directory", str(directory / "state"))
    with running_daemon(directory, *options, prefix=with_limits(SCRAPE_INTERVAL_S=0, **limits)) as daemon:
        yield daemon, path


def reload(daemon: Daemon, configuration: str, says: str = "the configuration was read again") -> None:
    before = daemon.log.count(says)
    (daemon.log_path.parent / "capd.toml").write_text(configuration)
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: daemon.log.count(says) > before, says)


def capture(
    daemon: Daemon, interface: str, directory: Path, name: str = "a.pcapng", **arguments: Any
) -> CaptureSession:
    return CaptureSession(
        interfaces=interface,
        savefile=directory / name,
        socket_path=daemon.socket_path,
        update_interval=0.02,
        **arguments,
    )


@contextlib.contextmanager
def loopback_up() -> Generator[None, None, None]:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "set", "lo", "down"], check=True)


def fetch(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["curl", "-s", "--max-time", "10", url], capture_output=True, text=True, check=False)


# What is counted --------------------------------------------------------------------------------------------------


def test_packets_that_are_sent_are_counted_and_stay_so(user_dir: Path, veth: tuple[str, str]) -> None:
    with serving(user_dir) as (daemon, path):

        def has_sent(count: int) -> bool:
            return scrape(path)["capd_sent_packets_total"] == count

        assert has_sent(0)
        for count, sent in ((30, 30), (40, 70)):
            with Injector(veth[0], socket_path=daemon.socket_path) as injector:
                injector.send_many(FRAMES * count)
                eventually(partial(has_sent, sent), "its packets")
        eventually(lambda: scrape(path)["capd_clients"] == 0, "it has left")
        assert has_sent(70)


def test_a_capture_is_counted_while_it_runs_and_what_it_came_to_stays(user_dir: Path, veth: tuple[str, str]) -> None:
    files = user_dir / "files"
    files.mkdir()
    with serving(user_dir) as (daemon, path):
        idle = scrape(path)
        assert idle['capd_captures{capture=""}'] == idle['capd_written_packets_total{capture=""}'] == 0
        with capture(daemon, veth[1], files, ringbuffer_packets=10, ringbuffer_files=2) as session:
            session.wait_started(PATIENCE_S)
            send(veth[0], FRAMES, 35)
            wait_for_packets(session, 35)
            running = scrape(path)
            assert running["capd_clients"] == 1
            assert running['capd_captures{capture=""}'] == 1
            assert running['capd_written_packets_total{capture=""}'] == 35
            assert running['capd_received_packets_total{capture=""}'] == 35
            assert running['capd_waiting_packets{capture=""}'] == 0
            assert running['capd_files_opened_total{capture=""}'] == 4
            # Of the four, two are there still.
            on_disk_bytes = sum(file.stat().st_size for file in files.iterdir())
            assert running['capd_disk_bytes{capture=""}'] == on_disk_bytes
            assert 1.5 * on_disk_bytes < running['capd_written_bytes_total{capture=""}'] < 4 * on_disk_bytes
            session.stop()
            drain(session)
        eventually(lambda: scrape(path)["capd_clients"] == 0, "it has left")
        ended = scrape(path)
    assert ended['capd_captures{capture=""}'] == ended['capd_disk_bytes{capture=""}'] == 0
    assert ended['capd_capture_ends_total{capture="",reason="stopped"}'] == 1
    assert ended["capd_connections_total"] == 1
    assert ended['capd_workers_started_total{capture=""}'] == 1
    for name, value in running.items():
        if "_total" in name:
            assert ended[name] >= value, name


def test_every_byte_that_is_written_is_counted(user_dir: Path, veth: tuple[str, str]) -> None:
    with serving(user_dir) as (daemon, path):
        sizes_bytes = 0
        for number in range(2):
            with capture(daemon, veth[1], user_dir, f"{number}.pcapng") as session:
                session.wait_started(PATIENCE_S)
                send(veth[0], FRAMES, 100)
                wait_for_packets(session, 100)
                session.stop()
                drain(session)
            sizes_bytes += (user_dir / f"{number}.pcapng").stat().st_size
            assert scrape(path)['capd_written_bytes_total{capture=""}'] == sizes_bytes


def test_drops_are_counted_with_what_lost_them(user_dir: Path, veth: tuple[str, str]) -> None:
    with serving(user_dir) as (daemon, path), capture(daemon, veth[1], user_dir, kernel_buffer_size=1) as session:
        session.wait_started(PATIENCE_S)
        (worker,) = daemon.workers()
        os.kill(worker, signal.SIGSTOP)
        send(veth[0], FRAMES, 50_000)
        os.kill(worker, signal.SIGCONT)
        session.stop()
        drain(session)
        (counters,) = session.interface_counters
        eventually(lambda: scrape(path)['capd_captures{capture=""}'] == 0, "it has ended")
        samples = scrape(path)
    assert counters.kernel_drops_total > 0
    assert samples['capd_dropped_packets_total{by="kernel",capture=""}'] == counters.kernel_drops_total
    assert samples['capd_dropped_packets_total{by="writer",capture=""}'] == 0
    assert samples['capd_received_packets_total{capture=""}'] == 50_000
    assert samples['capd_waiting_packets{capture=""}'] == 0


def test_what_a_client_does_not_read_waits(user_dir: Path, veth: tuple[str, str]) -> None:
    arguments: dict[str, Any] = {"ringbuffer_packets": 1, "ringbuffer_files": 2}
    with serving(user_dir) as (daemon, path), capture(daemon, veth[1], user_dir, **arguments) as session:
        session.wait_started(PATIENCE_S)
        with traffic(veth[0]):
            eventually(lambda: scrape(path)['capd_waiting_events{capture=""}'] > 100, "events wait")
        session.stop()
        drain(session)


def test_refusals_are_counted_by_what_one_can_do(user_dir: Path, veth: tuple[str, str]) -> None:
    with serving(user_dir) as (daemon, path):
        for _ in range(2):
            with pytest.raises(InterfaceError), capture(daemon, "nothing0", user_dir) as session:
                session.wait_started(PATIENCE_S)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(daemon.socket_path)
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while client.recv(4096):
                pass
        samples = scrape(path)
    refused = {
        name: value for name, value in samples.items() if name.startswith("capd_refused_requests_total") and value
    }
    assert refused == {
        'capd_refused_requests_total{code="no_such_interface"}': 2,
        'capd_refused_requests_total{code="protocol"}': 1,
    }
    assert samples['capd_capture_attempts_total{capture=""}'] == 2
    assert samples['capd_workers_started_total{capture=""}'] == samples['capd_captures{capture=""}'] == 0


CONFIGURED = """
[captures.kept]
interfaces = ["{interface}", "later*"]
group = 1
ringbuffer_packets = 10
ringbuffer_files = 3
update_interval = 0.02
"""


def test_a_capture_of_the_configuration_has_its_name(user_dir: Path, veth: tuple[str, str]) -> None:
    with serving(user_dir, CONFIGURED.format(interface=veth[1])) as (daemon, path):
        eventually(lambda: scrape(path)['capd_captures{capture="kept"}'] == 1, "it runs")
        send(veth[0], FRAMES, 45)
        eventually(lambda: scrape(path)['capd_written_packets_total{capture="kept"}'] == 45, "it is written")
        samples = scrape(path)
        assert samples['capd_written_packets_total{capture=""}'] == samples['capd_captures{capture=""}'] == 0
        kept = user_dir / "state" / "kept"
        assert samples['capd_disk_bytes{capture="kept"}'] == sum(
            file.stat().st_size for file in kept.iterdir() if file.suffix != ".index"
        )
        assert samples['capd_capture_restarts_total{capture="kept"}'] == 0

        # Its process dies; the next one goes on in the same ring.
        (worker,) = daemon.workers()
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: scrape(path)['capd_capture_restarts_total{capture="kept"}'] == 1, "it is started again")
        eventually(lambda: scrape(path)['capd_captures{capture="kept"}'] == 1, "it runs again")
        send(veth[0], FRAMES, 5)
        eventually(lambda: scrape(path)['capd_written_packets_total{capture="kept"}'] == 50, "it is written")
        samples = scrape(path)
        assert samples['capd_workers_died_total{capture="kept"}'] == 1
        assert samples['capd_workers_started_total{capture="kept"}'] == 2
        assert samples['capd_capture_ends_total{capture="kept",reason="failed"}'] == 1
        assert samples['capd_disk_bytes{capture="kept"}'] == sum(
            file.stat().st_size for file in kept.iterdir() if file.suffix != ".index"
        )
        (running,) = list_captures(socket_path=daemon.socket_path)
        stop_capture(running.capture_id, socket_path=daemon.socket_path)
        eventually(lambda: scrape(path)['capd_captures{capture="kept"}'] == 0, "it is stopped")
        assert scrape(path)['capd_written_packets_total{capture="kept"}'] == 50


def test_one_that_cannot_begin_is_told_of_too(user_dir: Path, veth: tuple[str, str]) -> None:
    (user_dir / "state").mkdir()
    (user_dir / "state" / "kept").write_text("")  # where its directory should be
    with serving(user_dir, CONFIGURED.format(interface=veth[1])) as (daemon, path):
        eventually(lambda: "its directory cannot be used" in daemon.log, "it has failed")
        samples = scrape(path)
        assert samples['capd_captures{capture="kept"}'] == samples['capd_capture_restarts_total{capture="kept"}'] == 0


def test_what_interfaces_of_the_configuration_lose_is_told(user_dir: Path, veth: tuple[str, str]) -> None:
    with serving(user_dir, CONFIGURED.format(interface=veth[1])) as (_, path):
        eventually(lambda: scrape(path)['capd_captures{capture="kept"}'] == 1, "it runs")
        send(veth[0], FRAMES, 10)
        name = f'capd_interface_drops_total{{interface="{veth[1]}",reason="dropped"}}'
        eventually(lambda: name in scrape(path), "its interface is there")
        (link,) = ip_json("-s", "link", "show", veth[1])
        assert scrape(path)[name] == link["stats64"]["rx"]["dropped"]


# What is not shown ------------------------------------------------------------------------------------------------


def test_nothing_tells_whose_a_capture_is_or_where(user_dir: Path) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(veth_pair("hidden0", "hidden1"))
        daemon, path = stack.enter_context(serving(user_dir))
        session = stack.enter_context(capture(daemon, "hidden1", user_dir, "hidden.pcapng"))
        session.wait_started(PATIENCE_S)
        send("hidden0", FRAMES, 10)
        wait_for_packets(session, 10)
        text = scrape_text(path)
        assert parsed(text)['capd_written_packets_total{capture=""}'] == 10
        assert "hidden" not in text
        assert str(session.capture_id) not in text
        session.stop()
        drain(session)


def test_only_the_group_may_ask(user_dir: Path) -> None:
    def ask() -> bytes:
        with socket.socket(socket.AF_UNIX) as scraper:
            scraper.connect(str(user_dir / "metrics.sock"))
            scraper.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            return scraper.recv(12)

    with serving(user_dir) as (_, path):
        status = path.lstat()
        assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o660, GROUP_ID)
        assert as_user(ask, MEMBER, groups=(GROUP_ID,)) == b"HTTP/1.1 200"
        with pytest.raises(PermissionError):
            as_user(ask, STRANGER)


def test_without_a_group_only_the_daemons_user_may_ask(user_dir: Path) -> None:
    with serving(user_dir) as (daemon, path):
        reload(daemon, f'[metrics]\nsocket = "{path}"\n')
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        assert scrape(path)["capd_clients"] == 0


# On and off -------------------------------------------------------------------------------------------------------


def test_a_reload_switches_them_on_elsewhere_and_off(user_dir: Path, veth: tuple[str, str]) -> None:
    first, second = user_dir / "metrics.sock", user_dir / "made" / "second.sock"
    with serving(user_dir) as (daemon, _), capture(daemon, veth[1], user_dir) as session:
        session.wait_started(PATIENCE_S)
        inode = first.lstat().st_ino
        # The same as before: the socket stays.
        reload(daemon, (user_dir / "capd.toml").read_text() + "\n")
        assert first.lstat().st_ino == inode
        reload(daemon, f'[metrics]\nsocket = "{second}"\n')
        assert not first.exists()
        assert scrape(second)['capd_captures{capture=""}'] == 1
        reload(daemon, "")
        assert not second.exists()
        with loopback_up():
            reload(daemon, '[metrics]\naddress = "127.0.0.1:9105"\n')
            assert parsed(fetch("http://127.0.0.1:9105/metrics").stdout)['capd_captures{capture=""}'] == 1
            reload(daemon, f'[metrics]\nsocket = "{first}"\n')
            assert fetch("http://127.0.0.1:9105/metrics").returncode == CURL_REFUSED
        send(veth[0], FRAMES, 10)
        wait_for_packets(session, 10)
        assert scrape(first)['capd_written_packets_total{capture=""}'] == 10
        session.stop()
        drain(session)
    assert not first.exists()


def test_where_they_cannot_be_served_is_logged_and_captures_go_on(
    user_dir: Path, veth: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    # Where a namespace has no address at all, the kernel lets any be bound (inet_addr_type() in net/ipv4).
    ip("address", "add", "198.51.100.1/24", "dev", veth[0])
    blocked = user_dir / "file"
    blocked.write_text("")
    with serving(user_dir) as (daemon, path):
        with capture(daemon, veth[1], user_dir) as session:
            session.wait_started(PATIENCE_S)
            for place, reason in [
                (f'socket = "{blocked}"', "exists and is not a socket"),
                (f'socket = "{user_dir}/no/directory/metrics.sock"', "there is no directory"),
                ('address = "192.0.2.77:9105"', "Cannot assign requested address"),
            ]:
                reload(daemon, f"[metrics]\n{place}\n", says="captures go on without")
                assert check_config.main([str(user_dir / "capd.toml")]) == 0
                warning = capsys.readouterr().err
                assert "metrics cannot be served at" in warning
                assert reason in warning
            # Once it can be, the next reload does it.
            reload(daemon, f'[metrics]\nsocket = "{path}"\n', says="metrics are served at")
            send(veth[0], FRAMES, 10)
            wait_for_packets(session, 10)
            session.stop()
            drain(session)
        assert scrape(path)['capd_written_packets_total{capture=""}'] == 10
        assert check_config.main([str(user_dir / "capd.toml")]) == 0
        assert capsys.readouterr().err == ""


def test_a_daemon_starts_also_where_they_cannot_be_served(user_dir: Path, veth: tuple[str, str]) -> None:
    (user_dir / "metrics.sock").write_text("")
    with serving(user_dir) as (daemon, _):
        assert "exists and is not a socket: choose another place; captures go on without" in daemon.log
        check_unharmed(daemon, veth, user_dir)


def test_the_socket_of_a_daemon_that_was_killed_is_replaced(user_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(user_dir / "metrics.sock"))
    with serving(user_dir) as (_, path):
        assert scrape(path)["capd_clients"] == 0


def test_the_socket_of_another_program_is_left_alone(user_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other, contextlib.ExitStack() as stack:
        other.bind(str(user_dir / "metrics.sock"))
        other.listen(0)
        for _ in range(2):  # it is too busy to accept
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(other.getsockname())
        with serving(user_dir) as (daemon, _):
            assert "another" in daemon.log
        assert (user_dir / "metrics.sock").is_socket()


def test_libraries_are_imported_only_where_metrics_are_served() -> None:
    code = "import capd.__main__, sys; sys.exit(not {'h11', 'prometheus_client'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


def test_missing_libraries_are_told(user_dir: Path, veth: tuple[str, str]) -> None:
    code = "import sys; sys.modules['h11'] = None; from capd.__main__ import main; sys.exit(main(sys.argv[5:]))"
    (user_dir / "capd.toml").write_text(f'[metrics]\nsocket = "{user_dir}/metrics.sock"\n')
    prefix = (sys.executable, "-P", "-c", code)
    with running_daemon(user_dir, "--config", str(user_dir / "capd.toml"), prefix=prefix) as daemon:
        assert "Python finds no h11: install capd with its extra 'metrics'; captures go on without" in daemon.log
        check_unharmed(daemon, veth, user_dir)


def shut_listener(name: tuple[str, int]) -> None:
    """Make a listening socket of this process fail."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):
            descriptor = os.dup(int(entry.name))
            try:
                with socket.socket(fileno=descriptor) as found:
                    if found.getsockname() == name:
                        found.shutdown(socket.SHUT_RDWR)
            except OSError:  # it is no socket
                os.close(descriptor)


async def test_a_socket_that_fails_ends_no_capture(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    captures = Captures(Policy(()), Spawner(), Closer(), PacketRingMaker())
    metrics = Metrics(captures, lambda: 0, lambda: 0, Closer())
    address = MetricsAddress(ipaddress.IPv4Address("0.0.0.0"), 9105)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            metrics.switch(address, nursery)
            shut_listener(("0.0.0.0", 9105))
        # Its task has ended, and nothing was raised.
        assert "captures go on" in caplog.text
        async with trio.open_nursery() as nursery:
            metrics.switch(address, nursery)
            with loopback_up():
                done = await trio.to_thread.run_sync(fetch, "http://127.0.0.1:9105/metrics")
            assert parsed(done.stdout)["capd_clients"] == 0
            metrics.switch(None, nursery)


# Those who ask ----------------------------------------------------------------------------------------------------


def test_who_asks_too_often_gets_what_was_made_before(user_dir: Path, veth: tuple[str, str]) -> None:
    with serving(user_dir) as (daemon, path):
        pass
    with running_daemon(
        user_dir, "--config", str(user_dir / "capd.toml"), prefix=with_limits(SCRAPE_INTERVAL_S=3600)
    ) as daemon:
        first = scrape_text(path)
        check_unharmed(daemon, veth, user_dir)
        assert scrape_text(path) == first


def test_whoever_connects_harms_neither_captures_nor_the_daemon(user_dir: Path, veth: tuple[str, str]) -> None:
    """A thousand connections of one who says nothing, sends rubbish, never reads, and leaves."""
    with serving(user_dir, SCRAPE_TIMEOUT_S=0.5) as (daemon, path), contextlib.ExitStack() as stack:
        session = stack.enter_context(capture(daemon, veth[1], user_dir))
        session.wait_started(PATIENCE_S)
        scrape(path)
        before_kb = resident_kb(daemon)
        connected = 0
        sent_packets = 0
        for number in range(1000):
            scraper = stack.enter_context(socket.socket(socket.AF_UNIX))
            scraper.settimeout(0.002)
            try:
                scraper.connect(str(path))
                connected += 1
                scraper.send((b"", b"\xff" * 100_000, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20)[number % 3])
            except (TimeoutError, BlockingIOError):
                pass  # as many wait as may
            if number % 4 == 3:
                scraper.close()
            if number % 100 == 0:
                sent_packets += send(veth[0], FRAMES, 100)
                wait_for_packets(session, sent_packets)
        assert connected > 20
        assert len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir())) < 60
        assert resident_kb(daemon) < before_kb + 8_000
        eventually(lambda: _answers(path), "a scraper is served again")
        assert scrape(path)['capd_written_packets_total{capture=""}'] == sent_packets == 1000
        session.stop()
        drain(session)
        assert session.dropcount == 0


def _answers(path: Path) -> bool:
    with contextlib.suppress(AssertionError):
        return bool(scrape(path))
    return False
