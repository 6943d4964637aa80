"""The conversation makes the same of a daemon's bytes however they are cut, and of bytes that nobody should send."""

import contextlib
import itertools
from collections.abc import Iterable
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import capd_client
from capd_client.conversation import events
from capd_client.conversation.capture import MAX_FILES, Conversation
from capd_client.conversation.events import (
    SP_BAD_FILTER,
    SP_DROPS,
    SP_ENDED,
    SP_ERROR_MSG,
    SP_FILE,
    SP_FILE_CLOSED,
    SP_INTERFACE_LOST,
    SP_LAGGED,
    SP_PACKET_COUNT,
    SP_SUCCESS,
    CaptureEvent,
    Event,
    pair_of,
)
from capd_client.errors import (
    BadFilterError,
    BrokenPipe,
    CaptureEnded,
    CaptureError,
    ChildError,
    DaemonGone,
    InterfaceError,
    InvalidArgument,
)
from capd_client.request.options import Place, make_request
from capd_protocol.frames import MAX_EVENT_SIZE_BYTES, FrameDecoder
from capd_protocol.messages import (
    PROTOCOL_VERSION,
    BadFilter,
    Counters,
    Drops,
    Ended,
    EndReason,
    ErrorMessage,
    Failed,
    Failure,
    FailureCode,
    FileClosed,
    FileDeleted,
    FileOpened,
    Hello,
    InterfaceCounters,
    InterfaceLost,
    Lagged,
    Message,
    PacketCount,
    Refused,
    StartCapture,
    Started,
    StopCapture,
    Stopping,
    Success,
    Unknown,
    decode,
    encode,
)

HELLO = Hello(protocol_version=PROTOCOL_VERSION, software="capd 9")
STARTED = Started(capture_id=7)
LO = InterfaceCounters(interface="lo", received_total=9, written_total=5, kernel_drops_total=3, writer_drops_total=1)
CLOSED = FileClosed(name="b", packets=3, size_bytes=300, first_timestamp_ns=1, last_timestamp_ns=2, drops=0)
ENDED = Ended(reason=EndReason.PACKETS, interfaces=(LO,))
NO_SUCH = Failure(code=FailureCode.NO_SUCH_INTERFACE, text="there is no nowhere0", interface="nowhere0")
BAD = Failure(code=FailureCode.BAD_FILTER, text="syntax error", interface="lo", interface_index=0, position=4)

#: One of each, in an order that a daemon could send them in.
USUAL: tuple[Message, ...] = (
    HELLO,
    STARTED,
    FileOpened("b"),
    PacketCount(2),
    Counters(file_size_bytes=200, interfaces=(LO,)),
    PacketCount(1),
    CLOSED,
    Unknown(ord("?"), b"of a later version"),
    FileOpened("c"),
    InterfaceLost(interface="lo"),
    Lagged(events=4),
    Success(),
    Stopping(),
    Drops(4, "lo"),
    ENDED,
)
USUAL_EVENTS: list[Event] = [
    (SP_FILE, "/a/b"),
    (SP_PACKET_COUNT, 2),
    (SP_PACKET_COUNT, 1),
    (
        SP_FILE_CLOSED,
        FileClosed(name="/a/b", **{n: getattr(CLOSED, n) for n in CLOSED.__struct_fields__ if n != "name"}),
    ),
    (SP_FILE, "/a/c"),
    (SP_INTERFACE_LOST, "lo"),
    (SP_LAGGED, 4),
    (SP_SUCCESS, None),
    (SP_DROPS, 4),
    (SP_ENDED, EndReason.PACKETS),
]


def conversation() -> Conversation:
    """Begin one, about files in /a."""
    request, *_ = make_request({"interfaces": "lo", "savefile": "/a/b"})
    return Conversation(request, Place("/a", "b", is_temporary=False))


def bytes_of(messages: Iterable[Message]) -> bytes:
    """Return what a daemon sends."""
    return b"".join(map(encode, messages))


def events_of(talk: Conversation) -> list[Event]:
    """Take all events that are there."""
    events: list[Event] = []
    try:
        while (event := talk.next_event()) is not None:
            events.append(pair_of(event))
    except CaptureError:
        pass
    return events


def final_error(talk: Conversation) -> CaptureError:
    """Return what is raised when there are no events left; the same each time."""
    errors: list[CaptureError] = []
    for _ in range(2):
        with pytest.raises(CaptureError) as raised:
            talk.next_event()
        errors.append(raised.value)
    first, second = errors
    assert (type(first), str(first)) == (type(second), str(second))
    return first


def known(talk: Conversation) -> dict[str, Any]:
    """Return all that a conversation tells of its capture."""
    return {name: value for name, value in vars(talk).items() if name[0] != "_"} | {
        "is_over": talk.is_over,
        "is_decided": talk.is_decided,
    }


