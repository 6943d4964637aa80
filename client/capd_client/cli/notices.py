"""What is said of a capture beside its events: who reads its packets, what is waited for, and what was missed."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import NamedTuple, Protocol

from capd_client.cli.output import note
from capd_client.output.readers import ReaderChange, ReaderEvent
from capd_protocol.text import counted


class Notice(NamedTuple):
    """Something to be said.

    Attributes:
        event: what it is called in JSON.
        text: for people; empty: nothing.
        fields: what is to be known of it.
    """

    event: str
    text: str
    fields: Mapping[str, object] = MappingProxyType({})


class Notices:
    """Notices of several threads, each in its turn."""

    def __init__(self, print_object: Callable[..., None] | None) -> None:
        """Take what JSON is printed with; None: it is said in words, to standard error."""
        self._print_object = print_object
        self._waiting: SimpleQueue[Notice] = SimpleQueue()

    def put(self, notice: Notice) -> None:
        """Have something said in its turn; from other threads, too."""
        self._waiting.put(notice)

    def waiting(self) -> Iterator[Notice]:
        """Give what is to be said by now."""
        with contextlib.suppress(Empty):
            while True:
                yield self._waiting.get_nowait()

    def say(self, notice: Notice) -> None:
        """Say something while no capture is shown."""
        if self._print_object is not None:
            self._print_object({"event": notice.event, **notice.fields}, flush=True)
        elif notice.text:
            note(notice.text)

    def say_rest(self) -> None:
        """Say what is left behind a capture."""
        for notice in self.waiting():
            self.say(notice)


def reader_notice(event: ReaderEvent) -> Notice:
    """Return what to say of a reader."""
    fields: dict[str, object] = {"reader_id": event.number, "reader": event.name}
    match event.change:
        case ReaderChange.CAME:
            return Notice("reader_came", str(event), fields)
        case ReaderChange.REFUSED:
            return Notice("reader_refused", str(event), {**fields, "text": event.text})
        case reason:
            fields |= {"reason": reason.value, "missed_packets": event.missed_packets, "text": event.text or None}
            return Notice("reader_left", str(event), fields)


def fifo_notice(event: ReaderEvent, path: str) -> Notice:
    """Return what to say of the reader of a FIFO: to people only that another one is waited for."""
    text = f"{event}; the next one is waited for." if event.change is ReaderChange.LEFT else ""
    return reader_notice(replace(event, name=path))._replace(text=text)


class Missing(Protocol):
    """What packets go through, some of which may be missed."""

    @property
    def missed_packets(self) -> int:
        """Packets that no reader got."""
        ...

    @property
    def missed_because(self) -> str:
        """What was not done to them, and why."""
        ...


def missed(sink: Missing) -> Iterator[Notice]:
    """Give what to say of packets that are missing, if any are."""
    if sink.missed_packets:
        text = f"not {sink.missed_because}"
        fields = {"packets": sink.missed_packets, "text": text}
        yield Notice("missed", f"{counted(sink.missed_packets, 'packet')} {text}", fields)
