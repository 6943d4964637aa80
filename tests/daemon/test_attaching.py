"""Which interfaces a capture begins with, and which come and go while it runs. Nothing here asks a kernel."""

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, cast

import pytest
import trio
import trio.testing

from capd.captures.attaching import Attaching
from capd.captures.grants import Grants, Present
from capd.captures.selection import Selection
from capd.errors import RequestRefused
from capd.launch import LaunchInterface
from capd.network.drivers import Hardware
from capd.policy.rules import Grant, Rule
from capd_protocol.formats.linktypes import DLT_EN10MB
from capd_protocol.messages import Failure, FailureCode, InterfaceRequest, InterfaceSkipped
from capd_protocol.messages.interfaces import Link
from capd_protocol.targets import targets_of

ETH = Rule(name="eth", interfaces=("eth*",), filter="udp", max_snaplen_bytes=100)
LAN = Rule(name="lan", interfaces=("lan*",))


def decide(target: Present) -> Grant:
    for rule in (ETH, LAN):
        if rule.covers(target):
            return Grant(rule, replace(target, request=rule.settled(target.request)))
    raise RequestRefused(FailureCode.NOT_PERMITTED, "no rule allows it")


def link(name: str, index: int, **changes: Any) -> Link:
    fields = {"loopback": False, "is_up": True, "state": "up", "mtu": 1500, "hardware_type": 1, **changes}
    return Link(index=index, name=name, **fields)


class Known:
    """What is known of interfaces."""

    def __init__(self, *links: Link, devices: tuple[str, ...] = (), other_names: dict[str, str] | None = None) -> None:
        self._links = {each.name: each for each in links}
        self._devices = devices
        self._other_names = other_names or {}
        #: What comes of asking for an interface's hardware, by its name.
        self.failures: dict[str, Exception] = {}

    async def find(self, name: str) -> Link | None:
        return self._links.get(self._other_names.get(name, name))

    async def device_names(self) -> tuple[str, ...]:
        return (*self._links, *self._devices)

    async def links(self) -> dict[int, Link]:
        return {each.index: each for each in self._links.values()}

    async def hardware(self, link: Link) -> Hardware:
        if link.name in self.failures:
            raise self.failures[link.name]
        return Hardware(driver=f"driver of {link.name}", speed_bits_per_s=1000)

    def description(self, link: Link) -> str:
        return link.alias

    async def default_dlt(self, _: Link) -> int:
        return DLT_EN10MB


class Watched:
    """A monitor with one view, and a worker, whose orders are kept by name and index."""

    def __init__(self) -> None:
        self.interfaces = Known()
        self.orders: list[str] = []
        self.is_given_back = False
        self._send, self._receive = trio.open_memory_channel[tuple[list[Link], set[int]]](1)

    async def watch(self) -> "Watched":
        return self

    def leave(self, view: object) -> None:
        self.is_given_back = view is self

    async def next_links(self) -> tuple[list[Link], set[int]]:
        return await self._receive.receive()

    async def attach(self, interface: LaunchInterface) -> None:
        self.orders.append(f"attach {interface.device}")

    async def detach(self, index: int) -> None:
        self.orders.append(f"detach {index}")

    async def see(self, *links: Link, removed: tuple[int, ...] = ()) -> list[str]:
        """Have these interfaces be there, and others gone; return the worker's orders."""
        self.orders.clear()
        await self._send.send((list(links), set(removed)))
        await trio.testing.wait_all_tasks_blocked()
        return list(self.orders)


class Begun:
    """The interfaces of a capture."""

    def __init__(self, *names: str, waits_for_names: bool = False) -> None:
        targets = targets_of(InterfaceRequest(name=name) for name in names)
        self.skipped: list[InterfaceSkipped] = []
        self.grants = Grants(decide)
        self.attaching = Attaching(
            Selection(targets, waits_for_names=waits_for_names), self.grants, self.skipped.append
        )

    async def look_up(self, known: Known) -> list[LaunchInterface]:
        async with contextlib.AsyncExitStack() as stack:
            return await self.attaching.look_up(stack, cast(Any, known))

    async def refusal(self, known: Known) -> Failure:
        with pytest.raises(RequestRefused) as refused:
            await self.look_up(known)
        return refused.value.failure

    def held(self, *links: Link) -> list[str]:
        return [each.request.name for each in self.grants.in_force({each.index: each for each in links})]


