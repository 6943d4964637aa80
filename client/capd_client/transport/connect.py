"""The only input and output of the client: a Unix socket to the daemon, or to one of our own."""

import contextlib
import enum
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from capd_client.errors import DaemonUnavailable, InvalidArgument, NotPermitted, ResourceError
from capd_client.request.namespaces import Netns, OpenNamespace, opened, socket_of
from capd_client.request.options import Prepared
from capd_client.request.streams import StreamToOpen, open_again_and_again, open_stream
from capd_client.sources.opened import OpenedStream, OpenStreams, Outcome
from capd_client.transport.listening import DEFAULT_SOCKET, SOCKET_VARIABLE
from capd_client.transport.passed import (
    CaptureFiles,
    DescriptorDropped,
    Directory,
    FileReceiver,
    FilesOnRequest,
    pass_descriptors,
    receive,
)
from capd_protocol.messages import AttachCapture, StartCapture

_Channel = socket.socket
SocketPath = str | os.PathLike[str] | None
#: The words of a command in dumpcap's place; None: the daemon.
Program = Sequence[str] | None

_CAP_NET_RAW = 13
_RECEIVE_BYTES = 65536
_LONGEST_WAIT_S = 2e6
#: A private daemon has nothing more to do when its connection is closed.
_PRIVATE_END_S = 20.0


def _may_capture() -> bool:
    """Whether a daemon started by this process could open packet sockets."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> _CAP_NET_RAW & 1)
    return False


class Passed(enum.Enum):
    """What a descriptor is that the daemon passes."""

    #: A socket on which the capture's process takes the directory, and passes files.
    TO_CAPTURE = enum.auto()
    #: A socket to a process that sends.
    CHANNEL = enum.auto()
    #: A pipe with the packets of a device.
    PIPE = enum.auto()


@dataclass
class Offer:
    """A capture's directory and streams, until they are passed on; and what the client wants of the files."""

    directory_fd: int
    #: What is captured from, of streams; in the request's order.
    streams: OpenStreams
    #: They are passed as they are opened.
    wants_files: bool
    #: The directory is kept, in which a ring's index is found.
    keeps_directory: bool
    #: No name leads to the files there.
    are_unnamed: bool

    def accept(self, channel: socket.socket) -> CaptureFiles | None:
        """Pass the directory to the capture's process; return where its files can be had beside their paths."""
        pass_descriptors(channel, [self.directory_fd, *self.streams.descriptors])
        self.streams.close_descriptors()
        directory = Directory(self.directory_fd) if self.keeps_directory else None
        if directory is None:
            os.close(self.directory_fd)
        if self.wants_files:
            return FileReceiver(channel, directory, are_unnamed=self.are_unnamed)
        channel.close()
        return directory

    def close(self) -> None:
        """Close what was not passed on. What feeds the streams is ended by whoever has these."""
        os.close(self.directory_fd)
        self.streams.close_descriptors()


class _Child(Protocol):
    """What is our own, and serves one session: a private daemon, or a program in its place."""

    def wait(self, timeout: float | None = None) -> object:
        """Wait until it has ended; raises subprocess.TimeoutExpired where it does not in time."""
        ...

    def kill(self) -> None:
        """Have it end."""
        ...


