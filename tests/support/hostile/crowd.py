"""All hostile clients: so many processes of each account, killed and begun anew at random moments; and root's part."""

import contextlib
import os
import random
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field

from tests.support.attack import FRAMES, Channel, User, UserProcess
from tests.support.hostile.actors import Actor
from tests.support.hostile.isolation import logged_in
from tests.support.hostile.world import ATTACK_PAIRS, HOSTILE, World

#: Processes of each account. Chosen: with five accounts, a hundred things a second.
_ACTORS = 4
#: One of all is killed after this time, on average: each lives ten seconds.
_KILL_S = 0.5
#: Pairs that come and go.
_GUESTS = 4
#: What they are renamed to: on some another rule holds, on some none, and some look like patterns.
_OTHER_NAMES = ("attack-c0", "stranger0", "any", "guest[0]", "g*")
_ROOT = User(0, 0)
_READ_BYTES = 65536


@dataclass
class Reports:
    """What actors have reported: how often each thing came to what; and what they should never have been granted."""

    acts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    killed: int = 0

    def take(self, lines: list[str]) -> None:
        """Take what was reported."""
        for line in lines:
            if line.startswith("VIOLATION "):
                self.violations.append(line.removeprefix("VIOLATION "))
            else:
                self.acts[line] += 1


class Crowd:
    """Runs actors; ``tick`` keeps them running."""

    def __init__(self, world: World, seed: str, alice: int, reports: Reports) -> None:
        self._world = world
        self._seed = seed
        self._choose = random.Random(f"{seed}/crowd")
        self._alice = alice
        self._reports = reports
        self._slots = [(account, number) for account in HOSTILE for number in range(_ACTORS)]
        self._running: dict[int, tuple[contextlib.ExitStack, UserProcess]] = {}
        self._others: list[UserProcess] = []
        self._generation: Counter[int] = Counter()
        self._readable, self._report = os.pipe()
        os.set_blocking(self._readable, False)
        self._rest = b""
        self._next_kill_s = time.monotonic()

    @contextlib.contextmanager
    def running(self) -> Generator[None, None, None]:
        """Have all of them run while the block lasts; then all are killed at once."""
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, self._readable)
            stack.callback(os.close, self._report)
            stack.callback(self._hear)
            stack.callback(self._kill_all)
            seed = f"{self._seed}/interfaces"
            self._others = [stack.enter_context(logged_in(_ROOT, lambda _: change_interfaces(seed)))]
            for slot in range(len(self._slots)):
                self._begin(slot)
            yield
        remove_guests()

    def tick(self) -> None:
        """Hear what they tell, and kill one if it is time to.

        Raises:
            BaseException: what one of them has raised: the attack itself is at fault.
        """
        self._hear()
        for process in (*self._others, *(each for _, each in self._running.values())):
            if process.channel.poll():
                process.hear()
                raise AssertionError("an actor has ended by itself")
        if time.monotonic() >= self._next_kill_s:
            self._next_kill_s = time.monotonic() + self._choose.expovariate(1 / _KILL_S)
            slot = self._choose.randrange(len(self._slots))
            self._running.pop(slot)[0].close()
            self._reports.killed += 1
            self._begin(slot)

    def _begin(self, slot: int) -> None:
        account, number = self._slots[slot]
        self._generation[slot] += 1
        choose = random.Random(f"{self._seed}/{account.name}/{number}/{self._generation[slot]}")
        actor = Actor(self._world, account, choose, number, self._alice, self._report)
        stack = contextlib.ExitStack()

        def act(_: Channel) -> None:
            actor.run()

        process = stack.enter_context(logged_in(account.user, act, keep=[self._report]))
        self._running[slot] = stack, process

    def _kill_all(self) -> None:
        for _, process in self._running.values():
            process.kill()
        while self._running:
            self._running.popitem()[1][0].close()

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._readable, _READ_BYTES):
                *lines, self._rest = (self._rest + data).split(b"\n")
                self._reports.take([line.decode() for line in lines])


# Root's part ----------------------------------------------------------------------------------------------------------


def change_interfaces(seed: str) -> None:
    """Have interfaces come, go, be renamed, go down and up, and packets on them and on those that stay; for ever."""
    choose = random.Random(seed)
    senders = {name: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) for name, _ in ATTACK_PAIRS}
    next_s = time.monotonic()
    while True:
        for name, sender in senders.items():
            with contextlib.suppress(OSError):  # it is down
                for frame in FRAMES * 5:
                    sender.sendto(frame, (name, 0))
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + choose.expovariate(1 / 0.3)
            _change_one(choose)
        time.sleep(0.02)


def _change_one(choose: random.Random) -> None:
    guest = f"guest{choose.randrange(_GUESTS)}"
    other = choose.choice((f"guest{choose.randrange(_GUESTS)}", *_OTHER_NAMES))
    attacked = choose.choice([name for pair in ATTACK_PAIRS for name in pair])
    _ip(
        *choose.choice(
            (
                [
                    f"link add name {guest} type veth peer name {guest}p",
                    f"link set dev {guest} up",
                    f"link set dev {guest}p up",
                ],
                [f"link add name {guest} index {choose.randrange(500, 505)} type veth peer name {guest}p"],
                [f"link delete dev {guest}"],
                [f"link set dev {guest} down", f"link set dev {guest} name {other}", f"link set dev {other} up"],
                [f"link set dev {other} down", f"link set dev {other} name {guest}", f"link set dev {guest} up"],
                [f"link delete dev {other}"],
                [f"link set dev {guest} down"],
                [f"link set dev {guest} up"],
                [f"link set dev {attacked} down", f"link set dev {attacked} up"],
            )
        )
    )


def remove_guests() -> None:
    """Remove what is left of interfaces that come and go."""
    names = (*(f"guest{number}" for number in range(_GUESTS)), *_OTHER_NAMES)
    _ip(*(f"link delete dev {name}" for name in names))


def _ip(*lines: str) -> None:
    """Have ``ip`` carry out lines; that one of them cannot be, since there is no such interface, is no fault."""
    subprocess.run(
        ["ip", "-force", "-batch", "-"],
        input="\n".join(lines) + "\n",
        text=True,
        check=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=10,
    )
