"""Captures in other network namespaces: by name, by process, by path; what is refused, and what files say of it."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from capd_client import (
    CaptureSession,
    DaemonUnavailable,
    Interface,
    InterfaceError,
    InterfaceWatcher,
    InvalidArgument,
    LiveInterfaceStats,
    NotPermitted,
    aio,
    get_capabilities,
    get_driver_counters,
    read,
)
from capd_client.blocking.questions import list_interfaces
from capd_client.transport.listening import SOCKET_VARIABLE
from tests.cli.calling import called
from tests.client.helpers import PATIENCE_S
from tests.client.test_streams import data_of, many
from tests.support.attack import User, process_of
from tests.support.daemon import children_of
from tests.support.namespace import network_namespace_at, network_namespace_of, veth_pair
from tests.support.tools import descriptors_of, ip_json
from tests.support.traffic import build_frames, send
from tests.worker.test_streams import pcap

NAME = f"capd-test-{os.getpid()}"
FRAMES = build_frames((100,))


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SOCKET_VARIABLE, raising=False)


@dataclass
class Elsewhere:
    """A network namespace with a pair of interfaces, and a process in it."""

    name: str
    process_id: int

    def send(self, packets: int) -> None:
        """Send packets there."""
        with network_namespace_of(self.process_id):
            assert send("there0", FRAMES, packets) == packets


@pytest.fixture(scope="module")
def elsewhere() -> Generator[Elsewhere, None, None]:
    subprocess.run(("ip", "netns", "add", NAME), check=True, timeout=PATIENCE_S)
    try:
        with contextlib.ExitStack() as stack:
            with network_namespace_at(f"/run/netns/{NAME}"):
                stack.enter_context(veth_pair("there0", "there1"))
                subprocess.run(("ip", "link", "set", "there1", "alias", "uplink"), check=True, timeout=PATIENCE_S)
                process = stack.enter_context(subprocess.Popen(("sleep", "600")))
            stack.callback(process.kill)
            yield Elsewhere(NAME, process.pid)
    finally:
        subprocess.run(("ip", "netns", "delete", NAME), check=True, timeout=PATIENCE_S)


@pytest.fixture(params=["name", "process", "number as text", "path", "path object"])
def netns(request: pytest.FixtureRequest, elsewhere: Elsewhere) -> Any:
    """The namespace, as it can be named."""
    return {
        "name": NAME,
        "process": elsewhere.process_id,
        "number as text": str(elsewhere.process_id),
        "path": f"/run/netns/{NAME}",
        "path object": Path("/proc", str(elsewhere.process_id), "ns/net"),
    }[request.param]


def test_packets_are_captured_there(elsewhere: Elsewhere, netns: Any, user_dir: Path) -> None:
    savefile = user_dir / "a.pcapng"
    with CaptureSession(interfaces="there1", netns=netns, savefile=savefile) as capture:
        elsewhere.send(20)
        capture.flush()
    with read(savefile) as packets:
        assert len(list(packets)) == capture.packetcount == 20
        (interface,) = packets.interfaces
    assert interface.name == "there1"
    words = ("capinfos", savefile)
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert f"Description = uplink (network namespace {netns})" in shown


def test_this_process_stays_where_it_is(elsewhere: Elsewhere, user_dir: Path) -> None:
    before = {each["ifname"] for each in ip_json("link", "show")}
    descriptors = sorted(descriptors_of(os.getpid()))
    with CaptureSession(interfaces=["there0", "there1"], netns=NAME, savefile=user_dir / "a.pcapng") as capture:
        elsewhere.send(5)
        capture.flush()
        assert {each["ifname"] for each in ip_json("link", "show")} == before
        assert len(children_of(os.getpid())) >= 1
    assert capture.packetcount == 5
    assert sorted(descriptors_of(os.getpid())) == descriptors


def test_the_file_is_made_here(elsewhere: Elsewhere, user_dir: Path) -> None:
    # Beside a stream of this program's own, in a ring, in the working directory.
    source = user_dir / "in.pcap"
    source.write_bytes(pcap(many(100)))
    with contextlib.chdir(user_dir):
        arguments: Any = {"ringbuffer_packets": 50, "savefile": "a.pcapng", "netns": NAME}
        with CaptureSession(interfaces=["there1", str(source)], **arguments) as capture:
            elsewhere.send(10)
            while capture.packetcount < 110:
                capture.next_event(timeout=PATIENCE_S)
        files = sorted(Path().glob("a_*.pcapng"))
        assert len(files) == 3
        found = [each for path in files for each in data_of(read(path))]
    assert len(found) == 110
    assert set(data_of(many(100))) <= set(found)


def test_interfaces_there_are_listed_counted_and_watched(elsewhere: Elsewhere) -> None:
    assert {"there0", "there1"} <= {each.name for each in list_interfaces(netns=NAME)}
    (interface,) = [each for each in Interface.list_interfaces(netns=NAME) if each.name == "there1"]
    assert next(each.name for each in interface.supported_link_layer_types) == "EN10MB"
    assert get_capabilities("there1", netns=NAME).link_layers
    assert isinstance(get_driver_counters("there1", netns=NAME), dict)
    with LiveInterfaceStats(interval=0.1, netns=NAME) as stats:
        elsewhere.send(30)
        while (
            dict(stats.wait_and_results() if hasattr(stats, "wait_and_results") else next(iter(stats)))["there1"][0]
            < 30
        ):
            pass
    with InterfaceWatcher(netns=NAME) as watcher:
        assert "there1" in watcher.interfaces

    async def ask() -> None:
        assert "there0" in {each.name for each in await aio.list_interfaces(netns=NAME)}
        async with aio.InterfaceWatcher(netns=NAME) as watcher, aio.LiveInterfaceStats(netns=NAME):
            assert "there1" in watcher.interfaces

    trio.run(ask)


def test_an_async_session_captures_there(elsewhere: Elsewhere, user_dir: Path) -> None:
    async def capture_there() -> int:
        arguments: Any = {"interfaces": "there1", "netns": NAME, "savefile": user_dir / "a.pcapng"}
        async with aio.CaptureSession(**arguments) as capture:
            await trio.to_thread.run_sync(elsewhere.send, 7)
            await capture.flush()
        return capture.packetcount

    assert trio.run(capture_there) == 7


def test_capctl_captures_and_lists_there(elsewhere: Elsewhere, user_dir: Path) -> None:
    words = ("capture", "-i", "there1", "--netns", NAME, "-c", "3", "-w", str(user_dir / "a.pcapng"))
    command = (sys.executable, "-m", "capd_client.cli", *words)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as capctl:
        assert capctl.stdout is not None
        assert capctl.stdout.readline().startswith("File: ")
        elsewhere.send(3)
        shown, complaints = capctl.communicate(timeout=PATIENCE_S)
    assert (capctl.returncode, complaints) == (0, "")
    assert "3 packets captured" in shown
    assert "there1" in called("interfaces", "--netns", NAME).stdout
    assert "EN10MB" in called("linktypes", "there1", "--netns", NAME).stdout
    assert "EN10MB" in called("capture", "-L", "-i", "there1", "--netns", NAME).stdout


@pytest.mark.parametrize(
    ("netns", "error", "text"),
    [
        ("no-such-namespace", InterfaceError, "there is no network namespace no-such-namespace"),
        (2**22, InterfaceError, "there is no process 4194304"),
        ("/run/no/such", InterfaceError, "cannot be opened: No such file"),
        ("/etc/passwd", InvalidArgument, "/etc/passwd is no network namespace"),
        ("/proc/self/ns/mnt", InvalidArgument, "is no network namespace"),
        ("", InvalidArgument, "is no network namespace"),
        ("a\0b", InvalidArgument, "is no network namespace"),
        ("x\x1b[2J", InvalidArgument, "is no network namespace"),
        (True, InvalidArgument, "it must be a name"),
        (1.5, InvalidArgument, "it must be a name"),
    ],
)
def test_what_is_no_namespace_is_refused(user_dir: Path, netns: Any, error: type[Exception], text: str) -> None:
    before = children_of(os.getpid())
    for ask in (
        lambda: CaptureSession(interfaces="lo", netns=netns, savefile=user_dir / "a.pcapng"),
        lambda: list_interfaces(netns=netns),
    ):
        with pytest.raises(error, match=text) as refused:
            ask()
        assert "\x1b" not in str(refused.value)
    assert children_of(os.getpid()) == before
    assert not (user_dir / "a.pcapng").exists()


def test_what_does_not_go_together_is_refused(elsewhere: Elsewhere, user_dir: Path) -> None:
    with pytest.raises(DaemonUnavailable, match="what stays needs one"):
        CaptureSession(interfaces="x", netns=NAME, detach=True, name="x", savefile=user_dir / "a.pcapng")
    with pytest.raises(InvalidArgument, match="another one is named"):
        CaptureSession(interfaces="x", netns=NAME, savefile=user_dir / "a.pcapng", socket_path="/run/x")


def test_an_interface_that_is_elsewhere_is_not_here(elsewhere: Elsewhere, user_dir: Path) -> None:
    for where, name in ((NAME, "nope0"), (None, "there1")):
        with (
            pytest.raises(InterfaceError, match=f"there is no interface {name}"),
            CaptureSession(interfaces=name, netns=where, savefile=user_dir / "a.pcapng"),
        ):
            raise AssertionError("it runs")


def test_who_has_no_right_there_is_told_which(elsewhere: Elsewhere) -> None:
    # A process of root without the capability: everybody may read the interpreter then.
    program = f"from capd_client import Interface\nInterface.list_interfaces(netns={NAME!r})"
    words = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", sys.executable, "-c", program)
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.stderr.splitlines()[-1] == (
        f"capd_client.errors.NotPermitted: the network namespace {NAME!r} may not be entered: that takes CAP_SYS_ADMIN "
        "over it"
    )


def test_a_process_of_others_is_not_looked_into(elsewhere: Elsewhere) -> None:
    def ask(channel: Any) -> None:
        list_interfaces(netns=elsewhere.process_id)
        channel.send("listed")

    with process_of(User(23_921, 23_921), ask) as process, pytest.raises(NotPermitted, match="Permission denied"):
        process.hear()
