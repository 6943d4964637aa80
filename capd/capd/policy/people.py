"""Persons behind user ids: limits are a person's, and one person may have many ids (subuid(5)).

useradd(8) gives each user 65,536 subordinate ids (subuid(5)), which newuidmap(1) lets that user become, keeping its
groups. So what is done under such an id counts for the person who has it. A range that takes in ids of accounts, by
mistake, makes these share limits with its owner, and no more: what they may do is theirs.

Accounts are asked for in threads, since the answer may come from the network (NSS: sssd(8), LDAP), and remembered.
While that hangs, users who are known go on as before; others wait for ``limits.ACCOUNT_TIMEOUT_S`` and are then refused
for now, and nobody else waits for them.
"""

import bisect
import contextlib
import dataclasses
import grp
import itertools
import logging
import os
import pwd
import stat
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio

from capd import limits
from capd.errors import RequestRefused, no_room
from capd.pacing.threads import in_thread
from capd.policy.peer import SUBORDINATES_OF_ROOT, Peer
from capd_protocol.messages import FailureCode

_log = logging.getLogger(__name__)

_SUBUID = Path("/etc/subuid")
#: What is longer is not read. Chosen: tens of thousands of users.
_MAX_BYTES = 1024 * 1024
_IDS = 2**32
_ROOT = 0
#: Accounts that are remembered; beyond, all but the newest are forgotten.
_MAX_ACCOUNTS = 10_000

#: By number, or by name, as ``/etc/subuid`` has owners.
Key = int | str


# Subordinate ids -------------------------------------------------------------------------------------------------


class Range(NamedTuple):
    """Ids that an owner may become."""

    first: int
    last: int
    owner: str


class Subordinates:
    """Who has which subordinate ids. Pure."""

    def __init__(self, ranges: list[Range]) -> None:
        self._ranges = sorted(ranges)
        # How far those up to each reach: where ranges overlap, the nearest before need not be the one.
        self._reach = list(itertools.accumulate((each.last for each in self._ranges), max))

    def owner_of(self, user_id: int) -> str | None:
        """Return the owner as the file has it, a name or a number; None where nobody has the id."""
        at = bisect.bisect_right(self._ranges, user_id, key=lambda each: each.first) - 1
        while at >= 0 and self._reach[at] >= user_id:
            if self._ranges[at].last >= user_id:
                return self._ranges[at].owner
            at -= 1
        return None


def parse_subordinates(text: str) -> Subordinates:
    """Read what ``/etc/subuid`` says, as shadow-utils do: lines that are none of ``owner:first:count`` say nothing."""
    ranges: list[Range] = []
    for line in text.splitlines():
        match line.split(":"):
            case [owner, first, count] if owner and _is_number(first) and _is_number(count):
                last = int(first) + int(count) - 1
                if int(first) <= last < _IDS:
                    ranges.append(Range(int(first), last, owner))
            case _:
                pass
    return Subordinates(ranges)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 10


_Stamp = tuple[int, int, int]


