"""What the programs know of options: their parsers, without running them."""

import argparse
from collections.abc import Callable
from typing import NoReturn

import pytest

from capd import __main__ as daemon
from capd_client.cli import __main__ as capctl


class _Found(Exception):
    pass


def parser_of(main: Callable[[list[str]], object]) -> argparse.ArgumentParser:
    """Return the parser that a program asks about its arguments."""

    def find(parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise _Found(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", find)
        with pytest.raises(_Found) as found:
            main(["--help"])
    parser = found.value.args[0]
    assert isinstance(parser, argparse.ArgumentParser)
    return parser


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Return the options that a parser shows."""
    return {name for each in parser._actions if each.help != argparse.SUPPRESS for name in each.option_strings}


def capd_parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of capd's commands by their names, the daemon's own first, without a name."""
    return {"": parser_of(daemon.main), **{name: parser_of(each) for name, each in daemon._COMMANDS.items()}}


def capctl_parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of capctl's commands by their names, the program's own first, without a name."""
    parser = parser_of(capctl.main)
    (commands,) = (each.choices for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    return {"": parser, **commands}
