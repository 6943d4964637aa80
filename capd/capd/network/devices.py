"""Network devices: the kernel's list, libpcap's capabilities, drivers' details, each asked once and kept.

Whatever takes a while is asked once at a time, for all who want to know, and kept until the interface changes, or for
so long as ``capd.limits`` says.
"""

import os
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio

from capd import limits
from capd.errors import RequestRefused
from capd.linux.libpcap import Device, DeviceFlag, PcapError, find_all_devices
from capd.linux.privileges import Capability, has_capability
from capd.network.drivers import Hardware, hardware_of
from capd.network.inquiries import ask_driver, ask_libpcap
from capd.network.links import LinkTable, find_link
from capd.pacing.once import Once
from capd.pacing.threads import in_thread
from capd.pacing.turns import Turns
from capd_protocol.formats.linktypes import DLT_EN10MB, DLT_RAW
from capd_protocol.messages import (
    Capabilities,
    DriverCounters,
    Failure,
    FailureCode,
    GetCapabilities,
    InterfaceList,
    encode,
)
from capd_protocol.messages.interfaces import InterfaceInfo, InterfaceType, Link, MissingRight
from capd_protocol.targets import ANY

#: By the beginning of their names, as dumpcap distinguishes them (Wireshark, ``capture/capture-pcap-util.c``).
_TYPES_BY_NAME = (("bluetooth", InterfaceType.BLUETOOTH), ("usbmon", InterfaceType.USB))
#: Interfaces in one frame: their descriptions stay well below its limit.
_AT_ONCE = 400
#: linux/if.h
_MAX_NAME_BYTES = 15
#: linux/if_arp.h: what libpcap gives these hardware types (map_arphrd_to_dlt() in pcap-linux.c). Others are asked for.
_DLT_OF_HARDWARE = {1: DLT_EN10MB, 772: DLT_EN10MB, 65534: DLT_RAW}
#: Lists that differ by what policy lets those see who ask. Chosen: more than there are rules, mostly.
_MAX_VIEWS = 64


def has_known_type(device: str, hardware_type: int) -> bool:
    """Whether it is known without libpcap which link-layer type libpcap gives an interface."""
    # One that leads to a switch has tags of that switch in its packets, whatever its hardware type says.
    return hardware_type in _DLT_OF_HARDWARE and not Path("/sys/class/net", device, "dsa/tagging").exists()


def _no_such_interface(name: str) -> RequestRefused:
    shown = name if len(name) <= 64 else name[:64] + "…"
    text = f"there is no interface {shown!r}: 'capctl interfaces' shows which there are"
    return RequestRefused(FailureCode.NO_SUCH_INTERFACE, text, argument="interface", interface=shown)


def _type_of(device: Device) -> InterfaceType:
    for beginning, interface_type in _TYPES_BY_NAME:
        if device.name.startswith(beginning):
            return interface_type
    return InterfaceType.WIRELESS if DeviceFlag.WIRELESS in device.flags else InterfaceType.WIRED


class _Listing:
    """All that libpcap can capture on, at one moment."""

    def __init__(self, version: int, devices: list[Device], links: Iterable[Link], hardware: Mapping[int, Hardware]):
        self.version = version
        self.until_s = trio.current_time() + limits.LIST_AGE_S
        self._devices = devices
        self._links = {link.name: link for link in links}
        self._hardware = hardware
        #: Not in a private daemon of somebody who may not either.
        self._may_open = has_capability(Capability.NET_RAW)
        self._namespace = os.readlink("/proc/self/ns/net")  # noqa: PTH115  # it is no path
        self._views: dict[Hashable, tuple[bytes, ...]] = {}

    def first(self, may_capture: Callable[[str], bool]) -> str | None:
        """Return the first interface that is up and may be captured on; a loopback interface only where no other is."""
        links = (self._links[each.name] for each in self._devices if each.name in self._links)
        allowed = [link for link in links if link.is_up and may_capture(link.name)]
        return min(allowed, key=lambda link: link.loopback).name if allowed else None

    @property
    def names(self) -> set[str]:
        """Of network interfaces and of others."""
        return {each.name for each in self._devices}

    def view(self, whose: Hashable, may_capture: Callable[[str], bool]) -> tuple[bytes, ...]:
        """Return it in parts that fit into a frame, ready to be sent.

        Args:
            whose: those who get the same answers of ``may_capture``.
            may_capture: whether policy lets them capture on an interface.
        """
        if whose not in self._views:
            if len(self._views) >= _MAX_VIEWS:
                self._views.clear()
            self._views[whose] = tuple(map(encode, self._parts(may_capture)))
        return self._views[whose]

    def _parts(self, may_capture: Callable[[str], bool]) -> list[InterfaceList]:
        found = [self._describe(each, number, may_capture) for number, each in enumerate(self._devices, 1)]
        return [
            InterfaceList(interfaces=tuple(found[at : at + _AT_ONCE]), is_last=at + _AT_ONCE >= len(found))
            for at in range(0, max(len(found), 1), _AT_ONCE)
        ]

    def _describe(self, device: Device, number: int, may_capture: Callable[[str], bool]) -> InterfaceInfo:
        link = self._links.get(device.name)
        hardware = self._hardware.get(link.index, Hardware()) if link else Hardware()
        is_capturable = link is not None or device.name == ANY
        needs = self._missing_right(device.name, may_capture) if is_capturable else None
        return InterfaceInfo(
            name=device.name,
            number=number,
            description=device.description,
            interface_type=_type_of(device),
            loopback=DeviceFlag.LOOPBACK in device.flags,
            addresses=link.addresses if link else (),
            link=link,
            speed_bits_per_s=hardware.speed_bits_per_s if link and not link.loopback else None,
            driver=hardware.driver,
            bus=hardware.bus,
            network_namespace=self._namespace if link else None,
            may_capture=is_capturable and needs is None,
            needs=needs,
        )

    def _missing_right(self, name: str, may_capture: Callable[[str], bool]) -> MissingRight | None:
        if not self._may_open:
            return MissingRight.CAP_NET_RAW
        return None if may_capture(name) else MissingRight.RULE


