"""``capd check-config``: what is wrong with a configuration, before the daemon sees it."""

import argparse
import sys
from pathlib import Path

from capd.config import reader
from capd.filters.text import find_host_name, host_name_complaint
from capd.linux.libpcap import Handle, PcapError
from capd.metrics import switch
from capd.printable import escaped
from capd_protocol.formats.linktypes import DLT_EN10MB, from_dlt
from capd_protocol.messages import MAX_SNAPLEN_BYTES


def main(argv: list[str]) -> int:
    """Check a configuration. Exit status 0: it can be used; 1: it cannot."""
    parser = argparse.ArgumentParser(
        prog="capd check-config",
        description="Check a configuration, and compile its filters. All faults are told, each with its line.",
    )
    parser.add_argument("path", type=Path, nargs="?", default=reader.DEFAULT_PATH, help="(default: %(default)s)")
    path = parser.parse_args(argv).path
    try:
        if path == reader.DEFAULT_PATH and reader.is_absent(path):
            print(f"there is no {path}: without one, the members of a group may capture everything")  # noqa: T201
            return 0
        checked = reader.load(path, complain_about_filter)
    except reader.ConfigError as error:
        print("\n".join(map(escaped, error.faults)), file=sys.stderr)  # noqa: T201
        return 1
    for warning in checked.warnings:
        print(escaped(warning), file=sys.stderr)  # noqa: T201
    if checked.metrics is not None and (obstacle := switch.complaint(checked.metrics)) is not None:
        print(f"{path}: metrics cannot be served at {checked.metrics}: {obstacle} (warning)", file=sys.stderr)  # noqa: T201
    print(f"{path}: nothing wrong ({len(checked.policy.rules)} rules, {len(checked.captures)} captures)")  # noqa: T201
    return 0


def complain_about_filter(text: str) -> str | None:
    """Return what libpcap says against a filter, on Ethernet; None if it compiles."""
    name = find_host_name(text)
    if name is not None:
        return host_name_complaint(name)
    handle = Handle.dead(from_dlt(DLT_EN10MB), MAX_SNAPLEN_BYTES)
    try:
        handle.compile(text)
    except PcapError as error:
        return str(error)
    finally:
        handle.close()
    return None
