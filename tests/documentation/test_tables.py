"""Tables of the documentation have what the code has, no more and no less."""

import argparse
import re

import capd_client
from capd_client import events
from capd_client.errors import CaptureError, ChildError, DumpcapError
from capd_client.request.options import CaptureArguments
from capd_protocol.arguments import ARGUMENTS, RANGES
from tests.documentation.pages import CHECKOUT, rows
from tests.support.parsers import capctl_parsers, options_of

_TABLES = rows((CHECKOUT / "docs" / "options.md").read_text(encoding="utf-8"))
#: Refused, which the text says.
_REFUSED = {"max_buffered_packets", "separate_threads"}


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def rows_of_arguments() -> dict[str, list[str]]:
    """Return the rows of arguments, by the argument."""
    return {
        name: row
        for row in _TABLES
        if len(row) == 4
        for name in names(row[0])
        if name in CaptureArguments.__annotations__
    }


def test_each_argument_of_a_capture_is_described() -> None:
    named = [name for row in _TABLES if len(row) == 4 for name in names(row[0]) if not name.startswith("SP_")]
    assert sorted(named) == sorted(CaptureArguments.__annotations__.keys() - _REFUSED)


def test_each_option_of_the_command_stands_beside_its_argument() -> None:
    described = rows_of_arguments()
    for each in ARGUMENTS:
        if each.options:
            shown = {option.shown for option in each.options}
            assert shown & set(names(described[each.name][1])), each.name
    used = {name.split()[0] for row in described.values() for name in names(row[1])}
    parser = capctl_parsers()["capture"]
    assert used <= options_of(parser)
    # How packets are shown, and what lists something, is said where reading is.
    page = (CHECKOUT / "docs" / "reading.md").read_text(encoding="utf-8")
    used |= set(names(page[page.rindex("```") + 3 :]))
    for action in parser._actions:
        if action.option_strings and action.dest not in ("help", "json") and action.help != argparse.SUPPRESS:
            assert used & set(action.option_strings), action.option_strings


def test_ranges_are_those_that_are_checked() -> None:
    for argument, row in rows_of_arguments().items():
        if argument not in RANGES:
            continue
        least, greatest, unit = RANGES[argument]
        if greatest >= 2**31 - 1 and unit in ("packets", "files"):
            expected = f"from {least:,} {unit}"
        else:
            expected = f"{least:,} to {greatest:,} {unit}"
        assert row[2].startswith(expected), argument


def test_each_event_is_described() -> None:
    described = [row for row in _TABLES if row[0].startswith("`SP_")]
    specs: dict[str, list[str]] = {}
    for event, spec in events.EVENTS.items():
        row = specs.setdefault(f"`{spec.type}`", [f"`{spec.type}`", spec.carries, "", spec.meaning])
        row[2] += f", `{event.__name__}`" if row[2] else f"`{event.__name__}`"
    assert described == list(specs.values())


def test_each_exception_is_described() -> None:
    known = {
        name
        for name in capd_client.__all__
        if isinstance(each := getattr(capd_client, name), type)
        and issubclass(each, CaptureError)
        and each not in (CaptureError, ChildError, DumpcapError)
    }
    described = [name for row in _TABLES if len(row) == 2 for name in names(row[0])]
    assert sorted(described) == sorted(known)
