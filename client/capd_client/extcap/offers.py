"""What is offered to Wireshark as an interface: interfaces, captures and recorders that run, other hosts. Pure.

Names are such that they mean the same at Wireshark's next start: those of an interface, of a capture, of a host. One
behind ``capd:`` with a slash is no interface's, since the kernel has no such names.
"""

import enum
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from capd_client.extcap.sentences import decoded, encoded
from capd_protocol.arguments import is_capture_name
from capd_protocol.messages import MAX_SNAPLEN_BYTES, CaptureSummary, Permission
from capd_protocol.messages.interfaces import InterfaceInfo

_PREFIX = "capd:"


class Kind(enum.Enum):
    """What is offered, with what stands before its name."""

    CAPTURE = "capture/"
    RECORDER = "recorder/"
    HOST = "ssh://"
    INTERFACE = ""


class Offer(NamedTuple):
    """A line of Wireshark's list.

    Attributes:
        kind: of what it is.
        name: of the interface; name or number of the capture; ``[USER@]HOST[:PORT]``, empty where a setting says it.
        display: for people.
    """

    kind: Kind
    name: str
    display: str = ""

    @property
    def value(self) -> str:
        """What Wireshark calls it."""
        return f"{_PREFIX}{self.kind.value}{encoded(self.name)}"


class Limits(NamedTuple):
    """What the rules of policy leave of the settings of an interface.

    Attributes:
        snaplen_bytes: the most bytes of a packet.
        promiscuous: whether packets for others may be captured.
        filters: of rules, one of which each packet must match; none, where a rule lets all be captured.
    """

    snaplen_bytes: int = MAX_SNAPLEN_BYTES
    promiscuous: bool = True
    filters: tuple[str, ...] = ()


def meant(value: str) -> Offer | None:
    """Return what a name of Wireshark's list means; None: it is none of ours."""
    if not value.startswith(_PREFIX):
        return None
    name = decoded(value.removeprefix(_PREFIX))
    kind = next(each for each in Kind if name.startswith(each.value))
    name = name.removeprefix(kind.value)
    return Offer(kind, name) if name or kind is Kind.HOST else None


def limits_of(interface: str, permissions: Sequence[Permission]) -> Limits:
    """Return what some rule lets be set for an interface; which one holds is the daemon's to say."""
    fitting = [each for each in permissions if _fits(interface, each)]
    if not fitting:
        return Limits()
    filters = () if any(not each.filter for each in fitting) else tuple(each.filter for each in fitting)
    return Limits(max(each.max_snaplen_bytes for each in fitting), any(each.promiscuous for each in fitting), filters)


def _fits(interface: str, permission: Permission) -> bool:
    return any(interface == "any" or each == "any" or fnmatchcase(interface, each) for each in permission.interfaces)


def offers(
    interfaces: Iterable[InterfaceInfo],
    captures: Sequence[CaptureSummary],
    permissions: Sequence[Permission],
    user_id: int,
    hosts: Iterable[str],
) -> Iterator[Offer]:
    """Give all lines.

    Args:
        interfaces: that the daemon knows.
        captures: that run, as far as this user sees them.
        permissions: of this user.
        user_id: to the daemon.
        hosts: which have a line each, as ``[USER@]HOST[:PORT]``.
    """
    for each in interfaces:
        if each.may_capture:
            yield Offer(Kind.INTERFACE, each.name, _interface_display(each, limits_of(each.name, permissions)))
    names = [each.name for each in captures]
    for capture in captures:
        is_own = capture.user_id == user_id and not capture.is_contained
        is_named = capture.name is not None and (is_own or names.count(capture.name) == 1)
        name = capture.name if is_named and capture.name is not None else str(capture.capture_id)
        kind = Kind.RECORDER if capture.is_recorder else Kind.CAPTURE
        what = "capd snapshot of recorder" if capture.is_recorder else "capd capture"
        yield Offer(kind, name, f"{what} {name}, on {', '.join(capture.interfaces)}")
    for host in hosts:
        yield Offer(Kind.HOST, host, f"capd on {host}, over ssh")
    yield Offer(Kind.HOST, "", "capd on another host, over ssh")


def _interface_display(interface: InterfaceInfo, limits: Limits) -> str:
    called = interface.link.alias if interface.link is not None else ""
    only = f", packets that match '{' or '.join(limits.filters)}'" if limits.filters else ""
    return f"capd {interface.name}{f' ({called})' if called else ''}{only}"


def capture_meant(offer: Offer) -> int | str | None:
    """Return which capture or recorder is meant, as the daemon knows it; None: it can be none."""
    name = offer.name
    if name.isascii() and name.isdecimal() and len(name) < 20:
        return int(name)
    return name if is_capture_name(name) else None
