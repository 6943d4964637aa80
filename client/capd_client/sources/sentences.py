"""The language of extcap programs: sentences that say what there is, and the options that are made from these. Pure."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

#: ``arg {number=0}{call=--delay}…``; a closing brace within a value has a backslash before it. One that is not closed
#: takes the rest of the line, so that no line is looked at several times.
_FIELD = re.compile(r"\{([^={}]+)=((?:\\.|[^}\\])*+)(\}|\\?$)")
_ESCAPED = re.compile(r"\\([{}\\])")
#: More are not read. Chosen: many times what a program has.
_MAX_SENTENCES = 10_000
#: Of a selector's values, in a message. Chosen: it stays readable.
_SHOWN_VALUES = 8

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


class Sentence(NamedTuple):
    """A line that a program has written.

    Attributes:
        word: what it is about, such as ``interface``.
        fields: what it says of that; as Wireshark takes them, with backslashes.
    """

    word: str
    fields: dict[str, str]


class DataLink(NamedTuple):
    """A link-layer type of an interface.

    Attributes:
        dlt: its ``DLT_`` number.
        name: the program's for it.
        display: for people.
    """

    dlt: int
    name: str
    display: str


class Option(NamedTuple):
    """What can be set for an interface.

    Attributes:
        call: what stands before its value in the program's arguments, such as ``--delay``.
        type: as the program says.
        default: what it is without a user; None: nothing is passed then.
        is_required: it takes one.
        least: a number is not below this; None: no limit is known.
        most: and not above this.
        values: what it may be; empty: anything of its type.
    """

    call: str
    type: str
    default: str | None
    is_required: bool
    least: float | None
    most: float | None
    values: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return what users call it."""
        return self.call.lstrip("-")

    @property
    def form(self) -> str:
        """Return how it is written."""
        if self.type == "boolflag":
            return self.name
        if self.values:
            more = "|…" if len(self.values) > _SHOWN_VALUES else ""
            return f"{self.name}={'|'.join(self.values[:_SHOWN_VALUES])}{more}"
        limits = "" if self.least is None or self.most is None else f" ({self.least:g} to {self.most:g})"
        return f"{self.name}={_PLACEHOLDERS.get(self.type, 'TEXT')}{limits}"


class WrongOptionError(ValueError):
    """An option that there is not, that is not of its type, or that is missing."""


def sentences_of(output: bytes) -> list[Sentence]:
    """Return what a program has said; what is no sentence is left out."""
    found: list[Sentence] = []
    for line in output.decode("utf-8", "replace").splitlines():
        word, _, rest = line.strip().partition(" ")
        fields = {key: value for key, value, closed in _FIELD.findall(rest) if closed == "}"}
        if fields and len(found) < _MAX_SENTENCES:
            found.append(Sentence(word, fields))
    return found


def shown(value: str) -> str:
    """Return a value as people read it."""
    return _ESCAPED.sub(r"\1", value)


def interfaces_of(sentences: Sequence[Sentence]) -> Iterator[tuple[str, str]]:
    """Give the interfaces that there are: each one's name, and what it is."""
    for each in sentences:
        if each.word == "interface" and (name := each.fields.get("value")):
            yield name, shown(each.fields.get("display", ""))


def data_links_of(sentences: Sequence[Sentence]) -> Iterator[DataLink]:
    """Give the link-layer types that there are."""
    for each in sentences:
        number = each.fields.get("number", "")
        if each.word == "dlt" and _WHOLE.fullmatch(number):
            name = each.fields.get("name", "")
            yield DataLink(int(number), name, shown(each.fields.get("display", name)))


def options_of(sentences: Sequence[Sentence]) -> list[Option]:
    """Return what can be set, in the program's order."""
    values: dict[str, list[str]] = {}
    for each in sentences:
        if each.word == "value" and (value := each.fields.get("value")) is not None:
            values.setdefault(each.fields.get("arg", ""), []).append(value)
    return [
        _option(each.fields, values.get(each.fields.get("number", ""), []))
        for each in sentences
        if each.word == "arg" and each.fields.get("call")
    ]


