"""The server of a live stream: as many readers as come to an address, each with a stream of its own.

Each has a writer of its own, and so its own losses: a slow one costs the others nothing.
"""

import contextlib
import ipaddress
import os
import select
import socket
import stat
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from capd_client.conversation.events import CaptureEvent
from capd_client.errors import CaptureError, DestinationError, InvalidArgument
from capd_client.output.destinations import OneReader, ReaderGone, write_all
from capd_client.output.live_writer import PATIENCE_S, LiveWriter
from capd_client.output.readers import ReaderChange, ReaderEvent, ReaderReport
from capd_protocol.messages import FileOpened
from capd_protocol.text import quoted

#: More are turned away. Chosen: each has a thread and the files that it is behind; far more than people look at once.
MAX_READERS = 32
#: Chosen: what programs that connect all at once may be, before the first is taken.
_BACKLOG = 128
#: struct sockaddr_un (unix(7)), with the NUL at its end.
_MAX_PATH_BYTES = 107
#: Of 65535.
_PORT_DIGITS = 5
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class ServingAddress:
    """Where a server listens.

    Attributes:
        host: an IP address; None: the socket is a file.
        port: of TCP.
        path: of the socket.
    """

    host: str | None
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        """Return it as it is typed."""
        if self.host is None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def readers(self) -> str:
        """Who can read what is served there."""
        if self.host is None:
            return "only this user and root can read"
        if ipaddress.ip_address(self.host).is_loopback:
            return "every user of this machine can read"
        return "everybody who reaches this address can read, without encryption"


def serving_address(text: str) -> ServingAddress:
    """Return what ``[ADDRESS:]PORT`` or ``unix:PATH`` means; without an address, the loopback one.

    Raises:
        InvalidArgument: it is neither.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if len(os.fsencode(path)) > _MAX_PATH_BYTES or "\0" in path:
            raise InvalidArgument(f"the path of a socket has at most {_MAX_PATH_BYTES} bytes", argument="serve")
        return ServingAddress(None, path=path) if path else _no_address(text, "there is no path")
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal() and 0 < int(port[:_PORT_DIGITS]) < 2**16) or len(port) > _PORT_DIGITS:
        _no_address(text, "it has no port from 1 to 65535 at its end")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(_LOOPBACK if host in ("", "localhost") else host)
    except ValueError:
        _no_address(text, f"{quoted(host)} is no IP address, and names are not looked up")
    if isinstance(address, ipaddress.IPv6Address) and address.is_link_local and address.scope_id is None:
        _no_address(text, f"the interface of {address} is missing")
    return ServingAddress(str(address), int(port))


def _no_address(text: str, why: str) -> NoReturn:
    possible = "PORT, 127.0.0.1:PORT, [fe80::1%eth0]:PORT or unix:PATH"
    raise InvalidArgument(f"{quoted(text)} is no address to serve at: {why}; say {possible}", argument="serve")


class _ReaderSocket(OneReader):
    """The connection of one reader, as a destination."""

    _left_events = select.POLLRDHUP

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection.fileno())
        self._socket = connection
        #: How much it has taken.
        self.sent_bytes = 0
        #: It was given up, as its reader took nothing.
        self.is_stuck = False

    def write(self, data: Iterable[bytes | memoryview]) -> None:
        """Write all of this; see ``LiveDestination``."""
        try:
            write_all(self._send, data)
        except OSError as error:  # however a connection ends, its reader has left
            raise ReaderGone from error

    def _send(self, data: memoryview) -> int:
        sent_bytes = self._socket.send(data)
        self.sent_bytes += sent_bytes
        return sent_bytes

    def give_up(self) -> None:
        """Have what is blocked in ``write`` end."""
        self.is_stuck = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let the reader find the end."""
        self._socket.close()


class _Reader:
    """A reader, and what writes to it."""

    def __init__(
        self, number: int, name: str, destination: _ReaderSocket, writer: LiveWriter, packets_before: int
    ) -> None:
        self.number = number
        self.name = name
        self.destination = destination
        self.writer = writer
        self.packets_before = packets_before

    def end(self, packets_total: int, change: ReaderChange, failure: str) -> ReaderEvent:
        """Be done with it, which has ended, and return what to report of it."""
        self.destination.close()
        missed_packets = self.writer.missed_packets
        if self.destination.is_stuck:
            change = ReaderChange.STUCK
            missed_packets = max(0, packets_total - self.packets_before - self.writer.written_packets)
        elif failure:
            change = ReaderChange.FAILED
        return ReaderEvent(self.number, self.name, change, missed_packets, failure)


