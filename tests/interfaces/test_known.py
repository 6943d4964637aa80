"""What is known of interfaces is asked once for all who want to know, and as of the moment in which they ask."""

import errno
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from types import ModuleType

import pytest
import trio
import trio.testing
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from capd import limits
from capd.errors import RequestRefused
from capd.linux.libpcap import find_all_devices
from capd.network import devices, links, monitor
from capd.network.drivers import hardware_of
from capd.network.monitor import Monitor
from capd_protocol.frames import FrameDecoder
from capd_protocol.messages import (
    Capabilities,
    FailureCode,
    GetCapabilities,
    InterfaceList,
    Statistics,
    decode,
)
from capd_protocol.messages.interfaces import InterfaceCounts
from tests.capture.helpers import ip
from tests.interfaces.helpers import add_pair, cleaned, delete, ip_batch, unique
from tests.support.namespace import veth_pair


@asynccontextmanager
async def running() -> AsyncGenerator[Monitor, None]:
    watch = Monitor()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        yield watch
        nursery.cancel_scope.cancel()


def messages_of(data: bytes) -> list[object]:
    decoder = FrameDecoder()
    decoder.feed(data)
    return [decode(frame) for frame in iter(decoder.next_frame, None)]


def counting(
    monkeypatch: pytest.MonkeyPatch, name: str, function: Callable[..., object], module: ModuleType = devices
) -> list[object]:
    """Have a function of a module replaced by itself; return what it is called with."""
    calls: list[object] = []

    def counted(*arguments: object, **options: object) -> object:
        calls.append((*arguments, *options.values()))
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, counted)
    return calls


async def at_once(nursery_size: int, function: Callable[[], object]) -> None:
    """Have something done by so many tasks at once."""
    async with trio.open_nursery() as nursery:
        for _ in range(nursery_size):
            nursery.start_soon(function)  # type: ignore[arg-type]


# The table of links -----------------------------------------------------------------------------------------------


async def test_what_is_asked_for_is_as_of_now() -> None:
    stem = unique("kn")
    with cleaned(stem):
        async with running() as watch:
            for number in range(20):
                name = f"{stem}x{number}"
                ip("link", "add", "name", name, "type", "veth", "peer", "name", f"{stem}y{number}")
                link = await watch.interfaces.find(name)
                assert link is not None
                assert not link.is_up
                ip("link", "set", "dev", name, "up")
                link = await watch.interfaces.find(name)
                assert link is not None
                assert link.is_up
                delete(name)
                assert await watch.interfaces.find(name) is None


async def test_an_alternative_name_is_one_too() -> None:
    stem = unique("kn")
    with cleaned(stem):
        add_pair(f"{stem}a", f"{stem}b")
        ip("link", "property", "add", "dev", f"{stem}a", "altname", f"{stem}other")
        async with running() as watch:
            link = await watch.interfaces.find(f"{stem}other")
            assert link is not None
            assert link.name == f"{stem}a"


async def test_who_asks_while_much_changes_waits_for_what_was_before_and_no_longer() -> None:
    stem = unique("kn")
    with cleaned(stem):
        ip_batch(f"link add name {stem}x{number} type veth peer name {stem}y{number}" for number in range(100))
        async with running() as watch:
            await watch.interfaces.links()
            ip_batch(f"link set dev {stem}{end}{number} up" for number in range(100) for end in "xy")
            found = await watch.interfaces.links()
            assert all(link.is_up for link in found.values() if link.name.startswith(stem))


async def test_what_says_nothing_new_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    stem = unique("kn")
    with cleaned(stem):
        add_pair(f"{stem}a", f"{stem}b")
        async with running() as watch:
            view = await watch.watch()
            await view.next_frames()
            ip("link", "set", "dev", f"{stem}a", "mtu", "1400")
            (changed,) = messages_of(await view.next_frames())
            assert "mtu=1400" in str(changed)
            parsed = counting(monkeypatch, "MarshalRtnl", MarshalRtnl, links)
            version = (await watch.current_links()).version
            # As captures do that come and go.
            for state in ("on", "off") * 20:
                ip("link", "set", "dev", f"{stem}a", "promisc", state)
            assert (await watch.current_links()).version == version
            assert parsed == []
            ip("link", "set", "dev", f"{stem}a", "mtu", "1500")
            (changed,) = messages_of(await view.next_frames())
            assert "mtu=1500" in str(changed)


