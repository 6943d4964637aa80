"""A test is tried again where it has missed a bound of time, and nothing else: once, and not in secret."""

import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_CONFTEST = """
from tests.support.flaky import (
    pytest_runtest_logreport, pytest_runtest_makereport, pytest_runtest_protocol, pytest_terminal_summary
)
def pytest_configure(config):
    config.addinivalue_line("markers", "alone: for these tests")
"""
_TESTS = """
import pytest
from tests.support.bounds import check_bound

attempts = 0
pytestmark = pytest.mark.alone

@pytest.fixture(scope="module")
def lasting():
    yield 1

@pytest.fixture
def attempt(lasting):
    global attempts
    attempts += 1
    yield attempts
    print(f"attempt {attempts} is over")

def in_time(attempt):
    check_bound(True, "never")

def once(attempt):
    check_bound(attempt > 1, f"missed in attempt {attempt}")

def twice(attempt):
    check_bound(attempt > 2, f"missed in attempt {attempt}")

def wrong(attempt):
    assert attempt > 1, f"wrong in attempt {attempt}"

def missed_and_wrong(attempt, request):
    def fail():
        assert attempt > 1
    request.addfinalizer(fail)
    once(attempt)

def wrong_to_begin_with(attempt, request):
    raise AssertionError("not again")

@pytest.fixture
def broken(attempt):
    check_bound(attempt > 1, "missed before it began")

def missed_before(broken):
    pass

NAMED
"""


def ran(directory: Path, test: str, *options: str) -> tuple[int, list[str]]:
    """Run one of the tests; return pytest's exit status and its lines."""
    (directory / "conftest.py").write_text(_CONFTEST)
    (directory / "test_it.py").write_text(_TESTS.replace("NAMED", test))
    command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={directory}", *options]
    done = subprocess.run(
        [*command, directory],
        # Without plugins but those that are named: they take longer to import than all of the rest takes.
        env={"PYTHONPATH": str(_ROOT), "PATH": "/usr/bin:/bin", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    return done.returncode, done.stdout.splitlines()


def flaky_lines(lines: list[str]) -> list[str]:
    return [line for line in lines if "= flaky: test_it.py::test_it =" in line]


@pytest.mark.parametrize("options", [(), ("-p", "xdist", "--numprocesses=1")], ids=["here", "in a worker"])
def test_one_that_missed_its_bound_once_passes_and_is_named(tmp_path: Path, options: tuple[str, ...]) -> None:
    status, lines = ran(tmp_path, "test_it = once", *options)
    assert (status, len(flaky_lines(lines))) == (0, 1)
    assert any("TimeBoundMissed: missed in attempt 1" in line for line in lines)
    assert "1 passed" in lines[-1]


def test_one_that_missed_it_twice_fails(tmp_path: Path) -> None:
    status, lines = ran(tmp_path, "test_it = twice")
    assert (status, len(flaky_lines(lines))) == (1, 1)
    assert any("TimeBoundMissed: missed in attempt 2" in line for line in lines)
    assert "1 failed" in lines[-1]


@pytest.mark.parametrize("test", ["wrong", "missed_and_wrong", "wrong_to_begin_with", "missed_before"])
def test_what_is_wrong_otherwise_is_not_tried_again(tmp_path: Path, test: str) -> None:
    status, lines = ran(tmp_path, f"test_it = {test}")
    assert (status, flaky_lines(lines)) == (1, [])
    assert not any("attempt 2" in line for line in lines)


def test_one_that_runs_beside_others_is_not_tried_again(tmp_path: Path) -> None:
    status, lines = ran(tmp_path, "del pytestmark\ntest_it = once")
    assert (status, flaky_lines(lines)) == (1, [])


def test_one_that_keeps_its_bound_is_not_named(tmp_path: Path) -> None:
    status, lines = ran(tmp_path, "test_it = in_time")
    assert (status, flaky_lines(lines)) == (0, [])
