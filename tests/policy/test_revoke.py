"""Revoking captures that run: a daemon, users who capture, and rules and groups that change meanwhile."""

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import AsyncGenerator, Generator
from functools import partial
from pathlib import Path

import pytest
import trio

from capd import limits
from capd.captures.capture import Capture
from capd.captures.lasting.detached import Detached, Stay
from capd.captures.lasting.restarts import keep_running
from capd.captures.registry import Captures
from capd.captures.revoker import Revoker
from capd.errors import RequestRefused
from capd.network.monitor import Monitor
from capd.policy.audit import Audit
from capd.policy.peer import Peer
from capd.policy.people import People, find_groups
from capd.policy.rules import Policy, Rule
from capd.supervisor.closer import Closer
from capd.supervisor.handover import Envelope
from capd.supervisor.packet_rings import PacketRingMaker
from capd.supervisor.spawner import Spawner
from capd_client import (
    CaptureSession,
    InvalidArgument,
    NotPermitted,
    Revocation,
    list_captures,
    revoke_captures,
    stop_capture,
)
from capd_protocol.messages import (
    Ended,
    EndReason,
    FailureCode,
    InterfaceAttached,
    InterfaceRequest,
    InterfaceSkipped,
    Refused,
    RevokeCaptures,
    StartCapture,
    Started,
)
from capd_protocol.targets import NamedInterface
from tests.client.helpers import drain, of_type, read_complete, wait_until
from tests.support.accounts import have_account, have_members, have_subordinate_ids
from tests.support.attack import RawClient, User, connected_as, eventually, opened, request_for, slow_request_for
from tests.support.daemon import Daemon, as_user, running_daemon
from tests.support.namespace import veth_pair
from tests.support.traffic import build_frames, send

GROUP_ID = 4247
#: Of this module alone.
ALICE, BOB = (User(23_600 + each, 23_600 + each, (GROUP_ID,)) for each in range(2))
#: What bob's process may become.
SUBORDINATE = User(800_007, 800_007, (GROUP_ID,), has_account=False)

RULE = f"""
[[rule]]
name = "members"
groups = [{GROUP_ID}]
interfaces = ["rev*"]
"""
OTHERS_RULE = f"""
[[rule]]
name = "alice alone"
users = [{ALICE.user_id}]
interfaces = ["rev*"]
"""


@pytest.fixture(scope="module")
def veth() -> Generator[tuple[str, str], None, None]:
    with veth_pair("rev0", "rev1"):
        yield "rev0", "rev1"


@pytest.fixture(autouse=True)
def _accounts() -> None:
    for user in (ALICE, BOB):
        have_account(user.user_id)
    have_members(GROUP_ID, [ALICE.user_id, BOB.user_id])
    have_subordinate_ids([f"test{BOB.user_id}:800000:65536"])


@pytest.fixture
def daemon(user_dir: Path, veth: tuple[str, str]) -> Generator[Daemon, None, None]:
    directory = user_dir / "daemon"
    directory.mkdir(mode=0o755)
    state = directory / "state"
    state.mkdir()
    (directory / "capd.toml").write_text(RULE)
    options = ("--config", str(directory / "capd.toml"), "--state-directory", str(state))
    with running_daemon(directory, *options) as running:
        yield running


def have_rules(daemon: Daemon, configuration: str) -> None:
    """Have other rules be in force."""
    before = daemon.log.count("the configuration was read again")
    (daemon.log_path.parent / "capd.toml").write_text(configuration)
    os.kill(daemon.process.pid, signal.SIGHUP)
    wait_until(lambda: daemon.log.count("the configuration was read again") > before, "it has reloaded")


@contextlib.contextmanager
def capturing(
    daemon: Daemon, directory: Path, user: User, request: StartCapture | None = None
) -> Generator[tuple[RawClient, int], None, None]:
    """Have a user's capture run; give its connection and its number."""
    with connected_as(user, daemon) as client, opened(directory) as descriptor:
        client.send(request or request_for("rev1", f"{user.user_id}.pcapng"), [descriptor])
        started = client.receive(Started)
        assert isinstance(started, Started)
        yield client, started.capture_id


def revoke(daemon: Daemon, user: int | str | None = None, *, dry_run: bool = False) -> Revocation:
    return revoke_captures(user, dry_run, socket_path=daemon.socket_path)


def numbers(daemon: Daemon) -> list[int]:
    return [each.capture_id for each in list_captures(socket_path=daemon.socket_path)]


