"""``capctl interfaces``, ``linktypes``, ``stats`` and ``watch``: what there is to capture on, and what passes."""

import argparse
import shutil
import sys
import time
from collections import deque
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from capd_client.blocking.interfaces import Interface, InterfaceWatcher
from capd_client.blocking.questions import get_capabilities
from capd_client.blocking.statistics import LiveInterfaceStats
from capd_client.cli.output import show, show_json, show_screen
from capd_client.cli.signals import until_told
from capd_client.cli.text import Cell, count, shorten, si, table, whole, width_of
from capd_client.cli.typed import decimal
from capd_client.conversation.interface_picture import InterfaceChanged
from capd_client.request.streams import with_extcap
from capd_protocol.arguments import BY_NAME
from capd_protocol.messages.interfaces import InterfaceChange, InterfaceCounts, InterfaceType, Link, MissingRight
from capd_protocol.text import escaped

_HISTORY = 12


class _State(NamedTuple):
    """The operational state of an interface that is up (RFC 2863, as the kernel's operstates.rst has it).

    Attributes:
        word: as ``ip link`` shows it, in lower case.
        but: what that means, where packets do not pass.
    """

    word: str
    but: str = ""


_NOT_UP = _State("down")
#: By what the kernel calls it; what it knows beside these is a word only.
_STATES = {
    "up": _State("up"),
    "unknown": _State("unknown"),  # its driver does not tell: packets may well pass, as on a loopback
    "down": _State("no-carrier", "has no carrier"),
    "lowerlayerdown": _State("lowerlayerdown", "the device under it is down"),
    "dormant": _State("dormant", "waits to be let in, as with 802.1X"),
    "testing": _State("testing", "is being tested"),
    "notpresent": _State("notpresent", "its hardware is missing"),
}

_BARS = "▁▂▃▄▅▆▇█"

#: What is shown of a right that is missing.
_NEEDS = {each: each.value for each in MissingRight} | {MissingRight.RULE: "a rule"}
#: Kinds of interfaces that are not the system's.
_KINDS = {InterfaceType.EXTCAP: "extcap", InterfaceType.MODULE: "module"}


def add_parsers(commands: Any) -> None:
    """Add the four commands to what ``add_subparsers`` returned; argparse has no public name for its type."""
    listing = commands.add_parser(
        "interfaces", help="show what can be captured on", description="Show what packets can be captured on."
    )
    listing.add_argument(
        "--extcap", action="store_true", help="also the interfaces of extcap programs, which are run to find them"
    )
    listing.add_argument(
        "--modules", action="store_true", help="also the devices of capture modules, which are run to find them"
    )
    _add_netns(listing)
    listing.add_argument("--json", action="store_true", help="print a line of JSON for each")
    listing.set_defaults(run=show_interfaces)

    types = commands.add_parser(
        "linktypes",
        help="show an interface's link-layer types",
        description="Show the link-layer types and sources of timestamps of an interface, as libpcap knows them.",
    )
    types.add_argument("interface", metavar="IFACE")
    types.add_argument("-I", "--monitor-mode", action="store_true", help="the ones that it has in monitor mode")
    _add_netns(types)
    types.add_argument("--json", action="store_true", help="print an object of JSON")
    types.set_defaults(run=show_linktypes)

    stats = commands.add_parser(
        "stats",
        help="show what passes through the interfaces",
        description="Show, again and again, what passes through the interfaces: since the start, and now.",
    )
    stats.add_argument("--interval", type=decimal, default=1.0, metavar="SECONDS", help="between two looks (1)")
    stats.add_argument("--once", action="store_true", help="one interval only")
    _add_netns(stats)
    stats.add_argument("--json", action="store_true", help="print a line of JSON for each interval")
    stats.set_defaults(run=_stats)

    watch = commands.add_parser(
        "watch",
        help="show what happens to interfaces",
        description="Show as it happens which interfaces appear, vanish, go up or down, or are renamed.",
    )
    _add_netns(watch)
    watch.add_argument("--json", action="store_true", help="print a line of JSON for each change")
    watch.set_defaults(run=_watch)


def _add_netns(parser: argparse.ArgumentParser) -> None:
    spec = BY_NAME["netns"]
    (option,) = spec.options
    parser.add_argument(option.flag, metavar=option.metavar, help=spec.help)


