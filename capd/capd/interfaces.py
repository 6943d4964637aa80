"""Network interfaces as the kernel describes them: rtnetlink on a trio socket, parsed by pyroute2."""

# pyroute2 has no annotations: what comes from it is checked where it is turned into our own types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUnknownParameterType=false, reportMissingTypeStubs=false

import errno
import socket
from dataclasses import dataclass
from typing import Any, cast

import trio
from pyroute2.ethtool.ioctl import EthtoolError, IoctlEthtool
from pyroute2.netlink import NLM_F_REQUEST, NLMSG_ERROR
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_GETLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

_IFF_UP = 1
_IFF_LOOPBACK = 8
#: Larger than the kernel's largest message about one link.
_RECEIVE_BYTES = 65536
_SPEED_UNKNOWN_MBITS = 0xFFFFFFFF
_DEADLINE_S = 5.0


@dataclass(frozen=True)
class Link:
    """What a capture needs to know of an interface."""

    name: str
    index: int
    is_up: bool
    is_loopback: bool
    mac_address: bytes | None
    alias: str
    speed_bits_per_s: int | None


async def find_link(name: str) -> Link | None:
    """Return the interface of this name, or None where there is none.

    Raises:
        OSError: the kernel does not answer as it should.
    """
    request: Any = ifinfmsg()
    request["header"]["type"] = RTM_GETLINK
    request["header"]["flags"] = NLM_F_REQUEST
    request["header"]["sequence_number"] = 1
    request["attrs"] = [("IFLA_IFNAME", name)]
    request.encode()
    with trio.socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        await netlink.bind((0, 0))
        with trio.move_on_after(_DEADLINE_S):
            await netlink.send(bytes(request.data))
            return _link_of(name, await netlink.recv(_RECEIVE_BYTES))
    raise OSError(errno.ETIMEDOUT, f"the kernel did not describe the interface {name}")


def _link_of(name: str, answer: bytes) -> Link | None:
    message: Any = cast(Any, next(iter(MarshalRtnl().parse(answer))))
    if message["header"]["type"] == NLMSG_ERROR:
        error = cast(NetlinkError, message["header"]["error"])
        if error.code == errno.ENODEV:
            return None
        raise OSError(error.code, f"the kernel does not describe the interface {name}")
    address = message.get_attr("IFLA_ADDRESS")
    flags = int(message["flags"])
    is_loopback = bool(flags & _IFF_LOOPBACK)
    return Link(
        name=name,
        index=int(message["index"]),
        is_up=bool(flags & _IFF_UP),
        is_loopback=is_loopback,
        mac_address=bytes.fromhex(address.replace(":", "")) if address and not is_loopback else None,
        alias=message.get_attr("IFLA_IFALIAS") or "",
        speed_bits_per_s=None if is_loopback else _speed_of(name),
    )


def _speed_of(name: str) -> int | None:
    ethtool: Any = IoctlEthtool(name)
    try:
        settings: Any = ethtool.get_cmd()
    except (EthtoolError, OSError):
        return None  # many drivers do not say
    finally:
        ethtool.close()
    speed_mbits = int(settings.speed) | int(settings.speed_hi) << 16
    return None if speed_mbits in (0, _SPEED_UNKNOWN_MBITS) else speed_mbits * 1_000_000
