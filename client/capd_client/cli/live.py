"""The live output of ``capctl capture``: packets to standard output or a FIFO, and what is different there."""

import ipaddress
from collections.abc import Mapping
from typing import Protocol, cast

from capd_client.blocking.session import CaptureSession
from capd_client.cli.output import note
from capd_client.conversation.events import CaptureEvent
from capd_client.errors import DestinationError, InvalidArgument
from capd_client.output.destinations import LiveDestination
from capd_client.output.live_writer import LiveWriter
from capd_client.output.server import LiveServer
from capd_client.request.options import CaptureArguments
from capd_protocol.arguments import ARGUMENTS
from capd_protocol.text import counted

#: What leaves no packets to follow, or nobody to follow them.
_NEVER_LIVE = ("detach", *(spec.name for spec in ARGUMENTS if spec.part == "recorder"))
#: What is kept or written in files, of which there are none.
_OF_FILES = frozenset(
    {*_NEVER_LIVE, "group_access", "autostop_filesize", "autostop_files"}
    | {spec.name for spec in ARGUMENTS if spec.part == "ring"}
)
#: How far the reader may be behind. Chosen: less than is kept for it (``in_memory``), so that it is left out file by
#: file, before the files go.
_MAX_BEHIND_BYTES = 48_000_000


def live_arguments(arguments: CaptureArguments, connection: str | None) -> CaptureArguments:
    """Return the arguments of a capture whose packets go to a program as they come, and into no file.

    Args:
        arguments: as they were given.
        connection: the ssh connection that is left out, as ``SSH_CONNECTION`` has it; None: there is none.

    Raises:
        InvalidArgument: one of them is about files.
    """
    given: Mapping[str, object] = cast(Mapping[str, object], arguments)
    for name in sorted(_OF_FILES):
        if given.get(name):
            text = f"{name} is about files on a disk, and the packets go to programs as they come: leave it out"
            raise InvalidArgument(text, argument=name)
    return _without_connection({**given, "savefile": None, "in_memory": True}, connection)


def served_arguments(arguments: CaptureArguments, connection: str | None) -> CaptureArguments:
    """Return the arguments of a capture whose packets are served, from its files where one is named.

    Args:
        arguments: as they were given.
        connection: as for ``live_arguments``.

    Raises:
        InvalidArgument: one of them is about files, and none is named; or the capture is a recorder, or detached.
    """
    given: Mapping[str, object] = cast(Mapping[str, object], arguments)
    if given.get("savefile") is None:
        return live_arguments(arguments, connection)
    for name in _NEVER_LIVE:
        if given.get(name):
            text = f"{name} cannot go together with --serve: leave out one of the two"
            raise InvalidArgument(text, argument=name)
    return _without_connection({**given, "pass_files": True}, connection)


def _without_connection(given: dict[str, object], connection: str | None) -> CaptureArguments:
    if connection is not None:
        given["capture_filter"] = without_connection(str(given.get("capture_filter") or ""), connection)
    return cast(CaptureArguments, given)


def writing_to(capture: CaptureSession, destination: LiveDestination) -> LiveWriter:
    """Return what writes the packets of a capture that runs to one reader."""
    return LiveWriter(capture.open_file, destination, max_behind_bytes=_MAX_BEHIND_BYTES)


def serving(capture: CaptureSession, server: LiveServer) -> None:
    """Have a server take readers of a capture that runs."""
    server.begin(capture.open_file, lambda: capture.packetcount, max_behind_bytes=_MAX_BEHIND_BYTES)


def own_connection(environment: Mapping[str, str]) -> str | None:
    """Return the ssh connection that this program was started through, if any; sshd(8) sets it."""
    connection = environment.get("SSH_CONNECTION", "")
    try:
        client, client_port, server, server_port = connection.split()
        for address in (client, server):
            ipaddress.ip_address(address.partition("%")[0])
        is_one = 0 < int(client_port) < 2**16 and 0 < int(server_port) < 2**16
    except ValueError:
        return None
    return connection if is_one else None


def without_connection(capture_filter: str, connection: str) -> str:
    """Return a filter that leaves out a connection, whose packets would else make more of themselves."""
    client, client_port, server, server_port = connection.split()
    hosts = " and ".join(f"host {address.partition('%')[0]}" for address in (client, server))
    rest = f"not (tcp and {hosts} and port {client_port} and port {server_port})"
    return f"({capture_filter}) and {rest}" if capture_filter.strip() else rest


class Messages(Protocol):
    """What shows the events of a capture."""

    def show(self, event: CaptureEvent) -> None:
        """Show one."""
        ...

    def tick(self) -> None:
        """Nothing came for a while."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


class Sink(Protocol):
    """What takes packets to their readers: a ``LiveWriter``, or a ``LiveServer``."""

    @property
    def is_left(self) -> bool:
        """Nobody will read any more."""
        ...

    @property
    def missed_packets(self) -> int:
        """Packets that no reader got."""
        ...

    def take(self, event: CaptureEvent) -> None:
        """Learn of an event of the capture."""
        ...

    def finish(self, packets_total: int) -> None:
        """Wait until all is written, after the last event."""
        ...


class LiveOutput:
    """Packets to their readers; what else happens as ``messages`` shows it."""

    def __init__(self, capture: CaptureSession, sink: Sink, messages: Messages) -> None:
        """Begin to write the packets of a capture that runs."""
        self._capture = capture
        self._messages = messages
        self._sink = sink

    def show(self, event: CaptureEvent) -> None:
        """Take an event."""
        self._sink.take(event)
        self._messages.show(event)
        self._stop_if_left()

    def tick(self) -> None:
        """Nothing came."""
        self._messages.tick()
        self._stop_if_left()

    def _stop_if_left(self) -> None:
        if self._sink.is_left and self._capture.end_reason is None:
            self._capture.stop()

    def finish(self) -> None:
        """Wait until the reader has all that was captured.

        Raises:
            DestinationError: it cannot be written.
            CaptureError: what was captured cannot be read.
        """
        try:
            self._sink.finish(self._capture.packetcount)
        except OSError as error:
            raise DestinationError(f"packets cannot be written: {error.strerror}") from error
        if self._sink.missed_packets:
            note(f"{counted(self._sink.missed_packets, 'packet')} not written: nobody read, or too slowly")

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._messages.close()
