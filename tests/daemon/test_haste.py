"""What one user asks for, however often, is not at the cost of the others."""

import contextlib
import select
import socket
import statistics
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from capd import limits
from capd_client import CaptureSession, list_captures, who_am_i
from capd_protocol.messages import (
    CaptureList,
    Destination,
    FlushCapture,
    Flushed,
    Hello,
    InterfaceList,
    ListCaptures,
    ListInterfaces,
    Permissions,
    StartCapture,
    Started,
    StopCapture,
    WatchStatistics,
    WhoAmI,
    encode,
)
from tests.capture.helpers import kernel_setting
from tests.interfaces.helpers import cleaned, ip_batch, unique
from tests.support.attack import (
    PATIENCE_S,
    Channel,
    RawClient,
    User,
    connected_as,
    opened,
    process_of,
    request_for,
    slow_request_for,
)
from tests.support.bounds import check_bound
from tests.support.daemon import Daemon, MakeDir, as_user, running_daemon

ALICE, BOB = User(23_510, 23_510), User(23_511, 23_511)
STRANGERS = [User(23_512 + number, 23_512) for number in range(4)]
#: With all the groups that the kernel lets one have, such as subordinate ones (subgid(5)).
OF_MANY_GROUPS = [User(23_516 + number, 23_516, tuple(range(700_000, 765_536))) for number in range(2)]


@pytest.fixture(scope="module")
def daemon(make_dir: MakeDir) -> Generator[Daemon, None, None]:
    directory = make_dir("haste")
    rules = f'[[rule]]\nname = "two"\nusers = [{ALICE.user_id}, {BOB.user_id}]\n'
    rules += "".join(f'[[rule]]\nname = "group{each}"\ngroups = [{each}]\n' for each in range(23_520, 23_530))
    (directory / "capd.toml").write_text(rules)
    with running_daemon(directory, "--config", str(directory / "capd.toml")) as running:
        yield running


def times_of_answers(daemon: Daemon, user: User, count: int) -> list[float]:
    """Return how long a user waits each time for an answer, in seconds."""

    def ask() -> list[float]:
        found: list[float] = []
        for _ in range(count):
            began_s = time.monotonic()
            assert who_am_i(socket_path=daemon.socket_path).user_id == user.user_id
            found.append(time.monotonic() - began_s)
        return found

    return as_user(ask, user.user_id)


def test_whoever_asks_too_often_waits_and_is_not_refused(daemon: Daemon) -> None:
    rate = limits.QUESTIONS_OF_STRANGER
    with connected_as(STRANGERS[0], daemon) as client:
        began_s = time.monotonic()
        client.send(encode(WhoAmI()) * (rate.burst + 30))
        for _ in range(rate.burst + 30):
            assert isinstance(client.receive(Permissions), Permissions)
        took_s = time.monotonic() - began_s
    assert took_s >= 29 / rate.per_s
    with connected_as(ALICE, daemon) as client:
        began_s = time.monotonic()
        client.send(encode(WhoAmI()) * (limits.QUESTIONS.burst + 30))
        for _ in range(limits.QUESTIONS.burst + 30):
            client.receive(Permissions)
        assert time.monotonic() - began_s >= 29 / limits.QUESTIONS.per_s


def test_root_waits_for_nothing(daemon: Daemon) -> None:
    count = 10 * limits.QUESTIONS.burst
    with RawClient(daemon.socket_path) as client:
        began_s = time.monotonic()
        client.send(encode(ListCaptures()) * count)
        for _ in range(count):
            client.receive()
        assert time.monotonic() - began_s < count / limits.QUESTIONS.per_s / 2


def ask_in_turn(socket_path: str, count: int, channel: Channel) -> None:
    """In a user's process: have so many connections, each of which asks for interfaces whenever it has its answer."""
    clients = [RawClient(socket_path) for _ in range(count)]
    channel.send(None)
    while True:
        for client in clients:
            client.send(ListInterfaces())
        for client in clients:
            while not isinstance(message := client.receive(), InterfaceList) or not message.is_last:
                pass


def watch(socket_path: str, count: int, channel: Channel) -> None:
    """In a user's process: have so many connections that watch counters."""
    clients = [RawClient(socket_path) for _ in range(count)]
    for client in clients:
        client.send(WatchStatistics(interval_s=0.05))
        client.socket.setblocking(False)
    channel.send(None)
    while True:
        for client in clients:
            with contextlib.suppress(BlockingIOError):
                client.socket.recv(1 << 20)
        time.sleep(0.01)


@pytest.mark.alone
@pytest.mark.parametrize("attack", [ask_in_turn, watch], ids=["list", "watch"])
def test_sixty_strangers_who_look_at_all_interfaces_slow_nobody(
    daemon: Daemon, attack: Callable[[str, int, Channel], None]
) -> None:
    stem = unique("ha")
    with kernel_setting("net/ipv6/conf/default/disable_ipv6", "1"), cleaned(stem), contextlib.ExitStack() as stack:
        ip_batch(f"link add name {stem}x{number} type veth peer name {stem}y{number}" for number in range(100))
        for user in STRANGERS:
            stack.enter_context(process_of(user, partial(attack, daemon.socket_path, 15))).hear()
        found_s = times_of_answers(daemon, ALICE, 40)
    # Each list took the loop ten milliseconds or more; sixty of them most of a second.
    check_bound(statistics.median(found_s) < 0.1 and max(found_s) < 0.5, f"{found_s}")


