"""The man pages name what the programs know, no more and no less, and render without a warning."""

import argparse
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import msgspec
import pytest

from capd.admin import check_config
from capd.config import reader
from capd_client import cli
from capd_client.extcap import configuration
from capd_client.output.readers import ReaderChange
from capd_protocol.messages import (
    Capabilities,
    CaptureSummary,
    DeletionReason,
    EndReason,
    FailureCode,
    FileClosed,
    InterfaceCounters,
    Permission,
    Permissions,
    RevokedCapture,
)
from capd_protocol.messages.interfaces import InterfaceCounts, InterfaceInfo, Link, LinkLayer, TimestampType
from tests.support.parsers import capctl_parsers, capd_parsers, options_of

DIRECTORY = Path(__file__).parent.parent / "docs" / "man"
PAGES = ("capctl.1", "capd-dumpcap.1", "capd-extcap.1", "capd.toml.5", "capd.8")


# Pages ------------------------------------------------------------------------------------------------------------


def source(page: str) -> str:
    """Return a page's text with hyphens as they are typed."""
    return (DIRECTORY / page).read_text(encoding="ascii").replace(r"\-", "-")


def blocks(text: str, macro: str) -> list[tuple[str, str]]:
    """Return what stands under each heading, by the heading's first word."""
    parts = re.split(rf"^\.{macro} (\S+).*\n", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def displays(text: str) -> list[str]:
    return [shown.replace("\\e\n", " ") for shown in re.findall(r"^\.Bd .*\n((?:.*\n)*?)\.Ed$", text, re.MULTILINE)]


def options_in(text: str) -> set[str]:
    # One that may be repeated is described as -tt, too.
    return {re.sub(r"^-(\w)\1+$", r"-\1", f"-{name}") for name in re.findall(r"\bFl (\S+)", text)}


# Programs ---------------------------------------------------------------------------------------------------------


def commands_of(page: str) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of a page's commands by their names, the program's own first, without a name."""
    return capd_parsers() if page == "capd.8" else capctl_parsers()


# Tests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_a_page_renders_without_a_warning_in_80_columns(page: str) -> None:
    command = ["groff", "-mandoc", "-wall", "-ww", "-Tutf8", "-P-cbou", os.fspath(DIRECTORY / page)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=20, check=True)
    assert done.stderr == ""
    assert 60 < max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("page", ["capctl.1", "capd.8"])
def test_a_page_has_the_options_of_each_command(page: str) -> None:
    commands, text = commands_of(page), source(page)
    described: dict[str, str] = {}
    for name, block in blocks(text, "Ss"):
        described.setdefault(name, block)
    for name, parser in commands.items():
        if name:
            block = described[name].partition("\n.Sh ")[0].partition("\n.Ss ")[0]
            text = text.replace(block, "", 1)
            assert options_in(block) == options_of(parser) - {"-h", "--help"}, name
    # The synopsis names those of all commands.
    everything = {name for parser in commands.values() for name in options_of(parser)}
    assert options_of(commands[""]) <= options_in(text) <= everything


def test_no_page_names_an_option_that_does_not_exist() -> None:
    known = {
        name for page in ("capctl.1", "capd.8") for each in commands_of(page).values() for name in options_of(each)
    }
    for page in PAGES:
        if page == "capd-dumpcap.1":  # it is dumpcap's page that has those
            continue
        if page == "capd-extcap.1":  # of which Wireshark knows its own
            assert options_in(source(page)) == set(configuration.OPTIONS)
            continue
        # Displays also have other programs' options.
        text = re.sub(r"^\.Bd (?:.*\n)*?\.Ed$", "", source(page), flags=re.MULTILINE)
        assert {*options_in(text), *re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)} <= known


def test_capctl_understands_the_examples() -> None:
    lines = "".join(displays(source("capctl.1"))).splitlines()
    assert len(lines) >= 4
    for line in lines:
        prompt, program, *arguments = shlex.split(line.partition(" | ")[0])
        assert (prompt, program) == ("$", "capctl")
        commands_of("capctl.1")[""].parse_args(arguments)


@pytest.mark.parametrize(
    ("command", "structs"),
    [
        ("capture", (InterfaceCounters,)),
        ("list", (CaptureSummary,)),
        ("revoke", (RevokedCapture,)),
        ("whoami", (Permissions, Permission)),
        ("interfaces", (InterfaceInfo, Link)),
        ("linktypes", (Capabilities, LinkLayer, TimestampType)),
        ("stats", (InterfaceCounts,)),
    ],
)
def test_all_that_is_printed_as_json_is_described(command: str, structs: tuple[type[msgspec.Struct], ...]) -> None:
    block = dict(blocks(dict(blocks(source("capctl.1"), "Sh"))["JSON"], "Ss"))[command]
    expected = {field.name for struct in structs for field in msgspec.structs.fields(struct)}
    if command == "stats":
        expected -= {"name"}  # they are members by name
    if command == "capture":
        expected |= {field.name for field in msgspec.structs.fields(FileClosed)} - {"name"}  # it is path there
        # What is no event of the daemon's is called something where it is printed.
        printed = "".join(path.read_text(encoding="utf-8") for path in Path(cli.__file__).parent.glob("*.py"))
        events = set(re.findall(r'\b(?:Notice|_print)\(\s*"(\w+)"', printed))
        assert events > {"started", "serving", "reader_left", "missed"}
        expected |= events | {"reader_id", "missed_packets"}
        expected |= {each.value for each in ReaderChange} - {"came", "refused"}  # reader_came, reader_refused
        expected |= {*FailureCode, *DeletionReason, *EndReason} - {
            EndReason.CLIENT_LEFT
        }  # which a client that has left does not see
    assert set(re.findall(r"\w+", block)) >= expected


@pytest.mark.parametrize(
    ("heading", "struct"), [("Rules", reader._Rule), ("Captures", reader._Capture), ("Metrics", reader._Metrics)]
)
def test_every_key_of_the_configuration_is_described_with_its_default(
    heading: str, struct: type[msgspec.Struct]
) -> None:
    block = dict(blocks(source("capd.toml.5"), "Ss"))[heading]
    described = {name: " ".join(text.split()) for name, text in blocks(block, "It Va")}
    fields = msgspec.structs.fields(struct)
    assert list(described) == [field.name for field in fields]
    for field in fields:
        if field.required:
            expected = "required"
        elif field.default is None:
            expected = "default: "
        else:
            expected = f"default {json.dumps(field.default)}."
        assert expected in described[field.name], field.name


def test_warnings_are_described_as_the_configuration_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobodys(name: str) -> int:
        raise KeyError(name)

    monkeypatch.setattr(reader, "_user_id", nobodys)
    path = tmp_path / "capd.toml"
    path.write_text(
        '[[rule]]\nname = "all"\neverybody = true\nusers = [0, "alise"]\n\n\n\n\n'
        '[[rule]]\nname = "hidden"\ngroups = [0]\n'
    )
    (shown,) = displays(dict(blocks(source("capd.toml.5"), "Ss"))["Warnings"].partition("\n.Sh ")[0])
    warnings = reader.load(path).warnings
    assert shown.split() == " ".join(warnings).replace(str(path), str(reader.DEFAULT_PATH)).split()
    described = dict(blocks(source("capd.8"), "Ss"))["check-config"]
    assert all(text in " ".join(described.split()) for text in ("(warning)", "is not there", "never grants"))


def test_the_examples_of_the_configuration_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_group_id", lambda _: 4)  # whatever groups there are on this machine
    examples = displays(dict(blocks(source("capd.toml.5"), "Sh"))["EXAMPLES"])
    path = tmp_path / "capd.toml"
    for example in (*examples, "\n".join(examples)):
        path.write_text(example)
        reader.load(path)
        assert check_config.main([os.fspath(path)]) == 0
    loaded = reader.load(path)
    assert loaded.policy.rules
    assert loaded.captures
