"""A program in dumpcap's place: the same sessions as with the daemon, and programs that are none."""

import asyncio
import contextlib
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from capd_client import (
    BadFilterError,
    CaptureSession,
    ChildError,
    DestinationError,
    EndReason,
    Interface,
    InterfaceError,
    InvalidArgument,
    LiveInterfaceStats,
    UnsupportedError,
    aio,
    events,
    read,
)
from capd_client.program.listings import NotUnderstood, interfaces_of
from capd_client.program.listings import capabilities_of as listed_capabilities
from tests.client.helpers import PATIENCE_S
from tests.support.daemon import Daemon
from tests.support.namespace import veth_pair
from tests.support.traffic import build_frames, send

OURS = [sys.executable, "-P", "-m", "capd_client.dumpcap"]
DRIVEN: dict[str, list[str] | None] = {"daemon": None, "dumpcap": ["dumpcap"], "capd-dumpcap": OURS}
FRAMES = build_frames((100,))


@pytest.fixture(scope="module")
def pair() -> Generator[tuple[str, str], None, None]:
    """Two ends: one to send to, one to capture on."""
    with veth_pair("prgtx", "prgrx"):
        yield "prgtx", "prgrx"


@pytest.fixture(params=DRIVEN)
def session(
    request: pytest.FixtureRequest, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., CaptureSession]:
    """Return what makes a session, driven by each of them."""
    monkeypatch.setenv("CAPD_SOCKET", daemon.socket_path)
    program = DRIVEN[request.param]

    def make(**arguments: Any) -> CaptureSession:
        return CaptureSession(program=program, **{"interfaces": "prgrx", **arguments})

    return make


Make = Callable[..., CaptureSession]


def test_packets_are_counted_and_in_the_file(session: Make, pair: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with session(savefile=path, max_packet_count=12) as capture:
        assert send(pair[0], FRAMES, 12) == 12
        seen = list(capture)
    assert (events.SP_FILE, str(path)) in seen
    assert sum(message for kind, message in seen if kind == events.SP_PACKET_COUNT) == 12
    assert (events.SP_DROPS, 0) in seen
    assert (capture.packetcount, capture.dropcount, capture.end_reason) == (12, 0, EndReason.PACKETS)
    assert [each.written_total for each in capture.interface_counters] == [12]
    assert len(list(read(path))) == 12


def test_a_ring_has_its_files(session: Make, pair: tuple[str, str], tmp_path: Path) -> None:
    with session(savefile=tmp_path / "r.pcapng", ringbuffer_packets=5, max_packet_count=12) as capture:
        assert send(pair[0], FRAMES, 12) == 12
        opened = [message for kind, message in capture if kind == events.SP_FILE]
    assert [Path(each).name[:7] for each in opened] == ["r_00001", "r_00002", "r_00003"]
    assert [len(list(read(each))) for each in opened] == [5, 5, 2]
    assert [each.packets for each in capture.files] == [5, 5, 2]
    assert [each.size_bytes for each in capture.files] == [Path(each).stat().st_size for each in opened]


def test_options_of_each_interface_are_there(session: Make, pair: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    options = {"capture_filter": "udp", "snaplen": 60, "promiscuous": False, "kernel_buffer_size": 4}
    with session(savefile=path, autostop_duration=0.3, group_access=True, **options):
        assert send(pair[0], FRAMES, 5) == 5
        time.sleep(1)
    packets = list(read(path))
    assert {len(each.data) for each in packets} in ({60}, set())
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_leaving_ends_it_well(session: Make, pair: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with session(savefile=path) as capture:
        assert send(pair[0], FRAMES, 7) == 7
        count = 0
        while count < 7:
            kind, message = capture.wait_for_event(timeout=PATIENCE_S)
            count += message if kind == events.SP_PACKET_COUNT else 0
    # The daemon knows that the session has been left.
    assert capture.end_reason in (EndReason.STOPPED, EndReason.CLIENT_LEFT)
    assert len(list(read(path))) == 7


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"interfaces": "nope0"}, InterfaceError),
        ({"interfaces": ["prgrx", "nope0"]}, InterfaceError),
        ({"capture_filter": "no filter"}, BadFilterError),
        ({"savefile": "/nowhere/at/all"}, DestinationError),
        ({"monitor_mode": True}, UnsupportedError),
        ({"snaplen": -1}, InvalidArgument),
    ],
)
def test_refusals_are_typed(
    session: Make, pair: tuple[str, str], tmp_path: Path, arguments: dict[str, Any], kind: type[ChildError]
) -> None:
    del pair
    with pytest.raises(kind), session(**{"savefile": tmp_path / "a", **arguments}):
        raise AssertionError("entered")
    assert list(tmp_path.iterdir()) == []


