"""``capctl read``: the packets of files, a line for each."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

from capd_client.blocking.questions import list_captures
from capd_client.cli.capture import number_or_name
from capd_client.cli.output import complain, show, show_json
from capd_client.cli.packets.lines import PacketLines, time_of_day
from capd_client.cli.packets.lines import add_arguments as packet_options
from capd_client.cli.signals import until_told
from capd_client.cli.text import count
from capd_client.cli.typed import whole_number
from capd_client.errors import CaptureError, DaemonUnavailable, InvalidArgument, NoSuchCapture
from capd_client.reading import read
from capd_protocol.text import counted, quoted

if TYPE_CHECKING:
    from capd_client.reading.reader import Reader
    from capd_protocol.batches.model import Batch, FileInterface

#: Of what takes a display filter.
DISPLAY_FILTER_HELP = "only packets that pass, in Wireshark's language, such as 'tcp.port in {80, 443}'"
#: What names standard input.
STANDARD_INPUT = "-"
#: All that is whole was shown, but the last record is not.
EXIT_CUT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``capctl read``."""
    parser.set_defaults(run=run)
    add = parser.add_argument
    add(
        "file",
        nargs="+",
        metavar="FILE",
        help="pcapng or pcap; - is standard input; or a capture that runs, by name or number, which is followed",
    )
    add("-c", "--count", type=whole_number, metavar="N", help="at most so many packets of each file")
    add("-f", "--filter", metavar="TEXT", help="only packets that match, see pcap-filter(7)")
    add("-Y", "--display-filter", metavar="TEXT", help=DISPLAY_FILTER_HELP)
    add("--info", action="store_true", help="print interfaces, time span, packets, bytes and drops instead")
    add("--follow", action="store_true", help="wait for more (one file)")
    packet_options(add)
    add("--json", action="store_true", help="print a line of JSON for each")


def run(options: argparse.Namespace) -> int:
    """Print packets, or what the files are."""
    check_count(options.count)
    if options.info and (options.filter is not None or options.display_filter is not None):
        raise InvalidArgument("--info is about whole files: leave out the filter", argument="filter")
    if options.follow and len(options.file) > 1:
        raise InvalidArgument("--follow waits for more of one file: name one", argument="follow")
    refuse_filter(options.file, os.path.lexists, options.socket)
    show = _info if options.info else _shown

    def show_all() -> int:
        return max([show(path, options) for path in options.file])

    return until_told(show_all)() if options.follow else show_all()


def refuse_filter(words: Sequence[str], is_there: Callable[[str], bool], socket_path: str | None) -> None:
    """Refuse words of a filter that stand behind what is read, before anything is shown.

    Args:
        words: what should be read.
        is_there: whether one is there as a file.
        socket_path: where captures are asked for.

    Raises:
        InvalidArgument: one behind the first is neither there nor a capture.
    """
    absent = [word for word in words if word != STANDARD_INPUT and not is_there(word)]
    if len(words) > 1 and absent:
        captures = _names_of_captures(socket_path)
        unknown = next((word for word in absent if word not in captures), words[0])
        if unknown != words[0]:
            text = (
                f"there is no file {quoted(unknown)}, nor a capture of that name: a filter stands behind -f, in quotes"
            )
            raise InvalidArgument(text)


def _names_of_captures(socket_path: str | None) -> set[str | None]:
    try:
        captures = list_captures(socket_path=socket_path)
    except CaptureError:  # whatever is the matter with it
        return set()
    return {each.name for each in captures} | {str(each.capture_id) for each in captures}


def _shown(path: str, options: argparse.Namespace) -> int:
    """Show the packets of a file or, where there is none, of a capture of that name or number."""
    capture = _capture_called(path)
    if capture is not None:
        from capd_client.cli import live  # noqa: PLC0415  # it takes a while, which files need not

        # Where there is no such capture, either, it is the file that is missing.
        with contextlib.suppress(NoSuchCapture, DaemonUnavailable):
            return until_told(live.show_running)(capture, options)
    return _packets(path, options)


def _capture_called(path: str) -> int | str | None:
    """Return what a capture could be called by, unless it is a file."""
    if path == STANDARD_INPUT or os.path.lexists(path):
        return None
    try:
        return number_or_name(path)
    except argparse.ArgumentTypeError:
        return None


def check_count(count: int | None) -> None:
    """Check how many packets shall be shown at most.

    Raises:
        InvalidArgument: none.
    """
    if count is not None and count < 1:
        raise InvalidArgument(f"count is {count}; possible are numbers from 1", argument="count")


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


def is_whole(path: str, reader: "Reader") -> bool:
    """Whether nothing is left of a file that was read; say so where something is."""
    if reader.rest_bytes:
        complain(f"{path}: the last record is not whole ({counted(reader.rest_bytes, 'byte')})")
    return not reader.rest_bytes


def _packets(path: str, options: argparse.Namespace) -> int:
    from capd_client.reading.model import packets_of  # noqa: PLC0415  # numpy takes a while, which others need not

    lines, left = PacketLines(options), options.count
    with read(source_of(path), follow=options.follow, display_filter=options.display_filter) as reader:
        for batch in reader.batches(options.filter):
            interfaces, shown = reader.interfaces, 0
            for packet in islice(packets_of(batch, [each.name for each in interfaces]), left):
                show(*lines.of(packet, interfaces))
                shown += 1
            show(flush=True)  # what comes is shown as it comes
            if left is not None:
                left -= shown
                if not left:
                    break
        is_done = options.count is not None or is_whole(path, reader)
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


def _shown_of(interface: "FileInterface") -> dict[str, object]:
    """Return what JSON has of an interface."""
    found = interface.statistics
    fields = {
        **interface._asdict(),
        "statistics": None if found is None else dict(zip(found._fields[:5], found, strict=False)),
    }
    return {name: value for name, value in fields.items() if name not in ("options", "section")}


def _info(path: str, options: argparse.Namespace) -> int:
    found = Counted()
    with read(source_of(path)) as reader:
        for batch in reader.batches():
            found.add(batch)
        packets, size_bytes, first_ns, last_ns = astuple(found)
        interfaces = list(reader.interfaces)
        status = 0 if is_whole(path, reader) else EXIT_CUT
    if options.json:
        fields = {"file": path, "packets": packets, "original_bytes": size_bytes, "rest_bytes": reader.rest_bytes}
        fields |= {"first_timestamp_ns": first_ns, "last_timestamp_ns": last_ns}
        show_json({**fields, "interfaces": list(map(_shown_of, interfaces))})
        return status
    show(f"{path}: {counted(packets, 'packet')}, {counted(size_bytes, 'byte')}")
    if first_ns is not None and last_ns is not None:
        first, last = time_of_day(first_ns, options.utc), time_of_day(last_ns, options.utc)
        show(f"  {first} to {last}, {(last_ns - first_ns) / 1e9:.6f} s")
    for number, each in enumerate(interfaces):
        drops = each.statistics.drops if each.statistics else None
        lost = "" if drops is None else f", {count(drops)} dropped"
        what = f", filter {each.capture_filter!r}" if each.capture_filter else ""
        snaplen = f", snaplen {each.snaplen_bytes}" if each.snaplen_bytes else ""
        show(f"  {each.name or number}: linktype {each.linktype}{snaplen}{what}{lost}")
    return status