#: The name of an interface, and whether in monitor mode.
_Asked = tuple[str, bool]


class _Answered(NamedTuple):
    """What libpcap reported of an interface as it was then."""

    link: Link | None
    answer: Capabilities | Failure
    until_s: float


class _Driven(NamedTuple):
    """What a driver reported of an interface as it was then."""

    link: Link
    hardware: Hardware
    until_s: float


class Interfaces:
    """Knows interfaces, for all clients and captures together."""

    def __init__(
        self, current: Callable[[], Awaitable[LinkTable]], has_begun: Callable[[], bool], netns: str = ""
    ) -> None:
        """Know none yet.

        Args:
            current: returns the table of links as it is now; raises OSError where the kernel does not answer.
            has_begun: whether there is one already; if not, it is made from now on.
            netns: what the network namespace is called; empty: nobody needs to be told.
        """
        self._netns = netns
        self._current = current
        self._has_begun = has_begun
        self._once = Once()
        self._listed: _Listing | None = None
        self._driven: dict[int, _Driven] = {}
        self._answers: dict[tuple[str, bool], _Answered] = {}
        self._questions = Turns(limits.MAX_QUESTIONS, limits.MAX_QUESTIONS_PER_USER)

    # Links --------------------------------------------------------------------------------------------------------

    async def links(self) -> Mapping[int, Link]:
        """Return all network interfaces as they are now, by index.

        Raises:
            OSError: the kernel does not answer.
        """
        return (await self._current()).links

    async def find(self, name: str) -> Link | None:
        """Return the interface of this name, also of an alternative name; None where there is none.

        Raises:
            OSError: the kernel does not answer.
        """
        # The first caller need not wait until all are listed.
        known = (await self._current()).find(name) if self._has_begun() else None
        return known or await find_link(name)

    def description(self, link: Link) -> str:
        """Return what files say of an interface beside its name: its alias, and in which network namespace it is."""
        if not self._netns:
            return link.alias
        where = f"network namespace {self._netns}"
        return f"{link.alias} ({where})" if link.alias else where

    # All that can be captured on ----------------------------------------------------------------------------------

    async def lists(self, whose: Hashable, may_capture: Callable[[str], bool]) -> tuple[bytes, ...]:
        """Return the list of interfaces in libpcap's order, in frames ready to be sent.

        Args:
            whose: those who get the same answers of ``may_capture``.
            may_capture: whether policy lets them capture on an interface.

        Raises:
            RequestRefused: libpcap cannot find out.
            OSError: the kernel cannot, or there is no thread for it, or no descriptor.
        """
        return (await self._listing()).view(whose, may_capture)

    async def first(self, may_capture: Callable[[str], bool]) -> str | None:
        """Return what to capture on where no interface is named, as dumpcap has it: the first in libpcap's order.

        Args:
            may_capture: whether policy lets somebody capture on an interface.

        Returns:
            The first that is up, and none of a loopback where there is another; None where there is none at all.

        Raises:
            RequestRefused: libpcap cannot find out.
            OSError: the kernel cannot, or there is no thread for it, or no descriptor.
        """
        return (await self._listing()).first(may_capture)

    async def device_names(self) -> set[str]:
        """Return the names of all that libpcap lists, network interfaces and others.

        Raises:
            RequestRefused: libpcap cannot find out.
            OSError: the kernel cannot, or there is no thread for it, or no descriptor.
        """
        return (await self._listing()).names

    async def _listing(self) -> _Listing:
        async with self._once.alone("list"):
            version = (await self._current()).version
            listed = self._listed
            if listed is None or listed.version != version or listed.until_s < trio.current_time():
                listed = self._listed = await self._list(version)
            return listed

    async def _list(self, version: int) -> _Listing:
        try:
            devices = await in_thread(find_all_devices)
        except PcapError as error:
            raise RequestRefused(FailureCode.UNSUPPORTED, f"libpcap cannot list interfaces: {error}") from error
        links = list((await self.links()).values())
        return _Listing(version, devices, links, await self._hardware_of(links))

    # Drivers ------------------------------------------------------------------------------------------------------

    async def hardware(self, link: Link) -> Hardware:
        """Return what the driver of an interface says.

        Raises:
            OSError: there is no thread for it, or no descriptor.
        """
        return (await self._hardware_of([link]))[link.index]

    async def _hardware_of(self, links: Sequence[Link]) -> dict[int, Hardware]:
        if not self._not_driven(links):
            return {link.index: self._driven[link.index].hardware for link in links}
        async with self._once.alone("drivers"):
            if missing := self._not_driven(links):
                found = await in_thread(partial(hardware_of, [link.name for link in missing]))
                now_s, asked = trio.current_time(), {link.index for link in links}
                # What nobody has asked for lately may be gone.
                self._driven = {
                    index: each for index, each in self._driven.items() if index in asked or each.until_s >= now_s
                }
                for link in missing:
                    self._driven[link.index] = _Driven(link, found[link.name], now_s + limits.DRIVER_AGE_S)
            return {link.index: self._driven[link.index].hardware for link in links}

    def _not_driven(self, links: Iterable[Link]) -> list[Link]:
        now_s = trio.current_time()
        return [
            link
            for link in links
            if (driven := self._driven.get(link.index)) is None or driven.link != link or driven.until_s < now_s
        ]

    async def driver_counters(self, interface: str, whose: Hashable) -> DriverCounters:
        """Return an interface's own counters.

        Args:
            interface: which.
            whose: turn it must be.

        Raises:
            RequestRefused: there is no such interface.
            OSError: the kernel does not answer, or there is no thread for it, or no descriptor.
        """
        is_name = len(os.fsencode(interface)) <= _MAX_NAME_BYTES and interface.isprintable()
        if not is_name or await self.find(interface) is None:
            raise _no_such_interface(interface)
        with await self._questions.take(whose):
            return await ask_driver(interface)

    # libpcap ------------------------------------------------------------------------------------------------------

    async def capabilities(self, request: GetCapabilities, whose: Hashable) -> Capabilities:
        """Return what libpcap says of an interface.

        Args:
            request: of which interface, and in which mode.
            whose: turn it must be.

        Raises:
            RequestRefused: there is no such interface, or libpcap cannot open it.
            OSError: the kernel does not answer, or there is no thread for it, or no descriptor.
        """
        if request.interface not in await self.device_names():
            raise _no_such_interface(request.interface)
        key = request.interface, request.monitor_mode
        if self._known(key, await self._current()) is None:
            with await self._questions.take(whose):
                return await self._ask(key)
        return await self._ask(key)

    async def default_dlt(self, link: Link) -> int:
        """Return the link-layer type that libpcap gives an interface; nobody who starts a capture waits for questions.

        Raises:
            RequestRefused: libpcap cannot open it.
            OSError: the kernel does not answer, or there is no thread for it, or no descriptor.
        """
        if has_known_type(link.name, link.hardware_type):
            return _DLT_OF_HARDWARE[link.hardware_type]
        return (await self._ask((link.name, False))).link_layers[0].dlt

    async def _ask(self, key: _Asked) -> Capabilities:
        async with self._once.alone(key):
            table = await self._current()
            answer = self._known(key, table)
            if answer is None:
                name, monitor_mode = key
                link, now_s = table.find(name), trio.current_time()
                age_s = limits.CAPABILITIES_AGE_S
                try:
                    answer = await ask_libpcap(name, monitor_mode=monitor_mode)
                except RequestRefused as refused:
                    answer, age_s = refused.failure, limits.NO_CAPABILITIES_AGE_S
                if not isinstance(answer, Failure) or answer.code != FailureCode.RESOURCES:
                    self._answers = {key: each for key, each in self._answers.items() if each.until_s >= now_s}
                    self._answers[key] = _Answered(link, answer, now_s + age_s)
        if isinstance(answer, Failure):
            raise RequestRefused(answer.code, answer.text, interface=answer.interface)
        return answer

    def _known(self, key: _Asked, table: LinkTable) -> Capabilities | Failure | None:
        known = self._answers.get(key)
        if known is None or known.link != table.find(key[0]) or known.until_s < trio.current_time():
            return None
        return known.answer
