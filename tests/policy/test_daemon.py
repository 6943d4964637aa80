"""Policy as users meet it: a daemon with a configuration, and users who want more than it gives them."""

import contextlib
import itertools
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from capd_client import (
    CaptureError,
    CaptureSession,
    Interface,
    NotPermitted,
    ResourceError,
    UnsupportedError,
    files,
    list_captures,
    read,
    stop_capture,
    who_am_i,
)
from capd_protocol.messages import CaptureSummary, EndReason
from tests.client.helpers import drain, of_type, read_complete, wait_for_packets, wait_until
from tests.support.daemon import Daemon, MakeDir, as_user, running_daemon
from tests.support.namespace import veth_pair
from tests.support.traffic import send

#: Of this test alone, whatever else runs: other tests stop all processes of a user.
ALICE, BOB, CAROL, GUEST = 23451, 23452, 23453, 23454
#: Any group that every machine has.
GROUP_ID = 1


def ethernet(ip_protocol: int, port: int, size_bytes: int = 100, vlan: int | None = None) -> bytes:
    """Return a frame with an IPv4 packet to a port."""
    payload = port.to_bytes(2, "big") * 2 + (size_bytes - 34 - 4) * b"\0"
    length = (20 + len(payload)).to_bytes(2, "big")
    ip = b"\x45\0" + length + bytes(5) + bytes([ip_protocol]) + bytes(2) + bytes([192, 0, 2, 1, 192, 0, 2, 2])
    tag = b"" if vlan is None else b"\x81\0" + vlan.to_bytes(2, "big")
    return bytes.fromhex("020000000002 020000000001") + tag + b"\x08\0" + ip + payload


UDP_53, UDP_80, TCP_80 = ethernet(17, 53), ethernet(17, 80), ethernet(6, 80)
TAGGED_UDP_53 = ethernet(17, 53, vlan=7)

CONFIGURATION = f"""
contact = "netops"

[[rule]]
name = "alice sees dns"
users = [{ALICE}]
interfaces = ["pol*"]
filter = "udp port 53"
max_snaplen_bytes = 60
promiscuous = false

[[rule]]
name = "bob sees tcp"
users = [{BOB}]
interfaces = ["pol*"]
filter = "tcp"

[[rule]]
name = "carol has little"
users = [{CAROL}]
interfaces = ["pol*"]
max_captures = 2
max_disk_bytes = 1_000_000
max_duration_s = 30
"""


@pytest.fixture(scope="module")
def veth() -> Generator[tuple[str, str], None, None]:
    with veth_pair("pol0", "pol1"):
        yield "pol0", "pol1"


@pytest.fixture(scope="module")
def daemon(make_dir: MakeDir) -> Generator[Daemon, None, None]:
    directory = make_dir("policy")
    (directory / "capd.toml").write_text(CONFIGURATION)
    with running_daemon(directory, "--config", f"{directory}/capd.toml") as running:
        yield running


@contextlib.contextmanager
def beside(function: Callable[[], None]) -> Generator[None, None, None]:
    """Have root do something in a process of its own meanwhile. (Users' processes are forked: no threads here.)"""
    process = get_context("fork").Process(target=function)
    process.start()
    try:
        yield
        process.join(20)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()


@dataclass
class Sender:
    """Sends for users, who may not: what they write into the pipe goes out on an interface."""

    to_sender: Connection
    from_user: Connection

    def send(self, frames: list[bytes], times: int = 1) -> None:
        """Have frames sent; return when they are."""
        self.from_user.send((frames, times))
        assert self.from_user.recv() == len(frames) * times

    def run(self) -> None:
        """Send what others ask for, until ``None`` comes."""
        while (order := self.to_sender.recv()) is not None:
            frames, times = order
            self.to_sender.send(send("pol0", frames, len(frames) * times))


@pytest.fixture(scope="module")
def sender(veth: tuple[str, str]) -> Generator[Sender, None, None]:
    sender = Sender(*Pipe())
    with beside(sender.run):
        yield sender
        sender.from_user.send(None)


