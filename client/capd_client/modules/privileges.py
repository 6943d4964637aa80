"""Capabilities that a module's process was given by the daemon, and gives up: first all but its module's, then those.

capget(2), capset(2) and prctl(2) through libc. The process has its user's ids from the beginning.
"""

import ctypes
from collections.abc import Collection

_NUMBERS = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}  # linux/capability.h
_VERSION_3 = 0x20080522
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 4, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def keep_only(capabilities: Collection[str]) -> None:
    """Keep these capabilities, as far as they are there, and give up all others for good.

    Nobody who has less than this process may look into it, also once it has given up all.

    Args:
        capabilities: CAP_NET_ADMIN, CAP_NET_RAW, or none.

    Raises:
        OSError: something could not be given up; nothing may go on after this.
        KeyError: capd gives no such capability.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object) -> None:
        if getattr(libc, name)(*arguments) < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{name} has failed")

    def set_process(option: int, value: int) -> None:
        call("prctl", option, *map(ctypes.c_ulong, (value, 0, 0, 0)))

    wanted = sum(1 << _NUMBERS[each] for each in set(capabilities))
    set_process(_PR_SET_DUMPABLE, 0)
    set_process(_PR_SET_NO_NEW_PRIVS, 1)
    set_process(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header, data = ctypes.byref(_Header(_VERSION_3, 0)), (_Data * 2)()
    call("capget", header, data)
    kept = data[0].permitted & wanted
    call("capset", header, (_Data * 2)(_Data(kept, kept, 0), _Data(0, 0, 0)))
    call("capget", header, data)
    if any(each.permitted & ~wanted for each in data[:1]) or data[1].permitted:
        raise OSError("capabilities that were given up are still there")
