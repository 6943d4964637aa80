"""``capctl`` as people type it and as programs read it.

A process of its own where signals, pipes, a terminal or the installed program are meant, or packets are to come
meanwhile; else it is called (``tests.cli.calling``).
"""

import contextlib
import json
import os
import pwd
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from capd_client import CaptureSession, InvalidArgument, Revocation, list_captures, revoke_captures
from capd_client.cli import __main__ as capctl
from capd_client.cli.capture import in_options
from capd_protocol.arguments import ARGUMENTS, BY_NAME
from capd_protocol.messages import CaptureSummary, RevokedCapture, Started
from tests.cli.calling import Done, called
from tests.cli.terminal import in_terminal
from tests.client.conftest import Bench
from tests.client.helpers import PATIENCE_S, pcap_linktype_and_sizes, read_complete, wait_until
from tests.support.accounts import have_account
from tests.support.attack import User, connected_as, request_for
from tests.support.attack import opened as directory_opened
from tests.support.bad_input import BY_CLIENT, arguments_of
from tests.support.daemon import Daemon, as_user, running_daemon, status_of
from tests.support.namespace import veth_pair

CAPCTL = (sys.executable, "-m", "capd_client.cli")
COMMANDS = (
    "capture",
    "read",
    "columns",
    "dissect",
    "decode",
    "files",
    "extract",
    "merge",
    "cut",
    "list",
    "attach",
    "stop",
    "rotate",
    "flush",
    "snapshot",
    "revoke",
    "whoami",
    "send",
    "interfaces",
    "linktypes",
    "stats",
    "watch",
    "install-extcap",
    "completion",
    "help",
)
ESCAPE = "\x1b"
#: Of the tests of revoke alone.
REVOKED_ID = 23_651


def command(bench: Bench, *words: str) -> list[str]:
    """Return the words that are typed."""
    return [*CAPCTL, "--socket", bench.daemon.socket_path, *words]


def capture_command(bench: Bench, *words: str) -> list[str]:
    """Return the words of a capture on the captured interface."""
    return command(bench, "capture", "-i", bench.interface, *words)


def asked(bench: Bench, *words: str) -> Done:
    """Run a command that has the daemon's socket in front."""
    return called("--socket", bench.daemon.socket_path, *words)


def capture_asked(bench: Bench, *words: str) -> Done:
    """Run a capture on the captured interface."""
    return asked(bench, "capture", "-i", bench.interface, *words)


def done(words: list[str], **arguments: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without a terminal."""
    return subprocess.run(
        words, capture_output=True, text=True, timeout=PATIENCE_S, check=False, stdin=subprocess.DEVNULL, **arguments
    )


@contextlib.contextmanager
def started(
    words: list[str], cwd: Path, **arguments: Any
) -> Generator[tuple[subprocess.Popen[str], list[str]], None, None]:
    """Have a capture run, without a terminal; give its process, and the lines up to its first file's."""
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        start_new_session=True,
        **arguments,
    ) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline()]
            if lines[0].startswith('{"event": "started"'):
                lines.append(process.stdout.readline())
            assert lines[-1], process.communicate(timeout=PATIENCE_S)
            yield process, [line.rstrip("\n") for line in lines]
        finally:
            process.kill()


def captured(bench: Bench, packets: int, *words: str, size_bytes: int = 100) -> tuple[int, list[str], str]:
    """Return exit status, lines and errors of a capture that ends by itself while packets are sent."""
    with started(capture_command(bench, *words), bench.directory) as (process, lines):
        bench.send(packets, size_bytes)
        output, errors = process.communicate(timeout=PATIENCE_S)
    return process.returncode, lines + output.splitlines(), errors


def nothing_runs(bench: Bench) -> bool:
    """Whether the daemon has no capture."""
    return list_captures(socket_path=bench.daemon.socket_path) == ()


# capture, without a terminal ------------------------------------------------------------------------------------


def test_capture_tells_the_file_and_what_is_in_it(bench: Bench) -> None:
    status, lines, errors = captured(bench, 5, "-c", "5", "-w", "a.pcapng")
    size_bytes = (bench.directory / "a.pcapng").stat().st_size
    assert re.fullmatch(r"  complete: 5 packets, [\d.]+ k?B, 0\.\d{3} s", lines[1])
    assert lines[0:1] + lines[2:] == [
        "File: a.pcapng",
        "5 packets captured (as many as were asked for)",
        f"  {bench.interface}: 5 written, 0 dropped (0.0 %) of 5",
    ]
    shown = re.search(r", ([\d.]+) (k?)B", lines[1])
    assert shown is not None
    assert float(shown[1]) * (1000 if shown[2] else 1) == pytest.approx(size_bytes, rel=0.05)
    assert (status, errors) == (0, "")
    assert len(read_complete(bench.directory / "a.pcapng").packets) == 5


@pytest.mark.parametrize(
    ("words", "ending", "files", "kept"),
    [
        (("-a", "packets:7"), "as many as were asked for", [7], 1),
        pytest.param(("-c", "9", "-a", "packets:7"), "as many as were asked for", [7], 1, marks=pytest.mark.long),
        (("-a", "filesize:2"), "the file is full", None, 1),
        pytest.param(("-a", "duration:0.3"), "time is up", [20], 1, marks=pytest.mark.long),
        (("-b", "packets:3", "-a", "files:2"), "the last file is full", [3, 3], 2),
        (("-b", "packets:4", "-b", "files:2", "-c", "14"), "as many as were asked for", [4, 4, 4, 2], 2),
        (("--ring-buffer", "filesize:1", "--autostop", "files:2"), "the last file is full", None, 2),
        pytest.param(("-b", "duration:0.5", "-a", "duration:1.25"), "time is up", None, 3, marks=pytest.mark.long),
    ],
)
def test_conditions_end_a_capture_and_switch_files(
    bench: Bench, words: tuple[str, ...], ending: str, files: list[int] | None, kept: int
) -> None:
    status, lines, errors = captured(bench, 20, "-w", "a.pcapng", *words)
    assert (status, errors) == (0, "")
    packets = [int(line.split()[1]) for line in lines if line.startswith("  complete: ")]
    assert files is None or packets == files
    assert f"{sum(packets)} packets captured ({ending})" in lines
    left = sorted(bench.directory.glob("a*"))
    assert len(left) == kept
    assert [len(read_complete(path).packets) for path in left] == packets[-kept:]


@pytest.mark.long
def test_what_a_ring_deletes_is_told_with_its_reason(bench: Bench) -> None:
    status, lines, errors = captured(bench, 8, "-w", "a.pcapng", "-b", "packets:2", "-b", "files:2", "-c", "8")
    assert (status, errors) == (0, "")
    deleted = [line for line in lines if line.startswith("  deleted: ")]
    assert [re.sub(r"_\d{14}", "", line) for line in deleted] == [
        f"  deleted: a_0000{number}.pcapng (number of files)" for number in (1, 2)
    ]
    words = ("-w", "b.pcapng", "-b", "packets:2", "-b", "total:1", "-b", "age:60", "-b", "free:1", "-c", "8", "--json")
    status, lines, errors = captured(bench, 8, *words)
    events = [event for event in json_lines("\n".join(lines)) if event["event"] == "file_deleted"]
    closed = {event["path"]: event for event in json_lines("\n".join(lines)) if event["event"] == "file_closed"}
    assert events
    for event in events:
        assert event["reason"] == "total"
        assert event["size_bytes"] == closed[event["path"]]["size_bytes"]


