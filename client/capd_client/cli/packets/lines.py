"""Packets as lines: times, link-layer headers and bytes as tcpdump's options have them, or JSON."""

import argparse
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from capd_client.cli.packets.dissect import dissect, ip_header, link_header, network_offset, quick, to_text
from capd_client.errors import InvalidArgument
from capd_protocol.formats.packet_flags import Direction, PacketKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capd_client.reading.model import Packet
    from capd_protocol.batches.model import FileInterface

#: Of a line of a dump, as tcpdump has it.
_DUMP_BYTES = 16
#: Before it; tcpdump has a tab.
_INDENT = " " * 8
_NS_PER_S = 10**9
_IP = ("IP", "IP6")
#: What shapes lines for people.
_FOR_PEOPLE = ("times", "link", "verbose", "quick", "numbered", "hex", "hex_and_text", "text")
#: The same, as it is typed.
FOR_PEOPLE = "-t, -e, -v, -q, -#, -x, -X and -A"

#: What people type to tcpdump, and is done without it.
_ALWAYS_SO = (
    (("-n", "-N"), "show addresses and ports as numbers"),
    (("-S",), "show TCP's sequence numbers as they are in the packets"),
    (("-K",), "leave checksums unchecked"),
    (("-l", "-U"), "show and write packets as they come"),
)


def add_arguments(add: Callable[..., object]) -> None:
    """Add the options that say how packets are shown, with tcpdump's letters; ``add`` is ``add_argument``."""
    for names, what in _ALWAYS_SO:
        add(*names, dest="always_so", action="store_true", help=f"{what}, which is always so")
    add(
        "-t",
        dest="times",
        action="count",
        default=0,
        help="-t: no time; -tt: seconds since 1970; -ttt: since the packet before; -tttt: with the date; -ttttt: since "
        "the first packet",
    )
    add("--utc", action="store_true", help="times in UTC instead of local time")
    add("-e", dest="link", action="store_true", help="also the link-layer header")
    add("-v", dest="verbose", action="store_true", help="also what else the IP header says")
    add("-q", dest="quick", action="store_true", help="less of each packet: of TCP and UDP the length only")
    add("-#", "--number", dest="numbered", action="store_true", help="number the lines of packets")
    add("-x", dest="hex", action="count", default=0, help="also the bytes; -xx: with the link-layer header")
    add("-X", dest="hex_and_text", action="count", default=0, help="as -x, with ASCII beside; -XX: as -xx")
    add("-A", dest="text", action="store_true", help="also the bytes as ASCII")


def is_for_people(options: argparse.Namespace) -> bool:
    """Whether an option shapes lines for people."""
    return any(getattr(options, name) for name in _FOR_PEOPLE)


#: What tcpdump shows of cooked packets, as far as a file says it of others.
_WAYS = {
    (Direction.IN, PacketKind.UNICAST): "In ",
    (Direction.IN, PacketKind.UNKNOWN): "In ",
    (Direction.IN, PacketKind.BROADCAST): "B ",
    (Direction.IN, PacketKind.MULTICAST): "M ",
    (Direction.IN, PacketKind.OTHERS): "P ",
    **{(Direction.OUT, kind): "Out " for kind in PacketKind},
}


