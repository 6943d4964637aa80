"""One capture's conversation with the daemon, without any input or output of its own.

Bytes from the daemon go in, events come out; what they say about the capture is kept as attributes. The blocking
and the async session are two ways to carry the bytes.
"""

from collections import deque
from collections.abc import Iterator
from typing import Protocol

import msgspec

from capd_client.conversation.events import (
    SP_BAD_FILTER,
    SP_DROPS,
    SP_ENDED,
    SP_ERROR_MSG,
    SP_FILE,
    SP_FILE_CLOSED,
    SP_FILE_DELETED,
    SP_INTERFACE_ATTACHED,
    SP_INTERFACE_LOST,
    SP_INTERFACE_SKIPPED,
    SP_LAGGED,
    SP_PACKET_COUNT,
    SP_RECORDING,
    SP_SNAPSHOT_FAILED,
    SP_SUCCESS,
    SP_TRIGGERED,
    Event,
)
from capd_client.conversation.greeting import greeting
from capd_client.errors import BrokenPipe, CaptureEnded, CaptureError, ChildError, error_for
from capd_client.ring.files import RingFile
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.formats.ring_index import ring_of
from capd_protocol.frames import FrameDecoder
from capd_protocol.messages import (
    PROTOCOL_VERSION,
    AttachCapture,
    Attached,
    BadFilter,
    Counters,
    Drops,
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
    InterfaceAttached,
    InterfaceCounters,
    InterfaceLost,
    InterfaceSkipped,
    Lagged,
    Message,
    PacketCount,
    Recording,
    Refused,
    RotateCapture,
    Rotated,
    SnapshotCapture,
    SnapshotFailed,
    SnapshotTaken,
    StartCapture,
    Started,
    StopCapture,
    Success,
    Triggered,
    decode,
    encode,
)

#: Finished files that are remembered; a ring of more than these forgets the oldest. Chosen: about 10 MB.
MAX_FILES = 20_000

#: What is asked among the events, and what answers it.
Asked = RotateCapture | FlushCapture | SnapshotCapture
Answered = Rotated | Flushed | SnapshotTaken


class Place(Protocol):
    """Where the files are."""

    def path_of(self, file_name: str) -> str:
        """Return a file's path as the user is told it."""
        ...


class Conversation:
    """What one connection says, and what is known from it."""

    def __init__(self, request: StartCapture | AttachCapture, place: Place) -> None:
        self._request = request
        self._place = place
        self._decoder = FrameDecoder()
        self._events: deque[Event] = deque()
        self._is_closed = False
        self._is_refused = False
        self._error: CaptureError | None = None
        self._answer: Answered | Refused | None = None
        #: Something was asked that is not answered yet.
        self.is_asking = False
        #: The end was asked for, and not refused.
        self.is_stopping = False
        self.capture_id: int | None = None
        self.name: str | None = None
        self.failure: Failure | None = None
        self.end_reason: EndReason | None = None
        self.interfaces: tuple[InterfaceCounters, ...] = ()
        self.file_size_bytes = 0
        self._closed_bytes = 0
        #: Of the current file; nothing until it has been told of, and after it was closed.
        self._open_bytes = 0
        self.packets_total = 0
        self.packets_before = 0
        self.files: deque[FileClosed] = deque(maxlen=MAX_FILES)
        #: By a ring, of those that are remembered.
        self.deleted: dict[str, None] = {}
        self.current_file: str | None = None
        #: What the files of the ring are named after, where the daemon has told.
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
        match message:
            case Hello(protocol_version=theirs, software=software):
                if theirs != PROTOCOL_VERSION:
                    text = f"{software} speaks version {theirs} of its protocol, this client {PROTOCOL_VERSION}"
                    self._fail(Failure(code=FailureCode.PROTOCOL, text=text))
            case Started(capture_id=capture_id):
                self.capture_id = capture_id
            case Attached(
                capture=capture, is_ring=is_ring, packets_total=packets_total, closed_bytes_total=closed_bytes
            ):
                self.capture_id, self.name = capture.capture_id, capture.name
                self.ring = ring_of(capture.file_name) if is_ring else None
                self.packets_total = self.packets_before = packets_total
                self._closed_bytes = closed_bytes
            case Rotated() | Flushed() | SnapshotTaken() | Refused() if self.is_asking:
                self.is_asking, self._answer = False, message
            case Refused(failure=failure):
                self._fail(failure)
            case FileOpened(name):
                self._open_bytes = 0
                self.current_file = self._place.path_of(name)
                self._events.append((SP_FILE, self.current_file))
            case PacketCount(packets_delta):
                self.packets_total += packets_delta
                self._events.append((SP_PACKET_COUNT, packets_delta))
            case Drops(drops_total):
                self._events.append((SP_DROPS, drops_total))
            case Counters(file_size_bytes=size_bytes, interfaces=interfaces):
                self.file_size_bytes = self._open_bytes = size_bytes
                self.interfaces = interfaces
            case FileClosed(name=name):
                closed = msgspec.structs.replace(message, name=self._place.path_of(name))
                self.files.append(closed)
                self._closed_bytes += closed.size_bytes
                self._open_bytes = 0
                self.current_file = None
                self._events.append((SP_FILE_CLOSED, closed))
            case FileDeleted(name=name):
                deleted = msgspec.structs.replace(message, name=self._place.path_of(name))
                self.deleted[deleted.name] = None
                if len(self.deleted) > MAX_FILES:
                    self.deleted.pop(next(iter(self.deleted)))
                self._events.append((SP_FILE_DELETED, deleted))
            case InterfaceLost(interface=interface):
                self._events.append((SP_INTERFACE_LOST, interface))
            case InterfaceAttached(interface=interface):
                self._events.append((SP_INTERFACE_ATTACHED, interface))
            case InterfaceSkipped(interface=interface, text=text):
                self._events.append((SP_INTERFACE_SKIPPED, f"{interface}: {text}"))
            case Recording():
                self._events.append((SP_RECORDING, message))
            case Triggered():
                self._events.append((SP_TRIGGERED, message))
            case SnapshotFailed(failure=failure):
                self._events.append((SP_SNAPSHOT_FAILED, failure.text))
            case Lagged(events=events):
                self._events.append((SP_LAGGED, events))
            case Failed(failure=failure):
                self.failure = failure
            case ErrorMessage(primary):
                self._events.append((SP_ERROR_MSG, primary))
            case BadFilter(_, text):
                self._events.append((SP_BAD_FILTER, text))
            case Success():
                self._events.append((SP_SUCCESS, None))
            case Ended(reason=reason, interfaces=interfaces):
                self.end_reason, self.interfaces = reason, interfaces
                self._events.append((SP_ENDED, reason))
            case _:
                pass  # of a later version of the protocol that means no harm to this one

    def _fail(self, failure: Failure) -> None:
        """Take note of a refusal; one of the capture itself is the last thing that matters."""
        self.failure = failure
        self.is_stopping = False
        if self.capture_id is None:
            self._is_refused = self._is_closed = True
        event = SP_BAD_FILTER if failure.code == FailureCode.BAD_FILTER else SP_ERROR_MSG
        self._events.append((event, failure.text))

    # Events -------------------------------------------------------------------------------------------------------

    def next_event(self) -> Event | None:
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
        return BrokenPipe("capd has gone away: the files up to the last event can be read")
