"""Who may send what: nobody without a rule, and the loopback interface by its own name alone."""

from pathlib import Path

import pytest

from capd.config import reader
from capd.errors import RequestRefused
from capd.policy.peer import Peer
from capd.policy.revocation import sending_objection
from capd.policy.rules import Policy, Rule, SendGrant, default_policy
from capd.policy.sending import SendRight
from capd_protocol.messages import FailureCode

ALICE, ROOT = Peer(1, 1000, 1000, ()), Peer(2, 0, 0, ())
CONTAINED = Peer(3, 1000, 1000, (), is_contained=True)


def rule(name: str, **right: object) -> Rule:
    return Rule(name=name, user_ids=frozenset({1000}), send=SendRight(**right) if right else None)  # type: ignore[arg-type]


ETHERNET = rule("ethernet", interfaces=("eth*",), max_pps=100)
POLICY = Policy(
    (rule("capture"), ETHERNET, rule("rest", interfaces=("*",), source_macs=("*",)), rule("lo", interfaces=("lo",))),
    "ask netops",
    contact="netops",
)


@pytest.mark.parametrize(
    ("peer", "name", "loopback", "expected"),
    [
        (ALICE, "eth0", False, "ethernet"),
        (ALICE, "wlan0", False, "rest"),
        (ALICE, "lo", True, "lo"),
        (ALICE, "lo1", True, None),
        (ROOT, "eth0", False, "unbound"),
        (ROOT, "lo", True, "unbound"),
        (Peer(4, 1001, 1001, ()), "eth0", False, None),
        (CONTAINED, "eth0", False, None),
    ],
)
def test_the_first_rule_that_lets_send_there_grants(
    peer: Peer, name: str, loopback: bool, expected: str | None
) -> None:
    if expected is None:
        with pytest.raises(RequestRefused) as refused:
            POLICY.grant_sending(peer, name, loopback=loopback)
        assert refused.value.failure.code == FailureCode.NOT_PERMITTED
        assert "send = true" in refused.value.failure.text
    else:
        assert POLICY.grant_sending(peer, name, loopback=loopback).rule.name == expected


def test_without_a_configuration_only_root_sends() -> None:
    member = Peer(1, 1000, 1000, (50,))
    policy = default_policy(50, "capd")
    assert policy.grant_sending(ROOT, "eth0", loopback=False).rule.name == "unbound"
    with pytest.raises(RequestRefused, match="ask an administrator for a rule with 'send = true'"):
        policy.grant_sending(member, "eth0", loopback=False)


@pytest.mark.parametrize("pattern", ["*", "l*", "[l]o", "any"])
def test_no_pattern_stands_for_the_loopback_interface(pattern: str) -> None:
    assert not SendRight(interfaces=(pattern,)).covers("lo", loopback=True)
    assert SendRight(interfaces=(pattern, "lo")).covers("lo", loopback=True)


RIGHTS = [
    (SendRight(), SendRight(max_pps=5), False),
    (SendRight(max_pps=5), SendRight(max_pps=4), False),
    (SendRight(max_pps=4), SendRight(max_pps=5), True),
    (SendRight(max_pps=4), SendRight(), True),
    (SendRight(source_macs=("a",)), SendRight(source_macs=("a", "b")), True),
    (SendRight(source_macs=("a", "b")), SendRight(source_macs=("a",)), False),
    (SendRight(source_macs=("a",)), SendRight(source_macs=("*",)), True),
    (SendRight(source_macs=("*",)), SendRight(source_macs=("a",)), False),
]


@pytest.mark.parametrize(("was", "now", "is_granted"), RIGHTS)
def test_what_goes_on_is_not_more_than_is_granted_now(was: SendRight, now: SendRight, is_granted: bool) -> None:
    former = Rule(name="r", user_ids=frozenset({1000}), send=was)
    policy = Policy((Rule(name="r", user_ids=frozenset({1000}), send=now),))
    grant = SendGrant(former, was)
    assert (sending_objection(policy, ALICE, "eth0", grant, loopback=False) is None) == is_granted
    assert sending_objection(Policy(), ALICE, "eth0", grant, loopback=False) == "no rule allows to send there"


def test_a_rule_that_alone_lets_send_is_not_hidden() -> None:
    capture, send = rule("capture"), rule("send", interfaces=("eth0",))
    everything = rule("all", interfaces=("*",), source_macs=("*",))
    assert not capture.hides(send, lambda _: True)
    assert send.hides(capture, lambda _: True)
    assert everything.hides(send, lambda _: True)
    assert not everything.hides(rule("lo", interfaces=("lo",)), lambda _: True)
    assert not rule("slow", interfaces=("*",), max_pps=5).hides(send, lambda _: True)


# The configuration ----------------------------------------------------------------------------------------------------


def read(tmp_path: Path, text: str) -> Rule:
    path = tmp_path / "capd.toml"
    return reader.decode(path, f'[[rule]]\nname = "r"\nusers = [0]\n{text}'.encode()).policy.rules[0]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("", None),
        ("send = false", None),
        ("send = true", SendRight()),
        ('send = true\ninterfaces = ["eth*"]', SendRight(interfaces=("eth*",))),
        ('send = true\ninterfaces = ["eth*"]\nsend_interfaces = ["lo"]', SendRight(interfaces=("lo",))),
        ("send = true\nmax_send_pps = 7", SendRight(max_pps=7)),
        ('send = true\nsend_source_macs = ["02:AB:00:00:00:01"]', SendRight(source_macs=("02:ab:00:00:00:01",))),
        ('send = true\nsend_source_macs = ["*"]', SendRight(source_macs=("*",))),
    ],
)
def test_the_right_to_send_is_read(tmp_path: Path, text: str, right: SendRight | None) -> None:
    assert read(tmp_path, text).send == right


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("send = 1", "rule[1].send"),
        ("max_send_pps = 7", "rule[1].max_send_pps: nothing may be sent: add send = true"),
        ('send_interfaces = ["eth0"]', "rule[1].send_interfaces: nothing may be sent"),
        ('send_source_macs = ["*"]', "rule[1].send_source_macs: nothing may be sent"),
        ("send = true\nmax_send_pps = 0", "rule[1].max_send_pps"),
        ("send = true\nsend_interfaces = []", "rule[1].send_interfaces"),
        ('send = true\nsend_source_macs = ["02:00:00:00:00"]', "rule[1].send_source_macs[1]: must be a MAC address"),
        ("send = true\nsend_interfaces = ['']", "rule[1].send_interfaces"),
    ],
)
def test_what_is_wrong_with_it_is_told(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(reader.ConfigError) as raised:
        read(tmp_path, text)
    assert any(fault in each for each in raised.value.faults), raised.value.faults
