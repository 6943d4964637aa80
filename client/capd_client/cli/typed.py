"""The command line, taken apart: what no command has is refused in a sentence, options of tcpdump with what to type."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

from capd_client.errors import InvalidArgument
from capd_protocol.text import quoted

_Number = TypeVar("_Number", int, float)


class _Foreign(NamedTuple):
    """An option of tcpdump that is not here.

    Attributes:
        names: its letter and words.
        instead: what to type.
    """

    names: tuple[str, ...]
    instead: str


_UNDECODED = "what it is about is not taken apart here: 'capctl capture -w FILE', and tcpdump or Wireshark on the file"
_NANOSECONDS = "files always have nanoseconds, and lines microseconds: leave it out"

#: Those of tcpdump 4.99 that no command has, in its order. Letters that mean something else here are not among them.
_TCPDUMP = (
    _Foreign(("--buffer-size",), "say -B, whose unit is a MiB"),
    _Foreign(("-C",), "say -w FILE -b filesize:KB, of which 1000 are one of tcpdump's"),
    _Foreign(("-d",), "'tcpdump -d FILTER' shows what a filter is compiled to, and needs no privilege"),
    _Foreign(("-E",), _UNDECODED),
    _Foreign(("-F",), 'say -f "$(cat FILE)"'),
    _Foreign(("-G",), "say -w FILE -b duration:SECONDS; names of files have the time by themselves"),
    _Foreign(("-H",), _UNDECODED),
    _Foreign(("--immediate-mode", "--packet-buffered"), "packets are shown and written as they come: leave it out"),
    _Foreign(("-j", "--time-stamp-type"), "timestamps are always the kernel's: leave it out"),
    _Foreign(("-J", "--list-time-stamp-types"), "say 'capctl linktypes INTERFACE', which lists them too"),
    _Foreign(("--time-stamp-precision", "--micro", "--nano"), _NANOSECONDS),
    _Foreign(("--dont-verify-checksums",), "say -K"),
    _Foreign(("--list-data-link-types",), "say -L"),
    _Foreign(("-m",), _UNDECODED),
    _Foreign(("-M",), _UNDECODED),
    _Foreign(("-O", "--no-optimize"), "filters are always optimized: leave it out"),
    _Foreign(("--no-promiscuous-mode",), "say -p"),
    _Foreign(("-Q", "--direction"), "say it to 'capctl capture'"),
    _Foreign(("-r",), "say 'capctl read FILE'"),
    _Foreign(("--absolute-tcp-sequence-numbers",), "say -S"),
    _Foreign(("--snapshot-length",), "say -s"),
    _Foreign(("-T",), _UNDECODED),
    _Foreign(("-u",), _UNDECODED),
    _Foreign(("--version",), "say 'capctl --version'"),
    _Foreign(("-V",), "say 'capctl read FILE ...', with the names of all files"),
    _Foreign(("-W",), "say -b files:N, to keep so many files of a ring, or -a files:N, to end after so many"),
    _Foreign(("--linktype",), "say -y"),
    _Foreign(("-z",), "'capctl capture --json' prints a line when a file is complete, for a program that goes on"),
    _Foreign(("-Z", "--relinquish-privileges"), "capctl has no privileges to give up: leave it out"),
)
_INSTEAD = {name: each.instead for each in _TCPDUMP for name in each.names}

#: Of commands that show packets: what people type to tcpdump that another command does here.
_INSTEAD_OF = {
    ("capctl read", "-w"): "say 'capctl extract FILE -w NEW'",
    ("capctl extract", "-c"): "say 'capctl read -c N FILE'",
}

#: What people type tcpdump's options to.
_OF_PACKETS = ("capture", "read", "extract")


class Parser(argparse.ArgumentParser):
    """A parser that raises ``InvalidArgument``, with one sentence, instead of printing how everything is used."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, exit_on_error=False)
        #: All commands, also those beside this one.
        self.commands: Mapping[str, Parser] = {}

    def error(self, message: str) -> NoReturn:
        """Refuse what was typed."""
        raise InvalidArgument(f"{message}: {self._advice}")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Take words apart, all of which are known.

        Raises:
            InvalidArgument: one is not.
        """
        words = sys.argv[1:] if args is None else list(args)
        if self._has_commands:  # what follows an option that is not here would pass for a wrong command
            self._refuse_options(words[:1])
        try:
            options, rest = super().parse_known_args(words, namespace or argparse.Namespace())
        except argparse.ArgumentError as error:
            self._refuse_options(self._unknown_letters(words))
            raise InvalidArgument(_sentence(error, words)) from error
        self._refuse_options(rest)
        for word in rest:
            text = f"{quoted(word)} has no meaning there: words that are no options stand together; {self._advice}"
            raise InvalidArgument(text)
        return options, rest

    @property
    def _advice(self) -> str:
        return f"see '{self.prog} --help'"

    @property
    def _has_commands(self) -> bool:
        return self._subparsers is not None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.nargs == argparse.PARSER and value not in self.commands:
            raise argparse.ArgumentError(None, f"there is no command {quoted(value)}: {self._advice}")
        super()._check_value(action, value)

    def _refuse_options(self, words: Iterable[str]) -> None:
        for word in words:
            name = word.partition("=")[0] if word.startswith("--") else word[:2]
            if name.startswith("-") and name not in ("-", "--") and not self.has(name, is_beginning=True):
                raise InvalidArgument(self.refusal(name))

    def _unknown_letters(self, words: Iterable[str]) -> Iterator[str]:
        """Return options that stand in one word with others and are not here."""
        for word in words:
            for letter in word[1:] if word.startswith("-") and not word.startswith("--") else "":
                action = self._option_string_actions.get(f"-{letter}")
                if action is None:
                    yield f"-{letter}"
                elif action.nargs != 0:
                    break  # what follows is its value

    def has(self, name: str, *, is_beginning: bool = False) -> bool:
        """Whether there is such an option here, or one that begins so."""
        return any(
            each == name or (is_beginning and name.startswith("--") and each.startswith(name))
            for each, action in self._option_string_actions.items()
            if not isinstance(action, _Refused)
        )

    def refusal(self, name: str) -> str:
        """Return what to say of an option that is not here."""
        instead = _INSTEAD_OF.get((self.prog, name)) or _INSTEAD.get(name)
        if instead is not None:
            return f"there is no option {name} here: {instead}"
        owner = next((each.prog for each in self.commands.values() if each.has(name)), None)
        if owner is None:
            return f"there is no option {quoted(name)} here: {self._advice}"
        if self._has_commands:
            return f"the option {name} stands behind a command, as in '{owner} {name}'"
        return f"there is no option {name} here: it is one of '{owner}'"


class _Refused(argparse.Action):
    """An option that is not here, among others in one word too; with or without a value."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        assert isinstance(parser, Parser)
        raise InvalidArgument(parser.refusal(option_string or ""))


