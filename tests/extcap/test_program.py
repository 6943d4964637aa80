"""capd-extcap as Wireshark runs it: its list, its settings, filters, captures, and how soon these end."""

import contextlib
import grp
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from capd_client import CaptureSession, list_captures, stop_capture
from capd_client.extcap.controls import Command, Control, ControlDecoder, ControlMessage
from capd_client.extcap.watching import Toolbar, open_fifo
from capd_client.reading import read
from tests.client.conftest import Bench
from tests.client.helpers import wait_until
from tests.extcap.wireshark import AT_ONCE_S, asked, capturing, environment_of
from tests.support.attack import Channel, User, process_of
from tests.support.daemon import MakeDir, running_daemon
from tests.support.namespace import private_network_namespace, veth_pair
from tests.support.ssh import ssh_server
from tests.support.traffic import build_frames, send

FRAMES = build_frames((100,))
#: Any group that is there.
CAPTURERS = grp.getgrall()[-1]


@pytest.fixture
def environment(bench: Bench, tmp_path: Path) -> dict[str, str]:
    return environment_of(bench.daemon.socket_path, tmp_path)


@pytest.fixture
def ring(bench: Bench) -> Generator[CaptureSession, None, None]:
    """A ring that runs, named all."""
    yield from lasting(bench, name="all", ringbuffer_filesize=10_000)


@pytest.fixture
def recorder(bench: Bench) -> Generator[CaptureSession, None, None]:
    """A recorder that runs, named night."""
    yield from lasting(bench, name="night", recorder_duration=60, recorder_memory=8)


def lasting(bench: Bench, **arguments: object) -> Generator[CaptureSession, None, None]:
    with bench.session(detach=True, **arguments) as capture:
        yield capture
        stop_capture(capture.capture_id or 0, socket_path=bench.daemon.socket_path)


def values_of(output: str, word: str = "interface") -> list[str]:
    """Return the values of the sentences about something."""
    begin = f"{word} {{value="
    return [line.removeprefix(begin).partition("}")[0] for line in output.splitlines() if line.startswith(begin)]


def captures(bench: Bench) -> int:
    return len(list_captures(socket_path=bench.daemon.socket_path))


# The list -------------------------------------------------------------------------------------------------------------


