"""``capctl capture`` whose packets are shown, or go to programs, as they come."""

import argparse
import ipaddress
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

from capd_client.blocking.session import CaptureSession
from capd_client.cli.events import RAISED_LATER, Json, Messages, Text, follow, status_of
from capd_client.cli.notices import Missing, Notice, Notices, fifo_notice, missed, reader_notice
from capd_client.cli.output import StandardOutput, note, note_json
from capd_client.cli.packets.lines import PacketLines
from capd_client.cli.signals import end_by
from capd_client.conversation.events import CaptureEvent
from capd_client.errors import CaptureEnded, DestinationError, InvalidArgument
from capd_client.output.destinations import DescriptorDestination, LiveDestination
from capd_client.output.live_output import MAX_BEHIND_BYTES
from capd_client.output.live_writer import LiveWriter
from capd_client.output.readers import ReaderEvent
from capd_client.output.server import LiveServer, serving_address
from capd_client.reading.gap import Gap
from capd_client.reading.live import LiveFiles, LiveSelection
from capd_client.reading.model import packets_of
from capd_client.reading.selection import Selection
from capd_client.request.options import CaptureArguments
from capd_protocol.batches.model import Batch

#: The same for what is shown. Chosen: some seconds of it, so that what a person sees is of now.
_MAX_BEHIND_SHOWN_BYTES = 16_000_000
#: After that, it is said what is waited for.
_PATIENCE_S = 1.0


class Sink(Missing, Protocol):
    """What takes packets to who reads them: a ``LiveWriter``, a ``LiveServer`` or a ``Printer``."""

    @property
    def is_left(self) -> bool:
        """Nobody will read any more."""
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
    has_packets = is_shown or isinstance(destination, DescriptorDestination)
    is_kept = options.savefile is not None or options.serve is not None
    # Lines of packets would push the state out of sight.
    is_live = not (is_shown and (options.print or sys.stdout.isatty()))
    output = StandardOutput("the capture" if is_kept else None)
    ways = _Ways(output, as_json=options.json, has_packets=has_packets, is_live=is_live)
    if is_shown:
        lines = PacketLines(options)
        ways.makers.append(lambda capture: Printer(capture, lines, ways.output))
    if options.serve is not None or destination is not None or (is_shown and arguments.get("in_memory")):
        connection = None if options.with_ssh else own_connection(os.environ)
        arguments = _leaving_out(arguments, connection, ways)
    if options.serve is not None:
        return _serve(options, arguments, ways)
    if destination is not None:
        return _write(options, arguments, ways, destination)
    return _capture(options, arguments, ways)


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


def _leaving_out(arguments: CaptureArguments, connection: str | None, ways: "_Ways") -> CaptureArguments:
    if connection is None:
        return arguments
    text = f"The ssh connection from {connection.split()[0]} is left out; --with-ssh captures it too."
    ways.notices.put(Notice("connection_left_out", text, {"connection": connection}))
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
        output: StandardOutput,
        *,
        selection: Selection | None = None,
        count: int | None = None,
    ) -> None:
        """Show the packets of a capture that runs.

        Args:
            capture: the capture.
            lines: how they are shown.
            output: where to.
            selection: which of them; None: all.
            count: at most so many.
        """
        self._lines = lines
        self._output = output
        self._selection = selection or Selection()
        self._count = count
        self._files = LiveFiles(
            capture.open_file, max_behind_bytes=_MAX_BEHIND_SHOWN_BYTES, overflow="drop_oldest", as_bytes=False
        )
        self._selected = LiveSelection(self._selection, self._files)
        self.missed_packets = 0

    def take(self, event: CaptureEvent) -> None:
        """Show what is there, as of an event."""
        if self._output.is_lost:
            return
        self._files.take(event)
        while not self.is_left and (item := self._files.next_item()) is not None:
            selected = self._selected(item)
            if isinstance(selected, Gap):
                self.missed_packets += selected.packets
            elif isinstance(selected, Batch):
                self._show(selected)
                self._output.show(flush=True)
        self._selection.check(self._files.interfaces)  # also before any packet comes

    @property
    def is_left(self) -> bool:
        """As many were shown as may be."""
        return self._count == 0

    def _show(self, batch: Batch) -> None:
        interfaces = self._files.interfaces
        for packet in packets_of(batch, [each.name for each in interfaces]):
            if self.is_left or self._output.is_lost:
                return
            self._output.show(*self._lines.of(packet, interfaces))
            if self._count is not None:
                self._count -= 1

    def finish(self, packets_total: int) -> None:
        """Count what was missed."""
        gap = self._files.last_gap(packets_total)
        if gap is not None:
            self.missed_packets += gap.packets
        self._files.close()