def test_an_interface_that_goes_is_a_failure(session: Make, tmp_path: Path) -> None:
    with veth_pair("prggone", "prggonep"):
        capture = session(interfaces="prggone", savefile=tmp_path / "a")
        capture.wait_started(PATIENCE_S)
        subprocess.run(["ip", "link", "delete", "prggone"], check=True)
        with pytest.raises(InterfaceError):
            list(capture)
        capture.terminate()
        subprocess.run(["ip", "link", "add", "prggone", "type", "veth", "peer", "name", "prggonep"], check=True)
    assert list(read(tmp_path / "a")) == []


def test_asynchronous_programs_drive_it_too(pair: tuple[str, str], tmp_path: Path) -> None:
    async def capture() -> int:
        arguments: Any = {"interfaces": "prgrx", "savefile": tmp_path / "a", "max_packet_count": 3}
        async with aio.CaptureSession(program=["dumpcap"], **arguments) as session:
            assert send(pair[0], FRAMES, 3) == 3
            return sum([message async for kind, message in session if kind == events.SP_PACKET_COUNT])

    assert asyncio.run(capture()) == 3


# What dumpcap does not do ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"interfaces": "-"}, "a stream"),
        ({"interfaces": "prg*"}, "a pattern"),
        ({"direction": "in"}, "direction"),
        ({"recorder_duration": 5, "savefile": "x"}, "a recorder"),
        ({"in_memory": True}, "in_memory"),
        ({"packet_flags": True}, "packet_flags"),
        ({"wait_for_interfaces": True}, "wait_for_interfaces"),
        ({"name": "dns"}, "name"),
        ({"netns": "blue"}, "netns"),
        ({"update_interval": 1}, "update_interval"),
        ({"ringbuffer_age": 5, "ringbuffer_packets": 3, "savefile": "x"}, "ringbuffer_age"),
    ],
)
def test_what_is_beyond_it_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^{words} is not for a program in dumpcap's place"):
        CaptureSession(program=["dumpcap"], **{"interfaces": "lo", **arguments})


def test_it_takes_no_orders(pair: tuple[str, str], tmp_path: Path) -> None:
    del pair
    with CaptureSession(program=["dumpcap"], interfaces="prgrx", savefile=tmp_path / "a") as capture:
        for order in (capture.flush, capture.rotate, capture.snapshot):
            with pytest.raises(UnsupportedError, match="no orders"):
                order()


# Programs that are none -----------------------------------------------------------------------------------------------


