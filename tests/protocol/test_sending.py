"""Batches of frames and reports are one another's only reading; what is cut or wrong is a protocol error."""

import random
import struct

import pytest

from capd_protocol.errors import LocalProtocolError, RemoteProtocolError
from capd_protocol.sending import (
    MAX_DUE_NS,
    MAX_FRAMES,
    MAX_MESSAGE_BYTES,
    Frames,
    Lateness,
    Reason,
    Refusal,
    Report,
    ReportWanted,
    cost_of,
    decode,
    decode_report,
    encode_frames,
    encode_report,
    encode_wanted,
    room_for,
)

FRAMES = [b"", b"a", b"bc" * 700, bytes(14)]
REPORT = Report(
    number=3,
    sent=5,
    sent_bytes=320,
    refusals=(Refusal(reason=Reason.TOO_LONG, frames=2, first_index=1),),
    lateness=Lateness(median_ns=1, p99_ns=2, max_ns=3),
    duration_ns=4,
)


def read(message: bytes) -> tuple[list[bytes], list[int] | None, bool]:
    decoded = decode(message)
    assert isinstance(decoded, Frames)
    frames, at = [], 0
    for length in decoded.lengths:
        frames.append(bytes(decoded.data[at : at + length]))
        at += length
    return frames, None if decoded.due_ns is None else decoded.due_ns.tolist(), decoded.begins


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("due_ns", [None, [0, 5, 5, MAX_DUE_NS]])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_batch_is_read_as_it_was_written(kind: type, due_ns: list[int] | None, begins: bool) -> None:
    assert read(encode_frames([kind(each) for each in FRAMES], due_ns, begins=begins)) == (FRAMES, due_ns, begins)
    assert read(encode_frames([], None if due_ns is None else [])) == ([], None if due_ns is None else [], False)


@pytest.mark.parametrize("wanted", [ReportWanted(0, False), ReportWanted(2**32 - 1, True)])
def test_what_asks_for_a_report_is_read_as_it_was_written(wanted: ReportWanted) -> None:
    assert decode(encode_wanted(wanted)) == wanted


def test_a_report_is_read_as_it_was_written() -> None:
    assert decode_report(encode_report(REPORT)) == REPORT


@pytest.mark.parametrize(
    "message",
    [encode_frames(FRAMES), encode_frames(FRAMES, [1, 2, 3, 4], begins=True), encode_wanted(ReportWanted(7, True))],
    ids=["frames", "scheduled", "wanted"],
)
def test_what_is_cut_or_too_long_is_no_message(message: bytes) -> None:
    for end in range(len(message)):
        with pytest.raises(RemoteProtocolError):
            decode(message[:end])
    with pytest.raises(RemoteProtocolError):
        decode(message + b"\0")


def test_a_report_that_is_cut_is_none() -> None:
    whole = encode_report(REPORT)
    for end in range(len(whole)):
        with pytest.raises(RemoteProtocolError):
            decode_report(whole[:end])


@pytest.mark.parametrize(
    "message",
    [
        struct.pack("=BBxxI", ord("x"), 0, 0),
        struct.pack("=BBxxI", ord("f"), 4, 0),
        struct.pack("=BBxxI", ord("r"), 2, 0),
        struct.pack("=BBxxI", ord("f"), 0, 2**32 - 1),
        struct.pack("=BBxxI", ord("f"), 0, MAX_FRAMES + 1) + bytes(4 * (MAX_FRAMES + 1)),
        struct.pack("=BBxxIII", ord("f"), 0, 2, 2**32 - 1, 1) + b"",
        struct.pack("=BBxxIqI", ord("f"), 2, 1, -1, 0),
        struct.pack("=BBxxIqI", ord("f"), 2, 1, MAX_DUE_NS + 1, 0),
    ],
    ids=["kind", "flag", "flag of a report", "number", "frames", "lengths", "before the beginning", "after all times"],
)
def test_what_is_wrong_is_no_message(message: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(message)


def test_bytes_by_chance_are_a_message_or_a_protocol_error() -> None:
    chance = random.Random(1)
    good = encode_frames(FRAMES, [1, 2, 3, 4])
    for _ in range(2000):
        message = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            message[chance.randrange(40)] = chance.randrange(256)
        try:
            decoded = decode(message)
        except RemoteProtocolError:
            continue
        if isinstance(decoded, Frames):
            assert sum(decoded.lengths) == len(decoded.data)


def test_a_batch_is_no_longer_than_a_message() -> None:
    assert len(encode_frames([bytes(65536 + 18)], [0])) < MAX_MESSAGE_BYTES  # the longest that there is, of lo
    for is_scheduled in (False, True):
        size = (room_for(is_scheduled=is_scheduled) - 10 * cost_of(is_scheduled=is_scheduled)) // 10
        message = encode_frames([bytes(size)] * 10, [0] * 10 if is_scheduled else None)
        assert MAX_MESSAGE_BYTES - 32 < len(message) <= MAX_MESSAGE_BYTES
    for frames in ([bytes(MAX_MESSAGE_BYTES)], [b""] * (MAX_FRAMES + 1)):
        with pytest.raises(LocalProtocolError):
            encode_frames(frames)