def test_what_may_be_captured_and_what_runs_is_listed(
    bench: Bench, environment: dict[str, str], ring: CaptureSession, recorder: CaptureSession, tmp_path: Path
) -> None:
    (tmp_path / ".config/capd").mkdir(parents=True)
    (tmp_path / ".config/capd/extcap-hosts").write_text("ssh://alice@probe\n")
    done = asked(environment, "--extcap-interfaces", "--extcap-version=4.0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("extcap {version=")
    found = values_of(done.stdout)
    assert set(found) >= {f"capd:{bench.interface}", "capd:any", "capd:capture/all", "capd:recorder/night"}
    assert found[-2:] == ["capd:ssh://alice@probe", "capd:ssh://"]


def test_without_a_daemon_only_other_hosts_are_listed(tmp_path: Path) -> None:
    for words in (("--extcap-interfaces",), ("--extcap-config", "--extcap-interface", "capd:eth0")):
        done = asked(environment_of(None, tmp_path), *words)
        assert (done.returncode, done.stderr) == (0, "")
        assert values_of(done.stdout) == (["capd:ssh://"] if len(words) == 1 else [])


@pytest.mark.parametrize("answer", [b"", b"\xff" * 5000], ids=["silent", "nonsense"])
def test_a_daemon_that_does_not_answer_is_not_waited_for(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "capd.sock"

    def serve() -> None:
        with contextlib.suppress(OSError):  # nobody comes any more
            while True:
                connection, _ = server.accept()
                held.append(connection)
                connection.sendall(answer)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        held: list[socket.socket] = []
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        began_s = time.monotonic()
        done = asked(environment_of(str(path), tmp_path), "--extcap-interfaces")
        took_s = time.monotonic() - began_s
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for each in held:
            each.close()
    assert (done.returncode, done.stderr, values_of(done.stdout)) == (0, "", ["capd:ssh://"])
    assert took_s < (0 if answer else 1.5) + AT_ONCE_S


def test_the_list_takes_neither_numpy_nor_the_rest_of_the_client() -> None:
    code = "import sys, capd_client.extcap.__main__ as e; e.main(['--extcap-interfaces']); print(*sys.modules)"
    done = subprocess.run(["python", "-c", code], capture_output=True, text=True, check=True, env=environment_of(None))
    assert set(done.stdout.split()) & {"numpy", "argparse", "capd_client.blocking", "ctypes", "anyio"} == set()


def test_a_list_that_nobody_reads_ends_quietly(environment: dict[str, str]) -> None:
    readable, writable = os.pipe()
    os.close(readable)
    words = ["capd-extcap", "--extcap-interfaces"]
    done = subprocess.run(words, env=environment, stdout=writable, stderr=subprocess.PIPE, check=False)
    os.close(writable)
    assert (done.returncode, done.stderr) == (0, b"")


def test_people_are_told_what_it_is(environment: dict[str, str]) -> None:
    assert asked(environment, "--version").stdout.startswith("capd-extcap ")
    assert "capctl install-extcap" in asked(environment, "--help").stdout
    done = asked(environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Usage:" in done.stderr


def test_there_is_nothing_to_clean_up(environment: dict[str, str]) -> None:
    done = asked(environment, "--extcap-interface", "capd:lo", "--extcap-cleanup-postkill")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# What can be set ------------------------------------------------------------------------------------------------------


def test_an_interface_has_its_link_layer_types_and_settings(bench: Bench, environment: dict[str, str]) -> None:
    name = f"capd:{bench.interface}"
    assert (
        "dlt {number=1}{name=EN10MB}{display=Ethernet}"
        in asked(environment, "--extcap-dlts", "--extcap-interface", name).stdout
    )
    shown = asked(environment, "--extcap-config", "--extcap-interface", name).stdout
    assert "{call=--snaplen}" in shown
    assert "{range=1,262144}" in shown
    refused = asked(environment, "--extcap-config", "--extcap-interface", "eth0\x1b[2J")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "\x1b" not in refused.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("udp port 53", ""),
        ("", ""),
        ("vlan and udp", ""),
        ("udp port and", "syntax error (at character 10)"),
        ("host example.org", "'example.org' is no keyword, and no address; host names are not looked up (at char"),
        ("udp \N{EURO SIGN}", "not ASCII"),
        ("tcp and dst port 70000", "(at character"),
    ],
)
def test_a_filter_is_looked_at_while_it_is_typed(
    bench: Bench, environment: dict[str, str], text: str, said: str
) -> None:
    for name in (f"capd:{bench.interface}", "capd:ssh://probe"):
        done = asked(environment, "--extcap-interface", name, "--extcap-capture-filter", text)
        assert (done.returncode, done.stderr) == (0, "")
        assert bool(done.stdout) == bool(said)
        assert said in done.stdout


def test_a_mistake_is_said_as_the_capture_says_it(bench: Bench, environment: dict[str, str], tmp_path: Path) -> None:
    words = ("--extcap-interface", f"capd:{bench.interface}", "--extcap-capture-filter", "udp and (tcp or")
    typed = asked(environment, *words).stdout
    with capturing(tmp_path, environment, *words) as running:
        status, said, took_s = running.end()
    assert (status, said) == (1, typed)
    assert took_s < AT_ONCE_S


def test_a_capture_that_runs_takes_no_filter(environment: dict[str, str], ring: CaptureSession, tmp_path: Path) -> None:
    words = ("--extcap-interface", "capd:capture/all", "--extcap-capture-filter", "udp")
    assert "a filter of its own" in asked(environment, *words).stdout
    with capturing(tmp_path, environment, *words) as running:
        status, said, _ = running.end()
    assert (status, "a filter of its own" in said) == (1, True)


# An interface ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_at_once_though_no_packet_comes(
    bench: Bench, environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    with capturing(tmp_path, environment, "--extcap-interface", f"capd:{bench.interface}") as running:
        running.read()
        status, said, took_s = running.end(number)
    assert (status, said) == (0, "")
    assert took_s < AT_ONCE_S
    # The last block of the stream has the statistics: draft-ietf-opsawg-pcapng, 4.6.
    size_bytes = int.from_bytes(running.data[-4:], "little")
    assert running.data[-size_bytes:][:4] == b"\x05\0\0\0"
    wait_until(lambda: captures(bench) == 0, "the capture has ended")


def test_it_ends_at_once_when_nobody_reads_though_no_packet_comes(
    bench: Bench, environment: dict[str, str], tmp_path: Path
) -> None:
    with capturing(tmp_path, environment, "--extcap-interface", f"capd:{bench.interface}") as running:
        running.read()
        running.leave()
        status, said, took_s = running.end()
    assert (status, said) == (0, "")
    assert took_s < AT_ONCE_S
    wait_until(lambda: captures(bench) == 0, "the capture has ended")


def test_packets_come_as_they_are_captured_and_as_it_was_set(
    bench: Bench, environment: dict[str, str], tmp_path: Path
) -> None:
    words = ("--extcap-interface", f"capd:{bench.interface}", "--extcap-capture-filter", "udp", "--snaplen", "60")
    with capturing(tmp_path, environment, *words, "--direction", "in", "--no-promiscuous", "--later=3") as running:
        running.read()
        bench.send(5)
        found = running.wait_for_packets(tmp_path, 5)
        running.end(signal.SIGTERM)
    assert {len(each.data) for each in found} == {60}
    with read(tmp_path / "so-far.pcapng") as reader:
        list(reader)
        assert [(each.name, each.capture_filter) for each in reader.interfaces] == [(bench.interface, "udp")]


def test_it_captures_in_another_network_namespace(environment: dict[str, str], tmp_path: Path) -> None:
    with private_network_namespace():
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "link", "add", "inner0", "up", "type", "veth", "peer", "inner1"], check=True)
        inner = subprocess.Popen(["sleep", "60"])
    try:
        words = ("--extcap-interface", "capd:inner0", "--netns", str(inner.pid))
        without = {name: value for name, value in environment.items() if name != "CAPD_SOCKET"}
        with capturing(tmp_path, without, *words) as running:
            assert b"inner0" in running.read()
            assert running.end(signal.SIGTERM)[:2] == (0, "")
    finally:
        inner.kill()
        inner.wait()


