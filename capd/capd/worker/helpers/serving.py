"""Passes the files of a capture to those who are attached to it: a process of the capture's own user.

It is apart from the worker: readers' requests cost the capture nothing, and the process that passes files has no packet
socket that could be passed.
"""

import os
import select
import socket
import time

import msgspec

from capd.launch import NO_FILE, ServeLaunch
from capd.linux import privileges
from capd.linux.descriptors import DescriptorsDropped, receive
from capd.worker.confinement.confine import Confinement
from capd.worker.directory import take_kept
from capd.worker.helpers.readers import Readers

_LONGEST_LAUNCH_BYTES = 512 * 1024


def run(control: socket.socket, confinement: Confinement) -> None:
    """Serve readers until the daemon closes its side of a socket (SOCK_SEQPACKET)."""
    data, descriptors = receive(control, _LONGEST_LAUNCH_BYTES, 1)
    if not data:
        return
    launch = msgspec.json.decode(data, type=ServeLaunch)
    privileges.become(launch.user_id, launch.group_id, launch.groups)
    time.tzset()
    with socket.socket(fileno=descriptors[0]) as envelope:
        directory_fd = take_kept(envelope)
    confinement.confine_files(directory_fd)
    _serve(control, directory_fd, launch.file_name)


def _serve(control: socket.socket, directory_fd: int, file_name: str) -> None:
    epoll = select.epoll()
    epoll.register(control, select.EPOLLIN)
    readers = Readers(epoll, directory_fd, file_name)
    while True:
        for descriptor, _ in epoll.poll(readers.wait_s()):
            if descriptor != control.fileno():
                readers.on_event(descriptor)
            elif not _add_reader(control, readers):
                return
        readers.go_on()


def _add_reader(control: socket.socket, readers: Readers) -> bool:
    """Take on the next reader; return whether the daemon is still there."""
    try:
        name, descriptors = receive(control, 255, 1)
        if not name:
            return False
        is_served = readers.add(socket.socket(fileno=descriptors[0]), "" if name == NO_FILE else os.fsdecode(name))
        control.send(b"y" if is_served else b"n")
    except DescriptorsDropped:
        control.send(b"n")
    except (ConnectionResetError, BrokenPipeError):  # it has gone without hearing an answer
        return False
    return True
