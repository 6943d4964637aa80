"""Who stands behind a user: subordinate ids, accounts, and what happens while nobody knows."""

import os
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from capd import limits
from capd.errors import RequestRefused
from capd.policy.peer import SUBORDINATES_OF_ROOT, Peer
from capd.policy.people import Key, People, find_account, parse_subordinates
from capd_protocol.messages import FailureCode
from tests.support.accounts import have_account

SUBUID = """\
alice:100000:65536
bob:165536:65536
1003:231072:65536
root:1000000:1000000000
gone:300000:10

# a comment
nobody:12
:400000:10
carol:-5:10
carol:400010:0
carol:400020:x
carol:4294967290:10
carol:4294967290:6
carol:400030:10:more
carol:99999999999999999999:1
carol:٤٠٠:1
"""
ACCOUNTS: dict[Key, int] = {"root": 0, 0: 0, "alice": 1000, 1000: 1000, "bob": 1001, 1001: 1001, "1003": 1003}


# Whose subordinate ids -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user_id", "owner"),
    [
        (99_999, None),
        (100_000, "alice"),
        (165_535, "alice"),
        (165_536, "bob"),
        (231_071, "bob"),
        (231_072, "1003"),
        (296_608, None),
        (300_005, "gone"),
        (400_000, None),
        (400_010, None),
        (400_020, None),
        (400_030, None),
        (400, None),
        (2**32 - 6, "carol"),
        (2**32 - 1, "carol"),
    ],
)
def test_a_line_says_who_has_which_ids(user_id: int, owner: str | None) -> None:
    assert parse_subordinates(SUBUID).owner_of(user_id) == owner


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), max_size=8),
    st.integers(0, 90),
)
def test_an_id_is_of_somebody_in_whose_range_it_is(ranges: list[tuple[int, int]], user_id: int) -> None:
    text = "".join(f"u{at}:{first}:{count}\n" for at, (first, count) in enumerate(ranges))
    having = {f"u{at}" for at, (first, count) in enumerate(ranges) if first <= user_id < first + count}
    owner = parse_subordinates(text).owner_of(user_id)
    assert (owner in having) if having else owner is None


# Who it is -------------------------------------------------------------------------------------------------------


def peer(user_id: int) -> Peer:
    return Peer(1, user_id, user_id, (7,))


@asynccontextmanager
async def people_of(
    path: Path, find: Callable[[Key], int | None] | Mapping[Key, int] = ACCOUNTS
) -> AsyncGenerator[People, None]:
    people = People(find.get if isinstance(find, Mapping) else find, path)
    async with trio.open_nursery() as nursery:
        await nursery.start(people.run)
        yield people
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("user_id", "person_id", "has_account"),
    [
        (1000, 1000, True),
        (100_000, 1000, True),
        (165_536, 1001, True),
        (231_072, 1003, True),
        # Containers' ids that root gives out are one person, who is not root.
        (1_000_000, SUBORDINATES_OF_ROOT, True),
        (500_000_000, SUBORDINATES_OF_ROOT, True),
        (0, 0, True),
        # Nobody knows these: without an account, or subordinate to one without.
        (1002, 1002, False),
        (300_000, 300_000, False),
    ],
)
async def test_a_subordinate_id_stands_for_its_owner(
    tmp_path: Path, user_id: int, person_id: int, has_account: bool
) -> None:
    (tmp_path / "subuid").write_text(SUBUID)
    async with people_of(tmp_path / "subuid") as people:
        found = await people.identified(peer(user_id))
    assert (found.person_id, found.has_account) == (person_id, has_account)
    assert (found.user_id, found.group_id, found.groups) == (user_id, user_id, (7,))


async def test_a_range_that_takes_in_accounts_makes_them_one_person(tmp_path: Path) -> None:
    (tmp_path / "subuid").write_text("alice:1000:10\n")
    async with people_of(tmp_path / "subuid") as people:
        assert [(await people.identified(peer(user_id))).person_id for user_id in (1000, 1001, 1005)] == [1000] * 3


