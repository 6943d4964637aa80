"""Requests that are no capture: asked on a connection of their own, answered, or followed as long as one likes."""

import time
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from capd_client.conversation.message_stream import MessageStream
from capd_client.conversation.session_base import SNAPSHOT_TIMEOUT_S
from capd_client.errors import BrokenPipe
from capd_client.request.options import checked_capture, checked_snapshot, checked_user
from capd_client.transport.connect import SocketPath, connect_and_send
from capd_protocol.arguments import RANGES
from capd_protocol.messages import (
    CaptureList,
    CaptureSummary,
    FlushCapture,
    Flushed,
    ListCaptures,
    Message,
    Permissions,
    Request,
    RevokeCaptures,
    Revoked,
    RevokedCapture,
    RotateCapture,
    Rotated,
    SnapshotTaken,
    StopCapture,
    Stopping,
    WhoAmI,
)

_Expected = TypeVar("_Expected", bound=Message)

_REPLY_TIMEOUT_S = 30.0


def ask(
    request: Request, socket_path: SocketPath, *, may_start: bool = False, timeout_s: float = _REPLY_TIMEOUT_S
) -> Iterator[Message]:
    """Ask, and yield the messages of the answer; whoever asks knows which one is the last.

    Raises:
        ChildError: the daemon refuses.
        BrokenPipe: it does not answer.
        DaemonUnavailable: there is none.
    """
    stream = MessageStream(request)
    transport = connect_and_send(stream.opening(), socket_path, may_start=may_start)
    deadline_s = time.monotonic() + timeout_s
    try:
        while True:
            data = transport.receive(max(0, deadline_s - time.monotonic()))
            if data is None:
                raise BrokenPipe(f"capd did not answer within {timeout_s:g} s")
            yield from stream.receive(data)
    finally:
        transport.close()


def list_captures(*, socket_path: SocketPath = None) -> tuple[CaptureSummary, ...]:
    """Return the captures of this user that run now, oldest first; for root, everybody's.

    Raises:
        DaemonUnavailable: there is no daemon.
        BrokenPipe: it does not answer.
    """
    found: list[CaptureSummary] = []
    for reply in ask(ListCaptures(), socket_path):
        if not isinstance(reply, CaptureList):
            raise BrokenPipe(f"capd answered with a {type(reply).__name__}")
        found += reply.captures
        if reply.is_last:
            break
    return tuple(found)


def _ask_one(
    request: Request, expected: type[_Expected], socket_path: SocketPath, timeout_s: float = _REPLY_TIMEOUT_S
) -> _Expected:
    reply = next(ask(request, socket_path, timeout_s=timeout_s))
    if not isinstance(reply, expected):
        raise BrokenPipe(f"capd answered with a {type(reply).__name__}")
    return reply


def who_am_i(*, socket_path: SocketPath = None) -> Permissions:
    """Return who this process is to the daemon, and what policy lets it do.

    Raises:
        DaemonUnavailable: there is no daemon.
        BrokenPipe: it does not answer.
    """
    return _ask_one(WhoAmI(), Permissions, socket_path)


def stop_capture(capture: int | str, *, socket_path: SocketPath = None) -> None:
    """Have a capture end, and wait until it has: its files are complete. Sessions that hear of it get the last events.

    Args:
        capture: its number or name. Of several of that name (for root), this user's own.
        socket_path: where the daemon listens.

    Raises:
        NoSuchCapture: this user has no such capture.
        InvalidArgument: it is neither number nor name; or others' names, of which there are several.
        ResourceError: it has not ended within 18 seconds; it is killed then.
        DaemonUnavailable: there is no daemon.
        BrokenPipe: it does not answer.
    """
    _ask_one(StopCapture(capture=checked_capture(capture)), Stopping, socket_path)


