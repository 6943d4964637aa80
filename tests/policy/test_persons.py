"""Limits are a person's: what one gets who has 65,536 user ids, and what is left of the daemon for the others."""

import contextlib
import itertools
import os
import socket
import subprocess
import time
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from capd import limits
from capd.captures.lasting.fd_store import Kept, Record
from capd.captures.registry import Captures
from capd.config.reader import Config, ConfiguredCapture
from capd.daemon import Daemon as DaemonItself
from capd.errors import RequestRefused
from capd.policy.peer import Peer
from capd.policy.rules import Policy, Rule
from capd.supervisor.closer import Closer
from capd.supervisor.handover import Envelope
from capd.supervisor.packet_rings import PacketRingMaker
from capd.supervisor.spawner import Spawner
from capd_client import list_captures, stop_capture
from capd_protocol.messages import (
    Conditions,
    Destination,
    Ended,
    Failure,
    FailureCode,
    Hello,
    InterfaceRequest,
    ListCaptures,
    Refused,
    StartCapture,
    Started,
)
from tests.support.accounts import have_account, have_subordinate_ids
from tests.support.attack import (
    Channel,
    RawClient,
    User,
    connected_as,
    eventually,
    opened,
    process_of,
    request_for,
    with_limits,
)
from tests.support.daemon import Daemon, MakeDir, as_user, running_daemon
from tests.support.namespace import veth_pair

GROUP_ID = 4244
BOB, ALICE, ERIN = (User(23_480 + each, 23_480 + each, (GROUP_ID,)) for each in range(3))
#: What bob's process may become, with his groups.
FIRST_ID, IDS = 700_000, 65_536
NAMED_ID = 23_490
CONFIGURATION = f"""
[[rule]]
name = "one"
groups = [{GROUP_ID}]
interfaces = ["one*"]
max_captures = 1

[[rule]]
name = "little"
groups = [{GROUP_ID}]
interfaces = ["two*"]
max_disk_bytes = 10_000_000

[[rule]]
name = "many"
users = [{NAMED_ID}]
groups = [{GROUP_ID}]
interfaces = ["rx*"]

[[rule]]
name = "all"
everybody = true
interfaces = ["lo"]

[[rule]]
name = "himself"
users = [{BOB.user_id}]
interfaces = ["mine*"]
"""


_numbers = itertools.count()


def subordinate(number: int) -> User:
    """Return bob under one of his other ids."""
    return User(FIRST_ID + number, FIRST_ID + number, BOB.groups, has_account=False)


@pytest.fixture(scope="module", autouse=True)
def _ids() -> None:
    for user in (BOB, ALICE, ERIN):
        have_account(user.user_id)
    have_subordinate_ids([f"test{BOB.user_id}:{FIRST_ID}:{IDS}"])


@contextlib.contextmanager
def daemon_of(directory: Path, **changed: float) -> Generator[Daemon, None, None]:
    where = directory / "daemon"
    where.mkdir(mode=0o755)
    (where / "capd.toml").write_text(CONFIGURATION)
    prefix = with_limits(**changed) if changed else ()
    with running_daemon(where, "--config", str(where / "capd.toml"), prefix=prefix) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def daemon(make_dir: MakeDir) -> Generator[Daemon, None, None]:
    directory = make_dir("persons")
    with daemon_of(directory) as running:
        yield running


def asked(client: RawClient, directory: Path, request: StartCapture) -> Started | Failure:
    """Ask for a capture; return that it runs, or why not."""
    with opened(directory) as descriptor:
        client.send(request, [descriptor])
    while not isinstance(message := client.receive(), Started | Refused):
        pass
    return message.failure if isinstance(message, Refused) else message


@contextlib.contextmanager
def lo_up() -> Generator[None, None, None]:
    """Have ``lo`` up."""
    subprocess.run(["ip", "link", "set", "dev", "lo", "up"], check=True, timeout=10)
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "set", "dev", "lo", "down"], check=True, timeout=10)


