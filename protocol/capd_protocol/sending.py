"""Frames on their way to the process that sends them, past the daemon, and its reports.

Each is one message of a socket that keeps messages apart (SOCK_SEQPACKET). A client sends batches of frames, and asks
for reports, which come in the order in which they were asked for. When it shuts down its side (SHUT_WR), nothing more
is sent, a last report comes, and the socket closes.
"""

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from capd_protocol.errors import LocalProtocolError, RemoteProtocolError

#: Of one message. Chosen: the longest frame that an interface takes, 64 KiB and its header, fits, and as many of the
#: shortest ones as a batch may have.
MAX_MESSAGE_BYTES = 96 * 1024
#: Of one batch. Chosen: what is sent in a millisecond or two, so that nothing waits for long behind it.
MAX_FRAMES = 1024

#: Of a time. Chosen: half of what 64 bits have, 146 years, so that sums have room.
MAX_DUE_NS = 2**62

#: Kind, flags, and how many frames, or the number of a report.
_HEADER = struct.Struct("=BBxxI")
_DUE, _LENGTH = 8, 4


class _Kind(enum.IntEnum):
    FRAMES = ord("f")
    REPORT = ord("r")


#: The schedule begins with this batch: times are counted from its arrival.
_BEGINS = 1
#: Each frame has a time.
_SCHEDULED = 2
#: What is reported is counted anew from here.
_IS_LAST = 1


class Frames(NamedTuple):
    """A batch.

    Attributes:
        data: the frames, one behind the other.
        lengths: uint32 of this machine, for each frame how many bytes.
        due_ns: int64 of this machine, for each frame when it is to be sent, counted from the beginning of the schedule;
            None: as soon as possible.
        begins: the schedule begins with it.
    """

    data: memoryview
    lengths: memoryview
    due_ns: memoryview | None
    begins: bool


class ReportWanted(NamedTuple):
    """What has become of all frames before it is to be reported.

    Attributes:
        number: comes back with the report.
        is_last: further reports are about what comes behind it.
    """

    number: int
    is_last: bool


class Reason(enum.StrEnum):
    """Why a frame was not sent."""

    TOO_SHORT = "too_short"  #: less than an Ethernet header
    TOO_LONG = "too_long"  #: for the interface
    FOREIGN_SOURCE = "foreign_source"  #: a source address that the rule does not allow
    CUT = "cut"  #: the file has only a part of it


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Frames that were not sent, for one reason.

    Attributes:
        reason: which.
        frames: how many.
        first_index: which one was the first, counted from 0 among all that the report is about.
    """

    reason: Reason
    frames: int
    first_index: int


class Lateness(msgspec.Struct, frozen=True, kw_only=True):
    """By how much frames were sent after their time, which is never before it.

    Attributes:
        median_ns: half of them were no later; to 2 %, upwards.
        p99_ns: 99 of 100 were no later; to 2 %, upwards.
        max_ns: none was later.
    """

    median_ns: int
    p99_ns: int
    max_ns: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of frames.

    Attributes:
        number: as it was asked for; None: the end.
        sent: how many the interface took.
        sent_bytes: so many bytes.
        refusals: of the others, by reason.
        lateness: of those that had a time; None where none had.
        duration_ns: from the first frame that was sent to the last one.
    """

    number: int | None
    sent: int
    sent_bytes: int
    refusals: tuple[Refusal, ...]
    lateness: Lateness | None
    duration_ns: int


_report_decoder = msgspec.json.Decoder(Report)


def room_for(*, is_scheduled: bool) -> int:
    """Return how many bytes frames may take in a batch, beside ``cost_of`` each."""
    return MAX_MESSAGE_BYTES - _HEADER.size - cost_of(is_scheduled=is_scheduled)


def cost_of(*, is_scheduled: bool) -> int:
    """Return how many bytes each frame takes in a batch beside its own."""
    return _LENGTH + _DUE * is_scheduled


def encode_frames(
    frames: Sequence[bytes | bytearray | memoryview], due_ns: Sequence[int] | None = None, *, begins: bool = False
) -> bytes:
    """Return the message of a batch.

    Raises:
        LocalProtocolError: it is longer than a message may be.
    """
    count = len(frames)
    flags = _BEGINS * begins | _SCHEDULED * (due_ns is not None)
    dues = b"" if due_ns is None else struct.pack(f"={count}q", *due_ns)
    lengths = struct.pack(f"={count}I", *map(len, frames))
    message = b"".join((_HEADER.pack(_Kind.FRAMES, flags, count), dues, lengths, *frames))
    if len(message) > MAX_MESSAGE_BYTES or count > MAX_FRAMES:
        text = (
            f"a batch of {count} frames and {len(message)} bytes: the limits are {MAX_FRAMES} and {MAX_MESSAGE_BYTES}"
        )
        raise LocalProtocolError(text)
    return message


def encode_wanted(wanted: ReportWanted) -> bytes:
    """Return the message that asks for a report."""
    return _HEADER.pack(_Kind.REPORT, _IS_LAST * wanted.is_last, wanted.number)


def decode(message: bytes | bytearray | memoryview) -> Frames | ReportWanted:
    """Return what a client says, with views of the message.

    Raises:
        RemoteProtocolError: it is no message.
    """
    if len(message) < _HEADER.size:
        raise RemoteProtocolError(f"a message of {len(message)} bytes")
    kind, flags, number = _HEADER.unpack_from(message)
    rest = memoryview(message)[_HEADER.size :]
    if kind == _Kind.REPORT and not rest and not flags & ~_IS_LAST:
        return ReportWanted(number, bool(flags & _IS_LAST))
    if kind != _Kind.FRAMES or flags & ~(_BEGINS | _SCHEDULED) or number > MAX_FRAMES:
        raise RemoteProtocolError(f"a message of kind {kind}, flags {flags}, number {number}")
    is_scheduled = bool(flags & _SCHEDULED)
    dues_end = number * _DUE * is_scheduled
    data_at = dues_end + number * _LENGTH
    if len(rest) < data_at:
        raise RemoteProtocolError("a batch that is cut")
    lengths = rest[dues_end:data_at].cast("I")
    if sum(lengths) != len(rest) - data_at:
        raise RemoteProtocolError("a batch whose frames are not as long as all of it")
    due_ns = rest[:dues_end].cast("q") if is_scheduled else None
    if due_ns is not None and not all(0 <= each <= MAX_DUE_NS for each in due_ns):
        raise RemoteProtocolError("a time before the beginning, or after the end of all times")
    return Frames(rest[data_at:], lengths, due_ns, bool(flags & _BEGINS))


def encode_report(report: Report) -> bytes:
    """Return the message of a report."""
    return msgspec.json.encode(report)


def decode_report(message: bytes) -> Report:
    """Return a report.

    Raises:
        RemoteProtocolError: it is none.
    """
    try:
        return _report_decoder.decode(message)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError("a message that is no report") from error