def end_of(client: RawClient) -> Ended:
    """Return the last event of a capture."""
    last = client.rest()[-1]
    assert isinstance(last, Ended)
    return last


# By rules ---------------------------------------------------------------------------------------------------------


def test_what_todays_rules_would_not_grant_ends_and_the_rest_runs_on(daemon: Daemon, user_dir: Path) -> None:
    with capturing(daemon, user_dir, ALICE) as (_, hers), capturing(daemon, user_dir, BOB) as (bobs_client, bobs):
        assert revoke(daemon) == Revocation((), ())
        have_rules(daemon, OTHERS_RULE)
        assert numbers(daemon) == [hers, bobs]
        at = len(daemon.log)
        (line,), kept, *_ = revoke(daemon)
        assert (line.capture_id, line.user_id, line.name, kept) == (bobs, BOB.user_id, None, ())
        assert line.why == "no rule names the user"
        assert end_of(bobs_client).reason == EndReason.REVOKED
        assert numbers(daemon) == [hers]
        assert read_complete(user_dir / f"{BOB.user_id}.pcapng").packets == []
        log = daemon.log[at:]
        assert f"revoke dry_run=False ended={bobs}" in log
        wait_until(lambda: "end=revoked" in daemon.log[at:], "its end is on record")
        (ended,) = [each for each in daemon.log[at:].splitlines() if "end=revoked" in each]
        assert f"ended: user {BOB.user_id} " in ended
        assert f"capture={bobs}" in ended
        assert revoke(daemon) == Revocation((), ())


def test_a_trial_ends_nothing_and_tells_what_would(daemon: Daemon, user_dir: Path) -> None:
    with capturing(daemon, user_dir, BOB) as (_, bobs):
        have_rules(daemon, "")
        (line,), *_ = revoke(daemon, dry_run=True)
        assert line.capture_id == bobs
        assert [each.capture_id for each in revoke(daemon, BOB.user_id, dry_run=True).ended] == [bobs]
        assert numbers(daemon) == [bobs]
        assert f"revoke dry_run=True ended={bobs}" in daemon.log
        assert "end=revoked" not in daemon.log
        assert [each.capture_id for each in revoke(daemon).ended] == [bobs]


def test_who_has_left_a_group_keeps_nothing_of_what_it_gave(daemon: Daemon, user_dir: Path) -> None:
    with capturing(daemon, user_dir, ALICE) as (_, hers), capturing(daemon, user_dir, BOB) as (bobs_client, bobs):
        have_members(GROUP_ID, [ALICE.user_id])
        (line,), kept, *_ = revoke(daemon)
        assert (line.capture_id, kept) == (bobs, ())
        assert line.why == f"no rule names the user (left group {GROUP_ID})"
        assert end_of(bobs_client).reason == EndReason.REVOKED
        assert numbers(daemon) == [hers]


def test_what_goes_on_is_under_todays_rules_for_interfaces_that_come(daemon: Daemon, user_dir: Path) -> None:
    have_rules(daemon, RULE.replace('"rev*"', '"rev*", "new*"'))
    request = request_for("", interfaces=(InterfaceRequest(name="any", kernel_buffer_size_bytes=1 << 20),))
    with capturing(daemon, user_dir, ALICE, request) as (client, hers):
        have_rules(daemon, RULE)
        assert revoke(daemon) == Revocation((), ())
        with veth_pair("new0", "rev9"):
            received: dict[str, type] = {}
            while not {"new0", "rev9"} <= received.keys():
                message = client.receive()
                if isinstance(message, InterfaceAttached | InterfaceSkipped):
                    received[message.interface] = type(message)
            assert (received["new0"], received["rev9"]) == (InterfaceSkipped, InterfaceAttached)
            stop_capture(hers, socket_path=daemon.socket_path)
            ended = end_of(client)
    assert {each.interface for each in ended.interfaces} == {"rev0", "rev1", "rev9"}


def test_a_pattern_ends_as_a_whole(daemon: Daemon, user_dir: Path) -> None:
    request = request_for("", interfaces=(InterfaceRequest(name="rev*", kernel_buffer_size_bytes=1 << 20),))
    with capturing(daemon, user_dir, ALICE, request) as (client, _):
        have_rules(daemon, RULE.replace("rev*", "rev1"))
        (line,), *_ = revoke(daemon)
        assert line.why == "rev0: no rule allows what was asked for"
        assert end_of(client).reason == EndReason.REVOKED


