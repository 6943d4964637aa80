"""The grammar of display filters: words in, parts out, by recursive descent. Pure.

From loose to tight: ``||``, ``&&``, ``!``, comparisons, ``&``, ``+`` and ``-``, ``*`` and ``/`` and ``%``, signs.
"""

import re
from typing import Final, cast

from capd_protocol.display_filters.faults import FilterFault, Place
from capd_protocol.display_filters.scanning import Token, tokens
from capd_protocol.display_filters.syntax import (
    And,
    Arithmetic,
    ArithmeticOperator,
    Call,
    Character,
    Comparison,
    ComparisonOperator,
    Entity,
    Expression,
    Membership,
    Negative,
    Not,
    Or,
    Quantifier,
    Range,
    Slice,
    Test,
    Text,
    Word,
    place_of,
)

#: Characters of a filter. Chosen: far more than people write; of a generated list of addresses some thousand.
MAX_CHARACTERS: Final = 65536
#: Brackets and signs in one another. Chosen: far more than people write, and what Python's own stack holds.
MAX_DEPTH: Final = 50

_COMPARISONS: Final = ("==", "!=", "===", "!==", ">", ">=", "<", "<=")
#: From loose to tight.
_ARITHMETIC: Final = (("&",), ("+", "-"), ("*", "/", "%"))
_NUMBER = r"\s*[+-]?(?:0[xX][0-9A-Fa-f]+|[0-9]+)\s*"
_RANGE = re.compile(rf"(?P<begin>{_NUMBER})?(?:(?P<colon>:)(?P<size>{_NUMBER})?|-(?P<end>{_NUMBER}))?")
#: Bytes and layers have smaller numbers.
_MOST = 2**31


def _number(text: str, place: Place) -> int:
    text = text.strip()
    digits = text.lstrip("+-")
    # As strtol(3) reads it.
    base = 16 if digits[:2].lower() == "0x" else 8 if digits[:1] == "0" else 10
    try:
        number = int(text, base)
    except ValueError:
        number = _MOST
    if abs(number) >= _MOST:
        raise FilterFault(place, "This is no number of bytes")
    return number


