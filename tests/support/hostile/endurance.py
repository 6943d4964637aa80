"""One run: alice's capture and carol's questions, first among themselves, then beside all that is hostile."""

import contextlib
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from capd_client import list_captures
from tests.support.attack import User, UserProcess
from tests.support.hostile import witnesses
from tests.support.hostile.crowd import Crowd, Reports
from tests.support.hostile.footprint import Footprint, base_of, settled
from tests.support.hostile.isolation import logged_in
from tests.support.hostile.judgement import Observed
from tests.support.hostile.world import ALICE, ALICE_PAIR, CAROL, World
from tests.support.namespace import link_counters

#: Parts of the run: first calm, then a round that fills caches.
_CALM_SHARE = _WARM_UP_SHARE = 0.1
#: All that is left of hostile clients is gone by then. Chosen: the daemon gives a worker 20 s to start, then 10 s to
#: end; after a minute it drops the ring that it keeps ahead, and its threads end after 10 s without work.
_SETTLE_S = 90.0
#: Between two looks at everything.
_TICK_S = 0.02
#: Alice waits for the last packets, and her capture has its time to end.
_ALICE_END_S = 60.0
_COUNT_TIMEOUT_S = 120.0
_ROOT = User(0, 0)


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        seconds: how long, but for what it takes to settle.
        rate_pps: packets a second that alice records.
        seed: of all chances.
        is_calm: without anybody hostile.
    """

    seconds: float
    rate_pps: float
    seed: str
    is_calm: bool = False


class DaemonEnded(Exception):
    """The daemon has ended: nothing more can be seen."""


class FileCounter:
    """Has capinfos count the packets of files, one after another, beside what else goes on."""

    def __init__(self) -> None:
        self._waiting: list[str] = []
        self._running: subprocess.Popen[str] | None = None
        self.counted: list[int] = []
        self.complaints: list[str] = []

    def add(self, path: str) -> None:
        """Have a file counted."""
        self._waiting.append(path)

    def tick(self) -> None:
        """Take what is done, and begin with the next one."""
        if self._running is not None:
            if self._running.poll() is None:
                return
            output, errors = self._running.communicate()
            found = re.search(r"\t([0-9]+)$", output.strip())
            if self._running.returncode == 0 and found:
                self.counted.append(int(found[1]))
            else:
                self.complaints.append(f"capinfos: {errors.strip()}")
            self._running = None
        if self._waiting:
            command = ["nice", "capinfos", "-TMrc", self._waiting.pop(0)]
            self._running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(self) -> None:
        """Wait until all are counted."""
        deadline_s = time.monotonic() + _COUNT_TIMEOUT_S
        while self._waiting or self._running is not None:
            self.tick()
            if time.monotonic() > deadline_s:
                self.complaints.append("capinfos does not come to an end")
                return
            time.sleep(_TICK_S)


class Run:
    """A run, from ``go`` to what was observed."""

    def __init__(self, plan: Plan, world: World, say: Callable[[str, float, Reports], None]) -> None:
        """Nothing runs yet.

        Args:
            plan: what to do.
            world: where.
            say: gets what goes on, for how many seconds more, and what actors have reported so far.
        """
        self._plan = plan
        self._world = world
        self._say = say
        self._counter = FileCounter()
        self._reports = Reports()
        self._heard: witnesses.Heard | None = None

    def go(self) -> Observed:
        """Do all of it.

        Raises:
            DaemonEnded: it was not to.
        """
        plan, world = self._plan, self._world
        with contextlib.ExitStack() as stack:

            def begin(user: User, function: Callable[..., object], *arguments: object) -> UserProcess:
                return stack.enter_context(logged_in(user, lambda channel: function(channel, *arguments)))

            self._alice = begin(ALICE.user, witnesses.record, world, plan.rate_pps)
            self._number: int = self._alice.hear()
            self._carol = begin(CAROL.user, witnesses.ask, world)
            sender = begin(_ROOT, witnesses.send, plan.rate_pps)
            sleeper = begin(CAROL.user, witnesses.sleep_only)

            calm_s, warm_up_s = plan.seconds * _CALM_SHARE, plan.seconds * _WARM_UP_SHARE
            self._pass_time("calm", calm_s)
            base, _ = self._settle(None)
            attacked_s = time.monotonic()
            self._attack("warm-up", warm_up_s)
            before, left_before = self._settle(base)
            self._attack("hostile", plan.seconds - calm_s - warm_up_s)
            after, left_after = self._settle(base, and_go_on=False)
            listed = [each.capture_id for each in list_captures(socket_path=world.daemon.socket_path)]
            over_s = time.monotonic()

            self._say("the end", 0, self._reports)
            sent: witnesses.Sent = sender.ask("finish")
            self._alice.say(sent.packets)
            answers, late = self._carol.ask("finish"), sleeper.ask("finish")
            heard = self._hear_alice_out()
        self._counter.finish()
        return Observed(
            reports=self._reports,
            attacked_s=attacked_s,
            over_s=over_s,
            base=base,
            before=before,
            after=after,
            left_before=left_before,
            left_after=left_after,
            listed=listed,
            alice=self._number,
            sent=sent,
            heard=heard,
            answers=answers,
            late=late,
            link_packets=link_counters(ALICE_PAIR[1])["rx"]["packets"],
            counted=self._counter.counted,
            complaints=self._counter.complaints,
        )

    def _attack(self, name: str, seconds: float) -> None:
        if self._plan.is_calm:
            self._pass_time(f"{name}, without anybody hostile", seconds)
            return
        crowd = Crowd(self._world, f"{self._plan.seed}/{name}", self._number, self._reports)
        with crowd.running():
            self._pass_time(name, seconds, crowd.tick)

    def _pass_time(self, name: str, seconds: float, also: Callable[[], None] = lambda: None) -> None:
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self._tick()
            also()
            self._say(name, left_s, self._reports)
            time.sleep(_TICK_S)

    def _tick(self) -> None:
        """Look at everything.

        Raises:
            DaemonEnded: it was not to.
        """
        if self._world.daemon.process.poll() is not None:
            raise DaemonEnded(f"capd has ended with status {self._world.daemon.process.returncode}")
        while self._heard is None and self._alice.channel.poll():
            self._take_from_alice()
        self._counter.tick()

    def _take_from_alice(self) -> None:
        thing = self._alice.hear(_ALICE_END_S)
        if isinstance(thing, witnesses.Closed):
            self._counter.add(thing.name)
        else:
            self._heard = thing

    def _hear_alice_out(self) -> witnesses.Heard:
        while self._heard is None:
            self._take_from_alice()
        return self._heard

    def _settle(self, base: Footprint | None, *, and_go_on: bool = True) -> tuple[Footprint, str]:
        """Have carol pause, and wait until nothing is left of others; return what there is then, and what is left."""
        assert self._carol.ask("pause") == "pause"

        def meanwhile() -> None:
            self._tick()
            self._say("settling", 0, self._reports)

        daemon = self._world.daemon
        found = (
            (base_of(daemon, [self._number], _SETTLE_S, meanwhile), "")
            if base is None
            else settled(daemon, [self._number], base, _SETTLE_S, meanwhile)
        )
        if and_go_on:
            assert self._carol.ask("go on") == "go on"
        return found
