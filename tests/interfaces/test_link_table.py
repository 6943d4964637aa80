"""What becomes of the kernel's messages: a picture of all interfaces, and what has changed in it."""

from typing import Any

import msgspec
import pytest
from pyroute2.netlink.rtnl import RTM_DELLINK, RTM_NEWADDR, RTM_NEWLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from capd.network.links import Change, LinkTable
from capd_protocol.messages.interfaces import InterfaceChange, Link

ADDED, REMOVED, RENAMED = InterfaceChange.ADDED, InterfaceChange.REMOVED, InterfaceChange.RENAMED
UP, DOWN, CHANGED = InterfaceChange.UP, InterfaceChange.DOWN, InterfaceChange.CHANGED
_IFF_UP, _AF_BRIDGE = 1, 7


def message_of(
    kind: int, index: int, name: str = "eth0", *, flags: int = _IFF_UP, family: int = 0, **attributes: object
) -> Any:
    """Return a message as pyroute2 reads it, from the bytes that it makes of it."""
    message: Any = ifinfmsg()
    message["header"]["type"] = kind
    message["index"], message["flags"], message["family"], message["ifi_type"] = index, flags, family, 1
    named = {"IFLA_IFNAME": name, "IFLA_OPERSTATE": "UP" if flags else "DOWN", "IFLA_MTU": 1500}
    message["attrs"] = list({**named, **attributes}.items())
    message.encode()
    (parsed,) = MarshalRtnl().parse(bytes(message.data))
    return parsed


def new(index: int, name: str = "eth0", **changes: Any) -> Any:
    return message_of(RTM_NEWLINK, index, name, **changes)


def gone(index: int, name: str = "eth0") -> Any:
    return message_of(RTM_DELLINK, index, name)


def veth(index: int, name: str, peer: int | None = None, **attributes: Any) -> Any:
    bound = {} if peer is None else {"IFLA_LINK": peer}
    return new(index, name, IFLA_LINKINFO={"attrs": [("IFLA_INFO_KIND", "veth")]}, **bound, **attributes)


def kinds(changes: list[Change]) -> list[tuple[InterfaceChange, int]]:
    return [(each.kind, each.link.index) for each in changes]


@pytest.fixture
def table() -> LinkTable:
    """With eth0 and eth1, of indexes 2 and 3."""
    table = LinkTable()
    for index in (2, 3):
        assert kinds(table.apply(new(index, f"eth{index - 2}"))) == [(ADDED, index)]
    return table


def test_a_link_is_what_was_told_of_it() -> None:
    table = LinkTable()
    address, alias = "02:00:00:00:00:01", "to the north"
    table.apply(new(7, "eth7", flags=0, IFLA_ADDRESS=address, IFLA_IFALIAS=alias, IFLA_MASTER=3))
    assert table.links[7] == Link(
        index=7,
        name="eth7",
        loopback=False,
        is_up=False,
        state="down",
        mtu=1500,
        hardware_type=1,
        mac_address=address,
        master_index=3,
        alias=alias,
    )


def test_the_most_telling_difference_is_named(table: LinkTable) -> None:
    version = table.version
    assert table.apply(new(2)) == []
    assert table.version == version
    for message, expected in (
        (new(2, flags=0), [(DOWN, 2)]),
        (new(2), [(UP, 2)]),
        (new(2, IFLA_MTU=9000), [(CHANGED, 2)]),
        (new(2, "lan", IFLA_MTU=9000), [(RENAMED, 2)]),
        # Both are reported; what else has changed is in the link.
        (new(2, "eth0", flags=0, IFLA_MTU=100), [(RENAMED, 2), (DOWN, 2)]),
    ):
        assert kinds(table.apply(message)) == expected
        assert table.version > version
        version = table.version
    assert table.links[2].mtu == 100


def test_a_renamed_one_is_told_with_its_former_name_and_found_by_its_new_one(table: LinkTable) -> None:
    assert table.find("eth0") is not None
    (change,) = table.apply(new(2, "lan"))
    assert (change.former_name, change.link.name) == ("eth0", "lan")
    assert table.find("eth0") is None
    found = table.find("lan")
    assert found is not None
    assert found.index == 2


def test_two_that_change_their_names_are_both_found(table: LinkTable) -> None:
    for index, name in ((2, "spare"), (3, "eth0"), (2, "eth1")):
        assert kinds(table.apply(new(index, name))) == [(RENAMED, index)]
    assert {name: link.index for name in ("eth0", "eth1") if (link := table.find(name))} == {"eth0": 3, "eth1": 2}


def test_one_that_is_gone_is_told_as_it_was_last_and_once(table: LinkTable) -> None:
    table.apply(new(2, IFLA_MTU=9000))
    (change,) = table.apply(gone(2))
    assert (change.kind, change.link.mtu) == (REMOVED, 9000)
    assert table.apply(gone(2)) == []
    assert (sorted(table.links), table.find("eth0")) == ([3], None)


