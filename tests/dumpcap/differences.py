"""The differences between capd-dumpcap and dumpcap that are meant, as what each does to a comparison.

docs/dumpcap.md says the same in words.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.dumpcap.running import Outcome

Pair = tuple[Outcome, Outcome]


class Difference(NamedTuple):
    """A difference.

    Attributes:
        heading: of its place in docs/dumpcap.md.
        holds: whether it may show with these words.
        leave_out: returns both outcomes without it.
    """

    heading: str
    holds: Callable[[Sequence[str]], bool]
    leave_out: Callable[[Outcome, Outcome], Pair]


def _has(*options: str) -> Callable[[Sequence[str]], bool]:
    return lambda words: any(each.startswith(option) for each in words for option in options)


def _always(_words: Sequence[str]) -> bool:
    return True


def _same(theirs: Outcome, _ours: Outcome) -> Pair:
    return theirs, theirs


def _losses(theirs: Outcome, ours: Outcome) -> Pair:
    """Leave out how many are lost where dumpcap counts those that it has thrown away at the end."""
    if not re.search(r"flushed:[1-9]|drops_total=[1-9]", theirs.said):
        return theirs, ours
    found = re.compile(r"^Packets received/dropped on .*$|^Drops\(.*\)$", re.MULTILINE)
    return theirs._replace(said=found.sub("", theirs.said)), ours._replace(said=found.sub("", ours.said))


def _sizes(theirs: Outcome, ours: Outcome) -> Pair:
    """Leave out what follows from how large files are; the packets of all of them together begin alike."""
    packets = [[each for file in run.files.values() for each in file.packets] for run in (theirs, ours)]
    shortest = min(map(len, packets))
    assert packets[0][:shortest] == packets[1][:shortest]
    empty = Outcome(theirs.status, theirs.output, "", {})
    return empty, empty._replace(status=ours.status)


def _numbers(theirs: Outcome, ours: Outcome) -> Pair:
    is_refused = ours.status == 1 and ("isn't a floating point number" in ours.said or "unknown -b arg" in ours.said)
    return (theirs, theirs) if is_refused else (theirs, ours)


#: Of a ring of compressed files.
_NAME = re.compile(r"(\.pcap(?:ng)?)(_\d{5}_TIME)(\.gz)")


def _ring_names(theirs: Outcome, ours: Outcome) -> Pair:
    files = {_NAME.sub(r"\2\1\3", name): contents for name, contents in theirs.files.items()}
    return theirs._replace(said=_NAME.sub(r"\2\1\3", theirs.said), files=files), ours


#: What is wrong by itself, in the lines that are drawn.
_WRONG = re.compile(r"nope0|nodir/|port x y|no such|foo bar|^soon$|^0$|-1$|:$|^FOO$|^--nonsense$")


def _is_wrong_twice(words: Sequence[str]) -> bool:
    is_ring_to_a_pipe = "-b" in words and "-" in words
    return is_ring_to_a_pipe + sum(bool(_WRONG.search(each)) for each in words) > 1


def _first_mistake(theirs: Outcome, ours: Outcome) -> Pair:
    """Leave out which mistake is said, where both say one."""
    if theirs.status == ours.status == 1 and not (theirs.files or ours.files) and ours.said:
        return theirs, theirs
    return theirs, ours


def _has_one_twice(words: Sequence[str]) -> bool:
    names = [following for word, following in itertools.pairwise(words) if word == "-i"]
    return len(set(names)) < len(names)


def _refused(theirs: Outcome, ours: Outcome) -> Pair:
    """Leave out what dumpcap does of something that is refused."""
    return (theirs, theirs) if ours.status == 1 and "named twice" in ours.said else (theirs, ours)


#: In the order of the page.
KNOWN = (
    Difference(
        "Options of later versions",
        _has("-F", "-Q", "--update-interval", "--no-optimize", "--application-flavor"),
        _same,
    ),
    Difference("Packets behind a limit", _always, _losses),
    Difference("Sizes of files", _has("filesize:"), _sizes),
    Difference("Compression", lambda words: any(each.endswith(".gz") for each in words), _ring_names),
    Difference("Two mistakes at once", _is_wrong_twice, _first_mistake),
    Difference("An interface twice", _has_one_twice, _refused),
    Difference("Wrong values", _has("duration:", "-b", "foo"), _numbers),
)


def without_known(words: Sequence[str], theirs: Outcome, ours: Outcome) -> Pair:
    """Return both without what is meant to differ."""
    if theirs.status < 0:  # it has crashed
        return theirs, theirs
    for each in KNOWN:
        if each.holds(words):
            theirs, ours = each.leave_out(theirs, ours)
    return theirs, ours