def _sentence(error: argparse.ArgumentError, words: Sequence[str]) -> str:
    """Return what is wrong, with the option as it was typed."""
    names = [name for name in (error.argument_name or "").split("/") if name.startswith("-")]
    typed = next((name for name in names if any(word.startswith(name) for word in words)), "/".join(names))
    return f"{typed}: {error.message}" if typed else error.message


def refuse_others(commands: Mapping[str, Parser]) -> None:
    """Let parsers know of each other, and those of commands that show packets of what others have and they have not."""
    foreign = {name for name in _INSTEAD if not name.startswith("--")}
    letters = foreign | {
        name
        for each in map(commands.__getitem__, _OF_PACKETS)
        for action in each._actions
        for name in action.option_strings
        if not name.startswith("--")
    }
    for name, parser in commands.items():
        parser.commands = commands
        if name in _OF_PACKETS:
            for letter in sorted(letters):
                if not parser.has(letter):
                    parser.add_argument(
                        letter, action=_Refused, nargs="?", dest=argparse.SUPPRESS, help=argparse.SUPPRESS
                    )


# Values -----------------------------------------------------------------------------------------------------------


def whole_number(text: str) -> int:
    """Return what was typed as a number.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    return _number(int, text, "a whole number")


def decimal(text: str) -> float:
    """Return what was typed as a number, which may have a fraction.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    return _number(float, text, "a number")


def _number(kind: Callable[[str], _Number], text: str, what: str) -> _Number:
    try:
        return kind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from error
