"""A capture module's process that the daemon has started, and the daemon: how it is called, and what it sends.

It runs ``python -m capd_client.modules`` with ``CAPTURE_GRANTED``, a ``messages.InterfaceRequest`` as JSON, and the
descriptors of a socket (SOCK_SEQPACKET) to the daemon and of a pipe. On the socket it sends ``DEVICE_READY``; and where
it fails, before or after that, a ``messages.Failure`` as JSON. The pipe gets the packets, as pcapng.
"""

#: The first argument.
CAPTURE_GRANTED = "capture-granted"
#: The device is active, and the process has no capability any more.
DEVICE_READY = b"r"