def heard(pieces: Iterable[bytes], *, take_between: bool = False) -> tuple[list[Event], str, dict[str, Any]]:
    """Return what a conversation makes of bytes that come in pieces, and of the end of the connection."""
    talk, events = conversation(), list[Event]()
    for piece in pieces:
        if piece:
            talk.receive(piece)
        if take_between:
            events += events_of(talk)
    talk.receive(b"")
    events += events_of(talk)
    error = final_error(talk)
    return events, f"{type(error).__name__}: {error}", known(talk)


# What is sent ---------------------------------------------------------------------------------------------------


def test_it_opens_with_a_greeting_and_the_request() -> None:
    talk = conversation()
    decoder = FrameDecoder()
    decoder.feed(talk.opening() + talk.stopping())
    messages = [decode(frame) for frame in iter(decoder.next_frame, None)]
    hello, request, stop = messages
    assert isinstance(hello, Hello)
    assert hello.protocol_version == PROTOCOL_VERSION
    assert isinstance(request, StartCapture)
    assert request.interfaces[0].name == "lo"
    assert stop == StopCapture()


# What is received -----------------------------------------------------------------------------------------------


def test_messages_become_events_in_their_order() -> None:
    talk = conversation()
    assert (talk.is_over, talk.is_decided, talk.next_event()) == (False, False, None)
    talk.receive(bytes_of(USUAL))
    assert events_of(talk) == USUAL_EVENTS
    assert talk.next_event() is None
    assert (talk.is_over, talk.is_decided, talk.start_error()) == (False, True, None)
    talk.receive(b"")
    assert talk.is_over
    error = final_error(talk)
    assert isinstance(error, CaptureEnded)
    assert "packets" in str(error)


def test_what_is_known_is_kept() -> None:
    talk = conversation()
    talk.receive(bytes_of(USUAL))
    assert talk.capture_id == 7
    assert talk.packets_total == 3
    assert talk.file_size_bytes == 200
    assert talk.interfaces == (LO,)
    assert [each.name for each in talk.files] == ["/a/b"]
    assert talk.end_reason == EndReason.PACKETS
    assert talk.failure is None


def test_one_byte_at_a_time_says_the_same() -> None:
    data = bytes_of(USUAL)
    assert heard([data]) == heard(data[i : i + 1] for i in range(len(data)))


@given(st.lists(st.integers(0, len(bytes_of(USUAL))), max_size=20), st.booleans())
def test_whatever_the_pieces_the_events_are_the_same(cuts: list[int], take_between: bool) -> None:
    data = bytes_of(USUAL)
    ends = [0, *sorted(cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(ends)]
    assert heard(pieces, take_between=take_between) == heard([data])


MESSAGES = st.sampled_from(
    (
        *USUAL,
        Refused(failure=NO_SUCH),
        Refused(failure=BAD),
        Failed(failure=NO_SUCH),
        ErrorMessage("wrong", "advice"),
        BadFilter(0, "wrong"),
        Hello(protocol_version=99, software="capd 99"),
    )
)
PIECES = st.one_of(MESSAGES.map(encode), st.binary(max_size=8))


@given(st.lists(PIECES, max_size=12).map(b"".join), st.lists(st.integers(0, 2000), max_size=10), st.booleans())
@example(encode(HELLO) + b"F\0\0\2\xff\xff" + b"P\0\0\1x" + encode(PacketCount(1)), [40, 60], False)
@example(b"e\0\0\1{" + bytes_of(USUAL), [5], True)
@example(encode(Refused(failure=BAD)) + encode(Refused(failure=NO_SUCH)), [30], True)
def test_whatever_comes_the_pieces_make_no_difference(data: bytes, cuts: list[int], take_between: bool) -> None:
    ends = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(ends)]
    assert heard(pieces, take_between=take_between) == heard([data])


@given(st.binary(max_size=200))
def test_garbage_ends_in_one_of_our_errors(garbage: bytes) -> None:
    talk = conversation()
    talk.receive(garbage)
    talk.receive(b"")
    events_of(talk)
    assert talk.is_over
    assert talk.is_decided
    assert isinstance(final_error(talk), BrokenPipe | ChildError)
    assert talk.capture_id is not None or isinstance(talk.start_error(), CaptureError)


# Refusals, failures, ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "event_type", "error"),
    [(NO_SUCH, SP_ERROR_MSG, InterfaceError), (BAD, SP_BAD_FILTER, BadFilterError)],
)
def test_a_refusal_is_the_only_event_and_the_end(failure: Failure, event_type: int, error: type[ChildError]) -> None:
    talk = conversation()
    talk.receive(bytes_of((HELLO, Refused(failure=failure))))
    assert talk.is_decided
    assert isinstance(talk.start_error(), error)
    event = talk.next_event()
    assert event is not None
    assert pair_of(event) == (event_type, failure.text)
    # Nothing more can come: nobody needs to wait until the connection is closed.
    assert talk.is_over
    assert isinstance(final_error(talk), error)
    # What the daemon says to a client that stays is not about the capture.
    late = Failure(code=FailureCode.PROTOCOL, text="no request came in time")
    talk.receive(bytes_of((Refused(failure=late),)))
    assert events_of(talk) == []
    assert talk.failure == failure


