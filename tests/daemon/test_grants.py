"""What a capture was granted holds on the interfaces that it has, whatever they are called by now."""

from dataclasses import replace

import pytest

from capd.captures.grants import Grants, Present
from capd.errors import RequestRefused
from capd.linux.packet_socket import ALL_INTERFACES
from capd.policy.rules import Grant, Rule
from capd_protocol.messages import FailureCode, InterfaceRequest
from capd_protocol.messages.interfaces import Link
from capd_protocol.targets import CookedAny, NamedInterface

ETH = Rule(name="eth", interfaces=("eth*",), max_snaplen_bytes=100)
LAN = Rule(name="lan", interfaces=("lan*",))
ALL = Rule(name="all", interfaces=("any",))


def decide(target: Present) -> Grant:
    for rule in (ETH, LAN):
        if rule.covers(target):
            return Grant(rule, replace(target, request=rule.settled(target.request)))
    raise RequestRefused(FailureCode.NOT_PERMITTED, "no rule allows it")


def link(name: str, index: int = 2) -> Link:
    return Link(index=index, name=name, loopback=False, is_up=True, state="up", mtu=1500, hardware_type=1)


def asked(name: str) -> NamedInterface:
    return NamedInterface(InterfaceRequest(name=name))


def grants_of(target: NamedInterface) -> Grants:
    grants = Grants(decide)
    grants.hold(2, target, grants.ask(target))
    return grants


# By other names ---------------------------------------------------------------------------------------------------


def test_another_name_of_an_interface_gives_no_more_than_its_own() -> None:
    grants = Grants(decide)
    assert grants.ask_for_link(asked("eth0"), link("eth0")).rule == ETH
    assert grants.ask_for_link(asked("eth9"), link("eth0")).rule == ETH
    with pytest.raises(RequestRefused, match="eth9 is another name of lan0") as refused:
        grants.ask_for_link(asked("eth9"), link("lan0"))
    assert (refused.value.failure.code, refused.value.failure.interface) == (FailureCode.NOT_PERMITTED, "eth9")
    with pytest.raises(RequestRefused, match="no rule allows it"):
        grants.ask_for_link(asked("eth9"), link("wlan0"))


NAMES = {"eth0": False, "eth1": False, "lan0": True, "wlan0": True}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_on_which_another_rule_holds_or_none_exceeds_what_was_granted(name: str) -> None:
    assert grants_of(asked("eth0")).is_exceeded(link(name)) == NAMES[name]


def test_what_it_does_not_have_exceeds_nothing() -> None:
    grants = grants_of(asked("eth0"))
    assert not grants.is_exceeded(link("wlan0", index=3))
    grants.release(2)
    assert not grants.is_exceeded(link("wlan0"))
    grants.release(2)  # it may be given back twice


# In force ---------------------------------------------------------------------------------------------------------


def test_what_is_in_force_has_the_names_of_now() -> None:
    grants = grants_of(asked("eth0"))
    grants.hold(3, asked("lan0"), grants.ask(asked("lan0")))
    links = {each.index: each for each in (link("new", 2), link("lan0", 3), link("other", 4))}
    assert grants.in_force(links) == [Grant(ETH, asked("new")), Grant(LAN, asked("lan0"))]
    assert grants.in_force({3: links[3]}) == [Grant(LAN, asked("lan0"))]
    grants.release(3)
    assert grants.in_force(links) == [Grant(ETH, asked("new"))]


def test_all_interfaces_at_once_need_not_be_among_them() -> None:
    device = CookedAny(InterfaceRequest(name="any", link_layer_type="LINUX_SLL", promiscuous=False))
    grants = Grants(decide)
    grants.hold(ALL_INTERFACES, device, Grant(ALL, device))
    assert grants.in_force({}) == [Grant(ALL, device)]


def test_another_policy_decides_on_what_comes_and_leaves_what_there_is() -> None:
    grants = grants_of(asked("eth0"))

    def refuse(_: Present) -> Grant:
        raise RequestRefused(FailureCode.NOT_PERMITTED, "nothing any more")

    grants.decide_by(refuse)
    with pytest.raises(RequestRefused, match="nothing any more"):
        grants.ask(asked("eth1"))
    assert grants.in_force({2: link("eth0")}) == [Grant(ETH, asked("eth0"))]
    assert not grants.is_exceeded(link("eth0"))
    assert grants.is_exceeded(link("eth1"))
