"""The list of interfaces: libpcap says which there are, the kernel what they are, drivers what they know."""

import os
from collections.abc import Callable

import trio

from capd.errors import RequestRefused
from capd.ethtool import driver_of, speed_of
from capd.libpcap import Device, DeviceFlag, PcapError, find_all_devices
from capd.links import list_links
from capd_protocol.interfaces import InterfaceInfo, InterfaceType, Link
from capd_protocol.limits import ANY
from capd_protocol.messages import FailureCode

#: By the beginning of their names, as dumpcap tells them apart (Wireshark, ``capture/capture-pcap-util.c``).
_TYPES_BY_NAME = (("bluetooth", InterfaceType.BLUETOOTH), ("usbmon", InterfaceType.USB))


def _type_of(device: Device) -> InterfaceType:
    for beginning, interface_type in _TYPES_BY_NAME:
        if device.name.startswith(beginning):
            return interface_type
    return InterfaceType.WIRELESS if DeviceFlag.WIRELESS in device.flags else InterfaceType.WIRED


def _describe(device: Device, number: int, link: Link | None, *, namespace: str, may_capture: bool) -> InterfaceInfo:
    driver, bus = driver_of(device.name) if link else (None, None)
    return InterfaceInfo(
        name=device.name,
        number=number,
        description=device.description,
        interface_type=_type_of(device),
        loopback=DeviceFlag.LOOPBACK in device.flags,
        addresses=link.addresses if link else (),
        link=link,
        speed_bits_per_s=speed_of(device.name) if link and not link.loopback else None,
        driver=driver,
        bus=bus,
        network_namespace=namespace if link else None,
        may_capture=may_capture and (link is not None or device.name == ANY),
    )


async def list_interfaces(may_capture: Callable[[str], bool]) -> list[InterfaceInfo]:
    """Return everything that libpcap can capture on, in its order.

    Args:
        may_capture: whether policy lets the one who asks capture on an interface.

    Raises:
        RequestRefused: libpcap cannot tell.
        OSError: the kernel does not answer as it should.
    """
    try:
        devices = await trio.to_thread.run_sync(find_all_devices)
    except PcapError as error:
        text = f"libpcap cannot list interfaces: {error}"
        raise RequestRefused(FailureCode.UNSUPPORTED, text) from error
    links = {link.name: link for link in (await list_links()).values()}
    namespace = os.readlink("/proc/self/ns/net")  # noqa: PTH115  # it is no path
    return [
        _describe(device, number, links.get(device.name), namespace=namespace, may_capture=may_capture(device.name))
        for number, device in enumerate(devices, 1)
    ]
