"""``capctl capture`` to programs: to standard output, a FIFO, and to all that come to an address."""

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from capd_client import CaptureSession, NoSuchCapture, ResourceError, list_captures
from capd_client.cli.live import own_connection, without_connection
from tests.capture.helpers import ip, readable_packets
from tests.cli.calling import called
from tests.cli.terminal import in_terminal
from tests.cli.test_capctl import capture_asked, capture_command, done
from tests.client.conftest import Bench
from tests.client.helpers import PATIENCE_S, wait_until
from tests.support.daemon import running_daemon
from tests.support.namespace import private_network_namespace, veth_pair

PACKETS = 2_000


@contextlib.contextmanager
def live(bench: Bench, *words: str, **arguments: object) -> Generator[subprocess.Popen[bytes], None, None]:
    """Have a capture run that writes packets to a pipe."""
    with subprocess.Popen(
        capture_command(bench, *words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=bench.directory,
        **arguments,  # type: ignore[call-overload]
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def names(bench: Bench) -> list[str]:
    """Return what is in the directory."""
    return sorted(path.name for path in bench.directory.iterdir())


def runs(bench: Bench, captures: int = 1) -> bool:
    """Whether so many captures run."""
    return len(list_captures(socket_path=bench.daemon.socket_path)) == captures


def wait_until_armed(bench: Bench) -> None:
    """Wait for captures, and until what is sent is captured by all."""

    def are_armed() -> bool:
        captures = list_captures(socket_path=bench.daemon.socket_path)
        return bool(captures) and all(can_attach(bench, each.capture_id) for each in captures)

    wait_until(are_armed, "captures run")


def can_attach(bench: Bench, number: int) -> bool:
    """Whether a capture runs; before, and behind its end, nobody can attach to it."""
    try:
        CaptureSession.attach(number, socket_path=bench.daemon.socket_path).terminate()
    except (ResourceError, NoSuchCapture):
        return False
    return True


@pytest.mark.parametrize(
    "reader", [("tshark", "-r", "-"), ("tcpdump", "-nr", "-"), ("capinfos", "-c", "-")], ids=lambda words: words[0]
)
@pytest.mark.parametrize("words", [(), ("--pcap",)], ids=["pcapng", "pcap"])
def test_packets_go_to_a_program_through_a_pipe(bench: Bench, reader: tuple[str, ...], words: tuple[str, ...]) -> None:
    with live(bench, "-w", "-", "-c", str(PACKETS), *words) as process:
        wait_until_armed(bench)
        bench.send(PACKETS)
        read = subprocess.run(
            reader, stdin=process.stdout, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert process.stderr is not None
        assert process.wait(PATIENCE_S) == 0
        errors = process.stderr.read().decode()
    if reader[0] == "capinfos":
        assert str(PACKETS) in read.stdout.replace(" k", "000")
    else:
        assert len(read.stdout.splitlines()) == PACKETS
    assert errors.splitlines()[0] == f"{PACKETS:,} packets captured (as many as were asked for)"
    assert names(bench) == []


def test_packets_are_those_of_a_file_byte_by_byte(bench: Bench) -> None:
    path = bench.directory / "b.pcapng"
    with bench.running(savefile=path) as capture, live(bench, "-w", "-", "-c", str(PACKETS)) as process:
        wait_until(lambda: runs(bench, 2), "both run")
        wait_until_armed(bench)
        bench.send(PACKETS)
        assert process.stdout is not None
        (bench.directory / "a.pcapng").write_bytes(process.stdout.read())
        capture.flush()
    shown = [done(["tshark", "-r", str(each), "-x"]).stdout for each in (bench.directory / "a.pcapng", path)]
    assert shown[0] == shown[1] != ""


def test_the_header_comes_before_any_packet(bench: Bench) -> None:
    with live(bench, "-w", "-") as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"\x0a\x0d\x0d\x0a"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0


def test_a_program_that_has_enough_ends_the_capture(bench: Bench) -> None:
    with live(bench, "-w", "-") as process:
        wait_until_armed(bench)
        bench.send(PACKETS)
        read = subprocess.run(
            ("tshark", "-c", "5", "-r", "-"),
            stdin=process.stdout,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 0
    assert len(read.stdout.splitlines()) == 5
    assert runs(bench, 0)


def test_a_program_that_stops_reading_costs_the_capture_nothing(bench: Bench) -> None:
    with live(bench, "-w", "-") as process:
        wait_until_armed(bench)
        bench.send(60_000, 1400)
        wait_until(lambda: captured(bench) == 60_000, "all are captured")
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stderr is not None
        (bench.directory / "a.pcapng").write_bytes(process.stdout.read())
        errors = process.stderr.read().decode().splitlines()
        assert process.wait(PATIENCE_S) == 0
    assert "60,000 captured, 0 dropped" in errors[1]
    missed = int(errors[2].split(" packet")[0].replace(",", ""))
    assert errors[2].endswith("not written: nobody read, or too slowly")
    assert 0 < missed < 60_000
    assert readable_packets(bench.directory / "a.pcapng") == 60_000 - missed


def captured(bench: Bench) -> int:
    (capture,) = list_captures(socket_path=bench.daemon.socket_path)
    return capture.packets_total


def test_a_fifo_ends_with_the_capture(bench: Bench) -> None:
    fifo = bench.directory / "fifo"
    os.mkfifo(fifo)
    with live(bench, "-w", "fifo") as process, fifo.open("rb") as reader:
        assert reader.read(4) == b"\x0a\x0d\x0d\x0a"
        process.send_signal(signal.SIGINT)
        (bench.directory / "rest").write_bytes(b"\x0a\x0d\x0d\x0a" + reader.read())
        assert process.wait(PATIENCE_S) == 0
    assert readable_packets(bench.directory / "rest") == 0


def test_the_next_reader_of_a_fifo_has_a_header_again(bench: Bench) -> None:
    os.mkfifo(bench.directory / "fifo")
    with live(bench, "-w", "fifo", "-l", "-U") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"Waiting for a program to read fifo.\n"
        for _ in range(3):
            words = ("tcpdump", "-n", "-c", "2", "-r", str(bench.directory / "fifo"))
            with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as reader:
                while reader.poll() is None:
                    bench.send(1, rate_pps=100)
                assert reader.returncode == 0
            assert process.stderr.readline() == b"The reader has left; the next one is waited for.\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0


def test_a_reader_that_reads_nothing_at_the_end_is_waited_for_until_ctrl_c(bench: Bench) -> None:
    with live(bench, "-w", "-") as process:
        wait_until_armed(bench)
        bench.send(2_000)
        wait_until(lambda: captured(bench) == 2_000, "all are captured")
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while process.stderr.readline() != b"Waiting until the rest is read; Ctrl-C gives it up.\n":
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130


def test_no_capture_runs_before_a_fifo_is_read(bench: Bench) -> None:
    os.mkfifo(bench.directory / "fifo")
    with live(bench, "-w", "fifo") as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.7)
        assert runs(bench, 0)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130


@pytest.fixture
def loopback_bench(user_dir: Path) -> Generator[Bench, None, None]:
    """With a loopback interface that is up."""
    with private_network_namespace(), veth_pair("near", "far"), running_daemon(user_dir) as daemon:
        ip("link", "set", "lo", "up")
        yield Bench(daemon, "near", "far", user_dir)


def test_three_readers_are_served(loopback_bench: Bench) -> None:
    bench = loopback_bench
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with live(bench, "--serve", str(port)) as process:
        wait_until_armed(bench)
        reader, stuck = (socket.create_connection(("127.0.0.1", port)) for _ in range(2))
        path = bench.directory / "t.pcapng"
        words = ("tshark", "-i", f"TCP@127.0.0.1:{port}", "-c", str(PACKETS), "-w", path)
        with subprocess.Popen(words, stderr=subprocess.DEVNULL) as tshark, reader, stuck:
            assert process.stderr is not None
            lines = [process.stderr.readline().decode() for _ in range(4)]
            bench.send(PACKETS)
            assert tshark.wait(PATIENCE_S) == 0
            process.send_signal(signal.SIGINT)
            data = reader.makefile("rb").read()
            assert process.wait(PATIENCE_S) == 0
    assert lines[0] == f"Serving at 127.0.0.1:{port}: every user of this machine can read.\n"
    (bench.directory / "s.pcapng").write_bytes(data)
    assert readable_packets(bench.directory / "s.pcapng") == readable_packets(path) == PACKETS


def test_what_is_served_may_be_in_a_file_too(bench: Bench) -> None:
    with live(bench, "--serve", "unix:socket", "-w", "a.pcapng", "-c", "10") as process:
        wait_until_armed(bench)
        with socket.socket(socket.AF_UNIX) as reader:
            reader.connect(str(bench.directory / "socket"))
            assert reader.recv(4) == b"\x0a\x0d\x0d\x0a"
            bench.send(10)
            assert process.wait(PATIENCE_S) == 0
    assert names(bench) == ["a.pcapng"]
    assert readable_packets(bench.directory / "a.pcapng") == 10


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("-w", "-", "-b", "filesize:100"), "-b filesize is about files on a disk"),
        (("-w", "-", "-a", "filesize:100"), "-a filesize is about files on a disk"),
        (("-w", "-", "--detach", "--name", "x"), "--detach is about files on a disk"),
        (("-w", "-", "-g"), "-g is about files on a disk"),
        (("-w", "-", "--serve", "1"), "leave out -w, or --serve"),
        (("-w", "-", "-e"), "leave them out, or give --print"),
        (("--serve", "unix:" + "a" * 108), "at most 107 bytes (option --serve)"),
        (("--serve", "x"), "x is no address to serve at: it has no port from 1 to 65535 at its end"),
        (("--serve", "1", "-b", "filesize:100"), "no file is written: leave it out, or add -w FILE"),
        (("--serve", "1", "-a", "files:3"), "no file is written: leave it out, or add -w FILE"),
        (("--serve", "1", "-w", "/dev/null", "-g"), "no file is written: leave it out, or name a file with -w"),
        (("--serve", "1", "-w", "a.pcapng", "--detach", "--name", "x"), "--detach cannot go together with --serve"),
        (("-w", "a.pcapng", "--with-ssh"), "(option --with-ssh)"),
    ],
)
def test_what_has_no_meaning_for_a_program_is_refused(bench: Bench, words: tuple[str, ...], text: str) -> None:
    refused = called(
        "--socket", bench.daemon.socket_path, "capture", "-i", bench.interface, *words, cwd=bench.directory
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert text in refused.stderr
    assert names(bench) == []


def events_until(process: subprocess.Popen[bytes], event: str, bench: Bench) -> list[dict[str, Any]]:
    """Return what is printed up to an event; it may need packets to be noticed."""
    assert process.stdout is not None
    found = [json.loads(process.stdout.readline())]
    while found[-1]["event"] != event:
        bench.send(1)
        found.append(json.loads(process.stdout.readline()))
    return found


def test_events_are_json_beside_what_is_served(bench: Bench) -> None:
    with live(bench, "--serve", "unix:socket", "-w", "a.pcapng", "--json") as process:
        begun = events_until(process, "file", bench) + events_until(process, "serving", bench)
        for number in (1, 2):
            with socket.socket(socket.AF_UNIX) as reader:
                reader.connect(str(bench.directory / "socket"))
                came = events_until(process, "reader_came", bench)[-1]
            left = events_until(process, "reader_left", bench)[-1]
            known = {"reader_id": number, "reader": "a reader"}
            assert came == {"event": "reader_came", **known}
            assert left == {"event": "reader_left", **known, "reason": "left", "missed_packets": 0, "text": None}
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, b"")
    assert [begun[0]["event"], begun[-1]] == ["started", {"event": "serving", "address": "unix:socket"}]
    assert json.loads(output.splitlines()[-1])["event"] == "ended"


