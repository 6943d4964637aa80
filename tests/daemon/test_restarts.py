"""A capture that nobody waits for is run again, less and less often, until it is done or stopped."""

import contextlib
from collections.abc import Awaitable, Callable, Generator
from functools import partial

import pytest
import trio
import trio.testing

from capd.captures.capture import Capture
from capd.captures.lasting.restarts import keep_running
from capd.captures.registry import Captures
from capd.errors import RequestRefused
from capd.policy.peer import Peer
from capd.policy.rules import Policy
from capd.supervisor.closer import Closer
from capd.supervisor.packet_rings import PacketRingMaker
from capd.supervisor.spawner import Spawner
from capd_protocol.messages import Ended, EndReason, FailureCode
from tests.support.attack import request_for

LIMITS = (EndReason.DURATION, EndReason.FILESIZE, EndReason.FILES, EndReason.PACKETS)
NOT_DONE = (EndReason.FAILED, EndReason.DISK_LIMIT, EndReason.STOPPED)


class Attempts:
    """What becomes of each attempt, and when it was made."""

    def __init__(self, *outcomes: Callable[[Capture], Awaitable[None]]) -> None:
        self.begun_s: list[float] = []
        self.listed: list[Capture] = []
        self._outcomes = iter(outcomes)
        self._captures = Captures(Policy(), Spawner(), Closer(), PacketRingMaker())

    @contextlib.contextmanager
    def enter(self) -> Generator[Capture, None, None]:
        with self._captures.granted(Peer(1, 0, 0, ()), request_for("lo", name="a")) as capture:
            self.listed.append(capture)
            yield capture

    async def run(self, capture: Capture) -> None:
        self.begun_s.append(trio.current_time())
        await next(self._outcomes)(capture)

    @property
    def pauses_s(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.begun_s, self.begun_s[1:], strict=False)]


async def refuse(_: Capture) -> None:
    raise RequestRefused(FailureCode.DISK, "no room")


async def lose_directory(_: Capture) -> None:
    raise FileNotFoundError(2, "gone")


def ends(reason: EndReason, after_s: float = 0.0) -> Callable[[Capture], Awaitable[None]]:
    async def end(capture: Capture) -> None:
        await trio.sleep(after_s)
        capture.account.add(Ended(reason=reason, interfaces=()))

    return end


def stopped(reason: EndReason, ended: EndReason = EndReason.STOPPED) -> Callable[[Capture], Awaitable[None]]:
    async def stop(capture: Capture) -> None:
        capture.stop(reason)
        capture.account.add(Ended(reason=ended, interfaces=()))

    return stop


async def test_pauses_double_up_to_a_minute(autojump_clock: trio.testing.MockClock) -> None:
    attempts = Attempts(*[refuse, lose_directory, ends(EndReason.FAILED)] * 3, stopped(EndReason.STOPPED))
    assert await keep_running("a", attempts.enter, attempts.run)
    assert attempts.pauses_s == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60, 60])


async def test_one_that_has_run_for_long_is_soon_run_again(autojump_clock: trio.testing.MockClock) -> None:
    short, long = ends(EndReason.FAILED, 599.0), ends(EndReason.FAILED, 601.0)
    attempts = Attempts(short, short, short, long, long, stopped(EndReason.STOPPED))
    assert await keep_running("a", attempts.enter, attempts.run)
    assert attempts.pauses_s == pytest.approx([599 + 1, 599 + 2, 599 + 4, 601 + 1, 601 + 1])


@pytest.mark.parametrize("reason", LIMITS)
async def test_one_that_has_reached_a_limit_is_done(reason: EndReason) -> None:
    attempts = Attempts(ends(reason))
    assert await keep_running("a", attempts.enter, attempts.run)


@pytest.mark.parametrize("reason", NOT_DONE)
async def test_one_that_ends_otherwise_is_run_again(autojump_clock: trio.testing.MockClock, reason: EndReason) -> None:
    attempts = Attempts(ends(reason), stopped(EndReason.STOPPED))
    assert await keep_running("a", attempts.enter, attempts.run)
    assert len(attempts.begun_s) == 2


async def test_only_one_that_the_daemon_has_stopped_goes_on_with_the_next_daemon() -> None:
    for reason in (EndReason.STOPPED, EndReason.REVOKED):
        attempts = Attempts(stopped(reason))
        assert await keep_running("a", attempts.enter, attempts.run)
    attempts = Attempts(stopped(EndReason.DAEMON_STOPPING))
    assert not await keep_running("a", attempts.enter, attempts.run)
    attempts = Attempts(stopped(EndReason.DAEMON_STOPPING, ended=EndReason.PACKETS))  # which it has reached before
    assert await keep_running("a", attempts.enter, attempts.run)


async def test_one_that_waits_can_be_told_to_end(autojump_clock: trio.testing.MockClock) -> None:
    attempts = Attempts(refuse)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(keep_running, "a", attempts.enter, attempts.run))
        await trio.sleep(0.5)
        assert len(attempts.listed) == 2
        attempts.listed[-1].stop(EndReason.STOPPED)
    assert trio.current_time() == pytest.approx(attempts.begun_s[0] + 0.5)
    assert len(attempts.begun_s) == 1


async def test_who_does_not_insist_learns_why_the_first_attempt_failed(autojump_clock: trio.testing.MockClock) -> None:
    attempts = Attempts(refuse)
    with pytest.raises(RequestRefused, match="no room"):
        await keep_running("a", attempts.enter, attempts.run, insists=False)
    attempts = Attempts(ends(EndReason.FAILED), refuse, stopped(EndReason.STOPPED))
    assert await keep_running("a", attempts.enter, attempts.run, insists=False)
    assert len(attempts.begun_s) == 3
