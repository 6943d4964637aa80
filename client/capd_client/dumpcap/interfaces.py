"""Interfaces as dumpcap names, numbers and lists them."""

from collections.abc import Sequence
from dataclasses import replace

from capd_client.blocking.questions import list_interfaces
from capd_client.dumpcap.command_line import CommandLine, InterfaceOptions, WrongUsage
from capd_protocol.messages.interfaces import InterfaceInfo, InterfaceType

#: dumpcap's numbers of kinds (capture/capture_ifinfo.h) where they are wirepy's; all else is a wired one.
_KINDS = frozenset((InterfaceType.BLUETOOTH, InterfaceType.WIRELESS, InterfaceType.DIALUP, InterfaceType.USB))


def listed() -> tuple[InterfaceInfo, ...]:
    """Return all interfaces, in libpcap's order."""
    return list_interfaces()


def chosen(line: CommandLine) -> list[InterfaceOptions]:
    """Return the interfaces that are meant: numbers are those of the list, and none is the first one.

    Raises:
        WrongUsage: there is none of that number, or none at all.
    """
    if not line.interfaces:
        return [replace(line.default, name=_first())]
    if all(_is_plain(each, line) for each in line.interfaces):
        return line.interfaces
    known = listed()
    return [replace(each, name=_meant(each.name, known, line)) for each in line.interfaces]


def _first() -> str:
    known = listed()
    if not known:
        raise WrongUsage("There are no interfaces on which a capture can be done", status=2)
    return known[0].name


def _is_plain(options: InterfaceOptions, line: CommandLine) -> bool:
    """Whether a name need not be looked for: a parent's is the interface's own."""
    return not options.name.lstrip("-").isdecimal() and line.parent_fd is not None


def _meant(name: str, known: Sequence[InterfaceInfo], line: CommandLine) -> str:
    if name.isascii() and name.lstrip("-").isdecimal():
        if name.startswith("-"):
            raise WrongUsage("The specified adapter index is a negative number")
        if not known:
            raise WrongUsage("There are no interfaces on which a capture can be done", status=2)
        number = int(name)
        if not 1 <= number <= len(known):
            raise WrongUsage("There is no interface with that adapter index")
        return known[number - 1].name
    if line.parent_fd is not None:
        return name
    lower = name.lower()
    for each in known:
        if each.name.lower() == lower:
            return each.name
    friendly = {each.name: friendly_name(each).lower() for each in known}
    whole = next((each for each, called in friendly.items() if called == lower), None)
    begun = next((each for each, called in friendly.items() if called and called.startswith(lower)), None)
    return whole or begun or name


def friendly_name(info: InterfaceInfo) -> str:
    """Return what people call it, as dumpcap has it: an alias, or ``Loopback``."""
    if info.loopback:
        return "Loopback"
    return info.link.alias if info.link is not None else ""


# Listings -------------------------------------------------------------------------------------------------------------


def for_people(known: Sequence[InterfaceInfo]) -> list[str]:
    """Return the lines of ``-D``."""
    lines: list[str] = []
    for number, each in enumerate(known, 1):
        called = friendly_name(each)
        lines.append(f"{number}. {each.name}{f' ({called})' if called else ''}")
    return lines


def for_programs(known: Sequence[InterfaceInfo]) -> list[str]:
    """Return the lines of ``-D -M`` of 4.0: fields with tabs between them."""
    return [f"{number}. {_row(each)}" for number, each in enumerate(known, 1)]


def _row(info: InterfaceInfo) -> str:
    addresses = ",".join(info.addresses)
    where = "loopback" if info.loopback else "network"
    return "\t".join((info.name, "", friendly_name(info), str(kind_of(info)), addresses, where, ""))


def kind_of(info: InterfaceInfo) -> int:
    """Return dumpcap's number of its kind."""
    if info.name.startswith("bluetooth"):
        return InterfaceType.BLUETOOTH
    return info.interface_type if info.interface_type in _KINDS else InterfaceType.WIRED


def as_objects(known: Sequence[InterfaceInfo]) -> list[dict[str, object]]:
    """Return what ``-D`` of later versions has as JSON."""
    return [
        {
            each.name: {
                "friendly_name": friendly_name(each) or None,
                "vendor_description": None,
                "type": kind_of(each),
                "addrs": list(each.addresses),
                "loopback": each.loopback,
                "extcap": "",
            }
        }
        for each in known
    ]