def test_events_are_json_beside_a_fifo(bench: Bench) -> None:
    os.mkfifo(bench.directory / "fifo")
    with live(bench, "-w", "fifo", "--json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"event": "waiting_for_reader", "path": "fifo"}
        with (bench.directory / "fifo").open("rb"):
            came = events_until(process, "reader_came", bench)[-1]
        left = events_until(process, "reader_left", bench)[-1]
        bench.send(PACKETS)
        wait_until(lambda: captured(bench) >= PACKETS, "all are captured")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, b"")
    assert came == {"event": "reader_came", "reader_id": 1, "reader": "fifo"}
    assert (left["reader"], left["reason"]) == ("fifo", "left")
    missed = json.loads(output.splitlines()[-1])
    assert (missed["event"], missed["packets"] >= PACKETS) == ("missed", True)


def test_json_is_on_standard_error_where_standard_output_has_packets(bench: Bench) -> None:
    environment = {**os.environ, "SSH_CONNECTION": "10.0.0.1 53 10.0.0.2 22"}
    with live(bench, "-w", "-", "-a", "duration:0.1", "--json", env=environment) as process:
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert output.startswith(b"\x0a\x0d\x0d\x0a")
    assert [json.loads(line)["event"] for line in errors.splitlines()] == ["started", "connection_left_out", "ended"]


