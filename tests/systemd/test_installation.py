"""What is refused before anything is written, and how files are made; neither needs a service manager."""

import argparse
import os
import stat
from pathlib import Path

import pytest

from capd.admin import installation
from capd.admin.installation import InstallationError, check_free, find_template, is_ours, programs_of, render, write

TEMPLATES = Path(__file__).parents[2] / "systemd"
NAMES = (
    *("capd.service", "capd.socket", "capd-containers.socket", "capd-netns@.service", "capd-netns@.socket"),
    *("sysusers.d/capd.conf", "tmpfiles.d/capd.conf"),
)
TEXTS = {name: (TEMPLATES / name).read_text() for name in NAMES}
PYTHON = Path("/opt/capd/bin/python")


# Files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_templates_are_found_where_capd_is_installed(name: str) -> None:
    assert find_template(name).read_text() == (TEMPLATES / name).read_text()


def test_a_template_that_is_not_there_is_an_installation_to_repair() -> None:
    with pytest.raises(InstallationError):
        find_template("capd.timer")


def test_every_template_is_installed() -> None:
    assert {str(path.relative_to(TEMPLATES)) for path in TEMPLATES.rglob("*") if path.is_file()} == set(NAMES)


def test_the_unit_runs_this_interpreter_isolated() -> None:
    unit = render("capd.service", TEXTS, PYTHON)
    assert "@" not in unit.replace("@privileged @resources", "").replace("@system-service", "")
    assert "Requires=capd.socket" in unit
    assert programs_of(unit) == [PYTHON, PYTHON, Path("/bin/kill")]
    assert f"\nExecStart={PYTHON} -I " in unit


def test_the_unit_of_a_namespace_is_the_same_but_for_what_it_says_itself() -> None:
    base, unit = (render(name, TEXTS, PYTHON) for name in ("capd.service", "capd-netns@.service"))
    own = TEXTS["capd-netns@.service"].partition("@capd.service@\n")[2].replace("@PYTHON@", str(PYTHON))
    assert unit.endswith(own)
    rest = unit.removesuffix(own)
    assert base.replace("capd.socket", "capd-netns@%i.socket").partition("\n")[2] in rest
    assert programs_of(unit) == [PYTHON, PYTHON, Path("/bin/kill")] * 2


def test_a_file_that_is_ours_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "capd.socket"
    check_free(path)
    path.write_text(render("capd.socket", TEXTS, PYTHON))
    assert is_ours(path)
    check_free(path)


@pytest.mark.parametrize("target", ["/dev/null", "/nonexistent"])
def test_a_link_in_the_way_is_not_replaced(tmp_path: Path, target: str) -> None:
    (tmp_path / "capd.service").symlink_to(target)  # to /dev/null: the administrator has masked it
    with pytest.raises(InstallationError):
        check_free(tmp_path / "capd.service")


def test_a_file_in_the_way_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "capd.service").write_text("[Unit]\n")
    with pytest.raises(InstallationError):
        check_free(tmp_path / "capd.service")


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_what_is_written_is_at_no_time_others_to_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    """It is made with the mode that it has in the end."""

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a mode is changed afterwards")

    for name in ("chmod", "fchmod", "lchmod"):
        monkeypatch.setattr(f"os.{name}", forbidden, raising=False)

    def make(_: argparse.Namespace) -> list[str]:
        write(tmp_path / "tmpfiles.d" / "capd.conf", "d /run/capd\n")
        return []

    before = os.umask(umask)
    try:
        assert installation._command(argparse.ArgumentParser(), make, []) == 0
    finally:
        os.umask(before)
    path = tmp_path / "tmpfiles.d" / "capd.conf"
    assert path.read_text() == "d /run/capd\n"
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path)] == [0o755, 0o644]
    assert list(path.parent.iterdir()) == [path]


def test_what_somebody_has_open_for_writing_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "capd.service"
    path.write_text("[Service]\n")
    path.chmod(0o666)
    os.chown(path, 23_481, -1)
    with path.open("a") as theirs:
        write(path, "[Unit]\n")
        theirs.write("ExecStartPre=/bin/sh\n")
    assert path.read_text() == "[Unit]\n"
    assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (0, 0o644)


def test_of_a_link_to_a_directory_the_link_is_removed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "capd.toml").touch()
    (tmp_path / "capd").symlink_to("elsewhere")
    installation._remove_tree(tmp_path / "capd")
    assert [path.name for path in tmp_path.rglob("*")] == ["elsewhere", "capd.toml"]
    installation._remove_tree(tmp_path / "elsewhere")
    assert list(tmp_path.iterdir()) == []


# The commands ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [installation.install, installation.uninstall])
def test_who_is_not_root_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: object
) -> None:
    assert callable(command)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert command([]) == 1
    assert "sudo" in capsys.readouterr().err
