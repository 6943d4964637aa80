"""Would today's policy grant a capture as it runs? Values in, a decision out."""

import dataclasses

import msgspec
import pytest

from capd.captures.registry import Captures
from capd.captures.revoker import Decided, Decision
from capd.errors import RequestRefused
from capd.policy.peer import SUBORDINATES_OF_ROOT, Peer
from capd.policy.revocation import Running, as_of_today, objection, persons_of
from capd.policy.rules import Grant, Policy, Rule
from capd.supervisor.closer import Closer
from capd.supervisor.packet_rings import PacketRingMaker
from capd.supervisor.spawner import Spawner
from capd_protocol.frames import FrameDecoder
from capd_protocol.messages import InterfaceRequest, Revoked, decode, encode
from capd_protocol.targets import CookedAny, NamedInterface, Target, target_of
from tests.support.attack import request_for

ALICE = Peer(1, 1000, 1000, (1000, 50))
RULE = Rule(
    name="staff",
    group_ids=frozenset({50}),
    interfaces=("eth*", "veth*"),
    filter="udp",
    max_snaplen_bytes=128,
    max_duration_s=60.0,
    max_disk_bytes=1000,
)


def asked(name: str = "eth0", **options: object) -> InterfaceRequest:
    return InterfaceRequest(name=name, **options)  # type: ignore[arg-type]


def on_one(request: InterfaceRequest, name: str) -> Target:
    target = target_of(request)
    return target if isinstance(target, CookedAny) else NamedInterface(msgspec.structs.replace(request, name=name))


def running(request: InterfaceRequest | None = None, *on: str, rule: Rule = RULE) -> Running:
    """Return what a capture has that asked for this, and is on these interfaces under the rule."""
    request = request or asked()
    names = on or (request.name,)
    return Running(
        targets=(target_of(request),),
        attached=[Grant(rule, on_one(request, name)) for name in names],
        max_duration_s=rule.max_duration_s,
        max_disk_bytes=rule.max_disk_bytes,
    )


def changed(**changes: object) -> Policy:
    return Policy((dataclasses.replace(RULE, **changes),))  # type: ignore[arg-type]