def test_other_options_reach_the_capture(bench: Bench) -> None:
    words = ("-f", "udp", "-s", "60", "-p", "-y", "DOCSIS", "-B", "2", "-g", "-P", "--update-interval", "0.02")
    # libpcap does not filter this type: no filter then.
    status, lines, errors = captured(bench, 4, "-w", "a.pcap", "-c", "4", *words[2:])
    assert (status, errors) == (0, "")
    assert pcap_linktype_and_sizes(bench.directory / "a.pcap") == (143, [60] * 4)
    assert (bench.directory / "a.pcap").stat().st_mode & 0o777 == 0o640
    status, lines, errors = captured(bench, 4, "-w", "b.pcapng", "-a", "duration:0.3", "-f", "tcp")
    assert (status, errors) == (0, "")
    assert lines[-1] == f"  {bench.interface}: 0 written, 0 dropped (0.0 %) of 0"


def test_a_snaplen_of_zero_is_the_whole_packet(bench: Bench) -> None:
    captured(bench, 1, "-w", "a.pcapng", "-c", "1", "-s", "0", size_bytes=1000)
    (packet,) = read_complete(bench.directory / "a.pcapng").packets
    assert len(packet) == 1000


def test_several_interfaces_are_given_one_by_one(bench: Bench) -> None:
    with veth_pair("more0", "more1"):
        status, lines, errors = captured(bench, 3, "-i", "more1", "-w", "a.pcapng", "-c", "3")
    assert (status, errors) == (0, "")
    assert lines[-2:] == [
        f"  {bench.interface}: 3 written, 0 dropped (0.0 %) of 3",
        "  more1: 0 written, 0 dropped (0.0 %) of 0",
    ]


def test_without_a_terminal_it_prints_plain_text(bench: Bench) -> None:
    with started(capture_command(bench, "-w", "a.pcapng", "-a", "duration:0.3"), bench.directory) as (process, lines):
        bench.send(3)
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert errors == ""
    assert ESCAPE not in output
    assert "\r" not in output
    assert len(lines + output.splitlines()) == 4


@pytest.mark.parametrize(
    ("name", "encoding", "shown"),
    [
        (b"d\xff", "utf-8", b"/d\\udcff/"),
        ("d\u00e9".encode(), "utf-8", "/d\u00e9/".encode()),
        ("d\u00e9".encode(), "ascii", b"/d\\xe9/"),
    ],
)
def test_names_of_any_kind_can_be_told(bench: Bench, name: bytes, encoding: str, shown: bytes) -> None:
    directory = os.fsencode(bench.directory) + b"/" + name
    os.mkdir(directory)  # noqa: PTH102  # not every name is text
    words = [*map(os.fsencode, capture_command(bench, "-a", "duration:0.05", "-w")), directory + b"/a.pcapng"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    ended = subprocess.run(words, capture_output=True, timeout=PATIENCE_S, check=False, env=environment)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert shown + b"a.pcapng\n" in ended.stdout


# capture, on a terminal -----------------------------------------------------------------------------------------

LIVE = re.compile(r"[\d,]+ packets  [\d.]+ [kM]?B  [\d,]+ dropped  [\d.]+ [kM]?/s  \S+")


def test_on_a_terminal_a_line_lives_and_nothing_of_it_is_left(bench: Bench) -> None:
    name = "a-name-that-would-not-fit-into-the-line-if-it-were-not-made-shorter-than-it-is.pcapng"
    words = capture_command(bench, "-w", name, "-b", "packets:2000")
    with in_terminal(words, cwd=bench.directory) as session:
        session.wait_for(r"(?m)^0 packets  .*0 dropped  0 /s  a-name")
        assert session.screen.wraps == 1  # the name of the file is as long as it is
        bench.send(1500)
        session.wait_for(r"(?m)^1,500 packets  .* dropped  ")
        bench.send(1500)
        session.wait_for(r"(?m)^3,000 packets  .* dropped  0 /s")  # nothing comes any more
        session.type("\x03")
        assert session.wait_ended() == 0
    wraps, lines, erased = session.screen.wraps, session.screen.lines, session.screen.erased
    assert wraps == 2
    assert all(LIVE.match(line) for line in erased)
    assert max(map(len, erased)) <= 80
    assert any("…" in line for line in erased)
    assert not any("dropped  " in line or "^C" in line for line in lines)
    text = "".join(lines)
    assert text.startswith("File: a-name-that-")
    assert text.count("complete: ") == 2
    assert "3,000 packets captured (stopped)" in text


def test_the_line_fits_a_narrow_terminal(bench: Bench) -> None:
    with in_terminal(capture_command(bench, "-w", "a.pcapng"), columns=30, cwd=bench.directory) as session:
        session.wait_for(r"(?m)^0 packets  \d+")
        bench.send(10)
        session.wait_for(r"(?m)^10 packets  ")
        assert session.screen.wraps == 0
        assert [line[:12] for line in session.screen.lines] == ["File: a.pcap", "10 packets  "]
        session.type("\x03")
        assert session.wait_ended() == 0
    assert not any("^C" in line for line in session.screen.lines)


def test_a_terminal_that_does_not_know_its_width_is_taken_for_an_ordinary_one(bench: Bench) -> None:
    words = capture_command(bench, "-w", f"{'long' * 30}.pcapng")
    with in_terminal(words, told_columns=0, cwd=bench.directory) as session:
        session.wait_for(r"(?m)^0 packets  ")
        bench.send(10)
        session.wait_for(r"(?m)^10 packets  ")
        session.type("\x03")
        assert session.wait_ended() == 0
    assert session.screen.wraps == 1  # the name itself
    assert not any("dropped  " in line for line in session.screen.lines)


def test_the_line_is_on_the_terminal_when_the_lines_are_not(bench: Bench) -> None:
    path = bench.directory / "lines"
    with (
        path.open("wb") as lines,
        in_terminal(
            capture_command(bench, "-w", "a.pcapng"), columns=40, cwd=bench.directory, stdout=lines.fileno()
        ) as session,
    ):
        session.wait_for(r"0 packets  \d+")
        bench.send(10)
        session.wait_for(r"10 packets  ")
        assert session.screen.wraps == 0
        session.type("\x03")
        assert session.wait_ended() == 0
    assert session.screen.lines == []
    text = path.read_text()
    assert text.startswith("File: a.pcapng\n")
    assert ESCAPE not in text


def test_a_failure_leaves_no_line_behind(bench: Bench) -> None:
    with (
        veth_pair("gone0", "gone1"),
        in_terminal(command(bench, "capture", "-i", "gone1", "-w", "a.pcapng"), cwd=bench.directory) as session,
    ):
        session.wait_for("File: a.pcapng")
        subprocess.run(["ip", "link", "delete", "dev", "gone0"], check=True, timeout=10)
        assert session.wait_ended() == 1
    lines = session.screen.lines
    assert lines[0] == "File: a.pcapng"
    assert lines[-1].startswith("capctl: gone1")
    assert not any("dropped  " in line for line in lines)


# capture, before there is an interface -----------------------------------------------------------------------------


def read_line(process: subprocess.Popen[str], *, of_errors: bool = False) -> str:
    """Return the next line of what it prints."""
    stream = process.stderr if of_errors else process.stdout
    assert stream is not None
    return stream.readline().rstrip("\n")


@pytest.mark.parametrize(
    ("interfaces", "said"),
    [
        (("-i", "nope*"), "nope*"),
        (("-i", "nope0", "--wait"), "nope0"),
        (("-i", "nope[0-9]", "-i", "never?"), "nope[0-9] or never?"),
        (("-i", "nope*", "--record", "duration:9"), "nope*"),
    ],
    ids=["pattern", "name", "several", "recorder"],
)
def test_what_waits_for_an_interface_says_so(bench: Bench, interfaces: tuple[str, ...], said: str) -> None:
    waiting = f"capctl: waiting for an interface that matches {said}"
    with started(command(bench, "capture", *interfaces, "-w", "a.pcapng"), bench.directory) as (process, _):
        assert read_line(process, of_errors=True) == waiting
        with veth_pair("peer0", "nope0"):
            assert read_line(process) == "The interface nope0 is attached."
        assert read_line(process) == "Gone: nope0 is no longer there"
        # Nothing of it is said before it is so again.
        assert read_line(process, of_errors=True) == waiting
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("interfaces", [("-i", "{}"), ("-i", "{}", "--wait"), ("-i", "{}*", "-i", "nope*")])
def test_what_has_an_interface_does_not_say_that_it_waits(bench: Bench, interfaces: tuple[str, ...]) -> None:
    words = [each.format(bench.interface) for each in interfaces]
    with started(command(bench, "capture", *words, "-w", "a.pcapng"), bench.directory) as (process, _):
        bench.send(3)
        wait_until(lambda: list_captures(socket_path=bench.daemon.socket_path)[0].packets_total == 3, "counted")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, "")


