"""``capctl columns``: its options, and what is done with them."""

import argparse
from typing import TYPE_CHECKING, Literal

from capd_client.cli.columns.shown import FORMS
from capd_client.cli.output import show
from capd_client.cli.read import DISPLAY_FILTER_HELP, EXIT_CUT, is_whole, source_of
from capd_client.reading import read

if TYPE_CHECKING:
    from capd_client.reading.columns.model import ColumnReader


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``capctl columns``."""
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("file", metavar="FILE", help="pcapng or pcap; - is standard input")
    add("field", nargs="+", metavar="FIELD", help="a field of packets, by Wireshark's name, such as ip.src")
    add("-f", "--filter", metavar="TEXT", help="only packets that match, see pcap-filter(7)")
    add("-Y", "--display-filter", metavar="TEXT", help=DISPLAY_FILTER_HELP)
    add("--all", action="store_true", help="all values of a field in a packet, not only the first one")
    form = parser.add_mutually_exclusive_group().add_argument
    form("--csv", action="store_true", help="print comma-separated values")
    form("--json", action="store_true", help="print a line of JSON for each packet")
    form("--parquet", metavar="PATH", help="write a Parquet file")
    form("--arrow", metavar="PATH", help="write a file of Arrow's")
    add("--overwrite", action="store_true", help="replace the file that is written if it is there")


def run(options: argparse.Namespace) -> int:
    """Print the columns of a file, or write them."""
    from capd_client.cli.columns import written  # noqa: PLC0415  # numpy takes a while, which other commands need not

    written.check(options)
    occurrence: Literal["first", "all"] = "all" if options.all else "first"
    with read(source_of(options.file), display_filter=options.display_filter) as packets:
        columns = packets.columns(*options.field, occurrence=occurrence, capture_filter=options.filter)
        if options.parquet or options.arrow:
            written.write(columns, options)
        else:
            _print(columns, options)
        return 0 if is_whole(options.file, packets) else EXIT_CUT


def _print(columns: "ColumnReader", options: argparse.Namespace) -> None:
    name = "json" if options.json else "csv" if options.csv else "table"
    form = FORMS[name](options.field)
    show(*form.head())
    for each in columns:
        show(*form.lines(each), flush=True)
