"""``capctl files`` and ``capctl extract``: what a ring has, and the packets of a span out of it."""

import argparse
import contextlib
import ctypes
import os
import platform
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO

from capd_client import reading
from capd_client.blocking.session import CaptureSession
from capd_client.cli import read
from capd_client.cli.files.targets import target_of
from capd_client.cli.files.times import add_span_arguments
from capd_client.cli.output import complain, show, show_json
from capd_client.cli.packets.lines import PacketLines
from capd_client.cli.packets.lines import add_arguments as packet_options
from capd_client.cli.text import count, si, table, width_of
from capd_client.errors import DaemonUnavailable, InvalidArgument, NoSuchCapture, ReadError
from capd_client.ring.files import RingFile, of_input, of_path, span_of
from capd_protocol.arguments import is_capture_name
from capd_protocol.formats.ring_index import index_name
from capd_protocol.text import counted

if TYPE_CHECKING:
    from capd_client.editing.extraction import Extraction

#: What messages call an argument, to what it is called here.
OPTIONS = {
    "start": ("--from",),
    "end": ("--to",),
    "overwrite": ("--overwrite",),
    "write": ("-w", "--write"),
    "json": ("--json",),
}
#: There was nothing to show.
EXIT_NOTHING = 1
#: A daemon answers at once.
_ATTACH_TIMEOUT_S = 30.0


def add_files_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``capctl files``."""
    parser.set_defaults(run=run_files)
    _add_ring_and_span(parser)
    parser.add_argument("--utc", action="store_true", help="show times in UTC instead of local time")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each")


def add_extract_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``capctl extract``."""
    parser.set_defaults(run=run_extract)
    _add_ring_and_span(parser)
    add = parser.add_argument
    add("-w", "--write", metavar="FILE", help="write pcapng instead of lines; - is standard output")
    add("--overwrite", action="store_true", help="replace the file if it is there")
    add("-f", "--filter", metavar="TEXT", help="only packets that match, see pcap-filter(7)")
    add("-Y", "--display-filter", metavar="TEXT", help=read.DISPLAY_FILTER_HELP)
    packet_options(add)
    add("--json", action="store_true", help="print a line of JSON for each packet")


def _add_ring_and_span(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "ring",
        nargs="+",
        metavar="RING",
        help="a path, as it was given to -w, or that of a capture file; or the name or number of a capture that runs",
    )
    add_span_arguments(parser)


def _is_there(word: str) -> bool:
    return any(map(os.path.lexists, (word, index_name(word))))


def _files_of(word: str, socket_path: str | None) -> tuple[RingFile, ...]:
    """Return the files of the ring that is meant: where there is no such path, of a capture of that name or number."""
    if word == read.STANDARD_INPUT:
        return (of_input(sys.stdin.buffer),)
    is_number = word.isascii() and word.isdecimal()
    if _is_there(word) or not (is_number or is_capture_name(word)):
        return of_path(word)
    try:
        with CaptureSession.attach(int(word) if is_number else word, socket_path=socket_path) as capture:
            capture.wait_started(_ATTACH_TIMEOUT_S)
            return capture.ring_files()
    except NoSuchCapture as error:
        raise NoSuchCapture(f"there is no file {word} here, and {error}", error.failure) from error
    except DaemonUnavailable as error:
        raise DaemonUnavailable(f"there is no file {word} here, and for a capture of that name {error}") from error


# Files ------------------------------------------------------------------------------------------------------------


def run_files(options: argparse.Namespace) -> int:
    """Show the files of rings that may have packets of a span."""
    if read.STANDARD_INPUT in options.ring:
        raise InvalidArgument("standard input is no ring: name a path, or a capture that runs")
    span = span_of(options.start, options.end)
    found = [file for ring in options.ring for file in _files_of(ring, options.socket) if file.may_have(span)]
    faults: list[ReadError] = []
    looked_into = [(file, _looked_into(file, faults)) for file in found]
    shown = [(file, known) for file, known in looked_into if known is not None]
    for fault in faults:
        complain(str(fault))
    if options.json:
        for _, known in shown:
            show_json(_json_of(known))
    elif shown:
        rows = [_row_of(file, known, options.utc) for file, known in shown]
        header = ("FIRST", "LAST", "PACKETS", "DROPPED", "SIZE", "FILE")
        show(*table(header, rows, frozenset((2, 3, 4)), width_of(sys.stdout), frozenset((5,))))
    if not found:
        complain("no file has packets of this span")
    return 0 if shown and not faults else EXIT_NOTHING