class PacketLines:
    """Shows packets one after another: times may be those since the packet before."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Take the options of ``add_arguments``, and ``json``.

        Raises:
            InvalidArgument: some are only for people, and JSON is for programs.
        """
        if options.json and is_for_people(options):
            raise InvalidArgument(f"lines of JSON have all fields: leave out {FOR_PEOPLE}, or --json")
        self._options = options
        self._is_full = is_for_people(options)
        self._first_ns: int | None = None
        self._before_ns = 0
        self._packets = 0

    def of(self, packet: "Packet", interfaces: "Sequence[FileInterface]") -> list[str]:
        """Return the lines of the next packet."""
        options = self._options
        data, linktype = bytes(packet.data), interfaces[packet.interface_id].linktype
        found = dissect(data, linktype)
        if options.json:
            fields = packet._asdict()
            del fields["data"], fields["flags"], fields["stored_options"]
            if packet.comments:
                fields["comments"] = packet.comments
            if packet.flags:
                fields |= {"direction": packet.direction.name.lower(), "kind": packet.kind.name.lower()}
            return [json.dumps({**fields, "captured_size_bytes": len(data), **found})]
        time = self._time(packet.timestamp_ns) if options.times else f"{time_of_day(packet.timestamp_ns, options.utc)} "
        name = f"{packet.interface or packet.interface_id} " if len(interfaces) > 1 else ""
        name += _WAYS.get((packet.direction, packet.kind), "")
        if not self._is_full:
            return [f"{time}{name}{to_text(found)}"]
        self._packets += 1
        number = f"{self._packets:5}  " if options.numbered else ""
        size_bytes = packet.original_size_bytes
        link = link_header(data, linktype, size_bytes, is_quick=options.quick) if options.link else ""
        header = ip_header(data, linktype) if options.verbose and found["protocol"] in _IP else ""
        lines = [f"{number}{time}{name}{link}{to_text(quick(found) if options.quick else found, header)}"]
        dump = max(options.hex, options.hex_and_text)
        network = data[network_offset(data, linktype) :]
        if dump:
            lines += _dump(data if dump > 1 else network, with_text=bool(options.hex_and_text))
        if options.text:
            lines += _text(network)
        return lines

    def _time(self, timestamp_ns: int) -> str:
        """Return a packet's time, as ``-t`` has it, with a blank behind it."""
        if self._first_ns is None:
            self._first_ns = self._before_ns = timestamp_ns
        since_ns = timestamp_ns - (self._before_ns if self._options.times == 3 else self._first_ns)
        self._before_ns = timestamp_ns
        match self._options.times:
            case 1:
                return ""
            case 2:
                return f"{_decimal(timestamp_ns)} "
            case 4:
                utc = self._options.utc
                return f"{_date(timestamp_ns // _NS_PER_S, utc)} {time_of_day(timestamp_ns, utc)} "
            case _:
                return f"{_span(since_ns)} "


def time_of_day(timestamp_ns: int, utc: bool) -> str:
    """Return the time of a day, to the microsecond."""
    seconds, rest_ns = divmod(timestamp_ns, _NS_PER_S)
    return f"{_clock(seconds, utc)}.{rest_ns // 1000:06}"


@lru_cache(maxsize=16)
def _clock(seconds: int, utc: bool) -> str:
    """Return a time of the day, for all packets of a second."""
    return f"{_moment(seconds, utc):%H:%M:%S}"


@lru_cache(maxsize=16)
def _date(seconds: int, utc: bool) -> str:
    return f"{_moment(seconds, utc):%Y-%m-%d}"


def _moment(seconds: int, utc: bool) -> datetime:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment if utc else moment.astimezone()


def _decimal(timestamp_ns: int) -> str:
    seconds, rest_ns = divmod(timestamp_ns, _NS_PER_S)
    return f"{seconds}.{rest_ns // 1000:06}"


def _span(span_ns: int) -> str:
    """Return a span as hours, minutes and seconds; packets need not be in order."""
    sign, microseconds = "-" if span_ns < 0 else "", abs(span_ns) // 1000
    seconds, rest = divmod(microseconds, 10**6)
    return f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:06}"


def _dump(data: bytes, *, with_text: bool) -> Iterator[str]:
    for at in range(0, len(data), _DUMP_BYTES):
        part = data[at : at + _DUMP_BYTES]
        text = part.hex(" ", -2)
        if with_text:
            # As tcpdump has it, where a blank is no sign.
            text = f"{text:<39}  {_printable(part).replace(' ', '.')}"
        yield f"{_INDENT}0x{at:04x}:  {text}"


def _text(data: bytes) -> Iterator[str]:
    """Return bytes as ASCII; lines of the packet are indented, and so cannot pass for ours."""
    for line in data.replace(b"\r\n", b"\n").split(b"\n"):
        yield f"{_INDENT}{_printable(line.replace(bytes((9,)), b' '))}"


def _printable(data: bytes) -> str:
    return "".join(chr(each) if 0x20 <= each < 0x7F else "." for each in data)
