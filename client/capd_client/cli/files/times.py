"""``--from`` and ``--to``: a span, as people type it."""

import argparse
import re

#: What else may stand behind an option though it begins with a hyphen: -10m, -1h30m.
_TIME_AGO = re.compile(r"-\d[\d.dhms]*")


def add_span_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a span."""
    add = parser.add_argument
    add("--from", dest="start", metavar="TIME", help="only from then on, such as 12:00, -10m or 2026-01-31T12:00")
    add("--to", dest="end", metavar="TIME", help="only before then")
    # argparse takes what begins with a hyphen for an option, unless it looks like a number.
    parser._negative_number_matcher = _TIME_AGO  # pyright: ignore[reportPrivateUsage]