def _stamp_of(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read_subordinates(path: Path) -> Subordinates:
    try:
        # Whatever lies there, nobody waits for it.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(0, "it is no file")
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise OSError(0, f"it is longer than {_MAX_BYTES} bytes")
    except OSError as error:
        _log.error("%s cannot be used, so subordinate ids are nobody's: %s", path, error.strerror)
        return Subordinates([])
    return parse_subordinates(data.decode(errors="replace"))


# Accounts --------------------------------------------------------------------------------------------------------


def find_account(key: Key) -> int | None:
    """Return the id of an account, by its id or name; None where there is none. It may take any time."""
    with contextlib.suppress(KeyError, ValueError):  # such as a NUL in it
        if isinstance(key, int):
            return pwd.getpwuid(key).pw_uid
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(key).pw_uid
        if _is_number(key):
            return pwd.getpwuid(int(key)).pw_uid
    return None


def find_groups(user_id: int) -> frozenset[int]:
    """Return the groups that an account has, its primary one too; none where there is no account. It may take any time.

    The C library does not distinguish an account that is gone from one of a directory service that does not answer.
    """
    try:
        account = pwd.getpwuid(user_id)
    except KeyError:
        return frozenset()
    return frozenset((account.pw_gid, *os.getgrouplist(account.pw_name, account.pw_gid)))


def find_group(name: str) -> int | None:
    """Return the id of a group; None where there is none of this name. It may take any time."""
    with contextlib.suppress(KeyError):
        return grp.getgrnam(name).gr_gid
    return None


class _Account(NamedTuple):
    user_id: int | None
    #: How long this is remembered.
    until_s: float


class _Asking:
    """A question that is under way, and who waits for the answer."""

    def __init__(self) -> None:
        self.since_s = trio.current_time()
        self.is_done = trio.Event()
        self.waiting = 0


class People:
    """Finds the persons behind users."""

    def __init__(
        self,
        find: Callable[[Key], int | None] = find_account,
        subuid: Path = _SUBUID,
        groups: Callable[[int], frozenset[int]] = find_groups,
    ) -> None:
        """Know nobody yet.

        Args:
            find: what to ask for accounts, in a thread.
            subuid: where subordinate ids are.
            groups: what to ask for an account's groups, in a thread.
        """
        self._find = find
        self._find_groups = groups
        self._path = subuid
        self._stamp: _Stamp | None = None
        self._subordinates = Subordinates([])
        self._reading = trio.Lock()
        self._accounts: dict[Key, _Account] = {}
        self._asking: dict[Key, _Asking] = {}
        self._threads = trio.CapacityLimiter(limits.MAX_ACCOUNT_THREADS)
        # Apart, so that new clients do not wait for these.
        self._group_threads = trio.CapacityLimiter(limits.MAX_ACCOUNT_THREADS)
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work for all callers, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    async def identified(self, peer: Peer) -> Peer:
        """Return the peer with the person behind it; of one from a container, that is known.

        Raises:
            RequestRefused: that is not known in time.
        """
        if peer.is_contained:
            return peer
        owner = (await self._current_subordinates()).owner_of(peer.user_id)
        owner_id = None if owner is None else await self._account_of(owner, peer)
        if owner_id is None or owner_id == peer.user_id:
            has_account = await self._account_of(peer.user_id, peer) is not None
            return dataclasses.replace(peer, behind_id=None, has_account=has_account)
        return dataclasses.replace(peer, behind_id=SUBORDINATES_OF_ROOT if owner_id == _ROOT else owner_id)

    async def groups_of(self, owners: Iterable[Peer]) -> dict[int, frozenset[int]]:
        """Return which groups those who stand behind users have now, by person: asked anew, nothing is remembered.

        One without an account has none. Those of whom it is not known within ``limits.ACCOUNT_TIMEOUT_S`` are left out.
        """
        found: dict[int, frozenset[int]] = {}

        async def find(person_id: int) -> None:
            user_id = _ROOT if person_id == SUBORDINATES_OF_ROOT else person_id
            ask = partial(self._find_groups, user_id)
            try:
                found[person_id] = await in_thread(ask, limiter=self._group_threads, abandon_on_cancel=True)
            except Exception as error:  # whatever a module of NSS does, or no thread
                _log.warning("the groups of user %d cannot be looked up now: %s", user_id, error)

        with trio.move_on_after(limits.ACCOUNT_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for person_id in {each.person_id for each in owners}:
                    nursery.start_soon(find, person_id)
        return found

    async def _current_subordinates(self) -> Subordinates:
        async with self._reading:
            stamp = _stamp_of(self._path)
            if stamp is None:
                return Subordinates([])
            if stamp != self._stamp:
                try:
                    self._subordinates = await in_thread(partial(_read_subordinates, self._path))
                except OSError as error:
                    raise no_room(error) from error
                self._stamp = stamp
            return self._subordinates

    async def _account_of(self, key: Key, peer: Peer) -> int | None:
        known = self._accounts.get(key)
        if known is not None and trio.current_time() < known.until_s:
            return known.user_id
        if key not in self._asking:
            if self._nursery is None:
                raise AssertionError("run comes first")
            self._asking[key] = _Asking()
            self._nursery.start_soon(self._ask, key)
        asking = self._asking[key]
        # A thread that hangs is not joined by another one: the next caller waits for the rest of its time, if any.
        if asking.waiting < limits.MAX_CLIENTS_PER_USER:
            asking.waiting += 1
            try:
                with trio.move_on_at(asking.since_s + limits.ACCOUNT_TIMEOUT_S):
                    await asking.is_done.wait()
            finally:
                asking.waiting -= 1
        known = self._accounts.get(key, known)
        if known is None:
            text = f"capd cannot find out now whether user {peer.user_id} has an account here: try again later"
            raise RequestRefused(FailureCode.RESOURCES, text)
        return known.user_id  # the earlier answer, where there is none now

    async def _ask(self, key: Key) -> None:
        asking = self._asking[key]
        try:
            user_id = await in_thread(partial(self._find, key), limiter=self._threads, abandon_on_cancel=True)
        except Exception as error:  # whatever a module of NSS does, or no thread
            _log.warning("the account %a cannot be looked up now: %s", key, error)
        else:
            age_s = limits.NO_ACCOUNT_AGE_S if user_id is None else limits.ACCOUNT_AGE_S
            self._remember(key, _Account(user_id, trio.current_time() + age_s))
        finally:
            del self._asking[key]
            asking.is_done.set()

    def _remember(self, key: Key, account: _Account) -> None:
        self._accounts.pop(key, None)
        self._accounts[key] = account
        if len(self._accounts) > _MAX_ACCOUNTS:
            del self._accounts[next(iter(self._accounts))]
