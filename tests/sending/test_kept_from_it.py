"""Who is kept from sending later, and what a process that sends can do when somebody has taken it over."""

import contextlib
import errno
import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple

import pytest

from capd_client import Injector, NotPermitted, revoke_captures
from tests.cli.calling import called
from tests.sending.helpers import OTHER, RULES, SENDER, Outside, frame, mac_of, outside_of
from tests.support.accounts import have_account, have_members
from tests.support.attack import (
    PATIENCE_S,
    Channel,
    User,
    UserProcess,
    await_end,
    eventually,
    process_of,
    reload,
)
from tests.support.daemon import Daemon, MakeDir, children_of, running_daemon, status_of
from tests.support.namespace import veth_pair
from tests.support.takeover import Caller, OwnCaller, packet_sockets_of, taken_over
from tests.support.tools import numbered_descriptors_of

MEMBER = User(23_713, 23_713, (4251,))
WITHOUT_SENDING = f'[[rule]]\nname = "capture"\nusers = [{SENDER.user_id}, {OTHER.user_id}]\n'


@pytest.fixture
def changing(make_dir: MakeDir) -> Generator[tuple[Daemon, Path], None, None]:
    """A daemon whose rules a test changes."""
    have_account(SENDER.user_id)
    directory = make_dir("changing")
    path = directory / "capd.toml"
    path.write_text(RULES)
    with running_daemon(directory, "--config", str(path)) as running:
        yield running, path


def sender_of(daemon: Daemon) -> int:
    (sender,) = (each for each in daemon.workers() if status_of(each)["Name"] == "capd-sender")
    return sender


def keep_sending(socket_path: str, interface: str, packet: bytes) -> Callable[[Channel], None]:
    def send(channel: Channel) -> None:
        with Injector(interface, socket_path=socket_path) as injector:
            channel.send("ready")
            channel.recv()
            injector.send_many([packet] * 10_000, rate=500)

    return send


class Sending(NamedTuple):
    """A user's process that sends, and the other end."""

    outside: Outside
    process: UserProcess


@contextlib.contextmanager
def sending(daemon: Daemon, veth: tuple[str, str], user: User = SENDER) -> Generator[Sending, None, None]:
    """Have a user send while the block lasts, from the first packets on."""
    send = keep_sending(daemon.socket_path, veth[0], frame(mac_of(veth[0])))
    with outside_of(veth[1]) as outside, process_of(user, send) as process:
        assert process.hear() == "ready"
        process.say("go on")
        outside.take(1)
        yield Sending(outside, process)


def test_who_has_lost_the_right_is_kept_from_sending_when_it_is_revoked(
    changing: tuple[Daemon, Path], veth: tuple[str, str]
) -> None:
    daemon, path = changing
    with sending(daemon, veth) as (outside, process):
        sender = sender_of(daemon)
        assert revoke_captures(socket_path=daemon.socket_path).senders_ended == ()
        reload(daemon, path, WITHOUT_SENDING)
        # What goes on was granted before; and a trial changes nothing.
        (line,) = revoke_captures(dry_run=True, socket_path=daemon.socket_path).senders_ended
        assert (line.user_id, line.interface, line.why) == (SENDER.user_id, veth[0], "no rule allows to send there")
        outside.take(400)
        done = called("--socket", daemon.socket_path, "revoke")
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 sender ended.")
        with pytest.raises(NotPermitted, match="revoked"):
            process.hear()
        await_end([sender])
        again = keep_sending(daemon.socket_path, veth[0], b"")
        with process_of(SENDER, again) as another, pytest.raises(NotPermitted, match="may not send packets here"):
            another.hear()
    eventually(lambda: "ended: user" in daemon.log, "the line of its end")
    line_of_end = next(each for each in daemon.log.splitlines() if "ended: user" in each)
    assert "send interfaces=" in line_of_end
    assert "rule=send" in line_of_end
    assert "code=" in line_of_end
    assert int(line_of_end.partition("sent=")[2].split()[0]) >= 401
    assert "refused=0" in line_of_end


def test_a_process_that_its_user_stops_sends_nothing_after_it_was_revoked(
    changing: tuple[Daemon, Path], veth: tuple[str, str]
) -> None:
    daemon, _ = changing
    with sending(daemon, veth) as (outside, process):
        outside.take(9)
        sender = sender_of(daemon)
        os.kill(sender, signal.SIGSTOP)
        eventually(lambda: status_of(sender)["State"][0] == "T", "it stops")
        revoked = revoke_captures(SENDER.user_id, socket_path=daemon.socket_path)
        assert [each.interface for each in revoked.senders_ended] == [veth[0]]
        while not outside.is_quiet():
            outside.take(1)
        os.kill(sender, signal.SIGCONT)
        await_end([sender])
        assert outside.is_quiet()
        with pytest.raises(NotPermitted):
            process.hear()


