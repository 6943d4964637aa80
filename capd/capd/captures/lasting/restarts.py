"""Restart policy of captures without a client: back-off, and when to give up.

One that waits for its next attempt is in the list of captures, and can be stopped there.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

import trio

from capd.captures.capture import Capture
from capd.errors import RequestRefused
from capd.network.monitor import Monitor
from capd.policy.audit import Audit
from capd.supervisor.handover import Handover
from capd_protocol.messages import EndReason

_log = logging.getLogger(__name__)

#: Of a capture that cannot start, or has ended: the pause before the next attempt doubles, up to a minute.
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
#: One that has run so long begins with the first pause again.
_LASTING_S = 600.0

#: What was asked for is done. A disk that is full is not: there may be room again.
_DONE = (EndReason.DURATION, EndReason.FILESIZE, EndReason.FILES, EndReason.PACKETS)


async def keep_running(
    name: str,
    listed: Callable[[], AbstractContextManager[Capture]],
    run: Callable[[Capture], Awaitable[None]],
    *,
    insists: bool = True,
) -> bool:
    """Run a capture until it was stopped or has reached a limit. Return False where only the daemon has stopped it.

    Args:
        name: for the log.
        listed: makes an attempt, which is in the list of captures while the block lasts.
        run: runs one to its end.
        insists: also if the first attempt cannot start.

    Raises:
        RequestRefused: by ``listed``; or the first attempt could not start.
    """
    pause_s, next_pause_s = 0.0, _FIRST_PAUSE_S
    while True:
        with listed() as capture:
            await capture.wait_stopped(pause_s)
            started_s = trio.current_time()
            account = capture.account
            if account.stopped_for is None:
                try:
                    await run(capture)
                except RequestRefused as refused:
                    if not insists:
                        raise
                    _log.error("capture %s: %s", name, refused)
                except OSError as error:
                    _log.error("capture %s: its directory cannot be used: %s", name, error)
            if account.stopped_for is not None or account.end_reason in _DONE:
                return account.stopped_for != EndReason.DAEMON_STOPPING or account.end_reason in _DONE
        insists = True
        if trio.current_time() - started_s > _LASTING_S:
            next_pause_s = _FIRST_PAUSE_S
        pause_s, next_pause_s = next_pause_s, min(2 * next_pause_s, _LONGEST_PAUSE_S)


async def run_to_end(
    capture: Capture,
    handover: Handover,
    monitor: Monitor,
    audit: Audit,
    on_started: Callable[[], None] = lambda: None,
) -> None:
    """Run a capture for nobody in particular.

    Args:
        capture: to run.
        handover: of the directory where its files go; stays the caller's.
        monitor: reports interfaces that come and go.
        audit: has it on record.
        on_started: called when its first file has its header.

    Raises:
        RequestRefused: it could not be started.
    """
    with capture.on_record(audit):
        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(capture.run, handover, monitor)
            except RequestRefused as error:
                refused: RequestRefused | None = error  # which the nursery would wrap
            else:
                refused = None
                on_started()
    if refused is not None:
        raise refused
