"""What passes through the interfaces, tick by tick, as known from the daemon's messages."""

from capd_client.errors import InvalidArgument
from capd_protocol.arguments import find_interval_faults
from capd_protocol.messages import Message, Statistics, WatchStatistics
from capd_protocol.messages.interfaces import InterfaceCounts

ReceivedDropped = tuple[int, int]


def received_dropped(counts: InterfaceCounts) -> ReceivedDropped:
    """Return what a capture would have been offered, and what was lost before it could be.

    Received are the packets of both directions, as dumpcap counts them; dropped are the kernel's ``rx_dropped``
    and the device's ``rx_missed_errors``.
    """
    return counts.rx_packets + counts.tx_packets, counts.rx_dropped + counts.rx_missed_errors


class StatisticsState:
    """The counts as of the last tick, from the daemon's messages. Sans-IO."""

    def __init__(self) -> None:
        self.counts: dict[str, InterfaceCounts] = {}
        self.is_complete = False
        self.ticks_total = 0

    def take(self, message: Message) -> None:
        """Take a message into the counts."""
        if isinstance(message, Statistics):
            for name in message.gone:
                self.counts.pop(name, None)
            self.counts.update({counts.name: counts for counts in message.counts})
            if message.is_last:
                # The first one comes at once, with every interface at zero; it is no tick.
                self.ticks_total += self.is_complete
                self.is_complete = True


def statistics_request(interval: float) -> WatchStatistics:
    """Return the request for statistics.

    Raises:
        InvalidArgument: the interval is out of range.
    """
    faults = find_interval_faults(interval)
    if faults:
        raise InvalidArgument(faults[0].text, argument="interval")
    return WatchStatistics(interval_s=interval)


class StatisticsBase:
    """What the blocking and the async statistics have in common: the counts as of the last tick that was received."""

    def __init__(self) -> None:
        self._state = StatisticsState()
        self._ticks_cleared = 0

    def __repr__(self) -> str:
        """Return of how many interfaces, and how many ticks have come."""
        return f"<LiveInterfaceStats of {len(self)} interfaces, {self._state.ticks_total} ticks>"

    def _receive_now(self) -> bool:
        """Receive what has come already; return whether anything had."""
        raise NotImplementedError

    def clear_tick(self) -> None:
        """Let ``wait_for_tick`` wait for fresher counts than these."""
        self._ticks_cleared = self._state.ticks_total

    def _results(self) -> tuple[tuple[str, ReceivedDropped], ...]:
        return tuple((name, received_dropped(counts)) for name, counts in self._state.counts.items())

    def __getitem__(self, interface: str) -> ReceivedDropped:
        """Return (received, dropped) of an interface, as of the last tick that has come; also after ``terminate``.

        Raises:
            KeyError: it is not there.
            BrokenPipe: the daemon went away.
        """
        return received_dropped(self.details(interface))

    def details(self, interface: str) -> InterfaceCounts:
        """Return all counts of an interface, by the kernel's names (struct rtnl_link_stats64).

        Args:
            interface: its name.

        Raises:
            KeyError: it is not there.
            BrokenPipe: the daemon went away.
        """
        while self._receive_now():
            pass
        return self._state.counts[interface]

    @property
    def interfaces(self) -> tuple[str, ...]:
        """The names of the interfaces that are there."""
        return tuple(self._state.counts)

    def __contains__(self, interface: object) -> bool:
        """Whether there is an interface of this name."""
        return interface in self._state.counts

    def __len__(self) -> int:
        """Return how many interfaces there are."""
        return len(self._state.counts)
