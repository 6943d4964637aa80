"""Sending packets: in which messages they go, when, and what has become of them. Sans-IO."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, repeat
from typing import NamedTuple

from capd_client.conversation.message_stream import MessageStream
from capd_client.errors import (
    BrokenPipe,
    CaptureError,
    DaemonGone,
    InvalidArgument,
    PacketRefused,
    PacketSizeError,
    RateExceeded,
    SourceAddressError,
    error_for,
)
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.messages import Sending, SendingEnded, StartSending
from capd_protocol.sending import (
    MAX_FRAMES,
    Lateness,
    Reason,
    Refusal,
    Report,
    ReportWanted,
    cost_of,
    decode_report,
    encode_frames,
    encode_wanted,
    room_for,
)

Packet = bytes | bytearray | memoryview
#: A packet, or None where there is only a part of it, and when it is to be sent, in ns from the beginning.
Timed = tuple[Packet | None, int]

#: Packets that are to be sent within such a time go in one message. Chosen: 50 messages a second cost nothing.
_SPAN_NS = 20_000_000
#: How long before their time packets are passed on. Chosen: a busy machine keeps a program waiting for less; and a
#: program that is interrupted has passed on only a little that is not to be sent.
AHEAD_NS = 250_000_000
#: How often a program learns how far it is.
PROGRESS_S = 0.2
#: How long the end of the conversation may take.
END_TIMEOUT_S = 10.0


class SendReport(NamedTuple):
    """What has become of packets.

    Attributes:
        sent: how many the interface took.
        sent_bytes: so many bytes, headers included.
        refusals: how many of the others there were for each reason, and which was the first; the earliest comes first.
        lateness: by how much those that had a time were sent after it: median, 99 % and most, in ns. None where none
            had.
        duration_ns: from the first that was sent to the last.
    """

    sent: int = 0
    sent_bytes: int = 0
    refusals: tuple[Refusal, ...] = ()
    lateness: Lateness | None = None
    duration_ns: int = 0

    @property
    def refused(self) -> int:
        """How many were not sent."""
        return sum(each.frames for each in self.refusals)

    @property
    def pps(self) -> float:
        """Packets a second, from the first to the last; 0 where there are not two."""
        return (self.sent - 1) * 1e9 / self.duration_ns if self.duration_ns and self.sent > 1 else 0.0


Progress = Callable[[SendReport], object]


class Outgoing(NamedTuple):
    """A message to the process that sends.

    Attributes:
        message: its bytes.
        due_ns: when its first packet is to be sent, in ns from the beginning; None: as soon as possible.
    """

    message: bytes
    due_ns: int | None


class Outgoings:
    """The packets of one call, in messages; and those of which there is none."""

    def __init__(self, timed: Iterable[Timed], *, is_scheduled: bool) -> None:
        """Take none yet.

        Args:
            timed: the packets.
            is_scheduled: whether their times count.
        """
        self._timed = timed
        self._is_scheduled = is_scheduled
        #: Places of packets that were left out here, in order, by reason.
        self._left_out: dict[Reason, list[int]] = {}

    def __iter__(self) -> Iterator[Outgoing]:
        """Iterate over the messages."""
        room, cost = room_for(is_scheduled=self._is_scheduled), cost_of(is_scheduled=self._is_scheduled)
        packets: list[Packet] = []
        dues: list[int] = []
        left, begins, latest_ns = room, True, math.inf
        failure: Exception | None = None
        try:
            for place, (packet, due_ns) in enumerate(self._timed):
                size = room + 1 if packet is None else len(packet) + cost
                if packet is None or size > room:
                    self._left_out.setdefault(Reason.CUT if packet is None else Reason.TOO_LONG, []).append(place)
                    continue
                if size > left or len(packets) == MAX_FRAMES or due_ns > latest_ns:
                    yield self._outgoing(packets, dues, begins)
                    packets, dues, left, begins = [], [], room, False
                if not packets:
                    latest_ns = due_ns + _SPAN_NS
                packets.append(packet)
                dues.append(due_ns)
                left -= size
        except Exception as error:  # whoever gives packets fails: what came before is sent
            failure = error
        if packets:
            yield self._outgoing(packets, dues, begins)
        if failure is not None:
            raise failure

    def _outgoing(self, packets: Sequence[Packet], dues: Sequence[int], begins: bool) -> Outgoing:
        if self._is_scheduled:
            return Outgoing(encode_frames(packets, dues, begins=begins), dues[0])
        return Outgoing(encode_frames(packets, begins=begins), None)

    def report(self, report: Report) -> SendReport:
        """Return a report of the process, of all packets of the call: with those that were left out."""
        skipped = sorted(place for places in self._left_out.values() for place in places)
        refusals = {each.reason: _shifted(each, skipped) for each in report.refusals}
        for reason, places in self._left_out.items():
            known = refusals.get(reason)
            frames, first = (len(places), places[0])
            if known is not None:
                frames, first = frames + known.frames, min(first, known.first_index)
            refusals[reason] = Refusal(reason=reason, frames=frames, first_index=first)
        ordered = tuple(sorted(refusals.values(), key=lambda each: each.first_index))
        return SendReport(report.sent, report.sent_bytes, ordered, report.lateness, report.duration_ns)


def _shifted(refusal: Refusal, skipped: Sequence[int]) -> Refusal:
    """Return a refusal whose place is counted among all packets, also those that the process has not seen."""
    place = refusal.first_index
    before = bisect_right(range(len(skipped)), place, key=lambda at: skipped[at] - at)
    return Refusal(reason=refusal.reason, frames=refusal.frames, first_index=place + before)


def untimed(packets: Iterable[Packet | None]) -> Iterator[Timed]:
    """Return packets that are to be sent as soon as possible."""
    return zip(packets, repeat(0), strict=False)


def at_rate(packets: Iterable[Packet | None], rate: float) -> Iterator[Timed]:
    """Return packets that are to be sent at a rate."""
    gap_ns = 1e9 / rate
    return zip(packets, (round(place * gap_ns) for place in count()), strict=False)


class InjectorBase:
    """What ``Injector`` knows, blocking or not."""

    def __init__(self, interface: str) -> None:
        """Nothing is asked for yet.

        Args:
            interface: its name.
        """
        self._asked = interface
        self._stream = MessageStream(StartSending(interface=interface))
        self._terms: Sending | None = None
        self._end: SendingEnded | None = None
        self._numbers = count(1)
        #: Of the call that is under way, or was the last one.
        self._outgoings = Outgoings((), is_scheduled=False)
        self._report = SendReport()
        self._progress: Progress | None = None
        #: Whether a report for that is on its way.
        self._is_asking = False
        #: Whether all that was passed on before has been reported: not after a call that was interrupted.
        self._is_settled = True

    def __repr__(self) -> str:
        """Return on which interface it sends."""
        state = "" if self._end is None else ", ended"
        return f"<Injector on {self._asked}{state}>"

    @property
    def _granted(self) -> Sending:
        if self._terms is None:
            raise RuntimeError("it is not entered: use 'async with'")
        return self._terms

    @property
    def interface(self) -> str:
        """The interface's own name."""
        return self._granted.interface

    @property
    def rule(self) -> str:
        """The rule of the daemon's configuration that allows it."""
        return self._granted.rule

    @property
    def max_packet_bytes(self) -> int:
        """The longest packet that the interface takes, with its Ethernet header; a VLAN tag may come on top of it."""
        return self._granted.max_frame_bytes

    @property
    def max_pps(self) -> int | None:
        """How many packets a second the rule allows; None: as many as the interface takes."""
        return self._granted.max_pps

    @property
    def source_macs(self) -> tuple[str, ...]:
        """Source addresses that packets may have: the interface's own, and others of the rule; ``*``: any."""
        return self._granted.source_macs

    @property
    def report(self) -> SendReport:
        """What has become of the packets of the last call, also of one that was interrupted or has failed."""
        return self._report

    # What comes ---------------------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        """Take bytes from the daemon.

        Raises:
            ChildError: it refuses.
            BrokenPipe: it has gone, or cannot be understood.
        """
        for message in self._stream.receive(data):
            if isinstance(message, Sending):
                self._terms = message
            elif isinstance(message, SendingEnded):
                self._end = message
            else:
                raise BrokenPipe(f"capd answered with a {type(message).__name__}")

    def _take_report(self, data: bytes) -> int | None:
        """Take a report of the process; return its number.

        Raises:
            BrokenPipe: it cannot be understood.
        """
        try:
            report = decode_report(data)
        except RemoteProtocolError as error:
            raise BrokenPipe(f"the process that sends cannot be understood: {error}") from error
        self._report = self._outgoings.report(report)
        self._is_asking = False
        if self._progress is not None:
            self._progress(self._report)
        return report.number

    def _ended(self) -> CaptureError:
        """Return what is raised where nothing more can be sent."""
        if self._end is None:
            return DaemonGone("capd has gone away")
        return BrokenPipe("the injector is closed") if self._end.failure is None else error_for(self._end.failure)

    # What goes ----------------------------------------------------------------------------------------------------

    def _begin(self, outgoings: Outgoings, progress: Progress | None) -> None:
        self._outgoings, self._report = outgoings, SendReport()
        self._progress, self._is_asking = progress, False

    def _outgoings_of(self, packets: Iterable[Packet], rate: float | None) -> Outgoings:
        """Return the messages for packets.

        Raises:
            InvalidArgument: the rate is no rate.
            RateExceeded: the rule allows less.
        """
        if rate is None:
            return Outgoings(untimed(packets), is_scheduled=False)
        return Outgoings(at_rate(packets, self._checked_rate(rate)), is_scheduled=True)

    def _checked_rate(self, rate: float) -> float:
        if not (rate > 0 and math.isfinite(rate)):
            raise InvalidArgument("rate must be a number of packets a second above 0", argument="rate")
        if self.max_pps is not None and rate > self.max_pps:
            text = f"rate may be {self.max_pps:,} packets a second at most (rule {self.rule!r}): ask for less"
            raise RateExceeded(text)
        return rate

    def _wanted(self, *, is_last: bool) -> tuple[int, bytes]:
        """Return the number of a report, and what asks for it."""
        number = next(self._numbers)
        self._is_asking = True
        return number, encode_wanted(ReportWanted(number, is_last))

    def _refusal(self, packet: Packet) -> PacketRefused:
        """Return why the only packet of a call was not sent."""
        (refusal,) = self._report.refusals
        source = bytes(packet[6:12]).hex(":")
        match refusal.reason:
            case Reason.FOREIGN_SOURCE:
                allowed = ", ".join(self.source_macs) or "none"
                text = f"the packet's source address is {source}, and allowed are: {allowed} (rule {self.rule!r})"
                return SourceAddressError(text)
            case Reason.TOO_SHORT:
                return PacketSizeError(f"the packet has {len(packet)} bytes, and an Ethernet header has 14")
            case _:
                text = f"the packet has {len(packet):,} bytes, and {self.interface} takes {self.max_packet_bytes:,}"
                return PacketSizeError(text)


def checked_speed(speed: float, rate: float | None) -> float:
    """Return how many times as fast as captured packets are sent.

    Raises:
        InvalidArgument: it is no such number, or stands beside a rate.
    """
    if not speed > 0:
        raise InvalidArgument("speed must be above 0: 2 is twice as fast as captured", argument="speed")
    if rate is not None and speed != 1:
        raise InvalidArgument("speed and rate exclude each other: give one of them", argument="speed")
    return speed


def checked_number(number: int | None, argument: str) -> int | None:
    """Return a number of packets or rounds.

    Raises:
        InvalidArgument: it is below 1.
    """
    if number is not None and number < 1:
        raise InvalidArgument(f"{argument} must be 1 or more", argument=argument)
    return number
