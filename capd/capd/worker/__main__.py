"""The spawner: imports all that workers need and forks them, so that a capture begins within milliseconds.

Run by the daemon with the number of the descriptor of a socket (SOCK_SEQPACKET), and with ``strict``, where workers
shall end at a system call that is refused. One byte on the socket says that it is ready. Then the control sockets of
new processes come, one with each message, which names its purpose; further messages go over these. Nothing that clients
or the network supplied ever comes here, so a worker inherits nothing of other users' captures.

A worker becomes the daemon's own child, which alone learns how it ended: the process in between, its parent, ends at
once, and the daemon takes over such orphans (PR_SET_CHILD_SUBREAPER).
"""

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

# Read by numpy's OpenBLAS at import: its threads would be of no use, and could not be forked.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from capd.launch import HELLO, Job
from capd.linux.descriptors import DescriptorsDropped, receive
from capd.linux.privileges import name_process
from capd.printable import escape_uncaught, print_traceback
from capd.worker import start
from capd.worker.confinement.confine import Confinement
from capd.worker.helpers import closing, device, serving
from capd.worker.sending import start as sending

#: Standard input, which is /dev/null.
_INPUT = 0

_Run = Callable[[socket.socket, Confinement], None]
#: What is forked for each job: its name, and what it does.
_JOBS: dict[Job, tuple[str, _Run]] = {
    Job.CAPTURE: ("capd-spare", start.run),  # until it gets its capture
    Job.CLOSING: ("capd-closer", closing.run),
    Job.SERVING: ("capd-server", serving.run),
    Job.SENDING: ("capd-sender", sending.run),
    Job.DEVICE: ("capd-device", device.run),  # until it executes what is called otherwise
}


def main() -> None:
    """Fork workers until the daemon closes its side."""
    name_process("capd-spawner")
    escape_uncaught()
    # A service manager that signals every process of a service would end captures in the middle of a packet:
    # a worker ends well when the daemon says so, or is gone.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    requests = socket.socket(fileno=int(sys.argv[1]))
    confinement = start.prepare(is_strict=sys.argv[2:] == ["strict"])
    gc.collect()
    gc.freeze()  # collecting would write to the pages that workers share
    try:
        requests.send(b"r")
    except (BrokenPipeError, ConnectionResetError):  # a daemon that had nothing to capture has ended already
        return
    while (request := _receive(requests)) is not None:
        job, control = request
        with control:
            _fork(requests, job, control, confinement)


def _receive(requests: socket.socket) -> tuple[bytes, socket.socket] | None:
    """Return the next job, and its control socket; None when the daemon has closed its side."""
    while True:
        try:
            job, descriptors = receive(requests, 1, 1, socket.MSG_PEEK)
        except DescriptorsDropped as error:
            _refuse(requests, error)
            continue
        requests.recv(1)  # what was looked at
        return (job, socket.socket(fileno=descriptors[0])) if job else None


def _refuse(requests: socket.socket, error: DescriptorsDropped) -> None:
    """Answer a request for which no descriptor is left: that of our input, which nobody reads, is lent to it.

    It is the lowest there is, and so within every limit.
    """
    os.close(_INPUT)
    try:
        _, descriptors = receive(requests, 1, 1)
        with socket.socket(fileno=descriptors[0]) as control:
            _greet(control, -(error.errno or 1))
    finally:
        os.open(os.devnull, os.O_RDONLY)


def _fork(requests: socket.socket, job: bytes, control: socket.socket, confinement: Confinement) -> None:
    """Fork a process for a job, a child of the daemon; where that fails, say why."""
    try:
        between = os.fork()
    except OSError as error:
        _greet(control, -(error.errno or 1))
        return
    if between == 0:
        _fork_again(requests, job, control, confinement)
    os.waitpid(between, 0)


def _fork_again(requests: socket.socket, job: bytes, control: socket.socket, confinement: Confinement) -> NoReturn:
    name, run = _JOBS[Job(job)]
    name_process(name)  # here, since the process is the daemon's before it has done anything
    try:
        worker = os.fork()
    except OSError as error:
        _greet(control, -(error.errno or 1))
        os._exit(1)
    if worker:
        os._exit(0)
    requests.close()
    _work(run, control, confinement)


def _greet(control: socket.socket, number: int) -> bool:
    """Say who one is, or why there is nobody (``HELLO``); return whether the daemon still wants to know."""
    try:
        control.send(HELLO.pack(number))
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def _work(run: _Run, control: socket.socket, confinement: Confinement) -> NoReturn:
    status = 1
    try:
        # Out of the spawner's group before the daemon knows of it: it waits for the rest of the group.
        os.setsid()
        if _greet(control, os.getpid()):
            run(control, confinement)
        status = 0
    except BaseException as error:  # nothing is above: this is a process's end
        print_traceback(error)
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
    os._exit(0)  # nothing is left to do, and the interpreter would take 13 ms to clear away what it has imported