async def test_where_interfaces_cannot_be_watched_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail() -> None:
        raise OSError(errno.EMFILE, "no descriptor")

    monkeypatch.setattr("capd.network.links.list_links", fail)
    async with running() as watch:
        for _ in range(2):
            with pytest.raises(OSError, match="no descriptor"), trio.fail_after(5):
                await watch.interfaces.links()
        monkeypatch.undo()
        with trio.fail_after(5):
            while True:
                try:
                    assert await watch.interfaces.find("lo") is not None
                    break
                except OSError:
                    await trio.sleep(0.01)


# The list ---------------------------------------------------------------------------------------------------------


async def test_the_list_is_made_once_for_all_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LIST_AGE_S", 1000)
    made = counting(monkeypatch, "find_all_devices", find_all_devices)
    asked = counting(monkeypatch, "hardware_of", hardware_of)
    frames: list[tuple[bytes, ...]] = []
    async with running() as watch:

        async def ask(whose: str) -> None:
            frames.append(await watch.interfaces.lists(whose, lambda name: name == "lo"))

        await at_once(60, partial(ask, "a"))
        assert (len(made), len(asked)) == (1, 1)
        assert all(each is frames[0] for each in frames)
        (listed,) = messages_of(b"".join(frames[0]))
        assert isinstance(listed, InterfaceList)
        assert [each.name for each in listed.interfaces if each.may_capture] == ["lo"]
        # Others may see something else; the list is the same.
        other = await watch.interfaces.lists("b", lambda _: False)
        assert (len(made), other == frames[0]) == (1, False)
        with veth_pair("knew0", "knew1"):
            (listed,) = messages_of(b"".join(await watch.interfaces.lists("a", lambda _: False)))
            assert isinstance(listed, InterfaceList)
            assert {"knew0", "knew1"} <= {each.name for each in listed.interfaces}
            assert len(made) == 2
        monkeypatch.setattr(limits, "LIST_AGE_S", -1)
        await watch.interfaces.lists("a", lambda _: False)  # made with this age
        await watch.interfaces.lists("a", lambda _: False)
        assert len(made) == 4


async def test_a_driver_is_asked_again_when_its_interface_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = counting(monkeypatch, "hardware_of", hardware_of)
    with veth_pair("knd0", "knd1"):
        async with running() as watch:

            async def look() -> None:
                link = await watch.interfaces.find("knd0")
                assert link is not None
                assert (await watch.interfaces.hardware(link)).driver == "veth"

            await at_once(20, look)
            assert asked == [(["knd0"],)]
            ip("link", "set", "dev", "knd0", "mtu", "1400")
            await at_once(20, look)
            assert len(asked) == 2
            monkeypatch.setattr(limits, "DRIVER_AGE_S", -1)
            ip("link", "set", "dev", "knd0", "mtu", "1500")
            await look()
            await look()
            assert len(asked) == 4


# libpcap ----------------------------------------------------------------------------------------------------------

ANSWER = Capabilities(can_rfmon=False, link_layers=(), timestamp_types=())


