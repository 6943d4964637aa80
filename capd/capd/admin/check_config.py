"""``capd check-config``: what is wrong with a configuration, before the daemon sees it."""

import argparse
from pathlib import Path

from capd.config import reader
from capd.linux.libpcap import Handle, PcapError
from capd.metrics import switch
from capd.printable import show
from capd_protocol.filter_words import find_host_name, host_name_complaint
from capd_protocol.formats.linktypes import DLT_EN10MB, from_dlt
from capd_protocol.messages import MAX_SNAPLEN_BYTES
from capd_protocol.text import counted


def main(argv: list[str]) -> int:
    """Check a configuration. Exit status 0: it can be used; 1: it cannot."""
    parser = argparse.ArgumentParser(
        prog="capd check-config",
        description="Check a configuration, and compile its filters. All faults are shown, each with its line.",
    )
    parser.add_argument("path", type=Path, nargs="?", default=reader.DEFAULT_PATH, help="(default: %(default)s)")
    path = parser.parse_args(argv).path
    try:
        if path == reader.DEFAULT_PATH and reader.is_absent(path):
            show(f"there is no {path}: without one, the members of a group may capture everything")
            return 0
        checked = reader.load(path, complain_about_filter)
    except reader.ConfigError as error:
        show(*error.faults, is_error=True)
        return 1
    show(*checked.warnings, is_error=True)
    if checked.metrics is not None and (obstacle := switch.complaint(checked.metrics)) is not None:
        show(f"{path}: metrics cannot be served at {checked.metrics}: {obstacle} (warning)", is_error=True)
    rules, captures = counted(len(checked.policy.rules), "rule"), counted(len(checked.captures), "capture")
    show(f"{path}: nothing wrong ({rules}, {captures})")
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
