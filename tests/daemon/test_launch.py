"""Messages between daemon and worker: one codec, and an error of one kind for what is none."""

import socket
from typing import get_args

import pytest

from capd.launch import (
    Answer,
    Arm,
    Attach,
    Control,
    Detach,
    DirectoryTaken,
    Disarm,
    Disarmed,
    Flush,
    LetGo,
    RingFilter,
    RingMade,
    Rotate,
    Snapshot,
    Stop,
    decode,
    encode,
)
from capd.linux.packet_ring import RingMemory
from capd.worker.control import ControlSocket
from capd_protocol import messages
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import Frame, FrameDecoder
from capd_protocol.messages import Failure, FailureCode, PacketCount
from tests.daemon.test_rings import interface, launch

INTERFACE = interface(1 << 20)
LAUNCH = launch(INTERFACE)
FAILURE = Failure(code=FailureCode.RESOURCES, text="no room")
EACH: list[Control] = [
    LAUNCH,
    Attach(number=3, interface=INTERFACE),
    Detach(index=7),
    RingMade(number=0, memory=RingMemory(1 << 20, 4), has_trigger=True),
    RingMade(number=1, failure=FAILURE),
    Rotate(number=1),
    Flush(number=2),
    Snapshot(number=3, after_s=1.5),
    Stop(),
    Disarmed(),
    Arm(rings=(RingFilter(number=0, program=b"\0" * 8, trigger_program=b"\1" * 8), RingFilter(number=1, program=b""))),
    LetGo(number=2),
    Disarm(),
    Answer(number=3, file_name="a.pcapng"),
    Answer(number=1, failure=FAILURE),
    DirectoryTaken(path="/tmp"),
]
NAMES = [type(each).__name__ for each in EACH]


def frame_of(data: bytes) -> Frame:
    decoder = FrameDecoder()
    decoder.feed(data)
    frame = decoder.next_frame()
    assert frame is not None
    return frame


def test_each_message_is_here() -> None:
    assert {type(each) for each in EACH} == set(get_args(Control))


@pytest.mark.parametrize("message", EACH, ids=NAMES)
def test_a_message_comes_as_it_was_sent(message: Control) -> None:
    assert decode(frame_of(encode(message))) == message


@pytest.mark.parametrize("message", EACH, ids=NAMES)
def test_a_message_that_is_not_whole_is_none(message: Control) -> None:
    frame = frame_of(encode(message))
    for end in range(len(frame.payload)):
        with pytest.raises(RemoteProtocolError):
            decode(Frame(frame.indicator, frame.payload[:end]))
    with pytest.raises(RemoteProtocolError):
        decode(Frame(frame.indicator, frame.payload + b"x"))


@pytest.mark.parametrize(
    "payload", [b"[" * 100_000, b"{}", b'{"type":"nosuch"}', b"null", b'{"type":"flush","number":"1"}']
)
def test_what_is_no_message_is_an_error_that_quotes_nothing(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^bytes on the control socket that are no message$"):
        decode(Frame(ord("l"), payload))


def test_messages_for_clients_travel_there_too() -> None:
    assert decode(frame_of(messages.encode(PacketCount(5)))) == PacketCount(5)


@pytest.mark.parametrize("message", [Answer(number=1), Stop(), Disarm()], ids=["answer", "stop", "disarm"])
def test_a_worker_begins_with_nothing_but_a_launch(message: Control) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(encode(message))
        with pytest.raises(RemoteProtocolError, match=f"a {type(message).__name__} before the launch"):
            ControlSocket(theirs).read_launch()


@pytest.mark.parametrize("message", [LAUNCH, Answer(number=1), Arm(rings=())], ids=["launch", "answer", "arm"])
def test_a_worker_takes_no_order_that_is_none(message: Control) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(encode(message))
        with pytest.raises(RemoteProtocolError, match="not for the daemon"):
            ControlSocket(theirs).read()
