"""Display filters, checked: which fields and functions there are, what compares with what, and what literals mean.

What is allowed is what Wireshark 4.0 allows, by the same conditions. Pure.
"""

import difflib
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn

from capd_protocol.display_filters import syntax
from capd_protocol.display_filters.faults import FilterFault, Place
from capd_protocol.display_filters.literals import WIDTHS, NotOfTypeError, from_character, from_string, from_word
from capd_protocol.display_filters.plan import (
    AllOf,
    AnyOf,
    Calculated,
    Compared,
    Condition,
    Constant,
    Contained,
    Exists,
    FieldValue,
    FunctionValue,
    Matched,
    Opposite,
    SliceValue,
    Value,
)
from capd_protocol.display_filters.syntax import place_of
from capd_protocol.fields.names import named_value, value_names
from capd_protocol.fields.protocols import FRAME, PROTOCOLS
from capd_protocol.fields.registry import FIELDS
from capd_protocol.fields.types import Base, FieldType

#: Protocols of Wireshark whose names could be bytes.
LIKE_NUMBERS: Final = frozenset("a11 a21 a615a aaf acf adb bfd c1222 c15 dc dcc e100 e164 e212 fc fc00 fefd ff".split())
_NUMBERS = frozenset(WIDTHS)
_FLAG, _IPV4, _IPV6, _ETHER = FieldType.BOOLEAN, FieldType.IPV4, FieldType.IPV6, FieldType.ETHER
_TEXT, _BYTES, _PROTOCOL = FieldType.STRING, FieldType.BYTES, FieldType.PROTOCOL
_SPAN, _MOMENT = FieldType.RELATIVE_TIME, FieldType.ABSOLUTE_TIME
#: Which types can be compared, sliced, and calculated with.
_ANY = frozenset(FieldType)
_SEARCHED = frozenset((_TEXT, _BYTES, _ETHER, _PROTOCOL))
_SLICED = frozenset((_TEXT, _BYTES, _ETHER, _PROTOCOL, _IPV4, _IPV6))
_ADDED = _NUMBERS | {_SPAN}
_MASKED = _NUMBERS | {_IPV4, _IPV6, _ETHER, _BYTES}
_CALCULATED: Final = {"+": _ADDED, "-": _ADDED, "*": _NUMBERS, "/": _NUMBERS, "%": _NUMBERS, "&": _MASKED}
_COMPARED: Final = {"contains": _SEARCHED, "matches": _SEARCHED}
#: Those whose values are bytes already, where they are compared with bytes.
_ARE_BYTES = frozenset((_ETHER, _BYTES, _IPV6))
#: What string() makes text of.
_SHOWN = _NUMBERS | {_IPV4, _IPV6, _ETHER}
#: What compares with each type.
_COMPATIBLE: Final = {
    **dict.fromkeys(_NUMBERS, _NUMBERS | {_FLAG}),
    **dict.fromkeys((_ETHER, _BYTES), frozenset((_ETHER, _BYTES))),
}
#: Operators as they are worked out, and whether all values must pass.
_OPERATORS: Final[dict[str, tuple[str, bool]]] = {
    "===": ("==", True),
    "!=": ("!=", True),
    "!==": ("!=", False),
}
_PRETTY: Final = {
    _FLAG: "a flag",
    _IPV4: "an IPv4 address",
    _IPV6: "an IPv6 address",
    _ETHER: "an Ethernet address",
    _TEXT: "text",
    _BYTES: "bytes",
    _PROTOCOL: "a protocol",
    _SPAN: "a time in seconds",
    _MOMENT: "a date and time",
}


def _pretty(type_: FieldType) -> str:
    return _PRETTY.get(type_, "a number")


def _compatible(one: FieldType, other: FieldType) -> bool:
    return other in _COMPATIBLE.get(one, (one,))


def _field(name: str, layers: tuple[syntax.Range, ...]) -> FieldValue | None:
    field = FIELDS.get(name)
    if field is not None:
        # Seconds since 1970 are a number of seconds for Wireshark.
        is_epoch = field.type is _MOMENT and field.base is Base.EPOCH
        return FieldValue(name, _SPAN if is_epoch else field.type, layers)
    return FieldValue(name, _PROTOCOL, layers) if name == FRAME or name in PROTOCOLS else None


def _unknown(word: syntax.Word) -> NoReturn:
    near = tuple(difflib.get_close_matches(word.text.lower(), (*FIELDS, *PROTOCOLS, FRAME), 3, 0.7))
    offered = f"; near are {', '.join(near)}" if near else ""
    raise FilterFault(
        word.place,
        f"There is no field or protocol {word.text} here{offered}",
        unknown_field=word.text,
        near=near,
    )