def _range(token: Token) -> Range:
    found = _RANGE.fullmatch(token.text)
    if found is None or (found["begin"] is None and not found["colon"]):
        raise FilterFault(token.place, "A slice is [first:size], [first-last], [first], [:size] or [first:]")
    begin = _number(found["begin"] or "0", token.place)
    if found["size"]:
        size = _number(found["size"], token.place)
        if size <= 0:
            raise FilterFault(token.place, "A slice has one byte at least")
        return Range(begin, size)
    if found["end"]:
        end = _number(found["end"], token.place)
        if begin >= end or (begin < 0) != (end < 0):
            raise FilterFault(token.place, "The first byte of a slice comes before its last one, on the same side of 0")
        return Range(begin, None, end)
    return Range(begin, None if found["colon"] else 1)


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = list(tokens(text))
        self._at = 0
        self._depth = 0

    @property
    def next(self) -> Token:
        return self._tokens[self._at]

    def take(self, *kinds: str) -> Token | None:
        """Take the next word, if it is of one of these kinds."""
        token = self.next
        if token.kind not in kinds:
            return None
        self._at += 1
        return token

    def expect(self, kind: str) -> Token:
        token = self.take(kind)
        if token is None:
            raise self.unexpected(f"{kind} was expected here")
        return token

    def unexpected(self, expected: str) -> FilterFault:
        if self.next.kind == "end":
            return FilterFault(self.next.place, f"The filter ends, and {expected}")
        return FilterFault(self.next.place, expected[0].upper() + expected[1:])

    def deeper(self, token: Token) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise FilterFault(token.place, f"More than {MAX_DEPTH} brackets and operators lie in one another here")

    def filter(self) -> Test:
        found = self.any_of()
        if self.next.kind != "end":
            raise self.unexpected("an operator was expected here, or the end")
        return found

    def any_of(self) -> Test:
        parts = [self.all_of()]
        while self.take("||"):
            parts.append(self.all_of())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def all_of(self) -> Test:
        parts = [self.negated()]
        while self.take("&&"):
            parts.append(self.negated())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def negated(self) -> Test:
        token = self.take("!")
        if token is None:
            return self.test()
        self.deeper(token)
        found = Not(self.negated())
        self._depth -= 1
        return found

    def test(self) -> Test:
        token = self.take("(")
        if token is not None:
            self.deeper(token)
            found = self.any_of()
            self.expect(")")
            self._depth -= 1
            return found
        quantifier = self.take("any", "all")
        begin = self._at
        left = self.expression()
        test = self.relation(left, begin, cast("Quantifier", quantifier.kind if quantifier else ""))
        if test is not None:
            return test
        if quantifier is not None:
            raise self.unexpected("a comparison was expected here")
        return left

    def relation(self, left: Expression, begin: int, quantifier: Quantifier) -> Test | None:
        """Return the test whose left side this is; None: it is none.

        Args:
            left: an expression.
            begin: where it begins.
            quantifier: what stands before it.
        """
        operator = self.take(*_COMPARISONS)
        if operator is not None:
            return self.comparison(left, operator, quantifier)
        # These are of single values.
        is_entity = not isinstance(left, Negative | Arithmetic) and self._tokens[begin].kind not in ("+", "-", "{")
        if not is_entity:
            return None
        entity = cast("Entity", left)
        operator = self.take("contains", "matches")
        if operator is not None:
            kind = cast("ComparisonOperator", operator.kind)
            return Comparison(kind, entity, self.entity(), quantifier, operator.place)
        following = self._tokens[self._at + 1].kind if self.next.kind == "!" else ""
        is_not = self.take("!") if following == "in" else None
        operator = self.take("in")
        if operator is None:
            return None
        found = Membership(entity, self.set(), "" if is_not else quantifier, operator.place)
        return Not(found) if is_not else found

    def comparison(self, left: Expression, operator: Token, quantifier: Quantifier) -> Test:
        """Return a comparison; of a chain, all of its links, of which the first one has the quantifier."""
        self.deeper(operator)
        right = self.expression()
        test = Comparison(cast("ComparisonOperator", operator.kind), left, right, quantifier, operator.place)
        another = self.take(*_COMPARISONS)
        found = test if another is None else And((test, self.comparison(right, another, "")))
        self._depth -= 1
        return found

    def set(self) -> tuple[tuple[Expression, Expression | None], ...]:
        self.expect("{")
        elements = [self.element()]
        while self.take(","):
            elements.append(self.element())
        self.expect("}")
        return tuple(elements)

    def element(self) -> tuple[Expression, Expression | None]:
        low = self.signed()
        return low, self.signed() if self.take("..") else None

    def expression(self, level: int = 0) -> Expression:
        if level == len(_ARITHMETIC):
            token = self.take("{")
            if token is None:
                return self.signed()
            self.deeper(token)
            found = self.expression()
            self.expect("}")
            self._depth -= 1
            return found
        depth, found = self._depth, self.expression(level + 1)
        while operator := self.take(*_ARITHMETIC[level]):
            self.deeper(operator)
            right = self.expression(level + 1)
            found = Arithmetic(cast("ArithmeticOperator", operator.kind), found, right, operator.place)
        self._depth = depth
        return found

    def signed(self) -> Expression:
        minus = self.take("-")
        if minus is not None:
            of = self.entity()
            return Negative(of, Place(minus.place.begin, place_of(of).end))
        self.take("+")
        return self.entity()

    def entity(self) -> Entity:
        found = self.atom()
        while self.take("["):
            ranges = self.ranges()
            end = self._tokens[self._at - 1].place.end
            found = Slice(found, ranges, Place(place_of(found).begin, end))
        return found

    def ranges(self) -> tuple[Range, ...]:
        ranges = [_range(self.expect("range"))]
        while self.take(","):
            ranges.append(_range(self.expect("range")))
        self.expect("]")
        return tuple(ranges)

    def atom(self) -> Entity:
        token = self.take("word", "literal", "field", "string", "character")
        if token is None:
            if self.next.kind == "$":
                raise FilterFault(self.next.place, "There is no selected packet here whose fields could be meant")
            raise self.unexpected("a field, a value or a function was expected here")
        if token.kind == "string":
            return Text(cast("bytes", token.value), token.text, token.place)
        if token.kind == "character":
            return Character(cast("int", token.value), token.text, token.place)
        if token.kind == "word" and self.next.kind == "(":
            return self.call(token)
        layers: tuple[Range, ...] = ()
        if token.kind != "literal" and self.take("#"):
            number = self.take("layer")
            if number is not None:
                layers = (Range(_number(number.text, number.place), 1),)
            else:
                self.expect("[")
                layers = self.ranges()
        return Word(cast("str", token.value), token.kind, layers, token.place)

    def call(self, name: Token) -> Call:
        self.deeper(self.expect("("))
        arguments: list[Expression] = []
        if self.next.kind != ")":
            arguments.append(self.expression())
            while self.take(","):
                arguments.append(self.expression())
        end = self.expect(")")
        self._depth -= 1
        return Call(name.text, tuple(arguments), Place(name.place.begin, end.place.end))


def parsed(text: str) -> Test:
    """Return the parts of a filter.

    Raises:
        FilterFault: it is none.
    """
    if len(text) > MAX_CHARACTERS:
        raise FilterFault(
            Place(MAX_CHARACTERS, len(text)), f"A filter has {MAX_CHARACTERS} characters at most, and this {len(text)}"
        )
    return _Parser(text).filter()
