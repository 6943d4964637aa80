"""Drivers' details and counters, through ethtool(8)'s ioctls.

The kernel asks drivers one after the other, under the lock that all changes of interfaces take, so it may take a while.
"""
# pyroute2 has no annotations: what comes from it is checked where it is turned into our own types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

import array
import fcntl
import socket
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

from pyroute2.ethtool.ioctl import EthtoolError, IoctlEthtool

_SIOCETHTOOL = 0x8946
_ETHTOOL_GSET = 1
_ETHTOOL_GDRVINFO = 3
#: struct ethtool_cmd (linux/ethtool.h), for which the kernel translates what drivers say by now.
_CMD = struct.Struct("=IIIHBBBBBBIIHBBI8x")
#: struct ethtool_drvinfo.
_DRVINFO = struct.Struct("=I32s32s32s32s32s12s5I")
_SPEED_UNKNOWN_MBITS = 0xFFFFFFFF


class Hardware(NamedTuple):
    """What a driver says of its device; None where it does not say."""

    driver: str | None = None
    #: Where on its bus it is.
    bus: str | None = None
    speed_bits_per_s: int | None = None


class _Ethtool(IoctlEthtool):  # type: ignore[misc]
    """One interface. Through a Unix socket, which takes these ioctls too: a daemon may be kept from the Internet's."""

    def __init__(self, name: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.change_ifname(name)


def hardware_of(names: Iterable[str]) -> dict[str, Hardware]:
    """Return what drivers say of interfaces, by name. It may take a while.

    Raises:
        OSError: there is no descriptor for it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
        return {name: _hardware_of(any_socket, name) for name in names}


def _hardware_of(any_socket: socket.socket, name: str) -> Hardware:
    driver = bus = speed = None
    if (answer := _asked(any_socket, name, _DRVINFO, _ETHTOOL_GDRVINFO)) is not None:
        driver, bus = _text(answer[1]), _text(answer[4])
    if (answer := _asked(any_socket, name, _CMD, _ETHTOOL_GSET)) is not None:
        speed_mbits = answer[3] | answer[12] << 16
        speed = None if speed_mbits in (0, _SPEED_UNKNOWN_MBITS) else speed_mbits * 1_000_000
    return Hardware(driver, bus, speed)


def _asked(any_socket: socket.socket, name: str, layout: struct.Struct, command: int) -> tuple[Any, ...] | None:
    buffer = array.array("B", struct.pack("=I", command) + bytes(layout.size - 4))
    address, _ = buffer.buffer_info()
    try:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, struct.pack("@16sP", name.encode(), address))
    except OSError:
        return None
    return layout.unpack(buffer)


def statistics_of(name: str) -> dict[str, int]:
    """Return the counters that the driver keeps itself, by its own names; empty where it has none."""
    ethtool: Any = _Ethtool(name)
    try:
        return {str(key): int(value) for key, value in ethtool.get_statistics()}
    except (EthtoolError, OSError):
        return {}
    finally:
        ethtool.close()


def _text(field: bytes) -> str | None:
    return field.partition(b"\0")[0].decode(errors="replace") or None