_Literal = syntax.Word | syntax.Text | syntax.Character


def _must_be_no_name(part: syntax.Expression) -> None:
    """Raise where something is named that there is not, and that is no number."""
    if isinstance(part, syntax.Word) and part.kind == "word" and not part.text[0].isdigit():
        _unknown(part)


def _is_field(part: syntax.Expression) -> FieldValue | None:
    """Return the field that a word names; None: it is no word, or a literal."""
    if not isinstance(part, syntax.Word) or part.kind == "literal":
        return None
    if part.text in LIKE_NUMBERS:
        text = f"{part.text} is a protocol for Wireshark, which there is not here; write :{part.text} for bytes"
        raise FilterFault(part.place, text, unknown_field=part.text)
    found = _field(part.text, part.layers)
    if found is None and (part.kind == "field" or part.layers):
        _unknown(part)
    return found


class _Function(NamedTuple):
    """A function.

    Attributes:
        most: how many arguments it takes at the most; None: any number.
        type: of what it gives; None: that of its arguments.
        takes: of which types its arguments may be.
        of_fields: whether they must be fields, and not worked out of any.
    """

    most: int | None
    type: FieldType | None
    takes: frozenset[FieldType]
    of_fields: bool


_FUNCTIONS: Final = {
    "len": _Function(1, FieldType.UINT32, _ANY, of_fields=True),
    "count": _Function(1, FieldType.UINT32, _ANY, of_fields=True),
    "string": _Function(1, _TEXT, _SHOWN, of_fields=True),
    "upper": _Function(1, _TEXT, frozenset((_TEXT,)), of_fields=True),
    "lower": _Function(1, _TEXT, frozenset((_TEXT,)), of_fields=True),
    "max": _Function(None, None, _ANY, of_fields=False),
    "min": _Function(None, None, _ANY, of_fields=False),
    "abs": _Function(1, None, _ADDED | {_FLAG}, of_fields=False),
}


def _call(part: syntax.Call, expected: FieldType | None) -> FunctionValue:
    """Check a call.

    Args:
        part: what is called.
        expected: the type of what it is compared with; None: not known.
    """
    function = _FUNCTIONS.get(part.function)
    if function is None:
        raise FilterFault(part.place, f"There is no function {part.function}; there are {', '.join(_FUNCTIONS)}")
    count = len(part.arguments)
    if not count or (function.most is not None and count > function.most):
        least = "one argument" if function.most == 1 else "one argument at least"
        raise FilterFault(part.place, f"{part.function}() has {least}, and here {count}")
    if function.of_fields:
        values: list[Value] = []
        for each in part.arguments:
            field = _is_field(each)
            if field is None or field.type not in function.takes:
                raise FilterFault(place_of(each), _not_of_function(part.function, function))
            values.append(field)
    else:
        values = _arguments(part, function, expected)
    return FunctionValue(part.function, tuple(values), function.type or values[0].type)


def _not_of_function(name: str, function: _Function) -> str:
    kinds = {_ANY: "a field or a protocol", _SHOWN: "a field of numbers or addresses"}
    return f"{name}() is of {kinds.get(function.takes, 'a field of text')}"


def _arguments(part: syntax.Call, function: _Function, expected: FieldType | None) -> list[Value]:
    """Return arguments that are worked out, all of one type: that of the first one."""
    values: list[Value] = []
    for each in part.arguments:
        type_ = values[0].type if values else expected
        if type_ is None and isinstance(each, syntax.Word) and _is_field(each) is None:
            raise FilterFault(each.place, f"The first argument of {part.function}() has to be a field")
        value = _operand(each, type_)
        if value.type not in function.takes or (values and value.type is not values[0].type):
            first = f", and the first one {_pretty(values[0].type)}" if values else ""
            raise FilterFault(place_of(each), f"{part.function}() is not of {_pretty(value.type)} here{first}")
        values.append(value)
    return values


def _slice(part: syntax.Slice) -> SliceValue:
    of = part.of
    value: Value
    if isinstance(of, syntax.Slice):
        value = _slice(of)
    elif isinstance(of, syntax.Call):
        value = _call(of, None)
    else:
        field = _is_field(of)
        if field is None:
            _must_be_no_name(of)
            raise FilterFault(place_of(of), "Slices are of fields, protocols and functions")
        value = field
    if value.type not in _SLICED:
        raise FilterFault(place_of(of), f"This is {_pretty(value.type)}, which has no slices")
    return SliceValue(value, part.ranges)


