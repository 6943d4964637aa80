"""Extcap programs as sources: found, asked, started, ended; those of Wireshark, and one that does what it is told."""

import ast
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from capd_client import (
    CaptureEvent,
    CaptureInterface,
    CaptureSession,
    ChildError,
    EndReason,
    Interface,
    InterfaceError,
    InvalidArgument,
    SourceError,
    aio,
    get_capabilities,
    read,
)
from capd_client.request.streams import with_extcap
from capd_client.sources import extcap, programs
from capd_client.sources.sentences import (
    Option,
    Sentence,
    WrongOptionError,
    arguments_of,
    options_of,
    sentences_of,
    split,
)
from capd_protocol.messages.interfaces import InterfaceType
from tests.capture.helpers import ip
from tests.cli.calling import called
from tests.client.conftest import Bench
from tests.client.helpers import PATIENCE_S, wait_until
from tests.client.test_streams import USER_ID, check_refusal, data_of, many, read_back, typed
from tests.support.namespace import private_network_namespace
from tests.worker.test_streams import pcap

#: Does what its option ``do`` says, with the packets of a file. Its arguments are in another file.
PROGRAM = '''#!{python} -IS
import os, signal, sys, time

here = os.path.dirname(os.path.abspath(__file__))
words = sys.argv[1:]


def given(call, default=None):
    return words[words.index(call) + 1] if call in words else default


if "--extcap-interfaces" in words:
    if os.path.exists(here + "/hangs"):
        time.sleep(60)
    print("extcap {{version=1.0}}{{help=file:///nowhere}}")
    print("what is no sentence")
    print("interface {{value=odd}}{{display=Does what it is told}}")
    print("interface {{value=o:d/d}}{{display=Braces \\\\{{\\\\}} are escaped}}")
elif "--extcap-dlts" in words:
    print("dlt {{number=1}}{{name=EN10MB}}{{display=Ethernet}}")
elif "--extcap-config" in words:
    print("""arg {{number=0}}{{call=--do}}{{display=D}}{{type=selector}}{{default=write}}
value {{arg=0}}{{value=write}}{{display=W}}{{default=true}}
value {{arg=0}}{{value=hang}}{{display=W}}
value {{arg=0}}{{value=fail}}{{display=W}}
value {{arg=0}}{{value=open-and-fail}}{{display=W}}
value {{arg=0}}{{value=write-and-fail}}{{display=W}}
value {{arg=0}}{{value=write-and-die}}{{display=W}}
value {{arg=0}}{{value=complain}}{{display=W}}
value {{arg=0}}{{value=nonsense}}{{display=W}}
value {{arg=0}}{{value=stay}}{{display=W}}
arg {{number=1}}{{call=--stubborn}}{{display=S}}{{type=boolflag}}{{default=false}}
arg {{number=2}}{{call=--loudly}}{{display=S}}{{type=boolflag}}{{default=true}}
arg {{number=3}}{{call=--delay}}{{display=S}}{{type=double}}{{default=0.1}}{{range=0,60}}
arg {{number=4}}{{call=--text}}{{display=S}}{{type=string}}
arg {{number=5}}{{call=--empty}}{{display=S}}{{type=string}}{{default=}}
arg {{number=6}}{{call=--way}}{{display=S}}{{type=radio}}{{default=b}}
value {{arg=6}}{{value=a}}{{display=A}}
value {{arg=6}}{{value=b}}{{display=B}}{{default=true}}
arg {{number=7}}{{call=--some}}{{display=S}}{{type=multicheck}}
value {{arg=7}}{{value=a}}{{display=A}}{{default=true}}
value {{arg=7}}{{value=b}}{{display=B}}
value {{arg=7}}{{value=c}}{{display=C}}
arg {{number=8}}{{call=--on}}{{display=S}}{{type=boolean}}{{default=true}}
arg {{number=9}}{{call=--off}}{{display=S}}{{type=boolean}}{{default=false}}
arg {{number=10}}{{call=--size}}{{display=S}}{{type=unsigned}}{{default=007}}
arg {{number=11}}{{call=--file}}{{display=S}}{{type=fileselect}}{{mustexist=true}}""")
elif "--capture" in words:
    do = given("--do")
    if "--stubborn" in words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if do == "stay" and os.fork() == 0:  # one of which nobody knows
        os.close(2)
        time.sleep(600)
    with open(here + "/arguments", "w") as file:
        file.write(repr(words))
    if do == "hang":
        time.sleep(600)
    if do == "fail":
        sys.stderr.write("no such\\x1bhost\\n")
        sys.exit(3)
    with open(given("--fifo"), "wb", buffering=0) as fifo:
        packets = open(here + "/packets.pcap", "rb").read()
        if do == "open-and-fail":
            sys.stderr.write("x" * 3000 + " no permission")
            sys.exit(1)
        fifo.write(b"GET / HTTP/1.0\\r\\n\\r\\n" if do == "nonsense" else packets)
        if do == "stay":
            time.sleep(600)
    if do == "write-and-die":
        os.kill(os.getpid(), signal.SIGABRT)
    if do in ("complain", "write-and-fail"):
        sys.stderr.write("and then it broke")
        sys.exit(7 if do == "write-and-fail" else 0)
'''
FRAMES = many(50)


