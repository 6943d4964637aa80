"""``capd install-service`` and ``capd uninstall-service``: the environment that they run in, as a systemd service.

Files that they have made begin with a mark, and no other is ever replaced or removed.
"""

import argparse
import contextlib
import functools
import grp
import importlib
import importlib.metadata
import os
import pwd
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from capd.admin import placement
from capd.linux import libpcap, trust
from capd.printable import show
from capd.version import SOFTWARE

_MARK = "# Made by 'capd install-service'; 'capd uninstall-service' removes it.\n"
#: Where the wheel puts the templates, below the environment (pyproject.toml).
_TEMPLATES = "share/capd/systemd/"
_UNITS = Path("/etc/systemd/system")
_UNIT = _UNITS / "capd.service"
#: Each template, and where it goes.
FILES = {
    "capd.service": _UNIT,
    "capd.socket": _UNITS / "capd.socket",
    "capd-containers.socket": _UNITS / "capd-containers.socket",
    "capd-netns@.service": _UNITS / "capd-netns@.service",
    "capd-netns@.socket": _UNITS / "capd-netns@.socket",
    "sysusers.d/capd.conf": Path("/etc/sysusers.d/capd.conf"),
    "tmpfiles.d/capd.conf": Path("/etc/tmpfiles.d/capd.conf"),
}
_LINKS = (Path("/usr/local/bin/capctl"), Path("/usr/local/bin/capd-dumpcap"), Path("/usr/local/bin/capd-extcap"))
#: Below the environment's root, and where everybody's man(1) looks.
_PAGES = (
    "share/man/man1/capctl.1",
    "share/man/man1/capd-dumpcap.1",
    "share/man/man1/capd-extcap.1",
    "share/man/man5/capd.toml.5",
    "share/man/man8/capd.8",
)
_EVERYBODYS_ROOT = Path("/usr/local")
#: Where everybody's shell looks; root's own may have the environment on its path just now.
_EVERYBODYS_PATH = "/usr/local/bin:/usr/bin:/bin"
#: An administrator's drop-ins.
_DROP_INS = tuple(_UNITS / f"{path.name}.d" for path in FILES.values() if path.parent == _UNITS)
#: The units of other network namespaces, for systemctl.
_OF_NAMESPACES = ("capd-netns@*.service", "capd-netns@*.socket")
#: Which socket a service is started by.
_SOCKETS = {"capd.service": "capd.socket", "capd-netns@.service": "capd-netns@%i.socket"}
#: Begins a line of a unit that says what is run, behind which some characters of systemd's own may stand.
_RUN = re.compile(r"^Exec\w+=[-@:+!|]*(\S+)", re.MULTILINE)
#: Whatever root's own is: what we make is everybody's to read, and root's alone to write.
_UMASK = 0o022
#: As systemd-sysusers makes them.
_USER = _GROUP = "capd"
#: In which systemd makes a directory for each socket in another network namespace.
_OF_SOCKETS = Path("/run/capd-netns")
#: As systemd-tmpfiles makes them, the inner one first.
_RUN_DIRECTORIES = (
    *map(Path, ("/run/capd", "/run/capd-containers/capd", "/run/capd-containers")),
    _OF_SOCKETS,
)
#: Made by systemd for the unit; they hold the administrator's configuration, and what the daemon keeps.
_KEPT = (Path("/etc/capd"), Path("/var/lib/capd"), Path("/var/lib/capd-netns"))


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
            return Path(str(file.locate()))
    raise InstallationError(f"this installation of capd has no {_TEMPLATES}{name}: install it anew")


def render(name: str, templates: Mapping[str, str], python: Path) -> str:
    """Return a template as it is installed: marked as ours, for this interpreter, with another one where it says so.

    Args:
        name: of the template.
        templates: all of them.
        python: the interpreter.
    """
    text = templates[name]
    for other in templates:
        text = text.replace(f"@{other}@\n", templates[other])
    return _MARK + text.replace("@PYTHON@", str(python)).replace("@SOCKET@", _SOCKETS.get(name, ""))


def programs_of(unit: str) -> list[Path]:
    """Return what an installed unit runs, its interpreter first."""
    return [Path(found) for found in _RUN.findall(unit)]


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


