"""The work of a process that sends: batches of a client in, frames out, each at its time; reports back.

The packet socket came bound, and the process may not give an address: so frames go out on that interface alone, and on
none when the daemon has taken it back (``capd.supervisor.sender``).
"""

import contextlib
import errno
import select
import socket
import time
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from capd.launch import SenderReport, SendLaunch
from capd.worker.sending.checks import Checks
from capd.worker.sending.pace import Pace
from capd.worker.sending.tally import Tally
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.messages import Failure, FailureCode
from capd_protocol.sending import (
    MAX_MESSAGE_BYTES,
    Frames,
    Reason,
    Report,
    ReportWanted,
    decode,
    encode_report,
)

#: Frames with a time that are sent before the clock is looked at again. Chosen: a tenth of a millisecond.
_AT_ONCE = 64
#: The interface takes no more now: it is asked again after so long. Chosen: at 1 Gbit/s a queue of 1000 long frames has
#: room again.
_PAUSE_S = 0.001
#: Up to here a wait is a sleep, which is exact, and nothing else is listened to meanwhile. Chosen: nobody notices.
_SLEEP_NS = 3_000_000
#: How often the daemon learns how much was sent.
_REPORT_NS = 1_000_000_000
_MS_NS = 1_000_000

#: The driver's queue, or the socket's, is full.
_BUSY = (errno.EAGAIN, errno.ENOBUFS)
#: The kernel takes no frame of this length: the interface's MTU has become less.
_BAD_SIZE = (errno.EMSGSIZE, errno.EINVAL)
_ADVICE = {
    errno.ENETDOWN: (FailureCode.INTERFACE_DOWN, "the interface {0} is down: 'ip link set {0} up'"),
    errno.ENXIO: (FailureCode.INTERFACE_LOST, "the interface {0} has gone"),
    errno.ENODEV: (FailureCode.INTERFACE_LOST, "the interface {0} has gone"),
}


class Over(Exception):
    """Nothing more is to be sent; ``failure`` has the reason, if it is one."""

    def __init__(self, failure: Failure | None = None) -> None:
        super().__init__()
        self.failure = failure


