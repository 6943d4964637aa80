"""The words of display filters, as the scanner of Wireshark 4.0 tells them apart. Pure."""

import ipaddress
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from capd_protocol.display_filters.faults import FilterFault, Place


class Token(NamedTuple):
    """A word.

    Attributes:
        kind: an operator or a bracket by its first spelling, such as ``==`` and ``(``; ``word``: a name or a literal;
            ``literal``: never a name; ``field``: always one; ``string``; ``character``; ``range``: what stands in a
            slice between commas; ``layer``: a number behind ``#``; ``end``.
        text: as it is written.
        place: where.
        value: of a string its bytes, of a character its number; of a word what it means: without the character that
            makes it a literal or a field.
    """

    kind: str
    text: str
    place: Place
    value: str | bytes | int = ""


#: Spellings of operators; those of letters are whole words.
_OPERATORS: Final = {
    "==": ("==", "eq", "any_eq"),
    "!=": ("!=", "ne", "all_ne"),
    "===": ("===", "all_eq"),
    "!==": ("!==", "any_ne", "~="),
    ">=": (">=", "ge"),
    "<=": ("<=", "le"),
    ">": (">", "gt"),
    "<": ("<", "lt"),
    "contains": ("contains",),
    "matches": ("matches", "~"),
    "!": ("!", "not"),
    "&&": ("&&", "and"),
    "||": ("||", "or"),
    "in": ("in",),
    "any": ("any",),
    "all": ("all",),
    "&": ("&", "bitwise_and"),
    "..": ("..",),
    **{each: (each,) for each in "(),{}$+-*/%#[]"},
}
_KINDS = {spelling: kind for kind, spellings in _OPERATORS.items() for spelling in spellings}
_SYMBOLS = re.compile("|".join(map(re.escape, sorted((s for s in _KINDS if not s[0].isalpha()), key=len)[::-1])))

_BLANK = re.compile(r"[ \t\n\r]*")
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9][0-9]|[0-9])"
_BYTE = "[0-9A-Fa-f]{2}"
#: What words look like. Of several the longest counts; of those as long as each other the first.
_WORDS: Final = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("literal", rf"{_BYTE}(?::{_BYTE})+"),
        ("literal", rf"(?:{_OCTET}\.){{3}}{_OCTET}(?:/[0-9]{{1,2}})?"),
        ("word", _NAME),
        ("marked literal", rf":(?:{_BYTE}(?:(?::{_BYTE})+|(?:-{_BYTE})+|(?:\.{_BYTE})+)|[0-9A-Fa-f]+)"),
        ("field", rf"\.{_NAME}"),
    )
)
_LIKE_IPV6 = re.compile(rf"[0-9A-Fa-f:]*:(?:(?:{_OCTET}\.){{3}}{_OCTET}|[0-9A-Fa-f:]*)")
_PREFIX = re.compile(r"/[0-9]{1,3}")
_LAYER = re.compile("[0-9]+")
_RANGE = re.compile(r"[^],]+")
_ESCAPES: Final = {
    "a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34,
}  # fmt: skip
_ESCAPE = re.compile(
    r"\\(?:(?P<octal>[0-7]{1,3})|x(?P<hex>[0-9A-Fa-f]{1,2})|u(?P<short>[0-9A-Fa-f]{4})|U(?P<long>[0-9A-Fa-f]{8})|(?P<one>.))",
    re.DOTALL,
)
_MOST_UNICODE = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)


def _ipv6_end(text: str, at: int) -> int:
    """Return where an IPv6 address ends, with a prefix length or without; ``at``: there is none."""
    found = _LIKE_IPV6.match(text, at)
    end = found.end() if found else at
    while end > at + 1:
        try:
            ipaddress.IPv6Address(text[at:end])
        except ValueError:
            end -= 1
            continue
        prefix = _PREFIX.match(text, end)
        return prefix.end() if prefix else end
    return at


def _word(text: str, at: int) -> Token | None:
    """Return the name, the literal or the operator of letters that begins here."""
    kind, end = "literal", _ipv6_end(text, at)
    for each, pattern in _WORDS:
        found = pattern.match(text, at)
        if found and found.end() > end:
            kind, end = each, found.end()
    if end == at:
        return None
    written, place = text[at:end], Place(at, end)
    if kind == "word" and written in _KINDS:
        return Token(_KINDS[written], written, place)
    if kind in ("marked literal", "field"):
        return Token(kind.removeprefix("marked "), written, place, written[1:])
    return Token(kind, written, place, written)


