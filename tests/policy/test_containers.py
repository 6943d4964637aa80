"""Clients in containers, by a socket of their own: their numbers are nobody's of this machine."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import capd_client.reading.reader  # noqa: F401  # in the container there is nothing to import
from capd.captures.registry import Captures
from capd.config.reader import ConfiguredCapture
from capd.errors import RequestRefused
from capd.policy.peer import CONTAINERS, Peer
from capd.policy.rules import Policy, Rule, default_policy
from capd.supervisor.closer import Closer
from capd.supervisor.packet_rings import PacketRingMaker
from capd.supervisor.spawner import Spawner
from capd_client import CaptureError, CaptureSession, list_captures, revoke_captures, stop_capture, who_am_i
from capd_client.conversation.greeting import greeting
from capd_protocol.messages import EndReason, FailureCode, InterfaceRequest
from capd_protocol.targets import NamedInterface
from tests.client.helpers import PATIENCE_S, drain
from tests.policy.test_daemon import UDP_53, UDP_80
from tests.support.attack import User, UserProcess, process_of, request_for
from tests.support.container import enter_container
from tests.support.daemon import Daemon, as_user, running_daemon
from tests.support.tools import tshark_fields
from tests.support.traffic import send

ROOT, CONTAINED_ROOT = Peer(1, 0, 0, ()), Peer(1, 0, 0, (), is_contained=True)
ALICE, CONTAINED_ALICE = Peer(1, 1000, 1000, (50,)), Peer(1, 1000, 1000, (50,), is_contained=True)
OF_HOST = Rule(name="of the host", user_ids=frozenset({0, 1000}), group_ids=frozenset({50}), everybody=True)
OF_CONTAINERS = Rule(name="of containers", containers=True, user_ids=frozenset({0}), interfaces=("eth0",))
OF_ALL = Rule(name="of all containers", containers=True, everybody=True, interfaces=("eth1",))

# Decisions --------------------------------------------------------------------------------------------------------


def names(policy: Policy, peer: Peer) -> list[str]:
    return [rule.name for rule in policy.rules_of(peer)]


def test_rules_are_for_the_one_socket_or_for_the_other() -> None:
    policy = Policy((OF_HOST, OF_CONTAINERS, OF_ALL))
    assert names(policy, ROOT) == ["unbound"]
    assert names(policy, ALICE) == ["of the host"]
    assert names(policy, CONTAINED_ROOT) == ["of containers", "of all containers"]
    assert names(policy, CONTAINED_ALICE) == ["of all containers"]


@pytest.mark.parametrize("policy", [Policy(), Policy((OF_HOST,)), default_policy(50, "capd"), Policy(owner_id=1000)])
@pytest.mark.parametrize("peer", [CONTAINED_ROOT, CONTAINED_ALICE])
def test_without_a_rule_that_says_so_containers_may_nothing(policy: Policy, peer: Peer) -> None:
    assert not policy.is_unbound(peer)
    with pytest.raises(RequestRefused, match="containers = true") as refused:
        policy.grant(peer, NamedInterface(InterfaceRequest(name="eth0")))
    assert refused.value.failure.code == FailureCode.NOT_PERMITTED


@pytest.mark.parametrize("peer", [CONTAINED_ROOT, CONTAINED_ALICE])
@pytest.mark.parametrize("owner", [ROOT, ALICE, CONTAINED_ROOT, CONTAINED_ALICE])
def test_who_comes_from_a_container_sees_no_captures(peer: Peer, owner: Peer) -> None:
    assert not Policy().may_see(peer, owner)


@pytest.mark.parametrize("owner", [CONTAINED_ROOT, CONTAINED_ALICE])
def test_root_sees_those_of_containers_and_the_user_of_that_number_does_not(owner: Peer) -> None:
    assert Policy().may_see(ROOT, owner)
    assert not Policy().may_see(ALICE, owner)


def test_all_ids_of_all_containers_are_one_person() -> None:
    assert CONTAINED_ROOT.person_id == CONTAINED_ALICE.person_id == CONTAINERS
    assert CONTAINERS not in (ROOT.person_id, ALICE.person_id)


def test_captures_of_containers_are_counted_together_and_their_names_collide_with_none() -> None:
    rule = Rule(name="all", containers=True, everybody=True, max_captures=2)
    captures = Captures(Policy((rule, Rule(name="host", everybody=True))), Spawner(), Closer(), PacketRingMaker())
    request = request_for("x", name="same", wait_for_interfaces=True)
    with captures.granted(ALICE, request), captures.granted(CONTAINED_ALICE, request):
        with captures.granted(CONTAINED_ROOT, request), pytest.raises(RequestRefused) as refused:
            captures.granted(Peer(1, 4, 4, (), is_contained=True), request).__enter__()
        assert refused.value.failure.code == FailureCode.RESOURCES
        assert [each.owner for each in captures.visible_to(ALICE)] == [ALICE]
        assert captures.find(ALICE, "same", to_control=True).owner == ALICE
        assert captures.running_and_users() == (2, 2)


def test_a_group_of_a_containers_user_is_not_the_one_that_may_read_a_capture_of_the_configuration() -> None:
    captures = Captures(Policy(), Spawner(), Closer(), PacketRingMaker())
    configured = ConfiguredCapture("dns", 50, request_for("x", name="dns"), None)
    with captures.configured(ROOT, configured) as capture:
        assert captures.visible_to(ALICE) == [capture]
        assert captures.visible_to(CONTAINED_ALICE) == []


# With a daemon ----------------------------------------------------------------------------------------------------

CONFIGURATION = """
[[rule]]
name = "of containers"
containers = true
users = [0]
interfaces = ["{0}"]
filter = "udp port 53"
max_snaplen_bytes = 60

