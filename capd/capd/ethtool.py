"""What drivers say of their devices: ethtool(8)'s ioctls."""
# pyroute2 has no annotations: what comes from it is checked where it is turned into our own types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

import array
import contextlib
import fcntl
import socket
import struct
from typing import Any

from pyroute2.ethtool.ioctl import EthtoolError, IoctlEthtool

_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO = 3
#: struct ethtool_drvinfo (linux/ethtool.h).
_DRVINFO = struct.Struct("=I32s32s32s32s32s12s5I")
_SPEED_UNKNOWN_MBITS = 0xFFFFFFFF


class _Ethtool(IoctlEthtool):  # type: ignore[misc]
    """One interface. Through a Unix socket, which takes these ioctls too: a daemon may be kept from the Internet's."""

    def __init__(self, name: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.change_ifname(name)


def speed_of(name: str) -> int | None:
    """Return an interface's speed in bits per second; None where its driver does not say."""
    ethtool: Any = _Ethtool(name)
    try:
        settings: Any = ethtool.get_cmd()
    except (EthtoolError, OSError):
        return None
    finally:
        ethtool.close()
    speed_mbits = int(settings.speed) | int(settings.speed_hi) << 16
    return None if speed_mbits in (0, _SPEED_UNKNOWN_MBITS) else speed_mbits * 1_000_000


def driver_of(name: str) -> tuple[str | None, str | None]:
    """Return the name of an interface's driver, and where on its bus the device is; None where it does not say."""
    buffer = array.array("B", _DRVINFO.pack(_ETHTOOL_GDRVINFO, b"", b"", b"", b"", b"", b"", 0, 0, 0, 0, 0))
    address, _ = buffer.buffer_info()
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, struct.pack("@16sP", name.encode(), address))
        _, driver, _, _, bus, *_ = _DRVINFO.unpack(buffer)
        return _text(driver), _text(bus)
    return None, None


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
