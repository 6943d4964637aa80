"""An argument is defined once: typing, messages, configuration, man pages and the documentation's tables follow."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import pytest

from capd.config import reader
from capd_client import CaptureInterface, LinkLayerType
from capd_client.request.options import CaptureArguments, make_request
from capd_protocol.arguments import ARGUMENTS, BY_NAME, ArgumentSpec, ArgumentType, Option, fields_of
from capd_protocol.messages import Conditions, Destination, InterfaceRequest, Recorder, StartCapture

ROOT = Path(__file__).parent.parent.parent
PARTS: Mapping[str, type[msgspec.Struct]] = {
    "": StartCapture,
    "interface": InterfaceRequest,
    "destination": Destination,
    "autostop": Conditions,
    "ring": Conditions,
    "recorder": Recorder,
}
ANNOTATIONS: Mapping[ArgumentType, object] = {
    ArgumentType.TEXT: str | None,
    ArgumentType.WHOLE_NUMBER: int | None,
    ArgumentType.SECONDS: float | None,
    ArgumentType.YES_OR_NO: bool | None,
    ArgumentType.TEXTS: str | Sequence[str] | None,
}
OPTIONS = [(spec, option) for spec in ARGUMENTS for option in spec.options]
CONFIGURED = [spec for spec in ARGUMENTS if spec.is_configured]
MIB = 1024 * 1024


def named(value: object) -> str:
    return value.name if isinstance(value, ArgumentSpec) else str(value)


# Types and messages -----------------------------------------------------------------------------------------------


def test_the_typing_for_editors_is_the_tables() -> None:
    assert CaptureArguments.__annotations__.keys() == BY_NAME.keys()
    assert len(BY_NAME) == len(ARGUMENTS)
    expected = {spec.name: ANNOTATIONS[spec.type] for spec in ARGUMENTS if spec.type in ANNOTATIONS}
    expected["link_layer_type"] |= LinkLayerType  # as listings give it
    for name, annotation in expected.items():
        assert CaptureArguments.__annotations__[name] == annotation, name
    alone = ("name", "label", "description")  # of one interface, and never of all
    own = {field.name: field.type for field in fields(CaptureInterface) if field.name not in alone}
    assert own == {spec.name: expected[spec.name] for spec in ARGUMENTS if spec.part == "interface"}


@pytest.mark.parametrize("spec", [each for each in ARGUMENTS if each.place], ids=named)
def test_an_argument_fills_a_field_that_exists_and_has_its_default(spec: ArgumentSpec) -> None:
    (field,) = (each for each in msgspec.structs.fields(PARTS[spec.part]) if each.name == spec.field)
    if spec.name == "promiscuous":  # where policy allows it
        assert (spec.default, field.default) == (True, None)
    elif spec.default is None:
        assert field.default in (None, msgspec.NODEFAULT)
    else:
        assert fields_of(spec.part, {spec.name: spec.default}) == {spec.field: field.default}


def test_two_arguments_fill_no_field_together() -> None:
    places = [each.place for each in ARGUMENTS if each.place]
    assert len(places) == len(set(places))


def test_a_request_has_what_the_arguments_say() -> None:
    everything: Any = {"interfaces": "lo", "savefile": "a", "kernel_buffer_size": 3, "recorder_memory": 5}
    request, *_ = make_request(everything)
    assert request.interfaces[0].kernel_buffer_size_bytes == 3 * MIB
    assert request.recorder == Recorder(memory_bytes=5 * MIB)
    assert fields_of("ring", {"ringbuffer_files": 5, "ringbuffer_age": None, "snaplen": 1}) == {"files": 5}


# The configuration ------------------------------------------------------------------------------------------------


def test_the_configuration_has_its_keys_from_the_table() -> None:
    names = [each.name for each in msgspec.structs.fields(reader._Capture)]
    assert names[3:] == [each.name for each in CONFIGURED]
    for spec in CONFIGURED:
        # In TOML several are an array, also one.
        annotation = tuple[str, ...] | None if spec.type is ArgumentType.TEXTS else ANNOTATIONS[spec.type]
        assert reader._PYTHON_TYPES[spec.type] | None == annotation


WORDS = {
    ArgumentType.TEXT: "Text",
    ArgumentType.WHOLE_NUMBER: "Whole number",
    ArgumentType.SECONDS: "Number of seconds",
    ArgumentType.YES_OR_NO: "True or False",
    ArgumentType.TEXTS: "Array of texts",
}


def items(page: str, macro: str) -> dict[str, str]:
    """Return what stands under each item of a page, on one line, by the item's own line."""
    text = (ROOT / "docs" / "man" / page).read_text(encoding="ascii").replace(r"\-", "-")
    found = re.findall(rf"^\.It {macro} (.*)\n((?:(?!\.It |\.El).*\n)*)", text, re.MULTILINE)
    return {heading: " ".join(body.split()) for heading, body in reversed(found)}


