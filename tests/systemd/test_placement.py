"""Where a service may run from: a tree like an environment, and every way in which somebody else could change it."""

import os
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from capd.admin import installation, placement
from capd.admin.placement import PlacementError, find_obstacle
from capd.linux import trust

#: A user who has nothing to do with it.
MALLORY = 23_461
PACKAGES = "current/lib/python3/site-packages"
FILES = (
    "environment/pyvenv.cfg",
    f"{PACKAGES}/capd/policy/rules.py",
    f"{PACKAGES}/capd/__pycache__/policy.cpython-311.pyc",
    f"{PACKAGES}/capd/worker/loop.py",
    f"{PACKAGES}/dependency/_core.cpython-311.so",
    f"{PACKAGES}/dependencies.pth",
    "elsewhere/linked/module.py",
    "elsewhere/sitecustomize.py",
)


@pytest.fixture
def top() -> Generator[Path, None, None]:
    """A directory with an environment in it, and what it links to: in /run, since /tmp is everybody's to write to.

    ``current`` leads to the environment.
    """
    with tempfile.TemporaryDirectory(prefix="capd-tests-", dir="/run") as name:
        top = Path(name)
        top.chmod(0o755)
        (top / "current").symlink_to("environment")
        (top / "environment").mkdir()
        for file in FILES:
            path = top / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        packages = top / PACKAGES
        (packages / "linked").symlink_to(top / "elsewhere" / "linked")
        (packages / "sitecustomize.py").symlink_to("../../../../elsewhere/sitecustomize.py")
        (packages / "dangling").symlink_to("nothing")
        (packages / "circle").symlink_to("circle")
        (top / "environment" / "lib64").symlink_to("lib")
        (top / "environment" / "bin").mkdir()
        (top / "environment" / "bin" / "python").symlink_to("/usr/bin/env")
        yield top


def check(top: Path) -> None:
    placement.check([top / "current" / "bin" / "python", top / "current", top / PACKAGES, top / "current" / "lib.zip"])


def given_away(path: str) -> Callable[[Path], Path]:
    def change(top: Path) -> Path:
        os.chown(top / path, MALLORY, -1, follow_symlinks=False)
        return top / path

    return change


def opened_up(path: str, mode: int) -> Callable[[Path], Path]:
    def change(top: Path) -> Path:
        (top / path).chmod(mode)
        return top / path

    return change


def unpacked_with_names_of_its_own(top: Path) -> Path:
    path = top / PACKAGES / "two words; rm -r $HOME.py"
    path.touch()
    os.chown(path, MALLORY, -1)
    return path


