"""``CaptureSession`` for asynchronous programs."""

import os
from collections.abc import AsyncIterator, Sequence
from typing import Unpack

import anyio
import anyio.abc
import anyio.to_thread

from capd_client.aio.connection import Connection
from capd_client.conversation.capture import Answered, Asked
from capd_client.conversation.events import CaptureEvent, Event, EventType, Wanted, pair_of, wanted_types
from capd_client.conversation.session_base import END_TIMEOUT_S, SessionBase
from capd_client.daemon_devices import opener
from capd_client.errors import CaptureEnded, CaptureError, DaemonGone, DestinationError
from capd_client.output.destinations import READER_LOOK_S
from capd_client.output.live_output import LOOK_S, LiveOutput, add_to_error, with_live_output
from capd_client.request.options import (
    CaptureArguments,
    Prepared,
    checked_capture,
    make_request,
    shows_arguments,
)
from capd_client.transport.connect import Transport, connect_for, offer_of, start_program
from capd_client.transport.passed import CaptureFiles
from capd_protocol.messages import AttachCapture, FlushCapture, RotateCapture, Rotated, SnapshotTaken, StartCapture


class CaptureSession(SessionBase):
    """A packet capture, driven by events.

    Entering the block asks for the capture and waits until it runs: its rings are armed and its first file has its
    header. Leaving it, also by cancellation, ends the capture and waits until its files are complete; with
    ``detach=True``, or where the session is attached to a capture, it goes on, and ``stop`` ends it.

    Several tasks may wait for events; each event is given to one of them.

    Example:
        async with CaptureSession(interfaces=["eth0"], savefile="dns.pcapng") as capture:
            async for event_type, message in capture:
                if event_type == capture.SP_PACKET_COUNT:
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
        """Prepare a capture; nothing is started yet.

        Args:
            socket_path: as for the blocking session.
            program: as for the blocking session.
            events: which events beyond wirepy's iteration gives, too: ``"all"``, or some by type or name.
            **arguments: see ``capd_client.CaptureArguments``.

        Raises:
            InvalidArgument: an argument is impossible, or an event does not exist.
            DestinationError: ``savefile`` is a terminal, or a device.
        """
        shown = wanted_types(events)
        arguments, output = with_live_output(arguments)
        prepared = make_request(arguments)
        self._begin(prepared.request, prepared, socket_path, shown, output, program=program)

    def _begin(
        self,
        request: StartCapture | AttachCapture,
        prepared: Prepared | None,
        socket_path: str | os.PathLike[str] | None,
        shown: frozenset[EventType],
        output: LiveOutput | None = None,
        *,
        program: Sequence[str] | None = None,
    ) -> None:
        super().__init__(request, prepared.place if prepared is not None else None, shown, output)
        self._live_output = output
        #: Of the task that receives, since the packets that are announced are to be written.
        self._tasks: anyio.abc.TaskGroup | None = None
        self._prepared = prepared
        self._socket_path = socket_path
        self._program = program
        self._connection: Connection | None = None
        self._was_entered = False
        self._is_terminated = False

    @classmethod
    def attach(
        cls, capture: int | str, *, socket_path: str | os.PathLike[str] | None = None, events: Wanted = ()
    ) -> "CaptureSession":
        """Prepare to follow a capture that runs, whoever started it; entering the block asks for it.

        As with the blocking session, whose exceptions entering the block raises.

        Args:
            capture: its number or name.
            socket_path: where the daemon listens.
            events: which events beyond wirepy's iteration gives, too.

        Raises:
            InvalidArgument: it is neither number nor name, or an event does not exist.
        """
        session = cls.__new__(cls)
        request = AttachCapture(capture=checked_capture(capture))
        session._begin(request, None, socket_path, wanted_types(events))
        return session

    async def __aenter__(self) -> "CaptureSession":
        """Start the capture. Where packets go to a FIFO, wait before that until somebody reads it.

        Raises:
            DestinationError: the directory of ``savefile`` cannot be entered.
            DaemonUnavailable: there is no daemon.
            ChildError: the capture was refused; the subclass and ``failure`` give the reason.
            BrokenPipe: the daemon went away.
        """
        if self._was_entered:
            raise RuntimeError("a session is for one capture: make another one")
        self._was_entered = True
        try:
            if self._live_output is not None:
                await self._wait_for_reader(self._live_output)
            self._connection = await Connection.open(self._ask, self._conversation.receive)
        except BaseException:
            if self._live_output is not None:
                self._live_output.close()
            raise
        try:
            if self._live_output is not None:
                self._live_output.begin(self._open_file)
                self._tasks = await anyio.create_task_group().__aenter__()
                self._tasks.start_soon(self._receive_all, self._connection, self._live_output)
            await self.wait_started()
        except BaseException:
            await self._leave()
            raise
        return self

    @staticmethod
    async def _wait_for_reader(output: LiveOutput) -> None:
        """Wait for the first reader, and not in a thread: opening a FIFO cannot be broken off there."""
        while not output.has_reader():  # noqa: ASYNC110  # the kernel tells nobody
            await anyio.sleep(READER_LOOK_S)

    async def _receive_all(self, connection: Connection, output: LiveOutput) -> None:
        try:
            while not self._conversation.is_over:
                with anyio.move_on_after(LOOK_S):
                    await connection.receive()
                if output.is_left and not self._conversation.is_stopping:
                    await self.stop()
        except CaptureError as error:
            self._conversation.break_off(error)

    def _files(self) -> CaptureFiles | None:
        return None if self._connection is None else self._connection.files

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self._leave()
        except DestinationError as not_written:
            add_to_error(not_written, exc_info)

    async def _leave(self) -> None:
        try:
            await self.terminate()
        finally:
            if self._tasks is not None:
                await self._tasks.__aexit__(None, None, None)

    def _ask(self) -> Transport:
        if self._prepared is None:
            transport = connect_for(self._request, self._socket_path, None)
        elif self._program is not None:
            transport = start_program(self._program, self._prepared)
        else:
            netns = self._prepared.netns
            offer = offer_of(self._prepared, opener(self._socket_path, netns))
            transport = connect_for(self._request, self._socket_path, offer, netns)
        self._conversation.outcomes = transport.outcomes
        transport.send(self._conversation.opening())
        return transport

    def _entered(self) -> Connection:
        if self._connection is None:
            raise RuntimeError("the session is not entered: use 'async with'")
        return self._connection

    async def wait_started(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Wait until the capture runs; entering the block has done so.

        Args:
            timeout: at most so many seconds.

        Raises:
            ChildError: it was refused; the subclass and ``failure`` give the reason.
            BrokenPipe: the daemon went away.
            NoEvents: neither in the time given.
        """
        await self._entered().wait_for(lambda: self._conversation.is_decided or None, timeout)
        error = self._conversation.start_error()
        if error is not None:
            raise error

    async def wait_for_event(self, block: bool = True, timeout: float | None = None) -> Event:  # noqa: ASYNC109
        """Return the next event: a pair of its type, one of ``SP_…``, and its message.

        After cancellation no event is lost.

        Args:
            block: wait for one; False: only one that is there already.
            timeout: wait at most so many seconds.

        Raises:
            NoEvents: none came in the time given.
            CaptureEnded: the capture has ended, and all its events have been returned.
            ChildError: the capture has failed, and all its events have been returned.
            BrokenPipe: the daemon went away.
        """
        return pair_of(await self.next_event(block, timeout))

    async def next_event(self, block: bool = True, timeout: float | None = None) -> CaptureEvent:  # noqa: ASYNC109
        """Return the next event, typed: ``wait_for_event`` gives wirepy's view of the same.

        After cancellation no event is lost.

        Args:
            block: wait for one; False: only one that is there already.
            timeout: wait at most so many seconds.

        Raises:
            CaptureError: as ``wait_for_event``.
        """
        return await self._entered().wait_for(self._conversation.next_event, timeout if block else 0)

    async def events(self) -> AsyncIterator[CaptureEvent]:
        """Iterate over all events, typed, until the capture ends; if it fails, its error is raised after the last."""
        while True:
            try:
                event = await self.next_event()
            except CaptureEnded:
                return
            yield event

    # ``timeout`` is wirepy's argument.
    async def wait_for_unhandled_event(self, block: bool = True, timeout: float | None = None) -> Event:  # noqa: ASYNC109
        """Return the next event that has no handler, and give those before it to theirs.

        Args:
            block: wait for one; False: only one that is there already.
            timeout: wait at most so many seconds, all events together.

        Raises:
            Exception: what a handler raises; else as ``wait_for_event``.
        """
        deadline_s = None if timeout is None else anyio.current_time() + timeout
        while True:
            left_s = None if deadline_s is None else deadline_s - anyio.current_time()
            event = await self.wait_for_event(block, left_s)
            if not self._handle(event):
                return event

    def __aiter__(self) -> AsyncIterator[Event]:
        """Iterate over the events without handlers until the capture ends; if it fails, its error is raised."""
        return self

    async def __anext__(self) -> Event:
        """Return the next event without a handler."""
        try:
            return await self.wait_for_unhandled_event()
        except CaptureEnded:
            raise StopAsyncIteration from None

    async def stop(self) -> None:
        """Have the capture end. Its last events still come, then iteration ends."""
        if self._connection is not None and not self._conversation.is_over:
            await self._connection.send(self._conversation.stopping())

    async def rotate(self) -> str:
        """Have the ring go on in its next file; return that file's path when it has its header.

        Raises:
            CaptureError: as with the blocking session.
        """
        answer = await self._asked(RotateCapture())
        return self._place.path_of(answer.file_name if isinstance(answer, Rotated) else "")

    async def flush(self) -> None:
        """Return when every packet that the kernel had before is in the file, and in ``packetcount``.

        Raises:
            CaptureError: as with the blocking session.
        """
        await self._asked(FlushCapture())

    async def snapshot(self, after: float | None = None) -> str:
        """Have a recorder write what it has; return the path of the file when it is complete.

        Args:
            after: and what comes within so many seconds; None: as ``recorder_after`` says.

        Raises:
            CaptureError: as with the blocking session.
        """
        request, timeout_s = self._snapshot_request(after)
        answer = await self._asked(request, timeout_s)
        return self._place.path_of(answer.file_name if isinstance(answer, SnapshotTaken) else "")

    async def _asked(self, request: Asked, timeout_s: float = END_TIMEOUT_S) -> Answered:
        connection = self._entered()
        async with connection.asking:
            await self._wait_answered(connection, timeout_s)  # if whoever asked before was cancelled
            if not self._conversation.is_over:
                with anyio.CancelScope(shield=True):  # what is asked is asked: a few bytes
                    await connection.send(self._conversation.asking(request))
            await self._wait_answered(connection, timeout_s)
            answer = self._conversation.answer()
            if answer is None:
                raise DaemonGone("capd has gone away")
            return answer

    async def _wait_answered(self, connection: Connection, timeout_s: float) -> None:
        def is_answered() -> bool | None:
            return self._conversation.is_over or not self._conversation.is_asking or None

        await connection.wait_for(is_answered, timeout_s)

    async def wait(self) -> None:
        """Wait until the capture has ended by itself; its events can be had afterwards."""
        await self._entered().wait_for(lambda: self._conversation.is_over or None)

    async def terminate(self) -> None:
        """End the capture, wait until its files are complete, and close the connection. Safe to call again.

        A capture that stays is left alone; if it was asked to stop, its end is waited for. Where packets go to a
        reader, this waits until it has them, but not where it takes nothing for 5 s.

        Raises:
            DestinationError: packets could not be written to standard output, a FIFO or an open file.
        """
        connection = self._connection
        if connection is None or self._is_terminated:
            return
        self._is_terminated = True
        interrupted: BaseException | None = None
        try:
            deadline_s = anyio.current_time() + END_TIMEOUT_S
            with anyio.CancelScope(shield=True, deadline=deadline_s) as scope:
                while not self._conversation.is_over:
                    if not (self._stays and self._conversation.is_stopping):
                        connection.leave()
                    try:
                        await connection.receive()
                    except anyio.get_cancelled_exc_class() as error:
                        # asyncio's own Task.cancel(), which no shield holds off: it has to wait.
                        if scope.cancel_called:
                            raise
                        interrupted = error
        finally:
            self._conversation.receive(b"")
            try:
                if self._live_output is not None:
                    with anyio.CancelScope(shield=True):
                        await anyio.to_thread.run_sync(self._live_output.finish, self.packetcount)
            finally:
                await connection.aclose()
        if interrupted is not None:
            raise interrupted
