"""Who may do what: a matrix of cases, and properties that no request gets round."""

import dataclasses
from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capd.errors import RequestRefused
from capd.policy import quota
from capd.policy.peer import Peer
from capd.policy.rules import UNBOUND, Owner, Policy, Rule, Terms, default_policy
from capd_protocol.messages import (
    MAX_SNAPLEN_BYTES,
    Conditions,
    Destination,
    FailureCode,
    InterfaceRequest,
    StartCapture,
)
from capd_protocol.targets import NamedInterface, Target, target_of

ALICE = Peer(1, 1000, 1000, (1000, 50))
BOB = Peer(2, 1001, 1001, (60,))
ROOT = Peer(3, 0, 0, ())
NOBODY = Peer(4, 65534, 65534, ())


def asked(name: str = "eth0", **options: object) -> Target:
    return target_of(InterfaceRequest(name=name, **options))  # type: ignore[arg-type]


STAFF = Rule(name="staff", group_ids=frozenset({50}), interfaces=("eth*", "veth[0-3]"))
DNS = Rule(
    name="dns",
    user_ids=frozenset({1001}),
    filter="udp port 53",
    max_snaplen_bytes=128,
    promiscuous=False,
    max_captures=2,
)
GUESTS = Rule(name="guests", everybody=True, interfaces=("guest0",), max_duration_s=60.0, max_disk_bytes=10_000_000)
RADIO = Rule(name="radio", user_ids=frozenset({1000}), interfaces=("wlan0",), monitor_mode=True)
POLICY = Policy((STAFF, DNS, GUESTS, RADIO), "ask netops")

#: Peer, what is asked for, and the name of the rule that grants it, or words of the refusal.
GRANTS: list[tuple[Peer, Target, str]] = [
    (ALICE, asked("eth0"), "staff"),
    (ALICE, asked("eth12"), "staff"),
    (ALICE, asked("veth3"), "staff"),
    (ALICE, asked("guest0"), "guests"),
    (ALICE, asked("wlan0"), "radio"),
    (ALICE, asked("wlan0", monitor_mode=True), "radio"),
    (ALICE, asked("wlan0", wifi_channel="2412"), "radio"),
    (ALICE, asked("eth*"), "staff"),
    (ALICE, asked("*"), "staff"),
    (ALICE, asked("any"), "staff"),
    (ALICE, asked("g*"), "guests"),
    (ALICE, asked("eth0", promiscuous=True), "staff"),
    (ALICE, asked("eth0", snaplen_bytes=96), "staff"),
    (BOB, asked("eth0"), "dns"),
    (BOB, asked("anything"), "dns"),
    (BOB, asked("any"), "dns"),
    (BOB, asked("any", link_layer_type="LINUX_SLL2"), "dns"),
    (BOB, asked("eth0", snaplen_bytes=128), "dns"),
    (BOB, asked("eth0", snaplen_bytes=1), "dns"),
    (BOB, asked("eth0", promiscuous=False), "dns"),
    # The first rule that fits does not allow it, a later one does.
    (BOB, asked("guest0", promiscuous=True), "guests"),
    (BOB, asked("guest0", snaplen_bytes=1500), "guests"),
    (BOB, asked("guest0"), "dns"),
    (NOBODY, asked("guest0"), "guests"),
    (NOBODY, asked("guest*"), "guests"),
    (ROOT, asked("eth0"), "unbound"),
    (ROOT, asked("any", link_layer_type="LINUX_SLL"), "unbound"),
    (ROOT, asked("wlan0", monitor_mode=True, wifi_channel="2412"), "unbound"),
]
REFUSALS: list[tuple[Peer, Target, str]] = [
    (ALICE, asked("veth4"), "only on eth*, veth[0-3], guest0, wlan0"),
    (ALICE, asked("lo"), "only on"),
    (ALICE, asked("xeth0"), "only on"),
    (ALICE, asked("ETH0"), "only on"),
    (ALICE, asked("eth0", monitor_mode=True), "no monitor mode"),
    (ALICE, asked("eth0", wifi_channel="2412"), "no monitor mode"),
    (ALICE, asked("br*"), "only on"),
    # It takes in every interface, which no rule of hers does.
    (ALICE, asked("any", link_layer_type="LINUX_SLL2"), "only on"),
    (BOB, asked("eth0", snaplen_bytes=129), "at most 128 bytes"),
    (BOB, asked("eth0", promiscuous=True), "promiscuous"),
    (BOB, asked("eth0", promiscuous=True, snaplen_bytes=500), "at most 128 bytes, not in promiscuous mode"),
    (BOB, asked("wlan0", monitor_mode=True), "no monitor mode"),
    (NOBODY, asked("eth0"), "only on guest0"),
    (NOBODY, asked("guest1"), "only on guest0"),
    (NOBODY, asked("guest0", monitor_mode=True), "no monitor mode"),
    (NOBODY, asked("eth*"), "only on guest0"),
]