def show_interfaces(options: argparse.Namespace) -> int:
    """Show what can be captured on."""
    found = Interface.list_interfaces(
        socket_path=options.socket, netns=options.netns, extcap=options.extcap, modules=options.modules
    )
    if options.json:
        for each in found:
            fields = msgspec.to_builtins(each.info)
            show_json({**fields, "number": each.number, "friendly_name": each.friendly_name})
        return 0
    names = {each.info.link.index: each.name for each in found if each.info and each.info.link}
    # A column that few need takes no room from the others.
    is_lacking = any(each.info.needs for each in found if each.info)
    header = ("#", "NAME", *(("NEEDS",) if is_lacking else ()), "STATE", "KIND", "MAC", "ADDRESSES")
    rows = [[cells[heading] for heading in header] for cells in (_cells(each, names) for each in found)]
    flexible = frozenset(map(header.index, ("KIND", "ADDRESSES")))
    show(*table(header, rows, frozenset((0,)), width_of(sys.stdout), flexible))
    return 0


def _state_of(link: Link) -> _State:
    return _STATES.get(link.state, _State(link.state)) if link.is_up else _NOT_UP


def _in_words(link: Link) -> str:
    state = _state_of(link)
    return f"up, but {state.but} ({state.word.upper()})" if state.but else "up" if link.is_up else "down"


def _cells(interface: Interface, names: dict[int, str]) -> dict[str, Cell]:
    """Return what is shown of an interface, by the headings of columns."""
    info, link = interface.info, interface.info.link if interface.info else None
    cells: dict[str, Cell] = dict.fromkeys(("NEEDS", "STATE", "KIND", "MAC"), "")
    cells |= {"#": str(interface.number or ""), "NAME": interface.name}
    cells["ADDRESSES"] = tuple(interface.addresses) or (info.description if info else "")
    if info is not None and info.needs is not None:
        cells["NEEDS"] = _NEEDS[info.needs]
    elif info is not None and not info.may_capture:
        cells["KIND"] = "no interface"
    if info is not None and info.interface_type in _KINDS:
        cells["KIND"] = _KINDS[InterfaceType(info.interface_type)]
    if link is not None:
        kind = link.kind or ("loopback" if link.loopback else info.driver if info else None) or ""
        if link.bound_to_index is not None and link.bound_to_index != link.index:
            there = link.bound_to_namespace is not None
            bound_to = f"#{link.bound_to_index}" if there else names.get(link.bound_to_index, f"#{link.bound_to_index}")
            kind = f"{kind} @{bound_to}".strip()
        cells |= {"STATE": _state_of(link).word, "KIND": kind}
        cells["MAC"] = "" if link.loopback else link.mac_address or ""
    return cells


def show_linktypes(options: argparse.Namespace) -> int:
    """Show the link-layer types of an interface."""
    (interface,) = with_extcap([options.interface])
    found = get_capabilities(interface, options.monitor_mode, socket_path=options.socket, netns=options.netns)
    if options.json:
        fields = msgspec.to_builtins(found)
        del fields["type"]
        show_json(fields)
        return 0
    rows = [(str(each.dlt), each.name, each.description) for each in found.link_layers]
    show(*table(("DLT", "NAME", "DESCRIPTION"), rows, frozenset((0,)), width_of(sys.stdout), flexible=frozenset((2,))))
    show(f"Monitor mode: {'yes' if found.can_rfmon else 'no'}")
    if found.timestamp_types:
        show("Timestamps: " + ", ".join(each.name for each in found.timestamp_types))
    return 0


class _Rates:
    """Rates and a small history for each interface."""

    def __init__(self) -> None:
        self._last: dict[str, InterfaceCounts] = {}
        self._last_s = time.monotonic()
        self._history: dict[str, deque[float]] = {}

    def update(self, counts: dict[str, InterfaceCounts]) -> dict[str, tuple[float, float]]:
        """Return packets and bytes per second of each interface since the last update."""
        now_s = time.monotonic()
        elapsed_s = max(now_s - self._last_s, 1e-3)
        rates: dict[str, tuple[float, float]] = {}
        for name, new in counts.items():
            old = self._last.get(name, InterfaceCounts(name=name))
            packets = new.rx_packets + new.tx_packets - old.rx_packets - old.tx_packets
            size_bytes = new.rx_bytes + new.tx_bytes - old.rx_bytes - old.tx_bytes
            rates[name] = packets / elapsed_s, size_bytes / elapsed_s
            self._history.setdefault(name, deque(maxlen=_HISTORY)).append(packets / elapsed_s)
        self._history = {name: self._history[name] for name in counts}
        self._last, self._last_s = dict(counts), now_s
        return rates

    def bars(self, name: str) -> str:
        """Return the last rates as bars, each relative to the highest of them."""
        history = self._history[name]
        highest = max(history)
        if not highest:
            return _BARS[0] * len(history)
        return "".join(_BARS[round(rate / highest * (len(_BARS) - 1))] for rate in history)