def test_json_attach_and_detach_tell_that_a_capture_waits(bench: Bench) -> None:
    options = ("-i", "nope*", "-w", str(bench.directory / "a.pcapng"), "--name", "waits", "--detach")
    detached = asked(bench, "capture", *options)
    assert (detached.returncode, detached.stderr) == (0, "capctl: waiting for an interface that matches nope*\n")
    try:
        with started(command(bench, "attach", "waits", "--json"), bench.directory) as (process, lines):
            assert [json.loads(line)["event"] for line in lines] == ["started", "file"]
            assert json.loads(read_line(process)) == {"event": "waiting", "interfaces": ["nope*"]}
            assert "  nope* (waiting)  " in asked(bench, "list").stdout
            with veth_pair("peer0", "nope0"):
                assert json.loads(read_line(process)) == {"event": "interface_attached", "interface": "nope0"}
                wait_until(lambda: "(waiting)" not in asked(bench, "list").stdout, "the list says that it goes on")
            assert json.loads(read_line(process)) == {
                "event": "interface_lost",
                "interface": "nope0",
                "text": "nope0 is no longer there",
            }
            assert json.loads(read_line(process))["event"] == "waiting"
    finally:
        assert asked(bench, "stop", "waits").returncode == 0


def test_on_a_terminal_nothing_of_the_live_line_is_left_where_it_says_that_it_waits(bench: Bench) -> None:
    with in_terminal(command(bench, "capture", "-i", "nope*", "-w", "a.pcapng"), cwd=bench.directory) as session:
        session.wait_for("waiting for an interface that matches nope[*]")
        with veth_pair("peer0", "nope0"):
            session.wait_for("The interface nope0 is attached.")
        session.wait_for("no longer there(.|\n)*capctl: waiting for an interface that matches nope[*]")
        session.type("\x03")
        assert session.wait_ended() == 0
    said = "capctl: waiting for an interface that matches nope*"
    assert [line for line in session.screen.lines if "waiting" in line] == [said] * 2


# capture, stopped -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_capture_well(bench: Bench, number: signal.Signals) -> None:
    with started(capture_command(bench, "-w", "a.pcapng"), bench.directory) as (process, _):
        bench.send(6)
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, "")
    assert "6 packets captured (stopped)" in output
    assert len(read_complete(bench.directory / "a.pcapng").packets) == 6
    assert nothing_runs(bench)


def test_a_second_ctrl_c_does_not_wait_for_a_daemon_that_does_not_react(bench: Bench) -> None:
    with started(capture_command(bench, "-w", "a.pcapng"), bench.directory) as (process, _):
        bench.send(6)
        bench.daemon.process.send_signal(signal.SIGSTOP)
        try:
            process.send_signal(signal.SIGINT)
            wait_until(lambda: _is_handled(process.pid, signal.SIGINT), "the first Ctrl-C is handled")
            started_s = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE_S)
            assert time.monotonic() - started_s < 5
        finally:
            bench.daemon.process.send_signal(signal.SIGCONT)
    assert process.returncode in (130, -signal.SIGINT)
    assert errors == "capctl: not waited for: capd completes the files by itself\n"
    wait_until(lambda: nothing_runs(bench), "the capture has ended")
    assert len(read_complete(bench.directory / "a.pcapng").packets) == 6


#: What goes on until somebody has seen enough.
WATCHING = {
    "attach": ("{number}",),
    "read": ("--follow", "{directory}/a.pcapng"),
    "stats": (),
    "watch": (),
}


