"""Accounts, groups and subordinate ids of the test run: files of its own in the place of the machine's.

Those stay as they are. Who has no account is nobody to the daemon, so each user whom tests become has one.
"""

import contextlib
import pwd
import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path

from tests.support.namespace import bind_file, enter_private_mount_namespace

_PASSWD, _SUBUID, _GROUP = Path("/etc/passwd"), Path("/etc/subuid"), Path("/etc/group")


@contextlib.contextmanager
def own_accounts() -> Generator[None, None, None]:
    """Have the machine's accounts, and others to come, for the calling thread and what it starts."""
    enter_private_mount_namespace()
    # They keep their names: nothing can be mounted on a file that has none any more.
    with tempfile.TemporaryDirectory(prefix="capd-accounts-") as name:
        for path in (_PASSWD, _SUBUID, _GROUP):
            copy = Path(name, path.name)
            copy.write_bytes(path.read_bytes())
            copy.chmod(0o644)
            bind_file(copy, path)
        yield


def have_account(user_id: int) -> None:
    """Have an account for a user, unless there is one."""
    try:
        pwd.getpwuid(user_id)
    except KeyError:
        with _PASSWD.open("a") as file:
            file.write(f"test{user_id}:x:{user_id}:{user_id}::/:/bin/false\n")


def have_subordinate_ids(lines: Iterable[str]) -> None:
    """Have these lines, and no others, say who has which subordinate ids."""
    _SUBUID.write_text("".join(f"{line}\n" for line in lines))


def have_members(group_id: int, user_ids: Iterable[int]) -> None:
    """Have these users, who have accounts, and no others be members of a group that only tests know."""
    names = ",".join(pwd.getpwuid(user_id).pw_name for user_id in user_ids)
    others = [line for line in _GROUP.read_text().splitlines() if line.split(":")[2:3] != [str(group_id)]]
    _GROUP.write_text("".join(f"{line}\n" for line in (*others, f"test{group_id}:x:{group_id}:{names}")))