def captured(
    daemon: Daemon, user_id: int, directory: Path, sender: Sender, frames: list[bytes], **options: object
) -> list[bytes]:
    """Return what a user's capture gets of these frames and, to know the end, of those that the user may see."""
    path = directory / f"of{user_id}.pcapng"

    def capture() -> list[bytes]:
        with CaptureSession(
            socket_path=daemon.socket_path,
            **{"interfaces": "pol1", "savefile": path, "update_interval": 0.02, **options},  # type: ignore[arg-type]
        ) as session:
            session.wait_started(20)
            sender.send(frames)
            session.stop()
            drain(session)
        return read_complete(path).packets

    return as_user(capture, user_id)


# What is seen -----------------------------------------------------------------------------------------------------


def test_the_forced_filter_holds_whatever_the_users_own(daemon: Daemon, sender: Sender, user_dir: Path) -> None:
    frames = [UDP_53, UDP_80, TCP_80, TAGGED_UDP_53]
    for own in ("", "udp or tcp", "not (udp port 53 and tcp)", "vlan or ip", "len > 0 or vlan or len > 0"):
        got = captured(daemon, ALICE, user_dir, sender, frames, capture_filter=own)
        assert got
        # The kernel has set the tag aside when filters run, so the tagged one is to port 53 too.
        assert {UDP_53[:60], TAGGED_UDP_53[:60]}.issuperset(got), own
    assert captured(daemon, ALICE, user_dir, sender, frames, capture_filter="tcp or udp port 80") == []
    assert captured(daemon, BOB, user_dir, sender, frames, capture_filter="port 80") == [TCP_80]


@pytest.mark.parametrize("own", ["udp) or (tcp", "udp) or tcp or (udp", "tcp \\", "(tcp", "tcp # "])
def test_no_filter_text_breaks_out(daemon: Daemon, sender: Sender, user_dir: Path, own: str) -> None:
    with pytest.raises(CaptureError):
        captured(daemon, ALICE, user_dir, sender, [TCP_80], capture_filter=own)


@pytest.mark.parametrize("interfaces", ["pol*", "any", "*", ["pol0", "pol1"]])
def test_the_forced_filter_holds_for_patterns(
    daemon: Daemon, sender: Sender, user_dir: Path, interfaces: str | list[str]
) -> None:
    assert captured(daemon, BOB, user_dir, sender, [UDP_53, TCP_80], interfaces=interfaces) == [TCP_80]


def test_the_forced_filter_looks_into_what_comes_whatever_the_user_calls_it(
    daemon: Daemon, sender: Sender, user_dir: Path
) -> None:
    assert captured(daemon, BOB, user_dir, sender, [UDP_53, TCP_80], link_layer_type="DOCSIS") == [TCP_80]
    with pytest.raises(UnsupportedError, match="no link-layer type RAW; it has EN10MB, DOCSIS"):
        captured(daemon, BOB, user_dir, sender, [TCP_80], link_layer_type="RAW")


