"""Monitor mode and channels: nl80211, spoken by pyroute2 in a thread. Needs CAP_NET_ADMIN, and a radio.

Monitor mode is an interface of its own on the same radio, as libpcap makes one: the station stays associated, and
what was changed is gone when the capture ends.
"""

# pyroute2 has no annotations: what comes from it is checked where it is turned into our own types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUnknownParameterType=false, reportMissingTypeStubs=false

import contextlib
import errno
import gc
import struct
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

import trio
from pyroute2 import IW, IPRoute
from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nl80211 import NL80211_NAMES, nl80211cmd

from capd.errors import RequestRefused
from capd.linux.privileges import Capability, has_capability
from capd.network.links import find_link
from capd.pacing.threads import in_thread
from capd_protocol.messages import FailureCode, InterfaceRequest
from capd_protocol.messages.interfaces import Link

#: enum nl80211_channel_type (linux/nl80211.h), by the names that dumpcap's -k takes.
CHANNEL_TYPES = {"NOHT": 0, "HT20": 1, "HT40-": 2, "HT40+": 3}

_NOT_WIRELESS = (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP, errno.EINVAL)


def channel_message(interface_index: int, wifi_channel: str) -> Any:
    """Return the nl80211 message that tunes an interface's radio: ``FREQUENCY[,TYPE]``, in MHz."""
    frequency_mhz, _, channel_type = wifi_channel.partition(",")
    message = nl80211cmd()
    message["cmd"] = NL80211_NAMES["NL80211_CMD_SET_WIPHY"]
    message["attrs"] = [
        ["NL80211_ATTR_IFINDEX", interface_index],
        ["NL80211_ATTR_WIPHY_FREQ", int(frequency_mhz)],
        # pyroute2 does not know this attribute's type, and takes its bytes.
        ["NL80211_ATTR_WIPHY_CHANNEL_TYPE", struct.pack("=I", CHANNEL_TYPES[channel_type or "NOHT"])],
    ]
    return message


def _on_radio(link: Link, what: str, action: Callable[[Any], object]) -> None:
    """Do something through nl80211, in the calling thread.

    Raises:
        RequestRefused: the interface has no radio, or the radio refuses.
    """
    try:
        with IW() as nl80211:
            nl80211.get_interface_by_ifindex(link.index)
            action(nl80211)
            return
    except NetlinkError as error:
        code, words = error.code, str(error)
    # pyroute2 leaves the sockets of a failed constructor to the garbage collector, for whenever it comes.
    gc.collect()
    text = f"the radio of {link.name} refuses the {what}: {words}"
    if code in _NOT_WIRELESS:
        text = f"{link.name} is not a wireless interface: it has no {what}"
    raise RequestRefused(FailureCode.UNSUPPORTED, text, interface=link.name)


def _check_privilege(link: Link, what: str) -> None:
    if not has_capability(Capability.NET_ADMIN):
        text = f"this capd may not change the {what} of {link.name}: it runs without --monitor-mode"
        raise RequestRefused(FailureCode.NOT_PERMITTED, text, interface=link.name)


def _add_monitor(link: Link, name: str) -> None:
    _on_radio(link, "monitor mode", lambda nl80211: nl80211.add_interface(name, "monitor", dev=link.index))
    with IPRoute() as route:
        (index,) = route.link_lookup(ifname=name)
        route.link("set", index=index, state="up")


def _delete(name: str) -> None:
    with IPRoute() as route, contextlib.suppress(NetlinkError):  # it may be gone together with its radio
        for index in route.link_lookup(ifname=name):
            route.link("del", index=index)


@contextlib.asynccontextmanager
async def prepared(link: Link, request: InterfaceRequest) -> AsyncGenerator[Link, None]:
    """Bring the interface into the mode and onto the channel that are asked for; give what to capture on.

    Raises:
        RequestRefused: it is no wireless interface, or this daemon may not.
    """
    # Whether there is a radio at all is asked first: it is the more helpful answer, and needs no privilege.
    if request.monitor_mode:
        await in_thread(partial(_on_radio, link, "monitor mode", lambda _: None))
        _check_privilege(link, "monitor mode")
    if request.wifi_channel is not None:
        await in_thread(partial(_on_radio, link, "channel", lambda _: None))
        _check_privilege(link, "channel")
    if not request.monitor_mode:
        await _tune(link, request)
        yield link
        return
    name = f"capd{link.index}mon"
    await in_thread(partial(_add_monitor, link, name))
    try:
        monitor = await find_link(name)
        if monitor is None:
            text = f"the monitor interface of {link.name} went away"
            raise RequestRefused(FailureCode.NO_SUCH_INTERFACE, text, interface=link.name)
        await _tune(monitor, request)
        yield monitor
    finally:
        with trio.CancelScope(shield=True):
            try:
                await in_thread(partial(_delete, name))
            except OSError:  # no thread can be started: then all wait for the kernel
                _delete(name)


async def _tune(link: Link, request: InterfaceRequest) -> None:
    if request.wifi_channel is not None:
        message = channel_message(link.index, request.wifi_channel)

        def tune(nl80211: Any) -> None:
            nl80211.nlm_request(message, nl80211.prid, NLM_F_REQUEST | NLM_F_ACK)

        await in_thread(partial(_on_radio, link, "channel", tune))