def script(path: Path, text: str) -> list[str]:
    """Return a program that does what a shell is told."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return [str(path)]


FILE = r"printf 'F\000\000\003ab\000' >&2"


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("exit 0", ChildError, "has captured nothing: it is no program in dumpcap's place"),
        ("exit 3", ChildError, "has ended with status 3"),
        ("kill -9 $$", ChildError, "has ended with status -9"),
        ("echo usage: nonsense >&2; exit 1", ChildError, "cannot be understood"),
        (r"printf 'E\000\000\001' >&2", ChildError, "has ended|cannot be understood"),
        (r"printf 'P\000\000\005ab' >&2", ChildError, "has ended|cannot be understood"),
        (r"printf 'E\000\000\014E\000\000\003no\000E\000\000\001\000' >&2; exit 1", UnsupportedError, "^no$"),
        (r"printf 'B\000\000\0041:x\000' >&2; exit 1", BadFilterError, "x"),
    ],
)
def test_what_is_none_is_a_typed_error(tmp_path: Path, text: str, kind: type[ChildError], words: str) -> None:
    began_s = time.monotonic()
    with (
        pytest.raises(kind, match=words),
        CaptureSession(program=script(tmp_path / "program", text), interfaces="lo", savefile=tmp_path / "a"),
    ):
        raise AssertionError("entered")
    assert time.monotonic() - began_s < 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{FILE}; sleep 0.2; exit 7", "has ended with status 7"),
        (f"{FILE}; sleep 0.2; yes x | head -c 300 >&2; sleep 60", "cannot be understood"),
        (f"{FILE}; sleep 0.2; kill -11 $$", "has ended with status -11"),
    ],
)
def test_one_that_fails_later_fails_the_capture(tmp_path: Path, text: str, words: str) -> None:
    program = script(tmp_path / "program", text)
    with (
        pytest.raises(ChildError, match=words),
        CaptureSession(program=program, interfaces="lo", savefile=tmp_path / "a") as capture,
    ):
        list(capture)


def test_one_that_does_not_begin_is_ended_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capd_client.program.driver._BEGIN_S", 0.5)
    pid_path = tmp_path / "pid"
    program = script(tmp_path / "program", f"echo $$ > {pid_path}; trap '' INT; exec sleep 60")
    with (
        pytest.raises(ChildError, match=r"has not begun to capture within 0\.5 s"),
        CaptureSession(program=program, interfaces="lo", savefile=tmp_path / "a"),
    ):
        raise AssertionError("entered")
    assert not Path(f"/proc/{pid_path.read_text().strip()}").exists()


def test_one_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capd_client.program.driver._END_S", 0.3)
    pid_path = tmp_path / "pid"
    text = f"echo $$ > {pid_path}; trap '' INT TERM; {FILE}; while :; do sleep 0.1; done"
    program = script(tmp_path / "program", text)
    with CaptureSession(program=program, interfaces="lo", savefile=tmp_path / "a") as capture:
        pass
    assert capture.end_reason == EndReason.FAILED
    assert not Path(f"/proc/{pid_path.read_text().strip()}").exists()


@pytest.mark.parametrize("program", [["/nowhere/dumpcap"], [str(Path(__file__))], ["a\0b"]])
def test_what_cannot_be_started_is_said(tmp_path: Path, program: list[str]) -> None:
    with (
        pytest.raises(ChildError, match="cannot be started"),
        CaptureSession(program=program, interfaces="lo", savefile=tmp_path / "a"),
    ):
        raise AssertionError("entered")


@pytest.mark.parametrize("program", [[], "dumpcap"])
def test_what_is_no_command_is_refused(program: Any) -> None:
    with pytest.raises(InvalidArgument, match="words of a command"):
        CaptureSession(program=program, interfaces="lo")


def test_nothing_is_left_of_a_session_that_is_abandoned(tmp_path: Path, pair: tuple[str, str]) -> None:
    del pair
    capture = CaptureSession(program=["dumpcap"], interfaces="prgrx", savefile=tmp_path / "a")
    capture.wait_started(PATIENCE_S)
    children = {int(each) for each in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}
    capture.terminate()
    assert isinstance(capture.end_reason, EndReason)
    left = {int(each) for each in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}
    assert left <= children


# Lists ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["dumpcap", "capd-dumpcap"])
def program(request: pytest.FixtureRequest, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of one of them."""
    monkeypatch.setenv("CAPD_SOCKET", daemon.socket_path)
    return DRIVEN[request.param] or []


def test_interfaces_are_those_of_the_daemon(pair: tuple[str, str], program: list[str], daemon: Daemon) -> None:
    del pair

    def network(interfaces: list[Interface]) -> dict[str, tuple[object, ...]]:
        return {
            each.name: (each.number, each.loopback, sorted(each.addresses))
            for each in interfaces
            if each.interface_type in (Interface.IF_WIRED, Interface.IF_VIRTUAL)
        }

    theirs = network(Interface.list_interfaces(program=program))
    ours = network(Interface.list_interfaces(socket_path=daemon.socket_path))
    assert "prgrx" in theirs
    assert {name: theirs[name] for name in ("prgtx", "prgrx", "lo")} == {
        name: ours[name] for name in ("prgtx", "prgrx", "lo")
    }

    async def listed() -> list[str]:
        return [each.name for each in await aio.list_interfaces(program=program)]

    assert asyncio.run(listed()) == [each.name for each in Interface.list_interfaces(program=program)]


def test_what_an_interface_can_do_is_what_the_daemon_says(
    pair: tuple[str, str], program: list[str], daemon: Daemon
) -> None:
    del pair
    (ours,) = (each for each in Interface.list_interfaces(socket_path=daemon.socket_path) if each.name == "prgrx")
    (theirs,) = (each for each in Interface.list_interfaces(program=program) if each.name == "prgrx")
    assert theirs.can_rfmon is ours.can_rfmon is False
    named = [(each.dlt, each.name) for each in theirs.supported_link_layer_types]
    assert named == [(each.dlt, each.name) for each in ours.supported_link_layer_types]
    with pytest.raises(InterfaceError, match="could not be obtained"):
        Interface.get_interface_capabilities("nope0", program=program)

    async def asked() -> list[str]:
        return [each.name for each in (await aio.get_capabilities("prgrx", program=program)).timestamp_types]

    assert asyncio.run(asked()) == ["host"]