async def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "subuid"
    async with people_of(path) as people:

        async def person_id() -> int:
            return (await people.identified(peer(100_000))).person_id

        assert await person_id() == 100_000  # there is none
        path.write_text("alice:100000:1\n")
        assert await person_id() == 1000
        (tmp_path / "new").write_text("bob:100000:1\n\n")
        (tmp_path / "new").rename(path)
        assert await person_id() == 1001
        path.unlink()
        assert await person_id() == 100_000


@pytest.mark.parametrize("kind", ["directory", "fifo", "too long", "no text"])
async def test_a_file_that_cannot_be_used_says_nothing(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "subuid"
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "too long":
            path.write_text("alice:100000:1\n" * 70_000)
        case _:
            path.write_bytes(b"\xff\xfe:100000:1\n" * 10)
    async with people_of(path) as people:
        found = await people.identified(peer(100_000))
    assert (found.person_id, found.has_account) == (100_000, False)
    assert bool(caplog.records) == (kind != "no text")


def test_accounts_are_the_systems() -> None:
    have_account(59_990)
    assert find_account(59_990) == find_account("test59990") == find_account("59990") == 59_990
    assert find_account("root") == find_account(0) == 0
    for key in (59_991, "59991", "no-such-user", "\0", "²"):
        assert find_account(key) is None


# What is remembered, and what is not known -----------------------------------------------------------------------


async def test_an_account_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Key] = []

    def find(key: Key) -> int | None:
        asked.append(key)
        return ACCOUNTS.get(key)

    async with people_of(tmp_path / "none", find) as people:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                for user_id in (1000, 1002):
                    nursery.start_soon(people.identified, peer(user_id))
        assert sorted(asked, key=str) == [1000, 1002]
        monkeypatch.setattr(limits, "NO_ACCOUNT_AGE_S", -1)
        monkeypatch.setattr(limits, "ACCOUNT_AGE_S", -1)
    async with people_of(tmp_path / "none", find) as people:
        for _ in range(2):
            for user_id in (1000, 1002):
                await people.identified(peer(user_id))
    assert sorted(asked, key=str) == [1000] * 3 + [1002] * 3


class Network:
    """Accounts of which some are only known far away, where nobody answers."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.asked = 0

    def find(self, key: Key) -> int | None:
        if key not in ACCOUNTS:
            self.asked += 1
            assert self.answers.wait(20)
        return ACCOUNTS.get(key)


async def test_while_accounts_do_not_answer_nobody_else_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ACCOUNT_TIMEOUT_S", 0.3)
    network, codes = Network(), list[FailureCode]()
    try:
        async with people_of(tmp_path / "none", network.find) as people, trio.open_nursery() as nursery:

            async def refused(user_id: int) -> None:
                with pytest.raises(RequestRefused, match=f"whether user {user_id} has an account") as refusal:
                    await people.identified(peer(user_id))
                codes.append(refusal.value.failure.code)

            for _ in range(30):
                nursery.start_soon(refused, 2000)
            nursery.start_soon(refused, 2001)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(0.2):  # sooner than these give up
                assert (await people.identified(peer(1000))).has_account
                assert (await people.identified(peer(1001))).has_account
        assert codes == [FailureCode.RESOURCES] * 31
        async with people_of(tmp_path / "none", network.find) as people:
            await refused(2000)
            with trio.fail_after(0.2):  # again it takes no time, and no thread
                await refused(2000)
        assert network.asked == 3
    finally:
        network.answers.set()


async def test_who_was_known_is_known_while_accounts_do_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ACCOUNT_AGE_S", -1)
    monkeypatch.setattr(limits, "ACCOUNT_TIMEOUT_S", 0.1)
    network, answers = Network(), ACCOUNTS.copy()

    def find(key: Key) -> int | None:
        return answers[key] if key in answers else network.find("far away")

    try:
        async with people_of(tmp_path / "none", find) as people:
            assert (await people.identified(peer(1000))).has_account
            answers.clear()
            assert (await people.identified(peer(1000))).has_account
    finally:
        network.answers.set()


async def test_a_failure_to_look_is_no_answer(tmp_path: Path) -> None:
    def fail(_: Key) -> int | None:
        raise RuntimeError("a module of NSS")

    async with people_of(tmp_path / "none", fail) as people:
        with pytest.raises(RequestRefused, match="try again later"):
            await people.identified(peer(1000))
