"""The pages that people read, and the samples in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
#: Pages with samples.
PAGES = (CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md")))

_FENCED = re.compile(r"^```(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?<=\n\n)(?: {4}\S.*\n)+", re.MULTILINE)
#: A "#" in the samples' quotes would be taken for one.
_COMMENT = re.compile(r"(?:^|\s+)#.*$", re.MULTILINE)


@dataclass(frozen=True)
class Sample:
    """A block of code in a page.

    Attributes:
        page: its name, such as ``docs/reading.md``.
        line: where the block begins.
        language: as the page says; what is only indented is ``sh``.
        text: the code.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command of a sample, and what the sample shows that it prints."""

    words: list[str]
    output: list[str]


def name_of(page: Path) -> str:
    """Return what a page is called in the checkout."""
    return str(page.relative_to(CHECKOUT))


def samples(*languages: str) -> list[Sample]:
    """Return the samples in some languages, or in all."""
    return [each for page in PAGES for each in _samples_of(page) if not languages or each.language in languages]


def _samples_of(page: Path) -> Iterator[Sample]:
    name, text = name_of(page), page.read_text(encoding="utf-8")
    for found in _FENCED.finditer(text):
        yield Sample(name, text.count("\n", 0, found.start()) + 1, found[1], found[2])
    prose = without_blocks(text)
    for found in _INDENTED.finditer(prose):
        indented = "".join(line.removeprefix("    ") for line in found[0].splitlines(keepends=True))
        yield Sample(name, prose.count("\n", 0, found.start()) + 1, "sh", indented)


def without_blocks(text: str) -> str:
    """Return a page without its fenced blocks; lines keep their numbers."""
    return _FENCED.sub(lambda found: "\n" * found[0].count("\n"), text)


def commands(sample: Sample) -> list[Command]:
    """Return the commands of a sample for the shell; those of a console stand behind prompts."""
    found: list[Command] = []
    waiting = ""
    for line in sample.text.splitlines():
        if sample.language == "console" and not waiting and not line.startswith("$ "):
            found[-1].output.append(line)
            continue
        waiting += _COMMENT.sub("", line if waiting else line.removeprefix("$ "))
        if waiting.endswith("\\"):
            waiting = waiting.removesuffix("\\")
            continue
        try:
            words = shlex.split(waiting)
        except ValueError:  # a quotation goes on in the next line
            waiting += "\n"
            continue
        waiting = ""
        if words:
            found.append(Command(words[1:] if words[0] == "sudo" else words, []))
    assert not waiting, f"{sample}: a quotation does not end"
    return found


def rows(text: str) -> list[list[str]]:
    """Return the cells of all tables of a page, without headings."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [
        [cell.strip() for cell in line.rstrip()[1:-1].split("|")]
        for line, below in zip(lines, [*lines[1:], ""], strict=True)
        if not line.startswith("|---") and not below.startswith("|---")
    ]
