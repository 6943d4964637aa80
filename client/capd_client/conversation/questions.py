"""Requests that are no capture: what is asked, and what the messages of the answer come to. Sans-IO."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from capd_client.conversation.session_base import SNAPSHOT_TIMEOUT_S
from capd_client.errors import BrokenPipe, InterfaceError
from capd_client.request.options import checked_capture, checked_snapshot, checked_user
from capd_protocol.arguments import RANGES
from capd_protocol.messages import (
    Capabilities,
    CaptureList,
    CaptureSummary,
    DriverCounters,
    FlushCapture,
    Flushed,
    GetCapabilities,
    GetDriverCounters,
    InterfaceList,
    ListCaptures,
    ListInterfaces,
    Message,
    Permissions,
    Request,
    RevokeCaptures,
    Revoked,
    RevokedCapture,
    RevokedDevice,
    RevokedSender,
    RotateCapture,
    Rotated,
    SnapshotTaken,
    StopCapture,
    Stopping,
    WhoAmI,
)
from capd_protocol.messages.interfaces import InterfaceInfo

REPLY_TIMEOUT_S = 30.0

Answer = TypeVar("Answer")


class Revocation(NamedTuple):
    """What has come of a revocation; captures that are not in it run on.

    Attributes:
        ended: what was revoked, or would be, oldest first; with ``capture_id``, ``user_id``, ``name`` and ``why``.
        kept: captures of users whose groups are not known now, so that nobody can decide, oldest first.
        senders_ended: the same of programs that send packets; with ``user_id``, ``interface`` and ``why``.
        senders_kept: the same of those.
        devices_ended: the same of devices of capture modules; with ``user_id``, ``device`` and ``why``.
        devices_kept: the same of those.
    """

    ended: tuple[RevokedCapture, ...]
    kept: tuple[RevokedCapture, ...]
    senders_ended: tuple[RevokedSender, ...] = ()
    senders_kept: tuple[RevokedSender, ...] = ()
    devices_ended: tuple[RevokedDevice, ...] = ()
    devices_kept: tuple[RevokedDevice, ...] = ()


@dataclass(frozen=True)
class Question(Generic[Answer]):
    """A request, and its answer.

    Attributes:
        request: what is asked.
        expected: what each message of the answer is.
        answer_of: returns the answer that the messages are, all together.
        may_start: a private daemon can answer, where there is no other.
        timeout_s: how long the answer may take.
    """

    request: Request
    expected: type[Message]
    answer_of: Callable[[list[Any]], Answer]
    may_start: bool = False
    timeout_s: float = REPLY_TIMEOUT_S


class Replies(Generic[Answer]):
    """The messages that have come in answer to a question."""

    def __init__(self, question: Question[Answer]) -> None:
        self._question = question
        self._parts: list[Message] = []
        self.is_complete = False

    def take(self, messages: Iterable[Message]) -> None:
        """Take messages into the answer, up to its last one.

        Raises:
            BrokenPipe: one answers something else.
        """
        for message in messages:
            if self.is_complete:
                return
            if not isinstance(message, self._question.expected):
                raise BrokenPipe(f"capd answered with a {type(message).__name__}")
            self._parts.append(message)
            self.is_complete = getattr(message, "is_last", True)

    def answer(self) -> Answer:
        """Return the answer; it is complete."""
        return self._question.answer_of(self._parts)


def late(timeout_s: float) -> BrokenPipe:
    """Return what is raised where the answer has not come in time."""
    return BrokenPipe(f"capd did not answer within {timeout_s:g} s")


def _nothing(_parts: list[Any]) -> None:
    return None


def _only(parts: list[Any]) -> Any:
    return parts[0]


def _interfaces(parts: list[InterfaceList]) -> tuple[InterfaceInfo, ...]:
    return tuple(each for part in parts for each in part.interfaces)


def _summaries(parts: list[CaptureList]) -> tuple[CaptureSummary, ...]:
    return tuple(capture for part in parts for capture in part.captures)


def _revocation(parts: list[Revoked]) -> Revocation:
    ended = tuple(each for part in parts for each in part.ended)
    kept = tuple(each for part in parts for each in part.kept)
    last = parts[-1]
    return Revocation(ended, kept, last.senders_ended, last.senders_kept, last.devices_ended, last.devices_kept)


def _file_name(parts: list[Rotated | SnapshotTaken]) -> str:
    return parts[0].file_name


def _counters(parts: list[DriverCounters]) -> dict[str, int]:
    return parts[0].counters


def captures_listed() -> Question[tuple[CaptureSummary, ...]]:
    """Ask for the captures that run."""
    return Question(ListCaptures(), CaptureList, _summaries)


def who_asks() -> Question[Permissions]:
    """Ask who this process is, and what it may do."""
    return Question(WhoAmI(), Permissions, _only)


def capture_stopped(capture: int | str) -> Question[None]:
    """Ask for the end of a capture.

    Raises:
        InvalidArgument: it is neither number nor name.
    """
    return Question(StopCapture(capture=checked_capture(capture)), Stopping, _nothing)


def captures_revoked(user: int | str | None, dry_run: bool) -> Question[Revocation]:
    """Ask for the end of captures that are not granted any more, or of a user's.

    Raises:
        InvalidArgument: there is no such user.
    """
    request = RevokeCaptures(user_id=None if user is None else checked_user(user), dry_run=dry_run)
    return Question(request, Revoked, _revocation)


def capture_rotated(capture: int | str) -> Question[str]:
    """Ask for the next file of a ring.

    Raises:
        InvalidArgument: it is neither number nor name.
    """
    return Question(RotateCapture(capture=checked_capture(capture)), Rotated, _file_name)


def capture_flushed(capture: int | str) -> Question[None]:
    """Ask for all packets that the kernel has.

    Raises:
        InvalidArgument: it is neither number nor name.
    """
    return Question(FlushCapture(capture=checked_capture(capture)), Flushed, _nothing)


def snapshot_taken(capture: int | str, after: float | None) -> Question[str]:
    """Ask for what a recorder has.

    Raises:
        InvalidArgument: it is neither number nor name, or the time is impossible.
    """
    request = checked_snapshot(checked_capture(capture), after)
    timeout_s = (RANGES["after"].greatest if after is None else after) + SNAPSHOT_TIMEOUT_S
    return Question(request, SnapshotTaken, _file_name, timeout_s=timeout_s)


def interfaces_listed() -> Question[tuple[InterfaceInfo, ...]]:
    """Ask what can be captured on."""
    return Question(ListInterfaces(), InterfaceList, _interfaces, may_start=True)


def capabilities_of(interface: str, monitor_mode: bool) -> Question[Capabilities]:
    """Ask what an interface can do.

    Raises:
        InterfaceError: this is no name.
    """
    request = GetCapabilities(interface=_checked_name(interface), monitor_mode=monitor_mode)
    return Question(request, Capabilities, _only, may_start=True)


def driver_counters_of(interface: str) -> Question[dict[str, int]]:
    """Ask for the counters of an interface's driver.

    Raises:
        InterfaceError: this is no name.
    """
    request = GetDriverCounters(interface=_checked_name(interface))
    return Question(request, DriverCounters, _counters, may_start=True)


def _checked_name(interface: str) -> str:
    """Return a name, unless it is no text, and so nothing that can be asked about.

    Raises:
        InterfaceError: it has half a surrogate pair, which also stands for a byte that is no UTF-8.
    """
    try:
        interface.encode()
    except UnicodeEncodeError as error:
        text = f"there is no interface {interface[:64]!r}: 'capctl interfaces' shows which there are"
        raise InterfaceError(text) from error
    return interface
