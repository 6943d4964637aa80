"""The interfaces of a capture: found when it begins, and attached as they come while it runs."""

import contextlib
from collections.abc import Callable

import msgspec
import trio

from capd.captures.grants import Grants
from capd.captures.selection import Selection, cooked_any
from capd.errors import RequestRefused
from capd.launch import LaunchInterface
from capd.linux.packet_socket import ALL_INTERFACES
from capd.network import wireless
from capd.network.devices import Interfaces
from capd.network.monitor import Monitor
from capd.policy.rules import Grant
from capd.supervisor.worker import Worker
from capd_protocol.filter_words import says_vlan
from capd_protocol.messages import FailureCode, InterfaceSkipped
from capd_protocol.messages.interfaces import Link
from capd_protocol.targets import NamedInterface


class Attaching:
    """Finds and attaches the interfaces of one capture."""

    def __init__(self, selection: Selection, grants: Grants, tell: Callable[[InterfaceSkipped], None]) -> None:
        """Nothing is attached yet.

        Args:
            selection: which they are.
            grants: asked about each of them.
            tell: called for each that is left out.
        """
        self._grants = grants
        self._tell = tell
        self._selection = selection

    @property
    def waits(self) -> bool:
        """Whether the capture goes on without any interface, until one comes."""
        return self._selection.waits

    @property
    def may_grow(self) -> bool:
        """Whether interfaces may be attached later."""
        return self._selection.may_grow

    async def look_up(self, stack: contextlib.AsyncExitStack, known: Interfaces) -> list[LaunchInterface]:
        """Find the interfaces to begin with.

        Args:
            stack: gets what is to be undone when the capture is over.
            known: what is known of interfaces.

        Raises:
            RequestRefused: one that was named is not there, or down, or not granted.
        """
        interfaces: list[LaunchInterface] = []
        for device in self._selection.cooked:
            granted = self._grants.ask(device)
            self._grants.hold(ALL_INTERFACES, device, granted)
            interfaces.append(cooked_any(granted))
        for target in self._selection.named:
            await trio.lowlevel.checkpoint()  # others need not wait for all of them
            link = await self._find(target.name, known)
            if link is None:
                continue
            granted = self._grants.ask_for_link(target, link)
            self._grants.hold(link.index, target, granted)  # at once: it may be revoked
            opened = await stack.enter_async_context(wireless.prepared(link, granted.request))
            self._selection.attached.add(link.index)
            interfaces.append(await _describe(link, granted, opened, known))
        if self._selection.patterns:
            for link, target in self._selection.missing((await known.links()).values()):
                await trio.lowlevel.checkpoint()
                self._selection.attached.add(link.index)
                try:
                    described = await self._granted_and_described(link, target, known)
                except RequestRefused as refused:
                    self._skip(link, refused)
                else:
                    interfaces.append(msgspec.structs.replace(described, is_optional=True))
        return interfaces

    async def _find(self, name: str, known: Interfaces) -> Link | None:
        """Return an interface that was named; None where the capture waits for it to come.

        Raises:
            RequestRefused: it is not there, or down.
        """
        link = await known.find(name)
        if link is None and name in await known.device_names():
            text = f"{name} is no network interface, and capd captures on nothing else"
            raise RequestRefused(FailureCode.UNSUPPORTED, text, interface=name, argument="interfaces")
        if self._selection.waits_for_names:
            return link
        if link is None:
            text = f"there is no interface {name}: 'capctl interfaces' shows which there are"
            raise RequestRefused(FailureCode.NO_SUCH_INTERFACE, text, interface=name, argument="interfaces")
        if not link.is_up:
            text = f"the interface {name} is down: 'ip link set {name} up'"
            raise RequestRefused(FailureCode.INTERFACE_DOWN, text, interface=name, argument="interfaces")
        return link

    async def watch(self, worker: Worker, monitor: Monitor) -> None:
        """Attach interfaces that come, or come back; detach those whose rule changes. Until cancelled."""
        watch = await monitor.watch()
        try:
            while True:
                links, removed = await watch.next_links()
                self._selection.attached -= removed  # a new one may have its index already
                for index in removed:
                    self._grants.release(index)
                self._selection.forget_all_but(link.index for link in links)
                for link in links:
                    if self._grants.is_exceeded(link):
                        self._grants.release(link.index)
                        self._selection.attached.discard(link.index)
                        await worker.detach(link.index)
                for link, target in self._selection.missing(links) if self.may_grow else ():
                    self._selection.attached.add(link.index)
                    try:
                        await worker.attach(await self._granted_and_described(link, target, monitor.interfaces))
                    except (RequestRefused, OSError) as error:
                        self._skip(link, error)
        finally:
            monitor.leave(watch)

    async def _granted_and_described(self, link: Link, target: NamedInterface, known: Interfaces) -> LaunchInterface:
        granted = self._grants.ask(target)
        self._grants.hold(link.index, target, granted)
        if not link.is_up and any(map(says_vlan, (granted.rule.filter, granted.request.capture_filter))):
            # Such a filter is compiled for the interface itself, which libpcap opens.
            text = f"{link.name} is down, which a filter with 'vlan' does not compile for: it is captured when it is up"
            raise RequestRefused(FailureCode.INTERFACE_DOWN, text, interface=link.name)
        return await _describe(link, granted, link, known)

    def _skip(self, link: Link, error: Exception) -> None:
        self._grants.release(link.index)
        if isinstance(error, RequestRefused) and error.failure.code == FailureCode.INTERFACE_DOWN:
            self._selection.wait_until_up(link.index)
        self._tell(InterfaceSkipped(interface=link.name, text=str(error)))


async def _describe(link: Link, granted: Grant, device: Link, known: Interfaces) -> LaunchInterface:
    """Say to a worker what it must know of an interface.

    Args:
        link: the interface.
        granted: what to capture there, and under which rule.
        device: what to open: the interface, or its monitor interface.
        known: what is known of interfaces.
    """
    hardware = await known.hardware(link)
    return LaunchInterface(
        request=granted.request,
        policy_filter=granted.rule.filter,
        policy_snaplen_bytes=granted.rule.max_snaplen_bytes,
        device=device.name,
        index=device.index,
        hardware_type=device.hardware_type,
        default_dlt=await known.default_dlt(device),
        loopback=device.loopback,
        is_up=device.is_up,
        mac_address=_mac_bytes(link),
        speed_bits_per_s=None if link.loopback else hardware.speed_bits_per_s,
        driver=hardware.driver or "",
        description=known.description(link),
    )


def _mac_bytes(link: Link) -> bytes | None:
    return bytes.fromhex(link.mac_address.replace(":", "")) if link.mac_address and not link.loopback else None
