"""Rules: whether a peer may capture something, and how much of it. Pure: values in, a decision out.

Rules are read in order. On each interface the first rule that names the peer and allows all that is asked for there
grants it; its filter is added to the peer's own. What no rule allows is refused. Root, and the owner of a private
daemon, are bound by none.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import takewhile
from typing import NamedTuple

import msgspec

from capd.errors import RequestRefused
from capd.policy.peer import Peer
from capd.policy.sending import ANY_SOURCE, SendRight
from capd_protocol.messages import MAX_SNAPLEN_BYTES, FailureCode, InterfaceRequest, Permission, SendPermission
from capd_protocol.targets import ANY, CookedAny, NamedInterface, Pattern, Stream, Target, target_of

_ROOT = 0
#: A set of characters in a pattern; a bracket right behind the first one belongs to it.
_SET = re.compile(r"\[!?\]?[^]]*\]")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What some users may do; None: as much as the daemon can.

    Attributes:
        name: for logs.
        containers: it names those who come by the containers' socket, by their numbers as the kernel has them, and
            nobody else.
        user_ids: whom it names.
        group_ids: whose members it names.
        everybody: it names all that have an account.
        interfaces: patterns of names.
        filter: only packets that match it are captured, whatever the user's own filter.
        max_snaplen_bytes: of each packet.
        promiscuous: whether promiscuous mode is allowed.
        monitor_mode: whether monitor mode and channels are.
        max_captures: at once, of one person under this rule.
        max_disk_bytes: in files of one person's captures at once, with what earlier ones left under the same names.
        max_duration_s: of one capture.
        send: what they may send; None: nothing.
        devices: patterns of names of capture modules' devices that the daemon opens for them.
    """

    name: str
    containers: bool = False
    user_ids: frozenset[int] = frozenset()
    group_ids: frozenset[int] = frozenset()
    everybody: bool = False
    interfaces: tuple[str, ...] = ("*",)
    filter: str = ""
    max_snaplen_bytes: int = MAX_SNAPLEN_BYTES
    promiscuous: bool = True
    monitor_mode: bool = False
    max_captures: int | None = None
    max_disk_bytes: int | None = None
    max_duration_s: float | None = None
    send: SendRight | None = None
    devices: tuple[str, ...] = ()

    def applies_to(self, peer: Peer) -> bool:
        """Whether the rule names the peer, who has the groups that it had when it connected, but for those it has lost.

        Nobody knows where ids without an account come from, nor how many of them one person has: such a one is
        named by its number or not at all. A subordinate id has the groups of its owner, but is another user.
        """
        if peer.is_contained != self.containers:
            return False
        if peer.user_id in self.user_ids:
            return True
        return peer.has_account and (self.everybody or not self.group_ids.isdisjoint(peer.named_groups))

    def covers(self, target: Target) -> bool:
        """Whether the interface, or any that a pattern could match, is among those of the rule."""
        match target:
            case NamedInterface(request):
                return any(_matches(request.name, pattern) for pattern in self.interfaces)
            case Pattern(request):
                return any(_may_overlap(pattern, request.name) for pattern in self.interfaces)
            case Stream():  # nothing of this machine: who has opened it has its packets already
                return True
            case CookedAny():  # it takes in all interfaces at once: no pattern short of all of them will do
                return any(pattern in ("*", ANY) for pattern in self.interfaces)

    def objections(self, request: InterfaceRequest) -> list[str]:
        """Return what is asked for on an interface and the rule does not allow, in words."""
        found: list[str] = []
        if self.max_snaplen_bytes < request.snaplen_bytes != MAX_SNAPLEN_BYTES:
            found.append(f"snaplen is at most {self.max_snaplen_bytes} bytes")
        if request.promiscuous and not self.promiscuous:
            found.append("not in promiscuous mode")
        if (request.monitor_mode or request.wifi_channel) and not self.monitor_mode:
            found.append("no monitor mode and no channels")
        return found

    def hides(self, other: "Rule", has_account: Callable[[int], bool]) -> bool:
        """Whether another rule further down never grants: all that it allows to those it names, this one grants before.

        Of patterns that differ, only ``*`` and ``any`` are known to take in others: this may say no where it is so.

        Args:
            other: a rule further down.
            has_account: whether a user id has one, without which ``everybody`` does not mean it.
        """
        return (
            self._names_all_of(other, has_account)
            and all(self._takes_in(each) for each in other.interfaces)
            and self.max_snaplen_bytes >= other.max_snaplen_bytes
            and self.promiscuous >= other.promiscuous
            and self.monitor_mode >= other.monitor_mode
            and (other.send is None or (self.send is not None and self.send.takes_in(other.send)))
            and ("*" in self.devices or set(other.devices) <= set(self.devices))
        )

    def _names_all_of(self, other: "Rule", has_account: Callable[[int], bool]) -> bool:
        if self.containers != other.containers or not (other.everybody or other.user_ids or other.group_ids):
            return False
        # Users of containers have no account here.
        everybody = self.everybody and not self.containers
        return all(each in self.user_ids or (everybody and has_account(each)) for each in other.user_ids) and (
            self.everybody or (not other.everybody and other.group_ids <= self.group_ids)
        )

    def _takes_in(self, pattern: str) -> bool:
        if not {"*", ANY, pattern}.isdisjoint(self.interfaces):
            return True
        target = target_of(InterfaceRequest(name=pattern))
        return isinstance(target, NamedInterface) and self.covers(target)

    def settled(self, request: InterfaceRequest) -> InterfaceRequest:
        """Return a request that it allows with nothing left open."""
        return msgspec.structs.replace(
            request,
            snaplen_bytes=min(request.snaplen_bytes, self.max_snaplen_bytes),
            promiscuous=self.promiscuous if request.promiscuous is None else request.promiscuous,
        )