@contextlib.contextmanager
def watching(bench: Bench, name: str, *before: str) -> Generator[subprocess.Popen[str], None, None]:
    """Have such a command run, behind other words, until it has made up its mind about signals."""
    with bench.running() as capture:
        words = [each.format(number=capture.capture_id, directory=bench.directory) for each in WATCHING[name]]
        with subprocess.Popen(
            [*before, *command(bench, name, *words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                wait_until(lambda: "SigCgt" in (each := status_of(process.pid)) and has(each["SigCgt"]), "it is ready")
                yield process
            finally:
                process.kill()
        assert capture.end_reason is None


def has(mask: str, number: signal.Signals = signal.SIGTERM) -> bool:
    """Whether a signal is in a mask of /proc."""
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("name", WATCHING)
def test_a_signal_ends_well_what_only_shows(bench: Bench, name: str, number: signal.Signals) -> None:
    with watching(bench, name) as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("name", WATCHING)
def test_a_terminal_that_goes_ends_well_what_only_shows(bench: Bench, name: str) -> None:
    with bench.running() as capture:
        words = [each.format(number=capture.capture_id, directory=bench.directory) for each in WATCHING[name]]
        with in_terminal(command(bench, name, *words)) as session:
            wait_until(lambda: has(status_of(session.process.pid)["SigCgt"]), "it is ready")
            assert session.hang_up() == 0
        assert capture.end_reason is None


@pytest.mark.parametrize("name", [*WATCHING, "capture"])
def test_nohup_has_a_command_go_on(bench: Bench, name: str) -> None:
    nohup = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    with contextlib.ExitStack() as stack:
        if name == "capture":
            words = [*nohup, *capture_command(bench, "-w", "a.pcapng")]
            process, _ = stack.enter_context(started(words, bench.directory))
        else:
            process = stack.enter_context(watching(bench, name, *nohup))
        status = status_of(process.pid)
        assert has(status["SigIgn"], signal.SIGHUP)
        assert not has(status["SigCgt"], signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


def _is_handled(process_id: int, number: signal.Signals) -> bool:
    """Whether a process has taken a signal and waits again."""
    status = status_of(process_id)
    is_pending = int(status["ShdPnd"], 16) >> (number - 1) & 1
    return not is_pending and status["State"].startswith("S")


@pytest.mark.parametrize("words", [(), ("--json",)], ids=["text", "json"])
def test_a_capture_into_files_goes_on_when_nobody_reads_what_it_says(bench: Bench, words: tuple[str, ...]) -> None:
    words = tuple(capture_command(bench, *words, "-w", "a.pcapng", "-b", "packets:2", "-c", "6"))
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=bench.directory) as it:
        assert it.stdout is not None
        assert it.stderr is not None
        assert it.stdout.readline()
        it.stdout.close()
        wait_until(lambda: bool(list(bench.directory.glob("a_*"))), "the first file is there")
        bench.send(2)  # it notices when it has something to say
        assert it.stderr.readline() == "capctl: nothing more is printed: Broken pipe; the capture goes on\n"
        bench.send(4)
        errors = it.stderr.read()
        assert it.wait(PATIENCE_S) == 1
    assert errors == ""
    files = sorted(bench.directory.glob("a_*"))
    assert [len(read_complete(each).packets) for each in files] == [2, 2, 2]


def test_what_only_shows_ends_when_nobody_reads_it(bench: Bench) -> None:
    with (
        bench.running() as capture,
        started(command(bench, "attach", str(capture.capture_id)), bench.directory) as (process, _),
    ):
        assert process.stdout is not None
        process.stdout.close()
        capture.stop()
        assert process.wait(PATIENCE_S) == 1


def test_output_that_nobody_reads_is_no_fault(bench: Bench) -> None:
    readable, writable = os.pipe()
    os.close(readable)
    with bench.running():
        for words in (("list",), ("list", "--json"), ("interfaces",), ("--help",), ("capture", "--help")):
            ended = subprocess.run(
                command(bench, *words), stdout=writable, stderr=subprocess.PIPE, timeout=PATIENCE_S, check=False
            )
            assert ended.stderr == b"", words
    os.close(writable)


_UNPRINTED = "capctl: nothing more is printed: No space left on device; the capture goes on\n"


@pytest.mark.parametrize(
    ("redirection", "status", "expected"),
    [
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        (">&- 2>&-", 0, ""),
        (">/dev/full", 1, _UNPRINTED),
        ("--json >/dev/full", 1, _UNPRINTED),
        (">/dev/full 2>&1", 1, ""),
        ("-g >/dev/full 2>&-", 1, ""),
    ],
)
def test_output_may_be_closed_or_full(bench: Bench, redirection: str, status: int, expected: str) -> None:
    words = capture_command(bench, "-w", "a.pcapng", "-a", "duration:0.05")
    ended = done(["sh", "-c", f'"$@" {redirection}', "sh", *words], cwd=bench.directory)
    assert (ended.returncode, ended.stderr) == (status, expected)
    assert read_complete(bench.directory / "a.pcapng").packets == []
    assert nothing_runs(bench)


def test_a_capture_that_is_left_runs_although_nobody_can_read_where(bench: Bench) -> None:
    words = capture_command(bench, "-w", "a.pcapng", "--detach", "--name", "left")
    ended = done(["sh", "-c", '"$@" >/dev/full', "sh", *words], cwd=bench.directory)
    assert (ended.returncode, ended.stderr) == (1, _UNPRINTED)
    assert called("--socket", bench.daemon.socket_path, "stop", "left").returncode == 0


def test_the_end_of_the_daemon_is_told(own_bench: Bench) -> None:
    with started(capture_command(own_bench, "-w", "a.pcapng"), own_bench.directory) as (process, _):
        own_bench.daemon.process.kill()
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert errors == "capctl: capd has gone away: the files up to the last event can be read\n"


# --json ---------------------------------------------------------------------------------------------------------


def json_lines(text: str) -> list[dict[str, Any]]:
    """Return the objects of the lines, each of which has its type first."""
    objects = [json.loads(line) for line in text.splitlines()]
    assert all(next(iter(each)) == "event" for each in objects)
    return objects


def test_json_lines_tell_everything(bench: Bench) -> None:
    status, lines, errors = captured(bench, 2, "--json", "-w", "a.pcapng", "-b", "packets:1", "-c", "2")
    assert (status, errors) == (0, "")
    events = json_lines("\n".join(lines))
    assert [each["event"] for each in events] == ["started", *["file", "packets", "file_closed"] * 2, "ended"]
    started = events.pop(0)
    assert started == {"event": "started", "capture_id": started["capture_id"], "interfaces": [bench.interface]}
    assert started["capture_id"] >= 10_000
    names = sorted(str(path.relative_to(bench.directory)) for path in bench.directory.glob("a_*"))
    first, second, ended = events[:3], events[3:6], events[6]
    for (opened, count, closed), name, total in zip((first, second), names, (1, 2), strict=True):
        assert opened == {"event": "file", "path": name}
        assert count == {"event": "packets", "packets_delta": 1, "packets_total": total}
        assert set(closed) == {
            *("event", "path", "packets", "size_bytes", "first_timestamp_ns", "last_timestamp_ns", "drops"),
        }
        assert (closed["path"], closed["packets"], closed["drops"]) == (name, 1, 0)
        assert closed["size_bytes"] == (bench.directory / name).stat().st_size
        assert closed["first_timestamp_ns"] <= closed["last_timestamp_ns"] <= time.time_ns()
    (counters,) = ended.pop("interfaces")
    assert ended == {"event": "ended", "reason": "packets"}
    assert counters == {
        "interface": bench.interface,
        "received_total": 2,
        "written_total": 2,
        "kernel_drops_total": 0,
        "writer_drops_total": 0,
        "excess_total": 0,
    }


def test_json_totals_are_the_sums_of_what_was_told(bench: Bench) -> None:
    words = capture_command(bench, "--json", "-w", "a.pcapng", "-b", "packets:1", "-c", "20")
    with started(words, bench.directory) as (process, _):
        # Meanwhile much happens, of which it hears all at once.
        process.send_signal(signal.SIGSTOP)
        bench.send(20)
        wait_until(lambda: len(list(bench.directory.glob("a_*"))) == 20, "all files are there")
        process.send_signal(signal.SIGCONT)
        output, _ = process.communicate(timeout=PATIENCE_S)
    counts = [each for each in json_lines(output) if each["event"] == "packets"]
    assert [each["packets_delta"] for each in counts] == [1] * 20
    assert [each["packets_total"] for each in counts] == list(range(1, 21))


def test_json_tells_of_interfaces_that_go_and_of_the_error(bench: Bench) -> None:
    with (
        veth_pair("gone0", "gone1"),
        started(command(bench, "capture", "-i", "gone1", "--json", "-w", "a"), bench.directory) as (process, lines),
    ):
        subprocess.run(["ip", "link", "delete", "dev", "gone0"], check=True, timeout=10)
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    events = json_lines("\n".join(lines) + "\n" + output)
    by_type = {each["event"]: each for each in events}
    assert by_type["interface_lost"] == {
        "event": "interface_lost",
        "interface": "gone1",
        "text": "gone1 is no longer there",
    }
    assert by_type["ended"]["reason"] == "failed"
    assert events[-1]["event"] == "error"
    assert events[-1]["code"] == "interface_lost"
    assert errors == f"capctl: {events[-1]['text']}\n"


@pytest.mark.parametrize(
    ("words", "code", "status"),
    [
        (("-i", "nowhere0"), "no_such_interface", 1),
        (("-f", "udp port"), "bad_filter", 1),
        (("-c", "0"), "invalid", 2),
        (("-b", "files:2", "-w", "a"), "invalid", 2),
    ],
)
def test_json_tells_errors(bench: Bench, words: tuple[str, ...], code: str | None, status: int) -> None:
    ended = capture_asked(bench, "--json", "-w", "a", *words)
    (event,) = json_lines(ended.stdout)
    assert set(event) == {"event", "code", "text"}
    assert (event["event"], event["code"], ended.returncode) == ("error", code, status)
    assert ended.stderr.startswith(f"capctl: {event['text']}")
    # Where standard output has packets.
    for apart in (("-w", "-"), ("--print",)):
        ended = capture_asked(bench, "--json", *words[:2], *apart)
        assert (ended.returncode, ended.stdout) == (status, "")
        assert json.loads(ended.stderr.splitlines()[0])["event"] == "error"


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("-c", "0"), "-c"),
        (("-a", "filesize:0"), "-a filesize"),
        (("-w", "a", "-b", "duration:0"), "-b duration"),
        (("--update-interval", "9999"), "--update-interval"),
        (("--snaplen", "-1"), "--snaplen"),
        (("-B", "4096"), "-B"),
        (("--snaplen=300000",), "--snaplen"),
        (("-s300000",), "-s"),
        (("-a", "packets:0"), "-a packets"),
        (("--autostop", "packets:0"), "--autostop packets"),
        (("-w", "a", "-b", "packets:1", "--ring-buffer=files:0"), "--ring-buffer files"),
        (("-w", "a", "--record", "memory:1"), "--record memory"),
    ],
)
def test_a_wrong_value_is_told_with_its_option(bench: Bench, words: tuple[str, ...], option: str) -> None:
    ended = capture_asked(bench, *words)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"capctl: {option} is ")
    assert ".0;" not in ended.stderr