@pytest.mark.parametrize(("peer", "target", "rule"), GRANTS)
def test_the_first_rule_that_allows_all_of_it_grants(peer: Peer, target: Target, rule: str) -> None:
    granted = POLICY.grant(peer, target)
    assert granted.rule.name == rule
    assert granted.request.snaplen_bytes == min(target.request.snaplen_bytes, granted.rule.max_snaplen_bytes)
    assert granted.request.promiscuous in (True, False)


@pytest.mark.parametrize(("peer", "target", "words"), REFUSALS)
def test_what_no_rule_allows_is_refused_and_whom_to_ask_is_told(peer: Peer, target: Target, words: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        POLICY.grant(peer, target)
    failure = refused.value.failure
    assert failure.code == FailureCode.NOT_PERMITTED
    assert words in failure.text
    assert failure.text.endswith("ask netops")
    assert failure.interface == target.request.name


def test_whom_no_rule_names_may_nothing() -> None:
    policy = Policy((STAFF,), "ask netops")
    with pytest.raises(RequestRefused, match="user 1001 may not capture here: ask netops"):
        policy.grant(BOB, asked())
    assert policy.rules_of(BOB) == ()
    assert policy.permissions(BOB, monitor_mode=True) == ()
    assert not policy.may_capture(BOB, "eth0")


def test_without_rules_only_root_may_capture() -> None:
    assert Policy().grant(ROOT, asked()).rule == UNBOUND
    with pytest.raises(RequestRefused):
        Policy().grant(ALICE, asked())


def test_a_private_daemons_owner_is_bound_by_nothing() -> None:
    assert default_policy(None, "capd", Owner(1000, may_capture=True)).grant(ALICE, asked()).rule == UNBOUND


@pytest.mark.parametrize(("group_id", "may"), [(50, True), (1000, True), (51, False), (None, False)])
def test_by_default_the_members_of_a_group_may_capture(group_id: int | None, may: bool) -> None:
    policy = default_policy(group_id, "capd")
    assert policy.may_capture(ALICE, "eth0") is may
    assert policy.advice == "ask an administrator to be added to the group capd, then log in again"


def test_a_pattern_is_bound_by_the_strictest_of_the_rules_that_it_could_meet() -> None:
    lax = Rule(name="lax", everybody=True, interfaces=("veth*",), max_duration_s=100.0)
    strict = Rule(name="strict", everybody=True, interfaces=("veth1", "eth0"), max_duration_s=10.0, max_disk_bytes=5)
    other = Rule(name="other", everybody=True, interfaces=("wlan*",), max_duration_s=1.0)
    policy = Policy((lax, strict, other))
    assert policy.terms(ALICE, [asked("veth*")]) == Terms((lax, strict), 10.0, 5)
    assert policy.terms(ALICE, [asked("veth2")]) == Terms((lax,), 100.0, None)
    assert policy.terms(ALICE, [asked("veth2"), asked("eth0")]) == Terms((lax, strict), 10.0, 5)


def test_the_cooked_device_does_not_get_round_an_earlier_rule() -> None:
    cooked, more = (asked("any", link_layer_type="LINUX_SLL2", snaplen_bytes=size) for size in (64, 65))
    some = Rule(name="some", everybody=True, interfaces=("eth*",), filter="tcp", max_snaplen_bytes=64)
    rest = Rule(name="rest", everybody=True)
    assert Policy((rest, some)).grant(ALICE, cooked).rule == rest
    with pytest.raises(RequestRefused, match="may not capture on any as LINUX_SLL2, which mixes all interfaces"):
        Policy((some, rest)).grant(ALICE, cooked)
    # One that does not allow what is asked for would hold nowhere.
    assert Policy((some, rest)).grant(ALICE, more).rule == rest


def there(name: str) -> NamedInterface:
    return NamedInterface(InterfaceRequest(name=name))


def test_an_interface_that_is_there_is_granted_by_its_very_name() -> None:
    for name in ("e*", "eth?", "any", "*"):
        assert POLICY.grant(ALICE, asked(name)).rule == STAFF
    assert POLICY.grant(ALICE, there("eth?")).rule == STAFF
    for name in ("e*", "any", "*"):
        with pytest.raises(RequestRefused):
            POLICY.grant(ALICE, there(name))


# Properties ------------------------------------------------------------------------------------------------------

_names = st.sampled_from(["eth0", "eth1", "veth0", "veth1", "lo", "wlan0", "a", ""]).map(lambda name: name or "eth9")
_patterns = st.sampled_from(["*", "any", "eth*", "*0", "veth?", "[ev]*", "[!e]*", "eth0", "lo", "w*n?", "*e*t*"])
_rules = st.builds(
    Rule,
    name=st.text("abc", min_size=1, max_size=3),
    user_ids=st.frozensets(st.integers(0, 3)),
    group_ids=st.frozensets(st.integers(0, 3)),
    everybody=st.booleans(),
    interfaces=st.lists(_patterns, min_size=1, max_size=3).map(tuple),
    filter=st.sampled_from(["", "udp", "tcp"]),
    max_snaplen_bytes=st.sampled_from([64, 128, MAX_SNAPLEN_BYTES]),
    promiscuous=st.booleans(),
    monitor_mode=st.booleans(),
    max_captures=st.none() | st.integers(1, 3),
    max_disk_bytes=st.none() | st.integers(1_000_000, 10**9),
    max_duration_s=st.none() | st.floats(0.1, 100),
)
_policies = st.builds(Policy, st.lists(_rules, max_size=4).map(tuple))
_peers = st.builds(
    Peer,
    st.just(1),
    st.integers(1, 4),
    st.integers(0, 4),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    st.none() | st.integers(0, 3),
    st.booleans(),
)
_requests = st.builds(
    InterfaceRequest,
    name=_names | _patterns,
    snaplen_bytes=st.sampled_from([1, 64, 65, 200, MAX_SNAPLEN_BYTES]),
    promiscuous=st.none() | st.booleans(),
    monitor_mode=st.booleans(),
    wifi_channel=st.none() | st.just("2412"),
    link_layer_type=st.none() | st.just("LINUX_SLL2"),
)


def granted_or_none(decide: Callable[[], object]) -> object:
    try:
        return decide()
    except RequestRefused:
        return None


@given(_policies, _peers, _requests)
def test_no_request_gets_more_than_a_rule_that_names_its_peer(
    policy: Policy, peer: Peer, request: InterfaceRequest
) -> None:
    target = target_of(request)
    if granted_or_none(lambda: policy.grant(peer, target)) is None:
        return
    granted = policy.grant(peer, target)
    rule, result = granted.rule, granted.request
    assert rule in policy.rules
    is_member = bool({peer.group_id, *peer.groups} & rule.group_ids)
    assert peer.user_id in rule.user_ids or (peer.has_account and (rule.everybody or is_member))
    assert result.snaplen_bytes <= rule.max_snaplen_bytes
    assert result.snaplen_bytes <= request.snaplen_bytes
    assert rule.promiscuous or result.promiscuous is False
    assert rule.monitor_mode or not (result.monitor_mode or result.wifi_channel)
    assert not any(character in result.name for character in "*?[") or result.name == request.name
    # Nothing else was touched.
    assert dataclasses.replace(granted).rule.filter == rule.filter
    assert (result.name, result.capture_filter) == (request.name, request.capture_filter)


@given(_policies, _peers, _requests, _names)
def test_a_pattern_gives_no_interface_that_could_not_be_had_by_name(
    policy: Policy, peer: Peer, request: InterfaceRequest, name: str
) -> None:
    """What a pattern comes to match is granted by name; and where that is granted, the pattern was not refused."""
    if "any" not in request.name and fnmatchcase(name, request.name):
        named = InterfaceRequest(
            name=name,
            snaplen_bytes=request.snaplen_bytes,
            promiscuous=request.promiscuous,
            monitor_mode=request.monitor_mode,
        )
        by_name = granted_or_none(lambda: policy.terms(peer, [NamedInterface(named)]))
        plain = InterfaceRequest(
            name=request.name,
            snaplen_bytes=request.snaplen_bytes,
            promiscuous=request.promiscuous,
            monitor_mode=request.monitor_mode,
        )
        by_pattern = granted_or_none(lambda: policy.terms(peer, [target_of(plain)]))
        if by_name is not None:
            assert isinstance(by_name, Terms)
            assert isinstance(by_pattern, Terms)
            # The bounds that hold from the beginning are no laxer than those of any interface that comes later.
            for bound in ("max_duration_s", "max_disk_bytes"):
                of_name, of_pattern = getattr(by_name, bound), getattr(by_pattern, bound)
                assert of_name is None or of_pattern <= of_name


@given(_policies, _peers, _names)
def test_what_a_listing_shows_as_allowed_is_granted(policy: Policy, peer: Peer, name: str) -> None:
    assert policy.may_capture(peer, name) is (granted_or_none(lambda: policy.grant(peer, asked(name))) is not None)


# Bounds of whole captures ------------------------------------------------------------------------------------------


def capture(ring: Conditions | None = None, autostop: Conditions | None = None) -> StartCapture:
    return StartCapture(
        interfaces=(InterfaceRequest(name="eth0"),),
        destination=Destination(file_name="a"),
        ring=ring,
        autostop=autostop or Conditions(),
    )


def terms(*rules: Rule) -> Terms:
    return Policy(rules).terms(ALICE, [asked("guest0")] * len(rules))


def test_at_most_so_many_captures_run_at_once_under_a_rule() -> None:
    rule = Rule(name="two", everybody=True, max_captures=2)
    quota.check_number(terms(rule), [terms(rule)])
    quota.check_number(terms(rule), [terms(rule), terms(GUESTS), terms(GUESTS)])
    with pytest.raises(RequestRefused, match="2 captures at once") as refused:
        quota.check_number(terms(rule), [terms(rule), terms(rule)])
    assert refused.value.failure.code == FailureCode.RESOURCES
    # A rule that was changed meanwhile still counts those that it granted before.
    with pytest.raises(RequestRefused):
        quota.check_number(terms(rule), [terms(dataclasses.replace(rule, filter="udp"))] * 2)


@pytest.mark.parametrize(("asked_s", "granted_s"), [(None, 60.0), (10.0, 10.0), (60.0, 60.0)])
def test_a_capture_ends_in_time(asked_s: float | None, granted_s: float) -> None:
    request = capture(autostop=Conditions(duration_s=asked_s, packets=7))
    within = quota.within_duration(terms(GUESTS), request)
    assert within.autostop == Conditions(duration_s=granted_s, packets=7)


def test_a_longer_capture_is_refused() -> None:
    with pytest.raises(RequestRefused, match="up to 60 s, not of 61 s"):
        quota.within_duration(terms(GUESTS), capture(autostop=Conditions(duration_s=61.0)))


def test_without_a_bound_the_time_stays_as_asked() -> None:
    request = capture(autostop=Conditions(duration_s=1e6))
    assert quota.within_duration(terms(STAFF_ANYWHERE), request) is request


STAFF_ANYWHERE = Rule(name="staff", everybody=True)


def test_bytes_on_disk_are_shared_by_the_captures_of_a_user() -> None:
    whole = quota.reserve(terms(GUESTS), capture(), [])
    assert whole.max_disk_bytes == 10_000_000
    ring = capture(ring=Conditions(filesize_kb=1000, files=2))
    small = quota.reserve(terms(GUESTS), ring, [])
    assert small.max_disk_bytes is not None
    assert 2_000_000 < small.max_disk_bytes < 10_000_000
    rest = quota.reserve(terms(GUESTS), capture(), [small])
    assert rest.max_disk_bytes == 10_000_000 - small.max_disk_bytes
    for running in ([whole], [small, rest]):
        with pytest.raises(RequestRefused, match="bytes on disk") as refused:
            quota.reserve(terms(GUESTS), capture(), running)
        assert refused.value.failure.code == FailureCode.RESOURCES
    with pytest.raises(RequestRefused, match="could take"):
        quota.reserve(terms(GUESTS), capture(ring=Conditions(filesize_kb=10_000, files=2)), [])
    assert quota.reserve(terms(STAFF_ANYWHERE), capture(), [whole]).max_disk_bytes is None


@pytest.mark.parametrize(
    ("ring", "expected"),
    [
        (Conditions(packets=1, total_kb=2_000), 2_000_000),
        (Conditions(filesize_kb=1000, files=5, total_kb=3_000), 3_000_000),
        (Conditions(filesize_kb=100, files=2, total_kb=9_000), 2 * (100_000 + 2 * MAX_SNAPLEN_BYTES)),
        (Conditions(packets=1, age_s=1, free_kb=1), 10_000_000),  # neither is a bound of what it takes
    ],
)
def test_a_ring_is_granted_no_more_bytes_than_it_may_have_itself(ring: Conditions, expected: int) -> None:
    assert quota.reserve(terms(GUESTS), capture(ring=ring), []).max_disk_bytes == expected


def buffers(*sizes_mib: int | None, name: str = "eth0") -> quota.Memory:
    sizes_bytes = (None if size is None else size * 1024 * 1024 for size in sizes_mib)
    return quota.memory_of(capture(), [asked(name, kernel_buffer_size_bytes=size) for size in sizes_bytes])


def test_the_rings_of_a_users_captures_take_a_part_of_the_memory_and_no_more() -> None:
    memory_bytes = 4096 * 1024 * 1024  # of which a user may have 1024 MiB

    def check(needed: quota.Memory, *own: quota.Memory) -> None:
        own_bytes = sum(each.total_bytes for each in own)
        quota.check_memory(needed, own_bytes, own_bytes, memory_bytes)

    check(buffers(1024))
    check(buffers(None, 480), buffers(512))
    check(buffers(16, name="veth*"))
    for needed, *own in (
        (buffers(1024, 1),),
        (buffers(None, 481), buffers(512)),
        (buffers(17, name="veth*"),),
        (buffers(1), buffers(512), buffers(8, name="any")),
    ):
        with pytest.raises(RequestRefused, match="1,024 that a user may have here") as refused:
            check(needed, *own)
        assert refused.value.failure.code == FailureCode.RESOURCES
        assert refused.value.failure.argument == "kernel_buffer_size"


def test_the_rings_of_all_captures_take_half_of_the_memory_and_no_more() -> None:
    mib = 1024 * 1024
    quota.check_memory(buffers(48), 0, 2000 * mib, 4096 * mib)
    with pytest.raises(RequestRefused, match=r"49 MiB, and 48 are left of the 2,048 that all .* try again later"):
        quota.check_memory(buffers(49), 0, 2000 * mib, 4096 * mib)


@pytest.mark.parametrize(
    ("names", "starts"),
    [(["eth0"], 1), (["a"] * 16, 1), (["a"] * 17, 2), (["a"] * 64, 4), (["eth*"], 4), (["any", "eth0"], 4)],
)
def test_a_capture_of_many_interfaces_counts_for_several_while_it_starts(names: list[str], starts: int) -> None:
    assert quota.starts_of(list(map(asked, names))) == starts


def test_the_cooked_device_is_one() -> None:
    assert quota.starts_of([asked("any", link_layer_type="LINUX_SLL2")]) == 1