def _as_bytes(value: Value, place: Place) -> Value:
    """Return a value's bytes, to be compared with other bytes."""
    if value.type in _ARE_BYTES:
        return value
    if value.type not in _SLICED:
        raise FilterFault(place, f"This is {_pretty(value.type)}, which is not compared with bytes")
    return SliceValue(value, (syntax.Range(0),))


def _literal(part: _Literal, type_: FieldType, field: str = "", *, is_part: bool = False) -> Constant:
    """Return what a literal means.

    Args:
        part: a word, a string or a character.
        type_: which values it is compared with.
        field: whose names of values it may be; empty: of none.
        is_part: whether part of a value will do.
    """
    try:
        if isinstance(part, syntax.Character):
            return from_character(type_, part.value)
        if isinstance(part, syntax.Text):
            return from_string(type_, part.value)
        return from_word(type_, part.text, is_part=is_part)
    except NotOfTypeError as error:
        if not isinstance(part, syntax.Character):
            name = part.value.decode(errors="replace") if isinstance(part, syntax.Text) else part.text
            named = named_value(field, name) if field else None
            if named is not None:
                return Constant(type_, named)
            if isinstance(part, syntax.Word) and part.kind == "word" and "." in name and not name[0].isdigit():
                # What looks like a field is rather one that there is not.
                _unknown(part)
        names = ", and no name of one of its values" if field and value_names(field) else ""
        raise FilterFault(place_of(part), f"This {error}{names}") from None


def _operand(part: syntax.Expression, type_: FieldType | None) -> Value:
    """Check what is calculated with.

    Args:
        part: an operand, or an operation.
        type_: of the other side, which literals are of; None: there is none, and this must not begin with a literal.
    """
    if isinstance(part, syntax.Negative):
        value = _operand(part.of, type_)
        if value.type not in _ADDED:
            raise FilterFault(part.place, f"{_pretty(value.type).capitalize()} has no sign")
        if isinstance(value, Constant):
            if type_ is None:
                raise FilterFault(part.place, "The left side of a comparison begins with a field")
            return Constant(value.type, -int(value.value))
        return Calculated("-", None, value, value.type)
    if isinstance(part, syntax.Arithmetic):
        return _calculated(part, type_)
    if isinstance(part, syntax.Call):
        return _call(part, type_)
    if isinstance(part, syntax.Slice):
        return _slice(part)
    field = _is_field(part)
    if field is not None:
        return field
    if not isinstance(part, syntax.Word):
        raise FilterFault(place_of(part), "Nothing is calculated with text")
    if type_ is None:
        _must_be_no_name(part)
        raise FilterFault(part.place, "The left side of a comparison begins with a field")
    return _literal(part, type_)


def _calculated(part: syntax.Arithmetic, type_: FieldType | None) -> Calculated:
    left = _operand(part.left, type_)
    if type_ is None and _is_constant(left):
        raise FilterFault(place_of(part.left), "The left side of a comparison begins with a field")
    right = _operand(part.right, left.type)
    for value, side in ((left, part.left), (right, part.right)):
        if value.type not in _CALCULATED[part.operator]:
            raise FilterFault(place_of(side), f"This is {_pretty(value.type)}, which has no {part.operator}")
    if not _compatible(left.type, right.type):
        raise FilterFault(
            place_of(part.right), f"{_pretty(left.type).capitalize()} and {_pretty(right.type)} do not go together"
        )
    return Calculated(part.operator, left, right, left.type)


def _is_constant(value: Value) -> bool:
    if isinstance(value, Calculated):
        return (value.left is None or _is_constant(value.left)) and _is_constant(value.right)
    return isinstance(value, Constant)


def _right(part: syntax.Expression, left: Value, first: Value, operator: str) -> tuple[Value, Value]:
    """Check the right side of a comparison; return both sides as they are compared.

    Args:
        part: the right side.
        left: the left side.
        first: what the left side begins with, which literals are of the type of.
        operator: of the comparison.
    """
    place, can = place_of(part), _COMPARED.get(operator, _ANY)
    of_bytes = isinstance(first, SliceValue)
    type_ = _BYTES if of_bytes else first.type
    field = _is_field(part)
    if isinstance(part, syntax.Word | syntax.Text | syntax.Character) and field is None:
        name = first.name if isinstance(first, FieldValue) else ""
        return left, _literal(part, type_, name, is_part=operator == "contains")
    if field is not None:
        right: Value = field
    elif isinstance(part, syntax.Slice):
        right = _slice(part)
    elif isinstance(part, syntax.Call):
        right = _call(part, type_)
    else:
        right = _operand(part, type_)
    if of_bytes and not isinstance(part, syntax.Negative | syntax.Arithmetic):
        return left, _as_bytes(right, place)
    if isinstance(right, SliceValue):
        if first is not left:
            raise FilterFault(place, "What was calculated is not compared with a slice")
        return _as_bytes(left, place), right
    if not _compatible(type_, right.type):
        raise FilterFault(place, f"{_pretty(type_).capitalize()} is not compared with {_pretty(right.type)}")
    if right.type not in can:
        raise FilterFault(place, f"{operator} is not of {_pretty(right.type)}")
    return left, right