CHANGES: dict[str, Callable[[Path], Path]] = {
    "a module of another user": given_away(f"{PACKAGES}/capd/policy/rules.py"),
    "a module that everybody may write to": opened_up(f"{PACKAGES}/capd/policy/rules.py", 0o666),
    "a module that a group may write to": opened_up(f"{PACKAGES}/capd/policy/rules.py", 0o664),
    "a package's directory": given_away(f"{PACKAGES}/capd/worker"),
    "a dependency's directory": given_away(f"{PACKAGES}/dependency"),
    "an extension module": opened_up(f"{PACKAGES}/dependency/_core.cpython-311.so", 0o757),
    "a .pth file": given_away(f"{PACKAGES}/dependencies.pth"),
    "pyvenv.cfg": given_away("environment/pyvenv.cfg"),
    "a directory of compiled modules": given_away(f"{PACKAGES}/capd/__pycache__"),
    "a compiled module": given_away(f"{PACKAGES}/capd/__pycache__/policy.cpython-311.pyc"),
    "a directory of packages that is like /tmp": opened_up(PACKAGES, 0o1777),
    "a directory of programs": opened_up("environment/bin", 0o775),
    "a link to the interpreter": given_away("environment/bin/python"),
    "a link in the middle of a path": given_away("current"),
    "a link to a package": given_away(f"{PACKAGES}/linked"),
    "a link that leads nowhere": given_away(f"{PACKAGES}/dangling"),
    "a directory that a link leads to": given_away("elsewhere/linked"),
    "a module in a directory that a link leads to": given_away("elsewhere/linked/module.py"),
    "a module that a link leads to": given_away("elsewhere/sitecustomize.py"),
    "a directory on the way that a link leads": opened_up("elsewhere", 0o777),
    "the directory that has it all": given_away("."),
    "a name that the shell would take apart": unpacked_with_names_of_its_own,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_another_user_may_change_is_refused_until_the_command_is_run_that_is_told(top: Path, change: str) -> None:
    check(top)
    changed = CHANGES[change](top)
    with pytest.raises(PlacementError) as raised:
        check(top)
    # By its own path, links resolved.
    assert str(changed.parent.resolve() / changed.name) in str(raised.value)
    command = re.search(r": '(.+)' if what is there can be trusted", str(raised.value))
    assert command is not None
    subprocess.run(["sh", "-c", command[1]], check=True)
    check(top)


def test_a_place_that_is_not_there_yet_is_as_good_as_who_may_make_it(top: Path) -> None:
    place = top / "python3.zip"
    placement.check([place])
    top.chmod(0o775)
    with pytest.raises(PlacementError):
        placement.check([place])


def test_what_is_above_a_link_is_what_is_above_its_end(top: Path) -> None:
    """For the kernel, and so for us: ``way/..`` is not where ``way`` is."""
    (top / "way").symlink_to("elsewhere/linked")
    path = top / "way" / ".." / "sitecustomize.py"
    places = [str(place.relative_to(top)) for place, _ in trust.way(path) if place.is_relative_to(top)]
    assert places == [".", "way", "elsewhere", "elsewhere/linked", "elsewhere/sitecustomize.py"]


def test_a_whole_tree_is_mended_by_one_command(top: Path) -> None:
    for path in (top / "environment", *(top / "environment").rglob("*")):
        os.chown(path, MALLORY, -1, follow_symlinks=False)
    with pytest.raises(PlacementError, match=re.escape(f"'chown -R root {top}/environment'")):
        placement.check([top / "environment"])


def test_what_leads_out_of_a_tree_is_told_with_the_link(top: Path) -> None:
    (top / PACKAGES / "everything").symlink_to("/tmp")
    with pytest.raises(PlacementError) as raised:
        check(top)
    assert "others may write to /tmp" in str(raised.value)
    assert "site-packages/everything leads there" in str(raised.value)
    assert "chmod -R" not in str(raised.value)


# What the service sees, and can get at -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/opt/capd/bin/python", "/usr/bin/python3.11", "/homes/capd", "/usr/local/lib"])
def test_places_that_the_unit_sees_are_good(path: str) -> None:
    assert find_obstacle(Path(path), stat.S_IFDIR | 0o755) is None


@pytest.mark.parametrize("path", ["/home/a/venv", "/root/venv", "/run/user/1000/v", "/tmp/venv", "/var/tmp/venv"])
def test_places_that_the_unit_does_not_see_are_refused(path: str) -> None:
    assert find_obstacle(Path(path), stat.S_IFDIR | 0o755) is not None


def test_a_link_is_as_good_as_its_end(top: Path) -> None:
    (top / "python").symlink_to("/tmp")
    with pytest.raises(PlacementError, match="cannot see what is in /tmp"):
        placement.check([top / "python"])


@pytest.mark.parametrize("mode", [stat.S_IFDIR | 0o700, stat.S_IFDIR | 0o754, stat.S_IFREG | 0o751])
def test_what_the_services_user_cannot_get_at_is_refused(mode: int) -> None:
    assert find_obstacle(Path("/opt/capd"), mode) is not None


@pytest.mark.parametrize("name", ["a b", "100%", "a\nb", "$HOME", '"', "ü"])
def test_names_that_a_unit_file_cannot_take_are_refused(name: str) -> None:
    with pytest.raises(PlacementError):
        placement.check_interpreter(Path("/opt") / name / "python")


# What a service imports ----------------------------------------------------------------------------------------------


def test_all_that_the_processes_of_the_service_load_is_looked_at() -> None:
    python = Path(sys.executable)
    imports = {str(path) for path in installation._imports_of(python)}
    assert sys.prefix in imports, "a virtual environment"
    assert sys.base_prefix not in imports, "where all else of the machine is"
    isolated = subprocess.run([python, "-I", "-c", "import sys; print(*sys.path)"], capture_output=True, check=True)
    assert imports.issuperset(isolated.stdout.decode().split())
    for module in ("capd/__main__.py", "capd/worker/loop.py", "trio/__init__.py", "numpy/__init__.py"):
        assert any(path.endswith(f"/{module}") for path in imports), module
    for library in ("libpcap.so", "libc.so", "_multiarray_umath."):
        assert any(library in Path(path).name for path in imports), library


def test_all_that_a_unit_runs_is_known() -> None:
    unit = (
        "[Service]\nExecStart=/opt/capd/bin/python -I\nExecReload=-/bin/kill -HUP\n#ExecStop=/no\nExecStopPost=+!/a b\n"
    )
    assert installation.programs_of(unit) == [Path("/opt/capd/bin/python"), Path("/bin/kill"), Path("/a")]
