"""Which interfaces a capture is for: by name, by pattern, and as many as it may have."""

import msgspec
import pytest

from capd.captures.selection import Selection
from capd_protocol.arguments import MAX_INTERFACES
from capd_protocol.messages import PATTERN_KERNEL_BUFFER_SIZE_BYTES, InterfaceRequest
from capd_protocol.messages.interfaces import Link
from capd_protocol.targets import targets_of


def link(index: int, name: str) -> Link:
    return Link(index=index, name=name, loopback=False, is_up=True, state="up", mtu=1500, hardware_type=1)


def selection_of(*interfaces: str | InterfaceRequest, waits: bool = False) -> Selection:
    requests = (InterfaceRequest(name=each) if isinstance(each, str) else each for each in interfaces)
    return Selection(targets_of(requests), waits_for_names=waits)


def found(selection: Selection, *links: Link) -> list[tuple[int, str, int | None]]:
    """Return index, name and length of packets of what is missing; the length tells by which wish it is."""
    return [(each.index, target.name, target.request.snaplen_bytes) for each, target in selection.missing(links)]


def wish(name: str, snaplen_bytes: int) -> InterfaceRequest:
    return InterfaceRequest(name=name, snaplen_bytes=snaplen_bytes)


LINKS = link(1, "lo"), link(2, "eth0"), link(3, "eth1"), link(4, "wlan0")


def test_what_is_named_is_taken_with_what_is_asked_of_it() -> None:
    selection = selection_of(wish("eth1", 60), wish("lo", 70), wish("nosuch0", 80))
    assert found(selection, *LINKS) == [(1, "lo", 70), (3, "eth1", 60)]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("any", ["lo", "eth0", "eth1", "wlan0"]),
        ("*", ["lo", "eth0", "eth1", "wlan0"]),
        ("eth*", ["eth0", "eth1"]),
        ("?lan0", ["wlan0"]),
        ("eth[1-9]", ["eth1"]),
        ("[!el]*", ["wlan0"]),
        ("ETH*", []),  # names of interfaces have upper and lower case, on any system
        ("eth", []),
    ],
)
def test_a_pattern_takes_what_matches_the_whole_name(pattern: str, names: list[str]) -> None:
    assert [name for _, name, _ in found(selection_of(pattern), *LINKS)] == names


def test_a_name_goes_before_a_pattern_and_the_first_pattern_before_the_others() -> None:
    selection = selection_of(wish("eth*", 60), wish("any", 70), wish("eth1", 80))
    assert found(selection, *LINKS) == [(1, "lo", 70), (2, "eth0", 60), (3, "eth1", 80), (4, "wlan0", 70)]


def test_what_a_pattern_takes_has_a_small_ring_unless_it_is_asked_for() -> None:
    own = InterfaceRequest(name="wlan*", kernel_buffer_size_bytes=1 << 20)
    sizes = {
        each.name: target.request.kernel_buffer_size_bytes
        for each, target in selection_of("eth0", own, "eth*").missing(LINKS)
    }
    assert sizes == {"eth0": None, "wlan0": 1 << 20, "eth1": PATTERN_KERNEL_BUFFER_SIZE_BYTES}


def test_what_is_attached_is_not_missing_until_it_is_gone() -> None:
    selection = selection_of("eth*")
    selection.attached |= {2, 3, 9}
    assert found(selection, *LINKS) == []
    # The same name with another index is another interface.
    assert [index for index, _, _ in found(selection, *LINKS, link(5, "eth0"))] == [5]
    selection.forget_all_but([1, 3, 4])
    assert selection.attached == {3}
    assert [index for index, _, _ in found(selection, *LINKS)] == [2]


def test_what_has_to_be_up_is_missing_again_when_it_is() -> None:
    selection = Selection(targets_of((InterfaceRequest(name="eth*"),)))
    down, up = (msgspec.structs.replace(link(7, "eth0"), is_up=is_up) for is_up in (False, True))
    assert [each.index for each, _ in selection.missing([down])] == [7]
    selection.attached.add(7)
    selection.wait_until_up(7)
    assert selection.missing([down]) == []
    assert [each.index for each, _ in selection.missing([up])] == [7]
    selection.forget_all_but([])
    assert [each.index for each, _ in selection.missing([down])] == [7]  # another one, of the same index


def test_those_beyond_the_greatest_number_wait_until_others_are_gone() -> None:
    links = [link(index, f"eth{index}") for index in range(1, MAX_INTERFACES + 11)]
    selection = selection_of("eth*")
    first = selection.missing(links)
    assert [each.index for each, _ in first] == list(range(1, MAX_INTERFACES + 1))
    selection.attached |= {each.index for each, _ in first}
    assert selection.missing(links) == []
    selection.forget_all_but(range(4, MAX_INTERFACES + 11))
    assert [each.index for each, _ in selection.missing(links)] == [1, 2, 3]
    assert [each.index for each, _ in selection.missing(links[3:])] == [MAX_INTERFACES + each for each in (1, 2, 3)]


@pytest.mark.parametrize(
    ("selection", "may_grow"),
    [
        (selection_of("eth0"), False),
        (selection_of("eth0", waits=True), True),
        (selection_of("eth0", "eth1"), True),
        (selection_of("eth*"), True),
        (selection_of("any"), True),
        (selection_of(InterfaceRequest(name="any", link_layer_type="LINUX_SLL")), False),
        (selection_of(InterfaceRequest(name="any", link_layer_type="LINUX_SLL2"), "eth0"), False),
    ],
)
def test_a_capture_of_one_interface_ends_with_it_unless_it_waits(selection: Selection, may_grow: bool) -> None:
    assert selection.may_grow is may_grow


def test_the_cooked_device_any_is_no_pattern() -> None:
    selection = selection_of(InterfaceRequest(name="any", link_layer_type="LINUX_SLL"), wish("lo", 60))
    assert found(selection, *LINKS) == [(1, "lo", 60)]
