"""Network namespaces for tests: nothing in them reaches the machine's own interfaces.

Needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN) and the ``ip`` program.
"""

import ctypes
import json
import os
import socket
import subprocess
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

_CLONE_NEWNET: Final = 0x40000000
_CLONE_NEWNS: Final = 0x00020000
_MS_BIND: Final = 0x1000
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 0x40000
_COMMAND_SECONDS: Final = 10.0
_UP_SECONDS: Final = 5.0

_libc: Final = ctypes.CDLL(None, use_errno=True)


def enter_private_network_namespace() -> None:
    """Move the calling thread into a new network namespace, for good.

    The namespace holds one interface, ``lo``, which is down. Threads and processes that the calling
    thread starts later are in it too; threads that run already are not. The kernel removes the
    namespace and its interfaces with the last thread or socket in it.

    ``/sys/class/net`` keeps showing the old namespace; ``ip`` and ``/proc/sys/net`` show the new.

    Raises:
        PermissionError: the process may not make network namespaces.
        OSError: the kernel could not make one.
    """
    if _libc.unshare(_CLONE_NEWNET) == 0:
        return
    error = ctypes.get_errno()
    if error in {1, 13}:
        raise PermissionError(error, "a private network namespace needs root (CAP_SYS_ADMIN): run these tests as root")
    raise OSError(error, f"no private network namespace: {os.strerror(error)}")


@contextmanager
def room_for_filters(size_bytes: int) -> Generator[None, None, None]:
    """Have the sysctl net.core.optmem_max be so much in the network namespace of the tests while the block lasts.

    Raises:
        FileNotFoundError: it is not the namespace's own here (before Linux 6.8).
    """
    sysctl = Path("/proc/sys/net/core/optmem_max")
    before = sysctl.read_text()
    sysctl.write_text(str(size_bytes))
    try:
        yield
    finally:
        sysctl.write_text(before)


def enter_private_mount_namespace() -> None:
    """Move the calling thread into a new mount namespace, for good: what is mounted from now on is seen only there.

    Threads and processes that the calling thread starts later are in it too.

    Raises:
        OSError: the kernel could not make one.
    """
    if _libc.unshare(_CLONE_NEWNS) != 0 or _libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"no private mount namespace: {os.strerror(error)}")


def bind_file(source: Path, target: Path) -> None:
    """Have one file seen in the place of another.

    Raises:
        OSError: the kernel refuses.
    """
    if _libc.mount(bytes(source), bytes(target), None, _MS_BIND, None) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"cannot bind {source} to {target}: {os.strerror(error)}")


@contextmanager
def private_network_namespace() -> Generator[None, None, None]:
    """Keep the calling thread in a new network namespace while the context lasts.

    The same as `enter_private_network_namespace`, but the thread comes back. It must be left in
    the thread that entered it.

    Raises:
        PermissionError: the process may not make network namespaces.
        OSError: the kernel could not make one, or the thread could not come back.
    """
    with _coming_back():
        enter_private_network_namespace()
        yield


@contextmanager
def network_namespace_of(process_id: int) -> Generator[None, None, None]:
    """Keep the calling thread in the network namespace of a process while the context lasts.

    Raises:
        OSError: there is no such process, or the thread could not come back.
    """
    with network_namespace_at(f"/proc/{process_id}/ns/net"):
        yield


@contextmanager
def network_namespace_at(path: str) -> Generator[None, None, None]:
    """Keep the calling thread in the network namespace of a file while the context lasts.

    Raises:
        OSError: there is no such file, or the thread could not come back.
    """
    with _coming_back():
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(descriptor)
        finally:
            os.close(descriptor)
        yield


@contextmanager
def _coming_back() -> Generator[None, None, None]:
    old = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            yield
        finally:
            _enter(old)
    finally:
        os.close(old)


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"cannot enter the network namespace: {os.strerror(error)}")


@contextmanager
def veth_pair(a: str, b: str, mtu: int = 1500) -> Generator[None, None, None]:
    """Have two connected Ethernet interfaces, ``a`` and ``b``, while the context lasts.

    Both are up, have no address, and send nothing of their own accord: their counters start at
    zero and count only what a test sends. Every frame sent on one is received on the other.

    Use only in a private namespace.

    Args:
        a: Name of one interface, at most 15 bytes.
        b: Name of the other.
        mtu: Most bytes in a frame behind its 14-byte Ethernet header, of both.

    Raises:
        RuntimeError: ``ip`` failed; the message holds its output.
        TimeoutError: the interfaces were not up within 5 seconds.
    """
    # Without "name" in front, a name may be read as a keyword: "a" is short for "address".
    _ip_batch(
        f"link add name {a} mtu {mtu} type veth peer name {b} mtu {mtu}",
        *(f"link set dev {name} addrgenmode none" for name in (a, b)),
    )
    try:
        for name in (a, b):
            _silence_ipv6(name)
        shown = [f"link show dev {name}" for name in (a, b)]
        states = _ip_batch(*(f"link set dev {name} up" for name in (a, b)), *shown)
        deadline = time.monotonic() + _UP_SECONDS
        while any(link["operstate"] != "UP" for link in states):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{a} and {b} were not up within {_UP_SECONDS:g} seconds")
            time.sleep(0.01)
            states = _ip_batch(*shown)
        yield
    finally:
        # A test may have removed the pair itself, with either end.
        if any(name == a for _, name in socket.if_nameindex()):
            _ip("link", "delete", "dev", a)


def link_counters(name: str) -> dict[str, dict[str, int]]:
    """Return an interface's counters since it was made.

    Returns:
        ``"rx"`` and ``"tx"``, each with at least ``"packets"``, ``"bytes"``, ``"errors"`` and
        ``"dropped"``. ``ip -s -s`` adds more where there are any, such as ``"otherhost"``: frames
        to an address that is not the interface's, which it receives (they are in ``"packets"``)
        and does not pass on to the network stack.

    Raises:
        RuntimeError: there is no such interface here.
    """
    counters: dict[str, dict[str, int]] = _links("dev", name)[0]["stats64"]
    return counters


def _silence_ipv6(name: str) -> None:
    # Without an address IPv6 still asks for routers and joins groups.
    switch = Path("/proc/sys/net/ipv6/conf", name, "disable_ipv6")
    if switch.exists():
        switch.write_text("1")


def _links(*which: str) -> list[dict[str, Any]]:
    links: list[dict[str, Any]] = json.loads(_ip("-s", "-s", "-j", "link", "show", *which))
    return links


def _ip_batch(*commands: str) -> list[dict[str, Any]]:
    """Have one process carry out many commands; return the links that they show, one each."""
    return [json.loads(line)[0] for line in _ip("-j", "-batch", "-", lines=commands).splitlines()]


def _ip(*arguments: str, lines: Iterable[str] = ()) -> str:
    done = subprocess.run(
        ["ip", *arguments],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