#: What has become of the rule, that the capture runs on.
AS_BEFORE: dict[str, tuple[Policy, Running]] = {
    "nothing": (changed(), running()),
    "another name": (changed(name="other"), running()),
    "by the user's number": (changed(group_ids=frozenset(), user_ids=frozenset({1000})), running()),
    "more interfaces": (changed(interfaces=("*",)), running()),
    "fewer, but this one": (changed(interfaces=("eth0",)), running()),
    "no filter": (changed(filter=""), running()),
    "a greater snaplen": (changed(max_snaplen_bytes=129), running()),
    "monitor mode": (changed(monitor_mode=True), running()),
    "no bounds": (changed(max_duration_s=None, max_disk_bytes=None), running()),
    "greater bounds": (changed(max_duration_s=61.0, max_disk_bytes=1001), running()),
    "no promiscuous mode, and none asked for": (changed(promiscuous=False), running(asked(promiscuous=False))),
    "an earlier rule with the same terms": (
        Policy((dataclasses.replace(RULE, name="first"), dataclasses.replace(RULE, filter="tcp"))),
        running(),
    ),
    "the pattern's interfaces that it has": (changed(interfaces=("veth1",)), running(asked("veth*"), "veth1")),
    "the cooked device": (
        changed(interfaces=("any",)),
        running(asked("any", link_layer_type="LINUX_SLL"), rule=dataclasses.replace(RULE, interfaces=("*",))),
    ),
}
#: And that it ends, with some words of why.
TOO_MUCH: dict[str, tuple[Policy, Running, str]] = {
    "no rules": (Policy(), running(), "no rule names the user"),
    "another group": (changed(group_ids=frozenset({51})), running(), "no rule names the user"),
    "another user": (changed(group_ids=frozenset(), user_ids=frozenset({1001})), running(), "no rule names the user"),
    "other interfaces": (changed(interfaces=("eth1",)), running(), "eth0: no rule allows what was asked for"),
    "another filter": (changed(filter="udp port 53"), running(), "eth0: another filter (rule staff)"),
    "a filter where there was none": (changed(), running(rule=dataclasses.replace(RULE, filter="")), "another filter"),
    "a smaller snaplen": (changed(max_snaplen_bytes=127), running(), "eth0: snaplen is at most 127 bytes (rule staff)"),
    # The user's own filter saw as much as the rule allows.
    "a smaller snaplen, and less asked for": (
        changed(max_snaplen_bytes=127),
        running(asked(snaplen_bytes=60)),
        "at most 127 bytes",
    ),
    "less snaplen than asked for": (
        changed(max_snaplen_bytes=127),
        running(asked(snaplen_bytes=128)),
        "eth0: no rule allows what was asked for",
    ),
    "no promiscuous mode, and it is in it": (changed(promiscuous=False), running(), "eth0: not in promiscuous mode"),
    "no promiscuous mode, and it was asked for": (
        changed(promiscuous=False),
        running(asked(promiscuous=True)),
        "eth0: no rule allows what was asked for",
    ),
    "no monitor mode": (
        changed(),
        running(asked(monitor_mode=True), rule=dataclasses.replace(RULE, monitor_mode=True)),
        "eth0: no rule allows what was asked for",
    ),
    "less time": (changed(max_duration_s=59.0), running(), "captures last up to 59 s"),
    "an end where there was none": (
        changed(),
        running(rule=dataclasses.replace(RULE, max_duration_s=None)),
        "captures last up to 60 s",
    ),
    "less disk": (changed(max_disk_bytes=999), running(), "captures take up to 999 bytes on disk"),
    "a bound of the disk where there was none": (
        changed(),
        running(rule=dataclasses.replace(RULE, max_disk_bytes=None)),
        "captures take up to 1,000 bytes on disk",
    ),
    "an earlier rule with another filter": (
        Policy((dataclasses.replace(RULE, name="first", filter="tcp"), RULE)),
        running(),
        "eth0: another filter (rule first)",
    ),
    "one of the pattern's interfaces": (
        changed(interfaces=("veth1",)),
        running(asked("veth*"), "veth1", "veth2"),
        "veth2: no rule allows what was asked for",
    ),
    # It was granted under the name of then, and has another one.
    "the name that the interface has now": (
        changed(interfaces=("eth*",)),
        running(asked("eth0"), "wan0"),
        "wan0: no rule allows what was asked for",
    ),
    "an interface that has not come yet": (
        changed(interfaces=("veth*",)),
        running()._replace(attached=[]),
        "eth0: no rule allows what was asked for",
    ),
    "bounds of a rule that may come to hold": (
        Policy((RULE, dataclasses.replace(RULE, name="strict", interfaces=("veth9",), max_duration_s=9.0))),
        running(asked("veth*"), "veth1"),
        "captures last up to 9 s",
    ),
    "the cooked device": (
        changed(),
        running(asked("any", link_layer_type="LINUX_SLL"), rule=dataclasses.replace(RULE, interfaces=("*",))),
        "any: no rule allows what was asked for",
    ),
}


@pytest.mark.parametrize(("policy", "has"), AS_BEFORE.values(), ids=AS_BEFORE)
def test_what_would_be_granted_as_it_runs_runs_on(policy: Policy, has: Running) -> None:
    assert objection(policy, ALICE, has) is None