# Taken over -----------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """What a process that sends has, and numbers of others."""

    packets: int
    channel: int
    control: int
    interface: int
    #: An interface that it may not send on.
    other_interface: int
    daemon: int


class Attack(NamedTuple):
    """Something to try."""

    name: str
    do: Callable[[Caller, Place], int]
    #: Whether it succeeds where nothing confines, and so is one at all.
    is_shown: bool = False


FORGED = b"\xff" * 6 + b"\x02\0\0\0\6\6" + b"\x88\xb5" + b"forged".ljust(46)


def _address(index: int, protocol: int = 0) -> bytes:
    return struct.pack("=HHiHBB8s", socket.AF_PACKET, protocol, index, 0, 0, 6, b"\xff" * 6)


def _message(caller: Caller, address: bytes = b"", control: bytes = b"") -> bytes:
    vector = caller.put(struct.pack("@PN", caller.put(FORGED), len(FORGED)))
    pointers = [caller.put(each) if each else 0 for each in (address, control)]
    return struct.pack("@PIPNPNi", pointers[0], len(address), vector, 1, pointers[1], len(control), 0)


def _rights(descriptor: int) -> bytes:
    return struct.pack("@Niii", 20, socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)


_ETH_P_ALL = socket.htons(3)
ATTACKS = [
    Attack(
        "sendto another interface",
        lambda c, at: c.call("sendto", at.packets, FORGED, 60, 0, _address(at.other_interface), 20),
        True,
    ),
    Attack(
        "sendto the own interface by address",
        lambda c, at: c.call("sendto", at.packets, FORGED, 60, 0, _address(at.interface), 20),
        True,
    ),
    Attack("sendmsg", lambda c, at: c.call("sendmsg", at.packets, _message(c, _address(at.other_interface)), 0), True),
    Attack(
        "sendmmsg",
        lambda c, at: c.call("sendmmsg", at.packets, _message(c, _address(at.other_interface)) + bytes(8), 1, 0),
        True,
    ),
    Attack("write", lambda c, at: c.call("write", at.packets, FORGED, 60), True),
    Attack("bind", lambda c, at: c.call("bind", at.packets, _address(at.other_interface), 20), True),
    Attack("bind to receive", lambda c, at: c.call("bind", at.packets, _address(at.interface, _ETH_P_ALL), 20), True),
    Attack("recvfrom", lambda c, at: c.call("recvfrom", at.packets, bytes(60), 60, socket.MSG_DONTWAIT, 0, 0)),
    Attack("recvmsg", lambda c, at: c.call("recvmsg", at.packets, _message(c), socket.MSG_DONTWAIT)),
    Attack("read", lambda c, at: c.call("read", at.packets, bytes(60), 60)),
    Attack("a ring", lambda c, at: c.call("setsockopt", at.packets, 263, 5, struct.pack("=4I", 4096, 1, 2048, 2), 16)),
    Attack(
        "promiscuous",
        lambda c, at: c.call("setsockopt", at.packets, 263, 1, struct.pack("=iHH8s", at.interface, 1, 0, b""), 16),
        True,
    ),
    Attack("a fanout", lambda c, at: c.call("setsockopt", at.packets, 263, 18, struct.pack("=I", 77), 4)),
    Attack(
        "passing it to the client",
        lambda c, at: c.call("sendmsg", at.channel, _message(c, b"", _rights(at.packets)), 0),
    ),
    Attack("taking from the client", lambda c, at: c.call("recvmsg", at.channel, _message(c), socket.MSG_DONTWAIT)),
    Attack("a duplicate", lambda c, at: c.call("dup", at.packets), True),
    Attack("another one", lambda c, at: c.call("fcntl", at.packets, 1030, 0), True),
    Attack("in another's place", lambda c, at: c.call("dup3", at.channel, at.packets, 0)),
    Attack("a packet socket", lambda c, at: c.call("socket", socket.AF_PACKET, socket.SOCK_RAW, 0)),
    Attack("a socket", lambda c, at: c.call("socket", socket.AF_UNIX, socket.SOCK_DGRAM, 0), True),
    Attack("a file", lambda c, at: c.call("openat", -100, b"/etc/passwd\0", os.O_RDONLY, 0), True),
    Attack("a directory", lambda c, at: c.call("openat", -100, b"/\0", os.O_RDONLY | os.O_DIRECTORY, 0), True),
    Attack("a process", lambda c, at: c.call("clone", signal.SIGCHLD, 0, 0, 0, 0)),
    Attack("a program", lambda c, at: c.call("execve", b"/bin/true\0", 0, 0)),
    Attack("tracing", lambda c, at: c.call("ptrace", 16, at.daemon, 0, 0)),
    Attack("a signal", lambda c, at: c.call("kill", at.daemon, 0), True),
    Attack("io_uring", lambda c, at: c.call("io_uring_setup", 1, bytes(120)), True),
    Attack("another namespace", lambda c, at: c.call("unshare", 0x40000000)),
    Attack("new code", lambda c, at: c.call("mmap", 0, 4096, 7, 0x22, -1, 0), True),
]


