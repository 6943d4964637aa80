"""Audit log: one structured line for each grant, refusal, order and end.

As a service the lines go to the journal with their fields (``journalctl CAPD_VERDICT=refused``), by its native
protocol, https://systemd.io/JOURNAL_NATIVE_PROTOCOL/; else to the daemon's log. None is lost: a line that the journal
does not take now waits, and requests wait for it. Questions, which change nothing and may be frequent, are summed up:
one line a minute for each user.
"""

import collections
import contextlib
import errno
import json
import logging
import os
import socket
import syslog
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import NamedTuple

import trio

from capd import limits
from capd.errors import RequestRefused
from capd.pacing.rate_limited_log import Restrained
from capd.policy.peer import CONTAINERS, Peer, person
from capd_protocol.messages import (
    Failure,
    FailureCode,
    GetCapabilities,
    GetDriverCounters,
    ListCaptures,
    ListInterfaces,
    Request,
    StartCapture,
    WatchInterfaces,
    WatchStatistics,
    WhoAmI,
)

_log = logging.getLogger(__name__)

_JOURNAL = Path("/run/systemd/journal/socket")
_QUESTIONS = (
    *(ListCaptures, WhoAmI, ListInterfaces, GetCapabilities, GetDriverCounters),
    *(WatchInterfaces, WatchStatistics),
)
#: As for captures.
_CALLED = {"interface": "interfaces"}
#: Of texts that a client wrote. Chosen: a line that can be read.
_MAX_CHARACTERS = 1000
#: The journal's socket has no room now: its queue is full, or ours is.
_BUSY = (errno.EAGAIN, errno.ENOBUFS)


class _Line(NamedTuple):
    message: str
    datagram: bytes


