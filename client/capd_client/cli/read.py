"""``capctl read``: the packets of files, a line for each."""

import argparse
import json
import sys
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

from capd_client.cli.dissect import dissect, to_text
from capd_client.cli.output import complain, show, show_json
from capd_client.cli.signals import until_told
from capd_client.cli.text import count
from capd_client.errors import InvalidArgument
from capd_client.reading import read
from capd_protocol.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capd_client.reading.model import Batch, FileInterface, Packet
    from capd_client.reading.reader import Reader

#: What names standard input.
STANDARD_INPUT = "-"
#: All that is whole was shown, but the last record is not.
EXIT_CUT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``capctl read``."""
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("file", nargs="+", metavar="FILE", help="pcapng or pcap; - is standard input")
    add("-n", "--count", type=int, metavar="N", help="at most so many packets of each file")
    add("--info", action="store_true", help="print interfaces, time span, packets, bytes and drops instead")
    add("--follow", action="store_true", help="wait for more (one file)")
    add("--utc", action="store_true", help="times in UTC instead of local time")
    add("--json", action="store_true", help="print a line of JSON for each")


def run(options: argparse.Namespace) -> int:
    """Print packets, or what the files are."""
    if options.count is not None and options.count < 0:
        raise InvalidArgument(f"{options.count} packets", argument="count")
    show = _info if options.info else _packets

    def show_all() -> int:
        return max([show(path, options) for path in options.file])

    return until_told(show_all)() if options.follow else show_all()


def source_of(path: str) -> "str | BinaryIO":
    """Return what is read: ``-`` is standard input.

    Raises:
        InvalidArgument: that is a terminal.
    """
    if path != STANDARD_INPUT:
        return path
    if sys.stdin.isatty():
        raise InvalidArgument("standard input is a terminal: name a file, or have a program write into capctl")
    return sys.stdin.buffer


def _is_whole(path: str, reader: "Reader") -> bool:
    """Whether nothing is left of a file that was read; say so where something is."""
    if reader.rest_bytes:
        complain(f"{path}: the last record is not whole ({counted(reader.rest_bytes, 'byte')})")
    return not reader.rest_bytes


def _time(timestamp_ns: int, utc: bool) -> str:
    seconds, rest_ns = divmod(timestamp_ns, 10**9)
    return f"{_clock(seconds, utc)}.{rest_ns // 1000:06}"


@lru_cache(maxsize=16)
def _clock(seconds: int, utc: bool) -> str:
    """Return a time of the day, for all packets of a second."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment if utc else moment.astimezone():%H:%M:%S}"


def line_of(packet: "Packet", interfaces: "Sequence[FileInterface]", options: argparse.Namespace) -> str:
    """Return a packet as a line: with the options ``utc`` and ``json``."""
    found = dissect(bytes(packet.data), interfaces[packet.interface_id].linktype)
    if options.json:
        fields = packet._asdict()
        del fields["data"]
        return json.dumps({**fields, "captured_size_bytes": len(packet.data), **found})
    name = f"{packet.interface or packet.interface_id} " if len(interfaces) > 1 else ""
    return f"{_time(packet.timestamp_ns, options.utc)} {name}{to_text(found)}"


def _packets(path: str, options: argparse.Namespace) -> int:
    with read(source_of(path), follow=options.follow) as reader:
        interfaces = reader.interfaces
        for packet in islice(reader, options.count):
            show(line_of(packet, interfaces, options), flush=options.follow)
        is_done = options.count is not None or _is_whole(path, reader)
    return 0 if is_done else EXIT_CUT


@dataclass
class Counted:
    """What is in a file, as far as it was read."""

    packets: int = 0
    original_bytes: int = 0
    first_ns: int | None = None
    last_ns: int | None = None

    def add(self, batch: "Batch") -> None:
        """Count the packets of a batch, too."""
        self.packets += len(batch.offsets)
        self.original_bytes += int(batch.original_sizes.sum(dtype="u8"))
        early, late = int(batch.timestamps_ns.min()), int(batch.timestamps_ns.max())
        self.first_ns = early if self.first_ns is None else min(self.first_ns, early)
        self.last_ns = late if self.last_ns is None else max(self.last_ns, late)


def _info(path: str, options: argparse.Namespace) -> int:
    found = Counted()
    with read(source_of(path)) as reader:
        for batch in reader.batches():
            found.add(batch)
        packets, size_bytes, first_ns, last_ns = astuple(found)
        interfaces = [
            {**each._asdict(), "statistics": each.statistics._asdict() if each.statistics else None}
            for each in reader.interfaces
        ]
        status = 0 if _is_whole(path, reader) else EXIT_CUT
    if options.json:
        fields = {"file": path, "packets": packets, "original_bytes": size_bytes, "rest_bytes": reader.rest_bytes}
        fields |= {"first_timestamp_ns": first_ns, "last_timestamp_ns": last_ns}
        show_json({**fields, "interfaces": interfaces})
        return status
    show(f"{path}: {counted(packets, 'packet')}, {counted(size_bytes, 'byte')}")
    if first_ns is not None and last_ns is not None:
        first, last = _time(first_ns, options.utc), _time(last_ns, options.utc)
        show(f"  {first} to {last}, {(last_ns - first_ns) / 1e9:.6f} s")
    for number, each in enumerate(interfaces):
        drops = (each["statistics"] or {}).get("drops")
        lost = "" if drops is None else f", {count(drops)} dropped"
        what = f", filter {each['capture_filter']!r}" if each["capture_filter"] else ""
        snaplen = f", snaplen {each['snaplen_bytes']}" if each["snaplen_bytes"] else ""
        show(f"  {each['name'] or number}: linktype {each['linktype']}{snaplen}{what}{lost}")
    return status
