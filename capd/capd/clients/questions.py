"""Questions of clients, which change nothing, and their answers."""

from collections.abc import Sequence
from functools import partial
from typing import assert_never

from capd.clients.services import Services
from capd.linux.privileges import Capability, has_capability
from capd.policy.peer import Peer
from capd_protocol.arguments import MAX_INTERFACE_NAME_BYTES
from capd_protocol.messages import (
    GetCapabilities,
    GetDriverCounters,
    InterfaceRequest,
    ListCaptures,
    ListInterfaces,
    Permissions,
    WhoAmI,
    encode,
)
from capd_protocol.targets import NamedInterface

Question = ListCaptures | WhoAmI | ListInterfaces | GetCapabilities | GetDriverCounters


async def answer(question: Question, peer: Peer, services: Services) -> Sequence[bytes]:
    """Return the frames of the answer.

    Args:
        question: what is asked.
        peer: the client, on which the answer may depend.
        services: who knows.

    Raises:
        RequestRefused: the peer may not know it, or it cannot be found out.
        OSError: the kernel does not answer.
    """
    policy, interfaces = services.captures.policy, services.monitor.interfaces
    match question:
        case ListCaptures():
            return [encode(captures) for captures in services.captures.lists_for(peer)]
        case WhoAmI():
            permissions = Permissions(
                user_id=peer.user_id,
                group_ids=tuple(dict.fromkeys((peer.group_id, *peer.groups))),
                permissions=policy.permissions(peer, monitor_mode=has_capability(Capability.NET_ADMIN)),
                advice=policy.advice_for(peer),
                is_contained=peer.is_contained,
            )
            return [encode(permissions)]
        case ListInterfaces():
            rules = policy.rules_of(peer)  # all that it depends on
            return await interfaces.lists(rules, partial(policy.may_capture, peer))
        case GetCapabilities():
            if question.monitor_mode:  # libpcap switches the radio for it
                wish = InterfaceRequest(name=question.interface[:MAX_INTERFACE_NAME_BYTES], monitor_mode=True)
                policy.grant(peer, NamedInterface(wish))
            return [encode(await interfaces.capabilities(question, services.admission.turn_of(peer)))]
        case GetDriverCounters(interface=interface):
            return [encode(await interfaces.driver_counters(interface, services.admission.turn_of(peer)))]
        case _:
            assert_never(question)
