"""What a shell completes behind ``capctl``: the commands and options that the parser has; and of the other programs."""

import argparse
from collections.abc import Callable
from typing import cast

import click

from capd_client import completion
from capd_client.cli.capture import key_forms
from capd_client.completion import OptionToComplete
from capd_client.dumpcap import command_line
from capd_client.extcap import configuration

#: What can be completed, by what is typed, beside ``capctl`` itself.
_OTHERS: dict[str, Callable[[], click.Command]] = {
    command_line.PROGRAM: command_line.completion_tree,
    configuration.PROGRAM: configuration.completion_tree,
}


def script(shell: str, program: str, parser: argparse.ArgumentParser) -> str:
    """Return what a shell is to read, so that it asks a program."""
    tree = _OTHERS[program]() if program in _OTHERS else tree_of(parser)
    return completion.script(shell, program, tree)


def tree_of(parser: argparse.ArgumentParser) -> click.Group:
    """Return all that may be typed behind ``capctl``."""
    actions = parser._actions  # pyright: ignore[reportPrivateUsage]
    group = click.Group("capctl", params=_parameters(parser), add_help_option=False)
    for each in actions:
        if isinstance(each, argparse._SubParsersAction):  # pyright: ignore[reportPrivateUsage]
            helps = {choice.dest: choice.help for choice in each._choices_actions}
            commands = cast(dict[str, argparse.ArgumentParser], vars(each)["choices"])
            for name, command in commands.items():
                group.add_command(
                    click.Command(name, params=_parameters(command), help=helps.get(name), add_help_option=False)
                )
    return group


def _parameters(parser: argparse.ArgumentParser) -> list[click.Parameter]:
    found: list[click.Parameter] = []
    for each in parser._actions:  # pyright: ignore[reportPrivateUsage]
        is_path = each.metavar in ("FILE", "PATH", "RING")
        if each.option_strings and each.help != argparse.SUPPRESS:
            option = OptionToComplete(
                each.option_strings,
                has_value=each.nargs != 0,
                is_path=is_path,
                help_text=each.help,
                values=key_forms(each),
            )
            found.append(option.parameter())
        elif not each.option_strings and each.nargs != argparse.PARSER:
            found.append(click.Argument([each.dest], nargs=-1, type=click.Path() if is_path else click.STRING))
    return found
