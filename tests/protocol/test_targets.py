"""What the name in an interface request stands for."""

import pytest

from capd_protocol.messages import InterfaceRequest
from capd_protocol.targets import CookedAny, NamedInterface, Pattern, Target, target_of, targets_of


@pytest.mark.parametrize(
    ("name", "link_layer_type", "kind"),
    [
        ("eth0", None, NamedInterface),
        ("eth0", "LINUX_SLL", NamedInterface),
        ("anything", None, NamedInterface),
        ("ANY", "LINUX_SLL2", NamedInterface),
        ("eth]", None, NamedInterface),
        ("", None, NamedInterface),
        ("eth*", None, Pattern),
        ("eth?", "LINUX_SLL", Pattern),
        ("[ab]", None, Pattern),
        ("any", None, Pattern),
        ("any", "EN10MB", Pattern),
        ("any", "no such type", Pattern),
        ("any", "", Pattern),
        ("any", "LINUX_SLL", CookedAny),
        ("any", "LINUX_SLL2", CookedAny),
        ("any", "linux_sll", CookedAny),  # as libpcap takes names of link-layer types
    ],
)
def test_a_request_is_for_one_interface_for_all_that_match_or_for_the_cooked_device(
    name: str, link_layer_type: str | None, kind: type[Target]
) -> None:
    request = InterfaceRequest(name=name, link_layer_type=link_layer_type)
    assert target_of(request) == kind(request)


def test_requests_are_parsed_in_their_order() -> None:
    requests = [InterfaceRequest(name=name) for name in ("b", "a*", "a")]
    assert targets_of(requests) == (NamedInterface(requests[0]), Pattern(requests[1]), NamedInterface(requests[2]))


def test_what_matches_is_asked_for_as_the_pattern_was_by_its_very_name() -> None:
    pattern = Pattern(InterfaceRequest(name="et*", snaplen_bytes=60))
    assert pattern.matches("et*x")
    assert not pattern.matches("wet")
    assert pattern.named("et*x") == NamedInterface(InterfaceRequest(name="et*x", snaplen_bytes=60))
    assert Pattern(InterfaceRequest(name="any")).matches("lo")