#: Of root, and of the owner of a private daemon.
UNBOUND = Rule(
    name="unbound",
    everybody=True,
    monitor_mode=True,
    send=SendRight(interfaces=("*", "lo"), source_macs=(ANY_SOURCE,)),
    devices=("*",),
)


@dataclass(frozen=True)
class Grant:
    """One interface, granted.

    Attributes:
        rule: under which rule.
        target: what to capture there, with nothing left open.
    """

    rule: Rule
    target: Target

    @property
    def request(self) -> InterfaceRequest:
        """What is granted on it."""
        return self.target.request


@dataclass(frozen=True)
class SendGrant:
    """Sending on one interface, granted.

    Attributes:
        rule: under which rule.
        right: what it allows.
    """

    rule: Rule
    right: SendRight


@dataclass(frozen=True)
class DeviceGrant:
    """A device of a capture module, granted.

    Attributes:
        rule: under which rule.
        request: how to capture from it, with nothing left open.
    """

    rule: Rule
    request: InterfaceRequest


@dataclass(frozen=True)
class Terms:
    """What holds for a capture as a whole.

    Attributes:
        rules: those that it is granted under, or may be when further interfaces come.
        max_duration_s: the strictest of them.
        max_disk_bytes: the strictest of them; the user's other captures use it too.
    """

    rules: tuple[Rule, ...]
    max_duration_s: float | None
    max_disk_bytes: int | None


