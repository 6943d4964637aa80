"""Every test runs in a network namespace that this test run makes: the machine's own interfaces are not there.

Accounts are its own too (``tests.support.accounts``).
"""

import gc
import itertools
import os
import signal
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.accounts import own_accounts
from tests.support.daemon import Daemon, MakeDir, forked_by, running_daemon
from tests.support.flaky import (
    pytest_runtest_logreport,
    pytest_runtest_makereport,
    pytest_runtest_protocol,
    pytest_terminal_summary,
)
from tests.support.namespace import enter_private_network_namespace, veth_pair
from tests.support.starter import running_starter

__all__ = [
    "pytest_runtest_logreport",
    "pytest_runtest_makereport",
    "pytest_runtest_protocol",
    "pytest_terminal_summary",
]

# How long an example takes says how much else the machine does.
settings.register_profile("capd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("capd")

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the tests of the service come first: they share a machine, and the others would wait for them at the end."""
    items.sort(key=lambda item: "systemd" not in item.path.parts)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Have no garbage be looked for among what is collected: next to all of it stays until the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> None:
    """Have programs be ended by what a terminal sends, which a shell ignores in what it starts in the background."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(scope="session", autouse=True)
def _private_network_namespace() -> Generator[None, None, None]:
    if os.geteuid() != 0:
        pytest.exit("the tests make network namespaces, users and processes: run them as root", returncode=1)
    enter_private_network_namespace()
    with own_accounts(), running_starter() as starter, forked_by(starter):
        yield


@pytest.fixture(autouse=True)
def _ordinary_priority() -> Generator[None, None, None]:
    """No test leaves its process with what others leave of the processors: the next ones would be late for all."""
    yield
    assert os.sched_getscheduler(0) == os.SCHED_OTHER, "it has stepped back for good (capd_client.cli.files.ring)"


@pytest.fixture(scope="session")
def open_dir() -> Generator[Path, None, None]:
    """A directory that every user may enter and write to; pytest's own are for its user alone."""
    with tempfile.TemporaryDirectory(prefix="capd-tests-") as name:
        directory = Path(name)
        directory.chmod(0o1777)
        yield directory


@pytest.fixture
def user_dir(open_dir: Path) -> Path:
    """A new directory below it, for everybody as well."""
    directory = open_dir / f"test{next(_numbers)}"
    directory.mkdir()
    directory.chmod(0o1777)
    return directory


@pytest.fixture(scope="session")
def make_dir(open_dir: Path) -> MakeDir:
    """Makes a directory that every user may enter, for a daemon of several tests, of another name each time.

    A worker of pytest-xdist may come to a module again, with others in between: then its fixtures are made again.
    """

    def make(stem: str) -> Path:
        directory = open_dir / f"{stem}{next(_numbers)}"
        directory.mkdir()
        directory.chmod(0o755)
        return directory

    return make


@pytest.fixture
def veth() -> Generator[tuple[str, str], None, None]:
    """A pair of connected interfaces: send on the first, capture on the second."""
    number = next(_numbers)
    names = f"tx{number}", f"rx{number}"
    with veth_pair(*names):
        yield names


@pytest.fixture(scope="session")
def daemon(open_dir: Path) -> Generator[Daemon, None, None]:
    """One daemon for all tests that do not harm it; root and group 4242 may capture."""
    directory = open_dir / "daemon"
    directory.mkdir(mode=0o755)
    with running_daemon(directory) as running:
        yield running
        assert running.process.poll() is None, f"capd ended during the tests; its log:\n{running.log}"
        assert running.workers() == []