def test_beyond_the_snaplen_the_users_own_filter_sees_nothing(daemon: Daemon, sender: Sender, user_dir: Path) -> None:
    """Alice keeps 60 bytes of each packet. Filters betrayed all others, bit by bit, by how many packets they took."""
    secret = ord("s")
    packet = UDP_53[:70] + bytes([secret]) + UDP_53[71:]
    tagged = TAGGED_UDP_53[:62] + bytes([secret]) + TAGGED_UDP_53[63:]

    def learnt(own: str, frame: bytes) -> int:
        return len(captured(daemon, ALICE, user_dir, sender, [frame], capture_filter=own))

    asked = [f"ether[70] & {1 << bit}" for bit in range(8)]
    # By other ways to the same byte, and what the kernel would tell of it.
    asked += ["udp[36]", "ether[ether[12] + 62]", "ether[0xfff00000 + 56]", "ether[0xffe00000 + 70]"]
    asked += ["ether[0xfffff034:4]", "ether[0xfffff020:4] & 1"]  # SKF_AD_PAY_OFFSET, SKF_AD_RXHASH
    for place in asked:
        value = 0 if "&" in place else secret
        assert [learnt(f"{place} {compared} {value}", packet) for compared in ("=", "!=")] == [0, 0], place
    # The file has the tag, which the kernel has set aside, and so four bytes fewer of what comes behind it.
    assert [learnt(f"ether[58] {compared} {secret}", tagged) for compared in ("=", "!=")] == [0, 0]
    # Within the snaplen, and by its original length, one may look.
    assert learnt("ether[59] = 0 and ether[37] = 53 and len = 100", packet) == 1
    assert learnt("udp port 53 and udp[25] = 0", packet) == 1
    assert learnt("ether[55] = 0", tagged) == 1


def test_the_file_says_which_filter_was_in_force(daemon: Daemon, sender: Sender, user_dir: Path) -> None:
    captured(daemon, ALICE, user_dir, sender, [UDP_53], capture_filter="ip")
    shown = subprocess.run(
        ["capinfos", "-I", user_dir / f"of{ALICE}.pcapng"], capture_output=True, text=True, check=True, timeout=20
    ).stdout
    assert "(udp port 53) and (ip)" in shown
    assert "Capture length = 60" in shown


def test_two_users_on_one_interface_learn_nothing_of_each_other(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    def capture_of(user_id: int, name: str = "a") -> CaptureSession:
        path = user_dir / f"{user_id}{name}.pcapng"
        return CaptureSession(interfaces="pol1", savefile=path, socket_path=daemon.socket_path)

    def both() -> None:
        with capture_of(ALICE) as hers:
            hers.wait_started(20)
            readable, writable = os.pipe()
            child = os.fork()
            if child == 0:  # she becomes nobody else: this process was hers already
                os._exit(0)
            os.waitpid(child, 0)
            os.close(readable)
            os.close(writable)
            assert [each.user_id for each in list_captures(socket_path=daemon.socket_path)] == [ALICE]

    with capture_of(0) as roots:
        roots.wait_started(20)
        as_user(both, ALICE)
        number = roots.capture_id
        assert number is not None

        def intrude() -> None:
            assert list_captures(socket_path=daemon.socket_path) == ()
            with pytest.raises(CaptureError) as refused:
                stop_capture(number, socket_path=daemon.socket_path)
            with pytest.raises(CaptureError) as unknown:
                stop_capture(1, socket_path=daemon.socket_path)
            # What is somebody else's is refused in the same words as what does not exist.
            assert str(refused.value) == str(unknown.value).replace(" 1 ", f" {number} ")
            with pytest.raises(PermissionError):
                (user_dir / "0a.pcapng").read_bytes()

        as_user(intrude, BOB)
        # Numbers tell nothing about how many captures others have.
        with capture_of(0, "b") as another:
            another.wait_started(20)
            assert another.capture_id not in (number - 1, number + 1)


# What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user_id", "options", "words"),
    [
        (GUEST, {}, f"user {GUEST} may not capture here: ask netops"),
        (ALICE, {"interfaces": "lo"}, "only on pol*: ask netops"),
        (ALICE, {"interfaces": ["pol1", "lo"]}, "may not capture on lo"),
        (ALICE, {"snaplen": 61}, "snaplen is at most 60 bytes (rule 'alice sees dns')"),
        (ALICE, {"promiscuous": True}, "not in promiscuous mode"),
        (ALICE, {"interfaces": "any", "link_layer_type": "LINUX_SLL"}, "may not capture on any"),
        (ALICE, {"monitor_mode": True}, "no monitor mode"),
        (CAROL, {"autostop_duration": 31}, "captures of up to 30 s, not of 31 s"),
    ],
)
@pytest.mark.usefixtures("veth")
def test_who_is_refused_learns_why_and_whom_to_ask(
    daemon: Daemon, user_dir: Path, user_id: int, options: dict[str, object], words: str
) -> None:
    def ask() -> str:
        with pytest.raises(NotPermitted) as raised:
            captured_directly(daemon, user_dir, options)
        return str(raised.value)

    assert words in as_user(ask, user_id)