def test_no_message_calls_an_option_by_its_argument(tmp_path: Path) -> None:
    names = [spec.name for spec in ARGUMENTS if spec.options and ("_" in spec.name or spec.name == "snaplen")]
    bad = {name: each for name, each in BY_CLIENT.items() if each.kind is InvalidArgument and each.argument in BY_NAME}
    assert len(bad) > 200
    for name, each in bad.items():
        with pytest.raises(InvalidArgument) as raised:
            CaptureSession(socket_path="/nowhere/capd.sock", **arguments_of(each, tmp_path))
        text = re.sub(r"'[^']*'", "", in_options(str(raised.value), ()))
        assert re.findall(rf"\b(?:{'|'.join(names)})\b", text) == [], name


def test_what_is_quoted_is_left_as_it_was_typed() -> None:
    assert in_options("'snaplen' is no interface name: snaplen is 0", ()) == "'snaplen' is no interface name: -s is 0"
    assert in_options("a detached capture needs a name", ()) == "a detached capture needs a name"


def test_alone_and_asked_for_help_it_helps() -> None:
    whole = called("--help")
    assert called("help") == whole
    assert called("help", "stop") == called("stop", "--help")
    assert called() == Done(2, "", whole.stdout)


def test_the_socket_may_be_named_before_and_behind_the_command(bench: Bench) -> None:
    words = ["list", "--socket", bench.daemon.socket_path]
    assert called(*words).stdout == "No capture runs.\n"
    assert called("--socket", "/nowhere", *words).returncode == 0
    assert called("--socket", bench.daemon.socket_path, "list").returncode == 0


def test_json_tells_that_there_is_no_daemon() -> None:
    ended = done([*CAPCTL, "--socket", "/nowhere/capd.sock", "list", "--json"])
    (event,) = json_lines(ended.stdout)
    assert (event["event"], event["code"], ended.returncode) == ("error", "no_daemon", 3)
    assert "/nowhere/capd.sock" in event["text"]


# list and stop --------------------------------------------------------------------------------------------------


def test_list_says_when_nothing_runs(bench: Bench) -> None:
    ended = asked(bench, "list")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "No capture runs.\n", "")
    ended = asked(bench, "list", "--json")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_list_shows_what_runs_and_stop_ends_it(bench: Bench) -> None:
    with bench.running() as first, bench.running(savefile=bench.directory / "b.pcapng") as second:
        bench.send(1234)
        wait_until(
            lambda: all(e.packets_total == 1234 for e in list_captures(socket_path=bench.daemon.socket_path)), "counted"
        )
        header, *rows = asked(bench, "list").stdout.splitlines()
        assert header.split() == ["ID", "USER", "SINCE", "PACKETS", "DROPPED", "INTERFACES", "FILE"]
        now = time.strftime("%H:%M")
        for row, capture, name in zip(rows, (first, second), ("a.pcapng", "b.pcapng"), strict=True):
            cells = row.split()
            since = cells.pop(2)
            path = str(bench.directory / name)
            assert cells == [str(capture.capture_id), "root", "1,234", "0", bench.interface, path]
            assert re.fullmatch(r"\d\d:\d\d:\d\d", since)
            assert since[:5] <= now or now == "00:00"
        listed = [json.loads(line) for line in asked(bench, "list", "--json").stdout.splitlines()]
        assert [set(each) for each in listed] == [
            {
                *("capture_id", "user_id", "name", "interfaces", "file_name", "started_ns"),
                *("files_total", "packets_total", "drops_total", "is_contained", "directory"),
                "is_waiting",
                "is_recorder",
            }
        ] * 2
        assert [each["capture_id"] for each in listed] == [first.capture_id, second.capture_id]
        ended = asked(bench, "stop", str(first.capture_id), str(second.capture_id))
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
        first.wait(PATIENCE_S)
        second.wait(PATIENCE_S)
    assert nothing_runs(bench)
    assert str(first.end_reason) == str(second.end_reason) == "stopped"


def test_list_shows_where_files_are_as_who_captures_calls_it(bench: Bench) -> None:
    elsewhere = bench.directory / "mounted"
    elsewhere.mkdir()
    script = f'mount -t tmpfs none {elsewhere}; mkdir {elsewhere}/new; exec "$@"'
    words = capture_command(bench, "-w", f"{elsewhere}/new/a.pcapng")
    with started(["unshare", "--mount", "sh", "-c", script, "sh", *words], bench.directory) as (process, lines):
        assert lines == [f"File: {elsewhere}/new/a.pcapng"]
        (listed,) = map(json.loads, asked(bench, "list", "--json").stdout.splitlines())
        assert (listed["directory"], listed["file_name"]) == (f"{elsewhere}/new", "a.pcapng")
        assert asked(bench, "list").stdout.splitlines()[1].endswith(f"  {elsewhere}/new/a.pcapng")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert list(elsewhere.iterdir()) == []


def test_stop_ends_all_that_there_are_and_tells_of_the_others(bench: Bench) -> None:
    with bench.running() as capture:
        ended = asked(bench, "stop", "999999", str(capture.capture_id), "888888")
        assert ended.returncode == 1
        assert ended.stderr.splitlines() == [f"capctl: there is no capture {n}" for n in (999999, 888888)]
        capture.wait(PATIENCE_S)