def test_packets_to_dev_null_are_counted_and_kept_nowhere(bench: Bench) -> None:
    with live(bench, "-w", "/dev/null", "-c", str(PACKETS)) as process:
        wait_until_armed(bench)
        bench.send(PACKETS)
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, output) == (0, b"")
    first, second = errors.decode().splitlines()
    assert first == f"{PACKETS:,} packets captured (as many as were asked for)"
    assert f"{PACKETS:,} captured, 0 dropped" in second
    assert names(bench) == []
    assert Path("/dev/null").is_char_device()


def test_a_device_that_takes_no_packets_is_refused(bench: Bench) -> None:
    refused = capture_asked(bench, "-w", "/dev/zero")
    assert refused.returncode == 1
    assert refused.stderr.startswith("capctl: /dev/zero is a device: name a file, a FIFO, - for standard output, or ")


def test_packets_go_on_to_their_file_when_nobody_reads_the_lines(bench: Bench) -> None:
    with live(bench, "-w", "a.pcapng", "--print", "-c", "20") as process:
        wait_until_armed(bench)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        bench.send(20)
        errors = process.stderr.read().decode()
        assert process.wait(PATIENCE_S) == 1
    assert "capctl: nothing more is printed: Broken pipe; the capture goes on\n" in errors
    assert readable_packets(bench.directory / "a.pcapng") == 20


