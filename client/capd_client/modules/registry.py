"""Which modules there are: those that come with capd, and those of packages, by the entry points ``capd.sources``.

Whose a device is shows in its name. Only a module's own process imports it.
"""

import importlib
import re
from collections.abc import Callable
from typing import NamedTuple, cast

from capd_client.modules.contract import Module, ModuleFailed, NoSuchDevice
from capd_protocol.text import quoted

#: The group of packages' entry points: each has a prefix as its name, and its value is a ``contract.Module``.
ENTRY_POINTS = "capd.sources"
#: A prefix, a device's number, and what may stand behind a colon.
_NAME = re.compile(r"([a-z0-9-]*[a-z])[0-9]*(:.*)?", re.DOTALL)


class ModuleEntry(NamedTuple):
    """A module that is not imported yet.

    Attributes:
        prefix: what the names of its devices begin with.
        load: imports it; raises what that raises.
    """

    prefix: str
    load: Callable[[], object]


#: By prefixes, the modules that come with capd; in the order in which their devices are listed.
_BUILT_IN = {
    "nflog": "nflog",
    "nfqueue": "nfqueue",
    "dbus": "dbus",
    "dbus-session": "dbus",
    "dbus-system": "dbus",
    "libpcap": "libpcap",
}


def _built_in(prefix: str) -> ModuleEntry:
    return ModuleEntry(
        prefix, lambda: importlib.import_module(f"capd_client.modules.devices.{_BUILT_IN[prefix]}").MODULE
    )


def entry_of(name: str) -> ModuleEntry | None:
    """Return the module whose device has such a name; None: it is none's.

    Packages are only looked at where the name is that of no module of capd's own.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    if found[1] in _BUILT_IN:
        return _built_in(found[1])
    return next((each for each in _installed() if each.prefix == found[1]), None)


def all_entries() -> list[ModuleEntry]:
    """Return each module once, by one of its prefixes."""
    prefix_of = {module: prefix for prefix, module in reversed(_BUILT_IN.items())}
    return [*(_built_in(each) for each in reversed(prefix_of.values())), *_installed()]


def _installed() -> list[ModuleEntry]:
    from importlib import metadata  # noqa: PLC0415  # takes as long to import as all else here

    points = metadata.entry_points(group=ENTRY_POINTS)
    return [ModuleEntry(each.name, each.load) for each in sorted(points, key=lambda each: each.name)]


def loaded(entry: ModuleEntry) -> Module:
    """Import a module.

    Raises:
        ModuleFailed: it is broken.
    """
    try:
        module = entry.load()
    except Exception as error:  # whatever somebody else's code raises
        text = f"the module of {quoted(entry.prefix)} cannot be imported: {type(error).__name__}: {error}"
        raise ModuleFailed(text) from error
    return cast(Module, module)


def module_of(name: str) -> Module:
    """Import the module whose device has this name.

    Raises:
        NoSuchDevice: it is none's, or not its own.
        ModuleFailed: the module is broken.
    """
    entry = entry_of(name)
    module = None if entry is None else loaded(entry)
    if module is None or not module.owns(name):
        raise NoSuchDevice(f"no module has a device {quoted(name)}")
    return module
