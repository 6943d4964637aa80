"""Bytes become frames, the same ones however they are cut up, and frames become dumpcap's bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capd_protocol.errors import LocalProtocolError, RemoteProtocolError
from capd_protocol.frames import (
    HEADER_SIZE_BYTES,
    MAX_EVENT_SIZE_BYTES,
    MAX_REQUEST_SIZE_BYTES,
    Frame,
    FrameDecoder,
    encode_frame,
)

REPEATABLE = settings(derandomize=True, deadline=None, max_examples=100)

FRAMES = {
    "no payload": (Frame(ord("S"), b""), b"S\x00\x00\x00"),
    "text": (Frame(ord("P"), b"7\0"), b"P\x00\x00\x027\0"),
    "zeros": (Frame(0, b"\0\0\0\0"), b"\x00\x00\x00\x04\0\0\0\0"),
    "ones": (Frame(255, b"\xff"), b"\xff\x00\x00\x01\xff"),
    "one byte of length": (Frame(ord("F"), b"x" * 255), b"F\x00\x00\xff" + b"x" * 255),
    "two bytes of length": (Frame(ord("F"), b"x" * 256), b"F\x00\x01\x00" + b"x" * 256),
    "three bytes of length": (Frame(ord("e"), b"x" * 66_051), b"e\x01\x02\x03" + b"x" * 66_051),
}
SMALL_FRAMES = {name: (frame, data) for name, (frame, data) in FRAMES.items() if len(data) < 1000}

every_frame = pytest.mark.parametrize(("frame", "data"), FRAMES.values(), ids=FRAMES)
every_small_frame = pytest.mark.parametrize(("frame", "data"), SMALL_FRAMES.values(), ids=SMALL_FRAMES)


def take_all(decoder: FrameDecoder) -> list[Frame]:
    frames = []
    while (frame := decoder.next_frame()) is not None:
        frames.append(frame)
    return frames


frames_strategy = st.builds(Frame, st.integers(0, 255), st.binary(max_size=40))


@every_frame
def test_frame_to_bytes(frame: Frame, data: bytes) -> None:
    assert encode_frame(*frame) == data


@every_frame
def test_bytes_to_frame(frame: Frame, data: bytes) -> None:
    decoder = FrameDecoder()
    decoder.feed(data)
    assert decoder.next_frame() == frame
    assert decoder.next_frame() is None
    decoder.check_end()


@every_small_frame
def test_nothing_comes_before_the_last_byte(frame: Frame, data: bytes) -> None:
    decoder = FrameDecoder()
    for at in range(len(data)):
        assert decoder.next_frame() is None, at
        decoder.feed(data[at : at + 1])
    assert decoder.next_frame() == frame


@every_small_frame
def test_an_end_inside_a_frame_is_an_error(frame: Frame, data: bytes) -> None:
    for size_bytes in range(1, len(data)):
        decoder = FrameDecoder()
        decoder.feed(data[:size_bytes])
        assert decoder.next_frame() is None
        with pytest.raises(RemoteProtocolError, match=rf"\b{size_bytes}\b"):
            decoder.check_end()


def test_an_end_before_the_first_frame_is_none() -> None:
    FrameDecoder().check_end()


@every_small_frame
def test_what_follows_a_frame_is_left_alone(frame: Frame, data: bytes) -> None:
    following = Frame(ord("F"), b"next\0")
    following_data = encode_frame(*following)
    for size_bytes in range(len(following_data)):
        decoder = FrameDecoder()
        decoder.feed(data + following_data[:size_bytes])
        assert decoder.next_frame() == frame
        assert decoder.next_frame() is None
        decoder.feed(following_data[size_bytes:])
        assert decoder.next_frame() == following


@settings(REPEATABLE)
@given(st.lists(frames_strategy, max_size=8), st.data())
def test_pieces_of_any_size_give_the_same_frames(frames: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(encode_frame(*frame) for frame in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    decoder = FrameDecoder()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        decoder.feed(stream[start:end])
        found += take_all(decoder)
    decoder.check_end()
    assert found == frames


def test_a_payload_may_be_as_long_as_dumpcap_allows_and_no_longer() -> None:
    longest = Frame(ord("E"), bytes(MAX_EVENT_SIZE_BYTES))
    assert MAX_EVENT_SIZE_BYTES == 512_000  # SP_MAX_MSG_LEN
    decoder = FrameDecoder()
    decoder.feed(encode_frame(*longest))
    assert decoder.next_frame() == longest
    with pytest.raises(LocalProtocolError, match=r"512001.*512000"):
        encode_frame(ord("E"), bytes(MAX_EVENT_SIZE_BYTES + 1))


@pytest.mark.parametrize("limit", [0, 1, MAX_REQUEST_SIZE_BYTES, MAX_EVENT_SIZE_BYTES])
def test_too_long_a_frame_is_refused_from_its_header_on(limit: int) -> None:
    possible = FrameDecoder(limit)
    possible.feed(b"r" + limit.to_bytes(3, "big"))
    assert possible.next_frame() == (Frame(ord("r"), b"") if limit == 0 else None)

    header = b"r" + (limit + 1).to_bytes(3, "big")
    decoder = FrameDecoder(limit)
    decoder.feed(header[:-1])
    assert decoder.next_frame() is None
    decoder.feed(header[-1:])
    for _ in range(2):  # there is no way past it
        with pytest.raises(RemoteProtocolError, match=rf"{limit + 1}\b.*\b{limit}\b"):
            decoder.next_frame()
        decoder.feed(b"S\x00\x00\x00")


def test_frames_before_one_that_is_too_long_still_come() -> None:
    decoder = FrameDecoder(4)
    decoder.feed(b"P\x00\x00\x021\0" + b"P\x00\x00\x0512345")
    assert decoder.next_frame() == Frame(ord("P"), b"1\0")
    with pytest.raises(RemoteProtocolError):
        decoder.next_frame()


@settings(REPEATABLE, max_examples=300)
@given(st.lists(st.one_of(st.binary(max_size=20), frames_strategy.map(lambda frame: encode_frame(*frame))), max_size=6))
def test_any_bytes_give_frames_or_a_protocol_error(pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    decoder = FrameDecoder(1000)
    found: list[Frame] = []
    end_is_known = True
    for piece in pieces:
        decoder.feed(piece)
        try:
            while (frame := decoder.next_frame()) is not None:
                found.append(frame)
        except RemoteProtocolError:
            end_is_known = False
    taken = b"".join(encode_frame(*frame) for frame in found)
    assert stream.startswith(taken)
    rest = stream[len(taken) :]
    if end_is_known:
        assert len(rest) < HEADER_SIZE_BYTES or len(rest) < HEADER_SIZE_BYTES + int.from_bytes(rest[1:4], "big")
    else:
        assert int.from_bytes(rest[1:4], "big") > 1000
