"""The sans-IO protocol of one capture: bytes from the daemon in, events out.

Bytes from the daemon go in, events come out; what they say about the capture is kept as attributes. The blocking
and the async session are two ways to carry the bytes.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Protocol

import msgspec

from capd_client.conversation.events import CaptureEvent
from capd_client.conversation.greeting import greeting
from capd_client.errors import BrokenPipe, CaptureEnded, CaptureError, ChildError, DaemonGone, error_for
from capd_client.ring.files import RingFile
from capd_client.sources.opened import Outcome
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.formats.ring_index import ring_of
from capd_protocol.frames import FrameDecoder
from capd_protocol.messages import (
    PROTOCOL_VERSION,
    AttachCapture,
    Attached,
    Counters,
    Ended,
    EndReason,
    ErrorMessage,
    Failed,
    Failure,
    FailureCode,
    FileClosed,
    FileDeleted,
    FileOpened,
    FlushCapture,
    Flushed,
    Hello,
    InterfaceCounters,
    Lagged,
    Message,
    PacketCount,
    Refused,
    RotateCapture,
    Rotated,
    SnapshotCapture,
    SnapshotTaken,
    StartCapture,
    Started,
    StopCapture,
    decode,
    encode,
)

#: Finished files that are remembered; a ring of more than these forgets the oldest. Chosen: about 10 MB.
MAX_FILES = 20_000

#: Events that wait, where something receives them though nobody may take them. Chosen: about 1 MB.
_MAX_WAITING_EVENTS = 10_000

#: What is asked among the events, and what answers it.
Asked = RotateCapture | FlushCapture | SnapshotCapture
Answered = Rotated | Flushed | SnapshotTaken


class Place(Protocol):
    """Where the files are."""

    def path_of(self, file_name: str) -> str:
        """Return a file's path as the user sees it."""
        ...


