"""Packet sockets, for rings and for triggers: the one thing that takes CAP_NET_RAW."""

import ctypes
import os
import socket
import struct
from pathlib import Path

from capd.linux import libc

#: The level of packet sockets' options (linux/socket.h); Python has no name for it.
SOL_PACKET = 263
#: A protocol number that no frame carries: IANA keeps it reserved, and the kernel uses it for nothing. A packet socket
#: that is bound to it receives nothing more.
ETH_P_NONE = 0xFFFF
#: Every protocol.
ETH_P_ALL = 0x0003
#: The index that stands for every interface, as in packet(7).
ALL_INTERFACES = 0
#: struct sockaddr_ll: family, protocol, ifindex, hatype, pkttype, halen, addr.
_ADDRESS = struct.Struct("=HHiHBB8s")

_PACKET_ADD_MEMBERSHIP = 1
_PACKET_MR_PROMISC = 1
_SO_ATTACH_FILTER = 26
_OPTMEM_MAX = Path("/proc/sys/net/core/optmem_max")
_SO_LOCK_FILTER = 44


def open_packet_socket(*, cooked: bool) -> socket.socket:
    """Open an inert packet socket: with protocol 0 it receives nothing until it is bound.

    Args:
        cooked: packets come without their link-layer headers.

    Raises:
        PermissionError: CAP_NET_RAW is not there.
        OSError: it cannot be opened for another reason.
    """
    kind = socket.SOCK_DGRAM if cooked else socket.SOCK_RAW
    return socket.socket(socket.AF_PACKET, kind | socket.SOCK_CLOEXEC, 0)


def bind(descriptor: int, protocol: int, interface_index: int) -> None:
    """Receive a protocol, from one interface or from ALL_INTERFACES; when this returns, nothing else any more.

    By index: Python's own bind takes a name, which may belong to another interface by now.

    Raises:
        OSError: ENODEV, if there is no such interface any more.
    """
    address = _ADDRESS.pack(socket.AF_PACKET, socket.htons(protocol), interface_index, 0, 0, 0, b"")
    libc.call("bind", descriptor, address, len(address))


def set_promiscuous(packet_socket: socket.socket, interface_index: int) -> None:
    """Have an interface take in others' packets too, until the socket closes.

    Raises:
        OSError: ENODEV, if there is no such interface any more.
    """
    request = struct.pack("=iHH8s", interface_index, _PACKET_MR_PROMISC, 0, b"")
    packet_socket.setsockopt(SOL_PACKET, _PACKET_ADD_MEMBERSHIP, request)


def check_error(packet_socket: socket.socket) -> None:
    """Take a socket's pending error.

    Raises:
        OSError: there was one: ENETDOWN, where the interface is down.
    """
    error = packet_socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


def attach_filter(packet_socket: socket.socket, program: bytes) -> None:
    """Attach a classic BPF program: an array of struct sock_filter.

    Raises:
        OSError: EINVAL, where the kernel does not take the program (more than 4096 instructions, say). ENOMEM, where
            it needs more than ``filter_room_bytes``.
    """
    code = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    packet_socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def filter_room_bytes() -> int | None:
    """Return how much memory the kernel gives a socket of this network namespace for its filter.

    None where it is not known: before Linux 6.8, in all namespaces but the first.
    """
    try:
        return int(_OPTMEM_MAX.read_bytes())
    except OSError:
        return None


def lock_filter(packet_socket: socket.socket) -> None:
    """Let nobody change the filter any more, whoever gets hold of the socket."""
    packet_socket.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)