def _escaped(text: str, at: int, place: Place) -> tuple[bytes, int]:
    """Return what a backslash and what is behind it mean, and where that ends."""
    found = _ESCAPE.match(text, at)
    if found is None:
        raise FilterFault(place, "A quote does not end")
    octal, hexadecimal, one = found["octal"], found["hex"], found["one"]
    code = found["short"] or found["long"]
    if octal is not None:
        number = int(octal, 8)
        if number > 255:  # a byte
            raise FilterFault(Place(at, found.end()), f"{found[0]} is larger than 255")
        return bytes([number]), found.end()
    if hexadecimal is not None:
        return bytes([int(hexadecimal, 16)]), found.end()
    if code is not None:
        number = int(code, 16)
        if number > _MOST_UNICODE or number in _SURROGATES:
            raise FilterFault(Place(at, found.end()), f"{found[0]} is no character")
        return chr(number).encode(), found.end()
    if one not in _ESCAPES:
        raise FilterFault(Place(at, found.end()), "There is no such escape sequence")
    return bytes([_ESCAPES[one]]), found.end()


def _quoted(text: str, at: int, begin: int, quote: str, is_raw: bool) -> tuple[bytes, int]:
    """Return what stands in quotes, as bytes, and where they end.

    Args:
        text: of the filter.
        at: where the first character between the quotes stands.
        begin: where it all begins.
        quote: which ones.
        is_raw: whether backslashes stay, and only keep a quote from ending it.
    """
    value = bytearray()
    while at < len(text):
        if text[at] == quote:
            return bytes(value), at + 1
        if text[at] != "\\":
            end = min(each for each in (text.find(quote, at), text.find("\\", at), len(text)) if each >= 0)
            value += text[at:end].encode()
        elif is_raw:
            end = at + 2
            value += text[at:end].encode()
        else:
            escaped, end = _escaped(text, at, Place(begin, len(text)))
            value += escaped
        at = end
    raise FilterFault(Place(begin, len(text)), f"The closing {quote} is missing")


def _character(text: str, at: int) -> Token:
    value, end = _quoted(text, at + 1, at, "'", is_raw=False)
    if len(value) != 1:
        raise FilterFault(Place(at, end), "A character stands between single quotes, and only one")
    return Token("character", text[at:end], Place(at, end), value[0])


def _in_brackets(text: str, at: int) -> Iterator[Token]:
    """Give what stands in a slice behind its opening bracket, and the closing one."""
    while at < len(text):
        found = _RANGE.match(text, at)
        if found is None:
            yield Token(text[at], text[at], Place(at, at + 1))
            if text[at] == "]":
                return
            at += 1
        else:
            yield Token("range", found[0], Place(at, found.end()), found[0])
            at = found.end()
    raise FilterFault(Place(at, at), "The closing ] of a slice is missing")


def tokens(text: str) -> Iterator[Token]:
    """Give the words of a filter; the last one is ``end``.

    Raises:
        FilterFault: there is something that is no word.
    """
    at = 0
    while (at := _end_of(_BLANK, text, at)) < len(text):
        if text[at] == '"' or text[at : at + 2] in ('r"', 'R"'):
            begin = at
            is_raw = text[at] != '"'
            value, at = _quoted(text, at + 1 + is_raw, begin, '"', is_raw)
            yield Token("string", text[begin:at], Place(begin, at), value)
            continue
        if text[at] == "'":
            token = _character(text, at)
        else:
            symbol = _SYMBOLS.match(text, at)
            word = _word(text, at)
            if word is not None and (symbol is None or word.place.end > symbol.end()):
                token = word
            elif symbol is not None:
                token = Token(_KINDS[symbol[0]], symbol[0], Place(at, symbol.end()))
            else:
                raise FilterFault(Place(at, at + 1), "This character means nothing here")
        yield token
        at = token.place.end
        if token.kind == "#" and text[at : at + 1] != "[":
            found = _LAYER.match(text, at)
            if found is None:
                raise FilterFault(Place(at, at + 1), "Behind # comes the number of a layer, or numbers in brackets")
            yield Token("layer", found[0], Place(at, found.end()), found[0])
            at = found.end()
        elif token.kind == "[":
            for token in _in_brackets(text, at):
                yield token
            at = token.place.end
    yield Token("end", "", Place(len(text), len(text)))


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at