def _left(part: syntax.Expression, operator: str, place: Place) -> Value:
    """Check the left side of a comparison."""
    if isinstance(part, syntax.Text | syntax.Character | syntax.Word):
        field = _is_field(part)
        if field is None:
            _must_be_no_name(part)
            raise FilterFault(place_of(part), "The left side of a comparison begins with a field")
        value: Value = field
    else:
        value = _operand(part, None)
    if not isinstance(value, SliceValue) and value.type not in _COMPARED.get(operator, _ANY):
        raise FilterFault(place, f"{operator} is not of {_pretty(value.type)}")
    if _has_no_field(value):
        raise FilterFault(place_of(part), "The left side of a comparison has a field")
    return value


def _has_no_field(value: Value) -> bool:
    if isinstance(value, FunctionValue):
        return all(map(_has_no_field, value.arguments))
    if isinstance(value, Calculated):
        return (value.left is None or _has_no_field(value.left)) and _has_no_field(value.right)
    return isinstance(value, Constant)


def _first(value: Value) -> Value:
    """Return what a calculated value begins with."""
    while isinstance(value, Calculated):
        value = value.right if value.left is None else value.left
    return value


def _comparison(part: syntax.Comparison, compiles: Callable[[bytes], str]) -> Condition:
    left = _left(part.left, part.operator, part.place)
    operator, needs_all = _OPERATORS.get(part.operator, (part.operator, False))
    if part.quantifier:
        needs_all = part.quantifier == "all"
    if operator == "matches":
        if not isinstance(part.right, syntax.Text):
            raise FilterFault(place_of(part.right), "A regular expression stands between double quotes")
        wrong = compiles(part.right.value)
        if wrong:
            raise FilterFault(part.right.place, f"This is no regular expression: {wrong}")
        return Matched(part.right.value, needs_all, left)
    left, right = _right(part.right, left, _first(left), operator)
    return Compared(operator, needs_all, left, right)  # type: ignore[arg-type]  # the table has no others


def _membership(part: syntax.Membership) -> Contained:
    field = _is_field(part.of)
    if field is None:
        _must_be_no_name(part.of)
        raise FilterFault(place_of(part.of), "Only a field is looked for in a set")
    values: list[Value] = []
    ranges: list[tuple[Constant, Constant]] = []
    for first, last in part.elements:
        low = _element(first, field)
        if last is None:
            values.append(low)
            continue
        high = _element(last, field)
        if not isinstance(low, Constant) or not isinstance(high, Constant):
            raise FilterFault(place_of(first), "A range in a set is of values that are written there")
        ranges.append((low, high))
    return Contained(part.quantifier == "all", field, tuple(values), tuple(ranges))


def _element(part: syntax.Expression, field: FieldValue) -> Value:
    if isinstance(part, syntax.Slice):
        raise FilterFault(part.place, "There are no slices in a set")
    return _right(part, field, field, "==")[1]


def checked(test: syntax.Test, compiles: Callable[[bytes], str]) -> Condition:
    """Return what a filter asks of packets.

    Args:
        test: the filter, as it is written.
        compiles: says of a regular expression what is wrong with it; nothing: it is one.

    Raises:
        FilterFault: it asks for what there is not, or compares what cannot be compared.
    """
    if isinstance(test, syntax.Or):
        return AnyOf(tuple(checked(each, compiles) for each in test.parts))
    if isinstance(test, syntax.And):
        return AllOf(tuple(checked(each, compiles) for each in test.parts))
    if isinstance(test, syntax.Not):
        return Opposite(checked(test.of, compiles))
    if isinstance(test, syntax.Comparison):
        return _comparison(test, compiles)
    if isinstance(test, syntax.Membership):
        return _membership(test)
    if isinstance(test, syntax.Negative | syntax.Arithmetic):
        return Exists(_operand(test, None), not_zero=True)
    if isinstance(test, syntax.Slice):
        return Exists(_slice(test))
    field = _is_field(test)
    if field is None:
        if isinstance(test, syntax.Call):
            raise FilterFault(test.place, "What a function gives is compared with something")
        _must_be_no_name(test)
        raise FilterFault(place_of(test), "A field or a protocol was expected here")
    return Exists(field)
