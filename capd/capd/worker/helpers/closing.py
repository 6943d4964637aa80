"""Closes descriptors that the daemon passes: a process without any privilege, which may be killed at any time."""

import contextlib
import os
import socket

from capd.launch import CLOSE
from capd.linux import privileges
from capd.linux.descriptors import DescriptorsDropped, receive
from capd.worker.confinement.confine import Confinement

#: SCM_MAX_FD (net/scm.h).
_MAX_DESCRIPTORS = 253


def run(channel: socket.socket, _confinement: Confinement) -> None:
    """Close what comes on a socket (SOCK_SEQPACKET), when ordered to, until the daemon closes that.

    Not sooner: the daemon closes its own descriptors meanwhile, which must not be the last ones.
    """
    privileges.renounce()
    # A daemon that ends does not read the last answers.
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        _close_all(channel)


def _close_all(channel: socket.socket) -> None:
    held: list[int] = []
    while True:
        try:
            order, descriptors = receive(channel, 1, _MAX_DESCRIPTORS)
        except DescriptorsDropped as error:  # closed, as they were to be
            order, descriptors = error.data, []
        held += descriptors
        if not order:
            return
        if order == CLOSE:
            while held:
                with contextlib.suppress(OSError):  # it is closed all the same (close(2))
                    os.close(held.pop())
            channel.send(order)