def test_a_link_local_address_has_its_interface(loopback_bench: Bench) -> None:
    bench = loopback_bench
    Path("/proc/sys/net/ipv6/conf", bench.interface, "disable_ipv6").write_text("0")
    ip("address", "add", "fe80::57/64", "dev", bench.interface, "nodad")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    host = f"fe80::57%{bench.interface}"
    with live(bench, "--serve", f"[{host}]:{port}") as process:
        assert process.stderr is not None
        assert process.stderr.readline().decode().startswith(f"Serving at [{host}]:{port}: everybody who reaches")
        with socket.create_connection((host, port)) as reader:
            assert reader.recv(4) == b"\x0a\x0d\x0d\x0a"
    refused = capture_asked(bench, "--serve", f"[fe80::57%nowhere0]:{port}")
    assert (refused.returncode, refused.stderr) == (
        1,
        f"capctl: nobody can listen at [fe80::57%nowhere0]:{port}: there is no interface nowhere0\n",
    )


def test_an_address_where_nobody_can_listen_is_refused(loopback_bench: Bench) -> None:
    refused = capture_asked(loopback_bench, "--serve", "203.0.113.77:19000")
    assert refused.returncode == 1
    assert "nobody can listen at 203.0.113.77:19000: Cannot assign requested address" in refused.stderr


def test_a_terminal_is_no_place_for_packets(bench: Bench) -> None:
    with in_terminal(capture_command(bench, "-w", "-")) as session:
        session.wait_for("standard output is a terminal")
        assert session.wait_ended() == 1


def test_a_full_disk_behind_standard_output_is_an_error(bench: Bench) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        process = subprocess.run(
            capture_command(bench, "-w", "-"),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == "capctl: packets cannot be written: No space left on device"


def test_the_connection_that_it_came_in_through_is_left_out(bench: Bench) -> None:
    environment = {**os.environ, "SSH_CONNECTION": "10.0.0.1 53 10.0.0.2 22"}
    with live(bench, "-w", "-", "-c", "1", "-f", "udp or tcp", env=environment) as process:
        assert process.stderr is not None
        assert (
            process.stderr.readline() == b"The ssh connection from 10.0.0.1 is left out; --with-ssh captures it too.\n"
        )
        wait_until_armed(bench)
    with live(bench, "-w", "-", "-c", "1", "--with-ssh", "-a", "duration:0.1", env=environment) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"0 packets captured")


def test_what_a_filter_without_a_connection_is() -> None:
    connection = "fe80::1%eth0 1000 2001:db8::2 22"
    rest = "not (tcp and host fe80::1 and host 2001:db8::2 and port 1000 and port 22)"
    assert without_connection("", connection) == rest
    assert without_connection("udp or icmp", connection) == f"(udp or icmp) and {rest}"
    assert own_connection({"SSH_CONNECTION": connection}) == connection


@pytest.mark.parametrize(
    "value", ["", "a", "10.0.0.1 1 10.0.0.2", "10.0.0.1 1 x 2", "10.0.0.1 0 10.0.0.2 2", "10.0.0.1 1) 10.0.0.2 2"]
)
def test_what_is_no_connection_leaves_out_nothing(value: str) -> None:
    assert own_connection({"SSH_CONNECTION": value}) is None
