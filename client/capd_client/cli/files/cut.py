"""``capctl cut``: packets of a file chosen and changed, into another file or several."""

import argparse
import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from capd_client.cli.files.targets import add_target_arguments, refuse_target, target_of
from capd_client.cli.files.times import add_span_arguments
from capd_client.cli.output import complain, show
from capd_client.cli.read import is_whole, source_of
from capd_client.cli.typed import whole_number
from capd_client.errors import InvalidArgument
from capd_client.reading import read
from capd_client.ring.files import span_of
from capd_client.writing import split, write
from capd_protocol.text import counted

if TYPE_CHECKING:
    from capd_client.reading.reader import Reader
    from capd_protocol.batches.model import Batch

#: What messages call an argument, to what it is called here.
OPTIONS = {
    "ranges": ("-n", "--packets", "--leave-out"),
    "offset_ns": ("-t", "--shift"),
    "window_packets": ("-D", "--duplicates"),
    "window_s": ("--duplicates-within",),
    "ignored_bytes": ("--ignore-bytes",),
    "max_packet_count": ("-c", "--split-packets"),
    "max_duration_s": ("-i", "--split-seconds"),
    "max_file_size_bytes": ("--split-bytes",),
}
#: All that is whole was written, but the last record of the file is not.
EXIT_CUT = 1
_NS_PER_S = 10**9
_RANGE = re.compile(r"(\d{1,18})(-(\d{1,18})?)?", re.ASCII)
_SECONDS = re.compile(r"([+-]?)(\d{1,10})(?:\.(\d{1,9}))?", re.ASCII)
_CHOP = re.compile(r"(?:(-?\d{1,9}):)?(-?\d{1,9})", re.ASCII)


def _ranges(text: str) -> list[tuple[int, int | None]]:
    found: list[tuple[int, int | None]] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise argparse.ArgumentTypeError(f"{part!r} is no range of packets: possible are 7, 7-12 and 7-")
        first = int(match[1])
        found.append((first, first if match[2] is None else int(match[3]) if match[3] else None))
    return found


def _nanoseconds(text: str) -> int:
    match = _SECONDS.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, such as -3600 or 0.25")
    value_ns = int(match[2]) * _NS_PER_S + int((match[3] or "").ljust(9, "0"))
    return -value_ns if match[1] == "-" else value_ns


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def _chop(text: str) -> tuple[int, int]:
    match = _CHOP.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither COUNT nor OFFSET:COUNT, in bytes")
    return int(match[2]), int(match[1] or 0)


def _comment(text: str) -> tuple[int, str]:
    number, colon, comment = text.partition(":")
    if not colon or not (number.isascii() and number.isdecimal()) or len(number) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is not NUMBER:TEXT, such as 7:here it begins")
    return int(number), comment


def add_cut_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add = parser.add_argument
    add("file", metavar="FILE", help="a capture file; - is standard input")
    add("-n", "--packets", type=_ranges, metavar="RANGES", help="only packets with these numbers, such as 1-10,25,100-")
    add("--leave-out", type=_ranges, metavar="RANGES", help="no packets with these numbers")
    add_span_arguments(parser)
    add("-f", "--filter", metavar="TEXT", help="only packets that match, see pcap-filter(7)")
    add("-s", "--snaplen", type=whole_number, metavar="BYTES", help="at most so many bytes of each packet")
    add(
        "-C",
        "--chop",
        type=_chop,
        action="append",
        default=[],
        metavar="[OFFSET:]COUNT",
        help="leave out bytes of each packet: from its beginning or, below 0, its end; may be repeated",
    )
    add("-L", "--shorten", action="store_true", help="with -s or -C, also have original sizes be smaller")
    add("-t", "--shift", type=_nanoseconds, metavar="SECONDS", help="later by so much, or, below 0, earlier")
    add("-D", "--duplicates", type=whole_number, metavar="N", help="no packet that is among the last N - 1 before it")
    add(
        "--duplicates-within",
        type=_seconds,
        metavar="SECONDS",
        help="no packet that is among those of so much time before it",
    )
    add(
        "--ignore-bytes",
        type=whole_number,
        default=0,
        metavar="N",
        help="for duplicates, so many bytes at the beginning do not count",
    )
    add("--sort", action="store_true", help="write packets in the order of their times")
    add(
        "--packet-comment",
        type=_comment,
        action="append",
        default=[],
        metavar="N:TEXT",
        help="say this of the packet with this number; may be repeated",
    )
    add("--discard-packet-comments", action="store_true", help="leave out what is said of packets")
    add("-c", "--split-packets", type=whole_number, metavar="N", help="several files, each with so many packets")
    add("-i", "--split-seconds", type=_seconds, metavar="SECONDS", help="several files, each of so much time")
    add("--split-bytes", type=whole_number, metavar="BYTES", help="several files, none larger before it is compressed")
    add_target_arguments(parser)
    parser.set_defaults(run=_cut)


