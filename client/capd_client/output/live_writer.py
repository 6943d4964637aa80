"""The writer of a live stream: a thread that takes packets from a capture's files to their reader.

However slow the reader is, the capture is not: what is further behind than it may be is left out, and counted.
"""

import threading
from collections.abc import Callable
from typing import BinaryIO

from capd_client.conversation.events import CaptureEvent
from capd_client.errors import CaptureError
from capd_client.output.destinations import READER_LOOK_S, LiveDestination, ReaderGone
from capd_client.output.joining import JoinedFiles
from capd_client.output.readers import ReaderChange, ReaderEvent, ReaderReport
from capd_client.reading.gap import Gap
from capd_client.reading.live import FilePart, LiveFiles
from capd_protocol.messages import FileOpened

#: How long a reader may take nothing, once the capture has ended. Chosen: a network that stalls has come back by then,
#: and nobody waits for longer.
PATIENCE_S = 5.0


class LiveWriter:
    """The thread, and what it has done. Events come in by ``take``; ``finish`` waits for what they have announced."""

    #: What was not done to packets that are missed, and why.
    missed_because = "written: nobody read, or too slowly"

    def __init__(
        self,
        open_file: Callable[[str], BinaryIO],
        destination: LiveDestination,
        *,
        max_behind_bytes: int,
        begins_with: FileOpened | None = None,
        report: ReaderReport | None = None,
    ) -> None:
        """Begin to write.

        Args:
            open_file: opens a file of the capture.
            destination: where to; stays the caller's.
            max_behind_bytes: how many bytes its reader may be behind.
            begins_with: the file that is being written now, of which the reader gets what comes from now on; None: the
                capture has just begun, and the reader gets all.
            report: takes what happens to readers that may come again; from the thread.
        """
        self._files = LiveFiles(open_file, max_behind_bytes=max_behind_bytes, overflow="drop_oldest", as_bytes=True)
        self._destination = destination
        self._joined = JoinedFiles()
        #: Somebody reads now.
        self.is_connected = False
        #: Around the files; notified when there is something new.
        self._changed = threading.Condition()
        self._is_over = False
        #: Packets that no reader got: it was too slow, or there was none.
        self.missed_packets = 0
        #: Packets that were written to a reader.
        self.written_packets = 0
        #: Those that were missed and of which the stream says nothing yet.
        self._unsaid_packets = 0
        self._report = report
        #: Readers that have come so far; each gets the header again.
        self._readers = 0
        #: What was missed before the last one came.
        self._missed_before = 0
        #: Nobody will read any more.
        self.is_left = False
        self._error: CaptureError | OSError | None = None
        if begins_with is not None:
            self._files.take(begins_with)
        is_late = begins_with is not None
        self._thread = threading.Thread(target=self._run, args=(is_late,), name="live output", daemon=True)
        self._thread.start()

    def take(self, event: CaptureEvent) -> None:
        """Learn of an event of the capture."""
        with self._changed:
            self._files.take(event)
            self._changed.notify()

    def wait_written(self, timeout_s: float) -> bool:
        """Wait until all is written, after the last event, but no longer than this; say whether it is."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def finish(self, packets_total: int, patience_s: float | None = None) -> None:
        """Wait until all is written, after the last event.

        Args:
            packets_total: that the capture has, all in all.
            patience_s: a reader that takes nothing for so long is left; None: it is waited for.

        Raises:
            OSError: it cannot be written.
            CaptureError: what was captured cannot be read.
        """
        if not self._is_written(patience_s):
            self.missed_packets = max(0, packets_total - self.written_packets)
            return
        gap = self._files.last_gap(packets_total)
        if gap is not None:
            self._miss(gap.packets)
        self._files.close()
        if self.is_connected:
            self._tell(ReaderChange.DONE)
        if self._error is not None:
            raise self._error

    def close(self) -> bool:
        """Close the capture's files, when the thread has ended, and say whether it has.

        A destination that was given up ends it at once, but for a file that is anybody's own and takes its time.
        """
        has_ended = self.wait_written(PATIENCE_S)
        if has_ended:
            self._files.close()
        return has_ended

    def _is_written(self, patience_s: float | None) -> bool:
        """Wait until all is written, or the reader is left; say which."""
        sent_bytes = self._destination.sent_bytes
        while not self.wait_written(threading.TIMEOUT_MAX if patience_s is None else patience_s):
            if self._destination.sent_bytes == sent_bytes:
                self._destination.give_up()
                self.close()
                return False
            sent_bytes = self._destination.sent_bytes
        return True

    # The thread ---------------------------------------------------------------------------------------------------

    def _run(self, is_late: bool) -> None:
        try:
            if is_late:
                self._skip()
            self._connect()
            while (item := self._next()) is not None:
                if isinstance(item, Gap):
                    self._miss(item.packets)
                else:
                    self._write(item)
        except ReaderGone:
            self.is_left = True
        except (CaptureError, OSError) as error:
            self._error, self.is_left = error, True

    def _skip(self) -> None:
        """Pass over what is there already, but for what it describes."""
        with self._changed:
            while (item := self._files.next_part()) is not None:
                if not isinstance(item, Gap):
                    self._joined.add(item)
            self._files.count_anew()

    def _next(self) -> FilePart | Gap | None:
        """Return what comes next; None when all has come."""
        while True:
            with self._changed:
                item = self._files.next_part()
                if item is None and not self._is_over:
                    self._changed.wait(READER_LOOK_S)
                    item = self._files.next_part()
                if item is not None or self._is_over:
                    return item
            self._look_at_reader()

    def _look_at_reader(self) -> None:
        if self.is_connected and not self._destination.is_read():
            self._reader_left()
        if not self.is_connected:
            self._connect()

    def _connect(self) -> None:
        self.is_connected = self._destination.connect()
        if self.is_connected:
            self._readers += 1
            self._missed_before = self.missed_packets
            self._tell(ReaderChange.CAME)
        if self.is_connected and self._joined.header and not self._is_taken((self._joined.header,)):
            self._reader_left()

    def _write(self, part: FilePart) -> None:
        if not self.is_connected:
            self._connect()
        data = self._joined.add(part, self._unsaid_packets)
        sent_bytes = self._destination.sent_bytes
        is_taken = self.is_connected and self._is_taken(data)
        written_packets = part.packets
        if not is_taken:
            written_packets = self._joined.packets_within(data, self._destination.sent_bytes - sent_bytes)
        if written_packets:
            self.written_packets += written_packets
            self._unsaid_packets = 0
        if self.is_connected and not is_taken:
            self._reader_left()  # the only one has had enough: it has missed nothing
        self._miss(part.packets - written_packets)

    def _miss(self, packets: int) -> None:
        self.missed_packets += packets
        self._unsaid_packets += packets

    def _is_taken(self, data: tuple[bytes | memoryview, ...]) -> bool:
        """Write to the reader; say whether it has got all of it."""
        try:
            self._destination.write(data)
        except ReaderGone:
            return False
        return True

    def _reader_left(self) -> None:
        self.is_connected = False
        if not self._destination.has_readers:
            raise ReaderGone
        self._destination.close()  # so that the next one finds nothing of what this one has left
        self._tell(ReaderChange.LEFT)

    def _tell(self, change: ReaderChange) -> None:
        if self._report is not None and self._destination.has_readers:
            missed_packets = self.missed_packets - self._missed_before
            self._report(ReaderEvent(self._readers, "The reader", change, missed_packets))
