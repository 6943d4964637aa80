"""Where files may be opened, by Landlock: in one directory and below it, and nowhere else.

It stops code in a worker that was taken over, which has the rights of its user: or of root, who may write almost
anywhere without any capability. It came with Linux 5.13, and each version of its interface denies something more. See
landlock(7).
"""

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Iterable

from capd.linux import libc

# Their numbers are the same everywhere (include/uapi/asm-generic/unistd.h).
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH = 1

# linux/landlock.h. What is done to files; all of it is denied but where a rule says otherwise.
_WRITE_FILE, _READ_FILE, _READ_DIRECTORY, _REMOVE_FILE, _MAKE_FILE, _TRUNCATE = (
    1 << bit for bit in (1, 2, 3, 5, 8, 14)
)
#: How many kinds of doing there are: by the version that they came with.
_KINDS = {1: 13, 2: 14, 3: 15, 5: 16}
#: Since version 4: to bind and to connect TCP sockets.
_NETWORK = 0b11
#: Since version 6: to connect to abstract Unix sockets of others, and to signal others.
_SCOPES = 0b11
_WRITING = _WRITE_FILE | _READ_FILE | _READ_DIRECTORY | _REMOVE_FILE | _MAKE_FILE | _TRUNCATE


def _call(number: int, *arguments: object) -> int:
    return libc.call("syscall", ctypes.c_long(number), *arguments, what="landlock")


def version() -> int:
    """Return the version of the kernel's interface; 0: there is none, or a sandbox around us keeps it away."""
    try:
        return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION))
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES):
            return 0
        raise


def restrict(directory_fd: int | None, readable: Iterable[str]) -> None:
    """Let this thread, and threads that it starts, open files in this directory and below it only, for good.

    Files there may be made, read, written, renamed and deleted, but no other things, such as links or sockets, and no
    directories. Nothing that is open already is affected. No TCP, no signals for others, no abstract Unix sockets of
    others, where the kernel knows how. It does nothing where there is no Landlock.

    Args:
        directory_fd: a descriptor of the directory, of any kind; of something else, or None, nothing may be opened.
        readable: paths of files that may be read, too, as far as they are there.

    Raises:
        OSError: the restriction is not in force.
    """
    known = version()
    if not known:
        return
    denied = (1 << max(kinds for since, kinds in _KINDS.items() if since <= known)) - 1
    attributes = struct.pack("=Q", denied)
    if known >= 4:
        attributes += struct.pack("=Q", _NETWORK)
    if known >= 6:
        attributes += struct.pack("=Q", _SCOPES)
    ruleset_fd = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    try:
        # One that is no directory has nothing in it; opening a file there reports that.
        if directory_fd is not None:
            with contextlib.suppress(OSError):
                _allow(ruleset_fd, directory_fd, _WRITING & denied)
        for path in readable:
            with contextlib.suppress(OSError):
                _allow_path(ruleset_fd, path)
        _call(_RESTRICT_SELF, ctypes.c_int(ruleset_fd), ctypes.c_uint32(0))
    finally:
        os.close(ruleset_fd)


def _allow_path(ruleset_fd: int, path: str) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _allow(ruleset_fd, descriptor, _READ_FILE)
    finally:
        os.close(descriptor)


def _allow(ruleset_fd: int, descriptor: int, access: int) -> None:
    rule = struct.pack("=Qi", access, descriptor)
    _call(_ADD_RULE, ctypes.c_int(ruleset_fd), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0))