def test_another_one_of_the_same_name_is_another_one(table: LinkTable) -> None:
    table.set_addresses(2, ["192.0.2.1"])
    assert kinds(table.apply(gone(2))) == [(REMOVED, 2)]
    (change,) = table.apply(new(9, "eth0"))
    assert (change.kind, change.link.index, change.link.addresses) == (ADDED, 9, ())


def test_counters_are_told_with_what_comes_and_goes() -> None:
    counters = {"rx_packets": 1, "tx_packets": 2}
    table = LinkTable()
    (came,) = table.apply(new(2, IFLA_STATS64=counters))
    assert came.counters is not None
    assert (came.counters["rx_packets"], came.counters["tx_packets"]) == (1, 2)
    (changed,) = table.apply(new(2, IFLA_MTU=9000, IFLA_STATS64=counters))
    assert changed.counters is None


@pytest.mark.parametrize(
    "message", [new(2, "other", family=_AF_BRIDGE), message_of(RTM_DELLINK, 2, family=_AF_BRIDGE)], ids=["new", "gone"]
)
def test_what_a_bridge_says_of_its_ports_is_not_of_the_link(table: LinkTable, message: Any) -> None:
    before = dict(table.links), table.version
    assert table.apply(message) == []
    assert (table.links, table.version) == before


def test_what_is_of_no_link_is_left_alone(table: LinkTable) -> None:
    assert table.apply({"header": {"type": RTM_NEWADDR}, "index": 2}) == []


# Addresses --------------------------------------------------------------------------------------------------------


def test_addresses_are_those_set_last_each_once_and_in_order(table: LinkTable) -> None:
    assert kinds(table.set_addresses(2, ["192.0.2.9", "192.0.2.1", "192.0.2.9"])) == [(CHANGED, 2)]
    assert table.links[2].addresses == ("192.0.2.9", "192.0.2.1")
    assert table.set_addresses(2, ["192.0.2.9", "192.0.2.1"]) == []
    assert kinds(table.set_addresses(2, [])) == [(CHANGED, 2)]


def test_what_else_is_told_leaves_addresses_alone(table: LinkTable) -> None:
    table.set_addresses(2, ["192.0.2.1"])
    assert kinds(table.apply(new(2, "lan", flags=0))) == [(RENAMED, 2), (DOWN, 2)]
    assert table.links[2].addresses == ("192.0.2.1",)


def test_addresses_of_what_is_not_there_are_nobodys(table: LinkTable) -> None:
    version = table.version
    assert table.set_addresses(99, ["192.0.2.1"]) == []
    assert table.version == version


# Pairs ------------------------------------------------------------------------------------------------------------


def test_both_ends_of_a_pair_know_each_other_although_one_is_told_of_first() -> None:
    table = LinkTable()
    # The kernel has the other end only afterwards, and does not report this one again.
    assert kinds(table.apply(veth(5, "far"))) == [(ADDED, 5)]
    assert kinds(table.apply(veth(6, "near", peer=5))) == [(ADDED, 6), (CHANGED, 5)]
    assert (table.links[5].bound_to_index, table.links[6].bound_to_index) == (6, 5)
    assert table.apply(veth(6, "near", peer=5)) == []


def test_an_end_in_another_namespace_is_not_the_link_of_that_index_here(table: LinkTable) -> None:
    assert kinds(table.apply(veth(6, "near", peer=2, IFLA_LINK_NETNSID=1))) == [(ADDED, 6)]
    assert table.links[2].bound_to_index is None
    assert (table.links[6].bound_to_index, table.links[6].bound_to_namespace) == (2, 1)


# A fresh picture --------------------------------------------------------------------------------------------------


def test_a_fresh_picture_tells_what_the_difference_is(table: LinkTable) -> None:
    table.apply(new(4, "eth2"))
    before, version = dict(table.links), table.version
    fresh = {
        2: msgspec.structs.replace(before[2], name="lan"),
        4: before[4],
        8: msgspec.structs.replace(before[3], index=8),
    }
    assert kinds(table.take_over(fresh)) == [(REMOVED, 3), (RENAMED, 2), (ADDED, 8)]
    assert table.links == fresh
    assert table.version > version
    found = table.find("eth1")
    assert found is not None
    assert found.index == 8
    # The picture is the table's own.
    fresh.clear()
    assert sorted(table.links) == [2, 4, 8]


def test_to_begin_with_everything_is_new() -> None:
    other = LinkTable()
    other.apply(new(2))
    other.apply(new(3, "eth1"))
    table = LinkTable()
    assert kinds(table.take_over(other.links)) == [(ADDED, 2), (ADDED, 3)]
    assert table.take_over(other.links) == []