def list_captures_in_turn(socket_path: str, count: int, channel: Channel) -> None:
    """In a user's process: have so many connections, each of which asks what runs whenever it has its answer."""
    clients = [RawClient(socket_path) for _ in range(count)]
    channel.send(None)
    while True:
        for client in clients:
            client.send(ListCaptures())
        for client in clients:
            client.receive(CaptureList)


@pytest.mark.alone
def test_strangers_of_many_groups_slow_nobody(daemon: Daemon) -> None:
    with contextlib.ExitStack() as stack:
        for user in OF_MANY_GROUPS:
            stack.enter_context(process_of(user, partial(list_captures_in_turn, daemon.socket_path, 15))).hear()
        found_s = times_of_answers(daemon, ALICE, 40)
    # Each of ten rules looked through all groups, several times for each question: thirty of them took seconds.
    check_bound(statistics.median(found_s) < 0.1 and max(found_s) < 0.5, f"{found_s}")


def connect_and_leave(socket_path: str, channel: Channel) -> None:
    """In a user's process: connect, and leave at once, as often as possible."""
    channel.send(None)
    while True:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(socket_path)


@pytest.mark.alone
def test_strangers_of_many_groups_who_only_connect_slow_nobody(daemon: Daemon) -> None:
    with contextlib.ExitStack() as stack:
        for user in OF_MANY_GROUPS:
            stack.enter_context(process_of(user, partial(connect_and_leave, daemon.socket_path))).hear()
        found_s = times_of_answers(daemon, ALICE, 40)
    # Reading the groups of each took the loop four milliseconds, and the next ones had connected meanwhile: an answer
    # took 1.5 s. Without them it takes some 20 ms on a slow machine.
    check_bound(statistics.median(found_s) < 0.1 and max(found_s) < 0.5, f"{found_s}")


def slow(interface: str, file_name: str) -> StartCapture:
    """Return a request that takes some tenths of a second to start."""
    return msgspec.structs.replace(slow_request_for(interface), destination=Destination(file_name=file_name))


def test_who_starts_many_captures_keeps_nobody_elses_from_starting(
    daemon: Daemon, veth: tuple[str, str], user_dir: Path
) -> None:
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(opened(user_dir))
        bobs = [stack.enter_context(connected_as(BOB, daemon)) for _ in range(12)]
        alices = stack.enter_context(connected_as(ALICE, daemon))
        poll = select.poll()
        for client in bobs:
            client.receive(Hello)
            poll.register(client.socket, select.POLLIN)
        for number, client in enumerate(bobs):
            client.send(slow(veth[1], f"{number}.pcapng"), [directory])
        alices.receive(Hello)
        alices.send(slow(veth[1], "alice.pcapng"), [directory])
        started = most_at_once = 0
        while not has_started(alices):
            ready = {descriptor for descriptor, _ in poll.poll(0)}
            started += sum(client.socket.fileno() in ready and has_started(client) for client in bobs)
            most_at_once = max(most_at_once, len(daemon.workers()) - started)
        # Each of them in turn: of those of before, not many have started, nor did they all try.
        assert started < 9
        assert 0 < most_at_once <= limits.MAX_STARTS_PER_USER + 2
        for client in bobs:
            client.send(StopCapture())


def has_started(client: RawClient) -> bool:
    """Receive what a client is sent by now; return whether its capture has started."""
    try:
        client.receive(Started, timeout_s=0.001)
    except TimeoutError:
        return False
    return True


def test_sixty_four_captures_at_once_may_be_had(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    count = limits.MAX_CAPTURES_PER_USER

    def start() -> int:
        with contextlib.ExitStack() as stack:
            captures = [
                stack.enter_context(
                    CaptureSession(
                        interfaces=veth[1],
                        savefile=user_dir / f"{number}.pcapng",
                        kernel_buffer_size=1,
                        socket_path=daemon.socket_path,
                    )
                )
                for number in range(count)
            ]
            for capture in captures:
                capture.wait_started(PATIENCE_S)
            return len(list_captures(socket_path=daemon.socket_path))

    assert as_user(start, ALICE.user_id) == count


def test_orders_have_a_rate_on_all_connections_of_a_user(daemon: Daemon, veth: tuple[str, str], user_dir: Path) -> None:
    rate = limits.ORDERS
    with connected_as(BOB, daemon) as other, opened(user_dir) as directory, connected_as(BOB, daemon) as client:
        client.send(request_for(veth[1]), [directory])
        started = client.receive(Started)
        assert isinstance(started, Started)
        began_s = time.monotonic()
        other.send(encode(FlushCapture(capture=started.capture_id)) * (rate.burst // 2))
        for _ in range(rate.burst // 2):
            other.receive(Flushed)
        for _ in range(rate.burst // 2 + 20):  # of its own, one after the other
            client.send(FlushCapture())
            client.receive(Flushed)
        assert time.monotonic() - began_s >= 19 / rate.per_s
