"""What a capture's worker is sent when it begins."""

import dataclasses

import msgspec
import pytest

from capd.captures.launching import launch_of
from capd.launch import DirectoryComes, Launch
from capd.policy.peer import Peer
from capd.policy.rules import Rule, Terms
from capd_protocol.messages import Conditions, InterfaceRequest, Recorder, StartCapture
from tests.support.attack import request_for

RULE = Rule(name="all")
OWNER = Peer(1, 1000, 1001, (50, 51))


def launched(
    request: StartCapture,
    *rules: Rule,
    waits: bool = False,
    comes: DirectoryComes = DirectoryComes.PASSED,
    elapsed_s: float | None = None,
) -> Launch:
    terms = Terms(rules, None, 1234)
    return launch_of(
        request,
        OWNER,
        terms,
        (),
        waits=waits,
        directory_comes=comes,
        continues=elapsed_s is not None,
        elapsed_s=elapsed_s,
    )


def test_a_worker_is_told_as_whom_to_capture_what() -> None:
    request = request_for("lo", "a.pcapng", name="a", update_interval_s=0.5, ring=Conditions(files=2))
    launch = launched(request)
    assert (launch.user_id, launch.group_id, launch.groups) == (1000, 1001, (50, 51))
    assert (launch.name, launch.destination, launch.ring) == ("a", request.destination, request.ring)
    assert (launch.update_interval_s, launch.max_disk_bytes, launch.continues) == (0.5, 1234, False)


@pytest.mark.parametrize("comes", DirectoryComes)
def test_files_are_passed_only_to_a_client_that_is_there(comes: DirectoryComes) -> None:
    assert launched(request_for("lo", pass_files=True), comes=comes).passes_files == (comes == DirectoryComes.PASSED)
    assert not launched(request_for("lo"), comes=comes).passes_files


def test_one_that_goes_on_has_what_is_left_of_its_time() -> None:
    request = request_for("lo", autostop=Conditions(duration_s=10.0, packets=5))
    for elapsed_s, left_s in ((None, 10.0), (4.0, 6.0), (11.0, 0.001)):
        launch = launched(request, elapsed_s=elapsed_s)
        assert launch.autostop == Conditions(duration_s=left_s, packets=5)
        assert launch.continues == (elapsed_s is not None)
    endless = request_for("lo", autostop=Conditions(packets=5))
    assert launched(endless, elapsed_s=100.0).autostop == endless.autostop


def test_where_interfaces_may_come_later_it_is_told_all_filters_once() -> None:
    interfaces = (InterfaceRequest(name="a*", capture_filter="udp"), InterfaceRequest(name="b*", capture_filter=""))
    request = request_for("", interfaces=interfaces, recorder=Recorder(trigger_filter="icmp"))
    rules = [dataclasses.replace(RULE, filter=text) for text in ("tcp", "udp", "")]
    assert launched(request, *rules, waits=True).later_filters == ("udp", "icmp", "tcp")
    assert launched(request, *rules).later_filters == ()


LIVE: dict[str, tuple[StartCapture, Rule]] = {
    "its filter": (request_for("", interfaces=(InterfaceRequest(name="lo", capture_filter="vlan 5"),)), RULE),
    "the rule's filter": (request_for("lo"), dataclasses.replace(RULE, filter="not vlan")),
    "the trigger": (request_for("lo", recorder=Recorder(trigger_filter="vlan")), RULE),
    "a link-layer type": (request_for("", interfaces=(InterfaceRequest(name="lo", link_layer_type="EN10MB"),)), RULE),
}


@pytest.mark.parametrize("case", LIVE)
def test_live_handles_are_opened_only_where_they_are_needed(case: str) -> None:
    request, rule = LIVE[case]
    assert launched(request, rule).needs_live_handles
    plain = msgspec.structs.replace(request, interfaces=(InterfaceRequest(name="lo"),), recorder=None)
    assert not launched(plain, RULE).needs_live_handles
