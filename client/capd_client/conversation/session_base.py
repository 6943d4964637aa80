"""What the blocking and the asynchronous session have in common: attributes, event handlers, files."""

import os
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

from capd_client.conversation import events
from capd_client.conversation.capture import Conversation, Place
from capd_client.conversation.events import CaptureEvent, Event, EventType, event_type_of
from capd_client.errors import InvalidArgument
from capd_client.request.options import checked_snapshot
from capd_client.ring.files import RingFile, Time, of_directory, of_passed_index, span_of
from capd_client.transport.passed import CaptureFiles, FilesOnRequest
from capd_protocol.arguments import RANGES
from capd_protocol.messages import (
    AttachCapture,
    EndReason,
    FileClosed,
    InterfaceCounters,
    SnapshotCapture,
    StartCapture,
)

#: A daemon ends a capture, and answers, within its own limits, which are shorter.
END_TIMEOUT_S = 30.0
#: The same for a snapshot, beyond the time that it covers.
SNAPSHOT_TIMEOUT_S = 330.0

#: In a session's repr. Chosen: it stays a line.
_SHOWN_INTERFACES = 3

Handler = Callable[[Any], object]

#: Raised where nobody handles them.
_ERRORS = (events.SP_ERROR_MSG, events.SP_BAD_FILTER)


class Output(Protocol):
    """What writes a capture's packets elsewhere than into files; see ``capd_client.output.live_output``."""

    @property
    def name(self) -> str:
        """Where they go."""
        ...

    @property
    def missed_packets(self) -> int:
        """Packets that were captured and not written so far."""
        ...

    def take(self, event: CaptureEvent) -> CaptureEvent | None:
        """Learn of an event; return what is shown of it."""
        ...


