"""What policy has granted a capture, interface by interface, as long as it has them. Pure."""

from collections.abc import Callable, Mapping

from capd.errors import RequestRefused
from capd.policy.rules import Grant, Rule
from capd_protocol.messages import FailureCode
from capd_protocol.messages.interfaces import Link
from capd_protocol.targets import CookedAny, NamedInterface

#: What is there, as a capture has it.
Present = NamedInterface | CookedAny


class Grants:
    """Those of one capture."""

    def __init__(self, decide: Callable[[Present], Grant]) -> None:
        """Nothing is granted yet.

        Args:
            decide: policy's word on an interface; raises RequestRefused.
        """
        self._decide = decide
        #: What was asked for and under which rule it was granted, by the interface's index.
        self._held: dict[int, tuple[Present, Rule]] = {}

    def decide_by(self, decide: Callable[[Present], Grant]) -> None:
        """Have another policy decide on interfaces that come from now on; what is granted stays so."""
        self._decide = decide

    def ask(self, target: Present) -> Grant:
        """Return policy's grant.

        Raises:
            RequestRefused: it grants nothing.
        """
        return self._decide(target)

    def ask_for_link(self, target: NamedInterface, link: Link) -> Grant:
        """Return policy's grant for an interface, which may have been asked for by another of its names.

        Raises:
            RequestRefused: it grants nothing, or not the same by the interface's own name.
        """
        granted = self._decide(target)
        name = target.name
        if link.name != name and self._decide(target.renamed(link.name)).rule != granted.rule:
            text = f"{name} is another name of {link.name}, on which another rule holds: ask for {link.name}"
            raise RequestRefused(FailureCode.NOT_PERMITTED, text, interface=name, argument="interfaces")
        return granted

    def hold(self, index: int, target: Present, granted: Grant) -> None:
        """Take note that the capture has an interface."""
        self._held[index] = target, granted.rule

    def release(self, index: int) -> None:
        """Take note that it does not have it, or no more."""
        self._held.pop(index, None)

    def is_exceeded(self, link: Link) -> bool:
        """Whether an interface that the capture has is called by now what another rule holds on, or none."""
        target, rule = self._held.get(link.index, (None, None))
        if not isinstance(target, NamedInterface) or target.name == link.name:
            return False
        try:
            return self._decide(target.renamed(link.name)).rule != rule
        except RequestRefused:
            return True

    def in_force(self, links: Mapping[int, Link]) -> list[Grant]:
        """Return what is in force on each interface, under the name that it has now.

        Args:
            links: all interfaces, by index.
        """
        grants: list[Grant] = []
        for index, (target, rule) in self._held.items():
            if isinstance(target, CookedAny):
                grants.append(Grant(rule, target))
            elif index in links:
                grants.append(Grant(rule, target.renamed(links[index].name)))
        return grants