ETH0, ETH1, LAN0, WLAN0 = link("eth0", 2), link("eth1", 3), link("lan0", 4), link("wlan0", 5)


# To begin with ----------------------------------------------------------------------------------------------------

ABSENT: dict[str, tuple[Known, FailureCode]] = {
    "not there": (Known(ETH1), FailureCode.NO_SUCH_INTERFACE),
    "down": (Known(link("eth0", 2, is_up=False)), FailureCode.INTERFACE_DOWN),
    "no interface": (Known(devices=("eth0",)), FailureCode.UNSUPPORTED),
}


@pytest.mark.parametrize("case", ABSENT)
async def test_one_that_was_named_must_be_there_and_up(case: str) -> None:
    known, code = ABSENT[case]
    failure = await Begun("eth0").refusal(known)
    assert (failure.code, failure.interface, failure.argument) == (code, "eth0", "interfaces")


async def test_who_waits_for_interfaces_begins_without() -> None:
    waiting = Begun("eth0", waits_for_names=True)
    assert await waiting.look_up(Known(ETH1)) == []
    assert [each.device for each in await waiting.look_up(Known(link("eth0", 2, is_up=False)))] == ["eth0"]
    assert (await waiting.refusal(Known(devices=("eth0",)))).code == FailureCode.UNSUPPORTED


async def test_a_worker_is_told_what_is_known_and_what_policy_adds() -> None:
    mac = link("eth0", 2, mac_address="02:00:00:00:00:01", alias="uplink")
    (described,) = await Begun("eth0").look_up(Known(mac))
    assert (described.device, described.index) == ("eth0", 2)
    assert (described.driver, described.description) == ("driver of eth0", "uplink")
    assert (described.policy_filter, described.policy_snaplen_bytes) == ("udp", 100)
    assert (described.mac_address, described.speed_bits_per_s) == (b"\x02\0\0\0\0\x01", 1000)
    assert not described.is_optional
    looped = link("eth0", 2, mac_address="00:00:00:00:00:00", loopback=True)
    (described,) = await Begun("eth0").look_up(Known(looped))
    assert (described.mac_address, described.speed_bits_per_s) == (None, None)


async def test_one_that_was_named_by_another_name_is_granted_by_its_own() -> None:
    begun = Begun("eth9")
    failure = await begun.refusal(Known(LAN0, other_names={"eth9": "lan0"}))
    assert failure.code == FailureCode.NOT_PERMITTED
    assert begun.held(LAN0) == []
    assert [each.device for each in await begun.look_up(Known(ETH0, other_names={"eth9": "eth0"}))] == ["eth0"]


async def test_of_a_pattern_those_are_left_out_that_are_not_granted_and_that_is_told() -> None:
    begun = Begun("*0")
    interfaces = await begun.look_up(Known(ETH0, ETH1, LAN0, WLAN0))
    assert [(each.device, each.is_optional) for each in interfaces] == [("eth0", True), ("lan0", True)]
    assert begun.skipped == [InterfaceSkipped(interface="wlan0", text="no rule allows it")]
    assert begun.held(ETH0, ETH1, LAN0, WLAN0) == ["eth0", "lan0"]


async def test_of_a_pattern_those_are_left_out_of_which_nothing_can_be_learned() -> None:
    begun, known = Begun("*0"), Known(ETH0, LAN0)
    known.failures["lan0"] = RequestRefused(FailureCode.RESOURCES, "no room")
    assert [each.device for each in await begun.look_up(known)] == ["eth0"]
    assert begun.skipped == [InterfaceSkipped(interface="lan0", text="no room")]
    assert begun.held(ETH0, LAN0) == ["eth0"]


