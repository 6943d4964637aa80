"""Requests that are no capture: asked on a connection of their own, and answered."""

import time

from capd_client.conversation.message_stream import MessageStream
from capd_client.conversation.questions import (
    Answer,
    Question,
    Replies,
    Revocation,
    capabilities_of,
    capture_flushed,
    capture_rotated,
    capture_stopped,
    captures_listed,
    captures_revoked,
    driver_counters_of,
    interfaces_listed,
    late,
    snapshot_taken,
    who_asks,
)
from capd_client.errors import DaemonUnavailable
from capd_client.request.namespaces import Netns
from capd_client.request.streams import is_of_module
from capd_client.sources.opened import EXTCAP
from capd_client.transport.connect import Program, SocketPath, connect_and_send
from capd_protocol.messages import Capabilities, CaptureSummary, Permissions
from capd_protocol.messages.interfaces import InterfaceInfo


def _answer_to(
    question: Question[Answer], socket_path: SocketPath, netns: Netns | None = None, program: Program = None
) -> Answer:
    stream, replies = MessageStream(question.request), Replies(question)
    transport = connect_and_send(
        stream.opening(), socket_path, may_start=question.may_start, netns=netns, program=program
    )
    deadline_s = time.monotonic() + question.timeout_s
    try:
        while not replies.is_complete:
            data = transport.receive(max(0, deadline_s - time.monotonic()))
            if data is None:
                raise late(question.timeout_s)
            replies.take(stream.receive(data))
    finally:
        transport.close()
    return replies.answer()


def list_interfaces(
    *, socket_path: SocketPath = None, netns: Netns | None = None, program: Program = None
) -> tuple[InterfaceInfo, ...]:
    """Return what can be captured on, in libpcap's order. Needs no privilege, and no running daemon.

    Args:
        socket_path: where the daemon listens; None: as for ``CaptureSession``.
        netns: in which network namespace, as for ``CaptureSession``; None: where the daemon is.
        program: the words of a command in dumpcap's place, such as ``["dumpcap"]``, which is asked instead.

    Raises:
        ChildError: the daemon cannot find out.
        DaemonUnavailable: there is none at ``socket_path``.
        BrokenPipe: it does not answer.
        InvalidArgument: the program is no command, or a daemon was named as well.
    """
    return _answer_to(interfaces_listed(), socket_path, netns, program)


def list_captures(*, socket_path: SocketPath = None) -> tuple[CaptureSummary, ...]:
    """Return the captures of this user that run now, oldest first; for root, everybody's.

    Args:
        socket_path: where the daemon listens; None: as for ``CaptureSession``.

    Raises:
        DaemonUnavailable: there is no daemon.
        BrokenPipe: it does not answer.
    """
    return _answer_to(captures_listed(), socket_path)


def who_am_i(*, socket_path: SocketPath = None) -> Permissions:
    """Return who this process is to the daemon, and what policy lets it do.

    Args:
        socket_path: where the daemon listens; None: as for ``CaptureSession``.

    Raises:
        DaemonUnavailable: there is no daemon.
        BrokenPipe: it does not answer.
    """
    return _answer_to(who_asks(), socket_path)


def devices_by_rule(socket_path: SocketPath) -> tuple[str, ...]:
    """Return patterns of the capture modules' devices that a daemon opens for this user; none where there is none."""
    try:
        return who_am_i(socket_path=socket_path).devices
    except DaemonUnavailable:
        return ()


def stop_capture(capture: int | str, *, socket_path: SocketPath = None) -> None:
    """Have a capture end, and wait until it has: its files are complete. Sessions that follow it get the last events.

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
    _answer_to(capture_stopped(capture), socket_path)


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
        dry_run: only show what would end.
        socket_path: where the daemon listens.

    Raises:
        NotPermitted: this user may not.
        InvalidArgument: there is no such user.
        DaemonUnavailable: there is no daemon.
        ResourceError: it is stopping.
        BrokenPipe: it does not answer.
    """
    return _answer_to(captures_revoked(user, dry_run), socket_path)


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
    return _answer_to(capture_rotated(capture), socket_path)


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
    _answer_to(capture_flushed(capture), socket_path)


def snapshot_capture(capture: int | str, *, after: float | None = None, socket_path: SocketPath = None) -> str:
    """Have a recorder write what it has; return the name of the file when it is complete.

    Args:
        capture: as for ``stop_capture``.
        after: and what comes within so many seconds; None: as the recorder is configured.
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
    return _answer_to(snapshot_taken(capture, after), socket_path)


def get_capabilities(
    interface: str,
    monitor_mode: bool = False,
    *,
    socket_path: SocketPath = None,
    netns: Netns | None = None,
    program: Program = None,
) -> Capabilities:
    """Return all that libpcap says of an interface, its sources of timestamps too.

    Args:
        interface: its name; of an extcap program's, such as ``extcap:udpdump``, its program is asked instead, and of a
            module's device, such as ``dbus-session``, the module.
        monitor_mode: ask for the link-layer types that it has in monitor mode.
        socket_path: where the daemon listens; None: as for ``CaptureSession``.
        netns: in which network namespace, as for ``CaptureSession``; None: where the daemon is.
        program: the words of a command in dumpcap's place, such as ``["dumpcap"]``, which is asked instead.

    Raises:
        InterfaceError: there is no such interface, or it is down, or its program does not answer.
        InvalidArgument: an extcap program's interface has no monitor mode, or a device's name is not possible.
        UnsupportedError: libpcap cannot open it.
        NotPermitted: there is only a private daemon, without the privilege to open it.
        BrokenPipe: the daemon does not answer.
    """
    if program is None and interface.startswith(EXTCAP):
        from capd_client.sources.extcap import extcap_capabilities  # noqa: PLC0415  # few need it

        return extcap_capabilities(interface, monitor_mode)
    if program is None and is_of_module(interface):
        from capd_client.sources.modules import module_capabilities  # noqa: PLC0415  # few need it

        return module_capabilities(interface, monitor_mode)
    return _answer_to(capabilities_of(interface, monitor_mode), socket_path, netns, program)


def get_driver_counters(
    interface: str, *, socket_path: SocketPath = None, netns: Netns | None = None
) -> dict[str, int]:
    """Return the counters that an interface's driver keeps (``ethtool -S``), by its own names.

    Args:
        interface: its name.
        socket_path: where the daemon listens; None: as for ``CaptureSession``.
        netns: in which network namespace, as for ``CaptureSession``; None: where the daemon is.

    Raises:
        InterfaceError: there is no such interface.
        BrokenPipe: the daemon does not answer.
    """
    return _answer_to(driver_counters_of(interface), socket_path, netns)
