"""The sentences of an extcap program: what there is, and what can be set, as Wireshark reads them. Pure."""

import re

from capd_protocol.text import escaped

#: Wireshark takes a closing brace for the end of a value, wherever it stands.
_BRACES = str.maketrans("{}", "()")
#: What stands for itself in the name of an interface: Wireshark makes names of FIFOs and of preferences of it.
_PLAIN = re.compile(r"[A-Za-z0-9_.,:/@+~-]")
_ENCODED = re.compile(r"%([0-9A-F]{2})")

Value = str | int | bool


def sentence(word: str, **fields: Value | None) -> str:
    """Return a sentence; what is None is left out of it.

    Args:
        word: what it is about, such as ``interface``.
        **fields: what it says of that.
    """
    said = (f"{{{name}={_shown(value)}}}" for name, value in fields.items() if value is not None)
    return f"{word} {''.join(said)}"


def _shown(value: Value) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return escaped(value).translate(_BRACES)


def encoded(name: str) -> str:
    """Return a name as a value that a sentence can have, and that comes back as it is: what could not has a ``%``."""
    return "".join(
        each if _PLAIN.fullmatch(each) else "".join(f"%{byte:02X}" for byte in each.encode("utf-8", "surrogatepass"))
        for each in name
    )


def decoded(value: str) -> str:
    """Return the name that a value stands for."""
    data = _ENCODED.sub(lambda found: chr(int(found[1], 16)), value)
    try:
        return data.encode("latin-1").decode("utf-8", "surrogatepass")
    except UnicodeError:  # it is none of ours
        return value