def test_another_version_of_the_protocol_is_told_as_such() -> None:
    talk = conversation()
    theirs = Failure(code=FailureCode.PROTOCOL, text="install the same release of both")
    talk.receive(bytes_of((Hello(protocol_version=99, software="capd 99"), Refused(failure=theirs), STARTED)))
    ((event_type, text),) = events_of(talk)
    assert event_type == SP_ERROR_MSG
    assert all(words in text for words in ("capd 99", "version 99", f"client {PROTOCOL_VERSION}"))
    error = final_error(talk)
    assert isinstance(error, ChildError)
    assert str(error) == text
    assert talk.is_over


def test_a_failure_has_its_type_from_the_message_before_it() -> None:
    talk = conversation()
    lost = Failure(code=FailureCode.INTERFACE_LOST, text="lo is gone", interface="lo")
    ended = Ended(reason=EndReason.FAILED, interfaces=(LO,))
    talk.receive(
        bytes_of((HELLO, STARTED, FileOpened("b"), Failed(failure=lost), ErrorMessage("lo is gone", "?"), ended))
    )
    assert talk.start_error() is None
    assert events_of(talk) == [(SP_FILE, "/a/b"), (SP_ERROR_MSG, "lo is gone"), (SP_ENDED, EndReason.FAILED)]
    assert isinstance(talk.error_of("lo is gone"), InterfaceError)
    talk.receive(b"")
    assert isinstance(final_error(talk), InterfaceError)


def test_an_error_without_a_type_is_a_child_error() -> None:
    talk = conversation()
    talk.receive(bytes_of((HELLO, STARTED, ErrorMessage("something"))))
    assert events_of(talk) == [(SP_ERROR_MSG, "something")]
    error = talk.error_of("something")
    assert (type(error), str(error), error.failure) == (ChildError, "something", None)


def test_what_the_daemon_does_not_understand_does_not_end_a_capture_that_runs() -> None:
    talk = conversation()
    failure = Failure(code=FailureCode.PROTOCOL, text="capd did not understand the client")
    ended = Ended(reason=EndReason.CLIENT_LEFT, interfaces=(LO,))
    talk.receive(bytes_of((HELLO, STARTED, FileOpened("b"), Refused(failure=failure))))
    assert not talk.is_over
    talk.receive(bytes_of((PacketCount(3), ended)))
    talk.receive(b"")
    assert events_of(talk)[2:] == [(SP_PACKET_COUNT, 3), (SP_ENDED, EndReason.CLIENT_LEFT)]
    assert talk.end_reason == EndReason.CLIENT_LEFT
    assert isinstance(final_error(talk), ChildError)


@pytest.mark.parametrize("messages", [(), (HELLO,), (HELLO, STARTED), (HELLO, STARTED, FileOpened("b"))])
def test_a_daemon_that_goes_away_breaks_the_pipe(messages: tuple[Message, ...]) -> None:
    talk = conversation()
    talk.receive(bytes_of(messages))
    events_of(talk)
    talk.receive(b"")
    error = final_error(talk)
    assert type(error) is DaemonGone
    assert isinstance(error, BrokenPipe)
    assert "gone away" in str(error)
    assert (talk.start_error() is None) == (STARTED in messages)


@pytest.mark.parametrize("size_bytes", [1, 3, 4, 5, 20])
def test_a_connection_that_ends_inside_a_message_breaks_the_pipe(size_bytes: int) -> None:
    talk = conversation()
    talk.receive(bytes_of((HELLO, STARTED, PacketCount(1))) + encode(CLOSED)[:size_bytes])
    talk.receive(b"")
    assert events_of(talk) == [(SP_PACKET_COUNT, 1)]
    error = final_error(talk)
    assert type(error) is BrokenPipe
    assert "inside" in str(error)


