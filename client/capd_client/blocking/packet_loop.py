"""``PacketLoop``: a capture whose packets are given to a handler, one at a time.

The packets wait in a capture's files in memory (``in_memory``), and these in descriptors; so what waits is bounded by
how many files are held, and by their size.
"""

import contextlib
import math
import os
import select
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from time import monotonic
from typing import Any, Self, Unpack, cast

from capd_client.blocking.interrupts import Uninterrupted
from capd_client.blocking.session import CaptureSession
from capd_client.errors import CaptureEnded, CaptureError, InvalidArgument, LoopRunning, NoEvents, SessionClosed
from capd_client.reading.gap import Gap
from capd_client.reading.headers import PacketHeader, headed_packets
from capd_client.reading.live import LiveFiles
from capd_client.request.options import CaptureArguments, shows_arguments_but
from capd_protocol.arguments import ARGUMENTS
from capd_protocol.batches.model import Batch
from capd_protocol.messages import EndReason

#: What a handler is called with: the user's argument, the header, the bytes.
PacketHandler = Callable[[Any, PacketHeader, memoryview], object]

#: As a capture in memory keeps, and as a stream's reader may be behind.
DEFAULT_WAITING_BYTES = 64_000_000
#: Chosen: below, files would be smaller than the packets of one announcement; above, the memory of most machines.
_WAITING_RANGE = (1_000_000, 4_000_000_000)
#: Files that are held at most: those that the client keeps open (32), those on the way to it (16 fill the socket), the
#: one that is being read, and one to spare.
_HELD_FILES = 50
#: As if there were so many, since each takes whole pages, and its last packet goes beyond its size.
_SIZED_FILES = 55
#: Of those that are held, what the handler may be behind while files are taken from the socket.
_BEHIND_FILES = 32

#: What of a capture's arguments is about files, and refused.
FILE_ARGUMENTS = frozenset(
    (
        *("savefile", "autostop_filesize", "autostop_files", "use_pcapng", "use_libpcap", "pass_files", "detach"),
        *(each.name for each in ARGUMENTS if each.part in {"destination", "ring", "recorder"}),
    )
)

#: poll(2) takes milliseconds as an int; after that, the loop waits anew.
_LONGEST_WAIT_S = 86_400.0