[[rule]]
name = "of the host"
everybody = true
"""
INSIDE = "/capd.sock"
#: Of this module alone.
ALICE_ID = 23_495
CONTAINERS_ROOT = User(0, 0)


@pytest.fixture
def place(user_dir: Path, veth: tuple[str, str]) -> Generator[tuple[Daemon, str], None, None]:
    """A daemon with both sockets, and the path of the containers'."""
    where, containers = user_dir / "daemon", user_dir / "containers"
    where.mkdir(mode=0o755)
    containers.mkdir(mode=0o700)
    (where / "capd.toml").write_text(CONFIGURATION.format(veth[1]))
    path = str(containers / "capd.sock")
    with running_daemon(where, "--config", str(where / "capd.toml"), "--container-socket", path) as daemon:
        yield daemon, path


@pytest.fixture(autouse=True)
def _what_the_container_cannot_import() -> None:
    greeting()  # looks the version up, where there is something to look at


@contextlib.contextmanager
def inside(
    path: str, root: Path, function: Callable[[Any], object], user: User = CONTAINERS_ROOT
) -> Generator[UserProcess, None, None]:
    """Have a process in a container that has nothing but the socket; it runs a function with its channel."""
    root.mkdir()

    def run(channel: Any) -> None:
        enter_container(root, path, user)
        function(channel)

    # It becomes the user only when it is inside.
    with process_of(CONTAINERS_ROOT, run) as process:
        yield process


def result_inside(path: str, root: Path, function: Callable[[], object], user: User = CONTAINERS_ROOT) -> Any:
    with inside(path, root, lambda channel: channel.send(function()), user) as process:
        return process.hear()


def refusal_of(function: Callable[[], object]) -> str:
    """Return how something is refused, as the exception is called and what it says."""
    try:
        function()
    except CaptureError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


def test_contained_root_captures_what_a_rule_says_and_no_more(
    place: tuple[Daemon, str], veth: tuple[str, str], user_dir: Path
) -> None:
    daemon, path = place

    def capture(channel: Any) -> None:
        with CaptureSession(
            interfaces=veth[1], savefile="/home/own.pcapng", capture_filter="ip", socket_path=INSIDE
        ) as session:
            session.wait_started(PATIENCE_S)
            channel.send("runs")
            channel.recv()
            session.stop()
            drain(session)
        channel.send((session.end_reason, Path("/home/own.pcapng").read_bytes()))

    with inside(path, user_dir / "root", capture) as process:
        assert process.hear() == "runs"
        assert send(veth[0], [UDP_53, UDP_80, UDP_53], 3) == 3
        (listed,) = list_captures(socket_path=daemon.socket_path)
        assert (listed.user_id, listed.is_contained) == (0, True)
        assert listed.directory == f"{user_dir}/root/home"
        reason, data = process.ask("stop")
    assert reason == EndReason.STOPPED
    (user_dir / "got.pcapng").write_bytes(data)
    lengths = tshark_fields(user_dir / "got.pcapng", "frame.cap_len", "udp.dstport")
    assert lengths == [("60", "53"), ("60", "53")]
    assert "granted: user 0 of a container (process" in daemon.log


