"""Whether today's policy would grant a capture as it runs. Pure: values in, a decision out.

What holds in a capture is what it was granted: its filters are locked, and its process has its bounds. So it may run on
only if a rule of today asks for no more than that.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from capd.errors import RequestRefused
from capd.policy.peer import Peer
from capd.policy.rules import DeviceGrant, Grant, Policy, SendGrant
from capd_protocol.targets import Target


class Running(NamedTuple):
    """What a capture has by now.

    Attributes:
        targets: what was asked for.
        attached: what is in force on each that it is on, under the name that the interface has now.
        max_duration_s: after which it ends; None: it does not.
        max_disk_bytes: what its files may take; None: anything.
    """

    targets: Sequence[Target]
    attached: Sequence[Grant]
    max_duration_s: float | None
    max_disk_bytes: int | None


def as_of_today(owner: Peer, group_ids: frozenset[int]) -> Peer:
    """Return the owner of a capture without the groups that it has lost since it connected.

    Args:
        owner: with the groups of that time.
        group_ids: what the account of the person behind it has now; none: there is no such account any more.
    """
    lost = {owner.group_id, *owner.groups} - group_ids
    return dataclasses.replace(
        owner, lost_groups=tuple(sorted(lost)), has_account=owner.has_account and bool(group_ids)
    )


def objection(policy: Policy, owner: Peer, running: Running) -> str | None:
    """Return why policy would not grant a capture as it runs, in some words; None: it would.

    Args:
        policy: of today.
        owner: as of today.
        running: what it has.
    """
    if not policy.rules_of(owner):
        lost = f" (left group {', '.join(map(str, owner.lost_groups))})" if owner.lost_groups else ""
        return f"no rule names the user{lost}"
    for granted in running.attached:
        found = _objection_on(policy, owner, granted)
        if found is not None:
            return f"{granted.request.name}: {found}"
    try:
        terms = policy.terms(owner, running.targets)
    except RequestRefused as refused:
        return f"{refused.failure.interface}: no rule allows what was asked for"
    if _is_beyond(running.max_duration_s, terms.max_duration_s):
        return f"captures last up to {terms.max_duration_s:g} s"
    if _is_beyond(running.max_disk_bytes, terms.max_disk_bytes):
        return f"captures take up to {terms.max_disk_bytes:,} bytes on disk"
    return None


def sending_objection(policy: Policy, owner: Peer, interface: str, was: SendGrant, *, loopback: bool) -> str | None:
    """Return why policy would not grant sending as it goes on, in some words; None: it would.

    Args:
        policy: of today.
        owner: as of today.
        interface: its name now.
        was: what is in force.
        loopback: it is the loopback interface.
    """
    try:
        now = policy.grant_sending(owner, interface, loopback=loopback)
    except RequestRefused:
        return "no rule allows to send there"
    if not now.right.allows_as_much_as(was.right):
        return f"less may be sent (rule {now.rule.name})"
    return None


def device_objection(policy: Policy, owner: Peer, was: DeviceGrant) -> str | None:
    """Return why policy would not grant a device as it is captured from, in some words; None: it would.

    Args:
        policy: of today.
        owner: as of today.
        was: what is in force.
    """
    try:
        now = policy.grant_device(owner, was.request)
    except RequestRefused:
        return "no rule allows the device, as it was asked for"
    if now.request.snaplen_bytes < was.request.snaplen_bytes:
        return f"snaplen is at most {now.rule.max_snaplen_bytes} bytes (rule {now.rule.name})"
    return None


def _objection_on(policy: Policy, owner: Peer, was: Grant) -> str | None:
    try:
        now = policy.grant(owner, was.target)
    except RequestRefused:
        return "no rule allows what was asked for"
    rule = now.rule
    if rule.filter not in ("", was.rule.filter):
        return f"another filter (rule {rule.name})"
    # Beyond the rule's snaplen the user's filter sees nothing, whatever the user's own.
    if rule.max_snaplen_bytes < was.rule.max_snaplen_bytes:
        return f"snaplen is at most {rule.max_snaplen_bytes} bytes (rule {rule.name})"
    if was.rule.settled(was.request).promiscuous and not now.request.promiscuous:
        return f"not in promiscuous mode (rule {rule.name})"
    return None


def _is_beyond(has: float | None, allowed: float | None) -> bool:
    return allowed is not None and (has is None or has > allowed)


def persons_of(user_id: int, owners: Iterable[Peer]) -> frozenset[int]:
    """Return whose captures are meant by a user id: this person's, or if it is subordinate, of the person behind it.

    What has the same number in a container is somebody else.
    """
    on_host = (each for each in owners if not each.is_contained)
    return frozenset(each.person_id for each in on_host if user_id in (each.user_id, each.person_id))
