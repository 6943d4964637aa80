"""What a hostile user tries against policy and against other users, with more than filters' texts."""

import contextlib
import dataclasses
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import msgspec
import pytest

from capd.captures.registry import Captures
from capd.filters.bounds import too_much
from capd.limits import MAX_CAPTURES_PER_USER, MAX_CLIENTS
from capd.policy.peer import Peer
from capd.policy.rules import Policy, Rule
from capd.supervisor.closer import Closer
from capd.supervisor.packet_rings import PacketRingMaker
from capd.supervisor.spawner import Spawner
from capd_client import CaptureSession
from capd_protocol.arguments import MAX_INTERFACES, find_faults
from capd_protocol.messages import (
    CaptureList,
    Conditions,
    Ended,
    EndReason,
    Failed,
    FailureCode,
    InterfaceAttached,
    InterfaceEvent,
    InterfaceLost,
    InterfaceRequest,
    InterfaceSkipped,
    InterfaceSnapshot,
    ListCaptures,
    PacketCount,
    Refused,
    Started,
    StopCapture,
    WatchInterfaces,
    encode,
)
from tests.client.helpers import read_complete, wait_for_packets
from tests.policy.test_daemon import TCP_80, UDP_53, UDP_80, ethernet
from tests.support.attack import (
    FRAMES,
    RawClient,
    User,
    await_end,
    check_complete,
    connected_as,
    eventually,
    leaving_nothing,
    opened,
    request_for,
)
from tests.support.daemon import Daemon, MakeDir, running_daemon
from tests.support.namespace import veth_pair
from tests.support.tools import ip_json
from tests.support.traffic import send


def receive_channel(client: RawClient) -> socket.socket:
    """Return the socket on which the capture's process passes files, when the capture runs."""
    client.receive(Started)
    assert client.channel is not None
    return client.channel


