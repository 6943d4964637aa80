"""The record of who asked for what: no line of a grant, a refusal or an end is lost, whatever the rate."""

import contextlib
import logging
import re
import socket
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from capd import limits
from capd.errors import RequestRefused
from capd.pacing import rate_limited_log
from capd.pacing.rate_limited_log import Restrained
from capd.pacing.rates import Rate
from capd.policy.audit import Audit, Journal
from capd.policy.peer import Peer
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.messages import (
    AttachCapture,
    FailureCode,
    ListCaptures,
    Request,
    StopCapture,
    WatchInterfaces,
    WhoAmI,
    encode,
)
from tests.support.attack import (
    PATIENCE_S,
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

ALICE, STRANGER = User(23_500, 23_500), User(23_501, 23_501)


# The journal's socket --------------------------------------------------------------------------------------------


class Reader:
    """A journal that reads when a test has it read."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._path = path

    def read(self) -> list[str]:
        """Return the messages that have come."""
        found: list[str] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self._socket.recv(65536).decode().removeprefix("MESSAGE=").rstrip("\n"))
        return found

    def close(self) -> None:
        self._socket.close()
        self._path.unlink()


@pytest.fixture
def journal(tmp_path: Path) -> Generator[Journal, None, None]:
    made = Journal(tmp_path / "journal")
    yield made
    made.close()


@pytest.fixture
def reader(tmp_path: Path) -> Generator[Reader, None, None]:
    made = Reader(tmp_path / "journal")
    yield made
    with contextlib.suppress(OSError):
        made.close()


def send(journal: Journal, *numbers: int) -> None:
    for number in numbers:
        journal.send(str(number), {"MESSAGE": str(number)})


async def read_all(reader: Reader, count: int) -> list[str]:
    found: list[str] = []
    with trio.fail_after(PATIENCE_S):
        while len(found) < count:
            found += reader.read()
            await trio.lowlevel.checkpoint()
    return found


async def test_a_journal_that_takes_nothing_now_gets_every_line_later(
    reader: Reader, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.run)
        send(journal, *range(3000))
        await trio.testing.wait_all_tasks_blocked()
        assert await read_all(reader, 3000) == [str(number) for number in range(3000)]
        send(journal, 3000)
        assert await read_all(reader, 1) == ["3000"]
        nursery.cancel_scope.cancel()
    assert not caplog.records


async def test_who_asks_waits_for_the_journal_but_not_for_ever(
    reader: Reader, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_WAITING_LINES", 100)
    monkeypatch.setattr(limits, "JOURNAL_TIMEOUT_S", 0.05)
    record = Audit(journal)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(record.run)
        await record.wait_room()
        sent = 0
        while journal.has_room:
            send(journal, sent)
            sent += 1
        with pytest.raises(RequestRefused, match="cannot put requests on record") as refused:
            await record.wait_room()
        assert refused.value.failure.code == FailureCode.RESOURCES
        monkeypatch.setattr(limits, "JOURNAL_TIMEOUT_S", PATIENCE_S)
        waits = trio.Event()

        async def wait() -> None:
            await record.wait_room()
            waits.set()

        nursery.start_soon(wait)
        send(journal, sent)  # what ends meanwhile
        await trio.testing.wait_all_tasks_blocked()
        assert not waits.is_set()
        assert await read_all(reader, sent + 1) == [str(number) for number in range(sent + 1)]
        with trio.fail_after(PATIENCE_S):
            await waits.wait()
        nursery.cancel_scope.cancel()


async def test_what_is_too_much_goes_to_the_log_and_so_does_the_rest_in_the_end(
    reader: Reader, journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "MAX_WAITING_LINES", 10)
    monkeypatch.setattr(limits, "JOURNAL_END_TIMEOUT_S", 0.05)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.run)
        send(journal, *range(1000))
        nursery.cancel_scope.cancel()
    send(journal, 1000)
    logged = [re.fullmatch(r"(\d+) \(the journal: .*\)", message) for message in caplog.messages]
    numbers = [int(found[1]) for found in logged if found] + [int(message) for message in reader.read()]
    assert sorted(numbers) == list(range(1001))
    assert len(reader.read()) < 1000 - 2 * 10


async def test_a_journal_that_is_started_anew_is_found_again(reader: Reader, journal: Journal, tmp_path: Path) -> None:
    send(journal, 1)
    assert reader.read() == ["1"]
    reader.close()
    another = Reader(tmp_path / "journal")
    send(journal, 2)
    assert another.read() == ["2"]
    another.close()


async def test_where_there_is_no_journal_lines_go_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    send(Journal(tmp_path / "none"), 1)
    assert caplog.messages == ["1 (the journal: No such file or directory)"]


# What is summed up -----------------------------------------------------------------------------------------------


def fail() -> None:
    raise KeyError


@pytest.mark.parametrize("leave", [lambda: None, fail], ids=["well", "raising"])
def test_what_is_carried_out_is_on_record_with_its_end_however_it_ends(
    caplog: pytest.LogCaptureFixture, leave: Callable[[], object]
) -> None:
    caplog.set_level(logging.INFO)
    files: list[str] = []
    record, alice = Audit(), Peer(7, ALICE.user_id, ALICE.group_id, ())
    with (
        contextlib.suppress(KeyError),
        record.on_record(alice, StopCapture(), lambda: {"capture": 9}, lambda: {"files": len(files)}),
    ):
        assert [line.partition(": ")[0] for line in caplog.messages] == ["granted"]
        files.append("a")
        leave()
    assert caplog.messages == [
        f"granted: user {ALICE.user_id} (process 7): stop capture=9",
        f"ended: user {ALICE.user_id} (process 7): stop files=1",
    ]


def test_the_end_is_on_record_with_the_same_details_where_it_has_no_others(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    record, alice = Audit(), Peer(7, ALICE.user_id, ALICE.group_id, ())
    with record.on_record(alice, AttachCapture(capture="a"), lambda: {"capture": 9}):
        pass
    assert [line.partition("(process 7): ")[2] for line in caplog.messages] == ["attach capture=9"] * 2


def asked(record: Audit, peer: Peer, *requests: Request) -> None:
    for request in requests:
        record.granted(peer, request)
        record.ended(peer, request)


async def test_questions_are_one_line_a_minute_for_each_person(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    record = Audit()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(record.run)
        for _ in range(100):
            asked(record, Peer(1, 1000, 1000, ()), WhoAmI(), ListCaptures())
            asked(record, Peer(1, 100_000, 1000, (), behind_id=1000), WhoAmI())
            asked(record, Peer(1, 1001, 1000, ()), WatchInterfaces())
            await trio.sleep(limits.QUESTIONS_SUM_S / 100)
        await trio.sleep(2 * limits.QUESTIONS_SUM_S)
        assert len(caplog.messages) <= 4
        asked(record, Peer(1, 1002, 1000, ()), WhoAmI())
        nursery.cancel_scope.cancel()
    sums = [re.fullmatch(r"asked: user (\d+): (.*)", message) for message in caplog.messages]
    assert all(sums)
    of_alice = "; ".join(found[2] for found in sums if found and found[1] == "1000")
    assert sum(map(int, re.findall(r"whoami: (\d+)", of_alice))) == 200
    assert sum(map(int, re.findall(r"list: (\d+)", of_alice))) == 100
    assert caplog.messages[-1] == "asked: user 1002: whoami: 1"


async def test_what_clients_do_wrong_is_some_lines_and_a_number(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    record = Audit()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(record.run)
        for _ in range(1000):
            for user_id in (1000, 1001):
                record.misbehaved(Peer(1, user_id, 1, ()), "breaks the protocol: %s", RemoteProtocolError("so"))
        await trio.sleep(limits.QUESTIONS_SUM_S + 1)
        nursery.cancel_scope.cancel()
    burst = limits.MISCONDUCT.burst
    for user_id in (1000, 1001):
        mine = [message for message in caplog.messages if f"user {user_id}" in message]
        assert mine[:-1] == [f"user {user_id}: breaks the protocol: so"] * burst
        assert mine[-1] == f"{1000 - burst} lines about clients of user {user_id} were left out"


def test_what_was_left_out_is_told_with_the_next_line_at_its_level(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    now_s = [1000.0]
    monkeypatch.setattr(rate_limited_log, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    lines = Restrained(logging.getLogger("capd.test"), Rate(1000, 2), "it")
    for number in range(5):
        lines.say(logging.INFO, "%d", number)
    now_s[0] += 0.002
    lines.say(logging.ERROR, "5")
    assert caplog.messages == ["0", "1", "3 lines about it were left out", "5"]
    assert [each.levelno for each in caplog.records] == [logging.INFO] * 3 + [logging.ERROR]


# Attacks ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def daemon(make_dir: MakeDir) -> Generator[Daemon, None, None]:
    directory = make_dir("audit")
    (directory / "capd.toml").write_text(f'[[rule]]\nname = "alice"\nusers = [{ALICE.user_id}]\n')
    options = ("--config", str(directory / "capd.toml"))
    with running_daemon(directory, *options, prefix=with_limits(QUESTIONS_SUM_S=0.2)) as running:
        yield running


def ask_without_end(socket_path: str, request: bytes, channel: Channel) -> None:
    """In a user's process: send requests, as many as are taken, and read what comes."""
    clients = [RawClient(socket_path) for _ in range(4)]
    for client in clients:
        client.socket.setblocking(False)
    channel.send(None)
    while True:
        for client in clients:
            with contextlib.suppress(BlockingIOError):
                client.socket.send(request * 50)
            with contextlib.suppress(BlockingIOError):
                client.socket.recv(1 << 20)
        time.sleep(0.001)


def test_no_number_of_questions_and_refusals_hides_a_capture(daemon: Daemon, user_dir: Path) -> None:
    at = len(daemon.log)
    with contextlib.ExitStack() as stack:
        for request in (WhoAmI(), StopCapture(capture=7)):
            attack = partial(ask_without_end, daemon.socket_path, encode(request))
            stack.enter_context(process_of(STRANGER, attack)).hear()
        with opened(user_dir) as directory, connected_as(ALICE, daemon) as client:
            for number in range(3):
                client.send(request_for("nosuch0", f"{number}.pcapng"), [directory])
                assert client.refusal().code == FailureCode.NO_SUCH_INTERFACE
    eventually(lambda: f"asked: user {STRANGER.user_id}: whoami: " in daemon.log[at:], "the sum")
    lines = daemon.log[at:].splitlines()
    of_alice = [line for line in lines if f" user {ALICE.user_id} " in line]
    assert [line.split(":")[1].strip() for line in of_alice] == ["granted", "ended"] * 3
    # Each of the stranger's refusals has its line, and there are not more than there may be.
    refused = [line for line in lines if f"refused: user {STRANGER.user_id} " in line]
    assert limits.REFUSALS_OF_STRANGER.burst <= len(refused) < limits.REFUSALS_OF_STRANGER.burst + 30
    assert len(lines) < len(refused) + 50


def test_a_line_for_each_refusal_and_none_is_carried_out_too_soon(daemon: Daemon) -> None:
    at = len(daemon.log)
    count = limits.REFUSALS_OF_STRANGER.burst + 4
    other = User(STRANGER.user_id + 1, STRANGER.group_id)
    began_s = time.monotonic()
    with connected_as(other, daemon) as client:
        client.send(encode(StopCapture(capture=7)) * count)
        for _ in range(count):
            assert client.refusal().code == FailureCode.NO_SUCH_CAPTURE
    # The last one came that many late, since the one before had been refused.
    assert time.monotonic() - began_s >= 3 / limits.REFUSALS_OF_STRANGER.per_s
    assert daemon.log[at:].count(f"refused: user {other.user_id} ") == count


def test_who_breaks_the_protocol_all_the_time_does_not_fill_the_log(daemon: Daemon) -> None:
    at = len(daemon.log)
    breaker = User(STRANGER.user_id + 2, STRANGER.group_id)

    def attack() -> None:
        for _ in range(5 * limits.MISCONDUCT.burst):
            with RawClient(daemon.socket_path, greet=False) as client:
                client.send(b"x" * 9)
                client.rest()

    as_user(attack, breaker.user_id)
    who = f"user {breaker.user_id}"

    def logged() -> int:
        return daemon.log[at:].count(f"{who}: breaks the protocol")

    def left_out() -> int:
        return sum(map(int, re.findall(rf"(\d+) lines about clients of {who} were left out", daemon.log[at:])))

    eventually(lambda: logged() + left_out() == 5 * limits.MISCONDUCT.burst, "the numbers")
    assert left_out()
    assert logged() <= limits.MISCONDUCT.burst + 2
