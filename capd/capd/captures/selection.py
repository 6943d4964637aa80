"""Interface selection: names and patterns of a request against what exists. Pure."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

import msgspec

from capd.launch import LaunchInterface
from capd.policy.rules import Grant
from capd_protocol.arguments import ANY, MAX_INTERFACES, is_cooked_any, is_pattern
from capd_protocol.formats.linktypes import DLT_LINUX_SLL
from capd_protocol.messages import PATTERN_KERNEL_BUFFER_SIZE_BYTES, InterfaceRequest, StartCapture
from capd_protocol.messages.interfaces import Link

#: linux/if_arp.h has no such number: libpcap's device ``any`` is of no hardware type.
_NO_HARDWARE = 0xFFFD


class Selection:
    """What was asked for, by name and by pattern, and the indexes of the interfaces that are attached."""

    def __init__(self, request: StartCapture) -> None:
        real = [each for each in request.interfaces if not is_cooked_any(each)]
        self.named = [each for each in real if not is_pattern(each.name)]
        self.patterns = [each for each in real if is_pattern(each.name)]
        self.attached: set[int] = set()
        #: Whether it goes on without any interface.
        self.waits = bool(self.patterns) or request.wait_for_interfaces
        #: Whether interfaces may be attached later: a capture of one interface ends with it, unless it waits.
        self.may_grow = self.waits or len(self.named) > 1

    def missing(self, links: Iterable[Link]) -> list[tuple[Link, InterfaceRequest]]:
        """Return the interfaces that belong to the capture and are not attached, with what is asked of them.

        A name goes before a pattern, and the first pattern before the others. There are at most MAX_INTERFACES at
        once; those beyond wait until others are gone.
        """
        room = MAX_INTERFACES - len(self.attached)
        found: list[tuple[Link, InterfaceRequest]] = []
        for link in links:
            request = None if link.index in self.attached else self._request_for(link.name)
            if request is not None and len(found) < room:
                found.append((link, request))
        return found

    def _request_for(self, name: str) -> InterfaceRequest | None:
        for request in self.named:
            if request.name == name:
                return request
        for request in self.patterns:
            if request.name == ANY or fnmatchcase(name, request.name):
                size_bytes = request.kernel_buffer_size_bytes or PATTERN_KERNEL_BUFFER_SIZE_BYTES
                return msgspec.structs.replace(request, name=name, kernel_buffer_size_bytes=size_bytes)
        return None

    def forget_all_but(self, indexes: Iterable[int]) -> None:
        """Take note of which interfaces there still are."""
        self.attached &= set(indexes)


def cooked_any(granted: Grant) -> LaunchInterface:
    """Return libpcap's device ``any``."""
    return LaunchInterface(
        request=granted.request,
        policy_filter=granted.rule.filter,
        policy_snaplen_bytes=granted.rule.max_snaplen_bytes,
        device=ANY,
        index=0,
        hardware_type=_NO_HARDWARE,
        default_dlt=DLT_LINUX_SLL,
        loopback=False,
    )
