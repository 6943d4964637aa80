"""What a program in dumpcap's place lists: interfaces, what one can do, and counts. Pure: its text in, messages out.

Until 4.0 it is lines with tabs, later JSON, but for the counts (Wireshark, ``dumpcap.c``).
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, cast

from capd_protocol.messages import Capabilities
from capd_protocol.messages.interfaces import InterfaceCounts, InterfaceInfo, InterfaceType, LinkLayer, TimestampType

#: dumpcap's numbers of kinds (capture/capture_ifinfo.h) that are not wirepy's.
_KINDS = {8: InterfaceType.EXTCAP, 9: InterfaceType.VIRTUAL}


class NotUnderstood(Exception):
    """It is no listing."""


def interfaces_of(text: str) -> tuple[InterfaceInfo, ...]:
    """Return the interfaces of ``-D -Z none``.

    Raises:
        NotUnderstood: it is none.
    """
    try:
        return tuple(_objects(text) if text.lstrip().startswith("[") else _lines(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise NotUnderstood(str(error)) from error


def _lines(text: str) -> Iterator[InterfaceInfo]:
    for line in text.splitlines():
        number, _, rest = line.partition(". ")
        name, description, friendly_name, kind, addresses, loopback = rest.split("\t")[:6]
        shown = friendly_name or description
        listed = filter(None, addresses.split(","))
        yield _interface(name, shown, int(number), int(kind), listed, is_loopback=loopback == "loopback")


def _objects(text: str) -> Iterator[InterfaceInfo]:
    for number, each in enumerate(json.loads(text), 1):
        ((name, about),) = cast("dict[str, dict[str, Any]]", each).items()
        description = about.get("friendly_name") or about.get("vendor_description") or ""
        addresses: Iterable[str] = filter(None, about.get("addrs") or ())
        yield _interface(name, description, number, int(about["type"]), addresses, is_loopback=bool(about["loopback"]))


def _interface(
    name: str, description: str, number: int, kind: int, addresses: Iterable[str], *, is_loopback: bool
) -> InterfaceInfo:
    return InterfaceInfo(
        name=name,
        number=number,
        description=description,
        interface_type=_KINDS.get(kind, kind),
        loopback=is_loopback,
        addresses=tuple(addresses),
        may_capture=True,
    )


def capabilities_of(text: str) -> Capabilities:
    """Return what ``-L --list-time-stamp-types -Z none`` says of one interface.

    Raises:
        NotUnderstood: nothing.
    """
    try:
        return _object_of(text) if text.lstrip().startswith("[") else _rows(text)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise NotUnderstood(str(error)) from error


def _rows(text: str) -> Capabilities:
    rfmon, *lines = text.splitlines()
    at = lines.index("") if "" in lines else len(lines)
    rows = [each.split("\t") for each in lines[:at]]
    times = [each.split("\t") for each in lines[at + 1 :]]
    return Capabilities(
        can_rfmon=bool(int(rfmon)),
        link_layers=tuple(LinkLayer(dlt=int(dlt), name=name, description=about) for dlt, name, about in rows),
        timestamp_types=tuple(TimestampType(name=name, description=about) for name, about in times),
    )


def _object_of(text: str) -> Capabilities:
    (about,) = cast("dict[str, dict[str, Any]]", json.loads(text)[0]).values()
    if about["status"] != 0:
        raise NotUnderstood(str(about.get("primary_msg", "")))
    return Capabilities(
        can_rfmon=bool(about["rfmon"]),
        link_layers=tuple(
            LinkLayer(dlt=each["dlt"], name=each["name"], description=each.get("description") or "")
            for each in about.get("data_link_types", ())
        ),
        timestamp_types=tuple(
            TimestampType(name=each["name"], description=each.get("description") or "")
            for each in about.get("timestamp_types", ())
        ),
    )


def counts_of(text: str) -> tuple[InterfaceCounts, ...]:
    """Return the counts of some whole lines of ``-S -Z none``; the last one of an interface that is there twice.

    Raises:
        NotUnderstood: a line is none.
    """
    found: dict[str, InterfaceCounts] = {}
    try:
        for line in text.splitlines():
            name, received, dropped = line.split("\t")
            found[name] = InterfaceCounts(name=name, rx_packets=int(received), rx_dropped=int(dropped))
    except ValueError as error:
        raise NotUnderstood(str(error)) from error
    return tuple(found.values())