def test_captures_of_root_and_of_the_configuration_are_bound_by_no_rule(daemon: Daemon, user_dir: Path) -> None:
    configured = '[captures.dns]\ninterfaces = ["rev1"]\ngroup = 1\nringbuffer_packets = 2\n'
    have_rules(daemon, RULE + configured)
    root = User(0, 0)
    with capturing(daemon, user_dir, root) as (client, roots):
        wait_until(lambda: all(each.files_total for each in list_captures(socket_path=daemon.socket_path)), "both run")
        have_rules(daemon, configured)
        assert revoke(daemon) == Revocation((), ())
        running = numbers(daemon)
        assert len(running) == 2
        # Named, root's end too. (The daemon's user is root here, and so is the owner of the other one.)
        assert [each.capture_id for each in revoke(daemon, "root").ended] == [roots]
        assert end_of(client).reason == EndReason.REVOKED
        assert numbers(daemon) == [each for each in running if each != roots]


def test_a_process_that_does_not_listen_gets_nothing_more(daemon: Daemon, user_dir: Path) -> None:
    with capturing(daemon, user_dir, BOB) as (client, _):
        (worker,) = daemon.workers()
        os.kill(worker, signal.SIGSTOP)
        try:
            have_rules(daemon, "")
            assert len(revoke(daemon).ended) == 1
            send("rev0", build_frames((100,)), 10)
        finally:
            os.kill(worker, signal.SIGCONT)
        ended = end_of(client)
    assert (ended.reason, [each.received_total for each in ended.interfaces]) == (EndReason.REVOKED, [0])


def test_one_that_begins_is_revoked_too(daemon: Daemon, user_dir: Path) -> None:
    with connected_as(BOB, daemon) as client, opened(user_dir) as descriptor:
        client.send(slow_request_for("rev1"), [descriptor])
        wait_until(lambda: len(numbers(daemon)) == 1, "it is granted")
        assert len(revoke(daemon, BOB.user_id).ended) == 1
        # It has begun meanwhile, or has not.
        messages = [client.receive()]
        while not isinstance(messages[-1], Ended | Refused):
            messages.append(client.receive())
        last = messages[-1]
        if isinstance(last, Ended):
            assert last.reason == EndReason.REVOKED
        else:
            assert last.failure.code == FailureCode.NOT_PERMITTED
        wait_until(lambda: numbers(daemon) == [], "it is gone")


# By user ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [BOB.user_id, str(BOB.user_id), f"test{BOB.user_id}", SUBORDINATE.user_id])
def test_all_captures_of_a_person_end_whatever_the_rules_say(daemon: Daemon, user_dir: Path, named: int | str) -> None:
    with (
        capturing(daemon, user_dir, ALICE) as (_, hers),
        capturing(daemon, user_dir, BOB) as (one, first),
        capturing(daemon, user_dir, SUBORDINATE) as (other, second),
    ):
        ended, kept, *_ = revoke(daemon, named)
        assert ([each.capture_id for each in ended], kept) == ([first, second], ())
        assert [each.user_id for each in ended] == [BOB.user_id, SUBORDINATE.user_id]
        assert [end_of(client).reason for client in (one, other)] == [EndReason.REVOKED] * 2
        assert numbers(daemon) == [hers]


def test_who_has_no_capture_has_none_that_ends(daemon: Daemon) -> None:
    assert revoke(daemon, 4_000_000_000) == Revocation((), ())