class Libpcap:
    """Takes its time to say something of an interface."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, bool]] = []
        self.at_once = self.most_at_once = 0
        self.refusal: RequestRefused | None = None
        monkeypatch.setattr(devices, "ask_libpcap", self._ask)

    async def _ask(self, name: str, *, monitor_mode: bool = False) -> Capabilities:
        self.asked.append((name, monitor_mode))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await trio.sleep(0.01)
        self.at_once -= 1
        if self.refusal is not None:
            raise self.refusal
        return ANSWER


async def test_libpcap_is_asked_once_while_an_interface_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    libpcap = Libpcap(monkeypatch)
    with veth_pair("knc0", "knc1"):
        async with running() as watch:

            async def ask(monitor_mode: bool = False) -> None:
                request = GetCapabilities(interface="knc0", monitor_mode=monitor_mode)
                assert await watch.interfaces.capabilities(request, "a") == ANSWER

            await at_once(20, ask)
            assert libpcap.asked == [("knc0", False)]
            await ask(monitor_mode=True)
            assert libpcap.asked[1:] == [("knc0", True)]
            ip("link", "set", "dev", "knc0", "mtu", "1400")
            await at_once(20, ask)
            assert libpcap.asked[2:] == [("knc0", False)]
            # It could be something else by now.
            monkeypatch.setattr(limits, "CAPABILITIES_AGE_S", -1)
            ip("link", "set", "dev", "knc0", "mtu", "1500")
            await ask()
            await ask()
            assert len(libpcap.asked) == 5


@pytest.mark.parametrize(("code", "times"), [(FailureCode.INTERFACE_DOWN, 1), (FailureCode.RESOURCES, 3)])
async def test_what_libpcap_cannot_say_is_remembered_but_not_that_there_was_no_room(
    monkeypatch: pytest.MonkeyPatch, code: FailureCode, times: int
) -> None:
    libpcap = Libpcap(monkeypatch)
    libpcap.refusal = RequestRefused(code, "so it is")
    with veth_pair("knc0", "knc1"):
        async with running() as watch:
            for _ in range(3):
                with pytest.raises(RequestRefused, match="so it is") as refused:
                    await watch.interfaces.capabilities(GetCapabilities(interface="knc0"), "a")
                assert refused.value.failure.code == code
            assert len(libpcap.asked) == times


async def test_one_persons_questions_keep_nobody_elses_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    libpcap = Libpcap(monkeypatch)
    stem = unique("kn")
    with cleaned(stem):
        ip_batch(f"link add name {stem}x{number} type veth peer name {stem}y{number}" for number in range(20))
        async with running() as watch, trio.open_nursery() as nursery:
            await watch.interfaces.device_names()
            for number in range(19):
                request = GetCapabilities(interface=f"{stem}x{number}")
                nursery.start_soon(watch.interfaces.capabilities, request, "one")
            while not libpcap.asked:
                await trio.lowlevel.checkpoint()
            await watch.interfaces.capabilities(GetCapabilities(interface=f"{stem}x19"), "other")
            assert len(libpcap.asked) <= 4
        assert libpcap.most_at_once == 2


# Counters ---------------------------------------------------------------------------------------------------------


async def test_what_has_changed_is_found_once_for_all_who_were_told_of_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[object] = []

    def difference(before: object, now: object) -> object:
        compared.append(before)
        return compare(before, now)  # type: ignore[arg-type]

    compare = monitor._difference  # pyright: ignore[reportPrivateUsage]
    async with running() as watch:
        views = [await watch.count(0.05) for _ in range(20)]
        for view in views:
            await view.next_frames()
        for view in views:
            await view.next_frames()
        monkeypatch.setattr(monitor, "_difference", difference)
        for _ in range(3):
            for view in views:
                (sent,) = messages_of(await view.next_frames())
                assert isinstance(sent, Statistics)
        assert len(compared) <= 4


async def test_telling_counters_leaves_time_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0

    def slow(name: str, values: object, base: object) -> InterfaceCounts:
        nonlocal sent
        sent += 1
        began_s = trio.current_time()
        while trio.current_time() < began_s + 0.01:
            pass
        return InterfaceCounts(name=name)

    async with running() as watch:
        views = [await watch.count(0.05) for _ in range(8)]
        monkeypatch.setattr(monitor, "counts_of", slow)
        monkeypatch.setattr(monitor, "_difference", lambda *_: monitor._Difference([("lo", None, ())], ()))  # type: ignore[list-item]  # pyright: ignore[reportPrivateUsage]

        async def take(view: monitor.Count) -> None:
            while True:
                await view.next_frames()

        with trio.move_on_after(2):
            async with trio.open_nursery() as nursery:
                for view in views:
                    nursery.start_soon(take, view)
        # Twenty times a second eight of them would be 3.2 s; a share of the time is some 0.4.
        assert 8 <= sent <= 2 * 2 * limits.STATISTICS_SHARE / 0.01
