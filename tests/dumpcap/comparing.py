"""Compares capd-dumpcap with dumpcap: the same words to both, on the same packets."""

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.dumpcap.differences import without_known
from tests.dumpcap.lines import PICKED, SPACED, drawn
from tests.dumpcap.running import Outcome, run_both
from tests.support.namespace import enter_private_network_namespace, veth_pair


def differences(theirs: Outcome, ours: Outcome) -> list[str]:
    """Return what is not the same, in lines."""
    found: list[str] = []
    for name in ("status", "output", "said"):
        one, other = getattr(theirs, name), getattr(ours, name)
        if one != other:
            found.append(f"{name}: {one!r}, ours: {other!r}")
    if list(theirs.files) != list(ours.files):
        found.append(f"files: {list(theirs.files)}, ours: {list(ours.files)}")
    for name in theirs.files.keys() & ours.files.keys():
        for field, one, other in zip(theirs.files[name]._fields, theirs.files[name], ours.files[name], strict=True):
            if one != other:
                found.append(f"{field} of {name}: {_short(one)}, ours: {_short(other)}")
    return found


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 300 else f"{text[:300]}…"


def compare(words: Sequence[str], directory: Path, interfaces: tuple[str, str], sender: str) -> list[str]:
    """Return what differs for a command line, and is on no list."""
    va, vb = interfaces
    filled = [each.replace("{va}", va).replace("{vb}", vb) for each in words]
    theirs, ours = run_both(filled, directory, sender)
    return differences(*without_known(filled, theirs, ours))


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; return 1 where anything differs."""
    parser = argparse.ArgumentParser(
        prog="scripts/compare-dumpcap",
        description="Give capd-dumpcap and dumpcap the same command lines, and print what differs and is not in "
        "docs/dumpcap.md. Exits with 1 if anything does.",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the command lines that are drawn (default: 1)")
    parser.add_argument("--count", type=int, default=200, help="how many are drawn (default: 200)")
    parser.add_argument("--picked", action="store_true", help="also those that are picked by hand")
    parser.add_argument("--verbose", action="store_true", help="show each command line")
    parser.add_argument("words", nargs="*", help="one command line, behind --, instead; {va} and {vb} are interfaces")
    options = parser.parse_args(argv)
    lines = (
        [options.words]
        if options.words
        else [*(([*PICKED, *SPACED]) if options.picked else []), *drawn(options.seed, options.count)]
    )
    enter_private_network_namespace()
    different = 0
    with (
        tempfile.TemporaryDirectory(prefix="compare-dumpcap-") as place,
        veth_pair("va", "peer"),
        veth_pair("vb", "vbp"),
    ):
        for number, words in enumerate(lines):
            found = compare(words, Path(place) / str(number), ("va", "vb"), "peer")
            different += bool(found)
            if found or options.verbose:
                sys.stdout.write("\n".join((f"{number}: {shlex.join(words)}", *(f"    {each}" for each in found), "")))
                sys.stdout.flush()
    sys.stdout.write(f"{len(lines)} command lines, {different} with differences that are not known\n")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
