"""The API reference has each public name of the library. That what it has exists is held by ``scripts/reference``."""

import re
from pathlib import Path
from types import ModuleType

import pytest

import capd_client
import capd_client.aio
from capd_client import events

REFERENCE = Path(__file__).parent.parent.parent / "docs/reference"
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in REFERENCE.glob("*.rst"))
DESCRIBED = set(re.findall(r"^\.\. (?:auto)?(?:class|exception|function|data):: ([\w.]+)", TEXT, re.MULTILINE))


@pytest.mark.parametrize("module", [capd_client, capd_client.aio], ids=lambda module: module.__name__)
def test_each_public_name_is_described_under_that_name(module: ModuleType) -> None:
    # The module of events has a page of its own.
    events_own = {f"capd_client.{name}" for name in (*events.__all__, "events")}
    names = {f"{module.__name__}.{name}" for name in module.__all__} - events_own
    assert names - DESCRIBED == set()


def test_each_name_of_the_events_is_described_but_those_of_the_types() -> None:
    described = {name.rpartition(".")[2] for name in DESCRIBED}
    assert {name for name in events.__all__ if name not in events.EventType.__members__} - described == set()


def test_each_page_is_in_the_contents() -> None:
    contents = (REFERENCE / "index.rst").read_text(encoding="utf-8").partition("toctree::")[2].split()
    assert {path.stem for path in REFERENCE.glob("*.rst")} - {"index"} == set(contents) - {":maxdepth:", "2"}
