"""Capture modules as sources: D-Bus."""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import pytest
import trio

from capd_client import (
    CaptureSession,
    ChildError,
    EndReason,
    Interface,
    InterfaceError,
    InvalidArgument,
    SourceError,
    UnsupportedError,
    aio,
    read,
)
from capd_client.modules.devices import dbus_wire
from capd_protocol.messages.interfaces import InterfaceType
from tests.cli.calling import called
from tests.client.conftest import Bench
from tests.client.helpers import PATIENCE_S, wait_until
from tests.client.test_extcap import counters, processes_with
from tests.client.test_streams import USER_ID, read_back, typed
from tests.support.accounts import have_account

#: A bus that lets somebody in.
BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="{who}"/><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/>
  </policy>
</busconfig>
"""
#: Messages of one signal: what a client says of itself, and the signal.
SIGNAL = ["--type=signal", "/a/b", "c.d.E"]


@pytest.fixture
def place(user_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path, None, None]:
    """A directory; nothing is left running in whose command line it is, and no FIFO."""
    temporary = user_dir / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    yield user_dir
    assert processes_with(str(user_dir)) == []
    assert list(temporary.iterdir()) == []


@contextlib.contextmanager
def running_bus(directory: Path, who: str = "*") -> Generator[tuple[str, "subprocess.Popen[bytes]"], None, None]:
    """Run a bus of root's; give its address."""
    path = directory / "bus"
    file = directory / "bus.conf"
    file.write_text(BUS.format(path=path, who=who))
    command = ["dbus-daemon", f"--config-file={file}", "--nofork", "--nosyslog", "--print-address"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as daemon:
        try:
            assert daemon.stdout is not None
            address = daemon.stdout.readline().decode().strip()
            path.chmod(0o777)
            yield address, daemon
        finally:
            daemon.terminate()


@pytest.fixture
def bus(place: Path) -> Generator[str, None, None]:
    """The address of a bus."""
    with running_bus(place) as (address, _):
        yield address


def say(address: str, count: int = 1, text: str = "hello") -> None:
    """Send signals on a bus."""
    for number in range(count):
        words = ["dbus-send", f"--bus={address}", *SIGNAL, f"string:{text} {number}"]
        subprocess.run(words, check=True)


def signals_of(capture_file: Path) -> list[str]:
    """Return the texts of the signals of ours in a file."""
    found = [re.search(rb"(hello|end) [0-9]+", bytes(each.data)) for each in read(capture_file)]
    return [each[0].decode() for each in found if each is not None]


def written(capture: CaptureSession) -> int:
    """Return how many packets are in the file as of now."""
    return sum(each.written_total for each in counters(capture))


# D-Bus ---------------------------------------------------------------------------------------------------------------


def test_all_messages_of_a_bus_are_there_as_dbus_monitor_has_them(bench: Bench, bus: str, place: Path) -> None:
    theirs = place / "theirs.pcap"
    with (
        theirs.open("wb") as output,
        subprocess.Popen(["dbus-monitor", "--address", bus, "--pcap"], stdout=output) as monitor,
        bench.session(interfaces=f"dbus:{bus}") as capture,
    ):
        try:
            say(bus, 5)
            subprocess.run(["dbus-send", f"--bus={bus}", "--dest=no.where", "/", "no.such.call"], check=True)
            # dbus-monitor says it of itself: it is the last message for both.
            wait_until(lambda: theirs.stat().st_size > 0 and len(signals_of(theirs)) == 5, "dbus-monitor has all")
            count = len(list(read(theirs)))
            wait_until(lambda: written(capture) >= 5, "we have them")
            say(bus, 1, "end")
            wait_until(lambda: b"end 0" in theirs.read_bytes(), "dbus-monitor has the end")
            wait_until(lambda: b"end 0" in bench.savefile.read_bytes(), "we have the end")
        finally:
            monitor.terminate()
    assert count >= 5
    ours = [bytes(each.data) for each in read(bench.savefile)]
    expected = [bytes(each.data) for each in read(theirs)]
    # What came before we listened is theirs alone, and the end of the last client may be ours alone.
    begin = expected.index(ours[0])
    common = min(len(ours), len(expected) - begin)
    assert common > 30
    assert ours[:common] == expected[begin : begin + common]
    replies = [each for each in ours if each[1] in {2, 3}]
    assert len(replies) >= 7  # of the bus, to each Hello


def test_a_bus_beside_an_interface_is_in_one_file_in_time_order(
    bench: Bench, bus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", bus)
    with bench.session(interfaces=[bench.interface, "dbus-session"]) as capture:
        for _ in range(5):
            bench.send(2)
            say(bus)
        wait_until(lambda: len(signals_of(bench.savefile)) == 5 and written(capture) >= 40, "all are in the file")
        assert capture.interfaces == (bench.interface, "dbus-session")
    packets = list(read(bench.savefile))
    names = [each.interface for each in packets]
    assert names.count(bench.interface) == 10
    times = [each.timestamp_ns for each in packets]
    assert times == sorted(times)
    assert sum(one != other for one, other in itertools.pairwise(names)) >= 5  # one, the other, and so on


def test_a_long_message_is_cut_and_its_length_is_known(bench: Bench, bus: str) -> None:
    text = "x" * 100_000
    with bench.session(interfaces=f"dbus:{bus}", snaplen=1000) as capture:
        say(bus, 1, text)
        wait_until(lambda: written(capture) >= 7, "it is in the file")
    longest = max(read(bench.savefile), key=lambda each: each.original_size_bytes)
    assert longest.original_size_bytes > 100_000
    assert len(longest.data) == 1000


def test_filter_and_limit_are_those_of_a_stream(bench: Bench, bus: str) -> None:
    one = {"interfaces": f"dbus:{bus}", "capture_filter": "link[1] = 4", "max_packet_count": 3}
    with bench.session(**one) as capture:
        say(bus, 3)
        capture.wait(PATIENCE_S)
    assert capture.end_reason == EndReason.PACKETS
    assert {data[1] for _, data in read_back(capture)} == {4}  # signals


def test_a_bus_that_goes_away_fails_the_capture_behind_its_messages(bench: Bench, place: Path) -> None:
    with running_bus(place) as (address, daemon):
        with bench.session(interfaces=f"dbus:{address}") as capture:
            say(address)
            wait_until(lambda: written(capture) >= 7, "it is in the file")
            daemon.kill()
            with pytest.raises(SourceError, match="has closed the connection") as raised:
                list(capture)
        assert raised.value.failure is not None
        assert raised.value.failure.interface == f"dbus:{address}"
        assert signals_of(bench.savefile) == ["hello 0"]


REFUSALS: dict[str, tuple[str, type[ChildError], str]] = {
    "nobody listens": ("dbus:unix:path=/nowhere/bus", InterfaceError, "cannot be reached: No such file"),
    "no address": ("dbus:nonsense", InvalidArgument, "no address of a bus on this machine: write unix:path=PATH"),
    "a network": ("dbus:tcp:host=127.0.0.1,port=1", InvalidArgument, "write unix:path=PATH or unix:abstract=NAME"),
    "a wrong escape": ("dbus:unix:path=/a%zz", InvalidArgument, "no number of two digits"),
    "no device": ("dbus", InterfaceError, "no module has a device dbus"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_no_bus_is_refused_and_an_old_file_stays(bench: Bench, place: Path, name: str) -> None:
    device, error, words = REFUSALS[name]
    bench.savefile.write_bytes(b"old")
    with pytest.raises(error, match=words) as raised:
        bench.running(interfaces=device)
    assert raised.value.failure is not None
    assert raised.value.failure.interface == device
    assert bench.savefile.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"monitor_mode": True}, "is no radio: leave the monitor mode out"),
        ({"direction": "in"}, "cannot tell what comes in from what goes out: leave the direction out"),
        ({"link_layer_type": "EN10MB"}, "link-layer type cannot be chosen"),
    ],
)
def test_options_that_a_bus_cannot_have_are_refused(
    bench: Bench, bus: str, arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(UnsupportedError, match=words):
        bench.session(interfaces=f"dbus:{bus}", **arguments)


def test_a_link_layer_type_of_the_bus_may_be_given(bench: Bench, bus: str) -> None:
    with bench.session(interfaces=f"dbus:{bus}", link_layer_type="DBUS", promiscuous=True, kernel_buffer_size=2):
        pass
    with pytest.raises(InvalidArgument, match="there is no link-layer type 'NOSUCH'"):
        bench.session(interfaces=f"dbus:{bus}", link_layer_type="NOSUCH")


def test_who_may_not_monitor_a_bus_learns_who_may(bus: str, own_directory: Path) -> None:
    for line in (
        f"capctl capture -i dbus:{bus} -w a.pcapng",
        f"DBUS_SYSTEM_BUS_ADDRESS={bus} capctl capture -i dbus-system",
    ):
        done = typed(line, own_directory)
        assert done.returncode != 0
        assert "does not let this user monitor it: most let root only; become root" in done.stderr, done
        assert "Traceback" not in done.stderr


@pytest.fixture
def own_directory(place: Path) -> Path:
    """A directory of an ordinary user's."""
    have_account(USER_ID)  # without one there is no bus
    directory = place / "own"
    directory.mkdir()
    os.chown(directory, USER_ID, USER_ID)
    return directory


def test_a_bus_of_another_user_keeps_this_one_out(place: Path, own_directory: Path) -> None:
    with running_bus(place, "root") as (address, _):
        done = typed(f"capctl capture -i dbus:{address} -w a.pcapng", own_directory)
    assert "does not let this user in" in done.stderr, done
    assert done.returncode != 0


def test_an_ordinary_user_captures_a_session_of_its_own(own_directory: Path) -> None:
    script = own_directory / "script"
    script.write_text(
        "capctl capture -i dbus-session -w a.pcapng -a packets:8 >out 2>&1 &\n"
        "until grep -q a.pcapng out; do sleep 0.05; done\n"
        "dbus-send --session --type=signal /a/b c.d.E string:hello\n"
        "dbus-send --session --type=signal /a/b c.d.E string:hello\n"
        "wait $!\n"
    )
    done = typed("dbus-run-session -- bash script 2>err; cat out", own_directory)
    assert "8 packets captured" in done.stdout, done
    assert len(list(read(own_directory / "a.pcapng"))) == 8
    found = typed("tshark -r a.pcapng -Y 'dbus.member == \"E\"' | wc -l", own_directory)
    assert int(found.stdout) >= 1, found


# What is left behind -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [CaptureSession.terminate, CaptureSession.abandon], ids=["terminate", "abandon"])
def test_a_module_ends_with_the_capture(bench: Bench, bus: str, end: Callable[[CaptureSession], None]) -> None:
    capture = bench.running(interfaces=f"dbus:{bus}")
    assert len(processes_with(f"dbus:{bus}")) == 2  # its guardian, and itself
    end(capture)
    wait_until(lambda: not processes_with(f"dbus:{bus}"), "all have ended")


def test_a_module_ends_where_a_limit_ends_the_capture_and_the_session_stays(bench: Bench, bus: str) -> None:
    with bench.session(interfaces=f"dbus:{bus}", max_packet_count=3) as capture:
        say(bus)
        capture.wait(PATIENCE_S)
        wait_until(lambda: not processes_with(f"dbus:{bus}"), "all have ended")
    assert capture.end_reason == EndReason.PACKETS


def test_a_module_that_is_killed_fails_the_capture_behind_its_packets(bench: Bench, bus: str) -> None:
    with bench.session(interfaces=f"dbus:{bus}") as capture:
        say(bus)
        wait_until(lambda: written(capture) >= 7, "it is in the file")
        for each in processes_with("capd_client.modules"):
            command = Path(f"/proc/{each}/cmdline").read_bytes()
            if bus.encode() in command and b"guardian" not in command:
                os.kill(each, signal.SIGKILL)
        with pytest.raises(SourceError, match="was ended by SIGKILL"):
            list(capture)
    assert signals_of(bench.savefile) == ["hello 0"]


def test_a_module_ends_with_a_client_that_is_killed(bench: Bench, bus: str, place: Path) -> None:
    line = ["capctl", "capture", "-i", f"dbus:{bus}", "-w", str(place / "killed.pcapng")]
    environment = {**os.environ, "TMPDIR": str(place / "tmp"), "CAPD_SOCKET": str(bench.daemon.socket_path)}
    with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert b"killed.pcapng" in client.stdout.readline()
        client.kill()
    wait_until(lambda: not processes_with(f"dbus:{bus}"), "all have ended")


def test_ctrl_c_ends_a_capture_and_its_module(own_directory: Path, place: Path) -> None:
    done: list[subprocess.CompletedProcess[str]] = []
    line = "dbus-run-session -- bash -c 'echo $$ > pid; exec capctl capture -i dbus-session -w a.pcapng' 2>err"
    thread = threading.Thread(target=lambda: done.append(typed(line, own_directory)))
    thread.start()
    wait_until((own_directory / "a.pcapng").exists, "it runs")
    wait_until(lambda: (own_directory / "a.pcapng").stat().st_size > 0, "it has begun")
    os.kill(int((own_directory / "pid").read_text()), signal.SIGINT)
    thread.join(PATIENCE_S)
    assert done[0].returncode == 0, done
    left = [each for each in processes_with("capd_client.modules") if is_in(each, own_directory)]
    assert left == []


def is_in(process: int, directory: Path) -> bool:
    """Whether a process was started in a directory: others may test modules at the same time."""
    try:
        return Path(f"/proc/{process}/cwd").readlink() == directory
    except OSError:
        return False


# Which there are -----------------------------------------------------------------------------------------------------


def test_listing_has_modules_where_it_is_asked_to(bench: Bench) -> None:
    before = {each.name: each for each in Interface.list_interfaces()}
    found = Interface.list_interfaces(modules=True)
    names = [each.name for each in found]
    assert len(names) == len(set(names))
    session = next(each for each in found if each.name == "dbus-session")
    assert (session.interface_type, session.interface_type_string) == (InterfaceType.MODULE, "MODULE")
    assert session.number == before["dbus-session"].number
    assert trio.run(partial(aio.list_interfaces, modules=True)) == tuple(each.info for each in found)
    assert [each.name for each in session.supported_link_layer_types] == ["DBUS"]


def test_capctl_shows_modules_and_the_right_that_is_missing(own_directory: Path) -> None:
    listed = called("interfaces", "--modules").stdout
    assert [line.split()[1:] for line in listed.splitlines() if "dbus-s" in line] == [
        ["dbus-session", "module", "D-Bus", "session", "bus"],
        ["dbus-system", "module", "D-Bus", "system", "bus"],
    ]
    lines = typed("capctl interfaces --modules", own_directory).stdout.splitlines()
    assert ["dbus-system", "root", "module"] in [line.split()[1:4] for line in lines]
    assert called("linktypes", "dbus-session").stdout.splitlines()[1:] == ["231  DBUS  D-Bus", "Monitor mode: no"]
    refused = called("linktypes", "-I", "dbus-session")
    assert (refused.returncode, "is no radio" in refused.stderr) == (1, True), refused


# The protocol --------------------------------------------------------------------------------------------------------


def test_addresses_are_read_as_the_specification_has_them() -> None:
    read_address = dbus_wire.socket_addresses
    assert read_address("unix:path=/a%20b%2cc,guid=12;tcp:host=a;unix:abstract=x", None) == ["/a b,c", "\0x"]
    assert read_address("unix:runtime=yes", "/run/user/1") == ["/run/user/1/bus"]


def test_a_message_is_found_in_either_byte_order_and_what_is_none_is_refused() -> None:
    little = dbus_wire.hello(7)
    assert dbus_wire.message_bytes(little, 0) == len(little)
    big = bytes.fromhex(
        "42 02 01 01 00000008 0000000a 00000013 05 01 75 00 00000007 06 01 73 00 00000002 3a31 00 0000000000"
    )
    assert dbus_wire.message_bytes(big + bytes(8), 0) == len(big) + 8
    assert dbus_wire.reply_of(big + bytes(8)) == dbus_wire.Reply(7, None, "")
    assert dbus_wire.message_bytes(b"l" + bytes(10), 0) is None
    with pytest.raises(dbus_wire.NotDbusError, match="begins with the byte 0x48"):
        dbus_wire.message_bytes(b"HTTP/1.1 400 Bad Request", 0)
    with pytest.raises(dbus_wire.NotDbusError, match="one may have 134,217,728"):
        dbus_wire.message_bytes(b"l\1\0\1\xff\xff\xff\xff" + bytes(8), 0)