@contextlib.contextmanager
def outcomes(
    daemon: Daemon, directory: Path, requests: Sequence[tuple[User, StartCapture]]
) -> Generator[list[Started | Failure], None, None]:
    """Have some users ask for captures; give what came of it, while those run that do."""
    with contextlib.ExitStack() as stack:
        found: list[Started | Failure] = []
        for user, request in requests:
            client = stack.enter_context(connected_as(user, daemon))
            named = msgspec.structs.replace(request, destination=Destination(file_name=f"{next(_numbers)}.pcapng"))
            found.append(asked(client, directory, named))
        yield found


def codes(found: Sequence[Started | Failure]) -> list[FailureCode | None]:
    """Return why each was refused; None for those that run."""
    return [each.code if isinstance(each, Failure) else None for each in found]


# Captures ---------------------------------------------------------------------------------------------------------


def test_a_user_has_no_more_captures_for_having_more_ids(daemon: Daemon, user_dir: Path) -> None:
    request = request_for("one0")
    with veth_pair("tx0", "one0"):
        users = [BOB, *map(subordinate, (0, 1, 2, 1000, IDS - 1))]
        with outcomes(daemon, user_dir, [(user, request) for user in (*users, ALICE)]) as found:
            assert codes(found) == [None, *[FailureCode.RESOURCES] * 5, None]
        eventually(lambda: list_captures(socket_path=daemon.socket_path) == (), "all have ended")
        with outcomes(daemon, user_dir, [(user, request) for user in reversed(users)]) as found:
            assert codes(found) == [None, *[FailureCode.RESOURCES] * 5]


def test_nor_more_of_the_disk(daemon: Daemon, user_dir: Path) -> None:
    ring = request_for("two0", ring=Conditions(packets=1, total_kb=4000))
    with veth_pair("tx0", "two0"):
        users = [BOB, *map(subordinate, range(3)), ALICE]
        with outcomes(daemon, user_dir, [(user, ring) for user in users]) as found:
            assert codes(found) == [None, None, FailureCode.RESOURCES, FailureCode.RESOURCES, None]


def large(interface: str, mib: int) -> StartCapture:
    return request_for("", interfaces=(InterfaceRequest(name=interface, kernel_buffer_size_bytes=mib << 20),))


def test_nor_more_memory_and_all_together_have_a_bound(user_dir: Path) -> None:
    mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    with daemon_of(user_dir, RING_SHARE_PER_USER=8.5 / mib, RING_SHARE=14.5 / mib) as daemon:
        users = [BOB, subordinate(0), subordinate(1), ALICE, ERIN, ERIN, User(0, 0)]
        sizes_mib = [4, 4, 4, 4, 4, 2, 4]
        requests = [(user, large("lo", size)) for user, size in zip(users, sizes_mib, strict=True)]
        with lo_up(), outcomes(daemon, user_dir, requests) as found:
            refused = FailureCode.RESOURCES
            assert codes(found) == [None, None, refused, None, refused, None, None]
        texts = [each.text for each in found if isinstance(each, Failure)]
        assert "are left of the 8 that a user may have here" in texts[0]
        assert "are left of the 14 that all users and the configuration may have here" in texts[1]


def hold_connections(socket_path: str, count: int, channel: Channel) -> None:
    """In a user's process: hold so many connections that ask for something; say how many of them were let in."""
    clients = [RawClient(socket_path) for _ in range(count)]
    channel.send(sum(isinstance(client.receive(), Hello) for client in clients))
    for client in clients:
        with contextlib.suppress(OSError):
            client.send(ListCaptures())
    channel.recv()