class Journal:
    """The journal's socket, and the lines that wait for it."""

    def __init__(self, path: Path = _JOURNAL) -> None:
        """Send nothing yet; where it cannot be reached, lines go to the log."""
        self._path = path
        self._socket: socket.socket | None = None
        self._waiting: collections.deque[_Line] = collections.deque()
        self._has_waiting = trio.Event()
        self._has_room = trio.Event()
        self._has_room.set()
        self._is_over = False

    def send(self, message: str, fields: Mapping[str, str]) -> None:
        """Send a line, now or as soon as the journal takes it, behind those that wait.

        What comes although there is no room (captures end, and root asks) waits too; where that is as much again, the
        oldest line goes to the log.
        """
        line = _Line(message, "".join(f"{key}={value}\n" for key, value in fields.items()).encode())
        if self._waiting or not self._was_sent(line):
            if self._is_over:
                self._fall_back(line, "it does not take it now")
                return
            self._waiting.append(line)
            self._has_waiting.set()
            if len(self._waiting) > 2 * limits.MAX_WAITING_LINES:
                self._fall_back(self._waiting.popleft(), "too many lines wait for it")
            if len(self._waiting) >= limits.MAX_WAITING_LINES and self.has_room:
                _log.error("the journal takes no lines: requests wait until it does")
                self._has_room = trio.Event()

    @property
    def has_room(self) -> bool:
        """Whether not too many lines wait."""
        return self._has_room.is_set()

    async def wait_room(self) -> None:
        """Wait until not too many lines wait."""
        await self._has_room.wait()

    def close(self) -> None:
        """Close the socket; what is sent afterwards opens another one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def run(self) -> None:
        """Send what waits, until cancelled; then once more, and what is not taken then goes to the log."""
        try:
            while True:
                await self._has_waiting.wait()
                await self._send_waiting()
        finally:
            with trio.move_on_after(limits.JOURNAL_END_TIMEOUT_S) as ending:
                ending.shield = True
                await self._send_waiting()
            for line in self._waiting:
                self._fall_back(line, "it does not take it in time")
            self._waiting.clear()
            self._is_over = True

    async def _send_waiting(self) -> None:
        while self._waiting:
            if self._was_sent(self._waiting[0]):
                self._waiting.popleft()
            elif self._socket is not None:
                await trio.lowlevel.wait_writable(self._socket)
            if len(self._waiting) <= limits.MAX_WAITING_LINES // 2:
                self._has_room.set()
        self._has_waiting = trio.Event()

    def _was_sent(self, line: _Line) -> bool:
        """Send a line, or write it to the log where the journal cannot be reached; return False where it is busy."""
        reason = ""
        for _ in range(2):  # once more on a new socket, if the one at its other end is gone
            try:
                if self._socket is None:
                    self._socket = _connected(self._path)
                self._socket.send(line.datagram)
            except OSError as error:
                if error.errno in _BUSY:
                    return False
                reason = os.strerror(error.errno or 0)
                self.close()
            else:
                return True
        self._fall_back(line, reason)
        return True

    def _fall_back(self, line: _Line, reason: str) -> None:
        _log.warning("%s (the journal: %s)", line.message, reason)


def _connected(path: Path) -> socket.socket:
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        journal.connect(str(path))
    except OSError:
        journal.close()
        raise
    return journal


class Audit:
    """Writes the lines."""

    def __init__(self, journal: Journal | None = None) -> None:
        """Find out where they go, unless it is given."""
        # Set by systemd where the standard error of a service is the journal's.
        if journal is None and "JOURNAL_STREAM" in os.environ and _JOURNAL.exists():
            journal = Journal()
        self._journal = journal
        #: What was asked since the last sums, by the person behind the user.
        self._asked: dict[int, collections.Counter[str]] = {}
        #: There is something to sum up.
        self._has_sums = trio.Event()
        #: Lines about what clients do wrong in the protocol, by the person behind the user.
        self._misconduct: dict[int | None, Restrained] = {}

    async def run(self) -> None:
        """Send what waits and sum up what was asked, until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._journal is not None:
                nursery.start_soon(self._journal.run)
            try:
                while True:
                    await self._has_sums.wait()
                    await trio.sleep(limits.QUESTIONS_SUM_S)
                    self._sum_up()
            finally:
                self._sum_up()

    async def wait_room(self) -> None:
        """Wait until what comes of a request can be put on record.

        Raises:
            RequestRefused: not in time.
        """
        if self._journal is None:
            return
        with trio.move_on_after(limits.JOURNAL_TIMEOUT_S):
            await self._journal.wait_room()
            return
        raise RequestRefused(FailureCode.RESOURCES, "capd cannot put requests on record now: try again later")

    @contextlib.contextmanager
    def on_record(
        self,
        peer: Peer,
        request: Request,
        granted: Callable[[], Mapping[str, object]] = dict,
        ended: Callable[[], Mapping[str, object]] | None = None,
    ) -> Generator[None, None, None]:
        """Note a request that is carried out while the block lasts, and its end, however the block is left.

        Args:
            peer: whose request.
            request: what was asked for.
            granted: gives the details of what was granted.
            ended: gives those of the end, when it has come; None: the same.
        """
        self.granted(peer, request, **granted())
        try:
            yield
        finally:
            self.ended(peer, request, **(ended or granted)())

    def granted(self, peer: Peer, request: Request, **details: object) -> None:
        """Note a request that is carried out."""
        if isinstance(request, _QUESTIONS):
            asked = self._asked.setdefault(peer.person_id, collections.Counter())
            asked[str(type(request).__struct_config__.tag)] += 1
            self._has_sums.set()
            return
        self._note(syslog.LOG_INFO, "granted", peer, request, details)

    def refused(self, peer: Peer, request: Request, failure: Failure) -> None:
        """Note a request that is not; the failure names the rules that came near."""
        self._note(syslog.LOG_NOTICE, "refused", peer, request, {"code": failure.code, "reason": failure.text})

    def ended(self, peer: Peer, request: Request, **details: object) -> None:
        """Note the end of what was granted; also of what could not be carried out after all."""
        if not isinstance(request, _QUESTIONS):
            self._note(syslog.LOG_INFO, "ended", peer, request, details)

    def misbehaved(self, peer: Peer | None, text: str, *values: object, failed: bool = False) -> None:
        """Log what a client does wrong, which it may do at will: some lines of each user, then their number.

        Args:
            peer: whose client; None where that is not known yet.
            text: what it does, with values.
            values: as for logging.
            failed: an exception is being handled, which goes along.
        """
        person_id = None if peer is None else peer.person_id
        if person_id not in self._misconduct:
            self._misconduct = {key: each for key, each in self._misconduct.items() if not each.is_idle}
            whom = "clients" if person_id is None else f"clients of {person(person_id)}"
            self._misconduct[person_id] = Restrained(_log, limits.MISCONDUCT, whom)
        who = "a client" if peer is None else str(peer)
        level = logging.ERROR if failed else logging.WARNING
        self._misconduct[person_id].say(level, f"{who}: {text}", *values, exc_info=failed)
        self._has_sums.set()

    def _note(self, priority: int, verdict: str, peer: Peer, request: Request, details: dict[str, object]) -> None:
        what = str(type(request).__struct_config__.tag)
        facts = {**_facts_of(request), **details}
        shown = {name: _shown(value) for name, value in facts.items() if value not in ("", None)}
        rest = "".join(f" {name}={value if value.isalnum() else json.dumps(value)}" for name, value in shown.items())
        message = f"{verdict}: {peer} (process {peer.process_id}): {what}{rest}"
        fields = {
            "CAPD_REQUEST": what,
            ("CAPD_CONTAINED_UID" if peer.is_contained else "CAPD_UID"): str(peer.user_id),
            "CAPD_PID": str(peer.process_id),
            **{f"CAPD_{name.upper()}": value for name, value in shown.items()},
        }
        self._write(priority, verdict, message, fields)

    def _sum_up(self) -> None:
        asked, self._asked = self._asked, {}
        self._has_sums = trio.Event()
        for person_id, counts in asked.items():
            sums = ", ".join(f"{what}: {number}" for what, number in sorted(counts.items()))
            message = f"asked: {person(person_id)}: {sums}"
            fields = {} if person_id == CONTAINERS else {"CAPD_UID": str(person_id)}
            self._write(syslog.LOG_INFO, "asked", message, fields)
        for each in self._misconduct.values():
            each.tell_left_out()

    def _write(self, priority: int, verdict: str, message: str, fields: Mapping[str, str]) -> None:
        if self._journal is None:
            _log.info("%s", message)
            return
        common = {
            "MESSAGE": message,
            "PRIORITY": str(priority),
            "SYSLOG_IDENTIFIER": "capd",
            "CAPD_VERDICT": verdict,
        }
        self._journal.send(message, common | dict(fields))


def _facts_of(request: Request) -> dict[str, object]:
    if not isinstance(request, StartCapture):
        fields = {_CALLED.get(name, name): getattr(request, name) for name in request.__struct_fields__}
        return {name: value for name, value in fields.items() if isinstance(value, str | int)}
    filters = dict.fromkeys(each.capture_filter for each in request.interfaces if each.capture_filter)
    return {
        "interfaces": ",".join(each.name for each in request.interfaces),
        "filter": "; ".join(filters),
        "file": request.destination.file_name,
    }


def _shown(value: object) -> str:
    """Show a value on one line, whatever a client wrote: it ends up in terminals."""
    text = str(value)[:_MAX_CHARACTERS]
    return text if text.isprintable() and text.isascii() else text.encode("unicode_escape").decode("ascii")
