"""What is refused before anything is written, and how files are made; neither needs a service manager."""

import stat
from pathlib import Path

import pytest

from capd import installation, placement
from capd.installation import InstallationError, check_free, find_template, is_ours, python_of, render
from capd.placement import PlacementError, find_fault

TEMPLATES = Path(__file__).parents[2] / "systemd"
NAMES = ("capd.service", "capd.socket", "sysusers.d/capd.conf", "tmpfiles.d/capd.conf")
PYTHON = Path("/opt/capd/bin/python")
FOR_ROOT_ALONE = stat.S_IFDIR | 0o755


# Where the service may run from ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/opt/capd/bin/python", "/usr/bin/python3.11", "/homes/capd", "/usr/local/lib"])
def test_places_of_root_that_the_unit_sees_are_good(path: str) -> None:
    assert find_fault(Path(path), 0, FOR_ROOT_ALONE) is None


@pytest.mark.parametrize("path", ["/home/a/venv", "/root/venv", "/run/user/1000/v", "/tmp/venv", "/var/tmp/venv"])
def test_places_that_the_unit_does_not_see_are_refused(path: str) -> None:
    assert find_fault(Path(path), 0, FOR_ROOT_ALONE) is not None


@pytest.mark.parametrize("name", ["a b", "100%", "a\nb", "$HOME", '"', "ü"])
def test_names_that_a_unit_file_cannot_take_are_refused(name: str) -> None:
    assert find_fault(Path("/opt") / name, 0, FOR_ROOT_ALONE) is not None


def test_what_is_not_roots_is_refused() -> None:
    assert find_fault(Path("/opt/capd"), 1000, FOR_ROOT_ALONE) is not None


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777, 0o2775])
def test_what_others_may_write_to_is_refused(mode: int) -> None:
    assert find_fault(Path("/opt/capd"), 0, stat.S_IFDIR | mode) is not None


@pytest.mark.parametrize("mode", [stat.S_IFDIR | 0o700, stat.S_IFDIR | 0o754, stat.S_IFREG | 0o751])
def test_what_the_services_user_cannot_get_at_is_refused(mode: int) -> None:
    assert find_fault(Path("/opt/capd"), 0, mode) is not None


def test_a_link_is_as_good_as_its_place_and_its_end(tmp_path: Path) -> None:
    environment, elsewhere = tmp_path / "environment", tmp_path / "elsewhere"
    environment.mkdir()
    elsewhere.mkdir()
    (elsewhere / "python").touch()
    (environment / "python").symlink_to(elsewhere / "python")
    both = {environment, environment / "python", elsewhere, elsewhere / "python"}
    assert placement.places_on_the_way(environment / "python") == both | {tmp_path, *tmp_path.parents}


def test_every_place_on_the_way_is_checked() -> None:
    placement.check([Path("/usr/bin/env")])
    with pytest.raises(PlacementError):
        placement.check([Path("/usr/bin/env"), Path("/tmp")])


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
    unit = render((TEMPLATES / "capd.service").read_text(), PYTHON)
    assert "@PYTHON@" not in unit
    assert python_of(unit) == PYTHON
    assert f"\nExecStart={PYTHON} -I " in unit


def test_a_file_that_is_ours_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "capd.socket"
    check_free(path)
    path.write_text(render("[Socket]\n", PYTHON))
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


# The commands ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [installation.install, installation.uninstall])
def test_who_is_not_root_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: object
) -> None:
    assert callable(command)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert command([]) == 1
    assert "sudo" in capsys.readouterr().err