def test_nor_more_connections_and_root_is_always_let_in(user_dir: Path) -> None:
    with (
        lo_up(),
        daemon_of(user_dir, MAX_CLIENTS=200) as daemon,
        connected_as(ALICE, daemon) as victim,
        contextlib.ExitStack() as stack,
    ):
        assert isinstance(asked(victim, user_dir, request_for("lo")), Started)
        crowd = partial(hold_connections, daemon.socket_path, 60)
        crowds = [stack.enter_context(process_of(user, crowd)) for user in (BOB, subordinate(0), subordinate(1))]
        # These are one person.
        assert sum(each.hear() for each in crowds) == limits.MAX_CLIENTS_PER_USER
        crowds = [stack.enter_context(process_of(user, crowd)) for user in (ALICE, ERIN)]
        # For these there is no room for all.
        assert sum(each.hear() for each in crowds) == 200 - limits.MAX_CLIENTS_PER_USER - 1
        began_s = time.monotonic()
        (shown,) = list_captures(socket_path=daemon.socket_path)
        stop_capture(shown.capture_id, socket_path=daemon.socket_path)
        assert time.monotonic() - began_s < 2
        assert isinstance(victim.rest()[-1], Ended)


def test_strangers_are_few_and_each_of_them_fewer(daemon: Daemon) -> None:
    with contextlib.ExitStack() as stack:
        strangers = [User(FIRST_ID - 1 - number, FIRST_ID, has_account=False) for number in range(6)]
        crowd = partial(hold_connections, daemon.socket_path, limits.MAX_CLIENTS_PER_STRANGER + 4)
        let_in = [stack.enter_context(process_of(user, crowd)).hear() for user in strangers]
        assert max(let_in) == limits.MAX_CLIENTS_PER_STRANGER
        assert sum(let_in) == limits.MAX_STRANGERS
        with connected_as(BOB, daemon) as client:
            assert isinstance(client.receive(), Hello)


# Who one is -------------------------------------------------------------------------------------------------------


def test_who_stands_behind_a_user_sees_and_stops_what_it_has(daemon: Daemon, user_dir: Path) -> None:
    with veth_pair("tx0", "one0"), connected_as(subordinate(5), daemon) as client:
        started = asked(client, user_dir, request_for("one0"))
        assert isinstance(started, Started)
        for other in (ALICE, subordinate(6)):
            assert as_user(lambda: list_captures(socket_path=daemon.socket_path), other.user_id) == ()
        (shown,) = as_user(lambda: list_captures(socket_path=daemon.socket_path), BOB.user_id)
        assert (shown.capture_id, shown.user_id) == (started.capture_id, FIRST_ID + 5)
        as_user(lambda: stop_capture(shown.capture_id, socket_path=daemon.socket_path), BOB.user_id)
        assert isinstance(client.rest()[-1], Ended)


def test_a_subordinate_id_is_not_named_where_its_owner_is(daemon: Daemon, user_dir: Path) -> None:
    with veth_pair("tx0", "mine0"):
        requests = [(user, request_for("mine0")) for user in (subordinate(0), BOB)]
        with outcomes(daemon, user_dir, requests) as found:
            assert codes(found) == [FailureCode.NOT_PERMITTED, None]


def test_who_has_no_account_has_only_what_its_number_has(daemon: Daemon, user_dir: Path) -> None:
    nobody, named = (User(user_id, GROUP_ID, (GROUP_ID,), has_account=False) for user_id in (NAMED_ID + 1, NAMED_ID))
    with lo_up(), veth_pair("tx0", "rx0"), veth_pair("tx1", "one0"):
        cases = [(nobody, "rx0"), (nobody, "lo"), (nobody, "one0"), (named, "one0"), (named, "lo"), (named, "rx0")]
        with outcomes(daemon, user_dir, [(user, request_for(interface)) for user, interface in cases]) as found:
            assert codes(found) == [FailureCode.NOT_PERMITTED] * 5 + [None]
    assert "no account on this machine" in str(found[0])


# What is left of totals, in one process ---------------------------------------------------------------------------

EVERYTHING = Policy((Rule(name="all", everybody=True),))


def peer(user_id: int, behind_id: int | None = None) -> Peer:
    return Peer(1, user_id, user_id, (), behind_id=behind_id)