@pytest.mark.parametrize("spec", CONFIGURED, ids=named)
def test_the_manual_of_the_configuration_says_type_unit_and_range(spec: ArgumentSpec) -> None:
    described = items("capd.toml.5", "Va")[spec.name].lower()
    assert described.startswith(WORDS[spec.type].lower())
    if spec.range is not None:
        least, greatest, unit = spec.range
        if unit in ("bytes", "kB", "MiB"):
            assert f"of {unit.lower()}" in described
        assert f", {least} to {greatest};" in described or re.search(rf", from {re.escape(str(least))}[;,]", described)


# The command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "option"), OPTIONS, ids=named)
def test_the_manual_of_capctl_has_each_option_as_it_is_typed(spec: ArgumentSpec, option: Option) -> None:
    names = [each.removeprefix("-") for each in (option.letter, option.flag) if each]
    (item,) = (
        (heading, body)
        for heading, body in items("capctl.1", "Fl").items()
        if heading.split(" Ar ")[0] == " , Fl ".join(names)
    )
    heading, body = item
    if option.key:
        value = re.split(rf"\.Cm {option.key}(?= )", body)[1].split(" .Cm ")[0]
        assert value.startswith(" : Ns Ar ") == bool(option.metavar)
        if option.metavar:
            assert value.removeprefix(" : Ns Ar ").split()[0].lower() == option.metavar.lower()
        body = value
    else:
        assert (" Ar " in heading) == bool(option.metavar)
        if option.metavar:
            assert heading.partition(" Ar ")[2].split()[0] == re.split(r"\W", option.metavar.lower())[0]
    # A range that is given is that of the table.
    for least, greatest in re.findall(r"\b([\d.]+) to ([\d.]*\d)\b", body):
        assert spec.range is not None
        assert (float(least), float(greatest)) == spec.range[:2]


def test_what_has_a_range_in_the_manual_of_capctl_keeps_it() -> None:
    page = items("capctl.1", "Fl")
    text = " ".join(page.values())
    for name in ("snaplen", "kernel_buffer_size", "recorder_duration", "recorder_memory", "update_interval"):
        found = BY_NAME[name].range
        assert found is not None
        assert f"{found.least} to {found.greatest}" in text, name


def test_no_option_means_two_arguments() -> None:
    described = [(option.flag, option.key) for _, option in OPTIONS]
    assert len(described) == len(set(described))
    letters = {(option.letter, option.flag) for _, option in OPTIONS}
    assert len({flag for _, flag in letters}) == len(letters)


# The documentation's tables ---------------------------------------------------------------------------------------


def rows_of_arguments() -> list[str]:
    """Return the first cells of the tables of arguments, wherever they stand."""
    rows: list[str] = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for table in re.findall(r"^\| *argument \|[^\n]*\n\|[-| :]+\n((?:\|.*\n)+)", path.read_text(), re.MULTILINE):
            rows += [line.split("|")[1] for line in table.splitlines()]
    return rows


def test_the_documentation_names_every_argument_with_its_unit() -> None:
    named_there: set[str] = set()
    for row in rows_of_arguments():
        first = ""
        for word, unit in re.findall(r"`(\w+)`(?: \(([^)]*)\))?", row):
            name = word if not word.startswith("_") else _whole(first, word)
            first = first or name
            assert name in BY_NAME, word
            named_there.add(name)
            if unit:
                found = BY_NAME[name].range
                assert found is not None
                assert unit.split()[0] == {"seconds": "s"}.get(found.unit, found.unit).split()[0], name
    missing = {spec.name for spec in ARGUMENTS if spec.place} - named_there
    assert missing == set()


def _whole(first: str, rest: str) -> str:
    """Return the argument that is meant by its end, behind one whose beginning it has."""
    parts = first.split("_")
    candidates = ["_".join(parts[:length]) + rest for length in range(len(parts), 0, -1)]
    return next((each for each in candidates if each in BY_NAME), rest)
