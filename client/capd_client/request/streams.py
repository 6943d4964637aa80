"""Streams to capture from, as pcap or pcapng: what they are called, and how this program opens them.

Nothing else opens them: whatever is captured from so, this user has the right to.
"""

import contextlib
import errno
import fcntl
import os
import re
import socket
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

from capd_client.errors import CaptureError, InterfaceError
from capd_client.modules.registry import entry_of
from capd_client.sources.opened import EXTCAP, OpenedStream
from capd_protocol.arguments import MAX_STREAM_NAME_BYTES
from capd_protocol.messages import Failure, FailureCode, InterfaceRequest
from capd_protocol.targets import Pattern, target_of
from capd_protocol.text import numbered, quoted

#: Wireshark's for a stream over TCP (dumpcap.c).
DEFAULT_PORT = 19_000
_STANDARD_INPUT = "-"
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
        open: opens it for the caller, to whom all is that is returned; raises OSError, ValueError or CaptureError.
        comes_again: when it has ended it can be opened again, as a FIFO and a server can.
        is_own: each of that name is another one, so there may be several.
        takes_options: ``open`` takes options of the capture, as in ``CaptureInterface``.
        for_daemon: returns what a daemon is asked for, which may open it where this program may not; takes the same
            options; None: none may.
    """

    name: str
    open: Callable[..., OpenedStream]
    comes_again: bool = False
    is_own: bool = False
    takes_options: bool = False
    for_daemon: Callable[..., InterfaceRequest] | None = None

    def beside(self, names: Collection[str]) -> "StreamToOpen":
        """Return the same stream with a number behind its name, if there are others of this name that are not it."""
        return self._replace(name=numbered(self.name, names)) if self.is_own else self

    def with_options(self, options: Mapping[str, Any]) -> "StreamToOpen":
        """Return it with options of the capture, for those that take them."""
        if not self.takes_options:
            return self
        for_daemon = None if self.for_daemon is None else partial(self.for_daemon, options)
        return self._replace(open=partial(self.open, options), for_daemon=for_daemon)


def stream_of(given: object) -> StreamToOpen | None:
    """Return the stream that is meant; None: it is none, but may be the name of an interface.

    ``-`` is standard input, ``TCP@HOST[:PORT]`` a server (with an IPv6 address in brackets), ``unix:PATH`` a server's
    Unix socket, and what has a slash a FIFO, a socket or a file; as in Wireshark and dumpcap. So is the bare name of a
    FIFO or socket, if no interface is called so. ``extcap:NAME[,OPTION=VALUE]…`` is an interface of an extcap program,
    ``replay[@FACTOR]:FILE`` a file with a pace, and ``nflog:GROUP``, ``dbus-session`` and others are devices of capture
    modules. What is open for reading is a stream, too.
    """
    if isinstance(given, HasDescriptor):
        descriptor = given.fileno()
        name = getattr(given, "name", None)
        shown = name if isinstance(name, str) and name else f"descriptor {descriptor}"
        return StreamToOpen(_named(shown), partial(_open_again, descriptor))
    if not isinstance(given, str):
        return None
    if given == _STANDARD_INPUT:
        return StreamToOpen(given, _open_standard_input)
    for kind in _KINDS:
        if begins := kind.begins.match(given):
            open_it = partial(kind.open, given[begins.end() :])
            return StreamToOpen(_named(kind.name_of(given)), open_it, kind.comes_again, kind.is_own)
    if is_of_module(given):
        open_it, for_daemon = partial(_open_module, given), partial(_request_of_module, given)
        return StreamToOpen(_named(given), open_it, takes_options=True, for_daemon=for_daemon)
    if "/" in given or _is_bare_stream(given):
        return StreamToOpen(_named(given), partial(_open_path, given), not _is_regular(given))
    return None


def open_stream(stream: StreamToOpen) -> OpenedStream:
    """Open a stream.

    Raises:
        InterfaceError: it cannot be opened.
        InvalidArgument: what its name says of it is not possible.
    """
    try:
        opened = stream.open()
    except CaptureError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        text = f"the stream {quoted(stream.name)} cannot be opened: {reason}"
        code = FailureCode.NO_SUCH_INTERFACE
        failure = Failure(code=code, text=text, interface=stream.name, argument="interfaces")
        raise InterfaceError(text, failure) from error
    with contextlib.suppress(OSError):  # no pipe; or all that the user may have is taken
        fcntl.fcntl(opened.descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return opened


def open_again_and_again(stream: StreamToOpen) -> OpenedStream:
    """Return a socket on which a stream comes, opened anew each time that it has ended."""
    from capd_client.sources.reopening import Reopener  # noqa: PLC0415  # few need it

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return OpenedStream(theirs.detach(), Reopener(ours, partial(_open_descriptor, stream)))


def _open_descriptor(stream: StreamToOpen) -> int:
    return open_stream(stream).descriptor


def is_of_module(name: str) -> bool:
    """Whether a name is that of a module's device, and of no network interface, which have no colons."""
    return entry_of(name) is not None if ":" in name else not _is_interface(name) and entry_of(name) is not None