@pytest.mark.parametrize("named", ["no-such-user", "", "\0", "-1", -1, 2**32 - 1, str(2**32 - 1), True, "9" * 5000])
def test_what_is_no_user_is_refused_before_it_is_asked(named: int | str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        revoke_captures(named, socket_path="/nowhere/capd.sock")
    assert refused.value.argument == "user"


# Who may ----------------------------------------------------------------------------------------------------------


def test_only_root_may(daemon: Daemon, user_dir: Path) -> None:
    def ask() -> None:
        for user in (None, BOB.user_id):
            for dry_run in (False, True):
                with pytest.raises(NotPermitted, match="only root and the owner of a private daemon revoke captures"):
                    revoke_captures(user, dry_run, socket_path=daemon.socket_path)

    with capturing(daemon, user_dir, BOB) as (_, bobs):
        have_rules(daemon, OTHERS_RULE)
        as_user(ask, BOB.user_id, BOB.group_id, BOB.groups)
        assert numbers(daemon) == [bobs]
        assert f"refused: user {BOB.user_id} " in daemon.log


def test_the_daemon_trusts_no_number(daemon: Daemon) -> None:
    with RawClient(daemon.socket_path) as client:
        client.send(RevokeCaptures(user_id=2**32))
        failure = client.refusal()
        assert (failure.code, failure.argument) == (FailureCode.INVALID, "user")


# Sessions ---------------------------------------------------------------------------------------------------------


def test_a_session_is_told_why_it_has_ended(daemon: Daemon, user_dir: Path) -> None:
    def capture() -> tuple[EndReason | None, object]:
        with CaptureSession(
            interfaces="rev1", savefile=user_dir / "a.pcapng", socket_path=daemon.socket_path
        ) as session:
            session.wait_started(20)
            (user_dir / "runs").touch()
            events = drain(session)
        return session.end_reason, of_type(events, session.SP_ENDED)

    def revoke_when_it_runs() -> None:
        eventually((user_dir / "runs").exists, "it runs")
        revoke(daemon, BOB.user_id)

    child = os.fork()
    if child == 0:
        try:
            revoke_when_it_runs()
        finally:
            os._exit(0)
    reasons = as_user(capture, BOB.user_id, BOB.group_id, BOB.groups)
    os.waitpid(child, 0)
    assert reasons == (EndReason.REVOKED, [EndReason.REVOKED])


def test_a_detached_capture_ends_for_good(daemon: Daemon, user_dir: Path) -> None:
    def detach() -> None:
        with CaptureSession(
            interfaces="rev1",
            savefile=user_dir / "ring.pcapng",
            ringbuffer_packets=5,
            name="stays",
            detach=True,
            socket_path=daemon.socket_path,
        ) as session:
            session.wait_started(20)

    as_user(detach, BOB.user_id, BOB.group_id, BOB.groups)
    with CaptureSession.attach("stays", socket_path=daemon.socket_path) as session:
        have_rules(daemon, "")
        (line,), *_ = revoke(daemon)
        assert (line.name, line.user_id) == ("stays", BOB.user_id)
        drain(session)
        assert session.end_reason == EndReason.REVOKED
    wait_until(lambda: numbers(daemon) == [], "it is not run again")
    wait_until(lambda: daemon.workers() == [], "nothing is left of it")


# In one process ---------------------------------------------------------------------------------------------------

PEER = Peer(1, ALICE.user_id, ALICE.group_id, (GROUP_ID,))
MEMBERS = Rule(name="members", group_ids=frozenset({GROUP_ID}))
ROOT = Peer(1, 0, 0, ())


def captures_of(policy: Policy) -> Captures:
    return Captures(policy, Spawner(), Closer(), PacketRingMaker())


async def test_a_revoked_one_is_not_run_again_nor_kept_over_a_restart() -> None:
    captures = captures_of(Policy((MEMBERS,)))

    async def run(capture: Capture) -> None:
        capture.stop(EndReason.REVOKED)

    assert await keep_running("a", partial(captures.granted, PEER, request_for("x", name="a")), run) is True

    async def end(capture: Capture) -> None:
        capture.stop(EndReason.DAEMON_STOPPING)

    assert await keep_running("a", partial(captures.granted, PEER, request_for("x", name="a")), end) is False


@contextlib.asynccontextmanager
async def revoker_of(captures: Captures, people: People) -> AsyncGenerator[Revoker, None]:
    monitor = Monitor()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(monitor.run)
        yield Revoker(captures, people, monitor)
        nursery.cancel_scope.cancel()


async def test_while_groups_are_not_known_captures_are_kept_and_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ACCOUNT_TIMEOUT_S", 0.05)
    answers = threading.Event()

    def find(user_id: int) -> frozenset[int]:
        if user_id == BOB.user_id:
            assert answers.wait(20)
        return frozenset()

    captures = captures_of(Policy((MEMBERS,)))
    bob = dataclasses.replace(PEER, user_id=BOB.user_id)
    with captures.granted(PEER, request_for("x")) as hers, captures.granted(bob, request_for("x")) as bobs:
        try:
            async with revoker_of(captures, People(groups=find)) as revoker:
                decision = await revoker.revoke(ROOT, RevokeCaptures())
                assert [each.capture for each in decision.ended] == [hers]
                assert [each.capture for each in decision.kept] == [bobs]
                assert "not known" in decision.kept[0].why
                assert (hers.account.stopped_for, bobs.account.stopped_for) == (EndReason.REVOKED, None)
                assert decision.record() == {"ended": str(hers.capture_id), "kept": str(bobs.capture_id)}
                # Named, it ends without a question.
                named = await revoker.revoke(ROOT, RevokeCaptures(user_id=BOB.user_id))
                assert [each.capture for each in named.ended] == [bobs]
        finally:
            answers.set()


async def test_a_directory_that_fails_is_no_answer() -> None:
    def fail(_: int) -> frozenset[int]:
        raise OSError("no server")

    assert await People(groups=fail).groups_of([PEER]) == {}


async def test_groups_are_asked_anew_each_time_once_for_each_person() -> None:
    asked: list[int] = []

    def find(user_id: int) -> frozenset[int]:
        asked.append(user_id)
        return frozenset({len(asked)})

    people = People(groups=find)
    subordinate = dataclasses.replace(PEER, user_id=SUBORDINATE.user_id, behind_id=PEER.user_id)
    assert await people.groups_of([PEER, subordinate]) == {PEER.user_id: {1}}
    assert await people.groups_of([PEER]) == {PEER.user_id: {2}}
    assert asked == [PEER.user_id] * 2


def test_groups_are_the_systems() -> None:
    assert find_groups(ALICE.user_id) == {ALICE.user_id, GROUP_ID}
    have_members(GROUP_ID, [])
    assert find_groups(ALICE.user_id) == {ALICE.user_id}
    assert find_groups(59_992) == frozenset()


async def test_the_owner_of_a_private_daemon_may() -> None:
    captures = captures_of(Policy((MEMBERS,), owner_id=BOB.user_id))
    owner = Peer(1, BOB.user_id, BOB.user_id, ())
    with captures.granted(PEER, request_for("x")) as hers, captures.granted(owner, request_for("x")) as own:
        async with revoker_of(captures, People(groups=lambda _: frozenset())) as revoker:
            with pytest.raises(RequestRefused) as refused:
                await revoker.revoke(PEER, RevokeCaptures())
            assert refused.value.failure.code == FailureCode.NOT_PERMITTED
            assert [each.capture for each in (await revoker.revoke(owner, RevokeCaptures())).ended] == [hers]
        assert own.account.stopped_for is None


async def test_one_that_lost_a_group_has_it_no_more_for_what_comes() -> None:
    everybody = Rule(name="all", everybody=True, interfaces=("x*",))
    captures = captures_of(Policy((dataclasses.replace(MEMBERS, interfaces=("y*",)), everybody)))
    with captures.granted(PEER, request_for("x", wait_for_interfaces=True)) as hers:
        async with revoker_of(captures, People(groups=lambda _: frozenset({PEER.group_id}))) as revoker:
            await revoker.revoke(ROOT, RevokeCaptures(dry_run=True))
            assert hers.grants.ask(NamedInterface(InterfaceRequest(name="y"))).rule.name == "members"
            assert not any(await revoker.revoke(ROOT, RevokeCaptures()))
        assert hers.owner.lost_groups == (GROUP_ID,)
        with pytest.raises(RequestRefused):
            hers.grants.ask(NamedInterface(InterfaceRequest(name="y")))


async def test_a_daemon_that_is_stopping_revokes_nothing() -> None:
    captures = captures_of(Policy((MEMBERS,)))
    captures.stop_all()
    async with revoker_of(captures, People()) as revoker:
        with pytest.raises(RequestRefused) as refused:
            await revoker.revoke(ROOT, RevokeCaptures())
    assert refused.value.failure.code == FailureCode.STOPPING


def test_a_ring_that_is_run_again_has_what_is_left_of_its_groups(user_dir: Path) -> None:
    policy = Policy((MEMBERS, Rule(name="all", everybody=True)))
    captures = captures_of(policy)
    lost = dataclasses.replace(PEER, lost_groups=(GROUP_ID,))
    request = request_for("x", name="stays", detached=True)
    with opened(user_dir) as descriptor:
        envelope = Envelope.of(descriptor)
        detached, stay = Detached(captures, Monitor(), Audit(), Closer()), Stay(PEER, request, envelope)
        with detached._listed(stay, trio.TASK_STATUS_IGNORED) as capture:
            assert [rule.name for rule in capture.terms.rules] == ["members"]
            capture.regrant(lost, partial(policy.grant, lost))
        with detached._listed(stay, trio.TASK_STATUS_IGNORED) as capture:
            assert [rule.name for rule in capture.terms.rules] == ["all"]
    os.close(envelope.detach())