class Revocation(NamedTuple):
    """What has come of a revocation; captures of which nothing is said run on.

    Attributes:
        ended: what was revoked, or would be, oldest first; with ``capture_id``, ``user_id``, ``name`` and ``why``.
        kept: captures of users whose groups are not known now, so that nobody can tell, oldest first.
    """

    ended: tuple[RevokedCapture, ...]
    kept: tuple[RevokedCapture, ...]


def revoke_captures(
    user: int | str | None = None, dry_run: bool = False, *, socket_path: SocketPath = None
) -> Revocation:
    """Have captures end that today's rules would not grant as they run, or all of a user. Only for root.

    When this returns they receive nothing more. Their sessions get the last events, and ``EndReason.REVOKED``.
    Captures of the configuration are left alone, and without ``user`` those of root too.

    Args:
        user: name or number; all captures of this person end, those under subordinate ids too. None: of all users
            those that the rules would not grant to who asked for them, with the groups of that time which the account
            still has.
        dry_run: only tell what would end.
        socket_path: where the daemon listens.

    Raises:
        NotPermitted: this user may not.
        InvalidArgument: there is no such user.
        DaemonUnavailable: there is no daemon.
        ResourceError: it is stopping.
        BrokenPipe: it does not answer.
    """
    request = RevokeCaptures(user_id=None if user is None else checked_user(user), dry_run=dry_run)
    ended: list[RevokedCapture] = []
    kept: list[RevokedCapture] = []
    for reply in ask(request, socket_path):
        if not isinstance(reply, Revoked):
            raise BrokenPipe(f"capd answered with a {type(reply).__name__}")
        ended += reply.ended
        kept += reply.kept
        if reply.is_last:
            break
    return Revocation(tuple(ended), tuple(kept))


def rotate_capture(capture: int | str, *, socket_path: SocketPath = None) -> str:
    """Have a ring go on in its next file; return that file's name when it has its header.

    Args:
        capture: as for ``stop_capture``.
        socket_path: where the daemon listens.

    Raises:
        InvalidArgument: the capture has a single file, or this is its last one; else as ``stop_capture``.
        ResourceError: the capture did not do it in time.
        NoSuchCapture: this user has no such capture, or it has ended meanwhile.
        DaemonUnavailable: there is no daemon.
        BrokenPipe: it does not answer.
    """
    return _ask_one(RotateCapture(capture=checked_capture(capture)), Rotated, socket_path).file_name


def flush_capture(capture: int | str, *, socket_path: SocketPath = None) -> None:
    """Return when every packet that the kernel had before is in the capture's file.

    Args:
        capture: as for ``stop_capture``.
        socket_path: where the daemon listens.

    Raises:
        ResourceError: the capture did not do it in time.
        NoSuchCapture: this user has no such capture, or it has ended meanwhile.
        InvalidArgument: as for ``stop_capture``.
        DaemonUnavailable: there is no daemon.
        BrokenPipe: it does not answer.
    """
    _ask_one(FlushCapture(capture=checked_capture(capture)), Flushed, socket_path)


def snapshot_capture(capture: int | str, *, after: float | None = None, socket_path: SocketPath = None) -> str:
    """Have a recorder write what it has; return the name of the file when it is complete.

    Args:
        capture: as for ``stop_capture``.
        after: and what comes within so many seconds; None: as the recorder was told.
        socket_path: where the daemon listens.

    Raises:
        InvalidArgument: the time is impossible, or the capture is no recorder; else as ``stop_capture``.
        ResourceError: another snapshot is being written; or this one would exceed a limit, or the disk was too slow.
        DiskError: the disk is full. What was written is whole.
        DestinationError: the file cannot be created.
        NoSuchCapture: this user has no such capture, or it has ended meanwhile.
        DaemonUnavailable: there is no daemon.
        BrokenPipe: it does not answer.
    """
    request = checked_snapshot(checked_capture(capture), after)
    timeout_s = (RANGES["after"].greatest if after is None else after) + SNAPSHOT_TIMEOUT_S
    return _ask_one(request, SnapshotTaken, socket_path, timeout_s).file_name
