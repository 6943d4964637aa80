"""Where it happens: accounts, their rules, their directories, and the interfaces."""

import contextlib
import os
import subprocess
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from tests.support.attack import User
from tests.support.daemon import Daemon, running_daemon
from tests.support.hostile.isolation import add_accounts, mount_memory
from tests.support.namespace import veth_pair


@dataclass(frozen=True)
class Account:
    """Somebody.

    Attributes:
        name: of the account.
        user_id: its number, its group's too.
        may_capture: a rule names it.
    """

    name: str
    user_id: int
    may_capture: bool = True

    @property
    def user(self) -> User:
        """As processes have it."""
        return User(self.user_id, self.user_id)


ALICE, CAROL = Account("alice", 47106), Account("carol", 47107)
HOSTILE = (
    Account("mallory", 47101),
    Account("oscar", 47102),
    Account("eve", 47103, may_capture=False),
    Account("sybil", 47104, may_capture=False),
    Account("trudy", 47105, may_capture=False),
)

#: Pairs: sent on the first, captured on the second.
ALICE_PAIR, CAROL_PAIR = ("alice0", "alice1"), ("carol0", "carol1")
ATTACK_PAIRS = (("attack-a0", "attack-b0"), ("attack-a1", "attack-b1"))

_CONFIGURATION = """
[[rule]]
name = "alice"
users = ["alice"]
interfaces = ["alice*"]

[[rule]]
name = "carol"
users = ["carol"]
interfaces = ["carol*"]
max_captures = 2

[[rule]]
name = "mallory"
users = ["mallory"]
interfaces = ["attack*", "guest*"]
max_captures = 6
max_disk_bytes = 200_000_000
max_duration_s = 30

[[rule]]
name = "oscar, a part"
users = ["oscar"]
interfaces = ["attack*0"]
filter = "udp"
max_snaplen_bytes = 96
promiscuous = false
max_captures = 4
max_disk_bytes = 100_000_000
max_duration_s = 20

[[rule]]
name = "oscar, guests"
users = ["oscar"]
interfaces = ["guest*"]
filter = "not tcp port 22"
max_captures = 3
max_disk_bytes = 100_000_000
"""

#: For the files of all hostile accounts together; it is full at times, which is theirs to bear.
_HOSTILE_MIB = 256


@dataclass(frozen=True)
class World:
    """What everybody knows.

    Attributes:
        place: where everything is.
        daemon: the one that is attacked.
    """

    place: Path
    daemon: Daemon

    @property
    def shared(self) -> Path:
        """A directory in which everybody may write."""
        return self.place / "hostile" / "shared"

    def directory_of(self, account: Account) -> Path:
        """An account's own directory, which everybody may enter."""
        return (self.place if account == ALICE else self.place / "hostile") / account.name


@contextlib.contextmanager
def world(place: Path, prefix: tuple[str, ...], alice_mib: int) -> Generator[World, None, None]:
    """Have everything in place while the block lasts; the daemon ends well behind it.

    Args:
        place: an empty directory, in namespaces of its own.
        prefix: for ``running_daemon``.
        alice_mib: room for alice's files.
    """
    everybody = (ALICE, CAROL, *HOSTILE)
    add_accounts(place, {each.name: each.user_id for each in everybody})
    for name, size_mib in (("alice", alice_mib), ("hostile", _HOSTILE_MIB)):
        (place / name).mkdir()
        mount_memory(place / name, size_mib)
    (place / "daemon").mkdir()
    configuration = place / "daemon" / "capd.toml"
    configuration.write_text(_CONFIGURATION)
    subprocess.run(["ip", "link", "set", "dev", "lo", "up"], check=True, timeout=10)
    with contextlib.ExitStack() as stack:
        for pair in (ALICE_PAIR, CAROL_PAIR, *ATTACK_PAIRS):
            stack.enter_context(veth_pair(*pair))
        daemon = stack.enter_context(running_daemon(place / "daemon", "--config", str(configuration), prefix=prefix))
        made = World(place, daemon)
        made.shared.mkdir()
        made.shared.chmod(0o1777)
        for each in everybody:
            directory = made.directory_of(each)
            directory.mkdir(exist_ok=True)
            directory.chmod(0o755)
            chown(directory, each)
        yield made


def chown(path: Path, account: Account) -> None:
    """Give a file or a directory to an account."""
    os.chown(path, account.user_id, account.user_id)
