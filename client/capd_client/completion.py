"""Completion in bash, zsh and fish: click's, for each of the programs.

click takes a fifth of a command's start, and so is imported where a shell asks, and nowhere else.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem


class OptionToComplete(NamedTuple):
    """An option as a shell completes it.

    Attributes:
        names: how it is written.
        has_value: something stands behind it.
        is_path: that is a file.
        help_text: for people.
        values: what that is, or begins with.
    """

    names: Sequence[str]
    has_value: bool
    is_path: bool = False
    help_text: str | None = None
    values: Collection[str] = ()

    def parameter(self) -> "click.Parameter":
        """Return it as click has it."""
        import click  # noqa: PLC0415

        name = self.names[-1].lstrip("-").replace("-", "_")
        kind = click.Path() if self.is_path else click.STRING
        return click.Option(
            [*self.names, name],
            is_flag=not self.has_value,
            multiple=self.has_value,
            type=kind if self.has_value else None,
            help=self.help_text,
            shell_complete=_one_of(self.values) if self.values else None,
        )


def _one_of(
    texts: Collection[str],
) -> "Callable[[click.Context, click.Parameter, str], list[CompletionItem]]":
    from click.shell_completion import CompletionItem  # noqa: PLC0415

    def begun(_context: "click.Context", _parameter: "click.Parameter", beginning: str) -> list[CompletionItem]:
        return [CompletionItem(each) for each in texts if each.startswith(beginning)]

    return begun


def variable_of(program: str) -> str:
    """Return the variable by which a shell asks a program."""
    return f"_{program.upper().replace('-', '_')}_COMPLETE"


def script(shell: str, program: str, tree: "click.Command") -> str:
    """Return what a shell is to read, so that it asks a program."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    kind = get_completion_class(shell)
    assert kind is not None
    return kind(tree, {}, program, variable_of(program)).source()


def complete(program: str, make_tree: "Callable[[], click.Command]") -> int | None:
    """Answer a shell, where one asks. Return the exit status; None: none asks.

    Args:
        program: which is asked.
        make_tree: returns all that may be typed.
    """
    instruction = os.environ.get(variable_of(program))
    if instruction is None:
        return None
    from click.shell_completion import shell_complete  # noqa: PLC0415

    return shell_complete(make_tree(), {}, program, variable_of(program), instruction)


def tree_of(program: str, options: Mapping[str, bool], paths: Collection[str]) -> "click.Command":
    """Return all that may be typed behind a program that has options only.

    Args:
        program: its name.
        options: whether something stands behind each.
        paths: behind which a file stands.
    """
    import click  # noqa: PLC0415

    found = [
        OptionToComplete([name], has_value=has_value, is_path=name in paths) for name, has_value in options.items()
    ]
    return click.Command(program, params=[each.parameter() for each in found], add_help_option=False)
