"""``LiveInterfaceStats``: what passes through the interfaces, tick by tick."""

import time
from collections.abc import Iterator

from capd_client.conversation.message_stream import MessageStream
from capd_client.conversation.statistics import ReceivedDropped, StatisticsBase, statistics_request
from capd_client.errors import NoEvents
from capd_client.request.namespaces import Netns
from capd_client.transport.connect import Program, SocketPath, connect_and_send


class LiveInterfaceStats(StatisticsBase):
    """Packets received and dropped on every interface, as totals since this object was made.

    The kernel counts (``ip -s link``), so nothing is captured for it. An interface that is deleted and created
    again goes on with its totals.

    Example:
        with LiveInterfaceStats() as stats:
            for results in stats:
                for name, (received, dropped) in results:
                    print(name, received, dropped)
    """

    def __init__(
        self,
        *,
        interval: float = 1.0,
        socket_path: SocketPath = None,
        netns: Netns | None = None,
        program: Program = None,
    ) -> None:
        """Begin to count.

        Args:
            interval: seconds between ticks, 0.05 to 3600.
            socket_path: where the daemon listens; without one, a private daemon serves, which needs no privilege.
            netns: in which network namespace, as for ``CaptureSession``; None: where the daemon is.
            program: the words of a command in dumpcap's place, such as ``["dumpcap"]``, which counts each second.

        Raises:
            InvalidArgument: the interval is out of range, or the program is no command, or a daemon was named as well.
            UnsupportedError: a program is to count at another interval than a second.
            DaemonUnavailable: there is no daemon at ``socket_path``.
        """
        super().__init__()
        self._stream = MessageStream(statistics_request(interval))
        self._transport = connect_and_send(
            self._stream.opening(), socket_path, may_start=True, netns=netns, program=program
        )
        try:
            while not self._state.is_complete:
                self._receive(None)
        except BaseException:
            self.terminate()
            raise

    def __enter__(self) -> "LiveInterfaceStats":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.terminate()

    def _receive_now(self) -> bool:
        return not self._transport.is_closed and self._receive(0)

    def _receive(self, timeout_s: float | None) -> bool:
        data = self._transport.receive(timeout_s)
        if data is None:
            return False
        for message in self._stream.receive(data):
            self._state.take(message)
        return True

    def wait_for_tick(self, timeout: float | None = None) -> None:
        """Wait until there are fresh counts; not at all, if there have been since ``clear_tick``.

        Args:
            timeout: wait at most so many seconds.

        Raises:
            NoEvents: there were none in the time given.
            BrokenPipe: the daemon went away.
        """
        deadline_s = None if timeout is None else time.monotonic() + timeout
        while self._state.ticks_total == self._ticks_cleared:
            if not self._receive(None if deadline_s is None else max(0, deadline_s - time.monotonic())):
                raise NoEvents("no statistics came in time")

    def __iter__(self) -> Iterator[tuple[tuple[str, ReceivedDropped], ...]]:
        """Yield at each tick the counts of all interfaces: pairs of name and (received, dropped)."""
        while True:
            self.wait_for_tick()
            self.clear_tick()
            yield self._results()

    def terminate(self) -> None:
        """End counting. Safe to call again."""
        self._transport.close()