def print_imports() -> None:
    """Print where this interpreter imports from, and all that the service's processes have loaded, NUL-separated."""
    importlib.import_module("capd.__main__")
    importlib.import_module("capd.worker.__main__")
    try:
        libpcap.load()
    except OSError as error:
        sys.exit(f"libpcap is not installed: {error}")
    places = [sys.prefix] if sys.prefix != sys.base_prefix else []  # a virtual environment, with its pyvenv.cfg
    places += sys.path
    for module in list(sys.modules.values()):
        # A package may also be somewhere else than where the path leads.
        places += filter(None, [*(getattr(module, "__path__", None) or ()), getattr(module, "__file__", None)])
    # proc(5): the sixth field is the file's name, of a library say.
    mapped = (line.split(maxsplit=5)[5:] for line in Path("/proc/self/maps").read_text().splitlines())
    places += [name for (name,) in filter(None, mapped) if name.startswith("/") and not name.endswith(" (deleted)")]
    sys.stdout.buffer.write(b"\0".join(map(os.fsencode, dict.fromkeys(places))))


def _imports_of(python: Path) -> list[Path]:
    """Return where an isolated interpreter imports from, and what it has loaded when the service runs."""
    # Not with root's own variables, which may name other places of libraries (ld.so(8)).
    environment = {"PATH": _EVERYBODYS_PATH}
    code = "from capd.admin.installation import print_imports; print_imports()"
    output = _run(str(python), "-I", "-c", code, environment=environment)
    return list(map(Path, output.split("\0")))


