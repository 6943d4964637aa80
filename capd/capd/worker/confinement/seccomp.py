"""Holds threads to their lists of system calls, and reports calls that are refused, if that is wanted."""

import ctypes
import faulthandler
import os
import platform
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any

from capd.linux import libc
from capd.worker.confinement.system_calls import ARCHITECTURES, Architecture, name_of

# linux/prctl.h, linux/seccomp.h. By prctl(2): services are often kept from seccomp(2), which can no more that we want.
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_INSTRUCTION_BYTES = 8


def architecture() -> Architecture | None:
    """Return what this process runs on; None: we have no lists for it."""
    return ARCHITECTURES.get(platform.machine()) if sys.maxsize > 2**32 else None


def install(program: bytes) -> None:
    """Hold this thread, and threads that it starts, to a program, for good; what was in force before stays so.

    Args:
        program: an array of struct sock_filter.

    Raises:
        OSError: it is not in force: the kernel has no seccomp, or no_new_privs is not set.
    """
    code = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HP", len(program) // _INSTRUCTION_BYTES, ctypes.addressof(code))
    libc.call("prctl", _PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), fprog, what="seccomp")


# Telling of refused calls -------------------------------------------------------------------------------------------

_SA_SIGINFO = 4


class _SignalInfo(ctypes.Structure):
    """siginfo_t, as far as a refused call fills it in (sigaction(2))."""

    _fields_ = (
        ("number", ctypes.c_int),
        ("error", ctypes.c_int),
        ("code", ctypes.c_int),
        ("address", ctypes.c_void_p),
        ("system_call", ctypes.c_int),
        ("architecture", ctypes.c_uint),
    )


_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.POINTER(_SignalInfo), ctypes.c_void_p)


class _SignalAction(ctypes.Structure):
    """struct sigaction, as the C library has it on the architectures that there are lists for."""

    _fields_ = (
        ("handler", _HANDLER),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


def _tell(_number: int, info: Any, _context: int) -> None:
    try:
        refused: _SignalInfo = info.contents
        name = name_of(refused.system_call, Architecture(refused.architecture))
        os.write(2, f"capd-worker {os.getpid()}: ended: it made the system call {name}, which it may not\n".encode())
        faulthandler.dump_traceback(2)
    finally:
        os._exit(1)


_tell_callback: Callable[..., None] = _HANDLER(_tell)


def end_at_refused_calls() -> None:
    """Have this process, and those that it forks, end with a word about it when a program raises SIGSYS.

    For developers: Python runs in a signal's handler, wherever the call was made; nothing goes on after it.

    Raises:
        OSError: it could not be done.
    """
    action = _SignalAction(handler=_tell_callback, flags=_SA_SIGINFO)
    libc.call("sigaction", signal.SIGSYS, ctypes.byref(action), None, what="sigaction")
