"""The captures of the configuration: they run without a request, as long as the daemon does.

Their files lie in a directory of their own below the daemon's state directory, and may be read by the members of
the group that the configuration names.
"""

import contextlib
import logging
import os
from functools import partial
from pathlib import Path

import trio

from capd.captures.capture import Capture
from capd.captures.lasting.restarts import keep_running, run_to_end
from capd.captures.registry import Captures
from capd.config.reader import ConfiguredCapture
from capd.errors import RequestRefused
from capd.network.monitor import Monitor
from capd.policy.audit import Audit
from capd.policy.peer import Peer
from capd.supervisor.closer import Closer
from capd.supervisor.handover import Envelope, FromEnvelope
from capd_protocol.messages import FailureCode

_log = logging.getLogger(__name__)


class Configured:
    """Starts what the configuration names, once each."""

    def __init__(
        self, captures: Captures, monitor: Monitor, audit: Audit, closer: Closer, state_directory: Path
    ) -> None:
        self._captures = captures
        self._closer = closer
        self._monitor = monitor
        self._audit = audit
        self._state_directory = state_directory
        self._names: set[str] = set()

    def start(self, configured: tuple[ConfiguredCapture, ...], nursery: trio.Nursery) -> None:
        """Start those that do not run yet; those that do are left alone, whatever the configuration says by now."""
        self._captures.reserve(configured)
        for capture in configured:
            if capture.name not in self._names:
                self._names.add(capture.name)
                self._captures.tally.expect(capture.name)
                nursery.start_soon(self._keep_running, capture)

    async def _keep_running(self, configured: ConfiguredCapture) -> None:
        owner = Peer(os.getpid(), os.geteuid(), configured.group_id, ())
        listed = partial(self._captures.configured, owner, configured)
        try:
            await keep_running(configured.name, listed, partial(self._run, owner, configured))
        except RequestRefused as refused:
            if refused.failure.code != FailureCode.STOPPING:
                _log.error("capture %s: %s", configured.name, refused)
        # Stopped by an administrator, until a reload.
        self._names.discard(configured.name)

    async def _run(self, owner: Peer, configured: ConfiguredCapture, capture: Capture) -> None:
        envelope = _open_directory(self._state_directory / configured.name, configured.group_id)
        try:
            await run_to_end(capture, FromEnvelope(envelope), self._monitor, self._audit)
        finally:
            envelope.close(self._closer, owner.person_id)


def _open_directory(path: Path, group_id: int) -> Envelope:
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
    directory_fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return Envelope.of(directory_fd)
    finally:
        os.close(directory_fd)
