"""A module's process that the daemon has started for a user, with capabilities that the user has not.

Arguments: the request, as JSON, and the descriptors of a socket (SOCK_SEQPACKET) to the daemon, and of a pipe for the
packets. The process has the user's ids. It keeps the capabilities that its module asks for until the device is active,
and none after that. It sends one ``READY`` then; and where it fails, a ``messages.Failure``, as JSON. It ends when
nobody reads the packets, or the daemon closes the socket.
"""

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Sequence

import msgspec

from capd_client.modules import privileges
from capd_client.modules.contract import Capture, ModuleFailed
from capd_client.modules.opening import created, end_by_sigterm, opened, typed
from capd_client.modules.pump import Pump, ReaderGone
from capd_client.modules.registry import module_of
from capd_protocol.devices import DEVICE_READY
from capd_protocol.messages import Failure, InterfaceRequest
from capd_protocol.text import escaped


def main(words: Sequence[str]) -> None:
    """Capture until somebody ends it."""
    asked, control_fd, pipe_fd = words
    control = socket.socket(fileno=int(control_fd))
    request = msgspec.json.decode(asked, type=InterfaceRequest)
    try:
        _capture(request, control, int(pipe_fd))
    except ModuleFailed as error:
        failure = Failure(code=error.code, text=escaped(str(error)), interface=request.name, argument="interfaces")
        with contextlib.suppress(OSError):
            control.send(msgspec.json.encode(failure))


def _capture(request: InterfaceRequest, control: socket.socket, pipe_fd: int) -> None:
    name = request.name
    with typed(name):
        module = module_of(name)
        privileges.keep_only(module.capabilities())
    with typed(name), created(module, name) as capture:
        _end_with(control, capture)
        device = opened(capture, request, when_active=lambda: privileges.keep_only(()))
        control.send(DEVICE_READY)
        with contextlib.suppress(ReaderGone):
            Pump(capture, pipe_fd, device.linktype, request.snaplen_bytes).run()


def _end_with(control: socket.socket, capture: Capture) -> None:
    """Have this process end, and its capture be closed, when the daemon closes the socket."""

    def wait() -> None:
        privileges.keep_only(())  # each thread has its own
        poll = select.poll()
        poll.register(control, select.POLLIN)
        poll.poll()
        os.kill(os.getpid(), signal.SIGTERM)

    end_by_sigterm(capture)
    threading.Thread(target=wait, daemon=True).start()
