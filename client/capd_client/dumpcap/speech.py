"""What the program says: to people on standard error, or to its parent in dumpcap's messages."""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Protocol

from capd_protocol.messages import (
    BadFilter,
    Drops,
    ErrorMessage,
    FileOpened,
    InterfaceCounters,
    Message,
    PacketCount,
    Success,
    encode,
)
from capd_protocol.text import escaped

_STANDARD_ERROR = 2


class ParentGone(Exception):
    """Nobody reads the messages any more."""


class Speech(Protocol):
    """Who is spoken to."""

    def complaint(self, text: str, *, advice: str = "") -> None:
        """Say that something is wrong; ``advice`` is for a second paragraph."""
        ...

    def bad_filter(self, index: int, interface: str, expression: str, text: str) -> None:
        """Say that a filter does not compile.

        Args:
            index: of the interface, from 0.
            interface: its name.
            expression: the filter.
            text: libpcap's words.
        """
        ...

    def beginning(self, interfaces: Sequence[str]) -> None:
        """Say what is about to be captured on."""
        ...

    def file(self, name: str) -> None:
        """Say that a file was opened."""
        ...

    def packets(self, delta: int, total: int) -> None:
        """Say that more packets are in the file."""
        ...

    def end(self, total: int, counters: Sequence[InterfaceCounters]) -> None:
        """Say what has come of it."""
        ...

    def success(self) -> None:
        """Say that something other than a capture is done."""
        ...


class ToParent:
    """dumpcap's messages to the program that has started this one (ui/capture_sync.c)."""

    def __init__(self, descriptor: int, *, quiet: bool) -> None:
        """Say nothing yet.

        Args:
            descriptor: where messages go.
            quiet: no packets are counted.
        """
        self.descriptor = descriptor
        self._quiet = quiet

    def _send(self, message: Message) -> None:
        rest = memoryview(encode(message))
        try:
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]
        except OSError as error:
            raise ParentGone from error

    def complaint(self, text: str, *, advice: str = "") -> None:
        """Say it; a parent that has gone needs no complaint."""
        with contextlib.suppress(ParentGone):
            self._send(ErrorMessage(text, advice))

    def bad_filter(self, index: int, interface: str, expression: str, text: str) -> None:
        """Say it by the interface's number."""
        del interface, expression
        self._send(BadFilter(index, text))

    def beginning(self, interfaces: Sequence[str]) -> None:
        """Say nothing: the parent knows."""

    def file(self, name: str) -> None:
        """Say it."""
        self._send(FileOpened(name))

    def packets(self, delta: int, total: int) -> None:
        """Say how many more there are."""
        del total
        if not self._quiet:
            self._send(PacketCount(delta))

    def end(self, total: int, counters: Sequence[InterfaceCounters]) -> None:
        """Say for each interface how many were lost."""
        del total
        for each in counters:
            self._send(Drops(each.drops_total, each.interface))

    def success(self) -> None:
        """Say it."""
        self._send(Success())


class ToPeople:
    """Lines on standard error."""

    def __init__(self, *, quiet: bool, errors_only: bool) -> None:
        """Say nothing yet.

        Args:
            quiet: no packets are counted while they come.
            errors_only: nothing is said but what is wrong.
        """
        self._quiet = quiet
        self._errors_only = errors_only

    def _write(self, text: str) -> None:
        # Nobody may read it; what is captured is what matters.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()

    def complaint(self, text: str, *, advice: str = "") -> None:
        """Write it, as dumpcap does (cmdarg_err)."""
        paragraphs = [f"dumpcap: {text}", *([advice] if advice else [])]
        lines = [line for each in paragraphs for line in each.split("\n")]
        self._write("\n".join((*map(escaped, lines), "")))

    def bad_filter(self, index: int, interface: str, expression: str, text: str) -> None:
        """Write it, as dumpcap does."""
        del index
        self.complaint(
            f"Invalid capture filter \"{expression}\" for interface '{interface}'.\n\n"
            f"That string isn't a valid capture filter ({text}).\n"
            "See the User's Guide for a description of the capture filter syntax."
        )

    def beginning(self, interfaces: Sequence[str]) -> None:
        """Write names, up to three."""
        if not self._errors_only:
            self._write(f"Capturing on {escaped(_listed(interfaces))}\n")

    def file(self, name: str) -> None:
        """Write its name."""
        if not self._errors_only:
            self._write(f"File: {escaped(name)}\n")

    def packets(self, delta: int, total: int) -> None:
        """Write how many there are."""
        del delta
        if not self._quiet:
            self._write(f"\rPackets: {total} ")

    def end(self, total: int, counters: Sequence[InterfaceCounters]) -> None:
        """Write how many there are, and for each interface how many were lost, and where."""
        if self._errors_only:
            return
        lines = [f"\rPackets captured: {total}"]
        for each in counters:
            received, lost = each.written_total, each.drops_total
            share = 100 * received / (received + lost) if received else 0.0
            kernel, program = each.kernel_drops_total, lost - each.kernel_drops_total
            counts = f"{received}/{lost} (pcap:{kernel}/dumpcap:{program}/flushed:0/ps_ifdrop:0) ({share:.1f}%)"
            lines.append(f"Packets received/dropped on interface '{escaped(each.interface)}': {counts}")
        self._write("\n".join((*lines, "")))

    def success(self) -> None:
        """Say nothing: what was asked for is there to be read."""


def _listed(names: Sequence[str]) -> str:
    quoted = [f"'{each}'" for each in names]
    match quoted:
        case [one]:
            return one
        case [one, other]:
            return f"{one} and {other}"
        case [one, other, third]:
            return f"{one}, {other}, and {third}"
        case _:
            return f"{len(names)} interfaces"