def captured_directly(daemon: Daemon, directory: Path, options: dict[str, object]) -> None:
    arguments = {"interfaces": "pol1", "savefile": directory / "refused.pcapng", **options}
    with CaptureSession(socket_path=daemon.socket_path, **arguments) as session:  # type: ignore[arg-type]
        session.wait_started(20)


def test_a_pattern_gives_those_interfaces_that_policy_allows(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    def capture() -> tuple[list[str], list[object]]:
        path = user_dir / "any.pcapng"
        with CaptureSession(interfaces="any", savefile=path, socket_path=daemon.socket_path) as session:
            session.wait_started(20)
            session.stop()
            events = drain(session)
        return read_complete(path).names, of_type(events, session.SP_INTERFACE_SKIPPED)

    names, skipped = as_user(capture, BOB)
    assert set(names) == {"pol0", "pol1"}
    assert any(f"lo: user {BOB} may not capture on lo, only on pol*" in str(text) for text in skipped)


def test_captures_at_once_are_counted(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    def capture(number: int) -> CaptureSession:
        return CaptureSession(
            interfaces="pol1", savefile=user_dir / f"{number}", socket_path=daemon.socket_path, autostop_filesize=1
        )

    # Each may take a file of a kilobyte and its last packet.
    config = CONFIGURATION.replace("1_000_000", "10_000_000")
    with changed(daemon, config):

        def run() -> None:
            with capture(1) as one, capture(2) as two:
                one.wait_started(20)
                two.wait_started(20)
                with pytest.raises(ResourceError, match="2 captures at once"), capture(3):
                    raise AssertionError("entered")
            with capture(4) as four:
                four.wait_started(20)

        as_user(run, CAROL)


def test_the_kernels_memory_is_shared_out(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    options = {"interfaces": "pol*", "kernel_buffer_size": 1024}  # for as many interfaces as may come
    with pytest.raises(ResourceError, match="ask for a smaller kernel_buffer_size"):
        as_user(lambda: captured_directly(daemon, user_dir, options), BOB)


# Bytes on disk ----------------------------------------------------------------------------------------------------


def test_bytes_on_disk_are_never_more_than_allowed(daemon: Daemon, sender: Sender, user_dir: Path) -> None:
    def single() -> EndReason | None:
        path = user_dir / "single.pcapng"
        with CaptureSession(
            interfaces="pol1", savefile=path, socket_path=daemon.socket_path, update_interval=0.02
        ) as session:
            session.wait_started(20)
            sender.send([ethernet(17, 9, 1000)], 2000)
            drain(session)
        assert 900_000 < path.stat().st_size <= 1_000_000
        packets = read_complete(path).packets
        assert len(packets) == session.packetcount
        (counters,) = session.interface_counters
        # What is sent after the end is received by nobody.
        assert counters.received_total == counters.written_total + counters.excess_total <= 2000
        return session.end_reason

    assert as_user(single, CAROL) == EndReason.DISK_LIMIT


def test_a_ring_keeps_to_its_bytes_and_counts_what_earlier_ones_left(
    daemon: Daemon, sender: Sender, user_dir: Path
) -> None:
    def ring(packets: int) -> int:
        with CaptureSession(
            interfaces="pol1",
            savefile=user_dir / "ring.pcapng",
            socket_path=daemon.socket_path,
            update_interval=0.02,
            ringbuffer_filesize=100,
        ) as session:
            session.wait_started(20)
            for _ in range(packets // 100):
                sender.send([ethernet(17, 9, 1000)], 100)
                used = sum(path.stat().st_size for path in user_dir.glob("ring_*"))
                assert used <= 1_000_000
            session.stop()
            drain(session)
        return sum(path.stat().st_size for path in user_dir.glob("ring_*"))

    used_bytes = as_user(lambda: ring(2000), CAROL)
    assert 800_000 < used_bytes <= 1_000_000
    before = {path: path.stat() for path in user_dir.glob("ring_*")}
    used_bytes = as_user(lambda: ring(300), CAROL)
    assert 800_000 < used_bytes <= 1_000_000
    # What another run has made is counted, and left alone.
    assert all(path.stat() == status for path, status in before.items())
    left = user_dir / "ring_00001_20260101000000.pcapng"
    left.write_bytes(bytes(1_000_000 - used_bytes))
    os.chown(left, CAROL, CAROL)
    with pytest.raises(ResourceError, match=r"earlier captures to ring\.pcapng have left as much"):
        as_user(lambda: ring(0), CAROL)


# Reloading --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def changed(daemon: Daemon, configuration: str) -> Generator[None, None, None]:
    """Have another configuration in force while the block lasts."""
    reload(daemon, configuration)
    try:
        yield
    finally:
        reload(daemon, CONFIGURATION)


def reload(daemon: Daemon, configuration: str, *, says: str = "the configuration was read again") -> None:
    before = daemon.log.count(says)
    (daemon.log_path.parent / "capd.toml").write_text(configuration)
    os.kill(daemon.process.pid, signal.SIGHUP)  # Popen would signal only a child of this process
    wait_until(lambda: daemon.log.count(says) > before, "it has reloaded")


def test_a_reload_holds_for_what_is_asked_from_then_on(daemon: Daemon, sender: Sender, user_dir: Path) -> None:
    ours, users = Pipe()

    def reload_when_told() -> None:
        ours.recv()
        reload(daemon, 'contact = "nobody"')
        ours.send(None)

    def capture_meanwhile() -> None:
        with CaptureSession(
            interfaces="pol1", savefile=user_dir / "a", socket_path=daemon.socket_path, update_interval=0.02
        ) as running:
            running.wait_started(20)
            users.send(None)
            users.recv()
            sender.send([TCP_80, UDP_53])
            wait_for_packets(running, 1)
        assert read_complete(user_dir / "a").packets == [TCP_80]
        with pytest.raises(NotPermitted, match="may not capture here: ask nobody"):
            captured_directly(daemon, user_dir, {})

    try:
        with beside(reload_when_told):
            as_user(capture_meanwhile, BOB)
    finally:
        reload(daemon, CONFIGURATION)


def test_a_faulty_configuration_changes_nothing_and_all_faults_are_logged(
    daemon: Daemon, sender: Sender, user_dir: Path
) -> None:
    try:
        reload(daemon, "contakt = 1\nrule = 3\n", says="the earlier configuration stays in force")
        assert "capd.toml:1: contakt: there is no such key: did you mean contact?" in daemon.log
        assert "capd.toml:2: rule: rules are written as [[rule]]" in daemon.log
        assert captured(daemon, BOB, user_dir, sender, [TCP_80]) == [TCP_80]
    finally:
        reload(daemon, CONFIGURATION)


def test_a_daemon_does_not_start_with_a_faulty_configuration(user_dir: Path) -> None:
    (user_dir / "capd.toml").write_text("contakt = 1\nrule = 3\n")
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "capd", "--socket", user_dir / "s", "--config", user_dir / "capd.toml"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.returncode == 1
    assert [line.partition("capd.toml:")[2] for line in ended.stderr.splitlines()] == [
        "1: contakt: there is no such key: did you mean contact?",
        "2: rule: rules are written as [[rule]]",
    ]


def test_a_filter_of_policy_that_does_not_compile_is_a_fault(daemon: Daemon) -> None:
    try:
        reload(daemon, CONFIGURATION.replace('"tcp"', '"tcp port"'), says="the earlier configuration stays in force")
        assert "rule[2].filter: can't parse filter expression" in daemon.log
    finally:
        reload(daemon, CONFIGURATION)


# What is shown ----------------------------------------------------------------------------------------------------


def test_everybody_can_ask_what_policy_allows(daemon: Daemon) -> None:
    hers = as_user(lambda: who_am_i(socket_path=daemon.socket_path), ALICE, 77, (88, 77))
    assert (hers.user_id, hers.group_ids, hers.advice) == (ALICE, (77, 88), "ask netops")
    (permission,) = hers.permissions
    assert (permission.rule, permission.interfaces, permission.filter) == ("alice sees dns", ("pol*",), "udp port 53")
    assert (permission.max_snaplen_bytes, permission.promiscuous) == (60, False)
    assert as_user(lambda: who_am_i(socket_path=daemon.socket_path), GUEST).permissions == ()
    assert [each.rule for each in who_am_i(socket_path=daemon.socket_path).permissions] == ["unbound"]


def test_a_listing_says_where_one_may_capture(daemon: Daemon, veth: tuple[str, str]) -> None:
    def allowed() -> set[str]:
        found = Interface.list_interfaces(socket_path=daemon.socket_path)
        return {each.name for each in found if each.info and each.info.may_capture}

    assert as_user(allowed, ALICE) == {"pol0", "pol1", "any"}  # any: of those that she may
    assert as_user(allowed, GUEST) == set()
    assert {"pol0", "pol1", "lo"} <= allowed()


def test_every_request_but_questions_leaves_a_line(daemon: Daemon, sender: Sender, user_dir: Path) -> None:
    at = len(daemon.log)
    captured(daemon, BOB, user_dir, sender, [TCP_80], capture_filter="port 80")
    with pytest.raises(NotPermitted):
        as_user(lambda: captured_directly(daemon, user_dir, {"interfaces": "lo"}), BOB)
    as_user(lambda: list_captures(socket_path=daemon.socket_path), GUEST)  # which only looks

    def lines() -> list[str]:
        found = [line for line in daemon.log[at:].splitlines() if ": user " in line]
        # What was asked before may only now be over for the daemon.
        return list(itertools.dropwhile(lambda line: f"granted: user {BOB}" not in line, found))

    wait_until(lambda: len(lines()) >= 3, "all is logged")
    granted, ended, refused = lines()
    assert granted.startswith(f"capd: granted: user {BOB} (process ")
    assert f'start interfaces=pol1 filter="port 80" file="of{BOB}.pcapng" capture=' in granted
    assert granted.endswith('rule="bob sees tcp" policy_filter=tcp')
    assert ended.startswith(f"capd: ended: user {BOB} ")
    assert ended.endswith("end=stopped files=1 packets=1 drops=0")
    assert "refused" in refused
    assert f'code="not_permitted" reason="user {BOB} may not capture on lo, only on pol*: ask netops"' in refused


# Captures of the configuration ------------------------------------------------------------------------------------


def test_a_capture_of_the_configuration_runs_as_long_as_the_daemon(veth: tuple[str, str], user_dir: Path) -> None:
    state = user_dir / "state"
    state.mkdir()
    (user_dir / "capd.toml").write_text(
        f"""
        [captures.dns]
        interfaces = ["pol1", "later0"]
        group = {GROUP_ID}
        capture_filter = "udp port 53"
        ringbuffer_packets = 2
        ringbuffer_files = 3
        update_interval = 0.02
        """
    )
    options = ("--config", str(user_dir / "capd.toml"), "--state-directory", str(state))
    with running_daemon(user_dir, *options) as daemon:
        wait_until(lambda: len(list(state.glob("dns/dns_*.pcapng"))) == 1, "its first file is there")
        (shown,) = list_captures(socket_path=daemon.socket_path)
        assert (shown.name, shown.interfaces) == ("dns", ("pol1", "later0"))
        # Members of its group see it, and read its files, and do not stop it.
        (seen,) = as_user(lambda: list_captures(socket_path=daemon.socket_path), ALICE, ALICE, (GROUP_ID,))
        assert seen.name == "dns"
        assert as_user(lambda: list_captures(socket_path=daemon.socket_path), BOB) == ()
        with pytest.raises(CaptureError, match="one of the configuration: only root may"):
            as_user(lambda: stop_capture(shown.capture_id, socket_path=daemon.socket_path), ALICE, ALICE, (GROUP_ID,))
        with veth_pair("later0", "later1"):
            # It was not there when the capture began.
            wait_until(lambda: "later0" in _attached(daemon), "it is attached")
            send("pol0", [UDP_53, TCP_80], 8)
            send("later1", [UDP_53], 2)
            wait_until(lambda: list_captures(socket_path=daemon.socket_path)[0].packets_total == 6, "all are there")
        files = sorted(state.glob("dns/dns_*.pcapng"))
        assert len(files) == 3
        assert stat.S_IMODE((state / "dns").stat().st_mode) == 0o750
        assert (state / "dns").stat().st_gid == GROUP_ID
        for path in files:
            status = path.stat()
            assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (GROUP_ID, 0o640)
        last = files[-2]
        assert as_user(lambda: len(read_complete(last).packets), ALICE, ALICE, (GROUP_ID,)) == 2
        with pytest.raises(PermissionError):
            as_user(last.read_bytes, BOB)
    assert all(read_complete(path) for path in sorted(state.glob("dns/*.pcapng")))


def test_a_capture_of_the_configuration_goes_on_in_its_ring(veth: tuple[str, str], user_dir: Path) -> None:
    state = user_dir / "state"
    (user_dir / "capd.toml").write_text(
        f"""
        [captures.ring]
        interfaces = ["pol1"]
        group = {GROUP_ID}
        ringbuffer_packets = 2
        ringbuffer_files = 4
        max_disk_bytes = 1_000_000
        update_interval = 0.02
        """
    )
    options = ("--config", str(user_dir / "capd.toml"), "--state-directory", str(state))
    foreign = state / "ring" / "ring_00001_20260101000000.txt"
    seen: set[str] = set()
    for run in range(3):
        with running_daemon(user_dir, *options) as daemon:
            wait_until(lambda: any(each.files_total for each in _listed(daemon)), "it runs")
            foreign.touch()
            send("pol0", [TCP_80], 4)
            wait_until(lambda: list_captures(socket_path=daemon.socket_path)[0].packets_total == 4, "all are there")
            if run == 2:
                daemon.process.kill()  # the worker ends well all the same
                daemon.process.wait()
                wait_until(lambda: "pol1" not in _attached(None), "the worker has gone")
        names = sorted(path.name for path in state.glob("ring/*.pcapng"))
        # Never more than asked for, and the newest; numbers go on.
        assert len(names) == min(4, 3 * run + 3)
        numbers = [int(name.split("_")[1]) for name in names]
        assert numbers == list(range(numbers[0], 3 * run + 4))
        seen |= set(names)
        # Its index says so, and what is in them.
        known = files(state / "ring" / "ring.pcapng")
        assert [Path(each.path).name for each in known] == names
        for each in known:
            packets = [packet.timestamp_ns for packet in read(each.path)]
            first_and_last = (packets[0], packets[-1]) if packets else (None, None)
            assert len(packets) in (0, 2)
            assert (each.packets, each.first_timestamp_ns, each.last_timestamp_ns) == (len(packets), *first_and_last)
            assert (each.is_complete, each.drops) == (True, {"pol1": 0})
        assert stat.S_IMODE((state / "ring" / "ring.pcapng.index").stat().st_mode) == 0o640
    assert foreign.exists()
    assert len(seen) == 9


def test_a_capture_of_the_configuration_that_cannot_be_harms_nobody(veth: tuple[str, str], user_dir: Path) -> None:
    state = user_dir / "state"
    (state / "full").mkdir(parents=True)
    (state / "nowhere").touch()
    os.chown(state / "full", ALICE, ALICE)
    (state / "full").chmod(0o755)  # a daemon without CAP_DAC_OVERRIDE cannot write there
    (user_dir / "capd.toml").write_text(
        "".join(
            f"""
            [captures.{name}]
            interfaces = ["pol1"]
            group = {GROUP_ID}
            ringbuffer_packets = 2
            """
            for name in ("full", "nowhere", "well")
        )
    )
    options = ("--config", str(user_dir / "capd.toml"), "--state-directory", str(state))
    with running_daemon(user_dir, *options) as daemon:
        wait_until(lambda: "capture full: " in daemon.log, "it is logged")
        wait_until(lambda: "capture nowhere: its directory cannot be used: " in daemon.log, "it is logged")
        wait_until(lambda: any(state.glob("well/well_*")), "the other one runs")


def test_a_capture_of_the_configuration_is_stopped_until_a_reload(veth: tuple[str, str], user_dir: Path) -> None:
    text = f"""
        [captures.dns]
        interfaces = ["pol1"]
        group = {GROUP_ID}
        ringbuffer_packets = 2
        """
    (user_dir / "capd.toml").write_text(text)
    options = ("--config", str(user_dir / "capd.toml"), "--state-directory", str(user_dir / "state"))
    with running_daemon(user_dir, *options) as daemon:
        wait_until(lambda: bool(list_captures(socket_path=daemon.socket_path)), "it runs")
        (shown,) = list_captures(socket_path=daemon.socket_path)
        stop_capture(shown.capture_id, socket_path=daemon.socket_path)
        wait_until(lambda: "end=stopped" in daemon.log, "it has ended")
        assert list_captures(socket_path=daemon.socket_path) == ()
        reload(daemon, text)
        wait_until(lambda: bool(list_captures(socket_path=daemon.socket_path)), "it runs again")
        # That the file is gone by mistake lets nobody do more.
        (user_dir / "capd.toml").unlink()
        os.kill(daemon.process.pid, signal.SIGHUP)
        wait_until(lambda: "stays in force" in daemon.log, "it is logged")


def _listed(daemon: Daemon) -> tuple[CaptureSummary, ...]:
    return list_captures(socket_path=daemon.socket_path)


def _attached(daemon: Daemon | None) -> set[str]:
    shown = subprocess.run(["ss", "--packet", "--no-header"], capture_output=True, text=True, check=True, timeout=10)
    assert daemon is None or daemon.process.poll() is None
    return {word.partition(":")[2] for line in shown.stdout.splitlines() for word in line.split() if ":" in word}


# Files that are passed --------------------------------------------------------------------------------------------


def test_a_program_that_cannot_reach_its_file_reads_it_all_the_same(
    daemon: Daemon, sender: Sender, user_dir: Path
) -> None:
    def run() -> None:
        with CaptureSession(
            interfaces="pol1",
            savefile=user_dir / "a.pcapng",
            socket_path=daemon.socket_path,
            update_interval=0.02,
            ringbuffer_packets=1,
            ringbuffer_files=2,
            pass_files=True,
        ) as session:
            session.wait_started(20)
            paths = [str(session.wait_for_event()[1])]
            sender.send([TCP_80], 3)
            while session.packetcount < 3:
                event, message = session.wait_for_event(timeout=20)
                if event == session.SP_FILE:
                    paths.append(message)
            # The ring has deleted the first one.
            assert not Path(paths[0]).exists()
            for path in paths:
                with session.open_file(path) as file, session.open_file(path) as again:
                    assert file.read(4) == again.read(4) == b"\x0a\x0d\x0d\x0a"
                    with pytest.raises(OSError, match=r"write"):
                        file.write(b"x")
            with pytest.raises(FileNotFoundError):
                session.open_file(str(user_dir / "nothing"))
        with pytest.raises(FileNotFoundError):
            session.open_file(paths[0])

    as_user(run, BOB)
