"""``capctl merge``: several capture files become one, in the order of their packets' times."""

import argparse
import sys

from capd_client.cli.files.targets import add_target_arguments, refuse_target, target_of
from capd_client.cli.output import show
from capd_client.writing import merge
from capd_protocol.text import counted


def add_merge_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("file", nargs="+", metavar="FILE", help="a capture file; - is standard input")
    add_target_arguments(parser)
    parser.set_defaults(run=_merge)


def _merge(options: argparse.Namespace) -> int:
    refuse_target(options)
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
