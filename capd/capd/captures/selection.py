"""Interface selection: names and patterns of a request against what exists. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import msgspec

from capd.launch import LaunchInterface
from capd.policy.rules import Grant
from capd_protocol.arguments import MAX_INTERFACES
from capd_protocol.formats.linktypes import DLT_LINUX_SLL
from capd_protocol.messages import PATTERN_KERNEL_BUFFER_SIZE_BYTES
from capd_protocol.messages.interfaces import Link
from capd_protocol.targets import ANY, CookedAny, NamedInterface, Pattern, Stream, Target

#: linux/if_arp.h has no such number: libpcap's device ``any`` is of no hardware type.
_NO_HARDWARE = 0xFFFD


class Selection:
    """What was asked for, by name and by pattern, and the indexes of the interfaces that are attached."""

    def __init__(self, targets: Sequence[Target], *, waits_for_names: bool = False) -> None:
        """Nothing is attached yet.

        Args:
            targets: what was asked for.
            waits_for_names: interfaces that were named may come later.
        """
        self.cooked = [each for each in targets if isinstance(each, CookedAny)]
        self.named = [each for each in targets if isinstance(each, NamedInterface)]
        self.patterns = [each for each in targets if isinstance(each, Pattern)]
        #: Which the client passes.
        self.streams = [each for each in targets if isinstance(each, Stream)]
        self.attached: set[int] = set()
        #: Those that can be attached only when they are up.
        self.down: set[int] = set()
        #: Whether an interface that was named may be missing.
        self.waits_for_names = waits_for_names
        #: Whether it goes on without any interface.
        self.waits = bool(self.patterns) or waits_for_names
        #: Whether interfaces may be attached later: a capture of one interface ends with it, unless it waits.
        self.may_grow = self.waits or len(self.named) + len(self.streams) > 1

    def missing(self, links: Iterable[Link]) -> list[tuple[Link, NamedInterface]]:
        """Return the interfaces that belong to the capture and can be attached now, with what is asked of them.

        A name goes before a pattern, and the first pattern before the others. There are at most MAX_INTERFACES at
        once; those beyond wait until others are gone.
        """
        room = MAX_INTERFACES - len(self.attached)
        found: list[tuple[Link, NamedInterface]] = []
        for link in links:
            is_waited_for = link.index in self.down and not link.is_up
            target = None if link.index in self.attached or is_waited_for else self._target_for(link.name)
            if target is not None and len(found) < room:
                found.append((link, target))
        return found

    def _target_for(self, name: str) -> NamedInterface | None:
        for target in self.named:
            if target.name == name:
                return target
        for pattern in self.patterns:
            if pattern.matches(name):
                return _with_small_ring(pattern.named(name))
        return None

    def forget_all_but(self, indexes: Iterable[int]) -> None:
        """Take note of which interfaces there still are."""
        there = set(indexes)
        self.attached &= there
        self.down &= there

    def wait_until_up(self, index: int) -> None:
        """Take note of an interface that cannot be attached as long as it is down."""
        self.attached.discard(index)
        self.down.add(index)


def _with_small_ring(target: NamedInterface) -> NamedInterface:
    """Return what a pattern has found with a ring of the size for many, unless another one is asked for."""
    size_bytes = target.request.kernel_buffer_size_bytes or PATTERN_KERNEL_BUFFER_SIZE_BYTES
    return replace(target, request=msgspec.structs.replace(target.request, kernel_buffer_size_bytes=size_bytes))


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