class Conversation:
    """What one connection says, and what is known from it."""

    def __init__(self, request: StartCapture | AttachCapture, place: Place) -> None:
        self._request = request
        self._place = place
        #: Returns what became of what this program feeds streams with, by the streams' names.
        self.outcomes: Callable[[], Mapping[str, Outcome]] = dict
        self._decoder = FrameDecoder()
        self._events: deque[CaptureEvent] = deque()
        #: Is given each event as it comes, and returns what is shown of it. With one, events may wait for long.
        self.observe: Callable[[CaptureEvent], CaptureEvent | None] | None = None
        self._is_closed = False
        self._is_refused = False
        self._error: CaptureError | None = None
        self._answer: Answered | Refused | None = None
        #: Something was asked that is not answered yet.
        self.is_asking = False
        #: The end was asked for, and not refused.
        self.is_stopping = False
        self.capture_id: int | None = None
        #: As they were asked for; the default interface by its name.
        self.interface_names: tuple[str, ...] = ()
        self.name: str | None = None
        self.failure: Failure | None = None
        self.end_reason: EndReason | None = None
        self.interfaces: tuple[InterfaceCounters, ...] = ()
        #: For an interface to come.
        self.is_waiting = False
        self.file_size_bytes = 0
        self._closed_bytes = 0
        #: Of the current file; 0 until it was announced, and after it was closed.
        self._open_bytes = 0
        self.packets_total = 0
        self.packets_before = 0
        self.files: deque[FileClosed] = deque(maxlen=MAX_FILES)
        #: By a ring, of those that are remembered.
        self.deleted: dict[str, None] = {}
        self.current_file: str | None = None
        #: What the files of the ring are named after, where the daemon has sent it.
        self.ring: str | None = None

    # Bytes out ----------------------------------------------------------------------------------------------------

    def opening(self) -> bytes:
        """Return the first bytes to send."""
        return greeting() + encode(self._request)

    def stopping(self) -> bytes:
        """Return the bytes that ask for the end."""
        self.is_stopping = True
        return encode(StopCapture())

    def asking(self, request: Asked) -> bytes:
        """Return the bytes that ask for something that is answered among the events: one thing at a time."""
        self.is_asking, self._answer = True, None
        return encode(request)

    def answer(self) -> Answered | None:
        """Return the answer to what was asked last, or None until more bytes have come.

        Raises:
            ChildError: it was refused.
            BrokenPipe: no answer will come: the capture has ended, or the daemon has gone.
        """
        if isinstance(self._answer, Refused):
            raise error_for(self._answer.failure)
        if self._answer is None and self._is_closed:
            raise self._final_error()
        return self._answer

    # Bytes in -----------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take bytes from the daemon; empty ones say that it has closed the connection. After the end, none count."""
        if self._is_closed:
            return
        try:
            if not data:
                self._is_closed = True
                self._decoder.check_end()
            self._decoder.feed(data)
            while not self._is_refused and (frame := self._decoder.next_frame()) is not None:
                self._handle(decode(frame))
        except RemoteProtocolError as error:
            self._is_closed = True
            self._error = BrokenPipe(f"capd cannot be understood: {error}")

    def _handle(self, message: Message) -> None:
        if self.is_asking and isinstance(message, Rotated | Flushed | SnapshotTaken | Refused):
            self.is_asking, self._answer = False, message
            return
        take = self._TAKEN_BY.get(type(message))
        event = take(self, message) if take is not None else message
        if isinstance(event, CaptureEvent):  # all else is state, or of a later version of the protocol
            self._append(event)

    def _append(self, event: CaptureEvent) -> None:
        shown = event if self.observe is None else self.observe(event)
        if shown is None:
            return
        if self.observe is not None and len(self._events) >= _MAX_WAITING_EVENTS:
            self._merge()
        self._events.append(shown)

    def _merge(self) -> None:
        """Leave out the older half of what waits, but for the counts."""
        older: list[CaptureEvent] = []
        with contextlib.suppress(IndexError):  # another thread takes them meanwhile
            while len(older) < _MAX_WAITING_EVENTS // 2:
                older.append(self._events.popleft())
        counts = [each for each in older if isinstance(each, PacketCount)]
        left_out = sum(each.events for each in older if isinstance(each, Lagged))
        left_out += sum(not isinstance(each, PacketCount | Lagged) for each in older)
        if counts:
            self._events.appendleft(PacketCount(sum(each.packets_delta for each in counts)))
        if left_out:
            self._events.appendleft(Lagged(left_out))

    def break_off(self, error: CaptureError) -> None:
        """Take note that nothing more can be received, and why."""
        if not self._is_closed:
            self._is_closed, self._error = True, error

    def _take_hello(self, hello: Hello) -> Refused | None:
        theirs = hello.protocol_version
        if theirs == PROTOCOL_VERSION:
            return None
        text = f"{hello.software} speaks version {theirs} of its protocol, this client {PROTOCOL_VERSION}"
        return self._take_refused(Refused(failure=Failure(code=FailureCode.PROTOCOL, text=text)))

    def _take_started(self, started: Started) -> None:
        self.capture_id, self.interface_names = started.capture_id, started.interfaces

    def _take_attached(self, attached: Attached) -> None:
        capture = attached.capture
        self.capture_id, self.name, self.interface_names = capture.capture_id, capture.name, capture.interfaces
        self.ring = ring_of(capture.file_name) if attached.is_ring else None
        self.packets_total = self.packets_before = attached.packets_total
        self._closed_bytes = attached.closed_bytes_total

    def _take_refused(self, refused: Refused) -> Refused:
        """Take note of a refusal; one of the capture itself is the last thing that matters."""
        self.failure = self._explained(refused.failure)
        self.is_stopping = False
        if self.capture_id is None:
            self._is_refused = self._is_closed = True
        return Refused(failure=self.failure)

    def _take_opened(self, opened: FileOpened) -> FileOpened:
        self._open_bytes = 0
        self.current_file = self._place.path_of(opened.name)
        return FileOpened(self.current_file)

    def _take_packets(self, count: PacketCount) -> PacketCount:
        self.packets_total += count.packets_delta
        return count

    def _take_counters(self, counters: Counters) -> None:
        self.file_size_bytes = self._open_bytes = counters.file_size_bytes
        self.interfaces, self.is_waiting = counters.interfaces, counters.is_waiting

    def _take_closed(self, closed: FileClosed) -> FileClosed:
        closed = msgspec.structs.replace(closed, name=self._place.path_of(closed.name))
        self.files.append(closed)
        self._closed_bytes += closed.size_bytes
        self._open_bytes = 0
        self.current_file = None
        return closed

    def _take_deleted(self, deleted: FileDeleted) -> FileDeleted:
        deleted = msgspec.structs.replace(deleted, name=self._place.path_of(deleted.name))
        self.deleted[deleted.name] = None
        if len(self.deleted) > MAX_FILES:
            self.deleted.pop(next(iter(self.deleted)))
        return deleted

    def _take_failed(self, failed: Failed) -> None:
        self.failure = self._explained(failed.failure)

    def _explained(self, failure: Failure) -> Failure:
        """Return a failure of a stream with what is known of who wrote it."""
        if failure.code != FailureCode.SOURCE_DAMAGED:
            return failure
        outcome = self.outcomes().get(failure.interface or "")
        return failure if outcome is None else msgspec.structs.replace(failure, text=f"{failure.text}; {outcome.text}")

    def _take_error(self, error: ErrorMessage) -> ErrorMessage:
        """Return dumpcap's message of a failure, with the text of that."""
        return error if self.failure is None else ErrorMessage(self.failure.text, error.secondary)

    def _take_ended(self, ended: Ended) -> Ended:
        """Take note of the end; it is a failure where what wrote a stream has failed, which the daemon cannot know."""
        failed = {name: outcome.text for name, outcome in self.outcomes().items() if outcome.is_failure}
        if ended.reason == EndReason.SOURCE_ENDED and failed:
            text = "; ".join(failed.values())
            self.failure = Failure(code=FailureCode.SOURCE_DAMAGED, text=text, interface=next(iter(failed)))
            self._append(ErrorMessage(text))
            ended = msgspec.structs.replace(ended, reason=EndReason.FAILED)
        self.end_reason, self.interfaces = ended.reason, ended.interfaces
        return ended

    #: Messages that say something about the capture beside being an event, or in place of it.
    _TAKEN_BY: ClassVar[dict[type[Any], Callable[["Conversation", Any], CaptureEvent | None]]] = {
        Hello: _take_hello,
        Started: _take_started,
        Attached: _take_attached,
        Refused: _take_refused,
        FileOpened: _take_opened,
        PacketCount: _take_packets,
        Counters: _take_counters,
        FileClosed: _take_closed,
        FileDeleted: _take_deleted,
        Failed: _take_failed,
        ErrorMessage: _take_error,
        Ended: _take_ended,
    }

    # Events -------------------------------------------------------------------------------------------------------

    def next_event(self) -> CaptureEvent | None:
        """Return the next event, or None until more bytes have come.

        Raises:
            CaptureEnded: all events were given, and the capture has ended as it should.
            ChildError: all events were given, and the capture has failed.
            BrokenPipe: the daemon has gone, or cannot be understood.
        """
        if self._events:
            return self._events.popleft()
        if self._is_closed:
            raise self._final_error()
        return None

    def ring_files(self) -> Iterator[RingFile]:
        """Give the files that are there, the one that is being written last."""
        for closed in self.files:
            if closed.name not in self.deleted:
                yield RingFile(
                    closed.name,
                    closed.size_bytes,
                    is_complete=True,
                    packets=closed.packets,
                    first_timestamp_ns=closed.first_timestamp_ns,
                    last_timestamp_ns=closed.last_timestamp_ns,
                )
        if self.current_file is not None:
            yield RingFile(self.current_file, self._open_bytes, is_complete=False)

    @property
    def size_bytes_total(self) -> int:
        """Size of all files so far."""
        return self._closed_bytes + self._open_bytes

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come from the daemon."""
        return self._is_closed

    @property
    def is_decided(self) -> bool:
        """Whether it is known if the capture runs: it was started, or refused, or the daemon has gone."""
        return self.capture_id is not None or self.failure is not None or self._is_closed

    def start_error(self) -> CaptureError | None:
        """Return why the capture never ran, if it did not."""
        if self.capture_id is not None:
            return None
        return error_for(self.failure) if self.failure is not None else self._final_error()

    def error_of(self, text: str) -> ChildError:
        """Return the exception for an error event with this text."""
        return error_for(self.failure) if self.failure is not None else ChildError(text)

    def _final_error(self) -> CaptureError:
        if self._error is not None:
            return self._error
        if self.failure is not None:
            return error_for(self.failure)
        if self.end_reason is not None:
            return CaptureEnded(f"the capture has ended ({self.end_reason})")
        return DaemonGone("capd has gone away: the files up to the last event can be read")
