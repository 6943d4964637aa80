"""Announcements to the daemon: frames on the control socket, after the bytes that they announce.

What is reported within an update interval is sent together, files and counts: each message by itself woke the daemon
and the client, which took 0.4 ms for each file of a ring. Counts that cannot be sent at once are added to the
next ones, so that a slow daemon costs no packet; events are kept in order, and at ``_MAX_UNSENT_BYTES`` of them the
worker waits.
"""

import socket

from capd import launch
from capd.launch import Answer, DirectoryTaken, RingRequest
from capd.worker.output.passing import FilePasser
from capd.worker.output.savefile import SaveFile
from capd_protocol.messages import (
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
    InterfaceAttached,
    InterfaceCounters,
    InterfaceLost,
    InterfaceSkipped,
    PacketCount,
    Recording,
    SnapshotFailed,
    Triggered,
    TriggersIgnored,
    encode,
)

#: Counts wait while so much is unsent. Chosen: some hundred ticks.
_MAX_UNSENT_COUNTS_BYTES = 64 * 1024
#: Chosen: about 14,000 file switches that nobody has read about.
_MAX_UNSENT_BYTES = 4 * 1024 * 1024


class Report:
    """The worker's side of the control socket."""

    def __init__(self, control: socket.socket, passer: FilePasser | None = None) -> None:
        """Report on a socket, and have descriptors of files passed, if somebody wants them."""
        self._control = control
        self._passer = passer
        control.setblocking(False)
        self._unsent = bytearray()
        self._packets_unreported = 0

    @property
    def is_unsent(self) -> bool:
        """Whether bytes wait until the daemon reads."""
        return bool(self._unsent)

    @property
    def takes_counts(self) -> bool:
        """Whether counts may be announced: not, while many bytes wait."""
        return len(self._unsent) <= _MAX_UNSENT_COUNTS_BYTES

    def count(self, packets: int) -> None:
        """Note packets that are in the current file, for the next announcement."""
        self._packets_unreported += packets

    def announce(self, counters: Counters) -> None:
        """Tell how many packets came, and where every counter stands."""
        self._send_count()
        self._send(encode(counters))

    def _send_count(self) -> None:
        if self._packets_unreported:
            self._send(encode(PacketCount(self._packets_unreported)))
            self._packets_unreported = 0

    def file_opened(self, file: SaveFile) -> None:
        """Tell of a file whose header is on disk, and pass it to be read."""
        if self._passer is not None:
            self._passer.pass_file(file)
        self._send(encode(FileOpened(file.name)))

    def file_closed(self, closed: FileClosed) -> None:
        """Tell of a complete file, after the last packets that it got."""
        self._send_count()
        self._send(encode(closed))

    def file_deleted(self, deleted: FileDeleted) -> None:
        """Tell of a file that a limit of the ring has cost."""
        self._send(encode(deleted))

    def interface_lost(self, name: str, text: str) -> None:
        """Tell that an interface is gone, or a stream has ended, and why."""
        self._send(encode(InterfaceLost(interface=name, text=text)))

    def interface_attached(self, name: str) -> None:
        """Tell that an interface has come, or come back."""
        self._send(encode(InterfaceAttached(interface=name)))

    def interface_skipped(self, name: str, text: str) -> None:
        """Tell that an interface cannot be in the capture."""
        self._send(encode(InterfaceSkipped(interface=name, text=text)))

    def recording(self, recording: Recording | Triggered | SnapshotFailed | TriggersIgnored) -> None:
        """Tell what a recorder does."""
        self._send(encode(recording))

    def answer(self, answer: Answer) -> None:
        """Answer an order, after what it has led to; at once, since it is waited for."""
        self._send(launch.encode(answer))
        self.flush()

    def directory_taken(self, path: str) -> None:
        """Tell where the files go."""
        self._send(launch.encode(DirectoryTaken(path=path)))

    def ask(self, request: RingRequest) -> None:
        """Ask for something of the rings; it is sent at once, and filters may be long."""
        self._send(launch.encode(request))
        self.flush_all()

    def failed(self, failure: Failure) -> None:
        """Tell why the capture cannot be: typed, and in dumpcap's way."""
        self._send(encode(Failed(failure=failure)))
        if failure.code == FailureCode.BAD_FILTER:
            self._send(encode(BadFilter(failure.interface_index or 0, failure.text)))
        else:
            self._send(encode(ErrorMessage(failure.text)))

    def ended(self, reason: EndReason, interfaces: tuple[InterfaceCounters, ...]) -> None:
        """Tell the end: what every interface lost, as dumpcap does, then the totals."""
        self._send_count()
        for counters in interfaces:
            self._send(encode(Drops(counters.drops_total, counters.interface)))
        self._send(encode(Ended(reason=reason, interfaces=interfaces)))

    def _send(self, data: bytes) -> None:
        self._unsent += data
        if len(self._unsent) > _MAX_UNSENT_BYTES:
            self.flush_all()

    def flush(self) -> None:
        """Send what the socket takes now. One message wakes daemon and client as several do, so they go together."""
        while self._unsent:
            try:
                sent = self._control.send(self._unsent)
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                # The daemon is gone: the loop sees the end of the socket too, and ends the capture.
                self._unsent.clear()
                return
            del self._unsent[:sent]

    def flush_all(self) -> None:
        """Send everything, waiting for the daemon to read; at most 10 s, then what is left is lost."""
        self._control.settimeout(10)
        try:
            self._control.sendall(self._unsent)
        except OSError:
            pass  # the daemon is gone or stuck: nobody reads it
        finally:
            self._unsent.clear()
            self._control.setblocking(False)