def _looked_into(file: RingFile, faults: list[ReadError]) -> RingFile | None:
    """Return a file with what is in it, read from it where no index says that; None of what is no capture file.

    Its writer was killed, or it is the file of no ring. One that is being written is left as it is.
    """
    if file.packets is not None or not file.is_complete:
        return file
    counted_in = read.Counted()
    try:
        with file.open() as opened, reading.read(opened) as reader:
            for batch in reader.batches():
                counted_in.add(batch)
    except ReadError as error:
        faults.append(ReadError(file.path, error.offset_bytes, error.text))
        if file.opened_ns is None:
            return None
    return replace(
        file,
        packets=counted_in.packets,
        first_timestamp_ns=counted_in.first_ns,
        last_timestamp_ns=counted_in.last_ns,
    )


def _json_of(file: RingFile) -> dict[str, object]:
    return {
        "path": file.path,
        "size_bytes": file.size_bytes,
        "is_complete": file.is_complete,
        "packets": file.packets,
        "first_timestamp_ns": file.first_timestamp_ns,
        "last_timestamp_ns": file.last_timestamp_ns,
        "drops": file.drops,
        "opened_ns": file.opened_ns,
        "closed_ns": file.closed_ns,
    }


def _row_of(file: RingFile, known: RingFile, utc: bool) -> tuple[str, ...]:
    """Return a row on a file; ``known`` has what was read from it, too."""
    packets = "?" if known.packets is None else count(known.packets)
    dropped = count(sum(file.drops.values())) if file.drops else "?"
    first, last = (_shown(each, utc) for each in (known.first_timestamp_ns, known.last_timestamp_ns))
    last = last if file.is_complete else "(being written)"
    was_cut = file.is_complete and not file.drops and file.opened_ns is not None
    mark = " (not closed)" if was_cut else ""
    return first, last, packets, dropped, si(file.size_bytes, "B"), f"{file.path}{mark}"


def _shown(timestamp_ns: int | None, utc: bool) -> str:
    if timestamp_ns is None:
        return "-"
    moment = datetime.fromtimestamp(timestamp_ns // 10**9, UTC)
    return f"{moment if utc else moment.astimezone():%Y-%m-%d %H:%M:%S}.{timestamp_ns % 10**9 // 10**6:03}"


# Packets ----------------------------------------------------------------------------------------------------------


def run_extract(options: argparse.Namespace) -> int:
    """Show or write the packets of a span."""
    if options.overwrite and options.write in (None, "-"):
        raise InvalidArgument("there is no file to overwrite without -w FILE", argument="overwrite")
    if options.write is not None and options.json:
        raise InvalidArgument("packets are written as pcapng or shown as JSON, not both", argument="json")
    if options.write == "-" and sys.stdout.isatty():
        raise InvalidArgument("pcapng is not for a terminal: name a file, or a program behind it", argument="write")
    span = span_of(options.start, options.end)
    read.refuse_filter(options.ring, _is_there, options.socket)
    found = [file for ring in options.ring for file in _files_of(ring, options.socket)]
    _step_back()
    from capd_client.editing.extraction import Extraction  # noqa: PLC0415  # numpy takes a while, which others need not

    extraction = Extraction(found, span, options.filter, options.display_filter)
    if options.write is None:
        packets = _print(extraction, options)
    else:
        packets = _write(extraction, target_of(options.write, overwrite=options.overwrite), overwrite=options.overwrite)
    for fault in extraction.faults:
        complain(str(fault))
    if not packets and not extraction.faults:  # else nobody knows
        complain("there are no such packets in this span")
    if packets and options.write not in (None, "-"):
        show(f"{options.write}: {counted(packets, 'packet')}")
    return 0 if packets and not extraction.faults else EXIT_NOTHING


def _print(extraction: "Extraction", options: argparse.Namespace) -> int:
    packets, lines = 0, PacketLines(options)
    for packet in extraction:
        show(*lines.of(packet, extraction.interfaces))
        packets += 1
    return packets


def _write(extraction: "Extraction", target: "str | BinaryIO", *, overwrite: bool) -> int:
    """Write packets as pcapng; return how many. Where there are none, there is no file either."""
    from capd_client.writing.writer import Writer  # noqa: PLC0415  # numpy, as above

    writer = Writer(target, overwrite=overwrite)
    try:
        writer.write_packets(extraction, extraction.interfaces, extraction)
        if writer.packets:
            writer.close()
    finally:
        writer.abandon()
    return writer.packets


# Priority ---------------------------------------------------------------------------------------------------------

#: asm/unistd.h: the C library has no function for it.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282, "armv7l": 314}
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_IDLE = 3 << 13
_LOWEST = 19


def _step_back() -> None:
    """Use what others leave of processor and disk: captures shall not lose packets because of it.

    What the system does not let one do, as in some containers, is not needed for the result.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _LOWEST)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE)
