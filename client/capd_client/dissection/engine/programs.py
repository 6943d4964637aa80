"""Wireshark's programs: where they are, which version, and what they find around them."""

import os
import shutil
import stat
from pathlib import Path
from typing import Final, NamedTuple

from capd_client.errors import InvalidArgument, UnsupportedError
from capd_protocol.text import quoted

#: The packages that have each.
_PACKAGES: Final = {
    "tshark": "tshark on Debian, wireshark-cli on Fedora",
    "sharkd": "wireshark-common on Debian, wireshark-cli on Fedora",
}
#: Where nobody has a configuration.
_NOWHERE: Final = "/nonexistent"
#: What is passed on of our environment.
_PASSED: Final = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
_OWN_CONFIGURATION: Final = ("HOME", "XDG_CONFIG_HOME", "WIRESHARK_CONFIG_DIR")


class Program(NamedTuple):
    """A program of Wireshark's.

    Attributes:
        name: what people know it by.
        path: where it is.
        configuration: the directory of a configuration; None: an empty one.
        is_own: with the configuration of the user, where that directory is not given.
    """

    name: str
    path: str
    configuration: str | None = None
    is_own: bool = False


def found(name: str, path: str | os.PathLike[str] | None = None) -> Program:
    """Return a program that is in PATH, or at a path.

    Raises:
        UnsupportedError: it is not there; the packages are named.
    """
    place = shutil.which(name if path is None else os.fspath(path))
    if place is None:
        where = "in PATH" if path is None else f"at {quoted(os.fspath(path))}"
        text = f"Wireshark's {name} is needed, and is not {where}; it is in the package {_PACKAGES[name]}"
        raise UnsupportedError(text)
    return Program(name, os.path.abspath(place))  # noqa: PTH100  # links as they are: programs look at their names


def configured(program: Program, configuration: str | None, profile: str | None) -> Program:
    """Return a program with a configuration: that of a directory, or the user's own for a profile of it.

    Raises:
        InvalidArgument: there is no such directory; or root's program, which runs as nobody, may not read it.
    """
    if configuration is None and profile is None:
        return program
    argument = "profile" if configuration is None else "configuration"
    path = _own_configuration() if configuration is None else Path(configuration)
    if not path.is_dir():
        raise InvalidArgument(f"{argument}: there is no directory {quoted(os.fspath(path))}", argument=argument)
    if os.geteuid() == 0 and not all(_is_everybodys(each) for each in (path, *path.parents)):
        text = (
            f"{argument}: where root reads, {program.name} runs as nobody, who may not read {quoted(os.fspath(path))}"
        )
        raise InvalidArgument(text, argument=argument)
    return program._replace(configuration=configuration, is_own=configuration is None)


def _own_configuration() -> Path:
    given = os.environ.get("WIRESHARK_CONFIG_DIR")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "wireshark"


def _is_everybodys(directory: Path) -> bool:
    return bool(directory.stat().st_mode & stat.S_IXOTH)


def environment(program: Program) -> dict[str, str]:
    """Return the environment that a program is started in: what it says is in UTF-8, in English, and times are UTC."""
    passed = _PASSED if not program.is_own else (*_PASSED, *_OWN_CONFIGURATION)
    given = {name: value for name in passed if (value := os.environ.get(name)) is not None}
    if program.configuration is not None:
        given["WIRESHARK_CONFIG_DIR"] = program.configuration
    elif not program.is_own:
        given["WIRESHARK_CONFIG_DIR"] = _NOWHERE
    return {"HOME": _NOWHERE, "XDG_CONFIG_HOME": _NOWHERE, **given, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
