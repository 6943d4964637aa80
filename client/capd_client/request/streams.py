"""Streams to capture from, as pcap or pcapng: what they are called, and how this program opens them.

Nothing else opens them: whatever is captured from so, this user has the right to.
"""

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

from capd_client.errors import InterfaceError
from capd_protocol.arguments import MAX_STREAM_NAME_BYTES
from capd_protocol.messages import Failure, FailureCode
from capd_protocol.text import quoted

#: Wireshark's for a stream over TCP (dumpcap.c).
DEFAULT_PORT = 19_000
_TCP, _UNIX, _STANDARD_INPUT = "TCP@", "unix:", "-"
#: How long a server may take to answer. Chosen: as long as anything else that is waited for before a capture begins.
_CONNECT_S = 10.0
#: What an ordinary user may have (/proc/sys/fs/pipe-max-size): parsing little at a time takes several times as long.
_PIPE_BYTES = 1024 * 1024
#: Of a connection on which nothing comes: after so long it is asked whether the other side is there, so often.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


@runtime_checkable
class HasDescriptor(Protocol):
    """What is open for reading, such as a file or a socket."""

    def fileno(self) -> int:
        """Return its descriptor."""
        ...


class StreamToOpen(NamedTuple):
    """A stream that is not open yet.

    Attributes:
        name: what it is called in the capture.
        open: returns a descriptor of it, which is the caller's; raises OSError.
    """

    name: str
    open: Callable[[], int]


def stream_of(given: object) -> StreamToOpen | None:
    """Return the stream that is meant; None: it is none, but may be the name of an interface.

    ``-`` is standard input, ``TCP@HOST[:PORT]`` a server (with an IPv6 address in brackets), ``unix:PATH`` a server's
    Unix socket, and what has a slash a FIFO, a socket or a file; as in Wireshark and dumpcap. So is the bare name of a
    FIFO or socket, if no interface is called so. What is open for reading is a stream, too.
    """
    if isinstance(given, HasDescriptor):
        descriptor = given.fileno()
        name = getattr(given, "name", None)
        shown = name if isinstance(name, str) and name else f"descriptor {descriptor}"
        return StreamToOpen(_named(shown), partial(os.dup, descriptor))
    if not isinstance(given, str):
        return None
    if given == _STANDARD_INPUT:
        return StreamToOpen(given, _open_standard_input)
    if given[: len(_TCP)].upper() == _TCP:
        return StreamToOpen(_named(given), partial(_connect_tcp, given[len(_TCP) :]))
    if given.startswith(_UNIX):
        return StreamToOpen(_named(given), partial(_connect_unix, given[len(_UNIX) :]))
    if "/" in given or _is_bare_stream(given):
        return StreamToOpen(_named(given), partial(_open_path, given))
    return None


def open_stream(stream: StreamToOpen) -> int:
    """Open a stream and return its descriptor.

    Raises:
        InterfaceError: it cannot be opened.
    """
    try:
        descriptor = stream.open()
    except (OSError, ValueError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        text = f"the stream {quoted(stream.name)} cannot be opened: {reason}"
        code = FailureCode.NO_SUCH_INTERFACE
        failure = Failure(code=code, text=text, interface=stream.name, argument="interfaces")
        raise InterfaceError(text, failure) from error
    with contextlib.suppress(OSError):  # no pipe; or all that the user may have is taken
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return descriptor


def _named(text: str) -> str:
    """Return what is printable, and not longer than a name may be."""
    shown = quoted(text)
    while len(shown.encode("utf-8", "replace")) > MAX_STREAM_NAME_BYTES:
        shown = shown[:-1]
    return shown


def _is_bare_stream(name: str) -> bool:
    try:
        mode = os.stat(name).st_mode  # noqa: PTH116
    except (OSError, ValueError):
        return False
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return False
    try:
        socket.if_nametoindex(name)
    except OSError:
        return True
    return False


def _open_standard_input() -> int:
    if os.isatty(0):
        raise OSError(errno.EINVAL, "standard input is a terminal: send packets to it, as in 'tcpdump -w - | …'")
    return os.dup(0)


def _open_path(path: str) -> int:
    mode = os.stat(path).st_mode  # noqa: PTH116
    if stat.S_ISSOCK(mode):
        return _connect_unix(path)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    # A FIFO is open at once, whether somebody writes to it by now or not.
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _connect_unix(path: str) -> int:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_CONNECT_S)
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection.detach()


def _connect_tcp(address: str) -> int:
    host, port = _host_and_port(address)
    connection = socket.create_connection((host, port), _CONNECT_S)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connection.detach()


def _host_and_port(address: str) -> tuple[str, int]:
    if address.startswith("["):
        host, _, rest = address[1:].partition("]")
        colon, port = rest[:1], rest[1:]
    else:
        host, colon, port = address.partition(":")
        if ":" in port:
            raise ValueError("an IPv6 address stands in brackets, as in TCP@[::1]:19000")
    if not host or (colon and colon != ":") or (colon and not port):
        raise ValueError("it has to be TCP@HOST or TCP@HOST:PORT")
    if port and not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
        raise ValueError(f"{port!r:.20} is no port: one is a number from 1 to 65535")
    return host, int(port) if port else DEFAULT_PORT
