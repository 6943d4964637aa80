"""Samples of all languages can be used as they stand; test_running runs those that capture."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from capd.admin import check_config
from capd.config import reader
from tests.documentation.pages import CHECKOUT, Command, Sample, commands, samples
from tests.support.parsers import capctl_parsers, capd_parsers, options_of

#: Tables, units and rules of other programs, which tests/metrics/test_operations.py looks at.
_ELSEWHERE = {"ini", "yaml"}
#: Programs of others, of which nothing is checked but units of systemd.
_OTHERS = {
    "apt",
    "cp",
    "curl",
    "docker",
    "echo",
    "journalctl",
    "ln",
    "mkdir",
    "podman",
    "python3",
    "ssh",
    "rm",
    "systemctl",
    "systemd-nspawn",
    "tshark",
    "unshare",
    "usermod",
}


def shell_samples() -> list[tuple[Sample, Command]]:
    return [(sample, command) for sample in samples("sh", "console") for command in commands(sample)]


def test_every_sample_has_a_language_that_is_checked() -> None:
    found = samples()
    assert {each.language for each in found} <= {"python", "toml", "sh", "console", "systemd"} | _ELSEWHERE
    # A page that nobody finds samples in is not checked.
    assert {each.page for each in found} >= {
        "README.md",
        *(f"docs/{name}.md" for name in ("operations", "options", "policy", "reading", "recorder", "service")),
    }
    for page in ("README.md", "docs/reading.md", "docs/options.md", "docs/recorder.md"):
        assert any(each.page == page for each in samples("python")), page


def test_the_readme_has_the_commands_for_a_fresh_checkout() -> None:
    (found,) = [each for each in samples("sh") if "scripts/demo" in each.text]
    assert [command.words for command in commands(found)] == [["scripts/demo"], ["scripts/test"]]


def test_no_sample_in_the_shell_has_a_command_that_does_not_exist() -> None:
    capctl, capd = capctl_parsers(), capd_parsers()
    options = {name for parser in (*capctl.values(), *capd.values()) for name in options_of(parser)}
    units = {path.name for path in (CHECKOUT / "systemd").glob("capd*")} | {"capd-metrics.socket"}
    for sample, command in shell_samples():
        program, *arguments = command.words
        place = CHECKOUT / program
        match Path(program).name:
            case "capctl":
                capctl[""].parse_args(arguments)
                # It also takes their beginnings.
                assert {each for each in arguments if each.startswith("--")} <= options, sample
            case "capd":
                name = arguments[0] if arguments else ""
                capd[name].parse_args(arguments[1:])
            case "pip":
                assert arguments in (["install", "."], ["install", ".[metrics]"]), sample
            case _ if program.startswith("scripts/"):
                assert place.is_file(), sample
                assert os.access(place, os.X_OK), sample
            case other:
                assert other in _OTHERS, sample
        if program in ("systemctl", "journalctl"):
            named = [each for each in arguments if each.startswith("capd")]
            # Of one with "@" there are as many as somebody names.
            templates = {re.sub("@[^.]*", "@", each if "." in each else f"{each}.service") for each in named}
            assert templates <= units, sample


@pytest.mark.parametrize("sample", samples("toml"), ids=str)
def test_a_sample_of_the_configuration_can_be_used(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_group_id", lambda _: 4)  # whatever groups there are on this machine
    path = tmp_path / "capd.toml"
    path.write_text(sample.text, encoding="utf-8")
    reader.load(path)
    assert check_config.main([os.fspath(path)]) == 0


#: What a stream yields follows from its arguments.
_TYPED = """\
from typing import assert_type

from capd_client import Batch, CaptureSession, Gap, Packet, Reader, Stream, aio, read, stream


def looked_at(session: CaptureSession, asynchronous: aio.CaptureSession, as_bytes: bool) -> None:
    assert_type(stream(session), Stream[Batch | Gap])
    assert_type(stream(session, as_bytes=False), Stream[Batch | Gap])
    assert_type(stream(session, as_bytes=True), Stream[memoryview | Gap])
    assert_type(stream(session, as_bytes=as_bytes), Stream[Batch | memoryview | Gap])
    assert_type(aio.stream(asynchronous), aio.Stream[Batch | Gap])
    assert_type(aio.stream(asynchronous, as_bytes=True), aio.Stream[memoryview | Gap])
    assert_type(aio.stream(asynchronous, as_bytes=as_bytes), aio.Stream[Batch | memoryview | Gap])
    assert_type(read(session), Reader)
    assert_type(next(iter(read(session))), Packet)
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory with every sample in Python as a module, and with what types are promised."""
    for sample in samples("python"):
        module = re.sub(r"\W", "_", str(sample))
        (tmp_path / f"{module}.py").write_text(sample.text, encoding="utf-8")
    (tmp_path / "typed.py").write_text(_TYPED, encoding="utf-8")
    return tmp_path


@pytest.mark.timeout(300)
@pytest.mark.long
def test_samples_in_python_pass_mypy_strictly(programs: Path) -> None:
    roots = os.pathsep.join(str(CHECKOUT / name) for name in ("protocol", "client", "capd"))
    done = subprocess.run(
        # The cache is apart from that of the project's own modules, which are checked with other options.
        [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={CHECKOUT}/.mypy_cache/samples", "."],
        cwd=programs,
        env={**os.environ, "MYPYPATH": roots},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"no issues found in {len(samples('python')) + 1} source files" in done.stdout


@pytest.mark.timeout(300)
@pytest.mark.long
def test_samples_in_python_pass_pyright_strictly(programs: Path) -> None:
    roots = [str(CHECKOUT / name) for name in ("protocol", "client", "capd")]
    settings = {"typeCheckingMode": "strict", "pythonVersion": "3.11", "pythonPlatform": "Linux", "extraPaths": roots}
    (programs / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", f"--pythonpath={sys.executable}"],
        cwd=programs,
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)
    assert [each["message"] for each in found["generalDiagnostics"]] == []
    assert found["summary"]["filesAnalyzed"] == len(samples("python")) + 1