def test_a_detached_capture_is_left_shown_rotated_flushed_and_stopped(bench: Bench) -> None:
    options = ("-i", bench.interface, "-w", str(bench.directory / "r.pcapng"), "-b", "packets:1000", "--name", "stays")
    started = done(command(bench, "capture", *options, "--detach"))
    assert (started.returncode, started.stderr) == (0, "")
    file_line, line = started.stdout.splitlines()
    assert file_line.startswith(f"File: {bench.directory}/r_00001_")
    (listed,) = list_captures(socket_path=bench.daemon.socket_path)
    expected = f"The capture stays goes on as number {listed.capture_id}: 'capctl stop stays' ends it."
    assert line == expected
    again = done(command(bench, "capture", *options, "--detach", "--json"))
    assert (again.returncode, json.loads(again.stdout)["code"]) == (1, "name_taken")
    header, row = done(command(bench, "list")).stdout.splitlines()
    assert header.split() == ["ID", "NAME", "USER", "SINCE", "PACKETS", "DROPPED", "INTERFACES", "FILE"]
    assert row.split()[:3] == [str(listed.capture_id), "stays", "root"]
    bench.send(5)
    flushed = done(command(bench, "flush", "stays"))
    assert (flushed.returncode, flushed.stdout, flushed.stderr) == (0, "", "")
    assert list_captures(socket_path=bench.daemon.socket_path)[0].packets_total == 5
    rotated = done(command(bench, "rotate", "stays", "nobodys", str(listed.capture_id)))
    assert rotated.returncode == 1
    paths = rotated.stdout.splitlines()
    begin = f"{bench.directory}/r_0000"
    assert [path[: len(begin) + 1] for path in paths] == [f"{begin}2", f"{begin}3"]
    assert all(Path(path).is_file() for path in paths)
    assert rotated.stderr == "capctl: there is no capture nobodys\n"
    with subprocess.Popen(command(bench, "attach", "--json", "stays"), stdout=subprocess.PIPE, text=True) as attached:
        assert attached.stdout is not None
        first, file_event = (json.loads(attached.stdout.readline()) for _ in range(2))
        assert first == {"event": "started", "capture_id": listed.capture_id, "interfaces": [bench.interface]}
        assert Path(file_event["path"]).name.startswith("r_00003_")
        bench.send(2)
        assert json.loads(attached.stdout.readline())["packets_total"] in (6, 7)
        attached.send_signal(signal.SIGINT)
        assert attached.wait(PATIENCE_S) == 130
    stopped = done(command(bench, "stop", "stays"))
    assert (stopped.returncode, stopped.stdout, stopped.stderr) == (0, "", "")
    wait_until(lambda: nothing_runs(bench), "it has ended")


def test_files_that_captures_make_are_shown_with_their_paths(bench: Bench) -> None:
    recorder = bench.session(savefile=bench.directory / "s.pcapng", recorder_duration=10, name="recorder")
    ring = bench.session(savefile=bench.directory / "r.pcapng", ringbuffer_packets=1000, name="ring")
    with recorder, ring:
        recorder.wait_started(PATIENCE_S)
        ring.wait_started(PATIENCE_S)
        for words, capture in ((("snapshot", "recorder"), recorder), (("rotate", "ring"), ring)):
            shown = asked(bench, *words).stdout.removesuffix("\n")
            as_json = json.loads(asked(bench, *words, "--json").stdout)
            assert set(as_json) == {"capture_id", "path"}
            assert as_json["capture_id"] == capture.capture_id
            for path in map(Path, (shown, as_json["path"])):
                assert path.parent == bench.directory
                assert path.is_file()
            assert shown != as_json["path"]
        nothing = asked(bench, "rotate", "nobodys", "--json")
        assert json.loads(nothing.stdout)["code"] == "no_such_capture"


@pytest.mark.long
def test_a_list_fits_the_terminal(bench: Bench) -> None:
    name = "a-name-that-would-not-fit-into-the-line-if-it-were-not-made-shorter-than-it-is.pcapng"
    with contextlib.ExitStack() as stack:
        names = [bench.interface]
        for number in range(3):
            names.append(f"a-long-name-{number}b")
            stack.enter_context(veth_pair(f"peer{number}", names[-1]))
        stack.enter_context(bench.running(interfaces=names, savefile=bench.directory / name))
        for columns in (80, 60):
            with in_terminal(command(bench, "list"), columns=columns) as session:
                assert session.wait_ended() == 0
            assert session.screen.wraps == 0
            header, row = session.screen.lines
            assert header.split() == ["ID", "USER", "SINCE", "PACKETS", "DROPPED", "INTERFACES", "FILE"]
            # What is too long is made shorter where it stands; names differ at their ends.
            *_, interfaces, file_name = row.split()
            assert len(row.split()) == 7
            assert row.index(f" {interfaces}") + 1 == header.index("INTERFACES")
            assert row.index(f" {file_name}") + 1 == header.index("FILE")
            assert (interfaces[:2], interfaces[-2:]) == (names[0][:2], names[-1][-2:])
            assert (file_name[:1], file_name[-2:]) == ("/", name[-2:])
        # A program that looks for a name finds it.
        assert name in asked(bench, "list").stdout


# Messages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        (("-i", "nowhere0"), 1, ["there is no interface nowhere0"]),
        (("-f", "udp and ether broccoli"), 1, ["capture filter: ", "(at character 15)"]),
        (("-f", "host example.org"), 1, ["capture filter: ", "'example.org'", "(at character 6)"]),
        (("-I",), 1, ["is not a wireless interface"]),
        (("-w", "/nowhere/a.pcapng"), 1, ["the directory /nowhere cannot be entered: No such file or directory"]),
        (("-w", "/proc/a.pcapng"), 1, ["a.pcapng cannot be "]),
        (("-w", "/tmp/"), 2, ["-w '/tmp/' names a directory: add the name of a file"]),
        (("-c", "0"), 2, ["is 0; possible are 1 to "]),
        (("-b", "files:3", "-w", "a"), 2, ["a ring needs to know when to switch"]),
        (("-b", "packets:3"), 2, ["a ring buffer needs a savefile"]),
        (("-w", "a", "--record", "duration:3", "-b", "packets:3"), 2, ["switches no files", "(option --record)"]),
        (
            ("-a", "files:3"),
            2,
            ["-a files counts the files of a ring: give -b duration, -b interval, -b "],
        ),
        (("-y", "BROCCOLI"), 2, ["'BROCCOLI' is no link-layer type that libpcap knows, such as EN10MB"]),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(
    bench: Bench, words: tuple[str, ...], status: int, expected: list[str]
) -> None:
    ended = capture_asked(bench, *words)
    assert ended.returncode == status
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("capctl: ")
    assert all(each in line for each in expected), line
    assert nothing_runs(bench)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "the following arguments are required: COMMAND: see 'capctl --help'"),
        (("brew",), "there is no command brew: see 'capctl --help'"),
        (("help", "brew"), "there is no command brew: see 'capctl --help'"),
        (("capture", "-i", "lo", "-c", "many"), "-c: 'many' is not a whole number"),
        (("capture", "-i", "lo", "--count=many"), "--count: 'many' is not a whole number"),
        (("capture", "-i", "lo", "--coun", "many"), "-c/--count: 'many' is not a whole number"),
        (("snapshot", "a", "--after", "soon"), "--after: 'soon' is not a number"),
        (("snapshot", "a", "--after", "-1"), "--after is -1; possible are 0 to 3600 seconds"),
        (("stats", "--interval", "0"), "--interval is 0; possible are 0.05 to 3600 seconds"),
        (("read", "a", "-c"), "-c: expected one argument"),
        (
            ("capture", "-i", "lo", "-a", "10"),
            "-a 10: say one of packets:N, duration:SECONDS, filesize:KB, files:N",
        ),
        (
            ("capture", "-i", "lo", "-a", "size:10"),
            "-a size:10: say one of packets:N, duration:SECONDS, filesize:KB, files:N",
        ),
        (("capture", "-i", "lo", "-b", "packets:many"), "-b packets:many: 'many' is not a whole number"),
        (("capture", "-i", "lo", "-b", "duration:"), "-b duration:: '' is not a number"),
        (("capture", "-i", "lo", "--trigger", "filter:"), "--trigger filter:: there is no TEXT"),
        (("capture", "-i", "lo", "--trigger", "filter"), "say one of filter:TEXT, rate:N, link-down"),
        (("capture", "-i", "lo", "--trigger", "link-down:1"), "say one of filter:TEXT, rate:N, link-down"),
        (("capture", "-i", "lo", "--trigger", "rate:x"), "--trigger rate:x: 'x' is not a whole number"),
        (("capture", "-i", "lo", "--brew"), "there is no option --brew here: see 'capctl capture --help'"),
        (("capture", "-nR"), "there is no option -R here: see 'capctl capture --help'"),
        (("list", "-c", "3"), "there is no option -c here: it is one of 'capctl capture'"),
        (("list", "brew"), "brew has no meaning there: words that are no options stand together; see 'capctl list"),
        (("capture", "udp", "-c", "3", "port", "53"), "port has no meaning there: words that are no options stand tog"),
        (("stop",), "the following arguments are required: CAPTURE: see 'capctl stop --help'"),
        (("stop", "/one"), "'/one' is no capture: say its number or its name"),
    ],
)
def test_wrong_options_are_explained(bench: Bench, words: tuple[str, ...], expected: str) -> None:
    ended = asked(bench, *words)
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"capctl: {expected}" if words[:1] != ("capture",) else "capctl: ")
    assert expected in line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("-i", "eth0", "udp"), "the option -i stands behind a command, as in 'capctl capture -i'"),
        (("--json", "list"), "the option --json stands behind a command, as in 'capctl capture --json'"),
        (("-R",), "there is no option -R here: see 'capctl --help'"),
        (("-r", "a.pcap"), "there is no option -r here: say 'capctl read FILE'"),
    ],
)
def test_an_option_before_the_command_is_refused(words: tuple[str, ...], expected: str) -> None:
    ended = called(*words)
    assert (ended.returncode, ended.stderr) == (2, f"capctl: {expected}\n")