@dataclass(frozen=True)
class Policy:
    """All rules, and whom a user who is refused should ask.

    Attributes:
        rules: in order.
        advice: whom to ask, as the end of a sentence.
        contact: whom to ask for a rule; empty: an administrator.
        owner_id: this user is bound by no rule: the owner of a private daemon.
    """

    rules: tuple[Rule, ...] = ()
    advice: str = "ask an administrator"
    owner_id: int | None = None
    contact: str = ""

    def is_unbound(self, peer: Peer) -> bool:
        """Whether no rule binds the peer."""
        return not peer.is_contained and peer.user_id in (_ROOT, self.owner_id)

    def rules_of(self, peer: Peer) -> tuple[Rule, ...]:
        """Return the rules that name the peer, in order."""
        return (UNBOUND,) if self.is_unbound(peer) else tuple(rule for rule in self.rules if rule.applies_to(peer))

    def rules_or_refuse(self, peer: Peer) -> tuple[Rule, ...]:
        """Return the rules that name the peer.

        Raises:
            RequestRefused: there is none.
        """
        rules = self.rules_of(peer)
        if not rules:
            why = "" if peer.has_account else ", having no account on this machine and no rule with this number"
            text = f"{peer} may not capture here{why}: {self.advice_for(peer)}"
            raise RequestRefused(FailureCode.NOT_PERMITTED, text)
        return rules

    def advice_for(self, peer: Peer, right: str = "") -> str:
        """Return what to do about a refusal, as the end of a sentence.

        Args:
            peer: who is refused.
            right: what a rule must say that gives a right which no group gives; empty: capturing.
        """
        if peer.is_contained:  # of whom no group can be had
            also = f" and '{right}'" if right else ""
            return f"ask an administrator for a rule with 'containers = true'{also}"
        if right:
            whom = self.contact or "an administrator"
            return f"ask {whom} for a rule with '{right}'"
        return self.advice

    def may_capture(self, peer: Peer, interface: str) -> bool:
        """Whether some rule lets the peer capture on the interface."""
        target = target_of(InterfaceRequest(name=interface))
        return any(rule.covers(target) for rule in self.rules_of(peer))

    def may_see(self, peer: Peer, owner: Peer) -> bool:
        """Whether the peer may list and stop a capture of this user: it is the same, or stands behind it.

        Users of containers are not distinguished by their numbers: they have what their own connection has started.
        """
        if peer.is_contained:
            return False
        return peer.user_id == _ROOT or (not owner.is_contained and peer.user_id in (owner.user_id, owner.person_id))

    def grant(self, peer: Peer, target: Target) -> Grant:
        """Grant one interface; for a pattern this says only that some interface could be.

        Raises:
            RequestRefused: no rule allows it; the text is for that user.
        """
        rules = self._covering(peer, target)
        request = target.request
        if isinstance(target, Stream):
            return Grant(rules[0], target)  # for the quotas: of its packets no rule says anything
        for rule in rules:
            if not rule.objections(request):
                return Grant(rule, replace(target, request=rule.settled(request)))
        objections = "; ".join(f"{', '.join(rule.objections(request))} (rule {rule.name!r})" for rule in rules)
        text = f"{peer} may capture on {request.name}, but {objections}: ask for less, or {self.advice_for(peer)}"
        raise RequestRefused(FailureCode.NOT_PERMITTED, text, interface=request.name)

    def _covering(self, peer: Peer, target: Target) -> list[Rule]:
        rules = self.rules_or_refuse(peer)
        covering = [rule for rule in rules if rule.covers(target)]
        request = target.request
        name = request.name
        if isinstance(target, CookedAny):
            # One rule for all interfaces at once must not take the place of an earlier one that holds on some.
            first = list(takewhile(lambda rule: rule in covering or rule.objections(request), rules))
            covering = [rule for rule in first if rule in covering]
            name += f" as {request.link_layer_type}, which mixes all interfaces"
        if not covering:
            patterns = ", ".join(dict.fromkeys(pattern for rule in rules for pattern in rule.interfaces))
            where = f"on {name}, only on {patterns}" if patterns else "on interfaces here"
            text = f"{peer} may not capture {where}: {self.advice_for(peer)}"
            raise RequestRefused(FailureCode.NOT_PERMITTED, text, interface=request.name, argument="interfaces")
        return covering

    def grant_sending(self, peer: Peer, interface: str, *, loopback: bool) -> SendGrant:
        """Grant sending on an interface, by the first rule that names the peer and allows it there.

        Args:
            peer: the client.
            interface: its own name.
            loopback: it is the loopback interface.

        Raises:
            RequestRefused: no rule allows it; the text is for that user.
        """
        granted = [SendGrant(rule, rule.send) for rule in self.rules_of(peer) if rule.send is not None]
        for each in granted:
            if each.right.covers(interface, loopback=loopback):
                return each
        patterns = ", ".join(dict.fromkeys(pattern for each in granted for pattern in each.right.interfaces))
        named = " (the loopback interface is allowed by its own name alone)" if loopback and patterns else ""
        where = f"on {interface}, only on {patterns}{named}" if patterns else "packets here"
        text = f"{peer} may not send {where}: {self.advice_for(peer, 'send = true')}"
        raise RequestRefused(FailureCode.NOT_PERMITTED, text, interface=interface, argument="interface")

    def grant_device(self, peer: Peer, request: InterfaceRequest) -> DeviceGrant:
        """Grant a device of a capture module, by the first rule that names the peer and allows all that is asked for.

        Args:
            peer: the client.
            request: the device, and how to capture from it.

        Raises:
            RequestRefused: no rule allows it; the text is for that user.
        """
        name = request.name
        covering = [rule for rule in self.rules_of(peer) if any(fnmatchcase(name, pattern) for pattern in rule.devices)]
        for rule in covering:
            if not rule.objections(request):
                return DeviceGrant(rule, rule.settled(request))
        advice = self.advice_for(peer, f"devices = [{json.dumps(name)}]")
        text = f"{peer} may not have capd open {name}"
        if covering:
            objections = (f"{', '.join(rule.objections(request))} (rule {rule.name!r})" for rule in covering)
            text = f"{peer} may have capd open {name}, but {'; '.join(objections)}"
        raise RequestRefused(FailureCode.NOT_PERMITTED, f"{text}: {advice}", interface=name, argument="interfaces")

    def terms(self, peer: Peer, targets: Iterable[Target]) -> Terms:
        """Return what holds for a capture of these interfaces.

        A pattern may come to match interfaces under different rules; the strictest bounds of those hold from the
        beginning.

        Raises:
            RequestRefused: as ``grant``.
        """
        rules: list[Rule] = []
        for target in targets:
            granted = self.grant(peer, target).rule
            if isinstance(target, Pattern):
                rules += [rule for rule in self._covering(peer, target) if not rule.objections(target.request)]
            else:
                rules.append(granted)
        return Terms(
            tuple(dict.fromkeys(rules)),
            min((rule.max_duration_s for rule in rules if rule.max_duration_s is not None), default=None),
            min((rule.max_disk_bytes for rule in rules if rule.max_disk_bytes is not None), default=None),
        )

    def permissions(self, peer: Peer, *, monitor_mode: bool) -> tuple[Permission, ...]:
        """Return what the peer may do, rule by rule.

        Args:
            peer: the client.
            monitor_mode: whether this daemon can do that at all.
        """
        return tuple(
            Permission(
                rule=rule.name,
                interfaces=rule.interfaces,
                filter=rule.filter,
                max_snaplen_bytes=rule.max_snaplen_bytes,
                promiscuous=rule.promiscuous,
                monitor_mode=rule.monitor_mode and monitor_mode,
                max_captures=rule.max_captures,
                max_disk_bytes=rule.max_disk_bytes,
                max_duration_s=rule.max_duration_s,
                send=None
                if rule.send is None
                else SendPermission(
                    interfaces=rule.send.interfaces, max_pps=rule.send.max_pps, source_macs=rule.send.source_macs
                ),
                devices=rule.devices,
            )
            for rule in self.rules_of(peer)
        )


