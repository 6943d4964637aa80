"""A container without a user namespace, as far as its clients are concerned: mounts of its own, and ids of the host."""

import ctypes
import os
from pathlib import Path

from tests.support.attack import User

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    arguments = [source.encode(), target.encode(), kind.encode() if kind else None, ctypes.c_ulong(flags), None]
    if _libc.mount(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")


def enter_container(root: Path, socket_path: str, user: User | None = None) -> None:
    """Leave everything behind but a socket, which is ``/capd.sock`` from now on; there is no /proc either.

    Args:
        root: an empty directory, which becomes the root of all.
        socket_path: the daemon's.
        user: whom to become in there; its directory is ``/home``.
    """
    if _libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("none", str(root), "tmpfs", 0)
    (root / "capd.sock").touch()
    _mount(socket_path, str(root / "capd.sock"), None, _MS_BIND)
    os.chroot(root)
    os.chdir("/")
    Path("/home").mkdir()
    if user is not None:
        os.chown("/home", user.user_id, user.group_id)
        os.setgroups(user.groups)
        os.setresgid(*[user.group_id] * 3)
        os.setresuid(*[user.user_id] * 3)