class SessionBase:
    """What the blocking and the async session have in common: constants, attributes, event handlers."""

    SP_FILE = events.SP_FILE
    SP_PACKET_COUNT = events.SP_PACKET_COUNT
    SP_DROPS = events.SP_DROPS
    SP_ERROR_MSG = events.SP_ERROR_MSG
    SP_BAD_FILTER = events.SP_BAD_FILTER
    SP_SUCCESS = events.SP_SUCCESS
    SP_FILE_CLOSED = events.SP_FILE_CLOSED
    SP_FILE_DELETED = events.SP_FILE_DELETED
    SP_INTERFACE_LOST = events.SP_INTERFACE_LOST
    SP_INTERFACE_ATTACHED = events.SP_INTERFACE_ATTACHED
    SP_INTERFACE_SKIPPED = events.SP_INTERFACE_SKIPPED
    SP_RECORDING = events.SP_RECORDING
    SP_TRIGGERED = events.SP_TRIGGERED
    SP_SNAPSHOT_FAILED = events.SP_SNAPSHOT_FAILED
    SP_TRIGGERS_IGNORED = events.SP_TRIGGERS_IGNORED
    SP_LAGGED = events.SP_LAGGED
    SP_ENDED = events.SP_ENDED

    def __init__(
        self,
        request: StartCapture | AttachCapture,
        place: Place | None,
        shown: frozenset[EventType],
        output: Output | None = None,
    ) -> None:
        """Prepare.

        Args:
            request: what is asked for.
            place: where the files are; None: in the directory that the daemon names.
            shown: events that iteration gives where they have no handler.
            output: what writes the packets, where no files are asked for.
        """
        self._output = output
        self._shown = shown
        self._request = request
        self._place: Place = place or _PassedPlace(self._files)
        #: Leaving the session leaves the capture alone.
        self._stays = isinstance(request, AttachCapture) or request.detached
        self._conversation = Conversation(request, self._place)
        self._handlers: dict[int, Handler] = {}
        if output is not None:
            self._conversation.observe = output.take

    def __repr__(self) -> str:
        """Return which capture it is, on what, and where it stands."""
        state = "not started" if self.capture_id is None else "running"
        if self.end_reason is not None:
            state = f"ended: {self.end_reason}"
        number = "" if self.capture_id is None else f" {self.capture_id}"
        name = f" {self.name}" if self.name else ""
        shown = ", ".join(self.interfaces[:_SHOWN_INTERFACES]) + (", …" if self.interfaces[_SHOWN_INTERFACES:] else "")
        return f"<CaptureSession{number}{name} on [{shown}], {state}, {self.packetcount:,} packets>"

    def register_eventhandler(self, event_type: int | str, func: Handler) -> None:
        """Have a function called with the message of each event of a type, instead of getting these events.

        It is called by ``wait_for_unhandled_event`` and by iteration, in the calling thread or task; what it
        raises is raised there. One handler for each type: a further one replaces it. ``SP_ERROR_MSG`` and
        ``SP_BAD_FILTER`` have handlers from the beginning, which raise ``ChildError`` and ``BadFilterError``.
        Events beyond wirepy's that have no handler, and were not asked for by the argument ``events``, are left out.

        Args:
            event_type: one of the ``SP_…`` constants, or its name.
            func: takes the message.

        Raises:
            InvalidArgument: there is no such event.
        """
        self._handlers[event_type_of(event_type)] = func

    def _handle(self, event: Event) -> bool:
        """Give an event to its handler, if it has one."""
        event_type, message = event
        handler = self._handlers.get(event_type)
        if handler is not None:
            handler(message)
        elif event_type in _ERRORS:
            raise self._conversation.error_of(message)
        return handler is not None or event_type not in self._shown

    @property
    def packetcount(self) -> int:
        """Packets in the files so far, as far as events have been received."""
        return self._conversation.packets_total

    @property
    def packetcount_before(self) -> int:
        """Those of them that were there before this session: of a capture that it is attached to."""
        return self._conversation.packets_before

    @property
    def dropcount(self) -> int:
        """Packets lost so far, of all interfaces: by the kernel for lack of room, or because of the disk."""
        return sum(each.drops_total for each in self._conversation.interfaces)

    @property
    def missed_packets(self) -> int:
        """Packets that were captured, and that the reader of a FIFO, of standard output or of an open file did not get.

        It was too slow, there was none, or it took nothing any more at the end. 0 where packets go to files.
        """
        return 0 if self._output is None else self._output.missed_packets

    @property
    def interface_counters(self) -> tuple[InterfaceCounters, ...]:
        """Where each interface's packets are, as of the last tick; in the order of ``interfaces``."""
        return self._conversation.interfaces

    @property
    def files(self) -> tuple[FileClosed, ...]:
        """The finished files so far, oldest first, with paths as names; those that a ring has deleted too.

        None, where packets go to standard output, a FIFO or an open file.
        """
        return () if self._output is not None else tuple(self._conversation.files)

    def ring_files(self, start: Time | None = None, end: Time | None = None) -> tuple[RingFile, ...]:
        """Return the files that are there and may have packets of a span, oldest first.

        Of a capture that was attached to, or that is detached, all that its ring has; else as far as events were
        received.

        Args:
            start: only those with packets of that time or later.
            end: only those with packets before that time.

        Raises:
            InvalidArgument: a time is not valid, or the span ends before it begins.
            ReadError: the ring's index cannot be read.
        """
        span = span_of(start, end)
        if self._output is not None:
            return ()
        found = self._indexed_files()
        if found is None:
            found = tuple(self._conversation.ring_files())
        return tuple(file for file in found if file.may_have(span))

    def _indexed_files(self) -> tuple[RingFile, ...] | None:
        """Return what the index says, where the daemon has led to it: it knows of earlier files, too."""
        files, ring = self._files(), self._conversation.ring
        if ring is None or files is None:
            return None
        if files.directory is not None:
            return of_directory(files.directory.duplicate(), files.directory.path, ring)
        return of_passed_index(files, ring) if isinstance(files, FilesOnRequest) else None

    def open_file(self, path: str) -> BinaryIO:
        """Open one of the capture's files for reading, from its beginning; also the one that is being written.

        With ``pass_files=True`` and while the session lasts, this also works where the path does not: in another
        mount namespace or root directory, for instance, and after a ring has deleted the file, as long as it is one
        of the latest.

        Args:
            path: as ``SP_FILE`` gave it.

        Raises:
            OSError: it was not passed along, or too long ago, and cannot be opened by its path.
            InvalidArgument: packets go to standard output, a FIFO or an open file, and no files are kept.
        """
        if self._output is not None:
            text = f"the packets of this capture go to {self._output.name!r} as they come, and no file is kept"
            raise InvalidArgument(text, argument="savefile")
        return self._open_file(path)

    def _open_file(self, path: str) -> BinaryIO:
        files = self._files()
        descriptor = files.open(os.path.basename(path)) if files is not None else None  # noqa: PTH119
        return open(path if descriptor is None else descriptor, "rb")  # noqa: PTH123  # the caller closes it

    def _files(self) -> CaptureFiles | None:
        raise NotImplementedError

    def _snapshot_request(self, after: float | None) -> tuple[SnapshotCapture, float]:
        """Return what to ask for, and how long the answer may take at most.

        Raises:
            InvalidArgument: the time is impossible.
        """
        request = checked_snapshot(None, after)
        longest_s = after
        if longest_s is None:
            own = self._request.recorder if isinstance(self._request, StartCapture) else None
            longest_s = own.after_s if own is not None else RANGES["after"].greatest
        return request, longest_s + SNAPSHOT_TIMEOUT_S

    @property
    def file_size_bytes(self) -> int:
        """Size of the current file as of the last tick."""
        return self._conversation.file_size_bytes

    @property
    def size_bytes_total(self) -> int:
        """Size of all files so far, those that a ring has deleted among them."""
        return self._conversation.size_bytes_total

    @property
    def interfaces(self) -> tuple[str, ...]:
        """Names and patterns that are captured on, the default interface by its name; empty until it has started."""
        return self._conversation.interface_names

    @property
    def is_waiting(self) -> bool:
        """Whether none of these is there now, and the capture goes on until one comes; as of the last tick."""
        return self._conversation.is_waiting

    @property
    def capture_id(self) -> int | None:
        """The daemon's number for this capture; None until it has started."""
        return self._conversation.capture_id

    @property
    def name(self) -> str | None:
        """What its owner calls a capture that this session is attached to, or has detached."""
        return self._conversation.name

    @property
    def end_reason(self) -> EndReason | None:
        """Why the capture ended; None while it runs."""
        return self._conversation.end_reason


class _PassedPlace:
    """Where the files are that the capture's process passes, as soon as it has."""

    def __init__(self, files: Callable[[], CaptureFiles | None]) -> None:
        self._files = files

    def path_of(self, file_name: str) -> str:
        """Return a file's path; its bare name where no path leads there from here."""
        files = self._files()
        return files.path_of(file_name) if files is not None else file_name
