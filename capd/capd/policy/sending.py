"""The right to send: what a rule allows those it names to send, and on which interfaces. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

#: Of source addresses: any.
ANY_SOURCE = "*"


@dataclass(frozen=True, kw_only=True)
class SendRight:
    """What some users may send; None: as much as the interface takes.

    Attributes:
        interfaces: patterns of names. The loopback interface is matched by its own name alone.
        max_pps: packets a second, of one person under this rule.
        source_macs: source addresses that frames may have beside the interface's own, as text with colons, in lower
            case; ``*`` among them: any.
    """

    interfaces: tuple[str, ...] = ("*",)
    max_pps: int | None = None
    source_macs: tuple[str, ...] = ()

    def covers(self, name: str, *, loopback: bool) -> bool:
        """Whether the interface of this name is among those of the right."""
        if loopback:  # what is sent there, the machine takes for its own
            return name in self.interfaces
        return any(pattern == "any" or fnmatchcase(name, pattern) for pattern in self.interfaces)

    def allows_as_much_as(self, other: "SendRight") -> bool:
        """Whether all packets that another right allows on an interface are allowed by this one, too."""
        if self.max_pps is not None and (other.max_pps is None or other.max_pps > self.max_pps):
            return False
        return ANY_SOURCE in self.source_macs or set(other.source_macs) <= set(self.source_macs)

    def takes_in(self, other: "SendRight") -> bool:
        """Whether it allows all that another one does. Patterns that differ are not compared, but for ``*``."""
        has_all = set(other.interfaces) <= set(self.interfaces)
        return (has_all or _is_everywhere(self, other.interfaces)) and self.allows_as_much_as(other)


def _is_everywhere(right: SendRight, patterns: Sequence[str]) -> bool:
    return not {"*", "any"}.isdisjoint(right.interfaces) and ("lo" not in patterns or "lo" in right.interfaces)