class Target(NamedTuple):
    """A process that sends, and what comes out of its interface and of another one."""

    sender: int
    place: Place
    ends: tuple[socket.socket, socket.socket]


def _place_of(process_id: int, names: tuple[str, str], daemon: int) -> Place:
    (packets,) = packet_sockets_of(process_id)
    sockets = [
        number
        for number, link in numbered_descriptors_of(process_id).items()
        if number > 2 and link.startswith("socket:")
    ]
    control, channel = sorted(set(sockets) - {packets})
    assert len(sockets) == 3
    own, other = map(socket.if_nametoindex, names)
    return Place(packets, channel, control, own, other, daemon)


@pytest.fixture(scope="module")
def target(make_dir: MakeDir) -> Generator[Target, None, None]:
    """A process that sends for root, who may write and read everything. It comes through all, and sends."""
    with (
        running_daemon(make_dir("taken"), is_strict=False) as daemon,
        veth_pair("take-tx", "take-rx"),
        veth_pair("else-tx", "else-rx"),
        Injector("take-tx", socket_path=daemon.socket_path) as injector,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as own,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as other,
    ):
        own.bind(("take-rx", 3))
        other.bind(("else-rx", 3))
        sender = sender_of(daemon)
        place = _place_of(sender, ("take-tx", "else-tx"), daemon.process.pid)
        yield Target(sender, place, (own, other))
        injector.send(FORGED)
        own.settimeout(PATIENCE_S)
        assert own.recv(100) == FORGED


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_process_that_sends_can_do_nothing_else(target: Target, attack: Attack) -> None:
    with taken_over(target.sender) as taken:
        assert attack.do(taken, target.place) == -errno.EPERM
    assert not select.select(target.ends, [], [], 0)[0]
    assert not children_of(target.sender)


def test_it_has_nothing_but_three_sockets_and_nobody_traces_it(target: Target) -> None:
    numbers = {each for each in numbered_descriptors_of(target.sender) if each > 2}
    assert numbers == {target.place.packets, target.place.channel, target.place.control}
    status = status_of(target.sender)
    assert [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0] * 4
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert Path(f"/proc/{target.sender}/mem").stat().st_uid == 0


@pytest.fixture(scope="module")
def own_place() -> Generator[Place, None, None]:
    """The same in this process, which nothing confines."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with (
        veth_pair("free-tx", "free-rx"),
        veth_pair("also-tx", "also-rx"),
        ours,
        theirs,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as packets,
    ):
        packets.bind(("free-tx", 0))
        own, other = map(socket.if_nametoindex, ("free-tx", "also-tx"))
        yield Place(packets.fileno(), ours.fileno(), theirs.fileno(), own, other, os.getppid())


@pytest.mark.parametrize("attack", [each for each in ATTACKS if each.is_shown], ids=lambda attack: attack.name)
def test_where_nothing_confines_it_works(own_place: Place, attack: Attack) -> None:
    child = os.fork()
    if child == 0:
        os._exit(attack.do(OwnCaller(), own_place) < 0)
    assert os.waitpid(child, 0)[1] == 0


def test_a_rule_that_allows_less_now_ends_it_and_one_that_allows_as_much_does_not(
    changing: tuple[Daemon, Path], veth: tuple[str, str]
) -> None:
    daemon, path = changing
    with sending(daemon, veth) as (_, process):
        reload(daemon, path, RULES.replace('send_interfaces = ["tx*"]', 'send_interfaces = ["t*"]'))
        assert revoke_captures(socket_path=daemon.socket_path).senders_ended == ()
        reload(daemon, path, RULES.replace("send_source_macs", "max_send_pps = 5\nsend_source_macs"))
        (line,) = revoke_captures(socket_path=daemon.socket_path).senders_ended
        assert line.why == "less may be sent (rule send)"
        with pytest.raises(NotPermitted):
            process.hear()


def test_who_has_lost_the_group_of_the_rule_is_kept_from_sending(make_dir: MakeDir, veth: tuple[str, str]) -> None:
    group_id = 4251
    have_account(MEMBER.user_id)
    have_members(group_id, [MEMBER.user_id])
    directory = make_dir("group")
    rule = f'[[rule]]\nname = "group"\ngroups = [{group_id}]\nsend = true\n'
    (directory / "capd.toml").write_text(rule)
    with (
        running_daemon(directory, "--config", str(directory / "capd.toml")) as daemon,
        sending(daemon, veth, MEMBER) as (_, process),
    ):
        assert revoke_captures(socket_path=daemon.socket_path).senders_ended == ()
        have_members(group_id, [])
        (line,) = revoke_captures(socket_path=daemon.socket_path).senders_ended
        assert line.user_id == MEMBER.user_id
        with pytest.raises(NotPermitted):
            process.hear()
