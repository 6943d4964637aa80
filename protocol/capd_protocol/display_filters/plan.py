"""What a display filter asks of packets, checked: values with their types, and tests of them. Pure."""

from typing import Literal, NamedTuple

from capd_protocol.display_filters.syntax import ArithmeticOperator, Range
from capd_protocol.fields.types import FieldType


class FieldValue(NamedTuple):
    """The values of a field, or the bytes of a protocol.

    Attributes:
        name: of the field or protocol.
        type: of its values.
        layers: which of its protocol's layers; empty: all.
    """

    name: str
    type: FieldType
    layers: tuple[Range, ...] = ()


class Constant(NamedTuple):
    """A value that was written.

    Attributes:
        type: which one it is of.
        value: a number; of a time, nanoseconds; else bytes.
        prefix_bits: of an address, how many bits of it count.
    """

    type: FieldType
    value: int | bytes
    prefix_bits: int = 0


class SliceValue(NamedTuple):
    """Some bytes of values."""

    of: "Value"
    ranges: tuple[Range, ...]

    @property
    def type(self) -> FieldType:
        """Bytes."""
        return FieldType.BYTES


class FunctionValue(NamedTuple):
    """What a function makes of values."""

    function: str
    arguments: tuple["Value", ...]
    type: FieldType


class Calculated(NamedTuple):
    """What is worked out of two values; without the left one, the opposite of the right one."""

    operator: ArithmeticOperator
    left: "Value | None"
    right: "Value"
    type: FieldType


Value = FieldValue | Constant | SliceValue | FunctionValue | Calculated


class Exists(NamedTuple):
    """A packet has such a value; where ``not_zero``, one that is not 0."""

    value: Value
    not_zero: bool = False


class Compared(NamedTuple):
    """Two values compare.

    Attributes:
        operator: how.
        needs_all: whether all of the values must, or one.
        left: values.
        right: others; a packet that has none of either passes no comparison.
    """

    operator: Literal["==", "!=", ">", ">=", "<", "<=", "contains"]
    needs_all: bool
    left: Value
    right: Value


class Matched(NamedTuple):
    """A regular expression is found in values: PCRE2's, without regard to capitals."""

    pattern: bytes
    needs_all: bool
    left: Value


class Contained(NamedTuple):
    """A value is one of several, or lies in one of several ranges."""

    needs_all: bool
    left: Value
    values: tuple[Value, ...]
    ranges: tuple[tuple[Constant, Constant], ...]


class Opposite(NamedTuple):
    """What holds where a test does not."""

    of: "Condition"


class AllOf(NamedTuple):
    """What holds where all tests do."""

    parts: tuple["Condition", ...]


class AnyOf(NamedTuple):
    """What holds where one test does."""

    parts: tuple["Condition", ...]


Condition = Exists | Compared | Matched | Contained | Opposite | AllOf | AnyOf
