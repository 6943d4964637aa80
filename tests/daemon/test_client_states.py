"""What a client may send depends on what was sent before, and on nothing else."""

from typing import get_args

import pytest

from capd.clients.states import TRANSITIONS, Conversation, OrderRequest, State, Step, failure_of
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.messages import (
    AttachCapture,
    Ended,
    EndReason,
    FailureCode,
    FileOpened,
    FlushCapture,
    GetCapabilities,
    GetDriverCounters,
    Hello,
    InterfaceRequest,
    ListCaptures,
    ListInterfaces,
    Message,
    OpenDevice,
    PacketCount,
    Request,
    RevokeCaptures,
    RotateCapture,
    SnapshotCapture,
    Started,
    StartSending,
    StopCapture,
    WatchInterfaces,
    WatchStatistics,
    WhoAmI,
)
from tests.support.attack import request_for

GREETING = Hello(protocol_version=1, software="x")
STOP, ROTATE, FLUSH, SNAPSHOT = StopCapture(), RotateCapture(), FlushCapture(), SnapshotCapture()
ORDERS: tuple[OrderRequest, ...] = (STOP, ROTATE, FLUSH, SNAPSHOT)
SEND = StartSending(interface="lo")
OPEN = OpenDevice(interface=InterfaceRequest(name="nflog", is_stream=True))
START, ATTACH = request_for("lo"), AttachCapture(capture=1)
WATCHES = (WatchInterfaces(), WatchStatistics())
ONE_BY_ONE: tuple[Message, ...] = (
    *(ListCaptures(), WhoAmI(), ListInterfaces(), GetCapabilities(interface="lo"), GetDriverCounters(interface="lo")),
    RevokeCaptures(),
)
REQUESTS: tuple[Message, ...] = (*ONE_BY_ONE, *ORDERS, START, ATTACH, *WATCHES, SEND, OPEN)
NO_REQUESTS: tuple[Message, ...] = (
    *(GREETING, FileOpened("x"), PacketCount(1), Started(capture_id=1)),
    Ended(reason=EndReason.STOPPED, interfaces=()),
)

#: How each state is come to.
WAYS: dict[State, tuple[Message | Step, ...]] = {
    State.GREETING: (),
    State.ASKING: (GREETING,),
    State.FOLLOWING: (GREETING, START),
    State.ORDERING: (GREETING, START, FLUSH),
    State.ANSWERING: (GREETING, START, FLUSH, Step.ORDER_ANSWERED),
    State.WATCHING: (GREETING, WatchInterfaces()),
    State.LEASING: (GREETING, SEND),
}
MAY_BE_SAID: dict[State, tuple[Message, ...]] = {
    State.GREETING: (GREETING,),
    State.ASKING: REQUESTS,
    State.FOLLOWING: ORDERS,
    State.ORDERING: (STOP,),
    State.ANSWERING: (STOP,),
    State.WATCHING: (),
    State.LEASING: (),
}


def walked(*way: Message | Step) -> Conversation:
    conversation = Conversation()
    for each in way:
        if isinstance(each, Step):
            conversation.take(each)
        else:
            conversation.hear(each)
    return conversation


def violation(conversation: Conversation, message: Message, *, is_forbidden: bool = False) -> str:
    before = conversation.state
    with pytest.raises(RemoteProtocolError) as error:
        conversation.hear(message, is_forbidden=is_forbidden)
    assert conversation.state == before
    return str(error.value)


def test_there_is_a_way_to_each_state() -> None:
    assert {state: walked(*way).state for state, way in WAYS.items()} == {state: state for state in State}
    assert set(TRANSITIONS) == set(State)


def test_the_examples_are_all_requests_that_there_are() -> None:
    assert {type(each) for each in REQUESTS} == set(get_args(Request))


@pytest.mark.parametrize("state", State)
def test_in_each_state_some_messages_may_come_and_no_others(state: State) -> None:
    for message in (*REQUESTS, *NO_REQUESTS):
        conversation = walked(*WAYS[state])
        if message in MAY_BE_SAID[state]:
            conversation.hear(message)
        else:
            violation(conversation, message)


