"""A capture that nobody waits for is run again and again, later each time, by a clock that the tests turn."""

import contextlib
import logging
from collections.abc import Callable
from functools import partial

import pytest
import trio
import trio.testing

from capd.captures.capture import Capture
from capd.captures.registry import Captures
from capd.captures.restarts import keep_running
from capd.errors import RequestRefused
from capd.policy.peer import Peer
from capd.policy.rules import Policy, Rule
from capd.supervisor.closer import Closer
from capd.supervisor.packet_rings import RingMaker
from capd.supervisor.spawner import Spawner
from capd_protocol.messages import EndReason, FailureCode
from tests.support.attack import request_for

PEER = Peer(1, 61_001, 61_001, ())
#: The pauses, from the first to the longest, which stays.
PAUSES_S = [1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.fixture
def captures() -> Captures:
    return Captures(Policy((Rule(name="all", everybody=True),)), Spawner(), Closer(), RingMaker())


def listed(captures: Captures) -> contextlib.AbstractContextManager[Capture]:
    return captures.granted(PEER, request_for("x", name="kept", wait_for_interfaces=True))


def having_ended(capture: Capture, reason: EndReason) -> None:
    """Have a capture look as if its worker had said why it has ended."""
    capture._end_reason = reason


class Runs:
    """Notes when a capture is run, and has each run be what the test says; the last one is stopped."""

    def __init__(self, *runs: Callable[[Capture], object], then: EndReason = EndReason.STOPPED) -> None:
        self._runs = list(runs)
        self._then = then
        self.times_s: list[float] = []

    async def __call__(self, capture: Capture) -> None:
        self.times_s.append(trio.current_time())
        if not self._runs:
            capture.stop(self._then)
            return
        lasting = self._runs.pop(0)(capture)
        if isinstance(lasting, float):
            await trio.sleep(lasting)

    @property
    def pauses_s(self) -> list[float]:
        """Return what was between one run's beginning and the next one's."""
        return [after - before for before, after in zip(self.times_s, self.times_s[1:], strict=False)]


def dies(capture: Capture) -> None:
    """Do as one does whose process dies: there is no reason."""
    assert capture.end_reason is None


def refused(_: Capture) -> None:
    raise RequestRefused(FailureCode.NO_SUCH_INTERFACE, "there is no x")


def without_directory(_: Capture) -> None:
    raise OSError(2, "No such file or directory")


@pytest.mark.parametrize("how", [dies, refused, without_directory])
async def test_each_pause_is_twice_the_one_before_up_to_a_minute(
    autojump_clock: trio.testing.MockClock, captures: Captures, how: Callable[[Capture], object]
) -> None:
    runs = Runs(*[how] * len(PAUSES_S))
    began_s = trio.current_time()
    assert await keep_running("kept", partial(listed, captures), runs) is True
    assert runs.times_s[0] == began_s
    assert runs.pauses_s == pytest.approx(PAUSES_S)


async def test_one_that_has_run_long_begins_with_the_first_pause_again(
    autojump_clock: trio.testing.MockClock, captures: Captures
) -> None:
    runs = Runs(dies, dies, dies, lambda _: 600.5, dies, lambda _: 599.5, dies)
    await keep_running("kept", partial(listed, captures), runs)
    assert runs.pauses_s == pytest.approx([1, 2, 4, 600.5 + 1, 2, 599.5 + 4, 8])


@pytest.mark.parametrize("reason", [EndReason.DURATION, EndReason.FILESIZE, EndReason.FILES, EndReason.PACKETS])
async def test_one_that_has_what_it_was_asked_for_is_not_run_again(
    autojump_clock: trio.testing.MockClock, captures: Captures, reason: EndReason
) -> None:
    runs = Runs(dies, lambda capture: having_ended(capture, reason), dies)
    assert await keep_running("kept", partial(listed, captures), runs) is True
    assert runs.pauses_s == pytest.approx([1])


@pytest.mark.parametrize("reason", sorted(set(EndReason) - {"duration", "filesize", "files", "packets"}))
async def test_one_that_has_ended_otherwise_is_run_again(
    autojump_clock: trio.testing.MockClock, captures: Captures, reason: EndReason
) -> None:
    # There may be room on the disk again, or the interface back.
    runs = Runs(lambda capture: having_ended(capture, reason))
    await keep_running("kept", partial(listed, captures), runs)
    assert runs.pauses_s == pytest.approx([1])


@pytest.mark.parametrize(
    ("reason", "ended", "is_over"),
    [
        (EndReason.STOPPED, None, True),
        (EndReason.REVOKED, None, True),
        (EndReason.DAEMON_STOPPING, None, False),
        # It was done in the moment in which the daemon stopped.
        (EndReason.DAEMON_STOPPING, EndReason.PACKETS, True),
        (EndReason.DAEMON_STOPPING, EndReason.DISK_LIMIT, False),
    ],
)
async def test_what_only_the_daemon_has_stopped_goes_on_with_the_next_one(
    autojump_clock: trio.testing.MockClock,
    captures: Captures,
    reason: EndReason,
    ended: EndReason | None,
    is_over: bool,
) -> None:
    def stop(capture: Capture) -> None:
        capture.stop(reason)
        if ended is not None:
            having_ended(capture, ended)

    runs = Runs(stop, dies)
    assert await keep_running("kept", partial(listed, captures), runs) is is_over
    assert len(runs.times_s) == 1


async def test_while_it_waits_it_is_listed_and_can_be_stopped_at_once(
    autojump_clock: trio.testing.MockClock, captures: Captures
) -> None:
    runs = Runs(*[dies] * 20)
    async with trio.open_nursery() as nursery:

        async def stop_later() -> None:
            await trio.sleep(30)  # in the fifth pause: 1 + 2 + 4 + 8 s have gone
            (waiting,) = captures.running
            assert waiting.name == "kept"
            waiting.stop(EndReason.STOPPED)

        nursery.start_soon(stop_later)
        began_s = trio.current_time()
        assert await keep_running("kept", partial(listed, captures), runs) is True
        assert trio.current_time() - began_s == pytest.approx(30)
    assert captures.running == ()
    assert len(runs.times_s) == 5


async def test_one_that_need_not_start_is_given_up_where_its_first_attempt_is_refused(
    autojump_clock: trio.testing.MockClock, captures: Captures
) -> None:
    runs = Runs(refused)
    with pytest.raises(RequestRefused):
        await keep_running("kept", partial(listed, captures), runs, insists=False)
    # Later on it is not.
    runs = Runs(dies, refused, dies)
    assert await keep_running("kept", partial(listed, captures), runs, insists=False) is True
    assert runs.pauses_s == pytest.approx([1, 2, 4])


async def test_why_it_cannot_run_is_logged_by_name(
    autojump_clock: trio.testing.MockClock, captures: Captures, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        await keep_running("kept", partial(listed, captures), Runs(refused, without_directory))
    first, second = caplog.messages
    assert first == "capture kept: there is no x"
    assert second.startswith("capture kept: its directory cannot be used: ")


async def test_what_may_not_be_listed_is_not_run(autojump_clock: trio.testing.MockClock, captures: Captures) -> None:
    captures.stop_all()
    runs = Runs(dies)
    with pytest.raises(RequestRefused) as raised:
        await keep_running("kept", partial(listed, captures), runs)
    assert raised.value.failure.code == FailureCode.STOPPING
    assert runs.times_s == []
