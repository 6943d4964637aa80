"""A machine that runs systemd, with capd in an environment of its own: booted for the tests, and gone with them.

``with-systemd`` boots it in namespaces. On a machine that may be thrown away, and runs systemd itself, say
``CAPD_TEST_MACHINE=this``: then the service is installed there, and removed again. The checkout must be where the
hardened unit sees its .venv, such as in /opt.
"""

import contextlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from tests.support.attack import PATIENCE_S, eventually
from tests.support.daemon import is_spawner

_CHECKOUT = Path(__file__).parents[2]
_PACKAGES = Path(sysconfig.get_path("purelib"))
ENVIRONMENT = Path("/opt/capd")
#: What the environment imports beside capd: packages of the test environment, where the hardened unit sees them.
_DEPENDENCIES = Path("/opt/capd-dependencies")
_WHEELS = Path("/opt/capd-wheels")
#: Installing files, enabling a unit, starting a daemon: each takes well below a second.
_COMMAND_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Machine:
    """The machine, by the process id of its systemd."""

    process_id: int
    wheel: Path
    dependencies: Path

    def path(self, path: Path | str) -> Path:
        """Return how one of its files is reached from here."""
        return Path(f"/proc/{self.process_id}/root", str(path).lstrip("/"))

    def command(self, *words: object, user: str | None = None) -> list[str]:
        """Return the command line that runs something there, as root or as a user after login."""
        enter = ["nsenter", f"--target={self.process_id}", *"--mount --uts --ipc --net --pid --cgroup".split()]
        login = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--reset-env"] if user else []
        clean = [
            "env",
            "-i",
            "HOME=/root",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ]
        return [*enter, "--", *clean, *login, *map(str, words)]

    def done(self, *words: object, user: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run something to its end, whatever that is."""
        return subprocess.run(
            self.command(*words, user=user),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )

    def run(self, *words: object, user: str | None = None) -> str:
        """Run something that must succeed; return its output."""
        done = self.done(*words, user=user)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def show(self, name: str, unit: str = "capd.service") -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def daemon(self) -> int:
        """Return the process id, as it is there, of the daemon; 0 where none runs."""
        return int(self.show("MainPID"))

    def _children(self) -> list[int]:
        tasks = self.path(f"/proc/{self.daemon()}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]

    def workers(self) -> list[int]:
        """Return the process ids, as they are there, of the daemon's workers that have not ended."""
        return [child for child in self._children() if self._is_worker(child)]

    def _is_worker(self, process_id: int) -> bool:
        try:
            status = self.status_of(process_id)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return status["Name"] == "capd-worker" and not status["State"].startswith("Z")

    def spawner(self) -> int:
        """Return the process id, as it is there, of what forks its workers; 0 where none runs."""
        return next((child for child in self._children() if is_spawner(child, self.path("/"))), 0)

    def status_of(self, process_id: int) -> dict[str, str]:
        """Return the fields of /proc/PID/status, of a process id as it is there."""
        lines = self.path(f"/proc/{process_id}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def outside(self, process_id: int) -> int:
        """Return how a process of the machine is called here."""
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):  # it has ended, or is no business of ours
                fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
                namespace = status.with_name("ns") / "pid"
                is_there = namespace.readlink() == Path(f"/proc/{self.process_id}/ns/pid").readlink()
                if is_there and int(fields["NSpid"].split()[-1]) == process_id:
                    return int(status.parent.name)
        raise AssertionError(f"there is no process {process_id}")

    def configure(self, *lines: str) -> None:
        """Have these lines, and no others, in a drop-in of the service; it is started anew with them."""
        drop_in = self.path("/etc/systemd/system/capd.service.d/test.conf")
        if lines:
            drop_in.parent.mkdir(exist_ok=True)
            drop_in.write_text("\n".join(("[Service]", *lines, "")))
        else:
            drop_in.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                drop_in.parent.rmdir()
        self.run("systemctl", "daemon-reload")
        self.run("systemctl", "restart", "capd.service")

    def make_environment(self, path: Path = ENVIRONMENT) -> None:
        """Make a virtual environment with capd in it."""
        self.run("/usr/bin/python3", "-m", "venv", "--without-pip", path)
        self.install_wheel(path / "bin" / "python")

    def install_wheel(self, python: Path, *options: str) -> None:
        """Install the wheel for an interpreter, with the way to what it imports."""
        offline = "--quiet --no-deps --no-index --root-user-action=ignore".split()
        self.run(sys.executable, "-m", "pip", "--python", python, "install", *offline, *options, self.wheel)
        package = self.run(python, "-c", "import capd; print(capd.__file__)").strip()
        site = self.path(package).parents[1]
        (site / "capd-dependencies.pth").write_text(f"{self.dependencies}\n")

    def files(self, *directories: str) -> set[str]:
        """Return every path below some directories, but for what systemd and its journal keep there."""
        kept = ("/run/systemd", "/run/with-systemd", "/run/log", "/run/user", "/var/log", "/var/tmp")
        pruned = " -o ".join(f"-path {path}" for path in kept).split()
        return set(self.run("find", *directories, "(", *pruned, ")", "-prune", "-o", "-print").splitlines())


class Capturing:
    """``capctl capture --json`` of a user, while it runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def signal(self, number: int) -> None:
        """Send a signal to it and not only to nsenter, its parent."""
        os.killpg(self.process.pid, number)

    def next(self, kind: str) -> dict[str, Any]:
        """Return the next event of a kind."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == kind:
                return event
        raise AssertionError(f"no event {kind!r} came")


@contextlib.contextmanager
def capturing(machine: Machine, user: str, *options: object, interface: str = "rx") -> Generator[Capturing, None, None]:
    """Have a capture of a user, from its first file on."""
    words = ("capctl", "capture", "--json", "-i", interface, "--update-interval", "0.02", *options)
    with subprocess.Popen(
        machine.command(*words, user=user),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        capture = Capturing(process)
        try:
            yield capture
        finally:
            if process.poll() is None:
                capture.signal(signal.SIGKILL)


def _dependencies() -> dict[Path, Path]:
    """Return where all is that capd imports, and where in the machine.

    Not the whole test environment, which is five times as large: ``capd install-service`` looks at every file.
    """
    names: set[str] = set()
    waiting = [Requirement("capd[metrics]")]
    while waiting:
        wanted = waiting.pop()
        if wanted.name not in names:
            names.add(wanted.name)
            lines = map(Requirement, importlib.metadata.requires(wanted.name) or ())
            extras = (*wanted.extras, "")
            waiting += [
                each for each in lines if each.marker is None or any(each.marker.evaluate({"extra": x}) for x in extras)
            ]
    files = (file for name in names - {"capd"} for file in importlib.metadata.files(name) or ())
    entries = {file.parts[0] for file in files} - {"..", "__pycache__"}
    return {_PACKAGES / entry: _DEPENDENCIES / entry for entry in entries}


@contextlib.contextmanager
def booted(wheel: Path) -> Generator[Machine, None, None]:
    """Have a machine with an environment in which capd is installed."""
    if os.environ.get("CAPD_TEST_MACHINE") == "this":
        machine = Machine(1, wheel, _PACKAGES)
        machine.make_environment()
        try:
            yield machine
        finally:
            machine.run(ENVIRONMENT / "bin" / "capd", "uninstall-service", "--purge")
            machine.run("rm", "-r", ENVIRONMENT)
        return
    binds = {_CHECKOUT: _CHECKOUT, wheel.parent: _WHEELS, **_dependencies()}
    with subprocess.Popen(
        [
            Path(__file__).with_name("with-systemd"),
            # All tests of a module take two minutes, and several times as long on a machine that others keep busy.
            "--timeout=3600",
            *(f"--bind-ro={outside}:{inside}" for outside, inside in binds.items()),
            "--",
            # Until we close its standard input, or end.
            *("sh", "-c", "echo $WITH_SYSTEMD_PID; exec cat"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "systemd was not booted: see above"
        machine = Machine(int(line), _WHEELS / wheel.name, _DEPENDENCIES)
        machine.make_environment()
        yield machine
        process.communicate(timeout=PATIENCE_S)


def await_daemon_after(machine: Machine, before: Sequence[int]) -> int:
    """Wait until a daemon runs that is none of these; return its process id."""
    eventually(lambda: machine.daemon() not in (0, *before), "another daemon runs")
    return machine.daemon()
