"""Line numbers of keys in a TOML document, which tomllib does not give. Pure.

Follows tables, arrays of tables and plain keys, and steps over strings and arrays of several lines. What is written
in other ways (dotted keys, inline tables) is found at the line of the table or key that holds it.
"""

import re
from functools import lru_cache

Key = tuple[str | int, ...]

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""\s*([A-Za-z0-9_-]+|"[^"]*"|'[^']*')\s*=(.*)""")
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")
#: What is not to be searched for brackets: comments and strings within one line.
_OPAQUE = re.compile(r"""#.*|"(?:\\.|[^"\\])*"|'[^']*'""")


def line_of(document: str, key: Key) -> int:
    """Return the line, from 1, of a key, or of the nearest table or key that holds it."""
    lines = _lines(document)
    while key and key not in lines:
        key = key[:-1]
    return lines.get(key, 1)


@lru_cache(maxsize=1)  # each fault of a document asks
def _lines(document: str) -> dict[Key, int]:
    found: dict[Key, int] = {}
    counts: dict[Key, int] = {}
    table: Key = ()
    closing, depth = "", 0
    for number, line in enumerate(document.splitlines(), 1):
        if closing:  # within a string of several lines
            closing = "" if closing in line else closing
            continue
        value = line
        if depth <= 0:
            if header := _HEADER.match(line):
                table = _table(header, counts)
                found.setdefault(table, number)
                if header[1] == "[[":
                    found.setdefault(table[:-1], number)  # the array itself begins with its first table
                continue
            if key := _KEY.match(line):
                found.setdefault((*table, _bare(key[1])), number)
                value = key[2]
                depth = 0
        closing = next((quotes for quotes in ('"""', "'''") if value.count(quotes) % 2), "")
        visible = _OPAQUE.sub("", value)
        depth += visible.count("[") - visible.count("]")
    return found


def _table(header: re.Match[str], counts: dict[Key, int]) -> Key:
    parts = [_bare(part) for part in _PART.findall(header[2])]
    path: Key = ()
    for part in parts[:-1]:
        path = (*path, part)
        if path in counts:  # within the last element of an array of tables
            path = (*path, counts[path] - 1)
    path = (*path, parts[-1])
    if header[1] == "[[":
        counts[path] = counts.get(path, 0) + 1
        return (*path, counts[path] - 1)
    return path


def _bare(part: str) -> str:
    return part.strip("\"'")