def test_statistics_count_what_passes(pair: tuple[str, str], program: list[str]) -> None:
    def count_until(stats: LiveInterfaceStats, packets: int) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while "prgrx" not in stats or stats["prgrx"][0] < packets:
            assert time.monotonic() < deadline_s
            stats.clear_tick()
            stats.wait_for_tick(PATIENCE_S)

    with LiveInterfaceStats(program=program) as stats:
        count_until(stats, 0)
        before = stats["prgrx"][0]
        send(pair[0], FRAMES, 25)
        count_until(stats, before + 25)
        assert {"prgrx", "prgtx"} <= set(stats.interfaces)
    assert leftovers(program) == []

    async def ticked() -> tuple[str, ...]:
        async with aio.LiveInterfaceStats(program=program) as counting:
            await counting.wait_for_tick(PATIENCE_S)
            return counting.interfaces

    assert "prgrx" in asyncio.run(ticked())
    assert leftovers(program) == []


def leftovers(program: list[str]) -> list[str]:
    """Return what runs that counts."""
    words = b"\0".join(each.encode() for each in [*program, "-S", "-Z", "none"])
    found: list[str] = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if each.read_bytes().startswith(words):
                found.append(each.parent.name)
    return found


NOT_DUMPCAPS = {
    "nothing": ("", "cannot be understood"),
    "words": ("echo nonsense", "cannot be understood"),
    "an error": ("exit 3", "status 3"),
    "objects that are none": ("echo '[{\"a\": 1}]'", "cannot be understood"),
}


@pytest.mark.parametrize("name", NOT_DUMPCAPS)
def test_a_program_that_lists_nothing_is_an_error(program_of: Callable[[str], list[str]], name: str) -> None:
    script, words = NOT_DUMPCAPS[name]
    if name == "nothing":
        assert Interface.list_interfaces(program=program_of(script)) == []
    else:
        with pytest.raises(ChildError, match=words):
            Interface.list_interfaces(program=program_of(script))
    with pytest.raises(ChildError, match=words):
        Interface.get_interface_capabilities("prgrx", program=program_of(script))
    with (
        pytest.raises(ChildError, match=r"counts no more|cannot be understood"),
        LiveInterfaceStats(program=program_of(script)) as stats,
    ):
        stats.wait_for_tick(PATIENCE_S)


@pytest.fixture
def program_of(tmp_path: Path) -> Callable[[str], list[str]]:
    """Return what makes a program of a shell's lines."""

    def make(script: str) -> list[str]:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return [str(path)]

    return make


def test_a_program_that_does_not_answer_is_ended(
    program_of: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capd_client.program.answering._ANSWER_S", 0.5)
    hanging = program_of("exec sleep 60")
    with pytest.raises(ChildError, match="has not answered within"):
        Interface.list_interfaces(program=hanging)
    with pytest.raises(ChildError, match="has counted nothing within"), LiveInterfaceStats(program=hanging) as stats:
        stats.wait_for_tick(PATIENCE_S)


def test_a_program_is_asked_instead_of_a_daemon_and_not_beside_one(daemon: Daemon) -> None:
    for wrong in ({"socket_path": daemon.socket_path}, {"netns": "there"}):
        with pytest.raises(InvalidArgument, match="instead of a daemon"):
            Interface.list_interfaces(program=["dumpcap"], **wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="words of a command"):
        Interface.list_interfaces(program="dumpcap")
    with pytest.raises(ChildError, match="cannot be started"):
        Interface.list_interfaces(program=["/nowhere/dumpcap"])
    with pytest.raises(UnsupportedError, match="each second"), LiveInterfaceStats(interval=0.5, program=["dumpcap"]):
        pass


def test_lists_of_later_versions_are_objects() -> None:
    listed = interfaces_of(
        '[{"eth0":{"friendly_name":null,"vendor_description":"Some","type":0,"addrs":["::1","10.0.0.1"],'
        '"loopback":false,"extcap":""}},{"lo":{"friendly_name":"Loopback","type":9,"addrs":[],"loopback":true}}]'
    )
    assert [(each.name, each.number, each.description, each.addresses, each.loopback) for each in listed] == [
        ("eth0", 1, "Some", ("::1", "10.0.0.1"), False),
        ("lo", 2, "Loopback", (), True),
    ]
    assert [each.interface_type for each in listed] == [Interface.IF_WIRED, Interface.IF_VIRTUAL]
    capabilities = listed_capabilities(
        '[{"eth0":{"status":0,"rfmon":true,"data_link_types":[{"dlt":1,"name":"EN10MB","description":"Ethernet"}],'
        '"timestamp_types":[{"name":"host","description":"Host"}]}}]'
    )
    assert capabilities.can_rfmon
    assert [(each.dlt, each.name) for each in capabilities.link_layers] == [(1, "EN10MB")]
    assert [each.name for each in capabilities.timestamp_types] == ["host"]
    with pytest.raises(NotUnderstood, match="not up"):
        listed_capabilities('[{"eth0":{"status":4,"primary_msg":"it is not up"}}]')