COMPLAINTS = [
    (State.GREETING, START, "the first message was no greeting"),
    (State.ASKING, PacketCount(1), "PacketCount is no request"),
    (State.FOLLOWING, ListCaptures(), "a ListCaptures while this connection captures"),
    (State.ORDERING, FLUSH, "a FlushCapture before the answer to what was asked before"),
    (State.ANSWERING, ROTATE, "a RotateCapture before the answer to what was asked before"),
    (State.WATCHING, ListCaptures(), "a request while its connection watches"),
]


@pytest.mark.parametrize(("state", "message", "text"), COMPLAINTS)
def test_who_breaks_the_protocol_is_told_how(state: State, message: Message, text: str) -> None:
    assert violation(walked(*WAYS[state]), message) == text


def test_a_client_is_told_that_it_was_not_understood() -> None:
    failure = failure_of(RemoteProtocolError("it is no request"))
    assert failure.code == FailureCode.PROTOCOL
    assert failure.text == "capd did not understand the client: it is no request"


# One request after another ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [*ONE_BY_ONE, *ORDERS], ids=lambda message: type(message).__name__)
def test_after_an_answer_another_request_may_come(message: Message) -> None:
    assert walked(GREETING, message).state == State.ASKING


@pytest.mark.parametrize("message", [START, ATTACH, *WATCHES], ids=lambda message: type(message).__name__)
def test_who_hears_of_something_asks_for_nothing_else_unless_it_is_refused(message: Message) -> None:
    conversation = walked(GREETING, message)
    violation(conversation, ListCaptures())
    conversation.take(Step.REFUSED)
    conversation.hear(ListCaptures())


@pytest.mark.parametrize("state", [each for each in State if each != State.GREETING])
def test_whatever_is_refused_something_else_may_be_asked_for(state: State) -> None:
    assert walked(*WAYS[state], Step.REFUSED).state == State.ASKING


# Orders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [ROTATE, FLUSH, SNAPSHOT], ids=lambda order: type(order).__name__)
def test_an_order_may_come_when_the_answer_to_the_one_before_is_on_its_way(order: Message) -> None:
    conversation = walked(GREETING, START, Step.EVENTS_SENT, order)
    violation(conversation, FLUSH)
    conversation.take(Step.EVENTS_SENT)  # events of before: the answer is none of them
    violation(conversation, FLUSH)
    conversation.take(Step.ORDER_ANSWERED)
    violation(conversation, FLUSH)
    conversation.take(Step.EVENTS_SENT)
    conversation.hear(FLUSH)


@pytest.mark.parametrize("state", [State.FOLLOWING, State.ORDERING, State.ANSWERING])
def test_a_capture_may_be_stopped_at_any_time_and_that_changes_nothing(state: State) -> None:
    assert walked(*WAYS[state], STOP, STOP).state == state


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: type(order).__name__)
def test_what_a_client_may_not_order_is_answered_like_an_order(order: Message) -> None:
    conversation = walked(GREETING, ATTACH)
    conversation.hear(order, is_forbidden=True)
    assert "before the answer" in violation(conversation, order, is_forbidden=True)
    conversation.take(Step.ORDER_ANSWERED)
    conversation.take(Step.EVENTS_SENT)
    conversation.hear(order, is_forbidden=True)


@pytest.mark.parametrize("state", [State.ORDERING, State.ANSWERING])
def test_what_waits_for_its_turn_may_find_the_answer_sent(state: State) -> None:
    conversation = walked(*WAYS[state])
    conversation.check(FLUSH)
    with pytest.raises(RemoteProtocolError, match="while this connection captures"):
        conversation.check(ListCaptures())
    assert conversation.state == state
    while conversation.state != State.FOLLOWING:
        conversation.take(Step.ORDER_ANSWERED if conversation.state == State.ORDERING else Step.EVENTS_SENT)
    conversation.hear(FLUSH)
