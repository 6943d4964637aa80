"""What policy has granted a capture, interface by interface, as long as it has them. Pure."""

from collections.abc import Callable, Mapping

import msgspec

from capd.errors import RequestRefused
from capd.linux.packet_socket import ALL_INTERFACES
from capd.policy.rules import Grant, Rule
from capd_protocol.messages import FailureCode, InterfaceRequest
from capd_protocol.messages.interfaces import Link


class Grants:
    """Those of one capture."""

    def __init__(self, decide: Callable[[InterfaceRequest], Grant]) -> None:
        """Nothing is granted yet.

        Args:
            decide: policy's word on an interface; raises RequestRefused.
        """
        self._decide = decide
        #: What was asked for and under which rule it was granted, by the interface's index.
        self._held: dict[int, tuple[InterfaceRequest, Rule]] = {}

    def decide_by(self, decide: Callable[[InterfaceRequest], Grant]) -> None:
        """Have another policy decide on interfaces that come from now on; what is granted stays so."""
        self._decide = decide

    def ask(self, request: InterfaceRequest) -> Grant:
        """Return policy's grant.

        Raises:
            RequestRefused: it grants nothing.
        """
        return self._decide(request)

    def ask_for_link(self, request: InterfaceRequest, link: Link) -> Grant:
        """Return policy's grant for an interface, which may have been asked for by another of its names.

        Raises:
            RequestRefused: it grants nothing, or not the same by the interface's own name.
        """
        granted = self._decide(request)
        if link.name != request.name and self._rule(granted.request, link) != granted.rule:
            name = request.name
            text = f"{name} is another name of {link.name}, on which another rule holds: ask for {link.name}"
            raise RequestRefused(FailureCode.NOT_PERMITTED, text, interface=name, argument="interfaces")
        return granted

    def _rule(self, request: InterfaceRequest, link: Link) -> Rule:
        return self._decide(msgspec.structs.replace(request, name=link.name)).rule

    def hold(self, index: int, request: InterfaceRequest, granted: Grant) -> None:
        """Take note that the capture has an interface."""
        self._held[index] = request, granted.rule

    def release(self, index: int) -> None:
        """Take note that it does not have it, or no more."""
        self._held.pop(index, None)

    def is_exceeded(self, link: Link) -> bool:
        """Whether an interface that the capture has is called by now what another rule holds on, or none."""
        request, rule = self._held.get(link.index, (None, None))
        if request is None or request.name == link.name:
            return False
        try:
            return self._rule(request, link) != rule
        except RequestRefused:
            return True

    def in_force(self, links: Mapping[int, Link]) -> list[Grant]:
        """Return what is in force on each interface, under the name that it has now.

        Args:
            links: all interfaces, by index.
        """
        grants: list[Grant] = []
        for index, (request, rule) in self._held.items():
            if index == ALL_INTERFACES:
                grants.append(Grant(rule, request))
            elif index in links:
                grants.append(Grant(rule, msgspec.structs.replace(request, name=links[index].name)))
        return grants
