"""What systemd and its like want to know: sd_notify(3)."""

import logging
import os
import socket

_log = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Tell the service manager, if there is one, such as ``READY=1``. One that is gone is not waited for."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as notifier:
        try:
            # A leading @ means the abstract namespace.
            notifier.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError as error:
            _log.warning("the service manager at %s is not told %s: %s", address, state, error)