@dataclass
class Transport:
    """A connection to a daemon."""

    socket: socket.socket
    _daemon: "_Child | None" = None
    #: Where the capture's files can be had beside their paths, where the daemon passes them.
    files: CaptureFiles | None = None
    #: What the capture is asked for; it is passed on when the daemon says where to.
    _offer: Offer | None = None
    #: What is captured from, to the end of that.
    _streams: OpenStreams = field(default_factory=OpenStreams)
    #: What a descriptor is that comes.
    expects: Passed = Passed.TO_CAPTURE
    #: The socket to a process that sends.
    channel: _Channel | None = None
    #: The pipe with the packets of a device.
    pipe_fd: int | None = None

    @property
    def is_private(self) -> bool:
        """Whether the daemon is one of our own, which ends with the connection."""
        return self._daemon is not None

    def offer(self, offer: Offer) -> None:
        """Have a directory passed to the capture's process as soon as the daemon wants it; it is taken over."""
        self._offer = offer
        self._streams = offer.streams

    @property
    def is_offering(self) -> bool:
        """Whether the directory was not asked for yet."""
        return self._offer is not None

    def send(self, data: bytes) -> None:
        """Send bytes. A daemon that has gone shows when receiving."""
        self.socket.setblocking(True)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def receive(self, timeout_s: float | None) -> bytes | None:
        """Return bytes, empty ones when the daemon has closed; None when none came in time."""
        if self.is_closed:
            return b""
        poll = select.poll()
        try:
            poll.register(self.socket, select.POLLIN)
        except ValueError:  # another thread has closed it meanwhile
            return b""
        # poll(2) takes milliseconds as an int: what is longer than 24 days is for ever.
        if not poll.poll(timeout_s * 1000 if timeout_s is not None and timeout_s < _LONGEST_WAIT_S else None):
            return None
        return self.receive_nowait()

    def receive_nowait(self) -> bytes:
        """Return the bytes that are there, when the socket is readable; empty ones when one side has closed.

        Raises:
            ResourceError: this process has no descriptor left for what came along; the conversation is over.
        """
        if self.is_closed:
            return b""
        try:
            data, descriptor = receive(self.socket, _RECEIVE_BYTES)
        except ConnectionResetError:
            return b""
        except DescriptorDropped as error:
            text = "this program has as many descriptors as it may (RLIMIT_NOFILE): close some, or raise that limit"
            raise ResourceError(text) from error
        if descriptor is not None:
            self._take(descriptor)
        if self.files is not None:
            self.files.take()
        return data

    def outcomes(self) -> dict[str, Outcome]:
        """Return what became of what feeds the streams, by their names; see there."""
        return self._streams.outcomes()

    def _take(self, descriptor: int) -> None:
        if self.expects == Passed.PIPE:
            self.pipe_fd = descriptor
            return
        channel = socket.socket(fileno=descriptor)
        if self.expects == Passed.CHANNEL:
            self.channel = channel
            return
        offer, self._offer = self._offer, None
        self.files = FilesOnRequest(channel) if offer is None else offer.accept(channel)

    def leave(self) -> None:
        """Say that nothing more will be asked: the capture ends, its last events still come."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self.socket.fileno() < 0

    def close(self, *, wait: bool = True) -> None:
        """Close the connection, and wait for what is our own to end: a daemon, what writes streams.

        Without waiting, these end by themselves.
        """
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # it wakes whoever waits in it
        self.socket.close()
        if self.channel is not None:
            self.channel.close()
        if self.pipe_fd is not None:
            os.close(self.pipe_fd)
            self.pipe_fd = None
        if self.files is not None:
            self.files.close()
        if self._offer is not None:
            self._offer.close()
            self._offer = None
        self._streams.close(wait=False)
        if not wait:
            return
        self._wait_for_daemon()
        self._streams.close()

    def _wait_for_daemon(self) -> None:
        if self._daemon is None:
            return
        try:
            self._daemon.wait(_PRIVATE_END_S)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()


def connect(
    socket_path: str | os.PathLike[str] | None,
    *,
    may_start: bool = False,
    needs_privilege: bool = True,
    monitor_mode: bool = False,
    netns: Netns | None = None,
) -> Transport:
    """Connect to the daemon.

    Args:
        socket_path: where it listens; None: as ``CAPD_SOCKET`` says, or the default place.
        may_start: where no socket is given and no daemon runs, start a private one.
        needs_privilege: but only if this process could capture by itself.
        monitor_mode: whether a private daemon keeps CAP_NET_ADMIN.
        netns: the daemon there, or a private one that enters it; its answers say whether it may.

    Raises:
        DaemonUnavailable: there is none.
        InvalidArgument: ``netns`` is no network namespace, or a daemon was named as well.
        InterfaceError: it is not there.
        NotPermitted: this user may not open it.
    """
    if netns is not None:
        if socket_path is not None:
            text = "a network namespace is entered by a daemon of this program's own, and another one is named as well"
            raise InvalidArgument(text, argument="netns")
        socket_path = socket_of(netns)
        if socket_path is None:
            return _in_namespace(netns, may_start=may_start, monitor_mode=monitor_mode)
    given = _given(socket_path)
    path = given or DEFAULT_SOCKET
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        nobody_there = isinstance(error, FileNotFoundError | ConnectionRefusedError)
        if may_start and given is None and nobody_there and (_may_capture() or not needs_privilege):
            return _start_private(monitor_mode)
        reason = error.strerror or str(error)
        advice = "start capd, or name its socket" if nobody_there else "ask an administrator"
        raise DaemonUnavailable(f"there is no capd at {path} ({reason}): {advice}") from error
    return Transport(connection)


def _in_namespace(netns: Netns, *, may_start: bool, monitor_mode: bool) -> Transport:
    """Connect to a private daemon in a network namespace in which no other one runs."""
    if not may_start:
        text = f"no capd runs in the network namespace {netns}, and what stays needs one: ask an administrator"
        raise DaemonUnavailable(text)
    with opened(netns) as namespace:
        return _start_private(monitor_mode, namespace)


def _given(socket_path: SocketPath) -> str | None:
    """Return where the daemon listens that was named; None: none was."""
    return os.fspath(socket_path) if socket_path is not None else os.environ.get(SOCKET_VARIABLE) or None


def _needs_no_service(request: StartCapture) -> bool:
    """Whether a capture takes no privilege, and nobody is to find it: its packets are this user's own."""
    return all(each.is_stream for each in request.interfaces) and request.name is None


