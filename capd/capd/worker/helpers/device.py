"""Becomes the process of a capture module: with its user's ids, and capabilities for as long as the module needs them.

The module's code is executed, and not loaded here: it is the client's, or a package's of the daemon's environment.
"""

import os
import socket

import msgspec

from capd.launch import DeviceLaunch
from capd.linux import privileges
from capd.linux.descriptors import receive
from capd.linux.privileges import Capability
from capd.worker.confinement.confine import Confinement

_LONGEST_LAUNCH_BYTES = 512 * 1024


def run(control: socket.socket, _confinement: Confinement) -> None:
    """Execute what the daemon says on a socket (SOCK_SEQPACKET)."""
    data, descriptors = receive(control, _LONGEST_LAUNCH_BYTES, 1)
    if not data:
        return
    launch = msgspec.json.decode(data, type=DeviceLaunch)
    (pipe_fd,) = descriptors
    kept = (Capability.NET_ADMIN, Capability.NET_RAW)
    privileges.become_to_execute(launch.user_id, launch.group_id, launch.groups, kept)
    # What a module or a library prints says nothing that the daemon's log should have.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for descriptor in (control.fileno(), pipe_fd):
        os.set_inheritable(descriptor, True)
    command = [*launch.command, str(control.fileno()), str(pipe_fd)]
    os.execv(command[0], command)
