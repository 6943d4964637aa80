"""What a capture was granted holds on the interfaces that it has, whatever they are called by now."""

import pytest

from capd.captures.grants import Grants
from capd.errors import RequestRefused
from capd.linux.packet_socket import ALL_INTERFACES
from capd.policy.rules import Grant, Rule
from capd_protocol.messages import FailureCode, InterfaceRequest
from capd_protocol.messages.interfaces import Link

ETH = Rule(name="eth", interfaces=("eth*",), max_snaplen_bytes=100)
LAN = Rule(name="lan", interfaces=("lan*",))


def decide(request: InterfaceRequest) -> Grant:
    for rule in (ETH, LAN):
        if rule.covers(request):
            return Grant(rule, rule.settled(request))
    raise RequestRefused(FailureCode.NOT_PERMITTED, "no rule allows it")


def link(name: str, index: int = 2) -> Link:
    return Link(index=index, name=name, loopback=False, is_up=True, state="up", mtu=1500, hardware_type=1)


def asked(name: str) -> InterfaceRequest:
    return InterfaceRequest(name=name)


def grants_of(name: str = "eth0", index: int = 2) -> Grants:
    grants = Grants(decide)
    request = asked(name)
    grants.hold(index, request, grants.ask(request))
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
    assert grants_of().is_exceeded(link(name)) == NAMES[name]


def test_what_it_does_not_have_exceeds_nothing() -> None:
    grants = grants_of()
    assert not grants.is_exceeded(link("wlan0", index=3))
    grants.release(2)
    assert not grants.is_exceeded(link("wlan0"))
    grants.release(2)  # it may be given back twice


# In force ---------------------------------------------------------------------------------------------------------


def test_what_is_in_force_has_the_names_of_now() -> None:
    grants = grants_of("eth0", 2)
    grants.hold(3, asked("lan0"), grants.ask(asked("lan0")))
    links = {each.index: each for each in (link("new", 2), link("lan0", 3), link("other", 4))}
    assert grants.in_force(links) == [Grant(ETH, asked("new")), Grant(LAN, asked("lan0"))]
    assert grants.in_force({3: links[3]}) == [Grant(LAN, asked("lan0"))]
    grants.release(3)
    assert grants.in_force(links) == [Grant(ETH, asked("new"))]


def test_all_interfaces_at_once_need_not_be_among_them() -> None:
    assert grants_of("eth0", ALL_INTERFACES).in_force({}) == [Grant(ETH, asked("eth0"))]


def test_another_policy_decides_on_what_comes_and_leaves_what_there_is() -> None:
    grants = grants_of()

    def refuse(_: InterfaceRequest) -> Grant:
        raise RequestRefused(FailureCode.NOT_PERMITTED, "nothing any more")

    grants.decide_by(refuse)
    with pytest.raises(RequestRefused, match="nothing any more"):
        grants.ask(asked("eth1"))
    assert grants.in_force({2: link("eth0")}) == [Grant(ETH, asked("eth0"))]
    assert not grants.is_exceeded(link("eth0"))
    assert grants.is_exceeded(link("eth1"))