@pytest.mark.parametrize("user", [User(0, 0), User(ALICE_ID, ALICE_ID)], ids=["root", "somebody"])
def test_what_no_rule_for_containers_names_is_refused(
    place: tuple[Daemon, str], veth: tuple[str, str], user_dir: Path, user: User
) -> None:
    """Whoever the number is here: root, or a user whom the host's rules let capture everything."""
    interface = veth[0]  # no rule has this one

    def ask() -> str:
        session = CaptureSession(interfaces=interface, savefile="/home/a.pcapng", socket_path=INSIDE)
        return refusal_of(session.__enter__)

    assert result_inside(place[1], user_dir / "root", ask, user).startswith("NotPermitted: ")


@pytest.mark.parametrize("owner_id", [0, ALICE_ID])
def test_nobody_in_a_container_gets_at_a_capture_of_the_host(
    place: tuple[Daemon, str], veth: tuple[str, str], user_dir: Path, owner_id: int
) -> None:
    daemon, path = place
    user = User(owner_id, owner_id)

    def hold(channel: Any) -> None:
        with CaptureSession(
            interfaces=veth[1], savefile=user_dir / "host.pcapng", name="hosts", socket_path=daemon.socket_path
        ) as session:
            session.wait_started(PATIENCE_S)
            channel.send("runs")
            channel.recv()

    def look() -> Any:
        return (
            list_captures(socket_path=INSIDE),
            refusal_of(lambda: stop_capture("hosts", socket_path=INSIDE)),
            refusal_of(lambda: CaptureSession.attach("hosts", socket_path=INSIDE).wait_started(PATIENCE_S)),
        )

    with process_of(user, hold) as holder:
        assert holder.hear() == "runs"
        listed, stopped, attached = result_inside(path, user_dir / "root", look, user)
        assert listed == ()
        assert stopped.startswith("NoSuchCapture: ")
        assert attached.startswith("NoSuchCapture: ")
        (there,) = list_captures(socket_path=daemon.socket_path)
        assert (there.user_id, there.name, there.is_contained) == (owner_id, "hosts", False)


def test_a_contained_capture_is_roots_to_stop_and_nobody_elses(
    place: tuple[Daemon, str], veth: tuple[str, str], user_dir: Path
) -> None:
    daemon, path = place

    def capture(channel: Any) -> None:
        with CaptureSession(
            interfaces=veth[1], savefile="/home/own.pcapng", name="inner", socket_path=INSIDE
        ) as session:
            session.wait_started(PATIENCE_S)
            channel.send("runs")
            drain(session)
        channel.send(session.end_reason)

    with inside(path, user_dir / "one", capture) as process:
        assert process.hear() == "runs"
        look = partial(refusal_of, partial(stop_capture, "inner", socket_path=INSIDE))
        assert result_inside(path, user_dir / "two", look).startswith("NoSuchCapture: ")  # another container's root
        by_path = partial(refusal_of, partial(stop_capture, "inner", socket_path=daemon.socket_path))
        assert as_user(by_path, ALICE_ID).startswith("NoSuchCapture: ")
        revoked = revoke_captures(socket_path=daemon.socket_path)  # a rule allows it, and no account is asked for
        assert (revoked.ended, revoked.kept) == ((), ())
        assert revoke_captures(user=0, socket_path=daemon.socket_path).ended == ()
        stop_capture("inner", socket_path=daemon.socket_path)
        assert process.hear() == EndReason.STOPPED


def test_a_contained_capture_cannot_be_detached(
    place: tuple[Daemon, str], veth: tuple[str, str], user_dir: Path
) -> None:
    def ask() -> str:
        session = CaptureSession(
            interfaces=veth[1], savefile="/home/a.pcapng", name="a", detach=True, socket_path=INSIDE
        )
        return refusal_of(session.__enter__)

    answer = result_inside(place[1], user_dir / "root", ask)
    assert answer.startswith("NotPermitted: ")
    assert "detached" in answer


def test_what_one_may_is_told_inside(place: tuple[Daemon, str], veth: tuple[str, str], user_dir: Path) -> None:
    me = result_inside(place[1], user_dir / "root", lambda: who_am_i(socket_path=INSIDE))
    assert [(each.rule, each.interfaces) for each in me.permissions] == [("of containers", (veth[1],))]
    other = result_inside(place[1], user_dir / "other", lambda: who_am_i(socket_path=INSIDE), User(ALICE_ID, ALICE_ID))
    assert (other.permissions, other.is_contained) == ((), True)
    assert "containers = true" in other.advice


def test_a_container_is_not_given_both_sockets(user_dir: Path) -> None:
    words = [sys.executable, "-P", "-m", "capd", "--socket", f"{user_dir}/a", "--container-socket", f"{user_dir}/b"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 1
    assert "choose another directory" in done.stderr
