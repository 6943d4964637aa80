"""What Wireshark's programs say when they refuse something, or fail, as errors. Pure."""

import re
from typing import Final

from capd_client.dissection.engine.ended import Ended
from capd_client.dissection.options import Asked
from capd_client.errors import CaptureError, DisplayFilterError, EngineFailed, InvalidArgument, ReadError
from capd_protocol.text import escaped, quoted

#: Of what a program says, so much is shown.
_MOST_CHARACTERS: Final = 300
#: Lines that say nothing of what is wrong.
_NOISE: Final = re.compile(r'Running as user "|\s*\*\* \(|Capturing on |\d+ packets? captured')
_CARET: Final = re.compile(r"( *)(\^~*)\s*$")
#: It reads what was cut, as we do.
_CUT: Final = "cut short in the middle of a packet"
#: Of the file.
_FILE: Final = re.compile(
    r"damaged or corrupt|isn't a capture file|in a format TShark|not supported|can't be read|permission to read"
    r"|an error occurred while reading|less data was read",
    re.IGNORECASE,
)
#: What is refused, by what is said.
_REFUSED: Final = (
    ("preferences", re.compile(r"(?:^| )-o flag|Invalid -o|unknown preference|preference", re.IGNORECASE)),
    (
        "decode_as",
        re.compile(r"Unknown protocol|Unknown layer type|Invalid selector|Valid (?:protocols|layer)|Parameter \"|-d "),
    ),
    ("profile", re.compile(r"Configuration Profile", re.IGNORECASE)),
    ("names", re.compile(r"Some fields aren't valid")),
)


def failure_of(ended: Ended, asked: Asked, *, source: str, has_answered: bool) -> CaptureError | None:
    """Return why an engine has ended as it has; None: it was done.

    Args:
        ended: how.
        asked: what it was asked.
        source: what it has read, for people.
        has_answered: with frames, so that nothing it was asked was refused.
    """
    lines = [line for line in ended.words.splitlines() if line.strip() and not _NOISE.match(line)]
    if not ended.status or is_of_cut_file(ended):
        return None
    span, lines = _span(lines)
    text = _sentence(lines)
    if ended.status < 0:
        return EngineFailed(f"tshark was ended by signal {-ended.status}{_behind(text)}", ended.status)
    if has_answered or _FILE.search(text):
        if _FILE.search(text):
            return ReadError(source, 0, f"Wireshark's tshark says: {text}")
        return EngineFailed(f"tshark has ended with status {ended.status}{_behind(text)}", ended.status)
    for argument, pattern in _REFUSED:
        if pattern.search(text):
            return InvalidArgument(f"{argument}: Wireshark says: {text}", argument=argument)
    if asked.display_filter is not None and text:
        return DisplayFilterError(asked.display_filter, text, span)
    return EngineFailed(f"tshark has ended with status {ended.status}{_behind(text)}", ended.status)


def is_of_cut_file(ended: Ended) -> bool:
    """Whether the last record of what was read is not whole."""
    return _CUT in ended.words


def _span(lines: list[str]) -> tuple[tuple[int, int] | None, list[str]]:
    """Return where in a filter its fault is, and the lines without those that show it."""
    for number, line in enumerate(lines):
        if number and (found := _CARET.match(line)):
            shown = lines[number - 1]
            indent = len(shown) - len(shown.lstrip(" "))
            begin = max(0, len(found[1]) - indent)
            return (begin, begin + len(found[2])), [*lines[: number - 1], *lines[number + 1 :]]
    return None, lines


def _sentence(lines: list[str]) -> str:
    """Return what is said in one line."""
    # What follows "Valid … are:" has hundreds.
    cut = next((number for number, line in enumerate(lines) if line.startswith("tshark: Valid ")), len(lines))
    text = " ".join(" ".join(lines[:cut] or lines).split())
    text = escaped(text.removeprefix("tshark: "))
    return f"{text[:_MOST_CHARACTERS]}…" if len(text) > _MOST_CHARACTERS else text


def _behind(text: str) -> str:
    return f": {text}" if text else ""


def stands_still(timeout_s: float) -> EngineFailed:
    """Return the error of an engine that does nothing while it has something to do."""
    return EngineFailed(f"tshark stands still: nothing came of it within {timeout_s:g} s", None)


def is_none(what: str) -> EngineFailed:
    """Return the error of an engine that has written what is no answer."""
    return EngineFailed(f"tshark has written what is no answer: {quoted(what)}", None)


def has_left_out(frames: int, packets: int) -> EngineFailed:
    """Return the error of an engine that has ended without a word before it was done."""
    return EngineFailed(f"tshark has ended early, with {frames:,} frames of {packets:,} packets", None)
