"""The parts of display filters, as they are written: what the parser makes, and what is checked then. Pure."""

from typing import Literal, NamedTuple

from capd_protocol.display_filters.faults import Place

#: ``==`` and ``!==`` hold where any values are (un)equal, ``===`` and ``!=`` where all are.
ComparisonOperator = Literal["==", "!=", "===", "!==", ">", ">=", "<", "<=", "contains", "matches"]
ArithmeticOperator = Literal["+", "-", "*", "/", "%", "&"]
#: Of several values, how many must fulfil a comparison; empty: as its operator says.
Quantifier = Literal["", "any", "all"]


class Range(NamedTuple):
    """Some bytes, or layers.

    Attributes:
        begin: the first one's number; of bytes from 0, and negative ones from the end.
        size: how many, or None: up to the end.
        end: instead of ``size``, the last one's number.
    """

    begin: int
    size: int | None = None
    end: int | None = None


class Word(NamedTuple):
    """A name or a literal.

    Attributes:
        text: without what marks it.
        kind: ``word``, ``literal`` or ``field``, as of tokens.
        layers: which of the layers of its protocol, from 1; empty: all.
        place: where.
    """

    text: str
    kind: str
    layers: tuple[Range, ...]
    place: Place


class Text(NamedTuple):
    """A string in quotes; ``written`` is how it stands there."""

    value: bytes
    written: str
    place: Place


class Character(NamedTuple):
    """A character in single quotes, which is a number."""

    value: int
    written: str
    place: Place


class Slice(NamedTuple):
    """Some bytes of a value."""

    of: "Entity"
    ranges: tuple[Range, ...]
    place: Place


class Call(NamedTuple):
    """A function of values."""

    function: str
    arguments: tuple["Expression", ...]
    place: Place


class Negative(NamedTuple):
    """A value with the opposite sign."""

    of: "Entity"
    place: Place


class Arithmetic(NamedTuple):
    """Two values, and what is worked out of them."""

    operator: ArithmeticOperator
    left: "Expression"
    right: "Expression"
    place: Place


class Comparison(NamedTuple):
    """A test of two values; ``place`` is that of the operator."""

    operator: ComparisonOperator
    left: "Expression"
    right: "Expression"
    quantifier: Quantifier
    place: Place


class Membership(NamedTuple):
    """Whether a value is in a set of values, and of pairs of values that it may lie between."""

    of: "Entity"
    elements: tuple[tuple["Expression", "Expression | None"], ...]
    quantifier: Quantifier
    place: Place


class Not(NamedTuple):
    """What holds where this does not."""

    of: "Test"


class And(NamedTuple):
    """What holds where all of them do."""

    parts: tuple["Test", ...]


class Or(NamedTuple):
    """What holds where one of them does."""

    parts: tuple["Test", ...]


Entity = Word | Text | Character | Slice | Call
Expression = Entity | Negative | Arithmetic
#: An expression by itself is there, or, worked out of others, not zero.
Test = Expression | Comparison | Membership | Not | And | Or


def place_of(part: Expression) -> Place:
    """Return where an expression stands."""
    if isinstance(part, Arithmetic):
        return Place(place_of(part.left).begin, place_of(part.right).end)
    return part.place