def _option(fields: dict[str, str], values: Sequence[str]) -> Option:
    kind = fields.get("type", "string").lower()
    least, comma, most = fields.get("range", "").partition(",")
    return Option(
        call=fields["call"],
        type=kind,
        default=None if kind in _OF_OWN_DEFAULT else fields.get("default") or None,
        is_required=fields.get("required") == "true",
        least=float(least) if comma and _NUMBER.fullmatch(least) else None,
        most=float(most) if comma and _NUMBER.fullmatch(most) else None,
        values=tuple(values) if kind in _OF_VALUES else (),
    )


# A user's options ----------------------------------------------------------------------------------------------------

_OF_VALUES = ("selector", "radio", "multicheck")
#: Their defaults are what a window shows at first; a program that is not given one has its own.
_OF_OWN_DEFAULT = ("selector", "editselector", "multicheck")
#: What stands for a value; what is not here is text.
_PLACEHOLDERS = {
    **dict.fromkeys(("integer", "unsigned", "long", "double"), "NUMBER"),
    "timestamp": "SECONDS",
    "boolean": "true|false",
    "fileselect": "FILE",
}
#: What a type's values look like, and are; what is not here may be any text.
_FORMS = {
    "integer": (_WHOLE, "a whole number"),
    "long": (_WHOLE, "a whole number"),
    "unsigned": (re.compile(r"\+?[0-9]{1,18}"), "a whole number from 0"),
    "timestamp": (re.compile(r"[0-9]{1,18}"), "seconds since 1970"),
    "double": (_NUMBER, "a number"),
    "boolean": (re.compile("true|false"), "true or false"),
    "boolflag": (re.compile("true|false"), "given alone, or true or false"),
}


def split(text: str) -> tuple[str, list[tuple[str, str | None]]]:
    """Return the name of an interface, and the options behind it: ``randpkt,count=5,all-random``.

    A comma within a name or a value is written twice.
    """
    name, *rest = (each.replace("\0", ",") for each in text.replace(",,", "\0").split(","))
    options: list[tuple[str, str | None]] = []
    for each in rest:
        key, equals, value = each.partition("=")
        options.append((key, value if equals else None))
    return name, options


def arguments_of(options: Sequence[Option], given: Sequence[tuple[str, str | None]]) -> list[str]:
    """Return the arguments of a program for what a user has set, and defaults for the rest, as Wireshark passes them.

    Raises:
        WrongOptionError: something given is not possible, or something is missing.
    """
    known = {each.name: each for each in options}
    chosen: dict[str, str] = {}
    for name, value in given:
        option = known.get(name)
        if option is None:
            raise WrongOptionError(f"there is no option {name!r:.80}; there {_there_are(options)}")
        words = "true" if value is None and option.type == "boolflag" else value
        if not words:
            raise WrongOptionError(f"{name} has no value: write {option.form}")
        if name in chosen and option.type != "multicheck":
            raise WrongOptionError(f"{name} is given twice")
        for each in words.split(",") if option.type == "multicheck" else [words]:
            _check(option, each)
        chosen[name] = f"{chosen[name]},{words}" if name in chosen else words
    missing = [each for each in options if each.is_required and each.name not in chosen and each.default is None]
    if missing:
        raise WrongOptionError(f"{missing[0].name} is missing: write {', '.join(each.form for each in missing)}")
    return [word for each in options for word in _words(each, chosen.get(each.name, each.default))]


def _there_are(options: Sequence[Option]) -> str:
    return "are " + ", ".join(each.form for each in options) if options else "is none"


def _check(option: Option, value: str) -> None:
    form, what = _FORMS.get(option.type, (None, ""))
    if form is not None and not form.fullmatch(value):
        raise WrongOptionError(f"{option.name}={value!r:.80} is not {what}")
    if option.values and value not in option.values:
        raise WrongOptionError(f"{option.name}={value!r:.80} is none of {', '.join(option.values)}")
    if form in (_WHOLE, _NUMBER) or option.type == "unsigned":
        number = float(value)
        if (option.least is not None and number < option.least) or (option.most is not None and number > option.most):
            raise WrongOptionError(f"{option.name}={value} is not possible: write {option.form}")


def _words(option: Option, value: str | None) -> list[str]:
    if option.type == "boolflag":
        return [option.call] if value == "true" else []
    return [] if value is None else [option.call, value]