def granted_until_refused(captures: Captures, stack: contextlib.ExitStack, who: Peer, **wishes: Any) -> int:
    """Have as many captures as one may have; return how many."""
    numbers = itertools.count()

    def grant_all() -> None:
        for number in numbers:
            request = request_for("x", name=f"a{number}", wait_for_interfaces=True, **wishes)
            stack.enter_context(captures.granted(who, request))

    with pytest.raises(RequestRefused) as refused:
        grant_all()
    assert refused.value.failure.code == FailureCode.RESOURCES
    return next(numbers) - 1


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Captures:
    for share in ("RING_SHARE", "RING_SHARE_PER_USER"):  # whatever this machine has
        monkeypatch.setattr(limits, share, 1000)
    return Captures(EVERYTHING, Spawner(), Closer(), PacketRingMaker())


def test_captures_of_all_have_a_bound_which_is_not_roots(captures: Captures) -> None:
    with contextlib.ExitStack() as stack:
        users = [peer(1000), peer(100_000, 1000), *map(peer, range(1001, 1010))]
        numbers = [granted_until_refused(captures, stack, user) for user in users]
        most = limits.MAX_CAPTURES_PER_USER
        assert numbers == [most, 0, most, most, most, *[0] * 6]
        assert sum(numbers) == limits.MAX_CAPTURES
        assert granted_until_refused(captures, stack, peer(0)) == limits.MAX_CAPTURES_PER_USER


def test_detached_captures_have_bounds_and_root_finds_room(captures: Captures) -> None:
    with contextlib.ExitStack() as stack:
        users = [peer(1000), peer(100_000, 1000), *map(peer, range(1001, 1010))]
        numbers = [granted_until_refused(captures, stack, user, detached=True) for user in users]
        most = limits.MAX_DETACHED_PER_USER
        assert numbers == [most, 0, *[most] * 6, 0, 0, 0]
        assert sum(numbers) == limits.MAX_DETACHED - limits.DETACHED_OF_ROOT
        assert granted_until_refused(captures, stack, peer(0), detached=True) >= limits.DETACHED_OF_ROOT


def test_the_configuration_has_its_memory_before_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capd.captures.registry._memory_bytes", lambda: 1000 << 20)  # of which all may have 500 MiB
    captures = Captures(EVERYTHING, Spawner(), Closer(), PacketRingMaker())
    configured = [ConfiguredCapture(name, 1, large("x", 200)) for name in ("a", "b")]
    captures.reserve(configured)

    def check(left_mib: int) -> None:
        with captures.granted(peer(1000), large("x", left_mib)):
            pass
        with (
            pytest.raises(RequestRefused, match=f" {left_mib} are left"),
            captures.granted(peer(1000), large("x", left_mib + 1)),
        ):
            pass

    check(100)
    with captures.configured(peer(0), configured[0]):  # whether it runs or not
        check(100)
        with (
            captures.granted(peer(0), large("x", 400)),
            captures.configured(peer(0), configured[1]),
            pytest.raises(RequestRefused, match=" 0 are left"),  # root's count, though root may
            captures.granted(peer(1000), large("x", 1)),
        ):
            pass
        captures.reserve(configured[1:])
        check(100)  # it still runs
    captures.reserve(())
    check(250)  # what one user may have is less


# After a restart --------------------------------------------------------------------------------------------------


async def test_a_capture_that_goes_on_counts_for_who_is_behind_it_by_now(tmp_path: Path) -> None:
    request = request_for("lo", name="a", detached=True)
    owners = [Peer(1, BOB.user_id, 1, ()), Peer(2, FIRST_ID + 3, 1, ()), Peer(3, NAMED_ID + 2, 1, ())]
    unread, written = socket.socketpair()  # nobody looks into it
    kept = [
        Kept(Record(capture_id=number, started_ns=0, owner=owner, request=request, rules=()), Envelope(unread))
        for number, owner in enumerate(owners)
    ]
    itself = DaemonItself(lambda: Config(EVERYTHING), tmp_path)
    with unread, written:
        async with trio.open_nursery() as nursery:
            await nursery.start(itself.people.run)
            found = [each.record.owner for each in await itself.identified(kept)]
            nursery.cancel_scope.cancel()
    assert [(each.person_id, each.has_account) for each in found] == [
        (BOB.user_id, True),
        (BOB.user_id, True),
        (NAMED_ID + 2, False),
    ]
    assert [each.user_id for each in found] == [each.user_id for each in owners]
