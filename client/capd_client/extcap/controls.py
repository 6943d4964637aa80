"""Wireshark's toolbar: which controls it has, and the messages about them, in both directions. Pure.

A message is a ``T``, three bytes of length, the number of a control, a command, and a text (Wireshark's Developer's
Guide, "Extcap: toolbar controls").
"""

import enum
from collections.abc import Iterator
from typing import NamedTuple

from capd_client.extcap.sentences import sentence

_SYNC = ord("T")
#: The sync byte and the length, which counts what follows.
_PREFIX_BYTES = 4
#: The control and the command.
_HEADER_BYTES = 2
_MAX_PAYLOAD_BYTES = 65_535


class Control(enum.IntEnum):
    """The controls, by their numbers."""

    DROPPED = 0
    SNAPSHOT = 1
    ROTATE = 2


class Command(enum.IntEnum):
    """What a message is about."""

    INITIALIZED = 0
    SET = 1
    ADD = 2
    REMOVE = 3
    ENABLE = 4
    DISABLE = 5
    STATUS_BAR = 6
    INFORMATION = 7
    WARNING = 8
    ERROR = 9


class ControlMessage(NamedTuple):
    """A message.

    Attributes:
        control: its number.
        command: of it, by its number: later versions may have more.
        text: what is to be shown, or was set.
    """

    control: int
    command: int
    text: str = ""

    def encode(self) -> bytes:
        """Return its bytes; a text that is too long ends early."""
        payload = self.text.encode("utf-8", "replace")[:_MAX_PAYLOAD_BYTES]
        size_bytes = _HEADER_BYTES + len(payload)
        return bytes((_SYNC, *size_bytes.to_bytes(3, "big"), self.control, self.command)) + payload


#: What each control is in Wireshark's toolbar: its type, what it is called, and what it says of itself.
_CONTROLS: tuple[tuple[Control, str, str, str], ...] = (
    (Control.DROPPED, "string", "Dropped", "Packets that were lost, of those that came"),
    (Control.SNAPSHOT, "button", "Snapshot", "Have the recorder write what it has now"),
    (Control.ROTATE, "button", "Next file", "Have the running capture go on in its next file"),
)


def control_sentences() -> Iterator[str]:
    """Give what is said of the toolbar with the list of interfaces."""
    for number, kind, display, tooltip in _CONTROLS:
        yield sentence("control", number=int(number), type=kind, display=display, tooltip=tooltip)


class ControlDecoder:
    """Bytes in as they come, messages out. What is none is passed over, up to where one may begin."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def feed(self, data: bytes) -> Iterator[ControlMessage]:
        """Take some bytes and give the messages that are complete by them."""
        self._waiting += data
        while (at := self._waiting.find(_SYNC)) >= 0:
            del self._waiting[:at]
            if len(self._waiting) < _PREFIX_BYTES:
                return
            size_bytes = int.from_bytes(self._waiting[1:_PREFIX_BYTES], "big")
            if not _HEADER_BYTES <= size_bytes <= _HEADER_BYTES + _MAX_PAYLOAD_BYTES:
                del self._waiting[:1]
                continue
            if len(self._waiting) < _PREFIX_BYTES + size_bytes:
                return
            control, command, *_ = self._waiting[_PREFIX_BYTES : _PREFIX_BYTES + _HEADER_BYTES]
            payload = self._waiting[_PREFIX_BYTES + _HEADER_BYTES : _PREFIX_BYTES + size_bytes]
            del self._waiting[: _PREFIX_BYTES + size_bytes]
            yield ControlMessage(control, command, payload.decode("utf-8", "replace"))
        self._waiting.clear()