class Sender:
    """One client's."""

    def __init__(
        self, launch: SendLaunch, packets: socket.socket, channel: socket.socket, control: socket.socket
    ) -> None:
        """Send nothing yet.

        Args:
            launch: what may be sent.
            packets: the packet socket.
            channel: to the client.
            control: to the daemon.
        """
        self._launch = launch
        self._packets = packets
        self._channel = channel
        self._control = control
        self._checks = Checks(launch.max_frame_bytes, launch.source_macs)
        self._pace = Pace(launch.max_pps)
        self._tally = Tally()
        #: Where times are counted from.
        self._begun_ns = 0
        self._buffer = bytearray(MAX_MESSAGE_BYTES + 1)
        self._reported = SenderReport()
        self._next_report_ns = 0
        #: Why the kernel took no more of the last frames.
        self._error = 0
        # A client that has gone, or has shut down its side, ends it; what it has sent last waits for nothing.
        self._ends = select.poll()
        self._ends.register(control, select.POLLIN)
        self._ends.register(channel, select.POLLRDHUP)
        self._news = select.poll()
        self._news.register(control, select.POLLIN)
        self._news.register(channel, select.POLLIN | select.POLLRDHUP)

    def run(self) -> None:
        """Send until the client or the daemon ends it."""
        failure: Failure | None = None
        try:
            self._tell_daemon(SenderReport())
            while True:
                self._obey(self._receive())
        except Over as over:
            failure = over.failure
        except RemoteProtocolError as error:
            text = f"the process that sends did not understand the client: {error}"
            failure = Failure(code=FailureCode.PROTOCOL, text=text)
        with contextlib.suppress(RemoteProtocolError):
            self._tell_client(self._tally.report(None, is_last=True))
        self._tell_daemon(self._counts(failure, is_last=True))

    # Messages -----------------------------------------------------------------------------------------------------

    def _receive(self) -> memoryview:
        """Wait for the client's next message.

        Raises:
            Over: there is none.
        """
        while not (events := self._news.poll(self._until_report_ms())):
            self._report_in_time()
        self._check_ends(events)
        size = self._channel.recv_into(self._buffer)
        if not size:
            raise Over
        self._report_in_time()
        return memoryview(self._buffer)[:size]

    def _until_report_ms(self) -> int | None:
        if self._counts() == self._reported:
            return None
        return max(0, (self._next_report_ns - time.monotonic_ns()) // _MS_NS + 1)

    def _check_ends(self, events: Sequence[tuple[int, int]]) -> None:
        for descriptor, event in events:
            if descriptor == self._control.fileno() or event & ~select.POLLIN:
                raise Over

    def _obey(self, message: memoryview) -> None:
        """Do what a client asks for."""
        wanted = decode(message)
        if isinstance(wanted, ReportWanted):
            self._tell_client(self._tally.report(wanted.number, is_last=wanted.is_last))
        else:
            self._send(wanted)

    def _tell_client(self, report: Report) -> None:
        # It asks for reports, and reads them. One that does not shall keep nothing waiting.
        try:
            self._channel.send(encode_report(report), socket.MSG_DONTWAIT)
        except BlockingIOError as error:
            raise RemoteProtocolError("it asks for reports and reads none") from error
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _counts(self, failure: Failure | None = None, *, is_last: bool = False) -> SenderReport:
        sent, refused = self._tally.sent_total, self._tally.refused_total
        return SenderReport(sent_total=sent, refused_total=refused, failure=failure, is_last=is_last)

    def _report_in_time(self) -> None:
        now_ns = time.monotonic_ns()
        if now_ns >= self._next_report_ns and self._counts() != self._reported:
            self._next_report_ns = now_ns + _REPORT_NS
            self._reported = self._counts()
            self._tell_daemon(self._reported)

    def _tell_daemon(self, report: SenderReport) -> None:
        try:
            self._control.send(msgspec.json.encode(report))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Over from error

    # Frames -------------------------------------------------------------------------------------------------------

    def _send(self, batch: Frames) -> None:
        now_ns = time.monotonic_ns()
        if batch.begins:
            self._begun_ns = now_ns
        checked = self._checks.check(batch)
        for reason, mask in checked.refused:
            self._tally.refuse(reason, int(mask.sum()), int(mask.argmax()))
        places = np.flatnonzero(checked.allowed)
        due_ns = None
        if batch.due_ns is not None:
            due_ns = self._begun_ns + np.frombuffer(batch.due_ns, np.int64)[places]
        data = bytes(batch.data)
        starts, ends = checked.starts[places].tolist(), checked.ends[places].tolist()
        frames = [data[start:end] for start, end in zip(starts, ends, strict=True)]
        releases = self._pace.releases(len(frames), due_ns, now_ns)
        self._send_all(frames, places, due_ns, releases)
        self._tally.see(len(batch.lengths))

    def _send_all(
        self,
        frames: Sequence[bytes],
        places: npt.NDArray[np.int64],
        due_ns: npt.NDArray[np.int64] | None,
        releases: npt.NDArray[np.int64] | None,
    ) -> None:
        """Send frames, each at its time."""
        at = 0
        while at < len(frames):
            upto = len(frames)
            if releases is not None:
                upto = int(np.searchsorted(releases, time.monotonic_ns(), "right"))
                if upto <= at:
                    self._wait_until(int(releases[at]))
                    continue
                upto = min(upto, at + _AT_ONCE)
            sent = self._send_now(frames[at:upto], due_ns[at:upto] if due_ns is not None else None)
            at += sent
            if at < upto:
                at += self._get_over(frames[at], int(places[at]))

    def _send_now(self, frames: Sequence[bytes], due_ns: npt.NDArray[np.int64] | None) -> int:
        """Send as many frames as the interface takes now, and return how many; all, or the next one shows why not."""
        begin_ns = time.monotonic_ns()
        sizes: list[int] = []
        self._error = 0
        try:
            sizes.extend(map(self._packets.send, frames))
        except OSError as error:
            self._error = error.errno or 0
        end_ns = time.monotonic_ns()
        if sizes:
            self._tally.send(len(sizes), sum(sizes), begin_ns, end_ns)
            if due_ns is not None:
                self._tally.be_late(end_ns - due_ns[: len(sizes)])
        return len(sizes)

    def _get_over(self, frame: bytes, place: int) -> int:
        """Do what is to be done about a frame that the kernel did not take; return whether it is left out.

        Raises:
            Over: no frame will be taken any more.
        """
        if self._error in _BUSY:
            self._check_ends(self._ends.poll(0))
            time.sleep(_PAUSE_S)
            return 0
        if self._error in _BAD_SIZE:
            self._tally.refuse(Reason.TOO_LONG, 1, place)
            return 1
        name = self._launch.interface
        code, text = _ADVICE.get(self._error, (FailureCode.UNSUPPORTED, "the kernel does not send on {0}"))
        raise Over(Failure(code=code, text=text.format(name), interface=name))

    def _wait_until(self, time_ns: int) -> None:
        """Wait, and listen whether it shall end meanwhile.

        Raises:
            Over: it shall.
        """
        while (left_ns := time_ns - time.monotonic_ns()) > _SLEEP_NS:
            self._report_in_time()
            wait_ms = min((left_ns - _SLEEP_NS) // _MS_NS + 1, _REPORT_NS // _MS_NS)
            self._check_ends(self._ends.poll(wait_ms))
        if left_ns > 0:
            time.sleep(left_ns / 1e9)
