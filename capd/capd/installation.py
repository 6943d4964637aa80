"""``capd install-service`` and ``capd uninstall-service``: the environment that they run in, as a systemd service.

Files that they have made begin with a mark, and no other is ever replaced or removed.
"""

import argparse
import contextlib
import functools
import grp
import importlib.metadata
import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import capd
import capd_protocol
from capd import placement
from capd.version import SOFTWARE

_MARK = "# Made by 'capd install-service'; 'capd uninstall-service' removes it.\n"
#: Where the wheel puts the templates, below the environment (pyproject.toml).
_TEMPLATES = "share/capd/systemd/"
_UNIT = Path("/etc/systemd/system/capd.service")
#: Each template, and where it goes.
FILES = {
    "capd.service": _UNIT,
    "capd.socket": Path("/etc/systemd/system/capd.socket"),
    "sysusers.d/capd.conf": Path("/etc/sysusers.d/capd.conf"),
    "tmpfiles.d/capd.conf": Path("/etc/tmpfiles.d/capd.conf"),
}
_LINK = Path("/usr/local/bin/capctl")
#: Below the environment's root, and where everybody's man(1) looks.
_PAGES = ("share/man/man1/capctl.1", "share/man/man5/capd.toml.5", "share/man/man8/capd.8")
_EVERYBODYS_ROOT = Path("/usr/local")
#: Where everybody's shell looks; root's own may have the environment on its path just now.
_EVERYBODYS_PATH = "/usr/local/bin:/usr/bin:/bin"
#: As systemd-sysusers makes them.
_USER = _GROUP = "capd"
#: Made by systemd for the unit; they hold the administrator's configuration, and what the daemon keeps.
_KEPT = (Path("/etc/capd"), Path("/var/lib/capd"))


class InstallationError(Exception):
    """The service cannot be installed, or removed; the text says what to do."""


# Templates ---------------------------------------------------------------------------------------------------------


def find_template(name: str) -> Path:
    """Return where the installed distribution has a template.

    Raises:
        InstallationError: it has none.
    """
    for file in importlib.metadata.files("capd") or ():
        if file.as_posix().endswith(_TEMPLATES + name):
            return Path(str(file.locate())).resolve()
    raise InstallationError(f"this installation of capd has no {_TEMPLATES}{name}: install it anew")


def render(template: str, python: Path) -> str:
    """Return a template as it is installed: marked as ours, for this interpreter."""
    return _MARK + template.replace("@PYTHON@", str(python))


def python_of(unit: str) -> Path | None:
    """Return the interpreter that an installed unit runs."""
    for line in unit.splitlines():
        if line.startswith("ExecStart="):
            return Path(line.removeprefix("ExecStart=").split()[0])
    return None


# What is there ------------------------------------------------------------------------------------------------------


def is_ours(path: Path) -> bool:
    """Whether a file is there, and one that an installation has made."""
    return path.is_file() and path.read_bytes().startswith(_MARK.encode())


def check_free(path: Path) -> None:
    """Check that a file can be made, or is one of ours.

    Raises:
        InstallationError: something else is there.
    """
    if os.path.lexists(path) and not is_ours(path):
        raise InstallationError(f"{path} is there already and is not capd's own: move it away, or remove it")


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise InstallationError("only root may do this: run it with sudo")
    if not Path("/run/systemd/system").is_dir():  # sd_booted(3)
        raise InstallationError("systemd does not run here: have this machine's service manager run capd itself")


def _imports_from(python: Path) -> list[Path]:
    """Return where the service imports from: its interpreter's path, and the packages that it runs."""
    path = _run(str(python), "-I", "-c", r"import sys; print(*sys.path, sep='\n')").splitlines()
    packages = [package.__path__[0] for package in (capd, capd_protocol)]
    return [place for place in map(Path, [*path, *packages]) if place.exists()]


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        raise InstallationError(f"cannot run {command[0]}: {error.strerror}") from error
    except subprocess.CalledProcessError as error:
        raise InstallationError(f"{' '.join(command)}: {error.stderr.strip() or error.stdout.strip()}") from error
    return done.stdout


# The commands -------------------------------------------------------------------------------------------------------


def _install(options: argparse.Namespace) -> list[str]:
    _check_machine()
    python = Path(sys.executable)
    placement.check([python, *_imports_from(python)])
    for path in FILES.values():
        check_free(path)
    texts = {path: render(find_template(name).read_text(), python) for name, path in FILES.items()}
    _remove_links()
    for path, text in texts.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
    _run("systemd-sysusers", str(FILES["sysusers.d/capd.conf"]))
    _run("systemd-tmpfiles", "--create", str(FILES["tmpfiles.d/capd.conf"]))
    _run("systemctl", "daemon-reload")
    said = [f"{SOFTWARE} is installed as a service, which runs {python}"]
    if _make_link():
        said.append(f"{_LINK} is made")
    _link_pages()
    if options.now:
        _run("systemctl", "enable", "--now", "capd.socket")
        _run("systemctl", "try-restart", "capd.service")
        said.append("capd.socket is enabled and listens; the daemon starts with the first client")
    else:
        said.append("next: systemctl enable --now capd.socket; after an upgrade: systemctl try-restart capd")
    return [*said, f"who may capture: usermod -aG {_GROUP} NAME, who then logs in again"]