@pytest.mark.parametrize(
    "garbage",
    [
        b"P\0\0\4five",
        b"e\0\0\2{}",
        b"a\0\0\1{",
        b"h\0\0\2[]",
        b"E\0\0\1x",
        b"F" + (MAX_EVENT_SIZE_BYTES + 1).to_bytes(3, "big"),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
def test_what_cannot_be_understood_breaks_the_pipe_behind_what_was(garbage: bytes) -> None:
    talk = conversation()
    talk.receive(
        bytes_of((HELLO, STARTED, FileOpened("b"), PacketCount(1))) + garbage + bytes_of((PacketCount(2), ENDED))
    )
    assert talk.is_over
    assert events_of(talk) == [(SP_FILE, "/a/b"), (SP_PACKET_COUNT, 1)]
    error = final_error(talk)
    assert type(error) is BrokenPipe
    assert "cannot be understood" in str(error)
    # Nothing that comes behind it means anything, whenever it comes.
    talk.receive(bytes_of((PacketCount(3), ENDED)))
    talk.receive(b"")
    assert events_of(talk) == []
    assert str(final_error(talk)) == str(error)
    assert (talk.packets_total, talk.end_reason) == (1, None)


def test_bytes_behind_the_end_of_the_connection_mean_nothing() -> None:
    talk = conversation()
    talk.receive(bytes_of(USUAL))
    talk.receive(b"")
    talk.receive(bytes_of((PacketCount(8),)))
    assert events_of(talk) == USUAL_EVENTS
    assert talk.packets_total == 3


def test_events_that_come_before_the_start_is_confirmed_are_kept() -> None:
    talk = conversation()
    talk.receive(bytes_of((HELLO, FileOpened("b"), PacketCount(1))))
    before = talk.is_decided
    talk.receive(bytes_of((STARTED,)))
    assert (before, talk.is_decided) == (False, True)
    assert events_of(talk) == [(SP_FILE, "/a/b"), (SP_PACKET_COUNT, 1)]


def test_finished_files_are_remembered_up_to_a_bound() -> None:
    talk = conversation()
    one: dict[str, Any] = {
        "packets": 1,
        "size_bytes": 1,
        "first_timestamp_ns": None,
        "last_timestamp_ns": None,
        "drops": 0,
    }
    talk.receive(b"".join(encode(FileClosed(name=f"{n}", **one)) for n in range(MAX_FILES + 3)))
    assert len(talk.files) == MAX_FILES
    assert talk.files[0].name == "/a/3"


def test_names_are_given_as_the_savefile_was() -> None:
    request, place, *_ = make_request({"interfaces": "lo", "savefile": "b"})
    talk = Conversation(request, place)
    talk.receive(bytes_of((HELLO, STARTED, FileOpened("b"))))
    assert events_of(talk) == [(SP_FILE, "b")]


# Typed events ---------------------------------------------------------------------------------------------------


def test_each_event_has_a_view_in_wirepys_vocabulary() -> None:
    constants = {value for name, value in vars(events).items() if name.startswith("SP_")}
    assert set(events.EVENTS) == set(get_args(CaptureEvent))
    assert {spec.type for spec in events.EVENTS.values()} == constants == set(events.EventType)


@pytest.mark.parametrize("each", events.EventType)
def test_types_of_events_are_numbers_that_print_as_their_names(each: events.EventType) -> None:
    assert getattr(events, each.name) is each is getattr(capd_client.CaptureSession, each.name)
    assert (str(each), repr(each), f"{each:>20}") == (each.name, each.name, f"{each.name:>20}")
    assert each == int(each)
    assert events.event_type_of(int(each)) is events.event_type_of(each.name) is each


def test_what_is_wanted_is_shown_beside_wirepys() -> None:
    assert events.wanted_types(()) == events.WIREPYS
    assert events.wanted_types("all") == set(events.EventType)
    assert events.wanted_types(["SP_ENDED", events.SP_LAGGED]) == {*events.WIREPYS, events.SP_ENDED, events.SP_LAGGED}
    assert events.wanted_types("SP_ENDED") == {*events.WIREPYS, events.SP_ENDED}
    for wrong in ("SP_NONE", ["SP_FILE", "x"], [1], "any"):
        with pytest.raises(InvalidArgument, match="is no event: there are SP_FILE, ") as refused:
            events.wanted_types(wrong)
        assert refused.value.argument == "events"


def test_typed_events_name_files_by_their_paths() -> None:
    talk = conversation()
    talk.receive(bytes_of(USUAL))
    found: list[CaptureEvent] = []
    with contextlib.suppress(CaptureError):
        while (event := talk.next_event()) is not None:
            found.append(event)
    assert [pair_of(event) for event in found] == USUAL_EVENTS
    for event in found:
        if isinstance(event, FileOpened | FileClosed | FileDeleted):
            assert event.name.startswith("/a/")


@pytest.mark.parametrize(
    ("code", "event_type"), [(FailureCode.BAD_FILTER, SP_BAD_FILTER), (FailureCode.RESOURCES, SP_ERROR_MSG)]
)
def test_a_refusal_is_an_event_with_its_failure(code: FailureCode, event_type: int) -> None:
    refused = Refused(failure=Failure(code=code, text="no"))
    talk = conversation()
    talk.receive(bytes_of([refused]))
    event = talk.next_event()
    assert event == refused
    assert pair_of(refused) == (event_type, "no")
