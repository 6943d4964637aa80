"""What ``-w`` names where a command writes a file of packets."""

import argparse
import sys
from pathlib import Path
from typing import BinaryIO

from capd_client.errors import DestinationError, InvalidArgument
from capd_protocol.formats.compression import COMPRESS_TYPES


def target_of(path: str, *, overwrite: bool) -> str | BinaryIO:
    """Return what a path means: ``-`` is standard output.

    Args:
        path: as it was typed.
        overwrite: whether a file that is there is replaced.

    Raises:
        DestinationError: it is there, and is not to be.
    """
    if path == "-":
        return sys.stdout.buffer
    if not overwrite and Path(path).is_file():
        raise DestinationError(f"{path} is there already: name another file, or say --overwrite")
    return path


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says where packets are written, and how."""
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


def refuse_target(options: argparse.Namespace) -> None:
    """Refuse standard output where it does not fit.

    Raises:
        InvalidArgument: it is a terminal, or to be overwritten.
    """
    if options.write == "-" and sys.stdout.isatty():
        raise InvalidArgument("packets are not for a terminal: name a file, or a program behind it", argument="write")
    if options.write == "-" and options.overwrite:
        raise InvalidArgument("there is no file to overwrite without -w FILE", argument="overwrite")
