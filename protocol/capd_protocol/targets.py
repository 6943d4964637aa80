"""Capture targets: what the name in an interface request stands for. Parsed once, where a request comes in."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import msgspec

from capd_protocol.formats.linktypes import DLT_LINUX_SLL, DLT_LINUX_SLL2, by_name
from capd_protocol.messages import InterfaceRequest

#: libpcap's name for all interfaces (pcap-linux.c).
ANY = "any"
#: Instead of a name: the interface that the daemon chooses for the user.
DEFAULT = ""
_WILDCARDS = "*?["


@dataclass(frozen=True)
class NamedInterface:
    """One interface, called by its name, whatever that looks like."""

    request: InterfaceRequest

    @property
    def name(self) -> str:
        """The interface's name."""
        return self.request.name

    def renamed(self, name: str) -> "NamedInterface":
        """Return the same request for an interface of this name."""
        return NamedInterface(msgspec.structs.replace(self.request, name=name))


@dataclass(frozen=True)
class Pattern:
    """All interfaces whose whole name matches a pattern of the shell's kind, or ``any`` for all; each by itself."""

    request: InterfaceRequest

    @property
    def name(self) -> str:
        """The pattern."""
        return self.request.name

    def matches(self, name: str) -> bool:
        """Whether an interface of this name is among them."""
        return self.name == ANY or fnmatchcase(name, self.name)

    def named(self, name: str) -> NamedInterface:
        """Return what is asked for on an interface that matches."""
        return NamedInterface(self.request).renamed(name)


@dataclass(frozen=True)
class CookedAny:
    """libpcap's device ``any``: all interfaces mixed into one, in Linux's cooked link-layer type."""

    request: InterfaceRequest


@dataclass(frozen=True)
class Stream:
    """A stream of packets, as pcap or pcapng, which the client has opened and passes along."""

    request: InterfaceRequest


Target = NamedInterface | Pattern | CookedAny | Stream


def target_of(request: InterfaceRequest) -> Target:
    """Return what a request is for."""
    if request.is_stream:
        return Stream(request)
    if request.name == ANY and _is_cooked(request.link_layer_type):
        return CookedAny(request)
    if request.name == ANY or any(character in request.name for character in _WILDCARDS):
        return Pattern(request)
    return NamedInterface(request)


def targets_of(requests: Iterable[InterfaceRequest]) -> tuple[Target, ...]:
    """Return what each of the requests is for, in their order."""
    return tuple(map(target_of, requests))


def _is_cooked(link_layer_type: str | None) -> bool:
    wanted = by_name(link_layer_type) if link_layer_type else None
    return wanted is not None and wanted.dlt in (DLT_LINUX_SLL, DLT_LINUX_SLL2)
