"""The captures of the configuration: they run without anybody asking, as long as the daemon does.

Their files lie in a directory of their own below the daemon's state directory, and may be read by the members of
the group that the configuration names.
"""

import contextlib
import logging
import os
from pathlib import Path

import trio

from capd.audit import Audit
from capd.capture import Capture
from capd.captures import Captures
from capd.config import ConfiguredCapture
from capd.errors import RequestRefused
from capd.monitor import Monitor
from capd.peer import Peer
from capd_protocol.messages import EndReason, FailureCode

_log = logging.getLogger(__name__)

#: Of a capture that cannot start, or has ended: the pause before the next attempt doubles, up to a minute.
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
#: One that has run so long begins with the first pause again.
_LASTING_S = 600.0


class Configured:
    """Starts what the configuration names, once each."""

    def __init__(self, captures: Captures, monitor: Monitor, audit: Audit, state_directory: Path) -> None:
        self._captures = captures
        self._monitor = monitor
        self._audit = audit
        self._state_directory = state_directory
        self._names: set[str] = set()

    def start(self, configured: tuple[ConfiguredCapture, ...], nursery: trio.Nursery) -> None:
        """Start those that do not run yet; those that do are left alone, whatever the configuration says by now."""
        for capture in configured:
            if capture.name not in self._names:
                self._names.add(capture.name)
                self._captures.tally.expect(capture.name)
                nursery.start_soon(self._keep_running, capture)

    async def _keep_running(self, configured: ConfiguredCapture) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            started_s = trio.current_time()
            try:
                if await self._run(configured) == EndReason.STOPPED:
                    # By an administrator, until a reload.
                    self._names.discard(configured.name)
                    return
            except RequestRefused as refused:
                if refused.failure.code == FailureCode.STOPPING:
                    return
                _log.error("capture %s: %s", configured.name, refused)
            except OSError as error:
                _log.error("capture %s: its directory cannot be used: %s", configured.name, error)
            if trio.current_time() - started_s > _LASTING_S:
                pause_s = _FIRST_PAUSE_S
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _run(self, configured: ConfiguredCapture) -> EndReason | None:
        owner = Peer(os.getpid(), os.geteuid(), configured.group_id, ())
        directory_fd = _open_directory(self._state_directory / configured.name, configured.group_id)
        try:
            with self._captures.configured(owner, configured) as capture:
                self._audit.granted(owner, configured.request, **capture.grant_record())
                try:
                    refused = await self._run_to_end(capture, directory_fd)
                finally:
                    self._audit.ended(owner, configured.request, **capture.end_record())
        finally:
            os.close(directory_fd)
        if refused is not None:
            raise refused
        return capture.end_reason

    async def _run_to_end(self, capture: Capture, directory_fd: int) -> RequestRefused | None:
        """Run a capture to its end; return why it could not be started, which a nursery would wrap."""
        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(capture.run, directory_fd, None, self._monitor)
            except RequestRefused as refused:
                return refused
        return None


def _open_directory(path: Path, group_id: int) -> int:
    """Make the directory if need be, for the group to read, and open it.

    Raises:
        OSError: it cannot be.
    """
    former = os.getegid()
    # What is made belongs to the effective group; giving it away afterwards would take a further privilege.
    os.setegid(group_id)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            path.chmod(0o750)  # whatever the umask
    finally:
        os.setegid(former)
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
