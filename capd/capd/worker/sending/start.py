"""The beginning of a process that sends: it becomes the user, is confined, and only then looks at anything."""

import contextlib
import ctypes
import socket

import msgspec

from capd.launch import SendLaunch
from capd.linux import libc, privileges
from capd.linux.descriptors import receive
from capd.worker.confinement.confine import Confinement
from capd.worker.confinement.lists import CHANNEL, CONTROL, PACKETS, Role
from capd.worker.sending.sender import Over, Sender

_LONGEST_LAUNCH_BYTES = 512 * 1024
#: linux/prctl.h. Sleeps end so much later, in ns, to be woken together with others: 50,000 where nothing is said.
_PR_SET_TIMERSLACK, _SLACK_NS = 29, 1


def run(control: socket.socket, confinement: Confinement) -> None:
    """Send for one client until it has gone, or the daemon has it end."""
    data, descriptors = receive(control, _LONGEST_LAUNCH_BYTES, 2)
    if not data:
        return
    launch = msgspec.json.decode(data, type=SendLaunch)
    packets_fd, channel_fd = descriptors
    with socket.socket(fileno=packets_fd) as packets, socket.socket(fileno=channel_fd) as channel:
        libc.call("prctl", _PR_SET_TIMERSLACK, ctypes.c_ulong(_SLACK_NS))
        sender = Sender(launch, packets, channel, control)
        privileges.become(launch.user_id, launch.group_id, launch.groups)
        confinement.confine_all_files()
        known = {CONTROL: control.fileno(), CHANNEL: channel_fd, PACKETS: packets_fd}
        confinement.confine_calls(Role.SENDING, known)
        with contextlib.suppress(Over):
            sender.run()