def _run(*command: str, environment: Mapping[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",  # as Python reads names of files
            env=environment,
        )
    except OSError as error:
        raise InstallationError(f"cannot run {command[0]}: {error.strerror}") from error
    except subprocess.CalledProcessError as error:
        raise InstallationError(f"{' '.join(command)}: {error.stderr.strip() or error.stdout.strip()}") from error
    return done.stdout


# The commands -------------------------------------------------------------------------------------------------------


def _install(options: argparse.Namespace) -> list[str]:
    _check_machine()
    python = Path(sys.executable)
    placement.check_interpreter(python)
    for path in FILES.values():
        check_free(path)
    found = {name: find_template(name) for name in FILES}
    templates = {name: template.read_text() for name, template in found.items()}
    texts = {path: render(name, templates, python) for name, path in FILES.items()}
    placement.check([*_imports_of(python), *programs_of(texts[_UNIT]), *found.values()])
    drop_ins = (path for directory in _DROP_INS for path in (directory, *directory.glob("*")))
    check_for_root_alone([*(path.parent for path in texts), *drop_ins])
    _remove_links()
    for path, text in texts.items():
        write(path, text)
    _run("systemd-sysusers", str(FILES["sysusers.d/capd.conf"]))
    _run("systemd-tmpfiles", "--create", str(FILES["tmpfiles.d/capd.conf"]))
    _run("systemctl", "daemon-reload")
    report = [f"{SOFTWARE} is installed as a service, which runs {python}", *_make_links()]
    if options.now:
        _run("systemctl", "enable", "--now", "capd.socket")
        _run("systemctl", "try-restart", "capd.service")
        report.append("capd.socket is enabled and listens; the daemon starts with the first client")
    else:
        report.append("next: systemctl enable --now capd.socket; after an upgrade: systemctl try-restart capd")
    return [*report, f"who may capture: usermod -aG {_GROUP} NAME, who then logs in again"]


def check_for_root_alone(paths: Iterable[Path]) -> None:
    """Check that nobody but root can change what systemd reads, or add to it; not all need be there yet.

    Raises:
        InstallationError: others can.
    """
    for path in paths:
        fault = trust.find_fault_on_way(path)
        if fault:
            danger = "and whoever may change what systemd reads can become root by it"
            raise InstallationError(f"{fault.text}, {danger}: '{fault.remedy}'")


def write(path: Path, text: str) -> None:
    """Make a file, or put one in the place of another, and a directory for it where there is none.

    With a umask of 022, which the commands have, others cannot write to either at any time. A file that was there
    before is not written to: somebody may have it open.
    """
    path.parent.mkdir(exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)  # of an installation that was interrupted
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w") as file:
        file.write(text)
    new.replace(path)


def _uninstall(options: argparse.Namespace) -> list[str]:
    _check_machine()
    installed = [path for path in FILES.values() if is_ours(path)]
    if _UNIT in installed:
        units = (path.name for path in installed if path.parent == _UNITS and "@" not in path.name)
        _run("systemctl", "disable", "--now", *units, *_instances())
    _remove_links()
    for path in installed:
        path.unlink()
        with contextlib.suppress(OSError):  # others' files are in it
            path.parent.rmdir()
    for path in (*_OF_SOCKETS.glob("*"), *_RUN_DIRECTORIES):
        with contextlib.suppress(OSError):  # it is gone, or a daemon that systemd did not start listens in it
            path.rmdir()
    _run("systemctl", "daemon-reload")
    report = ["the service is removed" if installed else "no service was installed by capd"]
    left = _left()
    if options.purge:
        for name, remove in left.items():
            remove()
            report.append(f"{name} is removed")
    elif left:
        report.append(f"left: {', '.join(left)}; 'capd uninstall-service --purge' removes them too")
    return report


def _instances() -> list[str]:
    """Return the units of other network namespaces that run, or are enabled."""
    shown = _run("systemctl", "list-units", "--all", "--plain", "--no-legend", "--full", *_OF_NAMESPACES)
    enabled = (path.name for path in (_UNITS / "sockets.target.wants").glob("capd-netns@*.socket"))
    return sorted({*(line.split()[0] for line in shown.splitlines() if line.strip()), *enabled})


def _left() -> dict[str, Callable[[], object]]:
    """Return what outlasts the service, and how it is removed; the user before its group."""
    left: dict[str, Callable[[], object]] = {}
    with contextlib.suppress(KeyError):
        pwd.getpwnam(_USER)
        left[f"user {_USER}"] = functools.partial(_run, "userdel", _USER)
    with contextlib.suppress(KeyError):
        grp.getgrnam(_GROUP)
        left[f"group {_GROUP}"] = _remove_group
    kept = (*_KEPT, *_DROP_INS)
    return left | {str(path): functools.partial(_remove_tree, path) for path in kept if path.is_dir()}


def _remove_tree(path: Path) -> None:
    """Remove a directory with all that is in it; of a link to one, the link alone."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)


def _remove_group() -> None:
    # Where userdel finds no other members it has done this.
    with contextlib.suppress(KeyError):
        grp.getgrnam(_GROUP)
        _run("groupdel", _GROUP)


def _links() -> dict[Path, Path]:
    """Return what everybody's shell and man(1) are to find, and what it leads to.

    The manual is that of a virtual environment: a system-wide one they find by themselves.
    """
    pages = _PAGES if sys.prefix != sys.base_prefix else ()
    links = {_EVERYBODYS_ROOT / page: Path(sys.prefix) / page for page in pages}
    return links | {each: Path(sysconfig.get_path("scripts")) / each.name for each in _LINKS}


def _make_links() -> list[str]:
    """Make those links that are needed; return a line for each that is made or cannot be.

    None is made in a directory that others may write to, such as /usr/local/bin of the group staff on older Debian
    systems, or to something that is theirs to change: root's name on it would promise what is not so.
    """
    report: list[str] = []
    for link, target in _links().items():
        is_found = link in _LINKS and shutil.which(link.name, path=_EVERYBODYS_PATH)
        if is_found or os.path.lexists(link):
            continue
        fault = trust.find_fault_on_way(link.parent) or trust.find_fault_on_way(target)
        if fault:
            report.append(f"{link} is not made, since {fault.text}; it would lead to {target}")
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
        if link in _LINKS:
            report.append(f"{link} is made")
    return report


def _remove_links() -> None:
    """Remove the links to the environment whose service is installed, which may not be ours."""
    programs = programs_of(_UNIT.read_text()) if is_ours(_UNIT) else []
    if not programs:
        return
    python = programs[0]
    targets = {_EVERYBODYS_ROOT / page: python.parents[1] / page for page in _PAGES}
    for link, target in {**targets, **{each: python.with_name(each.name) for each in _LINKS}}.items():
        if link.is_symlink() and link.readlink() == target:
            link.unlink()
            if link not in _LINKS:
                with contextlib.suppress(OSError):  # others' are in it
                    link.parent.rmdir()


def _command(
    parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], list[str]], words: list[str]
) -> int:
    options = parser.parse_args(words)
    os.umask(_UMASK)
    try:
        show(*command(options))
    except (InstallationError, placement.PlacementError) as error:
        show(*f"capd: {error}".split("\n"), is_error=True)  # what systemctl says may be several lines
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
