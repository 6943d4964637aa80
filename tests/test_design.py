"""DESIGN.md says what each package is for, and names modules that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {"capd_protocol": "protocol", "capd_client": "client", "capd": "capd"}
TEXTS = [ROOT / "DESIGN.md", *sorted((ROOT / "docs/design").glob("*.md"))]


def first_sentence(package: Path) -> str:
    return package.read_text(encoding="utf-8").split('"""')[1].split("\n\n")[0].replace("\n", " ").strip()


def packages() -> dict[str, str]:
    """Return what each package says of itself, by its dotted name."""
    found: dict[str, str] = {}
    for name, source in SOURCES.items():
        for package in (ROOT / source / name).rglob("__init__.py"):
            dotted = ".".join(package.parent.relative_to(ROOT / source).parts)
            found[dotted] = first_sentence(package)
    return found


def modules() -> set[str]:
    """Return the dotted names of all packages and modules."""
    return {
        ".".join(path.with_suffix("").relative_to(ROOT / source).parts).removesuffix(".__init__")
        for name, source in SOURCES.items()
        for path in (ROOT / source / name).rglob("*.py")
    }


def test_the_table_has_each_package_and_what_it_says_of_itself() -> None:
    text = (ROOT / "DESIGN.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(capd[\w.]*)` \| (.*) \|$", text, re.MULTILINE)
    assert dict(rows) == packages()
    assert len(rows) == len(packages())


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_modules_that_are_named_exist(path: Path) -> None:
    names = modules()
    known = {name.split(".", skip)[-1] for name in names for skip in range(name.count(".") + 1)}
    beginnings = {part for name in names for part in name.split(".")}
    dotted = set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", path.read_text(encoding="utf-8")))
    assert {name for name in dotted if name.split(".")[0] in beginnings} - known == set()


def test_no_package_has_more_modules_than_fit_on_a_page() -> None:
    for name in packages():
        directory = ROOT / SOURCES[name.split(".")[0]] / name.replace(".", "/")
        own = [path for path in directory.glob("*.py") if path.name != "__init__.py"]
        assert len(own) <= 13, f"{name} has {len(own)} modules"


def test_a_name_in_the_design_is_one_module_s() -> None:
    text = (ROOT / "DESIGN.md").read_text(encoding="utf-8")
    full = modules()
    parts = {part for name in full for part in name.split(".")}
    dotted = {name for name in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", text) if name.split(".")[0] in parts}
    assert dotted
    assert {name for name in dotted if name not in full and f"capd.{name}" not in full} == set()


def test_it_is_a_read_of_ten_minutes() -> None:
    # At 200 words a minute; what tables and diagrams are drawn with is no word, and the table of packages is looked up.
    text = re.sub(r"^\| `capd.*$", "", (ROOT / "DESIGN.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    words = [word for word in text.split() if re.search(r"\w", word)]
    assert len(words) <= 2000