class PacketLoop:
    """A session whose packets are given to a handler, one at a time and in order.

    The capture begins with the session: each packet that comes from then on is given to the handler by ``loop``, or
    counted in ``drops``. A packet waits while the handler is busy or no loop runs, together with others in at most
    ``max_waiting_bytes``. What does not fit is dropped and counted, and nothing else piles up.

    One loop runs at a time. ``end_loop`` ends it, from anywhere, and it can be started again. ``close``, or leaving the
    ``with`` block, ends the session.

    Example:
        def show(argument, header, packet):
            print(header.timestamp, header.ifname, header.len, bytes(packet[:14]).hex())


        with PacketLoop(interfaces="eth0", capture_filter="udp port 53") as session:
            session.loop(show, count=10)
            print(session.received, "given,", session.drops, "dropped")
    """

    @shows_arguments_but(FILE_ARGUMENTS)
    def __init__(
        self,
        *,
        max_waiting_bytes: int = DEFAULT_WAITING_BYTES,
        socket_path: str | os.PathLike[str] | None = None,
        **arguments: Unpack[CaptureArguments],
    ) -> None:
        """Begin to capture, and wait until the capture runs.

        Args:
            max_waiting_bytes: how much memory packets may take that wait for the handler, with some 40 bytes more for
                each; 1,000,000 to 4,000,000,000. What comes during a single call of the handler may take a quarter of
                that. Fifty packets may wait however large they are. The kernel's ring of each interface comes on top
                (``kernel_buffer_size``).
            socket_path: where the daemon listens; None: as for ``CaptureSession``.
            **arguments: as for ``CaptureSession``, see ``capd_client.CaptureArguments``. Those about files are refused,
                since there are none: ``savefile``, ``detach``, and the arguments of a ring or a recorder, for instance.
                With ``max_packet_count`` or ``autostop_duration``, the capture ends by itself. A packet is given to the
                handler within about ``update_interval``.

        Raises:
            InvalidArgument: an argument is impossible, or about files.
            DaemonUnavailable: there is no daemon.
            ChildError: the capture was refused; the subclass and ``failure`` give the reason.
            BrokenPipe: the daemon went away.
        """
        file_kb = _checked_waiting_bytes(max_waiting_bytes) // _SIZED_FILES // 1000
        given = cast(CaptureArguments, {"packet_flags": True, **_without_files(arguments), **_in_memory(file_kb)})
        with contextlib.ExitStack() as owned:
            # Sockets rather than a lock: a signal handler may come at any time, and sending never waits.
            self._woken, self._waker = map(owned.enter_context, socket.socketpair())
            self._capture = owned.enter_context(CaptureSession(socket_path=socket_path, **given))
            self._owned = owned.pop_all()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._woken, select.POLLIN)
        self._poll.register(self._capture, select.POLLIN)
        self._files = LiveFiles(
            self._capture.open_file,
            max_behind_bytes=_BEHIND_FILES * file_kb * 1000,
            overflow="drop_oldest",
            as_bytes=False,
        )
        #: Of what was taken from the files, the packets that were not given yet.
        self._packets: Iterator[tuple[PacketHeader, memoryview]] = iter(())
        self._received = 0
        self._missed = 0
        #: Why no more events come.
        self._error: CaptureError | None = None
        #: The file that is written now was opened because the one before could not be had.
        self._is_renewed = False
        #: Held by the loop that runs, and to close. The same thread may take it again: in a signal handler.
        self._turn = threading.RLock()
        self._looping_thread: int | None = None
        self._is_ending = False
        self._is_closed = False
        #: Around what a Ctrl-C must not tear apart.
        self._uninterrupted = Uninterrupted()

    def __enter__(self) -> Self:
        """Return the session; leaving the block closes it."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        """Return on what it captures, where it stands, and how many packets were given and dropped."""
        state = "looping" if self._looping_thread is not None else "waiting"
        if self.end_reason is not None:
            state = f"ended: {self.end_reason}"
        state = "closed" if self._is_closed else state
        counts = f"{self.received:,} packets received, {self.drops:,} dropped"
        return f"<PacketLoop on [{', '.join(self.interfaces)}], {state}, {counts}>"

    def loop(
        self, handler: PacketHandler, argument: Any = None, count: int | None = None, timeout: float | None = None
    ) -> int:
        """Call a handler for each packet, one after another, until ``end_loop``, a limit, or the end of the capture.

        The first packets are those that wait: what has come since the session began, or since the last loop. After
        ``end_loop``, and after an exception, the next loop goes on with the packet behind the one that was given last.

        Args:
            handler: called as ``handler(argument, header, packet)``. ``header`` is a ``PacketHeader``. ``packet`` is a
                read-only memoryview of the captured bytes, no copy. It is valid as long as it is kept, also when the
                session was closed; but as long as one packet is kept, the file in memory is that it came in, which is a
                fiftieth of ``max_waiting_bytes``. Keep ``bytes(packet)`` to keep a few of many. What the handler
                returns does not matter.
            argument: given to the handler as it is.
            count: end after so many packets; None: no limit.
            timeout: end after so many seconds, however many packets wait; a handler that runs then is not interrupted.
                None: no limit.

        Returns:
            How many packets this loop has given to the handler. Also where the capture ends as it should, at once if it
            has: ``end_reason`` says so.

        Raises:
            InvalidArgument: an argument is impossible.
            SessionClosed: the session was closed before.
            LoopRunning: a loop of this session runs already.
            ChildError: the capture has failed, as where the last interface is gone (``InterfaceError``), or the daemon
                went away (``DaemonGone``). All packets that were captured were given.
            Exception: what the handler raises. The loop can be started again.
        """
        _check_handler(handler)
        last = self._received + checked_count(count)
        deadline_s = monotonic() + checked_timeout(timeout)
        with self._taking_turn():
            first = self._received
            with contextlib.suppress(CaptureEnded):
                self._give(handler, argument, last, deadline_s)
            return self._received - first

    def _give(self, handler: PacketHandler, argument: object, last: int, deadline_s: float) -> None:
        while self._received < last and not self._is_ending and monotonic() < deadline_s:
            for header, packet in islice(self._packets, last - self._received):
                self._received += 1
                handler(argument, header, packet)
                if monotonic() >= deadline_s or self._is_ending:
                    return
            if self._received < last:
                with self._uninterrupted:
                    has_moved = self._move_on()
                if not has_moved:
                    self._await_packets(deadline_s)

    @contextlib.contextmanager
    def _taking_turn(self) -> Generator[None, None, None]:
        if self._looping_thread is not None or not self._turn.acquire(blocking=False):
            raise LoopRunning("a loop of this session runs already: end it first, or make another session")
        try:
            if self._is_closed:
                raise SessionClosed("the session was closed: make another one")
            self._looping_thread = threading.get_ident()
            yield
        finally:
            self._looping_thread = None
            self._is_ending = False
            if self._is_closed:
                self._end()
            self._turn.release()

    def end_loop(self) -> None:
        """End the loop that runs: no packet is given behind the one that the handler has now.

        May be called from the handler, from another thread, or from a signal handler; returns at once. Where no loop
        runs, the next one ends at once, before its first packet: so a call that comes just before the loop is not lost.
        After ``close`` it does nothing.
        """
        self._is_ending = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it is woken already. Or closed.
            self._waker.send(b"\0")

    def close(self) -> None:
        """End the session: the loop ends, then the capture, and the memory is freed. Safe to call again.

        May be called from the handler and from a signal handler in the thread of the loop: the session is closed when
        the handler has returned. From another thread, the handler is waited for.

        Packets that still wait are counted in ``drops``: afterwards ``received`` and ``drops`` are all packets that
        have passed the filter, up to the capture's own end.
        """
        self._is_closed = True
        self.end_loop()
        if self._looping_thread == threading.get_ident():
            return  # the loop does it
        with self._turn:
            self._end()

    def _end(self) -> None:
        self._owned.close()
        self._missed = max(self._missed, self._capture.packetcount - self._received)
        self._packets = iter(())
        self._files.close()

    # What is known ------------------------------------------------------------------------------------------------

    @property
    def received(self) -> int:
        """Packets that were given to the handler, by all loops of this session."""
        return self._received

    @property
    def drops(self) -> int:
        """Packets that passed the filter and are lost: the handler was too slow, or the kernel had no room.

        As far as is known: the number grows while a loop waits for packets, and is final after ``close``.
        """
        return self._missed + self._capture.dropcount

    @property
    def interfaces(self) -> tuple[str, ...]:
        """Names and patterns that are captured on, the default interface by its name."""
        return self._capture.interfaces

    @property
    def end_reason(self) -> EndReason | None:
        """Why the capture has ended; None while it runs, as far as a loop has seen."""
        return self._capture.end_reason

    # What comes next ----------------------------------------------------------------------------------------------

    def _move_on(self) -> bool:
        """Have the packets ready that come next, or count what is missed of them; say whether there was either."""
        self._take_events()
        item = self._files.next_item()
        if isinstance(item, Batch):
            self._is_renewed = False
            self._packets = headed_packets(item, self._files.interfaces)
            return True
        gap = item
        if item is None and (self._error is not None or not self._files.is_blind):
            # All was given that there is. What events have counted beyond was in files that nothing is known of.
            gap = self._files.last_gap(self._capture.packetcount)
        if isinstance(gap, Gap):
            self._missed += gap.packets
        return gap is not None

    def _take_events(self) -> None:
        while self._error is None:
            try:
                self._files.take(self._capture.next_event(block=False))
            except NoEvents:
                return
            except CaptureError as error:
                self._error = error

    def _await_packets(self, deadline_s: float) -> None:
        """Wait where there is nothing to move on to, as long as the loop may.

        Raises:
            CaptureError: no more packets will come.
        """
        if self._error is not None:
            raise self._error.with_traceback(None)
        if self._files.is_blind and not self._is_renewed:
            self._renew()
        else:
            self._wait(deadline_s)

    def _renew(self) -> None:
        """Have the capture go on in another file, since the current one was not kept for us.

        Else packets would be missed until it is full, however fast the handler is by then.
        """
        self._is_renewed = True
        # What stands in the way is the capture's end, which the events say, or is over when the file is full.
        with contextlib.suppress(CaptureError):
            self._capture.rotate()

    def _wait(self, deadline_s: float) -> None:
        """Wait until there are events, or the loop is to end."""
        left_s = min(deadline_s - monotonic(), _LONGEST_WAIT_S)
        # Rounded up: a timeout is not over before its time.
        self._poll.poll(max(0, math.ceil(left_s * 1000)))
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass


# Arguments --------------------------------------------------------------------------------------------------------


def _without_files(arguments: CaptureArguments) -> CaptureArguments:
    """Return the arguments, of which none is about files."""
    for name, value in arguments.items():
        if value is not None and name in FILE_ARGUMENTS:
            text = f"{name} is about files, and a packet loop has its packets in memory: leave it out"
            raise InvalidArgument(text, argument=name)
    return arguments


def _in_memory(file_kb: int) -> CaptureArguments:
    return {"in_memory": True, "ringbuffer_filesize": file_kb, "ringbuffer_files": _HELD_FILES}


def _checked_waiting_bytes(size_bytes: object) -> int:
    least, most = _WAITING_RANGE
    if isinstance(size_bytes, int) and not isinstance(size_bytes, bool) and least <= size_bytes <= most:
        return size_bytes
    text = f"max_waiting_bytes is {size_bytes!r}; it must be a whole number from {least:,} to {most:,}"
    raise InvalidArgument(text, argument="max_waiting_bytes")


def _check_handler(handler: object) -> None:
    if not callable(handler):
        text = f"handler is {handler!r}; it must be a function that takes an argument, a header and a packet"
        raise InvalidArgument(text, argument="handler")


def checked_count(count: object) -> int:
    """Return the most packets that a loop gives.

    Raises:
        InvalidArgument: it is no such number.
    """
    if count is None:
        return sys.maxsize
    if isinstance(count, int) and not isinstance(count, bool) and count > 0:
        return count
    text = f"count is {count!r}; it must be a whole number from 1, or None for no limit"
    raise InvalidArgument(text, argument="count")


def checked_timeout(timeout_s: object) -> float:
    """Return how long a loop takes at most, in seconds.

    Raises:
        InvalidArgument: it is no such time.
    """
    if timeout_s is None:
        return math.inf
    if isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool) and timeout_s > 0:
        return timeout_s
    text = f"timeout is {timeout_s!r}; it must be a positive number of seconds, or None for no limit"
    raise InvalidArgument(text, argument="timeout")
