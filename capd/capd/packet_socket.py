"""The packet socket that a ring needs: the one thing that takes CAP_NET_RAW."""

import socket


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
