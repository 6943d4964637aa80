"""Whom the daemon opens which devices of capture modules for: nobody without a rule that names them."""

from pathlib import Path

import pytest

from capd.config import reader
from capd.errors import RequestRefused
from capd.policy.peer import Peer
from capd.policy.revocation import device_objection
from capd.policy.rules import DeviceGrant, Policy, Rule, default_policy
from capd_protocol.messages import MAX_SNAPLEN_BYTES, FailureCode, InterfaceRequest

ALICE, ROOT = Peer(1, 1000, 1000, ()), Peer(2, 0, 0, ())
CONTAINED = Peer(3, 1000, 1000, (), is_contained=True)


def rule(name: str, *devices: str, max_snaplen_bytes: int = MAX_SNAPLEN_BYTES, promiscuous: bool = True) -> Rule:
    return Rule(
        name=name,
        user_ids=frozenset({1000}),
        devices=devices,
        max_snaplen_bytes=max_snaplen_bytes,
        promiscuous=promiscuous,
    )


def device(name: str, snaplen_bytes: int = MAX_SNAPLEN_BYTES, promiscuous: bool | None = None) -> InterfaceRequest:
    return InterfaceRequest(name=name, snaplen_bytes=snaplen_bytes, promiscuous=promiscuous, is_stream=True)


POLICY = Policy(
    (
        rule("capture"),
        rule("short", "nflog:5", max_snaplen_bytes=96, promiscuous=False),
        rule("log", "nflog:*"),
        rule("usb", "libpcap:usbmon[0-9]"),
    ),
    contact="netops",
)


@pytest.mark.parametrize(
    ("peer", "wanted", "expected", "snaplen_bytes"),
    [
        (ALICE, device("nflog:5"), "short", 96),
        (ALICE, device("nflog:5", 64), "short", 64),
        (ALICE, device("nflog:5", 128), "log", 128),
        (ALICE, device("nflog:5", promiscuous=True), "log", MAX_SNAPLEN_BYTES),
        (ALICE, device("nflog:7"), "log", MAX_SNAPLEN_BYTES),
        (ALICE, device("libpcap:usbmon1"), "usb", MAX_SNAPLEN_BYTES),
        (ALICE, device("libpcap:usbmon12"), None, 0),
        (ALICE, device("nflog"), None, 0),
        (ROOT, device("anything"), "unbound", MAX_SNAPLEN_BYTES),
        (Peer(4, 1001, 1001, ()), device("nflog:5"), None, 0),
        (CONTAINED, device("nflog:5"), None, 0),
    ],
)
def test_the_first_rule_that_allows_all_that_is_asked_for_grants(
    peer: Peer, wanted: InterfaceRequest, expected: str | None, snaplen_bytes: int
) -> None:
    if expected is None:
        with pytest.raises(RequestRefused) as refused:
            POLICY.grant_device(peer, wanted)
        assert refused.value.failure.code == FailureCode.NOT_PERMITTED
        assert f'devices = ["{wanted.name}"]' in refused.value.failure.text
    else:
        granted = POLICY.grant_device(peer, wanted)
        assert (granted.rule.name, granted.request.snaplen_bytes) == (expected, snaplen_bytes)


def test_a_rule_that_allows_less_says_so() -> None:
    policy = Policy((rule("short", "nflog:5", max_snaplen_bytes=96),), contact="netops")
    with pytest.raises(RequestRefused, match=r"but snaplen is at most 96 bytes \(rule 'short'\): ask netops"):
        policy.grant_device(ALICE, device("nflog:5", 128))


def test_without_a_configuration_only_root_has_devices() -> None:
    policy = default_policy(50, "capd")
    assert policy.grant_device(ROOT, device("nflog:5")).rule.name == "unbound"
    with pytest.raises(RequestRefused):
        policy.grant_device(Peer(1, 1000, 1000, (50,)), device("nflog:5"))


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ([rule("log", "nflog:*")], None),
        ([rule("other", "nflog:5")], None),
        ([rule("log")], "no rule allows the device, as it was asked for"),
        ([], "no rule allows the device, as it was asked for"),
        ([rule("log", "nflog:*", max_snaplen_bytes=96)], "no rule allows the device, as it was asked for"),
    ],
)
def test_what_is_open_is_not_more_than_is_granted_now(rules: list[Rule], why: str | None) -> None:
    was = DeviceGrant(rule("log", "nflog:*"), device("nflog:5", 200))
    assert device_objection(Policy(tuple(rules)), ALICE, was) == why


def test_a_shorter_snaplen_of_today_is_an_objection() -> None:
    was = POLICY.grant_device(ALICE, device("nflog:7"))
    today = Policy((rule("log", "nflog:*", max_snaplen_bytes=96),))
    assert device_objection(today, ALICE, was) == "snaplen is at most 96 bytes (rule log)"


def test_a_rule_that_alone_allows_a_device_is_not_hidden() -> None:
    capture, log = rule("capture"), rule("log", "nflog:5")
    assert not capture.hides(log, lambda _: True)
    assert log.hides(capture, lambda _: True)
    assert rule("all", "*").hides(log, lambda _: True)


# The configuration ----------------------------------------------------------------------------------------------------


def read(tmp_path: Path, text: str) -> Rule:
    path = tmp_path / "capd.toml"
    return reader.decode(path, f'[[rule]]\nname = "r"\nusers = [0]\n{text}'.encode()).policy.rules[0]


@pytest.mark.parametrize(("text", "devices"), [("", ()), ('devices = ["nflog:5", "dbus-*"]', ("nflog:5", "dbus-*"))])
def test_devices_are_read(tmp_path: Path, text: str, devices: tuple[str, ...]) -> None:
    assert read(tmp_path, text).devices == devices


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("devices = true", "rule[1].devices"),
        ("devices = []", "rule[1].devices"),
        ("devices = ['']", "rule[1].devices"),
        ('devices = ["a\\n"]', "rule[1].devices"),
        ('devices = ["nflog:5"]\nfilter = "udp"', "rule[1].devices: a filter holds for network interfaces"),
    ],
)
def test_what_is_wrong_with_them_is_told(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(reader.ConfigError) as raised:
        read(tmp_path, text)
    assert any(fault in each for each in raised.value.faults), raised.value.faults