@pytest.mark.parametrize(
    ("names", "changes", "waits", "may_grow"),
    [
        (("eth0",), {}, False, False),
        (("eth0",), {"waits_for_names": True}, True, True),
        (("eth0", "eth1"), {}, False, True),
        (("eth*",), {}, True, True),
    ],
)
def test_a_capture_of_one_interface_ends_with_it_unless_it_waits(
    names: tuple[str, ...], changes: dict[str, Any], waits: bool, may_grow: bool
) -> None:
    attaching = Begun(*names, **changes).attaching
    assert (attaching.waits, attaching.may_grow) == (waits, may_grow)


# While it runs ----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def watching(begun: Begun, *links: Link) -> AsyncGenerator[Watched, None]:
    watched = Watched()
    await begun.look_up(Known(*links))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(begun.attaching.watch, cast(Any, watched), cast(Any, watched))
        yield watched
        nursery.cancel_scope.cancel()
    assert watched.is_given_back


async def test_those_that_come_are_attached_once_and_again_when_they_come_back() -> None:
    begun = Begun("eth*")
    async with watching(begun, ETH0) as watched:
        assert await watched.see(ETH0, LAN0) == []
        assert await watched.see(ETH0, ETH1) == ["attach eth1"]
        assert await watched.see(ETH0, ETH1) == []
        assert await watched.see(ETH0, removed=(3,)) == []
        assert begun.held(ETH0, ETH1) == ["eth0"]
        assert await watched.see(ETH0, ETH1) == ["attach eth1"]
        # It is not there, which was reported while nobody looked.
        assert await watched.see(ETH0) == []
        assert await watched.see(ETH0, ETH1) == ["attach eth1"]
        # Gone and there again, before anybody looked.
        assert await watched.see(ETH0, ETH1, removed=(3,)) == ["attach eth1"]


async def test_those_that_come_and_are_not_granted_are_told_of_once() -> None:
    begun = Begun("*0")
    async with watching(begun, ETH0) as watched:
        assert await watched.see(ETH0, WLAN0) == []
        assert await watched.see(ETH0, WLAN0) == []
        assert begun.skipped == [InterfaceSkipped(interface="wlan0", text="no rule allows it")]
        assert await watched.see(ETH0, LAN0, WLAN0) == ["attach lan0"]


@pytest.mark.parametrize("failure", [RequestRefused(FailureCode.RESOURCES, "no room"), OSError("no room")])
async def test_those_that_come_are_left_out_of_which_nothing_can_be_learned(failure: Exception) -> None:
    begun = Begun("eth*")
    async with watching(begun, ETH0) as watched:
        watched.interfaces.failures["eth1"] = failure
        assert await watched.see(ETH0, ETH1) == []
        assert begun.skipped == [InterfaceSkipped(interface="eth1", text="no room")]
        assert await watched.see(ETH0, ETH1, link("eth2", 9)) == ["attach eth2"]


async def test_one_that_gets_a_name_on_which_another_rule_holds_is_detached() -> None:
    begun = Begun("eth0")
    async with watching(begun, ETH0) as watched:
        assert await watched.see(link("eth7", 2)) == []
        assert begun.held(link("eth7", 2)) == ["eth7"]
        assert await watched.see(link("lan7", 2)) == ["detach 2"]
        assert begun.held(link("lan7", 2)) == []
        assert await watched.see(link("lan7", 2)) == []


async def test_one_that_is_renamed_within_a_pattern_is_attached_under_the_other_rule() -> None:
    begun = Begun("*0")
    async with watching(begun, ETH0) as watched:
        assert await watched.see(link("lan0", 2)) == ["detach 2", "attach lan0"]


async def test_what_may_not_grow_is_only_watched() -> None:
    begun = Begun("eth0")
    async with watching(begun, ETH0) as watched:
        assert await watched.see(removed=(2,)) == []
        assert await watched.see(ETH0) == []