class Owner(NamedTuple):
    """Whose daemon a private one is.

    Attributes:
        user_id: of this user.
        may_capture: whether on network interfaces, too, which takes CAP_NET_RAW; streams are the owner's anyway.
    """

    user_id: int
    may_capture: bool


def default_policy(group_id: int | None, group_name: str, owner: Owner | None = None) -> Policy:
    """Return the policy without a configuration: the members of one group may capture everything.

    Args:
        group_id: None where there is no such group.
        group_name: named in the refusal of those who are no members.
        owner: of a private daemon.
    """
    members = Rule(name=group_name, group_ids=frozenset(() if group_id is None else (group_id,)), monitor_mode=True)
    advice = f"ask an administrator to be added to the group {group_name}, then log in again"
    if owner is None or owner.may_capture:
        return Policy((members,), advice, None if owner is None else owner.user_id)
    streams = Rule(name="streams", user_ids=frozenset((owner.user_id,)), interfaces=())
    return Policy((members, streams), advice)


def _matches(name: str, pattern: str) -> bool:
    return pattern == ANY or fnmatchcase(name, pattern)


def _may_overlap(one: str, other: str) -> bool:
    """Whether a name could match both patterns; a set of characters counts as any character."""
    return ANY in (one, other) or _meet(_SET.sub("?", one), _SET.sub("?", other))


@lru_cache(maxsize=10_000)  # all pairs of ends of two patterns; without it, stars would make it exponential
def _meet(one: str, other: str) -> bool:
    if not one or not other:
        return not (one + other).strip("*")
    if one[0] == "*":
        return _meet(one[1:], other) or _meet(one, other[1:])
    if other[0] == "*":
        return _meet(other, one)
    return (one[0] == other[0] or "?" in (one[0], other[0])) and _meet(one[1:], other[1:])