@pytest.mark.parametrize("name", ["capd:nope0", "capd:capture/nope", "capd:recorder/nope", "capd:capture/-", "nope0"])
def test_what_is_not_there_is_said_and_not_waited_for(environment: dict[str, str], tmp_path: Path, name: str) -> None:
    with capturing(tmp_path, environment, "--extcap-interface", name) as running:
        status, said, took_s = running.end()
    assert (status, bytes(running.data)) == (1, b"")
    assert name.rpartition(":")[2].rpartition("/")[2] in said
    assert took_s < AT_ONCE_S


def test_an_interface_that_goes_is_said(bench: Bench, environment: dict[str, str], tmp_path: Path) -> None:
    with veth_pair("going0", "going1"):
        with capturing(tmp_path, environment, "--extcap-interface", "capd:going0") as running:
            running.read()
            subprocess.run(["ip", "link", "delete", "going0"], check=True)
            status, said, _ = running.end()
        subprocess.run(["ip", "link", "add", "going0", "type", "veth", "peer", "name", "going1"], check=True)
    assert (status, "going0" in said) == (1, True)


def test_it_is_not_waited_for_ever_that_somebody_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capd_client.extcap.watching._OPEN_S", 0.2)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Exception, match=r"cannot be written to: nobody reads within 0\.2 s"):
        open_fifo(str(tmp_path / "fifo"))


