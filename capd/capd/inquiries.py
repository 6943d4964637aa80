"""Questions about interfaces, which everybody may ask: lists, capabilities, drivers' counters."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import trio

from capd import limits
from capd.errors import RequestRefused
from capd.ethtool import statistics_of
from capd.interfaces import list_interfaces
from capd.links import find_link
from capd.processes import command, environment
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import FrameDecoder
from capd_protocol.interfaces import InterfaceInfo, Link
from capd_protocol.linktypes import DLT_EN10MB, DLT_RAW
from capd_protocol.messages import (
    Capabilities,
    DriverCounters,
    FailureCode,
    GetCapabilities,
    InterfaceList,
    Refused,
    decode,
)

#: Everybody may ask as often as one likes; starting a capture, which asks too, does not wait for them.
_questions = trio.CapacityLimiter(limits.MAX_QUESTIONS)
#: Interfaces in one frame: their descriptions stay well below its limit.
_AT_ONCE = 400


def _no_such_interface(name: str) -> RequestRefused:
    shown = name if len(name) <= 64 else name[:64] + "…"
    text = f"there is no interface {shown!r}: 'capctl interfaces' shows which there are"
    return RequestRefused(FailureCode.NO_SUCH_INTERFACE, text, argument="interface", interface=shown)


async def interface_lists(may_capture: Callable[[str], bool]) -> list[InterfaceList]:
    """Return the list of interfaces, in parts that fit into a frame."""
    found: list[InterfaceInfo] = await list_interfaces(may_capture)
    return [
        InterfaceList(interfaces=tuple(found[at : at + _AT_ONCE]), is_last=at + _AT_ONCE >= len(found))
        for at in range(0, max(len(found), 1), _AT_ONCE)
    ]


async def device_names() -> set[str]:
    """Return the names of all that libpcap lists, network interfaces and others."""
    return {each.name for each in await list_interfaces(lambda _: False)}


async def capabilities(request: GetCapabilities) -> Capabilities:
    """Return what libpcap says of an interface, which a process of its own asks it.

    Raises:
        RequestRefused: there is no such interface, or libpcap cannot open it.
    """
    # Only names of what exists go on a command line.
    if request.interface not in await device_names():
        raise _no_such_interface(request.interface)
    async with _questions:
        return await _ask_libpcap(request.interface, *(["monitor"] if request.monitor_mode else []))


async def _ask_libpcap(interface: str, *arguments: str) -> Capabilities:
    with trio.move_on_after(limits.START_TIMEOUT_S):
        done = await trio.run_process(
            command("capd.worker.capabilities", interface, *arguments),
            capture_stdout=True,
            stdin=subprocess.DEVNULL,
            env=environment(),
            check=False,
        )
        return _answer_of(done.stdout, interface)
    text = f"libpcap did not answer about {interface} in time"
    raise RequestRefused(FailureCode.WORKER_DIED, text, interface=interface)


#: linux/if_arp.h: what libpcap gives these hardware types (map_arphrd_to_dlt() in pcap-linux.c). Others are asked for.
_DLT_OF_HARDWARE = {1: DLT_EN10MB, 772: DLT_EN10MB, 65534: DLT_RAW}


def has_known_type(device: str, hardware_type: int) -> bool:
    """Whether it is known without libpcap which link-layer type libpcap gives an interface."""
    # One that leads to a switch has tags of that switch in its packets, whatever its hardware type says.
    return hardware_type in _DLT_OF_HARDWARE and not Path("/sys/class/net", device, "dsa/tagging").exists()


async def default_dlt(link: Link) -> int:
    """Return the link-layer type that libpcap gives an interface.

    Raises:
        RequestRefused: libpcap cannot open it.
    """
    if has_known_type(link.name, link.hardware_type):
        return _DLT_OF_HARDWARE[link.hardware_type]
    return (await _ask_libpcap(link.name)).link_layers[0].dlt


def _answer_of(output: bytes, interface: str) -> Capabilities:
    decoder = FrameDecoder()
    decoder.feed(output)
    try:
        frame = decoder.next_frame()
        answer = decode(frame) if frame is not None else None
    except RemoteProtocolError:
        answer = None
    match answer:
        case Capabilities():
            return answer
        case Refused(failure=failure):
            raise RequestRefused(failure.code, failure.text, interface=interface)
        case _:
            text = f"the process that asks about {interface} died: see the daemon's log"
            raise RequestRefused(FailureCode.WORKER_DIED, text, interface=interface)


async def driver_counters(interface: str) -> DriverCounters:
    """Return an interface's own counters.

    Raises:
        RequestRefused: there is no such interface.
    """
    if len(os.fsencode(interface)) > 15 or not interface.isprintable() or await find_link(interface) is None:
        raise _no_such_interface(interface)
    return DriverCounters(counters=statistics_of(interface))