def test_json_tells_what_cannot_be_taken_apart(bench: Bench) -> None:
    (event,) = json_lines(asked(bench, "list", "--json", "brew").stdout)
    assert (event["event"], event["code"]) == ("error", "invalid")


# tcpdump's options --------------------------------------------------------------------------------------------------

#: What tcpdump says of itself: its letters, and its words.
_USAGE = subprocess.run(["tcpdump", "--help"], capture_output=True, text=True, check=True).stdout
_OF_TCPDUMP = sorted(
    {f"-{letter}" for letter in re.findall(r"\[-(\S+)\]", _USAGE)[0]} | set(re.findall(r"(?<=\[ )--?[\w-]+", _USAGE))
)


@pytest.mark.parametrize("command_name", ["capture", "read", "extract"])
def test_every_option_of_tcpdump_is_there_or_refused_with_what_to_type(command_name: str) -> None:
    assert len(_OF_TCPDUMP) > 45
    there = set(re.findall(r"(?m)^  .*", called(command_name, "--help").stdout))
    shown = {name for line in there for name in re.findall(r"(?<!\S)(--?[\w#-]+)", line.split("   ")[0])}
    absent = [name for name in _OF_TCPDUMP if name not in shown]
    assert absent
    for name in absent:
        for words in (("x", name), ("x", name, "value"), ("x", f"-n{name[1:]}")):
            if name.startswith("--") and words[-1].startswith("-n"):
                continue
            ended = called(command_name, *words)
            assert ended.returncode == 2, words
            assert ended.stdout == ""
            assert re.fullmatch(f"capctl: there is no option {name} here: (?!see).*\n", ended.stderr), ended.stderr


@pytest.mark.parametrize("words", [("list",), ("stop", "1"), ("capture", "-i", "lo")])
def test_no_daemon_has_an_exit_status_of_its_own(words: tuple[str, ...]) -> None:
    ended = called("--socket", "/nowhere/capd.sock", *words)
    assert ended.returncode == 3
    assert ended.stdout == ""
    expected = (
        "capctl: there is no capd at /nowhere/capd.sock (No such file or directory): start capd, or name its socket\n"
    )
    assert ended.stderr == expected


def test_the_variable_names_the_socket(bench: Bench) -> None:
    ended = done([*CAPCTL, "list"], env={**os.environ, "CAPD_SOCKET": bench.daemon.socket_path})
    assert (ended.returncode, ended.stdout) == (0, "No capture runs.\n")


# Help -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), *((each,) for each in COMMANDS)], ids=" ".join)
def test_help_fits_80_columns(words: tuple[str, ...]) -> None:
    ended = called(*words, "--help", environment={"COLUMNS": "80"})
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert lines[0].startswith(f"usage: {' '.join(('capctl', *words))}")
    assert max(map(len, lines)) <= 80
    # Each option says what it does.
    options = re.findall(r"(?m)^  (-.+)\n(?: {10,}(.+))?", ended.stdout)
    assert all(re.search(r"  +\S", option) or explained for option, explained in options)


def test_help_names_all_commands_and_what_exit_statuses_mean() -> None:
    text = done([*CAPCTL, "--help"]).stdout
    assert tuple(re.findall(r"(?m)^    ([\w-]+)(?:  |$)", text)) == COMMANDS
    expected = (
        "Exit status: 0 done; 1 refused or failed; 2 wrong options or arguments; 3 there is no daemon; 130 ended by "
        "Ctrl-C."
    )
    assert expected in " ".join(text.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("rot", {"rotate"}),
        ("capture --snap", {"--snaplen"}),
        ("capture -i lo --ring-buffer f", {"files:", "filesize:", "free:"}),
        ("capture --trigger l", {"link-down"}),
        ("stop --snap", set[str]()),
    ],
)
def test_shells_complete_what_there_is(shell: str, typed: str, found: set[str]) -> None:
    words = f"capctl {typed}"
    at = typed.rsplit(maxsplit=1)[-1] if shell == "fish" else str(len(typed.split()))
    environment = {"_CAPCTL_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": at}
    completed = called(environment=environment)
    assert completed.stderr == ""
    assert set(re.findall(r"(?<![\w-])(?:--)?[a-z][a-z-]*:?(?=\s|$)|(?<=plain,)\S+", completed.stdout)) >= found
    assert bool(completed.stdout.strip()) == bool(found)
    printed = called("completion", shell)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert f"_CAPCTL_COMPLETE={shell}_complete" in printed.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("program", "typed", "found"),
    [
        ("capd-dumpcap", "--snap", {"--snapshot-length"}),
        ("capd-dumpcap", "-i lo --list-t", {"--list-time-stamp-types"}),
        ("capd-extcap", "--extcap-c", {"--extcap-config", "--extcap-capture-filter", "--extcap-control-in"}),
        ("capd-extcap", "--capture --no-p", {"--no-promiscuous"}),
    ],
)
def test_shells_complete_the_other_programs(shell: str, program: str, typed: str, found: set[str]) -> None:
    variable = f"_{program.upper().replace('-', '_')}_COMPLETE"
    at = typed.rsplit(maxsplit=1)[-1] if shell == "fish" else str(len(typed.split()))
    asks = {variable: f"{shell}_complete", "COMP_WORDS": f"{program} {typed}", "COMP_CWORD": at}
    completed = done([str(Path(sys.executable).with_name(program))], env={**os.environ, **asks})
    assert completed.stderr == ""
    assert set(re.findall(r"--[a-z][a-z-]*", completed.stdout)) >= found
    printed = called("completion", shell, program)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert f"{variable}={shell}_complete" in printed.stdout


def test_nobody_waits_for_what_only_a_shell_asks_for() -> None:
    code = "import sys, capd_client.cli.__main__ as c; c._parser(); print(*sys.modules)"
    loaded = set(done([sys.executable, "-c", code]).stdout.split())
    assert "argparse" in loaded
    assert loaded & {"click", "numpy", "rich"} == set()


def test_version() -> None:
    ended = done([*CAPCTL, "--version"])
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"capctl {version('capd')}\n", "")


def test_the_installed_command_is_the_same() -> None:
    script = Path(sys.executable).with_name("capctl")
    assert done([str(script), "--version"]).stdout == f"capctl {version('capd')}\n"


