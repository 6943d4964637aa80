"""``capctl capture`` whose packets are shown, or go to programs, as they come."""

import argparse
import ipaddress
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

from capd_client.blocking.session import CaptureSession
from capd_client.cli.events import ENDED_BY_OTHERS, EXIT_STOPPED, RAISED_LATER, Json, Messages, Text, follow
from capd_client.cli.output import note, note_json, show
from capd_client.cli.packets.lines import PacketLines
from capd_client.cli.signals import end_by
from capd_client.conversation.events import CaptureEvent
from capd_client.errors import CaptureEnded, DestinationError, InvalidArgument
from capd_client.output.destinations import DescriptorDestination, LiveDestination
from capd_client.output.live_writer import LiveWriter
from capd_client.output.server import LiveServer, serving_address
from capd_client.reading.filtering import Matching
from capd_client.reading.gap import Gap
from capd_client.reading.live import LiveFiles
from capd_client.reading.model import packets_of
from capd_client.request.options import CaptureArguments
from capd_protocol.batches.model import Batch
from capd_protocol.text import counted

#: How far a reader may be behind. Chosen: less than is kept for it (``in_memory``), so that it is left out file by
#: file, before the files go.
_MAX_BEHIND_BYTES = 48_000_000
#: The same for what is shown. Chosen: some seconds of it, so that what a person sees is of now.
_MAX_BEHIND_SHOWN_BYTES = 16_000_000
#: After that, it is said what is waited for.
_PATIENCE_S = 1.0


class Sink(Protocol):
    """What takes packets to who reads them: a ``LiveWriter``, a ``LiveServer`` or a ``Printer``."""

    @property
    def is_left(self) -> bool:
        """Nobody will read any more."""
        ...

    @property
    def missed_packets(self) -> int:
        """Packets that no reader got."""
        ...

    @property
    def missed_because(self) -> str:
        """What was not done to them, and why."""
        ...

    def take(self, event: CaptureEvent) -> None:
        """Learn of an event of the capture."""
        ...

    def finish(self, packets_total: int) -> None:
        """Wait until all is written, after the last event."""
        ...


SinkMaker = Callable[[CaptureSession], Sink]


def run(
    options: argparse.Namespace,
    arguments: CaptureArguments,
    destination: LiveDestination | None,
    *,
    is_shown: bool,
) -> int:
    """Capture, and show the packets as they come, write them to a program, or serve them to all that connect.

    Args:
        options: what was typed.
        arguments: of a capture whose packets can be followed.
        destination: where ``-w`` writes to, unless to a file.
        is_shown: whether packets are shown.

    Raises:
        InvalidArgument: two of these exclude each other.
        CaptureError: as the capture, and writing, have it.
    """
    if is_shown and isinstance(destination, DescriptorDestination):
        raise InvalidArgument("standard output has packets already: leave out -w -, or --print", argument="print")
    if options.serve is not None and destination is not None:
        raise InvalidArgument("packets go to a program or are served: leave out -w, or --serve", argument="serve")
    makers: list[SinkMaker] = []
    if is_shown:
        lines = PacketLines(options)
        makers.append(lambda capture: Printer(capture, lines))
    if arguments.get("in_memory") or options.serve is not None:
        connection = None if options.with_ssh else own_connection(os.environ)
        arguments = _leaving_out(arguments, connection)
    if options.serve is not None:
        return _serve(options, arguments, makers)
    if destination is not None:
        return _write(options, arguments, makers, destination)
    return _capture(options, arguments, makers)


# The ssh connection that it was started through -------------------------------------------------------------------


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


def _leaving_out(arguments: CaptureArguments, connection: str | None) -> CaptureArguments:
    if connection is None:
        return arguments
    note(f"The ssh connection from {connection.split()[0]} is left out; --with-ssh captures it too.")
    capture_filter = without_connection(arguments.get("capture_filter") or "", connection)
    return cast(CaptureArguments, {**arguments, "capture_filter": capture_filter})


# Where packets go -------------------------------------------------------------------------------------------------


class Printer:
    """Packets as lines on standard output."""

    missed_because = "shown: they came too fast"

    def __init__(
        self,
        capture: CaptureSession,
        lines: PacketLines,
        *,
        capture_filter: str | None = None,
        count: int | None = None,
    ) -> None:
        """Show the packets of a capture that runs.

        Args:
            capture: the capture.
            lines: how they are shown.
            capture_filter: only those that match.
            count: at most so many.
        """
        self._lines = lines
        self._matching = None if capture_filter is None else Matching(capture_filter)
        self._count = count
        self._files = LiveFiles(
            capture.open_file, max_behind_bytes=_MAX_BEHIND_SHOWN_BYTES, overflow="drop_oldest", as_bytes=False
        )
        self.missed_packets = 0

    def take(self, event: CaptureEvent) -> None:
        """Show what is there, as of an event."""
        self._files.take(event)
        while not self.is_left and (item := self._files.next_item()) is not None:
            if isinstance(item, Gap):
                self.missed_packets += item.packets
            elif isinstance(item, Batch):
                self._show(item)
                sys.stdout.flush()

    @property
    def is_left(self) -> bool:
        """As many were shown as may be."""
        return self._count == 0

    def _show(self, batch: Batch) -> None:
        interfaces = self._files.interfaces
        shown = batch if self._matching is None else self._matching.of(batch, interfaces)
        for packet in packets_of(shown, [each.name for each in interfaces]):
            if self.is_left:
                return
            show(*self._lines.of(packet, interfaces))
            if self._count is not None:
                self._count -= 1

    def finish(self, packets_total: int) -> None:
        """Count what was missed."""
        gap = self._files.last_gap(packets_total)
        if gap is not None:
            self.missed_packets += gap.packets
        self._files.close()