@pytest.mark.parametrize(("policy", "has", "words"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_would_not_ends_and_why_is_told(policy: Policy, has: Running, words: str) -> None:
    why = objection(policy, ALICE, has)
    assert why is not None
    assert words in why


# Whose groups -----------------------------------------------------------------------------------------------------


def test_a_group_that_the_account_has_no_more_names_the_user_no_more() -> None:
    still = as_of_today(ALICE, frozenset({1000, 50, 51}))
    assert objection(changed(), still, running()) is None
    left = as_of_today(ALICE, frozenset({1000, 51}))
    assert objection(changed(), left, running()) == "no rule names the user (left group 50)"
    # The process is the same: its groups are the kernel's word.
    assert (left.group_id, left.groups) == (ALICE.group_id, ALICE.groups)


def test_a_group_that_the_account_has_got_since_is_not_the_captures() -> None:
    assert objection(changed(group_ids=frozenset({51})), as_of_today(ALICE, frozenset({1000, 50, 51})), running())


def test_the_primary_group_is_one_too() -> None:
    policy = changed(group_ids=frozenset({1000}))
    assert objection(policy, as_of_today(ALICE, frozenset({1000})), running()) is None
    assert objection(policy, as_of_today(dataclasses.replace(ALICE, groups=()), frozenset({50})), running())


def test_without_an_account_only_the_number_counts() -> None:
    gone = as_of_today(ALICE, frozenset())
    assert objection(changed(everybody=True), gone, running())
    assert objection(changed(user_ids=frozenset({1000})), gone, running()) is None
    never = as_of_today(dataclasses.replace(ALICE, has_account=False), frozenset({50}))
    assert objection(changed(everybody=True), never, running())


def test_whose_captures_a_number_means() -> None:
    owners = [Peer(1, 1000, 1, ()), Peer(1, 100_000, 1, (), behind_id=1000), Peer(1, 1001, 1, ()), Peer(1, 0, 0, ())]
    owners.append(Peer(1, 500_000, 1, (), behind_id=SUBORDINATES_OF_ROOT))
    assert persons_of(1000, owners) == {1000}
    assert persons_of(100_000, owners) == {1000}  # who has that id is meant, with all others
    assert persons_of(0, owners) == {0}
    assert persons_of(500_000, owners) == {SUBORDINATES_OF_ROOT}
    assert persons_of(7, owners) == frozenset()


# What is answered -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ended", "kept"), [(0, 0), (1, 0), (0, 1), (200, 200), (201, 3), (3, 401)])
def test_all_that_is_decided_is_told_in_frames_that_fit(ended: int, kept: int) -> None:
    captures = Captures(Policy((Rule(name="all", everybody=True),)), Spawner(), Closer(), PacketRingMaker())
    with captures.granted(ALICE, request_for("x" * 15, name="a" * 64)) as capture:
        one = Decided(capture, "\N{SNOWMAN}" * 100_000)
        answers = list(Decision([one] * ended, [one] * kept).answers())
    decoder = FrameDecoder()
    for answer in answers:
        decoder.feed(encode(answer))
    sent: list[Revoked] = []
    while (frame := decoder.next_frame()) is not None:
        sent.append(decode(frame))  # type: ignore[arg-type]
    assert (sum(len(each.ended) for each in sent), sum(len(each.kept) for each in sent)) == (ended, kept)
    assert [each.is_last for each in sent] == [*[False] * (len(sent) - 1), True]
    assert all(0 < len(line.why) <= 200 for each in sent for line in (*each.ended, *each.kept))


def test_a_daemon_that_stops_revokes_nothing() -> None:
    captures = Captures(Policy(), Spawner(), Closer(), PacketRingMaker())
    captures.check_not_stopping()
    captures.stop_all()
    with pytest.raises(RequestRefused, match="capd is stopping"):
        captures.check_not_stopping()


def test_what_was_told_to_end_is_not_revoked() -> None:
    captures = Captures(Policy((Rule(name="all", everybody=True),)), Spawner(), Closer(), PacketRingMaker())
    with captures.granted(ALICE, request_for("x")) as capture:
        assert captures.revocable() == [capture]
        captures.stop_all()
        assert captures.revocable() == []