def with_extcap(names: Sequence[str]) -> list[str]:
    """Return names as people type them, with a prefix where only an extcap program has an interface of that name.

    Programs are asked only where there is a name that is neither a stream nor a network interface or a pattern.
    """
    unknown = {each for each in names if stream_of(each) is None and not _is_interface(each)}
    if not unknown:
        return list(names)
    from capd_client.sources.programs import interfaces  # noqa: PLC0415  # few need it

    known = {each.name for each in interfaces()[0]}
    return [EXTCAP + each if each in unknown and _without_options(each) in known else each for each in names]


def _is_interface(name: str) -> bool:
    """Whether a name can only be that of network interfaces: one has it, or it is a pattern."""
    if isinstance(target_of(InterfaceRequest(name=name)), Pattern):
        return True
    try:
        socket.if_nametoindex(name)
    except (OSError, ValueError):
        return False
    return True


def _named(text: str) -> str:
    """Return what is printable, and not longer than a name may be."""
    shown = quoted(text)
    while len(shown.encode("utf-8", "replace")) > MAX_STREAM_NAME_BYTES:
        shown = shown[:-1]
    return shown


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116
    except (OSError, ValueError):
        return False


def _is_bare_stream(name: str) -> bool:
    try:
        mode = os.stat(name).st_mode  # noqa: PTH116
    except (OSError, ValueError):
        return False
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return False
    return not _is_interface(name)


def _open_again(descriptor: int) -> OpenedStream:
    return OpenedStream(os.dup(descriptor))


def _open_standard_input() -> OpenedStream:
    if os.isatty(0):
        raise OSError(errno.EINVAL, "standard input is a terminal: send packets to it, as in 'tcpdump -w - | …'")
    return _open_again(0)


def _open_path(path: str) -> OpenedStream:
    mode = os.stat(path).st_mode  # noqa: PTH116
    if stat.S_ISSOCK(mode):
        return _connect_unix(path)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    # A FIFO is open at once, whether somebody writes to it by now or not.
    return OpenedStream(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))


def _connect_unix(path: str) -> OpenedStream:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_CONNECT_S)
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return OpenedStream(connection.detach())


def _connect_tcp(address: str) -> OpenedStream:
    host, port = _host_and_port(address)
    connection = socket.create_connection((host, port), _CONNECT_S)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return OpenedStream(connection.detach())


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


def _open_module(name: str, options: Mapping[str, Any] | None = None) -> OpenedStream:
    from capd_client.sources.modules import open_module  # noqa: PLC0415  # few need it

    return open_module(name, options)


def _request_of_module(name: str, options: Mapping[str, Any] | None = None) -> InterfaceRequest:
    from capd_client.sources.modules import device_request  # noqa: PLC0415  # few need it

    return device_request(name, options or {})


def _open_extcap(text: str) -> OpenedStream:
    from capd_client.sources.extcap import open_extcap  # noqa: PLC0415  # few need it

    return open_extcap(text)


def _open_replay(text: str) -> OpenedStream:
    from capd_client.sources.replay import open_replay  # noqa: PLC0415  # numpy

    return open_replay(text)


def _without_options(text: str) -> str:
    """Return what an extcap program's interface is called, without options, in which passwords may be."""
    from capd_client.sources.sentences import split  # noqa: PLC0415  # few need it

    return split(text)[0]


class _Kind(NamedTuple):
    """Streams whose names begin alike.

    Attributes:
        begins: how.
        open: opens what the rest of the name says.
        name_of: returns what one is called in a capture.
        comes_again: as ``StreamToOpen`` has it.
        is_own: each that is opened is another one.
    """

    begins: re.Pattern[str]
    open: Callable[[str], OpenedStream]
    name_of: Callable[[str], str] = str
    comes_again: bool = False
    is_own: bool = False


_KINDS = (
    _Kind(re.compile("TCP@", re.IGNORECASE), _connect_tcp, comes_again=True),
    _Kind(re.compile("unix:"), _connect_unix, comes_again=True),
    _Kind(re.compile(EXTCAP), _open_extcap, _without_options, is_own=True),
    _Kind(re.compile("replay(?=[@:])"), _open_replay),
)