def _write(
    options: argparse.Namespace, arguments: CaptureArguments, makers: Sequence[SinkMaker], destination: LiveDestination
) -> int:
    """Capture for a program that reads the packets as they come, until it has enough of them."""
    if destination.has_readers:
        note(f"Waiting for a program to read {options.savefile}.")
    destination.wait_for_reader()

    def write(capture: CaptureSession) -> Sink:
        return LiveWriter(capture.open_file, destination, max_behind_bytes=_MAX_BEHIND_BYTES)

    try:
        return _capture(options, arguments, [*makers, write])
    finally:
        destination.close()


def _serve(options: argparse.Namespace, arguments: CaptureArguments, makers: Sequence[SinkMaker]) -> int:
    """Capture for all programs that come to read, and into a file where one is named."""
    address = serving_address(options.serve)
    server = LiveServer(address, note)

    def serve(capture: CaptureSession) -> Sink:
        server.begin(capture.open_file, lambda: capture.packetcount, max_behind_bytes=_MAX_BEHIND_BYTES)
        note(f"Serving at {address}: {address.readers}.")
        return server

    try:
        return _capture(options, arguments, [*makers, serve])
    finally:
        server.close()


def show_running(capture: int | str, options: argparse.Namespace) -> int:
    """Show the packets of a capture that runs, from its current file on, until it ends.

    Args:
        capture: its number or name.
        options: of ``capctl read``.

    Raises:
        CaptureError: it is not there, or has failed.
    """
    lines = PacketLines(options)
    with CaptureSession.attach(capture, socket_path=options.socket) as session:
        printer = Printer(session, lines, capture_filter=options.filter, count=options.count)
        try:
            while not printer.is_left:
                event = session.next_event()
                if not isinstance(event, RAISED_LATER):
                    printer.take(event)
        except CaptureEnded:
            pass
        if not printer.is_left:
            printer.finish(session.packetcount)
            _note_missed(printer)
    return 0


# The capture ------------------------------------------------------------------------------------------------------


def _capture(options: argparse.Namespace, arguments: CaptureArguments, makers: Sequence[SinkMaker]) -> int:
    capture = CaptureSession(socket_path=options.socket, **arguments)
    end_by(capture.stop, signal.SIGINT)
    with capture:
        if not options.interfaces and not options.json:
            note(f"Interface: {', '.join(capture.interfaces)}")
        shows_files = not arguments.get("in_memory")
        if options.json:
            messages: Messages = Json(capture, note_json, shows_files=shows_files)
        else:
            # Lines of packets would push the state out of sight.
            is_live = not (options.print or sys.stdout.isatty())
            messages = Text(capture, note, shows_files=shows_files, is_live=is_live)
        output = _Output(capture, [make(capture) for make in makers], messages)
        try:
            follow(capture, output)
            output.finish()
        finally:
            output.close()
        return EXIT_STOPPED if capture.end_reason in ENDED_BY_OTHERS else 0


def _note_missed(sink: Sink) -> None:
    if sink.missed_packets:
        note(f"{counted(sink.missed_packets, 'packet')} not {sink.missed_because}")


class _Output:
    """Packets to those who read them; what else happens as ``messages`` shows it."""

    def __init__(self, capture: CaptureSession, sinks: Sequence[Sink], messages: Messages) -> None:
        self._capture = capture
        self._messages = messages
        self._sinks = sinks
        self._departures = 0

    def show(self, event: CaptureEvent) -> None:
        for sink in self._sinks:
            sink.take(event)
        self._messages.show(event)
        self._look_at_readers()

    def tick(self) -> None:
        self._messages.tick()
        self._look_at_readers()

    def wait(self) -> None:
        self._messages.wait()

    def _look_at_readers(self) -> None:
        departures = sum(sink.departures for sink in self._sinks if isinstance(sink, LiveWriter))
        if departures > self._departures:
            self._departures = departures
            note("The reader has left; the next one is waited for.")
        if self._capture.end_reason is None and any(sink.is_left for sink in self._sinks):
            self._capture.stop()

    def finish(self) -> None:
        """Wait until readers have all that was captured.

        Raises:
            DestinationError: it cannot be written.
            CaptureError: what was captured cannot be read.
        """
        for sink in self._sinks:
            if isinstance(sink, LiveWriter) and not sink.wait_written(_PATIENCE_S):
                note("Waiting until the rest is read; Ctrl-C gives it up.")
            try:
                sink.finish(self._capture.packetcount)
            except OSError as error:
                raise DestinationError(f"packets cannot be written: {error.strerror}") from error
            _note_missed(sink)

    def close(self) -> None:
        self._messages.close()