def add_program(directory: Path, name: str = "odd", user_id: int = 0) -> Path:
    """Have an extcap program in a user's home."""
    place = directory / ".local/lib/capd/extcap"
    place.mkdir(parents=True, exist_ok=True)
    (place / "packets.pcap").write_bytes(pcap(FRAMES))
    path = place / name
    path.write_text(PROGRAM.format(python=sys.executable))
    path.chmod(0o755)
    for each in (directory, *directory.rglob("*")):
        os.chown(each, user_id, user_id)
    return path


def processes_with(text: str) -> list[int]:
    """Return the processes in whose command lines this is."""
    found: list[int] = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (each / "cmdline").read_bytes()
            if text.encode() in words and int(each.name) != os.getpid():
                found.append(int(each.name))
    return found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path, None, None]:
    """A home with the program; nothing of it is left running, and no FIFO."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    add_program(tmp_path)
    yield tmp_path
    assert processes_with(str(tmp_path)) == []
    assert list(temporary.glob("capd-source-*")) == []


# Packets -------------------------------------------------------------------------------------------------------------


def test_packets_are_those_that_the_program_writes(bench: Bench, home: Path) -> None:
    with bench.session(interfaces="extcap:odd") as capture:
        assert capture.interfaces == ("extcap:odd",)
        capture.wait(PATIENCE_S)
    assert capture.end_reason == EndReason.SOURCE_ENDED
    assert read_back(capture) == data_of(FRAMES)


def test_filter_limit_and_ring_are_those_of_a_stream(bench: Bench, home: Path) -> None:
    one = CaptureInterface(name="extcap:odd,do=stay", capture_filter="greater 64", snaplen=20)
    with bench.session(interfaces=one, max_packet_count=5, ringbuffer_packets=2) as capture:
        capture.wait(PATIENCE_S)
    assert read_back(capture) == [(time_ns, data[:20]) for time_ns, data in data_of(FRAMES) if len(data) >= 64][:5]
    assert len(capture.files) == 3


def test_two_programs_and_an_interface_are_in_one_capture(bench: Bench, home: Path) -> None:
    randpkt = "extcap:randpkt,type=udp,maxbytes=200,count="
    interfaces = [bench.interface, "extcap:odd,do=stay", f"{randpkt}30", f"{randpkt}5"]
    with bench.session(interfaces=interfaces) as capture:
        assert capture.interfaces == (*interfaces[:1], "extcap:odd", "extcap:randpkt", "extcap:randpkt (2)")
        bench.send(20)
        wait_until(lambda: sum(each.written_total for each in counters(capture)) == 105, "all are in the file")
    assert [each.written_total for each in capture.interface_counters] == [20, 50, 30, 5]


def test_of_two_programs_the_one_that_has_failed_is_named(bench: Bench, home: Path) -> None:
    with (
        pytest.raises(SourceError, match=r"^odd has ended with status 7: and then it broke$") as raised,
        bench.session(interfaces=["extcap:odd", "extcap:odd,do=write-and-fail"]) as capture,
    ):
        list(capture)
    assert raised.value.failure is not None
    assert raised.value.failure.interface == "extcap:odd (2)"
    assert capture.packetcount == 2 * len(FRAMES)


def counters(capture: CaptureSession) -> Any:
    """Return the counters as of now."""
    with contextlib.suppress(Exception):
        capture.wait_for_event(timeout=0.05)
    return capture.interface_counters


def test_randpktdump_writes_as_many_packets_as_tshark_has_of_it(bench: Bench, home: Path) -> None:
    with bench.session(interfaces="extcap:randpkt,count=200,type=dns,maxbytes=300") as capture:
        capture.wait(PATIENCE_S)
    tshark = ["tshark", "-r", str(bench.savefile), "-T", "fields", "-e", "frame.protocols", "-e", "frame.cap_len"]
    lines = subprocess.run(tshark, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == capture.packetcount == 200
    assert all(line.startswith("eth:ethertype:ip:udp") and int(line.split()[-1]) <= 400 for line in lines)


def test_udpdump_gives_datagrams_until_the_capture_ends(bench: Bench, home: Path) -> None:
    with private_network_namespace():
        ip("link", "set", "lo", "up")
        with bench.session(interfaces="extcap:udpdump,port=5999") as capture, socket.socket(type=2) as sender:
            wait_until(lambda: listens(5999), "it listens")
            for number in range(10):
                sender.sendto(b"datagram %d" % number, ("127.0.0.1", 5999))
            wait_until(lambda: [each.written_total for each in counters(capture)] == [10], "all are there")
        packets = [bytes(packet.data) for packet in read(bench.savefile)]
    assert [packet[-10:] for packet in packets] == [b"datagram %d" % number for number in range(10)]
    assert capture.end_reason == EndReason.CLIENT_LEFT


def listens(port: int) -> bool:
    """Whether somebody takes datagrams at a port."""
    return f":{port:04X} " in Path("/proc/thread-self/net/udp").read_text()


def test_an_async_session_has_them_too(bench: Bench, home: Path) -> None:
    import trio  # noqa: PLC0415

    async def all_events_of(capture: aio.CaptureSession) -> list[Any]:
        return [each async for each in capture]

    async def main() -> None:
        words = {"savefile": bench.savefile, "socket_path": bench.daemon.socket_path}
        async with aio.CaptureSession(interfaces="extcap:odd", **words) as capture:  # type: ignore[arg-type]
            await capture.wait()
        assert capture.end_reason == EndReason.SOURCE_ENDED
        async with aio.CaptureSession(interfaces="extcap:odd,do=write-and-fail", **words) as capture:  # type: ignore[arg-type]
            with pytest.raises(SourceError, match="odd has ended with status 7: and then it broke"):
                await all_events_of(capture)
        found = await aio.get_capabilities("extcap:odd")
        assert [each.name for each in found.link_layers] == ["EN10MB"]

    trio.run(main)
    assert data_of(read(bench.savefile)) == data_of(FRAMES)


# Options -------------------------------------------------------------------------------------------------------------

OPTIONS = [
    [],
    [("way", "a"), ("some", "a"), ("some", "c"), ("delay", "1.5"), ("size", "0")],
    [("stubborn", "true"), ("loudly", "false"), ("on", "false"), ("text", "a, b = c")],
]


# tshark now and then stood still, before it captured, beside tests that fill the machine: not yet explained.
@pytest.mark.alone
@pytest.mark.parametrize("given", OPTIONS)
def test_a_program_is_started_as_tshark_starts_it(bench: Bench, home: Path, given: list[tuple[str, str]]) -> None:
    preferences = {name: ",".join(each for key, each in given if key == name) for name, _ in given}
    words = [word for name, value in preferences.items() for word in ("-o", f"extcap.odd.{name}:{value}")]
    # tshark does not look into our directory.
    environment = {**os.environ, "WIRESHARK_EXTCAP_DIR": str(home / ".local/lib/capd/extcap")}
    theirs_at = home / ".config/wireshark/extcap"
    theirs_at.parent.mkdir(parents=True)
    theirs_at.symlink_to(home / ".local/lib/capd/extcap")
    arguments = home / ".local/lib/capd/extcap/arguments"
    command = ["tshark", "-i", "odd", "-w", str(home / "theirs"), *words]
    subprocess.run(command, check=True, capture_output=True, env=environment, timeout=PATIENCE_S)
    theirs = without_fifo(ast.literal_eval(arguments.read_text()))
    arguments.unlink()
    ours = ",".join(["extcap:odd", *(f"{name}={value.replace(',', ',,')}" for name, value in given)])
    with bench.session(interfaces=ours) as capture:
        capture.wait(PATIENCE_S)
    assert without_fifo(ast.literal_eval(arguments.read_text())) == theirs
    assert data_of(read(home / "theirs")) == read_back(capture)


def without_fifo(words: list[str]) -> list[str]:
    """Return a program's arguments, without the path that is another each time."""
    at = words.index("--fifo")
    assert words[at + 1].startswith("/")
    return words[:at] + words[at + 2 :]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nosuch=1", "there is no option 'nosuch'; there are do=write"),
        ("delay", "delay has no value: write delay=NUMBER"),
        ("delay=", "delay has no value"),
        ("delay=soon", "'soon' is not a number"),
        ("delay=61", r"not possible: write delay=NUMBER \(0 to 60\)"),
        ("delay=1,delay=2", "delay is given twice"),
        ("size=-1", "'-1' is not a whole number from 0"),
        ("way=c", "'c' is none of a, b"),
        ("some=a,some=d", "'d' is none of a, b, c"),
        ("on=maybe", "'maybe' is not true or false"),
        ("stubborn=1", "'1' is not given alone, or true or false"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_started(
    bench: Bench, home: Path, text: str, words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words) as raised:
        bench.session(interfaces=f"extcap:odd,{text}")
    assert raised.value.argument == "interfaces"
    assert not (home / ".local/lib/capd/extcap/arguments").exists()


def test_what_is_required_and_has_no_default_must_be_given(bench: Bench, home: Path) -> None:
    with pytest.raises(InvalidArgument, match="remote-host is missing: write remote-host=TEXT"):
        bench.session(interfaces="extcap:sshdump")


def test_sentences_are_read_as_they_are_written() -> None:
    text = rb"""
interface {value=a}{display=A \{b\} c}{help=x=y}
arg {number=1}{call=--n}{type=integer}{range=-5,5}{default=3}{required=true}{new=thing}
arg {number=2}{call=--secret}{type=password}
arg {number=3}
value {arg=9}
nonsense } { {=} =
"""
    first, *others = sentences_of(text)
    assert first == Sentence("interface", {"value": "a", "display": r"A \{b\} c", "help": "x=y"})
    assert options_of(others) == [
        Option("--n", "integer", "3", True, -5, 5, ()),
        Option("--secret", "password", None, False, None, None, ()),
    ]
    assert arguments_of(options_of(others), [("n", "-5"), ("secret", "-")]) == ["--n", "-5", "--secret", "-"]
    with pytest.raises(WrongOptionError, match=r"n=NUMBER \(-5 to 5\)"):
        arguments_of(options_of(others), [("n", "6")])
    assert split("a,,b,c=d,,e=f,g") == ("a,b", [("c", "d,e=f"), ("g", None)])


@pytest.mark.parametrize("text", ["{a=", "{a=\\}", "{a={", "{", "x {", "arg {a=b}{", "{a=b\\"])
def test_nonsense_is_read_in_one_pass(text: str) -> None:
    began_s = time.process_time()
    found = sentences_of(b"arg " + text.encode() * (1_000_000 // len(text)) + b"\narg {call=x}\n")
    assert time.process_time() - began_s < 2
    assert found[-1] == Sentence("arg", {"call": "x"})
    with pytest.raises(WrongOptionError, match="is not a number"):
        arguments_of([Option("--n", "double", None, False, None, None, ())], [("n", "1" * 100_000 + "x")])


# Programs that do other than they should -----------------------------------------------------------------------------

AT_ONCE: dict[str, tuple[type[ChildError], str]] = {
    "fail": (InterfaceError, r"cannot be opened: odd has ended with status 3: no such\\x1bhost$"),
    "open-and-fail": (InterfaceError, r"cannot be opened: odd has ended with status 1: x{1010} no permission$"),
    "nonsense": (SourceError, "neither pcapng nor pcap"),
}


@pytest.mark.parametrize("do", AT_ONCE)
def test_a_program_that_cannot_capture_refuses_the_capture(bench: Bench, home: Path, do: str) -> None:
    error, words = AT_ONCE[do]
    bench.savefile.write_bytes(b"old")
    with pytest.raises(error, match=words) as raised:
        bench.running(interfaces=f"extcap:odd,do={do}")
    assert raised.value.failure is not None
    assert raised.value.failure.interface == "extcap:odd"
    assert bench.savefile.read_bytes() == b"old"


@pytest.mark.parametrize("stubborn", ["", ",stubborn"])
def test_a_program_that_does_not_open_its_fifo_is_ended(
    bench: Bench, home: Path, monkeypatch: pytest.MonkeyPatch, stubborn: str
) -> None:
    monkeypatch.setattr(extcap, "_OPEN_S", 0.7)
    began_s = time.monotonic()
    with pytest.raises(InterfaceError, match=r"odd has not opened the FIFO that it is to write to within 0\.7 s"):
        bench.session(interfaces=f"extcap:odd,do=hang{stubborn}")
    assert time.monotonic() - began_s < 8


@pytest.mark.parametrize(
    ("do", "words"),
    [
        ("write-and-fail", "odd has ended with status 7: and then it broke"),
        ("write-and-die", "odd was ended by SIGABRT"),
    ],
)
def test_a_program_that_fails_later_fails_the_capture_behind_its_packets(
    bench: Bench, home: Path, do: str, words: str
) -> None:
    with bench.session(interfaces=f"extcap:odd,do={do}", events="all") as capture:
        events: list[CaptureEvent] = []
        with pytest.raises(SourceError, match=words) as raised:
            events.extend(iter(capture.next_event, None))
    assert raised.value.failure is not None
    assert raised.value.failure.interface == "extcap:odd"
    assert capture.end_reason == EndReason.FAILED
    assert [type(event).__name__ for event in events[-2:]] == ["ErrorMessage", "Ended"]
    assert read_back(capture) == data_of(FRAMES)


def test_a_complaint_of_a_program_that_ends_well_is_no_failure(bench: Bench, home: Path) -> None:
    with bench.session(interfaces="extcap:odd,do=complain") as capture:
        capture.wait(PATIENCE_S)
    assert capture.end_reason == EndReason.SOURCE_ENDED


def test_a_stream_that_is_cut_is_reported_with_what_the_program_said(bench: Bench, home: Path) -> None:
    (home / ".local/lib/capd/extcap/packets.pcap").write_bytes(pcap(FRAMES)[:-3])
    with (
        pytest.raises(SourceError, match=r"is cut: it ends within .*; odd has ended with status 7: and then it broke"),
        bench.session(interfaces="extcap:odd,do=write-and-fail") as capture,
    ):
        list(capture)
    assert read_back(capture) == data_of(FRAMES[:-1])


@pytest.mark.parametrize("stubborn", ["", ",stubborn"])
@pytest.mark.parametrize("end", [CaptureSession.terminate, CaptureSession.abandon], ids=["terminate", "abandon"])
def test_a_program_ends_with_the_capture(
    bench: Bench, home: Path, end: Callable[[CaptureSession], None], stubborn: str
) -> None:
    capture = bench.running(interfaces=f"extcap:odd,do=stay{stubborn}")
    assert len(processes_with(f"{home}/.local")) == 3  # its guardian, itself, and its child
    began_s = time.monotonic()
    end(capture)
    assert time.monotonic() - began_s < 8
    wait_until(lambda: not processes_with(f"{home}/.local"), "all have ended")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_program_ends_where_the_session_is_dropped(bench: Bench, home: Path) -> None:
    capture: CaptureSession | None = bench.running(interfaces="extcap:odd,do=stay")
    capture = None
    assert capture is None
    wait_until(lambda: not processes_with(f"{home}/.local"), "all have ended")


def test_a_program_ends_where_a_limit_ends_the_capture_and_the_session_stays(bench: Bench, home: Path) -> None:
    with bench.session(interfaces="extcap:odd,do=stay", max_packet_count=3) as capture:
        capture.wait(PATIENCE_S)
        wait_until(lambda: not processes_with(f"{home}/.local"), "all have ended")
    assert capture.end_reason == EndReason.PACKETS


def test_a_program_ends_where_the_capture_is_refused(bench: Bench, home: Path) -> None:
    arguments: list[dict[str, Any]] = [
        {"capture_filter": "tcp and"},
        {"savefile": "/nowhere/a"},
        {"socket_path": "/nowhere"},
        {"interfaces": ["extcap:odd,do=stay", "extcap:nowhere"]},
    ]
    for each in arguments:
        with pytest.raises(Exception, match=r"tcp and|nowhere|filter"):
            bench.running(**{"interfaces": "extcap:odd,do=stay", **each})
        assert not processes_with(f"{home}/.local"), each


def test_a_program_ends_with_a_client_that_is_killed(bench: Bench, home: Path) -> None:
    code = (
        "from capd_client import CaptureSession\n"
        f"with CaptureSession(interfaces='extcap:odd,do=stay,stubborn', savefile={str(bench.savefile)!r}) as capture:\n"
        "    print('runs', flush=True)\n"
        "    capture.wait()\n"
    )
    environment = {**os.environ, "TMPDIR": str(home / "tmp"), "CAPD_SOCKET": str(bench.daemon.socket_path)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"runs\n"
        client.kill()
    wait_until(lambda: not processes_with(f"{home}/.local"), "all have ended")


# Which there are -----------------------------------------------------------------------------------------------------


def test_listing_has_them_where_it_is_asked_to(bench: Bench, home: Path) -> None:
    names = {each.name for each in Interface.list_interfaces()}
    assert not any(name.startswith("extcap:") for name in names)
    found = {each.name: each for each in Interface.list_interfaces(extcap=True)}
    assert set(found) - names >= {"extcap:odd", "extcap:o:d/d", "extcap:randpkt", "extcap:udpdump"}
    assert trio.run(partial(aio.list_interfaces, extcap=True)) == tuple(each.info for each in found.values())
    odd = found["extcap:o:d/d"]
    assert (odd.number, odd.interface_type, odd.interface_type_string) == (None, InterfaceType.EXTCAP, "EXTCAP")
    assert odd.info is not None
    assert odd.info.description == "Braces {} are escaped"
    assert [each.name for each in odd.supported_link_layer_types] == ["EN10MB"]


def test_capctl_shows_them(home: Path) -> None:
    listed = called("interfaces", "--extcap").stdout
    assert [line.split() for line in listed.splitlines() if "extcap:odd" in line] == [
        ["extcap:odd", "extcap", "Does", "what", "it", "is", "told"]
    ]
    assert "extcap:" not in called("interfaces").stdout
    (line,) = [
        each for each in called("interfaces", "--extcap", "--json").stdout.splitlines() if '"extcap:odd"' in each
    ]
    assert {"number": None, "interface_type": 9, "may_capture": True}.items() <= json.loads(line).items()
    for words in (("linktypes", "odd"), ("linktypes", "extcap:odd"), ("capture", "-L", "-i", "odd")):
        assert called(*words).stdout.splitlines()[1:] == ["  1  EN10MB  Ethernet", "Monitor mode: no"]
    refused = called("linktypes", "-I", "odd")
    assert (refused.returncode, "has no monitor mode" in refused.stderr) == (2, True)


def test_tshark_lists_the_same_of_wiresharks(home: Path) -> None:
    lines = subprocess.run(["tshark", "-D"], capture_output=True, text=True, check=True).stdout.splitlines()
    theirs = {line.split(" ", 1)[1] for line in lines if " (" in line}
    found, silent = programs.interfaces()
    ours = {f"{each.name} ({each.display})" for each in found if not each.program.startswith(str(home))}
    assert {each for each in ours if "randpkt" in each or "udpdump" in each}
    assert ours <= theirs
    assert silent == []


def test_a_name_without_a_prefix_is_theirs_where_nothing_else_has_it(home: Path) -> None:
    typed_names = ["lo", "odd,do=hang", "o:d/d", "extcap:odd", "nosuch", "any", "od*", "-", "udpdump"]
    assert with_extcap(typed_names) == [
        *("lo", "extcap:odd,do=hang", "o:d/d", "extcap:odd", "nosuch", "any", "od*", "-", "extcap:udpdump")
    ]
    with private_network_namespace():
        ip("link", "add", "odd", "type", "veth", "peer", "odd1")
        assert with_extcap(["odd"]) == ["odd"]


def test_an_interface_that_no_program_has_is_refused_with_those_that_there_are(bench: Bench, home: Path) -> None:
    with pytest.raises(InterfaceError, match=r"no extcap program has an interface nosuch: there are .*odd.*randpkt"):
        bench.session(interfaces="extcap:nosuch")
    with pytest.raises(InterfaceError, match="no extcap program has an interface nosuch"):
        get_capabilities("extcap:nosuch")


def test_programs_of_others_are_not_run(home: Path) -> None:
    path = home / ".local/lib/capd/extcap/odd"
    assert str(path) in programs.programs()
    os.chown(path, USER_ID, USER_ID)
    assert str(path) not in programs.programs()
    os.chown(path, 0, 0)
    path.chmod(0o757)
    assert str(path) not in programs.programs()
    path.chmod(0o644)
    assert str(path) not in programs.programs()


def test_each_directory_has_programs_and_the_first_of_a_name_is_taken(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [".local/lib/wireshark/extcap", ".config/wireshark/extcap/wireshark", "named"]
    monkeypatch.setenv("WIRESHARK_EXTCAP_DIR", str(home / "named"))
    (home / ".local/lib/capd/extcap/odd").unlink()
    for place in places:
        assert not any(each.startswith(str(home)) for each in programs.programs())
        path = home / place / "odd"
        path.parent.mkdir(parents=True)
        path.write_text(PROGRAM.format(python=sys.executable))
        path.chmod(0o755)
        assert [each for each in programs.programs() if each.endswith("/odd")] == [str(path)]
        path.unlink()


def test_a_program_that_hangs_or_cannot_be_run_is_left_out_in_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = home / ".local/lib/capd/extcap"
    (place / "broken").write_text("#!/nowhere/python\n")
    (place / "endless").write_text("#!/bin/sh\nexec yes 'interface {value=a}{display=b}'\n")
    (place / "silent").write_text("#!/bin/sh\nexit 1\n")
    for name in ("broken", "endless", "silent"):
        (place / name).chmod(0o755)
    (place / "hangs").touch()
    monkeypatch.setattr(programs, "_ANSWER_S", 1.0)
    began_s = time.monotonic()
    found, silent = programs.interfaces()
    assert time.monotonic() - began_s < 5
    # Of Wireshark's own, one may take longer on a machine that has much to do.
    assert {Path(each).name for each in silent if Path(each).parent == place} == {"broken", "endless", "odd"}
    assert {each.name for each in found} & {"randpkt", "udpdump"}
    with pytest.raises(InterfaceError, match=r"odd.* gave no answer within 1 s"):
        programs.interface_of("odd")


# As an ordinary user, without a service ------------------------------------------------------------------------------


def test_an_ordinary_user_types_the_name_alone(user_dir: Path) -> None:
    directory = user_dir / "own"
    directory.mkdir()
    add_program(directory, user_id=USER_ID)
    done = typed("capctl capture -i odd,delay=0 -w a.pcapng", directory)
    assert done.returncode == 0, done.stderr
    assert "50 packets captured (the stream has ended)" in done.stdout
    assert data_of(read(directory / "a.pcapng")) == data_of(FRAMES)
    done = typed("capctl capture -i randpkt,count=7,type=arp -c 5 -n -t", directory)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 5), done
    for line, status, words in (
        ("capctl capture -i odd,do=fail -w b.pcapng", 1, "odd has ended with status 3: no such"),
        ("capctl capture -i odd,do=write-and-fail -w c.pcapng", 1, "odd has ended with status 7: and then it broke"),
        ("capctl capture -i odd,do=nothing -w b.pcapng", 2, "do='nothing' is none of write, hang"),
    ):
        check_refusal(line, directory, status, words)
    assert not (directory / "b.pcapng").exists()
    assert not processes_with(f"{directory}/.local")


def test_ctrl_c_ends_a_capture_and_its_program(user_dir: Path) -> None:
    directory = user_dir / "own"
    directory.mkdir()
    add_program(directory, user_id=USER_ID)
    done: list[subprocess.CompletedProcess[str]] = []
    line = "exec capctl capture -i odd,do=stay -w a.pcapng"
    thread = threading.Thread(target=lambda: done.append(typed(line, directory)))
    thread.start()
    wait_until(lambda: (directory / "a.pcapng").exists() and len(list(read(directory / "a.pcapng"))) == 50, "it runs")
    (capctl,) = [
        each for each in processes_with("capctl") if str(directory) == str(Path(f"/proc/{each}/cwd").readlink())
    ]
    os.kill(capctl, signal.SIGINT)
    thread.join(PATIENCE_S)
    assert done[0].returncode == 0, done
    assert not processes_with(f"{directory}/.local")