class LiveServer:
    """Listens, and writes to whoever comes. Events come in by ``take``; ``finish`` waits for the readers."""

    #: Others may come.
    is_left = False
    #: Each reader has its own, which are reported when it leaves.
    missed_packets = 0
    missed_because = ""

    def __init__(self, address: ServingAddress, report: ReaderReport) -> None:
        """Listen.

        Args:
            address: where.
            report: takes what happens to readers.

        Raises:
            DestinationError: nobody can listen there.
        """
        self._address = address
        self._report = report
        self._socket = _listening(address)
        #: Which file it is, where it is one.
        self._file = os.lstat(address.path) if address.host is None else None
        self._open_file: Callable[[str], BinaryIO] | None = None
        self._max_behind_bytes = 0
        self._packets: Callable[[], int] = int
        #: Around what follows.
        self._lock = threading.Lock()
        self._readers: list[_Reader] = []
        self._number = 0
        self._current: FileOpened | None = None
        self._is_over = False
        self._thread = threading.Thread(target=self._accept, name="live server", daemon=True)

    def begin(self, open_file: Callable[[str], BinaryIO], packets: Callable[[], int], *, max_behind_bytes: int) -> None:
        """Take readers of a capture that runs.

        Args:
            open_file: opens a file of the capture.
            packets: returns how many the capture has by now.
            max_behind_bytes: how many bytes each reader may be behind.
        """
        self._open_file, self._packets, self._max_behind_bytes = open_file, packets, max_behind_bytes
        self._thread.start()

    def take(self, event: CaptureEvent) -> None:
        """Learn of an event of the capture."""
        with self._lock:
            if isinstance(event, FileOpened):
                self._current = event
            for reader in self._readers:
                reader.writer.take(event)
            left = [reader for reader in self._readers if reader.writer.is_left]
            self._readers = [reader for reader in self._readers if reader not in left]
        for reader in left:
            self._end(reader, self._packets(), ReaderChange.LEFT)

    def finish(self, packets_total: int) -> None:
        """Wait until all readers have all, but not for those that take nothing any more."""
        self._stop_listening()
        with self._lock:
            readers, self._readers = self._readers, []
        for reader in readers:
            self._end(reader, packets_total, ReaderChange.DONE)

    def close(self) -> None:
        """End, without waiting for anybody."""
        self._stop_listening()
        with self._lock:
            readers, self._readers = self._readers, []
        for reader in readers:
            reader.destination.give_up()
            self._end(reader, self._packets(), ReaderChange.DONE)

    def _end(self, reader: _Reader, packets_total: int, change: ReaderChange) -> None:
        failure = ""
        try:
            reader.writer.finish(packets_total - reader.packets_before, PATIENCE_S)
        except (CaptureError, OSError) as error:
            failure = str(error)
        self._report(reader.end(packets_total, change, failure))

    def _stop_listening(self) -> None:
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # it wakes who accepts
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()
        if self._file is not None:
            with contextlib.suppress(OSError):  # somebody may have put something else there meanwhile
                if os.path.samestat(self._file, os.lstat(self._address.path)):
                    os.unlink(self._address.path)  # noqa: PTH108

    def _accept(self) -> None:
        while True:
            try:
                connection, peer = self._socket.accept()
            except OSError:
                if self._is_over:
                    return
                continue
            self._take_reader(connection, f"{peer[0]} port {peer[1]}" if peer else "a reader")

    def _take_reader(self, connection: socket.socket, name: str) -> None:
        with self._lock:
            if self._is_over or self._open_file is None:
                connection.close()
                return
            self._number += 1
            number = self._number
            if len(self._readers) >= MAX_READERS:
                connection.close()
                self._report(ReaderEvent(number, name, ReaderChange.REFUSED, text=f"{MAX_READERS} read already"))
                return
            destination = _ReaderSocket(connection)
            writer = LiveWriter(
                self._open_file, destination, max_behind_bytes=self._max_behind_bytes, begins_with=self._current
            )
            self._readers.append(_Reader(number, name, destination, writer, self._packets()))
        self._report(ReaderEvent(number, name, ReaderChange.CAME))


def _listening(address: ServingAddress) -> socket.socket:
    try:
        if address.host is None:
            return _listening_file(address.path)
        if ":" not in address.host:
            return socket.create_server((address.host, address.port), backlog=_BACKLOG)
        host, _, scope = address.host.partition("%")
        place = (host, address.port, 0, _interface_index(scope, address) if scope else 0)
        return socket.create_server(place, family=socket.AF_INET6, backlog=_BACKLOG)
    except OSError as error:
        raise DestinationError(f"nobody can listen at {address}: {os.strerror(error.errno or 0)}") from error


def _interface_index(scope: str, address: ServingAddress) -> int:
    """Return the number of an interface, which a scope may be, too."""
    if scope.isascii() and scope.isdecimal():
        return int(scope)
    for index, name in socket.if_nameindex():
        if name == scope:
            return index
    raise DestinationError(f"nobody can listen at {address}: there is no interface {quoted(scope)}")


def _listening_file(path: str) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    try:
        os.fchmod(listening.fileno(), 0o600)  # which bind() gives to the file; connecting needs to write (unix(7))
        _remove_left_over(path)
        listening.bind(path)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _remove_left_over(path: str) -> None:
    """Remove a socket at which nobody listens any more."""
    with contextlib.suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as asking:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return  # bind() says that it is there
        try:
            asking.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)  # noqa: PTH108