def _uninstall(options: argparse.Namespace) -> list[str]:
    _check_machine()
    installed = [path for path in FILES.values() if is_ours(path)]
    if _UNIT in installed:
        _run("systemctl", "disable", "--now", "capd.socket", "capd.service")
    _remove_links()
    for path in installed:
        path.unlink()
        with contextlib.suppress(OSError):  # others' files are in it
            path.parent.rmdir()
    with contextlib.suppress(OSError):  # it is gone, or a daemon that systemd did not start listens in it
        Path("/run/capd").rmdir()
    _run("systemctl", "daemon-reload")
    said = ["the service is removed" if installed else "no service was installed by capd"]
    left = _left()
    if options.purge:
        for name, remove in left.items():
            remove()
            said.append(f"{name} is removed")
    elif left:
        said.append(f"left: {', '.join(left)}; 'capd uninstall-service --purge' removes them too")
    return said


def _left() -> dict[str, Callable[[], object]]:
    """Return what outlasts the service, and how it is removed; the user before its group."""
    left: dict[str, Callable[[], object]] = {}
    with contextlib.suppress(KeyError):
        pwd.getpwnam(_USER)
        left[f"user {_USER}"] = functools.partial(_run, "userdel", _USER)
    with contextlib.suppress(KeyError):
        grp.getgrnam(_GROUP)
        left[f"group {_GROUP}"] = _remove_group
    kept = (*_KEPT, _UNIT.with_name(f"{_UNIT.name}.d"))  # the last has an administrator's drop-ins
    return left | {str(path): functools.partial(shutil.rmtree, path) for path in kept if path.is_dir()}


def _remove_group() -> None:
    # Where userdel finds no other members it has done this.
    with contextlib.suppress(KeyError):
        grp.getgrnam(_GROUP)
        _run("groupdel", _GROUP)


def _make_link() -> bool:
    """Have everybody's shell find capctl; return whether it needed a link."""
    if shutil.which(_LINK.name, path=_EVERYBODYS_PATH) or os.path.lexists(_LINK):
        return False
    _LINK.symlink_to(Path(sysconfig.get_path("scripts")) / _LINK.name)
    return True


def _link_pages() -> None:
    """Have everybody's man(1) find the manual of a virtual environment; a system-wide one it finds by itself."""
    if sys.prefix == sys.base_prefix:
        return
    for page in _PAGES:
        link = _EVERYBODYS_ROOT / page
        if not os.path.lexists(link):
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(sys.prefix) / page)


def _remove_links() -> None:
    """Remove the links to the environment whose service is installed, which may not be ours."""
    python = python_of(_UNIT.read_text()) if is_ours(_UNIT) else None
    if python is None:
        return
    targets = {_EVERYBODYS_ROOT / page: python.parents[1] / page for page in _PAGES}
    for link, target in {**targets, _LINK: python.with_name(_LINK.name)}.items():
        if link.is_symlink() and link.readlink() == target:
            link.unlink()
            if link != _LINK:
                with contextlib.suppress(OSError):  # others' are in it
                    link.parent.rmdir()


def _command(
    parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], list[str]], words: list[str]
) -> int:
    try:
        print(*command(parser.parse_args(words)), sep="\n")
    except (InstallationError, placement.PlacementError) as error:
        print(f"capd: {error}", file=sys.stderr)
        return 1
    return 0


def install(words: list[str]) -> int:
    """``capd install-service``: return 0 when it is installed, 1 when it is refused; the text says why."""
    parser = argparse.ArgumentParser(
        prog="capd install-service",
        description="Install this capd as a systemd service; also replaces one that was installed before.",
    )
    parser.add_argument("--now", action="store_true", help="enable and start it, or start it anew")
    return _command(parser, _install, words)


def uninstall(words: list[str]) -> int:
    """``capd uninstall-service``: return 0 when it is removed, 1 when it is refused; the text says why."""
    parser = argparse.ArgumentParser(
        prog="capd uninstall-service", description="Stop the service, and remove what 'capd install-service' has made."
    )
    parser.add_argument(
        "--purge", action="store_true", help="and the user and group capd, its configuration and its state"
    )
    return _command(parser, _uninstall, words)