def _write(
    options: argparse.Namespace, arguments: CaptureArguments, ways: "_Ways", destination: LiveDestination
) -> int:
    """Capture for a program that reads the packets as they come, until it has enough of them."""
    if destination.has_readers:
        text = f"Waiting for a program to read {options.savefile}."
        ways.notices.say(Notice("waiting_for_reader", text, {"path": options.savefile}))
    destination.wait_for_reader()

    def report(event: ReaderEvent) -> None:
        ways.notices.put(fifo_notice(event, str(options.savefile)))

    def write(capture: CaptureSession) -> Sink:
        return LiveWriter(capture.open_file, destination, max_behind_bytes=MAX_BEHIND_BYTES, report=report)

    ways.makers.append(write)
    try:
        return _capture(options, arguments, ways)
    finally:
        destination.close()


def _serve(options: argparse.Namespace, arguments: CaptureArguments, ways: "_Ways") -> int:
    """Capture for all programs that come to read, and into a file where one is named."""
    address = serving_address(options.serve)
    server = LiveServer(address, lambda event: ways.notices.put(reader_notice(event)))

    def serve(capture: CaptureSession) -> Sink:
        server.begin(capture.open_file, lambda: capture.packetcount, max_behind_bytes=MAX_BEHIND_BYTES)
        text = f"Serving at {address}: {address.readers}."
        ways.notices.put(Notice("serving", text, {"address": str(address)}))
        return server

    ways.makers.append(serve)
    try:
        return _capture(options, arguments, ways)
    finally:
        server.close()
        ways.notices.say_rest()


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
        selection = Selection(options.filter, options.display_filter)
        printer = Printer(session, lines, StandardOutput(None), selection=selection, count=options.count)
        try:
            while not printer.is_left:
                event = session.next_event()
                if not isinstance(event, RAISED_LATER):
                    printer.take(event)
        except CaptureEnded:
            pass
        if not printer.is_left:
            printer.finish(session.packetcount)
            for notice in missed(printer):
                Notices(note_json if options.json else None).say(notice)
    return 0


# The capture ------------------------------------------------------------------------------------------------------


class _Ways:
    """Where things go: packets to sinks, the rest to standard output, or to standard error where that has packets."""

    def __init__(self, output: StandardOutput, *, as_json: bool, has_packets: bool, is_live: bool) -> None:
        self.output = output
        self._is_live = is_live
        #: What JSON is printed with; None: all is said in words.
        self.print_object = (note_json if has_packets else output.show_json) if as_json else None
        self.notices = Notices(self.print_object)
        self.makers: list[SinkMaker] = []

    def messages(self, capture: CaptureSession, *, shows_files: bool) -> Messages:
        """Return what shows the events of a capture."""
        if self.print_object is not None:
            return Json(capture, self.print_object, shows_files=shows_files)
        return Text(capture, note, shows_files=shows_files, is_live=self._is_live)


def _capture(options: argparse.Namespace, arguments: CaptureArguments, ways: _Ways) -> int:
    capture = CaptureSession(socket_path=options.socket, **arguments)
    end_by(capture.stop, signal.SIGINT)
    with capture:
        if not options.interfaces and not options.json:
            note(f"Interface: {', '.join(capture.interfaces)}")
        messages = ways.messages(capture, shows_files=not arguments.get("in_memory"))
        output = _Output(capture, [make(capture) for make in ways.makers], messages, ways.notices)
        try:
            follow(capture, output)
            output.finish()
        finally:
            output.close()
        return status_of(capture, ways.output)


class _Output:
    """Packets to those who read them; what else happens as ``messages`` shows it."""

    def __init__(self, capture: CaptureSession, sinks: Sequence[Sink], messages: Messages, notices: Notices) -> None:
        self._capture = capture
        self._messages = messages
        self._sinks = sinks
        self._notices = notices
        self._has_begun = False

    def show(self, event: CaptureEvent) -> None:
        for sink in self._sinks:
            sink.take(event)
        self._messages.show(event)
        self._has_begun = True
        self._look_at_readers()

    def notice(self, notice: Notice) -> None:
        self._messages.notice(notice)

    def tick(self) -> None:
        self._messages.tick()
        self._look_at_readers()

    def wait(self) -> None:
        self._messages.wait()

    def _look_at_readers(self) -> None:
        if self._has_begun:  # what is said first is that
            for notice in self._notices.waiting():
                self._messages.notice(notice)
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
                self.notice(Notice("waiting_until_read", "Waiting until the rest is read; Ctrl-C gives it up."))
            try:
                sink.finish(self._capture.packetcount)
            except OSError as error:
                raise DestinationError(f"packets cannot be written: {error.strerror}") from error
            for notice in (*self._notices.waiting(), *missed(sink)):
                self.notice(notice)

    def close(self) -> None:
        self._messages.close()
