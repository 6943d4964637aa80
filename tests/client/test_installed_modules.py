"""Capture modules of other packages: the example of the documentation as a wheel, and packages that are broken."""

import os
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from capd_client import InterfaceError, SourceError, UnsupportedError, read
from capd_client.modules.contract import Capture, Module
from tests.cli.calling import called
from tests.client.conftest import Bench
from tests.client.helpers import PATIENCE_S, wait_until
from tests.client.test_extcap import processes_with
from tests.client.test_modules import written
from tests.documentation.pages import CHECKOUT

#: Modules of packages that do something wrong, by the prefix of their devices.
BROKEN = {
    "unimportable": "raise RuntimeError('no \\x1b good')",
    "missing": "",
    "disowning": "class M(B):\n    def owns(self, name): return False\nMODULE = M()",
    "uncreatable": "class M(B):\n    def create(self, name): return 1 / 0\nMODULE = M()",
    "crashing": "class C(D):\n    def read(self, most): return 1 / 0\nclass M(B):\n    kind = C\nMODULE = M()",
    "unpollable": "class C(D):\n    def poll_s(self): return None\nclass M(B):\n    kind = C\nMODULE = M()",
    "filtering": "MODULE = B()",
}
COMMON = """
import time
from capd_client.modules.contract import Capture, Module, Packet
class D(Capture):
    def activate(self, options): return 147
    def read(self, most): return [Packet(time.time_ns(), b"x", 1)]
    def poll_s(self): return 0.01
    def close(self): pass
class B(Module):
    kind = D
    def owns(self, name): return True
    def create(self, name): return self.kind()
print("what is printed is no answer")
"""


def blocks(language: str) -> list[str]:
    """Return the samples of the page in a language."""
    text = (CHECKOUT / "docs" / "modules.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the example, installed from its wheel, and with the packages that are broken."""
    project, wheels, target = (tmp_path_factory.mktemp(name) for name in ("project", "wheels", "target"))
    (toml,), (python,) = blocks("ini"), blocks("python")
    (project / "pyproject.toml").write_text(toml)
    (project / "capd_loadavg.py").write_text(python)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *offline, "--wheel-dir", wheels, project], check=True)
    (wheel,) = wheels.iterdir()
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", target, wheel], check=True)
    for name, code in BROKEN.items():
        about = target / f"{name}-1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (about / "entry_points.txt").write_text(f"[capd.sources]\n{name} = capd_{name}:MODULE\n")
        if name != "missing":
            (target / f"capd_{name}.py").write_text(COMMON + code)
    return target


@pytest.fixture
def packages(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path, None, None]:
    """The packages are there for this process, and for those that it starts."""
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.syspath_prepend(str(installed))
    yield installed
    wait_until(lambda: not [each for each in processes_with('"loadavg"') if is_child(each)], "all have ended")


def is_child(process: int) -> bool:
    """Whether a process has been started by this one, as far as its environment says."""
    try:
        return os.environ["PYTHONPATH"].encode() in Path(f"/proc/{process}/environ").read_bytes()
    except OSError:
        return False


def test_the_example_is_captured_from(bench: Bench, packages: Path) -> None:
    with bench.session(interfaces=["loadavg", bench.interface], max_packet_count=5) as capture:
        capture.wait(PATIENCE_S)
    texts = [bytes(each.data) for each in read(bench.savefile)]
    assert len(texts) == 5
    assert all(re.fullmatch(rb"([0-9.]+ ){3}[0-9]+/[0-9]+ [0-9]+\n", each) for each in texts)
    times = [each.timestamp_ns for each in read(bench.savefile)]
    assert times == sorted(times)
    assert times[-1] - times[0] >= 300_000_000


def test_the_example_is_listed_and_described(packages: Path) -> None:
    done = called("interfaces", "--modules")
    assert [line.split() for line in done.stdout.splitlines() if "loadavg" in line] == [
        ["loadavg", "module", "Load", "of", "the", "machine"]
    ]
    assert "Traceback" not in done.stderr
    assert called("linktypes", "loadavg").stdout.splitlines()[1].split()[:2] == ["147", "DLT_147"]
    assert "loadavg" not in called("interfaces").stdout


def test_what_the_example_cannot_do_is_refused(bench: Bench, packages: Path) -> None:
    with pytest.raises(UnsupportedError, match="loadavg is no radio"):
        bench.session(interfaces="loadavg", monitor_mode=True)
    with pytest.raises(InterfaceError, match="no module has a device loadavg7"):
        bench.session(interfaces="loadavg7")


REFUSED = {
    "unimportable": r"unimportable cannot be imported: RuntimeError: no \\x1b good$",
    "missing": "missing cannot be imported: ModuleNotFoundError: No module named 'capd_missing'$",
    "disowning": "no module has a device disowning$",
    "uncreatable": "module of uncreatable has failed: ZeroDivisionError: division by zero$",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_package_refuses_the_capture_in_one_sentence(bench: Bench, packages: Path, name: str) -> None:
    with pytest.raises((InterfaceError, SourceError), match=REFUSED[name]):
        bench.session(interfaces=name)
    done = called("capture", "-i", name, "-w", str(bench.savefile))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done


@pytest.mark.parametrize(
    ("name", "words"), [("crashing", "has failed: ZeroDivisionError"), ("unpollable", "neither a descriptor")]
)
def test_a_package_that_fails_later_fails_the_capture(bench: Bench, packages: Path, name: str, words: str) -> None:
    capture = bench.session(interfaces=name)
    with pytest.raises(SourceError, match=words) as raised, capture:
        list(capture)
    assert raised.value.failure is not None
    assert raised.value.failure.interface == name


def test_packages_are_not_imported_for_a_network_interface(bench: Bench, packages: Path) -> None:
    before = set(sys.modules)
    with bench.session() as capture:
        bench.send(1)
        wait_until(lambda: written(capture) == 1, "it is there")
    assert not any(name.startswith("capd_") and name not in before for name in sys.modules if "." not in name)


def test_methods_that_a_module_leaves_as_they_are_say_what_is_not_possible() -> None:
    class Least(Capture):
        def activate(self, options: object) -> int:
            return 147

        def read(self, max_packets: int) -> list[object]:  # type: ignore[override]
            return []

        def close(self) -> None:
            pass

    capture = Least()
    assert (capture.fileno(), capture.poll_s(), capture.statistics(), capture.has_monitor_mode()) == (None,) * 3 + (
        False,
    )
    assert capture.set_filter("tcp") is False
    for refused in (lambda: capture.inject(b""), lambda: capture.set_blocking(True), lambda: capture.set_link_type(1)):
        with pytest.raises(Exception, match=r"cannot|never waits"):
            refused()
    assert Module.devices(object()) == ()  # type: ignore[arg-type]
