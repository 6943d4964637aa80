"""``LiveInterfaceStats`` and ``InterfaceWatcher`` for asynchronous programs."""

from collections.abc import AsyncIterator
from typing import Self

from capd_client.aio.connection import ConnectedBlock
from capd_client.conversation.interface_picture import InterfaceChanged, Picture
from capd_client.conversation.message_stream import MessageStream
from capd_client.conversation.statistics import ReceivedDropped, StatisticsBase, StatisticsState, statistics_request
from capd_client.request.namespaces import Netns
from capd_client.transport.connect import Program, SocketPath, Transport, connect_and_send
from capd_protocol.messages import Request, WatchInterfaces
from capd_protocol.messages.interfaces import Link


class _Subscription(ConnectedBlock):
    """A connection on which the daemon reports something until it is closed, and what is known from that."""

    def __init__(
        self,
        request: Request,
        socket_path: SocketPath,
        netns: Netns | None,
        known: StatisticsState | Picture,
        program: Program = None,
    ) -> None:
        self._request = request
        self._socket_path = socket_path
        self._netns = netns
        self._program = program
        self._known = known
        self._stream: MessageStream

    async def __aenter__(self) -> Self:
        """Begin, and wait for what there is at the beginning.

        Raises:
            DaemonUnavailable: there is no daemon.
            BrokenPipe: the daemon went away.
        """
        await self._enter(self._connect, self._take, lambda: self._known.is_complete or None)
        return self

    def _connect(self) -> Transport:
        self._stream = MessageStream(self._request)
        return connect_and_send(
            self._stream.opening(), self._socket_path, may_start=True, netns=self._netns, program=self._program
        )

    def _take(self, data: bytes) -> None:
        for message in self._stream.receive(data):
            self._known.take(message)


class LiveInterfaceStats(StatisticsBase, _Subscription):
    """Packets received and dropped on every interface, as totals since the block was entered.

    See ``capd_client.LiveInterfaceStats``. Several tasks may wait; all that do are given the next tick.

    Example:
        async with LiveInterfaceStats() as stats:
            async for results in stats:
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
        """Prepare to count; nothing is asked for yet.

        Args:
            interval: seconds between ticks, 0.05 to 3600.
            socket_path: where the daemon listens; without one, a private daemon serves, which needs no privilege.
            netns: in which network namespace, as for ``CaptureSession``; None: where the daemon is.
            program: the words of a command in dumpcap's place, such as ``["dumpcap"]``, which counts each second.

        Raises:
            InvalidArgument: the interval is out of range, or the program is no command, or a daemon was named as well.
            UnsupportedError: a program is to count at another interval than a second.
        """
        StatisticsBase.__init__(self)
        _Subscription.__init__(self, statistics_request(interval), socket_path, netns, self._state, program)

    def _receive_now(self) -> bool:
        connection = self._entered()
        return not connection.is_closed and connection.receive_nowait()

    async def wait_for_tick(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  # the blocking one's
        """Wait until there are fresh counts; not at all, if there have been since ``clear_tick``.

        Args:
            timeout: wait at most so many seconds.

        Raises:
            NoEvents: there were none in the time given.
            BrokenPipe: the daemon went away.
        """
        cleared = self._ticks_cleared  # another task may clear the tick that this one waits for
        await self._entered().wait_for(lambda: self._state.ticks_total > cleared or None, timeout)

    def __aiter__(self) -> AsyncIterator[tuple[tuple[str, ReceivedDropped], ...]]:
        """Iterate, for ever, over the counts of all interfaces at each tick: pairs of name and (received, dropped)."""
        return self

    async def __anext__(self) -> tuple[tuple[str, ReceivedDropped], ...]:
        """Return the counts of all interfaces at the next tick."""
        await self.wait_for_tick()
        self.clear_tick()
        return self._results()


class InterfaceWatcher(_Subscription):
    """Tells what happens to interfaces, and which there are.

    See ``capd_client.InterfaceWatcher``. Several tasks may wait; each change is given to one of them.

    Example:
        async with InterfaceWatcher() as watcher:
            async for changed in watcher:
                print(changed.change, changed.link.name)
    """

    def __init__(self, *, socket_path: SocketPath = None, netns: Netns | None = None) -> None:
        """Prepare to watch; nothing is asked for yet.

        Args:
            socket_path: where the daemon listens; None: as for ``CaptureSession``.
            netns: in which network namespace, as for ``CaptureSession``; None: where the daemon is.
        """
        self._picture = Picture()
        super().__init__(WatchInterfaces(), socket_path, netns, self._picture)

    @property
    def interfaces(self) -> dict[str, Link]:
        """The interfaces as of the last change that was received, by name."""
        return self._picture.by_name()

    def __repr__(self) -> str:
        """Return how many interfaces there are."""
        return f"<InterfaceWatcher of {len(self.interfaces)} interfaces>"

    async def wait_for_change(self, timeout: float | None = None) -> InterfaceChanged:  # noqa: ASYNC109  # as elsewhere
        """Return the next change. After cancellation none is lost.

        Args:
            timeout: wait at most so many seconds.

        Raises:
            NoEvents: nothing has changed in the time given.
            BrokenPipe: the daemon went away.
        """
        return await self._entered().wait_for(self._picture.next_change, timeout)

    def __aiter__(self) -> AsyncIterator[InterfaceChanged]:
        """Iterate over the changes, for ever."""
        return self

    async def __anext__(self) -> InterfaceChanged:
        """Return the next change."""
        return await self.wait_for_change()
