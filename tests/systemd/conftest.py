"""A machine for all tests of the service."""

import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.daemon import REFUSED_CALL
from tests.support.namespace import network_namespace_of, veth_pair
from tests.systemd.machine import ENVIRONMENT, Machine, booted

#: Gone with the machine, and stronger than the unit; weaker than what a test says (Machine.configure).
_STRICT = Path("/run/systemd/system/capd.service.d/strict.conf")
_CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution as it is installed."""
    directory = tmp_path_factory.mktemp("wheel")
    options = "--quiet --no-deps --no-build-isolation --disable-pip-version-check --wheel-dir".split()
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, directory, _CHECKOUT], check=True)
    (built,) = directory.iterdir()
    return built


@pytest.fixture(scope="module")
def machine(wheel: Path) -> Generator[Machine, None, None]:
    """A machine with capd in /opt/capd, users, and a pair of interfaces: send on tx, capture on rx."""
    with booted(wheel) as machine, network_namespace_of(machine.process_id), veth_pair("tx", "rx"):
        for user in ("capd-alice", "capd-bob", "capd-stranger"):
            machine.run("useradd", "--create-home", user)
            machine.run("chmod", "700", f"/home/{user}")
        strict = machine.path(_STRICT)
        strict.parent.mkdir(parents=True)
        strict.write_text("[Service]\nEnvironment=CAPD_OPTIONS=--strict-workers\n")
        yield machine
        strict.unlink()
        strict.parent.rmdir()
        machine.done("systemctl", "stop", "capd.socket", "capd.service")  # if it is still installed
        log = machine.run("journalctl", "--unit=capd.service", "--output=cat", "--no-pager")
        assert REFUSED_CALL not in log, f"a worker made a system call that it may not:\n{log}"
        for user in ("capd-alice", "capd-bob", "capd-stranger"):
            machine.run("userdel", "--remove", user)


@pytest.fixture
def service(machine: Machine) -> Machine:
    """The machine with the service installed, enabled and started; capd-alice and capd-bob may capture."""
    if not machine.path("/etc/systemd/system/capd.service").exists():
        machine.run(ENVIRONMENT / "bin" / "capd", "install-service", "--now")
        for user in ("capd-alice", "capd-bob"):
            machine.run("usermod", "--append", "--groups", "capd", user)
    # Tests end the daemon more often than a service may fail in ten seconds.
    machine.run("systemctl", "reset-failed", "capd.service")
    machine.run("systemctl", "start", "capd.socket", "capd.service")
    return machine
