"""``capctl merge``: several capture files become one, in the order of their packets' times."""

import argparse
import sys

from capd_client.cli.files.targets import target_of
from capd_client.cli.output import show
from capd_client.errors import InvalidArgument
from capd_client.writing import merge
from capd_protocol.formats.compression import COMPRESS_TYPES
from capd_protocol.text import counted


def add_merge_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("file", nargs="+", metavar="FILE", help="a capture file; - is standard input")
    parser.add_argument("-w", "--write", required=True, metavar="FILE", help="the new file; - is standard output")
    parser.add_argument(
        "-F",
        "--format",
        choices=("pcapng", "pcap", "nsecpcap"),
        default="pcapng",
        metavar="FORMAT",
        help="pcapng, pcap (with microseconds) or nsecpcap (default: pcapng)",
    )
    parser.add_argument(
        "--compress-type",
        choices=COMPRESS_TYPES,
        metavar="TYPE",
        help="none, gzip or zstd (default: as the name ends, .gz or .zst)",
    )
    parser.add_argument(
        "--comment", action="append", default=[], metavar="TEXT", help="write this at the beginning; may be repeated"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    parser.set_defaults(run=_merge)


def _merge(options: argparse.Namespace) -> int:
    if options.write == "-" and sys.stdout.isatty():
        raise InvalidArgument("packets are not for a terminal: name a file, or a program behind it", argument="write")
    if options.write == "-" and options.overwrite:
        raise InvalidArgument("there is no file to overwrite without -w FILE", argument="overwrite")
    packets = merge(
        target_of(options.write, overwrite=options.overwrite),
        [sys.stdin.buffer if each == "-" else each for each in options.file],
        file_format=options.format,
        compress_type=options.compress_type,
        comments=options.comment,
        overwrite=options.overwrite,
    )
    if options.write != "-":
        show(f"{options.write}: {counted(packets, 'packet')}")
    return 0