@until_told
def _stats(options: argparse.Namespace) -> int:
    is_live = sys.stdout.isatty() and not options.json
    rates = _Rates()
    with LiveInterfaceStats(interval=options.interval, socket_path=options.socket, netns=options.netns) as stats:
        try:
            for _ in stats:
                counts = {name: stats.details(name) for name in stats.interfaces}
                now = rates.update(counts)
                if options.json:
                    show_json(_stats_json(counts), flush=True)
                else:
                    _print_stats(counts, now, rates, is_live=is_live and not options.once)
                if options.once:
                    break
        except KeyboardInterrupt:
            if is_live:
                show()
    return 0


def _stats_json(counts: dict[str, InterfaceCounts]) -> dict[str, object]:
    interfaces = {name: msgspec.structs.asdict(each) for name, each in counts.items()}
    for each in interfaces.values():
        del each["name"]
    return {"timestamp_ns": time.time_ns(), "source": "rtnl_link_stats64", "interfaces": interfaces}


def _print_stats(
    counts: dict[str, InterfaceCounts], now: dict[str, tuple[float, float]], rates: _Rates, *, is_live: bool
) -> None:
    rows = [
        (
            shorten(escaped(name), 15),
            count(each.rx_packets + each.tx_packets),
            count(each.rx_dropped + each.rx_missed_errors),
            si(now[name][0], "/s"),
            si(now[name][1] * 8, "bit/s"),
            rates.bars(name),
        )
        for name, each in counts.items()
    ]
    header = ("INTERFACE", "PACKETS", "DROPPED", "PACKETS/S", "RATE", "HISTORY")
    lines = table(header, rows, frozenset((1, 2, 3, 4)), width_of(sys.stdout), flexible=frozenset((5,)))
    if is_live:
        # A screen's worth, from the top left corner on.
        show_screen(lines[: shutil.get_terminal_size().lines - 1])
    else:
        show(*lines, flush=True)


@until_told
def _watch(options: argparse.Namespace) -> int:
    is_live = sys.stdout.isatty() and not options.json
    with InterfaceWatcher(socket_path=options.socket, netns=options.netns) as watcher:
        try:
            for changed in watcher:
                if options.json:
                    show_json(_change_json(changed), flush=True)
                    continue
                # The terminal itself may write ^C behind it.
                width = (width_of(sys.stdout) or 0) - 2 if is_live else None
                show(_change_line(changed, width)[:width], flush=True)
        except KeyboardInterrupt:
            if is_live:
                show()
    return 0


def _change_json(changed: InterfaceChanged) -> dict[str, object]:
    return {
        "timestamp_ns": time.time_ns(),
        "change": changed.change,
        "former_name": changed.former_name,
        "link": msgspec.to_builtins(changed.link),
    }


def _change_line(changed: InterfaceChanged, width: int | None) -> str:
    """Return what is shown of a change, with as many addresses as there is room for."""
    link = changed.link
    now = datetime.now().astimezone().strftime("%H:%M:%S")
    begin = f"{now}  {escaped(link.name):<15}  "
    match changed.change:
        case InterfaceChange.RENAMED:
            what = f"is the new name of {changed.former_name}"
        case InterfaceChange.CHANGED:
            begin += "changed: "
            items = (_in_words(link), f"MTU {link.mtu}", *link.addresses)
            what = whole(items, None if width is None else width - len(begin))
        case InterfaceChange.ADDED:
            what = f"appeared ({link.kind})" if link.kind else "appeared"
        case InterfaceChange.REMOVED:
            what = "is gone"
        case InterfaceChange.UP | InterfaceChange.DOWN:
            what = f"is {_in_words(link)}"
    return escaped(f"{begin}{what}")
