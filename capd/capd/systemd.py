"""What systemd and its like want to know: sd_notify(3)."""

import os
import socket


def notify(state: str) -> None:
    """Tell the service manager, if there is one, such as ``READY=1``.

    Raises:
        OSError: it named a socket that does not work.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
        # A leading @ means the abstract namespace.
        notifier.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