def test_a_signal_ends_it_while_nobody_reads_yet(environment: dict[str, str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    words = ["capd-extcap", "--capture", "--extcap-interface", "capd:lo", "--fifo", str(tmp_path / "fifo")]
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE) as process:
        wait_until(lambda: "SigCgt:\t0000000000000000" not in status_text(process.pid), "it has begun")
        wait_until(lambda: waits_in_open(process.pid), "it waits")
        process.send_signal(signal.SIGTERM)
        assert process.wait(AT_ONCE_S) == 0


def status_text(process_id: int) -> str:
    return Path(f"/proc/{process_id}/status").read_text()


def waits_in_open(process_id: int) -> bool:
    """Whether a process waits in openat(2)."""
    return Path(f"/proc/{process_id}/syscall").read_text().split()[0] == "257"


def test_what_is_dropped_is_shown_and_said(tmp_path: Path, make_dir: MakeDir, veth: tuple[str, str]) -> None:
    sender, name = veth
    with running_daemon(make_dir("dropping")) as daemon:
        environment = environment_of(daemon.socket_path, tmp_path)
        with capturing(tmp_path, environment, "--extcap-interface", f"capd:{name}", has_toolbar=True) as running:
            running.read()
            (worker,) = daemon.workers()
            os.kill(worker, signal.SIGSTOP)
            send(sender, build_frames((1400,)), 40_000)
            os.kill(worker, signal.SIGCONT)
            shown = running.wait_for_message(Control.DROPPED, Command.SET, "of 40,000 packets")
            _, said, _ = running.end(signal.SIGTERM)
    dropped = int(shown.text.partition(" ")[0].replace(",", ""))
    assert 0 < dropped < 40_000
    assert said.startswith(f"{dropped:,} packets dropped, {40_000 - dropped:,} captured")


# What runs already ----------------------------------------------------------------------------------------------------


def test_a_running_capture_is_shown_from_now_on_and_goes_on(
    bench: Bench, environment: dict[str, str], ring: CaptureSession, tmp_path: Path
) -> None:
    bench.send(7)
    wait_until(lambda: list_captures(socket_path=bench.daemon.socket_path)[0].packets_total == 7, "they are captured")
    with capturing(tmp_path, environment, "--extcap-interface", "capd:capture/all") as running:
        running.read()
        bench.send(3)
        assert len(running.wait_for_packets(tmp_path, 3)) == 3
        status, said, took_s = running.end(signal.SIGTERM)
    assert (status, said) == (0, "")
    assert took_s < AT_ONCE_S
    words = ("--extcap-interface", f"capd:capture/{ring.capture_id}", "--begin", "file")
    with capturing(tmp_path, environment, *words) as running:
        assert len(running.wait_for_packets(tmp_path, 10)) == 10
        running.leave()
        assert running.end()[0] == 0
    assert captures(bench) == 1


def test_the_toolbar_has_a_running_capture_go_on_in_its_next_file(
    bench: Bench, environment: dict[str, str], ring: CaptureSession, tmp_path: Path
) -> None:
    words = ("--extcap-interface", "capd:capture/all")
    with capturing(tmp_path, environment, *words, has_toolbar=True) as running:
        running.read()
        running.wait_for_message(Control.SNAPSHOT, Command.DISABLE)
        running.wait_for_message(Control.ROTATE, Command.ENABLE)
        running.press(b"\0" + ControlMessage(Control.ROTATE, Command.SET).encode())
        assert "_00002_" in running.wait_for_message(Control.DROPPED, Command.STATUS_BAR).text
        bench.send(4)
        assert len(running.wait_for_packets(tmp_path, 4)) == 4
        running.wait_for_message(Control.DROPPED, Command.SET, "0 of 4 packets")
        assert running.end(signal.SIGTERM)[:2] == (0, "")


def test_a_recorder_writes_its_snapshot_which_is_shown(
    bench: Bench, environment: dict[str, str], recorder: CaptureSession, tmp_path: Path
) -> None:
    bench.send(20)
    with capturing(tmp_path, environment, "--extcap-interface", "capd:recorder/night", "--after", "0.1") as running:
        status, said, _ = running.end()
        assert (status, said) == (0, "")
        assert len(running.packets(tmp_path)) == 20
    assert captures(bench) == 1


def test_the_toolbar_has_a_recorder_write_another_snapshot(
    bench: Bench, environment: dict[str, str], recorder: CaptureSession, tmp_path: Path
) -> None:
    bench.send(5)
    words = ("--extcap-interface", "capd:recorder/night", "--go-on")
    with capturing(tmp_path, environment, *words, has_toolbar=True) as running:
        assert len(running.wait_for_packets(tmp_path, 5)) == 5
        running.wait_for_message(Control.DROPPED, Command.STATUS_BAR, "_00001_")
        bench.send(6)
        running.press(ControlMessage(Control.SNAPSHOT, Command.SET).encode())
        assert len(running.wait_for_packets(tmp_path, 16)) == 16
        running.wait_for_message(Control.DROPPED, Command.STATUS_BAR, "_00002_")
        status, said, took_s = running.end(signal.SIGTERM)
    assert (status, said) == (0, "")
    assert took_s < AT_ONCE_S


def test_what_cannot_be_done_is_said_in_the_toolbar(bench: Bench, environment: dict[str, str], tmp_path: Path) -> None:
    with bench.session(detach=True, name="single"):
        words = ("--extcap-interface", "capd:capture/single")
        with capturing(tmp_path, environment, *words, has_toolbar=True) as running:
            running.read()
            running.press(ControlMessage(Control.ROTATE, Command.SET).encode())
            assert "ring" in running.wait_for_message(Control.DROPPED, Command.WARNING).text
            running.end(signal.SIGTERM)
        stop_capture("single", socket_path=bench.daemon.socket_path)


def test_others_words_are_escaped_in_the_toolbar(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out")
    toolbar = Toolbar(None, str(tmp_path / "out"))
    toolbar.tell("a\x1b[2J\n")
    toolbar.warn("\u202e")
    descriptor = os.open(tmp_path / "out", os.O_RDONLY | os.O_NONBLOCK)
    found = list(ControlDecoder().feed(os.read(descriptor, 1000)))
    os.close(descriptor)
    assert [each.text for each in found] == [r"a\x1b[2J\n", r"\u202e"]


def test_the_end_of_a_running_capture_is_the_end_of_it(
    bench: Bench, environment: dict[str, str], tmp_path: Path
) -> None:
    words = ("--extcap-interface", "capd:capture/short")
    with bench.session(detach=True, name="short"), capturing(tmp_path, environment, *words) as running:
        running.read()
        stop_capture("short", socket_path=bench.daemon.socket_path)
        assert running.end()[:2] == (0, "")


# Users and rules ------------------------------------------------------------------------------------------------------


def test_an_ordinary_user_is_offered_what_the_rules_allow(
    make_dir: MakeDir, lasting_veth: tuple[str, str], user_dir: Path
) -> None:
    sender, name = lasting_veth
    directory = make_dir("ruled")
    (directory / "capd.toml").write_text(
        f"[[rule]]\nname = 'one'\ngroups = [{CAPTURERS.gr_gid}]\ninterfaces = ['{name}']\nmax_snaplen_bytes = 60\n"
        "promiscuous = false\nfilter = 'udp'\n"
    )

    def run(channel: Channel) -> None:
        environment = environment_of(daemon.socket_path, user_dir)
        channel.send(asked(environment, "--extcap-interfaces").stdout)
        channel.send(asked(environment, "--extcap-config", "--extcap-interface", f"capd:{name}").stdout)
        with capturing(user_dir, environment, "--extcap-interface", f"capd:{name}", "--snaplen", "60") as running:
            running.read()
            channel.send("begun")
            found = running.wait_for_packets(user_dir, 3)
            channel.send(([len(each.data) for each in found], running.end(signal.SIGTERM)[:2]))
        with capturing(user_dir, environment, "--extcap-interface", f"capd:{sender}") as running:
            channel.send(running.end()[:2])

    user = User(23_733, 23_733, (CAPTURERS.gr_gid,))
    with (
        running_daemon(directory, "--config", str(directory / "capd.toml")) as daemon,
        process_of(user, run) as process,
    ):
        listed, configured = process.hear(), process.hear()
        assert values_of(listed) == [f"capd:{name}", "capd:any", "capd:ssh://"]
        assert f"capd {name}, packets that match 'udp'" in listed
        assert "{range=1,60}{default=60}" in configured
        assert "--no-promiscuous" not in configured
        assert process.hear() == "begun"
        send(sender, FRAMES, 3)
        assert process.hear() == ([60, 60, 60], (0, ""))
        status, said = process.hear()
        assert (status, "may not" in said or "no rule" in said) == (1, True), said


# Other hosts ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def there(user_dir: Path) -> Generator[tuple[Bench, dict[str, str]], None, None]:
    """A host with a daemon, as ssh reaches it, and the environment of a program here, where there is no daemon."""
    with private_network_namespace(), veth_pair("near", "far"), running_daemon(user_dir) as daemon:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        directory = user_dir / "ssh"
        directory.mkdir()
        with ssh_server(directory, {"PATH": os.environ["PATH"], "CAPD_SOCKET": daemon.socket_path}) as server:
            own = server.command[server.command.index("-i") + 1]
            (directory / "home/.ssh/config").write_text(
                f"IdentityFile {own}\nStrictHostKeyChecking no\nLogLevel ERROR\n"
                f"UserKnownHostsFile {directory / 'known'}\n"
            )
            yield Bench(daemon, "near", "far", user_dir), environment_of(None, user_dir)


def test_a_host_is_used_over_ssh_and_its_interfaces_are_loaded(
    there: tuple[Bench, dict[str, str]], tmp_path: Path
) -> None:
    bench, environment = there
    generic = ("--extcap-interface", "capd:ssh://", "--host", "ssh://root@127.0.0.1")
    loaded = asked(environment, "--extcap-config", *generic, "--extcap-reload-option", "remote-interface")
    assert {"", "any", "near", "far"} <= {
        line.partition("{value=")[2].partition("}")[0] for line in loaded.stdout.splitlines()
    }
    words = ("--extcap-interface", "capd:ssh://root@127.0.0.1", "--remote-interface", "far", "--snaplen", "60")
    for number in (signal.SIGTERM, None):
        with capturing(tmp_path, environment, *words, "--extcap-capture-filter", "udp") as running:
            running.read()
            bench.send(4)
            assert {len(each.data) for each in running.wait_for_packets(tmp_path, 4)} == {60}
            if number is None:
                running.leave()
            status, said, took_s = running.end(number)
        assert (status, said) == (0, "")
        assert took_s < AT_ONCE_S
        wait_until(lambda: captures(bench) == 0, "the capture there has ended")
        if number is not None:  # with its statistics
            size_bytes = int.from_bytes(running.data[-4:], "little")
            assert running.data[-size_bytes:][:4] == b"\x05\0\0\0"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--remote-interface", "nope0"), "127.0.0.1: "),
        (("--remote-interface", "far", "--extcap-capture-filter", "udp and"), "(at character"),
    ],
)
def test_what_a_host_refuses_is_said(
    there: tuple[Bench, dict[str, str]], tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    _, environment = there
    with capturing(tmp_path, environment, "--extcap-interface", "capd:ssh://root@127.0.0.1", *words) as running:
        status, text, _ = running.end()
    assert (status, said in text) == (1, True), text


def test_a_host_that_is_not_reached_is_said(tmp_path: Path) -> None:
    environment = environment_of(None, tmp_path)
    for name in ("capd:ssh://127.0.0.1:1", "capd:ssh://"):
        with capturing(tmp_path, environment, "--extcap-interface", name) as running:
            status, text, _ = running.end()
        assert status == 1
        assert ("127.0.0.1: " in text) if name[-1] == "1" else ("is no host" in text)


def test_a_capture_there_ends_though_this_program_is_killed(
    there: tuple[Bench, dict[str, str]], tmp_path: Path
) -> None:
    bench, environment = there
    words = ("--extcap-interface", "capd:ssh://root@127.0.0.1", "--remote-interface", "far")
    with capturing(tmp_path, environment, *words) as running:
        running.read()
        running.end(signal.SIGKILL)
        wait_until(lambda: captures(bench) == 0, "the capture there has ended")
