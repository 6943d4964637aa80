"""``CaptureSession``: a capture for programs that block."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from math import inf
from typing import Unpack

from capd_client.conversation.capture import Answered, Asked, Place
from capd_client.conversation.events import CaptureEvent, Event, EventType, Wanted, pair_of, wanted_types
from capd_client.conversation.session_base import END_TIMEOUT_S, SessionBase
from capd_client.daemon_devices import opener
from capd_client.errors import CaptureEnded, CaptureError, DaemonGone, DestinationError, NoEvents
from capd_client.output.live_output import LOOK_S, LiveOutput, add_to_error, with_live_output
from capd_client.request.options import CaptureArguments, Prepared, checked_capture, make_request, shows_arguments
from capd_client.transport.connect import SocketPath, Transport, connect_for, offer_of, start_program
from capd_client.transport.passed import CaptureFiles
from capd_protocol.messages import (
    AttachCapture,
    FlushCapture,
    RotateCapture,
    Rotated,
    SnapshotTaken,
    StartCapture,
)


class CaptureSession(SessionBase):
    """A packet capture, driven by events.

    The capture is asked for at once, and entering the ``with`` block waits until it runs. Its first event is
    ``SP_FILE``, when its rings are armed and its first file has its header. A capture that is refused raises why when
    the block is entered; without a block, ``wait_started`` does, or ``SP_ERROR_MSG`` or ``SP_BAD_FILTER`` is the only
    event. Until a capture runs, a file that has its name is left as it is.

    The capture ends with the session: leave the ``with`` block, or call ``terminate``. With ``detach=True``, or where
    the session is attached to a capture, it goes on; ``stop`` ends it.

    Example:
        with CaptureSession(interfaces=["eth0"], capture_filter="udp port 53", savefile="dns.pcapng") as capture:
            for event_type, message in capture:
                if event_type == events.SP_PACKET_COUNT:
                    print(f"{message} new packets, {capture.packetcount} in all")
    """

    @shows_arguments
    def __init__(
        self,
        *,
        socket_path: str | os.PathLike[str] | None = None,
        program: Sequence[str] | None = None,
        events: Wanted = (),
        **arguments: Unpack[CaptureArguments],
    ) -> None:
        """Ask for a capture. Where packets go to a FIFO, wait before that until somebody reads it.

        Args:
            socket_path: where the daemon listens; None: as the environment's ``CAPD_SOCKET`` says, or
                ``/run/capd/capd.sock``. If nobody listens there and this process may capture by itself, it
                gets a private daemon, which ends with the session.
            program: the words of a command that does what dumpcap does, such as ``["dumpcap"]``, which captures in the
                daemon's place, with the rights that it has. The session has the same events, as far as dumpcap says
                what has happened; what dumpcap does not do is refused.
            events: which events beyond wirepy's iteration gives, too: ``"all"``, or some by type or name, such as
                ``["SP_FILE_CLOSED", "SP_ENDED"]``.
            **arguments: see ``capd_client.CaptureArguments``.

        Raises:
            InvalidArgument: an argument is impossible, or an event does not exist.
            DestinationError: the directory of ``savefile`` cannot be entered, or it is a terminal, or a device.
            InterfaceError: a stream cannot be opened.
            DaemonUnavailable: there is no daemon.
        """
        shown = wanted_types(events)
        arguments, output = with_live_output(arguments)
        prepared = make_request(arguments)
        if output is not None:
            output.wait_for_reader()
        try:
            transport = _asked(prepared, socket_path, program)
            self._begin(prepared.request, prepared.place, transport, shown=shown, output=output)
        except BaseException:
            if output is not None:
                output.close()
            raise
        try:
            self._wait_handed_over(_deadline(END_TIMEOUT_S))
        except NoEvents:
            pass  # a daemon that is slow is given the directory when it asks
        except BaseException:
            self.abandon()
            raise

    def _begin(
        self,
        request: StartCapture | AttachCapture,
        place: Place | None,
        transport: Transport,
        *,
        shown: frozenset[EventType],
        output: LiveOutput | None = None,
    ) -> None:
        super().__init__(request, place, shown, output)
        self._live_output = output
        #: Around the two below it. One thread receives, and wakes all that wait.
        self._received = threading.Condition()
        self._is_receiving = False
        #: Around what is asked among events, and its answer.
        self._asking = threading.Lock()
        #: How often something was received.
        self._rounds = 0
        self._transport = transport
        self._conversation.outcomes = self._transport.outcomes
        self._transport.send(self._conversation.opening())
        #: Receives, since the packets that are announced are to be written, whatever the program does.
        self._receiver: threading.Thread | None = None
        if output is not None:
            output.begin(self._open_file)
            self._receiver = threading.Thread(target=self._receive_all, args=(output,), name="capture", daemon=True)
            self._receiver.start()

    def _receive_all(self, output: LiveOutput) -> None:
        try:
            while not self._conversation.is_over:
                with contextlib.suppress(NoEvents):
                    self._receive(_deadline(LOOK_S))
                if output.is_left and not self._conversation.is_stopping:
                    with contextlib.suppress(OSError):  # another thread closes the connection meanwhile
                        self.stop()
        except CaptureError as error:
            self._conversation.break_off(error)

    def _wait_handed_over(self, deadline_s: float | None) -> None:
        """Wait until the daemon has asked for the directory, or refused: the capture goes on by itself then."""
        while self._transport.is_offering and not self._conversation.is_decided:
            self._receive(deadline_s)

    @classmethod
    def attach(
        cls, capture: int | str, *, socket_path: str | os.PathLike[str] | None = None, events: Wanted = ()
    ) -> "CaptureSession":
        """Return a session that follows a capture that runs, whoever started it.

        Its first event is the current file; the counts begin with what was captured before. Leaving the session leaves
        the capture alone; ``stop`` ends it, if it is this user's.

        Args:
            capture: its number or name. Of several of that name (for root), this user's own.
            socket_path: where the daemon listens.
            events: which events beyond wirepy's iteration gives, too.

        Raises:
            InvalidArgument: it is neither number nor name; or others' name, of which there are several; or an event is
                none.
            NoSuchCapture: this user can see no such capture.
            ResourceError: it waits to run again: try again later.
            DaemonUnavailable: there is no daemon.
            BrokenPipe: it went away.
        """
        session = cls.__new__(cls)
        request = AttachCapture(capture=checked_capture(capture))
        shown = wanted_types(events)
        session._begin(request, None, connect_for(request, socket_path, None), shown=shown)
        try:
            session.wait_started(END_TIMEOUT_S)
        except BaseException:
            session.abandon()
            raise
        return session

    def fileno(self) -> int:
        """Return the descriptor of the connection, for select(2) and poll(2); -1 when the session has ended.

        It is readable when there may be an event more: take all that are there (``next_event(block=False)``) before you
        wait for it, since those that were received with others do not make it readable.
        """
        return self._transport.socket.fileno()

    def _files(self) -> CaptureFiles | None:
        return None if self._transport.is_closed else self._transport.files

    def __enter__(self) -> "CaptureSession":
        """Wait until the capture runs: what is sent in the block is captured.

        Raises:
            ChildError: it was refused; the subclass and ``failure`` give the reason.
            BrokenPipe: the daemon went away.
        """
        try:
            self.wait_started()
        except BaseException:
            self.terminate()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End the capture, unless it stays, and wait until it has: its files are complete then.

        Raises:
            DestinationError: packets could not be written to standard output, a FIFO or an open file. If the block
                has raised something else, this is a note of that.
        """
        try:
            self.terminate()
        except DestinationError as not_written:
            add_to_error(not_written, exc_info)

    def wait_started(self, timeout: float | None = None) -> None:
        """Wait until the capture runs.

        Args:
            timeout: at most so many seconds.

        Raises:
            ChildError: it was refused; the subclass and ``failure`` give the reason.
            BrokenPipe: the daemon went away.
            NoEvents: neither in the time given.
        """
        deadline_s = _deadline(timeout)
        while not self._conversation.is_decided:
            self._receive(deadline_s)
        error = self._conversation.start_error()
        if error is not None:
            raise error

    def wait_for_event(self, block: bool = True, timeout: float | None = None) -> Event:
        """Return the next event: a pair of its type, one of ``SP_…``, and its message.

        Args:
            block: wait for one; False: only one that is there already.
            timeout: wait at most so many seconds.

        Raises:
            NoEvents: none came in the time given.
            CaptureEnded: the capture has ended, and all its events have been returned.
            ChildError: the capture has failed, and all its events have been returned.
            BrokenPipe: the daemon went away.
        """
        return pair_of(self.next_event(block, timeout))

    def next_event(self, block: bool = True, timeout: float | None = None) -> CaptureEvent:
        """Return the next event, typed: ``wait_for_event`` gives wirepy's view of the same.

        Args:
            block: wait for one; False: only one that is there already.
            timeout: wait at most so many seconds.

        Raises:
            CaptureError: as ``wait_for_event``.
        """
        deadline_s = _deadline(timeout if block else 0)
        while True:
            rounds = self._rounds
            event = self._conversation.next_event()
            if event is not None:
                return event
            self._receive(deadline_s, rounds)

    def events(self) -> Iterator[CaptureEvent]:
        """Iterate over all events, typed, until the capture ends; if it fails, its error is raised behind the last one.

        Example:
            for event in capture.events():
                match event:
                    case events.FileOpened(name=path):
                        print("file", path)
                    case events.PacketCount(packets_delta=packets):
                        print(packets, "packets more")
        """
        while True:
            try:
                event = self.next_event()
            except CaptureEnded:
                return
            yield event

    def wait_for_unhandled_event(self, block: bool = True, timeout: float | None = None) -> Event:
        """Return the next event that has no handler, and give those before it to theirs.

        Args:
            block: wait for one; False: only one that is there already.
            timeout: wait at most so many seconds, all events together.

        Raises:
            Exception: what a handler raises; else as ``wait_for_event``.
        """
        deadline_s = _deadline(timeout if block else 0)
        while True:
            event = self.wait_for_event(timeout=None if deadline_s is None else max(0, deadline_s - time.monotonic()))
            if not self._handle(event):
                return event

    def __iter__(self) -> Iterator[Event]:
        """Iterate over the events without handlers until the capture ends; if it fails, its error is raised."""
        while True:
            try:
                event = self.wait_for_unhandled_event()
            except CaptureEnded:
                return
            yield event

    def _receive(self, deadline_s: float | None, rounds: int | None = None) -> None:
        """Receive more; several threads may, and each returns when there is something new.

        Args:
            deadline_s: wait no longer than until then.
            rounds: how often something had been received when there was nothing new; None: by now.
        """
        with self._received:
            rounds = self._rounds if rounds is None else rounds
            if self._rounds != rounds:
                return
            if self._is_receiving:
                timeout_s = None if deadline_s is None else _left(deadline_s)
                if not self._received.wait_for(lambda: self._rounds != rounds, timeout_s):
                    raise NoEvents("no event came in time")
                return
            self._is_receiving = True
        try:
            if self._conversation.is_over:
                return
            data = self._transport.receive(None if deadline_s is None else _left(deadline_s))
            if data is None:
                raise NoEvents("no event came in time")
            self._conversation.receive(data)
        finally:
            # Also where nothing came: another one that waits has to receive now.
            with self._received:
                self._is_receiving = False
                self._rounds += 1
                self._received.notify_all()

    def stop(self) -> None:
        """Have the capture end. Its last events still come, then iteration ends; returns at once."""
        if not self._conversation.is_over:
            self._transport.send(self._conversation.stopping())

    def rotate(self) -> str:
        """Have the ring go on in its next file; return that file's path when it has its header.

        Events that come meanwhile are kept.

        Raises:
            InvalidArgument: the capture has a single file, or this is its last one.
            NoSuchCapture: it is not this user's.
            ResourceError: the capture did not do it in time.
            NoEvents: the daemon does not answer.
            ChildError: the capture was refused, or has failed.
            BrokenPipe: the capture has ended, or the daemon went away.
        """
        answer = self._ask(RotateCapture())
        return self._place.path_of(answer.file_name if isinstance(answer, Rotated) else "")

    def flush(self) -> None:
        """Return when every packet that the kernel had before is in the file, and in ``packetcount``.

        Events that come meanwhile are kept.

        Raises:
            CaptureError: as ``rotate``.
        """
        self._ask(FlushCapture())

    def snapshot(self, after: float | None = None) -> str:
        """Have a recorder write what it has; return the path of the file when it is complete.

        Events that come meanwhile are kept.

        Args:
            after: and what comes within so many seconds; None: as ``recorder_after`` says.

        Raises:
            InvalidArgument: the time is impossible, or the capture is no recorder.
            ResourceError: another snapshot is being written; or this one would exceed a limit, or the disk was too slow
                for it.
            DiskError: the disk is full. What was written is whole.
            DestinationError: the file cannot be created.
            NoSuchCapture: it is not this user's.
            NoEvents: the daemon does not answer.
            ChildError: the capture was refused, or has failed.
            BrokenPipe: the capture has ended, or the daemon went away.
        """
        request, timeout_s = self._snapshot_request(after)
        answer = self._ask(request, timeout_s)
        return self._place.path_of(answer.file_name if isinstance(answer, SnapshotTaken) else "")

    def _ask(self, request: Asked, timeout_s: float = END_TIMEOUT_S) -> Answered:
        deadline_s = time.monotonic() + timeout_s
        self.wait_started(END_TIMEOUT_S)
        with self._asking:
            self._wait_answered(deadline_s)  # if whoever asked before was interrupted
            if not self._conversation.is_over:
                self._transport.send(self._conversation.asking(request))
            self._wait_answered(deadline_s)
            answer = self._conversation.answer()
            if answer is None:
                raise DaemonGone("capd has gone away")
            return answer

    def _wait_answered(self, deadline_s: float) -> None:
        while self._conversation.is_asking and not self._conversation.is_over:
            self._receive(deadline_s)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the capture has ended by itself; its events can be had afterwards.

        Args:
            timeout: at most so many seconds.

        Raises:
            NoEvents: it has not ended in the time given.
        """
        deadline_s = _deadline(timeout)
        while not self._conversation.is_over:
            self._receive(deadline_s)

    def abandon(self) -> None:
        """Leave at once, without waiting for anything: the daemon ends a capture that does not stay by itself."""
        self._conversation.receive(b"")
        if self._live_output is not None:
            self._live_output.give_up()
            with contextlib.suppress(CaptureError):
                self._live_output.finish(self.packetcount)
        self._transport.close(wait=False)

    def terminate(self) -> None:
        """End the capture, wait until its files are complete, and close the connection. Safe to call again.

        A capture that stays is left alone; if it was asked to stop, its end is waited for. Where packets go to a
        reader, this waits until it has them, but not where it takes nothing for 5 s.

        Raises:
            DestinationError: packets could not be written to standard output, a FIFO or an open file.
        """
        if self._transport.is_closed:
            return
        deadline_s = time.monotonic() + END_TIMEOUT_S
        try:
            while self._stays and self._conversation.is_stopping and not self._conversation.is_over:
                self._receive(deadline_s)
            self._transport.leave()
            self.wait(END_TIMEOUT_S)
        except (NoEvents, OSError):
            pass  # closing the connection, below, leaves the daemon no choice
        except BaseException:
            if self._live_output is not None:
                self._live_output.give_up()
            raise
        finally:
            self._conversation.receive(b"")
            self._finish_output()

    def _finish_output(self) -> None:
        try:
            if self._live_output is not None:
                self._live_output.finish(self.packetcount)
        finally:
            self._transport.close()
            if self._receiver is not None:
                self._receiver.join()


def _left(deadline_s: float) -> float:
    # What is longer than a week is no different from it; locks take no more than some hundred years.
    return min(max(0.0, deadline_s - time.monotonic()), 604_800.0)


def _asked(prepared: Prepared, socket_path: SocketPath, program: Sequence[str] | None) -> Transport:
    if program is not None:
        return start_program(program, prepared)
    open_device = opener(socket_path, prepared.netns)
    return connect_for(prepared.request, socket_path, offer_of(prepared, open_device), prepared.netns)


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None or timeout_s == inf else time.monotonic() + timeout_s
