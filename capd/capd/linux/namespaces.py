"""Network namespaces: a process enters another one, with the rights that it has over it (namespaces(7))."""

from capd.linux import libc

#: linux/sched.h.
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def enter(network_fd: int, owner_fd: int | None = None) -> None:
    """Have this process, which has one thread yet, in another network namespace; its files stay where they are.

    Args:
        network_fd: of the namespace, which belongs to a user namespace, and takes CAP_SYS_ADMIN there.
        owner_fd: of that user namespace. Who has made it has every right there, but only from within
            (user_namespaces(7)).

    Raises:
        OSError: it may not, or there is no such namespace any more.
    """
    try:
        libc.call("setns", network_fd, _CLONE_NEWNET)
    except PermissionError:
        if owner_fd is None:
            raise
        libc.call("setns", owner_fd, _CLONE_NEWUSER)
        libc.call("setns", network_fd, _CLONE_NEWNET)
