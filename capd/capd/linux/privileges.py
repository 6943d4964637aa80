"""Giving up privileges for good, and checking that they are gone.

The daemon keeps only what its work needs, and every worker becomes the user who asked and keeps nothing; but what is
executed for a device of a capture module keeps capabilities, which it gives up itself. Calls that Python's os module
lacks go through libc: capget(2), capset(2), prctl(2).
"""

import contextlib
import ctypes
import enum
import os
from collections.abc import Collection, Generator, Sequence
from typing import NamedTuple

from capd.linux import libc


class Capability(enum.IntEnum):
    """The capabilities that capd ever uses (linux/capability.h)."""

    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    NET_ADMIN = 12
    NET_RAW = 13


class PrivilegeError(Exception):
    """A privilege could not be given up. Nothing may go on after this: end the process."""


_LAST_CAPABILITY = 63
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_GET_NO_NEW_PRIVS = 39
_PR_GET_DUMPABLE = 3
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


class CapabilitySets(NamedTuple):
    """The process's three sets, as bit masks."""

    effective: int
    permitted: int
    inheritable: int


def _call(name: str, *arguments: object) -> int:
    return libc.call(name, *arguments, what=name)


def _prctl(option: int, second: int = 0) -> int:
    return _call("prctl", option, ctypes.c_ulong(second), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))


def name_process(name: str) -> None:
    """Give this process a name of up to 15 bytes, for ``ps`` and the like."""
    libc.call("prctl", _PR_SET_NAME, ctypes.c_char_p(name.encode()))


def adopt_orphans() -> None:
    """Become the parent of those descendants whose parent has ended, which else were the system's first process's."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


@contextlib.contextmanager
def _or_privilege_error(what: str) -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        raise PrivilegeError(f"cannot {what}: {error}") from error


def read_capabilities() -> CapabilitySets:
    """Return this process's capability sets."""
    data = (_Data * 2)()
    _call("capget", ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), data)
    low, high = data
    return CapabilitySets(
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def _write_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    data = (_Data * 2)()
    for half, shift in ((data[0], 0), (data[1], 32)):
        half.effective = effective >> shift & 0xFFFFFFFF
        half.permitted = permitted >> shift & 0xFFFFFFFF
        half.inheritable = inheritable >> shift & 0xFFFFFFFF
    _call("capset", ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), data)


def mask(capabilities: Collection[int]) -> int:
    """Return the set as a bit mask."""
    return sum(1 << capability for capability in set(capabilities))


def has_capability(capability: Capability) -> bool:
    """Whether the capability is in effect in this process."""
    return bool(read_capabilities().effective >> capability & 1)


def _drop_bounding(keep: int) -> None:
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            present = _prctl(_PR_CAPBSET_READ, capability)
        except OSError:
            break  # EINVAL: this kernel knows no higher one
        if present and not keep >> capability & 1:
            _prctl(_PR_CAPBSET_DROP, capability)


def restrict_daemon(keep: Collection[Capability]) -> None:
    """Keep these capabilities, as far as they are there, and no other, in this process and what it starts.

    Raises:
        PrivilegeError: something could not be given up.
    """
    wanted = mask(keep)
    with _or_privilege_error("give up capabilities"):
        if has_capability(Capability.SETPCAP):
            # For root: a program that it executes gets all that the bounding set still has.
            _drop_bounding(wanted)
        before = read_capabilities()
        kept = before.permitted & wanted
        _write_capabilities(kept, kept, before.inheritable & wanted)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if read_capabilities().permitted & ~wanted:
        raise PrivilegeError("capabilities that were given up are still there")


def renounce() -> None:
    """Give up every capability, for good; the user stays who it is, and can neither trace nor look into the process.

    Raises:
        PrivilegeError: something could not be given up.
    """
    with _or_privilege_error("give up capabilities"):
        _prctl_ambient_clear()
        _write_capabilities(0, 0, 0)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _prctl(_PR_SET_DUMPABLE, 0)
    if read_capabilities() != (0, 0, 0):
        raise PrivilegeError("capabilities that were given up are still there")


def become(user_id: int, group_id: int, groups: Sequence[int]) -> None:
    """Become this user for good: its ids, no capability, no way to gain one, closed to its debugger.

    After this, whatever the process opens or creates is checked by the kernel as that user's own doing, and
    that user can neither trace the process nor reach its descriptors, which hold what the user may not have.

    Raises:
        PrivilegeError: a step failed, or its effect is not there. The process must end.
    """
    with _or_privilege_error(f"become user {user_id}"):
        # 1. Groups and ids.
        _set_ids(user_id, group_id, groups)
        # 2. Ids other than root's do not take capabilities along by themselves, but they keep those that
        #    root did not give: all are dropped by name. The ambient set goes with the permitted one.
        if has_capability(Capability.SETPCAP):
            _drop_bounding(0)
        _prctl_ambient_clear()
        _write_capabilities(0, 0, 0)
        # 3. No program that is executed gives anything back, and none is meant to be executed.
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        # 4. No ptrace, no /proc/PID/mem, no pidfd_getfd, no core file with other people's packets.
        _prctl(_PR_SET_DUMPABLE, 0)
    _verify(user_id, group_id, groups)


def become_to_execute(user_id: int, group_id: int, groups: Sequence[int], keep: Collection[Capability]) -> None:
    """Become this user for good, but for some capabilities, which what is executed next has as well.

    Raises:
        PrivilegeError: a step failed, or its effect is not there. The process must end.
    """
    with _or_privilege_error(f"become user {user_id}"):
        kept = read_capabilities().permitted & mask(keep)
        _prctl(_PR_SET_KEEPCAPS, 1)  # from root, else, no capability would be left
        _set_ids(user_id, group_id, groups)
        _prctl_ambient_clear()
        _write_capabilities(kept, kept, kept)
        for capability in keep:
            if kept >> capability & 1:
                _call("prctl", _PR_CAP_AMBIENT, *map(ctypes.c_ulong, (_PR_CAP_AMBIENT_RAISE, capability, 0, 0)))
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _verify(user_id, group_id, groups, kept=kept, is_executing=True)


def _set_ids(user_id: int, group_id: int, groups: Sequence[int]) -> None:
    # Groups first: after the user id has changed, there is no right to. In a user namespace of an ordinary user
    # setgroups(2) is forbidden, and there is nothing to change.
    if sorted(os.getgroups()) != sorted(groups):
        os.setgroups(groups)
    # Real, effective and saved ids together, so that there is no way back.
    os.setresgid(group_id, group_id, group_id)
    os.setresuid(user_id, user_id, user_id)


def _prctl_ambient_clear() -> None:
    _call("prctl", _PR_CAP_AMBIENT, *map(ctypes.c_ulong, (_PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)))


def _verify(user_id: int, group_id: int, groups: Sequence[int], *, kept: int = 0, is_executing: bool = False) -> None:
    facts = {
        "user ids": os.getresuid() == (user_id, user_id, user_id),
        "group ids": os.getresgid() == (group_id, group_id, group_id),
        "groups": sorted(os.getgroups()) == sorted(groups),
        "capabilities": read_capabilities() == (kept, kept, kept),
        "no_new_privs": _prctl(_PR_GET_NO_NEW_PRIVS) == 1,
        # What is executed is dumpable in any case; whoever has fewer capabilities cannot look into it.
        "dumpable": is_executing or _prctl(_PR_GET_DUMPABLE) == 0,
    }
    wrong = [name for name, right in facts.items() if not right]
    if wrong:
        raise PrivilegeError(f"became user {user_id}, but these are not as they must be: {', '.join(wrong)}")