def test_nothing_can_be_left_with_a_worker_that_outlasts_its_client(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    with leaving_nothing(daemon, veth[1]), opened(user_dir) as directory, RawClient(daemon.socket_path) as client:
        client.send(request_for(veth[1], pass_files=True), [directory])
        with receive_channel(client) as files:
            # Waiting there to be received, its own end of the connection would never close.
            with contextlib.suppress(BrokenPipeError):
                socket.send_fds(files, [b"x"], [client.socket.fileno()])
            workers = daemon.workers()
            client.close()
        await_end(workers)


def deleted_files(directory: Path) -> int:
    """Return how many files of a directory this process keeps on the disk, though they are deleted."""
    deleted = 0
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            link = os.fspath(each.readlink())
            deleted += link.startswith(os.fspath(directory)) and link.endswith(" (deleted)")
    return deleted


def test_what_a_ring_has_deleted_does_not_fill_the_disk(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    ring = Conditions(packets=1, files=1)
    with opened(user_dir) as directory, RawClient(daemon.socket_path) as client:
        client.send(request_for(veth[1], ring=ring, pass_files=True), [directory])
        with receive_channel(client) as files:
            send(veth[0], FRAMES, 100)
            eventually(lambda: bool(list(user_dir.glob("raw_00101_*"))), "the last file")
            # As many as wait for a client that takes none.
            files.setblocking(False)
            waiting = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    _, (descriptor,), _, _ = socket.recv_fds(files, 255, 1)
                    os.close(descriptor)
                    waiting += 1
            assert 4 <= waiting <= 20


def test_the_library_keeps_few_files_that_a_ring_has_deleted(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    with CaptureSession(
        interfaces=veth[1],
        savefile=user_dir / "a",
        ringbuffer_packets=1,
        ringbuffer_files=1,
        update_interval=0.02,
        pass_files=True,
        socket_path=daemon.socket_path,
    ) as session:
        session.wait_started(20)
        for number in range(1, 21):
            send(veth[0], FRAMES, 1)
            wait_for_packets(session, number)
        path = session.files[-1].name
        with session.open_file(path) as file:
            assert file.read(4) == b"\x0a\x0d\x0d\x0a"
        assert not Path(path).exists()
        assert deleted_files(user_dir) <= 3


# Interfaces that are not what they were -------------------------------------------------------------------------------

USER, LITTLE, NO_SSH, TAGGED = (User(user_id, user_id) for user_id in range(23461, 23465))
CONFIGURATION = f"""
[[rule]]
name = "open"
users = [{USER.user_id}]
interfaces = ["open*"]

[[rule]]
name = "tcp"
users = [{USER.user_id}]
interfaces = ["part*"]
filter = "tcp"

[[rule]]
name = "little"
users = [{LITTLE.user_id}]
max_disk_bytes = 1_000_000

[[rule]]
name = "no ssh"
users = [{NO_SSH.user_id}]
filter = "not tcp port 22"

[[rule]]
name = "tag 5"
users = [{TAGGED.user_id}]
interfaces = ["open*"]
filter = "vlan 5"

[[rule]]
name = "tag 6"
users = [{TAGGED.user_id}]
interfaces = ["part*"]
filter = "vlan 6"
"""


@pytest.fixture(scope="module")
def bound(make_dir: MakeDir) -> Generator[Daemon, None, None]:
    """A daemon with rules."""
    directory = make_dir("attack")
    (directory / "capd.toml").write_text(CONFIGURATION)
    with running_daemon(directory, "--config", f"{directory}/capd.toml") as running:
        yield running


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=10)


def link_flags(name: str) -> list[str]:
    flags: list[str] = ip_json("link", "show", "dev", name)[0]["flags"]
    return flags


def rename(name: str, new_name: str) -> None:
    ip("link", "set", "dev", name, "down")
    ip("link", "set", "dev", name, "name", new_name)
    ip("link", "set", "dev", new_name, "up")


@contextlib.contextmanager
def capturing_as(user: User, daemon: Daemon, interface: str, directory: Path) -> Generator[RawClient, None, None]:
    with connected_as(user, daemon) as client, opened(directory) as directory_fd:
        client.send(request_for(interface), [directory_fd])
        client.receive(Started)
        yield client


def test_a_capture_ends_when_its_interface_is_renamed_to_one_that_it_may_not_have(
    bound: Daemon, user_dir: Path
) -> None:
    with veth_pair("opentx", "openrx"), capturing_as(USER, bound, "openrx", user_dir) as client:
        rename("openrx", "openrx2")  # the same rule holds there
        send("opentx", [UDP_80], 1)
        assert client.receive(PacketCount) == PacketCount(1)
        rename("openrx2", "shutrx")
        assert client.receive(InterfaceLost) == InterfaceLost(interface="openrx", text="openrx is no longer there")
        send("opentx", [UDP_80], 1)
        ended = client.rest()[-1]
    assert isinstance(ended, Ended)
    assert (ended.reason, ended.interfaces[0].received_total) == (EndReason.FAILED, 1)


def is_bound_to(interface_index: int) -> bool:
    """Whether a packet socket receives anything from an interface, by the kernel's own list."""
    lines = [line.split() for line in Path("/proc/self/net/packet").read_text().splitlines()[1:]]
    return any(int(words[4]) == interface_index and words[3] == "0003" for words in lines)


def test_a_worker_that_was_stopped_keeps_no_interface_that_was_renamed(bound: Daemon, user_dir: Path) -> None:
    with veth_pair("opentx", "openrx"), capturing_as(USER, bound, "openrx", user_dir) as client:
        (worker,) = bound.workers()
        index = socket.if_nametoindex("openrx")
        assert is_bound_to(index)
        os.kill(worker, signal.SIGSTOP)  # as its user may
        try:
            rename("openrx", "shutrx")
            eventually(lambda: not is_bound_to(index), "it is let go")
            assert send("opentx", [UDP_80], 10) == 10
        finally:
            os.kill(worker, signal.SIGCONT)
        ended = client.rest()[-1]
    assert isinstance(ended, Ended)
    assert (ended.reason, ended.interfaces[0].received_total) == (EndReason.FAILED, 0)
    check_complete(user_dir / "raw.pcapng", 0)


def test_the_filter_of_an_interface_follows_its_name(bound: Daemon, user_dir: Path) -> None:
    with veth_pair("opentx", "openrx"), capturing_as(USER, bound, "*rx", user_dir) as client:
        rename("openrx", "partrx")
        assert client.receive(InterfaceLost) == InterfaceLost(interface="openrx", text="openrx is no longer there")
        assert client.receive(InterfaceAttached) == InterfaceAttached(interface="partrx")
        send("opentx", [UDP_80, TCP_80], 2)
        client.receive(PacketCount)
        rename("partrx", "openrx")
        assert client.receive(InterfaceAttached) == InterfaceAttached(interface="openrx")
        send("opentx", [UDP_53], 1)
        client.receive(PacketCount)
        client.send(StopCapture())
        assert isinstance(client.rest()[-1], Ended)
    assert read_complete(user_dir / "raw.pcapng").packets == [TCP_80, UDP_53]


@pytest.mark.parametrize("name", ["o*rx", "op[e]n", "any"])
def test_an_interface_whose_name_looks_like_a_pattern_is_no_pattern(bound: Daemon, user_dir: Path, name: str) -> None:
    with (
        veth_pair("opentx", "openrx"),
        veth_pair("tx", name),
        capturing_as(USER, bound, "any", user_dir) as client,
    ):
        send("tx", [UDP_80], 1)
        client.send(StopCapture())
        ended = client.rest()[-1]
    assert isinstance(ended, Ended)
    assert {each.interface for each in ended.interfaces} == {"opentx", "openrx"}


@pytest.mark.parametrize("real", ["shutrx", "partrx"])
def test_an_interface_is_not_to_be_had_by_another_of_its_names(bound: Daemon, user_dir: Path, real: str) -> None:
    with veth_pair("tx", real), connected_as(USER, bound) as client, opened(user_dir) as directory:
        ip("link", "property", "add", "dev", real, "altname", "openalt")
        client.send(request_for("openalt"), [directory])
        assert client.refusal().code == FailureCode.NOT_PERMITTED
    assert list(user_dir.iterdir()) == []


def test_another_name_under_the_same_rule_is_as_good(bound: Daemon, user_dir: Path) -> None:
    with veth_pair("tx", "openrx"):
        ip("link", "property", "add", "dev", "openrx", "altname", "openalt")
        with capturing_as(USER, bound, "openalt", user_dir) as client:
            send("tx", [UDP_80], 1)
            assert client.receive(PacketCount) == PacketCount(1)
            client.send(StopCapture())
            assert isinstance(client.rest()[-1], Ended)


def test_what_has_the_index_of_an_interface_by_now_is_not_captured(bound: Daemon, user_dir: Path) -> None:
    with (
        veth_pair("opentx", "openrx"),
        capturing_as(USER, bound, "any", user_dir) as client,
        RawClient(bound.socket_path) as watcher,
    ):
        watcher.send(WatchInterfaces())
        watcher.receive(InterfaceSnapshot)
        (worker,) = bound.workers()
        # Its user may do that, for as long as the watchdog lets one.
        os.kill(worker, signal.SIGSTOP)
        ip("link", "add", "name", "open5", "index", "7777", "type", "veth", "peer", "name", "peer5")
        event = watcher.receive(InterfaceEvent)
        while isinstance(event, InterfaceEvent) and event.link.name != "open5":
            event = watcher.receive(InterfaceEvent)
        with RawClient(bound.socket_path) as other:  # by its answer the capture has heard of it, too
            other.send(ListCaptures())
            other.receive(CaptureList)
        ip("link", "delete", "dev", "open5")
        ip("link", "add", "name", "shut5", "index", "7777", "type", "veth", "peer", "name", "peer5")
        os.kill(worker, signal.SIGCONT)
        skipped = client.receive(InterfaceSkipped)
        while isinstance(skipped, InterfaceSkipped) and skipped.interface != "open5":
            skipped = client.receive(InterfaceSkipped)
        ip("link", "delete", "dev", "shut5")
        assert "No such device" in str(skipped)


# Interfaces that libpcap cannot be asked about ------------------------------------------------------------------------

SSH = ethernet(6, 22)


@contextlib.contextmanager
def capturing_later(
    wanted: str | None, daemon: Daemon, interface: str, directory: Path
) -> Generator[RawClient, None, None]:
    """Ask for a capture as the user who may see no SSH, on interfaces that are not up yet."""
    request = request_for(
        interface,
        interfaces=(InterfaceRequest(name=interface, link_layer_type=wanted, kernel_buffer_size_bytes=1 << 20),),
        wait_for_interfaces=True,
    )
    with connected_as(NO_SSH, daemon) as client, opened(directory) as directory_fd:
        client.send(request, [directory_fd])
        yield client


#: Of what an Ethernet interface has not; with "not" in policy's filter, all of them saw what it forbids.
WRONG_TYPES = ["RAW", "IPV4", "NULL", "C_HDLC", "FDDI", "LTALK", "PPP", "LINUX_SLL", "IEEE802_11"]


@pytest.mark.parametrize("wanted", WRONG_TYPES)
def test_an_interface_that_is_down_has_no_other_link_layer_type(bound: Daemon, user_dir: Path, wanted: str) -> None:
    with veth_pair("opentx", "openrx"):
        ip("link", "set", "dev", "openrx", "down")
        with capturing_later(wanted, bound, "openrx", user_dir) as client:
            refused = client.receive(Refused)
    assert isinstance(refused, Refused)
    assert (refused.failure.code, refused.failure.argument) == (FailureCode.UNSUPPORTED, "link_layer_type")
    assert refused.failure.text == f"openrx has no link-layer type {wanted}; it has EN10MB"


@pytest.mark.parametrize("comes_later", [True, False])
@pytest.mark.parametrize("wanted", [None, "EN10MB", "RAW"])
def test_policys_filter_holds_on_interfaces_that_come_up_later(
    bound: Daemon, user_dir: Path, wanted: str | None, comes_later: bool
) -> None:
    with contextlib.ExitStack() as stack:
        if not comes_later:
            if wanted == "RAW":
                return  # refused, see above
            stack.enter_context(veth_pair("opentx", "openrx"))
            ip("link", "set", "dev", "openrx", "down")
        client = stack.enter_context(capturing_later(wanted, bound, "openrx", user_dir))
        client.receive(Started)
        if comes_later:
            stack.enter_context(veth_pair("opentx", "openrx"))
            event = client.receive(InterfaceSkipped if wanted == "RAW" else InterfaceAttached)
            if isinstance(event, InterfaceSkipped):
                assert "openrx has no link-layer type RAW" in event.text
        else:
            ip("link", "set", "dev", "openrx", "up")
            eventually(lambda: "LOWER_UP" in link_flags("opentx"), "the link")
        send("opentx", [SSH, TCP_80], 20)
        client.send(StopCapture())
        ended = client.rest()[-1]
    assert isinstance(ended, Ended)
    packets = read_complete(user_dir / "raw.pcapng").packets
    assert SSH not in packets
    assert packets == ([] if wanted == "RAW" else [TCP_80] * 10)


def test_a_filter_with_vlan_is_there_for_an_interface_that_comes_later_under_another_rule(
    bound: Daemon, user_dir: Path
) -> None:
    tags = {number: ethernet(17, 53, vlan=number) for number in (5, 6)}
    with (
        veth_pair("opentx", "openrx"),
        capturing_as(TAGGED, bound, "*rx", user_dir) as client,
        veth_pair("parttx", "partrx"),
    ):
        assert client.receive(InterfaceAttached) == InterfaceAttached(interface="partrx")
        for sender in ("opentx", "parttx"):
            send(sender, list(tags.values()), 2)
            client.receive(PacketCount)
        client.send(StopCapture())
        assert isinstance(client.rest()[-1], Ended)
    assert read_complete(user_dir / "raw.pcapng").packets == [tags[5], tags[6]]


def test_an_interface_that_is_down_when_it_comes_is_attached_when_it_is_up(bound: Daemon, user_dir: Path) -> None:
    with veth_pair("opentx", "openrx"), capturing_as(TAGGED, bound, "*rx", user_dir) as client:
        ip("link", "add", "parttx", "type", "veth", "peer", "name", "partrx")
        try:
            assert "is down" in getattr(client.receive(InterfaceSkipped), "text", "")
            for name in ("parttx", "partrx"):
                ip("link", "set", name, "up")
            assert client.receive(InterfaceAttached) == InterfaceAttached(interface="partrx")
            client.send(StopCapture())
            assert isinstance(client.rest()[-1], Ended)
        finally:
            ip("link", "del", "parttx")


# Filters that take too much to compile --------------------------------------------------------------------------------

#: Of libpcap's optimizer, these would take 20 s of a processor, or 700 MiB.
TOO_MUCH = {
    "time": " or ".join(f"port {number + 1}" for number in range(600)),
    "memory": " or ".join(f"port {number + 1}" for number in range(1300)),
}


@pytest.mark.parametrize("which", TOO_MUCH)
def test_a_filter_that_takes_too_much_to_compile_is_refused_as_a_bad_one(
    bound: Daemon, user_dir: Path, which: str
) -> None:
    filtered = InterfaceRequest(name="openrx", capture_filter=TOO_MUCH[which], kernel_buffer_size_bytes=1 << 20)
    with veth_pair("opentx", "openrx"), leaving_nothing(bound, "openrx", directory=user_dir):
        with connected_as(USER, bound) as client, opened(user_dir) as directory_fd:
            client.send(request_for("openrx", interfaces=(filtered,)), [directory_fd])
            refused = client.receive(Refused)
        assert isinstance(refused, Refused)
        assert (refused.failure.code, refused.failure.argument) == (FailureCode.BAD_FILTER, "capture_filter")
        assert refused.failure.text == too_much().text
    assert "died" not in bound.log


# Directories and lists that are not as they should be -----------------------------------------------------------------


def test_a_directory_that_is_closed_to_its_ring_ends_the_capture_well(bound: Daemon, user_dir: Path) -> None:
    directory = user_dir / "own"
    directory.mkdir()
    os.chown(directory, USER.user_id, USER.group_id)
    ring = Conditions(packets=1, files=2)
    with veth_pair("opentx", "openrx"), connected_as(USER, bound) as client, opened(directory) as directory_fd:
        client.send(request_for("openrx", ring=ring), [directory_fd])
        client.receive(Started)
        send("opentx", FRAMES, 1)
        client.receive(PacketCount)
        eventually(lambda: len(list(directory.glob("*.pcapng"))) == 2, "the second file")
        directory.chmod(0o500)
        send("opentx", FRAMES, 1)
        failed = client.receive(Failed)
        ended = client.rest()[-1]
    assert isinstance(failed, Failed)
    assert failed.failure.code == FailureCode.DESTINATION
    assert isinstance(ended, Ended)
    (counters,) = ended.interfaces
    assert counters.received_total == counters.written_total + counters.drops_total == 2
    assert [check_complete(path) for path in sorted(directory.glob("*.pcapng"))] == [1, 1]


def test_interfaces_that_come_take_no_more_disk_than_allowed(bound: Daemon, user_dir: Path) -> None:
    # Each interface has its filter on record in the file.
    name = InterfaceRequest(name="[ol]*rx", capture_filter="udp" + 16_000 * " ")
    with (
        veth_pair("opentx", "openrx"),
        connected_as(LITTLE, bound) as client,
        opened(user_dir) as directory,
    ):
        client.send(request_for("", interfaces=(name,)), [directory])
        client.receive(Started)
        packets = (1_000_000 - 28_000) // 1032
        send("opentx", [ethernet(17, 9, 1000)], packets)
        eventually(lambda: (user_dir / "raw.pcapng").stat().st_size > packets * 1032, "the packets")
        with veth_pair("latetx", "laterx"):
            skipped = client.receive(InterfaceSkipped)
        client.send(StopCapture())
        assert isinstance(client.rest()[-1], Ended)
    assert isinstance(skipped, InterfaceSkipped)
    assert (skipped.interface, "bytes on disk" in skipped.text) == ("laterx", True)
    assert (user_dir / "raw.pcapng").stat().st_size <= 1_000_000
    assert check_complete(user_dir / "raw.pcapng") == packets


def test_no_captures_of_others_make_a_list_too_long_to_send(monkeypatch: pytest.MonkeyPatch) -> None:
    for share in ("RING_SHARE", "RING_SHARE_PER_USER"):  # whatever this machine has
        monkeypatch.setattr(f"capd.limits.{share}", 1000)
    request = request_for("x", "\x01" * 255, wait_for_interfaces=True)
    names = [f"{number:02}*" + 61 * '"' for number in range(MAX_INTERFACES)]
    request = msgspec.structs.replace(request, interfaces=tuple(InterfaceRequest(name=name) for name in names))
    assert find_faults(request) == []
    owner = Peer(1, USER.user_id, USER.group_id, ())
    captures = Captures(Policy((Rule(name="all", everybody=True),)), Spawner(), Closer(), PacketRingMaker())
    with contextlib.ExitStack() as stack:
        for user_id in range(4):
            for _ in range(MAX_CAPTURES_PER_USER):
                stack.enter_context(captures.granted(dataclasses.replace(owner, user_id=user_id), request))
        root = Peer(1, 0, 0, ())
        lists = list(captures.lists_for(root))
        assert sum(len(each.captures) for each in lists) == 4 * MAX_CAPTURES_PER_USER
        assert [each.is_last for each in lists] == [False] * (len(lists) - 1) + [True]
        assert all(encode(each) for each in lists)
    assert [each.captures for each in captures.lists_for(root)] == [()]


def test_where_files_are_is_told_to_whoever_may_see_the_capture_but_to_no_container() -> None:
    rules = (Rule(name="all", everybody=True), Rule(name="contained", containers=True, user_ids=frozenset({7})))
    captures = Captures(Policy(rules), Spawner(), Closer(), PacketRingMaker())
    root = Peer(1, 0, 0, ())
    for owner, expected in ((Peer(1, 7, 7, ()), "/files"), (Peer(1, 7, 7, (), is_contained=True), None)):
        with captures.granted(owner, request_for("x", wait_for_interfaces=True)) as capture:
            capture.account.directory = "/files"
            for peer, directory in ((owner, expected), (root, "/files")):
                (listed,) = captures.lists_for(peer)
                assert [each.directory for each in listed.captures] == [directory]
            assert capture.account.attached().capture.directory is None  # its files tell whom it passes them to


def test_a_capture_of_the_configuration_touches_nothing_foreign_in_its_place(user_dir: Path) -> None:
    state, elsewhere = user_dir / "state", user_dir / "elsewhere"
    (state / "ring").mkdir(parents=True)
    elsewhere.mkdir()
    (state / "led").symlink_to(elsewhere)
    victim = elsewhere / "ring_00001_20200101000000.pcapng"
    victim.write_text("not the ring's")
    # All bear names of the ring, or nearly.
    (state / "ring" / victim.name).symlink_to(victim)
    os.mkfifo(state / "ring" / "ring_00002_20200101000000.pcapng")
    (state / "ring" / "ring_00003_20200101000000.pcapng").mkdir()
    odd = (
        "ring_0000\u0664_20200101000000.pcapng",
        "ring_00005_20200101000000.pcapng\n",
        "xring_00006_20200101000000.pcapng",
    )
    for name in odd:
        (state / "ring" / name).touch()
    before = set((state / "ring").iterdir())
    ring = 'interfaces = ["openrx"]\ngroup = 1\nringbuffer_packets = 1\nringbuffer_files = 1\nupdate_interval = 0.02'
    (user_dir / "capd.toml").write_text(f"[captures.ring]\n{ring}\n[captures.led]\n{ring}\n")
    options = ("--config", str(user_dir / "capd.toml"), "--state-directory", str(state))
    with veth_pair("opentx", "openrx"), running_daemon(user_dir, *options) as running:
        eventually(lambda: bool(set((state / "ring").iterdir()) - before), "its first file")
        send("opentx", FRAMES, 5)
        eventually(lambda: bool(list(state.glob("ring/ring_00006_2*"))), "its last file")
        eventually(lambda: "capture led: its directory cannot be used" in running.log, "what is wrong with the other")
    beside = {state / "ring" / f"ring.pcapng.index{each}" for each in ("", ".lock")}
    (own,) = set((state / "ring").iterdir()) - before - beside
    check_complete(own, 0)
    assert before <= set((state / "ring").iterdir())
    assert victim.read_text() == "not the ring's"
    assert list(elsewhere.iterdir()) == [victim]


def test_all_clients_that_there_may_be_find_descriptors(user_dir: Path) -> None:
    with running_daemon(user_dir, prefix=("prlimit", "--nofile=1024:8192")) as daemon:
        assert resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)[0] >= 8 * MAX_CLIENTS


_WITH_DEFAULT_PATH = """
import sys
from pathlib import Path
from capd.config import reader
from capd.__main__ import main
reader.DEFAULT_PATH = Path(sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""


def test_a_configuration_that_leads_nowhere_lets_nobody_do_more(user_dir: Path) -> None:
    path = user_dir / "capd.toml"
    path.symlink_to("nowhere")
    command = [sys.executable, "-P", "-c", _WITH_DEFAULT_PATH, os.fspath(path), "--socket", f"{user_dir}/socket"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1
    assert "capd.toml: cannot be read: No such file" in ended.stderr
