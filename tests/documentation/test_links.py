"""Links lead to what is there, and files that are named exist."""

import re
from pathlib import Path

import pytest

from tests.documentation.pages import CHECKOUT, PAGES, name_of, without_blocks

_OTHERS = [CHECKOUT / name for name in ("DESIGN.md", "CHANGELOG.md", "benchmarks/README.md")]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_NAMED = re.compile(r"(?<![\w/.])(?:docs|scripts)/[\w/.-]*\w")


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *_OTHERS], ids=name_of)
def test_each_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in _LINK.findall(without_blocks(page.read_text(encoding="utf-8"))):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{name_of(page)}: {link}"
        assert target.is_relative_to(CHECKOUT), f"{name_of(page)}: {link}"
        assert not anchor or anchor in anchors(target), f"{name_of(page)}: {link}"


def test_every_page_is_reached_from_the_readme() -> None:
    linked = {(CHECKOUT / link.partition("#")[0]).resolve() for link in _LINK.findall(PAGES[0].read_text())}
    assert {*PAGES[1:], *_OTHERS} <= linked


def test_tests_that_are_named_exist() -> None:
    text = (CHECKOUT / "docs" / "security.md").read_text(encoding="utf-8")
    tests = re.findall(r"`(\S*test_\w+\.py)`", text)
    assert len(tests) > 30
    for test in tests:
        assert (CHECKOUT / test).is_file(), test


def test_files_of_the_project_that_are_named_exist() -> None:
    others = [path for place in ("docs/man", "systemd", "scripts") for path in (CHECKOUT / place).rglob("*")]
    for path in (*PAGES, *_OTHERS, *(path for path in others if path.is_file() and path.suffix != ".pyc")):
        for named in _NAMED.findall(path.read_text(encoding="utf-8")):
            assert (CHECKOUT / named).exists(), f"{name_of(path)} names {named}"