def revoking_daemon(bench: Bench) -> contextlib.AbstractContextManager[Daemon]:
    """Have a daemon where nobody may capture but the test's user, by a rule that names the number."""
    directory = bench.directory / "revoking"
    directory.mkdir(mode=0o755)
    (directory / "capd.toml").write_text(f"[[rule]]\nname = 'one'\nusers = [{REVOKED_ID}]\n")
    return running_daemon(directory, "--config", str(directory / "capd.toml"))


@contextlib.contextmanager
def revocable(bench: Bench, daemon: Daemon, *names: str) -> Generator[list[CaptureSummary], None, None]:
    """Have a user's captures run which no rule would grant any more."""
    user = User(REVOKED_ID, REVOKED_ID)
    with contextlib.ExitStack() as stack:
        for name in names:
            client = stack.enter_context(connected_as(user, daemon))
            directory = stack.enter_context(directory_opened(bench.directory))
            client.send(request_for(bench.interface, f"{name}.pcapng", name=name), [directory])
            client.receive(Started)
        (daemon.log_path.parent / "capd.toml").write_text("")
        os.kill(daemon.process.pid, signal.SIGHUP)
        wait_until(lambda: "the configuration was read again" in daemon.log, "it has reloaded")
        yield list(list_captures(socket_path=daemon.socket_path))


def test_revoke_shows_what_has_ended_and_why(bench: Bench) -> None:
    with revoking_daemon(bench) as daemon, revocable(bench, daemon, "one", "two") as captures:
        words = ["--socket", daemon.socket_path, "revoke"]
        who = pwd.getpwuid(REVOKED_ID).pw_name
        lines = ["CAPTURE  NAME  USER       WHY"]
        lines += [f"{each.capture_id:>7}  {each.name}   {who}  no rule names the user" for each in captures]
        tried = called(*words, "--dry-run")
        assert (tried.returncode, tried.stderr) == (0, "")
        assert tried.stdout.splitlines() == [*lines, "2 captures would end."]
        as_json = called(*words, "--dry-run", "--json")
        expected = [
            {
                "outcome": "would_end",
                "capture_id": each.capture_id,
                "user_id": REVOKED_ID,
                "why": "no rule names the user",
                "name": each.name,
                "is_contained": False,
            }
            for each in captures
        ]
        assert [json.loads(line) for line in as_json.stdout.splitlines()] == expected
        ended = called(*words)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.splitlines() == [*lines, "2 captures ended."]
        again = called(*words, "--user", str(REVOKED_ID))
        assert (again.returncode, again.stdout, again.stderr) == (0, "No capture ended.\n", "")
        assert called(*words, "--dry-run").stdout == "No capture would end.\n"
        assert called(*words, "--json").stdout == ""


def test_revoke_fits_the_terminal(bench: Bench) -> None:
    name = "n" * 64
    with revoking_daemon(bench) as daemon, revocable(bench, daemon, name):
        words = ["--socket", daemon.socket_path, "revoke", "--user", f"test{REVOKED_ID}", "--dry-run"]
        with in_terminal([*CAPCTL, *words], columns=80) as session:
            assert session.wait_ended() == 0
        assert session.screen.wraps == 0
        assert session.screen.lines[1].endswith(f"all captures of user {REVOKED_ID} are to end")
        assert name in called(*words).stdout


def test_revoke_is_refused_in_words(bench: Bench) -> None:
    refused = as_user(lambda: asked(bench, "revoke"), 4321)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("capctl: only root and the owner of a private daemon revoke captures: ")
    for user in ("no-such-user", "\x1b[2J"):
        unknown = asked(bench, "revoke", "--user", user)
        assert (unknown.returncode, unknown.stdout) == (2, "")
        assert "is no user" in unknown.stderr
        assert ESCAPE not in unknown.stderr


class _Words:
    """What an account is called by somebody who means ill."""

    pw_name = "\x1b[2Jalice"


def test_what_is_kept_is_told_and_has_a_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = RevokedCapture(capture_id=7, user_id=1000, why="a \x1b[2J why", name=None)
    kept = RevokedCapture(capture_id=8, user_id=1001, why="not known", name="b")
    monkeypatch.setattr(capctl, "revoke_captures", lambda *_, **__: Revocation((line,), (kept,)))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: _Words)
    assert capctl.main(["revoke"]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].split() == ["7", r"\x1b[2Jalice", "a", r"\x1b[2J", "why"]
    assert printed.out.splitlines()[2] == "1 capture ended."
    assert r"now: 8 (\x1b[2Jalice): try again" in printed.err
    assert capctl.main(["revoke", "--json"]) == 1
    assert [json.loads(each)["outcome"] for each in capsys.readouterr().out.splitlines()] == ["ended", "kept"]


def test_capture_says_that_it_was_revoked(bench: Bench) -> None:
    with revoking_daemon(bench) as daemon:
        words = [*CAPCTL, "--socket", daemon.socket_path, "capture", "-i", bench.interface, "-w", "a.pcapng"]
        user = {"user": REVOKED_ID, "group": REVOKED_ID, "extra_groups": []}
        have_account(REVOKED_ID)
        with started(words, bench.directory, **user) as (process, _):
            assert len(revoke_captures(REVOKED_ID, socket_path=daemon.socket_path).ended) == 1
            output, errors = process.communicate(timeout=PATIENCE_S)
    assert "0 packets captured (revoked by an administrator)" in output
    assert (process.returncode, errors) == (1, "")


def test_whoami_shows_what_policy_allows_in_words(bench: Bench) -> None:
    ended = asked(bench, "whoami")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == (
        "root (user 0) may capture\n  on * (rule unbound)\n    and send on *, lo, from any source address\n"
        "    and have capd open the devices *\n"
    )
    shown = json.loads(asked(bench, "whoami", "--json").stdout)
    assert (shown["user_id"], shown["permissions"][0]["rule"]) == (0, "unbound")
    stranger = as_user(lambda: asked(bench, "whoami"), 4322, has_account=False)
    assert stranger.stdout.startswith("user 4322 may not capture here: ask an administrator to be added to the group")


def test_whoami_shows_every_bound_and_fits_a_terminal(bench: Bench) -> None:
    directory = bench.directory / "bounded"
    directory.mkdir(mode=0o755)
    (directory / "capd.toml").write_text(
        """
        contact = "netops"
        [[rule]]
        name = "students"
        everybody = true
        interfaces = ["eth*", "veth0"]
        filter = "udp port 53"
        max_snaplen_bytes = 1280
        promiscuous = false
        max_captures = 2
        max_disk_bytes = 1_500_000
        max_duration_s = 60
        [[rule]]
        name = "radio"
        everybody = true
        interfaces = ["wlan0"]
        monitor_mode = true
        """
    )
    with running_daemon(directory, "--config", str(directory / "capd.toml"), "--monitor-mode") as daemon:
        words = ["--socket", daemon.socket_path, "whoami"]
        ended = as_user(lambda: called(*words), 4321)
    assert ended.stdout == (
        f"{pwd.getpwuid(4321).pw_name} (user 4321) may capture\n"
        "  on eth*, veth0 (rule students)\n"
        "    only packets that match 'udp port 53'\n"
        "    the first 1,280 bytes of a packet\n"
        "    not in promiscuous mode\n"
        "    up to 2 at once\n"
        "    up to 1.5 MB on disk\n"
        "    for up to 60 s\n"
        "  on wlan0 (rule radio)\n"
        "    in monitor mode too\n"
        "On each interface the first of these that allows what is asked for holds.\n"
    )
    assert max(map(len, ended.stdout.splitlines())) <= 80