def _cut(options: argparse.Namespace) -> int:
    refuse_target(options)
    limits = (options.split_packets, options.split_seconds, options.split_bytes)
    is_split = any(each is not None for each in limits)
    if is_split and options.write == "-":
        raise InvalidArgument("several files need names: name one with -w FILE", argument="write")
    common: dict[str, Any] = {
        "file_format": options.format,
        "compress_type": options.compress_type,
        "comments": options.comment,
        "overwrite": options.overwrite,
    }
    with read(source_of(options.file)) as reader:
        packets = _edited(reader, options)
        if is_split:
            names = ("max_packet_count", "max_duration_s", "max_file_size_bytes")
            kept: dict[str, Any] = dict(zip(names, limits, strict=True))
            paths = split(options.write, packets, reader.interfaces, **kept, **common)
            for path in paths:
                show(str(path))
            if not paths:
                complain("there are no such packets")
        else:
            target = target_of(options.write, overwrite=options.overwrite)
            count = write(target, packets, reader.interfaces, **common)
            if options.write != "-":
                show(f"{options.write}: {counted(count, 'packet')}")
        # Where no more was wanted than what comes before its end, it is no matter how the file ends.
        is_done = bool(options.packets) or is_whole(options.file, reader)
    return 0 if is_done else EXIT_CUT


def _edited(reader: "Reader", options: argparse.Namespace) -> "Iterable[Batch]":
    """Return the packets that are written; each step takes what the one before it gives, in editcap's order."""
    from capd_client import editing  # noqa: PLC0415  # numpy takes a while, which others need not

    packets: Iterable[Batch] = reader.batches()
    if options.discard_packet_comments:
        packets = editing.without_comments(packets)
    if options.packet_comment:
        packets = editing.commented(packets, dict(options.packet_comment))
    for ranges, leaves_out in ((options.packets, False), (options.leave_out, True)):
        if ranges:
            packets = editing.numbered(packets, ranges, leaves_out=leaves_out)
    if options.start is not None or options.end is not None:
        span = span_of(options.start, options.end)
        packets = editing.in_span(packets, span.start_ns, span.end_ns)
    if options.filter is not None:
        packets = _matching(packets, options.filter, reader)
    if options.snaplen is not None:
        packets = editing.cut_to(packets, options.snaplen, shortens_original=options.shorten)
    for count, offset in options.chop:
        packets = editing.without_bytes(packets, count, offset, shortens_original=options.shorten)
    if options.shift is not None:
        packets = editing.shifted(packets, options.shift)
    if options.duplicates is not None or options.duplicates_within is not None:
        packets = editing.without_duplicates(
            packets,
            window_packets=options.duplicates,
            window_s=options.duplicates_within,
            ignored_bytes=options.ignore_bytes,
        )
    return editing.in_time_order(packets) if options.sort else packets


def _matching(packets: "Iterable[Batch]", text: str, reader: "Reader") -> "Iterable[Batch]":
    from capd_client.reading.filtering import Matching  # noqa: PLC0415  # numpy, as above

    matching = Matching(text)
    return (found for batch in packets if len((found := matching.of(batch, reader.interfaces)).offsets))
