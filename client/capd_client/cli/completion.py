"""Completion in bash, zsh and fish: click's, with the commands and options that the parser has.

click takes a fifth of a command's start, and so is imported where a shell asks, and nowhere else.
"""

import argparse
from collections.abc import Callable
from typing import cast

import click
from click.shell_completion import CompletionItem, get_completion_class, shell_complete

from capd_client.cli.capture import key_forms

VARIABLE = "_CAPCTL_COMPLETE"


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return what a shell is to read, so that it asks here."""
    kind = get_completion_class(shell)
    assert kind is not None
    return kind(_tree(parser), {}, "capctl", VARIABLE).source()


def complete(instruction: str, parser: argparse.ArgumentParser) -> int:
    """Answer a shell. Return the exit status.

    Args:
        instruction: what the variable says.
        parser: of all that may be typed.
    """
    return shell_complete(_tree(parser), {}, "capctl", VARIABLE, instruction)


def _tree(parser: argparse.ArgumentParser) -> click.Group:
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
        kind = click.Path() if each.metavar in ("FILE", "PATH", "RING") else click.STRING
        if each.option_strings and each.help != argparse.SUPPRESS:
            is_flag = each.nargs == 0
            forms = key_forms(each)
            found.append(
                click.Option(
                    [*each.option_strings, each.dest],
                    is_flag=is_flag,
                    multiple=not is_flag,
                    type=None if is_flag else kind,
                    help=each.help,
                    shell_complete=_one_of(forms) if forms else None,
                )
            )
        elif not each.option_strings and each.nargs != argparse.PARSER:
            found.append(click.Argument([each.dest], nargs=-1, type=kind))
    return found


def _one_of(texts: list[str]) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    return lambda _context, _parameter, beginning: [
        CompletionItem(each) for each in texts if each.startswith(beginning)
    ]