def _start_private(monitor_mode: bool, namespace: OpenNamespace | None = None) -> Transport:
    ours, theirs = socket.socketpair()
    with theirs:
        # -P: nothing is imported from the working directory.
        command = [sys.executable, "-P", "-m", "capd", "--private-fd", str(theirs.fileno())]
        descriptors = [theirs.fileno()]
        if monitor_mode:
            command.append("--monitor-mode")
        if namespace is not None:
            command += ["--netns", namespace.name, "--netns-fds", *map(str, namespace.descriptors)]
            descriptors += namespace.descriptors
        daemon = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=descriptors,
            # A Ctrl-C at our terminal is ours to handle.
            start_new_session=True,
        )
    return Transport(ours, daemon)


def start_program(program: Sequence[str], prepared: Prepared) -> Transport:
    """Start a program in dumpcap's place for a capture.

    Raises:
        InvalidArgument: it is no command.
        UnsupportedError: the capture is beyond dumpcap.
        DestinationError: the directory for its files cannot be entered.
    """
    from capd_client.program.driver import Driver  # noqa: PLC0415  # few need it

    driver = Driver(program, prepared)
    return Transport(driver.socket, driver)


def offer_of(prepared: Prepared, open_with_daemon: Callable[[StreamToOpen, NotPermitted], OpenedStream]) -> Offer:
    """Open the directory for a capture's files, and its streams.

    Args:
        prepared: the capture.
        open_with_daemon: opens a stream that this program is not permitted to open, or raises.

    Raises:
        DestinationError: the directory cannot be entered.
        InterfaceError: a stream cannot be opened.
        NotPermitted: a device may not be captured from.
        InvalidArgument: what the name of a stream says of it is not possible.
    """
    request = prepared.request
    streams = OpenStreams()
    try:
        open_one = open_again_and_again if request.wait_for_interfaces else open_stream
        for each in prepared.streams:
            try:
                opened = open_one(each)
            except NotPermitted as refused:
                opened = open_with_daemon(each, refused)
            streams.add(each.name, opened)
        directory_fd = prepared.place.open()
    except BaseException:
        streams.close()
        raise
    return Offer(
        directory_fd,
        streams,
        wants_files=request.pass_files,
        keeps_directory=request.detached,
        are_unnamed=request.destination.unnamed,
    )


def connect_for(
    request: StartCapture | AttachCapture,
    socket_path: str | os.PathLike[str] | None,
    offer: Offer | None,
    netns: Netns | None = None,
) -> Transport:
    """Connect for a capture, to a private daemon where that is the way; what is offered is taken over.

    Raises:
        DaemonUnavailable: there is none.
        ChildError: the network namespace cannot be opened, or a daemon was named as well.
    """
    try:
        if isinstance(request, AttachCapture) or request.detached:
            transport = connect(socket_path, netns=netns)
        elif _needs_no_service(request) and netns is None and _given(socket_path) is None:
            transport = _start_private(monitor_mode=False)
        else:
            needs_radio = any(each.monitor_mode or each.wifi_channel for each in request.interfaces)
            transport = connect(socket_path, may_start=True, monitor_mode=needs_radio, netns=netns)
    except BaseException:
        if offer is not None:
            offer.close()
            offer.streams.close()
        raise
    if offer is not None:
        transport.offer(offer)
    return transport


def connect_and_send(
    opening: bytes, socket_path: SocketPath, *, may_start: bool, netns: Netns | None = None, program: Program = None
) -> Transport:
    """Connect for a request that is no capture, and send its first bytes.

    Args:
        opening: these.
        socket_path: where the daemon listens.
        may_start: a private daemon serves as well.
        netns: a private daemon serves in this network namespace.
        program: is asked in the daemon's place.

    Raises:
        DaemonUnavailable: there is none.
        ChildError: the network namespace cannot be opened, or a daemon was named as well.
        InvalidArgument: the program is no command, or a daemon was named as well.
    """
    if program is None:
        transport = connect(socket_path, may_start=may_start, needs_privilege=False, netns=netns)
    else:
        transport = _ask_program(program, socket_path, netns)
    transport.send(opening)
    return transport


def _ask_program(program: Sequence[str], socket_path: SocketPath, netns: Netns | None) -> Transport:
    if socket_path is not None or netns is not None:
        text = "a program in dumpcap's place is asked instead of a daemon: leave out socket_path and netns"
        raise InvalidArgument(text, argument="program")
    from capd_client.program.answering import Answering  # noqa: PLC0415  # few need it

    answering = Answering(program)
    return Transport(answering.socket, answering)


def connect_to_send(opening: bytes, socket_path: SocketPath) -> Transport:
    """Connect to send packets, to a private daemon where that is the way, and send the first bytes.

    Args:
        opening: these.
        socket_path: where the daemon listens.

    Raises:
        DaemonUnavailable: there is none.
    """
    transport = connect(socket_path, may_start=True)
    transport.expects = Passed.CHANNEL
    transport.send(opening)
    return transport
